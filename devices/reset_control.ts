/** The reset control register of a PC chipset, port CF9h: the FADT's RESET_REG with value 06h (ACPI 6.5, 4.8.3.6). */
import type { BusDevice, MachineEvents } from "../core/device.ts";
import { FIRST_WORD, type Registers } from "../core/registers.ts";

const VALUE = FIRST_WORD;
/** Bit 1 chooses a hard reset, bit 3 a full one; bit 2 going from 0 to 1 resets (Intel ICH9 data sheet, 13.7.5). */
const RESET_CPU = 1 << 2;
const WRITABLE = (1 << 1) | RESET_CPU | (1 << 3);

/** What the FADT tells the guest to write. */
export const RESET_VALUE = 0x06;

/** One port. */
export class ResetControl implements BusDevice {
  static readonly WORDS = 1;

  readonly registers: Registers;
  private readonly events: MachineEvents;

  constructor(registers: Registers, events: MachineEvents) {
    this.registers = registers;
    this.events = events;
  }

  reset(): void {
    this.registers.words[VALUE] = 0;
  }

  read(_offset: number, _size: number): number {
    return this.registers.words[VALUE];
  }

  write(_offset: number, _size: number, value: number): void {
    const old = this.registers.words[VALUE];
    this.registers.words[VALUE] = value & WRITABLE;
    if ((value & ~old & RESET_CPU) !== 0) this.events.reset();
  }
}
