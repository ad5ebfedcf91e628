/**
 * Lazy flags. An arithmetic instruction leaves what the flags follow from: a kind, its operands A and B and its result,
 * all sign-extended to 64 bits, so that no later question depends on the operand size: the sign is bit 63, and unsigned
 * order survives sign extension.
 */
import { type CpuFunc, declare, defineCpuFunction, type Target } from "./cpu_function.ts";
import type { Module } from "./wasm/module.ts";
import { type I32, type I64, i64, select, Type } from "./wasm/values.ts";

/** What the lazy fields mean. */
export const FlagKind = {
  /** A holds CF PF AF ZF SF OF at their places in RFLAGS. */
  EXPLICIT: 0,
  /** ZF SF PF follow from the result; A holds CF AF OF at their places. */
  PARTIAL: 1,
  /** result = A + B */
  ADD: 2,
  /** result = A - B */
  SUB: 3,
  /** result = A + B + carry */
  ADC: 4,
  /** result = A - B - borrow */
  SBB: 5,
  /** result = B + 1, CF is bit 0 of A */
  INC: 6,
  /** result = B - 1, CF is bit 0 of A */
  DEC: 7,
} as const;

/** Bits of RFLAGS. */
export const Flag = {
  CF: 0x1,
  PF: 0x4,
  AF: 0x10,
  ZF: 0x40,
  SF: 0x80,
  TF: 0x100,
  IF: 0x200,
  DF: 0x400,
  OF: 0x800,
  IOPL: 0x3000,
  NT: 0x4000,
  RF: 0x1_0000,
  VM: 0x2_0000,
  AC: 0x4_0000,
  VIF: 0x8_0000,
  VIP: 0x10_0000,
  ID: 0x20_0000,
  /** CF PF AF ZF SF OF. */
  ARITHMETIC: 0x8d5,
} as const;

/** The lazy fields: `kind` as a number where it is known when code is generated. */
export interface LazyFlags {
  kind: number | I32;
  a: I64;
  b: I64;
  result: I64;
}

const args = [Type.i32, Type.i64, Type.i64, Type.i64] as const;
const flagBits = declare("flag_bits", args, Type.i32);
const flagCarry = declare("flag_carry", args, Type.i32);
const flagConditions = Array.from(
  { length: 8 },
  (_, condition) => declare(`flag_condition_${condition}`, args, Type.i32),
);

/** The sign of the value as 0 or 1. */
function sign(value: I64): I32 {
  return value.ltS(0);
}

function parity(result: I64): I32 {
  return result.i32().and(0xff).popcnt().and(1).xor(1);
}

function carryOfAdd({ a, b, result }: LazyFlags): I32 {
  return sign(a.and(b).or(a.or(b).and(result.not())));
}
function carryOfSub({ a, b, result }: LazyFlags): I32 {
  return sign(a.not().and(b).or(a.xor(b).not().and(result)));
}
function overflowOfAdd({ a, b, result }: LazyFlags): I32 {
  return sign(a.xor(result).and(b.xor(result)));
}
function overflowOfSub({ a, b, result }: LazyFlags): I32 {
  return sign(a.xor(b).and(a.xor(result)));
}

function overflowOfStep({ kind, b, result }: LazyFlags): I32 {
  return sign(kind === FlagKind.INC ? b.not().and(result) : b.and(result.not()));
}

/** CF as 0 or 1. */
export function carry(f: CpuFunc, flags: LazyFlags): I32 {
  const { kind, a, b, result } = flags;
  switch (kind) {
    case FlagKind.EXPLICIT:
    case FlagKind.PARTIAL:
    case FlagKind.INC:
    case FlagKind.DEC:
      return a.i32().and(1);
    case FlagKind.ADD:
      return result.ltU(a);
    case FlagKind.SUB:
      return a.ltU(b);
    case FlagKind.ADC:
      return carryOfAdd(flags);
    case FlagKind.SBB:
      return carryOfSub(flags);
    default:
      return f.call32(flagCarry, kind as I32, a, b, result);
  }
}

/** CF PF AF ZF SF OF at their places. */
export function bits(f: CpuFunc, flags: LazyFlags): I32 {
  const { kind, a, b, result } = flags;
  if (kind === FlagKind.EXPLICIT) return a.i32();
  if (typeof kind !== "number") return f.call32(flagBits, kind, a, b, result);
  const common = result.eqz().shl(6).or(sign(result).shl(7)).or(parity(result).shl(2));
  if (kind === FlagKind.PARTIAL) return common.or(a.i32());
  if (kind === FlagKind.INC || kind === FlagKind.DEC) {
    const nibble = (kind === FlagKind.INC ? result : b).i32().and(15).eqz();
    return common.or(carry(f, flags)).or(nibble.shl(4)).or(overflowOfStep(flags).shl(11));
  }
  const add = kind === FlagKind.ADD || kind === FlagKind.ADC;
  const overflow = add ? overflowOfAdd(flags) : overflowOfSub(flags);
  return common.or(carry(f, flags)).or(a.xor(b).xor(result).i32().and(Flag.AF)).or(overflow.shl(11));
}

/** Condition code `cc` (low four bits of Jcc's opcode; SDM vol. 1, appendix B) as 0 or 1. */
export function condition(f: CpuFunc, cc: number, flags: LazyFlags): I32 {
  const value = positive(f, cc >> 1, flags);
  return cc & 1 ? value.eqz() : value;
}

function positive(f: CpuFunc, which: number, flags: LazyFlags): I32 {
  const { kind, a, b, result } = flags;
  if (typeof kind !== "number") return f.call32(flagConditions[which], kind, a, b, result);
  if (kind === FlagKind.EXPLICIT) {
    const explicit = a.i32();
    switch (which) {
      case 0:
        return explicit.shrU(11).and(1);
      case 1:
        return explicit.and(1);
      case 2:
        return explicit.shrU(6).and(1);
      case 3:
        return explicit.has(Flag.CF | Flag.ZF);
      case 4:
        return explicit.shrU(7).and(1);
      case 5:
        return explicit.shrU(2).and(1);
      case 6:
        return explicit.shrU(7).xor(explicit.shrU(11)).and(1);
      default:
        return explicit.shrU(7).xor(explicit.shrU(11)).and(1).or(explicit.shrU(6).and(1));
    }
  }
  const zero = result.eqz();
  const sub = kind === FlagKind.SUB;
  const overflow = () =>
    kind === FlagKind.PARTIAL
      ? a.i32().shrU(11).and(1)
      : kind === FlagKind.INC || kind === FlagKind.DEC
      ? overflowOfStep(flags)
      : sub || kind === FlagKind.SBB
      ? overflowOfSub(flags)
      : overflowOfAdd(flags);
  switch (which) {
    case 0:
      return overflow();
    case 1:
      return carry(f, flags);
    case 2:
      return sub ? a.eq(b) : zero;
    case 3:
      return sub ? a.leU(b) : carry(f, flags).or(zero);
    case 4:
      return sign(result);
    case 5:
      return parity(result);
    case 6:
      return sub ? a.ltS(b) : sign(result).xor(overflow());
    default:
      return sub ? a.leS(b) : sign(result).xor(overflow()).or(zero);
  }
}

/** Defines the functions that answer where the kind is known at run time only. */
export function defineFlagFunctions(module: Module, target: Target): void {
  const define = (name: typeof flagBits, answer: (f: CpuFunc, flags: LazyFlags) => I32) =>
    defineCpuFunction(module, target, name, (f) => {
      const fields = (kind: number): LazyFlags => ({
        kind,
        a: f.parameter64(1),
        b: f.parameter64(2),
        result: f.parameter64(3),
      });
      f.switch(
        f.parameter32(0),
        Object.values(FlagKind).slice(0, 7).map((kind) => () => f.return(answer(f, fields(kind)))),
        () => f.return(answer(f, fields(FlagKind.DEC))),
      );
    });
  define(flagBits, bits);
  define(flagCarry, carry);
  flagConditions.forEach((name, which) => define(name, (f, flags) => positive(f, which, flags)));
}

/** A mask of all ones when the condition (0 or 1) holds. */
export function maskOf(value: I32): I64 {
  return i64(0).sub(value.i64u());
}

export { select };
