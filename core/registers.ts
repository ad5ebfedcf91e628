/**
 * A device's registers: 32-bit words in shared memory, so that whichever thread took the exit can run the
 * device's handler, and a snapshot of all devices is a copy of bytes.
 *
 * A device names its words once (`const LCR = 3`) and keeps nothing it must remember anywhere else. A 64-bit register
 * takes two words, low first. Word 0 is the lock: {@link Registers.lock} is taken by the bus around every handler, and
 * by I/O Workers around what they do to a device.
 */

import { type Mutex, mutexMemory, mutexOver } from "./mutex.ts";

/** Words that {@link Registers} keeps for itself at the front of each block: lock, then reserved. */
export const FIRST_WORD = 2;

/** One device's block of registers. */
export class Registers {
  /** Int32 words; a device's own begin at {@link FIRST_WORD}. */
  readonly words: Int32Array;
  private readonly take: (address: number) => void;
  private readonly give: (address: number) => void;
  private readonly address: number;

  constructor(words: Int32Array, mutex: Mutex) {
    this.words = words;
    this.take = mutex.lock;
    this.give = mutex.unlock;
    this.address = words.byteOffset;
  }

  /** Waits for the device's lock. Not reentrant; held for a handler's few instructions only. */
  lock(): void {
    this.take(this.address);
  }

  unlock(): void {
    this.give(this.address);
  }
}

/**
 * Hands out register blocks of one shared memory in the order devices are built. Every Worker builds the same devices
 * in the same order over the same memory, so the same device finds the same block.
 */
export class RegisterFile {
  readonly memory: WebAssembly.Memory;
  private readonly mutex: Mutex;
  private next = 0;

  /** @param memory all device registers of one machine, of {@link RegisterFile.allocate} */
  constructor(memory: WebAssembly.Memory = RegisterFile.allocate()) {
    this.memory = memory;
    this.mutex = mutexOver(memory);
  }

  /** Memory with room for every device a machine may have, or for `bytes`. */
  static allocate(bytes: number = 1 << 20): WebAssembly.Memory {
    return mutexMemory(bytes);
  }

  /** @param count words the device needs besides {@link FIRST_WORD} */
  allocate(count: number): Registers {
    // 64-byte steps: two devices never share a cache line, so their locks do not contend.
    const bytes = (((count + FIRST_WORD) * 4 + 63) >> 6) << 6;
    if (this.next + bytes > this.memory.buffer.byteLength) throw new RangeError("the machine has too many devices");
    const registers = new Registers(new Int32Array(this.memory.buffer, this.next, bytes / 4), this.mutex);
    this.next += bytes;
    return registers;
  }
}
