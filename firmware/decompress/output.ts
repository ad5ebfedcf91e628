/** A growing output buffer with a bound: compressed data was written by strangers. */

/** What is wrong with compressed data, in words. */
export class CompressionError extends Error {
  override readonly name = "CompressionError";
}

/** Bytes written one after the other, never more than `limit` of them. */
export class Output {
  bytes: Uint8Array;
  length = 0;
  private readonly limit: number;

  /**
   * @param expected a first guess of the final size
   * @param limit most bytes there may be
   */
  constructor(expected: number, limit: number) {
    this.limit = limit;
    this.bytes = new Uint8Array(Math.max(64, Math.min(expected, limit)));
  }

  /**
   * Makes room for `count` more bytes, or for as many as the limit allows.
   * @param slack bytes behind them that may be written and do not count
   */
  room(count: number, slack: number): void {
    const needed = Math.min(this.limit, this.length + count) + slack;
    if (needed <= this.bytes.length) return;
    const grown = new Uint8Array(Math.max(needed, Math.min(this.limit, this.bytes.length * 2) + slack));
    grown.set(this.bytes.subarray(0, this.length));
    this.bytes = grown;
  }

  /** Makes room for `count` more bytes. Throws when that passes the limit. */
  reserve(count: number): void {
    const needed = this.length + count;
    if (needed <= this.bytes.length) return;
    if (needed > this.limit) this.overflow();
    this.room(count, 0);
  }

  /** Refuses more bytes than the limit. */
  overflow(): never {
    throw new CompressionError(`unpacks to more than ${this.limit} bytes`);
  }

  append(data: Uint8Array): void {
    this.reserve(data.length);
    this.bytes.set(data, this.length);
    this.length += data.length;
  }

  finish(): Uint8Array {
    return this.bytes.subarray(0, this.length);
  }
}
