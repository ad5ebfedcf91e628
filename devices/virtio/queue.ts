/**
 * A virtqueue as a device sees it, whichever ring layout the driver chose (virtio 1.2, 2.7 split, 2.8 packed).
 *
 * Everything in a ring was written by a guest. A queue checks each descriptor once, while it fills a {@link Chain};
 * what stands in the chain afterwards indexes guest memory safely. Nothing is allocated between activation and reset.
 */
import type { GuestMemory } from "../../core/memory.ts";
import type { IoVector } from "../../storage/disk.ts";

/** Words of one queue, from `VirtioDevice.queueWord` on. */
export const QueueWord = {
  SIZE: 0,
  VECTOR: 1,
  ENABLE: 2,
  DESCRIPTORS: 3, // two words each, low first
  DRIVER: 5,
  DEVICE: 7,
  /** 1 while a queue reset waits for the data plane. */
  RESET: 9,
  /** Rises with every reset: the data plane then forgets the ring it had. */
  EPOCH: 10,
  /** 1 once the data plane has taken the ring up: the three words after it count from there. */
  ACTIVE: 11,
  NEXT_AVAILABLE: 12,
  NEXT_USED: 13,
  SIGNALLED: 14,
  /** The device's own; 0 after a reset. */
  PROGRESS: 15,
} as const;
/** Most pieces in one chain, indirect ones included; as many as one `preadv` takes (IOV_MAX). */
export const MAX_CHAIN = 1024;
/** Most bytes in one chain: a sum stays an int32. */
export const MAX_CHAIN_BYTES = 0x7fff_ffff;

/** What {@link Virtqueue.peek} found. */
export const Peek = {
  /** The driver offered something that cannot be: the device needs a reset. */
  BROKEN: -1,
  EMPTY: 0,
  CHAIN: 1,
} as const;

/** One request of the driver: device-readable pieces first, device-writable ones after them (2.7.4.2). */
export class Chain {
  /** Offsets of the pieces into `GuestMemory.bytes`. */
  readonly offsets = new Float64Array(MAX_CHAIN);
  /** Bytes of each piece, none of them empty. */
  readonly lengths = new Int32Array(MAX_CHAIN);
  /** Pieces in all. */
  count = 0;
  /** How many of them, from the front, the device reads. */
  readable = 0;
  readableBytes = 0;
  writableBytes = 0;
  /** What names the chain when it is given back: head index (split) or buffer id (packed). */
  id = 0;
  /** Ring entries the chain takes; 1 for an indirect one. */
  slots = 0;

  clear(): void {
    this.count = 0;
    this.readable = 0;
    this.readableBytes = 0;
    this.writableBytes = 0;
    this.slots = 0;
  }

  /**
   * Adds a piece of guest memory.
   * @returns false when it is outside RAM, comes in the wrong order, or makes the chain too long
   */
  add(memory: GuestMemory, address: number, length: number, writable: boolean): boolean {
    // 2.7.4.2: a driver puts no device-readable descriptor after a device-writable one.
    if (!writable && this.count > this.readable) return false;
    if (length === 0) return true;
    const offset = memory.offset(address, length);
    if (offset < 0 || this.count === MAX_CHAIN) return false;
    if (length > MAX_CHAIN_BYTES - this.readableBytes - this.writableBytes) return false;
    this.offsets[this.count] = offset;
    this.lengths[this.count] = length;
    this.count++;
    if (writable) this.writableBytes += length;
    else {
      this.readable++;
      this.readableBytes += length;
    }
    return true;
  }

  /**
   * Points `vector` at bytes `[skip, skip + length)` of the readable or the writable part, as far as they go.
   * @returns bytes the vector now holds
   */
  slice(vector: ChainVector, writable: boolean, skip: number, length: number): number {
    let at = writable ? this.readable : 0;
    const end = writable ? this.count : this.readable;
    let count = 0;
    let total = 0;
    for (; at < end && total < length; at++) {
      const piece = this.lengths[at];
      if (skip >= piece) {
        skip -= piece;
        continue;
      }
      const part = Math.min(piece - skip, length - total);
      vector.offsets[count] = this.offsets[at] + skip;
      vector.lengths[count] = part;
      count++;
      total += part;
      skip = 0;
    }
    vector.count = count;
    return total;
  }

  /** Copies device-readable bytes from `skip` on into `target`; returns how many there were. */
  read(memory: GuestMemory, skip: number, target: Uint8Array, length: number): number {
    const bytes = memory.bytes;
    let done = 0;
    for (let i = 0; i < this.readable && done < length; i++) {
      const piece = this.lengths[i];
      if (skip >= piece) {
        skip -= piece;
        continue;
      }
      const part = Math.min(piece - skip, length - done);
      const from = this.offsets[i] + skip;
      for (let k = 0; k < part; k++) target[done + k] = bytes[from + k];
      done += part;
      skip = 0;
    }
    return done;
  }

  /** Copies `length` bytes of `source` into the device-writable part from `skip` on; returns how many fit. */
  write(memory: GuestMemory, skip: number, source: Uint8Array, length: number): number {
    const bytes = memory.bytes;
    let done = 0;
    for (let i = this.readable; i < this.count && done < length; i++) {
      const piece = this.lengths[i];
      if (skip >= piece) {
        skip -= piece;
        continue;
      }
      const part = Math.min(piece - skip, length - done);
      const to = this.offsets[i] + skip;
      for (let k = 0; k < part; k++) bytes[to + k] = source[done + k];
      done += part;
      skip = 0;
    }
    return done;
  }
}

/** An {@link IoVector} over guest memory, made once and pointed at one chain after the other. */
export class ChainVector implements IoVector {
  readonly bytes: Uint8Array;
  readonly hostAddress: number;
  readonly offsets = new Float64Array(MAX_CHAIN);
  readonly lengths = new Int32Array(MAX_CHAIN);
  count = 0;

  constructor(memory: GuestMemory) {
    this.bytes = memory.bytes;
    this.hostAddress = memory.hostAddress;
  }
}

/**
 * An active queue. The order of a request: `peek`, `advance`, the work, `complete`; then, once for any number of them,
 * `wantsInterrupt`. When `peek` says EMPTY: `enableNotifications`, and begin again if it says that more came.
 */
export interface Virtqueue {
  /** Entries of the ring. */
  readonly size: number;
  /** Fills `chain` with the next request without taking it; {@link Peek}. */
  peek(chain: Chain): number;
  /** Takes the request that `peek` just showed. */
  advance(chain: Chain): void;
  /**
   * Gives a request back to the driver, in any order.
   * @param written bytes the device wrote into it
   */
  complete(id: number, slots: number, written: number): void;
  /** Whether the driver wants to hear of what was completed since this was last asked. */
  wantsInterrupt(): boolean;
  /** Asks the driver not to notify; it may do so all the same. */
  disableNotifications(): void;
  /**
   * Asks the driver to notify from the next request on.
   * @returns true when one came before the driver could know: go on working instead of sleeping
   */
  enableNotifications(): boolean;
}

/** What must be known before a queue is activated. */
export interface QueueSetup {
  /** Most entries the device allows. */
  most: number;
  /** Whether INDIRECT_DESC was negotiated. */
  indirect: boolean;
  /** Whether EVENT_IDX was. */
  eventIndex: boolean;
}

/** Descriptor flags, the same in both layouts (2.7.5, 2.8.6). */
export const Descriptor = { NEXT: 1, WRITE: 2, INDIRECT: 4 } as const;

/** Reads an address the driver left in two registers; beyond 2^53 it is inexact, and outside RAM all the same. */
export function wideAddress(words: Int32Array, at: number): number {
  return (words[at] >>> 0) + (words[at + 1] >>> 0) * 0x1_0000_0000;
}
