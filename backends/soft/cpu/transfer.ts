/** Far transfers, SYSCALL and its kin, control registers. */
import { type CpuFunc, declare, defineCpuFunction, type Target } from "../cpu_function.ts";
import { loadSlow, raise, stackFault, storeSlow, Vector } from "../emitter.ts";
import { Flag } from "../flags.ts";
import { Reg, Seg, Segment, State } from "../layout.ts";
import type { Module } from "../wasm/module.ts";
import { type I32, i32, type I64, i64, select, Type } from "../wasm/values.ts";
import {
  checkOffset,
  popFrom,
  presentStack,
  pushTo,
  readFlags,
  setPrivilege,
  setRip,
  setStackPointer,
  stackMask,
  stackPlace,
  switchStack,
  taskStack,
  writeFlags,
} from "./interrupts.ts";
import { CR0, CR4, EFER, flushTlb, guard, guardStack, loadSystem, PHYSICAL_BITS, segmentField } from "./mmu.ts";
import {
  Attribute,
  attributesOf,
  cacheSegment,
  dpl,
  isLong,
  isReal,
  isReal86,
  loadDescriptor,
  loadRealSegment,
  markAccessed,
  setSegment,
  stackDescriptor,
  updateMode,
} from "./segments.ts";
import { taskTransfer } from "./tasks.ts";

/** (selector, offset, next instruction) */
export const farJump = declare("far_jump", [Type.i32, Type.i64, Type.i64], null);
/** (selector, offset, operand size in bytes, return address) */
export const farCall = declare("far_call", [Type.i32, Type.i64, Type.i32, Type.i64], null);
/** (operand size in bytes, bytes to drop) */
export const farReturn = declare("far_return", [Type.i32, Type.i32], null);
/** (return address) */
export const systemCall = declare("system_call", [Type.i64], null);
/** (operand size in bits) */
export const systemReturn = declare("system_return", [Type.i32], null);
export const systemEnter = declare("system_enter", [], null);
export const systemExit = declare("system_exit", [Type.i32], null);
/** (number, value) of CR0 CR3 CR4 */
export const writeControl = declare("write_control", [Type.i32, Type.i64], null);

/** Through a call gate: (selector, descriptor, 1 for a call, return address); other system descriptors raise #GP. */
const gateTransfer = declare("gate_transfer", [Type.i32, Type.i64, Type.i32, Type.i64], null);

const FLAT_CODE64 = 0xa09b;
const FLAT_CODE32 = 0xc09b;
const FLAT_DATA = 0xc093;

/** What of CR4 may be set: what CPUID advertises. */
export const CR4_ALLOWED = CR4.TSD | CR4.DE | CR4.PSE | CR4.PAE | CR4.MCE | CR4.PGE | CR4.PCE |
  CR4.OSFXSR | CR4.OSXMMEXCPT | CR4.OSXSAVE | CR4.FSGSBASE | CR4.PCIDE | CR4.SMEP | CR4.SMAP;

export function defineTransfers(module: Module, target: Target): void {
  const define = (name: typeof farJump, body: (f: CpuFunc) => void) => defineCpuFunction(module, target, name, body);

  /** The descriptor of a direct far transfer's code segment, checked; at the same privilege. */
  const codeSegment = (f: CpuFunc, selector: I32): ReturnType<CpuFunc["i64"]> => {
    const fail = (vector: number) => {
      f.do(raise, vector, selector.and(0xfffc));
      f.return();
    };
    f.if(selector.has(0xfffc).eqz(), () => fail(Vector.GP));
    const descriptor = f.i64(f.call64(loadDescriptor, selector, Vector.GP));
    guard(f);
    const attributes = f.i32(attributesOf(descriptor));
    const cpl = f.s32(State.CPL);
    f.if(attributes.and(Attribute.S | Attribute.CODE).ne(Attribute.S | Attribute.CODE), () => fail(Vector.GP));
    f.if(attributes.has(Attribute.CONFORMING), () => {
      f.if(dpl(attributes).gtU(cpl), () => fail(Vector.GP));
    }, () => {
      f.if(dpl(attributes).ne(cpl).or(selector.and(3).gtU(cpl)), () => fail(Vector.GP));
    });
    f.if(attributes.has(Attribute.P).eqz(), () => fail(Vector.NP));
    f.do(markAccessed, selector, descriptor);
    guard(f);
    return descriptor;
  };
  const enter = (f: CpuFunc, selector: I32, descriptor: I64, offset: I64) => {
    f.do(cacheSegment, Seg.CS, selector.and(0xfffc).or(f.s32(State.CPL)), descriptor);
    f.do(updateMode);
    setRip(f, select(isLong(f), offset, offset.u32()));
  };
  const noOffset = (f: CpuFunc) => () => {
    f.do(raise, Vector.GP, 0);
    f.return();
  };

  // SDM vol. 3, 5.8.4 and 5.8.5.
  define(gateTransfer, (f) => {
    const selector = f.parameter32(0);
    const gate = f.parameter64(1);
    const call = f.parameter32(2);
    const fail = (vector: number, error: I32) => {
      f.do(raise, vector, error.and(0xfffc));
      f.return();
    };
    const attributes = f.i32(attributesOf(gate));
    const long = f.i32(f.s64(State.EFER).i32().has(EFER.LMA));
    const cpl = f.i32(f.s32(State.CPL));
    const wide = f.i32(attributes.and(0x1f).eq(0xc));
    f.if(wide.or(attributes.and(0x1f).eq(4).and(long.eqz())).eqz(), () => fail(Vector.GP, selector));
    f.if(dpl(attributes).ltU(cpl).or(dpl(attributes).ltU(selector.and(3))), () => fail(Vector.GP, selector));
    f.if(attributes.has(Attribute.P).eqz(), () => fail(Vector.NP, selector));
    const offset = f.i64(gate.and(0xffff));
    f.if(wide, () => f.set(offset, offset.or(gate.shrU(32).and(0xffff_0000))));
    f.if(long, () => {
      const local = selector.has(4);
      const table = select(
        local,
        f.s64(State.SEGMENTS + Seg.LDTR * Segment.BYTES + Segment.BASE),
        f.s64(State.GDTR_BASE),
      );
      const limit = select(local, segmentField(f, Seg.LDTR, Segment.LIMIT), f.s32(State.GDTR_LIMIT));
      f.if(selector.and(0xfff8).add(15).gtU(limit), () => fail(Vector.GP, selector));
      const high = f.i64(f.call64(loadSystem, table.add(selector.and(0xfff8).i64u()).add(8), 8));
      guard(f);
      f.if(high.shrU(40).has(0x1f), () => fail(Vector.GP, selector));
      f.set(offset, offset.or(high.shl(32)));
    });
    const target = f.i32(gate.shrU(16).i32().and(0xffff));
    f.if(target.has(0xfffc).eqz(), () => fail(Vector.GP, i32(0)));
    const code = f.i64(f.call64(loadDescriptor, target, Vector.GP));
    guard(f);
    const codeAttributes = f.i32(attributesOf(code));
    const level = f.i32(dpl(codeAttributes));
    f.if(
      codeAttributes.and(Attribute.S | Attribute.CODE).ne(Attribute.S | Attribute.CODE).or(level.gtU(cpl))
        .or(long.and(codeAttributes.and(Attribute.L | Attribute.DB).ne(Attribute.L))),
      () => fail(Vector.GP, target),
    );
    f.if(codeAttributes.has(Attribute.P).eqz(), () => fail(Vector.NP, target));
    const conforming = f.i32(codeAttributes.has(Attribute.CONFORMING));
    f.if(conforming.or(call).eqz().and(level.ne(cpl)), () => fail(Vector.GP, target));
    f.if(conforming, () => f.set(level, cpl));
    checkOffset(f, code, offset, noOffset(f));
    f.do(markAccessed, target, code);
    guard(f);
    f.if(call, () => {
      const inner = f.i32(level.ltU(cpl));
      const bytes = f.i32(select(long, i32(8), select(wide, i32(4), i32(2))));
      const old = presentStack(f);
      const oldPointer = f.i64(old.pointer);
      const stack = presentStack(f);
      f.if(long, () => f.set(stack.mask, -1));
      const stackSelector = f.i32(0);
      const stackSegment = f.i64(0);
      f.if(inner, () => {
        const pointer = f.i64(f.call64(taskStack, level));
        guard(f);
        f.if(long, () => f.set(stack.pointer, pointer), () => {
          f.set(stackSelector, f.s64(State.SCRATCH).i32());
          f.set(stackSegment, f.call64(stackDescriptor, stackSelector, level, Vector.TS));
          guard(f);
          switchStack(f, stack, pointer, stackSegment, stackSelector.and(0xfffc));
        });
      });
      const push = (value: I64) => {
        f.if(long, () => {
          f.set(stack.pointer, stack.pointer.sub(8));
          f.do(storeSlow, stack.pointer, 8, value);
          f.do(stackFault);
        }, () => pushTo(f, stack, bytes, value));
        f.if(f.s32(State.FAULT), () => {
          f.do(setPrivilege, cpl);
          f.return();
        });
      };
      f.do(setPrivilege, level);
      f.if(inner, () => {
        push(segmentField(f, Seg.SS, Segment.SELECTOR).i64u());
        push(oldPointer);
        // Parameters, the first one deepest.
        const left = f.i32(select(long, i32(0), gate.shrU(32).i32().and(31)));
        f.block((done) =>
          f.loop((again) => {
            f.brIf(done, left.eqz());
            f.set(left, left.sub(1));
            const from = f.i64(stackPlace(f, old, oldPointer.add(left.mul(bytes).i64u()), bytes));
            const value = f.i64(0);
            f.if(f.s32(State.FAULT).eqz(), () => f.set(value, f.call64(loadSlow, from, bytes)));
            f.if(f.s32(State.FAULT), () => {
              f.do(setPrivilege, cpl);
              f.return();
            });
            push(value);
            f.br(again);
          })
        );
      });
      push(segmentField(f, Seg.CS, Segment.SELECTOR).i64u());
      push(f.parameter64(3));
      f.if(inner, () => {
        f.if(long, () => setSegment(f, Seg.SS, level, i64(0), 0, 0x1_0000), () => {
          f.do(cacheSegment, Seg.SS, stackSelector, stackSegment);
        });
      });
      setStackPointer(f, stack.pointer, stack.mask);
    });
    f.do(cacheSegment, Seg.CS, target.and(0xfffc).or(level), code);
    f.do(updateMode);
    setRip(f, offset);
  });

  /** Leaves a far transfer that goes through a gate. */
  const unlessGate = (f: CpuFunc, selector: I32, call: number, back: I64) => {
    f.if(selector.has(0xfffc), () => {
      const descriptor = f.i64(f.call64(loadDescriptor, selector, Vector.GP));
      guard(f);
      const type = f.i32(attributesOf(descriptor).and(0x1f));
      f.if(type.has(Attribute.S).eqz(), () => {
        // TSSs, busy or not, of 16 and 32 bits, and task gates.
        const task = type.and(5).eq(1).or(type.eq(5)).and(f.s64(State.EFER).i32().has(EFER.LMA).eqz());
        f.if(
          task,
          () => f.do(taskTransfer, selector, descriptor, call, back),
          () => f.do(gateTransfer, selector, descriptor, call, back),
        );
        f.return();
      });
    });
  };

  define(farJump, (f) => {
    const selector = f.parameter32(0);
    const offset = f.parameter64(1);
    f.if(isReal86(f), () => {
      f.if(offset.gtU(segmentField(f, Seg.CS, Segment.LIMIT).i64u()), noOffset(f));
      setRip(f, offset);
      f.do(loadRealSegment, Seg.CS, selector);
      f.return();
    });
    unlessGate(f, selector, 0, f.parameter64(2));
    const descriptor = codeSegment(f, selector);
    checkOffset(f, descriptor, offset, noOffset(f));
    enter(f, selector, descriptor, offset);
  });

  define(farCall, (f) => {
    const selector = f.parameter32(0);
    const offset = f.parameter64(1);
    const bytes = f.parameter32(2);
    f.if(isReal86(f).eqz(), () => unlessGate(f, selector, 1, f.parameter64(3)));
    const long = f.i32(isLong(f));
    const stack = presentStack(f);
    const push = (value: I64) => {
      f.if(long, () => {
        f.set(stack.pointer, stack.pointer.sub(bytes.i64u()));
        f.do(storeSlow, stack.pointer, bytes, value);
      }, () => pushTo(f, stack, bytes, value));
      guardStack(f);
    };
    const descriptor = f.i64(0);
    const real = f.i32(isReal86(f));
    f.if(real, () => {
      f.if(offset.gtU(segmentField(f, Seg.CS, Segment.LIMIT).i64u()), noOffset(f));
    }, () => {
      f.set(descriptor, codeSegment(f, selector));
      checkOffset(f, descriptor, offset, noOffset(f));
    });
    push(segmentField(f, Seg.CS, Segment.SELECTOR).i64u());
    push(f.parameter64(3));
    setStackPointer(f, stack.pointer, stack.mask);
    f.if(real, () => {
      setRip(f, offset);
      f.do(loadRealSegment, Seg.CS, selector);
    }, () => enter(f, selector, descriptor, offset));
  });

  define(farReturn, (f) => {
    const bytes = f.parameter32(0);
    const drop = f.parameter32(1);
    const long = f.i32(isLong(f));
    const present = presentStack(f);
    const { pointer: sp, mask } = present;
    const pop = () => popFrom(f, present, long, bytes);
    const rip = pop();
    const selector = f.i32(pop().i32().and(0xffff));
    f.set(sp, sp.add(drop.i64u()));
    f.if(isReal86(f), () => {
      f.if(rip.gtU(segmentField(f, Seg.CS, Segment.LIMIT).i64u()), noOffset(f));
      setStackPointer(f, sp, mask);
      setRip(f, rip);
      f.do(loadRealSegment, Seg.CS, selector);
      f.return();
    });
    const fail = (vector: number, error: I32) => {
      f.do(raise, vector, error.and(0xfffc));
      f.return();
    };
    const cpl = f.i32(f.s32(State.CPL));
    const level = f.i32(selector.and(3));
    f.if(selector.has(0xfffc).eqz(), () => fail(Vector.GP, selector));
    const descriptor = f.i64(f.call64(loadDescriptor, selector, Vector.GP));
    guard(f);
    const attributes = f.i32(attributesOf(descriptor));
    f.if(
      attributes.and(Attribute.S | Attribute.CODE).ne(Attribute.S | Attribute.CODE).or(level.ltU(cpl))
        .or(
          select(attributes.has(Attribute.CONFORMING), dpl(attributes).gtU(level), dpl(attributes).ne(level)),
        ),
      () => fail(Vector.GP, selector),
    );
    f.if(attributes.has(Attribute.P).eqz(), () => fail(Vector.NP, selector));
    checkOffset(f, descriptor, rip, noOffset(f));
    const mark = () => {
      f.do(markAccessed, selector, descriptor);
      guard(f);
    };
    f.if(level.eq(cpl), mark);
    f.if(level.ne(cpl), () => {
      const newStack = pop();
      const stackSelector = f.i32(pop().i32().and(0xffff));
      const to64 = f.s64(State.EFER).i32().has(EFER.LMA).and(attributes.has(Attribute.L));
      f.if(stackSelector.has(0xfffc).eqz(), () => {
        f.if(to64.eqz().or(level.eq(3)), () => fail(Vector.GP, i32(0)));
        mark();
        setSegment(f, Seg.SS, stackSelector, i64(0), 0, 0x1_0000);
      }, () => {
        const stack = f.i64(f.call64(stackDescriptor, stackSelector, level, Vector.GP));
        guard(f);
        mark();
        f.do(cacheSegment, Seg.SS, stackSelector, stack);
      });
      f.set(sp, newStack.add(drop.i64u()));
      f.set32(State.CPL, level);
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
    f.do(cacheSegment, Seg.CS, selector, descriptor);
    f.do(updateMode);
    setStackPointer(f, sp, f.i64(stackMask(f)));
    setRip(f, select(isLong(f), rip, rip.u32()));
  });

  const undefinedUnless = (f: CpuFunc, condition: I32) =>
    f.if(condition.eqz(), () => {
      f.do(raise, Vector.UD, -1);
      f.return();
    });

  define(systemCall, (f) => {
    undefinedUnless(f, f.s64(State.EFER).i32().has(EFER.SCE).and(isLong(f)));
    f.set64(State.GPR + Reg.CX * 8, f.parameter64(0));
    f.set64(State.GPR + 11 * 8, f.call32(readFlags).and(~Flag.RF).i64u());
    f.do(writeFlags, 0, f.s64(State.SFMASK).i32().or(Flag.RF));
    const selector = f.i32(f.s64(State.STAR).shrU(32).i32().and(0xfffc));
    setSegment(f, Seg.CS, selector, i64(0), 0xffff_ffff, FLAT_CODE64);
    setSegment(f, Seg.SS, selector.add(8), i64(0), 0xffff_ffff, FLAT_DATA);
    f.set32(State.CPL, 0);
    f.do(updateMode);
    setRip(f, f.s64(State.LSTAR));
  });

  define(systemReturn, (f) => {
    undefinedUnless(f, f.s64(State.EFER).i32().has(EFER.SCE).and(isLong(f)));
    const wide = f.i32(f.parameter32(0).eq(64));
    const rip = f.i64(f.s64(State.GPR + Reg.CX * 8));
    f.if(f.s32(State.CPL).or(wide.and(rip.shl(16).shrS(16).ne(rip))), () => {
      f.do(raise, Vector.GP, 0);
      f.return();
    });
    const all = Flag.ARITHMETIC | Flag.TF | Flag.IF | Flag.DF | Flag.IOPL | Flag.NT | Flag.AC | Flag.ID | Flag.RF;
    f.do(writeFlags, f.s64(State.GPR + 11 * 8).i32().and(~Flag.RF), all);
    const base = f.i32(f.s64(State.STAR).shrU(48).i32());
    f.if(wide, () => {
      setSegment(f, Seg.CS, base.add(16).or(3), i64(0), 0xffff_ffff, FLAT_CODE64 | Attribute.DPL);
      setRip(f, rip);
    }, () => {
      setSegment(f, Seg.CS, base.or(3), i64(0), 0xffff_ffff, FLAT_CODE32 | Attribute.DPL);
      setRip(f, rip.u32());
    });
    setSegment(f, Seg.SS, base.add(8).or(3), i64(0), 0xffff_ffff, FLAT_DATA | Attribute.DPL);
    f.set32(State.CPL, 3);
    f.do(updateMode);
  });

  define(systemEnter, (f) => {
    const selector = f.i32(f.s64(State.SYSENTER_CS).i32().and(0xfffc));
    f.if(isReal(f).or(selector.eqz()), () => {
      f.do(raise, Vector.GP, 0);
      f.return();
    });
    f.set32(State.RFLAGS, f.s32(State.RFLAGS).and(~(Flag.IF | Flag.VM | Flag.RF)));
    const long = f.i32(f.s64(State.EFER).i32().has(EFER.LMA));
    f.if(long, () => setSegment(f, Seg.CS, selector, i64(0), 0xffff_ffff, FLAT_CODE64), () => {
      setSegment(f, Seg.CS, selector, i64(0), 0xffff_ffff, FLAT_CODE32);
    });
    setSegment(f, Seg.SS, selector.add(8), i64(0), 0xffff_ffff, FLAT_DATA);
    f.set32(State.CPL, 0);
    f.do(updateMode);
    const mask = select(long, i64(-1), i64(0xffff_ffff));
    f.set64(State.GPR + Reg.SP * 8, f.s64(State.SYSENTER_ESP).and(mask));
    setRip(f, f.s64(State.SYSENTER_EIP).and(mask));
  });

  define(systemExit, (f) => {
    const selector = f.i32(f.s64(State.SYSENTER_CS).i32().and(0xfffc));
    f.if(isReal(f).or(selector.eqz()).or(f.s32(State.CPL)), () => {
      f.do(raise, Vector.GP, 0);
      f.return();
    });
    const wide = f.i32(f.parameter32(0).eq(64));
    const mask = f.i64(select(wide, i64(-1), i64(0xffff_ffff)));
    f.if(wide, () => {
      setSegment(f, Seg.CS, selector.add(32).or(3), i64(0), 0xffff_ffff, FLAT_CODE64 | Attribute.DPL);
    }, () => {
      setSegment(f, Seg.CS, selector.add(16).or(3), i64(0), 0xffff_ffff, FLAT_CODE32 | Attribute.DPL);
    });
    setSegment(
      f,
      Seg.SS,
      select(wide, selector.add(40), selector.add(24)).or(3),
      i64(0),
      0xffff_ffff,
      FLAT_DATA | Attribute.DPL,
    );
    f.set32(State.CPL, 3);
    f.do(updateMode);
    setRip(f, f.s64(State.GPR + Reg.DX * 8).and(mask));
    f.set64(State.GPR + Reg.SP * 8, f.s64(State.GPR + Reg.CX * 8).and(mask));
  });

  define(writeControl, (f) => {
    const number = f.parameter32(0);
    const value = f.parameter64(1);
    const fail = () => {
      f.do(raise, Vector.GP, 0);
      f.return();
    };
    const efer = f.i64(f.s64(State.EFER));
    f.if(number.eqz(), () => {
      const on = (bit: number) => value.has(bit);
      f.if(on(CR0.PG).and(on(CR0.PE).eqz()).or(on(CR0.NW).and(on(CR0.CD).eqz())).or(value.shrU(32).ne(0)), fail);
      const old = f.i64(f.s64(State.CR0));
      f.if(on(CR0.PG).and(old.has(CR0.PG).eqz()), () => {
        f.if(efer.has(EFER.LME), () => {
          f.if(
            f.s64(State.CR4).has(CR4.PAE).eqz().or(segmentField(f, Seg.CS, Segment.ATTRIBUTES).has(Attribute.L)),
            fail,
          );
          f.set64(State.EFER, efer.or(EFER.LMA));
        });
      });
      f.if(on(CR0.PG).eqz().and(old.has(CR0.PG)), () => {
        f.if(isLong(f).or(f.s64(State.CR4).has(CR4.PCIDE)), fail);
        f.set64(State.EFER, efer.and(~EFER.LMA));
      });
      f.set64(State.CR0, value.and(0xe005_003f).or(CR0.ET));
      f.if(value.has(CR0.PE).eqz(), () => f.set32(State.CPL, 0));
    }, () => {
      f.if(number.eq(3), () => {
        // Under PCIDE bit 63 says that the PCID's translations may be kept; it is not stored. None are (SDM vol. 3, 4.10.4.1:
        // the processor need not keep them).
        const keep = f.s64(State.CR4).and(CR4.PCIDE).shl(63 - 17);
        const base = f.i64(value.and(keep.not()));
        f.if(base.has(~((1n << BigInt(PHYSICAL_BITS)) - 1n)), fail);
        f.set64(State.CR3, base);
      }, () => {
        f.if(value.has(~BigInt(CR4_ALLOWED)), fail);
        f.if(efer.has(EFER.LMA).and(value.has(CR4.PAE).eqz()), fail);
        // PCIDE comes in IA-32e mode, while the PCID is 0 (SDM vol. 3, 4.10.1).
        f.if(
          value.has(CR4.PCIDE).and(f.s64(State.CR4).has(CR4.PCIDE).eqz())
            .and(efer.has(EFER.LMA).eqz().or(f.s64(State.CR3).has(0xfff))),
          fail,
        );
        f.set64(State.CR4, value);
      });
    });
    f.do(flushTlb);
    f.do(updateMode);
  });
}
