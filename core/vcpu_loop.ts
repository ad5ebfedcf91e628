/**
 * The loop: run, dispatch the exit on the same thread, run again. Nothing here allocates, waits for a message or makes
 * a promise between two runs; `bench/exit.ts` holds it to that.
 */
import type { Bus } from "./bus.ts";
import type { ByteRing } from "./byte_ring.ts";
import { Command, type Control, EndReason } from "./control.ts";
import { Exit, type ExitReason, type Vcpu } from "./hypervisor.ts";

/** How {@link runVcpu} came back. */
export const LoopEnd = { COMMAND: 0, FAILED: 1 } as const;

/**
 * Runs a vCPU while the command is RUN.
 * @param counters exits by reason
 * @param output the console's ring: while it is full this vCPU waits, so nothing the guest says is lost
 */
export function runVcpu(
  vcpu: Vcpu,
  ports: Bus,
  memory: Bus,
  control: Control,
  counters: Int32Array,
  output: ByteRing,
): number {
  const portAddress = new Float64Array(1);
  const { address, view } = vcpu;
  while (control.commandSeen === Command.RUN) {
    const reason = vcpu.run();
    counters[reason]++;
    // One call of each kind, for ports and memory alike: V8 puts only so much code in place of calls in one function.
    let bus = memory;
    let where = address;
    let left = 1;
    if (reason === Exit.IO_WRITE || reason === Exit.IO_READ) {
      bus = ports;
      where = portAddress;
      portAddress[0] = vcpu.port;
      left = vcpu.count;
    }
    if (reason === Exit.IO_WRITE || reason === Exit.MMIO_WRITE) {
      for (let at = vcpu.dataOffset; left > 0; left--, at += vcpu.size) {
        while (output.seemsFull && control.command === Command.RUN) waitForRoom(output);
        bus.write(where, vcpu.size, view, at);
      }
    } else if (reason === Exit.IO_READ || reason === Exit.MMIO_READ) {
      for (let at = vcpu.dataOffset; left > 0; left--, at += vcpu.size) bus.read(where, vcpu.size, view, at);
    } else if (!answer(reason, vcpu, control)) return LoopEnd.FAILED;
  }
  return LoopEnd.COMMAND;
}

/** The exits that are no device's; false when the guest cannot go on. */
function answer(reason: ExitReason, vcpu: Vcpu, control: Control): boolean {
  switch (reason) {
    case Exit.HALT:
      // Interrupts are off and nothing can end this halt but a command: as on hardware, it lasts.
      control.waitWhile(Command.RUN);
      return true;
    case Exit.MSR_READ:
    case Exit.MSR_WRITE:
      vcpu.msrFault = 1;
      return true;
    case Exit.INTERRUPTED:
    case Exit.DEBUG:
    case Exit.HYPERCALL:
      // A hypercall is answered as KVM does for a number it does not know: -ENOSYS would need rax; a backend does that.
      return true;
    case Exit.SHUTDOWN:
      control.end(EndReason.TRIPLE_FAULT);
      return true;
    case Exit.RESET:
      control.end(EndReason.RESET);
      return true;
    default:
      return false;
  }
}

/** Sleeps until the control thread has drained some of the ring, or a tenth of a second. */
function waitForRoom(output: ByteRing): void {
  const tail = Atomics.load(output.words, 1);
  if (output.room === 0) Atomics.wait(output.words, 1, tail, 100);
}
