/** Functions of the core's kind that only regions call. */
import { type CpuFunc, declare, defineCpuFunction, type Target } from "../cpu_function.ts";
import { Access, fetchTranslate, guard, hostOf, translate } from "../cpu/mmu.ts";
import { Fault, load128Slow, loadForWriteSlow, loadSlow, store128Slow, storeSlow } from "../emitter.ts";
import { FlagKind } from "../flags.ts";
import { PageAttribute, State } from "../layout.ts";
import { type Pointer, pointer, pointerOf } from "../wasm/memory.ts";
import type { Module } from "../wasm/module.ts";
import { type I32, type I64, i64, Type, type Value } from "../wasm/values.ts";

/**
 * As the emitter's slow stores; but a store to a page that holds code is not done: FAULT becomes RETRY, so that the
 * region is left before the instruction and the interpreter, which notices at the next instruction when its own code
 * has changed, runs it.
 */
export const regionStore = declare("region_store", [Type.i64, Type.i32, Type.i64], null);
export const regionStore128 = declare("region_store128", [Type.i64, Type.v128], null);
/** As {@link loadForWriteSlow}; from a page that holds code nothing is loaded, as {@link regionStore} stores nothing. */
export const regionLoadForWrite = declare("region_load_for_write", [Type.i64, Type.i32], Type.i64);
/** As the emitter's slow loads; one that reaches beyond the last linear address of 32 bits is the interpreter's. */
export const regionLoad = declare("region_load", [Type.i64, Type.i32], Type.i64);
export const regionLoad128 = declare("region_load128", [Type.i64], "pointer");
/** (kind as in {@link unresolved}, a, b, result) -> result, sign-extended; of ADD and SUB computed from a and b. */
export const flagResult = declare("region_flag_result", [Type.i32, Type.i64, Type.i64, Type.i64], Type.i64);

/**
 * (linear, physical) -> 1 when a page of code is mapped as when a region was made and has not changed; the instruction
 * TLB knows it then. 0 when not, or when it cannot be fetched from: that is an exception only where it is jumped to.
 */
export const regionPage = declare("region_page", [Type.i64, Type.i64], Type.i32);

/**
 * A kind of flags that are yet to be brought into the form of flags.ts: A, B and the result count in their low `bits`
 * only, and the result of ADD and SUB has not been stored.
 */
export function unresolved(kind: number, bits: number): number {
  return kind | (bits << 8);
}

export function defineRegionSupport(module: Module, target: Target): void {
  const attributesAt = target.layout.pageAttributes;
  const attributeOf = (host: Pointer): I32 =>
    pointerOf(host.sub(target.layout.ramBase).wide().shrU(12)).u8(attributesAt);
  const refusePage = (f: CpuFunc, address: I64, result?: I64) => {
    const physical = f.i64(f.call64(translate, address, Access.WRITE));
    guard(f, result);
    const host = f.pointer(f.callPointer(hostOf, physical, 1).inRam());
    f.if(host.isNowhere().eqz(), () => {
      f.if(attributeOf(host).has(PageAttribute.HAS_CODE), () => {
        f.set32(State.FAULT, Fault.RETRY);
        f.return(result);
      });
    });
  };
  const refuseCode = (f: CpuFunc, address: I64, bytes: I64, result?: I64) => {
    refusePage(f, address, result);
    const last = f.i64(address.add(bytes).sub(1));
    f.if(address.xor(last).shrU(12).ne(0), () => refusePage(f, last.and(-4096), result));
  };
  defineCpuFunction(module, target, regionPage, (f) => {
    const linear = f.parameter64(0);
    const physical = f.parameter64(1);
    const cr2 = f.i64(f.s64(State.CR2));
    const found = f.i64(f.call64(fetchTranslate, linear));
    f.if(f.s32(State.FAULT), () => {
      f.set32(State.FAULT, Fault.NONE);
      f.set64(State.CR2, cr2);
      f.return(0);
    });
    f.if(found.ne(physical), () => f.return(0));
    // It may just have been found to hold other bytes: then the region is no more.
    f.return(attributeOf(f.pointer(f.callPointer(hostOf, physical, 0))).and(PageAttribute.HAS_CODE));
  });
  // A segment of 4 GiB ends there, so the access faults; what wraps around a segment's base is as rare.
  const refuseWrap = (f: CpuFunc, address: I64, bytes: I64, ...result: Value[]) =>
    f.if(address.add(bytes).sub(1).shrU(32).ne(0).and(f.s64(State.CODE_MASK).ne(-1)), () => {
      f.set32(State.FAULT, Fault.RETRY);
      f.return(...result);
    });
  defineCpuFunction(module, target, regionLoad, (f) => {
    const bytes = f.parameter32(1);
    refuseWrap(f, f.parameter64(0), bytes.i64u(), i64(0));
    f.return(f.call64(loadSlow, f.parameter64(0), bytes));
  });
  defineCpuFunction(module, target, regionLoadForWrite, (f) => {
    const address = f.parameter64(0);
    const bytes = f.parameter32(1);
    refuseWrap(f, address, bytes.i64u(), i64(0));
    refuseCode(f, address, bytes.i64u(), i64(0));
    f.return(f.call64(loadForWriteSlow, address, bytes));
  });
  defineCpuFunction(module, target, regionLoad128, (f) => {
    refuseWrap(f, f.parameter64(0), i64(16), pointer(0));
    f.return(f.callPointer(load128Slow, f.parameter64(0)));
  });
  defineCpuFunction(module, target, regionStore, (f) => {
    const address = f.parameter64(0);
    const bytes = f.parameter32(1);
    refuseWrap(f, address, bytes.i64u());
    refuseCode(f, address, bytes.i64u());
    f.do(storeSlow, address, bytes, f.parameter64(2));
  });
  defineCpuFunction(module, target, regionStore128, (f) => {
    const address = f.parameter64(0);
    refuseWrap(f, address, i64(16));
    refuseCode(f, address, i64(16));
    f.do(store128Slow, address, f.parameterV128(1));
  });
  defineCpuFunction(module, target, flagResult, (f) => {
    const kind = f.parameter32(0);
    const a = f.parameter64(1);
    const b = f.parameter64(2);
    const shift = f.i64(kind.shrU(8).i64u().neg().and(63));
    const wide = f.i64(f.parameter64(3));
    f.if(kind.and(255).eq(FlagKind.ADD), () => f.set(wide, a.add(b)));
    f.if(kind.and(255).eq(FlagKind.SUB), () => f.set(wide, a.sub(b)));
    f.return(wide.shl(shift).shrS(shift));
  });
}
