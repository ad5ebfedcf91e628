/** Random straight-line code out of the instruction table, for comparing the two tiers. */
import "../isa/all.ts";
import { decode } from "../decode.ts";
import { type Row, rows } from "../isa/table.ts";

type Mode = 16 | 32 | 64;

/** A small generator (xorshift32), so that a failure can be repeated. */
export class Random {
  private word: number;
  constructor(seed: number) {
    this.word = (seed ^ 0x9e37_79b9) | 1;
    for (let i = 0; i < 8; i++) this.bits();
  }
  bits(): number {
    let x = this.word;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.word = x;
    return x >>> 0;
  }
  below(n: number): number {
    return this.bits() % n;
  }
  wide(): bigint {
    switch (this.below(5)) {
      case 0:
        return BigInt(this.below(4));
      case 1:
        return BigInt.asUintN(64, BigInt(-this.below(4)));
      case 2:
        return 1n << BigInt(this.below(64));
      default:
        return (BigInt(this.bits()) << 32n) | BigInt(this.bits());
    }
  }
}

/** Rows that a region may hold in a mode. */
export function candidatesFor(mode: Mode): Row[] {
  const other = mode === 64 ? "legacy" : "64";
  return rows.filter((row) =>
    !row.system && !row.ends && !row.repeats && row.only !== other && row.unit !== "x87" && row.name !== "fence"
  );
}

/** ES CS SS DS FS GS. */
const LEGACY_PREFIXES = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65];

/**
 * One instruction of a row with random operands; null when this try gave something else. Memory operands are near
 * [rbx], [rbp] or [rbx + rsi], the stack pointer is only used by what uses it implicitly.
 */
export function randomInstruction(row: Row, random: Random, mode: Mode): number[] | null {
  const bytes: number[] = [];
  if (mode !== 64 && random.below(6) === 0) bytes.push(LEGACY_PREFIXES[random.below(6)]);
  // Addresses of the other width: in 16-bit code those of 32 bits reach further.
  const otherAddress = mode !== 64 && random.below(mode === 16 ? 3 : 20) === 0;
  if (otherAddress) bytes.push(0x67);
  const short = mode !== 64 && (mode === 16) !== otherAddress;
  const operandPrefix = row.prefix === -1 && random.below(4) === 0;
  if (row.prefix > 0) bytes.push(row.prefix);
  else if (operandPrefix) bytes.push(0x66);
  let rex = 0;
  if (random.below(2)) rex = 0x40 | random.below(8);
  if (random.below(3) === 0) rex |= 0x48;
  const memory = row.modrm && row.rm < 0 && row.mod !== "3" && (row.mod === "m" || random.below(2) === 0);
  if (memory && rex & 1) rex &= ~1;
  if (memory && rex & 2 && random.below(2)) rex &= ~2;
  if (rex && mode === 64) bytes.push(rex);
  if (row.map > 0) bytes.push(0x0f);
  if (row.map === 2) bytes.push(0x38);
  if (row.map === 3) bytes.push(0x3a);
  bytes.push(row.opcode + (row.plus ? random.below(8) : 0));
  if (row.modrm) {
    const reg = row.extension >= 0 ? row.extension : random.below(8);
    if (!memory) bytes.push(0xc0 | (reg << 3) | (row.rm >= 0 ? row.rm : random.below(8)));
    else {
      const displacement = random.below(4) === 0 ? random.below(0x2000) : random.below(0x200) * 16;
      // Table 2-1 of SDM vol. 2: [bx + si], [bx], [bp] with 16 bits.
      if (short) bytes.push(0x80 | (reg << 3) | [0, 7, 6][random.below(3)]);
      else if (random.below(3) === 0) bytes.push(0x84 | (reg << 3), 0x33);
      else bytes.push(0x80 | (reg << 3) | (random.below(2) ? 3 : 5));
      for (let i = 0; i < (short ? 2 : 4); i++) bytes.push((displacement >> (8 * i)) & 255);
    }
  }
  for (let i = 0; i < 8; i++) bytes.push(random.below(3) ? random.below(256) : random.below(2) * 255);
  const decoded = decode(new Uint8Array([...bytes, 0, 0, 0, 0, 0, 0, 0, 0]), 0, bytes.length, mode);
  if (typeof decoded === "number" || decoded.row !== row) return null;
  // What destroys the pointers would make most of the rest fault.
  const first = decoded.operands[0];
  const destroys = (register: number) => register === 3 || register === 4 || register === 5 || register === 6;
  if (decoded.operands.some((o) => o.kind === "r" && !o.high && destroys(o.register)) && random.below(200) > 0) {
    if (first.kind === "r" && destroys(first.register)) return null;
    if (row.name === "xchg" || row.name === "xadd") return null;
  }
  if ((row.name === "leave" || (decoded.addressBits !== mode && !otherAddress)) && random.below(50) > 0) return null;
  return bytes.slice(0, decoded.length);
}
