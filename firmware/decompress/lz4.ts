/** LZ4: the legacy frame that kernels are packed with, and the current frame format (LZ4 Frame Format 1.6.3). */
import { CompressionError, type Output } from "./output.ts";
import { xxh32 } from "./xxh32.ts";

/** Frame magics. */
export const LZ4_LEGACY = 0x184c2102;
export const LZ4_FRAME = 0x184d2204;

/** A legacy frame's blocks each hold this much, but for the last; no other frame's blocks hold more. */
export const LZ4_LARGEST_BLOCK = 8 << 20;
const LEGACY_BLOCK = LZ4_LARGEST_BLOCK;
/** LZ4_compressBound(LEGACY_BLOCK): what a legacy block can be at most. */
const LEGACY_BOUND = LEGACY_BLOCK + Math.floor(LEGACY_BLOCK / 255) + 16;
const BLOCK_SIZES: Record<number, number> = { 4: 64 << 10, 5: 256 << 10, 6: 1 << 20, 7: 4 << 20 };

function truncated(): never {
  throw new CompressionError("the lz4 data is cut short");
}

function u32(bytes: Uint8Array, at: number): number {
  if (at + 4 > bytes.length) truncated();
  return (bytes[at] | bytes[at + 1] << 8 | bytes[at + 2] << 16 | bytes[at + 3] << 24) >>> 0;
}

/** Copies go by words and may write so much too far; what lies there is written again or cut off. */
const SLACK = 3;
/** From this length on the platform's own copy is faster. */
const LONG = 64;

/**
 * Unpacks one block (LZ4 Block Format) behind what `out` holds.
 * @param from first byte in `out` that a match may reach back to
 * @param most bytes the block may unpack to
 */
function block(input: Uint8Array, start: number, end: number, out: Output, from: number, most: number): void {
  const stop = out.length + most;
  // A block's input tells nothing of its output but this bound: 255 bytes of a match for one byte.
  const bound = Math.min(most, (end - start) * 255);
  out.room(bound, SLACK);
  const { bytes } = out;
  const target = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const source = new DataView(input.buffer, input.byteOffset, input.length);
  const room = bytes.length - SLACK;
  const wordsEnd = input.length - SLACK;
  let to = out.length;
  let at = start;
  while (at < end) {
    const token = input[at++];
    let literals = token >> 4;
    if (literals === 15) {
      let more = 255;
      while (more === 255) {
        if (at >= end) truncated();
        more = input[at++];
        literals += more;
      }
    }
    if (at + literals > end) truncated();
    if (to + literals > stop) throw new CompressionError("an lz4 block is larger than its frame allows");
    if (to + literals > room) out.overflow();
    if (literals > LONG) {
      bytes.set(input.subarray(at, at + literals), to);
    } else if (at + literals <= wordsEnd) {
      for (let i = 0; i < literals; i += 4) target.setInt32(to + i, source.getInt32(at + i, true), true);
    } else {
      for (let i = 0; i < literals; i++) bytes[to + i] = input[at + i];
    }
    at += literals;
    to += literals;
    if (at === end) break; // a block ends with literals
    if (at + 2 > end) truncated();
    const distance = input[at] | input[at + 1] << 8;
    at += 2;
    let length = (token & 15) + 4;
    if (length === 19) {
      let more = 255;
      while (more === 255) {
        if (at >= end) truncated();
        more = input[at++];
        length += more;
      }
    }
    if (distance === 0 || to - distance < from) throw new CompressionError("lz4 data refers to before its beginning");
    if (to + length > stop) throw new CompressionError("an lz4 block is larger than its frame allows");
    if (to + length > room) out.overflow();
    const back = to - distance;
    if (distance < 4) {
      for (let i = 0; i < length; i++) bytes[to + i] = bytes[back + i];
    } else if (length > LONG && distance >= length) {
      bytes.copyWithin(to, back, back + length);
    } else {
      for (let i = 0; i < length; i += 4) target.setInt32(to + i, target.getInt32(back + i, true), true);
    }
    to += length;
  }
  out.length = to;
}

/** Unpacks a legacy frame at `start`; returns where it ends (a size trailer as kernels append is left to the caller). */
export function unpackLz4Legacy(input: Uint8Array, start: number, out: Output): number {
  let at = start + 4;
  while (at + 8 <= input.length) {
    const size = u32(input, at);
    if (size === LZ4_LEGACY) {
      at += 4;
      continue;
    }
    // The frame has no end mark: what cannot be a block's size belongs to whatever follows.
    if (size === 0 || size > LEGACY_BOUND) break;
    if (at + 4 + size > input.length) truncated();
    block(input, at + 4, at + 4 + size, out, out.length, LEGACY_BLOCK);
    at += 4 + size;
  }
  if (at === start + 4) truncated();
  return at;
}

/** Unpacks a current frame at `start`; returns where it ends. */
export function unpackLz4Frame(input: Uint8Array, start: number, out: Output): number {
  if (start + 7 > input.length) truncated();
  const flags = input[start + 4];
  if (flags >> 6 !== 1) throw new CompressionError("an lz4 frame of an unknown version");
  if (flags & 1) throw new CompressionError("an lz4 frame that needs a dictionary");
  const most = BLOCK_SIZES[input[start + 5] >> 4 & 7];
  if (most === undefined) throw new CompressionError("a damaged lz4 frame header");
  const independent = (flags & 0x20) !== 0;
  let at = start + 6 + (flags & 8 ? 8 : 0);
  if (at >= input.length) truncated();
  // Header checksum: second byte of xxh32 over the descriptor (section "Frame Descriptor").
  if (input[at] !== (xxh32(input.subarray(start + 4, at)) >>> 8 & 0xff)) {
    throw new CompressionError("a damaged lz4 frame header");
  }
  at++;
  const first = out.length;
  for (;;) {
    const size = u32(input, at);
    at += 4;
    if (size === 0) break;
    const stored = size & 0x7fffffff;
    if (at + stored > input.length) truncated();
    if (size >>> 31) {
      if (stored > most) throw new CompressionError("an lz4 block is larger than its frame allows");
      out.append(input.subarray(at, at + stored));
    } else {
      block(input, at, at + stored, out, independent ? out.length : first, most);
    }
    at += stored + (flags & 0x10 ? 4 : 0);
  }
  if (flags & 4) {
    if (u32(input, at) !== xxh32(out.bytes.subarray(first, out.length))) {
      throw new CompressionError("the lz4 data's checksum is wrong");
    }
    at += 4;
  }
  return at;
}
