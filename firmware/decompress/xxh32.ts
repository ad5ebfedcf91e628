/** XXH32 (xxHash specification 0.1.1), seed 0: the checksum of lz4 frames. */

const PRIME1 = 0x9e3779b1 | 0;
const PRIME2 = 0x85ebca77 | 0;
const PRIME3 = 0xc2b2ae3d | 0;
const PRIME4 = 0x27d4eb2f | 0;
const PRIME5 = 0x165667b1 | 0;

function rotate(value: number, by: number): number {
  return value << by | value >>> (32 - by);
}

function round(lane: number, word: number): number {
  return Math.imul(rotate(lane + Math.imul(word, PRIME2) | 0, 13), PRIME1);
}

/** The checksum as an unsigned number. */
export function xxh32(data: Uint8Array): number {
  const word = (at: number) => data[at] | data[at + 1] << 8 | data[at + 2] << 16 | data[at + 3] << 24;
  let at = 0;
  let hash: number;
  if (data.length >= 16) {
    let a = PRIME1 + PRIME2 | 0, b = PRIME2, c = 0, d = -PRIME1 | 0;
    for (; at + 16 <= data.length; at += 16) {
      a = round(a, word(at));
      b = round(b, word(at + 4));
      c = round(c, word(at + 8));
      d = round(d, word(at + 12));
    }
    hash = rotate(a, 1) + rotate(b, 7) + rotate(c, 12) + rotate(d, 18) | 0;
  } else {
    hash = PRIME5;
  }
  hash = hash + data.length | 0;
  for (; at + 4 <= data.length; at += 4) {
    hash = Math.imul(rotate(hash + Math.imul(word(at), PRIME3) | 0, 17), PRIME4);
  }
  for (; at < data.length; at++) hash = Math.imul(rotate(hash + Math.imul(data[at], PRIME5) | 0, 11), PRIME1);
  hash = Math.imul(hash ^ hash >>> 15, PRIME2);
  hash = Math.imul(hash ^ hash >>> 13, PRIME3);
  return (hash ^ hash >>> 16) >>> 0;
}
