/** SSE and SSE2 floating point: arithmetic, comparison, rounding; SSE3 and SSE4.1's additions. */
import type { Emitter } from "../emitter.ts";
import { State } from "../layout.ts";
import {
  beginOperation,
  commit,
  dotProduct,
  DOUBLE,
  flagCompare,
  FloatOp,
  type Format,
  isDenormal,
  packedCompare,
  packedOperation,
  PLAIN_BIT,
  roundLane,
  scalarCompare,
  scalarOperation,
  SINGLE,
} from "../sse/float_functions.ts";
import { zero } from "../sse/lanes.ts";
import { Simd } from "../sse/simd.ts";
import type { Local } from "../wasm/function.ts";
import { F32, F64, type I32, i32, type I64, i64, select, splat, type V128, v128 } from "../wasm/values.ts";
import { type Emit, op } from "./table.ts";

const sse = { unit: "sse" } as const;

/** Smallest normal number as bits. */
const least = (format: Format) => 1n << BigInt(format.fraction);

/** Zero, normal or infinite; not denormal, not NaN. */
function isPlain(format: Format, v: I64): I32 {
  if (format === DOUBLE) {
    // Shifted by the sign: zero wraps round to the top with the ordinary ones once 1 is subtracted.
    return v.shl(1).sub(1).geU((least(format) << 1n) - 1n).and(v.shl(1).leU(format.top << 1n));
  }
  const bits = v.i32().shl(1);
  return bits.sub(1).geU(Number((least(format) << 1n) - 1n)).and(bits.leU(Number(format.top << 1n) | 0));
}

/** What {@link F32} and {@link F64} have in common. */
interface Scalar {
  add(o: Scalar): Scalar;
  sub(o: Scalar): Scalar;
  mul(o: Scalar): Scalar;
  div(o: Scalar): Scalar;
  sqrt(): Scalar;
  eq(o: Scalar): I32;
  lt(o: Scalar): I32;
  gt(o: Scalar): I32;
}
type Plain = (a: Scalar, b: Scalar) => Scalar;

const readBits = (e: Emitter, index: number, format: Format): Local<I64> =>
  format === DOUBLE ? e.readLow64(index) : e.f.i64(e.readLow32(index).i64u());
const number = (e: Emitter, format: Format, v: I64): Scalar =>
  (format === DOUBLE ? e.f.f64(v.bitsF64()) : e.f.f32(v.i32().bitsF32())) as unknown as Scalar;
const writeLow = (e: Emitter, format: Format, value: I64) =>
  e.writeXmm(
    0,
    format === DOUBLE ? e.readXmm(0).withI64(0, value) : e.readXmm(0).withI32(0, value.i32()),
  );
const lowBits = (e: Emitter, index: number, format: Format): Local<I64> =>
  e.f.i64(format === DOUBLE ? e.readXmm(index).i64(0) : e.readXmm(index).i32(0).i64u());

/**
 * A number's exponent is of the middle half of the range where bit {@link PLAIN_BIT} of this is set: it is not zero, not
 * denormal, not infinite, not NaN, and neither near to one.
 */
function middle(format: Format, bits: I64): I32 {
  return (format === DOUBLE ? bits.shrU(32) : bits).i32().add(1 << PLAIN_BIT - 1);
}

/** An operand as a number and as its bits, of which a general register is needed only where they are looked at. */
function operand(e: Emitter, index: number, format: Format): { bits: I64; value: Scalar } {
  const { f } = e;
  if (e.isMemory(index)) {
    const bits = readBits(e, index, format);
    return { bits, value: number(e, format, bits) };
  }
  // From the vector: by way of a general register it would be late for the operation by several cycles.
  const vector = f.v128(e.readXmm(index));
  const value = format === DOUBLE ? f.f64(vector.f64(0)) : f.f32(vector.f32(0));
  const bits = format === DOUBLE ? vector.i64(0) : vector.i32(0).i64u();
  return { bits, value: value as unknown as Scalar };
}

/**
 * The plain operation is right where MXCSR asks for no more, the result's exponent is of the middle half and no operand
 * is denormal: {@link middle} of those that may be, all in one number.
 */
const scalar = (format: Format, operation: number, plain: Plain): Emit => (e) => {
  const { f } = e;
  const unary = operation === FloatOp.SQRT;
  const b = operand(e, 1, format);
  const a = unary ? b : operand(e, 0, format);
  const result = plain(a.value, b.value) as unknown as F64 | F32;
  const value = result instanceof F64 ? f.f64(result) : f.f32(result);
  const r = f.i64(value instanceof F64 ? value.bits() : value.bits().i64u());
  let sure = f.s32(State.SSE_PLAIN).and(middle(format, r));
  if (!e.isNormal(1, format.bits)) sure = sure.and(middle(format, b.bits));
  if (!unary && !e.isNormal(0, format.bits)) sure = sure.and(middle(format, a.bits));
  f.if(sure.eqz(), () => {
    e.checked(r, f.call64(scalarOperation[format.bits], operation, a.bits, b.bits));
    e.leaveIfDenormal([a.bits, b.bits, r].map((v) => isDenormal(format, v)).reduce((x, y) => x.or(y)));
    f.set<F64 | F32>(value, format === DOUBLE ? r.bitsF64() : r.i32().bitsF32());
  });
  e.writeXmm(0, value instanceof F64 ? e.readXmm(0).withF64(0, value) : e.readXmm(0).withF32(0, value));
  e.noteNormal(0, format.bits);
  e.noteNormal(1, format.bits);
};

const simd = (format: Format) =>
  format === DOUBLE
    ? { abs: Simd.F64X2_ABS, ge: Simd.F64X2_GE, eq: Simd.F64X2_EQ, lt: Simd.F64X2_LT }
    : { abs: Simd.F32X4_ABS, ge: Simd.F32X4_GE, eq: Simd.F32X4_EQ, lt: Simd.F32X4_LT };
const constant = (format: Format, value: bigint) =>
  format === DOUBLE ? v128(value, value) : v128(value << 32n | value, value << 32n | value);
const allTrue = (v: V128) => v.test(Simd.I8X16_ALL_TRUE);

/** Mask of the lanes that are zero, normal or infinite. */
function plainLanes(format: Format, v: V128): V128 {
  const { abs, ge, eq } = simd(format);
  return v.op1(abs).op2(ge, constant(format, least(format))).or(v.op2(eq, zero()));
}

const packed = (
  format: Format,
  operation: number,
  plain: (a: V128, b: V128) => V128,
  arrange?: (a: V128, b: V128) => [V128, V128],
): Emit =>
(e) => {
  const { f } = e;
  let b = e.readVector(1);
  let a = operation === FloatOp.SQRT ? b : f.v128(e.readXmm(0));
  if (arrange) {
    const [x, y] = arrange(a, b);
    a = f.v128(x);
    b = f.v128(y);
  }
  const r = f.v128(plain(a, b));
  // A number of the middle half of the exponents (see middle) has two highest bits of it that are not alike. Without a
  // constant: V8 makes a vector's anew wherever it is used.
  const [shift, bitmask] = format === DOUBLE
    ? [Simd.I64X2_SHL, Simd.I64X2_BITMASK]
    : [Simd.I32X4_SHL, Simd.I32X4_BITMASK];
  const unlike = (operation === FloatOp.SQRT ? [b, r] : [a, b, r]).map((v) => v.xor(v.shift(shift, i32(1))))
    .reduce((x, y) => x.and(y)).shift(shift, i32(1)).test(bitmask);
  const sure = unlike.add(1).shl(PLAIN_BIT - 128 / format.bits).and(f.s32(State.SSE_PLAIN));
  f.if(sure.eqz(), () => {
    e.checked(r, f.callV128(packedOperation[format.bits], operation, a, b));
  });
  e.writeXmm(0, r);
};

const formats: [Format, string, string, "ps" | "pd", "ss" | "sd", string][] = [
  [SINGLE, "NP", "F3", "ps", "ss", "d"],
  [DOUBLE, "66", "F2", "pd", "sd", "q"],
];
for (const [format, packedPrefix, scalarPrefix, p, s, letter] of formats) {
  const double = format === DOUBLE;
  const arithmetic: [string, string, number, Plain, number][] = [
    ["add", "58", FloatOp.ADD, (a, b) => a.add(b), double ? Simd.F64X2_ADD : Simd.F32X4_ADD],
    ["sub", "5C", FloatOp.SUB, (a, b) => a.sub(b), double ? Simd.F64X2_SUB : Simd.F32X4_SUB],
    ["mul", "59", FloatOp.MUL, (a, b) => a.mul(b), double ? Simd.F64X2_MUL : Simd.F32X4_MUL],
    ["div", "5E", FloatOp.DIV, (a, b) => a.div(b), double ? Simd.F64X2_DIV : Simd.F32X4_DIV],
    ["sqrt", "51", FloatOp.SQRT, (_, b) => b.sqrt(), double ? Simd.F64X2_SQRT : Simd.F32X4_SQRT],
  ];
  for (const [name, opcode, operation, plain, vector] of arithmetic) {
    op(`${name}${s}`, `${scalarPrefix} 0F ${opcode} /r`, `Vx W${letter}`, scalar(format, operation, plain), sse);
    const plainVector = (a: V128, b: V128) => operation === FloatOp.SQRT ? b.op1(vector) : a.op2(vector, b);
    op(`${name}${p}`, `${packedPrefix} 0F ${opcode} /r`, "Vx Wx", packed(format, operation, plainVector), sse);
  }

  // Minimum and maximum: the second operand when neither is less (SDM vol. 2, MINSD), which is Wasm's pmin reversed.
  for (const [name, opcode, operation] of [["min", "5D", FloatOp.MIN], ["max", "5F", FloatOp.MAX]] as const) {
    op(`${name}${s}`, `${scalarPrefix} 0F ${opcode} /r`, `Vx W${letter}`, (e) => {
      const { f } = e;
      const b = readBits(e, 1, format);
      const a = lowBits(e, 0, format);
      const x = number(e, format, a), y = number(e, format, b);
      const r = f.i64(select(operation === FloatOp.MIN ? x.lt(y) : x.gt(y), a as I64, b as I64));
      f.if(isPlain(format, a).and(isPlain(format, b)).eqz(), () => {
        e.checked(r, f.call64(scalarOperation[format.bits], operation, a, b));
      });
      writeLow(e, format, r);
    }, sse);
    op(`${name}${p}`, `${packedPrefix} 0F ${opcode} /r`, "Vx Wx", (e) => {
      const { f } = e;
      const b = e.readVector(1);
      const a = f.v128(e.readXmm(0));
      const number = double
        ? (operation === FloatOp.MIN ? Simd.F64X2_PMIN : Simd.F64X2_PMAX)
        : (operation === FloatOp.MIN ? Simd.F32X4_PMIN : Simd.F32X4_PMAX);
      const r = f.v128(b.op2(number, a));
      f.if(allTrue(plainLanes(format, a).and(plainLanes(format, b))).eqz(), () => {
        e.checked(r, f.callV128(packedOperation[format.bits], operation, a, b));
      });
      e.writeXmm(0, r);
    }, sse);
  }

  // Comparison to masks.
  op(`cmp${p}`, `${packedPrefix} 0F C2 /r`, "Vx Wx Ib", (e) => {
    const { f } = e;
    const b = e.readVector(1);
    const a = f.v128(e.readXmm(0));
    const predicate = f.i32(e.immediate(2).i32().and(7));
    const wide = (condition: I32) => splat(i32(0).sub(condition), 32);
    const { eq, lt } = simd(format);
    const equal = a.op2(eq, b).and(wide(predicate.and(1).eqz()));
    const lower = a.op2(lt, b).and(wide(predicate.add(1).and(2).ne(0)));
    const r = f.v128(equal.or(lower).xor(wide(predicate.shrU(2))));
    f.if(allTrue(plainLanes(format, a).and(plainLanes(format, b))).eqz(), () => {
      e.checked(r, f.callV128(packedCompare[format.bits], predicate, a, b));
    });
    e.writeXmm(0, r);
  }, sse);
  op(`cmp${s}`, `${scalarPrefix} 0F C2 /r`, `Vx W${letter} Ib`, (e) => {
    const { f } = e;
    const b = readBits(e, 1, format);
    const a = lowBits(e, 0, format);
    const predicate = f.i32(e.immediate(2).i32().and(7));
    const x = number(e, format, a), y = number(e, format, b);
    const equal = x.eq(y).and(predicate.and(1).eqz());
    const lower = x.lt(y).and(predicate.add(1).and(2).ne(0));
    const r = f.i32(equal.or(lower).xor(predicate.shrU(2)));
    f.if(isPlain(format, a).and(isPlain(format, b)).eqz(), () => {
      e.checked(r, f.call32(scalarCompare[format.bits], predicate, a, b));
    });
    writeLow(e, format, i64(0).sub(r.i64u()));
  }, sse);

  // Comparison to flags.
  for (const [name, opcode, signals] of [["ucomi", "2E", 0], ["comi", "2F", 1]] as const) {
    op(`${name}${s}`, `${packedPrefix} 0F ${opcode} /r`, `Vx W${letter}`, (e) => {
      const { f } = e;
      const b = readBits(e, 1, format);
      const a = lowBits(e, 0, format);
      const x = number(e, format, a), y = number(e, format, b);
      const r = f.i32(x.eq(y).shl(6).or(x.lt(y)));
      f.if(isPlain(format, a).and(isPlain(format, b)).eqz(), () => {
        e.checked(r, f.call32(flagCompare[format.bits], signals, a, b));
      });
      e.flagsExplicit(r);
    }, sse);
  }

  // SSE4.1: rounding to integers and dot products.
  const digit = double ? "9" : "8";
  const scalarDigit = double ? "B" : "A";
  op(`round${s}`, `66 0F 3A 0${scalarDigit} /r`, `Vx W${letter} Ib`, (e) => {
    const { f } = e;
    const value = readBits(e, 1, format);
    const immediate = e.immediate(2).i32();
    beginOperation(f);
    const r = f.i64(f.call64(roundLane[format.bits], value, immediate));
    f.do(commit);
    e.faultIf(f.s32(State.FAULT));
    writeLow(e, format, r);
  }, sse);
  op(`round${p}`, `66 0F 3A 0${digit} /r`, "Vx Wx Ib", (e) => {
    const { f } = e;
    const value = e.readVector(1);
    const immediate = f.i32(e.immediate(2).i32());
    beginOperation(f);
    const r = f.v128(zero());
    for (let n = 0; n < 128 / format.bits; n++) {
      const lane = double ? value.i64(n) : value.i32(n).i64u();
      const rounded = f.call64(roundLane[format.bits], lane, immediate);
      f.set(r, double ? r.withI64(n, rounded) : r.withI32(n, rounded.i32()));
    }
    f.do(commit);
    e.faultIf(f.s32(State.FAULT));
    e.writeXmm(0, r);
  }, sse);
  op(`dp${p}`, `66 0F 3A 4${double ? 1 : 0} /r`, "Vx Wx Ib", (e) => {
    const { f } = e;
    const b = e.readVector(1);
    const r = f.v128(f.callV128(dotProduct[format.bits], e.readXmm(0), b, e.immediate(2).i32()));
    e.faultIf(f.s32(State.FAULT));
    e.writeXmm(0, r);
  }, sse);
}

// SSE3: sums along a vector, and sums and differences in turn.
const pairs32 = (odd: boolean) => [0, 2, 4, 6].flatMap((n) => [0, 1, 2, 3].map((b) => (n + (odd ? 1 : 0)) * 4 + b));
const pairs64 = (odd: boolean) =>
  [0, 2].flatMap((n) => [0, 1, 2, 3, 4, 5, 6, 7].map((b) => (n + (odd ? 1 : 0)) * 8 + b));
const along = (pairs: (odd: boolean) => number[]) => (a: V128, b: V128): [V128, V128] => [
  a.shuffle(b, pairs(false)),
  a.shuffle(b, pairs(true)),
];
op(
  "haddps",
  "F2 0F 7C /r",
  "Vx Wx",
  packed(SINGLE, FloatOp.ADD, (a, b) => a.op2(Simd.F32X4_ADD, b), along(pairs32)),
  sse,
);
op(
  "haddpd",
  "66 0F 7C /r",
  "Vx Wx",
  packed(DOUBLE, FloatOp.ADD, (a, b) => a.op2(Simd.F64X2_ADD, b), along(pairs64)),
  sse,
);
op(
  "hsubps",
  "F2 0F 7D /r",
  "Vx Wx",
  packed(SINGLE, FloatOp.SUB, (a, b) => a.op2(Simd.F32X4_SUB, b), along(pairs32)),
  sse,
);
op(
  "hsubpd",
  "66 0F 7D /r",
  "Vx Wx",
  packed(DOUBLE, FloatOp.SUB, (a, b) => a.op2(Simd.F64X2_SUB, b), along(pairs64)),
  sse,
);
op(
  "addsubps",
  "F2 0F D0 /r",
  "Vx Wx",
  packed(SINGLE, FloatOp.ADDSUB, (a, b) => {
    return a.op2(Simd.F32X4_ADD, b.xor(v128(0x8000_0000n, 0x8000_0000n)));
  }),
  sse,
);
op(
  "addsubpd",
  "66 0F D0 /r",
  "Vx Wx",
  packed(DOUBLE, FloatOp.ADDSUB, (a, b) => {
    return a.op2(Simd.F64X2_ADD, b.xor(v128(0x8000_0000_0000_0000n, 0n)));
  }),
  sse,
);

// Approximations: 12 bits are promised, single precision is given. Denormals count as zeros, no exceptions.
const approximate = (e: Emitter, value: I32, root: boolean): Local<I32> => {
  const { f } = e;
  const bits = f.i32(value);
  const magnitude = bits.and(0x7fff_ffff);
  f.if(magnitude.ltU(0x0080_0000), () => f.set(bits, bits.and(0x8000_0000 | 0)));
  const r = f.i32();
  f.if(magnitude.gtU(0x7f80_0000), () => f.set(r, bits.or(0x0040_0000)), () => {
    const x = f.f32(bits.bitsF32());
    const one = new F32([0x43, 0, 0, 0x80, 0x3f]);
    if (root) {
      f.set(r, one.div(x.sqrt()).bits());
      f.if(bits.ltS(0), () => {
        f.set(r, select(bits.eq(0x8000_0000 | 0), i32(0xff80_0000 | 0), i32(0xffc0_0000 | 0)));
      });
    } else {
      f.set(r, one.div(x).bits());
      f.if(r.and(0x7f80_0000).eqz(), () => f.set(r, r.and(0x8000_0000 | 0)));
    }
  });
  return r;
};
for (const [name, opcode, root] of [["rsqrt", "52", true], ["rcp", "53", false]] as const) {
  op(`${name}ss`, `F3 0F ${opcode} /r`, "Vx Wd", (e) => {
    const r = approximate(e, e.readLow32(1), root);
    e.writeXmm(0, e.readXmm(0).withI32(0, r));
  }, sse);
  op(`${name}ps`, `NP 0F ${opcode} /r`, "Vx Wx", (e) => {
    const value = e.readVector(1);
    const r = e.f.v128(zero());
    for (let n = 0; n < 4; n++) e.f.set(r, r.withI32(n, approximate(e, value.i32(n), root)));
    e.writeXmm(0, r);
  }, sse);
}
