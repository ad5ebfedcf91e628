/** Random guests: code, registers, descriptor tables and page tables made from a seed, in every mode of the CPU. */
import { startState } from "../conformance/guest.ts";
import { X64 } from "../../core/x64_state.ts";
import { Random } from "./random.ts";

/** Modes a case may begin in. */
export const MODES = [
  "real",
  "protected",
  "protected, 16-bit code",
  "protected, user",
  "32-bit paging",
  "PAE paging",
  "64-bit",
  "64-bit, user",
  "compatibility",
] as const;
export type FuzzMode = (typeof MODES)[number];

/** Bytes of RAM of a fuzzed guest. */
export const FUZZ_RAM = 0x20_0000;
/** Where things lie; what is not RAM has no device behind it. */
export const Place = {
  CODE: 0x1_0000,
  HANDLER: 0x1_8000,
  GDT: 0x2_0000,
  IDT: 0x2_1000,
  TSS: 0x2_3000,
  TABLES: 0x3_0000,
  DATA: 0x8_0000,
  STACK: 0x9_0000,
  DEVICE: 0xd000_0000,
} as const;

/** Opcodes that random bytes seldom make: system instructions, far transfers, strings, locked and wide forms. */
const FRAGMENTS: readonly (readonly number[])[] = [
  ...[[0x0f, 0x30], [0x0f, 0x32], [0x0f, 0xa2], [0x0f, 0x05], [0x0f, 0x07], [0x0f, 0x34], [0x0f, 0x35], [0xcf]],
  ...[[0x0f, 0x22, 0xc0], [0x0f, 0x22, 0xd8], [0x0f, 0x22, 0xe0], [0x0f, 0x22, 0xc8], [0x44, 0x0f, 0x22, 0xc0]],
  ...[[0x0f, 0x20, 0xc0], [0x0f, 0x20, 0xe0], [0x0f, 0x23, 0xf8], [0x0f, 0x23, 0xc0], [0x0f, 0x21, 0xf0]],
  ...[[0x0f, 0x01, 0x10], [0x0f, 0x01, 0x18], [0x0f, 0x01, 0x38], [0x0f, 0x01, 0xf0], [0x0f, 0x01, 0xf8]],
  // VMX, SVM, monitor, XSETBV, and others nobody has.
  ...[[0x0f, 0x01, 0xc1], [0x0f, 0x01, 0xc2], [0x0f, 0x01, 0xc3], [0x0f, 0x01, 0xc4], [0x0f, 0x01, 0xd9]],
  ...[[0x0f, 0x01, 0xd8], [0x0f, 0x01, 0xdb], [0x0f, 0x01, 0xc8], [0x0f, 0x01, 0xd1], [0x0f, 0x78, 0xc0], [0xf3, 0x0f]],
  ...[[0x66, 0x0f, 0xc7, 0x30], [0x0f, 0xc7, 0x38], [0x0f, 0xaa], [0x0f, 0xa6], [0x0f, 0x01, 0xca], [0x0f, 0x01, 0xcb]],
  ...[[0xea], [0x9a], [0xcb], [0xca], [0xcd], [0xcc], [0xf1], [0xce], [0xff, 0x28], [0xff, 0x18], [0x0f, 0xb2, 0x00]],
  ...[[0x8e, 0xd0], [0x8e, 0xd8], [0x8e, 0xe0], [0x0f, 0x00, 0xd8], [0x0f, 0x00, 0xd0], [0x0f, 0x00, 0xe0], [0x17]],
  ...[[0xf3, 0xa4], [0xf3, 0xab], [0xf2, 0xae], [0xf3, 0xa6], [0xf3, 0x6c], [0xf3, 0x6e], [0x66, 0xf3, 0xa5]],
  ...[[0xf0, 0x0f, 0xc7, 0x08], [0xf0, 0x48, 0x0f, 0xc7, 0x08], [0xf0, 0x0f, 0xb1, 0x00], [0xf0, 0x0f, 0xc1, 0x00]],
  ...[[0x0f, 0xae, 0x00], [0x0f, 0xae, 0x08], [0x0f, 0xae, 0x20], [0x0f, 0xae, 0x28], [0xdd, 0x20], [0xd9, 0x30]],
  ...[[0xfb], [0xfa], [0x9d], [0x9c], [0xf4], [0xc8], [0xc9], [0x60], [0x61], [0x62], [0x63], [0xd4, 0x00], [
    0xf6,
    0xf8,
  ]],
  ...[[0xeb, 0xfe], [0xe2, 0xfe], [0x0f, 0x06], [0x0f, 0x08], [0x0f, 0x09], [0x0f, 0x0b], [0x0f, 0x31], [0x0f, 0x33]],
  ...[[0xc4], [0xc5], [0x62, 0xf1], [0x0f, 0x38], [0x0f, 0x3a], [0x66, 0x0f], [0xf2, 0x0f], [0x48], [0x67], [0x64]],
];

/** A case: what its RAM and its CPU begin with. */
export interface FuzzCase {
  mode: FuzzMode;
  state: ArrayBuffer;
  /** Writes the guest's RAM. */
  fill(ram: Uint8Array): void;
}

/** Makes the case of a seed; everything about it follows from the seed. */
export function fuzzCase(seed: number): FuzzCase {
  const random = new Random(seed);
  const mode = random.pick(MODES);
  const long = mode.startsWith("64-bit") || mode === "compatibility";
  const user = mode.endsWith("user");
  const state = startState(mode === "real" ? 16 : long ? 64 : 32);
  const view = new DataView(state);
  const u64 = (offset: number, value: number | bigint) =>
    view.setBigUint64(offset, BigInt.asUintN(64, BigInt(value)), true);
  for (let i = 0; i < 16; i++) u64(X64.GPR + i * 8, anAddress(random, long));
  u64(X64.GPR + 4 * 8, random.below(8) ? Place.STACK : anAddress(random, long));
  // A page's end, at times: the last instruction reaches into the next page.
  const start = random.below(4) ? Place.CODE : Place.CODE + 4096 - 1 - random.below(15);
  u64(X64.RIP, mode === "real" ? start - Place.CODE : start);
  u64(X64.RFLAGS, 2 | (random.next() & 0x247cd5 & ~(random.below(4) ? 0x100 : 0)));
  const segment = (number: number, selector: number, attributes: number) => {
    view.setUint16(X64.SEGMENTS + number * 16 + 12, selector, true);
    view.setUint16(X64.SEGMENTS + number * 16 + 14, attributes, true);
  };
  if (mode === "real") {
    u64(X64.SEGMENTS + 16, Place.CODE);
    view.setUint16(X64.SEGMENTS + 16 + 12, Place.CODE >> 4, true);
  } else if (mode === "protected, 16-bit code") segment(1, 0x28, 0x9b);
  else if (user) {
    segment(1, long ? 0x33 : 0x3b, long ? 0xa0fb : 0xc0fb);
    for (const data of [0, 2, 3, 4, 5]) segment(data, 0x43, 0xc0f3);
  } else if (mode === "compatibility") segment(1, 0x18, 0xc09b);
  u64(X64.SEGMENTS + 7 * 16, Place.TSS);
  view.setUint32(X64.SEGMENTS + 7 * 16 + 8, random.below(4) ? 0x2067 : random.below(0x80), true);
  u64(X64.GDTR_BASE, random.below(16) ? Place.GDT : anAddress(random, long));
  view.setUint32(X64.GDTR_LIMIT, random.below(16) ? 0x7f : random.below(0x1_0000), true);
  if (mode !== "real" || random.below(8) === 0) {
    u64(X64.IDTR_BASE, random.below(16) ? Place.IDT : anAddress(random, long));
    view.setUint32(X64.IDTR_LIMIT, random.below(4) ? 0xfff : random.below(0x1_0000), true);
  }
  let cr0 = Number(view.getBigUint64(X64.CR0, true)) & 0x7fff_ffff;
  let cr4 = 0x600;
  if (random.below(2)) cr0 |= 0x1_0000;
  if (random.below(8) === 0) cr0 |= random.next() & 0xe;
  if (long || mode.endsWith("paging")) cr0 += 2 ** 31;
  if (long || mode === "PAE paging") cr4 |= 0x20;
  if (random.below(2)) cr4 |= random.next() & 0x31_009f;
  if (long || random.below(2)) u64(X64.EFER, (long ? 0x500 : 0) | (random.next() & 0x801));
  u64(X64.CR0, cr0);
  u64(X64.CR4, cr4);
  u64(X64.CR3, random.below(32) ? Place.TABLES : anAddress(random, long));
  u64(X64.STAR, 0x0013_0008_0000_0000n);
  u64(X64.LSTAR, Place.HANDLER);
  u64(X64.SYSENTER_CS, random.below(2) ? 8 : 0);
  u64(X64.SYSENTER_EIP, Place.HANDLER);
  u64(X64.SYSENTER_ESP, Place.STACK);
  if (random.below(8) === 0) {
    for (let i = 0; i < 4; i++) u64(X64.DR + i * 8, Place.CODE + random.below(64));
    u64(X64.DR + 5 * 8, 0x400 | (random.next() & 0xffff_03ff));
  }
  const code = someCode(random);
  return { mode, state, fill: (ram) => fillRam(ram, random, mode, code, start) };
}

/** Values that stand at the edges of something. */
function anAddress(random: Random, long: boolean): bigint {
  const near = BigInt(random.below(64)) - 32n;
  switch (random.below(12)) {
    case 0:
      return random.wide();
    case 1:
      return long ? 0x7fff_ffff_f000n + BigInt(random.below(0x2000)) : 0xffff_ffffn - BigInt(random.below(64));
    case 2:
      return BigInt(FUZZ_RAM) + near;
    case 3:
      return BigInt(Place.DEVICE) + near;
    case 4:
      return BigInt(Place.CODE + random.below(64));
    case 5:
      return BigInt(Place.TABLES + random.below(0x5000));
    case 6:
      return BigInt(random.below(0x1_0000));
    case 7:
      return BigInt(Place.DATA + 4096) + near;
    case 8:
      // MSR numbers.
      return random.pick([0x10n, 0x1bn, 0xc000_0080n, 0xc000_0100n, 0x277n, 0x6e0n, 0x830n, 0x174n, 0x1d9n]);
    default:
      return BigInt(Place.DATA + random.below(0x8000));
  }
}

function someCode(random: Random): Uint8Array {
  const code = new Uint8Array(random.pick([16, 64, 512]));
  random.fill(code);
  const kind = random.below(4);
  if (kind === 0) return code;
  for (let at = 0; at < code.length;) {
    const fragment = kind === 1 && random.below(4) ? [random.next() & 0xff] : random.pick(FRAGMENTS);
    for (const byte of fragment) if (at < code.length) code[at++] = byte;
    for (let rest = random.below(5); rest > 0 && at < code.length; rest--) at++;
  }
  // Prefixes without end: an instruction is refused when it is longer than 15 bytes.
  if (random.below(16) === 0) code.fill(random.pick([0x66, 0x67, 0xf0, 0xf3, 0x2e, 0x48]), 0, 8 + random.below(10));
  return code;
}

function fillRam(ram: Uint8Array, random: Random, mode: FuzzMode, code: Uint8Array, start: number): void {
  ram.fill(0);
  const view = new DataView(ram.buffer, ram.byteOffset, ram.byteLength);
  const put = (address: number, value: number | bigint) =>
    view.setBigUint64(address, BigInt.asUintN(64, BigInt(value)), true);
  ram.set(code, start);
  random.fill(ram.subarray(Place.DATA, Place.DATA + 0x800));
  const long = mode.startsWith("64-bit") || mode === "compatibility";
  // Code that handles an exception: skips a byte of what raised it, or ends.
  const skip = long ? [0x48, 0x83, 0x04, 0x24, 0x01, 0x48, 0xcf] : [0x83, 0x04, 0x24, 0x01, 0xcf];
  ram.set(random.below(2) ? skip : [0xf4], Place.HANDLER);
  const descriptors = [
    0n,
    0x00af_9b00_0000_ffffn,
    0x00cf_9300_0000_ffffn,
    0x00cf_9b00_0000_ffffn,
    BigInt(Place.TSS) << 16n | 0x0000_8b00_0000_2067n,
    0x0000_9b00_0000_ffffn,
    0x00af_fb00_0000_ffffn,
    0x00cf_fb00_0000_ffffn,
    0x00cf_f300_0000_ffffn,
  ];
  descriptors.forEach((descriptor, i) => put(Place.GDT + i * 8, descriptor));
  for (let i = descriptors.length; i < 16; i++) put(Place.GDT + i * 8, random.wide());
  const wild = random.below(8) === 0;
  for (let vector = 0; vector < 256; vector++) {
    if (mode === "real") {
      put(vector * 4, vector % 2 ? 0 : Place.HANDLER << 12);
      continue;
    }
    const dpl = random.below(2) * 0x6000;
    const gate = wild && random.below(4) === 0 ? random.wide() : BigInt(Place.HANDLER & 0xffff) |
      (long ? 0x08_0000n : 0x18_0000n) | (BigInt(0x8e00 | dpl) << 32n) | (BigInt(Place.HANDLER >> 16) << 48n);
    put(Place.IDT + vector * (long ? 16 : 8), gate);
  }
  put(Place.TSS + 4, long ? BigInt(Place.STACK) : BigInt(Place.STACK) | 0x10_0000_0000n);
  fillTables(random, mode, put, (address, value) => view.setUint32(address, value, true));
}

/** Page tables that map low memory onto itself, with some entries that nobody would write. */
function fillTables(
  random: Random,
  mode: FuzzMode,
  put: (address: number, value: number | bigint) => void,
  put32: (address: number, value: number) => void,
): void {
  const tables = Place.TABLES;
  const strange = random.below(4) === 0;
  /** Devices, nowhere, the tables themselves, reserved bits. */
  const entry = (value: number): bigint => {
    if (!strange || random.below(8)) return BigInt(value);
    const flags = BigInt(random.next() & 0xfff);
    return random.pick([
      BigInt(Place.DEVICE) | flags | 1n,
      0xff_ffff_f000n | flags | 1n,
      BigInt(tables) | flags | 1n,
      random.wide(),
      random.wide() | 1n,
      0x8000_0000_0000_0000n | BigInt(value),
    ]);
  };
  if (mode === "32-bit paging") {
    put32(tables, tables + 0x1000 | 7);
    for (let i = 0; i < 512; i++) put32(tables + 0x1000 + i * 4, Number(BigInt.asUintN(32, entry(i * 4096 | 7))));
    put32(tables + 4 * (Place.DEVICE >>> 22), Number(BigInt.asUintN(32, entry((Place.DEVICE | 0x87) >>> 0))));
    return;
  }
  const pae = mode === "PAE paging";
  if (!pae) put(tables, tables + 0x1000 | 7);
  const pointers = pae ? tables : tables + 0x1000;
  put(pointers, pae ? tables + 0x2000 | 1 : tables + 0x2000 | 7);
  put(pointers + 24, pae ? tables + 0x4000 | 1 : tables + 0x4000 | 7);
  put(tables + 0x2000, tables + 0x3000 | 7);
  for (let i = 0; i < 512; i++) put(tables + 0x3000 + i * 8, entry(i * 4096 | 7));
  for (let i = 0; i < 512; i++) put(tables + 0x4000 + i * 8, entry(0xc000_0000 + i * 2 ** 21 + 0x87));
  if (strange && random.below(4) === 0) put(tables + (pae ? 0 : 0x1000), entry(tables + 0x2000 | 7));
}
