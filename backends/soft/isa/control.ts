/** Stack, jumps, calls, interrupts. */
import { farCall, farJump, farReturn, systemCall, systemEnter, systemExit, systemReturn } from "../cpu/transfer.ts";
import { deliver, interruptReturn, readFlags, Source, writeFlags } from "../cpu/interrupts.ts";
import { Leave } from "../cpu/external.ts";
import { loadSegment } from "../cpu/segments.ts";
import { type Emitter, Fault, Vector } from "../emitter.ts";
import { Flag } from "../flags.ts";
import { Reg, Seg, Segment, State } from "../layout.ts";
import { type I32, i32, type I64 } from "../wasm/values.ts";
import { type Emit, op } from "./table.ts";

const stack = { modal: true, size64: "d64" } as const;

const push: Emit = (e) => e.push(e.read(0), e.bits);
op("push", "50 +r", "Zv", push, stack);
op("push", "68", "Iz", push, stack);
op("push", "6A", "Ib", push, stack);
op("push", "FF /6", "Ev", push, stack);
op("pop", "58 +r", "Zv", (e) => {
  const value = e.peek(e.bits);
  e.adjustStack(e.bits >> 3);
  e.write(0, value);
}, stack);
// The address of a memory destination is computed with the stack pointer after the pop (SDM): the decoder adds it.
op("pop_to", "8F /0", "Ev", (e) => {
  const value = e.peek(e.bits);
  if (e.isMemory(0)) e.write(0, value);
  e.adjustStack(e.bits >> 3);
  if (!e.isMemory(0)) e.write(0, value);
}, { ...stack, system: true });

const segmentSelector = (segment: number) => State.SEGMENTS + segment * Segment.BYTES + Segment.SELECTOR;
const pushSegment: [string, number, boolean][] = [
  ["06", Seg.ES, true],
  ["0E", Seg.CS, true],
  ["16", Seg.SS, true],
  ["1E", Seg.DS, true],
  ["0F A0", Seg.FS, false],
  ["0F A8", Seg.GS, false],
];
for (const [encoding, segment, legacy] of pushSegment) {
  const traits = legacy ? { ...stack, system: true, only: "legacy" as const } : { ...stack, system: true };
  op(`push_segment${segment}`, encoding, "", (e) => {
    e.push(e.f.s32(segmentSelector(segment)).i64u(), e.bits);
  }, traits);
}
const popSegment: [string, number, boolean][] = [
  ["07", Seg.ES, true],
  ["17", Seg.SS, true],
  ["1F", Seg.DS, true],
  ["0F A1", Seg.FS, false],
  ["0F A9", Seg.GS, false],
];
for (const [encoding, segment, legacy] of popSegment) {
  op(`pop_segment${segment}`, encoding, "", (e) => {
    const { f } = e;
    const selector = f.i32(e.peek(e.bits).i32());
    // The pointer moves within the size of the old SS.
    const pointer = f.i64(e.reg(Reg.SP));
    e.adjustStack(e.bits >> 3);
    f.do(loadSegment, segment, selector.and(0xffff));
    f.if(f.s32(State.FAULT), () => e.setReg(Reg.SP, pointer));
    e.faultIf(f.s32(State.FAULT));
    if (segment === Seg.SS) f.set32(State.SHADOW, 1);
    e.endBlock();
  }, { ...stack, system: true, ends: true, ...(legacy ? { only: "legacy" as const } : {}) });
}

op("pusha", "60", "", (e) => {
  const { f } = e;
  const bytes = e.bits >> 3;
  const sp = f.i64(e.reg(Reg.SP));
  for (let i = 0; i < 8; i++) e.storeStack(f.i64(sp.sub(bytes * (i + 1))), e.bits, e.reg(i));
  e.adjustStack(-8 * bytes);
}, { only: "legacy", modal: true, system: true });
op("popa", "61", "", (e) => {
  const { f } = e;
  const bytes = e.bits >> 3;
  const values = [7, 6, 5, -1, 3, 2, 1, 0].map((register, i) =>
    [register, register < 0 ? null : e.peek(e.bits, i * bytes)] as const
  );
  e.adjustStack(8 * bytes);
  for (const [register, value] of values) {
    if (value === null) continue;
    if (e.bits === 16) f.store16(f.place(State.GPR + register * 8), value.i32());
    else e.setReg(register, value);
  }
}, { only: "legacy", modal: true, system: true });

function setFramePointer(e: Emitter, value: I64): void {
  if (e.bits === 16) e.setReg(Reg.BP, e.reg(Reg.BP).and(~0xffff).or(value.and(0xffff)));
  else e.setReg(Reg.BP, e.bits === 32 ? value.u32() : value);
}

op("leave", "C9", "", (e) => {
  const { f } = e;
  const bp = f.i64(e.reg(Reg.BP));
  const value = e.loadStack(bp, e.bits);
  e.setStackPointer(f.i64(bp.add(e.bits >> 3)));
  setFramePointer(e, value);
}, stack);

op("enter", "C8", "Iw Ib", (e) => {
  const { f } = e;
  const bytes = e.bits >> 3;
  const size = f.i64(e.immediate(0).and(0xffff));
  const level = f.i32(e.immediate(1).i32().and(31));
  const sp = f.i64(e.reg(Reg.SP).sub(bytes));
  e.storeStack(sp, e.bits, e.reg(Reg.BP));
  const frame = f.i64(sp);
  if (e.mode !== 64) {
    // A 16-bit stack leaves the upper half of ESP as it is.
    const wide = f.s32(State.SEGMENTS + Seg.SS * Segment.BYTES + Segment.ATTRIBUTES).has(1 << 14);
    f.if(wide.eqz(), () => f.set(frame, sp.and(0xffff).or(e.reg(Reg.SP).and(~0xffff))));
  }
  f.if(level, () => {
    const link = f.i64(e.reg(Reg.BP));
    const i = f.i32(1);
    f.block((done) =>
      f.loop((again) => {
        f.brIf(done, i.geU(level));
        f.set(link, link.sub(bytes));
        f.set(sp, sp.sub(bytes));
        e.storeStack(sp, e.bits, e.loadStack(link, e.bits));
        f.set(i, i.add(1));
        f.br(again);
      })
    );
    f.set(sp, sp.sub(bytes));
    e.storeStack(sp, e.bits, frame);
  });
  f.set(sp, sp.sub(size));
  e.probeStack(sp, e.bits);
  e.setStackPointer(sp);
  setFramePointer(e, frame);
}, { ...stack, system: true });

/** In virtual-8086 mode PUSHF, POPF, INT n and IRET are for IOPL 3 (SDM vol. 3, 21.2.8.1; there is no VME). */
function virtualPrivilege(e: Emitter): void {
  if (e.mode === 64) return;
  const flags = e.f.i32(e.f.s32(State.RFLAGS));
  e.raiseIf(flags.has(Flag.VM).and(flags.and(Flag.IOPL).ne(Flag.IOPL)), Vector.GP, 0);
}

// Flags on the stack.
op("pushf", "9C", "", (e) => {
  virtualPrivilege(e);
  const flags = e.f.call32(readFlags).and(~(Flag.VM | Flag.RF));
  e.push(flags.i64u(), e.bits);
}, { ...stack, system: true });
op("popf", "9D", "", (e) => {
  const { f } = e;
  virtualPrivilege(e);
  const value = e.peek(e.bits);
  e.adjustStack(e.bits >> 3);
  const cpl = f.i32(f.s32(State.CPL));
  const base = Flag.ARITHMETIC | Flag.TF | Flag.DF | Flag.NT | Flag.AC | Flag.ID;
  const allowed = f.i32(base);
  f.if(cpl.eqz(), () => f.set(allowed, allowed.or(Flag.IOPL)));
  f.if(cpl.leU(f.s32(State.RFLAGS).shrU(12).and(3)), () => f.set(allowed, allowed.or(Flag.IF)));
  if (e.bits === 16) f.set(allowed, allowed.and(0xffff));
  f.do(writeFlags, value.i32(), allowed);
  // RF is cleared by every POPF.
  f.set32(State.RFLAGS, f.s32(State.RFLAGS).and(~Flag.RF));
  interruptWindow(e);
  e.endBlock();
}, { ...stack, system: true, ends: true });

/** Leaves for an interrupt that waited until now. */
export function interruptWindow(e: Emitter): void {
  const { f } = e;
  f.if(f.s32(State.INTERRUPT_WINDOW).and(f.s32(State.RFLAGS).has(Flag.IF)), () => {
    f.drop(f.place(State.ATTENTION).atomicOr32(2));
  });
}

// Jumps and calls.
const near = { modal: true, size64: "f64", ends: true } as const;
const codeLimit = State.SEGMENTS + Seg.CS * Segment.BYTES + Segment.LIMIT;
/** A branch beyond the limit of the code segment faults itself (SDM vol. 2, JMP, Jcc, LOOP, CALL). */
function relativeTarget(e: Emitter, taken: I32 | null): void {
  if (!e.limitsBranches) return;
  const beyond = e.branchTarget(0).gtU(e.f.s32(codeLimit).i64u());
  e.raiseIf(taken === null ? beyond : taken.and(beyond), Vector.GP, 0);
}
const conditional = (e: Emitter, condition: I32) => {
  const taken = e.limitsBranches ? e.f.i32(condition) : condition;
  relativeTarget(e, taken);
  e.branch(taken, 0);
};
for (let cc = 0; cc < 16; cc++) {
  const hex = cc.toString(16).toUpperCase();
  op(`j${hex}`, `7${hex}`, "Jb", (e) => conditional(e, e.condition(cc)), near);
  op(`j${hex}`, `0F 8${hex}`, "Jz", (e) => conditional(e, e.condition(cc)), near);
}
const jump: Emit = (e) => {
  relativeTarget(e, null);
  e.branch(null, 0);
};
op("jmp", "EB", "Jb", jump, near);
op("jmp", "E9", "Jz", jump, near);
/** So does one to an address that is not canonical in 64-bit mode. */
function indirectTarget(e: Emitter, target: I64): void {
  if (e.mode === 64) e.raiseIf(target.shl(16).shrS(16).ne(target), Vector.GP, 0);
  else if (e.limitsBranches) e.raiseIf(target.zx(e.bits).gtU(e.f.s32(codeLimit).i64u()), Vector.GP, 0);
}
op("jmp_indirect", "FF /4", "Ev", (e) => {
  const target = e.readUnsigned(0);
  indirectTarget(e, target);
  e.jumpIndirect(target);
}, near);
op("call", "E8", "Jz", (e) => {
  relativeTarget(e, null);
  e.push(e.nextRip(), e.bits);
  e.branch(null, 0);
}, near);
op("call_indirect", "FF /2", "Ev", (e) => {
  const target = e.readUnsigned(0);
  indirectTarget(e, target);
  e.push(e.nextRip(), e.bits);
  e.jumpIndirect(target);
}, near);
op("ret", "C3", "", (e) => {
  const target = e.peek(e.bits);
  indirectTarget(e, target);
  e.adjustStack(e.bits >> 3);
  e.jumpIndirect(target);
}, near);
op("ret_drop", "C2", "Iw", (e) => {
  const target = e.peek(e.bits);
  indirectTarget(e, target);
  e.adjustStack(e.immediate(0).and(0xffff).add(e.bits >> 3));
  e.jumpIndirect(target);
}, near);

const counter = (e: Emitter): I64 => e.reg(Reg.CX).zx(e.addressBits);
/** Counts down, and branches when the count is not 0 and `flag` holds. */
function loop(e: Emitter, flag: I32 | null): void {
  const { f } = e;
  const next = f.i64(e.reg(Reg.CX).sub(1).zx(e.addressBits));
  const taken = f.i32(flag === null ? next.ne(0) : next.ne(0).and(flag));
  relativeTarget(e, taken);
  e.setReg(Reg.CX, e.addressBits === 16 ? e.reg(Reg.CX).and(~0xffff).or(next) : next);
  e.branch(taken, 0);
}
const counted = { ...near, addressSized: true } as const;
op("loopne", "E0", "Jb", (e) => loop(e, e.condition(5)), counted);
op("loope", "E1", "Jb", (e) => loop(e, e.condition(4)), counted);
op("loop", "E2", "Jb", (e) => loop(e, null), counted);
op("jcxz", "E3", "Jb", (e) => conditional(e, counter(e).eqz()), counted);

// Far transfers: the selector stands above the offset.
const far = { system: true, ends: true, modal: true } as const;
function leaveWith(e: Emitter): void {
  e.faultIf(e.f.s32(State.FAULT));
  e.finishBlock();
}
op("jmp_far", "EA", "Iz Iw", (e) => {
  e.f.do(farJump, e.immediate(1).i32().and(0xffff), e.immediate(0).zx(e.bits), e.nextRip());
  leaveWith(e);
}, { ...far, only: "legacy" });
op("call_far", "9A", "Iz Iw", (e) => {
  e.f.do(farCall, e.immediate(1).i32().and(0xffff), e.immediate(0).zx(e.bits), e.bits >> 3, e.nextRip());
  leaveWith(e);
}, { ...far, only: "legacy" });
const farPointer = (e: Emitter): [I32, I64] => {
  const { f } = e;
  const address = e.address(0);
  const offset = e.loadUnsigned(address, e.bits);
  const selector = e.loadUnsigned(f.i64(address.add(e.bits >> 3)), 16);
  return [selector.i32(), offset];
};
op("jmp_far_indirect", "FF /5 modm", "Mp", (e) => {
  const [selector, offset] = farPointer(e);
  e.f.do(farJump, selector, offset, e.nextRip());
  leaveWith(e);
}, far);
op("call_far_indirect", "FF /3 modm", "Mp", (e) => {
  const [selector, offset] = farPointer(e);
  e.f.do(farCall, selector, offset, e.bits >> 3, e.nextRip());
  leaveWith(e);
}, far);
op("ret_far", "CB", "", (e) => {
  e.f.do(farReturn, e.bits >> 3, 0);
  leaveWith(e);
}, far);
op("ret_far_drop", "CA", "Iw", (e) => {
  e.f.do(farReturn, e.bits >> 3, e.immediate(0).i32().and(0xffff));
  leaveWith(e);
}, far);

// Interrupts.
op("iret", "CF", "", (e) => {
  virtualPrivilege(e);
  e.f.do(interruptReturn, e.bits, e.nextRip());
  e.faultIf(e.f.s32(State.FAULT));
  e.f.set32(State.NMI_MASKED, 0);
  e.f.if(e.f.s32(State.NMI_PENDING), () => e.f.drop(e.f.place(State.ATTENTION).atomicOr32(2)));
  interruptWindow(e);
  e.finishBlock();
}, far);
const software = (vector: (e: Emitter) => I32, source: number): Emit => (e) => {
  const { f } = e;
  f.set64(State.INTERRUPT_RIP, e.currentRip());
  f.set64(State.RIP, e.nextRip());
  const failed = f.i32(f.call32(deliver, vector(e), -1, source));
  f.if(failed, () => {
    f.set32(State.FAULT, Fault.EXIT);
    f.set32(State.EXIT, Leave.SHUTDOWN);
  });
  e.faultIf(f.s32(State.FAULT));
  e.finishBlock();
};
op("int3", "CC", "", software(() => i32(Vector.BP), Source.SOFTWARE), far);
op("int", "CD", "Ib", (e) => {
  virtualPrivilege(e);
  software((e) => e.immediate(0).i32().and(0xff), Source.SOFTWARE)(e);
}, far);
op("int1", "F1", "", software(() => i32(Vector.DB), Source.EXCEPTION), far);
op("into", "CE", "", (e) => {
  e.f.if(e.condition(0), () => software(() => i32(Vector.OF), Source.SOFTWARE)(e));
  e.endBlock();
}, { ...far, only: "legacy" });

op("syscall", "0F 05", "", (e) => {
  e.f.do(systemCall, e.nextRip());
  leaveWith(e);
}, far);
op("sysret", "0F 07", "", (e) => {
  e.f.do(systemReturn, e.bits);
  e.faultIf(e.f.s32(State.FAULT));
  interruptWindow(e);
  e.finishBlock();
}, far);
op("sysenter", "0F 34", "", (e) => {
  e.f.do(systemEnter);
  leaveWith(e);
}, far);
op("sysexit", "0F 35", "", (e) => {
  e.f.do(systemExit, e.bits);
  leaveWith(e);
}, far);
