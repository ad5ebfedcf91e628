/**
 * The loop: run, dispatch the exit on the same thread, run again. Nothing here allocates, waits for a message or makes
 * a promise between two runs; `bench/exit.ts` holds it to that.
 */
import type { Bus } from "./bus.ts";
import type { ByteRing } from "./byte_ring.ts";
import { Command, type Control, EndReason } from "./control.ts";
import { Exit, type Vcpu } from "./hypervisor.ts";

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
    switch (reason) {
      case Exit.IO_WRITE: {
        portAddress[0] = vcpu.port;
        const size = vcpu.size;
        for (let i = 0, at = vcpu.dataOffset; i < vcpu.count; i++, at += size) {
          while (output.seemsFull && control.command === Command.RUN) waitForRoom(output);
          ports.write(portAddress, size, view, at);
        }
        break;
      }
      case Exit.IO_READ: {
        portAddress[0] = vcpu.port;
        const size = vcpu.size;
        for (let i = 0, at = vcpu.dataOffset; i < vcpu.count; i++, at += size) {
          ports.read(portAddress, size, view, at);
        }
        break;
      }
      case Exit.MMIO_WRITE:
        memory.write(address, vcpu.size, view, vcpu.dataOffset);
        break;
      case Exit.MMIO_READ:
        memory.read(address, vcpu.size, view, vcpu.dataOffset);
        break;
      case Exit.INTERRUPTED:
        break;
      case Exit.HALT:
        // Interrupts are off and nothing can end this halt but a command: as on hardware, it lasts.
        control.waitWhile(Command.RUN);
        break;
      case Exit.MSR_READ:
      case Exit.MSR_WRITE:
        vcpu.msrFault = 1;
        break;
      case Exit.HYPERCALL:
        // Answered as KVM does for a number it does not know: -ENOSYS would need rax; a backend does that itself.
        break;
      case Exit.DEBUG:
        break;
      case Exit.SHUTDOWN:
        control.end(EndReason.TRIPLE_FAULT);
        break;
      case Exit.RESET:
        control.end(EndReason.RESET);
        break;
      default:
        return LoopEnd.FAILED;
    }
  }
  return LoopEnd.COMMAND;
}

/** Sleeps until the control thread has drained some of the ring, or a tenth of a second. */
function waitForRoom(output: ByteRing): void {
  const tail = Atomics.load(output.words, 1);
  if (output.room === 0) Atomics.wait(output.words, 1, tail, 100);
}
