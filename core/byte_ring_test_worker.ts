/** Writes its mark into a ring, one byte at a time and in runs. */
import { ByteRing } from "./byte_ring.ts";

declare const self: {
  onmessage: (event: MessageEvent<{ buffer: SharedArrayBuffer; mark: number; count: number }>) => void;
};

self.onmessage = ({ data: { buffer, mark, count } }) => {
  const ring = new ByteRing(buffer);
  const run = new Uint8Array(7).fill(mark);
  for (let left = count; left > 0;) {
    if (left >= 7 && left % 2 === 0) left -= ring.write(run);
    else if (ring.push(mark)) left--;
  }
};
