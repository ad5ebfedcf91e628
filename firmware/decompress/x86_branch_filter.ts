/**
 * The x86 branch filter of xz (BCJ): before packing, the relative targets of CALL (E8) and JMP (E9) were made absolute,
 * so that calls of one function look alike. This makes them relative again, in place.
 */

/** Whether an opcode with these of its three predecessors' bytes (as a 3-bit mask) can be a branch. */
const ALLOWED = [true, true, true, false, true, false, false, false];
/** Which byte of the target the mask's highest bit stands for. */
const BYTE_OF_MASK = [0, 1, 2, 2, 3, 3, 3, 3];

function signByte(byte: number): boolean {
  return byte === 0x00 || byte === 0xff;
}

/** @param position what the first byte's address counted as when packing */
export function unfilterX86(data: Uint8Array, position: number): void {
  let previous = -1;
  let mask = 0;
  for (let i = 0; i < data.length - 4; i++) {
    if ((data[i] & 0xfe) !== 0xe8) continue;
    const gap = i - previous;
    previous = i;
    if (gap > 3) {
      mask = 0;
    } else {
      mask = mask << (gap - 1) & 7;
      if (mask !== 0 && (!ALLOWED[mask] || signByte(data[i + 4 - BYTE_OF_MASK[mask]]))) {
        mask = mask << 1 & 7 | 1;
        continue;
      }
    }
    if (!signByte(data[i + 4])) {
      mask = mask << 1 & 7 | 1;
      continue;
    }
    let absolute = data[i + 1] | data[i + 2] << 8 | data[i + 3] << 16 | data[i + 4] << 24;
    let relative: number;
    for (;;) {
      relative = absolute - (position + i + 5) | 0;
      if (mask === 0) break;
      const shift = BYTE_OF_MASK[mask] * 8;
      if (!signByte(relative >>> (24 - shift) & 0xff)) break;
      absolute = relative ^ (2 ** (32 - shift) - 1);
    }
    data[i + 1] = relative;
    data[i + 2] = relative >> 8;
    data[i + 3] = relative >> 16;
    data[i + 4] = relative & 0x01000000 ? 0xff : 0x00;
    i += 4;
  }
}
