/** The real-time clock and its CMOS memory (Motorola MC146818A data sheet), at ports 70h and 71h. It tells UTC. */
import type { Clock } from "../core/clock.ts";
import type { BusDevice, InterruptLine, Reschedule, TimedDevice } from "../core/device.ts";
import { FIRST_WORD, type Registers } from "../core/registers.ts";

// Doubles.
const OFFSET = FIRST_WORD / 2; // milliseconds the guest's clock is ahead of the host's
const LAST_SECOND = OFFSET + 1; // the guest's second up to which alarms and updates were seen
const NEXT_PERIODIC = OFFSET + 2; // guest milliseconds of the next periodic interrupt; 0: none
const INDEX = 2 * (OFFSET + 3);
const LINE_LEVEL = INDEX + 1;
const RAM = INDEX + 2; // 128 words, a byte each

const SECONDS = 0x00;
const SECONDS_ALARM = 0x01;
const MINUTES = 0x02;
const MINUTES_ALARM = 0x03;
const HOURS = 0x04;
const HOURS_ALARM = 0x05;
const WEEKDAY = 0x06;
const DAY = 0x07;
const MONTH = 0x08;
const YEAR = 0x09;
const REG_A = 0x0a;
const REG_B = 0x0b;
const REG_C = 0x0c;
const REG_D = 0x0d;
/** Where the FADT's CENTURY field points. */
export const CMOS_CENTURY = 0x32;

const A_UIP = 0x80;
const B_SET = 0x80;
const B_PIE = 0x40;
const B_AIE = 0x20;
const B_UIE = 0x10;
const B_BINARY = 0x04;
const B_24_HOURS = 0x02;
const C_IRQF = 0x80;
const C_PF = 0x40;
const C_AF = 0x20;
const C_UF = 0x10;
const D_VALID = 0x80;
/** An alarm byte from C0h to FFh matches every time. */
const ANY = 0xc0;
/** Bit 7 of the hours in 12-hour mode. */
const PM = 0x80;

/** UIP is set 244 us before an update of up to 1984 us begins. */
const UPDATE_MILLISECONDS = 2.228;
const DAY_SECONDS = 86400;
/** No guest may make the I/O Worker tick more often than this. */
const MIN_SLEEP = 0.1;
/** What eight bytes of BCD or binary can say: years 0 to 9999. */
const MAX_TIME = 253402300799000;

/** Two ports: index and data. */
export class RtcCmos implements BusDevice, TimedDevice {
  static readonly WORDS = RAM + 128 - FIRST_WORD;

  readonly registers: Registers;
  private readonly words: Int32Array;
  private readonly doubles: Float64Array;
  private readonly line: InterruptLine;
  private readonly clock: Clock;
  private readonly reschedule: Reschedule;
  private readonly wallClock: () => number;
  // Only ever scratch: a Date is made once, since handlers allocate nothing.
  private readonly date = new Date(0);

  /**
   * @param line IRQ 8
   * @param wallClock milliseconds of UTC since 1970
   */
  constructor(
    registers: Registers,
    line: InterruptLine,
    clock: Clock,
    reschedule: Reschedule,
    wallClock: () => number = Date.now,
  ) {
    const { words } = registers;
    this.registers = registers;
    this.words = words;
    this.doubles = new Float64Array(words.buffer, words.byteOffset, words.length >> 1);
    this.line = line;
    this.clock = clock;
    this.reschedule = reschedule;
    this.wallClock = wallClock;
  }

  /** As firmware leaves it: the host's time, BCD, 24 hours, divider on the 32.768 kHz crystal. */
  reset(): void {
    this.words.fill(0, FIRST_WORD);
    this.words[RAM + REG_A] = 0x26;
    this.words[RAM + REG_B] = B_24_HOURS;
    this.words[RAM + REG_D] = D_VALID;
    this.doubles[LAST_SECOND] = this.second();
  }

  read(offset: number, _size: number): number {
    if ((offset & 1) === 0) return -1; // the index register is write-only
    const words = this.words;
    const index = words[INDEX];
    switch (index) {
      case REG_A: {
        const ahead = 1000 - this.milliseconds() % 1000;
        return words[RAM + REG_A] | (!this.frozen() && ahead < UPDATE_MILLISECONDS ? A_UIP : 0);
      }
      case REG_C: {
        this.advance();
        const flags = words[RAM + REG_C];
        words[RAM + REG_C] = 0;
        this.updateLine();
        return flags;
      }
      default:
        if (isTime(index) && !this.frozen()) this.refresh();
        return words[RAM + index];
    }
  }

  write(offset: number, _size: number, value: number): void {
    const words = this.words;
    const byte = value & 0xff;
    if ((offset & 1) === 0) {
      words[INDEX] = byte & 0x7f; // bit 7 masks NMI on a PC: there is none to mask
      return;
    }
    const index = words[INDEX];
    switch (index) {
      case REG_A:
        words[RAM + REG_A] = byte & 0x7f;
        this.restartPeriodic();
        break;
      case REG_B:
        this.writeB(byte);
        break;
      case REG_C:
      case REG_D:
        break;
      default:
        if (!isTime(index)) {
          words[RAM + index] = byte;
          if (index === SECONDS_ALARM || index === MINUTES_ALARM || index === HOURS_ALARM) this.reschedule.wake();
        } else if (this.frozen()) words[RAM + index] = byte;
        else {
          this.refresh();
          words[RAM + index] = byte;
          this.setTime();
        }
    }
  }

  private writeB(value: number): void {
    const words = this.words;
    const old = words[RAM + REG_B];
    this.advance();
    if ((value & ~old & B_SET) !== 0) this.refresh();
    // "SET ... UIE is cleared by it".
    words[RAM + REG_B] = (value & B_SET) !== 0 ? value & ~B_UIE : value;
    if ((old & ~value & B_SET) !== 0) this.setTime();
    this.restartPeriodic();
    this.updateLine();
  }

  // --- Time --------------------------------------------------------------------------------------------------------

  /** While SET holds the update cycle, the time bytes are memory. */
  private frozen(): boolean {
    return (this.words[RAM + REG_B] & B_SET) !== 0;
  }

  private milliseconds(): number {
    return Math.min(Math.max(this.wallClock() + this.doubles[OFFSET], 0), MAX_TIME);
  }

  private second(): number {
    return Math.floor(this.milliseconds() / 1000);
  }

  /** Puts the present into the time bytes. */
  private refresh(): void {
    const { words, date } = this;
    date.setTime(this.milliseconds());
    const year = date.getUTCFullYear();
    words[RAM + SECONDS] = this.encode(date.getUTCSeconds());
    words[RAM + MINUTES] = this.encode(date.getUTCMinutes());
    words[RAM + HOURS] = this.encodeHours(date.getUTCHours());
    words[RAM + WEEKDAY] = this.encode(date.getUTCDay() + 1);
    words[RAM + DAY] = this.encode(date.getUTCDate());
    words[RAM + MONTH] = this.encode(date.getUTCMonth() + 1);
    words[RAM + YEAR] = this.encode(year % 100);
    words[RAM + CMOS_CENTURY] = this.encode(Math.floor(year / 100));
  }

  /** Takes the time bytes for the present. */
  private setTime(): void {
    const { words, date } = this;
    const year = this.decode(words[RAM + CMOS_CENTURY]) * 100 + this.decode(words[RAM + YEAR]);
    date.setTime(0);
    // What is no date (month 13, day 40) carries over, as Date does it.
    date.setUTCFullYear(year, this.decode(words[RAM + MONTH]) - 1, this.decode(words[RAM + DAY]));
    date.setUTCHours(
      this.decodeHours(words[RAM + HOURS]),
      this.decode(words[RAM + MINUTES]),
      this.decode(words[RAM + SECONDS]),
      0,
    );
    this.doubles[OFFSET] = date.getTime() - this.wallClock();
    this.doubles[LAST_SECOND] = this.second();
    this.reschedule.wake();
  }

  private encode(value: number): number {
    return (this.words[RAM + REG_B] & B_BINARY) !== 0 ? value : (Math.floor(value / 10) << 4) | value % 10;
  }

  private decode(value: number): number {
    return (this.words[RAM + REG_B] & B_BINARY) !== 0 ? value : (value >> 4) * 10 + (value & 15);
  }

  private encodeHours(hours: number): number {
    if ((this.words[RAM + REG_B] & B_24_HOURS) !== 0) return this.encode(hours);
    return this.encode((hours + 11) % 12 + 1) | (hours >= 12 ? PM : 0);
  }

  private decodeHours(value: number): number {
    if ((this.words[RAM + REG_B] & B_24_HOURS) !== 0) return this.decode(value);
    return this.decode(value & 0x7f) % 12 + ((value & PM) !== 0 ? 12 : 0);
  }

  // --- Interrupts --------------------------------------------------------------------------------------------------

  /** Milliseconds between periodic interrupts, by RS (table 5, 32.768 kHz time base); 0: none. */
  private period(): number {
    const rate = this.words[RAM + REG_A] & 15;
    if (rate === 0) return 0;
    return 1000 * (1 << (rate < 3 ? rate + 6 : rate - 1)) / 32768;
  }

  private restartPeriodic(): void {
    const period = (this.words[RAM + REG_B] & B_PIE) !== 0 ? this.period() : 0;
    const running = this.doubles[NEXT_PERIODIC] !== 0;
    if (period === 0) this.doubles[NEXT_PERIODIC] = 0;
    else if (!running || this.doubles[NEXT_PERIODIC] > this.clock.now() + period) {
      this.doubles[NEXT_PERIODIC] = this.clock.now() + period;
    }
    this.reschedule.wake();
  }

  /** Sets the flags of what has happened since the last call. */
  private advance(): void {
    const words = this.words;
    const periodic = this.doubles[NEXT_PERIODIC];
    const now = this.clock.now();
    if (periodic !== 0 && now >= periodic) {
      const period = this.period();
      words[RAM + REG_C] |= C_PF;
      this.doubles[NEXT_PERIODIC] = periodic + (Math.floor((now - periodic) / period) + 1) * period;
    }
    const second = this.second();
    const last = this.doubles[LAST_SECOND];
    if (second === last) return;
    this.doubles[LAST_SECOND] = second;
    // The host's clock may have been set back: nothing is due then.
    if (second < last || this.frozen()) return;
    words[RAM + REG_C] |= C_UF;
    if (this.alarmBetween(Math.max(last, second - DAY_SECONDS), second)) words[RAM + REG_C] |= C_AF;
  }

  /** Whether the alarm bytes match a second after `last` and up to `second`. */
  private alarmBetween(last: number, second: number): boolean {
    const words = this.words;
    const alarmSecond = words[RAM + SECONDS_ALARM];
    const alarmMinute = words[RAM + MINUTES_ALARM];
    const alarmHour = words[RAM + HOURS_ALARM];
    for (let s = last + 1; s <= second; s++) {
      const time = s % DAY_SECONDS;
      if (alarmSecond < ANY && alarmSecond !== this.encode(time % 60)) continue;
      if (alarmMinute < ANY && alarmMinute !== this.encode(Math.floor(time / 60) % 60)) continue;
      if (alarmHour >= ANY || alarmHour === this.encodeHours(Math.floor(time / 3600))) return true;
    }
    return false;
  }

  private updateLine(): void {
    const words = this.words;
    // PIE, AIE and UIE stand where PF, AF and UF do.
    const active = (words[RAM + REG_C] & words[RAM + REG_B] & (C_PF | C_AF | C_UF)) !== 0;
    words[RAM + REG_C] = (words[RAM + REG_C] & ~C_IRQF) | (active ? C_IRQF : 0);
    const level = active ? 1 : 0;
    if (level === words[LINE_LEVEL]) return;
    words[LINE_LEVEL] = level;
    this.line.set(level);
  }

  tick(): number {
    this.advance();
    this.updateLine();
    let next = -1;
    if ((this.words[RAM + REG_B] & (B_UIE | B_AIE)) !== 0 && !this.frozen()) {
      next = 1000 - this.milliseconds() % 1000;
    }
    const periodic = this.doubles[NEXT_PERIODIC];
    if (periodic !== 0) {
      const wait = periodic - this.clock.now();
      if (next < 0 || wait < next) next = wait;
    }
    return next < 0 ? -1 : Math.max(next, MIN_SLEEP);
  }
}

function isTime(index: number): boolean {
  return index === SECONDS || index === MINUTES || index === HOURS || (index >= WEEKDAY && index <= YEAR) ||
    index === CMOS_CENTURY;
}
