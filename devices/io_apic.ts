/** The I/O APIC: 24 lines to interrupt messages (Intel 82093AA data sheet, 290566). */
import type { BusDevice } from "../core/device.ts";
import { FIRST_WORD, type Registers } from "../core/registers.ts";
import { DeliveryMode, type EndOfInterruptSink, type InterruptMessageBus } from "./apic_bus.ts";

const SELECT = FIRST_WORD;
const ID = FIRST_WORD + 1;
const LINES = FIRST_WORD + 2; // one bit a line: its level
const TICK_SENT = FIRST_WORD + 3; // 1 from the timer's message to its end
const OWED_TICKS = FIRST_WORD + 4; // edges of the timer meanwhile
const ENTRIES = FIRST_WORD + 5; // low and high word of each redirection entry

const PINS = 24;
/**
 * Where the timer arrives: ISA IRQ 0 is global system interrupt 2, as the MADT's interrupt source override says of any
 * PC. Its edges are counted and not merged: a guest that counts time by them would lose what the host was late with.
 * So its message goes out as a level-triggered one, whose end the local APIC reports, and what was owed then follows, as
 * from KVM's 8254. Guests see nothing of it but the bit in their local APIC's TMR.
 */
export const TIMER_PIN = 2;
/** Edges of the timer that wait at most; more are lost, as all would be on a PC. */
export const MAX_OWED_TICKS = 100;
/** Bits 23-16 the highest entry, 7-0 the version (3.2.2). */
const VERSION_VALUE = ((PINS - 1) << 16) | 0x11;

// Redirection entry, low word (3.2.4).
const LOGICAL = 1 << 11;
const DELIVERY_STATUS = 1 << 12;
const REMOTE_IRR = 1 << 14;
const LEVEL = 1 << 15;
const MASKED = 1 << 16;
const WRITABLE = 0x1ffff & ~(DELIVERY_STATUS | REMOTE_IRR);

/** Map it at FEC00000h, {@link IoApic.SIZE} bytes. Polarity is the line's own: 1 always means asserted. */
export class IoApic implements BusDevice, EndOfInterruptSink {
  static readonly WORDS = 5 + 2 * PINS;
  static readonly SIZE = 0x20;

  readonly registers: Registers;
  private readonly words: Int32Array;
  private readonly bus: InterruptMessageBus;

  constructor(registers: Registers, bus: InterruptMessageBus) {
    this.registers = registers;
    this.words = registers.words;
    this.bus = bus;
    bus.ioApic = this;
  }

  reset(): void {
    this.words.fill(0, FIRST_WORD);
    for (let pin = 0; pin < PINS; pin++) this.words[ENTRIES + 2 * pin] = MASKED;
  }

  /** Drives a line, from any thread. */
  setLine(pin: number, level: number): void {
    if (pin < 0 || pin >= PINS) return;
    this.registers.lock();
    const words = this.words;
    const bit = 1 << pin;
    const rose = level !== 0 && (words[LINES] & bit) === 0;
    if (level !== 0) words[LINES] |= bit;
    else words[LINES] &= ~bit;
    // 3.2.4, bit 16: an edge that comes while the entry is masked is neither delivered nor held.
    if (rose && !(pin === TIMER_PIN && this.owes())) this.serve(pin);
    this.registers.unlock();
  }

  /** Whether an edge of the timer has to wait for the end of the one before. */
  private owes(): boolean {
    const words = this.words;
    if (words[TICK_SENT] === 0) return false;
    if (words[OWED_TICKS] < MAX_OWED_TICKS) {
      words[OWED_TICKS]++;
      return true;
    }
    // Nobody will end it: its local APIC was switched off meanwhile, say.
    this.forgetTicks();
    return false;
  }

  private forgetTicks(): void {
    this.words[TICK_SENT] = 0;
    this.words[OWED_TICKS] = 0;
  }

  endOfInterrupt(vector: number): void {
    this.registers.lock();
    for (let pin = 0; pin < PINS; pin++) {
      const entry = this.words[ENTRIES + 2 * pin];
      if ((entry & 0xff) !== vector) continue;
      if ((entry & LEVEL) !== 0) {
        this.words[ENTRIES + 2 * pin] = entry & ~REMOTE_IRR;
        this.serve(pin);
      } else if (pin === TIMER_PIN && this.words[TICK_SENT] !== 0) {
        this.words[TICK_SENT] = 0;
        if (this.words[OWED_TICKS] === 0) continue;
        this.words[OWED_TICKS]--;
        this.send(pin);
      }
    }
    this.registers.unlock();
  }

  /** Sends the message of an asserted line, if its entry lets it. */
  private serve(pin: number): void {
    if ((this.words[LINES] & (1 << pin)) !== 0) this.send(pin);
  }

  private send(pin: number): void {
    const words = this.words;
    const low = words[ENTRIES + 2 * pin];
    if ((low & (MASKED | REMOTE_IRR)) !== 0) return;
    const mode = (low >> 8) & 7;
    // NMI, INIT and ExtINT are edge-triggered whatever bit 15 says (3.2.4, bits 10:8).
    const level = ((low & LEVEL) !== 0 || pin === TIMER_PIN) && mode <= DeliveryMode.LOWEST_PRIORITY ? 1 : 0;
    const destination = words[ENTRIES + 2 * pin + 1] >>> 24;
    const taken = this.bus.deliver(destination, (low & LOGICAL) >> 11, mode, low & 0xff, level);
    if (!taken || level === 0) return;
    if ((low & LEVEL) !== 0) words[ENTRIES + 2 * pin] = low | REMOTE_IRR;
    else words[TICK_SENT] = 1;
  }

  read(offset: number, _size: number): number {
    if (offset === 0x00) return this.words[SELECT];
    if (offset !== 0x10) return 0;
    const index = this.words[SELECT];
    if (index === 0 || index === 2) return this.words[ID]; // 3.2.3: the arbitration ID is loaded with the ID
    if (index === 1) return VERSION_VALUE;
    return index >= 0x10 && index < 0x10 + 2 * PINS ? this.words[ENTRIES + index - 0x10] : 0;
  }

  write(offset: number, _size: number, value: number): void {
    const words = this.words;
    if (offset === 0x00) words[SELECT] = value & 0xff;
    if (offset !== 0x10) return;
    const index = words[SELECT];
    if (index === 0) words[ID] = value & 0x0f000000;
    if (index < 0x10 || index >= 0x10 + 2 * PINS) return;
    const word = ENTRIES + index - 0x10;
    if ((index & 1) !== 0) {
      words[word] = value & 0xff000000;
      return;
    }
    const old = words[word];
    if (word === ENTRIES + 2 * TIMER_PIN) this.forgetTicks();
    // Remote IRR has a meaning for level-triggered entries only, so making one edge-triggered clears it.
    words[word] = (value & WRITABLE) | ((value & LEVEL) !== 0 ? old & REMOTE_IRR : 0);
    if ((value & LEVEL) !== 0) this.serve((index - 0x10) >> 1);
  }
}
