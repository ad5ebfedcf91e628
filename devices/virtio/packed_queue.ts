/** The packed virtqueue (virtio 1.2, 2.8). */
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
/** Bits of a descriptor's flags that, against the wrap counter, say whose it is (2.8.1). */
const AVAILABLE = 1 << 7;
const USED = 1 << 15;
/** Event suppression structures (2.8.10): offset and wrap counter, then flags; as half words. */
const EVENT_POSITION = 0;
const EVENT_FLAGS = 1;
const EVENTS_ENABLE = 0;
const EVENTS_DISABLE = 1;
const EVENTS_POSITION = 2;
/** A position is an offset with the wrap counter at bit 15, as in the event structures. */
const WRAP = 0x8000;

/** A packed queue over guest memory; where it stands is kept in the device's shared words. */
export class PackedQueue implements Virtqueue {
  readonly size: number;
  private readonly memory: GuestMemory;
  private readonly words: Int32Array;
  private readonly at: number;
  private readonly ring: Int32Array;
  private readonly ringFlags: Uint16Array;
  private readonly driverEvent: Uint16Array;
  private readonly deviceEvent: Uint16Array;
  private readonly indirect: boolean;
  private readonly eventIndex: boolean;

  private constructor(
    memory: GuestMemory,
    words: Int32Array,
    at: number,
    setup: QueueSetup,
    ring: number,
    driver: number,
    device: number,
  ) {
    this.memory = memory;
    this.words = words;
    this.at = at;
    this.indirect = setup.indirect;
    this.eventIndex = setup.eventIndex;
    const size = words[at + QueueWord.SIZE];
    this.size = size;
    const { buffer, byteOffset } = memory.bytes;
    this.ring = new Int32Array(buffer, byteOffset + ring, size * 4);
    this.ringFlags = new Uint16Array(buffer, byteOffset + ring, size * 8);
    this.driverEvent = new Uint16Array(buffer, byteOffset + driver, 2);
    this.deviceEvent = new Uint16Array(buffer, byteOffset + device, 2);
  }

  /** Checks what the driver set up; null when it cannot be a queue. */
  static activate(memory: GuestMemory, words: Int32Array, at: number, setup: QueueSetup): PackedQueue | null {
    const size = words[at + QueueWord.SIZE];
    // 2.8: up to 32768, any number.
    if (size < 1 || size > setup.most) return null;
    // 2.8.10.1: alignments of the three parts.
    const ring = aligned(memory, wideAddress(words, at + QueueWord.DESCRIPTORS), size * DESCRIPTOR_BYTES, 16);
    const driver = aligned(memory, wideAddress(words, at + QueueWord.DRIVER), 4, 4);
    const device = aligned(memory, wideAddress(words, at + QueueWord.DEVICE), 4, 4);
    if (ring < 0 || driver < 0 || device < 0) return null;
    if (words[at + QueueWord.ACTIVE] === 0) {
      // 2.8.1: both wrap counters begin at 1.
      words[at + QueueWord.NEXT_AVAILABLE] = WRAP;
      words[at + QueueWord.NEXT_USED] = WRAP;
      words[at + QueueWord.SIGNALLED] = WRAP;
      words[at + QueueWord.ACTIVE] = 1;
    }
    return new PackedQueue(memory, words, at, setup, ring, driver, device);
  }

  peek(chain: Chain): number {
    const next = this.words[this.at + QueueWord.NEXT_AVAILABLE];
    if (!this.offered(next)) return Peek.EMPTY;
    chain.clear();
    return this.walk(chain, next & ~WRAP) ? Peek.CHAIN : Peek.BROKEN;
  }

  /** Whether the descriptor at a position is the driver's offer of this round (2.8.1). */
  private offered(position: number): boolean {
    // An acquire: the driver writes a head's flags last (2.8.21.1.1).
    const flags = Atomics.load(this.ringFlags, (position & ~WRAP) * 8 + 7);
    const wrap = (position & WRAP) !== 0;
    return ((flags & AVAILABLE) !== 0) === wrap && ((flags & USED) !== 0) !== wrap;
  }

  private walk(chain: Chain, index: number): boolean {
    const ring = this.ring;
    // 2.8.19: a chain is never longer than the queue, and its entries follow each other.
    for (let left = this.size; left > 0; left--) {
      const at = index * 4;
      const address = (ring[at] >>> 0) + (ring[at + 1] >>> 0) * 0x1_0000_0000;
      const length = ring[at + 2] >>> 0;
      const last = ring[at + 3]; // buffer id in the low half, flags in the high half
      const flags = last >>> 16;
      chain.slots++;
      if (flags & Descriptor.INDIRECT) {
        // 2.8.7: an indirect descriptor is a buffer of its own.
        if (!this.indirect || flags & Descriptor.NEXT || chain.slots > 1) return false;
        chain.id = last & 0xffff;
        return this.readTable(chain, address, length);
      }
      if (!chain.add(this.memory, address, length, (flags & Descriptor.WRITE) !== 0)) return false;
      if ((flags & Descriptor.NEXT) === 0) {
        // 2.8.6: the id stands in the last descriptor of the list.
        chain.id = last & 0xffff;
        return true;
      }
      index = index + 1 === this.size ? 0 : index + 1;
    }
    return false;
  }

  private readTable(chain: Chain, address: number, length: number): boolean {
    if (length === 0 || (length & (DESCRIPTOR_BYTES - 1)) !== 0 || length > MAX_CHAIN * DESCRIPTOR_BYTES) return false;
    const table = this.memory.offset(address, length);
    if (table < 0) return false;
    const view = this.memory.view;
    // 2.8.7: all of the table, in order; of its flags only WRITE counts.
    for (let at = table; at < table + length; at += DESCRIPTOR_BYTES) {
      const start = view.getUint32(at, true) + view.getUint32(at + 4, true) * 0x1_0000_0000;
      const write = (view.getUint16(at + 14, true) & Descriptor.WRITE) !== 0;
      if (!chain.add(this.memory, start, view.getUint32(at + 8, true), write)) return false;
    }
    return true;
  }

  advance(chain: Chain): void {
    const at = this.at + QueueWord.NEXT_AVAILABLE;
    this.words[at] = this.after(this.words[at], chain.slots);
  }

  /** The position `count` entries after another one; the counter turns over at the end of the ring. */
  private after(position: number, count: number): number {
    const index = (position & ~WRAP) + count;
    return index < this.size ? (position & WRAP) | index : (~position & WRAP) | (index - this.size);
  }

  complete(id: number, slots: number, written: number): void {
    const words = this.words;
    const next = words[this.at + QueueWord.NEXT_USED];
    const index = next & ~WRAP;
    this.ring[index * 4 + 2] = written;
    this.ringFlags[index * 8 + 6] = id;
    words[this.at + QueueWord.NEXT_USED] = this.after(next, slots);
    // A release, flags last (2.8.21.2.1): the driver that sees them sees id, length and data. WRITE tells that
    // `written` counts (2.8.6).
    const flags = (next & WRAP ? AVAILABLE | USED : 0) | (written > 0 ? Descriptor.WRITE : 0);
    Atomics.store(this.ringFlags, index * 8 + 7, flags);
  }

  wantsInterrupt(): boolean {
    const words = this.words;
    const next = words[this.at + QueueWord.NEXT_USED];
    const before = words[this.at + QueueWord.SIGNALLED];
    if (next === before) return false;
    words[this.at + QueueWord.SIGNALLED] = next;
    // As in the split queue: the flags were stored before this is read, so one of the two sides sees the other.
    const flags = Atomics.load(this.driverEvent, EVENT_FLAGS) & 3;
    if (flags === EVENTS_DISABLE) return false;
    if (flags !== EVENTS_POSITION || !this.eventIndex) return true;
    // 2.8.10: whether the position asked for is among those passed since; counted back from `next`.
    const position = Atomics.load(this.driverEvent, EVENT_POSITION);
    const passed = this.distance(before, next);
    const back = this.distance(position, next);
    return back > 0 && back <= passed;
  }

  /** Entries from one position to a later one, within two rounds of the ring. */
  private distance(from: number, to: number): number {
    const entries = (to & ~WRAP) - (from & ~WRAP);
    return ((from ^ to) & WRAP) !== 0 ? entries + this.size : entries < 0 ? entries + 2 * this.size : entries;
  }

  disableNotifications(): void {
    Atomics.store(this.deviceEvent, EVENT_FLAGS, EVENTS_DISABLE);
  }

  enableNotifications(): boolean {
    const next = this.words[this.at + QueueWord.NEXT_AVAILABLE];
    if (this.eventIndex) {
      // Position before flags: a driver that sees POSITION reads the one that belongs to it (2.8.10).
      Atomics.store(this.deviceEvent, EVENT_POSITION, next);
      Atomics.store(this.deviceEvent, EVENT_FLAGS, EVENTS_POSITION);
    } else Atomics.store(this.deviceEvent, EVENT_FLAGS, EVENTS_ENABLE);
    // The other half of the race: a request that came before the stores went unannounced.
    return this.offered(next);
  }
}

function aligned(memory: GuestMemory, address: number, length: number, alignment: number): number {
  if (address % alignment !== 0) return -1;
  return memory.offset(address, length);
}
