import assert from "node:assert/strict";
import * as aml from "./aml.ts";

const hex = (bytes: Uint8Array) => bytes.toHex();

Deno.test("AML package lengths change their width where the specification says", () => {
  // 20.2.4: the length counts its own bytes; the first byte's low nibble holds the low bits of longer ones.
  assert.equal(hex(aml.packageLength(0)), "01");
  assert.equal(hex(aml.packageLength(62)), "3f");
  assert.equal(hex(aml.packageLength(63)), "4104");
  assert.equal(hex(aml.packageLength(0xfff - 2)), "4fff");
  assert.equal(hex(aml.packageLength(0xfff - 1)), "810001");
  assert.equal(hex(aml.packageLength(0xfffff - 3)), "8fffff");
  assert.equal(hex(aml.packageLength(0xfffff - 2)), "c1000001");
  assert.equal(hex(aml.packageLength(0xfffffff - 4)), "cfffffff");
  assert.throws(() => aml.packageLength(0xfffffff - 3), RangeError);
});

Deno.test("AML integers take the shortest form", () => {
  const forms: [number | bigint, string][] = [
    [0, "00"],
    [1, "01"],
    [2, "0a02"],
    [0xff, "0aff"],
    [0x100, "0b0001"],
    [0x1_0000, "0c00000100"],
    [0x1_0000_0000, "0e0000000001000000"],
    [0xffff_ffff_ffff_ffffn, "0effffffffffffffff"],
  ];
  for (const [value, bytes] of forms) assert.equal(hex(aml.integer(value)), bytes);
  assert.throws(() => aml.integer(-1), RangeError);
  assert.throws(() => aml.integer(2n ** 64n), RangeError);
});

Deno.test("AML names: one, two and many segments, root and parent prefixes, padding", () => {
  const ascii = (text: string) => new TextEncoder().encode(text).toHex();
  assert.equal(hex(aml.nameString("_CRS")), ascii("_CRS"));
  assert.equal(hex(aml.nameString("RTC")), ascii("RTC_"));
  assert.equal(hex(aml.nameString("\\_SB.PCI0")), ascii("\\") + "2e" + ascii("_SB_PCI0"));
  assert.equal(hex(aml.nameString("^^A.B.C")), ascii("^^") + "2f03" + ascii("A___B___C___"));
  for (const wrong of ["", "1ABC", "ABCDE", "A..B", "abc", "A.\\B"]) {
    assert.throws(() => aml.nameString(wrong), RangeError, wrong);
  }
});

Deno.test("AML refuses what it cannot say", () => {
  assert.throws(() => aml.string("naïve"), RangeError);
  assert.throws(() => aml.eisaId("PNP0A0"), RangeError);
  assert.throws(() => aml.packageOf(...Array.from({ length: 256 }, () => aml.integer(0))), RangeError);
});
