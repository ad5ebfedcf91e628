/**
 * The instruction table. A row gives an encoding in the SDM's notation, operands in the codes of its opcode map
 * (vol. 2D, A.2), and the function that emits what the instruction does.
 */
import type { Emitter } from "../emitter.ts";
import { type OperandForm, operandForm } from "./operand_form.ts";

/** What else there is to say about an instruction. */
export interface Traits {
  /** LOCK is allowed when the destination is memory. */
  lock?: boolean;
  /** Writes a register the block or the JIT must know about, or state besides registers and flags: interpreter only. */
  system?: boolean;
  /** The last instruction of its block: control flow, or a change of mode or translation. */
  ends?: boolean;
  /** Code depends on 64-bit mode or not: stack and control flow. */
  modal?: boolean;
  /** Code depends on the address size: implicit addresses. */
  addressSized?: boolean;
  /** The address of its memory operand is the offset: the segment is not there, or for the definition to add. */
  offset?: boolean;
  /** A REP prefix means repetition. */
  repeats?: boolean;
  /** Operand size in 64-bit mode: 64 unless 66 is there ("d64"), or always 64 ("f64"). */
  size64?: "d64" | "f64";
  /** Valid in 64-bit mode only, or outside it only. */
  only?: "64" | "legacy";
  /**
   * The unit that executes it, for whoever decodes: "sse" is #UD when CR0.EM or not CR4.OSFXSR, #NM when CR0.TS; "mmx"
   * #UD when CR0.EM, #NM when CR0.TS; "x87" #NM when CR0.EM or CR0.TS (SDM vol. 3, 2.5).
   */
  unit?: "sse" | "mmx" | "x87";
}

/** What emits an instruction's semantics. */
export type Emit = (e: Emitter) => void;

/** One row. */
export interface Row extends Traits {
  readonly number: number;
  readonly name: string;
  /** 0: one-byte, 1: 0F, 2: 0F 38, 3: 0F 3A. */
  readonly map: number;
  readonly opcode: number;
  /** Low three bits of the opcode are a register. */
  readonly plus: boolean;
  /** Mandatory prefix: -1 any, 0 none of 66 F2 F3, else the prefix. */
  readonly prefix: number;
  /** ModR/M.reg, or -1. */
  readonly extension: number;
  /** ModR/M.mod: "3", "m" (not 3) or any. */
  readonly mod: "3" | "m" | "";
  /** ModR/M.rm when fixed (with mod 3), or -1. */
  readonly rm: number;
  readonly modrm: boolean;
  readonly operands: readonly string[];
  /** The same as numbers. */
  readonly forms: readonly OperandForm[];
  readonly emit: Emit;
}

/** All rows. */
export const rows: Row[] = [];
/** Rows by map and opcode. */
export const byOpcode: Row[][][] = [0, 1, 2, 3].map(() => Array.from({ length: 256 }, () => []));

/**
 * Adds a row.
 * @param name the mnemonic; rows with the same name, operand kinds and sizes share generated code, so rows with
 *   different semantics need different names
 * @param encoding `[NP|66|F2|F3] [0F [38|3A]] opcode [+r] [/r|/0../7] [mod3|modm] [rmN]`
 * @param operands separated by spaces: see operand_form.ts
 */
export function op(name: string, encoding: string, operands: string, emit: Emit, traits: Traits = {}): void {
  const parts = encoding.split(" ");
  let prefix = -1;
  if (parts[0] === "NP") {
    prefix = 0;
    parts.shift();
  } else if (["66", "F2", "F3"].includes(parts[0])) {
    prefix = parseInt(parts.shift()!, 16);
  }
  let map = 0;
  const first = parts[0] as string;
  if (first === "0F" && parts.length > 1 && !parts[1].startsWith("/")) {
    parts.shift();
    map = 1;
    if ((parts[0] as string) === "38" && /^[0-9A-F]{2}$/.test(parts[1] ?? "")) {
      parts.shift();
      map = 2;
    } else if ((parts[0] as string) === "3A" && /^[0-9A-F]{2}$/.test(parts[1] ?? "")) {
      parts.shift();
      map = 3;
    }
  }
  const opcode = parseInt(parts.shift()!, 16);
  let plus = false;
  let extension = -1;
  let modrm = false;
  let mod: Row["mod"] = "";
  let rm = -1;
  for (const part of parts) {
    if (part === "+r") plus = true;
    else if (part === "/r") modrm = true;
    else if (part.startsWith("/")) {
      modrm = true;
      extension = Number(part.slice(1));
    } else if (part === "mod3") mod = "3";
    else if (part === "modm") mod = "m";
    else if (part.startsWith("rm")) rm = Number(part.slice(2));
    else throw new Error(`${name}: ${encoding}?`);
  }
  const codes = operands === "" ? [] : operands.split(" ");
  // Every row has the same fields in the same order: decoding reads them all the time, and V8 finds them at once then.
  const row: Row = {
    lock: traits.lock,
    system: traits.system,
    ends: traits.ends,
    modal: traits.modal,
    addressSized: traits.addressSized,
    offset: traits.offset,
    repeats: traits.repeats,
    size64: traits.size64,
    only: traits.only,
    unit: traits.unit,
    number: rows.length,
    name,
    map,
    opcode,
    plus,
    prefix,
    extension,
    mod,
    rm,
    modrm,
    operands: codes,
    forms: codes.map(operandForm),
    emit,
  };
  rows.push(row);
  for (let i = 0; i < (plus ? 8 : 1); i++) byOpcode[map][opcode + i].push(row);
}
