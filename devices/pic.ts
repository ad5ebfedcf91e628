/** A pair of 8259A interrupt controllers with the edge/level registers of a PC chipset (Intel 8259A data sheet 231468). */
import type { BusDevice, InterruptLine } from "../core/device.ts";
import { FIRST_WORD, type Registers } from "../core/registers.ts";
import type { InterruptAcknowledger } from "./apic_bus.ts";

// Words of one chip; the primary's begin at FIRST_WORD, the secondary's CHIP_WORDS later.
const IRR = 0;
const ISR = 1;
const IMR = 2;
const LINES = 3; // levels of the input lines
const ELCR = 4; // 1: level-triggered
const BASE = 5; // vector of input 0, from ICW2
const INIT_STEP = 6; // the ICW expected next at port 1: 2, 3, 4; 0 when initialized
const NEEDS_ICW4 = 7;
const AUTO_EOI = 8;
const ROTATE_ON_AUTO_EOI = 9;
const SPECIAL_NESTED = 10;
const SPECIAL_MASK = 11;
const LOWEST = 12; // input of the lowest priority
const READ_ISR = 13;
const POLL = 14;
const CHIP_WORDS = 15;

const PRIMARY = FIRST_WORD;
const SECONDARY = FIRST_WORD + CHIP_WORDS;
const OUTPUT = FIRST_WORD + 2 * CHIP_WORDS;

/** The secondary's output is the primary's input 2. */
const CASCADE = 2;
/** ELCR bits that can be set: never the timer, the keyboard, the cascade, the clock and the coprocessor. */
const PRIMARY_ELCR_MASK = 0xf8;
const SECONDARY_ELCR_MASK = 0xde;

/**
 * The pair. Inputs latch on a rising edge and stay latched until acknowledged (or follow the line where ELCR says so);
 * on the chip an edge's line must stay high until then (IR7 otherwise), which devices that pulse could not promise.
 */
export class Pic implements InterruptAcknowledger {
  static readonly WORDS = 2 * CHIP_WORDS + 1;

  readonly registers: Registers;
  /** Ports 20h, 21h. */
  readonly primary: BusDevice;
  /** Ports A0h, A1h. */
  readonly secondary: BusDevice;
  /** Ports 4D0h, 4D1h. */
  readonly elcr: BusDevice;
  private readonly words: Int32Array;
  private readonly output: InterruptLine;

  /** @param output INTR */
  constructor(registers: Registers, output: InterruptLine) {
    this.registers = registers;
    this.words = registers.words;
    this.output = output;
    this.primary = new ChipPorts(this, PRIMARY);
    this.secondary = new ChipPorts(this, SECONDARY);
    this.elcr = new ElcrPorts(this);
  }

  /** All inputs masked, until the guest initializes the chips. */
  reset(): void {
    this.words.fill(0, FIRST_WORD);
    for (const chip of [PRIMARY, SECONDARY]) {
      this.words[chip + IMR] = 0xff;
      this.words[chip + LOWEST] = 7;
    }
  }

  /** Drives one of the 16 lines, from any thread; the cascade's (2) is not to be had. */
  setLine(irq: number, level: number): void {
    if (irq < 0 || irq > 15 || irq === CASCADE) return;
    this.registers.lock();
    this.setInput(irq < 8 ? PRIMARY : SECONDARY, irq & 7, level);
    this.update();
    this.registers.unlock();
  }

  acknowledge(): number {
    this.registers.lock();
    const words = this.words;
    let vector = -1;
    let input = this.highest(PRIMARY);
    if (input >= 0) {
      let chip = PRIMARY;
      this.take(PRIMARY, input);
      if (input === CASCADE) {
        chip = SECONDARY;
        input = this.highest(SECONDARY);
        if (input >= 0) this.take(SECONDARY, input);
        else input = 7; // "Interrupt Sequence": a request that went away is answered as IR7
      }
      vector = words[chip + BASE] | input;
    }
    this.update();
    this.registers.unlock();
    return vector;
  }

  private setInput(chip: number, input: number, level: number): void {
    const words = this.words;
    const bit = 1 << input;
    const rose = level !== 0 && (words[chip + LINES] & bit) === 0;
    if (level !== 0) words[chip + LINES] |= bit;
    else words[chip + LINES] &= ~bit;
    if ((words[chip + ELCR] & bit) !== 0) {
      if (level !== 0) words[chip + IRR] |= bit;
      else words[chip + IRR] &= ~bit;
    } else if (rose) words[chip + IRR] |= bit;
  }

  /** The request to be served next, or -1 ("Fully Nested Mode", "Special Mask Mode"). */
  private highest(chip: number): number {
    const words = this.words;
    const requests = words[chip + IRR] & ~words[chip + IMR];
    if (requests === 0) return -1;
    let inService = words[chip + ISR];
    if (words[chip + SPECIAL_MASK] !== 0) inService &= ~words[chip + IMR];
    // Special fully nested: a further request of the secondary passes the cascade's own ISR bit.
    if (words[chip + SPECIAL_NESTED] !== 0 && chip === PRIMARY) inService &= ~(1 << CASCADE);
    for (let i = 1; i <= 8; i++) {
      const input = (words[chip + LOWEST] + i) & 7;
      if ((inService & (1 << input)) !== 0) return -1;
      if ((requests & (1 << input)) !== 0) return input;
    }
    return -1;
  }

  /** Moves a request to service. */
  private take(chip: number, input: number): void {
    const words = this.words;
    const bit = 1 << input;
    if ((words[chip + ELCR] & bit) === 0) words[chip + IRR] &= ~bit;
    if (words[chip + AUTO_EOI] === 0) words[chip + ISR] |= bit;
    else if (words[chip + ROTATE_ON_AUTO_EOI] !== 0) words[chip + LOWEST] = input;
  }

  /** Brings the cascade and INTR up to date. */
  update(): void {
    const words = this.words;
    // The cascade's request follows the secondary's output.
    if (this.highest(SECONDARY) >= 0) words[PRIMARY + IRR] |= 1 << CASCADE;
    else words[PRIMARY + IRR] &= ~(1 << CASCADE);
    const output = this.highest(PRIMARY) >= 0 ? 1 : 0;
    if (words[OUTPUT] !== output) {
      words[OUTPUT] = output;
      this.output.set(output);
    }
  }

  readPort(chip: number, offset: number): number {
    const words = this.words;
    if (words[chip + POLL] !== 0) {
      // "Poll Command": the next read is the acknowledge.
      words[chip + POLL] = 0;
      const input = this.highest(chip);
      if (input < 0) return 0;
      this.take(chip, input);
      this.update();
      return 0x80 | input;
    }
    if (offset === 1) return words[chip + IMR];
    return words[chip + READ_ISR] !== 0 ? words[chip + ISR] : words[chip + IRR];
  }

  writePort(chip: number, offset: number, value: number): void {
    if (offset === 1) this.writeData(chip, value);
    else if ((value & 0x10) !== 0) this.writeIcw1(chip, value);
    else if ((value & 0x08) !== 0) this.writeOcw3(chip, value);
    else this.writeOcw2(chip, value);
    this.update();
  }

  /** "Initialization Command Words 1 and 2". */
  private writeIcw1(chip: number, value: number): void {
    const words = this.words;
    const { [chip + LINES]: lines, [chip + ELCR]: elcr } = words;
    words.fill(0, chip, chip + CHIP_WORDS);
    words[chip + LINES] = lines;
    words[chip + ELCR] = elcr;
    words[chip + IRR] = lines & elcr;
    words[chip + LOWEST] = 7;
    words[chip + INIT_STEP] = 2;
    words[chip + NEEDS_ICW4] = value & 1;
  }

  private writeData(chip: number, value: number): void {
    const words = this.words;
    switch (words[chip + INIT_STEP]) {
      case 2:
        words[chip + BASE] = value & 0xf8;
        words[chip + INIT_STEP] = 3;
        break;
      case 3: // the wiring is the PC's, whatever ICW3 says
        words[chip + INIT_STEP] = words[chip + NEEDS_ICW4] !== 0 ? 4 : 0;
        break;
      case 4:
        words[chip + AUTO_EOI] = value & 2;
        words[chip + SPECIAL_NESTED] = value & 0x10;
        words[chip + INIT_STEP] = 0;
        break;
      default:
        words[chip + IMR] = value & 0xff;
    }
  }

  /** End of interrupt and rotation ("Operation Command Word 2"). */
  private writeOcw2(chip: number, value: number): void {
    const words = this.words;
    const command = (value >> 5) & 7;
    const level = value & 7;
    switch (command) {
      case 0:
      case 4:
        words[chip + ROTATE_ON_AUTO_EOI] = command;
        break;
      case 1:
      case 5: {
        const input = this.highestInService(chip);
        if (input < 0) break;
        words[chip + ISR] &= ~(1 << input);
        if (command === 5) words[chip + LOWEST] = input;
        break;
      }
      case 3:
      case 7:
        words[chip + ISR] &= ~(1 << level);
        if (command === 7) words[chip + LOWEST] = level;
        break;
      case 6:
        words[chip + LOWEST] = level;
        break;
    }
  }

  private highestInService(chip: number): number {
    const words = this.words;
    let inService = words[chip + ISR];
    // A non-specific EOI does not clear a bit that its mask hides in special mask mode ("End of Interrupt").
    if (words[chip + SPECIAL_MASK] !== 0) inService &= ~words[chip + IMR];
    for (let i = 1; i <= 8; i++) {
      const input = (words[chip + LOWEST] + i) & 7;
      if ((inService & (1 << input)) !== 0) return input;
    }
    return -1;
  }

  private writeOcw3(chip: number, value: number): void {
    const words = this.words;
    if ((value & 0x40) !== 0) words[chip + SPECIAL_MASK] = value & 0x20;
    if ((value & 0x04) !== 0) words[chip + POLL] = 1;
    else if ((value & 0x02) !== 0) words[chip + READ_ISR] = value & 1;
  }

  readElcr(offset: number): number {
    return this.words[(offset === 0 ? PRIMARY : SECONDARY) + ELCR];
  }

  writeElcr(offset: number, value: number): void {
    const words = this.words;
    const chip = offset === 0 ? PRIMARY : SECONDARY;
    const elcr = value & (offset === 0 ? PRIMARY_ELCR_MASK : SECONDARY_ELCR_MASK);
    words[chip + ELCR] = elcr;
    words[chip + IRR] = (words[chip + IRR] & ~elcr) | (words[chip + LINES] & elcr);
    this.update();
  }
}

class ChipPorts implements BusDevice {
  readonly registers: Registers;

  constructor(private readonly pic: Pic, private readonly chip: number) {
    this.registers = pic.registers;
  }
  read(offset: number, _size: number): number {
    return this.pic.readPort(this.chip, offset & 1);
  }
  write(offset: number, _size: number, value: number): void {
    this.pic.writePort(this.chip, offset & 1, value & 0xff);
  }
}

class ElcrPorts implements BusDevice {
  readonly registers: Registers;

  constructor(private readonly pic: Pic) {
    this.registers = pic.registers;
  }
  read(offset: number, _size: number): number {
    return this.pic.readElcr(offset & 1);
  }
  write(offset: number, _size: number, value: number): void {
    this.pic.writeElcr(offset & 1, value & 0xff);
  }
}
