/**
 * Bytes from thread to thread through shared memory: the console's two directions. Any number of writers (a guest may
 * talk on two consoles at once), one reader; nobody waits for room or for bytes inside.
 *
 * A thread that looks for room before it lets a device push a byte may find others at the same: between its look and its
 * push each of them pushes as well. So a ring looks full to all who ask while it still takes what they have asked for.
 */

const HEAD = 0; // bytes ever written, modulo 2^32
const TAIL = 1; // bytes ever read, modulo 2^32
const WRITER = 2; // 1 while somebody writes
const RESERVE = 3; // bytes that only push() takes
const HEADER_WORDS = 16;

/** A byte queue over a SharedArrayBuffer. */
export class ByteRing {
  /** Shared memory of a ring; pass it to the other Worker and construct there too. */
  readonly buffer: SharedArrayBuffer;
  /** Word 0 changes, with `Atomics.notify`, whenever bytes are written; word 1 whenever bytes are read. */
  readonly words: Int32Array<SharedArrayBuffer>;
  private readonly bytes: Uint8Array;
  private readonly mask: number;
  /** Bytes from which on the ring is full to all but {@link push}. */
  private readonly limit: number;

  /** @param buffer from {@link ByteRing.allocate} */
  constructor(buffer: SharedArrayBuffer) {
    this.buffer = buffer;
    this.words = new Int32Array(buffer, 0, HEADER_WORDS);
    this.bytes = new Uint8Array(buffer, HEADER_WORDS * 4);
    this.mask = this.bytes.length - 1;
    this.limit = this.bytes.length - this.words[RESERVE];
  }

  /**
   * @param capacity bytes; a power of two
   * @param pushers threads that look for room before they {@link push} a byte
   */
  static allocate(capacity: number, pushers = 0): SharedArrayBuffer {
    const buffer = new SharedArrayBuffer(HEADER_WORDS * 4 + capacity);
    new Int32Array(buffer)[RESERVE] = pushers;
    return buffer;
  }

  /** Bytes waiting to be read. */
  get length(): number {
    return (Atomics.load(this.words, HEAD) - Atomics.load(this.words, TAIL)) | 0;
  }

  /** Bytes that {@link write} takes now. */
  get room(): number {
    return Math.max(0, this.limit - this.length);
  }

  /** Whether there was no room a moment ago: plain reads, for a hot path that asks again later. */
  get seemsFull(): boolean {
    return ((this.words[HEAD] - this.words[TAIL]) | 0) >= this.limit;
  }

  /** Writes one byte, also into the reserve of those who had seen room; false when there is none at all. */
  push(byte: number): boolean {
    this.lockWriters();
    const head = Atomics.load(this.words, HEAD);
    const fits = ((head - Atomics.load(this.words, TAIL)) | 0) < this.bytes.length;
    if (fits) {
      this.bytes[head & this.mask] = byte;
      Atomics.store(this.words, HEAD, (head + 1) | 0);
    }
    Atomics.store(this.words, WRITER, 0);
    if (fits) Atomics.notify(this.words, HEAD);
    return fits;
  }

  /** Spins: a writer holds it for as long as it copies. */
  private lockWriters(): void {
    while (Atomics.compareExchange(this.words, WRITER, 0, 1) !== 0);
  }

  /** Takes one byte; -1 when there is none. */
  shift(): number {
    const tail = Atomics.load(this.words, TAIL);
    if (Atomics.load(this.words, HEAD) === tail) return -1;
    const byte = this.bytes[tail & this.mask];
    Atomics.store(this.words, TAIL, (tail + 1) | 0);
    Atomics.notify(this.words, TAIL);
    return byte;
  }

  /** Writes `source[start, end)` as far as there is room; returns how many bytes went in. */
  write(source: Uint8Array, start = 0, end: number = source.length): number {
    this.lockWriters();
    const head = Atomics.load(this.words, HEAD);
    const count = Math.min(end - start, Math.max(0, this.limit - ((head - Atomics.load(this.words, TAIL)) | 0)));
    for (let i = 0; i < count; i++) this.bytes[(head + i) & this.mask] = source[start + i];
    if (count > 0) Atomics.store(this.words, HEAD, (head + count) | 0);
    Atomics.store(this.words, WRITER, 0);
    if (count > 0) Atomics.notify(this.words, HEAD);
    return count;
  }

  /** Reads into `target[start, end)` as far as there are bytes; returns how many. */
  read(target: Uint8Array, start = 0, end: number = target.length): number {
    const tail = Atomics.load(this.words, TAIL);
    const count = Math.min(end - start, (Atomics.load(this.words, HEAD) - tail) | 0);
    for (let i = 0; i < count; i++) target[start + i] = this.bytes[(tail + i) & this.mask];
    if (count > 0) {
      Atomics.store(this.words, TAIL, (tail + count) | 0);
      Atomics.notify(this.words, TAIL);
    }
    return count;
  }
}
