/** What a device is to the bus, and the wires it is given. */
import type { Registers } from "./registers.ts";

/**
 * A device that answers ports or guest addresses. Handlers see offsets from the start of the range they were mapped
 * at, run on the thread that took the exit while the bus holds the lock of `registers`, allocate nothing, never throw
 * and never block.
 */
export interface BusDevice {
  readonly registers: Registers;
  /**
   * @param offset from the start of the range
   * @param size 1, 2 or 4; the bus splits 8-byte accesses, low half first
   * @returns the bytes read as an int32 (`| 0`): V8 boxes larger numbers
   */
  read(offset: number, size: number): number;
  /** @param value the bytes written, as an int32 */
  write(offset: number, size: number, value: number): void;
}

/** A wire from a device to an interrupt controller; callable from any thread. */
export interface InterruptLine {
  /** @param level 1 asserted, 0 not. An edge is 1 followed by 0. */
  set(level: number): void;
}

/** Where a PCI device sends its message-signalled interrupts. */
export interface MessageSink {
  /** As {@link import("./hypervisor.ts").Interrupts.signalMessage}. */
  signalMessage(address: number, data: number): void;
}

/**
 * A device with a timer of its own. The I/O Worker calls {@link TimedDevice.tick} when the time it asked for has come,
 * and whenever the device rings the {@link Reschedule} it was given.
 */
export interface TimedDevice {
  readonly registers: Registers;
  /**
   * Brings the device up to the present, raising what is due; called with the lock of `registers` held.
   * @returns milliseconds until the next call is needed, or -1 when no timer runs
   */
  tick(): number;
}

/** Rung by a {@link TimedDevice} when the guest changed its timer: the I/O Worker then calls `tick` anew. */
export interface Reschedule {
  wake(): void;
}

/** What a {@link MachineEvents.panic} tells, as pvpanic's bits do. */
export const GuestPanic = { PANICKED: 1, CRASH_LOADED: 2 } as const;

/** What a device wants of the machine. Callable from any thread; an implementation only sets shared words. */
export interface MachineEvents {
  /** The guest switched itself off. */
  powerOff(): void;
  /** The guest asked for a reset. */
  reset(): void;
  /** @param kind {@link GuestPanic}: the guest's kernel died, or died and runs its crash kernel */
  panic(kind: number): void;
  /** @param code the exit code the guest chose, 0 to 255 */
  exit(code: number): void;
}
