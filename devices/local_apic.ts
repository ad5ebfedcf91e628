/**
 * The local APIC: xAPIC page, x2APIC registers and what the CPU asks of it (Intel SDM vol. 3, chapter 11). Interrupts
 * arrive from any thread in words of shared memory; everything else happens on the CPU's own thread.
 */
import type { Clock } from "../core/clock.ts";
import type { BusDevice } from "../core/device.ts";
import { ApicEvent, type LocalInterruptController } from "../core/hypervisor.ts";
import { FIRST_WORD, type Registers } from "../core/registers.ts";
import { type ApicBus, DeliveryMode } from "./apic_bus.ts";

// Doubles come first: they need 8-byte alignment.
const EXPIRY_DOUBLE = FIRST_WORD / 2; // guest milliseconds at which the timer fires; 0 when it does not run
const DEADLINE_LOW = FIRST_WORD + 2;
const DEADLINE_HIGH = FIRST_WORD + 3;
const DOORBELL = FIRST_WORD + 4;
const EVENTS = FIRST_WORD + 5;
const STARTUP_VECTOR = FIRST_WORD + 6;
const BASE = FIRST_WORD + 7; // IA32_APIC_BASE, low word
const ERRORS = FIRST_WORD + 8; // since the last write of ESR
const LINT0_LEVEL = FIRST_WORD + 9;
const PAGE = FIRST_WORD + 10; // one word per 16-byte register of the xAPIC page (SDM vol. 3, table 11-1)

// Registers of the page, by offset / 16.
const ID = 0x02;
const VERSION = 0x03;
const TPR = 0x08;
const APR = 0x09;
const PPR = 0x0a;
const EOI = 0x0b;
const RRD = 0x0c;
const LDR = 0x0d;
const DFR = 0x0e;
const SVR = 0x0f;
const ISR = 0x10;
const TMR = 0x18;
const IRR = 0x20;
const ESR = 0x28;
const ICR_LOW = 0x30;
const ICR_HIGH = 0x31;
const LVT_TIMER = 0x32;
const LVT_LINT0 = 0x35;
const LVT_ERROR = 0x37;
const INITIAL_COUNT = 0x38;
const CURRENT_COUNT = 0x39;
const DIVIDE = 0x3e;
const SELF_IPI = 0x3f; // x2APIC only

/** Version 14h, six LVT entries, no suppression of EOI broadcasts (11.4.8). */
const VERSION_VALUE = 0x00050014;

const LVT_MASKED = 1 << 16;
const TIMER_MODE = 3 << 17;
const TIMER_PERIODIC = 1 << 17;
const TIMER_DEADLINE = 2 << 17;
/** Writable bits of the LVT entries 32h to 37h (figure 11-8). */
const LVT_WRITABLE = Int32Array.of(0x700ff, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff);
/** Delivery status and remote IRR: read-only, ignored when written. */
const LVT_READ_ONLY = (1 << 12) | (1 << 14);

const SVR_ENABLED = 1 << 8;

const ERROR_SEND_ILLEGAL_VECTOR = 1 << 5; // 11.5.3
const ERROR_RECEIVE_ILLEGAL_VECTOR = 1 << 6;
const ERROR_ILLEGAL_REGISTER = 1 << 7;

/** What a wait may last: a deadline can be centuries away. Whoever waits asks again. */
const MAX_SLEEP = 3_600_000;

const MSR_APIC_BASE = 0x1b;
const MSR_TSC_DEADLINE = 0x6e0;
const MSR_X2APIC = 0x800;
const BASE_ADDRESS = 0xfee00000 | 0;
const BASE_BSP = 1 << 8;
const BASE_EXTD = 1 << 10;
const BASE_EN = 1 << 11;

/** What every local APIC of a machine counts with, in Hz. */
export interface ApicFrequencies {
  /** The guest's TSC: it reads `clock.now() / 1000 * tsc`. */
  tsc: number;
  /** Input of the timer's divider: what CPUID 15h tells as crystal clock. */
  timer: number;
}

/** The local APIC of one CPU. Map it at FEE00000h on that CPU's own bus. */
export class LocalApic implements BusDevice, LocalInterruptController {
  static readonly WORDS = PAGE - FIRST_WORD + 64;

  readonly registers: Registers;
  /** CPU index; also its APIC ID. */
  readonly index: number;
  readonly doorbell: Int32Array;
  private readonly words: Int32Array;
  private readonly doubles: Float64Array;
  private readonly bus: ApicBus;
  private readonly clock: Clock;
  private readonly ticksPerMillisecond: number;
  private readonly tscPerMillisecond: number;

  constructor(registers: Registers, index: number, bus: ApicBus, clock: Clock, frequencies: ApicFrequencies) {
    const { words } = registers;
    this.registers = registers;
    this.index = index;
    this.words = words;
    this.doubles = new Float64Array(words.buffer, words.byteOffset, words.length >> 1);
    this.doorbell = words.subarray(DOORBELL, DOORBELL + 1);
    this.bus = bus;
    this.clock = clock;
    this.ticksPerMillisecond = frequencies.timer / 1000;
    this.tscPerMillisecond = frequencies.tsc / 1000;
    bus.attach(this);
  }

  /** Power-on (11.4.7.1). */
  reset(): void {
    this.words[BASE] = BASE_ADDRESS | BASE_EN | (this.index === 0 ? BASE_BSP : 0);
    this.words[EVENTS] = 0;
    this.words[STARTUP_VECTOR] = 0;
    this.words[LINT0_LEVEL] = 0;
    this.resetPage();
    // Virtual wire, as firmware would leave it for the bootstrap processor (MultiProcessor Specification 1.4, 3.6.2.2).
    if (this.index === 0) this.words[PAGE + LVT_LINT0] = DeliveryMode.EXT_INT << 8;
  }

  private resetPage(): void {
    const words = this.words;
    // Others may be sending: only the IRR and what they set besides need atomic stores.
    for (let i = 0; i < 64; i++) Atomics.store(words, PAGE + i, 0);
    for (let i = LVT_TIMER; i <= LVT_ERROR; i++) words[PAGE + i] = LVT_MASKED;
    words[PAGE + SVR] = 0xff;
    words[PAGE + DFR] = -1;
    Atomics.store(words, ERRORS, 0);
    this.disarm();
  }

  private disarm(): void {
    this.doubles[EXPIRY_DOUBLE] = 0;
    this.words[DEADLINE_LOW] = 0;
    this.words[DEADLINE_HIGH] = 0;
  }

  // --- What other threads do ---------------------------------------------------------------------------------------

  /** Whether a message for `destination` is for this CPU (11.6.2). */
  matches(destination: number, logical: number): boolean {
    const x2apic = (this.words[BASE] & BASE_EXTD) !== 0;
    if (destination === -1) return true;
    if (logical === 0) return destination === this.index || destination === 0xff;
    if (x2apic) {
      // 11.12.10.2: cluster in the upper half, one bit a CPU in the lower.
      return destination >>> 16 === this.index >> 4 && (destination & (1 << (this.index & 15))) !== 0;
    }
    if (destination === 0xff) return true;
    const id = this.words[PAGE + LDR] >>> 24;
    if (this.words[PAGE + DFR] >>> 28 === 0xf) return (destination & id) !== 0;
    return destination >> 4 === id >> 4 && (destination & id & 0xf) !== 0;
  }

  /** Whether fixed interrupts are taken: enabled by both IA32_APIC_BASE and SVR (11.4.7.2). */
  accepting(): boolean {
    return (this.words[BASE] & BASE_EN) !== 0 && (this.words[PAGE + SVR] & SVR_ENABLED) !== 0;
  }

  /** Takes a message of any delivery mode; false when this local APIC does not listen. */
  receive(mode: number, vector: number, level: number): boolean {
    switch (mode) {
      case DeliveryMode.FIXED:
      case DeliveryMode.LOWEST_PRIORITY:
        return this.accept(vector, level);
      case DeliveryMode.NMI:
        return this.post(ApicEvent.NMI);
      case DeliveryMode.INIT:
        return this.post(ApicEvent.INIT);
      case DeliveryMode.STARTUP:
        Atomics.store(this.words, STARTUP_VECTOR, vector);
        return this.post(ApicEvent.STARTUP);
      default:
        return false;
    }
  }

  /** Takes a fixed interrupt into the IRR. */
  accept(vector: number, level: number): boolean {
    if (!this.accepting()) return false;
    if (vector < 16) {
      this.error(ERROR_RECEIVE_ILLEGAL_VECTOR);
      return false;
    }
    const word = PAGE + (vector >> 5);
    const bit = 1 << (vector & 31);
    if (level !== 0) Atomics.or(this.words, word + TMR, bit);
    else Atomics.and(this.words, word + TMR, ~bit);
    // A request that still waits was rung for by whoever made it.
    if ((Atomics.or(this.words, word + IRR, bit) & bit) === 0) this.ring();
    return true;
  }

  /** LINT0, driven by the 8259's INTR output. */
  setLint0(level: number): void {
    if (Atomics.exchange(this.words, LINT0_LEVEL, level) === level || level === 0) return;
    const entry = this.words[PAGE + LVT_LINT0];
    if (this.takesExternal()) this.ring();
    else if ((entry & LVT_MASKED) === 0 && (this.words[BASE] & BASE_EN) !== 0) {
      this.receive((entry >> 8) & 7, entry & 0xff, (entry >> 15) & 1);
    }
  }

  private post(event: number): boolean {
    if ((this.words[BASE] & BASE_EN) === 0) return false;
    Atomics.or(this.words, EVENTS, event);
    this.ring();
    return true;
  }

  private ring(): void {
    Atomics.add(this.words, DOORBELL, 1);
    Atomics.notify(this.words, DOORBELL);
    this.bus.ring(this.index);
  }

  private error(bit: number): void {
    Atomics.or(this.words, ERRORS, bit);
    const entry = this.words[PAGE + LVT_ERROR];
    if ((entry & LVT_MASKED) === 0 && (entry & 0xff) >= 16) this.accept(entry & 0xff, 0);
  }

  // --- What the CPU asks -------------------------------------------------------------------------------------------

  poll(): boolean {
    const words = this.words;
    if (this.doubles[EXPIRY_DOUBLE] !== 0) this.advanceTimer();
    // Plain reads: whoever sets these rings for the vCPU afterwards, and that looks at what rings first.
    if (words[EVENTS] !== 0) return true;
    if (words[LINT0_LEVEL] !== 0 && this.takesExternal()) return true;
    return this.deliverable() >= 0;
  }

  takeEvents(): number {
    const events = Atomics.exchange(this.words, EVENTS, 0);
    // 11.4.7.3: INIT leaves only the APIC ID and IA32_APIC_BASE.
    if ((events & ApicEvent.INIT) !== 0) this.resetPage();
    return events;
  }

  get startupVector(): number {
    return Atomics.load(this.words, STARTUP_VECTOR);
  }

  acknowledge(): number {
    const words = this.words;
    if (Atomics.load(words, LINT0_LEVEL) !== 0 && this.takesExternal() && this.bus.pic !== null) {
      const vector = this.bus.pic.acknowledge();
      if (vector >= 0) return vector;
    }
    const vector = this.deliverable();
    if (vector < 0) return -1;
    const word = PAGE + (vector >> 5);
    const bit = 1 << (vector & 31);
    Atomics.and(words, word + IRR, ~bit);
    words[word + ISR] |= bit;
    return vector;
  }

  taskPriority(): number {
    return this.words[PAGE + TPR] >> 4;
  }

  setTaskPriority(value: number): void {
    this.words[PAGE + TPR] = (value & 15) << 4; // 11.8.6
  }

  timeUntilTimer(): number {
    const expiry = this.doubles[EXPIRY_DOUBLE];
    if (expiry === 0 || (this.words[PAGE + LVT_TIMER] & LVT_MASKED) !== 0) return -1;
    return Math.min(Math.max(0, expiry - this.clock.now()), MAX_SLEEP);
  }

  /** PPR (11.8.3.1). */
  processorPriority(): number {
    const tpr = this.words[PAGE + TPR];
    const inService = this.highest(ISR);
    return inService >= 0 && inService >> 4 > tpr >> 4 ? inService & 0xf0 : tpr;
  }

  /** The vector {@link acknowledge} would take, or -1. */
  private deliverable(): number {
    const vector = this.highest(IRR);
    if (vector < 0 || (this.words[BASE] & BASE_EN) === 0) return -1;
    return vector >> 4 > this.processorPriority() >> 4 ? vector : -1;
  }

  private highest(register: number): number {
    for (let i = 7; i >= 0; i--) {
      const word = this.words[PAGE + register + i];
      if (word !== 0) return (i << 5) + 31 - Math.clz32(word);
    }
    return -1;
  }

  /** Whether the 8259's INTR reaches the CPU: LINT0 says ExtINT, or there is no APIC between them. */
  private takesExternal(): boolean {
    const entry = this.words[PAGE + LVT_LINT0];
    return (this.words[BASE] & BASE_EN) === 0 ||
      (entry & (LVT_MASKED | 0x700)) === DeliveryMode.EXT_INT << 8;
  }

  // --- Timer (11.5.4) ----------------------------------------------------------------------------------------------

  private advanceTimer(): void {
    const now = this.clock.now();
    const expiry = this.doubles[EXPIRY_DOUBLE];
    if (expiry === 0 || now < expiry) return;
    const entry = this.words[PAGE + LVT_TIMER];
    if ((entry & TIMER_MODE) === TIMER_PERIODIC) {
      const period = this.countsToMilliseconds(this.words[PAGE + INITIAL_COUNT] >>> 0);
      this.doubles[EXPIRY_DOUBLE] = expiry + (Math.floor((now - expiry) / period) + 1) * period;
    } else this.disarm();
    if ((entry & LVT_MASKED) === 0) this.accept(entry & 0xff, 0);
  }

  private countsToMilliseconds(counts: number): number {
    return counts * this.divisor() / this.ticksPerMillisecond;
  }

  /** Bits 3, 1, 0 of the divide configuration: 000 is 2, 110 is 128, 111 is 1 (figure 11-10). */
  private divisor(): number {
    const value = this.words[PAGE + DIVIDE];
    return 1 << ((((value & 3) | ((value >> 1) & 4)) + 1) & 7);
  }

  /** Counts left, as an int32. */
  private currentCount(): number {
    if (this.doubles[EXPIRY_DOUBLE] !== 0) this.advanceTimer();
    const expiry = this.doubles[EXPIRY_DOUBLE];
    if (expiry === 0 || (this.words[PAGE + LVT_TIMER] & TIMER_MODE) === TIMER_DEADLINE) return 0;
    const left = Math.ceil((expiry - this.clock.now()) * this.ticksPerMillisecond / this.divisor());
    return Math.min(Math.max(left, 0), this.words[PAGE + INITIAL_COUNT] >>> 0) | 0;
  }

  private writeInitialCount(value: number): void {
    if ((this.words[PAGE + LVT_TIMER] & TIMER_MODE) === TIMER_DEADLINE) return;
    this.words[PAGE + INITIAL_COUNT] = value;
    this.doubles[EXPIRY_DOUBLE] = value === 0 ? 0 : this.clock.now() + this.countsToMilliseconds(value >>> 0);
  }

  private writeDivide(value: number): void {
    const left = this.currentCount() >>> 0;
    this.words[PAGE + DIVIDE] = value & 0xb;
    if (left !== 0) this.doubles[EXPIRY_DOUBLE] = this.clock.now() + this.countsToMilliseconds(left);
  }

  private writeDeadline(low: number, high: number): void {
    if ((this.words[PAGE + LVT_TIMER] & TIMER_MODE) !== TIMER_DEADLINE) return; // 11.5.4.1
    this.words[DEADLINE_LOW] = low;
    this.words[DEADLINE_HIGH] = high;
    const tsc = (high >>> 0) * 0x1_0000_0000 + (low >>> 0);
    this.doubles[EXPIRY_DOUBLE] = tsc / this.tscPerMillisecond;
  }

  // --- xAPIC page --------------------------------------------------------------------------------------------------

  read(offset: number, size: number): number {
    if ((this.words[BASE] & (BASE_EN | BASE_EXTD)) !== BASE_EN) return -1;
    if ((offset & 15) + size > 4 || offset > 0xfff) return 0;
    return (this.readRegister(offset >> 4) >>> ((offset & 3) * 8)) | 0;
  }

  write(offset: number, size: number, value: number): void {
    // 11.4.1: aligned 32-bit accesses only.
    if (size !== 4 || (offset & 15) !== 0 || offset > 0xfff) return;
    if ((this.words[BASE] & (BASE_EN | BASE_EXTD)) !== BASE_EN) return;
    const register = offset >> 4;
    const words = this.words;
    switch (register) {
      case LDR:
        words[PAGE + LDR] = value & 0xff000000;
        break;
      case DFR:
        words[PAGE + DFR] = value | 0x0fffffff;
        break;
      case ICR_HIGH:
        words[PAGE + ICR_HIGH] = value & 0xff000000;
        break;
      case ICR_LOW:
        words[PAGE + ICR_LOW] = value & 0xcdfff;
        this.send(value, words[PAGE + ICR_HIGH] >>> 24);
        break;
      case ID: // read-only on current processors
      case VERSION:
      case APR:
      case PPR:
      case RRD:
      case CURRENT_COUNT:
        break;
      default:
        if (!this.writeCommon(register, value) && (register < ISR || register > ESR)) {
          this.error(ERROR_ILLEGAL_REGISTER);
        }
    }
  }

  private readRegister(register: number): number {
    switch (register) {
      case ID:
        return this.index << 24;
      case VERSION:
        return VERSION_VALUE;
      case APR:
      case PPR:
        return this.processorPriority();
      case CURRENT_COUNT:
        return this.currentCount();
      case EOI:
      case RRD:
        return 0;
      default:
        if (!isReadable(register)) {
          this.error(ERROR_ILLEGAL_REGISTER);
          return 0;
        }
        return Atomics.load(this.words, PAGE + register);
    }
  }

  /** Writes the registers that both modes have in the same form; false when `register` is none of them. */
  private writeCommon(register: number, value: number): boolean {
    const words = this.words;
    switch (register) {
      case TPR:
        words[PAGE + TPR] = value & 0xff;
        return true;
      case EOI:
        this.endOfInterrupt();
        return true;
      case SVR:
        words[PAGE + SVR] = value & 0x3ff;
        if ((value & SVR_ENABLED) === 0) {
          for (let i = LVT_TIMER; i <= LVT_ERROR; i++) words[PAGE + i] |= LVT_MASKED;
        }
        return true;
      case ESR:
        words[PAGE + ESR] = Atomics.exchange(words, ERRORS, 0);
        return true;
      case INITIAL_COUNT:
        this.writeInitialCount(value);
        return true;
      case DIVIDE:
        this.writeDivide(value);
        return true;
      default:
        if (register < LVT_TIMER || register > LVT_ERROR) return false;
        this.writeLvt(register, value);
        return true;
    }
  }

  private writeLvt(register: number, value: number): void {
    const words = this.words;
    let entry = value & LVT_WRITABLE[register - LVT_TIMER];
    if ((words[PAGE + SVR] & SVR_ENABLED) === 0) entry |= LVT_MASKED;
    if (register === LVT_TIMER) {
      const change = words[PAGE + LVT_TIMER] ^ entry;
      // 11.5.4.1: between TSC-deadline and the other modes the timer is disarmed.
      if ((change & TIMER_DEADLINE) !== 0) {
        this.disarm();
        words[PAGE + INITIAL_COUNT] = 0;
      }
    }
    words[PAGE + register] = entry;
  }

  private endOfInterrupt(): void {
    const vector = this.highest(ISR);
    if (vector < 0) return;
    const word = PAGE + (vector >> 5);
    const bit = 1 << (vector & 31);
    this.words[word + ISR] &= ~bit;
    // 11.8.5: the I/O APIC is told of the end of level-triggered interrupts.
    if ((Atomics.load(this.words, word + TMR) & bit) !== 0 && this.bus.ioApic !== null) {
      this.bus.ioApic.endOfInterrupt(vector);
    }
  }

  /** Carries out what was written to the ICR (11.6.1). */
  private send(low: number, destination: number): void {
    const mode = (low >> 8) & 7;
    const vector = low & 0xff;
    // INIT level de-assert: nothing to do since the Pentium 4.
    if (mode === DeliveryMode.INIT && (low & 0xc000) === 0x8000) return;
    if (mode <= DeliveryMode.LOWEST_PRIORITY && vector < 16) {
      this.error(ERROR_SEND_ILLEGAL_VECTOR);
      return;
    }
    switch ((low >> 18) & 3) {
      case 0:
        this.bus.deliver(destination, (low >> 11) & 1, mode, vector, 0);
        break;
      case 1:
        if (mode === DeliveryMode.FIXED) this.accept(vector, 0);
        break;
      case 2:
        this.bus.broadcast(-1, mode, vector);
        break;
      default:
        this.bus.broadcast(this.index, mode, vector);
    }
  }

  // --- MSRs --------------------------------------------------------------------------------------------------------

  readMsr(index: number, value: Int32Array): boolean {
    const words = this.words;
    value[1] = 0;
    if (index === MSR_APIC_BASE) {
      value[0] = words[BASE];
      return true;
    }
    if (index === MSR_TSC_DEADLINE) {
      if (this.doubles[EXPIRY_DOUBLE] !== 0) this.advanceTimer();
      value[0] = words[DEADLINE_LOW];
      value[1] = words[DEADLINE_HIGH];
      return true;
    }
    const register = index - MSR_X2APIC;
    if (register < 0 || register > 0x3f || (words[BASE] & BASE_EXTD) === 0) return false;
    switch (register) {
      case ID:
        value[0] = this.index;
        return true;
      case LDR:
        value[0] = (this.index >> 4 << 16) | (1 << (this.index & 15));
        return true;
      case ICR_LOW:
        value[0] = words[PAGE + ICR_LOW];
        value[1] = words[PAGE + ICR_HIGH];
        return true;
      case APR:
      case EOI:
      case RRD:
      case DFR:
      case ICR_HIGH:
      case SELF_IPI:
        return false;
      default:
        if (register !== VERSION && register !== PPR && register !== CURRENT_COUNT && !isReadable(register)) {
          return false;
        }
        value[0] = this.readRegister(register);
        return true;
    }
  }

  writeMsr(index: number, value: Int32Array): boolean {
    const low = value[0];
    const high = value[1];
    if (index === MSR_APIC_BASE) return this.writeBase(low, high);
    if (index === MSR_TSC_DEADLINE) {
      this.writeDeadline(low, high);
      return true;
    }
    const register = index - MSR_X2APIC;
    if (register < 0 || register > 0x3f || (this.words[BASE] & BASE_EXTD) === 0) return false;
    if (register === ICR_LOW) {
      if ((low & ~0xcdfff) !== 0) return false;
      this.words[PAGE + ICR_LOW] = low;
      this.words[PAGE + ICR_HIGH] = high;
      this.send(low, high);
      return true;
    }
    if (high !== 0) return false;
    switch (register) {
      case SELF_IPI:
        if ((low & ~0xff) !== 0) return false;
        if (low < 16) this.error(ERROR_SEND_ILLEGAL_VECTOR);
        else this.accept(low, 0);
        return true;
      case EOI:
      case ESR:
        if (low !== 0) return false;
        break;
      case TPR:
        if ((low & ~0xff) !== 0) return false;
        break;
      case SVR:
        if ((low & ~0x3ff) !== 0) return false;
        break;
      case DIVIDE:
        if ((low & ~0xb) !== 0) return false;
        break;
      default:
        if (register >= LVT_TIMER && register <= LVT_ERROR) {
          if ((low & ~(LVT_WRITABLE[register - LVT_TIMER] | LVT_READ_ONLY)) !== 0) return false;
        }
    }
    return this.writeCommon(register, low);
  }

  /** IA32_APIC_BASE (11.4.4; transitions: 11.12.5). The page stays at FEE00000h: another address raises #GP. */
  private writeBase(low: number, high: number): boolean {
    if (high !== 0 || (low & ~(BASE_BSP | BASE_EXTD | BASE_EN)) !== BASE_ADDRESS) return false;
    const mode = low & (BASE_EN | BASE_EXTD);
    const old = this.words[BASE] & (BASE_EN | BASE_EXTD);
    if (mode === BASE_EXTD) return false;
    if ((old & BASE_EXTD) !== 0 && mode === BASE_EN) return false;
    if (old === 0 && (mode & BASE_EXTD) !== 0) return false;
    this.words[BASE] = low;
    if (mode !== old && mode === 0) this.resetPage();
    if (mode !== old && (mode & BASE_EXTD) !== 0) this.words[PAGE + ICR_HIGH] = 0;
    return true;
  }
}

/** Registers that are read as they were written. */
function isReadable(register: number): boolean {
  return register === TPR || (register >= LDR && register <= ESR) ||
    (register >= ICR_LOW && register <= INITIAL_COUNT) || register === DIVIDE;
}
