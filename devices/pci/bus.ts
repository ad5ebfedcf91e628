/** PCI bus 0: up to 32 functions, one in each slot. */
import type { InterruptLine, MessageSink } from "../../core/device.ts";
import type { RegisterFile } from "../../core/registers.ts";
import { type AddressWindow, assignBars, type Bar } from "./bar.ts";
import { Command, Header } from "./config_space.ts";
import type { PciFunction } from "./function.ts";
import { type IntxSource, SharedLine } from "./intx.ts";

const SLOTS = 32;

/** Where a line of the bus ends. */
export interface IntxRoute {
  line: InterruptLine;
  /** What firmware writes into the interrupt line register: the number of the line at the interrupt controller. */
  number: number;
}

/** What the bus is given. */
export interface PciWires {
  sink: MessageSink;
  /** Slot s has INTA at `lines[s % lines.length]`; none: functions have MSI-X only. */
  lines: IntxRoute[];
}

/** The bus, built anew in every Worker; register blocks: one for each line, then those of the functions. */
export class PciBus {
  readonly sink: MessageSink;
  /** Every BAR there is, for {@link import("./window.ts").PciWindow}. */
  readonly bars: Bar[] = [];
  private readonly functions: (PciFunction | null)[] = new Array(SLOTS).fill(null);
  private readonly lines: SharedLine[];
  private readonly numbers: number[];

  constructor(file: RegisterFile, wires: PciWires) {
    this.sink = wires.sink;
    this.lines = wires.lines.map((route) => new SharedLine(file, route.line));
    this.numbers = wires.lines.map((route) => route.number);
  }

  /** Called by a function as it is made. Throws when its slot is taken. */
  add(device: PciFunction): void {
    const { slot } = device;
    if (!(slot >= 0 && slot < SLOTS) || this.functions[slot] !== null) {
      throw new RangeError(`PCI slot ${slot} is taken or does not exist`);
    }
    this.functions[slot] = device;
  }

  addBar(bar: Bar): void {
    this.bars.push(bar);
  }

  /** Makes every function what it is at power-on. Once for a machine, before any Worker runs. */
  initialize(): void {
    for (const device of this.functions) device?.initialize();
  }

  /** Resets every function; the vCPUs are stopped. */
  reset(): void {
    for (const device of this.functions) device?.reset();
  }

  /** Places all BARs and lets them be decoded, as firmware would have. */
  assignBars(windows: AddressWindow[]): void {
    assignBars(this.bars, windows);
    for (const device of this.functions) {
      if (device === null || device.bars.length === 0) continue;
      device.config.setWord(Header.COMMAND, device.config.word(Header.COMMAND) | Command.MEMORY);
      device.decodeChanged();
    }
  }

  /**
   * Reads configuration space; all ones where no function is.
   * @param slot device number
   * @param offset 0 to 4095
   */
  readConfig(slot: number, offset: number, size: number): number {
    const device = this.functions[slot];
    if (device === null) return -1;
    const registers = device.config.registers;
    const shift = (offset & 3) * 8;
    registers.lock();
    let value = device.readConfig(offset) >>> shift;
    if ((offset & 3) + size > 4) value |= device.readConfig(offset + 4) << (32 - shift);
    registers.unlock();
    return size === 4 ? value | 0 : value & ((1 << (size * 8)) - 1);
  }

  /** Writes it. */
  writeConfig(slot: number, offset: number, size: number, value: number): void {
    const device = this.functions[slot];
    if (device === null) return;
    const registers = device.config.registers;
    const shift = (offset & 3) * 8;
    const lanes = size === 4 ? -1 : (1 << (size * 8)) - 1;
    registers.lock();
    device.writeConfig(offset, value << shift, lanes << shift);
    if ((offset & 3) + size > 4) device.writeConfig(offset + 4, value >>> (32 - shift), lanes >>> (32 - shift));
    registers.unlock();
  }

  /** The number of the line that a slot's INTA is wired to; 255 for none (PCI Local Bus 3.0, 6.2.4). */
  lineNumber(slot: number): number {
    return this.numbers.length === 0 ? 0xff : this.numbers[slot % this.numbers.length];
  }

  updateIntx(slot: number, source: IntxSource): void {
    if (this.lines.length > 0) this.lines[slot % this.lines.length].update(slot, source);
  }
}
