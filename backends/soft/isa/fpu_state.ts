/** Saving and restoring the state of x87 and SSE: FXSAVE, FXRSTOR, LDMXCSR, STMXCSR, XSAVE and its kin. */
import { type Emitter, Vector } from "../emitter.ts";
import { CR4 } from "../cpu/mmu.ts";
import { Reg, State } from "../layout.ts";
import { checkMxcsr, FXSAVE, loadX87, loadXmm, storeMxcsr, storeX87, storeXmm } from "../sse/fpu_image.ts";
import type { Local } from "../wasm/function.ts";
import { type I32, i32, type I64, i64, select } from "../wasm/values.ts";
import { setMxcsr } from "../sse/float_functions.ts";
import { initialize } from "../x87/stack.ts";
import { zero } from "../sse/lanes.ts";
import { op } from "./table.ts";

const image = { unit: "x87", system: true, modal: true } as const;

/** Address of the image; #GP(0) when misaligned. */
function imageAddress(e: Emitter): Local<I64> {
  const address = e.address(0);
  e.raiseIf(address.i32().has(15), Vector.GP, 0);
  return address;
}

op("fxsave", "NP 0F AE /0 modm", "Mx", (e) => {
  const address = imageAddress(e);
  storeX87(e, address);
  storeMxcsr(e, address);
  storeXmm(e, address);
}, image);
op("fxrstor", "NP 0F AE /1 modm", "Mx", (e) => {
  const { f } = e;
  const address = imageAddress(e);
  const mxcsr = f.i32(e.load(f.i64(address.add(FXSAVE.MXCSR)), 32).i32());
  checkMxcsr(e, mxcsr);
  // The image may lie in two pages: the second is asked for before anything changes.
  f.drop(e.load(f.i64(address.add(511)), 8));
  loadX87(e, address);
  loadXmm(e, address);
  setMxcsr(f, mxcsr);
}, image);

op("ldmxcsr", "NP 0F AE /2 modm", "Md", (e) => {
  const value = e.f.i32(e.read(0).i32());
  checkMxcsr(e, value);
  setMxcsr(e.f, value);
}, { unit: "sse" });
op("stmxcsr", "NP 0F AE /3 modm", "Md", (e) => e.write(0, e.f.s32(State.MXCSR).i64u()), { unit: "sse" });

// XSAVE and its kin (SDM vol. 1, chapter 13) for x87 and SSE. Every component counts as in use.
const X87 = 1n;
const SSE = 2n;
const HEADER = { XSTATE_BV: 512, XCOMP_BV: 520 } as const;
const COMPACT = 1n << 63n;
const has = (value: I64, bit: bigint): I32 => value.and(bit).ne(0);

/** #UD unless the system has switched XSAVE on. */
function extended(e: Emitter): void {
  e.raiseIf(e.f.s64(State.CR4).has(CR4.OSXSAVE).eqz(), Vector.UD);
}
/** The components asked for in EDX:EAX, as far as XCR0 has them. */
function requested(e: Emitter): Local<I64> {
  return e.f.i64(e.reg(Reg.DX).shl(32).or(e.reg(Reg.AX).u32()).and(e.f.s64(State.XCR0)));
}
function extendedAddress(e: Emitter): Local<I64> {
  extended(e);
  const address = e.address(0);
  e.raiseIf(address.i32().has(63), Vector.GP, 0);
  return address;
}
const at = (e: Emitter, address: I64, offset: number) => e.f.i64(address.add(offset));

function store(e: Emitter, compact: boolean): void {
  const { f } = e;
  const address = extendedAddress(e);
  const components = requested(e);
  const old = compact ? null : e.load(at(e, address, HEADER.XSTATE_BV), 64);
  f.if(has(components, X87), () => storeX87(e, address));
  f.if(has(components, SSE), () => {
    storeMxcsr(e, address);
    storeXmm(e, address);
  });
  const present = old ? old.and(components.not()).or(components) : components;
  e.store(at(e, address, HEADER.XSTATE_BV), 64, present);
  if (compact) e.store(at(e, address, HEADER.XCOMP_BV), 64, components.or(COMPACT));
}
op("xsave", "NP 0F AE /4 modm", "Mx", (e) => store(e, false), image);
op("xsave", "NP 0F AE /6 modm", "Mx", (e) => store(e, false), image);
op("xsavec", "NP 0F C7 /4 modm", "Mx", (e) => store(e, true), image);
op("xrstor", "NP 0F AE /5 modm", "Mx", (e) => {
  const { f } = e;
  const address = extendedAddress(e);
  const components = requested(e);
  const fault = (condition: I32) => e.raiseIf(condition, Vector.GP, 0);
  const present = e.load(at(e, address, HEADER.XSTATE_BV), 64);
  const format = e.load(at(e, address, HEADER.XCOMP_BV), 64);
  const compact = f.i32(format.ltS(0));
  const enabled = f.s64(State.XCR0);
  const known = f.i64(select(compact, format.and(~COMPACT), enabled));
  fault(format.ne(0).and(compact.eqz()).or(known.and(enabled.not()).ne(0)).or(present.and(known.not()).ne(0)));
  for (let offset = 528; offset < 576; offset += 8) {
    const reserved = e.load(at(e, address, offset), 64);
    // The standard form looks at the first 24 bytes of the header only.
    fault(offset < 536 ? reserved.ne(0) : reserved.ne(0).and(compact));
  }
  const mxcsr = f.i32(e.load(at(e, address, FXSAVE.MXCSR), 32).i32());
  // The standard form loads MXCSR whether the rest of SSE's state is there or not.
  const loadsMxcsr = f.i32(has(components, SSE).and(compact.eqz().or(has(present, SSE))));
  f.if(loadsMxcsr, () => checkMxcsr(e, mxcsr));
  f.drop(e.load(f.i64(address.add(511)), 8));
  f.if(has(components, X87), () => {
    f.if(has(present, X87), () => loadX87(e, address), () => {
      f.do(initialize);
      for (let register = 0; register < 8; register++) f.setV128(State.X87 + register * 16, zero());
    });
  });
  f.if(has(components, SSE), () => {
    f.if(has(present, SSE), () => loadXmm(e, address), () => {
      for (let n = 0; n < (e.mode === 64 ? 16 : 8); n++) e.setXmm(n, zero());
    });
    setMxcsr(f, select(loadsMxcsr, mxcsr, i32(0x1f80)));
  });
}, image);
op("xgetbv", "NP 0F 01 /2 mod3 rm0", "", (e) => {
  const { f } = e;
  extended(e);
  e.raiseIf(e.reg(Reg.CX).i32().gtU(1), Vector.GP, 0);
  e.setReg(Reg.AX, f.s64(State.XCR0).u32());
  e.setReg(Reg.DX, i64(0));
}, { system: true });
op("xsetbv", "NP 0F 01 /2 mod3 rm1", "", (e) => {
  const { f } = e;
  extended(e);
  const value = f.i64(e.reg(Reg.DX).shl(32).or(e.reg(Reg.AX).u32()));
  const possible = value.eq(X87).or(value.eq(X87 | SSE));
  e.raiseIf(f.s32(State.CPL).or(e.reg(Reg.CX).i32()).or(possible.eqz()), Vector.GP, 0);
  f.set64(State.XCR0, value);
}, { system: true });
