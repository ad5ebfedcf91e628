/** Address translation, TLB fills, and the slow paths of every access to memory. */
import { type CpuFunc, declare, defineCpuFunction, type Target } from "../cpu_function.ts";
import {
  Fault,
  load128Slow,
  loadForWriteSlow,
  loadSlow,
  needAlone,
  raise,
  stackFault,
  store128Slow,
  storeSlow,
  Vector,
} from "../emitter.ts";
import { MAXIMUM_LENGTH } from "../decode.ts";
import { Flag } from "../flags.ts";
import { CpuArea, InstructionTlb, PageAttribute, Seg, Segment, Shared, State, Tlb } from "../layout.ts";
import { KEY_LIMITED, KEY_LONG } from "../mode_key.ts";
import { isMemory64, nowhere, type Pointer, pointer, pointerOf, pointerOf32 } from "../wasm/memory.ts";
import type { Module } from "../wasm/module.ts";
import { type I32, i32, type I64, i64, select, splat, Type } from "../wasm/values.ts";
import { externalRead, externalWrite, Leave, noteBreakpoints } from "./external.ts";

/** What an access wants. */
export const Access = {
  WRITE: 1,
  EXECUTE: 2,
  /** By the processor itself, to a descriptor table or stack: as supervisor whatever CPL is. */
  IMPLICIT: 4,
} as const;

/** Bits of CR0, CR4, EFER that translation looks at. */
export const CR0 = {
  PE: 1,
  MP: 2,
  EM: 4,
  TS: 8,
  ET: 0x10,
  NE: 0x20,
  WP: 0x1_0000,
  AM: 0x4_0000,
  NW: 0x2000_0000,
  CD: 0x4000_0000,
  PG: 0x8000_0000,
} as const;
export const CR4 = {
  VME: 1,
  PVI: 2,
  TSD: 4,
  DE: 8,
  PSE: 0x10,
  PAE: 0x20,
  MCE: 0x40,
  PGE: 0x80,
  PCE: 0x100,
  OSFXSR: 0x200,
  OSXMMEXCPT: 0x400,
  UMIP: 0x800,
  FSGSBASE: 0x1_0000,
  PCIDE: 0x2_0000,
  OSXSAVE: 0x4_0000,
  SMEP: 0x10_0000,
  SMAP: 0x20_0000,
} as const;
export const EFER = { SCE: 1, LME: 0x100, LMA: 0x400, NXE: 0x800 } as const;

/** Width of guest physical addresses (CPUID 80000008H). */
export const PHYSICAL_BITS = 40;
const PAGE_FRAME = 0xf_ffff_ffff_f000n;
const RESERVED = ((1n << 52n) - 1n) & ~((1n << BigInt(PHYSICAL_BITS)) - 1n);

/** (linear, {@link Access}) -> physical address; sets FAULT (#PF, #GP). */
export const translate = declare("translate", [Type.i64, Type.i32], Type.i64);
/** Physical address -> address of RAM, or {@link nowhere}, as for a read-only region when `write` is 1. */
export const hostOf = declare("host_of", [Type.i64, Type.i32], "pointer");
export const flushTlb = declare("flush_tlb", [], null);
export const flushPage = declare("flush_page", [Type.i64], null);
/** Loads by the processor itself: (linear, bytes). */
export const loadSystem = declare("load_system", [Type.i64, Type.i32], Type.i64);
export const storeSystem = declare("store_system", [Type.i64, Type.i32, Type.i64], null);
/** Translates RIP for fetching: physical address, in the instruction TLB then; sets FAULT. */
export const fetchTranslate = declare("fetch_translate", [Type.i64], Type.i64);
/** JavaScript's: a page with decoded instructions was stored to; its number counts from the start of RAM. */
export const codeWritten = declare("code_written", [Type.i32], null);
/** Notes the content of a page of RAM that becomes code: (number). */
export const notePage = declare("note_page", [Type.i32], null);
/** JavaScript's, where regions are compared: the address of a page in this memory -> that of the page in its stead. */
export const sandboxPage = declare("sandbox_page", [Type.i32], Type.i32);
const hashPage = declare("hash_page", [Type.i32], Type.i64);
const pageFault = declare("page_fault", [Type.i64, Type.i32], Type.i64);

const setAccessed = declare("set_accessed", ["pointer", Type.i64, Type.i64], Type.i32);

/** Returns from the function under construction when FAULT is set. */
export function guard(f: CpuFunc, value?: I64 | I32 | number | Pointer): void {
  f.if(f.s32(State.FAULT), () => f.return(value));
}
/** {@link guard} behind an access of the stack. */
export function guardStack(f: CpuFunc): void {
  f.if(f.s32(State.FAULT), () => {
    f.do(stackFault);
    f.return();
  });
}

function attributesOf(f: CpuFunc, host: Pointer): Pointer {
  // Page number within RAM, as an offset to the attribute bytes.
  const page = host.sub(f.target.layout.ramBase).wide().shrU(12);
  return pointerOf(page);
}

export function defineMmu(module: Module, target: Target): void {
  const define = (name: typeof loadSlow, body: (f: CpuFunc) => void) => defineCpuFunction(module, target, name, body);
  const attributesAt = target.layout.pageAttributes;

  define(raise, (f) => {
    f.set32(State.FAULT, Fault.EXCEPTION);
    f.set32(State.VECTOR, f.parameter32(0));
    f.set32(State.ERROR, f.parameter32(1));
    f.set32(State.NOT_CANONICAL, 0);
  });
  define(stackFault, (f) => {
    f.if(f.s32(State.NOT_CANONICAL), () => f.set32(State.VECTOR, Vector.SS));
  });

  define(hostOf, (f) => {
    const address = f.parameter64(0);
    const write = f.parameter32(1);
    const region = f.pointer(pointer(Shared.REGIONS));
    const left = f.i32(pointer(0).i32(Shared.REGION_COUNT));
    f.block((none) => {
      f.loop((again) => {
        f.brIf(none, left.eqz());
        const offset = f.i64(address.sub(region.i64(0)));
        f.if(offset.ltU(region.i64(8)).and(region.i32(24).and(write).eqz()), () => {
          const host = f.pointer(pointerOf(offset.add(region.i64(16))));
          if (target.layout.sandbox) {
            f.if(f.s32(State.SANDBOX), () => {
              const page = f.i32(f.call32(sandboxPage, host.low().and(-4096)));
              f.return(pointerOf32(page.or(host.low().and(4095))));
            });
          }
          f.return(host);
        });
        f.set(region, region.add(Shared.REGION_BYTES));
        f.set(left, left.sub(1));
        f.br(again);
      });
    });
    f.return(nowhere());
  });

  // #PF with its address; gives -1.
  define(pageFault, (f) => {
    f.set64(State.CR2, f.parameter64(0));
    f.do(raise, Vector.PF, f.parameter32(1));
    f.return(i64(-1));
  });

  // Sets bits of a table entry unless it has changed meanwhile: 1 when done.
  define(setAccessed, (f) => {
    const place = f.parameterPointer(0).inRam();
    const entry = f.parameter64(1);
    const bits = f.parameter64(2);
    f.if(entry.and(bits).eq(bits), () => f.return(1));
    f.return(place.atomicCompareExchange(64, entry, entry.or(bits)).eq(entry));
  });

  define(translate, (f) => {
    const linear = f.parameter64(0);
    const access = f.parameter32(1);
    const cr0 = f.i32(f.s64(State.CR0).i32());
    f.if(cr0.and(CR0.PG | 0).eqz(), () => f.return(linear.u32()));
    const cr4 = f.i32(f.s64(State.CR4).i32());
    const efer = f.i32(f.s64(State.EFER).i32());
    const user = f.i32(f.s32(State.CPL).eq(3).and(access.has(Access.IMPLICIT).eqz()));
    const write = f.i32(access.and(Access.WRITE));
    const execute = f.i32(access.has(Access.EXECUTE));
    const noExecute = f.i32(efer.has(EFER.NXE));
    // Error code without P and RSVD (SDM vol. 3, 4.7); I/D only where it can matter.
    const error = f.i32(
      write.shl(1).or(user.shl(2)).or(execute.and(noExecute.or(cr4.has(CR4.SMEP))).shl(4)),
    );
    const entry = f.i64();
    const table = f.i64();
    const place = f.pointer(undefined, true);
    const shift = f.i64();
    const writable = f.i32();
    const userPage = f.i32();
    const forbidden = f.i32();
    const fail = (present: I32 | number) => f.return(f.call64(pageFault, linear, error.or(present)));
    const wide = f.i32(cr4.has(CR4.PAE));
    f.if(efer.has(EFER.LMA), () => {
      f.if(linear.shl(16).shrS(16).ne(linear), () => {
        f.do(raise, Vector.GP, 0);
        f.set32(State.NOT_CANONICAL, 1);
        f.return(i64(-1));
      });
    });

    f.loop((restart) => {
      f.set(writable, 1);
      f.set(userPage, 1);
      f.set(forbidden, 0);
      f.set(table, f.s64(State.CR3).and(PAGE_FRAME));
      const done = (pageShift: I64, dirty: () => void) => {
        // Permissions (SDM vol. 3, 4.6).
        f.if(user.and(userPage.eqz()), () => fail(1));
        f.if(write, () => {
          f.if(writable.eqz().and(user.or(cr0.has(CR0.WP))), () => fail(1));
        });
        f.if(execute, () => {
          f.if(forbidden, () => fail(1));
          f.if(user.eqz().and(userPage).and(cr4.has(CR4.SMEP)), () => fail(1));
        }, () => {
          f.if(user.eqz().and(userPage).and(cr4.has(CR4.SMAP)), () => {
            f.if(f.s32(State.RFLAGS).has(Flag.AC).eqz().or(access.has(Access.IMPLICIT)), () => fail(1));
          });
        });
        dirty();
        const mask = f.i64(i64(1).shl(pageShift).sub(1));
        f.return(entry.and(PAGE_FRAME).and(mask.not()).or(linear.and(mask)));
      };

      f.if(wide, () => {
        f.set(shift, 39);
        f.if(efer.has(EFER.LMA).eqz(), () => {
          // PAE: four page-directory-pointer entries, without permissions.
          const pointers = f.i64(f.s64(State.CR3).and(0xffff_ffe0));
          f.set(place, f.callPointer(hostOf, pointers.add(linear.shrU(30).and(3).shl(3)), 0).inRam());
          f.if(place.isNowhere(), () => fail(0));
          f.set(entry, place.i64());
          f.if(entry.has(1).eqz(), () => fail(0));
          f.set(table, entry.and(PAGE_FRAME));
          f.set(shift, 21);
        });
        f.loop((next) => {
          f.set(place, f.callPointer(hostOf, table.add(linear.shrU(shift).and(511).shl(3)), 0).inRam());
          f.if(place.isNowhere(), () => fail(0));
          f.set(entry, place.atomicLoad(64));
          f.if(entry.has(1).eqz(), () => fail(0));
          const large = f.i32(entry.has(0x80));
          f.if(
            entry.has(RESERVED)
              .or(entry.ltS(0).and(noExecute.eqz()))
              .or(large.and(shift.eq(39)))
              .or(large.and(shift.eq(21).or(shift.eq(30))).and(entry.and(i64(1).shl(shift).sub(1)).has(0x3fff_e000))),
            () => fail(9),
          );
          f.set(writable, writable.and(entry.i32().shrU(1)));
          f.set(userPage, userPage.and(entry.i32().shrU(2)));
          f.set(forbidden, forbidden.or(entry.ltS(0)));
          f.if(shift.eq(12).or(large), () => {
            done(shift, () => {
              const bits = select(write.ne(0), i64(0x60), i64(0x20));
              f.brIf(restart, f.call32(setAccessed, place, entry, bits).eqz());
            });
          });
          f.brIf(restart, f.call32(setAccessed, place, entry, i64(0x20)).eqz());
          f.set(table, entry.and(PAGE_FRAME));
          f.set(shift, shift.sub(9));
          f.br(next);
        });
      });
      // Two levels of 32-bit entries.
      f.set(shift, 22);
      f.loop((next) => {
        f.set(
          place,
          f.callPointer(hostOf, table.u32().add(linear.shrU(shift).and(1023).shl(2)), 0).inRam(),
        );
        f.if(place.isNowhere(), () => fail(0));
        f.set(entry, place.atomicLoad(32));
        f.if(entry.has(1).eqz(), () => fail(0));
        f.set(writable, writable.and(entry.i32().shrU(1)));
        f.set(userPage, userPage.and(entry.i32().shrU(2)));
        const large = f.i32(shift.eq(22).and(entry.has(0x80)).and(cr4.has(CR4.PSE)));
        const leaf = f.i32(shift.eq(12).or(large));
        const mark = (bits: I64) => {
          const expected = f.i64(entry);
          f.if(expected.and(bits).ne(bits), () => {
            f.brIf(restart, place.atomicCompareExchange(32, expected, expected.or(bits)).ne(expected));
          });
        };
        f.if(leaf, () => {
          // PSE-36: bits 13-20 are address bits 32-39 (SDM vol. 3, table 4-4).
          const original = f.i64(entry);
          f.if(large, () => {
            f.set(entry, original.and(0xffc0_0000).or(original.shrU(13).and(0xff).shl(32)));
          });
          done(shift, () => {
            const translated = f.i64(entry);
            f.set(entry, original);
            mark(f.i64(select(write.ne(0), i64(0x60), i64(0x20))));
            f.set(entry, translated);
          });
        });
        mark(i64(0x20));
        f.set(table, entry.and(0xffff_f000));
        f.set(shift, 12);
        f.br(next);
      });
    });
    f.return(i64(-1));
  });

  const bytesOfPointer = isMemory64() ? 8 : 4;
  // Few entries are emptied one by one: a context switch costs what it used.
  define(flushTlb, (f) => {
    const fills = f.i32(f.s32(State.TLB_FILLS));
    f.set32(State.TLB_FILLS, 0);
    f.memoryFill(
      f.place(CpuArea.INSTRUCTION_TLB),
      i32(-1),
      pointer(InstructionTlb.PRIVILEGES * InstructionTlb.BYTES),
    );
    f.if(fills.gtU(State.TLB_FILLS_KNOWN), () => {
      f.memoryFill(f.place(CpuArea.TLB), i32(-1), pointer(Tlb.PRIVILEGES * Tlb.BYTES));
      f.return();
    });
    f.block((done) =>
      f.loop((again) => {
        f.brIf(done, fills.eqz());
        f.set(fills, fills.sub(1));
        const entry = f.pointer(
          pointerOf32(fills.mul(bytesOfPointer)).add(f.place(State.TLB_FILLED)).pointer(),
        );
        f.store64(entry, -1, Tlb.TAG);
        f.store64(entry, -1, Tlb.WRITE);
        f.br(again);
      })
    );
  });

  define(flushPage, (f) => {
    const linear = f.parameter64(0);
    const slot = f.pointer(pointerOf(linear.shrU(12 - 4).and((Tlb.ENTRIES - 1) << 4)));
    for (let privilege = 0; privilege < Tlb.PRIVILEGES; privilege++) {
      const at = target.base + CpuArea.TLB + privilege * Tlb.BYTES;
      f.store64(slot, -1, at);
      f.store64(slot, -1, at + Tlb.WRITE);
    }
    const entry = f.pointer(pointerOf(linear.shrU(12 - 4).and((InstructionTlb.ENTRIES - 1) << 4)));
    for (let privilege = 0; privilege < InstructionTlb.PRIVILEGES; privilege++) {
      f.store64(entry, -1, target.base + CpuArea.INSTRUCTION_TLB + privilege * InstructionTlb.BYTES);
    }
  });

  // Fletcher's sums in 64-bit lanes: content and order.
  define(hashPage, (f) => {
    const place = f.pointer(pointerOf(f.parameter32(0).i64u().shl(12)).add(target.layout.ramBase).inRam());
    const sum = f.v128(splat(i64(0), 64));
    const sums = f.v128(splat(i64(0), 64));
    const left = f.i32(4096 / 64);
    f.loop((again) => {
      for (let i = 0; i < 64; i += 16) {
        f.set(sum, sum.op2(206, place.v128(i)));
        f.set(sums, sums.op2(206, sum));
      }
      f.set(place, place.add(64));
      f.set(left, left.sub(1));
      f.brIf(again, left);
    });
    f.return(sums.i64(0).mul(3).add(sums.i64(1)).add(sum.i64(0).rotl(17)).add(sum.i64(1).rotl(31)));
  });
  define(notePage, (f) => {
    const page = f.parameter32(0);
    f.store64(pointerOf32(page.shl(3)), f.call64(hashPage, page), target.layout.pageHashes);
  });

  define(fetchTranslate, (f) => {
    const linear = f.parameter64(0);
    const limited = f.i32(f.s64(State.MODE_KEY).and(KEY_LONG).eqz());
    const offset = f.i64(linear.sub(f.s64(State.CODE_BASE)).and(0xffff_ffff));
    const limit = f.s32(State.SEGMENTS + Seg.CS * Segment.BYTES + Segment.LIMIT).i64u();
    f.if(limited.and(offset.gtU(limit)), () => {
      f.do(raise, Vector.GP, 0);
      f.return(i64(0));
    });
    const physical = f.i64(f.call64(translate, linear, Access.EXECUTE));
    guard(f, i64(0));
    // Where the segment ends is looked at for each instruction: such a page stays out of the TLB.
    f.if(f.s64(State.MODE_KEY).has(KEY_LIMITED), () => {
      f.if(offset.add(linear.not().and(4095)).add(MAXIMUM_LENGTH).gtU(limit), () => f.return(physical));
    });
    // Devices store to memory without notice. A program's page that is newly mapped may have been read from a disk into
    // memory that held other code before: what was decoded of it is kept only while the bytes are the same. The
    // kernel's own code comes by the processor's stores.
    f.if(f.s32(State.CPL).eq(3).or(f.s64(State.CR0).has(CR0.PG).eqz()), () => {
      const host = f.pointer(f.callPointer(hostOf, physical, 0).inRam());
      f.if(host.isNowhere().eqz(), () => {
        const page = f.i32(attributesOf(f, host).low());
        f.if(pointerOf32(page).u8(attributesAt).has(PageAttribute.HAS_CODE), () => {
          const known = pointerOf32(page.shl(3)).i64(target.layout.pageHashes);
          f.if(f.call64(hashPage, page).ne(known), () => f.do(codeWritten, page));
        });
      });
    });
    const entry = f.pointer(
      pointerOf(linear.shrU(12 - 4).and((InstructionTlb.ENTRIES - 1) << 4)).add(f.sPointer(State.INSTRUCTION_TLB)),
    );
    f.store64(entry, linear.and(-4096), 0);
    f.store64(entry, physical.and(-4096), 8);
    f.return(physical);
  });

  /** Puts a page into the data TLB. */
  const entryOf = (f: CpuFunc, address: I64, tlb: Pointer) =>
    f.pointer(pointerOf(address.shrU(12 - 4).and((Tlb.ENTRIES - 1) << 4)).add(tlb));
  /** The TLB of implicit accesses. */
  const supervisor = (f: CpuFunc) => f.place(CpuArea.TLB);
  /** Runs `hit` with the address in this memory when the TLB knows the page. */
  const probe = (
    f: CpuFunc,
    address: I64,
    side: number,
    hit: (place: Pointer) => void,
    tlb = f.sPointer(State.TLB),
  ) => {
    const entry = entryOf(f, address, tlb);
    f.if(entry.i64(side).eq(address.and(-4096)), () => {
      hit(f.pointer(pointerOf(address).add(entry.pointer(side + Tlb.ADDEND)).inRam()));
    });
  };
  /** One to eight bytes, zero-extended. */
  const loadFrom = (f: CpuFunc, place: Pointer, bytes: I32): I64 => {
    const value = f.i64();
    f.if(bytes.eq(8), () => f.set(value, place.i64()), () => {
      f.if(bytes.eq(4), () => f.set(value, place.u32w()), () => {
        f.if(bytes.eq(2), () => f.set(value, place.u16w()), () => {
          // One byte, or an odd piece of an access that crosses a page.
          const i = f.i32(bytes);
          f.set(value, 0);
          f.loop((again) => {
            f.set(i, i.sub(1));
            f.set(value, value.shl(8).or(place.add(pointerOf32(i)).u8w()));
            f.brIf(again, i);
          });
        });
      });
    });
    return value;
  };
  const fill = (f: CpuFunc, address: I64, host: Pointer, write: boolean, tlb = f.sPointer(State.TLB)) => {
    // Every access is looked at while a data breakpoint is armed.
    f.if(f.s32(State.WATCH).eqz(), () => putEntry(f, address, host, write, tlb));
  };
  const putEntry = (f: CpuFunc, address: I64, host: Pointer, write: boolean, tlb: Pointer) => {
    const entry = entryOf(f, address, tlb);
    // A refill of an entry in use (a first store after a load) is known already.
    f.if(entry.i64(Tlb.TAG).eq(-1), () => {
      const fills = f.i32(f.s32(State.TLB_FILLS));
      f.set32(State.TLB_FILLS, fills.add(1));
      f.if(fills.ltU(State.TLB_FILLS_KNOWN), () => {
        f.storePointer(pointerOf32(fills.mul(bytesOfPointer)).add(f.place(State.TLB_FILLED)), entry);
      });
    });
    const page = f.i64(address.and(-4096));
    const addend = f.pointer(host.sub(pointerOf(address)));
    f.store64(entry, page, Tlb.TAG);
    f.storePointer(entry, addend, Tlb.ADDEND);
    if (!write) return;
    f.store64(entry, page, Tlb.WRITE);
    f.storePointer(entry, addend, Tlb.WRITE + Tlb.ADDEND);
  };

  /** What every store to RAM does once per TLB fill: dirty bit, and decoded instructions of the page go. */
  const beforeStore = (f: CpuFunc, host: Pointer) => {
    const attribute = f.pointer(attributesOf(f, host));
    const bits = f.i32(attribute.u8(attributesAt));
    f.if(bits.has(PageAttribute.HAS_CODE), () => f.do(codeWritten, attribute.low()));
    f.if(bits.has(PageAttribute.DIRTY).eqz(), () => {
      f.drop(attribute.atomicOr8(PageAttribute.DIRTY, attributesAt));
    });
  };

  const crosses = (address: I64, bytes: I32) => address.i32().and(4095).add(bytes).gtU(4096);

  /** Bytes of an access in its first page. */
  const inFirst = (f: CpuFunc, address: I64) => f.i32(i32(4096).sub(address.i32().and(4095)));
  /** Returns a load that crosses a page, as one of each page. */
  const splitLoad = (f: CpuFunc, name: typeof loadSlow, address: I64, bytes: I32) =>
    f.if(crosses(address, bytes), () => {
      const first = inFirst(f, address);
      const low = f.i64(f.call64(name, address, first));
      guard(f, i64(0));
      const high = f.i64(f.call64(name, address.add(first.i64u()), bytes.sub(first)));
      f.return(low.or(high.shl(first.shl(3).i64u())));
    });
  const splitStore = (f: CpuFunc, name: typeof storeSlow, address: I64, bytes: I32, value: I64) => {
    const first = inFirst(f, address);
    f.do(name, address, first, value);
    guard(f);
    f.do(name, address.add(first.i64u()), bytes.sub(first), value.shrU(first.shl(3).i64u()));
    f.return();
  };

  const loader = (name: typeof loadSlow, extra: number) =>
    define(name, (f) => {
      const address = f.parameter64(0);
      const bytes = f.parameter32(1);
      splitLoad(f, name, address, bytes);
      probe(f, address, extra & Access.WRITE ? Tlb.WRITE : 0, (place) => f.return(loadFrom(f, place, bytes)));
      const physical = f.i64(f.call64(translate, address, extra));
      guard(f, i64(0));
      noteBreakpoints(f, address, bytes, (kind) => kind.eq(3));
      const host = f.pointer(f.callPointer(hostOf, physical, extra & Access.WRITE).inRam());
      f.if(host.isNowhere(), () => f.return(f.call64(externalRead, physical, bytes)));
      // What will be stored to next may be stored to from now on: a locked access then goes on atomically.
      if (extra !== 0) beforeStore(f, host);
      fill(f, address, host, extra !== 0);
      f.return(loadFrom(f, host, bytes));
    });
  loader(loadSlow, 0);
  loader(loadForWriteSlow, Access.WRITE);

  const storeTo = (f: CpuFunc, host: Pointer, bytes: I32, value: I64) => {
    f.if(bytes.eq(8), () => f.storeBits(64, host, value), () => {
      f.if(bytes.eq(4), () => f.storeBits(32, host, value), () => {
        f.if(bytes.eq(2), () => f.storeBits(16, host, value), () => {
          const i = f.i32(0);
          f.loop((again) => {
            f.storeBits(8, host.add(pointerOf32(i)), value.shrU(i.shl(3).i64u()));
            f.set(i, i.add(1));
            f.brIf(again, i.ltU(bytes));
          });
        });
      });
    });
  };

  define(storeSlow, (f) => {
    const address = f.parameter64(0);
    const bytes = f.parameter32(1);
    const value = f.parameter64(2);
    f.if(crosses(address, bytes), () => {
      // Both pages are asked before either is changed.
      f.drop(f.call64(translate, address, Access.WRITE));
      guard(f);
      f.drop(f.call64(translate, address.add(bytes.i64u()).sub(1).and(-4096), Access.WRITE));
      guard(f);
      splitStore(f, storeSlow, address, bytes, value);
    });
    probe(f, address, Tlb.WRITE, (place) => {
      storeTo(f, place, bytes, value);
      f.return();
    });
    const physical = f.i64(f.call64(translate, address, Access.WRITE));
    guard(f);
    noteBreakpoints(f, address, bytes, (kind) => kind.and(1));
    const host = f.pointer(f.callPointer(hostOf, physical, 1).inRam());
    f.if(host.isNowhere(), () => {
      f.do(externalWrite, physical, bytes, value);
      f.return();
    });
    beforeStore(f, host);
    fill(f, address, host, true);
    storeTo(f, host, bytes, value);
  });

  define(loadSystem, (f) => {
    const address = f.parameter64(0);
    const bytes = f.parameter32(1);
    splitLoad(f, loadSystem, address, bytes);
    probe(f, address, 0, (place) => f.return(loadFrom(f, place, bytes)), supervisor(f));
    const physical = f.i64(f.call64(translate, address, Access.IMPLICIT));
    guard(f, i64(0));
    const host = f.pointer(f.callPointer(hostOf, physical, 0).inRam());
    f.if(host.isNowhere(), () => f.return(f.call64(externalRead, physical, bytes)));
    fill(f, address, host, false, supervisor(f));
    f.return(loadFrom(f, host, bytes));
  });

  define(storeSystem, (f) => {
    const address = f.parameter64(0);
    const bytes = f.parameter32(1);
    const value = f.parameter64(2);
    f.if(crosses(address, bytes), () => splitStore(f, storeSystem, address, bytes, value));
    probe(f, address, Tlb.WRITE, (place) => {
      storeTo(f, place, bytes, value);
      f.return();
    }, supervisor(f));
    const physical = f.i64(f.call64(translate, address, Access.IMPLICIT | Access.WRITE));
    guard(f);
    const host = f.pointer(f.callPointer(hostOf, physical, 1).inRam());
    f.if(host.isNowhere(), () => {
      f.do(externalWrite, physical, bytes, value);
      f.return();
    });
    beforeStore(f, host);
    fill(f, address, host, true, supervisor(f));
    storeTo(f, host, bytes, value);
  });

  define(load128Slow, (f) => {
    const address = f.parameter64(0);
    for (const half of [0, 8]) {
      f.set64(State.SCRATCH + 16 + half, f.call64(loadSlow, address.add(half), 8));
      guard(f, f.place(State.SCRATCH));
    }
    f.return(f.place(State.SCRATCH + 16));
  });

  define(store128Slow, (f) => {
    const address = f.parameter64(0);
    const value = f.parameterV128(1);
    f.if(crosses(address, i32(16)), () => {
      f.drop(f.call64(translate, address, Access.WRITE));
      guard(f);
      f.drop(f.call64(translate, address.add(15).and(-4096), Access.WRITE));
      guard(f);
    });
    f.do(storeSlow, address, 8, value.i64(0));
    guard(f);
    f.do(storeSlow, address.add(8), 8, value.i64(1));
  });

  define(needAlone, (f) => {
    f.if(f.s32(State.ALONE).eqz(), () => {
      f.set32(State.FAULT, Fault.EXIT);
      f.set32(State.EXIT, Leave.ALONE);
    });
  });
}

/** A segment's field. */
export function segmentField(f: CpuFunc, segment: number, field: number): I32 {
  return f.s32(State.SEGMENTS + segment * Segment.BYTES + field);
}
