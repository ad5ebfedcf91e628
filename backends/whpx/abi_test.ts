/** Every name, number and layout against mingw-w64's headers and import library. */
import assert from "node:assert/strict";
import { compiledConstants, compiledWords, hasMingw, missingExports } from "../../tests/lab/windows/mingw.ts";
import { needs } from "../../tests/skip.ts";
import {
  Access,
  ApicMode,
  Bits,
  Capability,
  ExceptionType,
  ExitReason,
  InterruptType,
  MapFlag,
  PendingType,
  PLATFORM_NAMES,
  Property,
  Register,
  Struct,
  SYSTEM_NAMES,
  TranslateFlag,
  TranslateResult,
  Win,
} from "./abi.ts";

const HEADERS = ["windows.h", "stddef.h", "winhvplatform.h"];
const REASON = "needs gcc-mingw-w64-x86-64 and mingw-w64's headers";

Deno.test({
  name: "WHPX ABI: numbers and layouts are those of the headers",
  ignore: needs(hasMingw, "WHPX ABI against winhvplatform.h", REASON),
  fn: async () => {
    const wanted = new Map<string, number>();
    const add = (prefix: string, table: Record<string, number>) => {
      for (const [name, value] of Object.entries(table)) wanted.set(`${prefix}${name}`, value);
    };
    add("WHvCapabilityCode", Capability);
    add("WHvPartitionPropertyCode", Property);
    add("WHvX64LocalApicEmulationMode", ApicMode);
    add("WHvMapGpaRangeFlag", MapFlag);
    add("WHvTranslateGvaFlag", TranslateFlag);
    add("WHvTranslateGvaResult", TranslateResult);
    add("WHvRunVpExitReason", ExitReason);
    add("WHvMemoryAccess", Access);
    add("WHvX64ExceptionType", ExceptionType);
    add("WHvX64InterruptType", InterruptType);
    add("WHvX64Pending", PendingType);
    add("", Register);
    add("", Win);
    for (const [struct, fields] of Object.entries(Struct)) {
      for (const [field, offset] of Object.entries(fields)) {
        wanted.set(field === "sizeof" ? `sizeof(${struct})` : `offsetof(${struct}, ${field})`, offset);
      }
    }
    assert.deepEqual(Object.fromEntries(wanted), await compiledConstants(HEADERS, [...wanted.keys()]));
  },
});

Deno.test({
  name: "WHPX ABI: bit fields are where the compiler puts them",
  ignore: needs(hasMingw, "WHPX bit fields", REASON),
  fn: async () => {
    const fields = Object.entries(Bits).flatMap(([struct, fields]) =>
      Object.entries(fields as Record<string, readonly [number, number]>).map(([field, bits]) => ({
        struct,
        field,
        bits,
      }))
    );
    // The fields of a struct that is longer than 64 bits stand in its first 64.
    const values = await compiledWords(
      HEADERS,
      fields.map(({ struct }, i) =>
        `union { ${struct} s; unsigned long long q[8]; } __attribute__((aligned(16))) m${i};`
      ),
      fields.map(({ field }) => `{ .s = { .${field} = -1 } },`),
    );
    // After the marker and its padding to 16 bytes.
    const first = 1;
    const name = ({ struct, field }: { struct: string; field: string }) => `${struct}.${field}`;
    const found = Object.fromEntries(fields.map((it, i) => [name(it), values[first + i * 8].toString(16)]));
    const wanted = Object.fromEntries(
      fields.map((it) => [name(it), (((1n << BigInt(it.bits[1])) - 1n) << BigInt(it.bits[0])).toString(16)]),
    );
    assert.deepEqual(found, wanted);
  },
});

Deno.test({
  name: "WHPX ABI: every function is exported",
  ignore: needs(hasMingw, "WHPX names in the import library", REASON),
  fn: async () => {
    assert.deepEqual(await missingExports("winhvplatform", PLATFORM_NAMES), []);
    assert.deepEqual(await missingExports("kernel32", SYSTEM_NAMES), []);
  },
});
