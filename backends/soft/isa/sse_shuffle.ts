/** SSE: rearrangement by an immediate, single elements in and out, masked stores, blends. */
import type { Emitter } from "../emitter.ts";
import { Reg } from "../layout.ts";
import { laneMask, shiftUp, swizzle, window, words32 } from "../sse/lanes.ts";
import { Simd } from "../sse/simd.ts";
import { checkPending, enterMmx, readMmx, readMmxVector, writeMmx } from "../sse/state.ts";
import type { Local } from "../wasm/function.ts";
import { type I32, i32, type I64, select, splat, V128 } from "../wasm/values.ts";
import { implicitAddress } from "./implicit.ts";
import { type Emit, op } from "./table.ts";

const sse = { unit: "sse" } as const;
const mmx = { unit: "mmx" } as const;

/** The immediate as an unsigned byte. */
function byteOf(e: Emitter, index: number): Local<I32> {
  return e.f.i32(e.immediate(index).i32().and(0xff));
}
function constantByte(e: Emitter, index: number): number | null {
  const constant = e.constant(index);
  return constant === null ? null : constant & 0xff;
}

/** The four two-bit fields of an immediate, each in a 32-bit lane. */
function fields(immediate: I32): V128 {
  return splat(immediate, 32).op2(Simd.I32X4_MUL, words32([64, 16, 4, 1]))
    .shift(Simd.I32X4_SHR_U, i32(6)).and(splat(i32(3), 32));
}
/** Byte indices of 32-bit elements by number. */
function indices32(numbers: V128): V128 {
  return numbers.op2(Simd.I32X4_MUL, splat(i32(0x04040404), 32))
    .op2(Simd.I32X4_ADD, splat(i32(0x03020100), 32));
}
/** Byte indices of the 16-bit elements by number, of the low half of a vector, as 64 bits. */
function indices16(numbers: V128): V128 {
  const words = numbers.op2(Simd.I32X4_MUL, splat(i32(0x0202), 32)).op2(Simd.I32X4_ADD, splat(i32(0x0100), 32));
  return words.op2(Simd.I16X8_NARROW_U, words);
}
const lanes32 = (imm: number, from = 0) =>
  [0, 1, 2, 3].flatMap((k) => [0, 1, 2, 3].map((b) => from + ((imm >> (2 * k)) & 3) * 4 + b));
const lanes16 = (imm: number, from: number) =>
  [0, 1, 2, 3].flatMap((k) => [0, 1].map((b) => from + ((imm >> (2 * k)) & 3) * 2 + b));

op("pshufd", "66 0F 70 /r", "Vx Wx Ib", (e) => {
  const v = e.readVector(1);
  const imm = constantByte(e, 2);
  if (imm !== null) e.writeXmm(0, v.shuffle(v, lanes32(imm)));
  else e.writeXmm(0, swizzle(v, indices32(fields(byteOf(e, 2)))));
}, sse);
const identity = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
op("pshuflw", "F2 0F 70 /r", "Vx Wx Ib", (e) => {
  const v = e.readVector(1);
  const imm = constantByte(e, 2);
  if (imm !== null) e.writeXmm(0, v.shuffle(v, [...lanes16(imm, 0), ...identity.slice(8)]));
  else e.writeXmm(0, v.withI64(0, swizzle(v, indices16(fields(byteOf(e, 2)))).i64(0)));
}, sse);
op("pshufhw", "F3 0F 70 /r", "Vx Wx Ib", (e) => {
  const v = e.readVector(1);
  const imm = constantByte(e, 2);
  if (imm !== null) e.writeXmm(0, v.shuffle(v, [...identity.slice(0, 8), ...lanes16(imm, 8)]));
  else {
    const high = indices16(fields(byteOf(e, 2))).op2(Simd.I8X16_ADD, splat(i32(8), 8));
    e.writeXmm(0, v.withI64(1, swizzle(v, high).i64(0)));
  }
}, sse);
op("pshufw", "NP 0F 70 /r", "Pq Qq Ib", (e) => {
  checkPending(e);
  const v = readMmxVector(e, 1);
  enterMmx(e);
  writeMmx(e, 0, swizzle(v, indices16(fields(byteOf(e, 2)))).i64(0));
}, mmx);
op("shufps", "NP 0F C6 /r", "Vx Wx Ib", (e) => {
  const b = e.readVector(1);
  const imm = constantByte(e, 2);
  if (imm !== null) {
    e.writeXmm(0, e.readXmm(0).shuffle(b, [...lanes32(imm).slice(0, 8), ...lanes32(imm, 16).slice(8)]));
    return;
  }
  const indices = e.f.v128(indices32(fields(byteOf(e, 2))));
  const upper = swizzle(b, indices).i64(1);
  e.writeXmm(0, swizzle(e.readXmm(0), indices).withI64(1, upper));
}, sse);
op("shufpd", "66 0F C6 /r", "Vx Wx Ib", (e) => {
  const b = e.readVector(1);
  const imm = byteOf(e, 2);
  const a = e.f.v128(e.readXmm(0));
  const first = select(imm.and(1), a.i64(1), a.i64(0));
  const second = select(imm.and(2), b.i64(1), b.i64(0));
  e.writeXmm(0, a.withI64(0, first).withI64(1, second));
}, sse);

function atMost(limit: number, count: I32): I32 {
  return select(count.gtU(limit), i32(limit), count);
}
op("psrldq", "66 0F 73 /3 mod3", "Ux Ib", (e) => {
  e.writeXmm(0, window(e.f, null, e.readXmm(0), atMost(16, byteOf(e, 1))));
}, sse);
op("pslldq", "66 0F 73 /7 mod3", "Ux Ib", (e) => {
  e.writeXmm(0, shiftUp(e.readXmm(0), atMost(16, byteOf(e, 1))));
}, sse);
op("palignr", "66 0F 3A 0F /r", "Vx Wx Ib", (e) => {
  const b = e.readVector(1);
  const imm = constantByte(e, 2);
  if (imm !== null && imm <= 16) {
    e.writeXmm(0, b.shuffle(e.readXmm(0), identity.map((i) => i + imm)));
    return;
  }
  e.writeXmm(0, window(e.f, e.readXmm(0), b, atMost(32, byteOf(e, 2))));
}, sse);
op("palignr_mmx", "NP 0F 3A 0F /r", "Pq Qq Ib", (e) => {
  checkPending(e);
  const b = readMmxVector(e, 1);
  const both = e.f.v128(b.withI64(1, readMmx(e, 0)));
  enterMmx(e);
  writeMmx(e, 0, window(e.f, null, both, atMost(16, byteOf(e, 2))).i64(0));
}, mmx);

// Elements in: the source is known before the destination changes.
const insert = (size: 1 | 2 | 4 | 8, index: number): Emit => (e) => {
  const value = e.readUnsigned(index);
  const lane = byteOf(e, 2).and(16 / size - 1);
  const all = size === 8 ? splat(value, 64) : splat(value.i32(), (size * 8) as 8 | 16 | 32);
  e.writeXmm(0, all.bitselect(e.readXmm(0), laneMask(e.f.i32(lane), size)));
};
op("pinsrw", "66 0F C4 /r modm", "Vx Mw Ib", insert(2, 1), sse);
op("pinsrw", "66 0F C4 /r mod3", "Vx Rd Ib", insert(2, 1), sse);
op("pinsrb", "66 0F 3A 20 /r modm", "Vx Mb Ib", insert(1, 1), sse);
op("pinsrb", "66 0F 3A 20 /r mod3", "Vx Rd Ib", insert(1, 1), sse);
op("pinsrd", "66 0F 3A 22 /r", "Vx Ey Ib", (e) => insert(e.operands[1].bits === 64 ? 8 : 4, 1)(e), sse);
const insertMmx: Emit = (e) => {
  checkPending(e);
  const value = e.readUnsigned(1);
  const old = readMmxVector(e, 0);
  enterMmx(e);
  const mask = laneMask(e.f.i32(byteOf(e, 2).and(3)), 2);
  writeMmx(e, 0, splat(value.i32(), 16).bitselect(old, mask).i64(0));
};
op("pinsrw_mmx", "NP 0F C4 /r modm", "Pq Mw Ib", insertMmx, mmx);
op("pinsrw_mmx", "NP 0F C4 /r mod3", "Pq Rd Ib", insertMmx, mmx);

// Elements out, zero-extended.
const element = (e: Emitter, v: V128, size: 1 | 2 | 4 | 8, immediate: number): I64 => {
  const { f } = e;
  const lane = f.i32(byteOf(e, immediate).and(16 / size - 1));
  const half = select(lane.and(8 / size), v.i64(1), v.i64(0));
  return half.shrU(lane.and(8 / size - 1).mul(size * 8).i64u()).zx(size * 8);
};
const extract = (size: 1 | 2): Emit => (e) => e.write(0, element(e, e.readXmm(1), size, 2));
op("pextrw_register", "66 0F C5 /r mod3", "Gd Ux Ib", extract(2), sse);
op("pextrw", "66 0F 3A 15 /r modm", "Mw Vx Ib", extract(2), sse);
op("pextrw", "66 0F 3A 15 /r mod3", "Rd Vx Ib", extract(2), sse);
op("pextrb", "66 0F 3A 14 /r modm", "Mb Vx Ib", extract(1), sse);
op("pextrb", "66 0F 3A 14 /r mod3", "Rd Vx Ib", extract(1), sse);
op("pextrd", "66 0F 3A 16 /r", "Ey Vx Ib", (e) => {
  e.write(0, element(e, e.readXmm(1), e.operands[0].bits === 64 ? 8 : 4, 2));
}, sse);
op("extractps", "66 0F 3A 17 /r", "Ed Vx Ib", (e) => e.write(0, element(e, e.readXmm(1), 4, 2)), sse);
op("pextrw_mmx", "NP 0F C5 /r mod3", "Gd Nq Ib", (e) => {
  checkPending(e);
  const shift = byteOf(e, 2).and(3).shl(4).i64u();
  const value = e.f.i64(readMmx(e, 1).shrU(shift).and(0xffff));
  enterMmx(e);
  e.write(0, value);
}, mmx);
op("insertps", "66 0F 3A 21 /r", "Vx Wd Ib", (e) => {
  const { f } = e;
  const imm = byteOf(e, 2);
  const source = f.i32();
  if (e.isMemory(1)) f.set(source, e.readLow32(1));
  else f.set(source, swizzle(e.readXmm(1), indices32(splat(imm.shrU(6), 32))).i32(0));
  const inserted = splat(source, 32).bitselect(e.readXmm(0), laneMask(f.i32(imm.shrU(4).and(3)), 4));
  e.writeXmm(0, inserted.and(bitLanes32(imm).not()));
}, sse);

/** Lanes of all ones where bits 0-3 (32-bit lanes) of the immediate are set. */
function bitLanes32(imm: I32): V128 {
  const bits = words32([1, 2, 4, 8]);
  return splat(imm, 32).and(bits).op2(Simd.I32X4_EQ, bits);
}

// Blends.
op("blendps", "66 0F 3A 0C /r", "Vx Wx Ib", (e) => {
  const b = e.readVector(1);
  e.writeXmm(0, b.bitselect(e.readXmm(0), bitLanes32(byteOf(e, 2))));
}, sse);
op("blendpd", "66 0F 3A 0D /r", "Vx Wx Ib", (e) => {
  const b = e.readVector(1);
  const bits = words32([1, 1, 2, 2]);
  e.writeXmm(0, b.bitselect(e.readXmm(0), splat(byteOf(e, 2), 32).and(bits).op2(Simd.I32X4_EQ, bits)));
}, sse);
op("pblendw", "66 0F 3A 0E /r", "Vx Wx Ib", (e) => {
  const b = e.readVector(1);
  const bits = new V128([0xfd, 12, ...[1, 2, 4, 8, 16, 32, 64, 128].flatMap((bit) => [bit, 0])]);
  e.writeXmm(0, b.bitselect(e.readXmm(0), splat(byteOf(e, 2), 16).and(bits).op2(Simd.I16X8_EQ, bits)));
}, sse);
// By the top bits of XMM0's elements.
const variable = (mask: (selector: V128) => V128): Emit => (e) => {
  const b = e.readVector(1);
  e.writeXmm(0, b.bitselect(e.readXmm(0), mask(e.xmm(0))));
};
op("pblendvb", "66 0F 38 10 /r", "Vx Wx", variable((v) => v.shift(108, i32(7))), sse);
op("blendvps", "66 0F 38 14 /r", "Vx Wx", variable((v) => v.shift(Simd.I32X4_SHR_S, i32(31))), sse);
op("blendvpd", "66 0F 38 15 /r", "Vx Wx", variable((v) => v.shift(204, i32(63))), sse);

// Sums of absolute differences of a block of four against eight positions (SSE4.1).
op("mpsadbw", "66 0F 3A 42 /r", "Vx Wx Ib", (e) => {
  const { f } = e;
  const b = e.readVector(1);
  const a = f.v128(e.readXmm(0));
  const imm = byteOf(e, 2);
  const block = f.i32(swizzle(b, indices32(splat(imm.and(3), 32))).i32(0));
  const from = f.v128(window(f, null, a, f.i32(imm.and(4))));
  const sums = f.v128(splat(i32(0), 16));
  for (let k = 0; k < 4; k++) {
    const pixel = f.v128(splat(block.shrU(8 * k).and(0xff), 16));
    const moved = from.shuffle(from, identity.map((i) => (i + k) & 15)).op1(Simd.I16X8_EXTEND_LOW_U);
    f.set(sums, sums.op2(Simd.I16X8_ADD, moved.op2(Simd.I16X8_SUB, pixel).op1(Simd.I16X8_ABS)));
  }
  e.writeXmm(0, sums);
}, sse);

/** Stores the bytes that the mask selects, one by one: what is not selected is not touched. */
function storeSelected(e: Emitter, bytes: number, value: (index: Local<I32>) => I32, mask: Local<I32>): void {
  const { f } = e;
  const address = implicitAddress(e, e.reg(Reg.DI), bytes, true);
  const index = f.i32(0);
  const at = f.i64(address);
  f.loop((again) => {
    f.if(mask.shrU(index).and(1), () => e.store(at, 8, value(index).i64u()));
    f.set(at, at.add(1));
    f.set(index, index.add(1));
    f.brIf(again, index.ltU(bytes));
  });
}
const masked = { addressSized: true, modal: true, system: true } as const;
op("maskmovdqu", "66 0F F7 /r mod3", "Vx Ux", (e) => {
  const { f } = e;
  const value = f.v128(e.readXmm(0));
  const mask = f.i32(e.readXmm(1).test(Simd.I8X16_BITMASK));
  storeSelected(e, 16, (index) => swizzle(value, splat(index, 8)).i8u(0), mask);
}, { ...masked, ...sse });
op("maskmovq", "NP 0F F7 /r mod3", "Pq Nq", (e) => {
  const { f } = e;
  checkPending(e);
  const value = readMmxVector(e, 0);
  const mask = f.i32(readMmxVector(e, 1).test(Simd.I8X16_BITMASK));
  storeSelected(e, 8, (index) => swizzle(value, splat(index, 8)).i8u(0), mask);
  enterMmx(e);
}, { ...masked, ...mmx });
