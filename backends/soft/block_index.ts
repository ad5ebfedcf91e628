/** Finds a vCPU's decoded blocks by their keys, also those that others pushed out of the block table. */
import { Block } from "./layout.ts";

/** Places of an empty index. */
const SMALLEST = 4096;

/**
 * Addresses of blocks, hashed by what their headers hold as {@link Block.KEY}: a block costs 8 bytes or less here, and
 * there are hundreds of thousands. Linear probing; what is removed leaves no gap.
 */
export class BlockIndex {
  /** 0: free. Always a power of two, at most half of them used. */
  private slots = new Uint32Array(SMALLEST);
  private used = 0;

  constructor(private readonly view: DataView) {}

  /** Address of the block whose key has these 32-bit halves, or 0. */
  find(low: number, high: number): number {
    const { view, slots } = this;
    const mask = slots.length - 1;
    for (let at = hash(low, high) & mask;; at = (at + 1) & mask) {
      const address = slots[at];
      if (address === 0) return 0;
      if (
        view.getInt32(address + Block.KEY, true) === low && view.getInt32(address + Block.KEY + 4, true) === high
      ) return address;
    }
  }

  /** Adds a block, which must not be known. */
  add(address: number): void {
    if (++this.used * 2 > this.slots.length) {
      const old = this.slots;
      this.slots = new Uint32Array(old.length * 2);
      for (const known of old) if (known !== 0) this.place(known);
    }
    this.place(address);
  }

  /** Removes a block, whose header must still have its key; nothing happens when it is not known. */
  remove(address: number): void {
    const { slots } = this;
    const mask = slots.length - 1;
    let gap = this.home(address);
    for (; slots[gap] !== address; gap = (gap + 1) & mask) if (slots[gap] === 0) return;
    for (let at = (gap + 1) & mask; slots[at] !== 0; at = (at + 1) & mask) {
      // It may move up unless it would come before where its own search begins.
      if (((at - this.home(slots[at])) & mask) < ((at - gap) & mask)) continue;
      slots[gap] = slots[at];
      gap = at;
    }
    slots[gap] = 0;
    this.used--;
  }

  clear(): void {
    this.slots = new Uint32Array(SMALLEST);
    this.used = 0;
  }

  private home(address: number): number {
    const { view, slots } = this;
    return hash(view.getInt32(address + Block.KEY, true), view.getInt32(address + Block.KEY + 4, true)) &
      (slots.length - 1);
  }

  private place(address: number): void {
    const { slots } = this;
    let at = this.home(address);
    while (slots[at] !== 0) at = (at + 1) & (slots.length - 1);
    slots[at] = address;
  }
}

/** The upper half of a block's key. */
export function keyUpper(physical: number, mode: number): number {
  return (mode << 20) | Math.floor(physical / 2 ** 32);
}

function hash(low: number, high: number): number {
  const mixed = Math.imul(low ^ Math.imul(high, 0x9e3779b1), 0x85ebca6b);
  return mixed ^ (mixed >>> 15);
}
