/**
 * The x87's register stack, status word and exceptions as Wasm functions around the arithmetic of float80.ts (SDM
 * vol. 1, chapter 8).
 *
 * An instruction works on operands by stack index. What it leaves is decided by the flags it raised and the masks: with
 * IE, DE or ZE unmasked nothing is written and nothing popped; the pending exception is raised by the next waiting
 * instruction.
 */
import { type CpuFunc, declare, defineCpuFunction, type Target } from "../cpu_function.ts";
import { State } from "../layout.ts";
import type { Local } from "../wasm/function.ts";
import { type Pointer, pointerOf32 } from "../wasm/memory.ts";
import type { Module } from "../wasm/module.ts";
import { type I32, i32, type I64, i64, select, Type } from "../wasm/values.ts";
import {
  Flag,
  float80Add,
  float80Compare,
  float80Divide,
  float80FromDouble,
  float80FromInteger,
  float80FromSingle,
  float80Multiply,
  float80Remainder,
  float80RoundToInteger,
  float80Scale,
  float80SquareRoot,
  float80ToDouble,
  float80ToInteger,
  float80ToSingle,
  NO_QUOTIENT,
  OUT_FLAGS,
  OUT_SIGN_EXPONENT,
  OUT_SIGNIFICAND,
} from "./float80.ts";
import { callTranscendental } from "./import.ts";
import { Transcendental } from "./transcendental.ts";

/** Status word: stack fault, condition codes (SDM vol. 1, figure 8-4). */
export const SF = 0x40;
export const C0 = 0x100;
export const C1 = 0x200;
export const C2 = 0x400;
export const C3 = 0x4000;
const STACK_FAULT = Flag.IE | SF;
/** Exceptions that, unmasked, leave the operands as they are. */
const BEFORE = Flag.IE | Flag.DE | Flag.ZE;

/** The operand in {@link State.FPU_OPERANDS} instead of a register. */
export const MEMORY = 8;
/** Numbers of {@link binary}'s operations. */
export const Binary = { ADD: 0, SUB: 1, MUL: 2, DIV: 3, SCALE: 4, PREM: 5, PREM1: 6, TRANSCENDENTAL: 7 } as const;
/** Kinds of memory operands. */
export const Kind = { SINGLE: 0, DOUBLE: 1, INTEGER: 2, TRUNCATED: 3 } as const;
/** What a comparison may do besides its flags: signal for quiet NaNs; set EFLAGS. */
export const Compare = { QUIET: 0, SIGNALLING: 1 } as const;

const I = Type.i32;
/** (flags of the status word, C1 included) -> those of them that are unmasked. */
export const raiseFlags = declare("x87_raise", [I], I);
export const popStack = declare("x87_pop", [], null);
/** (operation, destination, index a, index b, registers to pop) */
export const binary = declare("x87_binary", [I, I, I, I, I], null);
/** (0 FSQRT, 1 FRNDINT) */
export const unary = declare("x87_unary", [I], null);
/** (kind, bits of memory): loads to FPU_OPERANDS, conversion flags in SSE_FLAGS. */
export const fetchOperand = declare("x87_fetch", [I, Type.i64], null);
/** (significand, sign and exponent, flags): pushes unless they forbid it. */
export const push = declare("x87_push", [Type.i64, I, I], null);
/** (index): FLD ST(i). */
export const pushRegister = declare("x87_push_register", [I], null);
/** (index b, signals, registers to pop, 1 when for EFLAGS) -> CF PF ZF at their places. */
export const compare = declare("x87_compare", [I, I, I, I], I);
/** (kind, bits) -> what ST(0) is in memory; flags at FPU_OUT. */
export const toMemory = declare("x87_to_memory", [I, I], Type.i64);
/** (index, 1 to pop): FST ST(i). */
export const copyTo = declare("x87_copy_to", [I, I], null);
export const exchange = declare("x87_exchange", [I], null);
/** (condition, index): FCMOVcc. */
export const moveWhen = declare("x87_move_when", [I, I], null);
export const examine = declare("x87_examine", [], null);
/** (0 FABS, 1 FCHS) */
export const changeSign = declare("x87_change_sign", [I], null);
export const extract = declare("x87_extract", [], null);
/** (number of a function of one operand: F2XM1 FSIN FCOS; FPTAN pushes 1, 7 is FSINCOS) */
export const transcendentalOf = declare("x87_transcendental_of", [I], null);
/** -> the two words of ST(0) as a packed decimal; the upper at SCRATCH. */
export const toDecimal = declare("x87_to_decimal", [], Type.i64);

/** The tag word by what the registers hold (SDM vol. 1, 8.1.7). */
export const tagWord = declare("x87_tag_word", [], I);
export const initialize = declare("x87_initialize", [], null);

const SIG = State.FPU_OUT + OUT_SIGNIFICAND;
const EXP = State.FPU_OUT + OUT_SIGN_EXPONENT;
const FLAGS = State.FPU_OUT + OUT_FLAGS;

const out = (f: CpuFunc) => f.place(State.FPU_OUT);
const physical = (f: CpuFunc, index: I32) => index.add(f.s16(State.FSW).shrU(11)).and(7);

/** Address of ST(index). */
export function place(f: CpuFunc, index: I32): Local<Pointer> {
  return f.pointer(pointerOf32(physical(f, index).shl(4)).add(f.place(State.X87)));
}
/** Whether ST(index) is empty, as 0 or 1. */
export function isEmpty(f: CpuFunc, index: I32): I32 {
  return f.s16(State.FTW).shrU(physical(f, index).shl(1)).and(3).eq(3);
}
function setTag(f: CpuFunc, index: I32, empty: boolean): void {
  const bits = i32(3).shl(physical(f, index).shl(1));
  const tags = f.s16(State.FTW);
  f.set16(State.FTW, empty ? tags.or(bits) : tags.and(bits.xor(-1)));
}
function write(f: CpuFunc, index: I32, sig: I64, exp: I32): void {
  const at = place(f, index);
  f.store64(at, sig);
  f.store16(at, exp, 8);
  setTag(f, index, false);
}
function writeIndefinite(f: CpuFunc, index: I32): void {
  write(f, index, i64(3n << 62n), i32(0xffff));
}
function popTimes(f: CpuFunc, times: I32): void {
  f.if(times, () => {
    f.do(popStack);
    f.if(times.eq(2), () => f.do(popStack));
  });
}
const isNan = (sig: I64, exp: I32) => exp.and(0x7fff).eq(0x7fff).and(sig.shl(1).ne(0)).and(sig.ltS(0));

/** An operand: a register, or the one fetched from memory. */
function operand(f: CpuFunc, index: I32): { sig: Local<I64>; exp: Local<I32> } {
  const sig = f.i64(), exp = f.i32();
  f.if(index.eq(MEMORY), () => {
    f.set(sig, f.s64(State.FPU_OPERANDS));
    f.set(exp, f.s16(State.FPU_OPERANDS + 8));
  }, () => {
    const at = place(f, index);
    f.set(sig, at.i64());
    f.set(exp, at.u16(8));
  });
  return { sig, exp };
}
const isMissing = (f: CpuFunc, index: I32) => select(index.eq(MEMORY), i32(0), isEmpty(f, index));

/** Decrements TOP. */
function descend(f: CpuFunc): void {
  const status = f.s16(State.FSW);
  f.set16(State.FSW, status.and(~0x3800).or(status.sub(0x800).and(0x3800)));
}

export function defineStack(module: Module, target: Target): void {
  const define = (name: ReturnType<typeof declare>, body: (f: CpuFunc) => void) =>
    defineCpuFunction(module, target, name, body);

  define(raiseFlags, (f) => {
    const flags = f.i32(f.parameter32(0).and(0x27f));
    const masks = f.i32(f.s16(State.FCW).and(0x3f));
    // When an operand is refused, nothing was computed that could overflow or be rounded.
    f.if(flags.and(masks.xor(-1)).and(BEFORE), () => {
      f.set(flags, flags.and(select(flags.has(SF), i32(BEFORE | SF | C1), i32(BEFORE))));
    });
    const status = f.i32(f.s16(State.FSW).and(~C1).or(flags));
    f.if(status.and(masks.xor(-1)).and(0x3f), () => f.set(status, status.or(0x8080)));
    f.set16(State.FSW, status);
    f.return(flags.and(masks.xor(-1)).and(0x3f));
  });

  define(popStack, (f) => {
    setTag(f, i32(0), true);
    const status = f.s16(State.FSW);
    f.set16(State.FSW, status.and(~0x3800).or(status.add(0x800).and(0x3800)));
  });

  define(binary, (f) => {
    const operation = f.parameter32(0);
    const destination = f.parameter32(1);
    const pops = f.parameter32(4);
    const isRemainder = () => operation.eq(Binary.PREM).or(operation.eq(Binary.PREM1));
    // Whatever comes of it, a remainder begins by saying that it is complete.
    f.if(isRemainder(), () => f.set16(State.FSW, f.s16(State.FSW).and(~C2)));
    f.if(isMissing(f, f.parameter32(2)).or(isMissing(f, f.parameter32(3))), () => {
      f.if(f.call32(raiseFlags, STACK_FAULT).eqz(), () => {
        writeIndefinite(f, destination);
        popTimes(f, pops);
      });
      f.return();
    });
    const a = operand(f, f.parameter32(2));
    const b = operand(f, f.parameter32(3));
    const control = f.i32(f.s16(State.FCW));
    const conditions = f.i32(0);
    f.set32(FLAGS, 0);
    const args = () => [out(f), a.sig, a.exp, b.sig, b.exp] as const;
    const unmaskedUnderflow = () => control.xor(-1).shrU(3).and(2);
    const remainder = (kind: number) => () => {
      f.set(conditions, f.call32(float80Remainder, ...args(), unmaskedUnderflow().or(kind)));
    };
    f.switch(operation, [
      () => f.do(float80Add, ...args(), control),
      () => {
        f.if(isNan(b.sig, b.exp).eqz(), () => f.set(b.exp, b.exp.xor(0x8000)));
        f.do(float80Add, ...args(), control);
      },
      () => f.do(float80Multiply, ...args(), control),
      () => f.do(float80Divide, ...args(), control),
      () => f.do(float80Scale, ...args(), control),
      remainder(0),
      remainder(1),
    ], () => {
      f.set64(State.FPU_OPERANDS, a.sig);
      f.set32(State.FPU_OPERANDS + 8, a.exp);
      f.set64(State.FPU_OPERANDS + 16, b.sig);
      f.set32(State.FPU_OPERANDS + 24, b.exp);
      f.do(callTranscendental, operation.sub(Binary.TRANSCENDENTAL));
    });
    const flags = f.i32(f.s32(FLAGS));
    // A denormal in memory counts unless something worse happened.
    const fromMemory = f.i32(f.parameter32(2).eq(MEMORY).or(f.parameter32(3).eq(MEMORY)));
    f.if(fromMemory.and(flags.has(Flag.IE | Flag.ZE).eqz()), () => {
      f.if(isNan(a.sig, a.exp).or(isNan(b.sig, b.exp)).eqz(), () => {
        f.set(flags, flags.or(f.s32(State.SSE_FLAGS).and(Flag.DE)));
      });
    });
    f.if(isRemainder(), () => {
      f.set(flags, flags.and(0x3f));
      f.if(flags.and(f.s16(State.FCW).xor(-1)).and(BEFORE).eqz(), () => {
        // Without a quotient only C2 changes.
        const changed = select(conditions.has(NO_QUOTIENT), i32(~C2), i32(~(C0 | C2 | C3)));
        f.set16(State.FSW, f.s16(State.FSW).and(changed).or(conditions.and(C0 | C2 | C3)));
        f.set(flags, flags.or(conditions.and(C1)));
      });
    });
    f.if(f.call32(raiseFlags, flags).has(BEFORE), () => f.return());
    write(f, destination, f.s64(SIG), f.s32(EXP));
    popTimes(f, pops);
  });

  define(unary, (f) => {
    f.if(isEmpty(f, i32(0)), () => {
      f.if(f.call32(raiseFlags, STACK_FAULT).eqz(), () => writeIndefinite(f, i32(0)));
      f.return();
    });
    const a = operand(f, i32(0));
    f.set32(FLAGS, 0);
    const control = f.s16(State.FCW);
    f.if(f.parameter32(0), () => f.do(float80RoundToInteger, out(f), a.sig, a.exp, control), () => {
      f.do(float80SquareRoot, out(f), a.sig, a.exp, control);
    });
    f.if(f.call32(raiseFlags, f.s32(FLAGS)).has(BEFORE), () => f.return());
    write(f, i32(0), f.s64(SIG), f.s32(EXP));
  });

  define(fetchOperand, (f) => {
    const kind = f.parameter32(0);
    const value = f.parameter64(1);
    f.set32(FLAGS, 0);
    f.if(kind.geU(Kind.INTEGER), () => f.do(float80FromInteger, out(f), value), () => {
      f.if(kind, () => f.do(float80FromDouble, out(f), value), () => f.do(float80FromSingle, out(f), value));
    });
    const flags = f.i32(f.s32(FLAGS));
    f.set32(State.SSE_FLAGS, flags);
    // A signalling NaN stays one for the operation.
    const quiet = 1n << 62n;
    f.set64(State.FPU_OPERANDS, select(flags.has(Flag.IE), f.s64(SIG).and(~quiet), f.s64(SIG)));
    f.set32(State.FPU_OPERANDS + 8, f.s32(EXP));
  });

  define(push, (f) => {
    const overflow = f.i32(isEmpty(f, i32(7)).eqz());
    const flags = f.i32(select(overflow, i32(STACK_FAULT | C1), f.parameter32(2)));
    // A denormal is loaded even when its exception is not masked.
    f.if(f.call32(raiseFlags, flags).has(Flag.IE), () => f.return());
    descend(f);
    f.if(overflow, () => writeIndefinite(f, i32(0)), () => {
      write(f, i32(0), f.parameter64(0), f.parameter32(1));
    });
  });

  define(pushRegister, (f) => {
    const index = f.parameter32(0);
    f.if(isEmpty(f, index), () => {
      f.if(f.call32(raiseFlags, STACK_FAULT).eqz(), () => {
        descend(f);
        writeIndefinite(f, i32(0));
      });
      f.return();
    });
    const a = operand(f, index);
    f.do(push, a.sig, a.exp, 0);
  });

  define(compare, (f) => {
    const index = f.parameter32(0);
    const pops = f.parameter32(2);
    const toFlags = f.parameter32(3);
    const result = f.i32(3);
    const flags = f.i32(0);
    f.if(isEmpty(f, i32(0)).or(isMissing(f, index)), () => f.set(flags, STACK_FAULT), () => {
      const a = operand(f, i32(0));
      const b = operand(f, index);
      f.set32(FLAGS, 0);
      f.set(result, f.call32(float80Compare, out(f), a.sig, a.exp, b.sig, b.exp, f.parameter32(1)));
      f.set(flags, f.s32(FLAGS).and(0x3f));
      f.if(index.eq(MEMORY).and(result.ne(3)), () => f.set(flags, flags.or(f.s32(State.SSE_FLAGS).and(Flag.DE))));
    });
    // Comparison to EFLAGS leaves C1 as it is, but for a stack fault (as AMD's processors do).
    const before = f.i32(f.s16(State.FSW).and(C1));
    const unmasked = f.i32(f.call32(raiseFlags, flags));
    f.if(toFlags.and(flags.has(SF).eqz()), () => f.set16(State.FSW, f.s16(State.FSW).or(before)));
    // 0 greater, 1 less, 2 equal, 3 unordered (SDM vol. 1, tables 8-6 and 8-7).
    const less = result.eq(1).or(result.eq(3));
    const equal = result.shrU(1);
    const unordered = result.eq(3);
    f.if(toFlags.eqz(), () => {
      const codes = less.mul(C0).or(unordered.mul(C2)).or(equal.mul(C3));
      f.set16(State.FSW, f.s16(State.FSW).and(~(C0 | C2 | C3)).or(codes));
    });
    f.if(unmasked.has(BEFORE).eqz(), () => popTimes(f, pops));
    f.return(less.or(unordered.shl(2)).or(equal.shl(6)));
  });

  define(toMemory, (f) => {
    const kind = f.parameter32(0);
    const bits = f.parameter32(1);
    const control = f.i32(f.s16(State.FCW));
    f.set32(FLAGS, 0);
    f.if(isEmpty(f, i32(0)), () => {
      f.set32(FLAGS, STACK_FAULT);
      f.if(kind.eqz(), () => f.return(i64(0xffc0_0000)));
      f.if(kind.eq(Kind.DOUBLE), () => f.return(i64(0xfff8n << 48n)));
      f.return(i64(-1).shl(bits.sub(1).i64u()));
    });
    const a = operand(f, i32(0));
    f.if(kind.geU(Kind.INTEGER), () => {
      const rounding = select(kind.eq(Kind.TRUNCATED), control.or(0xc00), control as I32);
      f.return(f.call64(float80ToInteger, out(f), a.sig, a.exp, rounding, bits));
    });
    const r = f.i64();
    f.if(kind, () => f.set(r, f.call64(float80ToDouble, out(f), a.sig, a.exp, control)), () => {
      f.set(r, f.call64(float80ToSingle, out(f), a.sig, a.exp, control));
    });
    // Unmasked, underflow is told of exact results too.
    const magnitude = f.i64(select(kind, r.shl(1), r.shl(33)));
    const denormal = magnitude.ne(0).and(select(kind, magnitude.shrU(53), magnitude.shrU(56)).eqz());
    f.if(control.and(0x10).eqz().and(denormal), () => f.set32(FLAGS, f.s32(FLAGS).or(Flag.UE)));
    f.return(r);
  });

  define(copyTo, (f) => {
    f.if(isEmpty(f, i32(0)), () => {
      f.if(f.call32(raiseFlags, STACK_FAULT).eqz(), () => {
        writeIndefinite(f, f.parameter32(0));
        popTimes(f, f.parameter32(1));
      });
      f.return();
    });
    const a = operand(f, i32(0));
    write(f, f.parameter32(0), a.sig, a.exp);
    f.drop(f.call32(raiseFlags, 0));
    popTimes(f, f.parameter32(1));
  });

  define(exchange, (f) => {
    const index = f.parameter32(0);
    const first = f.i32(isEmpty(f, i32(0)));
    const second = f.i32(isEmpty(f, index));
    f.if(first.or(second), () => {
      f.if(f.call32(raiseFlags, STACK_FAULT), () => f.return());
      f.if(first, () => writeIndefinite(f, i32(0)));
      f.if(second, () => writeIndefinite(f, index));
    }, () => f.drop(f.call32(raiseFlags, 0)));
    const a = operand(f, i32(0));
    const b = operand(f, index);
    write(f, i32(0), b.sig, b.exp);
    write(f, index, a.sig, a.exp);
  });

  define(moveWhen, (f) => {
    const index = f.parameter32(1);
    f.if(isEmpty(f, i32(0)).or(isEmpty(f, index)), () => {
      f.if(f.call32(raiseFlags, STACK_FAULT).eqz(), () => writeIndefinite(f, i32(0)));
      f.return();
    });
    f.if(f.parameter32(0), () => {
      const b = operand(f, index);
      write(f, i32(0), b.sig, b.exp);
    });
  });

  define(examine, (f) => {
    const a = operand(f, i32(0));
    const exponent = f.i32(a.exp.and(0x7fff));
    // SDM vol. 2, FXAM: unsupported 0, NaN C0, normal C2, infinity C2 C0, zero C3, empty C3 C0, denormal C3 C2.
    const codes = f.i32(C2);
    f.if(isEmpty(f, i32(0)), () => f.set(codes, C3 | C0), () => {
      f.if(exponent.eqz(), () => f.set(codes, select(a.sig.eqz(), i32(C3), i32(C3 | C2))), () => {
        f.if(a.sig.geS(0), () => f.set(codes, 0), () => {
          f.if(exponent.eq(0x7fff), () => f.set(codes, select(a.sig.shl(1).eqz(), i32(C2 | C0), i32(C0))));
        });
      });
    });
    const sign = a.exp.shrU(15).and(1).mul(C1);
    f.set16(State.FSW, f.s16(State.FSW).and(~(C0 | C1 | C2 | C3)).or(codes).or(sign));
  });

  define(changeSign, (f) => {
    f.if(isEmpty(f, i32(0)), () => {
      f.if(f.call32(raiseFlags, STACK_FAULT).eqz(), () => writeIndefinite(f, i32(0)));
      f.return();
    });
    f.drop(f.call32(raiseFlags, 0));
    const at = place(f, i32(0));
    f.store16(at, select(f.parameter32(0), at.u16(8).xor(0x8000), at.u16(8).and(0x7fff)), 8);
  });

  define(extract, (f) => {
    const empty = f.i32(isEmpty(f, i32(0)));
    const full = f.i32(isEmpty(f, i32(7)).eqz());
    f.if(empty.or(full), () => {
      f.if(f.call32(raiseFlags, select(empty, i32(STACK_FAULT), i32(STACK_FAULT | C1))).eqz(), () => {
        writeIndefinite(f, i32(0));
        descend(f);
        writeIndefinite(f, i32(0));
      });
      f.return();
    });
    const a = operand(f, i32(0));
    const exponent = f.i32(a.exp.and(0x7fff));
    const sign = f.i32(a.exp.and(0x8000));
    const flags = f.i32(0);
    const significand = f.i64(a.sig);
    const head = f.i32(sign.or(0x3fff));
    f.set32(FLAGS, 0);
    f.block((done) => {
      const special = (sig: I64, exp: I32, newHead: I32, newSig: I64) => {
        f.set64(SIG, sig);
        f.set32(EXP, exp);
        f.set(head, newHead);
        f.set(significand, newSig);
        f.br(done);
      };
      f.if(exponent.ne(0).and(a.sig.geS(0)), () => {
        f.set(flags, Flag.IE);
        special(i64(3n << 62n), i32(0xffff), i32(0xffff), i64(3n << 62n));
      });
      f.if(exponent.eq(0x7fff), () => {
        f.if(a.sig.shl(1).eqz(), () => special(i64(1n << 63n), i32(0x7fff), a.exp as I32, a.sig as I64));
        f.if(a.sig.and(1n << 62n).eqz(), () => f.set(flags, Flag.IE));
        const quiet = f.i64(a.sig.or(1n << 62n));
        special(quiet, a.exp as I32, a.exp as I32, quiet);
      });
      f.if(a.sig.eqz(), () => {
        f.set(flags, Flag.ZE);
        special(i64(1n << 63n), i32(0xffff), sign as I32, i64(0));
      });
      f.if(exponent.eqz(), () => {
        f.set(flags, Flag.DE);
        f.set(exponent, i32(1).sub(a.sig.clz().i32()));
        f.set(significand, a.sig.shl(a.sig.clz()));
      });
      f.do(float80FromInteger, out(f), exponent.sub(16383).i64s());
    });
    f.if(f.call32(raiseFlags, flags).has(BEFORE), () => f.return());
    write(f, i32(0), f.s64(SIG), f.s32(EXP));
    descend(f);
    write(f, i32(0), significand, head);
  });

  define(transcendentalOf, (f) => {
    const number = f.parameter32(0);
    const pushes = f.i32(number.eq(Transcendental.FPTAN).or(number.eq(7)));
    f.if(number.geU(Transcendental.FPTAN), () => f.set16(State.FSW, f.s16(State.FSW).and(~C2)));
    const empty = f.i32(isEmpty(f, i32(0)));
    const full = f.i32(pushes.and(isEmpty(f, i32(7)).eqz()));
    f.if(empty.or(full), () => {
      f.if(f.call32(raiseFlags, select(empty, i32(STACK_FAULT), i32(STACK_FAULT | C1))).eqz(), () => {
        writeIndefinite(f, i32(0));
        f.if(pushes, () => {
          descend(f);
          writeIndefinite(f, i32(0));
        });
      });
      f.return();
    });
    const a = operand(f, i32(0));
    f.set64(State.FPU_OPERANDS, a.sig);
    f.set32(State.FPU_OPERANDS + 8, a.exp);
    f.do(callTranscendental, select(number.eq(7), i32(Transcendental.FCOS), number as I32));
    const cosine = f.i64(f.s64(SIG));
    const cosineExponent = f.i32(f.s32(EXP));
    const flags = f.i32(f.s32(FLAGS));
    f.if(number.eq(7), () => {
      f.do(callTranscendental, Transcendental.FSIN);
      f.set(flags, flags.or(f.s32(FLAGS).and(0x3f)));
    });
    f.if(f.call32(raiseFlags, flags).has(BEFORE), () => f.return());
    f.if(number.geU(Transcendental.FPTAN), () => {
      f.set16(State.FSW, f.s16(State.FSW).or(flags.and(C2)));
      // Out of range: nothing is written.
      f.if(flags.has(C2), () => f.return());
    });
    write(f, i32(0), f.s64(SIG), f.s32(EXP));
    f.if(pushes, () => {
      descend(f);
      f.if(number.eq(7), () => write(f, i32(0), cosine, cosineExponent), () => {
        // FPTAN pushes 1, or the same NaN.
        const nan = f.i32(isNan(f.s64(SIG), f.s32(EXP)));
        write(f, i32(0), select(nan, f.s64(SIG), i64(1n << 63n)), select(nan, f.s32(EXP), i32(0x3fff)));
      });
    });
  });

  define(toDecimal, (f) => {
    f.set32(FLAGS, 0);
    const indefinite = () => {
      f.set64(State.SCRATCH, 0xffff);
      f.return(i64(0xc000n << 48n));
    };
    f.if(isEmpty(f, i32(0)), () => {
      f.set32(FLAGS, STACK_FAULT);
      indefinite();
    });
    const a = operand(f, i32(0));
    const value = f.i64(f.call64(float80ToInteger, out(f), a.sig, a.exp, f.s16(State.FCW), 64));
    const magnitude = f.i64(select(value.ltS(0), value.neg(), value as I64));
    f.if(f.s32(FLAGS).has(Flag.IE).or(magnitude.geU(10n ** 18n)), () => {
      f.set32(FLAGS, Flag.IE);
      indefinite();
    });
    const low = f.i64(0);
    const digit = f.i64(0);
    f.loop((again) => {
      f.set(low, low.or(magnitude.remU(10).shl(digit)));
      f.set(magnitude, magnitude.divU(10));
      f.set(digit, digit.add(4));
      f.brIf(again, digit.ltU(64));
    });
    f.set64(
      State.SCRATCH,
      magnitude.remU(10).or(magnitude.divU(10).shl(4)).or(a.exp.and(0x8000).i64u()),
    );
    f.return(low);
  });

  define(tagWord, (f) => {
    const tags = f.i32(f.s16(State.FTW));
    const register = f.i32(0);
    f.loop((again) => {
      const at = f.pointer(pointerOf32(register.shl(4)).add(f.place(State.X87)));
      const shift = f.i32(register.shl(1));
      f.if(tags.shrU(shift).and(3).ne(3), () => {
        const exponent = f.i32(at.u16(8).and(0x7fff));
        const zero = exponent.eqz().and(at.i64().eqz());
        const special = exponent.eqz().or(exponent.eq(0x7fff)).or(at.i64().geS(0));
        const tag = select(zero, i32(1), special.shl(1));
        f.set(tags, tags.and(i32(3).shl(shift).xor(-1)).or(tag.shl(shift)));
      });
      f.set(register, register.add(1));
      f.brIf(again, register.ltU(8));
    });
    f.return(tags);
  });

  define(initialize, (f) => {
    f.set16(State.FCW, 0x37f);
    f.set16(State.FSW, 0);
    f.set16(State.FTW, 0xffff);
    f.set16(State.FOP, 0);
    f.set64(State.FIP, 0);
    f.set64(State.FDP, 0);
  });
}
