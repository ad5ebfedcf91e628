/**
 * A device's registers: 32-bit words in a SharedArrayBuffer, so that whichever thread took the exit can run the
 * device's handler, and a snapshot of all devices is a copy of bytes.
 *
 * A device names its words once (`const LCR = 3`) and keeps nothing it must remember anywhere else. A 64-bit register
 * takes two words, low first. Word 0 is the lock: {@link Registers.lock} is taken by the bus around every handler, and
 * by I/O Workers around what they do to a device.
 */

/** Words that {@link Registers} keeps for itself at the front of each block: lock, then reserved. */
export const FIRST_WORD = 2;
const LOCK = 0;

/** One device's block of registers. */
export class Registers {
  /** Int32 words; a device's own begin at {@link FIRST_WORD}. */
  readonly words: Int32Array;

  constructor(words: Int32Array) {
    this.words = words;
  }

  /** Waits for the device's lock. Not reentrant; held for a handler's few instructions only. */
  lock(): void {
    const words = this.words;
    if (Atomics.compareExchange(words, LOCK, 0, 1) === 0) return;
    // 2 = contended: the holder must notify. Whoever has waited takes the lock as contended, since others may still
    // wait; to take it as 1 would leave them asleep for ever. Drepper, "Futexes Are Tricky", mutex 2.
    while (Atomics.exchange(words, LOCK, 2) !== 0) Atomics.wait(words, LOCK, 2);
  }

  unlock(): void {
    if (Atomics.exchange(this.words, LOCK, 0) === 2) Atomics.notify(this.words, LOCK, 1);
  }
}

/**
 * Hands out register blocks of one SharedArrayBuffer in the order devices are built. Every Worker builds the same
 * devices in the same order over the same buffer, so the same device finds the same block.
 */
export class RegisterFile {
  readonly buffer: SharedArrayBuffer;
  private next = 0;

  /** @param buffer all device registers of one machine; {@link RegisterFile.BYTES} unless it comes from a snapshot */
  constructor(buffer: SharedArrayBuffer = new SharedArrayBuffer(RegisterFile.BYTES)) {
    this.buffer = buffer;
  }

  /** Room for every device a machine may have. */
  static readonly BYTES = 1 << 20;

  /** @param count words the device needs besides {@link FIRST_WORD} */
  allocate(count: number): Registers {
    // 64-byte steps: two devices never share a cache line, so their locks do not contend.
    const bytes = (((count + FIRST_WORD) * 4 + 63) >> 6) << 6;
    if (this.next + bytes > this.buffer.byteLength) throw new RangeError("the machine has too many devices");
    const registers = new Registers(new Int32Array(this.buffer, this.next, bytes / 4));
    this.next += bytes;
    return registers;
  }
}
