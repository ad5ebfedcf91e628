/** Vectors made of plain memory, and windows into others. */
import type { IoVector } from "./disk.ts";

/** Bytes of all pieces. */
export function vectorLength(vector: IoVector): number {
  let length = 0;
  for (let i = 0; i < vector.count; i++) length += vector.lengths[i];
  return length;
}

/** One piece of ordinary memory as a vector; point it elsewhere with {@link BufferVector.set}. */
export class BufferVector implements IoVector {
  bytes: Uint8Array;
  readonly hostAddress = 0;
  readonly offsets: Float64Array = new Float64Array(1);
  readonly lengths: Int32Array = new Int32Array(1);
  count = 1;
  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.lengths[0] = bytes.length;
  }
  /** Takes `length` bytes of `bytes` from `offset` on. */
  set(bytes: Uint8Array, offset: number, length: number): this {
    this.bytes = bytes;
    this.offsets[0] = offset;
    this.lengths[0] = length;
    return this;
  }
}

/** A part of another vector, reused from request to request. */
export class VectorWindow implements IoVector {
  bytes: Uint8Array = new Uint8Array(0);
  hostAddress = 0;
  offsets: Float64Array = new Float64Array(16);
  lengths: Int32Array = new Int32Array(16);
  count = 0;
  /** Shows `length` bytes of `vector` from its byte `skip` on. */
  set(vector: IoVector, skip: number, length: number): this {
    this.bytes = vector.bytes;
    this.hostAddress = vector.hostAddress;
    if (this.offsets.length < vector.count) {
      this.offsets = new Float64Array(vector.count);
      this.lengths = new Int32Array(vector.count);
    }
    let n = 0;
    for (let i = 0; i < vector.count && length > 0; i++) {
      const piece = vector.lengths[i];
      if (skip >= piece) {
        skip -= piece;
        continue;
      }
      const take = Math.min(piece - skip, length);
      this.offsets[n] = vector.offsets[i] + skip;
      this.lengths[n] = take;
      n++;
      length -= take;
      skip = 0;
    }
    this.count = n;
    return this;
  }
}

/** Fills bytes `from` .. `to` of a vector with zeroes. */
export function zeroVector(vector: IoVector, from: number, to: number): void {
  let position = 0;
  for (let i = 0; i < vector.count && position < to; i++) {
    const end = position + vector.lengths[i];
    if (end > from) {
      const start = vector.offsets[i] + Math.max(0, from - position);
      vector.bytes.fill(0, start, vector.offsets[i] + Math.min(end, to) - position);
    }
    position = end;
  }
}
