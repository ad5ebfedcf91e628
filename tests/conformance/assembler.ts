/**
 * A small x86 assembler for the suite's guests: 16-, 32- and 64-bit code, in Intel's operand order.
 *
 *     const code = new Assembler(64, 0x1000);
 *     code.mov("rbx", 0xd0000n).mov("eax", at({ base: "rbx", displacement: 4 })).out(0x80, "al").hlt();
 *
 * Encodings are those of the Intel SDM vol. 2, chapter 2 (prefixes, ModR/M, SIB) and its instruction pages.
 */

/** A memory operand. */
export interface Memory {
  base?: string;
  index?: string;
  scale?: 1 | 2 | 4 | 8;
  displacement?: number;
  /** 64-bit code: an address reached relative to RIP, instead of base and index. */
  ripTarget?: number;
  segment?: "es" | "cs" | "ss" | "ds" | "fs" | "gs";
  /** Bytes, where no register operand says so. */
  size?: number;
}

/** Writes a memory operand. */
export function at(memory: Memory): Memory {
  return memory;
}

export type Operand = string | number | bigint | Memory;

const NAMES_64 = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"];
const NAMES_8 = ["al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil"];
const HIGH_8 = ["ah", "ch", "dh", "bh"];
const SEGMENT_PREFIX = { es: 0x26, cs: 0x2e, ss: 0x36, ds: 0x3e, fs: 0x64, gs: 0x65 };
/** Condition codes of Jcc, SETcc, CMOVcc. */
const CONDITIONS: Record<string, number> = {
  o: 0,
  no: 1,
  b: 2,
  ae: 3,
  e: 4,
  ne: 5,
  be: 6,
  a: 7,
  s: 8,
  ns: 9,
  l: 12,
  ge: 13,
  le: 14,
  g: 15,
};
/** The /digit and base opcode of the eight classic operations. */
const ARITHMETIC: Record<string, number> = { add: 0, or: 1, adc: 2, sbb: 3, and: 4, sub: 5, xor: 6, cmp: 7 };

interface Register {
  number: number;
  size: number;
  /** spl, bpl, sil, dil need an (empty) REX prefix. */
  rex: boolean;
}

function register(name: string): Register {
  const made = (number: number, size: number, rex = false): Register => ({ number, size, rex });
  let n = NAMES_64.indexOf(name);
  if (n >= 0) return made(n, 8);
  if ((n = NAMES_64.indexOf("r" + name.slice(1))) >= 0 && name[0] === "e") return made(n, 4);
  if ((n = NAMES_64.indexOf("r" + name)) >= 0) return made(n, 2);
  if ((n = NAMES_8.indexOf(name)) >= 0) return made(n, 1, n >= 4);
  if ((n = HIGH_8.indexOf(name)) >= 0) return made(n + 4, 1);
  const numbered = /^r(\d+)([dwb]?)$/.exec(name);
  if (numbered) return made(Number(numbered[1]), { "": 8, d: 4, w: 2, b: 1 }[numbered[2]]!);
  const vector = /^xmm(\d+)$/.exec(name);
  if (vector) return made(Number(vector[1]), 16);
  throw new Error(`no register is called ${name}`);
}

const isMemory = (operand: Operand): operand is Memory => typeof operand === "object";

/** Emits code at an origin; labels may be used before they are set. */
export class Assembler {
  readonly bits: 16 | 32 | 64;
  readonly origin: number;
  private readonly code: number[] = [];
  private readonly labels = new Map<string, number>();
  private readonly fixups: { at: number; size: number; label: string; absolute: boolean }[] = [];

  constructor(bits: 16 | 32 | 64, origin: number) {
    this.bits = bits;
    this.origin = origin;
  }

  /** The address of the next instruction. */
  get here(): number {
    return this.origin + this.code.length;
  }

  /** Raw bytes. */
  bytes(...bytes: number[]): this {
    this.code.push(...bytes);
    return this;
  }

  label(name: string): this {
    this.labels.set(name, this.here);
    return this;
  }

  /** The address of a label that has been set. */
  address(name: string): number {
    const address = this.labels.get(name);
    if (address === undefined) throw new Error(`no label ${name}`);
    return address;
  }

  /** The code, with its labels resolved. */
  assemble(): Uint8Array {
    const code = new Uint8Array(this.code);
    const view = new DataView(code.buffer);
    for (const { at, size, label, absolute } of this.fixups) {
      const value = this.address(label) - (absolute ? 0 : this.origin + at + size);
      if (size === 4) view.setInt32(at, value | 0, true);
      else view.setInt16(at, value, true);
    }
    return code;
  }

  mov(to: Operand, from: Operand): this {
    if (typeof from === "string") return this.operation(0x88, to, from);
    if (isMemory(from)) return this.operation(0x8a, from, to as string);
    if (isMemory(to)) {
      const size = to.size!;
      const bytes = Math.min(size, 4);
      this.encode(size === 1 ? [0xc6] : [0xc7], 0, to, size, bytes);
      return this.immediate(from, bytes);
    }
    const { number, size, rex } = register(to as string);
    if (size === 8) return this.bytes(number >= 8 ? 0x49 : 0x48, 0xb8 + (number & 7)).immediate(from, 8);
    this.operandSize(size);
    if (number >= 8 || rex) this.bytes(number >= 8 ? 0x41 : 0x40);
    return this.bytes((size === 1 ? 0xb0 : 0xb8) + (number & 7)).immediate(from, size);
  }

  /** add, or, adc, sbb, and, sub, xor, cmp. */
  arithmetic(name: keyof typeof ARITHMETIC, to: Operand, from: Operand): this {
    const opcode = ARITHMETIC[name] << 3;
    if (typeof from === "string") return this.operation(opcode, to, from);
    if (isMemory(from)) return this.operation(opcode | 2, from, to as string);
    const size = isMemory(to) ? to.size! : register(to as string).size;
    const bytes = Math.min(size, 4);
    this.encode(size === 1 ? [0x80] : [0x81], ARITHMETIC[name], to, size, bytes);
    return this.immediate(from, bytes);
  }

  test(to: Operand, from: Operand): this {
    if (typeof from === "string") return this.operation(0x84, to, from);
    const size = isMemory(to) ? to.size! : register(to as string).size;
    const bytes = Math.min(size, 4);
    this.encode(size === 1 ? [0xf6] : [0xf7], 0, to, size, bytes);
    return this.immediate(from as number, bytes);
  }

  xchg(to: Operand, from: string): this {
    return this.operation(0x86, to, from);
  }
  /** With LOCK, as compilers emit it. */
  lockXadd(to: Memory, from: string): this {
    return this.bytes(0xf0).operation([0x0f, 0xc0], to, from);
  }
  lockCmpxchg(to: Memory, from: string): this {
    return this.bytes(0xf0).operation([0x0f, 0xb0], to, from);
  }
  /** LOCK CMPXCHG8B or, of 16 bytes, CMPXCHG16B: compares with rDX:rAX, exchanges for rCX:rBX. */
  lockCmpxchgPair(to: Memory, size: 8 | 16): this {
    return this.bytes(0xf0).encode([0x0f, 0xc7], 1, to, size === 16 ? 8 : 4);
  }
  /** LOCK before the next instruction. */
  lock(): this {
    return this.bytes(0xf0);
  }

  movzx(to: string, from: Memory): this {
    return this.extend(0xb6, to, from);
  }
  movsx(to: string, from: Memory): this {
    if (from.size === 4) return this.encode([0x63], register(to).number, from, register(to).size);
    return this.extend(0xbe, to, from);
  }

  push(operand: Operand): this {
    if (isMemory(operand)) return this.encode([0xff], 6, operand, this.bits === 64 ? 4 : this.bits / 8);
    const { number } = register(operand as string);
    if (number >= 8) this.bytes(0x41);
    return this.bytes(0x50 + (number & 7));
  }
  pop(operand: Operand): this {
    if (isMemory(operand)) return this.encode([0x8f], 0, operand, this.bits === 64 ? 4 : this.bits / 8);
    const { number } = register(operand as string);
    if (number >= 8) this.bytes(0x41);
    return this.bytes(0x58 + (number & 7));
  }

  /** inc, dec, not, neg of memory or a register. */
  unary(name: "inc" | "dec" | "not" | "neg", operand: Operand): this {
    const [opcode, digit] = { inc: [0xfe, 0], dec: [0xfe, 1], not: [0xf6, 2], neg: [0xf6, 3] }[name];
    const size = isMemory(operand) ? operand.size! : register(operand as string).size;
    return this.encode([opcode | (size === 1 ? 0 : 1)], digit, operand, size);
  }

  lea(to: string, from: Memory): this {
    return this.encode([0x8d], register(to).number, from, register(to).size);
  }
  setcc(condition: string, to: Operand): this {
    return this.encode([0x0f, 0x90 | CONDITIONS[condition]], 0, to, 1);
  }
  cmov(condition: string, to: string, from: Operand): this {
    return this.encode([0x0f, 0x40 | CONDITIONS[condition]], register(to).number, from, register(to).size);
  }
  /** bts with a bit number in a byte. */
  bts(to: Memory, bit: number): this {
    return this.encode([0x0f, 0xba], 5, to, to.size!, 1).bytes(bit);
  }

  /** 16-byte SSE moves; to or from memory. */
  vector(name: "movups" | "movaps" | "movdqu" | "movdqa", to: Operand, from: Operand): this {
    const [prefix, load, store] = {
      movups: [0, 0x10, 0x11],
      movaps: [0, 0x28, 0x29],
      movdqu: [0xf3, 0x6f, 0x7f],
      movdqa: [0x66, 0x6f, 0x7f],
    }[name];
    if (prefix) this.bytes(prefix);
    if (isMemory(to)) return this.encode([0x0f, store], register(from as string).number, to, 4);
    return this.encode([0x0f, load], register(to as string).number, from, 4);
  }

  /** String instructions: movs, cmps, stos, lods, scas, ins, outs. */
  string(name: "movs" | "cmps" | "stos" | "lods" | "scas" | "ins" | "outs", size: number, repeat = false): this {
    const opcode = { movs: 0xa4, cmps: 0xa6, stos: 0xaa, lods: 0xac, scas: 0xae, ins: 0x6c, outs: 0x6e }[name];
    if (repeat) this.bytes(0xf3);
    this.operandSize(size);
    if (size === 8) this.bytes(0x48);
    return this.bytes(opcode | (size === 1 ? 0 : 1));
  }

  /** OUT to a port below 256 or to DX. */
  out(port: number | "dx", from: "al" | "ax" | "eax"): this {
    const { size } = register(from);
    this.operandSize(size);
    if (port === "dx") return this.bytes(size === 1 ? 0xee : 0xef);
    return this.bytes(size === 1 ? 0xe6 : 0xe7, port);
  }
  in(to: "al" | "ax" | "eax", port: number | "dx"): this {
    const { size } = register(to);
    this.operandSize(size);
    if (port === "dx") return this.bytes(size === 1 ? 0xec : 0xed);
    return this.bytes(size === 1 ? 0xe4 : 0xe5, port);
  }

  jmp(label: string): this {
    return this.bytes(0xe9).relative(label);
  }
  jcc(condition: string, label: string): this {
    return this.bytes(0x0f, 0x80 | CONDITIONS[condition]).relative(label);
  }
  call(label: string): this {
    return this.bytes(0xe8).relative(label);
  }
  ret(): this {
    return this.bytes(0xc3);
  }
  iret(): this {
    return this.bits === 64 ? this.bytes(0x48, 0xcf) : this.bytes(0xcf);
  }
  hlt(): this {
    return this.bytes(0xf4);
  }
  sti(): this {
    return this.bytes(0xfb);
  }
  cli(): this {
    return this.bytes(0xfa);
  }
  nop(): this {
    return this.bytes(0x90);
  }
  cpuid(): this {
    return this.bytes(0x0f, 0xa2);
  }
  rdmsr(): this {
    return this.bytes(0x0f, 0x32);
  }
  wrmsr(): this {
    return this.bytes(0x0f, 0x30);
  }
  /** Loads the IDT register from a pseudo-descriptor in memory. */
  lidt(from: Memory): this {
    return this.encode([0x0f, 0x01], 3, from, 4);
  }

  /** Opcode pairs whose low bit says byte or not, with a register operand. */
  private operation(opcode: number | number[], rm: Operand, registerName: string): this {
    const { number, size, rex } = register(registerName);
    const opcodes = typeof opcode === "number" ? [opcode] : [...opcode];
    if (size > 1) opcodes[opcodes.length - 1] |= 1;
    return this.encode(opcodes, number, rm, size, 0, rex);
  }

  private extend(opcode: number, to: string, from: Memory): this {
    return this.encode([0x0f, opcode | (from.size === 1 ? 0 : 1)], register(to).number, from, register(to).size);
  }

  private operandSize(size: number): void {
    if (size === 2 && this.bits !== 16) this.bytes(0x66);
    if (size === 4 && this.bits === 16) this.bytes(0x66);
  }

  /** Prefixes, opcode, ModR/M, SIB, displacement. `trailing`: bytes of an immediate still to come, for RIP-relative. */
  private encode(opcode: number[], reg: number, rm: Operand, size: number, trailing = 0, forceRex = false): this {
    const memory = isMemory(rm) ? rm : null;
    const direct = memory ? null : register(rm as string);
    if (memory?.segment) this.bytes(SEGMENT_PREFIX[memory.segment]);
    this.operandSize(size);
    const base = memory?.base === undefined ? null : register(memory.base);
    const index = memory?.index === undefined ? null : register(memory.index);
    if (this.bits === 64) {
      const rex = (size === 8 ? 8 : 0) | (reg >= 8 ? 4 : 0) | (index && index.number >= 8 ? 2 : 0) |
        ((base ?? direct) && (base ?? direct)!.number >= 8 ? 1 : 0);
      if (rex || forceRex || direct?.rex) this.bytes(0x40 | rex);
    }
    this.bytes(...opcode);
    const field = (reg & 7) << 3;
    if (direct) return this.bytes(0xc0 | field | (direct.number & 7));
    const displacement = memory!.displacement ?? 0;
    if (this.bits === 16) return this.memory16(field, memory!, displacement);
    if (memory!.ripTarget !== undefined) {
      const next = this.here + 1 + 4 + trailing;
      return this.bytes(field | 5).immediate(memory!.ripTarget - next, 4);
    }
    if (!base && !index) {
      // No base: in 64-bit code through a SIB byte, since ModR/M 5 means RIP-relative there.
      if (this.bits === 64) return this.bytes(field | 4, 0x25).immediate(displacement, 4);
      return this.bytes(field | 5).immediate(displacement, 4);
    }
    const small = displacement >= -128 && displacement <= 127;
    // A base of rbp or r13 needs a displacement; without a base it takes 32 bits.
    const mode = !base ? 0 : displacement === 0 && (base.number & 7) !== 5 ? 0 : small ? 0x40 : 0x80;
    if (index || (base!.number & 7) === 4) {
      const scale = Math.log2(memory!.scale ?? 1) << 6;
      this.bytes(mode | field | 4, scale | ((index ? index.number : 4) & 7) << 3 | ((base ? base.number : 5) & 7));
    } else this.bytes(mode | field | (base!.number & 7));
    if (!base || mode === 0x80) return this.immediate(displacement, 4);
    return mode === 0x40 ? this.immediate(displacement, 1) : this;
  }

  /** 16-bit addressing: [bx], [si], [di] with a 16-bit displacement, or the displacement alone. */
  private memory16(field: number, memory: Memory, displacement: number): this {
    if (memory.base === undefined) return this.bytes(field | 6).immediate(displacement, 2);
    const mode: Record<string, number> = { si: 4, di: 5, bp: 6, bx: 7 };
    return this.bytes(0x80 | field | mode[memory.base]).immediate(displacement, 2);
  }

  private immediate(value: Operand, size: number): this {
    let rest = BigInt.asUintN(size * 8, BigInt(value as number | bigint));
    for (let i = 0; i < size; i++, rest >>= 8n) this.code.push(Number(rest & 0xffn));
    return this;
  }

  private relative(label: string): this {
    const size = this.bits === 16 ? 2 : 4;
    this.fixups.push({ at: this.code.length, size, label, absolute: false });
    return this.bytes(...new Array<number>(size).fill(0));
  }
}
