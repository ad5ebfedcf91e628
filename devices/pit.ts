/** The 8254 interval timer with port 61h (Intel 8254 data sheet 231164). Counting is arithmetic over the guest's time. */
import type { Clock } from "../core/clock.ts";
import type { BusDevice, InterruptLine, Reschedule, TimedDevice } from "../core/device.ts";
import { FIRST_WORD, type Registers } from "../core/registers.ts";

/** Input clock of a PC's 8254: the 14.31818 MHz crystal divided by 12. */
export const PIT_FREQUENCY = 14_318_180 / 12;
const TICKS_PER_MILLISECOND = PIT_FREQUENCY / 1000;
/** The refresh toggle of port 61h, bit 4: once in 15 us (channel 1 divides by 18). */
const REFRESH_TICKS = 18;
/** No guest may make the I/O Worker tick more often than this. */
const MIN_SLEEP = 0.1;
/** Of periods that passed unseen, so many are made up for. */
const MAX_LATE_PERIODS = 100;

// Doubles of one channel, in ticks of the input clock.
const START = 0; // when the present count was loaded; while paused: ticks counted so far
const BOUNDARY = 1; // end of the period after which NEXT_COUNT is used
const CHANNEL_DOUBLES = 2;
// Words of one channel.
const COUNT = 0; // 1 to 65536
const NEXT_COUNT = 1; // written while a periodic mode counts; 0: none
const MODE = 2; // 0 to 5
const ACCESS = 3; // 1 low byte, 2 high byte, 3 low then high
const BCD = 4;
const COUNTING = 5;
const GATE = 6;
const WRITE_HIGH = 7; // the next byte written is the high one
const WRITE_LOW = 8; // low byte written first
const READ_HIGH = 9;
const LATCHED = 10; // bytes of the latched count still to be read
const LATCH = 11;
const STATUS_LATCHED = 12;
const STATUS = 13;
const CHANNEL_WORDS = 14;

const NEXT_IRQ_DOUBLE = FIRST_WORD / 2; // tick of channel 0's next rising OUT; 0: none
const DOUBLES = NEXT_IRQ_DOUBLE + 1;
const CHANNELS = 2 * (DOUBLES + 3 * CHANNEL_DOUBLES);
const SPEAKER = CHANNELS + 3 * CHANNEL_WORDS; // bits 0-3 of port 61h as written

/** Three counters. Channel 0 drives IRQ 0; channel 2's gate and output are in port 61h. */
export class Pit implements BusDevice, TimedDevice {
  static readonly WORDS = SPEAKER + 1 - FIRST_WORD;

  /** Ports 40h to 43h are this object; this is port 61h. */
  readonly control: BusDevice;
  readonly registers: Registers;
  private readonly words: Int32Array;
  private readonly doubles: Float64Array;
  private readonly line: InterruptLine;
  private readonly clock: Clock;
  private readonly reschedule: Reschedule;

  /** @param line IRQ 0 */
  constructor(registers: Registers, line: InterruptLine, clock: Clock, reschedule: Reschedule) {
    const { words } = registers;
    this.registers = registers;
    this.words = words;
    this.doubles = new Float64Array(words.buffer, words.byteOffset, words.length >> 1);
    this.line = line;
    this.clock = clock;
    this.reschedule = reschedule;
    this.control = new ControlPort(this);
  }

  /** No channel counts; gates of channels 0 and 1 are wired high. */
  reset(): void {
    const words = this.words;
    words.fill(0, FIRST_WORD);
    for (let channel = 0; channel < 3; channel++) {
      const c = CHANNELS + channel * CHANNEL_WORDS;
      words[c + COUNT] = 65536;
      words[c + ACCESS] = 3;
      words[c + GATE] = channel < 2 ? 1 : 0;
    }
  }

  read(offset: number, _size: number): number {
    const channel = offset & 3;
    if (channel === 3) return -1; // "there is no read operation of the control word register"
    const words = this.words;
    const c = CHANNELS + channel * CHANNEL_WORDS;
    if (words[c + STATUS_LATCHED] !== 0) {
      words[c + STATUS_LATCHED] = 0;
      return words[c + STATUS];
    }
    if (words[c + LATCHED] !== 0) {
      const left = --words[c + LATCHED];
      const high = words[c + ACCESS] === 2 || (words[c + ACCESS] === 3 && left === 0);
      return high ? words[c + LATCH] >> 8 : words[c + LATCH] & 0xff;
    }
    const count = this.count(channel);
    let high = words[c + ACCESS] === 2;
    if (words[c + ACCESS] === 3) {
      high = words[c + READ_HIGH] !== 0;
      words[c + READ_HIGH] ^= 1;
    }
    return high ? count >> 8 : count & 0xff;
  }

  write(offset: number, _size: number, value: number): void {
    const channel = offset & 3;
    const byte = value & 0xff;
    if (channel === 3) {
      this.writeControl(byte);
      return;
    }
    const words = this.words;
    const c = CHANNELS + channel * CHANNEL_WORDS;
    switch (words[c + ACCESS]) {
      case 1:
        this.load(channel, byte);
        break;
      case 2:
        this.load(channel, byte << 8);
        break;
      default:
        if (words[c + WRITE_HIGH] === 0) {
          words[c + WRITE_LOW] = byte;
          words[c + WRITE_HIGH] = 1;
          // Mode 0: "writing the first byte disables counting; OUT is set low immediately".
          if (words[c + MODE] === 0) {
            words[c + COUNTING] = 0;
            if (channel === 0) this.output(0);
          }
        } else {
          words[c + WRITE_HIGH] = 0;
          this.load(channel, words[c + WRITE_LOW] | (byte << 8));
        }
    }
  }

  private writeControl(value: number): void {
    const channel = value >> 6;
    if (channel === 3) {
      this.readBack(value);
      return;
    }
    const words = this.words;
    const c = CHANNELS + channel * CHANNEL_WORDS;
    const access = (value >> 4) & 3;
    if (access === 0) {
      this.latchCount(channel);
      return;
    }
    const mode = (value >> 1) & 7;
    words[c + MODE] = mode > 5 ? mode & 3 : mode; // "X10 is mode 2, X11 is mode 3"
    words[c + ACCESS] = access;
    words[c + BCD] = value & 1;
    words[c + COUNTING] = 0;
    words[c + NEXT_COUNT] = 0;
    words[c + WRITE_HIGH] = 0;
    words[c + READ_HIGH] = 0;
    words[c + LATCHED] = 0;
    words[c + STATUS_LATCHED] = 0;
    if (channel === 0) this.output(mode === 0 ? 0 : 1);
  }

  /** "Read-Back Command": bit 5 clear latches counts, bit 4 clear latches status, of the channels in bits 3 to 1. */
  private readBack(value: number): void {
    const words = this.words;
    for (let channel = 0; channel < 3; channel++) {
      if ((value & (2 << channel)) === 0) continue;
      if ((value & 0x20) === 0) this.latchCount(channel);
      const c = CHANNELS + channel * CHANNEL_WORDS;
      if ((value & 0x10) !== 0 || words[c + STATUS_LATCHED] !== 0) continue;
      const out = this.out(channel);
      const nullCount = words[c + COUNTING] === 0 || words[c + NEXT_COUNT] !== 0 ? 1 : 0;
      words[c + STATUS] = (out << 7) | (nullCount << 6) | (words[c + ACCESS] << 4) | (words[c + MODE] << 1) |
        words[c + BCD];
      words[c + STATUS_LATCHED] = 1;
    }
  }

  private latchCount(channel: number): void {
    const words = this.words;
    const c = CHANNELS + channel * CHANNEL_WORDS;
    if (words[c + LATCHED] !== 0) return; // held until it is read
    words[c + LATCH] = this.count(channel);
    words[c + LATCHED] = words[c + ACCESS] === 3 ? 2 : 1;
  }

  /** A whole count was written. */
  private load(channel: number, raw: number): void {
    const words = this.words;
    const c = CHANNELS + channel * CHANNEL_WORDS;
    const d = DOUBLES + channel * CHANNEL_DOUBLES;
    const modulus = words[c + BCD] !== 0 ? 10000 : 65536;
    const binary = words[c + BCD] !== 0 ? fromBcd(raw) : raw;
    const count = binary === 0 ? modulus : binary;
    const now = this.ticks();
    this.advance(channel, now);
    switch (words[c + MODE]) {
      case 2:
      case 3:
        if (words[c + COUNTING] !== 0 && words[c + GATE] !== 0) {
          // "A new count does not affect the current counting sequence": it is loaded at the end of the period.
          if (words[c + NEXT_COUNT] === 0) this.doubles[d + BOUNDARY] = this.periodEnd(channel, now);
          words[c + NEXT_COUNT] = count;
          return;
        }
        words[c + COUNT] = count;
        words[c + COUNTING] = 1;
        this.doubles[d + START] = words[c + GATE] !== 0 ? now : 0;
        break;
      case 1:
      case 5: // a rising gate starts these, and takes over a new count
        words[c + NEXT_COUNT] = count;
        this.doubles[d + BOUNDARY] = Infinity;
        return;
      default:
        words[c + COUNT] = count;
        words[c + COUNTING] = 1;
        this.doubles[d + START] = words[c + GATE] !== 0 ? now : 0;
    }
    if (channel === 0) this.schedule(now);
  }

  /** Works out channel 0's next rising OUT and lets the I/O Worker know. */
  private schedule(now: number): void {
    const words = this.words;
    const start = this.doubles[DOUBLES + START];
    const count = words[CHANNELS + COUNT];
    switch (words[CHANNELS + MODE]) {
      case 0:
        this.line.set(0);
        this.doubles[NEXT_IRQ_DOUBLE] = start + count;
        break;
      case 2:
      case 3:
        this.doubles[NEXT_IRQ_DOUBLE] = this.periodEnd(0, now);
        break;
      case 4:
        this.doubles[NEXT_IRQ_DOUBLE] = start + count + 1; // OUT strobes low for one clock
        break;
      default:
        this.doubles[NEXT_IRQ_DOUBLE] = 0;
    }
    this.reschedule.wake();
  }

  /** Channel 0's OUT was set by a control word; it then waits for a count. */
  private output(level: number): void {
    this.doubles[NEXT_IRQ_DOUBLE] = 0;
    if (level === 0) this.line.set(0);
  }

  tick(): number {
    const next = this.doubles[NEXT_IRQ_DOUBLE];
    if (next === 0) return -1;
    const now = this.ticks();
    this.advance(0, now);
    if (now >= next) {
      const mode = this.words[CHANNELS + MODE];
      const after = mode === 2 || mode === 3 ? this.periodEnd(0, now) : 0;
      // An edge for each period that passed unseen: the interrupt controller knows whether they can be told apart.
      const periods = after === 0 ? 1 : Math.max(Math.round((after - next) / this.words[CHANNELS + COUNT]), 1);
      for (let i = Math.min(periods, MAX_LATE_PERIODS); i > 0; i--) {
        this.line.set(0);
        this.line.set(1);
      }
      this.doubles[NEXT_IRQ_DOUBLE] = after;
      if (after === 0) return -1;
    }
    return Math.max((this.doubles[NEXT_IRQ_DOUBLE] - now) / TICKS_PER_MILLISECOND, MIN_SLEEP);
  }

  private ticks(): number {
    return Math.floor(this.clock.now() * TICKS_PER_MILLISECOND);
  }

  /** Ticks since the count was loaded. */
  private elapsed(channel: number, now: number): number {
    const c = CHANNELS + channel * CHANNEL_WORDS;
    const start = this.doubles[DOUBLES + channel * CHANNEL_DOUBLES + START];
    const mode = this.words[c + MODE];
    const paused = this.words[c + GATE] === 0 && mode !== 1 && mode !== 5;
    return paused ? start : Math.max(now - start, 0);
  }

  private periodEnd(channel: number, now: number): number {
    const count = this.words[CHANNELS + channel * CHANNEL_WORDS + COUNT];
    const start = this.doubles[DOUBLES + channel * CHANNEL_DOUBLES + START];
    return start + (Math.floor((now - start) / count) + 1) * count;
  }

  /** Takes over a count that waited for its period's end. */
  private advance(channel: number, now: number): void {
    const words = this.words;
    const c = CHANNELS + channel * CHANNEL_WORDS;
    const d = DOUBLES + channel * CHANNEL_DOUBLES;
    if (words[c + NEXT_COUNT] === 0 || now < this.doubles[d + BOUNDARY]) return;
    this.doubles[d + START] = this.doubles[d + BOUNDARY];
    words[c + COUNT] = words[c + NEXT_COUNT];
    words[c + NEXT_COUNT] = 0;
  }

  /** The counting element's value, as it is read. */
  private count(channel: number): number {
    const words = this.words;
    const c = CHANNELS + channel * CHANNEL_WORDS;
    const now = this.ticks();
    this.advance(channel, now);
    const modulus = words[c + BCD] !== 0 ? 10000 : 65536;
    const count = words[c + COUNT];
    let value = count;
    if (words[c + COUNTING] !== 0) {
      const elapsed = this.elapsed(channel, now);
      switch (words[c + MODE]) {
        case 2:
          value = count - elapsed % count;
          break;
        case 3:
          value = count - (2 * elapsed) % count; // counts by two, twice a period
          value &= ~1;
          break;
        default:
          value = modulus + (count - elapsed) % modulus;
      }
    }
    value %= modulus;
    return words[c + BCD] !== 0 ? toBcd(value) : value;
  }

  /** Level of OUT. */
  private out(channel: number): number {
    const words = this.words;
    const c = CHANNELS + channel * CHANNEL_WORDS;
    const mode = words[c + MODE];
    if (words[c + COUNTING] === 0) return mode === 0 ? 0 : 1;
    const now = this.ticks();
    this.advance(channel, now);
    const elapsed = this.elapsed(channel, now);
    const count = words[c + COUNT];
    switch (mode) {
      case 0:
      case 1:
        return elapsed >= count ? 1 : 0;
      case 2:
        return words[c + GATE] === 0 || elapsed % count !== count - 1 ? 1 : 0;
      case 3:
        return words[c + GATE] === 0 || elapsed % count < (count + 1) >> 1 ? 1 : 0;
      default:
        return elapsed === count ? 0 : 1;
    }
  }

  readControl(): number {
    const refresh = Math.floor(this.ticks() / REFRESH_TICKS) & 1;
    return this.words[SPEAKER] | (refresh << 4) | (this.out(2) << 5);
  }

  writeControlPort(value: number): void {
    this.words[SPEAKER] = value & 0x0f;
    this.setGate(2, value & 1);
  }

  private setGate(channel: number, level: number): void {
    const words = this.words;
    const c = CHANNELS + channel * CHANNEL_WORDS;
    const d = DOUBLES + channel * CHANNEL_DOUBLES;
    if (words[c + GATE] === level) return;
    const now = this.ticks();
    this.advance(channel, now);
    switch (words[c + MODE]) {
      case 0:
      case 4: // low pauses
        this.doubles[d + START] = level !== 0 ? now - this.doubles[d + START] : this.elapsed(channel, now);
        break;
      case 2:
      case 3: // a rising gate begins the period anew
        this.takeNextCount(c, level);
        this.doubles[d + START] = level !== 0 ? now : this.elapsed(channel, now);
        break;
      default: // a rising gate triggers, a low one does nothing
        if (level === 0) break;
        this.takeNextCount(c, level);
        this.doubles[d + START] = now;
        words[c + COUNTING] = 1;
    }
    words[c + GATE] = level;
  }

  private takeNextCount(c: number, level: number): void {
    const words = this.words;
    if (level === 0 || words[c + NEXT_COUNT] === 0) return;
    words[c + COUNT] = words[c + NEXT_COUNT];
    words[c + NEXT_COUNT] = 0;
  }
}

class ControlPort implements BusDevice {
  readonly registers: Registers;

  constructor(private readonly pit: Pit) {
    this.registers = pit.registers;
  }
  read(_offset: number, _size: number): number {
    return this.pit.readControl();
  }
  write(_offset: number, _size: number, value: number): void {
    this.pit.writeControlPort(value);
  }
}

function fromBcd(value: number): number {
  return (value >> 12) * 1000 + ((value >> 8) & 15) * 100 + ((value >> 4) & 15) * 10 + (value & 15);
}

function toBcd(value: number): number {
  return (Math.floor(value / 1000) << 12) | (Math.floor(value / 100) % 10 << 8) | (Math.floor(value / 10) % 10 << 4) |
    value % 10;
}
