/** Saving and restoring the state of x87 and SSE: FXSAVE, FXRSTOR, LDMXCSR, STMXCSR. */
import { type Emitter, Vector } from "../emitter.ts";
import { State } from "../layout.ts";
import { checkMxcsr, FXSAVE, loadX87, loadXmm, storeMxcsr, storeX87, storeXmm } from "../sse/fpu_image.ts";
import type { Local } from "../wasm/function.ts";
import type { I64 } from "../wasm/values.ts";
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
  f.set32(State.MXCSR, mxcsr);
}, image);

op("ldmxcsr", "NP 0F AE /2 modm", "Md", (e) => {
  const value = e.f.i32(e.read(0).i32());
  checkMxcsr(e, value);
  e.f.set32(State.MXCSR, value);
}, { unit: "sse" });
op("stmxcsr", "NP 0F AE /3 modm", "Md", (e) => e.write(0, e.f.s32(State.MXCSR).i64u()), { unit: "sse" });
