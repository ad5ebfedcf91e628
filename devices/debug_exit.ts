/** A port at which a test in the guest ends the machine with an exit code of its own (as QEMU's isa-debug-exit, F4h). */
import type { BusDevice, MachineEvents } from "../core/device.ts";
import type { Registers } from "../core/registers.ts";

/** The low byte of what is written is the exit code. */
export class DebugExit implements BusDevice {
  static readonly WORDS = 0;

  readonly registers: Registers;
  private readonly events: MachineEvents;

  constructor(registers: Registers, events: MachineEvents) {
    this.registers = registers;
    this.events = events;
  }

  read(_offset: number, _size: number): number {
    return 0;
  }

  write(_offset: number, _size: number, value: number): void {
    this.events.exit(value & 0xff);
  }
}
