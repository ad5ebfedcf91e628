/** x87: every instruction, by the opcode's low three bits (SDM vol. 2, B.17). */
import { type Emitter, loadForWriteSlow, Vector } from "../emitter.ts";
import { State } from "../layout.ts";
import { controlWord, statusWord } from "../sse/fpu_image.ts";
import { ES } from "../sse/state.ts";
import type { Local } from "../wasm/function.ts";
import { pointerOf32 } from "../wasm/memory.ts";
import { type I32, i32, type I64, i64, select } from "../wasm/values.ts";
import { Flag, OUT_FLAGS } from "../x87/float80.ts";
import {
  Binary,
  binary,
  C1,
  changeSign,
  Compare,
  compare,
  copyTo,
  examine,
  exchange,
  extract,
  fetchOperand,
  initialize,
  isEmpty,
  Kind,
  MEMORY,
  moveWhen,
  place,
  popStack,
  push,
  pushRegister,
  raiseFlags,
  tagWord,
  toDecimal,
  toMemory,
  transcendentalOf,
  unary,
} from "../x87/stack.ts";
import { Transcendental } from "../x87/transcendental.ts";
import { type Emit, op } from "./table.ts";

const x87 = { unit: "x87" } as const;

/** Rows of instructions that first raise what is pending. */
function waiting(name: string, encoding: string, operands: string, emit: Emit, traits: { modal?: boolean } = {}): void {
  op(name, encoding, operands, (e) => {
    e.raiseIf(e.f.s16(State.FSW).has(ES), Vector.MF);
    emit(e);
  }, { ...x87, ...traits });
}

/** The register that ModR/M.rm names. */
const register = (e: Emitter): I32 => e.immediate(0).i32();

/** Fetches the memory operand, which is the only one. */
function fetch(e: Emitter, kind: number): void {
  const value = kind === Kind.INTEGER ? e.read(0) : e.readUnsigned(0);
  e.f.do(fetchOperand, kind, value);
}

// Arithmetic of two operands, the operation in ModR/M.reg.
const operations: [string, number, boolean][] = [
  ["fadd", Binary.ADD, false],
  ["fmul", Binary.MUL, false],
  ["fcom", -1, false],
  ["fcomp", -1, true],
  ["fsub", Binary.SUB, false],
  ["fsubr", Binary.SUB, true],
  ["fdiv", Binary.DIV, false],
  ["fdivr", Binary.DIV, true],
];
operations.forEach(([name, operation, second], reg) => {
  for (
    const [opcode, letter, kind] of [
      ["D8", "d", Kind.SINGLE],
      ["DC", "q", Kind.DOUBLE],
      ["DA", "d", Kind.INTEGER],
      ["DE", "w", Kind.INTEGER],
    ] as const
  ) {
    waiting(`${name}_memory${kind}`, `${opcode} /${reg} modm`, `M${letter}`, (e) => {
      fetch(e, kind);
      if (operation < 0) e.f.drop(e.f.call32(compare, MEMORY, Compare.SIGNALLING, second ? 1 : 0, 0));
      else e.f.do(binary, operation, 0, second ? MEMORY : 0, second ? 0 : MEMORY, 0);
    });
  }
  if (operation < 0) return;
  const a = (e: Emitter) => (second ? register(e) : i32(0));
  const b = (e: Emitter) => (second ? i32(0) : register(e));
  waiting(name, `D8 /${reg} mod3`, "T", (e) => e.f.do(binary, operation, 0, a(e), b(e), 0));
  // With ST(i) as destination the operands keep their places: what is FSUBR there is ST(0) - ST(i).
  waiting(`${name}_to`, `DC /${reg} mod3`, "T", (e) => e.f.do(binary, operation, register(e), a(e), b(e), 0));
  waiting(`${name}_pop`, `DE /${reg} mod3`, "T", (e) => e.f.do(binary, operation, register(e), a(e), b(e), 1));
});

// Comparison.
const comparison = (signals: number, pops: number, index?: number): Emit => (e) => {
  e.f.drop(e.f.call32(compare, index ?? register(e), signals, pops, 0));
};
for (const opcode of ["D8", "DC"]) {
  waiting("fcom", `${opcode} /2 mod3`, "T", comparison(1, 0));
  waiting("fcomp", `${opcode} /3 mod3`, "T", comparison(1, 1));
}
waiting("fcomp", "DE /2 mod3", "T", comparison(1, 1));
waiting("fcompp", "DE /3 mod3 rm1", "", comparison(1, 2, 1));
waiting("fucom", "DD /4 mod3", "T", comparison(0, 0));
waiting("fucomp", "DD /5 mod3", "T", comparison(0, 1));
waiting("fucompp", "DA /5 mod3 rm1", "", comparison(0, 2, 1));
const comparisonToFlags = (signals: number, pops: number): Emit => (e) => {
  e.flagsExplicit(e.f.i32(e.f.call32(compare, register(e), signals, pops, 1)));
};
waiting("fcomi", "DB /6 mod3", "T", comparisonToFlags(1, 0));
waiting("fcomip", "DF /6 mod3", "T", comparisonToFlags(1, 1));
waiting("fucomi", "DB /5 mod3", "T", comparisonToFlags(0, 0));
waiting("fucomip", "DF /5 mod3", "T", comparisonToFlags(0, 1));
waiting("ftst", "D9 /4 mod3 rm4", "", (e) => {
  const { f } = e;
  f.do(fetchOperand, Kind.INTEGER, 0);
  f.drop(f.call32(compare, MEMORY, Compare.SIGNALLING, 0, 0));
});
waiting("fxam", "D9 /4 mod3 rm5", "", (e) => e.f.do(examine));

// Loads.
const load = (kind: number): Emit => (e) => {
  fetch(e, kind);
  const { f } = e;
  const flags = f.i32(f.s32(State.SSE_FLAGS));
  const quiet = select(flags.has(Flag.IE), i64(1n << 62n), i64(0));
  f.do(push, f.s64(State.FPU_OPERANDS).or(quiet), f.s16(State.FPU_OPERANDS + 8), flags);
};
waiting("fld_single", "D9 /0 modm", "Md", load(Kind.SINGLE));
waiting("fld_double", "DD /0 modm", "Mq", load(Kind.DOUBLE));
waiting("fild", "DF /0 modm", "Mw", load(Kind.INTEGER));
waiting("fild", "DB /0 modm", "Md", load(Kind.INTEGER));
waiting("fild", "DF /5 modm", "Mq", load(Kind.INTEGER));
waiting("fld_extended", "DB /5 modm", "M", (e) => {
  const address = e.address(0);
  const rest = e.load(e.f.i64(address.add(8)), 16);
  const significand = e.load(address, 64);
  e.f.do(push, significand, rest.i32(), 0);
});
waiting("fld", "D9 /0 mod3", "T", (e) => e.f.do(pushRegister, register(e)));
waiting("fbld", "DF /4 modm", "M", (e) => {
  const { f } = e;
  const address = e.address(0);
  const rest = e.loadUnsigned(f.i64(address.add(8)), 16);
  const digits = e.loadUnsigned(address, 64);
  const value = f.i64(rest.shrU(4).and(15).mul(10).add(rest.and(15)));
  const shift = f.i64(60);
  f.loop((again) => {
    f.set(value, value.mul(10).add(digits.shrU(shift).and(15)));
    f.set(shift, shift.sub(4));
    f.brIf(again, shift.geS(0));
  });
  f.do(fetchOperand, Kind.INTEGER, value);
  const sign = rest.i32().and(0x8000);
  f.do(push, f.s64(State.FPU_OPERANDS), f.s16(State.FPU_OPERANDS + 8).or(sign), 0);
});

// Constants: the significand by rounding mode nearest, down, up, zero (SDM vol. 2, FLD1).
const constants: [string, number, bigint, number[]][] = [
  ["fld1", 0x3fff, 0x8000_0000_0000_0000n, [0, 0, 0, 0]],
  ["fldl2t", 0x4000, 0xd49a_784b_cd1b_8afen, [0, 0, 1, 0]],
  ["fldl2e", 0x3fff, 0xb8aa_3b29_5c17_f0bbn, [1, 0, 1, 0]],
  ["fldpi", 0x4000, 0xc90f_daa2_2168_c234n, [1, 0, 1, 0]],
  ["fldlg2", 0x3ffd, 0x9a20_9a84_fbcf_f798n, [1, 0, 1, 0]],
  ["fldln2", 0x3ffe, 0xb172_17f7_d1cf_79abn, [1, 0, 1, 0]],
  ["fldz", 0, 0n, [0, 0, 0, 0]],
];
constants.forEach(([name, exponent, significand, up], n) => {
  const mask = up.reduce((bits, one, mode) => bits | (one << mode), 0);
  waiting(name, `D9 /5 mod3 rm${n}`, "", (e) => {
    const rounding = e.f.s16(State.FCW).shrU(10).and(3);
    e.f.do(push, i64(significand).add(i32(mask).shrU(rounding).and(1).i64u()), exponent, 0);
  });
});

// Stores. Memory is written before the status is, so that a page fault changes nothing.
const outFlags = State.FPU_OUT + OUT_FLAGS;
function storing(e: Emitter, pops: boolean, write: () => void): void {
  const { f } = e;
  const flags = f.i32(f.s32(outFlags));
  const blocked = f.i32(flags.and(f.s16(State.FCW).xor(-1)).and(Flag.IE | Flag.OE | Flag.UE));
  f.if(blocked.eqz(), write, () => {
    // The operand must be writable all the same.
    const bytes = Math.max(e.operands[0].bits >> 3, 2);
    f.drop(f.call64(loadForWriteSlow, e.address(0), Math.min(bytes, 8)));
    e.faultIf(f.s32(State.FAULT));
  });
  // What would have been lost is not told when nothing is stored.
  f.drop(f.call32(raiseFlags, select(blocked.has(Flag.OE | Flag.UE), flags.and(~(Flag.PE | Flag.C1)), flags as I32)));
  if (pops) f.if(blocked.eqz(), () => f.do(popStack));
}
const store = (kind: number, pops: boolean): Emit => (e) => {
  const { bits } = e.operands[0];
  const value = e.f.i64(e.f.call64(toMemory, kind, bits));
  storing(e, pops, () => e.store(e.address(0), bits, value));
};
waiting("fst_single", "D9 /2 modm", "Md", store(Kind.SINGLE, false));
waiting("fstp_single", "D9 /3 modm", "Md", store(Kind.SINGLE, true));
waiting("fst_double", "DD /2 modm", "Mq", store(Kind.DOUBLE, false));
waiting("fstp_double", "DD /3 modm", "Mq", store(Kind.DOUBLE, true));
for (const [opcode, letter] of [["DF", "w"], ["DB", "d"]]) {
  waiting("fist", `${opcode} /2 modm`, `M${letter}`, store(Kind.INTEGER, false));
  waiting("fistp", `${opcode} /3 modm`, `M${letter}`, store(Kind.INTEGER, true));
  waiting("fisttp", `${opcode} /1 modm`, `M${letter}`, store(Kind.TRUNCATED, true));
}
waiting("fistp", "DF /7 modm", "Mq", store(Kind.INTEGER, true));
waiting("fisttp", "DD /1 modm", "Mq", store(Kind.TRUNCATED, true));
waiting("fstp_extended", "DB /7 modm", "M", (e) => {
  const { f } = e;
  const empty = f.i32(isEmpty(f, i32(0)));
  f.set32(outFlags, select(empty, i32(0x41), i32(0)));
  storing(e, true, () => {
    const address = e.address(0);
    const at = place(f, i32(0));
    e.store(f.i64(address.add(8)), 16, select(empty, i64(0xffff), at.u16w(8)));
    e.store(address, 64, select(empty, i64(3n << 62n), at.i64()));
  });
});
waiting("fbstp", "DF /6 modm", "M", (e) => {
  const { f } = e;
  const low = f.i64(f.call64(toDecimal));
  const high = f.i64(f.s64(State.SCRATCH));
  storing(e, true, () => {
    const address = e.address(0);
    e.store(f.i64(address.add(8)), 16, high);
    e.store(address, 64, low);
  });
});
waiting("fst", "DD /2 mod3", "T", (e) => e.f.do(copyTo, register(e), 0));
for (const encoding of ["DD /3", "DF /2", "DF /3"]) {
  waiting("fstp", `${encoding} mod3`, "T", (e) => e.f.do(copyTo, register(e), 1));
}
// An old alias that does not mind an empty register.
waiting("fstpnce", "D9 /3 mod3", "T", (e) => {
  const { f } = e;
  f.if(isEmpty(f, i32(0)), () => {
    f.drop(f.call32(raiseFlags, 0));
    f.do(popStack);
  }, () => f.do(copyTo, register(e), 1));
});
for (const encoding of ["D9 /1", "DD /1", "DF /1"]) {
  waiting("fxch", `${encoding} mod3`, "T", (e) => e.f.do(exchange, register(e)));
}
// Below, equal, below or equal, unordered; and the reverse.
[2, 4, 6, 10].forEach((condition, n) => {
  for (const negated of [0, 1]) {
    waiting(`fcmov${condition + negated}`, `${negated ? "DB" : "DA"} /${n} mod3`, "T", (e) => {
      e.f.do(moveWhen, e.condition(condition + negated), register(e));
    });
  }
});

// One operand.
waiting("fchs", "D9 /4 mod3 rm0", "", (e) => e.f.do(changeSign, 1));
waiting("fabs", "D9 /4 mod3 rm1", "", (e) => e.f.do(changeSign, 0));
waiting("fsqrt", "D9 /7 mod3 rm2", "", (e) => e.f.do(unary, 0));
waiting("frndint", "D9 /7 mod3 rm4", "", (e) => e.f.do(unary, 1));
waiting("fxtract", "D9 /6 mod3 rm4", "", (e) => e.f.do(extract));
for (
  const [name, encoding, number] of [
    ["f2xm1", "/6 mod3 rm0", Transcendental.F2XM1],
    ["fptan", "/6 mod3 rm2", Transcendental.FPTAN],
    ["fsincos", "/7 mod3 rm3", 7],
    ["fsin", "/7 mod3 rm6", Transcendental.FSIN],
    ["fcos", "/7 mod3 rm7", Transcendental.FCOS],
  ] as const
) {
  waiting(name, `D9 ${encoding}`, "", (e) => e.f.do(transcendentalOf, number));
}
// Two operands, ST(0) and ST(1).
waiting("fscale", "D9 /7 mod3 rm5", "", (e) => e.f.do(binary, Binary.SCALE, 0, 0, 1, 0));
waiting("fprem", "D9 /7 mod3 rm0", "", (e) => e.f.do(binary, Binary.PREM, 0, 0, 1, 0));
waiting("fprem1", "D9 /6 mod3 rm5", "", (e) => e.f.do(binary, Binary.PREM1, 0, 0, 1, 0));
for (
  const [name, encoding, number] of [
    ["fyl2x", "/6 mod3 rm1", Transcendental.FYL2X],
    ["fpatan", "/6 mod3 rm3", Transcendental.FPATAN],
    ["fyl2xp1", "/7 mod3 rm1", Transcendental.FYL2XP1],
  ] as const
) {
  waiting(name, `D9 ${encoding}`, "", (e) => e.f.do(binary, Binary.TRANSCENDENTAL + number, 1, 0, 1, 1));
}

// The stack itself.
const setTop = (e: Emitter, by: number) => {
  const status = e.f.i32(e.f.s16(State.FSW));
  e.f.set16(State.FSW, status.and(~0x3a00).or(status.add(by).and(0x3800)));
};
waiting("fincstp", "D9 /6 mod3 rm7", "", (e) => setTop(e, 0x800));
waiting("fdecstp", "D9 /6 mod3 rm6", "", (e) => setTop(e, -0x800));
const free = (e: Emitter) => {
  const { f } = e;
  const physical = register(e).add(f.s16(State.FSW).shrU(11)).and(7);
  f.set16(State.FTW, f.s16(State.FTW).or(i32(3).shl(physical.shl(1))));
  f.set16(State.FSW, f.s16(State.FSW).and(~C1));
};
waiting("ffree", "DD /0 mod3", "T", free);
waiting("ffreep", "DF /0 mod3", "T", (e) => {
  free(e);
  e.f.do(popStack);
});
waiting("fnop", "D9 /2 mod3 rm0", "", () => {});

// Control. None of these waits but the loads.
op("fninit", "DB /4 mod3 rm3", "", (e) => e.f.do(initialize), x87);
op("fnclex", "DB /4 mod3 rm2", "", (e) => e.f.set16(State.FSW, e.f.s16(State.FSW).and(0x7f00)), x87);
// FENI, FDISI, FSETPM of the 8087 and 80287: nothing.
for (const rm of [0, 1, 4]) op("fneni", `DB /4 mod3 rm${rm}`, "", () => {}, x87);
op("fnstcw", "D9 /7 modm", "Mw", (e) => e.store(e.address(0), 16, e.f.s16(State.FCW).i64u()), x87);
op("fnstsw", "DF /4 mod3 rm0", "AX", (e) => e.write(0, e.f.s16(State.FSW).i64u()), x87);
op("fnstsw", "DD /7 modm", "Mw", (e) => e.store(e.address(0), 16, e.f.s16(State.FSW).i64u()), x87);
waiting("fldcw", "D9 /5 modm", "Mw", (e) => {
  const { f } = e;
  const control = f.i32(controlWord(e.loadUnsigned(e.address(0), 16).i32()));
  f.set16(State.FCW, control);
  // Flags that are up already become pending, or cease to be.
  f.set16(State.FSW, statusWord(f.i32(f.s16(State.FSW)), control));
});

/** Bytes of the environment: 14, or 28 with 32-bit operands. */
const environmentBytes = (e: Emitter) => (e.bits === 16 ? 14 : 28);
const field = (e: Emitter, address: I64, n: number): Local<I64> => e.f.i64(address.add((environmentBytes(e) / 7) * n));
function storeEnvironment(e: Emitter, address: Local<I64>): void {
  const { f } = e;
  const bits = e.bits === 16 ? 16 : 32;
  // The last byte first: a page fault then changes nothing.
  const put = (n: number, value: I64) => e.store(field(e, address, n), bits, value);
  const upper = 0xffff_0000;
  put(6, i64(upper));
  put(5, f.s64(State.FDP));
  put(4, f.s16(State.FOP).shl(16).i64u());
  put(3, f.s64(State.FIP));
  put(2, f.call32(tagWord).i64u().or(upper));
  put(1, f.s16(State.FSW).i64u().or(upper));
  put(0, f.s16(State.FCW).i64u().or(upper));
}
interface Environment {
  control: Local<I64>;
  status: Local<I64>;
  tags: Local<I64>;
}
function readEnvironment(e: Emitter, address: Local<I64>): Environment {
  const bits = e.bits === 16 ? 16 : 32;
  e.f.drop(e.load(field(e, address, 6), bits));
  const get = (n: number) => e.loadUnsigned(field(e, address, n), bits);
  return { control: get(0), status: get(1), tags: get(2) };
}
function setEnvironment(e: Emitter, { control, status, tags }: Environment): void {
  const { f } = e;
  f.set16(State.FCW, controlWord(control.i32()));
  f.set16(State.FSW, statusWord(f.i32(status.i32()), f.s16(State.FCW)));
  // Only whether a register is empty is kept.
  const bits = f.i32(tags.i32().and(tags.i32().shrU(1)).and(0x5555));
  f.set16(State.FTW, bits.or(bits.shl(1)));
}
op("fnstenv", "D9 /6 modm", "M", (e) => {
  const { f } = e;
  storeEnvironment(e, e.address(0));
  f.set16(State.FCW, f.s16(State.FCW).or(0x3f));
  f.set16(State.FSW, f.s16(State.FSW).and(0x7f7f));
}, x87);
waiting("fldenv", "D9 /4 modm", "M", (e) => setEnvironment(e, readEnvironment(e, e.address(0))));
op("fnsave", "DD /6 modm", "M", (e) => {
  const { f } = e;
  const address = e.address(0);
  f.drop(e.load(f.i64(address.add(environmentBytes(e) + 79)), 8));
  storeEnvironment(e, address);
  const i = f.i32(0);
  const to = f.i64(address.add(environmentBytes(e)));
  f.loop((again) => {
    const at = place(f, i);
    e.store(to, 64, at.i64());
    e.store(f.i64(to.add(8)), 16, at.u16w(8));
    f.set(to, to.add(10));
    f.set(i, i.add(1));
    f.brIf(again, i.ltU(8));
  });
  f.do(initialize);
}, x87);
waiting("frstor", "DD /4 modm", "M", (e) => {
  const { f } = e;
  const address = e.address(0);
  f.drop(e.load(f.i64(address.add(environmentBytes(e) + 79)), 8));
  const environment = readEnvironment(e, address);
  const i = f.i32(0);
  const from = f.i64(address.add(environmentBytes(e)));
  const first = f.i32(environment.status.shrU(11).i32());
  f.loop((again) => {
    const significand = e.load(from, 64);
    const rest = e.load(f.i64(from.add(8)), 16);
    const at = f.pointer(pointerOf32(i.add(first).and(7).shl(4)).add(f.place(State.X87)));
    f.store64(at, significand);
    f.store16(at, rest.i32(), 8);
    f.set(from, from.add(10));
    f.set(i, i.add(1));
    f.brIf(again, i.ltU(8));
  });
  setEnvironment(e, environment);
});
