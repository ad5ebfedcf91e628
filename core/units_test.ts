import assert from "node:assert/strict";
import { HvError } from "./errors.ts";
import { formatSize, parseDuration, parseSize } from "./units.ts";

Deno.test("sizes as people write them", () => {
  const table: [string | number, number][] = [
    ["512M", 512 * 2 ** 20],
    ["2G", 2 ** 31],
    ["1.5g", 1.5 * 2 ** 30],
    ["2GiB", 2 ** 31],
    ["2GB", 2 ** 31],
    ["4096", 4096],
    [4096, 4096],
    ["1T", 2 ** 40],
  ];
  for (const [text, bytes] of table) assert.equal(parseSize(text), bytes, String(text));
  for (const text of ["", "G", "-1G", "2X", "1.0000001", "1e3", "0x10"]) assert.throws(() => parseSize(text), HvError);
});

Deno.test("times as people write them", () => {
  const table: [string | number, number][] = [["90s", 90_000], ["5m", 300_000], ["250ms", 250], ["2h", 7_200_000], [
    3,
    3000,
  ]];
  for (const [text, time] of table) assert.equal(parseDuration(text), time, String(text));
  for (const text of ["", "s", "-1s", "1d", "forever"]) assert.throws(() => parseDuration(text), HvError);
});

Deno.test("sizes for messages", () => {
  assert.deepEqual([0, 1023, 1024, 1536, 2 ** 30].map(formatSize), [
    "0 bytes",
    "1023 bytes",
    "1 KiB",
    "1.5 KiB",
    "1 GiB",
  ]);
});
