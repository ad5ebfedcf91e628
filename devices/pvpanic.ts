/** pvpanic: a guest tells that its kernel died (QEMU docs/specs/pvpanic.rst, ISA device at port 505h). */
import { type BusDevice, GuestPanic, type MachineEvents } from "../core/device.ts";
import type { Registers } from "../core/registers.ts";

/** One port: a read gives the events it knows, a write tells some. */
export class PvPanic implements BusDevice {
  static readonly WORDS = 0;

  readonly registers: Registers;
  private readonly events: MachineEvents;

  constructor(registers: Registers, events: MachineEvents) {
    this.registers = registers;
    this.events = events;
  }

  read(_offset: number, _size: number): number {
    return GuestPanic.PANICKED | GuestPanic.CRASH_LOADED;
  }

  write(_offset: number, _size: number, value: number): void {
    if ((value & GuestPanic.PANICKED) !== 0) this.events.panic(GuestPanic.PANICKED);
    else if ((value & GuestPanic.CRASH_LOADED) !== 0) this.events.panic(GuestPanic.CRASH_LOADED);
  }
}
