/**
 * SSE floating point off the fast path, as Wasm functions: exact results and MXCSR flags in every rounding mode, with
 * DAZ, FTZ and unmasked exceptions (SDM vol. 1, chapter 11 and appendix E).
 *
 * The fast path is the plain Wasm operation. It is right when all exceptions are masked, rounding is to nearest, DAZ
 * and FTZ are off and the precision flag is up already ({@link State.SSE_PLAIN}), no operand is denormal and the result
 * is well within the range. Everything else comes here: operands go to 80 bits, the operation is done there with
 * truncation, a lost remainder sets the lowest bit ("round to odd", of 64 where 53 are kept), and one rounding to the
 * format follows.
 */
import { type CpuFunc, declare, defineCpuFunction, type Target } from "../cpu_function.ts";
import { raise, Vector } from "../emitter.ts";
import { CR4 } from "../cpu/mmu.ts";
import { State } from "../layout.ts";
import type { Local } from "../wasm/function.ts";
import type { Module } from "../wasm/module.ts";
import { type F32, type F64, type I32, i32, type I64, i64, select, Type, type V128 } from "../wasm/values.ts";
import {
  float80Add,
  float80Divide,
  float80FromDouble,
  float80FromInteger,
  float80FromSingle,
  float80Multiply,
  float80RoundToInteger,
  float80SquareRoot,
  float80ToDouble,
  float80ToInteger,
  float80ToSingle,
  OUT_FLAGS,
  OUT_SIGN_EXPONENT,
  OUT_SIGNIFICAND,
} from "../x87/float80.ts";
import { zero } from "./lanes.ts";

/** Bits of MXCSR (SDM vol. 1, figure 10-3). */
export const Mxcsr = {
  IE: 1,
  DE: 2,
  ZE: 4,
  OE: 8,
  UE: 0x10,
  PE: 0x20,
  DAZ: 0x40,
  MASKS: 0x1f80,
  OM: 0x400,
  UM: 0x800,
  PM: 0x1000,
  RC: 0x6000,
  FTZ: 0x8000,
} as const;
const FLAGS = 0x3f;

/** What MXCSR is, apart from the flags IE DE ZE OE UE, when plain operations are right. */
const FAST_MXCSR = Mxcsr.MASKS | Mxcsr.PE;
const FAST_MXCSR_MASK = 0xffe0;
/** Place of the bit in {@link State.SSE_PLAIN}. */
export const PLAIN_BIT = 30;

/** Changes MXCSR. */
export function setMxcsr(f: CpuFunc, value: I32): void {
  const mxcsr = f.i32(value);
  f.set32(State.MXCSR, mxcsr);
  f.set32(State.SSE_PLAIN, mxcsr.and(FAST_MXCSR_MASK).eq(FAST_MXCSR).shl(PLAIN_BIT));
}

/** {@link setMxcsr}, from outside of the guest. */
export function loadMxcsr(state: DataView, value: number): void {
  state.setUint32(State.MXCSR, value, true);
  state.setUint32(State.SSE_PLAIN, (value & FAST_MXCSR_MASK) === FAST_MXCSR ? 1 << PLAIN_BIT : 0, true);
}

/** Numbers of operations. */
export const FloatOp = { ADD: 0, SUB: 1, MUL: 2, DIV: 3, SQRT: 4, MIN: 5, MAX: 6, ADDSUB: 7 } as const;

/** Bits of a format. */
export interface Format {
  bits: 32 | 64;
  fraction: number;
  /** Exponent field of infinities. */
  top: bigint;
  sign: bigint;
  quiet: bigint;
}
export const DOUBLE: Format = {
  bits: 64,
  fraction: 52,
  top: 0x7ffn << 52n,
  sign: 1n << 63n,
  quiet: 1n << 51n,
};
export const SINGLE: Format = { bits: 32, fraction: 23, top: 0xffn << 23n, sign: 1n << 31n, quiet: 1n << 22n };
const magnitude = (format: Format) => format.sign - 1n;

const two = [Type.i32, Type.i64, Type.i64] as const;
const lane: Record<32 | 64, ReturnType<typeof declare>> = {
  32: declare("sse_lane32", two, Type.i64),
  64: declare("sse_lane64", two, Type.i64),
};
const slowLane: Record<32 | 64, ReturnType<typeof declare>> = {
  32: declare("sse_slow_lane32", two, Type.i64),
  64: declare("sse_slow_lane64", two, Type.i64),
};
/** (operation, a, b) as bits -> the result's bits; may set FAULT. */
export const scalarOperation: Record<32 | 64, ReturnType<typeof declare>> = {
  32: declare("sse_scalar32", two, Type.i64),
  64: declare("sse_scalar64", two, Type.i64),
};
const vectors = [Type.i32, Type.v128, Type.v128] as const;
/** (operation, a, b) -> the result; may set FAULT. */
export const packedOperation: Record<32 | 64, ReturnType<typeof declare>> = {
  32: declare("sse_packed32", vectors, Type.v128),
  64: declare("sse_packed64", vectors, Type.v128),
};
const compareLane: Record<32 | 64, ReturnType<typeof declare>> = {
  32: declare("sse_compare_lane32", two, Type.i32),
  64: declare("sse_compare_lane64", two, Type.i32),
};
/** (predicate, a, b) -> masks; may set FAULT. */
export const packedCompare: Record<32 | 64, ReturnType<typeof declare>> = {
  32: declare("sse_packed_compare32", vectors, Type.v128),
  64: declare("sse_packed_compare64", vectors, Type.v128),
};
/** (predicate, a, b) -> 0 or 1; may set FAULT. */
export const scalarCompare: Record<32 | 64, ReturnType<typeof declare>> = {
  32: declare("sse_scalar_compare32", two, Type.i32),
  64: declare("sse_scalar_compare64", two, Type.i32),
};
/** (1 when quiet NaNs are invalid too, a, b) -> CF PF ZF at their places; may set FAULT. */
export const flagCompare: Record<32 | 64, ReturnType<typeof declare>> = {
  32: declare("sse_flag_compare32", two, Type.i32),
  64: declare("sse_flag_compare64", two, Type.i32),
};
/** Begins an operation of several lanes. */
const begin = (f: CpuFunc) => f.set32(State.SSE_FLAGS, 0);
/** Ends one: flags into MXCSR, #XM where they are unmasked. */
export const commit = declare("sse_commit", [], null);
/** (a, 1 when truncated, bits) -> an integer; gathers flags. */
export const toIntegerLane: Record<32 | 64, ReturnType<typeof declare>> = {
  32: declare("sse_to_integer_lane32", [Type.i64, Type.i32, Type.i32], Type.i64),
  64: declare("sse_to_integer_lane64", [Type.i64, Type.i32, Type.i32], Type.i64),
};
/** Integer -> bits of the format; gathers flags. */
export const fromIntegerLane: Record<32 | 64, ReturnType<typeof declare>> = {
  32: declare("sse_from_integer_lane32", [Type.i64], Type.i64),
  64: declare("sse_from_integer_lane64", [Type.i64], Type.i64),
};
/** Bits of the other format -> bits of this one; gathers flags. */
export const changeFormatLane: Record<32 | 64, ReturnType<typeof declare>> = {
  32: declare("sse_double_to_single_lane", [Type.i64], Type.i64),
  64: declare("sse_single_to_double_lane", [Type.i64], Type.i64),
};
/** (a, immediate of ROUNDxx) -> rounded; gathers flags. */
export const roundLane: Record<32 | 64, ReturnType<typeof declare>> = {
  32: declare("sse_round_lane32", [Type.i64, Type.i32], Type.i64),
  64: declare("sse_round_lane64", [Type.i64, Type.i32], Type.i64),
};
/** (a, b, immediate) -> dot product of DPPS and DPPD; may set FAULT. */
export const dotProduct: Record<32 | 64, ReturnType<typeof declare>> = {
  32: declare("sse_dot32", [Type.v128, Type.v128, Type.i32], Type.v128),
  64: declare("sse_dot64", [Type.v128, Type.v128, Type.i32], Type.v128),
};
/** The same as {@link lane}, for others. */
export const operationLane = lane;
export const beginOperation = begin;

interface Real<T> {
  add(o: T): T;
  sub(o: T): T;
  mul(o: T): T;
  div(o: T): T;
  sqrt(): T;
  ne(o: T): I32;
}

/** Control words for the 80-bit functions: all masked, 64 bits of precision, truncation. */
const TRUNCATE = 0xf7f;

const mxcsr = (f: CpuFunc) => f.s32(State.MXCSR);
/** A control word with MXCSR's rounding mode. */
const rounding = (f: CpuFunc) => mxcsr(f).and(Mxcsr.RC).shrU(3).or(0x37f);
const flag = (f: CpuFunc, flags: I32 | number) => f.set32(State.SSE_FLAGS, f.s32(State.SSE_FLAGS).or(flags));
const out = (f: CpuFunc) => f.place(State.FPU_OUT);
const outSig = (f: CpuFunc) => f.s64(State.FPU_OUT + OUT_SIGNIFICAND);
const outExp = (f: CpuFunc) => f.s32(State.FPU_OUT + OUT_SIGN_EXPONENT);
const outFlags = (f: CpuFunc) => f.s32(State.FPU_OUT + OUT_FLAGS);
const clearOutFlags = (f: CpuFunc) => f.set32(State.FPU_OUT + OUT_FLAGS, 0);

const absolute = (format: Format, v: I64) => v.and(magnitude(format));
const isNan = (format: Format, v: I64) => absolute(format, v).gtU(format.top);
const isSignalling = (format: Format, v: I64) => isNan(format, v).and(v.and(format.quiet).eqz());
/** Whether the bits of a number are those of a denormal one. */
export const isDenormal = (format: Format, v: I64) =>
  absolute(format, v).sub(1).ltU((1n << BigInt(format.fraction)) - 1n);
/** Zero or normal and finite. */
const isOrdinary = (format: Format, v: I64) => {
  const least = 1n << BigInt(format.fraction);
  return absolute(format, v).eqz().or(absolute(format, v).sub(least).ltU(format.top - least));
};

/** Denormal operands become zeros under DAZ. */
function flushOperand(f: CpuFunc, format: Format, v: Local<I64>): void {
  f.if(mxcsr(f).has(Mxcsr.DAZ).and(isDenormal(format, v)), () => f.set(v, v.and(format.sign)));
}

/** Widens a number to 80 bits; gives significand and sign-exponent. */
function widen(f: CpuFunc, format: Format, v: I64): { sig: Local<I64>; exp: Local<I32> } {
  f.do(format.bits === 64 ? float80FromDouble : float80FromSingle, out(f), v);
  return { sig: f.i64(outSig(f)), exp: f.i32(outExp(f)) };
}

/** Rounds what stands at `out`, whose inexactness has been made odd, to the format and gathers all flags. */
function narrow(f: CpuFunc, format: Format): Local<I64> {
  const inexact = f.i32(outFlags(f).has(Mxcsr.PE));
  const sig = f.i64(outSig(f).or(inexact.i64u()));
  f.set32(State.FPU_OUT + OUT_FLAGS, outFlags(f).and(FLAGS & ~Mxcsr.PE));
  const name = format.bits === 64 ? float80ToDouble : float80ToSingle;
  const r = f.i64(f.call64(name, out(f), sig, outExp(f), rounding(f)));
  // Where overflow or underflow is unmasked, the result is that of an unbounded exponent: inexact when the significand
  // is too long.
  const tooLong = () => sig.shl(format.fraction + 1).ne(0).shl(5);
  // Tiny, whether exact or not: UE says the inexact ones.
  const exactTiny = isDenormal(format, r);
  f.if(outFlags(f).has(Mxcsr.UE).or(exactTiny), () => {
    f.if(mxcsr(f).has(Mxcsr.UM), () => {
      f.if(mxcsr(f).has(Mxcsr.FTZ), () => {
        f.set(r, r.and(format.sign));
        flag(f, Mxcsr.UE | Mxcsr.PE);
      });
    }, () => {
      f.set32(State.FPU_OUT + OUT_FLAGS, outFlags(f).and(~Mxcsr.PE).or(tooLong()));
      flag(f, Mxcsr.UE);
    });
  });
  f.if(outFlags(f).has(Mxcsr.OE).and(mxcsr(f).has(Mxcsr.OM).eqz()), () => {
    f.set32(State.FPU_OUT + OUT_FLAGS, outFlags(f).and(~Mxcsr.PE).or(tooLong()));
  });
  flag(f, outFlags(f).and(FLAGS));
  return r;
}

/** NaN operands: the first one, quieted; IE for signalling ones. Returns from the function. */
function propagate(f: CpuFunc, format: Format, a: I64, b: I64): void {
  f.if(isNan(format, a).or(isNan(format, b)), () => {
    f.if(isSignalling(format, a).or(isSignalling(format, b)), () => flag(f, Mxcsr.IE));
    f.return(select(isNan(format, a), a, b).or(format.quiet));
  });
}

/** a < b of numbers that are not NaN, by their bits. */
function less(f: CpuFunc, format: Format, a: I64, b: I64): I32 {
  const ordered = (v: I64) => {
    // Two's complement of the magnitude, so that integers order as the numbers do.
    const wide = format.bits === 64 ? v : v.sx(32);
    const m = absolute(format, v);
    return f.i64(select(wide.ltS(0), m.neg(), m));
  };
  return ordered(a).ltS(ordered(b));
}

export function defineFloatFunctions(module: Module, target: Target): void {
  const define = (name: ReturnType<typeof declare>, body: (f: CpuFunc) => void) =>
    defineCpuFunction(module, target, name, body);

  define(commit, (f) => {
    const flags = f.i32(f.s32(State.SSE_FLAGS));
    const control = f.i32(mxcsr(f));
    const unmasked = f.i32(flags.and(control.shrU(7).xor(-1)).and(FLAGS));
    f.if(unmasked.eqz(), () => {
      setMxcsr(f, control.or(flags));
      f.return();
    });
    // IE, DE and ZE are known before anything is computed: the others are not even looked for then.
    const before = Mxcsr.IE | Mxcsr.DE | Mxcsr.ZE;
    setMxcsr(f, control.or(select(unmasked.and(before), flags.and(before), flags as I32)));
    f.do(
      raise,
      select(f.s64(State.CR4).i32().has(CR4.OSXMMEXCPT), i32(Vector.XM), i32(Vector.UD)),
      i32(-1),
    );
  });

  for (const format of [DOUBLE, SINGLE]) defineFormat(define, format);

  for (const [bits, from] of [[32, DOUBLE], [64, SINGLE]] as const) {
    const to = bits === 64 ? DOUBLE : SINGLE;
    define(changeFormatLane[bits], (f) => {
      const a = f.i64(f.parameter64(0));
      flushOperand(f, from, a);
      const shift = DOUBLE.fraction - SINGLE.fraction;
      f.if(isNan(from, a), () => {
        f.if(isSignalling(from, a), () => flag(f, Mxcsr.IE));
        if (to === DOUBLE) {
          f.return(
            a.shrU(31).shl(63).or(a.and(0x7f_ffff).shl(shift)).or(DOUBLE.top | DOUBLE.quiet),
          );
        } else {
          f.return(
            a.shrU(63).shl(31).or(a.and((1n << 52n) - 1n).shrU(shift)).or(SINGLE.top | SINGLE.quiet),
          );
        }
      });
      clearOutFlags(f);
      widen(f, from, a);
      f.return(narrow(f, to));
    });
  }
}

function defineFormat(
  define: (name: ReturnType<typeof declare>, body: (f: CpuFunc) => void) => void,
  format: Format,
): void {
  const { bits } = format;

  define(slowLane[bits], (f) => {
    const op = f.parameter32(0);
    const a = f.i64(f.parameter64(1));
    const b = f.i64(f.parameter64(2));
    flushOperand(f, format, a);
    flushOperand(f, format, b);
    f.if(op.geU(FloatOp.MIN), () => {
      f.if(isNan(format, a).or(isNan(format, b)), () => {
        flag(f, Mxcsr.IE);
        f.return(b);
      });
      f.if(isDenormal(format, a).or(isDenormal(format, b)), () => flag(f, Mxcsr.DE));
      const lower = f.i32(less(f, format, a, b));
      const upper = f.i32(less(f, format, b, a));
      f.return(select(select(op.eq(FloatOp.MIN), lower, upper as I32), a as I64, b as I64));
    });
    f.if(op.eq(FloatOp.SQRT), () => f.set(a, b));
    propagate(f, format, a, b);
    clearOutFlags(f);
    const x = widen(f, format, a);
    const y = widen(f, format, b);
    f.if(op.eq(FloatOp.SUB), () => f.set(y.exp, y.exp.xor(0x8000)));
    f.switch(op, [
      () => f.do(float80Add, out(f), x.sig, x.exp, y.sig, y.exp, TRUNCATE),
      () => f.do(float80Add, out(f), x.sig, x.exp, y.sig, y.exp, TRUNCATE),
      () => f.do(float80Multiply, out(f), x.sig, x.exp, y.sig, y.exp, TRUNCATE),
      () => f.do(float80Divide, out(f), x.sig, x.exp, y.sig, y.exp, TRUNCATE),
    ], () => f.do(float80SquareRoot, out(f), y.sig, y.exp, TRUNCATE));
    f.if(op.leU(FloatOp.SUB), () => {
      // x - x is -0 when rounding down.
      f.if(outSig(f).eqz().and(x.exp.xor(y.exp).has(0x8000)), () => {
        f.set32(
          State.FPU_OUT + OUT_SIGN_EXPONENT,
          select(mxcsr(f).and(Mxcsr.RC).eq(0x2000), i32(0x8000), i32(0)),
        );
      });
    });
    // A division by zero hides a denormal dividend.
    f.if(outFlags(f).has(Mxcsr.ZE), () => f.set32(State.FPU_OUT + OUT_FLAGS, Mxcsr.ZE));
    // An invalid operation is told alone.
    f.if(outFlags(f).has(Mxcsr.IE), () => {
      flag(f, Mxcsr.IE);
      f.return(i64(format.top | format.sign | format.quiet));
    });
    f.return(narrow(f, format));
  });

  define(lane[bits], (f) => {
    const op = f.parameter32(0);
    const a = f.parameter64(1);
    const b = f.parameter64(2);
    const slow = () => f.return(f.call64(slowLane[bits], op, a, b));
    f.if(mxcsr(f).and(0xffc0).ne(Mxcsr.MASKS).or(op.geU(FloatOp.MIN)), slow);
    f.if(isOrdinary(format, a).and(isOrdinary(format, b)).eqz(), slow);
    // The ends of the exponents' range are left to the slow way, so that nothing below overflows or is denormal.
    const least = 3n << BigInt(format.fraction);
    const inRange = (v: I64) => absolute(format, v).sub(least).ltU(format.top - 2n * least);
    const number = (v: I64): F64 => (bits === 64 ? v.bitsF64() : v.i32().bitsF32()) as F64;
    const local = (v: F64): F64 => (bits === 64 ? f.f64(v) : f.f32(v as unknown as F32)) as F64;
    const bitsOf = (v: F64): I64 => bits === 64 ? f.i64(v.bits()) : f.i64((v as unknown as F32).bits().i64u());
    const x = local(number(a)) as F64 & Real<F64>;
    const y = local(number(b)) as F64 & Real<F64>;
    const sticky = f.i32(mxcsr(f).has(Mxcsr.PE));
    const give = (r: I64, inexact: I32) => {
      f.if(sticky.eqz(), () => f.if(inexact, () => flag(f, Mxcsr.PE)));
      f.return(r);
    };
    const sum = (subtract: boolean) => {
      const z = subtract ? local(y.neg()) : y;
      const r = local(x.add(z));
      const result = bitsOf(r);
      f.if(absolute(format, result).eqz(), () => f.return(result));
      const safe = inRange(result)
        .and(absolute(format, a).ltU(format.top - least))
        .and(absolute(format, b).ltU(format.top - least));
      f.if(safe.eqz(), slow);
      // Knuth's two-sum: what the rounded sum lacks.
      const part = local(r.sub(x));
      give(result, x.sub(r.sub(part)).add(z.sub(part)).ne(local(number(i64(0)))));
    };
    f.switch(op, [
      () => sum(false),
      () => sum(true),
      () => {
        const r = bitsOf(x.mul(y));
        f.if(absolute(format, a).eqz().or(absolute(format, b).eqz()), () => f.return(r));
        f.if(inRange(r).eqz(), slow);
        // Exact when the product of the odd parts of the significands fits.
        const odd = (v: I64) => {
          const s = f.i64(v.and((1n << BigInt(format.fraction)) - 1n).or(1n << BigInt(format.fraction)));
          return f.i64(s.shrU(s.ctz()));
        };
        const p = odd(a);
        const q = odd(b);
        const width = i64(128).sub(p.clz()).sub(q.clz());
        give(r, width.gtU(64).or(p.mul(q).shrU(format.fraction + 1).ne(0)));
      },
      () => {
        f.if(absolute(format, b).eqz(), slow);
        const r = bitsOf(x.div(y));
        f.if(absolute(format, a).eqz(), () => f.return(r));
        f.if(sticky.eqz().or(inRange(r).eqz()), slow);
        f.return(r);
      },
      () => {
        f.if(absolute(format, b).eqz(), () => f.return(b));
        f.if(b.and(format.sign).ne(0).or(sticky.eqz()), slow);
        f.return(bitsOf(y.sqrt()));
      },
    ], slow);
    f.return(i64(0));
  });

  define(scalarOperation[bits], (f) => {
    begin(f);
    const r = f.i64(f.call64(lane[bits], f.parameter32(0), f.parameter64(1), f.parameter64(2)));
    f.do(commit);
    f.return(r);
  });

  const lanes = 128 / bits;
  const get = (v: V128, n: number): I64 => (bits === 64 ? v.i64(n) : v.i32(n).i64u());
  const put = (v: V128, n: number, value: I64): V128 => bits === 64 ? v.withI64(n, value) : v.withI32(n, value.i32());

  define(packedOperation[bits], (f) => {
    const op = f.parameter32(0);
    const a = f.parameterV128(1);
    const b = f.parameterV128(2);
    const r = f.v128(zero());
    begin(f);
    for (let n = 0; n < lanes; n++) {
      const one = select(op.eq(FloatOp.ADDSUB), i32(n & 1 ? FloatOp.ADD : FloatOp.SUB), op as I32);
      f.set(r, put(r, n, f.call64(lane[bits], one, get(a, n), get(b, n))));
    }
    f.do(commit);
    f.return(r);
  });

  define(compareLane[bits], (f) => {
    const predicate = f.parameter32(0);
    const a = f.i64(f.parameter64(1));
    const b = f.i64(f.parameter64(2));
    flushOperand(f, format, a);
    flushOperand(f, format, b);
    const kind = f.i32(predicate.and(3));
    const negated = f.i32(predicate.shrU(2).and(1));
    f.if(isNan(format, a).or(isNan(format, b)), () => {
      const signals = kind.eq(1).or(kind.eq(2));
      f.if(signals.or(isSignalling(format, a)).or(isSignalling(format, b)), () => flag(f, Mxcsr.IE));
      f.return(kind.eq(3).xor(negated));
    });
    f.if(isDenormal(format, a).or(isDenormal(format, b)), () => flag(f, Mxcsr.DE));
    const lower = f.i32(less(f, format, a, b));
    const equal = f.i32(lower.eqz().and(less(f, format, b, a).eqz()));
    f.return(
      equal.and(predicate.and(1).eqz()).or(lower.and(predicate.add(1).and(2).ne(0))).xor(negated),
    );
  });
  define(packedCompare[bits], (f) => {
    const r = f.v128(zero());
    begin(f);
    for (let n = 0; n < lanes; n++) {
      const one = f.call32(
        compareLane[bits],
        f.parameter32(0),
        get(f.parameterV128(1), n),
        get(f.parameterV128(2), n),
      );
      f.set(r, put(r, n, i64(0).sub(one.i64u())));
    }
    f.do(commit);
    f.return(r);
  });
  define(scalarCompare[bits], (f) => {
    begin(f);
    const r = f.i32(f.call32(compareLane[bits], f.parameter32(0), f.parameter64(1), f.parameter64(2)));
    f.do(commit);
    f.return(r);
  });
  define(flagCompare[bits], (f) => {
    begin(f);
    const a = f.parameter64(1);
    const b = f.parameter64(2);
    const r = f.i32(0);
    // Predicate 1 (less) signals for quiet NaNs, 0 (equal) does not.
    const first = f.i32(f.call32(compareLane[bits], f.parameter32(0), a, b));
    f.if(isNan(format, a).or(isNan(format, b)), () => f.set(r, 0x45), () => {
      const equal = select(f.parameter32(0), f.call32(compareLane[bits], 0, a, b), first as I32);
      const lower = select(f.parameter32(0), first as I32, f.call32(compareLane[bits], 1, a, b));
      f.set(r, equal.shl(6).or(lower));
    });
    f.do(commit);
    f.return(r);
  });

  define(toIntegerLane[bits], (f) => {
    const a = f.i64(f.parameter64(0));
    const truncated = f.parameter32(1);
    const width = f.parameter32(2);
    flushOperand(f, format, a);
    const control = select(truncated, i32(TRUNCATE), rounding(f));
    // The common case: a number well within the range, and the loss of its fraction is already known.
    f.if(f.s32(State.SSE_PLAIN), () => {
      const limit = BigInt(bits === 64 ? 1023 + 30 : 127 + 30) << BigInt(format.fraction);
      f.if(absolute(format, a).ltU(limit), () => {
        const x = bits === 64 ? f.f64(a.bitsF64()) : f.f64(a.i32().bitsF32().f64());
        f.return(select(truncated, x.satI64(), x.nearest().satI64()));
      });
    });
    clearOutFlags(f);
    // No denormal exception (SDM vol. 2, CVTTSD2SI), and NaNs are invalid for the integer's sake.
    const x = widen(f, format, a);
    clearOutFlags(f);
    const r = f.i64(f.call64(float80ToInteger, out(f), x.sig, x.exp, control, width));
    flag(f, outFlags(f).and(FLAGS));
    f.return(r);
  });
  define(fromIntegerLane[bits], (f) => {
    clearOutFlags(f);
    f.do(float80FromInteger, out(f), f.parameter64(0));
    f.return(narrow(f, format));
  });
  define(roundLane[bits], (f) => {
    const a = f.i64(f.parameter64(0));
    const immediate = f.parameter32(1);
    flushOperand(f, format, a);
    propagate(f, format, a, a);
    clearOutFlags(f);
    const x = widen(f, format, a);
    clearOutFlags(f);
    const control = select(immediate.has(4), rounding(f), immediate.and(3).shl(10).or(0x37f));
    f.do(float80RoundToInteger, out(f), x.sig, x.exp, control);
    f.if(immediate.has(8).eqz(), () => flag(f, outFlags(f).and(Mxcsr.PE)));
    f.set32(State.FPU_OUT + OUT_FLAGS, 0);
    const name = bits === 64 ? float80ToDouble : float80ToSingle;
    f.return(f.call64(name, out(f), outSig(f), outExp(f), 0x37f));
  });

  define(dotProduct[bits], (f) => {
    const a = f.parameterV128(0);
    const b = f.parameterV128(1);
    const immediate = f.parameter32(2);
    // Each step raises what it has to before the next one begins.
    const step = () => {
      f.do(commit);
      f.if(f.s32(State.FAULT), () => f.return(zero()));
      begin(f);
    };
    begin(f);
    const products = Array.from({ length: lanes }, (_, n) => {
      const product = f.i64(0);
      f.if(immediate.has(0x10 << n), () => f.set(product, f.call64(lane[bits], FloatOp.MUL, get(a, n), get(b, n))));
      return product;
    });
    step();
    const add = (p: I64, q: I64) => f.i64(f.call64(lane[bits], FloatOp.ADD, p, q));
    const sums = lanes === 2 ? products : [add(products[0], products[1]), add(products[2], products[3])];
    if (lanes === 4) step();
    const total = add(sums[0], sums[1]);
    f.do(commit);
    const r = f.v128(zero());
    for (let n = 0; n < lanes; n++) {
      f.if(immediate.has(1 << n), () => f.set(r, put(r, n, total)));
    }
    f.return(r);
  });
}
