/** The High Precision Event Timer: one block, three comparators (IA-PC HPET specification 1.0a). */
import type { Clock } from "../core/clock.ts";
import type { BusDevice, InterruptLine, Reschedule, TimedDevice } from "../core/device.ts";
import { FIRST_WORD, type Registers } from "../core/registers.ts";

const TIMERS = 3;
/** 10 ns, in femtoseconds: COUNTER_CLK_PERIOD (2.3.4). */
const PERIOD_FEMTOSECONDS = 10_000_000;
const TICKS_PER_MILLISECOND = 1e12 / PERIOD_FEMTOSECONDS;
/** Vendor 8086h, legacy replacement, 64-bit counter, three timers, revision 1 (2.3.4). */
const CAPABILITIES = (0x8086 << 16) | (1 << 15) | (1 << 13) | ((TIMERS - 1) << 8) | 1;
const TWO_32 = 0x1_0000_0000;
/** No guest may make the I/O Worker tick more often than this, in milliseconds. */
const MIN_SLEEP = 0.1;
/** Of periods that passed unseen, so many are made up for. */
const MAX_LATE_PERIODS = 100;
/** What a wait may last: a match can be centuries away. The I/O Worker just ticks once more. */
const MAX_SLEEP = 3_600_000;
/** More than the counter can be off by, as a sum of doubles. */
const ROUNDING_TICKS = 100;
/** The halves of a 64-bit read come closer together than this. */
const READ_PAIR = 0.01;

// Doubles, in guest milliseconds.
const STARTED = FIRST_WORD / 2; // when the counter read COUNTER
const READ_AT = STARTED + 1; // when its low half was last read
const EXPIRY = STARTED + 2; // when each timer matches; 0: never
const WORDS_START = 2 * (EXPIRY + TIMERS);
const CONFIG = WORDS_START; // 2.3.5
const STATUS = WORDS_START + 1; // 2.3.6
const COUNTER = WORDS_START + 2; // low, high
const READ_HIGH = WORDS_START + 4; // high half at READ_AT
const TIMER = WORDS_START + 5;
// Words of one timer.
const T_CONFIG = 0;
const T_COMPARATOR = 1; // low, high
const T_PERIOD = 3; // low, high
const TIMER_WORDS = 5;

const ENABLED = 1;
const LEGACY = 2;
// Timer configuration (2.3.8).
const T_LEVEL = 1 << 1;
const T_ENABLED = 1 << 2;
const T_PERIODIC = 1 << 3;
const T_PERIODIC_CAPABLE = 1 << 4;
const T_64_CAPABLE = 1 << 5;
const T_SET_VALUE = 1 << 6;
const T_32BIT = 1 << 8;
const T_ROUTE = 0x1f << 9;
/** Not a register's bit: the low half of a comparator was set, and the high half may follow. */
const T_SET_HIGH = 1 << 31;
const T_WRITABLE = T_LEVEL | T_ENABLED | T_PERIODIC | T_SET_VALUE | T_32BIT | T_ROUTE;
/** I/O APIC inputs 20 to 23. */
const ROUTES = 0x00f0_0000;

/** Drives any global system interrupt. */
export interface LineDriver {
  setLine(irq: number, level: number): void;
}

/** Map it at FED00000h, {@link Hpet.SIZE} bytes. */
export class Hpet implements BusDevice, TimedDevice {
  static readonly WORDS = TIMER + TIMERS * TIMER_WORDS - FIRST_WORD;
  static readonly SIZE = 0x400;

  readonly registers: Registers;
  private readonly words: Int32Array;
  private readonly doubles: Float64Array;
  private readonly lines: LineDriver;
  private readonly clock: Clock;
  private readonly reschedule: Reschedule;

  constructor(registers: Registers, lines: LineDriver, clock: Clock, reschedule: Reschedule) {
    const { words } = registers;
    this.registers = registers;
    this.words = words;
    this.doubles = new Float64Array(words.buffer, words.byteOffset, words.length >> 1);
    this.lines = lines;
    this.clock = clock;
    this.reschedule = reschedule;
  }

  reset(): void {
    this.words.fill(0, FIRST_WORD);
    for (let timer = 0; timer < TIMERS; timer++) {
      this.words[TIMER + timer * TIMER_WORDS + T_COMPARATOR] = -1;
      this.words[TIMER + timer * TIMER_WORDS + T_COMPARATOR + 1] = -1;
    }
  }

  /** The wire of a device that legacy replacement disconnects: the 8254's IRQ 0 and the clock's IRQ 8 (2.3.5). */
  legacyLine(line: InterruptLine): InterruptLine {
    const config = this.words;
    return {
      set: (level) => {
        if ((config[CONFIG] & (LEGACY | ENABLED)) !== (LEGACY | ENABLED)) line.set(level);
      },
    };
  }

  read(offset: number, size: number): number {
    if ((offset & 3) + size > 4) return 0;
    return (this.readWord(offset & ~3) >>> ((offset & 3) * 8)) | 0;
  }

  private readWord(offset: number): number {
    const words = this.words;
    switch (offset) {
      case 0x000:
        return CAPABILITIES;
      case 0x004:
        return PERIOD_FEMTOSECONDS;
      case 0x010:
        return words[CONFIG];
      case 0x020:
        return words[STATUS];
      case 0x0f0: {
        const now = this.clock.now();
        this.doubles[READ_AT] = now;
        words[READ_HIGH] = this.counterHigh(now);
        return this.counterLow(now);
      }
      case 0x0f4: {
        // The bus splits a 64-bit read: its halves must be of one moment.
        const now = this.clock.now();
        return now - this.doubles[READ_AT] < READ_PAIR ? words[READ_HIGH] : this.counterHigh(now);
      }
    }
    const timer = (offset - 0x100) >> 5;
    if (timer < 0 || timer >= TIMERS) return 0;
    const t = TIMER + timer * TIMER_WORDS;
    switch (offset & 0x1f) {
      case 0x00:
        return (words[t + T_CONFIG] & ~T_SET_HIGH) | T_PERIODIC_CAPABLE | T_64_CAPABLE;
      case 0x04:
        return ROUTES;
      case 0x08:
        return words[t + T_COMPARATOR];
      case 0x0c:
        return words[t + T_COMPARATOR + 1];
      default:
        return 0;
    }
  }

  write(offset: number, size: number, value: number): void {
    // "Software should only access on 32-bit or 64-bit boundaries" (2.3.1).
    if (size !== 4 || (offset & 3) !== 0) return;
    const words = this.words;
    switch (offset) {
      case 0x010:
        this.writeConfig(value & (ENABLED | LEGACY));
        return;
      case 0x020:
        this.clearStatus(value);
        return;
      case 0x0f0:
      case 0x0f4: {
        const now = this.clock.now();
        const low = this.counterLow(now);
        const high = this.counterHigh(now);
        words[COUNTER] = offset === 0x0f0 ? value : low;
        words[COUNTER + 1] = offset === 0x0f4 ? value : high;
        this.doubles[STARTED] = now;
        this.scheduleAll(now);
        return;
      }
    }
    const timer = (offset - 0x100) >> 5;
    if (timer < 0 || timer >= TIMERS) return;
    const t = TIMER + timer * TIMER_WORDS;
    switch (offset & 0x1f) {
      case 0x00:
        this.writeTimerConfig(timer, value);
        break;
      case 0x08:
        this.writeComparator(t, 0, value);
        break;
      case 0x0c:
        if ((words[t + T_CONFIG] & T_32BIT) !== 0) return;
        this.writeComparator(t, 1, value);
        break;
      default:
        return;
    }
    this.schedule(timer, this.clock.now());
    this.reschedule.wake();
  }

  private writeConfig(value: number): void {
    const words = this.words;
    const now = this.clock.now();
    const changed = words[CONFIG] ^ value;
    if ((changed & ENABLED) !== 0) {
      const low = this.counterLow(now);
      const high = this.counterHigh(now);
      words[COUNTER] = low;
      words[COUNTER + 1] = high;
      this.doubles[STARTED] = now;
    }
    for (let timer = 0; timer < TIMERS; timer++) this.lowerLevel(timer);
    words[CONFIG] = value;
    this.scheduleAll(now);
  }

  private writeTimerConfig(timer: number, value: number): void {
    const words = this.words;
    const t = TIMER + timer * TIMER_WORDS;
    this.lowerLevel(timer);
    words[t + T_CONFIG] = value & T_WRITABLE;
    if ((value & T_32BIT) !== 0) {
      words[t + T_COMPARATOR + 1] = 0;
      words[t + T_PERIOD + 1] = 0;
    }
    if ((words[STATUS] & (1 << timer)) !== 0) this.raise(timer);
  }

  /** In periodic mode a write sets the period, and with VAL_SET_CNF the next match too (2.3.9.2.2). */
  private writeComparator(t: number, half: number, value: number): void {
    const words = this.words;
    const config = words[t + T_CONFIG];
    const periodic = (config & T_PERIODIC) !== 0;
    const set = (config & T_SET_VALUE) !== 0 || (half === 1 && (config & T_SET_HIGH) !== 0);
    words[t + T_CONFIG] = config & ~(T_SET_VALUE | T_SET_HIGH);
    if (!periodic || set) words[t + T_COMPARATOR + half] = value;
    if (!periodic) return;
    words[t + T_PERIOD + half] = value;
    if (half === 1) return;
    // A 64-bit write comes as two, but a 32-bit one has no second half to wait for.
    words[t + T_PERIOD + 1] = 0;
    if (!set) return;
    words[t + T_COMPARATOR + 1] = 0;
    words[t + T_CONFIG] |= T_SET_HIGH;
  }

  /** Writing 1 clears, and lowers a level-triggered line (2.3.6). */
  private clearStatus(value: number): void {
    const words = this.words;
    for (let timer = 0; timer < TIMERS; timer++) {
      if ((value & words[STATUS] & (1 << timer)) === 0) continue;
      this.lowerLevel(timer);
      words[STATUS] &= ~(1 << timer);
    }
  }

  // --- Counter -----------------------------------------------------------------------------------------------------

  private elapsedTicks(now: number): number {
    if ((this.words[CONFIG] & ENABLED) === 0) return 0;
    return Math.max(Math.floor((now - this.doubles[STARTED]) * TICKS_PER_MILLISECOND), 0);
  }

  private counterLow(now: number): number {
    return (this.words[COUNTER] + (this.elapsedTicks(now) % TWO_32)) | 0;
  }

  private counterHigh(now: number): number {
    const carry = Math.floor(((this.words[COUNTER] >>> 0) + this.elapsedTicks(now)) / TWO_32);
    return (this.words[COUNTER + 1] + carry) | 0;
  }

  // --- Comparators -------------------------------------------------------------------------------------------------

  private scheduleAll(now: number): void {
    for (let timer = 0; timer < TIMERS; timer++) this.schedule(timer, now);
    this.reschedule.wake();
  }

  /** Works out when the counter will equal a timer's comparator. */
  private schedule(timer: number, now: number): void {
    const words = this.words;
    const t = TIMER + timer * TIMER_WORDS;
    if ((words[CONFIG] & ENABLED) === 0) {
      this.doubles[EXPIRY + timer] = 0;
      return;
    }
    const ticks = this.ticksUntilMatch(t, now);
    this.doubles[EXPIRY + timer] = now + ticks / TICKS_PER_MILLISECOND;
  }

  private ticksUntilMatch(t: number, now: number): number {
    const words = this.words;
    const low = (words[t + T_COMPARATOR] >>> 0) - (this.counterLow(now) >>> 0);
    if ((words[t + T_CONFIG] & T_32BIT) !== 0) return low > 0 ? low : low + TWO_32;
    const borrow = low < 0 ? 1 : 0;
    const high = (words[t + T_COMPARATOR + 1] - this.counterHigh(now) - borrow) >>> 0;
    const distance = high * TWO_32 + (low >>> 0);
    return distance > 0 ? distance : TWO_32 * TWO_32;
  }

  tick(): number {
    const now = this.clock.now();
    let next = -1;
    for (let timer = 0; timer < TIMERS; timer++) {
      const expiry = this.doubles[EXPIRY + timer];
      if (expiry === 0) continue;
      if (now >= expiry) this.match(timer, now);
      if ((this.words[TIMER + timer * TIMER_WORDS + T_CONFIG] & T_ENABLED) === 0) continue;
      const wait = Math.min(Math.max(this.doubles[EXPIRY + timer] - now, MIN_SLEEP), MAX_SLEEP);
      if (next < 0 || wait < next) next = wait;
    }
    return next;
  }

  private match(timer: number, now: number): void {
    const words = this.words;
    const t = TIMER + timer * TIMER_WORDS;
    const periodLow = words[t + T_PERIOD] >>> 0;
    const period = (words[t + T_PERIOD + 1] >>> 0) * TWO_32 + periodLow;
    let edges = 1;
    if ((words[t + T_CONFIG] & T_PERIODIC) !== 0 && period !== 0) {
      // The comparator moves on by whole periods, past the counter (2.3.9.2.2).
      const expiry = this.doubles[EXPIRY + timer];
      const periods = Math.floor((now - expiry) * TICKS_PER_MILLISECOND / period) + 1;
      const step = periods * period;
      edges = Math.min(periods, MAX_LATE_PERIODS);
      const low = (words[t + T_COMPARATOR] >>> 0) + step % TWO_32;
      words[t + T_COMPARATOR] = low | 0;
      if ((words[t + T_CONFIG] & T_32BIT) === 0) {
        words[t + T_COMPARATOR + 1] += Math.floor(step / TWO_32) + (low >= TWO_32 ? 1 : 0);
      }
      this.doubles[EXPIRY + timer] = expiry + step / TICKS_PER_MILLISECOND;
    } else {
      // The next match is a whole turn of the counter away, even where rounding has it still just before this one.
      const ticks = this.ticksUntilMatch(t, now);
      const turn = (words[t + T_CONFIG] & T_32BIT) !== 0 ? TWO_32 : TWO_32 * TWO_32;
      this.doubles[EXPIRY + timer] = now + (ticks < ROUNDING_TICKS ? ticks + turn : ticks) / TICKS_PER_MILLISECOND;
    }
    if ((words[t + T_CONFIG] & T_LEVEL) !== 0) {
      words[STATUS] |= 1 << timer;
      this.raise(timer);
    } else if ((words[t + T_CONFIG] & T_ENABLED) !== 0) {
      const irq = this.route(timer);
      if (irq < 0) return;
      // One for each: the interrupt controller knows whether they can be told apart.
      for (let i = 0; i < edges; i++) {
        this.lines.setLine(irq, 0);
        this.lines.setLine(irq, 1);
      }
    }
  }

  /** Where a timer's interrupt goes (table 3), or -1. */
  private route(timer: number): number {
    const words = this.words;
    if ((words[CONFIG] & LEGACY) !== 0 && timer < 2) return timer === 0 ? 0 : 8;
    const irq = (words[TIMER + timer * TIMER_WORDS + T_CONFIG] & T_ROUTE) >> 9;
    return (ROUTES & (1 << irq)) !== 0 ? irq : -1;
  }

  private raise(timer: number): void {
    const config = this.words[TIMER + timer * TIMER_WORDS + T_CONFIG];
    const irq = this.route(timer);
    if (irq >= 0 && (config & (T_ENABLED | T_LEVEL)) === (T_ENABLED | T_LEVEL)) this.lines.setLine(irq, 1);
  }

  private lowerLevel(timer: number): void {
    const irq = this.route(timer);
    if (irq < 0 || (this.words[STATUS] & (1 << timer)) === 0) return;
    if ((this.words[TIMER + timer * TIMER_WORDS + T_CONFIG] & T_LEVEL) !== 0) this.lines.setLine(irq, 0);
  }
}
