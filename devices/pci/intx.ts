/** INTA-INTD of bus 0: lines that several functions share (PCI Local Bus 3.0, 2.2.6). */
import type { InterruptLine } from "../../core/device.ts";
import { FIRST_WORD, type RegisterFile, type Registers } from "../../core/registers.ts";

const ASSERTED = FIRST_WORD; // one bit a slot

/** A line that is up while any of its slots asserts it. */
export class SharedLine {
  readonly registers: Registers;
  private readonly line: InterruptLine;

  constructor(file: RegisterFile, line: InterruptLine) {
    this.registers = file.allocate(1);
    this.line = line;
  }

  /**
   * Asks a function again whether it asserts the line, and drives it. The question is asked under the line's lock, so
   * of two threads that changed their minds the later one has the last word.
   */
  update(slot: number, source: IntxSource): void {
    this.registers.lock();
    const words = this.registers.words;
    const before = words[ASSERTED];
    const after = source.intxAsserted() ? before | (1 << slot) : before & ~(1 << slot);
    words[ASSERTED] = after;
    if ((before !== 0) !== (after !== 0)) this.line.set(after !== 0 ? 1 : 0);
    this.registers.unlock();
  }
}

/** A function that may assert its line. */
export interface IntxSource {
  intxAsserted(): boolean;
}
