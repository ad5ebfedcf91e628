/** Hardware task switches (SDM vol. 3, chapter 8). */
import { type CpuFunc, declare, defineCpuFunction, type Target } from "../cpu_function.ts";
import { Fault, raise, Vector } from "../emitter.ts";
import { Flag } from "../flags.ts";
import { Seg, Segment, State } from "../layout.ts";
import type { Module } from "../wasm/module.ts";
import { type I32, i32, type I64, i64, select, Type } from "../wasm/values.ts";
import { Leave } from "./external.ts";
import {
  checkOffset,
  deliver,
  presentStack,
  pushTo,
  readFlags,
  setPrivilege,
  setRip,
  setStackPointer,
  Source,
  writeFlags,
} from "./interrupts.ts";
import { Access, CR0, flushTlb, guard, loadSystem, segmentField, storeSystem, translate } from "./mmu.ts";
import {
  Attribute,
  attributesOf,
  cacheSegment,
  dpl,
  loadDescriptor,
  loadLocalTable,
  loadSegment,
  markAccessed,
  setVirtualSegments,
  stackDescriptor,
} from "./segments.ts";

/** How a task is left: it stays busy when the new one nests in it. */
export const Switch = { JUMP: 0, NEST: 1, RETURN: 2 } as const;

/**
 * (selector, {@link Switch}, next instruction, error code or -1, {@link Event} bits): switches to the task of a TSS.
 * -> 0: sets FAULT, with nothing changed; 1: when FAULT is set it is the new task's.
 */
export const switchTask = declare("switch_task", [Type.i32, Type.i32, Type.i64, Type.i32, Type.i32], Type.i32);
/** Far jump or call to a TSS or task gate: (selector, descriptor, 1 for a call, next instruction); sets FAULT. */
export const taskTransfer = declare("task_transfer", [Type.i32, Type.i64, Type.i32, Type.i64], null);
/** IRET of a nested task: (next instruction); sets FAULT. */
export const taskReturn = declare("task_return", [Type.i64], null);

/** What a switch by an interrupt or exception is told. */
export const Event = {
  /** Error codes have EXT. */
  EXTERNAL: 1,
  /** A fault: RF is set in the flags that are saved. */
  FAULT: 2,
} as const;

const loadTask = declare("load_task", [Type.i32, Type.i32, Type.i32], null);

/** Fields of a TSS (SDM vol. 3, figures 8-2 and 8-10): 32-bit, 16-bit. */
const Field = {
  CR3: 0x1c,
  IP: [0x20, 0x0e],
  FLAGS: [0x24, 0x10],
  REGISTERS: [0x28, 0x12],
  SEGMENTS: [0x48, 0x22],
  LDT: [0x60, 0x2a],
  TRAP: 0x64,
} as const;
const LEAST_LIMIT = { wide: 0x67, narrow: 0x2b } as const;
/** DR6.BT: the new task's TSS has T. */
const DR6_BT = 0x8000;
/** Local enables of DR7. */
const DR7_LOCAL = 0x155;
const FLAGS = Flag.ARITHMETIC | Flag.TF | Flag.IF | Flag.DF | Flag.IOPL | Flag.NT | Flag.RF | Flag.VM | Flag.AC |
  Flag.ID | Flag.VIF | Flag.VIP;
const BUSY = 2;

export function defineTasks(module: Module, target: Target): void {
  const define = (name: typeof switchTask | typeof loadTask, body: (f: CpuFunc) => void) =>
    defineCpuFunction(module, target, name, body);
  const isWide = (type: I32) => type.has(8);
  const register = (n: number) => State.GPR + n * 8;
  const tr = State.SEGMENTS + Seg.TR * Segment.BYTES;
  const field = (wide: I32, places: readonly [number, number]) => select(wide, i64(places[0]), i64(places[1]));
  const sizeOf = (wide: I32) => select(wide, i32(4), i32(2));
  const descriptorAt = (f: CpuFunc, selector: I32) => f.s64(State.GDTR_BASE).add(selector.and(0xfff8).i64u());

  define(switchTask, (f) => {
    const selector = f.parameter32(0);
    const how = f.parameter32(1);
    const external = f.i32(f.parameter32(4).and(Event.EXTERNAL));
    const fail = (vector: I32 | number) => {
      f.do(raise, vector, selector.and(0xfffc).or(external));
      f.return(0);
    };
    const leaving = f.i32(how.eq(Switch.RETURN));
    const wrong = f.i32(select(leaving, i32(Vector.TS), i32(Vector.GP)));
    const refuse = () => fail(wrong);
    f.if(selector.has(4).or(selector.has(0xfffc).eqz()), refuse);
    const descriptor = f.i64(f.call64(loadDescriptor, selector, wrong));
    guard(f, 0);
    const attributes = f.i32(attributesOf(descriptor));
    // Available to go to, busy to come back to.
    f.if(attributes.and(0x17).ne(select(leaving, i32(3), i32(1))), refuse);
    f.if(attributes.has(Attribute.P).eqz(), () => fail(Vector.NP));
    const wide = f.i32(isWide(attributes));
    const least = select(wide, i32(LEAST_LIMIT.wide), i32(LEAST_LIMIT.narrow));
    const fresh = f.i32(select(leaving, i32(0), i32(BUSY)));

    // The tasks' memory is asked for before anything changes.
    const oldBase = f.i64(f.s64(tr + Segment.BASE));
    const oldWide = f.i32(isWide(f.s32(tr + Segment.ATTRIBUTES)));
    const oldSelector = f.i32(f.s32(tr + Segment.SELECTOR));
    const oldLimit = select(oldWide, i32(LEAST_LIMIT.wide), i32(LEAST_LIMIT.narrow)).i64u();
    const saved = { selector: f.i32(oldSelector), limit: f.i32(), attributes: f.i32(), base: f.i64(oldBase) };
    f.set(saved.limit, f.s32(tr + Segment.LIMIT));
    f.set(saved.attributes, f.s32(tr + Segment.ATTRIBUTES));
    f.do(cacheSegment, Seg.TR, selector, descriptor.or(1n << 41n));
    const base = f.i64(f.s64(tr + Segment.BASE));
    const short = f.i32(f.s32(tr + Segment.LIMIT).ltU(least));
    const restore = () => {
      f.set32(tr + Segment.SELECTOR, saved.selector);
      f.set32(tr + Segment.LIMIT, saved.limit);
      f.set32(tr + Segment.ATTRIBUTES, saved.attributes);
      f.set64(tr + Segment.BASE, saved.base);
    };
    f.if(short, () => {
      restore();
      fail(Vector.TS);
    });
    const asked: [I64, number][] = [
      [oldBase, Access.WRITE],
      [oldBase.add(oldLimit), Access.WRITE],
      [base, Access.WRITE],
      [base.add(least.i64u()), 0],
      [descriptorAt(f, selector).add(5), Access.WRITE],
      [descriptorAt(f, oldSelector).add(5), Access.WRITE],
    ];
    for (const [address, access] of asked) {
      f.drop(f.call64(translate, address.u32(), Access.IMPLICIT | access));
      f.if(f.s32(State.FAULT), () => {
        restore();
        f.return(0);
      });
    }

    // The old task.
    const setBusy = (of: I32, set: I32 | number) => {
      const at = f.i64(descriptorAt(f, of).add(5));
      const access = f.i64(f.call64(loadSystem, at, 1));
      f.do(storeSystem, at, 1, access.and(~BUSY).or(typeof set === "number" ? i64(set) : set.i64u()));
    };
    f.if(how.ne(Switch.NEST), () => setBusy(oldSelector, 0));
    const flags = f.i32(f.call32(readFlags));
    f.if(leaving, () => f.set(flags, flags.and(~Flag.NT)));
    f.if(f.parameter32(4).has(Event.FAULT), () => f.set(flags, flags.or(Flag.RF)));
    const bytes = f.i32(sizeOf(oldWide));
    const save = (at: I64, value: I64, size: I32 = bytes) => f.do(storeSystem, oldBase.add(at).u32(), size, value);
    save(field(oldWide, Field.IP), f.parameter64(2));
    save(field(oldWide, Field.FLAGS), flags.i64u());
    for (let n = 0; n < 8; n++) {
      save(field(oldWide, Field.REGISTERS).add(bytes.mul(n).i64u()), f.s64(register(n)));
    }
    const saveSegment = (segment: number) =>
      save(
        field(oldWide, Field.SEGMENTS).add(bytes.mul(segment).i64u()),
        segmentField(f, segment, Segment.SELECTOR).i64u(),
        i32(2),
      );
    for (const segment of [Seg.ES, Seg.CS, Seg.SS, Seg.DS]) saveSegment(segment);
    f.if(oldWide, () => {
      saveSegment(Seg.FS);
      saveSegment(Seg.GS);
    });

    // The new one.
    f.if(how.eq(Switch.NEST), () => f.do(storeSystem, base, 2, oldSelector.i64u()));
    f.if(fresh, () => setBusy(selector, BUSY));
    f.do(loadTask, wide, how, f.parameter32(3));
    f.if(f.s32(State.FAULT), () => f.set32(State.ERROR, f.s32(State.ERROR).or(external)));
    f.set64(State.INTERRUPT_RIP, f.s64(State.RIP));
    f.return(1);
  });

  // From here on faults are the new task's.
  define(loadTask, (f) => {
    const wide = f.parameter32(0);
    const how = f.parameter32(1);
    const error = f.parameter32(2);
    const bytes = f.i32(sizeOf(wide));
    const base = f.i64(f.s64(tr + Segment.BASE));
    const read = (at: I64, size: I32 = bytes) => f.call64(loadSystem, base.add(at).u32(), size);
    const offset = f.i64(read(field(wide, Field.IP)));
    const flags = f.i32(read(field(wide, Field.FLAGS)).i32());
    const registers = Array.from({ length: 8 }, (_, n) => {
      const value = f.i64(read(field(wide, Field.REGISTERS).add(bytes.mul(n).i64u())));
      // A 16-bit TSS leaves ones above.
      f.if(wide.eqz(), () => f.set(value, value.or(0xffff_0000)));
      return value;
    });
    const selectors = Array.from({ length: 6 }, (_, n) => {
      const selector = f.i32(0);
      const load = () => f.set(selector, read(field(wide, Field.SEGMENTS).add(bytes.mul(n).i64u()), i32(2)).i32());
      if (n < 4) load();
      else f.if(wide, load);
      return selector;
    });
    const localTable = f.i32(read(field(wide, Field.LDT), i32(2)).i32());
    const trap = f.i32(0);
    const cr3 = f.i64(f.s64(State.CR3));
    f.if(wide, () => {
      f.set(trap, read(i64(Field.TRAP), i32(2)).i32().and(1));
      f.set(cr3, read(i64(Field.CR3)));
    });
    guard(f);
    f.set64(State.CR0, f.s64(State.CR0).or(CR0.TS));
    f.set64(State.DR + 40, f.s64(State.DR + 40).and(~DR7_LOCAL));
    f.if(wide.and(f.s64(State.CR0).has(CR0.PG)), () => {
      f.set64(State.CR3, cr3);
      f.do(flushTlb);
    });
    registers.forEach((value, n) => f.set64(register(n), value));
    setRip(f, offset);
    f.if(how.eq(Switch.NEST), () => f.set(flags, flags.or(Flag.NT)));
    f.do(writeFlags, flags, FLAGS);
    f.if(f.s32(State.INTERRUPT_WINDOW).and(flags.has(Flag.IF)), () => {
      f.drop(f.place(State.ATTENTION).atomicOr32(2));
    });
    selectors.forEach((selector, n) => {
      const at = State.SEGMENTS + n * Segment.BYTES;
      f.set32(at + Segment.SELECTOR, selector);
      f.set32(at + Segment.ATTRIBUTES, 0x1_0000);
      f.set64(at + Segment.BASE, 0);
      f.set32(at + Segment.LIMIT, 0);
    });
    const ldtr = State.SEGMENTS + Seg.LDTR * Segment.BYTES;
    const badTask = () => {
      f.if(f.s32(State.VECTOR).eq(Vector.GP), () => f.set32(State.VECTOR, Vector.TS));
      f.return();
    };
    f.set32(ldtr + Segment.ATTRIBUTES, 0x1_0000);
    f.set32(ldtr + Segment.SELECTOR, localTable);
    f.do(loadLocalTable, localTable);
    f.if(f.s32(State.FAULT), () => {
      f.do(setPrivilege, selectors[Seg.CS].and(3));
      f.if(f.s32(State.VECTOR).eq(Vector.NP), () => f.set32(State.VECTOR, Vector.TS));
      badTask();
    });

    f.if(flags.has(Flag.VM), () => setVirtualSegments(f, selectors), () => {
      const code = selectors[Seg.CS];
      const level = f.i32(code.and(3));
      f.do(setPrivilege, level);
      const codeFault = (vector: number) => {
        f.do(raise, vector, code.and(0xfffc));
        f.return();
      };
      f.if(code.has(0xfffc).eqz(), () => codeFault(Vector.TS));
      const descriptor = f.i64(f.call64(loadDescriptor, code, Vector.TS));
      guard(f);
      const attributes = f.i32(attributesOf(descriptor));
      // Conforming code as well (table 8-1).
      f.if(
        attributes.and(Attribute.S | Attribute.CODE).ne(Attribute.S | Attribute.CODE).or(dpl(attributes).ne(level)),
        () => codeFault(Vector.TS),
      );
      f.if(attributes.has(Attribute.P).eqz(), () => codeFault(Vector.NP));
      f.do(markAccessed, code, descriptor);
      guard(f);
      f.do(cacheSegment, Seg.CS, code, descriptor);
      f.do(setPrivilege, level);
      const stack = f.i64(f.call64(stackDescriptor, selectors[Seg.SS], level, Vector.TS));
      guard(f);
      f.do(cacheSegment, Seg.SS, selectors[Seg.SS], stack);
      for (const segment of [Seg.ES, Seg.DS, Seg.FS, Seg.GS]) {
        f.do(loadSegment, segment, selectors[segment]);
        f.if(f.s32(State.FAULT), badTask);
      }
      checkOffset(f, descriptor, offset, () => {
        f.do(raise, Vector.GP, 0);
        f.return();
      });
    });
    f.if(error.ne(-1), () => {
      const stack = presentStack(f);
      pushTo(f, stack, bytes, error.i64u());
      guard(f);
      setStackPointer(f, stack.pointer, stack.mask);
    });
    f.if(trap, () => {
      f.set64(State.DR + 32, f.s64(State.DR + 32).or(DR6_BT));
      f.do(raise, Vector.DB, -1);
    });
  });

  /** Switches; a fault of the new task is delivered to it, since its instructions are not those that run. */
  const transfer = (f: CpuFunc, selector: I32, how: I32 | number, back: I64) => {
    const done = f.i32(f.call32(switchTask, selector, how, back, -1, 0));
    f.if(done.and(f.s32(State.FAULT).eq(Fault.EXCEPTION)), () => {
      f.set32(State.FAULT, Fault.NONE);
      const failed = f.call32(deliver, f.s32(State.VECTOR), f.s32(State.ERROR), Source.EXCEPTION);
      f.if(failed, () => {
        f.set32(State.FAULT, Fault.EXIT);
        f.set32(State.EXIT, Leave.SHUTDOWN);
      });
    });
  };

  define(taskTransfer, (f) => {
    const selector = f.i32(f.parameter32(0));
    const attributes = f.i32(attributesOf(f.parameter64(1)));
    const fail = (vector: number) => {
      f.do(raise, vector, selector.and(0xfffc));
      f.return();
    };
    f.if(dpl(attributes).ltU(f.s32(State.CPL)).or(dpl(attributes).ltU(selector.and(3))), () => fail(Vector.GP));
    f.if(attributes.and(0x1f).eq(5), () => {
      f.if(attributes.has(Attribute.P).eqz(), () => fail(Vector.NP));
      f.set(selector, f.parameter64(1).shrU(16).i32().and(0xffff));
    });
    transfer(f, selector, f.parameter32(2), f.parameter64(3));
  });

  define(taskReturn, (f) => {
    const link = f.i32(f.call64(loadSystem, f.s64(tr + Segment.BASE), 2).i32());
    guard(f);
    transfer(f, link, Switch.RETURN, f.parameter64(0));
  });
}
