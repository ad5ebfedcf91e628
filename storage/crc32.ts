/** CRC-32 as GPT has it, and CRC-32C (Castagnoli), the checksum of ext4's metadata; polynomials reflected. */

/** Eight tables, for eight bytes a step. */
function makeTables(polynomial: number): Uint32Array[] {
  const tables = Array.from({ length: 8 }, () => new Uint32Array(256));
  for (let i = 0; i < 256; i++) {
    let value = i;
    for (let bit = 0; bit < 8; bit++) value = (value >>> 1) ^ (value & 1 ? polynomial : 0);
    tables[0][i] = value;
  }
  for (let i = 0; i < 256; i++) {
    for (let t = 1; t < 8; t++) tables[t][i] = (tables[t - 1][i] >>> 8) ^ tables[0][tables[t - 1][i] & 0xff];
  }
  return tables;
}

let tables: Uint32Array[] | null = null;
let castagnoli: Uint32Array[] | null = null;

/** CRC-32 of bytes (ISO 3309, polynomial 0xedb88320), with the usual inversions: an unsigned 32-bit number. */
export function crc32(bytes: Uint8Array): number {
  return ~run(tables ??= makeTables(0xedb88320), 0xffffffff, bytes) >>> 0;
}

/**
 * CRC-32C (polynomial 0x82f63b78): goes on from `crc` over `bytes`, without the inversions before and after that most
 * users of CRCs add.
 * @returns an unsigned 32-bit number
 */
export function crc32c(crc: number, bytes: Uint8Array): number {
  return run(castagnoli ??= makeTables(0x82f63b78), crc, bytes) >>> 0;
}

function run([t0, t1, t2, t3, t4, t5, t6, t7]: Uint32Array[], crc: number, bytes: Uint8Array): number {
  let i = 0;
  for (; i + 8 <= bytes.length; i += 8) {
    const low = crc ^ (bytes[i] | (bytes[i + 1] << 8) | (bytes[i + 2] << 16) | (bytes[i + 3] << 24));
    crc = t7[low & 0xff] ^ t6[(low >>> 8) & 0xff] ^ t5[(low >>> 16) & 0xff] ^ t4[low >>> 24] ^
      t3[bytes[i + 4]] ^ t2[bytes[i + 5]] ^ t1[bytes[i + 6]] ^ t0[bytes[i + 7]];
  }
  for (; i < bytes.length; i++) crc = (crc >>> 8) ^ t0[(crc ^ bytes[i]) & 0xff];
  return crc;
}
