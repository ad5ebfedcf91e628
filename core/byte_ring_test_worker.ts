/** Writes its mark into a ring: one byte at a time and in runs; or, with `lost`, one at a time after a look for room. */
import { ByteRing } from "./byte_ring.ts";

declare const self: {
  onmessage: (
    event: MessageEvent<{ buffer: SharedArrayBuffer; mark: number; count: number; lost?: Int32Array }>,
  ) => void;
};

self.onmessage = ({ data: { buffer, mark, count, lost } }) => {
  const ring = new ByteRing(buffer);
  if (lost) {
    for (let left = count; left > 0; left--) {
      while (ring.seemsFull) Atomics.wait(ring.words, 1, Atomics.load(ring.words, 1), 1);
      if (!ring.push(mark)) Atomics.add(lost, 0, 1);
    }
    return;
  }
  const run = new Uint8Array(7).fill(mark);
  for (let left = count; left > 0;) {
    if (left >= 7 && left % 2 === 0) left -= ring.write(run);
    else if (ring.push(mark)) left--;
  }
};
