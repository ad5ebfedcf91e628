/** Configuration space in memory: the enhanced configuration access mechanism (PCI Express Base 5.0, 7.2.2). */
import type { BusDevice } from "../../core/device.ts";
import type { RegisterFile, Registers } from "../../core/registers.ts";
import type { PciBus } from "./bus.ts";

const BUS_BYTES = 1 << 20;

/** Bus 0 and, as empty buses, as many as the range it is mapped at has megabytes. */
export class Ecam implements BusDevice {
  readonly registers: Registers;
  private readonly bus: PciBus;

  constructor(file: RegisterFile, bus: PciBus) {
    this.registers = file.allocate(0);
    this.bus = bus;
  }

  /** Bytes that a number of buses take; 256 of them at most. */
  static bytes(buses: number): number {
    return buses * BUS_BYTES;
  }

  // Offset bits: 27-20 bus, 19-15 device, 14-12 function, 11-0 register.
  read(offset: number, size: number): number {
    if (offset >= BUS_BYTES || (offset & 0x7000) !== 0) return -1;
    return this.bus.readConfig(offset >> 15, offset & 0xfff, size);
  }

  write(offset: number, size: number, value: number): void {
    if (offset >= BUS_BYTES || (offset & 0x7000) !== 0) return;
    this.bus.writeConfig(offset >> 15, offset & 0xfff, size, value);
  }
}
