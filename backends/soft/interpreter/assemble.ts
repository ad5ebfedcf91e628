/** Instructions to blocks of micro-ops. */
import { KEY_EM, KEY_LIMITED, KEY_OSFXSR, KEY_SINGLE, KEY_TS } from "../mode_key.ts";
import { decode, DecodeFailure, type Instruction, type Operand } from "../decode.ts";
import type { Row } from "../isa/table.ts";
import { Vector } from "../emitter.ts";
import { Op, Reg, Seg } from "../layout.ts";
import { type HandlerEmitter, handlerKey, linksAnywhere } from "./handler.ts";

/** Finds or makes handlers. */
export interface HandlerSource {
  /** The number of the handler with this key, made with `emit` if there is none yet. */
  handler(key: string, emit: (e: HandlerEmitter) => void): number;
}

/** Most instructions in a block. */
const MAXIMUM = 64;

/** What {@link BlockAssembler.assemble} made. */
export interface AssembledBlock {
  instructions: number;
  /** Bytes of code. */
  length: number;
  /** Bytes of it in the next page. */
  crossing: boolean;
  /** Micro-ops. */
  ops: number;
}

/** Decodes straight-line code and writes micro-ops. */
export class BlockAssembler {
  /** Exceptions of the units' instructions, with the key of the block: {@link refusalsOf}. */
  private refusals: Refusals = { x87: -1, mmx: -1, sse: -1 };
  /** Handlers by row and shape. */
  private readonly byShape: Map<number, number>[] = [];
  private readonly words: Int32Array;
  private readonly bytes: Uint8Array;
  private end = -1;

  /** @param view the memory that micro-ops are written to, from its beginning */
  constructor(view: DataView, private readonly handlers: HandlerSource) {
    this.words = new Int32Array(view.buffer, view.byteOffset, view.byteLength >> 2);
    this.bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  }

  /**
   * Writes micro-ops for the code in `bytes` at `at`.
   * @param bytes the code, as far as it may be looked at
   * @param pageBytes how many of them lie in the first page
   * @param limit most instructions
   * @returns null when the bytes end before the first instruction does
   */
  assemble(
    at: number,
    bytes: Uint8Array,
    pageBytes: number,
    key: bigint,
    limit = MAXIMUM,
  ): AssembledBlock | null {
    const mode = modeOf(key);
    this.refusals = refusalsOf(key);
    let offset = 0;
    let ops = 0;
    let instructions = 0;
    let open = true;
    // 16-bit code of 64 KiB and more is not KEY_LIMITED: its blocks ask themselves whether they end within the limit.
    const asks = mode === 16 && !(key & (KEY_SINGLE | KEY_LIMITED));
    if (asks) this.writeOp(at + ops++ * Op.BYTES, this.handlers.handler("limit", emitLimit), 0, 0);
    while (open && instructions < limit && offset < pageBytes) {
      // Only a block's first instruction may reach into the next page: then it stands alone.
      const instruction = decode(bytes, offset, instructions === 0 ? bytes.length - offset : pageBytes - offset, mode);
      if (typeof instruction === "number") {
        if (instruction === DecodeFailure.TRUNCATED) {
          if (instructions === 0) return null;
          break;
        }
        const vector = instruction === DecodeFailure.UNDEFINED ? Vector.UD : Vector.GP;
        const handler = this.handlers.handler(`raise${vector}`, (e) => e.raise(vector, vector === Vector.GP ? 0 : -1));
        this.writeOp(at + ops++ * Op.BYTES, handler, offset, 1);
        instructions++;
        open = false;
        offset += 1;
        break;
      }
      const crossing = offset + instruction.length > pageBytes;
      ops += this.writeInstruction(at + ops * Op.BYTES, instruction, offset);
      instructions++;
      offset += instruction.length;
      open = !instruction.row.ends;
      if (crossing) {
        open = false;
        break;
      }
    }
    this.writeEnd(at + ops++ * Op.BYTES, offset);
    if (asks) this.words[(at + Op.IMMEDIATE) / 4] = offset;
    return { instructions, length: offset, crossing: offset > pageBytes, ops };
  }

  private writeOp(at: number, handler: number, offset: number, length: number): void {
    const { words } = this;
    const word = at / 4;
    words[word] = handler | (offset << 16);
    words[word + 1] = 0;
    words[word + Op.BASE / 4] = (Reg.ZERO * 8) | ((Reg.ZERO * 8) << 8) | (length << 24);
    words[word + Op.DISPLACEMENT / 4] = 0;
    words[word + Op.IMMEDIATE / 4] = 0;
    words[word + Op.IMMEDIATE / 4 + 1] = 0;
  }

  /** The micro-op that goes on behind the block. */
  private writeEnd(at: number, offset: number): void {
    if (this.end < 0) this.end = this.handlers.handler("end", emitEnd);
    this.writeOp(at, this.end, offset, 0);
    this.words[(at + Op.LINK) / 4] = 1;
  }

  private writeInstruction(at: number, i: Instruction, offset: number): number {
    const { words, bytes } = this;
    let ops = 0;
    const { unit } = i.row;
    if (unit && this.refusals[unit] >= 0) {
      const refused = this.refusals[unit];
      this.writeOp(at, this.handlers.handler(`raise${refused}`, (e) => e.raise(refused)), offset, i.length);
      return 1;
    }
    const { operands } = i;
    let memory: Operand | null = null;
    for (let n = 0; n < operands.length && memory === null; n++) if (operands[n].kind === "m") memory = operands[n];
    let viaEa = false;
    if (memory !== null) {
      const bare = i.row.offset === true;
      const based = !bare && (i.mode !== 64 || i.segment === Seg.FS || i.segment === Seg.GS);
      if (based || i.addressBits !== 64 || i.absolute) {
        // An offset has no segment: in any mode it takes the 64-bit way of computing, cut to the address size.
        const segment = bare ? Seg.DS : i.segment;
        const mode = bare ? 64 : i.mode;
        const key = addressKey(i.addressBits, mode, based ? segment : -1);
        const number = this.handlers.handler(key, (e) => {
          e.emitAddress(i.addressBits, mode, segment);
        });
        this.writeOp(at, number, offset, i.length);
        this.writeAddress(at, i, offset);
        words[(at + Op.IMMEDIATE) / 4] = words[(at + Op.DISPLACEMENT) / 4];
        words[(at + Op.IMMEDIATE) / 4 + 1] = i.absolute ? i.displacementHigh : i.displacement >> 31;
        bytes[at + Op.R0] = Math.max(1, memory.bits >> 3);
        bytes[at + Op.R1] = writes(i) ? 1 : 0;
        ops++;
        viaEa = true;
      }
    }
    const handler = this.handlerOf(i, memory !== null);
    const place = at + ops * Op.BYTES;
    this.writeOp(place, handler, offset, i.length);
    bytes[place + Op.AUX] = i.segment < 0 ? Seg.DS : i.segment;
    if (viaEa) bytes[place + Op.BASE] = Reg.EA * 8;
    else if (memory !== null) this.writeAddress(place, i, offset);
    let field = place + Op.R0;
    let immediates = 0;
    for (let n = 0; n < operands.length; n++) {
      const operand = operands[n];
      switch (operand.kind) {
        case "r":
          bytes[field++] = operand.high ? (operand.register - 4) * 8 + 1 : operand.register * 8;
          break;
        case "x":
        case "q":
          bytes[field++] = operand.register * 16;
          break;
        case "i":
          if (immediates++ === 0) {
            words[(place + Op.IMMEDIATE) / 4] = operand.low;
            words[(place + Op.IMMEDIATE) / 4 + 1] = operand.highWord;
          } else words[(place + Op.DISPLACEMENT) / 4] = operand.low;
          break;
        case "j": {
          const target = operand.low + offset + i.length;
          words[(place + Op.IMMEDIATE) / 4] = target;
          words[(place + Op.IMMEDIATE) / 4 + 1] = Math.floor(target / 2 ** 32);
          words[(place + Op.LINK) / 4] = 1;
          words[(place + Op.LINK_NEXT) / 4] = 1;
          break;
        }
      }
    }
    if (linksAnywhere(i)) words[(place + Op.LINK_ANY) / 4] = 1;
    return ops + 1;
  }

  /** The handler's number, found by the shape as one number before its key is spelt out. */
  private handlerOf(i: Instruction, memory: boolean): number {
    // Kinds and sizes of operands follow from the row, the sizes, and whether there is memory.
    let shape = (((i.bits << 7) | i.mode) << 7) | i.addressBits;
    shape = (shape * 3 + (i.repeat === 0 ? 0 : i.repeat - 0xf1)) * 4 + (i.locked ? 2 : 0) + (memory ? 1 : 0);
    const { number } = i.row;
    let known = this.byShape[number];
    if (known === undefined) this.byShape[number] = known = new Map();
    let handler = known.get(shape);
    if (handler === undefined) {
      handler = this.handlers.handler(handlerKey(i), (e) => {
        e.shape(i);
        i.row.emit(e);
      });
      known.set(shape, handler);
    }
    return handler;
  }

  private writeAddress(at: number, i: Instruction, offset: number): void {
    const { words, bytes } = this;
    bytes[at + Op.BASE] = (i.relative ? Reg.RIP : i.base) * 8;
    bytes[at + Op.INDEX] = i.index * 8;
    bytes[at + Op.SCALE] = i.scale;
    // RIP in the state is the block's: the distance to the next instruction goes into the displacement.
    words[(at + Op.DISPLACEMENT) / 4] = i.relative ? i.displacement + offset + i.length : i.displacement;
  }
}

/** The micro-op that goes on behind a block. */
export function emitEnd(e: HandlerEmitter): void {
  e.continueBlock();
}

/** The micro-op before a block whose end is compared with the limit of the code segment. */
function emitLimit(e: HandlerEmitter): void {
  e.checkLimit();
}

/** Key of the micro-op that computes an address; `segment` is -1 where it adds nothing. */
export function addressKey(addressBits: number, mode: number, segment: number): string {
  return `address/${addressBits}/${mode === 64 ? "" : "legacy"}${segment}`;
}

/** The code size a block's key holds. */
export function modeOf(key: bigint): 16 | 32 | 64 {
  const mode = Number((key >> 52n) & 3n);
  return mode === 2 ? 64 : mode === 1 ? 32 : 16;
}

/** The exceptions that the instructions of a unit raise because it is off; -1: none. */
type Refusals = Record<NonNullable<Row["unit"]>, number>;

/** With a block's key (SDM vol. 3, 2.5). */
function refusalsOf(key: bigint): Refusals {
  const modes = Number(key >> 52n);
  const bit = (number: number) => ((modes >> (number - 52)) & 1) === 1;
  const em = bit(KEY_EM);
  const off = bit(KEY_TS) ? Vector.NM : -1;
  return {
    x87: em ? Vector.NM : off,
    mmx: em ? Vector.UD : off,
    sse: em || !bit(KEY_OSFXSR) ? Vector.UD : off,
  };
}

/** Whether the instruction may write its memory operand: read-only segments matter then. */
export function writes(i: Instruction): boolean {
  return i.operands[0]?.kind === "m" && i.row.name !== "cmp" && i.row.name !== "test" && !i.row.ends;
}
