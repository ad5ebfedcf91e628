/** What a vCPU does about the machine's local APIC where its platform has none. */
import type { LocalInterruptController } from "../../core/hypervisor.ts";
import { X64 } from "../../core/x64_state.ts";

/** Longest sleep, in milliseconds, of a halted vCPU before it looks whether it was kicked. */
const HALT_SLICE = 5;

/** Sleeps until something was sent to this CPU, its timer is due, or a slice has passed; true when it has work. */
export function sleepHalted(controller: LocalInterruptController): boolean {
  const seen = Atomics.load(controller.doorbell, 0);
  if (controller.poll()) return true;
  const timer = controller.timeUntilTimer();
  Atomics.wait(controller.doorbell, 0, seen, timer < 0 ? HALT_SLICE : Math.min(timer, HALT_SLICE));
  return controller.poll();
}

/** The state in which a start-up IPI has a CPU begin, made of that after INIT. SDM vol. 3, 9.4.2: CS:IP = vector * 100h : 0. */
export function startedState(afterInit: ArrayBuffer, vector: number): ArrayBuffer {
  const state = afterInit.slice(0);
  const view = new DataView(state);
  const codeSegment = X64.SEGMENTS + 16;
  view.setBigUint64(codeSegment, BigInt(vector << 12), true);
  view.setUint16(codeSegment + 12, vector << 8, true);
  view.setBigUint64(X64.RIP, 0n, true);
  return state;
}
