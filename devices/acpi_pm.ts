/** ACPI's fixed hardware: PM1 event and control, PM timer, GPE0 (ACPI 6.5, 4.8.3 and 4.8.4). */
import type { Clock } from "../core/clock.ts";
import type { BusDevice, InterruptLine, MachineEvents, Reschedule, TimedDevice } from "../core/device.ts";
import { FIRST_WORD, type Registers } from "../core/registers.ts";

/** Where the register blocks begin in the device's {@link AcpiPm.SIZE} ports: for the FADT. */
export const AcpiPmOffset = { EVENT: 0x00, CONTROL: 0x04, TIMER: 0x08, GPE0: 0x20 } as const;
/** SLP_TYP of the soft-off state: the first two values of the DSDT's `\_S5` package. */
export const SLEEP_TYPE_S5 = 5;

/** 4.8.2.1: 3.579545 MHz. */
const TICKS_PER_MILLISECOND = 3579.545;
const TWO_31 = 0x8000_0000;

const TIMER_SEEN = FIRST_WORD / 2; // a double: halves of the timer's range that have passed
const STATUS = FIRST_WORD + 2;
const ENABLE = FIRST_WORD + 3;
const CONTROL = FIRST_WORD + 4;
const GPE_STATUS = FIRST_WORD + 5;
const GPE_ENABLE = FIRST_WORD + 6;
const SCI_LEVEL = FIRST_WORD + 7;

// Tables 4.13 and 4.14.
const TMR = 1 << 0;
const GBL = 1 << 5;
const PWRBTN = 1 << 8;
const SLPBTN = 1 << 9;
const RTC = 1 << 10;
const WAK = 1 << 15;
const STATUS_BITS = TMR | (1 << 4) | GBL | PWRBTN | SLPBTN | RTC | WAK;
const ENABLE_BITS = TMR | GBL | PWRBTN | SLPBTN | RTC;
// Table 4.15.
const SCI_EN = 1 << 0;
const SLP_TYP_SHIFT = 10;
const SLP_EN = 1 << 13;
const CONTROL_WRITABLE = (1 << 1) | (7 << SLP_TYP_SHIFT);
const GPE_BITS = 0xffff;

/** Map it at PM1a_EVT_BLK. There is no SMI_CMD: the machine is always in ACPI mode (4.8.2.5). */
export class AcpiPm implements BusDevice, TimedDevice {
  static readonly WORDS = 8;
  static readonly SIZE = 0x24;

  readonly registers: Registers;
  private readonly words: Int32Array;
  private readonly doubles: Float64Array;
  private readonly sci: InterruptLine;
  private readonly clock: Clock;
  private readonly reschedule: Reschedule;
  private readonly events: MachineEvents;

  /** @param sci the system control interrupt, level-triggered */
  constructor(
    registers: Registers,
    sci: InterruptLine,
    clock: Clock,
    reschedule: Reschedule,
    events: MachineEvents,
  ) {
    const { words } = registers;
    this.registers = registers;
    this.words = words;
    this.doubles = new Float64Array(words.buffer, words.byteOffset, words.length >> 1);
    this.sci = sci;
    this.clock = clock;
    this.reschedule = reschedule;
    this.events = events;
  }

  reset(): void {
    this.words.fill(0, FIRST_WORD);
    this.words[CONTROL] = SCI_EN;
    this.doubles[TIMER_SEEN] = this.halves();
  }

  /** The person presses the power button. Call it with the lock held. */
  pressPowerButton(): void {
    this.words[STATUS] |= PWRBTN;
    this.update();
  }

  /** A general-purpose event (0 to 15) happens. Call it with the lock held. */
  raiseEvent(event: number): void {
    this.words[GPE_STATUS] |= (1 << event) & GPE_BITS;
    this.update();
  }

  read(offset: number, size: number): number {
    let value = 0;
    for (let i = 0; i < size; i++) value |= this.readByte(offset + i) << (8 * i);
    return value;
  }

  private readByte(offset: number): number {
    const words = this.words;
    if (offset < 0x02) {
      this.advanceTimer();
      return (words[STATUS] >> (8 * offset)) & 0xff;
    }
    if (offset < 0x04) return (words[ENABLE] >> (8 * (offset - 2))) & 0xff;
    if (offset < 0x06) return (words[CONTROL] >> (8 * (offset - 4))) & 0xff;
    if (offset < 0x08) return 0;
    if (offset < 0x0c) return (this.timer() >> (8 * (offset - 8))) & 0xff;
    if (offset < 0x20) return 0;
    if (offset < 0x22) return (words[GPE_STATUS] >> (8 * (offset - 0x20))) & 0xff;
    return offset < 0x24 ? (words[GPE_ENABLE] >> (8 * (offset - 0x22))) & 0xff : 0;
  }

  write(offset: number, size: number, value: number): void {
    if (offset === AcpiPmOffset.CONTROL && size >= 2) {
      this.writeControl(value & 0xffff);
      return;
    }
    for (let i = 0; i < size; i++) this.writeByte(offset + i, (value >>> (8 * i)) & 0xff);
    this.update();
    this.reschedule.wake();
  }

  private writeByte(offset: number, byte: number): void {
    const words = this.words;
    if (offset < 0x02) {
      this.advanceTimer();
      words[STATUS] &= ~(byte << (8 * offset)); // 4.8.3.1.1: writing a one clears
    } else if (offset < 0x04) words[ENABLE] = replaceByte(words[ENABLE], offset - 2, byte) & ENABLE_BITS;
    else if (offset < 0x06) this.writeControl(replaceByte(words[CONTROL], offset - 4, byte));
    else if (offset === 0x20 || offset === 0x21) words[GPE_STATUS] &= ~(byte << (8 * (offset - 0x20)));
    else if (offset === 0x22 || offset === 0x23) {
      words[GPE_ENABLE] = replaceByte(words[GPE_ENABLE], offset - 0x22, byte) & GPE_BITS;
    }
  }

  private writeControl(value: number): void {
    this.words[CONTROL] = (value & CONTROL_WRITABLE) | SCI_EN;
    if ((value & SLP_EN) !== 0 && ((value >> SLP_TYP_SHIFT) & 7) === SLEEP_TYPE_S5) this.events.powerOff();
  }

  private timer(): number {
    return (Math.floor(this.clock.now() * TICKS_PER_MILLISECOND) % (2 * TWO_31)) | 0;
  }

  private halves(): number {
    return Math.floor(this.clock.now() * TICKS_PER_MILLISECOND / TWO_31);
  }

  /** TMR_STS is set whenever the timer's most significant bit changes (4.8.3.1.1). */
  private advanceTimer(): void {
    const halves = this.halves();
    if (halves === this.doubles[TIMER_SEEN]) return;
    this.doubles[TIMER_SEEN] = halves;
    this.words[STATUS] |= TMR;
  }

  private update(): void {
    const words = this.words;
    words[STATUS] &= STATUS_BITS;
    const level = (words[STATUS] & words[ENABLE]) !== 0 || (words[GPE_STATUS] & words[GPE_ENABLE]) !== 0 ? 1 : 0;
    if (level === words[SCI_LEVEL]) return;
    words[SCI_LEVEL] = level;
    this.sci.set(level);
  }

  tick(): number {
    this.advanceTimer();
    this.update();
    if ((this.words[ENABLE] & TMR) === 0) return -1;
    return Math.max((this.halves() + 1) * TWO_31 / TICKS_PER_MILLISECOND - this.clock.now(), 1);
  }
}

function replaceByte(word: number, index: number, byte: number): number {
  return (word & ~(0xff << (8 * index))) | (byte << (8 * index));
}
