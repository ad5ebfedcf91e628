/** What kernels and initrds are packed with, recognised by their first bytes and unpacked on the host. */
import { LZ4_FRAME, LZ4_LARGEST_BLOCK, LZ4_LEGACY, unpackLz4Frame, unpackLz4Legacy } from "./lz4.ts";
import { unpackLzmaAlone } from "./lzma.ts";
import { CompressionError, Output } from "./output.ts";
import { zlib } from "./runtime.ts";
import { unpackXz } from "./xz.ts";
import { unpackZstd, ZSTD_FRAME } from "./zstd.ts";

export { CompressionError } from "./output.ts";

/** How bytes are packed; `none` for what no format's magic begins. `bzip2` and `lzo` are only recognised. */
export type Compression = "none" | "gzip" | "zstd" | "xz" | "lz4" | "lzma" | "bzip2" | "lzo";

/** Most bytes anything unpacks to unless told otherwise. */
export const DEFAULT_LIMIT = 1 << 30;

/** Recognises a format at `at` (the magics of the kernel's lib/decompress.c, and lz4's current frame). */
export function sniff(bytes: Uint8Array, at = 0): Compression {
  if (at + 6 > bytes.length) return "none";
  const word = (bytes[at] | bytes[at + 1] << 8 | bytes[at + 2] << 16 | bytes[at + 3] << 24) >>> 0;
  if (word === ZSTD_FRAME || word >>> 4 === 0x184d2a5) return "zstd"; // or a skippable frame, RFC 8878 3.1.2
  if (word === LZ4_FRAME || word === LZ4_LEGACY) return "lz4";
  switch (word & 0xffff) {
    case 0x8b1f:
      return bytes[at + 2] === 8 ? "gzip" : "none";
    case 0x37fd:
      return word === 0x587a37fd && bytes[at + 4] === 0x5a && bytes[at + 5] === 0 ? "xz" : "none";
    case 0x005d:
      return bytes[at + 2] === 0 ? "lzma" : "none";
    case 0x5a42:
      return bytes[at + 2] === 0x68 ? "bzip2" : "none";
    case 0x4c89:
      return word === 0x4f5a4c89 ? "lzo" : "none";
  }
  return "none";
}

/** What {@link decompress} found. */
export interface Decompressed {
  format: Compression;
  /** The bytes, unpacked; the very bytes given when `format` is `none`. */
  data: Uint8Array;
  /** Bytes of input that were used; behind them stands padding or something else. */
  consumed: number;
}

/**
 * Unpacks what begins at the first byte: all streams or frames of that one format that follow each other directly.
 * Throws a {@link CompressionError} on damage, on a recognised format that hv cannot unpack, and past `limit` bytes.
 */
export function decompress(bytes: Uint8Array, limit = DEFAULT_LIMIT): Decompressed {
  const format = sniff(bytes);
  if (format === "none") return { format, data: bytes, consumed: bytes.length };
  if (format === "bzip2" || format === "lzo") {
    throw new CompressionError(`packed with ${format}, which hv cannot unpack`);
  }
  if (format === "gzip") return gunzip(bytes, limit);
  // Memory that is not written costs nothing; lz4 asks for room for whole blocks.
  const out = new Output(bytes.length * 4 + (format === "lz4" ? LZ4_LARGEST_BLOCK : 0), limit);
  let at = 0;
  do {
    if (format === "zstd") at = zstdOrSkippable(bytes, at, out, limit);
    else if (format === "xz") at = unpackXz(bytes, at, out);
    else if (format === "lzma") at = unpackLzmaAlone(bytes, at, out);
    else if (bytes[at] === 0x02) at = unpackLz4Legacy(bytes, at, out);
    else at = unpackLz4Frame(bytes, at, out);
  } while (format !== "lzma" && sniff(bytes, at) === format);
  return { format, data: out.finish(), consumed: at };
}

function zstdOrSkippable(bytes: Uint8Array, at: number, out: Output, limit: number): number {
  if (bytes[at] === 0x28) return unpackZstd(bytes, at, out, limit);
  if (at + 8 > bytes.length) throw new CompressionError("the zstd data is cut short");
  const size = (bytes[at + 4] | bytes[at + 5] << 8 | bytes[at + 6] << 16 | bytes[at + 7] << 24) >>> 0;
  if (at + 8 + size > bytes.length) throw new CompressionError("the zstd data is cut short");
  return at + 8 + size;
}

function gunzip(bytes: Uint8Array, limit: number): Decompressed {
  // A gzip member ends with its size modulo 2^32 (RFC 1952, 2.3.1): one chunk of that size when it is plausible.
  const tail = bytes.length >= 4
    ? new DataView(bytes.buffer, bytes.byteOffset + bytes.length - 4, 4).getUint32(0, true)
    : 0;
  const chunkSize = tail > 0 && tail < bytes.length * 16 ? Math.min(Math.max(tail, 64), 64 << 20) : 1 << 20;
  try {
    // With `info` the engine is returned too, which knows how much of the input it used.
    const result = zlib().gunzipSync(bytes, { maxOutputLength: limit, chunkSize, info: true } as any) as unknown as {
      buffer: Uint8Array;
      engine: { bytesWritten: number };
    };
    return { format: "gzip", data: result.buffer, consumed: result.engine.bytesWritten };
  } catch (error) {
    const message = (error as Error).message;
    if (/larger than/.test(message)) throw new CompressionError(`unpacks to more than ${limit} bytes`);
    throw new CompressionError(
      /unexpected end/.test(message) ? "the gzip data is cut short" : `the gzip data is damaged: ${message}`,
    );
  }
}
