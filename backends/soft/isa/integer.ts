/** Moves, arithmetic, logic, bits: general registers and memory. */
import { isReal86 } from "../cpu/segments.ts";
import { type Emitter, Vector } from "../emitter.ts";
import { Flag, maskOf, select } from "../flags.ts";
import { Reg } from "../layout.ts";
import { type I32, i32, type I64, i64 } from "../wasm/values.ts";
import { implicitAddress } from "./implicit.ts";
import { type Emit, op } from "./table.ts";
import { divideSigned, divideUnsigned, multiplyHigh, multiplyHighSigned, remainderOfDivision } from "./wide.ts";

// Arithmetic of two operands: opcodes 00-3F in rows of eight, 80-83 with the row in ModR/M.reg.

const add: Emit = (e) => {
  const b = e.read(1);
  let a!: I64, r!: I64;
  e.modify(0, (old) => r = e.f.i64((a = old).add(b).sx(e.bits)));
  e.flagsAdd(a, b, r);
};
const sub: Emit = (e) => {
  const b = e.read(1);
  let a!: I64, r!: I64;
  e.modify(0, (old) => r = e.f.i64((a = old).sub(b).sx(e.bits)));
  e.flagsSub(a, b, r);
};
const adc: Emit = (e) => {
  const b = e.read(1);
  const carry = e.f.i64(e.carry().i64u());
  let a!: I64, r!: I64;
  e.modify(0, (old) => r = e.f.i64((a = old).add(b).add(carry).sx(e.bits)));
  e.flagsAdc(a, b, r);
};
const sbb: Emit = (e) => {
  const b = e.read(1);
  const carry = e.f.i64(e.carry().i64u());
  let a!: I64, r!: I64;
  e.modify(0, (old) => r = e.f.i64((a = old).sub(b).sub(carry).sx(e.bits)));
  e.flagsSbb(a, b, r);
};
const logic = (combine: (a: I64, b: I64) => I64): Emit => (e) => {
  const b = e.read(1);
  let r!: I64;
  e.modify(0, (old) => r = e.f.i64(combine(old, b)));
  e.flagsLogic(r);
};
const cmp: Emit = (e) => {
  const a = e.read(0);
  const b = e.read(1);
  e.flagsSub(a, b, e.f.i64(a.sub(b).sx(e.bits)));
};
const test: Emit = (e) => {
  const a = e.read(0);
  e.flagsLogic(e.f.i64(a.and(e.read(1))));
};

const arithmetic: [string, Emit, boolean][] = [
  ["add", add, true],
  ["or", logic((a, b) => a.or(b)), true],
  ["adc", adc, true],
  ["sbb", sbb, true],
  ["and", logic((a, b) => a.and(b)), true],
  ["sub", sub, true],
  ["xor", logic((a, b) => a.xor(b)), true],
  ["cmp", cmp, false],
];
arithmetic.forEach(([name, emit, lock], row) => {
  const opcode = (n: number) => (row * 8 + n).toString(16).toUpperCase().padStart(2, "0");
  op(name, `${opcode(0)} /r`, "Eb Gb", emit, { lock });
  op(name, `${opcode(1)} /r`, "Ev Gv", emit, { lock });
  op(name, `${opcode(2)} /r`, "Gb Eb", emit);
  op(name, `${opcode(3)} /r`, "Gv Ev", emit);
  op(name, opcode(4), "AL Ib", emit);
  op(name, opcode(5), "rAX Iz", emit);
  op(name, `80 /${row}`, "Eb Ib", emit, { lock });
  op(name, `81 /${row}`, "Ev Iz", emit, { lock });
  op(name, `82 /${row}`, "Eb Ib", emit, { lock, only: "legacy" });
  op(name, `83 /${row}`, "Ev Ib", emit, { lock });
});
op("test", "84 /r", "Eb Gb", test);
op("test", "85 /r", "Ev Gv", test);
op("test", "A8", "AL Ib", test);
op("test", "A9", "rAX Iz", test);
for (const extension of [0, 1]) {
  op("test", `F6 /${extension}`, "Eb Ib", test);
  op("test", `F7 /${extension}`, "Ev Iz", test);
}

const increment = (by: 1 | -1): Emit => (e) => {
  const carry = e.f.i64(e.carry().i64u());
  let a!: I64, r!: I64;
  e.modify(0, (old) => r = e.f.i64((a = old).add(by).sx(e.bits)));
  if (by === 1) e.flagsInc(carry, a, r);
  else e.flagsDec(carry, a, r);
};
op("inc", "FE /0", "Eb", increment(1), { lock: true });
op("inc", "FF /0", "Ev", increment(1), { lock: true });
op("dec", "FE /1", "Eb", increment(-1), { lock: true });
op("dec", "FF /1", "Ev", increment(-1), { lock: true });
op("inc", "40 +r", "Zv", increment(1), { only: "legacy" });
op("dec", "48 +r", "Zv", increment(-1), { only: "legacy" });

const not: Emit = (e) => e.modify(0, (old) => old.not());
op("not", "F6 /2", "Eb", not, { lock: true });
op("not", "F7 /2", "Ev", not, { lock: true });
const neg: Emit = (e) => {
  let a!: I64, r!: I64;
  e.modify(0, (old) => r = e.f.i64((a = old).neg().sx(e.bits)));
  e.flagsSub(i64(0), a, r);
};
op("neg", "F6 /3", "Eb", neg, { lock: true });
op("neg", "F7 /3", "Ev", neg, { lock: true });

// Moves.

const mov: Emit = (e) => e.write(0, e.read(1));
op("mov", "88 /r", "Eb Gb", mov);
op("mov", "89 /r", "Ev Gv", mov);
op("mov", "8A /r", "Gb Eb", mov);
op("mov", "8B /r", "Gv Ev", mov);
op("mov", "A0", "AL Ob", mov);
op("mov", "A1", "rAX Ov", mov);
op("mov", "A2", "Ob AL", mov);
op("mov", "A3", "Ov rAX", mov);
op("mov", "B0 +r", "Zb Ib", mov);
op("mov", "B8 +r", "Zv Iv", mov);
op("mov", "C6 /0", "Eb Ib", mov);
op("mov", "C7 /0", "Ev Iz", mov);
op("lea", "8D /r modm", "Gv M", (e) => e.write(0, e.address(1)), { offset: true });
const movzx: Emit = (e) => e.write(0, e.readUnsigned(1));
op("movzx", "0F B6 /r", "Gv Eb", movzx);
op("movzx", "0F B7 /r", "Gv Ew", movzx);
op("mov", "0F BE /r", "Gv Eb", mov);
op("mov", "0F BF /r", "Gv Ew", mov);
op("mov", "63 /r", "Gv Ed", mov, { only: "64" });

const movbe: Emit = (e) => {
  const v = e.readUnsigned(1);
  const swap32 = (x: I32) => x.rotl(8).and(0x00ff00ff).or(x.rotr(8).and(0xff00ff00 | 0));
  e.write(
    0,
    e.bits === 16
      ? v.shl(8).or(v.shrU(8))
      : e.bits === 32
      ? swap32(v.i32()).i64u()
      : swap32(v.i32()).i64u().shl(32).or(swap32(v.shrU(32).i32()).i64u()),
  );
};
op("movbe", "NP 0F 38 F0 /r modm", "Gv Ev", movbe);
op("movbe", "NP 0F 38 F1 /r modm", "Ev Gv", movbe);
op("movbe", "66 0F 38 F0 /r modm", "Gv Ev", movbe);
op("movbe", "66 0F 38 F1 /r modm", "Ev Gv", movbe);

const xchg: Emit = (e) => {
  const b = e.read(1);
  let a!: I64;
  e.modify(0, (old) => (a = old, b), true);
  e.write(1, a);
};
op("xchg", "86 /r", "Eb Gb", xchg, { lock: true });
op("xchg", "87 /r", "Ev Gv", xchg, { lock: true });
op("xchg", "90 +r", "Zv rAX", xchg);

const xadd: Emit = (e) => {
  const b = e.read(1);
  let a!: I64, r!: I64;
  if (e.isMemory(0)) {
    e.modify(0, (old) => r = e.f.i64((a = old).add(b).sx(e.bits)));
    e.write(1, a);
  } else {
    a = e.read(0);
    r = e.f.i64(a.add(b).sx(e.bits));
    e.write(1, a);
    e.write(0, r);
  }
  e.flagsAdd(a, b, r);
};
op("xadd", "0F C0 /r", "Eb Gb", xadd, { lock: true });
op("xadd", "0F C1 /r", "Ev Gv", xadd, { lock: true });

// The accumulator is an operand, so that both tiers find it where it is.
const cmpxchg: Emit = (e) => {
  const { f } = e;
  const expected = e.read(2);
  const replacement = e.read(1);
  let a!: I64;
  if (e.isMemory(0)) {
    e.modify(0, (old) => select((a = old).eq(expected), replacement, old));
    f.if(a.eq(expected).eqz(), () => e.write(2, a));
  } else {
    // A register that is not exchanged keeps its upper half too.
    a = e.read(0);
    f.if(a.eq(expected), () => e.write(0, replacement), () => e.write(2, a));
  }
  e.flagsSub(expected, a, f.i64(expected.sub(a).sx(e.bits)));
};
op("cmpxchg", "0F B0 /r", "Eb Gb AL", cmpxchg, { lock: true });
op("cmpxchg", "0F B1 /r", "Ev Gv rAX", cmpxchg, { lock: true });

for (let cc = 0; cc < 16; cc++) {
  const hex = cc.toString(16).toUpperCase();
  op(`cmov${hex}`, `0F 4${hex} /r`, "Gv Ev", (e) => {
    const b = e.read(1);
    // The 32-bit form clears the upper half even when it does not move.
    e.write(0, select(e.condition(cc), b, e.read(0)));
  });
  op(`set${hex}`, `0F 9${hex} /r`, "Eb", (e) => e.write(0, e.condition(cc).i64u()));
}

// Conversions in the accumulator.
op("cbw", "98", "rAX", (e) => e.write(0, e.read(0).sx(e.bits >> 1)));
op("cwd", "99", "rDX rAX", (e) => e.write(0, e.read(1).shrS(63)));
op("bswap", "0F C8 +r", "Zv", (e) => {
  const v = e.read(0);
  const swap32 = (x: I32) => x.rotl(8).and(0x00ff00ff).or(x.rotr(8).and(0xff00ff00 | 0));
  if (e.bits === 16) e.write(0, i64(0));
  else if (e.bits === 32) e.write(0, swap32(v.i32()).i64u());
  else e.write(0, swap32(v.i32()).i64u().shl(32).or(swap32(v.shrU(32).i32()).i64u()));
});

// Shifts and rotates: C0 C1 D0-D3, the operation in ModR/M.reg.

/** The count, masked as the processor does, as an i64; and whether it is known not to be 0. */
function shiftCount(e: Emitter): { count: I64; constant: number | null } {
  const mask = e.bits === 64 ? 63 : 31;
  const constant = e.constant(1);
  if (constant !== null) return { count: i64(constant & mask), constant: constant & mask };
  return { count: e.f.i64(e.readUnsigned(1).and(mask)), constant: null };
}

/** Sets flags as `change` does unless the count is 0. */
function unlessZero(e: Emitter, count: I64, constant: number | null, change: () => void): void {
  if (constant === null) e.flagsWhen(count.eqz().eqz(), change);
  else if (constant !== 0) change();
}

const shl: Emit = (e) => {
  const { f, bits } = e;
  const { count, constant } = shiftCount(e);
  let v!: I64, r!: I64;
  e.modify(0, (old) => r = f.i64((v = old).shl(count).sx(bits)));
  unlessZero(e, count, constant, () => {
    e.flagsDeferred(r, (v, r) => {
      const cf = bits === 64 ? v.shrU(i64(64).sub(count)).and(1) : v.zx(bits).shl(count).shrU(bits).and(1);
      const c = f.i64(cf);
      return c.or(r.shrU(63).xor(c).shl(11));
    }, v);
  });
};
const shr: Emit = (e) => {
  const { f, bits } = e;
  const { count, constant } = shiftCount(e);
  let v!: I64, r!: I64;
  e.modify(0, (old) => r = f.i64((v = f.i64(old.zx(bits))).shrU(count).sx(bits)));
  unlessZero(e, count, constant, () => {
    e.flagsDeferred(r, (v, r) => {
      const overflow = r.xor(r.shl(1)).shrU(bits - 1).and(1).shl(11);
      return v.shrU(count.sub(1)).and(1).or(overflow);
    }, v);
  });
};
const sar: Emit = (e) => {
  const { f } = e;
  const { count, constant } = shiftCount(e);
  let v!: I64, r!: I64;
  e.modify(0, (old) => r = f.i64((v = old).shrS(count)));
  unlessZero(e, count, constant, () => e.flagsDeferred(r, (v) => v.shrS(count.sub(1)).and(1), v));
};

/** CF and OF from bits 0 of the two. */
function carryAndOverflow(cf: I64, of: I64): I32 {
  return cf.i32().and(1).or(of.i32().and(1).shl(11));
}
const rotate = (left: boolean): Emit => (e) => {
  const { f, bits } = e;
  const { count, constant } = shiftCount(e);
  let r!: I64;
  e.modify(0, (old) => {
    if (bits === 64) return r = f.i64(left ? old.rotl(count) : old.rotr(count));
    if (bits === 32) {
      const c = count.i32();
      return r = f.i64((left ? old.i32().rotl(c) : old.i32().rotr(c)).i64s());
    }
    const v = f.i64(old.zx(bits));
    const c = f.i64(count.and(bits - 1));
    const back = i64(bits).sub(c);
    return r = f.i64((left ? v.shl(c).or(v.shrU(back)) : v.shrU(c).or(v.shl(back))).sx(bits));
  });
  unlessZero(e, count, constant, () => {
    e.flagsOver(Flag.CF | Flag.OF, r, (r) => {
      const top = r.shrU(63);
      return left ? carryAndOverflow(r, r.xor(top)) : carryAndOverflow(top, top.xor(r.shrU(bits - 2)));
    });
  });
};
const rotateCarry = (left: boolean): Emit => (e) => {
  const { f, bits } = e;
  const { count: masked } = shiftCount(e);
  const carry = f.i64(e.carry().i64u());
  const count = f.i64(bits >= 32 ? masked : masked.remU(bits + 1));
  let r!: I64, cf!: I64;
  e.modify(0, (old) => {
    if (bits === 64) {
      // The 65-bit rotation in two shifts each way, so that a count of 0 or 1 never shifts by 64.
      if (left) {
        cf = f.i64(select(count.eqz(), carry, old.shrU(i64(64).sub(count)).and(1)));
        const low = carry.shl(count.sub(1)).or(old.shrU(1).shrU(i64(64).sub(count)));
        return r = f.i64(select(count.eqz(), old, old.shl(count).or(low)));
      }
      cf = f.i64(select(count.eqz(), carry, old.shrU(count.sub(1)).and(1)));
      const high = carry.shl(i64(64).sub(count)).or(old.shl(1).shl(i64(64).sub(count)));
      return r = f.i64(select(count.eqz(), old, old.shrU(count).or(high)));
    }
    const wide = f.i64(old.zx(bits).or(carry.shl(bits)));
    const back = i64(bits + 1).sub(count);
    const turned = f.i64(left ? wide.shl(count).or(wide.shrU(back)) : wide.shrU(count).or(wide.shl(back)));
    cf = f.i64(turned.shrU(bits).and(1));
    return r = f.i64(turned.sx(bits));
  });
  e.flagsWhen(masked.eqz().eqz(), () => {
    const top = r.shrU(63);
    const both = carryAndOverflow(cf, left ? top.xor(cf) : top.xor(r.shrU(bits - 2)));
    e.flagsOver(Flag.CF | Flag.OF, both.i64u(), (both) => both.i32());
  });
};
const shifts: [string, Emit][] = [
  ["rol", rotate(true)],
  ["ror", rotate(false)],
  ["rcl", rotateCarry(true)],
  ["rcr", rotateCarry(false)],
  ["shl", shl],
  ["shr", shr],
  ["shl", shl],
  ["sar", sar],
];
shifts.forEach(([name, emit], n) => {
  op(name, `C0 /${n}`, "Eb Ib", emit);
  op(name, `C1 /${n}`, "Ev Ib", emit);
  op(name, `D0 /${n}`, "Eb 1", emit);
  op(name, `D1 /${n}`, "Ev 1", emit);
  op(name, `D2 /${n}`, "Eb CL", emit);
  op(name, `D3 /${n}`, "Ev CL", emit);
});

const doubleShift = (left: boolean): Emit => (e) => {
  const { f, bits } = e;
  const count = f.i64(e.readUnsigned(2).and(bits === 64 ? 63 : 31));
  const fill = e.readUnsigned(1);
  let v!: I64, r!: I64, cf!: I64;
  e.modify(0, (old) => {
    v = old;
    if (bits === 64) {
      const back = i64(64).sub(count);
      cf = f.i64(left ? old.shrU(back) : old.shrU(count.sub(1)));
      const both = left ? old.shl(count).or(fill.shrU(back)) : old.shrU(count).or(fill.shl(back));
      return r = f.i64(select(count.eqz(), old, both));
    }
    if (bits === 32) {
      const wide = f.i64(left ? old.shl(32).or(fill) : fill.shl(32).or(old.zx(32)));
      cf = f.i64(left ? wide.shl(count.sub(1)).shrU(63) : wide.shrU(count.sub(1)));
      return r = f.i64((left ? wide.shl(count).shrU(32) : wide.shrU(count)).sx(32));
    }
    // Counts above 16 are undefined; the destination follows the fill round, as on most processors.
    const v16 = old.zx(16);
    const wide = f.i64(left ? v16.shl(32).or(fill.shl(16)).or(v16) : v16.shl(32).or(fill.shl(16)).or(v16));
    cf = f.i64(left ? wide.shrU(i64(48).sub(count)) : wide.shrU(count.sub(1)));
    return r = f.i64((left ? wide.shrU(i64(32).sub(count)) : wide.shrU(count)).sx(16));
  });
  e.flagsWhen(count.eqz().eqz(), () => {
    e.flagsPartial(r, f.i64(cf.and(1).or(v.xor(r).shrU(63).shl(11))));
  });
};
op("shld", "0F A4 /r", "Ev Gv Ib", doubleShift(true));
op("shld", "0F A5 /r", "Ev Gv CL", doubleShift(true));
op("shrd", "0F AC /r", "Ev Gv Ib", doubleShift(false));
op("shrd", "0F AD /r", "Ev Gv CL", doubleShift(false));

// Multiplication and division.

/** CF and OF when the product does not fit. */
function overflow(over: I32): I64 {
  return maskOf(over).and(Flag.CF | Flag.OF);
}

const multiply = (signed: boolean): Emit => (e) => {
  const { f, bits } = e;
  const b = signed ? e.read(0) : e.readUnsigned(0);
  const a = signed ? e.read(1) : e.readUnsigned(1);
  const low = f.i64(a.mul(b));
  if (bits === 8) {
    e.write(2, low);
    e.flagsDeferred(f.i64(low.s8()), (low) => overflow(signed ? low.ne(low.s8()) : low.shrU(8).ne(0)), low);
    return;
  }
  const high = bits < 64 ? f.i64(low.shrS(bits)) : f.i64(f.call64(signed ? multiplyHighSigned : multiplyHigh, a, b));
  e.write(1, low);
  e.write(2, high);
  const over = (low: I64, high: I64) => {
    if (signed) return bits < 64 ? low.ne(low.sx(bits)) : high.ne(low.shrS(63));
    return (bits < 64 ? low.shrU(bits) : high).ne(0);
  };
  e.flagsDeferred(f.i64(low.sx(bits)), (low, _, high) => overflow(over(low, high)), low, high);
};
op("mul", "F6 /4", "Eb AL AX", multiply(false));
op("mul", "F7 /4", "Ev rAX rDX", multiply(false));
op("imul1", "F6 /5", "Eb AL AX", multiply(true));
op("imul1", "F7 /5", "Ev rAX rDX", multiply(true));

const imul: Emit = (e) => {
  const { f, bits } = e;
  const three = e.operands.length === 3;
  const a = e.read(three ? 1 : 0);
  const b = e.read(three ? 2 : 1);
  const low = f.i64(a.mul(b));
  const r = f.i64(low.sx(bits));
  e.write(0, r);
  if (bits < 64) e.flagsDeferred(r, (low, r) => overflow(low.ne(r)), low);
  else e.flagsDeferred(r, (a, r, b) => overflow(f.call64(multiplyHighSigned, a, b).ne(r.shrS(63))), a, b);
};
op("imul", "0F AF /r", "Gv Ev", imul);
op("imul", "69 /r", "Gv Ev Iz", imul);
op("imul", "6B /r", "Gv Ev Ib", imul);

const divide = (signed: boolean): Emit => (e) => {
  const { f, bits } = e;
  const divisor = signed ? e.read(0) : e.readUnsigned(0);
  e.raiseIf(divisor.eqz(), Vector.DE);
  if (bits === 64) {
    const low = e.readUnsigned(1);
    const high = e.readUnsigned(2);
    const quotient = e.checked(f.i64(), f.call64(signed ? divideSigned : divideUnsigned, high, low, divisor));
    e.write(2, f.call64(remainderOfDivision));
    e.write(1, quotient);
    return;
  }
  // Smaller dividends fit into 64 bits.
  const dividend = bits === 8
    ? (signed ? e.read(1) : e.readUnsigned(1))
    : f.i64((signed ? e.read(2) : e.readUnsigned(2)).shl(bits).or(e.readUnsigned(1)));
  if (signed) e.raiseIf(divisor.eq(-1).and(dividend.eq(i64(-1n << 63n))), Vector.DE);
  const quotient = f.i64(signed ? dividend.divS(divisor) : dividend.divU(divisor));
  const remainder = f.i64(signed ? dividend.remS(divisor) : dividend.remU(divisor));
  e.raiseIf(quotient.ne(signed ? quotient.sx(bits) : quotient.zx(bits)), Vector.DE);
  if (bits === 8) e.write(1, quotient.and(0xff).or(remainder.and(0xff).shl(8)));
  else {
    e.write(1, quotient);
    e.write(2, remainder);
  }
};
op("div", "F6 /6", "Eb AX", divide(false));
op("div", "F7 /6", "Ev rAX rDX", divide(false));
op("idiv", "F6 /7", "Eb AX", divide(true));
op("idiv", "F7 /7", "Ev rAX rDX", divide(true));

// Bits.

type BitChange = ((value: I64, bit: I64) => I64) | null;
const bitTest = (change: BitChange): Emit => (e) => {
  const { f, bits } = e;
  const index = e.read(1);
  const bit = f.i64(index.and(bits - 1));
  let old!: I64;
  const apply = (value: I64) => {
    old = value;
    return change!(value, i64(1).shl(bit));
  };
  if (e.isMemory(0) && e.operands[1].kind === "r") {
    // The bit offset reaches beyond the operand, in both directions.
    const beyond = index.shrS(bits === 64 ? 6 : bits === 32 ? 5 : 4).shl(bits === 64 ? 3 : bits === 32 ? 2 : 1);
    const address = implicitAddress(e, e.address(0).add(beyond), bits >> 3, change !== null);
    if (change) e.modifyMemory(address, bits, apply, e.locked);
    else old = e.load(address, bits);
  } else if (change) e.modify(0, apply);
  else old = e.read(0);
  e.flagsOver(Flag.CF, old.shrU(bit), (shifted) => shifted.i32().and(1));
};
const bitTests: [string, BitChange, string, number][] = [
  ["bt", null, "A3", 4],
  ["bts", (v, bit) => v.or(bit), "AB", 5],
  ["btr", (v, bit) => v.and(bit.not()), "B3", 6],
  ["btc", (v, bit) => v.xor(bit), "BB", 7],
];
for (const [name, change, opcode, extension] of bitTests) {
  const lock = change !== null;
  op(name, `0F ${opcode} /r`, "Ev Gv", bitTest(change), { lock, offset: true, modal: true, addressSized: true });
  op(name, `0F BA /${extension}`, "Ev Ib", bitTest(change), { lock });
}

const scan = (forward: boolean): Emit => (e) => {
  const { f, bits } = e;
  const v = e.readUnsigned(1);
  const index = forward ? v.ctz() : i64(63).sub(v.clz());
  // With a source of 0 the destination keeps its value (SDM: undefined; AMD, and Intel in practice: unchanged).
  if (bits === 32) {
    f.if(v.eqz().eqz(), () => e.write(0, index));
  } else e.write(0, select(v.eqz(), e.read(0), index));
  e.flagsOver(Flag.ZF, v, (v) => v.eqz().shl(6));
};
op("bsf", "0F BC /r", "Gv Ev", scan(true));
op("bsr", "0F BD /r", "Gv Ev", scan(false));

const popcnt: Emit = (e) => {
  const v = e.readUnsigned(1);
  e.write(0, v.popcnt());
  e.flagsExplicit(v.eqz().shl(6));
};
op("popcnt", "F3 0F B8 /r", "Gv Ev", popcnt);
// TZCNT and LZCNT are not advertised: F3 is ignored before BSF and BSR, as rows without a prefix say.

// CRC32 (SSE4.2) by bits would be slow: a table in memory is not needed, eight steps of a nibble-wise product are.
// Polynomial 11EDC6F41H, reflected 82F63B78H.
const crc32 = (bits: number): Emit => (e) => {
  const { f } = e;
  const crc = f.i32(e.readUnsigned(0).i32());
  const source = e.readUnsigned(1);
  const data = f.i64(source);
  const steps = f.i32(bits);
  f.loop((again) => {
    f.set(crc, crc.xor(data.i32().and(1)));
    f.set(crc, crc.shrU(1).xor(crc.and(1).mul(0x82f63b78 | 0)));
    f.set(data, data.shrU(1));
    f.set(steps, steps.sub(1));
    f.brIf(again, steps);
  });
  e.write(0, crc.i64u());
};
op("crc32b", "F2 0F 38 F0 /r", "Gy Eb", crc32(8));
op("crc32w", "F2 0F 38 F1 /r", "Gy Ev", (e) => crc32(e.operands[1].bits)(e));

// Flags.
const LOW_FLAGS = Flag.CF | Flag.PF | Flag.AF | Flag.ZF | Flag.SF;
op("lahf", "9F", "AH", (e) => e.write(0, e.flagBits().and(LOW_FLAGS).or(2).i64u()));
op("sahf", "9E", "AH", (e) => {
  e.flagsOver(LOW_FLAGS, e.readUnsigned(0), (ah) => ah.i32().and(LOW_FLAGS));
});
op("clc", "F8", "", (e) => e.flagsOver(Flag.CF, i64(0), () => i32(0)));
op("stc", "F9", "", (e) => e.flagsOver(Flag.CF, i64(0), () => i32(Flag.CF)));
op("cmc", "F5", "", (e) => e.flagsOver(Flag.CF, e.carry().xor(1).i64u(), (carry) => carry.i32()));

// Decimal adjustment (outside 64-bit mode).
const decimal = (subtract: boolean): Emit => (e) => {
  const { f } = e;
  const flags = f.i32(e.flagBits());
  const al = f.i32(e.readUnsigned(0).i32());
  const result = f.i32(al);
  const low = f.i32(al.and(15).gtU(9).or(flags.shrU(4).and(1)));
  const high = f.i32(al.gtU(0x99).or(flags.and(1)));
  const step = (by: number) => f.set(result, subtract ? result.sub(by) : result.add(by));
  const borrow = f.i32(0);
  f.if(low, () => {
    step(6);
    if (subtract) f.set(borrow, al.ltU(6));
  });
  f.if(high, () => step(0x60));
  e.write(0, result.i64u());
  e.flagsPartial(f.i64(result.i64u().s8()), f.i64(high.or(borrow).or(low.shl(4)).i64u()));
};
op("daa", "27", "AL", decimal(false), { only: "legacy" });
op("das", "2F", "AL", decimal(true), { only: "legacy" });
const asciiAdjust = (subtract: boolean): Emit => (e) => {
  const { f } = e;
  const ax = f.i32(e.readUnsigned(0).i32());
  const adjust = f.i32(ax.and(15).gtU(9).or(e.flagBits().shrU(4).and(1)));
  const changed = subtract ? ax.sub(0x106) : ax.add(0x106);
  const result = f.i32(select(adjust, changed, ax).and(0xff0f));
  e.write(0, result.i64u());
  e.flagsPartial(f.i64(result.i64u().s8()), f.i64(adjust.or(adjust.shl(4)).i64u()));
};
op("aaa", "37", "AX", asciiAdjust(false), { only: "legacy" });
op("aas", "3F", "AX", asciiAdjust(true), { only: "legacy" });
op("aam", "D4", "AX Ib", (e) => {
  const { f } = e;
  const base = f.i32(e.readUnsigned(1).i32().and(0xff));
  e.raiseIf(base.eqz(), Vector.DE);
  const al = f.i32(e.readUnsigned(0).i32().and(0xff));
  const low = f.i32(al.remU(base));
  e.write(0, al.divU(base).shl(8).or(low).i64u());
  e.flagsLogic(f.i64(low.i64u().s8()));
}, { only: "legacy" });
op("aad", "D5", "AX Ib", (e) => {
  const { f } = e;
  const ax = f.i32(e.readUnsigned(0).i32());
  const low = f.i32(ax.add(ax.shrU(8).mul(e.readUnsigned(1).i32())).and(0xff));
  e.write(0, low.i64u());
  e.flagsLogic(f.i64(low.i64u().s8()));
}, { only: "legacy" });
op("salc", "D6", "AL", (e) => e.write(0, maskOf(e.carry())), { only: "legacy" });
op("xlat", "D7", "AL", (e) => {
  const place = e.reg(Reg.BX).add(e.readUnsigned(0));
  e.write(0, e.load(implicitAddress(e, place, 1, false), 8));
}, { addressSized: true, modal: true, system: true });
op("bound", "62 /r modm", "Gv Ma", (e) => {
  const address = e.address(1);
  const index = e.read(0);
  const lower = e.load(address, e.bits);
  const upper = e.load(e.f.i64(address.add(e.bits >> 3)), e.bits);
  e.raiseIf(index.ltS(lower).or(index.gtS(upper)), Vector.BR);
}, { only: "legacy" });
op("arpl", "63 /r", "Ew Gw", (e) => {
  const { f } = e;
  e.raiseIf(isReal86(f), Vector.UD);
  const source = f.i64(e.readUnsigned(1).and(3));
  let lower!: I32;
  e.modify(0, (old) => {
    lower = f.i32(old.and(3).ltU(source));
    return select(lower, old.and(-4).or(source), old);
  });
  e.flagsOver(Flag.ZF, lower.i64u(), (lower) => lower.i32().shl(6));
}, { only: "legacy" });
