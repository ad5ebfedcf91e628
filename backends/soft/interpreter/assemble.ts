/** Instructions to blocks of micro-ops. */
import { KEY_EM, KEY_LIMITED, KEY_OSFXSR, KEY_SINGLE, KEY_TS } from "../mode_key.ts";
import { decode, DecodeFailure, type Instruction } from "../decode.ts";
import { type OperandKind, Vector } from "../emitter.ts";
import { Op, Reg, Seg } from "../layout.ts";
import { type HandlerEmitter, handlerKey, linksAnywhere, registerFieldsOf } from "./handler.ts";

/** Finds or makes handlers. */
export interface HandlerSource {
  /** The number of the handler with this key, made with `emit` if there is none yet. */
  handler(key: string, emit: (e: HandlerEmitter) => void): number;
}

/** Most instructions in a block. */
const MAXIMUM = 64;

/** Small numbers for widths and operand kinds, below 8. */
const WIDTHS: Record<number, number> = { 8: 0, 16: 1, 32: 2, 64: 3, 128: 4, 80: 5, 48: 6 };
const KINDS: Record<OperandKind, number> = { r: 0, m: 1, i: 2, x: 3, q: 4, j: 5 };

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
  /** The decoded instructions of the last block. */
  readonly decoded: Instruction[] = [];

  private key = 0n;
  /** Handlers by row and shape. */
  private readonly byShape: Map<number, number>[] = [];

  constructor(private readonly view: DataView, private readonly handlers: HandlerSource) {}

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
    this.key = key;
    let offset = 0;
    let ops = 0;
    let instructions = 0;
    this.decoded.length = 0;
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
      this.decoded.push(instruction);
      instructions++;
      offset += instruction.length;
      open = !instruction.row.ends;
      if (crossing) {
        open = false;
        break;
      }
    }
    this.writeEnd(at + ops++ * Op.BYTES, offset);
    if (asks) this.view.setInt32(at + Op.IMMEDIATE, offset, true);
    return { instructions, length: offset, crossing: offset > pageBytes, ops };
  }

  private writeOp(at: number, handler: number, offset: number, length: number): void {
    const { view } = this;
    for (let i = 0; i < Op.BYTES; i += 4) view.setUint32(at + i, 0, true);
    view.setUint16(at + Op.HANDLER, handler, true);
    view.setUint16(at + Op.OFFSET, offset, true);
    view.setUint8(at + Op.LENGTH, length);
    view.setUint8(at + Op.BASE, Reg.ZERO * 8);
    view.setUint8(at + Op.INDEX, Reg.ZERO * 8);
  }

  /** The micro-op that goes on behind the block. */
  private writeEnd(at: number, offset: number): void {
    this.writeOp(at, this.handlers.handler("end", emitEnd), offset, 0);
    this.view.setUint32(at + Op.LINK, 1, true);
  }

  private writeInstruction(at: number, i: Instruction, offset: number): number {
    const { view } = this;
    let ops = 0;
    const refused = refusal(i, this.key);
    if (refused >= 0) {
      this.writeOp(at, this.handlers.handler(`raise${refused}`, (e) => e.raise(refused)), offset, i.length);
      return 1;
    }
    const memory = i.operands.find((o) => o.kind === "m");
    let viaEa = false;
    if (memory) {
      const lea = i.row.name === "lea";
      const based = !lea && (i.mode !== 64 || i.segment === Seg.FS || i.segment === Seg.GS);
      if (based || i.addressBits !== 64 || i.absolute) {
        // LEA has no segment: in any mode it takes the 64-bit way of computing, cut to the address size.
        const segment = lea ? Seg.DS : i.segment;
        const mode = lea ? 64 : i.mode;
        const key = addressKey(i.addressBits, mode, based ? segment : -1);
        const number = this.handlers.handler(key, (e) => {
          e.emitAddress(i.addressBits, mode, segment);
        });
        this.writeOp(at, number, offset, i.length);
        this.writeAddress(at, i, offset);
        view.setInt32(at + Op.IMMEDIATE, view.getInt32(at + Op.DISPLACEMENT, true), true);
        view.setInt32(at + Op.IMMEDIATE + 4, i.absolute ? i.displacementHigh : i.displacement >> 31, true);
        view.setUint8(at + Op.R0, Math.max(1, memory.bits >> 3));
        view.setUint8(at + Op.R1, writes(i) ? 1 : 0);
        ops++;
        viaEa = true;
      }
    }
    const handler = this.handlerOf(i);
    const place = at + ops * Op.BYTES;
    this.writeOp(place, handler, offset, i.length);
    view.setUint8(place + Op.AUX, i.segment < 0 ? Seg.DS : i.segment);
    if (viaEa) view.setUint8(place + Op.BASE, Reg.EA * 8);
    else if (memory) this.writeAddress(place, i, offset);
    const fields = registerFieldsOf(i);
    let immediates = 0;
    i.operands.forEach((operand, index) => {
      switch (operand.kind) {
        case "r":
          view.setUint8(place + fields[index], operand.high ? (operand.register - 4) * 8 + 1 : operand.register * 8);
          break;
        case "x":
        case "q":
          view.setUint8(place + fields[index], operand.register * 16);
          break;
        case "i":
          if (immediates++ === 0) {
            view.setInt32(place + Op.IMMEDIATE, operand.low, true);
            view.setInt32(place + Op.IMMEDIATE + 4, operand.highWord, true);
          } else view.setInt32(place + Op.DISPLACEMENT, operand.low, true);
          break;
        case "j": {
          const target = operand.low + offset + i.length;
          view.setInt32(place + Op.IMMEDIATE, target | 0, true);
          view.setInt32(place + Op.IMMEDIATE + 4, Math.floor(target / 2 ** 32), true);
          view.setUint32(place + Op.LINK, 1, true);
          view.setUint32(place + Op.LINK_NEXT, 1, true);
          break;
        }
      }
    });
    if (linksAnywhere(i)) view.setUint32(place + Op.LINK_ANY, 1, true);
    return ops + 1;
  }

  /** The handler's number, found by the shape as one number before its key is spelt out. */
  private handlerOf(i: Instruction): number {
    let shape = (WIDTHS[i.bits] * 4 + WIDTHS[i.mode]) * 4 + WIDTHS[i.addressBits];
    shape = (shape * 3 + (i.repeat === 0 ? 0 : i.repeat - 0xf1)) * 2 + (i.locked ? 1 : 0);
    for (const { kind, bits } of i.operands) shape = shape * 64 + KINDS[kind] * 8 + WIDTHS[bits];
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
    const { view } = this;
    view.setUint8(at + Op.BASE, (i.relative ? Reg.RIP : i.base) * 8);
    view.setUint8(at + Op.INDEX, i.index * 8);
    view.setUint8(at + Op.SCALE, i.scale);
    // RIP in the state is the block's: the distance to the next instruction goes into the displacement.
    view.setInt32(at + Op.DISPLACEMENT, i.relative ? i.displacement + offset + i.length : i.displacement, true);
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

/** The exception an instruction raises because its unit is off, or -1 (SDM vol. 3, 2.5). */
function refusal(i: Instruction, key: bigint): number {
  const { unit } = i.row;
  if (!unit) return -1;
  const em = (key >> BigInt(KEY_EM)) & 1n;
  const ts = (key >> BigInt(KEY_TS)) & 1n;
  if (unit === "x87") return em || ts ? Vector.NM : -1;
  if (em || (unit === "sse" && !((key >> BigInt(KEY_OSFXSR)) & 1n))) return Vector.UD;
  return ts ? Vector.NM : -1;
}

/** Whether the instruction may write its memory operand: read-only segments matter then. */
export function writes(i: Instruction): boolean {
  return i.operands[0]?.kind === "m" && i.row.name !== "cmp" && i.row.name !== "test" && !i.row.ends;
}
