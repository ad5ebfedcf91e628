/** Bytes to instructions, by the table. Runs on a miss of the block cache only. */
import type { Bits, OperandKind, OperandShape } from "./emitter.ts";
import { Reg, Seg } from "./layout.ts";
import { Form, type OperandForm, Size } from "./isa/operand_form.ts";
import { byOpcode, type Row } from "./isa/table.ts";

/** One operand of a decoded instruction. */
export interface Operand extends OperandShape {
  /** Register number; for 8-bit registers AH CH DH BH are 4-7 with `high` set. */
  register: number;
  high: boolean;
  /** Immediate or relative target: low and high words. */
  low: number;
  highWord: number;
}

/** A decoded instruction. */
export interface Instruction {
  row: Row;
  bits: Bits;
  addressBits: 16 | 32 | 64;
  mode: 16 | 32 | 64;
  locked: boolean;
  /** 0, 0xf2 or 0xf3. */
  repeat: number;
  length: number;
  operands: Operand[];
  // The memory operand: registers are numbers of Reg, ZERO when absent.
  base: number;
  index: number;
  scale: number;
  displacement: number;
  segment: number;
  /** The displacement counts from the next instruction. */
  relative: boolean;
  /** moffs: a 64-bit absolute address. */
  absolute: boolean;
  displacementHigh: number;
}

/** Bytes of the longest instruction (SDM vol. 2, 2.3.11). */
export const MAXIMUM_LENGTH = 15;

/** What {@link decode} gives instead of an instruction. */
export const DecodeFailure = {
  /** The bytes end before the instruction does. */
  TRUNCATED: 0,
  /** #UD */
  UNDEFINED: 1,
  /** Longer than 15 bytes: #GP(0). */
  TOO_LONG: 2,
} as const;

class Failure {
  constructor(readonly code: number) {}
}
const TRUNCATED = new Failure(DecodeFailure.TRUNCATED);
const TOO_LONG = new Failure(DecodeFailure.TOO_LONG);
const UNDEFINED = new Failure(DecodeFailure.UNDEFINED);

class Decoder {
  at = 0;
  constructor(readonly bytes: Uint8Array, readonly start: number, readonly available: number) {}

  byte(): number {
    if (this.at >= MAXIMUM_LENGTH) throw TOO_LONG;
    if (this.at >= this.available) throw TRUNCATED;
    return this.bytes[this.start + this.at++];
  }
  s8(): number {
    return (this.byte() << 24) >> 24;
  }
  s16(): number {
    const low = this.byte();
    return ((low | (this.byte() << 8)) << 16) >> 16;
  }
  s32(): number {
    const low = this.byte() | (this.byte() << 8);
    return low | (this.byte() << 16) | (this.byte() << 24);
  }
}

/**
 * Decodes one instruction.
 * @param bytes where it stands
 * @param start where it begins in them
 * @param available bytes that may be looked at
 * @returns the instruction, or one of {@link DecodeFailure}
 */
export function decode(bytes: Uint8Array, start: number, available: number, mode: 16 | 32 | 64): Instruction | number {
  try {
    return decodeOne(new Decoder(bytes, start, available), mode);
  } catch (failure) {
    if (failure instanceof Failure) return failure.code;
    throw failure;
  }
}

function decodeOne(d: Decoder, mode: 16 | 32 | 64): Instruction {
  let operandOverride = false;
  let addressOverride = false;
  let segment = -1;
  let locked = false;
  let repeat = 0;
  let rex = 0;
  let byte: number;
  for (;;) {
    byte = d.byte();
    if (byte === 0x66) operandOverride = true;
    else if (byte === 0x67) addressOverride = true;
    else if (byte === 0xf0) locked = true;
    else if (byte === 0xf2 || byte === 0xf3) repeat = byte;
    else if (byte === 0x64) segment = Seg.FS;
    else if (byte === 0x65) segment = Seg.GS;
    else if (byte === 0x2e || byte === 0x36 || byte === 0x3e || byte === 0x26) {
      // ES CS SS DS overrides mean nothing in 64-bit mode, not even that an FS before them is undone.
      if (mode !== 64) segment = byte === 0x26 ? Seg.ES : byte === 0x2e ? Seg.CS : byte === 0x36 ? Seg.SS : Seg.DS;
    } else if (mode === 64 && byte >> 4 === 4) {
      rex = byte;
      byte = d.byte();
      // A REX that does not stand right before the opcode is ignored.
      if (isPrefix(byte) || byte >> 4 === 4) {
        rex = 0;
        d.at--;
        continue;
      }
      break;
    } else break;
  }
  let map = 0;
  if (byte === 0x0f) {
    map = 1;
    byte = d.byte();
    if (byte === 0x38) {
      map = 2;
      byte = d.byte();
    } else if (byte === 0x3a) {
      map = 3;
      byte = d.byte();
    }
  }
  let candidates = byOpcode[map][byte];
  // 90 is NOP (and PAUSE) unless REX.B makes it an exchange with R8.
  if (map === 0 && byte === 0x90 && rex & 1) candidates = candidates.filter((row) => row.plus);
  if (candidates.length === 0) throw UNDEFINED;
  let needsModrm = false;
  for (let i = 0; i < candidates.length; i++) if (candidates[i].modrm) needsModrm = true;
  const modrmAt = d.at;
  const modrm = needsModrm ? d.byte() : 0;
  const mod = modrm >> 6;
  const extension = (modrm >> 3) & 7;
  const row = choose(candidates, mode, operandOverride, repeat, mod, extension, modrm & 7);
  if (!row) throw UNDEFINED;
  if (!row.modrm) d.at = modrmAt;
  if (row.prefix > 0x66) repeat = 0;

  const wide = (rex & 8) !== 0;
  let bits: Bits;
  if (mode === 64) {
    if (row.size64 === "f64") bits = 64;
    else if (row.size64 === "d64") bits = operandOverride && !wide ? 16 : 64;
    else bits = wide ? 64 : operandOverride ? 16 : 32;
  } else bits = (mode === 32) !== operandOverride ? 32 : 16;
  const addressBits = mode === 64 ? (addressOverride ? 32 : 64) : (mode === 32) !== addressOverride ? 32 : 16;

  const instruction: Instruction = {
    row,
    bits,
    addressBits,
    mode,
    locked,
    repeat,
    length: 0,
    operands: [],
    base: Reg.ZERO,
    index: Reg.ZERO,
    scale: 0,
    displacement: 0,
    segment,
    relative: false,
    absolute: false,
    displacementHigh: 0,
  };
  if (row.modrm && mod !== 3 && row.rm < 0) {
    decodeMemory(d, instruction, modrm, rex);
    // POP to memory addresses with the stack pointer after the pop.
    if (row.name === "pop_to" && instruction.base === Reg.SP) instruction.displacement += bits >> 3;
  } else if (segment < 0) instruction.segment = Seg.DS;

  const { forms } = row;
  for (let n = 0; n < forms.length; n++) {
    const operand: Operand = { kind: "r", bits, register: 0, high: false, low: 0, highWord: 0 };
    instruction.operands.push(operand);
    decodeOperand(d, instruction, operand, forms[n], modrm, rex, byte);
    if (operand.kind === "r" && operand.bits === 8 && rex === 0 && operand.register >= 4 && operand.register < 8) {
      operand.high = true;
    }
  }
  // Byte forms have no other mark than their operands.
  const destination = instruction.operands[0];
  if (destination?.bits === 8 && (destination.kind === "r" || destination.kind === "m")) instruction.bits = 8;
  if (locked) {
    const first = instruction.operands[0];
    if (!row.lock || first === undefined || first.kind !== "m") throw UNDEFINED;
  }
  instruction.length = d.at;
  return instruction;
}

function isPrefix(byte: number): boolean {
  return byte === 0x66 || byte === 0x67 || byte === 0xf0 || byte === 0xf2 || byte === 0xf3 || byte === 0x64 ||
    byte === 0x65 || byte === 0x2e || byte === 0x36 || byte === 0x3e || byte === 0x26;
}

function choose(
  candidates: Row[],
  mode: number,
  operandOverride: boolean,
  repeat: number,
  mod: number,
  extension: number,
  rm: number,
): Row | null {
  // The prefix that selects among SSE encodings: F2 and F3 win over 66.
  const prefix = repeat !== 0 ? repeat : operandOverride ? 0x66 : 0;
  let fallback: Row | null = null;
  for (const row of candidates) {
    if (row.only === "64" && mode !== 64) continue;
    if (row.only === "legacy" && mode === 64) continue;
    if (row.extension >= 0 && row.extension !== extension) continue;
    if (row.mod === "3" && mod !== 3) continue;
    if (row.mod === "m" && mod === 3) continue;
    if (row.rm >= 0 && row.rm !== rm) continue;
    if (row.prefix === prefix) {
      if (row.prefix > 0 || fallback === null || fallback.prefix < 0) {
        // A row with a fixed rm is more special than one without.
        if (row.rm >= 0) return row;
        if (fallback === null || fallback.rm < 0) fallback = row;
      }
    } else if (row.prefix === 0x66 && operandOverride && repeat === 0) fallback = row;
    else if (row.prefix === -1 && (fallback === null || row.rm >= 0)) fallback = row;
  }
  return fallback;
}

/** Base and index of 16-bit addresses (SDM vol. 2, table 2-1). */
const PAIRS = [
  [Reg.BX, Reg.SI],
  [Reg.BX, Reg.DI],
  [Reg.BP, Reg.SI],
  [Reg.BP, Reg.DI],
  [Reg.SI, Reg.ZERO],
  [Reg.DI, Reg.ZERO],
  [Reg.BP, Reg.ZERO],
  [Reg.BX, Reg.ZERO],
];

function decodeMemory(d: Decoder, i: Instruction, modrm: number, rex: number): void {
  const mod = modrm >> 6;
  const rm = modrm & 7;
  let stack = false;
  if (i.addressBits === 16) {
    if (mod === 0 && rm === 6) i.displacement = d.s16();
    else {
      i.base = PAIRS[rm][0];
      i.index = PAIRS[rm][1];
      stack = i.base === Reg.BP;
      if (mod === 1) i.displacement = d.s8();
      else if (mod === 2) i.displacement = d.s16();
    }
  } else {
    if (rm === 4) {
      const sib = d.byte();
      const index = ((sib >> 3) & 7) | ((rex & 2) << 2);
      if (index !== 4) {
        i.index = index;
        i.scale = sib >> 6;
      }
      if ((sib & 7) === 5 && mod === 0) i.displacement = d.s32();
      else {
        i.base = (sib & 7) | ((rex & 1) << 3);
        stack = i.base === Reg.SP || i.base === Reg.BP;
      }
    } else if (rm === 5 && mod === 0) {
      i.displacement = d.s32();
      i.relative = i.mode === 64;
    } else {
      i.base = rm | ((rex & 1) << 3);
      stack = i.base === Reg.BP;
    }
    if (mod === 1) i.displacement = d.s8();
    else if (mod === 2) i.displacement = d.s32();
  }
  if (i.segment < 0) i.segment = stack ? Seg.SS : Seg.DS;
}

function sizeOf(size: number, bits: Bits, mode: number): number {
  switch (size) {
    case Size.OPERAND:
      return bits;
    case Size.BYTE:
      return 8;
    case Size.WORD:
      return 16;
    case Size.DOUBLEWORD:
      return 32;
    case Size.QUADWORD:
      return 64;
    case Size.Y:
      return bits === 64 ? 64 : 32;
    case Size.Z:
      return bits === 16 ? 16 : 32;
    case Size.XMM:
      return 128;
    case Size.POINTER:
      return bits + 16;
    case Size.DESCRIPTOR:
      return mode === 64 ? 80 : 48;
    case Size.PAIR:
      return 2 * bits;
    case Size.DOUBLED:
      return bits === 64 ? 128 : 64;
    default:
      return mode === 64 ? 64 : 32;
  }
}

/** ModR/M.rm: memory, or a register of a kind. */
function either(operand: Operand, modrm: number, kind: OperandKind, register: number): void {
  if (modrm >> 6 !== 3) operand.kind = "m";
  else {
    operand.kind = kind;
    operand.register = register;
  }
}

function decodeOperand(
  d: Decoder,
  i: Instruction,
  operand: Operand,
  { form, size: width, register }: OperandForm,
  modrm: number,
  rex: number,
  opcode: number,
): void {
  const size = sizeOf(width, i.bits, i.mode);
  operand.bits = size;
  const reg = ((modrm >> 3) & 7) | ((rex & 4) << 1);
  const rm = (modrm & 7) | ((rex & 1) << 3);
  switch (form) {
    case Form.FIXED:
      operand.register = register;
      return;
    case Form.AH:
      operand.register = register;
      operand.high = true;
      return;
    case Form.ONE:
      return immediate(operand, size, 1, 0);
    case Form.E:
      return either(operand, modrm, "r", rm);
    case Form.M:
      operand.kind = "m";
      return;
    case Form.R:
      operand.register = rm;
      return;
    case Form.G:
      operand.register = reg;
      return;
    case Form.Z:
      operand.register = (opcode & 7) | ((rex & 1) << 3);
      return;
    case Form.W:
      return either(operand, modrm, "x", rm);
    case Form.U:
      operand.kind = "x";
      operand.register = rm;
      return;
    case Form.V:
      operand.kind = "x";
      operand.register = reg;
      return;
    case Form.Q:
      return either(operand, modrm, "q", rm & 7);
    case Form.N:
      operand.kind = "q";
      operand.register = rm & 7;
      return;
    case Form.P:
      operand.kind = "q";
      operand.register = reg & 7;
      return;
    // Segment, control and debug registers are numbers to the instruction.
    case Form.S:
      // CS is read only; this comes before an access to the other operand.
      if ((reg & 7) > 5 || ((reg & 7) === Seg.CS && operand === i.operands[0])) throw UNDEFINED;
      return immediate(operand, size, reg & 7, 0);
    case Form.C:
    case Form.D:
      return immediate(operand, size, reg, 0);
    case Form.T:
      return immediate(operand, size, modrm & 7, 0);
    case Form.I: {
      if (size === 8) return signed(operand, size, d.s8());
      if (size === 16) return signed(operand, size, d.s16());
      const low = d.s32();
      // Iz is 32 bits at most, sign-extended; only Iv (MOV) has 64.
      if (size === 64) return immediate(operand, size, low, d.s32());
      return signed(operand, size, low);
    }
    case Form.J:
      operand.kind = "j";
      if (size === 8) operand.low = d.s8();
      else operand.low = size === 16 && i.mode !== 64 ? d.s16() : d.s32();
      operand.highWord = operand.low >> 31;
      return;
    default:
      operand.kind = "m";
      i.absolute = true;
      if (i.segment < 0) i.segment = Seg.DS;
      if (i.addressBits === 16) i.displacement = d.s16() & 0xffff;
      else {
        i.displacement = d.s32();
        if (i.addressBits === 64) i.displacementHigh = d.s32();
      }
  }
}

function immediate(operand: Operand, bits: number, low: number, high: number): void {
  operand.kind = "i";
  operand.bits = bits;
  operand.low = low;
  operand.highWord = high;
}

function signed(operand: Operand, bits: number, value: number): void {
  immediate(operand, bits, value, value >> 31);
}
