/** Segment registers, descriptors, and what the mode follows from. */
import { type CpuFunc, declare, defineCpuFunction, type Target } from "../cpu_function.ts";
import { raise, stackLinear, Vector } from "../emitter.ts";
import { Flag } from "../flags.ts";
import { segmentLinear } from "../interpreter/handler.ts";
import { CpuArea, InstructionTlb, Seg, Segment, State, Tlb } from "../layout.ts";
import { KEY_32, KEY_EM, KEY_FLAT, KEY_LIMITED, KEY_LONG, KEY_OSFXSR, KEY_TS, KEY_VALID } from "../mode_key.ts";
import { pointer, pointerOf32 } from "../wasm/memory.ts";
import type { Module } from "../wasm/module.ts";
import { type I32, i32, type I64, i64, select, Type } from "../wasm/values.ts";
import { CR0, CR4, EFER, guard, loadSystem, segmentField, storeSystem } from "./mmu.ts";

/** Attribute bits of a segment (VMCS access rights). */
export const Attribute = {
  ACCESSED: 1,
  /** Data: writable; code: readable. */
  WRITABLE: 2,
  /** Code: conforming; data: expand-down. */
  CONFORMING: 4,
  CODE: 8,
  S: 0x10,
  DPL: 0x60,
  P: 0x80,
  L: 0x2000,
  DB: 0x4000,
  G: 0x8000,
} as const;

/** Recomputes what follows from CS, SS, DS, CPL, CR0, CR4, EFER and AC. */
export const updateMode = declare("update_mode", [], null);
/** (selector, vector when it is none) -> the descriptor's 8 bytes; sets FAULT. */
export const loadDescriptor = declare("load_descriptor", [Type.i32, Type.i32], Type.i64);
/** (segment, selector, descriptor): fills the segment register. */
export const cacheSegment = declare("cache_segment", [Type.i32, Type.i32, Type.i64], null);
/** MOV to ES SS DS FS GS: (segment, selector); sets FAULT. */
export const loadSegment = declare("load_segment", [Type.i32, Type.i32], null);
/** Real mode: (segment, selector). */
export const loadRealSegment = declare("load_real_segment", [Type.i32, Type.i32], null);
/** Sets a descriptor's accessed bit: (selector, descriptor). */
export const markAccessed = declare("mark_accessed", [Type.i32, Type.i64], null);
/** Checks an SS selector for a privilege: (selector, cpl, vector) -> descriptor; sets FAULT. */
export const stackDescriptor = declare("stack_descriptor", [Type.i32, Type.i32, Type.i32], Type.i64);
/** Linear address of a segment's offset for LLDT, LTR, ...: (selector). */
export const loadTaskRegister = declare("load_task_register", [Type.i32], null);
export const loadLocalTable = declare("load_local_table", [Type.i32], null);
/** LAR, LSL, VERR, VERW: (selector, what 0-3) -> value, -1 when ZF is to be cleared. */
export const inspectSelector = declare("inspect_selector", [Type.i32, Type.i32], Type.i64);

/** 1 in real mode. */
export function isReal(f: CpuFunc): I32 {
  return f.s64(State.CR0).has(CR0.PE).eqz();
}

/** 1 in virtual-8086 mode. */
export function isVirtual(f: CpuFunc): I32 {
  return f.s32(State.RFLAGS).has(Flag.VM);
}

/** 1 in both: segments have no descriptors. */
export function isReal86(f: CpuFunc): I32 {
  return isReal(f).or(isVirtual(f));
}

/** Enters virtual-8086 mode, with RFLAGS.VM set: selectors of ES CS SS DS FS GS. */
export function setVirtualSegments(f: CpuFunc, selectors: readonly I32[]): void {
  selectors.forEach((selector, segment) => {
    setSegment(f, segment, selector.and(0xffff), selector.and(0xffff).shl(4).i64u(), 0xffff, VIRTUAL);
  });
  f.set32(State.CPL, 3);
  f.do(updateMode);
}
/** Writable data of privilege 3. */
const VIRTUAL = 0xf3;

/** 1 in 64-bit mode. */
export function isLong(f: CpuFunc): I32 {
  return f.s64(State.EFER).i32().has(EFER.LMA)
    .and(segmentField(f, Seg.CS, Segment.ATTRIBUTES).has(Attribute.L));
}

/** The attributes of a descriptor. */
export function attributesOf(descriptor: I64): I32 {
  return descriptor.shrU(40).i32().and(0xff).or(descriptor.shrU(52).i32().and(0xf).shl(12));
}

export function baseOf(descriptor: I64): I64 {
  return descriptor.shrU(16).and(0xff_ffff).or(descriptor.shrU(56).shl(24));
}

export function dpl(attributes: I32): I32 {
  return attributes.shrU(5).and(3);
}

/** Bytes of a descriptor's segment, less one. */
export function limitOf(f: CpuFunc, descriptor: I64): I32 {
  const limit = f.i32(descriptor.i32().and(0xffff).or(descriptor.shrU(32).i32().and(0xf_0000)));
  f.if(attributesOf(descriptor).has(Attribute.G), () => f.set(limit, limit.shl(12).or(0xfff)));
  return limit;
}

/** Whether an access at an offset leaves the segment (SDM vol. 3, 5.3). */
export function outsideLimit(attributes: I32, limit: I64, offset: I64, bytes: I32): I32 {
  const last = offset.add(bytes.i64u()).sub(1);
  const down = attributes.and(Attribute.CODE | Attribute.CONFORMING).eq(Attribute.CONFORMING);
  const top = select(attributes.has(Attribute.DB), i64(0xffff_ffff), i64(0xffff));
  return select(down, offset.leU(limit).or(last.gtU(top)), last.gtU(limit));
}

/** What {@link Attribute}s a segment has in whose limit all may be read and written. */
export const DATA_MASK = Attribute.P | Attribute.CODE | Attribute.CONFORMING | Attribute.WRITABLE;
export const PLAIN_DATA = Attribute.P | Attribute.WRITABLE;

/** 1 when CS, SS and DS are as {@link KEY_FLAT} says. */
function isFlat(f: CpuFunc): I32 {
  const not = (value: I32, wanted: number) => value.xor(wanted);
  const field = (segment: number, offset: number) => segmentField(f, segment, offset);
  const base = (segment: number) => f.s64(State.SEGMENTS + segment * Segment.BYTES + Segment.BASE);
  const wide = Attribute.DB;
  return not(field(Seg.CS, Segment.ATTRIBUTES).and(wide), wide)
    .or(not(field(Seg.SS, Segment.ATTRIBUTES).and(DATA_MASK | wide), PLAIN_DATA | wide))
    .or(not(field(Seg.DS, Segment.ATTRIBUTES).and(DATA_MASK), PLAIN_DATA))
    .or(not(field(Seg.CS, Segment.LIMIT).and(field(Seg.SS, Segment.LIMIT)).and(field(Seg.DS, Segment.LIMIT)), -1))
    .or(base(Seg.CS).or(base(Seg.SS)).or(base(Seg.DS)).ne(0))
    .eqz();
}

/** Stores the selector, base, limit and attributes of a segment known when code is generated. */
export function setSegment(f: CpuFunc, segment: number, selector: I32, base: I64, limit: number, attributes: number) {
  const at = State.SEGMENTS + segment * Segment.BYTES;
  f.set32(at + Segment.SELECTOR, selector);
  f.set64(at + Segment.BASE, base);
  f.set32(at + Segment.LIMIT, limit | 0);
  f.set32(at + Segment.ATTRIBUTES, attributes);
}

export function defineSegments(module: Module, target: Target): void {
  const define = (name: typeof updateMode, body: (f: CpuFunc) => void) => defineCpuFunction(module, target, name, body);
  const place = (f: CpuFunc, segment: I32) =>
    f.pointer(pointerOf32(segment.mul(Segment.BYTES)).add(f.place(State.SEGMENTS)));

  define(updateMode, (f) => {
    const attributes = f.i32(segmentField(f, Seg.CS, Segment.ATTRIBUTES));
    const limited = f.i32(0);
    f.if(isLong(f), () => {
      f.set64(State.MODE_KEY, KEY_LONG | KEY_VALID);
      f.set64(State.CODE_BASE, 0);
      f.set64(State.CODE_MASK, -1);
    }, () => {
      const size = select(attributes.has(Attribute.DB), i64(KEY_32 | KEY_VALID), i64(KEY_VALID));
      f.set64(State.MODE_KEY, isFlat(f).i64u().shl(KEY_FLAT).or(size));
      f.set64(State.CODE_BASE, f.s64(State.SEGMENTS + Seg.CS * Segment.BYTES + Segment.BASE));
      f.set64(State.CODE_MASK, 0xffff_ffff);
      // 16-bit code does not leave 64 KiB: its branches are cut, or compared with the limit.
      const limit = f.i32(segmentField(f, Seg.CS, Segment.LIMIT));
      f.set(limited, limit.ne(-1).and(attributes.has(Attribute.DB).or(limit.ltU(0xffff))));
      f.if(limited, () => f.set64(State.MODE_KEY, f.s64(State.MODE_KEY).or(KEY_LIMITED)));
    });
    const cr0 = f.s64(State.CR0);
    const units = cr0.shrU(2).and(1).shl(KEY_EM).or(cr0.shrU(3).and(1).shl(KEY_TS))
      .or(f.s64(State.CR4).shrU(9).and(1).shl(KEY_OSFXSR));
    f.set64(State.MODE_KEY, f.s64(State.MODE_KEY).or(units));
    const user = f.i32(f.s32(State.CPL).eq(3));
    const smap = f.s64(State.CR4).i32().has(CR4.SMAP).and(f.s32(State.RFLAGS).has(Flag.AC).eqz());
    const privilege = select(user, i32(1), select(smap, i32(0), i32(2)));
    f.setPointer(State.TLB, pointerOf32(privilege.mul(Tlb.BYTES)).add(f.place(CpuArea.TLB)));
    f.setPointer(
      State.INSTRUCTION_TLB,
      pointerOf32(user.mul(InstructionTlb.BYTES)).add(f.place(CpuArea.INSTRUCTION_TLB)),
    );
    // What the instruction TLB holds was compared with the limit of the segment it was filled under.
    const known = f.pointer(pointerOf32(user.shl(4)).add(f.place(State.CODE_LIMITS)));
    f.if(limited.or(known.i32(12)), () => {
      const base = f.i64(select(limited, f.s64(State.CODE_BASE), i64(0)));
      const limit = f.i32(select(limited, segmentField(f, Seg.CS, Segment.LIMIT), i32(-1)));
      f.if(known.i64(0).ne(base).or(known.i32(8).ne(limit)), () => {
        f.memoryFill(f.sPointer(State.INSTRUCTION_TLB), i32(-1), pointer(InstructionTlb.BYTES));
      });
      f.store64(known, base, 0);
      f.store32(known, limit, 8);
      f.store32(known, limited, 12);
    });
  });

  define(loadDescriptor, (f) => {
    const selector = f.parameter32(0);
    const fail = () => {
      f.do(raise, f.parameter32(1), selector.and(0xfffc));
      f.return(i64(0));
    };
    const base = f.i64(f.s64(State.GDTR_BASE));
    const limit = f.i32(f.s32(State.GDTR_LIMIT));
    f.if(selector.has(4), () => {
      f.if(segmentField(f, Seg.LDTR, Segment.ATTRIBUTES).has(Attribute.P).eqz(), fail);
      f.set(base, f.s64(State.SEGMENTS + Seg.LDTR * Segment.BYTES + Segment.BASE));
      f.set(limit, segmentField(f, Seg.LDTR, Segment.LIMIT));
    });
    f.if(selector.or(7).gtU(limit), fail);
    f.return(f.call64(loadSystem, base.add(selector.and(0xfff8).i64u()), 8));
  });

  define(markAccessed, (f) => {
    const selector = f.parameter32(0);
    const descriptor = f.parameter64(1);
    f.if(descriptor.has(1n << 40n), () => f.return());
    const base = f.i64(
      select(
        selector.has(4),
        f.s64(State.SEGMENTS + Seg.LDTR * Segment.BYTES + Segment.BASE),
        f.s64(State.GDTR_BASE),
      ),
    );
    f.do(storeSystem, base.add(selector.and(0xfff8).i64u()).add(5), 1, descriptor.shrU(40).or(1));
  });

  define(cacheSegment, (f) => {
    const at = place(f, f.parameter32(0));
    const descriptor = f.parameter64(2);
    const attributes = f.i32(attributesOf(descriptor).or(f.parameter32(0).leU(5)));
    const limit = limitOf(f, descriptor);
    f.store32(at, f.parameter32(1).and(0xffff), Segment.SELECTOR);
    f.store32(at, attributes, Segment.ATTRIBUTES);
    f.store32(at, limit, Segment.LIMIT);
    f.store64(at, baseOf(descriptor), Segment.BASE);
  });

  define(loadRealSegment, (f) => {
    const at = place(f, f.parameter32(0));
    const selector = f.parameter32(1);
    // The limit stays, as on hardware: "unreal mode" depends on it.
    f.store32(at, selector.and(0xffff), Segment.SELECTOR);
    f.store64(at, selector.and(0xffff).shl(4).i64u(), Segment.BASE);
    f.if(f.parameter32(0).eq(Seg.CS), () => {
      f.store32(at, at.i32(Segment.ATTRIBUTES).and(~Attribute.L).or(0x93), Segment.ATTRIBUTES);
      f.do(updateMode);
    }, () => {
      f.store32(at, at.i32(Segment.ATTRIBUTES).or(0x93), Segment.ATTRIBUTES);
      f.do(updateMode);
    });
  });

  define(stackDescriptor, (f) => {
    const selector = f.parameter32(0);
    const cpl = f.parameter32(1);
    const vector = f.parameter32(2);
    const descriptor = f.i64(f.call64(loadDescriptor, selector, vector));
    guard(f, i64(0));
    const attributes = f.i32(attributesOf(descriptor));
    f.if(
      attributes.and(Attribute.S | Attribute.CODE | Attribute.WRITABLE).ne(Attribute.S | Attribute.WRITABLE)
        .or(dpl(attributes).ne(cpl)).or(selector.and(3).ne(cpl)),
      () => {
        f.do(raise, vector, selector.and(0xfffc));
        f.return(i64(0));
      },
    );
    f.if(attributes.has(Attribute.P).eqz(), () => {
      f.do(raise, Vector.SS, selector.and(0xfffc));
      f.return(i64(0));
    });
    f.do(markAccessed, selector, descriptor);
    f.return(descriptor);
  });

  define(loadSegment, (f) => {
    const segment = f.parameter32(0);
    const selector = f.parameter32(1);
    f.if(isReal86(f), () => {
      f.do(loadRealSegment, segment, selector);
      f.return();
    });
    const cpl = f.i32(f.s32(State.CPL));
    const fail = (vector: number) => {
      f.do(raise, vector, selector.and(0xfffc));
      f.return();
    };
    f.if(selector.has(0xfffc).eqz(), () => {
      f.if(segment.eq(Seg.SS).and(isLong(f).eqz().or(cpl.eq(3)).or(selector.and(3).ne(cpl))), () => fail(Vector.GP));
      // A null SS in 64-bit mode keeps the shape of a stack segment.
      const at = place(f, segment);
      f.store32(at, selector.and(3), Segment.SELECTOR);
      f.store64(at, 0, Segment.BASE);
      f.store32(at, 0, Segment.LIMIT);
      f.store32(at, 0x1_0000, Segment.ATTRIBUTES);
      f.do(updateMode);
      f.return();
    });
    const descriptor = f.i64();
    f.if(segment.eq(Seg.SS), () => {
      f.set(descriptor, f.call64(stackDescriptor, selector, cpl, Vector.GP));
      guard(f);
    }, () => {
      f.set(descriptor, f.call64(loadDescriptor, selector, Vector.GP));
      guard(f);
      const attributes = f.i32(attributesOf(descriptor));
      f.if(attributes.has(Attribute.S).eqz(), () => fail(Vector.GP));
      const code = f.i32(attributes.has(Attribute.CODE));
      f.if(code.and(attributes.has(Attribute.WRITABLE).eqz()), () => fail(Vector.GP));
      const level = dpl(attributes);
      const conforming = code.and(attributes.has(Attribute.CONFORMING));
      f.if(conforming.eqz().and(level.ltU(cpl).or(level.ltU(selector.and(3)))), () => fail(Vector.GP));
      f.if(attributes.has(Attribute.P).eqz(), () => fail(Vector.NP));
      f.do(markAccessed, selector, descriptor);
    });
    guard(f);
    f.do(cacheSegment, segment, selector, descriptor);
    f.if(isLong(f).eqz(), () => f.do(updateMode));
  });

  // Descriptors of the system kind are 16 bytes long in long mode.
  const systemSegment = (name: typeof loadTaskRegister, segment: number, types: readonly number[], busy: boolean) =>
    define(name, (f) => {
      const selector = f.parameter32(0);
      const fail = (vector: number) => {
        f.do(raise, vector, selector.and(0xfffc));
        f.return();
      };
      f.if(selector.has(0xfffc).eqz(), () => {
        if (busy) fail(Vector.GP);
        setSegment(f, segment, selector, i64(0), 0, 0x1_0000);
        f.return();
      });
      f.if(selector.has(4), () => fail(Vector.GP));
      const descriptor = f.i64(f.call64(loadDescriptor, selector, Vector.GP));
      guard(f);
      const type = f.i32(attributesOf(descriptor).and(0x1f));
      f.if(types.map((t) => type.eq(t)).reduce((a, b) => a.or(b)).eqz(), () => fail(Vector.GP));
      f.if(attributesOf(descriptor).has(Attribute.P).eqz(), () => fail(Vector.NP));
      const high = f.i64(0);
      const address = f.i64(f.s64(State.GDTR_BASE).add(selector.and(0xfff8).i64u()));
      f.if(f.s64(State.EFER).i32().has(EFER.LMA), () => {
        f.set(high, f.call64(loadSystem, address.add(8), 8));
        guard(f);
        const base = f.i64(baseOf(descriptor).or(high.shl(32)));
        f.if(base.shl(16).shrS(16).ne(base), () => fail(Vector.GP));
      });
      if (busy) {
        f.do(storeSystem, address.add(5), 1, descriptor.shrU(40).or(2));
        guard(f);
        f.do(cacheSegment, segment, selector, descriptor.or(1n << 41n));
      } else f.do(cacheSegment, segment, selector, descriptor);
      const at = State.SEGMENTS + segment * Segment.BYTES + Segment.BASE;
      f.set64(at, f.s64(at).or(high.shl(32)));
    });
  systemSegment(loadTaskRegister, Seg.TR, [1, 9], true);
  systemSegment(loadLocalTable, Seg.LDTR, [2], false);

  define(inspectSelector, (f) => {
    const selector = f.parameter32(0);
    const what = f.parameter32(1);
    const no = () => f.return(i64(-1));
    f.if(selector.has(0xfffc).eqz(), no);
    const descriptor = f.i64(f.call64(loadDescriptor, selector, Vector.GP));
    f.if(f.s32(State.FAULT).and(f.s32(State.VECTOR).eq(Vector.GP)), () => {
      f.set32(State.FAULT, 0);
      no();
    });
    guard(f, i64(-1));
    const attributes = f.i32(attributesOf(descriptor));
    const system = f.i32(attributes.has(Attribute.S).eqz());
    const type = f.i32(attributes.and(15));
    const code = f.i32(attributes.has(Attribute.CODE));
    const conforming = f.i32(system.eqz().and(code).and(attributes.has(Attribute.CONFORMING)));
    f.if(
      conforming.eqz().and(
        dpl(attributes).ltU(f.s32(State.CPL)).or(dpl(attributes).ltU(selector.and(3))),
      ),
      no,
    );
    f.if(what.eq(2), () => {
      f.if(system.or(code.and(attributes.has(Attribute.WRITABLE).eqz())), no);
      f.return(i64(0));
    });
    f.if(what.eq(3), () => {
      f.if(system.or(code).or(attributes.has(Attribute.WRITABLE).eqz()), no);
      f.return(i64(0));
    });
    // LAR and LSL know these system types (SDM, LAR table): TSSs and LDTs; LAR gates as well.
    const longMode = f.s64(State.EFER).i32().has(EFER.LMA);
    const segments = select(longMode, i32(0x0a04), i32(0x0a0e));
    const gates = select(longMode, i32(0x1000), i32(0x1030));
    const allowed = f.i32(segments);
    f.if(what.eqz(), () => f.set(allowed, allowed.or(gates)));
    f.if(system.and(allowed.shrU(type).and(1).eqz()), no);
    f.if(what.eqz(), () => f.return(descriptor.shrU(32).and(0x00ff_ff00)));
    f.return(limitOf(f, descriptor).i64u());
  });

  /** Limit and permission checks of a legacy access; #SS for the stack segment, #GP otherwise. */
  define(segmentLinear, (f) => {
    const segment = f.parameter32(0);
    const offset = f.parameter64(1);
    const bytes = f.parameter32(2);
    const write = f.parameter32(3);
    const at = place(f, segment);
    const attributes = f.i32(at.i32(Segment.ATTRIBUTES));
    const limit = f.i64(at.u32w(Segment.LIMIT));
    const data = f.i32(attributes.has(Attribute.CODE).eqz());
    const outside = f.i32(outsideLimit(attributes, limit, offset, bytes));
    const readOnly = attributes.has(Attribute.WRITABLE).eqz().or(data.eqz());
    const unreadable = data.eqz().and(attributes.has(Attribute.WRITABLE).eqz());
    const denied = f.i32(isReal(f).eqz().and(select(write, readOnly, unreadable)));
    const unusable = attributes.has(Attribute.P).eqz();
    f.if(outside.or(denied).or(unusable), () => {
      f.do(raise, select(segment.eq(Seg.SS), i32(Vector.SS), i32(Vector.GP)), 0);
    });
    f.return(at.i64(Segment.BASE).add(offset).u32());
  });

  define(stackLinear, (f) => {
    const offset = f.i64(f.parameter64(0));
    const wide = segmentField(f, Seg.SS, Segment.ATTRIBUTES).has(Attribute.DB);
    f.set(offset, offset.and(select(wide, i64(0xffff_ffff), i64(0xffff))));
    const stack = i32(Seg.SS);
    f.return(f.call64(segmentLinear, stack, offset, f.parameter32(1), f.parameter32(2)));
  });
}
