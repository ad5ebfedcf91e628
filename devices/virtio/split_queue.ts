/** The split virtqueue (virtio 1.2, 2.7). */
import type { GuestMemory } from "../../core/memory.ts";
import {
  type Chain,
  Descriptor,
  MAX_CHAIN,
  Peek,
  type QueueSetup,
  QueueWord,
  type Virtqueue,
  wideAddress,
} from "./queue.ts";

const DESCRIPTOR_BYTES = 16;
/** `flags` of the available and of the used ring (2.7.6, 2.7.8): no interrupt, no notification. */
const SUPPRESS = 1;
// Both rings: flags, index, entries, event field; as half words.
const FLAGS = 0;
const INDEX = 1;
const ENTRIES = 2;

/** A split queue over guest memory; where it stands is kept in the device's shared words. */
export class SplitQueue implements Virtqueue {
  readonly size: number;
  private readonly memory: GuestMemory;
  private readonly words: Int32Array;
  private readonly at: number;
  private readonly table: Int32Array;
  private readonly available: Uint16Array;
  private readonly used: Uint16Array;
  private readonly usedWords: Int32Array;
  private readonly indirect: boolean;
  private readonly eventIndex: boolean;

  private constructor(
    memory: GuestMemory,
    words: Int32Array,
    at: number,
    setup: QueueSetup,
    table: number,
    available: number,
    used: number,
  ) {
    this.memory = memory;
    this.words = words;
    this.at = at;
    this.indirect = setup.indirect;
    this.eventIndex = setup.eventIndex;
    const size = words[at + QueueWord.SIZE];
    this.size = size;
    // Views of their own: an index into them is a small integer, however much RAM there is.
    const { buffer, byteOffset } = memory.bytes;
    this.table = new Int32Array(buffer, byteOffset + table, size * 4);
    this.available = new Uint16Array(buffer, byteOffset + available, size + 3);
    this.used = new Uint16Array(buffer, byteOffset + used, size * 4 + 3);
    this.usedWords = new Int32Array(buffer, byteOffset + used, size * 2 + 1);
  }

  /** Checks what the driver set up; null when it cannot be a queue. */
  static activate(memory: GuestMemory, words: Int32Array, at: number, setup: QueueSetup): SplitQueue | null {
    const size = words[at + QueueWord.SIZE];
    // 2.7: a power of two, at most 32768.
    if (size < 1 || size > setup.most || (size & (size - 1)) !== 0) return null;
    // 2.7.5, 2.7.6, 2.7.8: sizes and alignments of the three parts; the event fields count always.
    const table = aligned(memory, wideAddress(words, at + QueueWord.DESCRIPTORS), size * DESCRIPTOR_BYTES, 16);
    const available = aligned(memory, wideAddress(words, at + QueueWord.DRIVER), size * 2 + 6, 2);
    const used = aligned(memory, wideAddress(words, at + QueueWord.DEVICE), size * 8 + 6, 4);
    if (table < 0 || available < 0 || used < 0) return null;
    words[at + QueueWord.ACTIVE] = 1; // the positions are 0 after a reset, which is where a split queue begins
    return new SplitQueue(memory, words, at, setup, table, available, used);
  }

  peek(chain: Chain): number {
    const next = this.words[this.at + QueueWord.NEXT_AVAILABLE];
    // An acquire: the entry and its descriptors were written before the index was (2.7.13.3).
    const index = Atomics.load(this.available, INDEX);
    if (index === next) return Peek.EMPTY;
    // Never more outstanding than there are entries (2.7.13).
    if (((index - next) & 0xffff) > this.size) return Peek.BROKEN;
    chain.clear();
    const head = this.available[ENTRIES + (next & (this.size - 1))];
    chain.id = head;
    chain.slots = 1;
    return this.walk(chain, head) ? Peek.CHAIN : Peek.BROKEN;
  }

  private walk(chain: Chain, index: number): boolean {
    const table = this.table;
    const memory = this.memory;
    // 2.7.5.2: a chain is never longer than the queue; a longer one is a loop.
    for (let left = this.size; left > 0; left--) {
      if (index >= this.size) return false;
      // Each field is read once: the guest may change it under our eyes.
      const at = index * 4;
      const address = (table[at] >>> 0) + (table[at + 1] >>> 0) * 0x1_0000_0000;
      const length = table[at + 2] >>> 0;
      const flags = table[at + 3];
      if (flags & Descriptor.INDIRECT) {
        // 2.7.5.3.1: not with NEXT, not unless negotiated. Direct descriptors may come before it.
        if (!this.indirect || flags & Descriptor.NEXT) return false;
        return this.walkIndirect(chain, address, length);
      }
      if (!chain.add(memory, address, length, (flags & Descriptor.WRITE) !== 0)) return false;
      if ((flags & Descriptor.NEXT) === 0) return true;
      index = flags >>> 16;
    }
    return false;
  }

  private walkIndirect(chain: Chain, address: number, length: number): boolean {
    const count = length / DESCRIPTOR_BYTES;
    if (length === 0 || (length & (DESCRIPTOR_BYTES - 1)) !== 0 || count > MAX_CHAIN) return false;
    const table = this.memory.offset(address, length);
    if (table < 0) return false;
    const view = this.memory.view;
    let index = 0;
    for (let left = count; left > 0; left--) {
      if (index >= count) return false;
      const at = table + index * DESCRIPTOR_BYTES;
      const start = view.getUint32(at, true) + view.getUint32(at + 4, true) * 0x1_0000_0000;
      const flags = view.getInt32(at + 12, true);
      // 2.7.5.3.1: no table within a table.
      if (flags & Descriptor.INDIRECT) return false;
      if (!chain.add(this.memory, start, view.getUint32(at + 8, true), (flags & Descriptor.WRITE) !== 0)) return false;
      if ((flags & Descriptor.NEXT) === 0) return true;
      index = flags >>> 16;
    }
    return false;
  }

  advance(_chain: Chain): void {
    const at = this.at + QueueWord.NEXT_AVAILABLE;
    this.words[at] = (this.words[at] + 1) & 0xffff;
  }

  complete(id: number, _slots: number, written: number): void {
    const words = this.words;
    const next = words[this.at + QueueWord.NEXT_USED];
    const entry = 1 + (next & (this.size - 1)) * 2;
    this.usedWords[entry] = id;
    this.usedWords[entry + 1] = written;
    words[this.at + QueueWord.NEXT_USED] = (next + 1) & 0xffff;
    // A release: the driver that sees the index sees the entry and the data (2.7.8.2).
    Atomics.store(this.used, INDEX, (next + 1) & 0xffff);
  }

  wantsInterrupt(): boolean {
    const words = this.words;
    const next = words[this.at + QueueWord.NEXT_USED];
    const before = words[this.at + QueueWord.SIGNALLED];
    if (next === before) return false;
    // The index was stored, sequentially consistent, before this is read: either the driver sees the index when it
    // looks once more after allowing interrupts, or we see that it allowed them (2.7.7.2).
    if (!this.eventIndex) {
      words[this.at + QueueWord.SIGNALLED] = next;
      return (Atomics.load(this.available, FLAGS) & SUPPRESS) === 0;
    }
    const event = Atomics.load(this.available, ENTRIES + this.size);
    words[this.at + QueueWord.SIGNALLED] = next;
    return ((next - event - 1) & 0xffff) < ((next - before) & 0xffff);
  }

  disableNotifications(): void {
    // With EVENT_IDX an event field left behind does it (2.7.10).
    if (!this.eventIndex) Atomics.store(this.used, FLAGS, SUPPRESS);
  }

  enableNotifications(): boolean {
    const next = this.words[this.at + QueueWord.NEXT_AVAILABLE];
    if (this.eventIndex) Atomics.store(this.used, ENTRIES + this.size * 4, next);
    else Atomics.store(this.used, FLAGS, 0);
    // The other half of the race: a request that came before the store went unannounced.
    return Atomics.load(this.available, INDEX) !== next;
  }
}

function aligned(memory: GuestMemory, address: number, length: number, alignment: number): number {
  if (address % alignment !== 0) return -1;
  return memory.offset(address, length);
}
