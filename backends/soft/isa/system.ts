/** Ports, control registers, descriptor tables, MSRs, CPUID and what else only system software has. */
import { Leave, portRead, portWrite } from "../cpu/external.ts";
import { CR0, CR4, flushPage, flushTlb, guard, loadSystem } from "../cpu/mmu.ts";
import {
  inspectSelector,
  isReal,
  isReal86,
  isVirtual,
  loadLocalTable,
  loadSegment,
  loadTaskRegister,
  updateMode,
} from "../cpu/segments.ts";
import { writeControl } from "../cpu/transfer.ts";
import { type CpuFunc, declare, defineCpuFunction, type Target } from "../cpu_function.ts";
import {
  type Emitter,
  Fault,
  loadForWriteSlow as loadForWrite,
  raise,
  storeSlow as storeSlowly,
  Vector,
} from "../emitter.ts";
import { Flag } from "../flags.ts";
import { Reg, Seg, Segment, Shared, State } from "../layout.ts";
import { pointer } from "../wasm/memory.ts";
import type { Module } from "../wasm/module.ts";
import { type F64, type I32, i32, type I64, select, Type } from "../wasm/values.ts";
import { interruptWindow } from "./control.ts";
import { type Emit, op } from "./table.ts";

/** Raises #GP unless the port may be used: (port, bytes). */
export const ioPermission = declare("io_permission", [Type.i32, Type.i32], null);
/** JavaScript's: fills EAX EBX ECX EDX. */
export const cpuid = declare("cpuid", [], null);
/** JavaScript's: (index, write) -> 0 done, 1 #GP, 2 leave to the machine. */
export const accessMsr = declare("access_msr", [Type.i32, Type.i32], Type.i32);
/** JavaScript's: nanoseconds of the guest's TSC, less TSC_OFFSET. */
export const clock = declare("clock", [], Type.f64);
/**
 * {@link clock}, not behind what any vCPU has read. Workers take their time origins from the wall clock, each for itself:
 * they are some tenths of a microsecond apart, or more when a thread loses its processor meanwhile, and Linux gives the
 * TSC up when it sees it go back from one CPU to the next.
 */
const latestClock = declare("latest_clock", [], Type.i64);
/** JavaScript's: CR8, -1 to read it. */
export const taskPriority = declare("task_priority", [Type.i32], Type.i32);
/** JavaScript's: 64 random bits into SCRATCH. */
export const randomBits = declare("random_bits", [], null);

export function defineSystem(module: Module, target: Target): void {
  defineCpuFunction(module, target, ioPermission, (f) => {
    const port = f.parameter32(0);
    const bytes = f.parameter32(1);
    f.if(isReal(f), () => f.return());
    // In virtual-8086 mode the permission map alone counts.
    const privileged = f.s32(State.CPL).leU(f.s32(State.RFLAGS).shrU(12).and(3));
    f.if(isVirtual(f).eqz().and(privileged), () => f.return());
    const fail = () => {
      f.do(raise, Vector.GP, 0);
      f.return();
    };
    const tr = State.SEGMENTS + Seg.TR * Segment.BYTES;
    const limit = f.i32(f.s32(tr + Segment.LIMIT));
    f.if(f.s32(tr + Segment.ATTRIBUTES).has(8).eqz().or(limit.ltU(0x67)), fail);
    const base = f.i64(f.s64(tr + Segment.BASE));
    const map = f.i32(f.call64(loadSystem, base.add(0x66), 2).i32());
    guard(f);
    const at = f.i32(map.add(port.shrU(3)));
    f.if(at.add(1).gtU(limit), fail);
    const bits = f.i32(f.call64(loadSystem, base.add(at.i64u()), 2).i32());
    guard(f);
    const mask = i32(1).shl(bytes).sub(1);
    f.if(bits.shrU(port.and(7)).and(mask), fail);
  });
  defineCpuFunction(module, target, latestClock, (f) => {
    const now = f.i64((f.call(clock) as F64).satU64());
    if (target.layout.cpus === 1) return f.return(now);
    const shared = pointer(0);
    const seen = f.i64(shared.atomicLoad(64, Shared.LATEST_TSC));
    f.loop((again) => {
      f.if(now.leU(seen), () => f.return(seen));
      const found = f.i64(shared.atomicCompareExchange(64, seen, now, Shared.LATEST_TSC));
      f.if(found.eq(seen), () => f.return(now));
      f.set(seen, found);
      f.br(again);
    });
    f.return(now);
  });
}

const system = { system: true } as const;
const ending = { system: true, ends: true } as const;

/** #GP(0) unless CPL is 0. */
function privileged(e: Emitter): void {
  e.raiseIf(e.f.s32(State.CPL), Vector.GP, 0);
}

// Ports.
/** The access that comes is the last thing but for the register: once it is answered, the vCPU need not run this again. */
function portOnly(e: Emitter): void {
  e.f.set64(State.PORT_NEXT, e.nextRip());
  e.f.set32(State.PORT_ONLY, 1);
}
const input = (port: (e: Emitter) => I32): Emit => (e) => {
  const { f } = e;
  const { bits } = e.operands[0];
  const bytes = bits >> 3;
  const number = f.i32(port(e));
  f.do(ioPermission, number, bytes);
  e.faultIf(f.s32(State.FAULT));
  portOnly(e);
  const value = e.checked(f.i64(), f.call64(portRead, number, bytes));
  f.set32(State.PORT_ONLY, 0);
  e.write(0, value);
  e.endBlock();
};
const output = (port: (e: Emitter) => I32): Emit => (e) => {
  const { f } = e;
  const value = e.readUnsigned(0);
  const bytes = e.operands[0].bits >> 3;
  const number = f.i32(port(e));
  f.do(ioPermission, number, bytes);
  e.faultIf(f.s32(State.FAULT));
  portOnly(e);
  f.do(portWrite, number, bytes, value);
  e.faultIf(f.s32(State.FAULT));
  f.set32(State.PORT_ONLY, 0);
  e.endBlock();
};
const immediatePort = (e: Emitter) => e.immediate(1).i32().and(0xff);
const registerPort = (e: Emitter) => e.reg(Reg.DX).i32().and(0xffff);
op("in_immediate", "E4", "AL Ib", input(immediatePort), ending);
op("in_immediate", "E5", "EAXz Ib", input(immediatePort), ending);
op("in", "EC", "AL", input(registerPort), ending);
op("in", "ED", "EAXz", input(registerPort), ending);
op("out_immediate", "E6", "AL Ib", output(immediatePort), ending);
op("out_immediate", "E7", "EAXz Ib", output(immediatePort), ending);
op("out", "EE", "AL", output(registerPort), ending);
op("out", "EF", "EAXz", output(registerPort), ending);

// Flags of the system.
const ioPrivileged = (e: Emitter) => {
  e.raiseIf(e.f.s32(State.CPL).gtU(e.f.s32(State.RFLAGS).shrU(12).and(3)), Vector.GP, 0);
};
op("cli", "FA", "", (e) => {
  ioPrivileged(e);
  e.f.set32(State.RFLAGS, e.f.s32(State.RFLAGS).and(~Flag.IF));
}, system);
op("sti", "FB", "", (e) => {
  const { f } = e;
  ioPrivileged(e);
  f.if(f.s32(State.RFLAGS).has(Flag.IF).eqz(), () => f.set32(State.SHADOW, 2));
  f.set32(State.RFLAGS, f.s32(State.RFLAGS).or(Flag.IF));
  interruptWindow(e);
  e.endBlock();
}, ending);
op("cld", "FC", "", (e) => e.f.set32(State.RFLAGS, e.f.s32(State.RFLAGS).and(~Flag.DF)), system);
op("std", "FD", "", (e) => e.f.set32(State.RFLAGS, e.f.s32(State.RFLAGS).or(Flag.DF)), system);
const alignmentCheck = (set: boolean): Emit => (e) => {
  const { f } = e;
  e.raiseIf(f.s32(State.CPL), Vector.UD);
  const flags = f.s32(State.RFLAGS);
  f.set32(State.RFLAGS, set ? flags.or(Flag.AC) : flags.and(~Flag.AC));
  f.do(updateMode);
};
op("clac", "NP 0F 01 /1 mod3 rm2", "", alignmentCheck(false), system);
op("stac", "NP 0F 01 /1 mod3 rm3", "", alignmentCheck(true), system);

op("hlt", "F4", "", (e) => {
  privileged(e);
  const { f } = e;
  f.set64(State.RIP, e.nextRip());
  f.set32(State.ACTIVITY, 1);
  f.drop(f.place(State.ATTENTION).atomicOr32(1));
  e.finishBlock();
}, ending);
op("nop", "NP 90", "", () => {});
op("pause", "F3 90", "", () => {});

// No-operations: hints, prefetches, ENDBR64.
const nothing: Emit = () => {};
for (const opcode of ["18", "19", "1A", "1B", "1C", "1D", "1E", "1F"]) op("nop", `0F ${opcode} /r`, "", nothing);
op("prefetchw", "0F 0D /r", "", nothing);
op("fence", "NP 0F AE /5 mod3", "", (e) => e.f.fence());
op("fence", "NP 0F AE /6 mod3", "", (e) => e.f.fence());
op("fence", "NP 0F AE /7 mod3", "", (e) => e.f.fence());
op("clflush", "NP 0F AE /7 modm", "Mb", (e) => void e.load(e.address(0), 8));
op("wait", "9B", "", (e) => {
  const bits = e.f.s64(State.CR0).and(CR0.MP | CR0.TS);
  e.raiseIf(bits.eq(CR0.MP | CR0.TS), Vector.NM);
}, system);
const undefinedOpcode: Emit = (e) => {
  e.raise(Vector.UD);
};
op("ud", "0F 0B", "", undefinedOpcode, ending);
op("ud", "0F B9 /r", "", undefinedOpcode, ending);
op("ud", "0F FF /r", "", undefinedOpcode, ending);

// Control and debug registers.
const controlFields: Record<number, number> = { 0: State.CR0, 2: State.CR2, 3: State.CR3, 4: State.CR4 };
op("mov_from_cr", "0F 20 /r", "Rn Cn", (e) => {
  const { f } = e;
  privileged(e);
  const number = f.i32(e.immediate(1).i32());
  const value = f.i64(0);
  f.block((done) => {
    for (const [n, field] of Object.entries(controlFields)) {
      f.if(number.eq(Number(n)), () => {
        f.set(value, f.s64(field));
        f.br(done);
      });
    }
    f.if(number.eq(8), () => {
      f.set(value, f.call32(taskPriority, -1).i64u());
      f.br(done);
    });
    e.raise(Vector.UD);
  });
  e.write(0, value);
}, { ...ending });
op("mov_to_cr", "0F 22 /r", "Rn Cn", (e) => {
  const { f } = e;
  privileged(e);
  const number = f.i32(e.immediate(1).i32());
  const value = e.readUnsigned(0);
  f.block((done) => {
    f.if(number.eq(8), () => {
      e.raiseIf(value.gtU(15), Vector.GP, 0);
      f.drop(f.call32(taskPriority, value.i32()));
      interruptWindow(e);
      f.br(done);
    });
    f.if(number.eq(2), () => {
      f.set64(State.CR2, value);
      f.br(done);
    });
    f.if(number.eqz().or(number.eq(3)).or(number.eq(4)), () => {
      f.do(writeControl, number, value);
      e.faultIf(f.s32(State.FAULT));
      f.br(done);
    });
    e.raise(Vector.UD);
  });
  e.endBlock();
}, ending);
const debugRegister = (number: I32, then: (field: number) => void, f: CpuFunc) => {
  for (const [n, slot] of [[0, 0], [1, 1], [2, 2], [3, 3], [4, 4], [5, 5], [6, 4], [7, 5]]) {
    f.if(number.eq(n), () => then(State.DR + slot * 8));
  }
};
/** What both directions of MOV DR check (SDM vol. 3, 18.2). */
const debugChecks = (e: Emitter): I32 => {
  const { f } = e;
  const number = f.i32(e.immediate(1).i32());
  const aliased = number.and(~1).eq(4);
  e.raiseIf(number.gtU(7).or(aliased.and(f.s64(State.CR4).has(CR4.DE))), Vector.UD);
  privileged(e);
  // DR7.GD: the access itself is a debug exception, DR6.BD.
  f.if(f.s64(State.DR + 40).has(0x2000), () => {
    f.set64(State.DR + 32, f.s64(State.DR + 32).and(~15).or(0x2000));
    f.set64(State.DR + 40, f.s64(State.DR + 40).and(~0x2000));
    e.raise(Vector.DB);
  });
  return number;
};
op("mov_from_dr", "0F 21 /r", "Rn Dn", (e) => {
  const { f } = e;
  const number = debugChecks(e);
  const value = f.i64(0);
  debugRegister(number, (field) => f.set(value, f.s64(field)), f);
  e.write(0, value);
}, system);
op("mov_to_dr", "0F 23 /r", "Rn Dn", (e) => {
  const { f } = e;
  const number = debugChecks(e);
  const value = e.readUnsigned(0);
  e.raiseIf(number.geU(4).and(value.shrU(32).ne(0)), Vector.GP, 0);
  debugRegister(number, (field) => {
    const slot = (field - State.DR) / 8;
    f.set64(
      field,
      slot < 4 ? value : slot === 4 ? value.and(0xe00f).or(0xffff_0ff0) : value.and(0xffff_2bff).or(0x400),
    );
  }, f);
  // Breakpoints change how code is run.
  f.drop(f.place(State.ATTENTION).atomicOr32(2));
  e.endBlock();
}, ending);
op("clts", "0F 06", "", (e) => {
  privileged(e);
  e.f.set64(State.CR0, e.f.s64(State.CR0).and(~CR0.TS));
  e.f.do(updateMode);
  e.endBlock();
}, ending);
op("smsw", "0F 01 /4 modm", "Mw", (e) => e.write(0, e.f.s64(State.CR0)), system);
op("smsw", "0F 01 /4 mod3", "Ev", (e) => e.write(0, e.f.s64(State.CR0)), system);
op("lmsw", "0F 01 /6", "Ew", (e) => {
  const { f } = e;
  privileged(e);
  // PE can be set, not cleared.
  const value = f.i64(e.readUnsigned(0).and(15));
  const old = f.s64(State.CR0);
  f.do(writeControl, 0, old.and(~14).or(value));
  e.faultIf(f.s32(State.FAULT));
  e.endBlock();
}, ending);
op("invlpg", "0F 01 /7 modm", "Mb", (e) => {
  privileged(e);
  e.f.do(flushPage, e.address(0));
  e.endBlock();
}, ending);
// SDM vol. 2, INVPCID. The TLBs hold the present PCID's translations only, so a context is emptied as a whole.
op("invpcid", "66 0F 38 82 /r modm", "Gy Mx", (e) => {
  const { f } = e;
  privileged(e);
  const type = e.readUnsigned(0);
  const address = e.address(1);
  const context = e.loadUnsigned(address, 64);
  const linear = e.loadUnsigned(f.i64(address.add(8)), 64);
  const disabled = f.s64(State.CR4).has(CR4.PCIDE).eqz();
  e.raiseIf(
    type.gtU(3).or(context.shrU(12).ne(0)).or(disabled.and(type.leU(1)).and(context.ne(0)))
      .or(type.eqz().and(linear.shl(16).shrS(16).ne(linear))),
    Vector.GP,
    0,
  );
  f.if(type.eqz(), () => f.do(flushPage, linear), () => f.do(flushTlb));
  e.endBlock();
}, { ...ending, size64: "f64" });
op("invd", "0F 08", "", privileged, system);
op("wbinvd", "0F 09", "", privileged, system);

// Descriptor tables. In 64-bit mode the base has 8 bytes.
const tables: [number, number, number][] = [
  [0, State.GDTR_BASE, State.GDTR_LIMIT],
  [1, State.IDTR_BASE, State.IDTR_LIMIT],
];
for (const [n, baseField, limitField] of tables) {
  op(`store_table${n}`, `0F 01 /${n} modm`, "Ms", (e) => {
    const { f } = e;
    const address = e.address(0);
    e.store(f.i64(address.add(2)), e.mode === 64 ? 64 : 32, f.s64(baseField));
    e.store(address, 16, f.s32(limitField).i64u());
  }, { ...system, modal: true });
  op(`load_table${n}`, `0F 01 /${n + 2} modm`, "Ms", (e) => {
    const { f } = e;
    privileged(e);
    const address = e.address(0);
    const limit = e.loadUnsigned(address, 16);
    const base = e.loadUnsigned(f.i64(address.add(2)), e.mode === 64 ? 64 : 32);
    if (e.mode === 64) e.raiseIf(base.shl(16).shrS(16).ne(base), Vector.GP, 0);
    f.set64(baseField, e.mode !== 64 && e.bits === 16 ? base.and(0xff_ffff) : base);
    f.set32(limitField, limit.i32());
  }, { ...system, modal: true });
}
const protectedOnly = (e: Emitter) => e.raiseIf(isReal86(e.f), Vector.UD);
for (const [n, segment] of [[0, Seg.LDTR], [1, Seg.TR]]) {
  const selector = State.SEGMENTS + segment * Segment.BYTES + Segment.SELECTOR;
  const store: Emit = (e) => {
    protectedOnly(e);
    e.write(0, e.f.s32(selector).i64u());
  };
  op(`store_system${n}`, `0F 00 /${n} modm`, "Mw", store, system);
  op(`store_system${n}`, `0F 00 /${n} mod3`, "Ev", store, system);
  op(`load_system${n}`, `0F 00 /${n + 2}`, "Ew", (e) => {
    protectedOnly(e);
    privileged(e);
    e.f.do(n === 0 ? loadLocalTable : loadTaskRegister, e.readUnsigned(0).i32());
    e.faultIf(e.f.s32(State.FAULT));
  }, system);
}
const inspect = (what: number, operand: number): Emit => (e) => {
  const { f } = e;
  protectedOnly(e);
  const selector = e.readUnsigned(operand).i32().and(0xffff);
  const value = e.checked(f.i64(), f.call64(inspectSelector, selector, what));
  const valid = f.i32(value.ne(-1));
  if (what < 2) f.if(valid, () => e.write(0, value));
  e.flagsOver(Flag.ZF, valid.i64u(), (valid) => valid.i32().shl(6));
};
op("verr", "0F 00 /4", "Ew", inspect(2, 0), system);
op("verw", "0F 00 /5", "Ew", inspect(3, 0), system);
op("lar", "0F 02 /r", "Gv Ew", inspect(0, 1), system);
op("lsl", "0F 03 /r", "Gv Ew", inspect(1, 1), system);

// Segment registers.
op("mov_from_sreg", "8C /r modm", "Mw Sw", (e) => {
  e.write(0, selectorOf(e, 1));
}, system);
op("mov_from_sreg", "8C /r mod3", "Ev Sw", (e) => e.write(0, selectorOf(e, 1)), system);
function selectorOf(e: Emitter, index: number): I64 {
  const { f } = e;
  const value = f.i64(0);
  const number = f.i32(e.immediate(index).i32());
  for (let segment = 0; segment < 6; segment++) {
    f.if(number.eq(segment), () => {
      f.set(value, f.s32(State.SEGMENTS + segment * Segment.BYTES + Segment.SELECTOR).i64u());
    });
  }
  return value;
}
op("mov_to_sreg", "8E /r", "Sw Ew", (e) => {
  const { f } = e;
  const segment = f.i32(e.immediate(0).i32());
  const selector = f.i32(e.readUnsigned(1).i32());
  f.do(loadSegment, segment, selector);
  e.faultIf(f.s32(State.FAULT));
  f.if(segment.eq(Seg.SS), () => f.set32(State.SHADOW, 1));
  e.endBlock();
}, ending);
const loadFarPointer = (segment: number): Emit => (e) => {
  const { f } = e;
  const address = e.address(1);
  const offset = e.loadUnsigned(address, e.bits);
  const selector = e.loadUnsigned(f.i64(address.add(e.bits >> 3)), 16);
  f.do(loadSegment, segment, selector.i32());
  e.faultIf(f.s32(State.FAULT));
  e.write(0, offset);
  e.endBlock();
};
op("les", "C4 /r modm", "Gv Mp", loadFarPointer(Seg.ES), { ...ending, only: "legacy" });
op("lds", "C5 /r modm", "Gv Mp", loadFarPointer(Seg.DS), { ...ending, only: "legacy" });
op("lss", "0F B2 /r modm", "Gv Mp", loadFarPointer(Seg.SS), ending);
op("lfs", "0F B4 /r modm", "Gv Mp", loadFarPointer(Seg.FS), ending);
op("lgs", "0F B5 /r modm", "Gv Mp", loadFarPointer(Seg.GS), ending);
op("swapgs", "0F 01 /7 mod3 rm0", "", (e) => {
  const { f } = e;
  privileged(e);
  const at = State.SEGMENTS + Seg.GS * Segment.BYTES + Segment.BASE;
  const old = f.i64(f.s64(at));
  f.set64(at, f.s64(State.KERNEL_GS_BASE));
  f.set64(State.KERNEL_GS_BASE, old);
}, { ...system, only: "64" });
const segmentBase = (segment: number, write: boolean): Emit => (e) => {
  const { f } = e;
  const at = State.SEGMENTS + segment * Segment.BYTES + Segment.BASE;
  e.raiseIf(f.s64(State.CR4).has(CR4.FSGSBASE).eqz(), Vector.UD);
  if (!write) return e.write(0, f.s64(at));
  const value = e.readUnsigned(0);
  e.raiseIf(value.shl(16).shrS(16).ne(value), Vector.GP, 0);
  f.set64(at, value);
};
op("rdfsbase", "F3 0F AE /0 mod3", "Ey", segmentBase(Seg.FS, false), { ...system, only: "64" });
op("rdgsbase", "F3 0F AE /1 mod3", "Ey", segmentBase(Seg.GS, false), { ...system, only: "64" });
op("wrfsbase", "F3 0F AE /2 mod3", "Ey", segmentBase(Seg.FS, true), { ...system, only: "64" });
op("wrgsbase", "F3 0F AE /3 mod3", "Ey", segmentBase(Seg.GS, true), { ...system, only: "64" });

// Identification, time, MSRs.
op("cpuid", "0F A2", "", (e) => {
  e.f.do(cpuid);
  e.endBlock();
}, ending);
const readTimestamp = (auxiliary: boolean): Emit => (e) => {
  const { f } = e;
  e.raiseIf(f.s64(State.CR4).has(CR4.TSD).and(f.s32(State.CPL).ne(0)), Vector.GP, 0);
  const now = f.i64(f.call64(latestClock).add(f.s64(State.TSC_OFFSET)));
  e.setReg(Reg.AX, now.u32());
  e.setReg(Reg.DX, now.shrU(32));
  if (auxiliary) e.setReg(Reg.CX, f.s64(State.TSC_AUX).u32());
};
op("rdtsc", "0F 31", "", readTimestamp(false), system);
op("rdtscp", "0F 01 /7 mod3 rm1", "", readTimestamp(true), system);
op("rdpmc", "0F 33", "", (e) => e.raise(Vector.GP, 0), ending);
const msr = (write: number): Emit => (e) => {
  const { f } = e;
  privileged(e);
  const answer = f.i32(f.call32(accessMsr, e.reg(Reg.CX).i32(), write));
  e.raiseIf(answer.eq(1), Vector.GP, 0);
  f.if(answer.eq(2), () => {
    f.set32(State.FAULT, Fault.EXIT);
    f.set32(State.EXIT, Leave.PAUSE);
    e.faultIf(i32(1));
  });
  interruptWindow(e);
  e.endBlock();
};
op("wrmsr", "0F 30", "", msr(1), ending);
op("rdmsr", "0F 32", "", msr(0), ending);
const random: Emit = (e) => {
  const { f } = e;
  f.do(randomBits);
  e.write(0, f.s64(State.SCRATCH));
  e.flagsExplicit(i32(Flag.CF));
};
op("rdrand", "NP 0F C7 /6 mod3", "Ev", random, system);
op("rdrand", "66 0F C7 /6 mod3", "Ev", random, system);

// CMPXCHG8B, and with REX.W CMPXCHG16B: rows of their own would need the operand size to choose.
op("cmpxchg16b", "0F C7 /1 modm", "Mdq", (e) => {
  const { f } = e;
  const address = e.address(0);
  const low = f.i64();
  const high = f.i64();
  const equal = f.i32();
  if (e.bits === 64) {
    e.raiseIf(address.i32().has(15), Vector.GP, 0);
    if (e.locked) e.aloneIf(i32(1));
    const upper = f.i64(address.add(8));
    f.set(high, f.call64(loadForWrite, upper, 8));
    e.faultIf(f.s32(State.FAULT));
    f.set(low, f.call64(loadForWrite, address, 8));
    e.faultIf(f.s32(State.FAULT));
    f.set(equal, low.eq(e.reg(Reg.AX)).and(high.eq(e.reg(Reg.DX))));
    f.do(storeSlowly, address, 8, select(equal, e.reg(Reg.BX), low));
    e.faultIf(f.s32(State.FAULT));
    f.do(storeSlowly, upper, 8, select(equal, e.reg(Reg.CX), high));
    e.faultIf(f.s32(State.FAULT));
  } else {
    const joined = (upper: number, lower: number) => f.i64(e.reg(upper).shl(32).or(e.reg(lower).zx(32)));
    const expected = joined(Reg.DX, Reg.AX);
    const replacement = joined(Reg.CX, Reg.BX);
    let found!: I64;
    e.modifyMemory(address, 64, (old) => select((found = old).eq(expected), replacement, old), e.locked);
    f.set(low, found.zx(32));
    f.set(high, found.shrU(32));
    f.set(equal, found.eq(expected));
  }
  f.if(equal.eqz(), () => {
    e.setReg(Reg.AX, low);
    e.setReg(Reg.DX, high);
  });
  e.flagsOver(Flag.ZF, equal.i64u(), (equal) => equal.i32().shl(6));
}, { lock: true, system: true });
