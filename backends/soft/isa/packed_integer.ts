/** Packed integers: MMX and its XMM twins (SSE2, SSSE3), and what SSE4.1 adds. */
import type { Emitter } from "../emitter.ts";
import { join, swizzle, words32, zero } from "../sse/lanes.ts";
import { Simd } from "../sse/simd.ts";
import { checkPending, enterMmx, readMmx, readMmxVector, writeMmx } from "../sse/state.ts";
import { i32, type I64, i64, select, splat, type V128 } from "../wasm/values.ts";
import { type Emit, op } from "./table.ts";

const sse = { unit: "sse" } as const;
const mmx = { unit: "mmx" } as const;

/** Two vectors to one; in the MMX form the operands are zero-extended and the low half counts. */
type Combine = (e: Emitter, a: V128, b: V128, isMmx: boolean) => V128;

function mmxForm(combine: Combine): Emit {
  return (e) => {
    checkPending(e);
    const b = readMmxVector(e, 1);
    const a = readMmxVector(e, 0);
    enterMmx(e);
    writeMmx(e, 0, combine(e, a, b, true).i64(0));
  };
}
function xmmForm(combine: Combine): Emit {
  return (e) => {
    const b = e.readVector(1);
    e.writeXmm(0, combine(e, e.f.v128(e.readXmm(0)), b, false));
  };
}

/** Both forms: NP with MMX registers, 66 with XMM registers. */
function both(name: string, opcode: string, combine: Combine): void {
  op(`${name}_mmx`, `NP ${opcode} /r`, "Pq Qq", mmxForm(combine), mmx);
  op(name, `66 ${opcode} /r`, "Vx Wx", xmmForm(combine), sse);
}
function xmm(name: string, opcode: string, combine: Combine): void {
  op(name, `66 ${opcode} /r`, "Vx Wx", xmmForm(combine), sse);
}

// Operations that a vector instruction of Wasm does as it is.
const direct: [string, string, number][] = [
  ["pcmpeqb", "74", Simd.I8X16_EQ],
  ["pcmpeqw", "75", Simd.I16X8_EQ],
  ["pcmpeqd", "76", Simd.I32X4_EQ],
  ["pcmpgtb", "64", Simd.I8X16_GT_S],
  ["pcmpgtw", "65", Simd.I16X8_GT_S],
  ["pcmpgtd", "66", Simd.I32X4_GT_S],
  ["paddb", "FC", Simd.I8X16_ADD],
  ["paddw", "FD", Simd.I16X8_ADD],
  ["paddd", "FE", Simd.I32X4_ADD],
  ["paddq", "D4", Simd.I64X2_ADD],
  ["paddsb", "EC", Simd.I8X16_ADD_SAT_S],
  ["paddsw", "ED", Simd.I16X8_ADD_SAT_S],
  ["paddusb", "DC", Simd.I8X16_ADD_SAT_U],
  ["paddusw", "DD", Simd.I16X8_ADD_SAT_U],
  ["psubb", "F8", Simd.I8X16_SUB],
  ["psubw", "F9", Simd.I16X8_SUB],
  ["psubd", "FA", Simd.I32X4_SUB],
  ["psubq", "FB", Simd.I64X2_SUB],
  ["psubsb", "E8", Simd.I8X16_SUB_SAT_S],
  ["psubsw", "E9", Simd.I16X8_SUB_SAT_S],
  ["psubusb", "D8", Simd.I8X16_SUB_SAT_U],
  ["psubusw", "D9", Simd.I16X8_SUB_SAT_U],
  ["pminub", "DA", Simd.I8X16_MIN_U],
  ["pmaxub", "DE", Simd.I8X16_MAX_U],
  ["pminsw", "EA", Simd.I16X8_MIN_S],
  ["pmaxsw", "EE", Simd.I16X8_MAX_S],
  ["pavgb", "E0", Simd.I8X16_AVGR_U],
  ["pavgw", "E3", Simd.I16X8_AVGR_U],
  ["pmullw", "D5", Simd.I16X8_MUL],
  ["pmaddwd", "F5", Simd.I32X4_DOT_S],
  ["por", "EB", 80],
  ["pxor", "EF", 81],
  ["pand", "DB", 78],
];
for (const [name, opcode, number] of direct) both(name, `0F ${opcode}`, (_, a, b) => a.op2(number, b));
both("pandn", "0F DF", (_, a, b) => b.andnot(a));

// The same bits whatever the data type.
for (const prefix of ["NP", "66"]) {
  op("pand", `${prefix} 0F 54 /r`, "Vx Wx", xmmForm((_, a, b) => a.and(b)), sse);
  op("pandn", `${prefix} 0F 55 /r`, "Vx Wx", xmmForm((_, a, b) => b.andnot(a)), sse);
  op("por", `${prefix} 0F 56 /r`, "Vx Wx", xmmForm((_, a, b) => a.or(b)), sse);
  op("pxor", `${prefix} 0F 57 /r`, "Vx Wx", xmmForm((_, a, b) => a.xor(b)), sse);
}

// Interleaving. MMX's high halves are bytes 4-7, which the XMM form's low interleaving has in its upper half.
const interleave = (size: number, from: number) =>
  Array.from({ length: 16 }, (_, i) => {
    const element = Math.floor(i / size);
    return from + (element >> 1) * size + (i % size) + (element & 1 ? 16 : 0);
  });
const unpacks: [string, string, string, number][] = [
  ["bw", "60", "68", 1],
  ["wd", "61", "69", 2],
  ["dq", "62", "6A", 4],
];
for (const [name, lowOpcode, highOpcode, size] of unpacks) {
  both(`punpckl${name}`, `0F ${lowOpcode}`, (_, a, b) => a.shuffle(b, interleave(size, 0)));
  both(
    `punpckh${name}`,
    `0F ${highOpcode}`,
    (_, a, b, isMmx) => a.shuffle(b, isMmx ? interleave(size, 4) : interleave(size, 8)),
  );
}
const lowQuads: Combine = (_, a, b) => join(a, b);
const highQuads: Combine = (_, a, b) => a.shuffle(b, interleave(8, 8));
xmm("punpcklqdq", "0F 6C", lowQuads);
xmm("punpckhqdq", "0F 6D", highQuads);
xmm("punpcklqdq", "0F 14", lowQuads);
xmm("punpckhqdq", "0F 15", highQuads);
op("punpckldq", "NP 0F 14 /r", "Vx Wx", xmmForm((_, a, b) => a.shuffle(b, interleave(4, 0))), sse);
op("punpckhdq", "NP 0F 15 /r", "Vx Wx", xmmForm((_, a, b) => a.shuffle(b, interleave(4, 8))), sse);

// Narrowing. MMX: both operands in one vector.
const pack = (number: number): Combine => (e, a, b, isMmx) => {
  if (!isMmx) return a.op2(number, b);
  const both = e.f.v128(join(a, b));
  return both.op2(number, both);
};
both("packsswb", "0F 63", pack(Simd.I8X16_NARROW_S));
both("packuswb", "0F 67", pack(Simd.I8X16_NARROW_U));
both("packssdw", "0F 6B", pack(Simd.I16X8_NARROW_S));
xmm("packusdw", "0F 38 2B", pack(Simd.I16X8_NARROW_U));

// Products. The high halves of 32-bit products, put together again.
const HIGH_WORDS = [2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31];
both("pmulhw", "0F E5", (_, a, b) => {
  return a.op2(Simd.I32X4_EXTMUL_LOW_S, b).shuffle(a.op2(Simd.I32X4_EXTMUL_HIGH_S, b), HIGH_WORDS);
});
both(
  "pmulhuw",
  "0F E4",
  (_, a, b) => a.op2(Simd.I32X4_EXTMUL_LOW_U, b).shuffle(a.op2(Simd.I32X4_EXTMUL_HIGH_U, b), HIGH_WORDS),
);
both("pmuludq", "0F F4", (_, a, b) => {
  const even = [0, 1, 2, 3, 8, 9, 10, 11, 0, 1, 2, 3, 8, 9, 10, 11];
  return a.shuffle(a, even).op2(Simd.I64X2_EXTMUL_LOW_U, b.shuffle(b, even));
});
xmm("pmuldq", "0F 38 28", (_, a, b) => {
  const even = [0, 1, 2, 3, 8, 9, 10, 11, 0, 1, 2, 3, 8, 9, 10, 11];
  return a.shuffle(a, even).op2(Simd.I64X2_EXTMUL_LOW_S, b.shuffle(b, even));
});
xmm("pmulld", "0F 38 40", (_, a, b) => a.op2(Simd.I32X4_MUL, b));
both("pmulhrsw", "0F 38 0B", (e, a, b) => {
  // Wasm's instruction saturates -1 * -1, where this one wraps: there the answer is 8000h.
  const minimum = splat(i32(0x8000), 16);
  const wrapped = e.f.v128(
    a.op2(Simd.I16X8_EQ, minimum).and(b.op2(Simd.I16X8_EQ, minimum)),
  );
  return a.op2(Simd.I16X8_Q15MULR_SAT_S, b).xor(wrapped);
});
both("pmaddubsw", "0F 38 04", (e, a, b) => {
  const { f } = e;
  // Even and odd bytes apart; sums saturate.
  const high = (v: V128) => v.shift(Simd.I16X8_SHR_S, i32(8));
  const even = f.v128(
    a.and(splat(i32(0xff), 16)).op2(Simd.I16X8_MUL, high(b.shift(Simd.I16X8_SHL, i32(8)))),
  );
  const odd = a.shift(Simd.I16X8_SHR_U, i32(8)).op2(Simd.I16X8_MUL, high(b));
  return even.op2(Simd.I16X8_ADD_SAT_S, odd);
});
both("psadbw", "0F F6", (e, a, b) => {
  const { f } = e;
  const difference = f.v128(a.op2(Simd.I8X16_SUB_SAT_U, b).or(b.op2(Simd.I8X16_SUB_SAT_U, a)));
  const sums = f.v128(
    difference.op1(Simd.I16X8_EXTADD_PAIRWISE_U).op1(Simd.I32X4_EXTADD_PAIRWISE_U),
  );
  return sums.op2(Simd.I32X4_ADD, sums.shift(Simd.I64X2_SHR_U, i32(32))).and(words32([0xffff, 0, 0xffff, 0]));
});

// SSSE3.
both("pshufb", "0F 38 00", (_, a, b, isMmx) => {
  // Bit 7 means zero, bits 4-6 nothing: the rest must not look like an index above 15.
  return swizzle(a, b.and(splat(i32(isMmx ? 0x87 : 0x8f), 8)));
});
const horizontal = (number: number, size: 2 | 4): Combine => (e, a, b, isMmx) => {
  const pick = (odd: boolean) =>
    Array.from({ length: 16 }, (_, i) => Math.floor(i / size) * 2 * size + (odd ? size : 0) + (i % size));
  if (!isMmx) return a.shuffle(b, pick(false)).op2(number, a.shuffle(b, pick(true)));
  const both = e.f.v128(join(a, b));
  return both.shuffle(both, pick(false)).op2(number, both.shuffle(both, pick(true)));
};
both("phaddw", "0F 38 01", horizontal(Simd.I16X8_ADD, 2));
both("phaddd", "0F 38 02", horizontal(Simd.I32X4_ADD, 4));
both("phaddsw", "0F 38 03", horizontal(Simd.I16X8_ADD_SAT_S, 2));
both("phsubw", "0F 38 05", horizontal(Simd.I16X8_SUB, 2));
both("phsubd", "0F 38 06", horizontal(Simd.I32X4_SUB, 4));
both("phsubsw", "0F 38 07", horizontal(Simd.I16X8_SUB_SAT_S, 2));
const sign = (negate: number, equal: number, greater: number): Combine => (e, a, b) => {
  const negative = e.f.v128(zero().op2(greater, b));
  return a.op1(negate).bitselect(a, negative).and(b.op2(equal, zero()).not());
};
both("psignb", "0F 38 08", sign(Simd.I8X16_NEG, Simd.I8X16_EQ, Simd.I8X16_GT_S));
both("psignw", "0F 38 09", sign(Simd.I16X8_NEG, Simd.I16X8_EQ, Simd.I16X8_GT_S));
both("psignd", "0F 38 0A", sign(Simd.I32X4_NEG, Simd.I32X4_EQ, Simd.I32X4_GT_S));
both("pabsb", "0F 38 1C", (_, _a, b) => b.op1(Simd.I8X16_ABS));
both("pabsw", "0F 38 1D", (_, _a, b) => b.op1(Simd.I16X8_ABS));
both("pabsd", "0F 38 1E", (_, _a, b) => b.op1(Simd.I32X4_ABS));

// SSE4.1 and SSE4.2.
const direct4: [string, string, number][] = [
  ["pcmpeqq", "29", Simd.I64X2_EQ],
  ["pcmpgtq", "37", Simd.I64X2_GT_S],
  ["pminsb", "38", Simd.I8X16_MIN_S],
  ["pminsd", "39", Simd.I32X4_MIN_S],
  ["pminuw", "3A", Simd.I16X8_MIN_U],
  ["pminud", "3B", Simd.I32X4_MIN_U],
  ["pmaxsb", "3C", Simd.I8X16_MAX_S],
  ["pmaxsd", "3D", Simd.I32X4_MAX_S],
  ["pmaxuw", "3E", Simd.I16X8_MAX_U],
  ["pmaxud", "3F", Simd.I32X4_MAX_U],
];
for (const [name, opcode, number] of direct4) xmm(name, `0F 38 ${opcode}`, (_, a, b) => a.op2(number, b));

/** PMOVSX and PMOVZX: from the low bytes of the source, read as no more than they are. */
const extend = (from: 8 | 16 | 32, to: 16 | 32 | 64, signed: boolean): Emit => (e) => {
  const { f } = e;
  const bits = 128 * from / to;
  const source = e.isMemory(1) ? f.v128(zero().withI64(0, e.loadUnsigned(e.address(1), bits))) : f.v128(e.readXmm(1));
  let value: V128 = source;
  const steps: Record<number, number> = signed
    ? { 8: Simd.I16X8_EXTEND_LOW_S, 16: Simd.I32X4_EXTEND_LOW_S, 32: Simd.I64X2_EXTEND_LOW_S }
    : { 8: Simd.I16X8_EXTEND_LOW_U, 16: Simd.I32X4_EXTEND_LOW_U, 32: Simd.I64X2_EXTEND_LOW_U };
  for (let width: number = from; width < to; width *= 2) value = value.op1(steps[width]);
  e.writeXmm(0, value);
};
const extensions: [string, 8 | 16 | 32, 16 | 32 | 64, string][] = [
  ["0", 8, 16, "q"],
  ["1", 8, 32, "d"],
  ["2", 8, 64, "w"],
  ["3", 16, 32, "q"],
  ["4", 16, 64, "d"],
  ["5", 32, 64, "q"],
];
for (const [digit, from, to, letter] of extensions) {
  op(`pmovsx${from}_${to}`, `66 0F 38 2${digit} /r`, `Vx W${letter}`, extend(from, to, true), sse);
  op(`pmovzx${from}_${to}`, `66 0F 38 3${digit} /r`, `Vx W${letter}`, extend(from, to, false), sse);
}
op("ptest", "66 0F 38 17 /r", "Vx Wx", (e) => {
  const { f } = e;
  const b = e.readVector(1);
  const a = f.v128(e.readXmm(0));
  const nonzero = a.and(b).test(Simd.ANY_TRUE);
  const outside = b.andnot(a).test(Simd.ANY_TRUE);
  e.flagsExplicit(f.i32(nonzero.eqz().shl(6).or(outside.eqz())));
}, sse);
op("phminposuw", "66 0F 38 41 /r", "Vx Wx", (e) => {
  const { f } = e;
  const v = e.readVector(1);
  // The value above the index: the smallest of the sums is the first of the smallest.
  const least = f.i32(v.i16u(0).shl(3));
  const next = f.i32();
  for (let lane = 1; lane < 8; lane++) {
    f.set(next, v.i16u(lane).shl(3).or(lane));
    f.set(least, select(next.ltU(least), next, least as typeof next));
  }
  e.writeXmm(0, zero().withI64(0, least.shrU(3).or(least.and(7).shl(16)).i64u()));
}, sse);

// Shifts by a count in a register or memory, or an immediate; counts beyond the width empty the lanes.
const shift = (number: number, width: 16 | 32 | 64, arithmetic: boolean) => (a: V128, count: I64): V128 => {
  if (arithmetic) return a.shift(number, select(count.gtU(width - 1), i64(width - 1), count).i32());
  return a.shift(number, count.i32()).and(splat(select(count.gtU(width - 1), i64(0), i64(-1)), 64));
};
const shifts: [string, string, string, number, 16 | 32 | 64, number][] = [
  ["psrlw", "D1", "71 /2", Simd.I16X8_SHR_U, 16, 0],
  ["psraw", "E1", "71 /4", Simd.I16X8_SHR_S, 16, 1],
  ["psllw", "F1", "71 /6", Simd.I16X8_SHL, 16, 0],
  ["psrld", "D2", "72 /2", Simd.I32X4_SHR_U, 32, 0],
  ["psrad", "E2", "72 /4", Simd.I32X4_SHR_S, 32, 1],
  ["pslld", "F2", "72 /6", Simd.I32X4_SHL, 32, 0],
  ["psrlq", "D3", "73 /2", Simd.I64X2_SHR_U, 64, 0],
  ["psllq", "F3", "73 /6", Simd.I64X2_SHL, 64, 0],
];
for (const [name, opcode, immediateOpcode, number, width, arithmetic] of shifts) {
  const apply = shift(number, width, arithmetic === 1);
  op(`${name}_mmx`, `NP 0F ${opcode} /r`, "Pq Qq", (e) => {
    checkPending(e);
    const count = readMmx(e, 1);
    const a = readMmxVector(e, 0);
    enterMmx(e);
    writeMmx(e, 0, apply(a, count).i64(0));
  }, mmx);
  op(name, `66 0F ${opcode} /r`, "Vx Wx", (e) => {
    const count = e.f.i64(e.readVector(1).i64(0));
    e.writeXmm(0, apply(e.readXmm(0), count));
  }, sse);
  op(`${name}_mmx_immediate`, `NP 0F ${immediateOpcode} mod3`, "Nq Ib", (e) => {
    checkPending(e);
    enterMmx(e);
    const count = e.f.i64(e.immediate(1).and(0xff));
    writeMmx(e, 0, apply(readMmxVector(e, 0), count).i64(0));
  }, mmx);
  op(`${name}_immediate`, `66 0F ${immediateOpcode} mod3`, "Ux Ib", (e) => {
    const constant = e.constant(1);
    if (constant !== null) {
      const count = constant & 0xff;
      if (count < width) e.writeXmm(0, e.readXmm(0).shift(number, i32(count)));
      else e.writeXmm(0, arithmetic ? e.readXmm(0).shift(number, i32(width - 1)) : zero());
      return;
    }
    e.writeXmm(0, apply(e.readXmm(0), e.f.i64(e.immediate(1).and(0xff))));
  }, sse);
}
