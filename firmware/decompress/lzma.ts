/**
 * LZMA and LZMA2 (the LZMA SDK's lzma-specification.txt; LZMA2 chunks as in "The .xz File Format" and liblzma).
 *
 * The output buffer is the dictionary: all of it stays in memory anyway.
 */
import { CompressionError, type Output } from "./output.ts";

// Where each group of probabilities begins in one array: cheaper to reset and to address than many arrays.
const IS_MATCH = 0; // [12 states][16 positions]
const IS_REP = IS_MATCH + 12 * 16;
const IS_REP_G0 = IS_REP + 12;
const IS_REP_G1 = IS_REP_G0 + 12;
const IS_REP_G2 = IS_REP_G1 + 12;
const IS_REP0_LONG = IS_REP_G2 + 12; // [12][16]
const POS_SLOT = IS_REP0_LONG + 12 * 16; // [4][64]
const POS_SPECIAL = POS_SLOT + 4 * 64; // 115, indexed from base - slot
const ALIGN = POS_SPECIAL + 115; // 16
const MATCH_LENGTH = ALIGN + 16; // choice, choice2, low[16][8], mid[16][8], high[256]
const LENGTH_CODER = 2 + 16 * 8 * 2 + 256;
const REP_LENGTH = MATCH_LENGTH + LENGTH_CODER;
const LITERAL = REP_LENGTH + LENGTH_CODER; // [1 << (lc + lp)][0x300]

function truncated(): never {
  throw new CompressionError("the LZMA data is cut short");
}

function damaged(): never {
  throw new CompressionError("the LZMA data is damaged");
}

/** Decodes LZMA packets behind what an {@link Output} holds. */
class LzmaDecoder {
  private readonly out: Output;
  private probabilities = new Uint16Array(LITERAL);
  private lc = 0;
  private literalPositionMask = 0;
  private positionMask = 0;
  private state = 0;
  private rep0 = 0;
  private rep1 = 0;
  private rep2 = 0;
  private rep3 = 0;
  /** Where in the output the dictionary begins. */
  private dictionary = 0;
  /** Where in the output positions are counted from. */
  private origin = 0;

  private input: Uint8Array;
  at = 0;
  private end = 0;
  private range = 0;
  private code = 0;

  constructor(input: Uint8Array, out: Output) {
    this.input = input;
    this.out = out;
  }

  resetDictionary(): void {
    this.dictionary = this.origin = this.out.length;
  }

  /** @param properties (pb * 5 + lp) * 9 + lc */
  setProperties(properties: number): void {
    if (properties >= 225) damaged();
    this.lc = properties % 9;
    const lp = Math.floor(properties / 9) % 5;
    this.literalPositionMask = (1 << lp) - 1;
    this.positionMask = (1 << Math.floor(properties / 45)) - 1;
    const size = LITERAL + (0x300 << (this.lc + lp));
    if (this.probabilities.length !== size) this.probabilities = new Uint16Array(size);
  }

  resetState(): void {
    this.probabilities.fill(1024);
    this.state =
      this.rep0 =
      this.rep1 =
      this.rep2 =
      this.rep3 =
        0;
  }

  /** Starts the range coder on `input[at..end)`. */
  start(at: number, end: number): void {
    if (at + 5 > end) truncated();
    const input = this.input;
    if (input[at] !== 0) damaged();
    this.code = (input[at + 1] << 24 | input[at + 2] << 16 | input[at + 3] << 8 | input[at + 4]) >>> 0;
    this.range = 0xffffffff;
    this.at = at + 5;
    this.end = end;
  }

  /** Whether the range coder stands where an encoder leaves it. */
  finished(): boolean {
    return this.code === 0;
  }

  private bit(index: number): number {
    const probability = this.probabilities[index];
    const bound = Math.imul(this.range >>> 11, probability) >>> 0;
    let result: number;
    if (this.code < bound) {
      this.range = bound;
      this.probabilities[index] = probability + ((2048 - probability) >> 5);
      result = 0;
    } else {
      this.range = (this.range - bound) >>> 0;
      this.code = (this.code - bound) >>> 0;
      this.probabilities[index] = probability - (probability >> 5);
      result = 1;
    }
    if (this.range < 0x1000000) {
      this.range = (this.range << 8) >>> 0;
      this.code = ((this.code << 8) | this.input[this.at++]) >>> 0;
    }
    return result;
  }

  private direct(bits: number): number {
    let value = 0;
    for (; bits > 0; bits--) {
      this.range >>>= 1;
      const one = this.code >= this.range ? 1 : 0;
      if (one) this.code = (this.code - this.range) >>> 0;
      value = value << 1 | one;
      if (this.range < 0x1000000) {
        this.range = (this.range << 8) >>> 0;
        this.code = ((this.code << 8) | this.input[this.at++]) >>> 0;
      }
    }
    return value;
  }

  private tree(base: number, bits: number): number {
    let node = 1;
    for (let i = 0; i < bits; i++) node = node << 1 | this.bit(base + node);
    return node - (1 << bits);
  }

  private reverseTree(base: number, bits: number): number {
    let node = 1;
    let value = 0;
    for (let i = 0; i < bits; i++) {
      const one = this.bit(base + node);
      node = node << 1 | one;
      value |= one << i;
    }
    return value;
  }

  private length(base: number, position: number): number {
    if (this.bit(base) === 0) return 2 + this.tree(base + 2 + position * 8, 3);
    if (this.bit(base + 1) === 0) return 10 + this.tree(base + 2 + 128 + position * 8, 3);
    return 18 + this.tree(base + 2 + 256, 8);
  }

  private literal(previous: number, matched: number): number {
    const probabilities = this.probabilities;
    const input = this.input;
    const group = ((this.out.length - this.origin & this.literalPositionMask) << this.lc) + (previous >> (8 - this.lc));
    const base = LITERAL + 0x300 * group;
    let range = this.range;
    let code = this.code;
    let at = this.at;
    let symbol = 1;
    // After a match the byte it would have continued with helps to predict, until they differ.
    let offset = matched < 0 ? 0 : 0x100;
    while (symbol < 0x100) {
      let index = base + symbol;
      let expected = 0;
      if (offset !== 0) {
        matched <<= 1;
        expected = matched & 0x100;
        index += 0x100 + expected;
      }
      const probability = probabilities[index];
      const bound = Math.imul(range >>> 11, probability) >>> 0;
      if (code < bound) {
        range = bound;
        probabilities[index] = probability + ((2048 - probability) >> 5);
        symbol <<= 1;
        if (expected !== 0) offset = 0;
      } else {
        range = (range - bound) >>> 0;
        code = (code - bound) >>> 0;
        probabilities[index] = probability - (probability >> 5);
        symbol = symbol << 1 | 1;
        if (expected === 0) offset = 0;
      }
      if (range < 0x1000000) {
        range = (range << 8) >>> 0;
        code = ((code << 8) | input[at++]) >>> 0;
      }
    }
    this.range = range;
    this.code = code;
    this.at = at;
    return symbol & 0xff;
  }

  /**
   * Decodes packets until `size` bytes came out (Infinity: until the end marker).
   * @returns whether it stopped at an end marker
   */
  decode(size: number): boolean {
    const out = this.out;
    const stop = out.length + size;
    while (out.length < stop) {
      // Reading past the end gave zeroes; looking once a packet is enough.
      if (this.at > this.end) truncated();
      const position = out.length - this.origin & this.positionMask;
      const state = this.state;
      if (out.length === out.bytes.length) out.reserve(1);
      if (this.bit(IS_MATCH + state * 16 + position) === 0) {
        const to = out.length;
        const previous = to > this.dictionary ? out.bytes[to - 1] : 0;
        if (state >= 7) {
          const source = to - this.rep0 - 1;
          if (source < this.dictionary) damaged();
          out.bytes[to] = this.literal(previous, out.bytes[source]);
        } else {
          out.bytes[to] = this.literal(previous, -1);
        }
        out.length = to + 1;
        this.state = state < 4 ? 0 : state < 10 ? state - 3 : state - 6;
        continue;
      }
      let length: number;
      if (this.bit(IS_REP + state) !== 0) {
        if (this.bit(IS_REP_G0 + state) === 0) {
          if (this.bit(IS_REP0_LONG + state * 16 + position) === 0) {
            const source = out.length - this.rep0 - 1;
            if (source < this.dictionary) damaged();
            out.bytes[out.length++] = out.bytes[source];
            this.state = state < 7 ? 9 : 11;
            continue;
          }
        } else {
          let distance: number;
          if (this.bit(IS_REP_G1 + state) === 0) {
            distance = this.rep1;
          } else {
            if (this.bit(IS_REP_G2 + state) === 0) {
              distance = this.rep2;
            } else {
              distance = this.rep3;
              this.rep3 = this.rep2;
            }
            this.rep2 = this.rep1;
          }
          this.rep1 = this.rep0;
          this.rep0 = distance;
        }
        length = this.length(REP_LENGTH, position);
        this.state = state < 7 ? 8 : 11;
      } else {
        this.rep3 = this.rep2;
        this.rep2 = this.rep1;
        this.rep1 = this.rep0;
        length = this.length(MATCH_LENGTH, position);
        this.state = state < 7 ? 7 : 10;
        const slot = this.tree(POS_SLOT + Math.min(length - 2, 3) * 64, 6);
        if (slot < 4) {
          this.rep0 = slot;
        } else {
          const bits = (slot >> 1) - 1;
          const base = (2 | slot & 1) << bits;
          if (slot < 14) {
            this.rep0 = base + this.reverseTree(POS_SPECIAL + base - slot, bits);
          } else {
            this.rep0 = (base + (this.direct(bits - 4) << 4 >>> 0) + this.reverseTree(ALIGN, 4)) >>> 0;
            if (this.rep0 === 0xffffffff) {
              if (size !== Infinity) damaged();
              if (this.at > this.end) truncated();
              return true;
            }
          }
        }
      }
      let source = out.length - this.rep0 - 1;
      if (source < this.dictionary || out.length + length > stop) damaged();
      if (out.length + length > out.bytes.length) out.reserve(length);
      const bytes = out.bytes;
      let to = out.length;
      for (const last = to + length; to < last;) bytes[to++] = bytes[source++];
      out.length = to;
    }
    if (this.at > this.end) truncated();
    return false;
  }
}

/** Unpacks LZMA2 chunks at `start`; returns where they end. */
export function unpackLzma2(input: Uint8Array, start: number, out: Output): number {
  const decoder = new LzmaDecoder(input, out);
  let at = start;
  let dictionaryReady = false;
  let propertiesReady = false;
  let stateReady = false;
  for (;;) {
    if (at >= input.length) truncated();
    const control = input[at++];
    if (control === 0) return at;
    if (control >= 0xe0 || control === 1) {
      decoder.resetDictionary();
      dictionaryReady = true;
    }
    if (!dictionaryReady) damaged();
    if (control < 0x80) {
      if (control > 2) damaged();
      if (at + 2 > input.length) truncated();
      const size = (input[at] << 8 | input[at + 1]) + 1;
      at += 2;
      if (at + size > input.length) truncated();
      out.append(input.subarray(at, at + size));
      at += size;
      continue;
    }
    if (at + 5 > input.length) truncated();
    const size = ((control & 0x1f) << 16 | input[at] << 8 | input[at + 1]) + 1;
    const packed = (input[at + 2] << 8 | input[at + 3]) + 1;
    at += 4;
    const reset = control >> 5 & 3;
    if (reset >= 2) {
      decoder.setProperties(input[at++]);
      propertiesReady = true;
    }
    if (!propertiesReady) damaged();
    if (reset >= 1) {
      decoder.resetState();
      stateReady = true;
    }
    if (!stateReady) damaged();
    if (at + packed > input.length) truncated();
    decoder.start(at, at + packed);
    decoder.decode(size);
    at += packed;
    if (decoder.at !== at) damaged();
  }
}

/** Unpacks a `.lzma` file (header of 13 bytes: properties, dictionary size, size or -1); returns where it ends. */
export function unpackLzmaAlone(input: Uint8Array, start: number, out: Output): number {
  if (start + 13 > input.length) truncated();
  const view = new DataView(input.buffer, input.byteOffset + start, 13);
  const low = view.getUint32(5, true);
  const high = view.getUint32(9, true);
  const unknown = low === 0xffffffff && high === 0xffffffff;
  const decoder = new LzmaDecoder(input, out);
  decoder.resetDictionary();
  decoder.setProperties(input[start]);
  decoder.resetState();
  decoder.start(start + 13, input.length);
  decoder.decode(unknown ? Infinity : high * 2 ** 32 + low);
  if (unknown && !decoder.finished()) damaged();
  return Math.min(decoder.at, input.length);
}
