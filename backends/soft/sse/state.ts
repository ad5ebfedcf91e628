/** The MMX registers as part of the x87 state. */
import { type Emitter, Vector } from "../emitter.ts";
import { State } from "../layout.ts";
import type { Local } from "../wasm/function.ts";
import type { I64, V128 } from "../wasm/values.ts";
import { low } from "./lanes.ts";

/** FSW: exception summary, and the field of the stack top. */
export const ES = 0x80;
export const TOP = 0x3800;

/** What every MMX instruction but EMMS begins with: a pending x87 exception comes first (SDM vol. 3, 12.5). */
export function checkPending(e: Emitter): void {
  e.raiseIf(e.f.s16(State.FSW).has(ES), Vector.MF);
}

/** After its last access to memory, an MMX instruction sets TOP to 0 and all tags to valid (SDM vol. 1, 9.5.1). */
export function enterMmx(e: Emitter): void {
  e.f.set16(State.FSW, e.f.s16(State.FSW).and(~TOP));
  e.f.set16(State.FTW, 0);
}

/** MMX operand, register or memory. */
export function readMmx(e: Emitter, index: number): Local<I64> {
  if (e.isMemory(index)) return e.load(e.address(index), 64);
  return e.f.i64(e.mmxPlace(index).i64());
}

/** MMX operand in the low half of a vector. */
export function readMmxVector(e: Emitter, index: number): Local<V128> {
  return e.f.v128(low(readMmx(e, index)));
}

/** Writes an MMX register; sign and exponent become all ones (SDM vol. 1, 9.2.3). */
export function writeMmx(e: Emitter, index: number, value: I64): void {
  e.f.store64(e.mmxPlace(index), value);
  e.f.store16(e.mmxPlace(index), 0xffff, 8);
}
