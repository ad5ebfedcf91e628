/**
 * Initrds as the kernel reads them (its Documentation/driver-api/early-userspace/buffer-format.rst): cpio archives one
 * after the other, each plain or packed, with zeroes between. Microcode comes first and plain, the rest packed.
 */
import { type Compression, CompressionError, decompress, DEFAULT_LIMIT, sniff } from "./mod.ts";

/** What {@link unpackInitrd} made. */
export interface UnpackedInitrd {
  /** What to hand to the kernel: plain cpio, as far as everything could be unpacked. */
  data: Uint8Array;
  /** What the pieces were packed with, in order. */
  formats: Compression[];
  /** In words, what could not be unpacked and is passed on as it is. */
  problems: string[];
}

const HEADER_BYTES = 110;
const MAX_NAME = 4096;

/** Where the cpio archive ("newc", 070701 or 070702) at `start` ends, behind its trailer; -1 unless there is a whole one. */
function cpioEnd(bytes: Uint8Array, start: number): number {
  const field = (at: number): number => {
    let value = 0;
    for (let i = at; i < at + 8; i++) {
      const c = bytes[i];
      const digit = c >= 0x30 && c <= 0x39
        ? c - 0x30
        : (c | 0x20) >= 0x61 && (c | 0x20) <= 0x66
        ? (c | 0x20) - 0x57
        : NaN;
      value = value * 16 + digit;
    }
    return value;
  };
  let at = start;
  while (isCpio(bytes, at)) {
    const fileSize = field(at + 54);
    const nameSize = field(at + 94);
    // The kernel's PATH_MAX bounds a name; a guest's author does not.
    if (!(nameSize <= MAX_NAME)) return -1;
    const name = at + HEADER_BYTES;
    // Both are padded to 4 bytes, counted from the archive's beginning.
    const data = start + (name - start + nameSize + 3 & ~3);
    const next = data + Math.ceil(fileSize / 4) * 4;
    if (!(data + fileSize <= bytes.length)) return -1;
    if (nameSize === 11 && new TextDecoder().decode(bytes.subarray(name, name + 10)) === "TRAILER!!!") {
      return Math.min(next, bytes.length);
    }
    at = next;
  }
  return -1;
}

function isCpio(bytes: Uint8Array, at: number): boolean {
  return at + HEADER_BYTES <= bytes.length && bytes[at] === 0x30 && bytes[at + 1] === 0x37 && bytes[at + 2] === 0x30 &&
    bytes[at + 3] === 0x37 && bytes[at + 4] === 0x30 && (bytes[at + 5] === 0x31 || bytes[at + 5] === 0x32);
}

/**
 * Unpacks an initrd into plain cpio. What is damaged or unknown is passed on as it is, with a word in `problems`: the
 * kernel may know better.
 * @param limit most bytes the result may have; past it the initrd is passed on as it is
 */
export function unpackInitrd(bytes: Uint8Array, limit = DEFAULT_LIMIT): UnpackedInitrd {
  const pieces: Uint8Array[] = [];
  const formats: Compression[] = [];
  const problems: string[] = [];
  let total = 0;
  let at = 0;
  const add = (piece: Uint8Array) => {
    pieces.push(piece);
    // The kernel takes an archive only at a multiple of 4; 512 is what cpio itself pads to.
    total += Math.ceil(piece.length / 512) * 512;
  };
  while (at < bytes.length) {
    if (bytes[at] === 0) {
      at++;
      continue;
    }
    const end = cpioEnd(bytes, at);
    if (end >= 0) {
      formats.push("none");
      add(bytes.subarray(at, end));
      at = end;
      continue;
    }
    const format = sniff(bytes, at);
    if (format === "none") {
      problems.push(
        isCpio(bytes, at)
          ? "a cpio archive in the initrd is cut short"
          : "the initrd holds something that is no cpio archive",
      );
      add(bytes.subarray(at));
      break;
    }
    formats.push(format);
    try {
      const result = decompress(bytes.subarray(at), limit - total);
      add(result.data);
      at += result.consumed;
    } catch (error) {
      if (!(error instanceof CompressionError)) throw error;
      problems.push(`the initrd could not be unpacked: ${error.message}`);
      add(bytes.subarray(at));
      break;
    }
  }
  if (pieces.length === 1) return { data: pieces[0], formats, problems };
  const data = new Uint8Array(total);
  let to = 0;
  for (const piece of pieces) {
    data.set(piece, to);
    to += Math.ceil(piece.length / 512) * 512;
  }
  return { data, formats, problems };
}
