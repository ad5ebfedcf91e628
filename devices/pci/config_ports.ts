/**
 * Configuration space behind ports CF8h-CFFh (PCI Local Bus 3.0, 3.2.2.3.2), and the reset control register that
 * chipsets keep at CF9h, inside the first of the two.
 */
import type { BusDevice } from "../../core/device.ts";
import { FIRST_WORD, type RegisterFile, type Registers } from "../../core/registers.ts";
import type { PciBus } from "./bus.ts";

const ADDRESS = FIRST_WORD;
const RESET_CONTROL = FIRST_WORD + 1;
const ENABLE = 1 << 31;
const DATA_OFFSET = 4;
const RESET_OFFSET = 1;
const RESET_CPU = 4;
/** Bits of the reset control register that stay: kind of reset, reset, full reset. */
const RESET_BITS = 0x0e;

/** What the ports are given. */
export interface ConfigPortWires {
  /** The guest asked for a machine reset at port CF9h. */
  reset: () => void;
}

/** Eight ports from CF8h on. */
export class ConfigPorts implements BusDevice {
  static readonly PORT = 0xcf8;
  static readonly PORTS = 8;
  readonly registers: Registers;
  private readonly bus: PciBus;
  private readonly wires: ConfigPortWires;

  constructor(file: RegisterFile, bus: PciBus, wires: ConfigPortWires) {
    this.registers = file.allocate(2);
    this.bus = bus;
    this.wires = wires;
  }

  reset(): void {
    this.registers.words.fill(0, FIRST_WORD);
  }

  read(offset: number, size: number): number {
    const words = this.registers.words;
    if (offset < DATA_OFFSET) {
      if (offset === 0 && size === 4) return words[ADDRESS];
      if (offset === RESET_OFFSET && size === 1) return words[RESET_CONTROL];
      return -1;
    }
    const address = words[ADDRESS];
    // Address bits: 31 enable, 23-16 bus, 15-11 device, 10-8 function, 7-2 register.
    if ((address & ENABLE) === 0 || (address & 0xff0700) !== 0) return -1;
    return this.bus.readConfig((address >> 11) & 31, (address & 0xfc) + offset - DATA_OFFSET, size);
  }

  write(offset: number, size: number, value: number): void {
    const words = this.registers.words;
    if (offset < DATA_OFFSET) {
      // Only a whole word reaches the address; a byte at CF9h is the reset control register.
      if (offset === 0 && size === 4) words[ADDRESS] = value & ~0x7f000003;
      else if (offset === RESET_OFFSET && size === 1) {
        const before = words[RESET_CONTROL];
        words[RESET_CONTROL] = value & RESET_BITS;
        if ((value & ~before & RESET_CPU) !== 0) this.wires.reset();
      }
      return;
    }
    const address = words[ADDRESS];
    if ((address & ENABLE) === 0 || (address & 0xff0700) !== 0) return;
    this.bus.writeConfig((address >> 11) & 31, (address & 0xfc) + offset - DATA_OFFSET, size, value);
  }
}
