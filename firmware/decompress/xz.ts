/** The .xz container (The .xz File Format 1.1.0) around LZMA2, with the x86 branch filter that kernels use. */
import { unpackLzma2 } from "./lzma.ts";
import { CompressionError, type Output } from "./output.ts";
import { crypto, zlib } from "./runtime.ts";
import { unfilterX86 } from "./x86_branch_filter.ts";

const FILTER_X86 = 0x04;
const FILTER_LZMA2 = 0x21;
const FOOTER_MAGIC = 0x5a59;
/** Bytes of each kind of check (section 2.1.1.2). */
const CHECK_BYTES = [0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64];

function truncated(): never {
  throw new CompressionError("the xz data is cut short");
}

function damaged(what: string): never {
  throw new CompressionError(`the xz data is damaged: ${what}`);
}

/** CRC-64 of ECMA-182, reflected, in halves: BigInt would take seconds. */
let crc64Low: Uint32Array | undefined;
let crc64High: Uint32Array;
function crc64(data: Uint8Array): [low: number, high: number] {
  if (crc64Low === undefined) {
    crc64Low = new Uint32Array(256);
    crc64High = new Uint32Array(256);
    for (let i = 0; i < 256; i++) {
      let low = i, high = 0;
      for (let bit = 0; bit < 8; bit++) {
        const one = low & 1;
        low = low >>> 1 | high << 31;
        high >>>= 1;
        if (one) {
          low ^= 0xd7870f42;
          high ^= 0xc96c5795;
        }
      }
      crc64Low[i] = low;
      crc64High[i] = high;
    }
  }
  let low = -1, high = -1;
  for (let i = 0; i < data.length; i++) {
    const index = (low ^ data[i]) & 0xff;
    low = (low >>> 8 | high << 24) ^ crc64Low[index];
    high = high >>> 8 ^ crc64High[index];
  }
  return [~low >>> 0, ~high >>> 0];
}

function verify(kind: number, data: Uint8Array, expected: Uint8Array): void {
  const view = new DataView(expected.buffer, expected.byteOffset, expected.length);
  let right = true;
  if (kind === 1) {
    right = zlib().crc32(data) === view.getUint32(0, true);
  } else if (kind === 4) {
    const [low, high] = crc64(data);
    right = low === view.getUint32(0, true) && high === view.getUint32(4, true);
  } else if (kind === 10) {
    right = crypto().createHash("sha256").update(data).digest().equals(expected);
  }
  if (!right) damaged("its checksum is wrong");
}

/** Unpacks one stream at `start`; returns where it ends. */
export function unpackXz(input: Uint8Array, start: number, out: Output): number {
  const view = new DataView(input.buffer, input.byteOffset, input.length);
  const variable = (at: number): [value: number, next: number] => {
    let value = 0;
    for (let i = 0; i < 9; i++) {
      if (at >= input.length) truncated();
      const byte = input[at++];
      value += (byte & 0x7f) * 2 ** (7 * i);
      if (byte < 0x80) return [value, at];
    }
    damaged("an impossible number");
  };
  if (start + 12 > input.length) truncated();
  if (zlib().crc32(input.subarray(start + 6, start + 8)) !== view.getUint32(start + 8, true)) damaged("its header");
  const kind = input[start + 7];
  if (kind > 15 || input[start + 6] !== 0) damaged("unknown flags");
  let at = start + 12;
  for (;;) {
    if (at >= input.length) truncated();
    if (input[at] === 0) break;
    const size = (input[at] + 1) * 4;
    if (at + size > input.length) truncated();
    const header = at;
    at += size;
    if (zlib().crc32(input.subarray(header, at - 4)) !== view.getUint32(at - 4, true)) damaged("a block header");
    const flags = input[header + 1];
    let field = header + 2;
    let packed = -1;
    let unpacked = -1;
    if (flags & 0x40) [packed, field] = variable(field);
    if (flags & 0x80) [unpacked, field] = variable(field);
    let branchFilter = -1;
    for (let i = 0; i <= (flags & 3); i++) {
      let id: number, length: number;
      [id, field] = variable(field);
      [length, field] = variable(field);
      if (field + length > at - 4) damaged("a block header");
      const last = i === (flags & 3);
      if (id === FILTER_X86 && !last && (length === 0 || length === 4)) {
        branchFilter = length === 4 ? view.getUint32(field, true) : 0;
      } else if (!(id === FILTER_LZMA2 && last && length === 1)) {
        throw new CompressionError(`xz data with the filter 0x${id.toString(16)}, which hv does not know`);
      }
      field += length;
    }
    const first = out.length;
    if (unpacked > 0) out.reserve(unpacked);
    const end = unpackLzma2(input, at, out);
    if (packed >= 0 && end - at !== packed) damaged("a block's size");
    const data = out.bytes.subarray(first, out.length);
    if (unpacked >= 0 && data.length !== unpacked) damaged("a block's size");
    if (branchFilter >= 0) unfilterX86(data, branchFilter);
    at = end + (header - end & 3);
    if (at + CHECK_BYTES[kind] > input.length) truncated();
    verify(kind, data, input.subarray(at, at + CHECK_BYTES[kind]));
    at += CHECK_BYTES[kind];
  }
  // The index repeats what the blocks said; only its end is needed.
  const index = at;
  let records: number;
  [records, at] = variable(at + 1);
  for (; records > 0; records--) {
    [, at] = variable(at);
    [, at] = variable(at);
  }
  at += index - at & 3;
  if (at + 16 > input.length) truncated();
  if (zlib().crc32(input.subarray(index, at)) !== view.getUint32(at, true)) damaged("its index");
  at += 4;
  if (view.getUint16(at + 10, true) !== FOOTER_MAGIC) damaged("its end");
  return at + 12;
}
