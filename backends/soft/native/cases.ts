/** Random cases over rows of the instruction table: encodings with prefixes and addressing forms, operands, state. */
import type { Row } from "../isa/table.ts";
import { CODE, Fx, Record, WINDOW, WINDOW_BYTES } from "./record.ts";

/** Pseudo-random numbers of 32 bits, the same everywhere (PCG-like). */
export class Random {
  private low: number;
  private high: number;
  constructor(seed: number) {
    this.low = (seed ^ 0x9e3779b9) >>> 0;
    this.high = (Math.imul(seed, 0x85ebca6b) ^ 0x1234567) >>> 0;
    for (let i = 0; i < 8; i++) this.bits();
  }
  /** 32 random bits (xorshift with a multiplied sum). */
  bits(): number {
    let t = this.low;
    const s = this.high;
    this.low = s;
    t ^= t << 23;
    t ^= t >>> 17;
    t ^= s ^ (s >>> 26);
    this.high = t;
    return (Math.imul(t + s, 0x2c1b3c6d) ^ ((t + s) >>> 15)) >>> 0;
  }
  /** 0 .. n-1 */
  below(n: number): number {
    return this.bits() % n;
  }
  chance(percent: number): boolean {
    return this.below(100) < percent;
  }
  pick<T>(values: readonly T[]): T {
    return values[this.below(values.length)];
  }
}

const corners32 = [0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 0x80000001];

/** What a case needs to know about its encoding for a description. */
export interface Case {
  bytes: number[];
  /** Bytes of the immediate, for flags that depend on it. */
  immediate: number;
  /** Operand size in bits. */
  bits: number;
  memory: boolean;
}

function operandBytes(code: string, bits: number): number {
  switch (code.slice(1)) {
    case "b":
      return 1;
    case "w":
      return 2;
    case "d":
      return 4;
    case "q":
      return 8;
    case "y":
      return bits === 64 ? 8 : 4;
    case "x":
      return 16;
    case "":
      return 16;
    default:
      return bits / 8;
  }
}

/**
 * Writes a random case for a row into a record.
 * @returns what was made, or null where the row cannot be encoded this way
 */
export function makeCase(row: Row, random: Random, record: DataView, at: number): Case {
  const code: number[] = [];
  const numeric = row.unit !== undefined;
  // Intel's processors ignore 66 before near jumps in 64-bit mode, AMD's do not: not compared.
  const operand16 = row.operands[0]?.[0] !== "J" && row.prefix === -1 && row.unit !== "x87" && random.chance(25);
  if (operand16) code.push(0x66);
  let locked = false;
  const memoryAllowed = row.modrm && row.mod !== "3";
  const memory = memoryAllowed && (row.mod === "m" || random.chance(50));
  if (row.lock && memory && random.chance(15)) locked = true;
  else if (random.chance(1) && !row.plus) locked = true;
  if (locked) code.push(0xf0);
  const gs = memory && random.chance(12);
  if (gs) code.push(0x65);
  const narrow = memory && random.chance(8);
  if (narrow) code.push(0x67);
  if (row.prefix > 0) code.push(row.prefix);
  else if (row.prefix === -1 && !numeric && random.chance(2)) code.push(0x2e);
  let rex = 0;
  if (random.chance(60)) rex = 0x40 | random.below(16);
  if (row.opcode === 0x90 && row.map === 0) rex &= ~1;
  const bits = rex & 8 ? 64 : operand16 ? 16 : 32;

  // General registers first: addresses are fitted to them.
  const gpr: bigint[] = [];
  for (let r = 0; r < 16; r++) gpr.push(randomGeneral(random));
  if (row.operands.includes("CL") && random.chance(70)) gpr[1] = (gpr[1] & ~0xffn) | BigInt(random.below(70));
  if (row.name === "div" || row.name === "idiv") {
    // Quotients that fit more often than not.
    if (random.chance(60)) gpr[2] = row.name === "idiv" && gpr[0] >> 63n ? 0xffffffffffffffffn : 0n;
    if (random.chance(30)) gpr[0] &= 0xffffn;
  }

  if (/^x(save|rstor)/.test(row.name)) {
    gpr[0] = BigInt(random.below(4));
    gpr[2] = 0n;
  }
  if (row.modal) {
    // The stack lies in the window; ENTER's nesting and LEAVE's frame too.
    gpr[4] = BigInt(WINDOW + 448 + random.below(8) * (random.chance(80) ? 8 : 1));
    gpr[5] = BigInt(WINDOW + 320 + 8 * random.below(8));
  }
  if (row.name.startsWith("loop") || row.name.startsWith("j")) {
    if (random.chance(30)) gpr[1] = random.chance(50) ? BigInt(random.below(2)) : 1n << 32n;
  }
  if (row.name === "xlat") gpr[3] = BigInt(WINDOW + 64);
  if (row.name.startsWith("maskmov")) gpr[7] = BigInt(WINDOW + 64 + random.below(256));

  const body: number[] = [];
  if (row.map) body.push(0x0f);
  if (row.map === 2) body.push(0x38);
  if (row.map === 3) body.push(0x3a);
  body.push(row.opcode + (row.plus ? random.below(8) : 0));
  const reg = row.extension >= 0 ? row.extension : random.below(8);
  const bitString = /^bt/.test(row.name) && row.operands[1][0] === "G";
  const fullReg = reg | ((rex & 4) << 1);
  if (bitString) gpr[fullReg] = BigInt.asUintN(64, BigInt(random.below(512) - 256));
  const memoryCode = row.operands.find((o) => "EMWQ".includes(o[0]));
  let displacementAt = -1;
  let target = 0;
  if (row.modrm) {
    if (!memory) {
      const rm = row.rm >= 0 ? row.rm : random.below(8);
      body.push(0xc0 | (reg << 3) | rm);
    } else {
      const size = memoryCode ? operandBytes(memoryCode, bits) : 16;
      const big = row.name.includes("fx") || row.name.includes("env") || row.name.includes("save") ||
        row.name.includes("rstor");
      const room = big ? 576 : 64;
      let offset = 64 + 16 * random.below((WINDOW_BYTES - 64 - room) / 16 + (big ? 0 : 1));
      if (big) offset = 64;
      if (random.chance(size === 16 ? 12 : 40)) offset += random.below(16);
      if (random.chance(1)) offset = -0x3000_0000;
      if (bitString) offset = 256 + (offset & 31);
      target = WINDOW + offset;
      let linear = target - (gs ? WINDOW : 0);
      const mod = random.below(4);
      const displacement = mod === 1 ? random.below(256) - 128 : mod >= 2 || mod === 0 ? (random.bits() | 0) >> 4 : 0;
      const modBits = mod === 3 ? 0 : mod;
      if (mod === 3) {
        // Absolute or RIP-relative.
        if (random.chance(50)) {
          body.push((reg << 3) | 5);
          displacementAt = body.length;
          body.push(0, 0, 0, 0);
        } else {
          // No base; REX.X would make an index of the one that means none.
          body.push((reg << 3) | 4, 0x25);
          rex &= ~2;
          pushInteger(body, linear, 4);
        }
      } else {
        let base = random.below(16);
        while ((bitString && base === fullReg) || (row.modal && (base === 4 || base === 0 || base === 2))) {
          base = random.below(16);
        }
        rex = base & 8 ? rex | 0x41 : rex & ~1;
        const sib = (base & 7) === 4 || random.chance(40);
        // Mod 0 with base 5 means something else.
        const realMod = modBits === 0 && (base & 7) === 5 ? 2 : modBits;
        const shown = realMod === 0 ? 0 : displacement;
        let value = BigInt(linear - shown);
        if (sib) {
          let index = random.below(16);
          while (index === base || (bitString && index === fullReg)) index = random.below(16);
          rex = index & 8 ? rex | 0x42 : rex & ~2;
          const scale = random.below(4);
          body.push((realMod << 6) | (reg << 3) | 4, (scale << 6) | ((index & 7) << 3) | (base & 7));
          if (index !== 4) value -= gpr[index] << BigInt(scale);
        } else body.push((realMod << 6) | (reg << 3) | (base & 7));
        if (realMod === 1) pushInteger(body, shown, 1);
        else if (realMod === 2) pushInteger(body, shown, 4);
        if (narrow) value = (value & 0xffff_ffffn) | (gpr[base] & ~0xffff_ffffn);
        gpr[base] = BigInt.asUintN(64, value);
      }
      linear = 0;
    }
  }
  if (rex & 15 && !(rex & 0x40)) rex |= 0x40;
  // The operand size may have changed with nothing: REX.W was decided before.
  let immediate = 0;
  for (const o of row.operands) {
    if (o[0] === "I") {
      const wide = o === "Iv" && bits === 64 ? 8 : o.endsWith("b") ? 1 : o.endsWith("w") || bits === 16 ? 2 : 4;
      // ENTER asks whether its whole frame may be written: small frames, few levels.
      const value = row.name === "enter"
        ? random.below(4)
        : random.chance(30)
        ? random.pick(corners32)
        : random.chance(50)
        ? random.below(72)
        : random.bits();
      immediate = value;
      pushInteger(body, value, Math.min(4, wide));
      if (wide === 8) pushInteger(body, random.bits(), 4);
    } else if (o[0] === "J") {
      // Far enough from the instruction and what follows it.
      const narrowTarget = o === "Jb";
      const distance = 24 + random.below(narrowTarget ? 100 : 1500);
      pushInteger(body, random.chance(50) ? distance : -distance - 24 + (narrowTarget ? 24 : 0), narrowTarget ? 1 : 4);
    } else if (o[0] === "O") {
      target = WINDOW + 64 + random.below(128);
      const linear = target - (gs ? WINDOW : 0);
      pushInteger(body, linear, 4);
      if (!narrow) pushInteger(body, 0, 4);
    }
  }
  if (rex) code.push(rex);
  const bytes = code.concat(body);
  if (displacementAt >= 0) {
    const relative = target - (gs ? WINDOW : 0) - (CODE + bytes.length);
    for (let i = 0; i < 4; i++) bytes[code.length + displacementAt + i] = (relative >> (8 * i)) & 0xff;
  }

  for (let i = 0; i < 16; i++) record.setUint8(at + i, bytes[i] ?? 0);
  record.setUint32(at + Record.LENGTH, bytes.length, true);
  let flags = 0x202;
  for (const bit of [0, 2, 4, 6, 7, 11]) if (random.chance(50)) flags |= 1 << bit;
  if (random.chance(20)) flags |= 0x400;
  record.setBigUint64(at + Record.FLAGS, BigInt(flags), true);
  for (let r = 0; r < 16; r++) record.setBigUint64(at + Record.GPR + r * 8, gpr[r], true);
  fillState(row, random, record, at);
  if (/rstor$/.test(row.name)) plausibleImage(random, record, at + Record.WINDOW + 64);
  return { bytes, immediate, bits, memory };
}

/** Makes most images of a restored state ones that are not refused. */
function plausibleImage(random: Random, record: DataView, at: number): void {
  if (random.chance(90)) record.setUint32(at + 24, record.getUint32(at + 24, true) & 0xffff, true);
  if (random.chance(10)) return;
  for (let i = 512; i < 576; i += 4) record.setUint32(at + i, 0, true);
  record.setUint32(at + 512, random.below(4), true);
  if (random.chance(40)) {
    record.setUint32(at + 520, random.below(4), true);
    record.setUint32(at + 524, 0x8000_0000, true);
  }
}

function pushInteger(to: number[], value: number, size: number): void {
  for (let i = 0; i < size; i++) to.push(i < 4 ? (value >> (8 * i)) & 0xff : 0);
}

function randomGeneral(random: Random): bigint {
  const kind = random.below(8);
  if (kind === 0) return BigInt(random.pick(corners32));
  if (kind === 1) return BigInt.asUintN(64, BigInt(random.pick(corners32) | 0));
  if (kind === 2) return BigInt(random.below(256));
  if (kind === 3) return BigInt(random.pick(corners32)) << 32n | BigInt(random.pick(corners32));
  return BigInt(random.bits()) << 32n | BigInt(random.bits());
}

const doubles = new Float64Array([
  0,
  1,
  2,
  3,
  0.5,
  1.5,
  2.5,
  10,
  1e10,
  1e-10,
  2147483647,
  2147483648,
  2147483648.5,
  4294967295,
  9007199254740992,
  9223372036854775807,
  1e300,
  1e-300,
  5e-324,
  1.1e-308,
  2.2250738585072014e-308,
  2.225073858507201e-308,
  1.7976931348623157e308,
  Infinity,
  NaN,
  1 / 3,
  3.4028234663852886e38,
  1.1754943508222875e-38,
  1e-45,
  1e-40,
]);
const doubleBits = new BigUint64Array(doubles.buffer);
const singleBits = new Uint32Array(new Float32Array(doubles).buffer);

function randomDouble(random: Random, near: number): bigint {
  const sign = random.chance(50) ? 1n << 63n : 0n;
  const kind = random.below(12);
  if (kind < 3) return doubleBits[random.below(doubleBits.length)] | sign;
  const fraction = (BigInt(random.below(1 << 20)) << 32n) | BigInt(random.bits());
  const short = random.chance(40) ? fraction & ~((1n << BigInt(20 + random.below(32))) - 1n) : fraction;
  let exponent: number;
  if (kind < 7) exponent = near + random.below(60) - 30;
  else if (kind < 9) exponent = 1023 + random.below(130) - 65;
  else if (kind === 9) exponent = random.below(60);
  else if (kind === 10) exponent = 2047 - random.below(60);
  else if (random.chance(50)) {
    return sign | (0x7ffn << 52n) | (random.chance(50) ? 1n << 51n : 0n) | BigInt(random.bits());
  } else exponent = 0;
  return sign | (BigInt(Math.max(0, Math.min(2046, exponent))) << 52n) | short;
}

function randomSingle(random: Random, near: number): number {
  const sign = random.chance(50) ? 0x80000000 : 0;
  const kind = random.below(12);
  if (kind < 3) return (singleBits[random.below(singleBits.length)] | sign) >>> 0;
  const fraction = random.below(1 << 23);
  const short = random.chance(40) ? fraction & ~((1 << random.below(22)) - 1) : fraction;
  let exponent: number;
  if (kind < 7) exponent = near + random.below(40) - 20;
  else if (kind < 9) exponent = 127 + random.below(70) - 35;
  else if (kind === 9) exponent = random.below(30);
  else if (kind === 10) exponent = 255 - random.below(30);
  else if (random.chance(50)) {
    return (sign | 0x7f800000 | (random.chance(50) ? 1 << 22 : 0) | random.below(1 << 22)) >>> 0;
  } else exponent = 0;
  return (sign | (Math.max(0, Math.min(254, exponent)) << 23) | short) >>> 0;
}

/** A quarter of each kind: doubles, singles, integers at corners, anything. */
function randomVector(random: Random, record: DataView, at: number, near64: number, near32: number): void {
  const kind = random.below(5);
  for (let n = 0; n < 4; n++) {
    if (kind <= 1) {
      if (n & 1) continue;
      record.setBigUint64(at + n * 4, randomDouble(random, near64), true);
    } else if (kind <= 2) record.setUint32(at + n * 4, randomSingle(random, near32), true);
    else if (kind === 3) record.setUint32(at + n * 4, random.pick(corners32), true);
    else record.setUint32(at + n * 4, random.bits(), true);
  }
}

/** An 80-bit number. */
function randomExtended(random: Random, record: DataView, at: number, near: number): void {
  let significand = BigInt(random.bits()) << 32n | BigInt(random.bits());
  const shape = random.below(6);
  if (shape === 0) significand = 1n << BigInt(random.below(64));
  else if (shape === 1) significand &= ~((1n << BigInt(random.below(64))) - 1n);
  else if (shape === 2) significand = BigInt.asUintN(64, -1n << BigInt(random.below(64)));
  const kind = random.below(16);
  let exponent: number;
  if (kind < 6) exponent = (near + random.below(140) - 70) & 0x7fff;
  else if (kind < 10) exponent = 16383 + random.below(140) - 70;
  else if (kind === 10) exponent = 16383 + random.below(2100) - 1050;
  else if (kind === 11) exponent = random.below(70);
  else if (kind === 12) exponent = 0x7fff - random.below(70);
  else if (kind === 13) exponent = 0;
  else if (kind === 14) exponent = 0x7fff;
  else exponent = random.below(0x8000);
  const odd = random.below(24);
  if (odd === 0) significand = 0n;
  else if (odd === 1) significand = 1n << 63n;
  else if (odd !== 2) {
    significand = exponent === 0 ? significand & ~(1n << 63n) : significand | (1n << 63n);
  }
  record.setBigUint64(at, BigInt.asUintN(64, significand), true);
  record.setUint16(at + 8, exponent | (random.chance(50) ? 0x8000 : 0), true);
}

function fillState(row: Row, random: Random, record: DataView, at: number): void {
  const fx = at + Record.FX;
  for (let i = 0; i < 512; i += 4) record.setUint32(fx + i, 0, true);
  const near64 = random.chance(50) ? 1023 : random.below(2047);
  const near32 = random.chance(50) ? 127 : random.below(255);
  const near80 = random.chance(50) ? 16383 : random.below(0x7fff);
  for (let i = 0; i < 16; i++) randomVector(random, record, fx + Fx.XMM + i * 16, near64, near32);
  for (let i = 0; i < WINDOW_BYTES; i += 16) randomVector(random, record, at + Record.WINDOW + i, near64, near32);
  if (random.chance(30)) {
    for (let i = 0; i + 16 <= WINDOW_BYTES; i += 16) randomExtended(random, record, at + Record.WINDOW + i, near80);
  }
  let mxcsr = random.chance(70) ? 0x1f80 : 0x1f80 & ~(1 << (7 + random.below(6)));
  if (random.chance(10)) mxcsr = random.below(64) << 7;
  if (random.chance(50)) mxcsr |= 0x20;
  if (random.chance(20)) mxcsr |= random.below(64);
  if (random.chance(50)) mxcsr |= random.below(4) << 13;
  if (random.chance(15)) mxcsr |= 0x40;
  if (random.chance(15)) mxcsr |= 0x8000;
  record.setUint32(fx + Fx.MXCSR, mxcsr, true);
  for (let i = 0; i < 8; i++) randomExtended(random, record, fx + Fx.ST + i * 16, near80);
  const x87 = row.unit === "x87" || row.unit === "mmx";
  let control = 0x37f;
  if (x87) {
    control = 0x40 | (random.chance(75) ? 0x3f : random.below(64)) | (random.pick([0, 2, 3, 3]) << 8) |
      (random.below(4) << 10);
  }
  if (/^(f2xm1|fyl2xp?1?|fpatan|fptan|fsin|fcos|fsincos)$/.test(row.name)) control |= 0x3f;
  record.setUint16(fx + Fx.FCW, control, true);
  let status = random.below(8) << 11;
  if (random.chance(50)) status |= random.below(256) & (random.chance(80) ? 0x7f : 0) & (control | 0x40);
  status |= (random.below(16) & 7) << 8 | (random.chance(50) ? 0x4000 : 0);
  // Pending exceptions now and then.
  if ((status & 0x3f & ~control) !== 0) status &= ~0x3f;
  if (random.chance(4)) status |= random.below(64);
  if ((status & 0x3f & ~control) !== 0) status |= 0x8080;
  record.setUint16(fx + Fx.FSW, status, true);
  record.setUint8(fx + Fx.FTW, random.chance(75) ? 0xff : random.below(256));
}
