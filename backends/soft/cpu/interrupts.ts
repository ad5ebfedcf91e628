/** Delivery of exceptions and interrupts, and the return from them. */
import { type CpuFunc, declare, defineCpuFunction, type Target } from "../cpu_function.ts";
import { Fault, loadSlow, raise, storeSlow, Vector } from "../emitter.ts";
import { bits, Flag } from "../flags.ts";
import { Reg, Seg, Segment, State } from "../layout.ts";
import type { Label, Local } from "../wasm/function.ts";
import type { Module } from "../wasm/module.ts";
import { type I32, i32, type I64, i64, select, Type } from "../wasm/values.ts";
import { EFER, guard, guardStack, loadSystem, segmentField } from "./mmu.ts";
import {
  Attribute,
  attributesOf,
  baseOf,
  cacheSegment,
  dpl,
  isLong,
  isReal,
  isReal86,
  isVirtual,
  limitOf,
  loadDescriptor,
  loadRealSegment,
  markAccessed,
  outsideLimit,
  setSegment,
  setVirtualSegments,
  stackDescriptor,
  updateMode,
} from "./segments.ts";
import { Event, Switch, switchTask, taskReturn } from "./tasks.ts";

/** Where an event comes from. */
export const Source = { EXCEPTION: 0, SOFTWARE: 1, EXTERNAL: 2 } as const;

/** (vector, error or -1, {@link Source}) with RIP as it is to be pushed -> 0, or 1 when the CPU shut down. */
export const deliver = declare("deliver", [Type.i32, Type.i32, Type.i32], Type.i32);
/** IRET of so many bits, with the next instruction; sets FAULT. */
export const interruptReturn = declare("interrupt_return", [Type.i32, Type.i64], null);
/** RFLAGS, all of it. */
export const readFlags = declare("read_flags", [], Type.i32);
/** (value, mask of what may change). */
export const writeFlags = declare("write_flags", [Type.i32, Type.i32], null);
/** Sets CPL and what follows from it. */
export const setPrivilege = declare("set_privilege", [Type.i32], null);
/** Stack pointer of a privilege from the TSS: (cpl) -> ESP; SS in SCRATCH. */
export const taskStack = declare("task_stack", [Type.i32], Type.i64);
const enterReal = declare("enter_real", [Type.i32], null);
const enterLong = declare("enter_long", [Type.i32, Type.i32, Type.i32], null);
const enterProtected = declare("enter_protected", [Type.i32, Type.i32, Type.i32], null);

/** Leaves with `fail` when an offset lies beyond the limit of a code segment to enter, or is not canonical. */
export function checkOffset(f: CpuFunc, code: I64, offset: I64, fail: () => void): void {
  const long = f.s64(State.EFER).i32().has(EFER.LMA).and(attributesOf(code).has(Attribute.L));
  f.if(long, () => f.if(offset.shl(16).shrS(16).ne(offset), fail), () => {
    f.if(offset.u32().gtU(limitOf(f, code).i64u()), fail);
  });
}

/** The stack that a transfer pushes to: the present one, or one that it is about to switch to. */
export interface Stack {
  pointer: Local<I64>;
  base: Local<I64>;
  mask: Local<I64>;
  attributes: Local<I32>;
  limit: Local<I64>;
  /** The error code of #SS. */
  error: Local<I32>;
}

/** The present stack. */
export function presentStack(f: CpuFunc, error: I32 | number = 0): Stack {
  return {
    pointer: f.i64(f.s64(State.GPR + Reg.SP * 8)),
    base: f.i64(select(isLong(f), i64(0), f.s64(State.SEGMENTS + Seg.SS * Segment.BYTES + Segment.BASE))),
    mask: f.i64(stackMask(f)),
    attributes: f.i32(segmentField(f, Seg.SS, Segment.ATTRIBUTES)),
    limit: f.i64(segmentField(f, Seg.SS, Segment.LIMIT).i64u()),
    error: f.i32(error),
  };
}

/** Makes it that of another descriptor. */
export function switchStack(f: CpuFunc, stack: Stack, pointer: I64, descriptor: I64, error: I32): void {
  f.set(stack.pointer, pointer);
  f.set(stack.base, baseOf(descriptor));
  f.set(stack.attributes, attributesOf(descriptor));
  f.set(stack.mask, select(stack.attributes.has(Attribute.DB), i64(0xffff_ffff), i64(0xffff)));
  f.set(stack.limit, limitOf(f, descriptor).i64u());
  f.set(stack.error, error);
}

/** The linear address of an access to a stack outside 64-bit mode; sets FAULT. */
export function stackPlace(f: CpuFunc, stack: Stack, offset: I64, bytes: I32): I64 {
  const at = f.i64(offset.and(stack.mask));
  f.if(outsideLimit(stack.attributes, stack.limit, at, bytes), () => f.do(raise, Vector.SS, stack.error));
  return stack.base.add(at).u32();
}

/** Pushes outside 64-bit mode; sets FAULT. */
export function pushTo(f: CpuFunc, stack: Stack, bytes: I32, value: I64): void {
  f.set(stack.pointer, stack.pointer.sub(bytes.i64u()).and(stack.mask));
  const place = stackPlace(f, stack, stack.pointer, bytes);
  f.if(f.s32(State.FAULT).eqz(), () => f.do(storeSlow, place, bytes, value));
}

/** Pops; returns from the function when that faults. */
export function popFrom(f: CpuFunc, stack: Stack, long: I32, bytes: I32): Local<I64> {
  const place = f.i64(stack.pointer);
  f.if(long.eqz(), () => {
    f.set(place, stackPlace(f, stack, stack.pointer, bytes));
    guard(f);
  });
  const value = f.i64(f.call64(loadSlow, place, bytes));
  guardStack(f);
  f.set(stack.pointer, stack.pointer.add(bytes.i64u()));
  return value;
}

/** Sets RIP. */
export function setRip(f: CpuFunc, rip: I64): void {
  f.set64(State.RIP, rip);
}

/** The mask of the stack pointer. */
export function stackMask(f: CpuFunc): I64 {
  const wide = segmentField(f, Seg.SS, Segment.ATTRIBUTES).has(Attribute.DB);
  return select(isLong(f), i64(-1), select(wide, i64(0xffff_ffff), i64(0xffff)));
}

/** Merges a new stack pointer within the mask. */
export function setStackPointer(f: CpuFunc, value: I64, mask: I64): void {
  const at = State.GPR + Reg.SP * 8;
  // A 32-bit stack pointer clears the upper half; a 16-bit one keeps the rest.
  f.if(mask.eq(0xffff), () => f.store16(f.place(at), value.i32()), () => f.set64(at, value.and(mask)));
}

export function defineInterrupts(module: Module, target: Target): void {
  const define = (name: typeof deliver, body: (f: CpuFunc) => void) => defineCpuFunction(module, target, name, body);

  define(readFlags, (f) => {
    const lazy = {
      kind: f.s32(State.FLAG_KIND),
      a: f.s64(State.FLAG_A),
      b: f.s64(State.FLAG_B),
      result: f.s64(State.FLAG_RESULT),
    };
    f.return(f.s32(State.RFLAGS).or(bits(f, lazy)).or(2));
  });

  define(writeFlags, (f) => {
    const mask = f.i32(f.parameter32(1));
    const old = f.i32(f.call32(readFlags));
    const value = f.i32(old.and(mask.xor(-1)).or(f.parameter32(0).and(mask)));
    f.set64(State.FLAG_A, value.and(Flag.ARITHMETIC).i64u());
    f.set32(State.FLAG_KIND, 0);
    f.set32(State.RFLAGS, value.and(~Flag.ARITHMETIC));
    f.if(value.xor(old).has(Flag.AC), () => f.do(updateMode));
    // Single steps are JavaScript's: the next block is not entered.
    f.if(value.has(Flag.TF), () => f.drop(f.place(State.ATTENTION).atomicOr32(1)));
  });

  define(setPrivilege, (f) => {
    f.set32(State.CPL, f.parameter32(0));
    f.do(updateMode);
  });

  define(taskStack, (f) => {
    const cpl = f.parameter32(0);
    const attributes = f.i32(segmentField(f, Seg.TR, Segment.ATTRIBUTES));
    const base = f.i64(f.s64(State.SEGMENTS + Seg.TR * Segment.BYTES + Segment.BASE));
    const limit = f.i32(segmentField(f, Seg.TR, Segment.LIMIT));
    const fail = () => {
      f.do(raise, Vector.TS, segmentField(f, Seg.TR, Segment.SELECTOR).and(0xfffc));
      f.return(i64(0));
    };
    f.if(f.s64(State.EFER).i32().has(EFER.LMA), () => {
      const at = cpl.shl(3).add(4);
      f.if(at.add(7).gtU(limit), fail);
      f.return(f.call64(loadSystem, base.add(at.i64u()), 8));
    });
    f.if(attributes.has(8), () => {
      const at = f.i32(cpl.shl(3).add(4));
      f.if(at.add(5).gtU(limit), fail);
      f.set64(State.SCRATCH, f.call64(loadSystem, base.add(at.i64u()).add(4), 2));
      guard(f, i64(0));
      f.return(f.call64(loadSystem, base.add(at.i64u()), 4));
    });
    const at = f.i32(cpl.shl(2).add(2));
    f.if(at.add(3).gtU(limit), fail);
    f.set64(State.SCRATCH, f.call64(loadSystem, base.add(at.i64u()).add(2), 2));
    guard(f, i64(0));
    f.return(f.call64(loadSystem, base.add(at.i64u()), 2));
  });

  define(enterReal, (f) => {
    const vector = f.parameter32(0);
    f.if(vector.shl(2).add(3).gtU(f.s32(State.IDTR_LIMIT)), () => {
      f.do(raise, Vector.GP, 0);
      f.return();
    });
    const entry = f.i64(f.call64(loadSystem, f.s64(State.IDTR_BASE).add(vector.shl(2).i64u()), 4));
    guard(f);
    const stack = presentStack(f);
    const flags = f.i32(f.call32(readFlags));
    const values = [
      flags.i64u(),
      segmentField(f, Seg.CS, Segment.SELECTOR).i64u(),
      f.s64(State.RIP),
    ];
    for (const value of values) {
      pushTo(f, stack, i32(2), value);
      guard(f);
    }
    setStackPointer(f, stack.pointer, stack.mask);
    f.set32(State.RFLAGS, f.s32(State.RFLAGS).and(~(Flag.IF | Flag.TF | Flag.AC | Flag.RF)));
    setRip(f, entry.and(0xffff));
    f.do(loadRealSegment, Seg.CS, entry.shrU(16).i32());
  });

  /** Checks a gate's code segment: its descriptor, with the privilege to run at in `level`. */
  const gateTarget = (f: CpuFunc, selector: I32, external: I32, level: ReturnType<CpuFunc["i32"]>) => {
    const fail = (vector: number) => {
      f.do(raise, vector, selector.and(0xfffc).or(external));
      f.return();
    };
    f.if(selector.has(0xfffc).eqz(), () => {
      f.do(raise, Vector.GP, external);
      f.return();
    });
    const descriptor = f.i64(f.call64(loadDescriptor, selector, Vector.GP));
    guard(f);
    const attributes = f.i32(attributesOf(descriptor));
    const cpl = f.s32(State.CPL);
    f.if(
      attributes.and(Attribute.S | Attribute.CODE).ne(Attribute.S | Attribute.CODE).or(dpl(attributes).gtU(cpl)),
      () => fail(Vector.GP),
    );
    f.if(attributes.has(Attribute.P).eqz(), () => fail(Vector.NP));
    f.set(level, select(attributes.has(Attribute.CONFORMING), cpl, dpl(attributes)));
    return descriptor;
  };

  /** RFLAGS for a frame: RF is set by faults, so that an instruction breakpoint does not stop it twice (17.3.1.1). */
  const pushedFlags = (f: CpuFunc, vector: I32, source: I32): I32 =>
    f.i32(
      f.call32(readFlags).or(select(source.eq(Source.EXCEPTION).and(vector.ne(Vector.DB)), i32(Flag.RF), i32(0))),
    );
  /** RF lasts for one instruction, which only matters while there are breakpoints. */
  const dropResume = (f: CpuFunc) =>
    f.if(f.s64(State.DR + 40).has(0xff).eqz(), () => f.set32(State.RFLAGS, f.s32(State.RFLAGS).and(~Flag.RF)));

  define(enterLong, (f) => {
    const vector = f.parameter32(0);
    const error = f.parameter32(1);
    const source = f.parameter32(2);
    const external = f.i32(source.ne(Source.SOFTWARE));
    const fail = (name: number) => {
      f.do(raise, name, vector.shl(3).or(2).or(external));
      f.return();
    };
    f.if(vector.shl(4).or(15).gtU(f.s32(State.IDTR_LIMIT)), () => fail(Vector.GP));
    const gateAt = f.i64(f.s64(State.IDTR_BASE).add(vector.shl(4).i64u()));
    const gate = f.i64(f.call64(loadSystem, gateAt, 8));
    guard(f);
    const high = f.i64(f.call64(loadSystem, gateAt.add(8), 8));
    guard(f);
    const attributes = f.i32(gate.shrU(40).i32().and(0xff));
    f.if(attributes.and(0x1e).ne(0xe), () => fail(Vector.GP));
    f.if(source.eq(Source.SOFTWARE).and(dpl(attributes).ltU(f.s32(State.CPL))), () => fail(Vector.GP));
    f.if(attributes.has(Attribute.P).eqz(), () => fail(Vector.NP));
    const selector = f.i32(gate.shrU(16).i32().and(0xffff));
    const cpl = f.i32(f.s32(State.CPL));
    const level = f.i32();
    const descriptor = gateTarget(f, selector, external, level);
    f.if(attributesOf(descriptor).and(Attribute.L | Attribute.DB).ne(Attribute.L), () => {
      f.do(raise, Vector.GP, selector.and(0xfffc).or(external));
      f.return();
    });
    const sp = f.i64(f.s64(State.GPR + Reg.SP * 8));
    const ist = f.i32(gate.shrU(32).i32().and(7));
    const tss = f.i64(f.s64(State.SEGMENTS + Seg.TR * Segment.BYTES + Segment.BASE));
    f.if(ist, () => {
      f.if(ist.shl(3).add(0x1c + 7).gtU(segmentField(f, Seg.TR, Segment.LIMIT)), () => {
        f.do(raise, Vector.TS, segmentField(f, Seg.TR, Segment.SELECTOR).and(0xfffc).or(external));
        f.return();
      });
      f.set(sp, f.call64(loadSystem, tss.add(ist.shl(3).i64u()).add(0x1c), 8));
      guard(f);
    }, () => {
      f.if(level.ltU(cpl), () => {
        f.set(sp, f.call64(taskStack, level));
        guard(f);
      });
    });
    f.set(sp, sp.and(-16));
    const flags = pushedFlags(f, vector, source);
    // The frame is written with the new privilege; a fault in it finds the old one again.
    f.do(setPrivilege, level);
    const values: I64[] = [
      segmentField(f, Seg.SS, Segment.SELECTOR).i64u(),
      f.s64(State.GPR + Reg.SP * 8),
      flags.i64u(),
      segmentField(f, Seg.CS, Segment.SELECTOR).i64u(),
      f.s64(State.RIP),
    ];
    const push = (value: I64) => {
      f.set(sp, sp.sub(8));
      f.do(storeSlow, sp, 8, value);
      f.if(f.s32(State.FAULT), () => {
        f.do(setPrivilege, cpl);
        f.return();
      });
    };
    f.if(sp.shl(16).shrS(16).ne(sp), () => {
      f.do(setPrivilege, cpl);
      f.do(raise, Vector.SS, external);
      f.return();
    });
    for (const value of values) push(value);
    f.if(error.ne(-1), () => push(error.i64u()));
    f.set64(State.GPR + Reg.SP * 8, sp);
    f.if(level.ne(cpl), () => {
      // A null SS with the new privilege.
      const at = State.SEGMENTS + Seg.SS * Segment.BYTES;
      f.set32(at + Segment.SELECTOR, level);
      f.set64(at + Segment.BASE, 0);
      f.set32(at + Segment.LIMIT, 0);
      f.set32(at + Segment.ATTRIBUTES, 0x1_0000);
    });
    f.do(cacheSegment, Seg.CS, selector.and(0xfffc).or(level), descriptor);
    const cleared = select(
      attributes.has(1),
      i32(~(Flag.TF | Flag.NT | Flag.RF | Flag.VM)),
      i32(~(Flag.TF | Flag.NT | Flag.RF | Flag.VM | Flag.IF)),
    );
    f.set32(State.RFLAGS, f.s32(State.RFLAGS).and(cleared));
    setRip(f, gate.and(0xffff).or(gate.shrU(32).and(0xffff_0000)).or(high.shl(32)));
    f.do(updateMode);
  });

  define(enterProtected, (f) => {
    const vector = f.parameter32(0);
    const error = f.parameter32(1);
    const source = f.parameter32(2);
    const external = f.i32(source.ne(Source.SOFTWARE));
    const fail = (name: number) => {
      f.do(raise, name, vector.shl(3).or(2).or(external));
      f.return();
    };
    f.if(vector.shl(3).or(7).gtU(f.s32(State.IDTR_LIMIT)), () => fail(Vector.GP));
    const gate = f.i64(f.call64(loadSystem, f.s64(State.IDTR_BASE).add(vector.shl(3).i64u()), 8));
    guard(f);
    const attributes = f.i32(gate.shrU(40).i32().and(0xff));
    // 16- and 32-bit interrupt and trap gates: types 6 7 E F; task gates.
    const task = f.i32(attributes.and(0x1f).eq(5));
    f.if(task.or(attributes.and(0x16).eq(6)).eqz(), () => fail(Vector.GP));
    f.if(source.eq(Source.SOFTWARE).and(dpl(attributes).ltU(f.s32(State.CPL))), () => fail(Vector.GP));
    f.if(attributes.has(Attribute.P).eqz(), () => fail(Vector.NP));
    const selector = f.i32(gate.shrU(16).i32().and(0xffff));
    f.if(task, () => {
      const fault = source.eq(Source.EXCEPTION).and(vector.ne(Vector.DB)).and(vector.ne(Vector.DF));
      const event = external.or(select(fault, i32(Event.FAULT), i32(0)));
      f.drop(f.call32(switchTask, selector, Switch.NEST, f.s64(State.RIP), error, event));
      f.return();
    });
    const cpl = f.i32(f.s32(State.CPL));
    const level = f.i32();
    const descriptor = gateTarget(f, selector, external, level);
    const virtual = f.i32(isVirtual(f));
    f.if(virtual.and(level.ne(0)), () => {
      f.do(raise, Vector.GP, selector.and(0xfffc).or(external));
      f.return();
    });
    const wide = f.i32(attributes.has(8));
    const bytes = f.i32(select(wide, i32(4), i32(2)));
    const inner = f.i32(level.ltU(cpl));
    const stack = presentStack(f, external);
    const stackSegment = f.i64(0);
    const stackSelector = f.i32(0);
    const offset = f.i64(gate.and(0xffff).or(gate.shrU(32).and(0xffff_0000)));
    f.if(wide.eqz(), () => f.set(offset, offset.and(0xffff)));
    checkOffset(f, descriptor, offset, () => {
      f.do(raise, Vector.GP, external);
      f.return();
    });
    f.if(inner, () => {
      const pointer = f.i64(f.call64(taskStack, level));
      guard(f);
      f.set(stackSelector, f.s64(State.SCRATCH).i32());
      f.set(stackSegment, f.call64(stackDescriptor, stackSelector, level, Vector.TS));
      guard(f);
      switchStack(f, stack, pointer, stackSegment, stackSelector.and(0xfffc).or(external));
    });
    const flags = pushedFlags(f, vector, source);
    const push = (value: I64) => {
      pushTo(f, stack, bytes, value);
      f.if(f.s32(State.FAULT), () => {
        f.do(setPrivilege, cpl);
        f.return();
      });
    };
    const oldStack = f.i64(f.s64(State.GPR + Reg.SP * 8));
    f.do(setPrivilege, level);
    f.if(virtual, () => {
      for (const segment of [Seg.GS, Seg.FS, Seg.DS, Seg.ES]) {
        push(segmentField(f, segment, Segment.SELECTOR).i64u());
      }
    });
    f.if(inner, () => {
      push(segmentField(f, Seg.SS, Segment.SELECTOR).i64u());
      push(oldStack);
    });
    push(flags.i64u());
    push(segmentField(f, Seg.CS, Segment.SELECTOR).i64u());
    push(f.s64(State.RIP));
    f.if(error.ne(-1), () => push(error.i64u()));
    f.if(inner, () => f.do(cacheSegment, Seg.SS, stackSelector, stackSegment));
    setStackPointer(f, stack.pointer, stack.mask);
    f.do(cacheSegment, Seg.CS, selector.and(0xfffc).or(level), descriptor);
    const cleared = select(
      attributes.has(1),
      i32(~(Flag.TF | Flag.NT | Flag.RF | Flag.VM)),
      i32(~(Flag.TF | Flag.NT | Flag.RF | Flag.VM | Flag.IF)),
    );
    f.set32(State.RFLAGS, f.s32(State.RFLAGS).and(cleared));
    f.if(virtual, () => {
      for (const segment of [Seg.ES, Seg.DS, Seg.FS, Seg.GS]) setSegment(f, segment, i32(0), i64(0), 0, 0x1_0000);
    });
    setRip(f, offset);
    f.do(updateMode);
  });

  define(deliver, (f) => {
    const vector = f.i32(f.parameter32(0));
    const error = f.i32(f.parameter32(1));
    const source = f.i32(f.parameter32(2));
    f.set32(State.DELIVERING, 1);
    const end = (answer: number) => {
      f.set32(State.DELIVERING, 0);
      f.return(answer);
    };
    f.set32(State.DELIVERED, select(f.parameter32(2).eq(Source.EXCEPTION), f.parameter32(0).add(1), i32(1)));
    // Delivery begins anew for the exception it ran into: benign, contributory, page fault (SDM vol. 3, 6.15).
    const kind = (v: I32): I32 =>
      select(
        v.eq(Vector.PF),
        i32(2),
        i32((1 << Vector.DE) | (1 << Vector.TS) | (1 << Vector.NP) | (1 << Vector.SS) | (1 << Vector.GP)).shrU(v).and(1)
          .and(v.ltU(32)),
      );
    f.loop((again: Label) => {
      f.set32(State.FAULT, Fault.NONE);
      f.set32(State.LOG_FILLED, 0);
      f.set32(State.LOG_INDEX, 0);
      f.if(isReal(f), () => f.do(enterReal, vector), () => {
        f.if(
          f.s64(State.EFER).i32().has(EFER.LMA),
          () => f.do(enterLong, vector, error, source),
          () => f.do(enterProtected, vector, error, source),
        );
      });
      f.if(f.s32(State.FAULT).eqz(), () => end(0));
      f.if(f.s32(State.FAULT).ne(Fault.EXCEPTION), () => {
        f.set32(State.FAULT, 0);
        end(2);
      });
      // A fault while delivering a double fault is the triple fault.
      f.if(vector.eq(Vector.DF).and(source.eq(Source.EXCEPTION)), () => {
        f.set32(State.FAULT, 0);
        end(1);
      });
      const second = f.i32(f.s32(State.VECTOR));
      const first = f.i32(select(source.eq(Source.EXCEPTION), kind(vector), i32(0)));
      const double = first.eq(1).and(kind(second).eq(1)).or(first.eq(2).and(kind(second).ne(0)));
      f.set(error, f.s32(State.ERROR));
      f.if(source.eq(Source.SOFTWARE), () => setRip(f, f.s64(State.INTERRUPT_RIP)));
      f.set(source, Source.EXCEPTION);
      f.if(double, () => {
        f.set(second, Vector.DF);
        f.set(error, 0);
      });
      f.set(vector, second);
      f.br(again);
    });
  });

  define(interruptReturn, (f) => {
    const size = f.parameter32(0);
    const bytes = f.i32(size.shrU(3));
    const long = f.i32(isLong(f));
    const present = presentStack(f);
    const { pointer: sp, mask } = present;
    const pop = (): I64 => popFrom(f, present, long, bytes);
    const fail = (selector: I32 | number) => {
      f.do(raise, Vector.GP, selector);
      f.return();
    };
    const real = f.i32(isReal86(f));
    f.if(real.eqz().and(f.s32(State.RFLAGS).has(Flag.NT)), () => {
      f.if(f.s64(State.EFER).i32().has(EFER.LMA), () => fail(0));
      f.do(taskReturn, f.parameter64(1));
      f.return();
    });
    const rip = pop();
    const selector = f.i32(pop().i32().and(0xffff));
    const flags = f.i32(pop().i32());
    const all = Flag.ARITHMETIC | Flag.TF | Flag.DF | Flag.NT | Flag.RF | Flag.AC | Flag.ID;
    f.if(real, () => {
      f.if(rip.gtU(segmentField(f, Seg.CS, Segment.LIMIT).i64u()), () => fail(0));
      setStackPointer(f, sp, mask);
      const mask16 = select(size.eq(16), i32(0xffff), i32(-1));
      const level = select(isReal(f), i32(Flag.IOPL), i32(0));
      f.do(writeFlags, flags, i32(all | Flag.IF).or(level).and(mask16));
      dropResume(f);
      setRip(f, rip);
      f.do(loadRealSegment, Seg.CS, selector);
      f.return();
    });
    const cpl = f.i32(f.s32(State.CPL));
    f.if(
      size.eq(32).and(flags.has(Flag.VM)).and(cpl.eqz()).and(f.s64(State.EFER).i32().has(EFER.LMA).eqz()),
      () => {
        const newStack = pop();
        const selectors = [Seg.SS, Seg.ES, Seg.DS, Seg.FS, Seg.GS].map((segment) =>
          [segment, f.i32(pop().i32())] as const
        );
        const ordered = [...selectors, [Seg.CS, selector] as const].sort((a, b) => a[0] - b[0]);
        f.do(writeFlags, flags, i32(all | Flag.IF | Flag.IOPL | Flag.VM | Flag.VIF | Flag.VIP));
        dropResume(f);
        f.set64(State.GPR + Reg.SP * 8, newStack);
        setRip(f, rip.and(0xffff));
        setVirtualSegments(f, ordered.map(([, value]) => value));
        f.return();
      },
    );
    f.if(selector.has(0xfffc).eqz(), () => fail(0));
    const descriptor = f.i64(f.call64(loadDescriptor, selector, Vector.GP));
    guard(f);
    const attributes = f.i32(attributesOf(descriptor));
    const level = f.i32(selector.and(3));
    const conforming = attributes.has(Attribute.CONFORMING);
    f.if(
      attributes.and(Attribute.S | Attribute.CODE).ne(Attribute.S | Attribute.CODE)
        .or(level.ltU(cpl))
        .or(select(conforming, dpl(attributes).gtU(level), dpl(attributes).ne(level))),
      () => fail(selector.and(0xfffc)),
    );
    f.if(attributes.has(Attribute.P).eqz(), () => {
      f.do(raise, Vector.NP, selector.and(0xfffc));
      f.return();
    });
    const to64 = f.i32(f.s64(State.EFER).i32().has(EFER.LMA).and(attributes.has(Attribute.L)));
    const outer = f.i32(level.ne(cpl));
    const stack = f.i64(0);
    const stackSelector = f.i32(0);
    const newStack = f.i64(0);
    f.if(long.or(outer), () => {
      f.set(newStack, pop());
      f.set(stackSelector, pop().i32().and(0xffff));
      f.if(stackSelector.has(0xfffc).eqz(), () => {
        f.if(to64.eqz().or(level.eq(3)).or(stackSelector.and(3).ne(level)), () => fail(0));
      }, () => {
        f.set(stack, f.call64(stackDescriptor, stackSelector, level, Vector.GP));
        guard(f);
      });
    });
    checkOffset(f, descriptor, rip, () => fail(0));
    f.do(markAccessed, selector, descriptor);
    guard(f);
    // Nothing can fail any more.
    const allowed = f.i32(all);
    f.if(cpl.eqz(), () => f.set(allowed, allowed.or(Flag.IOPL)));
    f.if(cpl.leU(f.s32(State.RFLAGS).shrU(12).and(3)), () => f.set(allowed, allowed.or(Flag.IF)));
    f.if(size.eq(16), () => f.set(allowed, allowed.and(0xffff)));
    f.do(writeFlags, flags, allowed);
    dropResume(f);
    f.do(cacheSegment, Seg.CS, selector, descriptor);
    setRip(f, select(to64, rip, rip.u32()));
    f.set32(State.CPL, level);
    f.if(long.or(outer), () => {
      f.if(stackSelector.has(0xfffc), () => f.do(cacheSegment, Seg.SS, stackSelector, stack), () => {
        const at = State.SEGMENTS + Seg.SS * Segment.BYTES;
        f.set32(at + Segment.SELECTOR, stackSelector);
        f.set64(at + Segment.BASE, 0);
        f.set32(at + Segment.LIMIT, 0);
        f.set32(at + Segment.ATTRIBUTES, 0x1_0000);
      });
      const wide = segmentField(f, Seg.SS, Segment.ATTRIBUTES).has(Attribute.DB);
      f.if(to64, () => f.set64(State.GPR + Reg.SP * 8, newStack), () => {
        f.if(wide, () => f.set64(State.GPR + Reg.SP * 8, newStack.u32()), () => {
          f.store16(f.place(State.GPR + Reg.SP * 8), newStack.i32());
        });
      });
    }, () => setStackPointer(f, sp, mask));
    f.if(outer, () => {
      // Data segments the outer level may not use become null.
      for (const segment of [Seg.ES, Seg.DS, Seg.FS, Seg.GS]) {
        const at = State.SEGMENTS + segment * Segment.BYTES;
        const a = f.i32(f.s32(at + Segment.ATTRIBUTES));
        const code = a.and(Attribute.CODE | Attribute.CONFORMING).eq(Attribute.CODE | Attribute.CONFORMING);
        f.if(a.has(Attribute.P).and(code.eqz()).and(dpl(a).ltU(level)), () => {
          f.set32(at + Segment.SELECTOR, 0);
          f.set32(at + Segment.ATTRIBUTES, 0x1_0000);
        });
      }
    });
    f.do(updateMode);
  });
}
