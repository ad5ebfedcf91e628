/**
 * Arithmetic on 80-bit extended-precision numbers as Wasm functions: what the x87 computes, bit for bit (Intel SDM
 * vol. 1, chapters 4 and 8).
 *
 * A number travels as its significand (i64, integer bit explicit) and its sign and exponent (i32: bit 15 sign, bits
 * 0-14 biased exponent). Functions take the FPU control word for precision (bits 8-9) and rounding (bits 10-11), leave
 * the result at `out` and OR exception flags into {@link OUT_FLAGS} there, in the positions of the status word: IE 1,
 * DE 2, ZE 4, OE 8, UE 10h, PE 20h, and C1 (200h) when rounding went up. Results are those of masked exceptions.
 */
import { Func } from "../wasm/function.ts";
import type { Pointer } from "../wasm/memory.ts";
import { declare, type FunctionName, type Module } from "../wasm/module.ts";
import { type I32, i32, type I64, i64, select, Type, type ValueType } from "../wasm/values.ts";

/** Where results stand at `out`: significand (8 bytes), sign and exponent (4 bytes), flags (4 bytes, accumulated). */
export const OUT_SIGNIFICAND = 0;
export const OUT_SIGN_EXPONENT = 8;
export const OUT_FLAGS = 12;

/** Status word bits (SDM vol. 1, figure 8-4). */
export const Flag = { IE: 1, DE: 2, ZE: 4, OE: 8, UE: 0x10, PE: 0x20, C1: 0x200 } as const;

const BIAS = 16383;
/** Masks in the control word (SDM vol. 1, figure 8-6), and what is added to exponents where they are clear. */
const OVERFLOW_MASK = 8;
const UNDERFLOW_MASK = 0x10;
const WRAP = 24576;
const MAX_EXPONENT = 0x7fff;
const INTEGER_BIT = 0x8000_0000_0000_0000n;
const QUIET_BIT = 0x4000_0000_0000_0000n;
const QUIET_NAN = 0xc000_0000_0000_0000n;

const P = "pointer" as const;
const NUMBER = [Type.i64, Type.i32] as const;

const roundPack = declare("float80_round_pack", [P, Type.i32, Type.i32, Type.i64, Type.i64, Type.i32], null);
const propagateNan = declare("float80_propagate_nan", [P, ...NUMBER, ...NUMBER], null);
const multiplyHigh = declare("float80_multiply_high", [Type.i64, Type.i64], Type.i64);
const roundShifted = declare("float80_round_shifted", [P, Type.i64, Type.i32, Type.i32, Type.i32], Type.i64);

/** out = a + b */
export const float80Add = declare("float80_add", [P, ...NUMBER, ...NUMBER, Type.i32], null);
/** out = a * b */
export const float80Multiply = declare("float80_multiply", [P, ...NUMBER, ...NUMBER, Type.i32], null);
/** out = a / b */
export const float80Divide = declare("float80_divide", [P, ...NUMBER, ...NUMBER, Type.i32], null);
/** out = square root of a */
export const float80SquareRoot = declare("float80_square_root", [P, ...NUMBER, Type.i32], null);
/** out = a rounded to an integer (FRNDINT) */
export const float80RoundToInteger = declare("float80_round_to_integer", [P, ...NUMBER, Type.i32], null);
/** out = a * 2^trunc(b) (FSCALE) */
export const float80Scale = declare("float80_scale", [P, ...NUMBER, ...NUMBER, Type.i32], null);
/**
 * out = partial remainder of a / b; the result is the condition bits of the status word (C0 100h, C1 200h, C2 400h,
 * C3 4000h: the quotient's low bits, or C2 when more steps are needed). Last argument: 0 FPREM, 1 FPREM1; plus 2 when underflow is unmasked.
 */
export const float80Remainder = declare("float80_remainder", [P, ...NUMBER, ...NUMBER, Type.i32], Type.i32);
/** A bit of {@link float80Remainder}'s result: an operand was a NaN or invalid, and there is no quotient. */
export const NO_QUOTIENT = 0x1_0000;
/** Compares: 0 a > b, 1 a < b, 2 equal, 3 unordered. Last argument: 1 when a quiet NaN is invalid too (FCOM). */
export const float80Compare = declare("float80_compare", [P, ...NUMBER, ...NUMBER, Type.i32], Type.i32);
/** out = a signed 64-bit integer; always exact. */
export const float80FromInteger = declare("float80_from_integer", [P, Type.i64], null);
/** out = a double by its bits; always exact. */
export const float80FromDouble = declare("float80_from_double", [P, Type.i64], null);
/** out = a single by its bits (zero-extended); always exact. */
export const float80FromSingle = declare("float80_from_single", [P, Type.i64], null);
/** Bits of the double nearest by the rounding mode. Flags at `out`. */
export const float80ToDouble = declare("float80_to_double", [P, ...NUMBER, Type.i32], Type.i64);
/** Bits of the single, zero-extended. Flags at `out`. */
export const float80ToSingle = declare("float80_to_single", [P, ...NUMBER, Type.i32], Type.i64);
/**
 * A signed integer of `bits` (16, 32 or 64), sign-extended; the integer indefinite value with IE when it does not fit.
 * Arguments: out, number, control word, bits.
 */
export const float80ToInteger = declare("float80_to_integer", [P, ...NUMBER, Type.i32, Type.i32], Type.i64);

/** Adds all functions of this file to a module. */
export function defineFloat80(module: Module): void {
  const define = (name: FunctionName, body: (f: Func) => void) => {
    const f = new Func(name.parameters.map((type) => type as ValueType));
    body(f);
    module.define(name, f.locals, f.finish());
  };
  define(multiplyHigh, buildMultiplyHigh);
  define(roundPack, buildRoundPack);
  define(propagateNan, buildPropagateNan);
  define(float80Add, buildAdd);
  define(float80Multiply, buildMultiply);
  define(float80Divide, buildDivide);
  define(float80SquareRoot, buildSquareRoot);
  define(roundShifted, buildRoundShifted);
  define(float80RoundToInteger, buildRoundToInteger);
  define(float80ToInteger, buildToInteger);
  define(float80Scale, buildScale);
  define(float80Remainder, buildRemainder);
  define(float80Compare, buildCompare);
  define(float80FromInteger, buildFromInteger);
  define(float80FromDouble, (f) => buildFromBinary(f, 52, 11));
  define(float80FromSingle, (f) => buildFromBinary(f, 23, 8));
  define(float80ToDouble, (f) => buildToBinary(f, 52, 11));
  define(float80ToSingle, (f) => buildToBinary(f, 23, 8));
}

// --- shared pieces

function raise(f: Func, out: Pointer, flags: I32 | number): void {
  f.store32(out, out.i32(OUT_FLAGS).or(flags), OUT_FLAGS);
}

function store(f: Func, out: Pointer, significand: I64, signExponent: I32): void {
  f.store64(out, significand, OUT_SIGNIFICAND);
  f.store32(out, signExponent, OUT_SIGN_EXPONENT);
}

/** The default NaN, with IE: the answer to an invalid operation (SDM vol. 1, table 4-1). */
function invalid(f: Func, out: Pointer): void {
  store(f, out, i64(QUIET_NAN), i32(0xffff));
  raise(f, out, Flag.IE);
}

const exponentOf = (signExponent: I32) => signExponent.and(MAX_EXPONENT);
const signOf = (signExponent: I32) => signExponent.shrU(15).and(1);
const fractionOf = (significand: I64) => significand.and(~INTEGER_BIT);

/** Encodings without an integer bit where there must be one (SDM vol. 1, 8.2.2): invalid operands. */
const isUnsupported = (significand: I64, exponent: I32) => exponent.ne(0).and(significand.geS(0));
const isNan = (significand: I64, exponent: I32) => exponent.eq(MAX_EXPONENT).and(fractionOf(significand).ne(0));
const isInfinity = (significand: I64, exponent: I32) => exponent.eq(MAX_EXPONENT).and(fractionOf(significand).eqz());
const isZero = (significand: I64, exponent: I32) => exponent.eqz().and(significand.eqz());

const isDenormal = (significand: I64, exponent: I32) => exponent.eqz().and(significand.ne(0));

/** Gives a denormal its exponent and an integer bit; significand and exponent are variables and change. */
function normalize(
  f: Func,
  out: Pointer,
  significand: I64 & { index: number },
  exponent: I32 & { index: number },
): void {
  f.if(isDenormal(significand, exponent), () => {
    raise(f, out, Flag.DE);
    f.set(exponent, i32(1).sub(significand.clz().i32()));
    f.set(significand, significand.shl(significand.clz()));
  });
}

interface Operands {
  out: Pointer;
  aSig: I64 & { index: number };
  aSign: I32 & { index: number };
  aExp: I32 & { index: number };
  bSig: I64 & { index: number };
  bSign: I32 & { index: number };
  bExp: I32 & { index: number };
  control: I32;
}

/** Takes two operands apart and deals with NaNs and unsupported encodings, which return at once. */
function twoOperands(f: Func): Operands {
  const out = f.parameterPointer(0);
  const aSig = f.parameter64(1);
  const a = f.parameter32(2);
  const bSig = f.parameter64(3);
  const b = f.parameter32(4);
  const control = f.parameter32(5);
  const aExp = f.i32(exponentOf(a));
  const bExp = f.i32(exponentOf(b));
  f.if(isUnsupported(aSig, aExp).or(isUnsupported(bSig, bExp)), () => {
    invalid(f, out);
    f.return();
  });
  f.if(isNan(aSig, aExp).or(isNan(bSig, bExp)), () => {
    f.do(propagateNan, out, aSig, a, bSig, b);
    f.return();
  });
  return { out, aSig, aSign: f.i32(signOf(a)), aExp, bSig, bSign: f.i32(signOf(b)), bExp, control };
}

/** 64x64 -> upper 64 bits, by 32-bit halves. */
function buildMultiplyHigh(f: Func): void {
  const a = f.parameter64(0);
  const b = f.parameter64(1);
  const aLow = f.i64(a.u32());
  const aHigh = f.i64(a.shrU(32));
  const bLow = f.i64(b.u32());
  const bHigh = f.i64(b.shrU(32));
  const middle = f.i64(aHigh.mul(bLow).add(aLow.mul(bLow).shrU(32)));
  const middle2 = f.i64(aLow.mul(bHigh).add(middle.u32()));
  f.return(aHigh.mul(bHigh).add(middle.shrU(32)).add(middle2.shrU(32)));
}

/** SDM vol. 1, table 4-7: a quiet NaN wins over a signalling one, then the larger significand. */
function buildPropagateNan(f: Func): void {
  const out = f.parameterPointer(0);
  const aSig = f.parameter64(1);
  const a = f.parameter32(2);
  const bSig = f.parameter64(3);
  const b = f.parameter32(4);
  const aNan = f.i32(isNan(aSig, exponentOf(a)));
  const bNan = f.i32(isNan(bSig, exponentOf(b)));
  const aSignalling = f.i32(aNan.and(aSig.and(QUIET_BIT).eqz()));
  const bSignalling = f.i32(bNan.and(bSig.and(QUIET_BIT).eqz()));
  f.if(aSignalling.or(bSignalling), () => raise(f, out, Flag.IE));
  const larger = aSig.eq(bSig).and(signOf(a).eqz()).or(aSig.gtU(bSig));
  const takeA = f.i32(larger);
  f.if(bNan.eqz().or(aNan.and(bSignalling).and(aSignalling.eqz())), () => f.set(takeA, 1));
  f.if(aNan.eqz().or(bNan.and(aSignalling).and(bSignalling.eqz())), () => f.set(takeA, 0));
  store(f, out, select(takeA, aSig as I64, bSig as I64).or(QUIET_BIT), select(takeA, a as I32, b as I32));
}

/**
 * Rounds high:low (normalized: bit 63 of high set, or both zero) to the control word's precision and stores it.
 * Parameters: out, sign, exponent (biased; may lie outside the format), high, low, control word.
 */
function buildRoundPack(f: Func): void {
  const out = f.parameterPointer(0);
  const sign = f.parameter32(1);
  const exponent = f.parameter32(2);
  const high = f.parameter64(3);
  const low = f.parameter64(4);
  const control = f.parameter32(5);
  const signBits = f.i32(sign.shl(15));
  f.if(high.or(low).eqz(), () => {
    store(f, out, i64(0), signBits);
    f.return();
  });
  const rounding = f.i32(control.shrU(10).and(3));
  const precision = f.i32(control.shrU(8).and(3));
  // Bits of the significand that the precision control cuts off (SDM vol. 1, table 8-2).
  const cut = f.i64(select(precision.eqz(), i64(40), select(precision.eq(2), i64(11), i64(0))));
  const unit = f.i64(i64(1).shl(cut));
  const remainder = f.i64(0);
  const half = f.i64(0);
  const inexact = f.i32(0);
  const up = f.i32(0);
  const sum = f.i64(0);
  const tiny = f.i32(exponent.leS(0));
  // Unmasked, underflow and overflow give a result with the exponent wrapped round (SDM vol. 1, 8.5.4 and 8.5.5).
  const wrapped = f.i32(0);

  /** What a rounding of high:low does: sets remainder, inexact, up and the truncated sum. */
  const decide = () => {
    f.if(
      cut.eqz(),
      () => {
        f.set(remainder, low);
        f.set(half, i64(INTEGER_BIT));
        f.set(inexact, low.ne(0));
      },
      () => {
        f.set(remainder, high.and(unit.sub(1)));
        f.set(half, unit.shrU(1));
        f.set(inexact, remainder.or(low).ne(0));
      },
    );
    const sticky = cut.ne(0).and(low.ne(0));
    const odd = high.and(unit).ne(0);
    f.set(
      up,
      select(
        rounding.eqz(),
        remainder.gtU(half).or(remainder.eq(half).and(sticky.or(odd))),
        inexact.and(rounding.eq(select(sign, i32(1), i32(2)))),
      ),
    );
    f.set(sum, high.and(i64(0).sub(unit)));
  };

  f.if(tiny, () => {
    // Tininess is detected after rounding: a number that would round up to the smallest normal is not tiny.
    f.if(exponent.eqz(), () => {
      decide();
      f.if(up.and(sum.add(unit).eqz()), () => f.set(tiny, 0));
    });
    f.if(tiny.and(control.and(UNDERFLOW_MASK).eqz()).and(exponent.gtS(-WRAP)), () => {
      f.set(wrapped, 1);
      f.set(exponent, exponent.add(WRAP));
    });
    f.if(exponent.leS(-WRAP).and(control.and(UNDERFLOW_MASK).eqz()), () => {
      raise(f, out, Flag.UE | Flag.PE);
      store(f, out, i64(0), signBits);
      f.return();
    });
  });
  f.if(exponent.leS(0), () => {
    const shift = f.i64(i32(1).sub(exponent).i64s());
    f.if(
      shift.ltU(64),
      () => {
        f.set(low, high.shl(i64(64).sub(shift)).or(low.ne(0).i64u()));
        f.set(high, high.shrU(shift));
      },
      () => {
        f.set(
          low,
          select(
            shift.eq(64),
            high.or(low.ne(0).i64u()),
            select(shift.ltU(128), high.shrU(shift.sub(64)).or(1), i64(1)),
          ),
        );
        f.set(high, 0);
      },
    );
    f.set(exponent, 0);
  });
  decide();
  f.if(up, () => {
    f.set(sum, sum.add(unit));
    // A carry out of the significand, or out of the denormals.
    f.if(
      exponent.eqz(),
      () => f.if(sum.ltS(0), () => f.set(exponent, 1)),
      () =>
        f.if(sum.eqz(), () => {
          f.set(sum, i64(INTEGER_BIT));
          f.set(exponent, exponent.add(1));
        }),
    );
  });
  f.if(
    exponent.geS(MAX_EXPONENT).and(control.and(OVERFLOW_MASK).eqz()).and(exponent.ltS(MAX_EXPONENT + WRAP)),
    () => {
      raise(f, out, Flag.OE);
      f.set(exponent, exponent.sub(WRAP));
    },
  );
  f.if(exponent.geS(MAX_EXPONENT).and(control.and(OVERFLOW_MASK).eqz()), () => {
    // Too large even so (FSCALE).
    raise(f, out, Flag.OE | Flag.PE | Flag.C1);
    store(f, out, i64(INTEGER_BIT), signBits.or(MAX_EXPONENT));
    f.return();
  });
  f.if(wrapped, () => raise(f, out, Flag.UE));
  f.if(exponent.geS(MAX_EXPONENT), () => {
    // SDM vol. 1, 4.9.1.4: infinity, or the largest number where the rounding mode leads away from it.
    const toInfinity = rounding.eqz().or(rounding.eq(select(sign, i32(1), i32(2))));
    raise(f, out, Flag.OE | Flag.PE);
    f.if(
      toInfinity,
      () => {
        store(f, out, i64(INTEGER_BIT), signBits.or(MAX_EXPONENT));
        raise(f, out, Flag.C1);
      },
      () => store(f, out, i64(0).sub(unit), signBits.or(MAX_EXPONENT - 1)),
    );
    f.return();
  });
  f.if(inexact, () => {
    raise(f, out, select(tiny, i32(Flag.PE | Flag.UE), i32(Flag.PE)));
    f.if(up, () => raise(f, out, Flag.C1));
  });
  store(f, out, sum, signBits.or(exponent));
}

function buildAdd(f: Func): void {
  const { out, aSig, aSign, aExp, bSig, bSign, bExp, control } = twoOperands(f);
  f.if(isInfinity(aSig, aExp).or(isInfinity(bSig, bExp)), () => {
    f.if(isInfinity(aSig, aExp).and(isInfinity(bSig, bExp)).and(aSign.ne(bSign)), () => {
      invalid(f, out);
      f.return();
    });
    f.if(isDenormal(aSig, aExp).or(isDenormal(bSig, bExp)), () => raise(f, out, Flag.DE));
    const sign = select(isInfinity(aSig, aExp), aSign as I32, bSign as I32);
    store(f, out, i64(INTEGER_BIT), sign.shl(15).or(MAX_EXPONENT));
    f.return();
  });
  f.if(isZero(aSig, aExp).and(isZero(bSig, bExp)), () => {
    // Unlike zeros give +0, but -0 when rounding down (SDM vol. 1, 4.8.3.1).
    const down = control.shrU(10).and(3).eq(1);
    store(f, out, i64(0), select(aSign.eq(bSign), aSign as I32, down).shl(15));
    f.return();
  });
  normalize(f, out, aSig, aExp);
  normalize(f, out, bSig, bExp);
  // A zero takes the other's exponent, so that nothing is shifted by it.
  f.if(aSig.eqz(), () => f.set(aExp, bExp));
  f.if(bSig.eqz(), () => f.set(bExp, aExp));
  f.if(aExp.ltS(bExp).or(aExp.eq(bExp).and(aSig.ltU(bSig))), () => {
    const sig = f.i64(aSig);
    const exp = f.i32(aExp);
    const sign = f.i32(aSign);
    f.set(aSig, bSig);
    f.set(aExp, bExp);
    f.set(aSign, bSign);
    f.set(bSig, sig);
    f.set(bExp, exp);
    f.set(bSign, sign);
  });
  const shift = f.i64(aExp.sub(bExp).i64s());
  const low = f.i64(0);
  f.if(shift.ne(0), () => {
    f.if(
      shift.ltU(64),
      () => {
        f.set(low, bSig.shl(i64(64).sub(shift)));
        f.set(bSig, bSig.shrU(shift));
      },
      () => {
        f.set(
          low,
          select(
            shift.eq(64),
            bSig as I64,
            select(
              shift.ltU(128),
              bSig.shrU(shift.sub(64)).or(bSig.shl(i64(128).sub(shift)).ne(0).i64u()),
              bSig.ne(0).i64u(),
            ),
          ),
        );
        f.set(bSig, 0);
      },
    );
  });
  const high = f.i64(0);
  f.if(
    aSign.eq(bSign),
    () => {
      f.set(high, aSig.add(bSig));
      f.if(high.ltU(aSig), () => {
        f.set(low, low.shrU(1).or(low.and(1)).or(high.shl(63)));
        f.set(high, high.shrU(1).or(INTEGER_BIT));
        f.set(aExp, aExp.add(1));
      });
    },
    () => {
      f.set(high, aSig.sub(bSig).sub(low.ne(0).i64u()));
      f.set(low, low.neg());
      f.if(high.or(low).eqz(), () => f.set(aSign, control.shrU(10).and(3).eq(1)));
      f.if(high.eqz(), () => {
        f.set(high, low);
        f.set(low, 0);
        f.set(aExp, aExp.sub(64));
      });
      const zeros = f.i64(high.clz());
      f.if(zeros.ne(0).and(high.ne(0)), () => {
        f.set(high, high.shl(zeros).or(low.shrU(i64(64).sub(zeros))));
        f.set(low, low.shl(zeros));
        f.set(aExp, aExp.sub(zeros.i32()));
      });
    },
  );
  f.do(roundPack, out, aSign, aExp, high, low, control);
}

function buildMultiply(f: Func): void {
  const { out, aSig, aSign, aExp, bSig, bSign, bExp, control } = twoOperands(f);
  const sign = f.i32(aSign.xor(bSign));
  f.if(isInfinity(aSig, aExp).or(isInfinity(bSig, bExp)), () => {
    f.if(isZero(aSig, aExp).or(isZero(bSig, bExp)), () => {
      invalid(f, out);
      f.return();
    });
    f.if(aExp.eqz().or(bExp.eqz()), () => raise(f, out, Flag.DE));
    store(f, out, i64(INTEGER_BIT), sign.shl(15).or(MAX_EXPONENT));
    f.return();
  });
  normalize(f, out, aSig, aExp);
  normalize(f, out, bSig, bExp);
  const low = f.i64(aSig.mul(bSig));
  const high = f.i64(f.call64(multiplyHigh, aSig, bSig));
  const exponent = f.i32(aExp.add(bExp).sub(BIAS - 1));
  f.if(high.geS(0).and(high.ne(0)), () => {
    f.set(high, high.shl(1).or(low.shrU(63)));
    f.set(low, low.shl(1));
    f.set(exponent, exponent.sub(1));
  });
  f.do(roundPack, out, sign, exponent, high, low, control);
}

/** One step of a long division: remainder*2 against the divisor; gives the quotient's next bit. */
function divisionStep(f: Func, remainder: I64 & { index: number }, divisor: I64, bit: I32 & { index: number }): void {
  f.set(bit, remainder.ltS(0));
  f.set(remainder, remainder.shl(1));
  f.set(bit, bit.or(remainder.geU(divisor)));
  f.if(bit, () => f.set(remainder, remainder.sub(divisor)));
}

function buildDivide(f: Func): void {
  const { out, aSig, aSign, aExp, bSig, bSign, bExp, control } = twoOperands(f);
  const sign = f.i32(aSign.xor(bSign));
  const infinite = () => store(f, out, i64(INTEGER_BIT), sign.shl(15).or(MAX_EXPONENT));
  f.if(
    isInfinity(aSig, aExp).and(isInfinity(bSig, bExp)).or(isZero(aSig, aExp).and(isZero(bSig, bExp))),
    () => {
      invalid(f, out);
      f.return();
    },
  );
  f.if(isInfinity(aSig, aExp), () => {
    f.if(isDenormal(bSig, bExp), () => raise(f, out, Flag.DE));
    infinite();
    f.return();
  });
  f.if(isInfinity(bSig, bExp), () => {
    f.if(isDenormal(aSig, aExp), () => raise(f, out, Flag.DE));
    store(f, out, i64(0), sign.shl(15));
    f.return();
  });
  f.if(isZero(bSig, bExp), () => {
    raise(f, out, Flag.ZE);
    infinite();
    f.return();
  });
  normalize(f, out, aSig, aExp);
  normalize(f, out, bSig, bExp);
  f.if(aSig.eqz(), () => {
    store(f, out, i64(0), sign.shl(15));
    f.return();
  });
  const exponent = f.i32(aExp.sub(bExp).add(BIAS));
  const remainder = f.i64(aSig);
  const quotient = f.i64(0);
  const count = f.i32(64);
  const bit = f.i32(0);
  f.if(
    aSig.ltU(bSig),
    () => f.set(exponent, exponent.sub(1)),
    () => {
      f.set(remainder, aSig.sub(bSig));
      f.set(quotient, 1);
      f.set(count, 63);
    },
  );
  f.loop((again) => {
    divisionStep(f, remainder, bSig, bit);
    f.set(quotient, quotient.shl(1).or(bit.i64u()));
    f.set(count, count.sub(1));
    f.brIf(again, count);
  });
  divisionStep(f, remainder, bSig, bit);
  const low = f.i64(bit.i64u().shl(63));
  f.do(roundPack, out, sign, exponent, quotient, low.or(remainder.ne(0).i64u()), control);
}

/** Takes one operand apart; NaNs and unsupported encodings return at once. */
function oneOperand(f: Func) {
  const out = f.parameterPointer(0);
  const sig = f.parameter64(1);
  const a = f.parameter32(2);
  const exponent = f.i32(exponentOf(a));
  f.if(isUnsupported(sig, exponent), () => {
    invalid(f, out);
    f.return();
  });
  f.if(isNan(sig, exponent), () => {
    f.do(propagateNan, out, sig, a, sig, a);
    f.return();
  });
  return { out, sig, sign: f.i32(signOf(a)), exponent, a };
}

/** Digit by digit, two bits of the radicand a step; remainder and trial value take 67 bits. */
function buildSquareRoot(f: Func): void {
  const { out, sig, sign, exponent, a } = oneOperand(f);
  const control = f.parameter32(3);
  f.if(isZero(sig, exponent).or(isInfinity(sig, exponent).and(sign.eqz())), () => {
    store(f, out, sig, a);
    f.return();
  });
  f.if(sign, () => {
    invalid(f, out);
    f.return();
  });
  normalize(f, out, sig, exponent);
  // The radicand, 128 bits: shifted so that the root's first bit is bit 63 and its exponent is even.
  const high = f.i64(sig);
  const low = f.i64(0);
  const unbiased = f.i32(exponent.sub(BIAS));
  f.if(unbiased.and(1).eqz(), () => {
    f.set(high, sig.shrU(1));
    f.set(low, sig.shl(63));
  });
  const root = f.i64(0);
  const kept = f.i64(0);
  const remainderHigh = f.i64(0);
  const remainderLow = f.i64(0);
  const trialHigh = f.i64(0);
  const trialLow = f.i64(0);
  const step = f.i32(66);
  // The root's bits beyond 64 (after the 64th step) go on in `root`, with its upper ones kept in `kept`.
  const rootHigh = f.i64(0);
  f.loop((again) => {
    f.set(remainderHigh, remainderHigh.shl(2).or(remainderLow.shrU(62)));
    f.set(remainderLow, remainderLow.shl(2).or(high.shrU(62)));
    f.set(high, high.shl(2).or(low.shrU(62)));
    f.set(low, low.shl(2));
    f.set(trialHigh, rootHigh.shl(2).or(root.shrU(62)));
    f.set(trialLow, root.shl(2).or(1));
    f.set(rootHigh, rootHigh.shl(1).or(root.shrU(63)));
    f.set(root, root.shl(1));
    f.if(
      remainderHigh.gtU(trialHigh).or(remainderHigh.eq(trialHigh).and(remainderLow.geU(trialLow))),
      () => {
        f.set(remainderHigh, remainderHigh.sub(trialHigh).sub(remainderLow.ltU(trialLow).i64u()));
        f.set(remainderLow, remainderLow.sub(trialLow));
        f.set(root, root.or(1));
      },
    );
    f.set(step, step.sub(1));
    f.if(step.eq(2), () => f.set(kept, root));
    f.brIf(again, step);
  });
  const rest = f.i64(root.shl(62).or(remainderHigh.or(remainderLow).ne(0).i64u()));
  f.do(roundPack, out, 0, unbiased.shrS(1).add(BIAS), kept, rest, control);
}

/**
 * The integer nearest to significand * 2^(exponent - BIAS - 63) by the rounding mode, as an unsigned i64 (the caller
 * has made sure that it fits); sets PE, and C1 when the magnitude went up. Parameters: out, significand, exponent,
 * sign, control.
 */
function buildRoundShifted(f: Func): void {
  const out = f.parameterPointer(0);
  const sig = f.parameter64(1);
  const exponent = f.parameter32(2);
  const sign = f.parameter32(3);
  const control = f.parameter32(4);
  const rounding = f.i32(control.shrU(10).and(3));
  const shift = f.i64(i32(BIAS + 63).sub(exponent).i64s());
  const value = f.i64(sig);
  const rest = f.i64(0);
  f.if(shift.ne(0), () => {
    f.if(
      shift.ltU(64),
      () => {
        f.set(value, sig.shrU(shift));
        f.set(rest, sig.shl(i64(64).sub(shift)));
      },
      () => {
        f.set(value, 0);
        f.set(rest, select(shift.eq(64), sig as I64, sig.ne(0).i64u()));
      },
    );
  });
  f.if(rest.ne(0), () => {
    raise(f, out, Flag.PE);
    const nearest = rest.gtU(INTEGER_BIT).or(rest.eq(INTEGER_BIT).and(value.and(1).ne(0)));
    f.if(select(rounding.eqz(), nearest, rounding.eq(select(sign, i32(1), i32(2)))), () => {
      f.set(value, value.add(1));
      raise(f, out, Flag.C1);
    });
  });
  f.return(value);
}

function buildRoundToInteger(f: Func): void {
  const { out, sig, sign, exponent, a } = oneOperand(f);
  const control = f.parameter32(3);
  f.if(exponent.geS(BIAS + 63).or(isZero(sig, exponent)), () => {
    store(f, out, sig, a);
    f.return();
  });
  f.if(exponent.eqz(), () => raise(f, out, Flag.DE));
  const value = f.i64(f.call64(roundShifted, out, sig, exponent, sign, control));
  const signBits = f.i32(sign.shl(15));
  f.if(
    value.eqz(),
    () => store(f, out, i64(0), signBits),
    () => store(f, out, value.shl(value.clz()), signBits.or(i32(BIAS + 63).sub(value.clz().i32()))),
  );
}

function buildToInteger(f: Func): void {
  const out = f.parameterPointer(0);
  const sig = f.parameter64(1);
  const a = f.parameter32(2);
  const control = f.parameter32(3);
  const bits = f.parameter32(4);
  const exponent = f.i32(exponentOf(a));
  const sign = f.i32(signOf(a));
  const flags = f.i32(out.i32(OUT_FLAGS));
  // Smallest of its width: the integer indefinite (SDM vol. 1, 4.8.3.7), which is also a number of its own.
  const smallest = f.i64(i64(-1).shl(bits.sub(1).i64u()));
  const value = f.i64(0);
  f.if(exponent.leS(BIAS + 63).and(isUnsupported(sig, exponent).eqz()), () => {
    f.set(value, f.call64(roundShifted, out, sig, exponent, sign, control));
    const magnitude = smallest.neg();
    f.if(
      sign,
      () => f.if(value.leU(magnitude), () => f.return(value.neg())),
      () => f.if(value.ltU(magnitude), () => f.return(value)),
    );
  });
  f.store32(out, flags.or(Flag.IE), OUT_FLAGS);
  f.return(smallest);
}

function buildScale(f: Func): void {
  const { out, aSig, aSign, aExp, bSig, bSign, bExp, control } = twoOperands(f);
  const signBits = f.i32(aSign.shl(15));
  f.if(isInfinity(bSig, bExp), () => {
    // SDM vol. 2, FSCALE: 0 * 2^+inf and inf * 2^-inf are invalid.
    f.if(select(bSign, isInfinity(aSig, aExp), isZero(aSig, aExp)), () => {
      invalid(f, out);
      f.return();
    });
    f.if(isDenormal(aSig, aExp), () => raise(f, out, Flag.DE));
    f.if(
      bSign,
      () => store(f, out, i64(0), signBits),
      () => store(f, out, i64(INTEGER_BIT), signBits.or(MAX_EXPONENT)),
    );
    f.return();
  });
  f.if(isInfinity(aSig, aExp).or(isZero(aSig, aExp)), () => {
    f.if(isDenormal(bSig, bExp), () => raise(f, out, Flag.DE));
    store(f, out, aSig, signBits.or(aExp));
    f.return();
  });
  normalize(f, out, aSig, aExp);
  normalize(f, out, bSig, bExp);
  // More than 2^16 either way leads to the same end; the integer part of less fits easily.
  const scale = f.i32(0x1_0000);
  f.if(bExp.ltS(BIAS + 16), () => {
    f.set(scale, 0);
    f.if(bExp.geS(BIAS), () => f.set(scale, bSig.shrU(i32(BIAS + 63).sub(bExp).i64u()).i32()));
  });
  f.if(bSign, () => f.set(scale, i32(0).sub(scale)));
  // FSCALE is not subject to precision control.
  f.do(roundPack, out, aSign, aExp.add(scale), aSig, i64(0), control.or(0x300));
}

function buildRemainder(f: Func): void {
  const out = f.parameterPointer(0);
  const aSig = f.parameter64(1);
  const a = f.parameter32(2);
  const bSig = f.parameter64(3);
  const b = f.parameter32(4);
  const nearest = f.i32(f.parameter32(5).and(1));
  const aExp = f.i32(exponentOf(a));
  const bExp = f.i32(exponentOf(b));
  const sign = f.i32(signOf(a));
  f.if(isUnsupported(aSig, aExp).or(isUnsupported(bSig, bExp)), () => {
    invalid(f, out);
    f.return(NO_QUOTIENT);
  });
  f.if(isNan(aSig, aExp).or(isNan(bSig, bExp)), () => {
    f.do(propagateNan, out, aSig, a, bSig, b);
    f.return(NO_QUOTIENT);
  });
  f.if(isInfinity(aSig, aExp).or(isZero(bSig, bExp)), () => {
    invalid(f, out);
    f.return(NO_QUOTIENT);
  });
  f.if(isZero(aSig, aExp).or(isInfinity(bSig, bExp)), () => {
    f.if(isDenormal(aSig, aExp).or(isDenormal(bSig, bExp)), () => raise(f, out, Flag.DE));
    // A pseudo-denormal comes out with the exponent it should have had.
    store(f, out, aSig, a.or(aExp.eqz().and(aSig.ltS(0))));
    f.return(0);
  });
  normalize(f, out, aSig, aExp);
  normalize(f, out, bSig, bExp);
  const difference = f.i32(aExp.sub(bExp));
  const quotient = f.i64(0);
  const remainder = f.i64(aSig);
  const exponent = f.i32(bExp);
  const bit = f.i32(0);
  const count = f.i32(difference);
  const partial = f.i32(difference.geS(64));
  // A large quotient is reduced by 32 to 63 bits a step (SDM vol. 2, FPREM: N is implementation-dependent).
  f.if(partial, () => {
    f.set(count, difference.and(31).or(32));
    f.set(exponent, aExp.sub(count));
  });
  f.if(
    difference.ltS(0),
    () => f.set(exponent, aExp),
    () => {
      f.if(remainder.geU(bSig), () => {
        f.set(remainder, remainder.sub(bSig));
        f.set(quotient, 1);
      });
      f.block((end) => {
        f.loop((again) => {
          f.brIf(end, count.leS(0));
          divisionStep(f, remainder, bSig, bit);
          f.set(quotient, quotient.shl(1).or(bit.i64u()));
          f.set(count, count.sub(1));
          f.br(again);
        });
      });
    },
  );
  f.if(nearest.and(partial.eqz()), () => {
    // FPREM1: the remainder of smallest magnitude; on a tie the even quotient.
    const above = f.i32(0);
    f.if(
      difference.ltS(0),
      () => {
        // |a| < |b|: above one half only when the exponents are neighbours and a > b/2.
        f.set(above, difference.eq(-1).and(aSig.gtU(bSig)));
        f.if(above, () => {
          // b - a with a one exponent below: (2*bSig - aSig) at a's exponent.
          f.set(remainder, bSig.shl(1).sub(aSig));
          f.set(exponent, aExp);
        });
      },
      () => {
        const twice = remainder.shl(1);
        const overflow = remainder.ltS(0);
        f.set(
          above,
          overflow.or(twice.gtU(bSig)).or(twice.eq(bSig).and(quotient.and(1).ne(0))),
        );
        f.if(above, () => f.set(remainder, bSig.sub(remainder)));
      },
    );
    f.if(above, () => {
      f.set(quotient, quotient.add(1));
      f.set(sign, sign.xor(1));
    });
  });
  const zeros = f.i64(remainder.clz());
  f.if(
    remainder.eqz(),
    () => store(f, out, i64(0), signOf(a).shl(15)),
    // Exact: full precision, nothing to round unless it becomes a denormal, which holds it too.
    () =>
      f.do(
        roundPack,
        out,
        sign,
        exponent.sub(zeros.i32()),
        remainder.shl(zeros),
        i64(0),
        i32(0x33f).xor(f.parameter32(5).and(2).shl(3)),
      ),
  );
  f.if(partial, () => f.return(i32(0x400)));
  const q = f.i32(quotient.i32());
  f.return(q.and(4).shl(6).or(q.and(2).shl(13)).or(q.and(1).shl(9)));
}

function buildCompare(f: Func): void {
  const out = f.parameterPointer(0);
  const aSig = f.parameter64(1);
  const a = f.parameter32(2);
  const bSig = f.parameter64(3);
  const b = f.parameter32(4);
  const signalling = f.parameter32(5);
  const aExp = f.i32(exponentOf(a));
  const bExp = f.i32(exponentOf(b));
  f.if(isUnsupported(aSig, aExp).or(isUnsupported(bSig, bExp)), () => {
    raise(f, out, Flag.IE);
    f.return(3);
  });
  const aNan = f.i32(isNan(aSig, aExp));
  const bNan = f.i32(isNan(bSig, bExp));
  f.if(aNan.or(bNan), () => {
    const quiet = aNan.and(aSig.and(QUIET_BIT).eqz()).or(bNan.and(bSig.and(QUIET_BIT).eqz())).eqz();
    f.if(quiet.eqz().or(signalling), () => raise(f, out, Flag.IE));
    f.return(3);
  });
  f.if(isDenormal(aSig, aExp).or(isDenormal(bSig, bExp)), () => raise(f, out, Flag.DE));
  f.if(aSig.or(bSig).eqz(), () => f.return(2));
  f.if(signOf(a).ne(signOf(b)), () => f.return(signOf(a)));
  // A pseudo-denormal has exponent 0 and the value of exponent 1.
  f.set(aExp, select(aExp.eqz(), i32(1), aExp as I32));
  f.set(bExp, select(bExp.eqz(), i32(1), bExp as I32));
  f.if(aSig.eqz(), () => f.set(aExp, 0));
  f.if(bSig.eqz(), () => f.set(bExp, 0));
  f.if(aExp.eq(bExp).and(aSig.eq(bSig)), () => f.return(2));
  const less = aExp.ltS(bExp).or(aExp.eq(bExp).and(aSig.ltU(bSig)));
  f.return(less.xor(signOf(a)));
}

function buildFromInteger(f: Func): void {
  const out = f.parameterPointer(0);
  const value = f.parameter64(1);
  const sign = f.i32(value.ltS(0));
  const magnitude = f.i64(select(sign, value.neg(), value as I64));
  f.if(
    magnitude.eqz(),
    () => store(f, out, i64(0), i32(0)),
    () =>
      store(
        f,
        out,
        magnitude.shl(magnitude.clz()),
        sign.shl(15).or(i32(BIAS + 63).sub(magnitude.clz().i32())),
      ),
  );
}

/** From an IEEE format with so many fraction and exponent bits. */
function buildFromBinary(f: Func, fractionBits: number, exponentBits: number): void {
  const out = f.parameterPointer(0);
  const bits = f.parameter64(1);
  const all = (1 << exponentBits) - 1;
  const bias = all >> 1;
  const exponent = f.i32(bits.shrU(fractionBits).i32().and(all));
  const signBits = f.i32(bits.shrU(fractionBits + exponentBits).i32().shl(15));
  const fraction = f.i64(bits.shl(63 - fractionBits).and(~INTEGER_BIT));
  f.if(exponent.eq(all), () => {
    f.if(fraction.ne(0), () => {
      f.if(fraction.and(QUIET_BIT).eqz(), () => raise(f, out, Flag.IE));
      f.set(fraction, fraction.or(QUIET_BIT));
    });
    store(f, out, fraction.or(INTEGER_BIT), signBits.or(MAX_EXPONENT));
    f.return();
  });
  f.if(exponent.eqz(), () => {
    f.if(fraction.eqz(), () => {
      store(f, out, i64(0), signBits);
      f.return();
    });
    raise(f, out, Flag.DE);
    // The fraction's weight is that of exponent 1, without an integer bit.
    f.set(exponent, i32(1).sub(fraction.clz().i32()));
    store(f, out, fraction.shl(fraction.clz()), signBits.or(exponent.add(BIAS - bias)));
    f.return();
  });
  store(f, out, fraction.or(INTEGER_BIT), signBits.or(exponent.add(BIAS - bias)));
}

/** To an IEEE format, rounded by the rounding mode alone. */
function buildToBinary(f: Func, fractionBits: number, exponentBits: number): void {
  const out = f.parameterPointer(0);
  const sig = f.parameter64(1);
  const a = f.parameter32(2);
  const control = f.parameter32(3);
  const all = (1 << exponentBits) - 1;
  const bias = all >> 1;
  const infinity = BigInt(all) << BigInt(fractionBits);
  const exponent = f.i32(exponentOf(a));
  const sign = f.i32(signOf(a));
  const signBits = f.i64(sign.i64u().shl(fractionBits + exponentBits));
  f.if(isUnsupported(sig, exponent), () => {
    raise(f, out, Flag.IE);
    f.return(i64((1n << BigInt(fractionBits + exponentBits)) | infinity | (1n << BigInt(fractionBits - 1))));
  });
  f.if(exponent.eq(MAX_EXPONENT), () => {
    const fraction = fractionOf(sig);
    f.if(fraction.ne(0).and(sig.and(QUIET_BIT).eqz()), () => raise(f, out, Flag.IE));
    const quiet = select(fraction.ne(0), i64(1n << BigInt(fractionBits - 1)), i64(0));
    f.return(signBits.or(infinity).or(fraction.shrU(63 - fractionBits)).or(quiet));
  });
  f.if(sig.eqz(), () => f.return(signBits));
  // The value is sig * 2^(exponent - BIAS - 63); a denormal (or pseudo-denormal) has the weight of exponent 1.
  f.if(exponent.eqz(), () => {
    f.set(exponent, i32(1).sub(sig.clz().i32()));
    f.set(sig, sig.shl(sig.clz()));
  });
  const target = f.i32(exponent.sub(BIAS - bias));
  const tiny = f.i32(target.leS(0));
  const rounding = f.i32(control.shrU(10).and(3));
  const cut = f.i64(63 - fractionBits);
  const value = f.i64(0);
  const rest = f.i64(0);
  const up = f.i32(0);
  const decide = () => {
    f.if(
      cut.ltU(64),
      () => {
        f.set(value, sig.shrU(cut));
        f.set(rest, sig.shl(i64(64).sub(cut)));
      },
      () => {
        f.set(value, 0);
        f.set(rest, select(cut.eq(64), sig as I64, i64(1)));
      },
    );
    const nearest = rest.gtU(INTEGER_BIT).or(rest.eq(INTEGER_BIT).and(value.and(1).ne(0)));
    f.set(
      up,
      rest.ne(0).and(select(rounding.eqz(), nearest, rounding.eq(select(sign, i32(1), i32(2))))),
    );
  };
  f.if(tiny, () => {
    f.if(target.eqz(), () => {
      // Tiny only if it would stay below the smallest normal with an unbounded exponent.
      decide();
      f.if(up.and(value.add(1).shrU(fractionBits + 1).ne(0)), () => f.set(tiny, 0));
    });
    f.set(cut, cut.add(i32(1).sub(target).i64s()));
    f.set(target, 0);
  });
  decide();
  f.if(up, () => f.set(value, value.add(1)));
  // The integer bit adds one to the exponent field of a normal number; a carry adds one more, as it should.
  f.if(target.gtS(0), () => f.set(value, value.add(target.sub(1).i64s().shl(fractionBits))));
  f.if(value.geU(infinity).or(target.geS(all)), () => {
    raise(f, out, Flag.OE | Flag.PE);
    f.if(
      rounding.eqz().or(rounding.eq(select(sign, i32(1), i32(2)))),
      () => {
        raise(f, out, Flag.C1);
        f.return(signBits.or(infinity));
      },
    );
    f.return(signBits.or(infinity - 1n));
  });
  f.if(rest.ne(0), () => {
    raise(f, out, select(tiny, i32(Flag.PE | Flag.UE), i32(Flag.PE)));
    f.if(up, () => raise(f, out, Flag.C1));
  });
  f.return(signBits.or(value));
}
