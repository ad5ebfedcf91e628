/**
 * A function's configuration space (PCI Local Bus 3.0, chapter 6; PCI Express Base 5.0, 7.5): 64 words in shared
 * memory, masks of what the guest may write in each Worker. Extended space reads as zeroes: no extended capability
 * (7.6.1).
 */
import { FIRST_WORD, type RegisterFile, type Registers } from "../../core/registers.ts";

const WORDS = 64;

/** Byte offsets of the type 0 header (7.5.1.2). */
export const Header = {
  ID: 0x00,
  COMMAND: 0x04,
  CLASS: 0x08,
  BAR: 0x10,
  SUBSYSTEM: 0x2c,
  CAPABILITIES: 0x34,
  INTERRUPT: 0x3c,
} as const;

/** Bits of the command register, and of the status register above it (7.5.1.1.3, 7.5.1.1.4). */
export const Command = {
  MEMORY: 1 << 1,
  BUS_MASTER: 1 << 2,
  PARITY: 1 << 6,
  SERR: 1 << 8,
  INTX_DISABLE: 1 << 10,
  STATUS_INTERRUPT: 1 << 19,
  STATUS_CAPABILITIES: 1 << 20,
} as const;
/** Status bits that are cleared by writing 1: error bits, which nothing here ever sets. */
const STATUS_ERRORS = 0xf900 << 16;

/** The 256 bytes that a driver sees. */
export class ConfigSpace {
  readonly registers: Registers;
  private readonly initial = new Int32Array(WORDS);
  private readonly writable = new Int32Array(WORDS);
  private next = 0x40;
  private lastCapability = Header.CAPABILITIES as number;

  constructor(file: RegisterFile) {
    this.registers = file.allocate(WORDS);
    this.define(
      Header.COMMAND,
      Command.STATUS_CAPABILITIES,
      Command.MEMORY | Command.BUS_MASTER | Command.PARITY | Command.SERR | Command.INTX_DISABLE,
    );
  }

  /** Sets what a word holds after a reset, and which of its bits the guest may write. */
  define(offset: number, initial: number, writable = 0): void {
    this.initial[offset >> 2] = initial;
    this.writable[offset >> 2] = writable;
  }

  /**
   * Appends a capability (7.5.1.1.11).
   * @param id capability id
   * @param words its words; the first one's low half is filled in here
   * @param writable which bits of each the guest may write
   * @returns its offset
   */
  addCapability(id: number, words: number[], writable: number[] = []): number {
    const at = this.next;
    if (at + words.length * 4 > WORDS * 4) throw new RangeError("no room for another PCI capability");
    for (let i = 0; i < words.length; i++) this.define(at + i * 4, words[i], writable[i] ?? 0);
    this.initial[at >> 2] = (words[0] & ~0xffff) | id;
    // The pointer to it: byte 34h of the header, or the second byte of the capability before.
    const shift = this.lastCapability === Header.CAPABILITIES ? 0 : 8;
    this.initial[this.lastCapability >> 2] |= at << shift;
    this.lastCapability = at;
    this.next = at + words.length * 4;
    return at;
  }

  /** Brings every word to what it holds after a reset. */
  reset(): void {
    this.registers.words.set(this.initial, FIRST_WORD);
  }

  /** @param offset of a byte in the word */
  word(offset: number): number {
    return this.registers.words[FIRST_WORD + (offset >> 2)];
  }

  /** Sets a word for the machine, whatever the guest may write; not inside another access. */
  setWord(offset: number, value: number): void {
    this.registers.words[FIRST_WORD + (offset >> 2)] = value;
  }

  /** Carries out a guest's write to one word: `value` where `lanes` has ones. */
  write(offset: number, value: number, lanes: number): void {
    const index = offset >> 2;
    if (index >= WORDS) return;
    const at = FIRST_WORD + index;
    const mask = this.writable[index] & lanes;
    let word = (this.registers.words[at] & ~mask) | (value & mask);
    if (index === Header.COMMAND >> 2) word &= ~(value & lanes & STATUS_ERRORS);
    this.registers.words[at] = word;
  }

  /** Carries out a guest's read of one word. */
  read(offset: number): number {
    return offset < WORDS * 4 ? this.word(offset) : 0;
  }
}
