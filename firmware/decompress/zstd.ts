/** Zstandard frames (RFC 8878): found here, unpacked by the runtime, which neither joins frames nor notices a cut. */
import { CompressionError, type Output } from "./output.ts";
import { zlib } from "./runtime.ts";

export const ZSTD_FRAME = 0xfd2fb528;

function truncated(): never {
  throw new CompressionError("the zstd data is cut short");
}

/** Where the frame at `start` ends (RFC 8878, 3.1.1), and the size it promises or -1. */
function frame(input: Uint8Array, start: number): { end: number; size: number } {
  const view = new DataView(input.buffer, input.byteOffset, input.length);
  let at = start + 4;
  if (at + 14 > input.length && at >= input.length) truncated();
  const descriptor = input[at++];
  const single = (descriptor & 0x20) !== 0;
  if (!single) at++;
  at += [0, 1, 2, 4][descriptor & 3];
  const sizeBytes = [single ? 1 : 0, 2, 4, 8][descriptor >> 6];
  if (at + sizeBytes > input.length) truncated();
  let size = -1;
  if (sizeBytes === 1) size = input[at];
  else if (sizeBytes === 2) size = view.getUint16(at, true) + 256;
  else if (sizeBytes === 4) size = view.getUint32(at, true);
  else if (sizeBytes === 8) size = Number(view.getBigUint64(at, true));
  at += sizeBytes;
  for (;;) {
    if (at + 3 > input.length) truncated();
    const header = input[at] | input[at + 1] << 8 | input[at + 2] << 16;
    const type = header >> 1 & 3;
    if (type === 3) throw new CompressionError("the zstd data is damaged");
    at += 3 + (type === 1 ? 1 : header >> 3);
    if (header & 1) break;
  }
  if (descriptor & 4) at += 4;
  if (at > input.length) truncated();
  return { end: at, size };
}

/** Unpacks one frame at `start`; returns where it ends. */
export function unpackZstd(input: Uint8Array, start: number, out: Output, limit: number): number {
  const { end, size } = frame(input, start);
  const left = limit - out.length;
  if (size > left) throw new CompressionError(`unpacks to more than ${limit} bytes`);
  let data: Uint8Array;
  try {
    // Chunks of the promised size spare the runtime from joining thousands of small ones.
    const chunkSize = size > 0 ? Math.min(Math.max(size, 64), 64 << 20) : 1 << 20;
    data = zlib().zstdDecompressSync(input.subarray(start, end), { maxOutputLength: Math.max(left, 1), chunkSize });
  } catch (error) {
    if (/larger than/.test((error as Error).message)) throw new CompressionError(`unpacks to more than ${limit} bytes`);
    throw new CompressionError(`the zstd data is damaged: ${(error as Error).message}`);
  }
  if (size >= 0 && data.length !== size) throw new CompressionError("the zstd data is damaged");
  out.append(data);
  return end;
}
