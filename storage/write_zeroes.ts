/** Zeroes where the host has no better way. */
import type { HostFile } from "./host_file.ts";
import { BufferVector } from "./io_vector.ts";

/** Writes `length` zero bytes, in pieces of at most 1 MiB. */
export function writeZeroes(file: HostFile, offset: number, length: number): void {
  const vector = new BufferVector(new Uint8Array(Math.min(length, 1 << 20)));
  for (let done = 0; done < length; done += vector.lengths[0]) {
    vector.lengths[0] = Math.min(vector.bytes.length, length - done);
    file.write(offset + done, vector);
  }
}
