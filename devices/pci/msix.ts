/** MSI-X (PCI Express Base 5.0, 7.7.2): capability, and table and pending bits behind a BAR of their own. */
import type { BusDevice, MessageSink } from "../../core/device.ts";
import { FIRST_WORD, type RegisterFile, type Registers } from "../../core/registers.ts";
import type { ConfigSpace } from "./config_space.ts";

const CAPABILITY_ID = 0x11;
const ENABLE = 1 << 31;
const FUNCTION_MASK = 1 << 30;

const ENTRY_WORDS = 4;
const ADDRESS = 0;
const ADDRESS_HIGH = 1;
const DATA = 2;
const CONTROL = 3;
const MASKED = 1;
const PENDING_OFFSET = 0x800;

/** One function's message-signalled interrupts. */
export class Msix implements BusDevice {
  /** Bytes of the BAR: the table from 0, the pending bits from 800h. */
  static readonly BAR_BYTES = 0x1000;
  static readonly MOST_VECTORS = PENDING_OFFSET / (ENTRY_WORDS * 4);

  /** The table's lock is of its own, since any thread sends. */
  readonly registers: Registers;
  readonly vectors: number;
  private readonly config: ConfigSpace;
  private readonly capability: number;
  private readonly sink: MessageSink;
  private readonly pending: number;

  /** @param bar index of the BAR that this device is put behind */
  constructor(file: RegisterFile, config: ConfigSpace, bar: number, vectors: number, sink: MessageSink) {
    if (vectors < 1 || vectors > Msix.MOST_VECTORS) throw new RangeError(`MSI-X cannot have ${vectors} vectors here`);
    this.config = config;
    this.vectors = vectors;
    this.sink = sink;
    this.capability = config.addCapability(
      CAPABILITY_ID,
      [(vectors - 1) << 16, bar, PENDING_OFFSET | bar],
      [ENABLE | FUNCTION_MASK],
    );
    this.pending = FIRST_WORD + vectors * ENTRY_WORDS;
    this.registers = file.allocate(vectors * ENTRY_WORDS + Math.ceil(vectors / 32));
  }

  reset(): void {
    const words = this.registers.words;
    words.fill(0, FIRST_WORD);
    // 7.7.2.6: vectors are masked after reset.
    for (let i = 0; i < this.vectors; i++) words[FIRST_WORD + i * ENTRY_WORDS + CONTROL] = MASKED;
  }

  /** Whether the guest has MSI-X on; INTx is silent then. */
  get enabled(): boolean {
    return (this.config.word(this.capability) & ENABLE) !== 0;
  }

  /** Sends a vector, or keeps it pending while it is masked. Any thread, without the lock. */
  send(vector: number): void {
    if (vector >= this.vectors) return;
    this.registers.lock();
    if (this.open && (this.registers.words[FIRST_WORD + vector * ENTRY_WORDS + CONTROL] & MASKED) === 0) {
      this.deliver(vector);
    } else this.registers.words[this.pending + (vector >> 5)] |= 1 << (vector & 31);
    this.registers.unlock();
  }

  /** Whether the word at this offset of the configuration space is the capability's control. */
  isControl(offset: number): boolean {
    return offset === this.capability;
  }

  /** Call when the guest wrote the capability: what was pending may go out now. */
  controlWritten(): void {
    this.registers.lock();
    this.flush();
    this.registers.unlock();
  }

  read(offset: number, size: number): number {
    const words = this.registers.words;
    let word = 0;
    if (offset < this.vectors * ENTRY_WORDS * 4) word = words[FIRST_WORD + (offset >> 2)];
    else if (offset >= PENDING_OFFSET) {
      const at = this.pending + ((offset - PENDING_OFFSET) >> 2);
      if (at < this.pending + Math.ceil(this.vectors / 32)) word = words[at];
    }
    return size === 4 ? word : (word >>> ((offset & 3) * 8)) & (size === 1 ? 0xff : 0xffff);
  }

  write(offset: number, size: number, value: number): void {
    // 7.7.2.6: the table is written by whole words; anything else is undefined, and ignored here.
    if (size !== 4 || (offset & 3) !== 0 || offset >= this.vectors * ENTRY_WORDS * 4) return;
    const field = (offset >> 2) & 3;
    if (field === CONTROL) value &= MASKED;
    else if (field === ADDRESS) value &= ~3;
    this.registers.words[FIRST_WORD + (offset >> 2)] = value;
    if (field === CONTROL && value === 0) this.flush();
  }

  private get open(): boolean {
    return (this.config.word(this.capability) & (ENABLE | FUNCTION_MASK)) === ENABLE;
  }

  private flush(): void {
    if (!this.open) return;
    const words = this.registers.words;
    for (let at = 0; at < this.vectors; at += 32) {
      if (words[this.pending + (at >> 5)] === 0) continue;
      for (let i = at; i < Math.min(at + 32, this.vectors); i++) {
        const bit = 1 << (i & 31);
        if ((words[this.pending + (i >> 5)] & bit) === 0) continue;
        if (words[FIRST_WORD + i * ENTRY_WORDS + CONTROL] & MASKED) continue;
        words[this.pending + (i >> 5)] &= ~bit;
        this.deliver(i);
      }
    }
  }

  private deliver(vector: number): void {
    const words = this.registers.words;
    const entry = FIRST_WORD + vector * ENTRY_WORDS;
    // A message beyond 4 GiB is a store that reaches no local APIC.
    if (words[entry + ADDRESS_HIGH] !== 0) return;
    this.sink.signalMessage(words[entry + ADDRESS], words[entry + DATA]);
  }
}
