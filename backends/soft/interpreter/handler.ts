/** The interpreter's side of the emitter: operands are fields of the micro-op, registers lie in the state. */
import { CpuFunc, type Target } from "../cpu_function.ts";
import type { Instruction } from "../decode.ts";
import { Leave } from "../cpu/external.ts";
import { Emitter, Fault, stackFault } from "../emitter.ts";
import { condition as conditionOf, FlagKind, type LazyFlags } from "../flags.ts";
import { Op, Reg, Seg, Segment, State } from "../layout.ts";
import type { Label, Local } from "../wasm/function.ts";
import { type Pointer, pointerType } from "../wasm/memory.ts";
import { declare, type Module, type Signature, signature } from "../wasm/module.ts";
import { type I32, i32, type I64, i64, Type, type V128 } from "../wasm/values.ts";

/** How a handler comes back. */
export const Next = { OP: 0, BLOCK: 1, FAULT: 2 } as const;

/** A handler's type: the address of its micro-op -> {@link Next}. */
export function handlerSignature(): Signature {
  return signature([pointerType()], [Type.i32]);
}

/** Linear address of a memory operand: (segment, offset, bytes, write) -> address; may set FAULT. */
export const segmentLinear = declare("segment_linear", [Type.i32, Type.i64, Type.i32, Type.i32], Type.i64);

/** How handlers that stand in the loop leave their block. */
export interface LoopLinks {
  /** The next block is looked up. */
  readonly lookup: Label;
  /** RIP is set: to the block that a link of the micro-op leads to, or looks it up and sets the link. */
  follow(op: Pointer, field: number): void;
}

/** Emits one handler. */
export class HandlerEmitter extends Emitter {
  readonly f: CpuFunc;
  private readonly op: Pointer;
  protected readonly faultLabel: Label;
  private readonly loop: LoopLinks | null;
  private linksAnywhere = false;
  private registerFields: number[] = [];

  /**
   * @param op the micro-op's address
   * @param faultLabel where to go with FAULT set
   * @param loop where to go for the next block; null to return {@link Next.BLOCK}
   */
  constructor(f: CpuFunc, op: Pointer, faultLabel: Label, loop: LoopLinks | null) {
    super();
    this.f = f;
    this.op = op;
    this.faultLabel = faultLabel;
    this.loop = loop;
  }

  /** Takes the shape of an instruction; numbers of registers and values are not looked at. */
  shape(instruction: Instruction): void {
    this.bits = instruction.bits;
    this.addressBits = instruction.addressBits;
    this.mode = instruction.mode;
    this.locked = instruction.locked;
    this.repeat = instruction.repeat;
    this.operands = instruction.operands;
    this.registerFields = registerFieldsOf(instruction);
    this.linksAnywhere = linksAnywhere(instruction);
  }

  private registerPlace(index: number): Pointer {
    return this.op.byteOffset(this.registerFields[index]);
  }
  protected readRegister(index: number, bits: number): I64 {
    return this.registerPlace(index).signed(bits, this.f.target.base + State.GPR);
  }
  protected readRegisterUnsigned(index: number, bits: number): I64 {
    return this.registerPlace(index).unsigned(bits, this.f.target.base + State.GPR);
  }
  protected writeRegister(index: number, bits: number, value: I64): void {
    const place = this.registerPlace(index);
    const offset = this.f.target.base + State.GPR;
    if (bits === 32) this.f.store64(place, value.u32(), offset);
    else this.f.storeBits(bits, place, value, offset);
  }
  reg(number: number): I64 {
    return this.f.s64(State.GPR + number * 8);
  }
  setReg(number: number, value: I64): void {
    this.f.set64(State.GPR + number * 8, value);
  }
  protected effectiveAddress(_index: number): I64 {
    const register = (field: number) => this.op.byteOffset(field).i64(this.f.target.base + State.GPR);
    return register(Op.BASE)
      .add(register(Op.INDEX).shl(this.op.u8w(Op.SCALE)))
      .add(this.op.s32w(Op.DISPLACEMENT));
  }
  immediate(index: number): I64 {
    const first = this.operands.findIndex((o) => o.kind === "i");
    return index === first ? this.op.i64(Op.IMMEDIATE) : this.op.s32w(Op.DISPLACEMENT);
  }
  constant(_index: number): null {
    return null;
  }
  readXmm(index: number): V128 {
    return this.registerPlace(index).v128(this.f.target.base + State.XMM);
  }
  writeXmm(index: number, value: V128): void {
    this.f.storeV128(this.registerPlace(index), value, this.f.target.base + State.XMM);
  }
  xmm(number: number): V128 {
    return this.f.sV128(State.XMM + number * 16);
  }
  setXmm(number: number, value: V128): void {
    this.f.setV128(State.XMM + number * 16, value);
  }
  mmxPlace(index: number): Pointer {
    return this.registerPlace(index).add(this.f.place(State.X87));
  }
  flags(): LazyFlags {
    const { f } = this;
    return {
      kind: f.s32(State.FLAG_KIND),
      a: f.s64(State.FLAG_A),
      b: f.s64(State.FLAG_B),
      result: f.s64(State.FLAG_RESULT),
    };
  }
  protected setLazy(kind: number, a: I64, b: I64 | null, result: I64 | null): void {
    const { f } = this;
    f.set64(State.FLAG_A, a);
    if (b) f.set64(State.FLAG_B, b);
    if (result) f.set64(State.FLAG_RESULT, result);
    f.set32(State.FLAG_KIND, kind);
  }
  flagsWhen(condition: I32, change: () => void): void {
    this.f.if(condition, change);
  }
  override condition(cc: number): I32 {
    const { f } = this;
    // Nearly always a comparison or a logical operation has just been made: those two without a call.
    const kind = f.i32(f.s32(State.FLAG_KIND));
    const result = f.i32();
    const fields = (known: number): LazyFlags => ({ ...this.flags(), kind: known });
    f.if(kind.eq(FlagKind.SUB), () => f.set(result, conditionOf(f, cc, fields(FlagKind.SUB))), () => {
      f.if(kind.eq(FlagKind.PARTIAL), () => f.set(result, conditionOf(f, cc, fields(FlagKind.PARTIAL))), () => {
        f.set(result, conditionOf(f, cc, this.flags()));
      });
    });
    return result;
  }
  protected tlb(): Pointer {
    return this.f.sPointer(State.TLB);
  }
  protected enterSlowPath(): void {}
  override faultIf(set: I32): void {
    if (!this.onStack || this.mode !== 64) return super.faultIf(set);
    this.f.if(set, () => {
      this.f.do(stackFault);
      this.f.br(this.faultLabel);
    });
  }
  nextRip(): I64 {
    const next = this.reg(Reg.RIP).add(this.op.u16w(Op.OFFSET)).add(this.op.u8w(Op.LENGTH));
    return this.maskRip(next);
  }
  private maskRip(rip: I64): I64 {
    // What runs over offset FFFF is beyond the limit, or goes on where that is further away.
    return this.mode === 64 ? rip : rip.and(0xffff_ffff);
  }
  jumpTo(rip: I64): void {
    this.f.set64(State.RIP, rip);
    if (this.linksAnywhere) this.follow(Op.LINK_ANY);
    else this.nextBlock();
  }
  get limitsBranches(): boolean {
    return this.mode !== 64;
  }
  /** Targets of relative branches are kept relative to the block. */
  branchTarget(_index: number): I64 {
    const target = this.reg(Reg.RIP).add(this.op.i64(Op.IMMEDIATE));
    return this.mode === 64 ? target : target.and(this.bits === 16 ? 0xffff : 0xffff_ffff);
  }
  branch(taken: I32 | null, index: number): void {
    const { f } = this;
    const jump = () => {
      f.set64(State.RIP, this.branchTarget(index));
      this.follow(Op.LINK);
    };
    if (taken === null) return jump();
    f.if(taken, jump);
    f.set64(State.RIP, this.nextRip());
    this.follow(Op.LINK_NEXT);
  }
  /** Behind the last instruction of a block that no branch ends. */
  continueBlock(): void {
    this.f.set64(State.RIP, this.currentRip());
    this.follow(Op.LINK);
  }
  /** To the block that a link of the micro-op leads to. */
  private follow(field: number): void {
    if (this.loop) this.loop.follow(this.op, field);
    else this.f.return(Next.BLOCK);
  }
  /** Leaves unless the block, as long as the micro-op says, ends within the limit of the code segment. */
  checkLimit(): void {
    const { f } = this;
    const last = this.reg(Reg.RIP).add(this.op.i64(Op.IMMEDIATE)).sub(1);
    const limit = f.s32(State.SEGMENTS + Seg.CS * Segment.BYTES + Segment.LIMIT);
    f.if(last.gtU(limit.i64u()), () => {
      f.set32(State.FAULT, Fault.EXIT);
      f.set32(State.EXIT, Leave.LIMIT);
      this.faultIf(i32(1));
    });
  }
  endBlock(): void {
    this.jumpTo(this.nextRip());
  }
  currentRip(): I64 {
    return this.reg(Reg.RIP).add(this.op.u16w(Op.OFFSET));
  }
  restart(): void {
    this.jumpTo(this.currentRip());
  }
  finishBlock(): void {
    this.nextBlock();
  }
  auxiliary(): I32 {
    return this.op.u8(Op.AUX);
  }
  private nextBlock(): void {
    if (this.loop) this.f.br(this.loop.lookup);
    else this.f.return(Next.BLOCK);
  }
  protected setLegacyStackPointer(value: Local<I64>): void {
    const { f } = this;
    const wide = f.s32(State.SEGMENTS + Seg.SS * Segment.BYTES + Segment.ATTRIBUTES).has(1 << 14);
    f.if(wide, () => f.set64(State.GPR + Reg.SP * 8, value.u32()), () => {
      f.store16(f.place(State.GPR + Reg.SP * 8), value.i32());
    });
  }

  /** The micro-op that computes a linear address into {@link State.EA}, for segments and narrow addresses. */
  emitAddress(addressBits: number, mode: number, segment: number): void {
    const { f, op } = this;
    const register = (field: number) => op.byteOffset(field).i64(f.target.base + State.GPR);
    let offset = register(Op.BASE).add(register(Op.INDEX).shl(op.u8w(Op.SCALE))).add(op.i64(Op.IMMEDIATE));
    if (addressBits === 16) offset = offset.and(0xffff);
    else if (addressBits === 32) offset = offset.and(0xffff_ffff);
    if (mode === 64) {
      const base = segment === Seg.FS || segment === Seg.GS
        ? f.s64(State.SEGMENTS + segment * Segment.BYTES + Segment.BASE)
        : i64(0);
      f.set64(State.EA, offset.add(base));
      return;
    }
    const place = this.checked(
      f.i64(),
      f.call64(segmentLinear, i32(segment), offset, op.u8(Op.R0), op.u8(Op.R1)),
    );
    f.set64(State.EA, place);
  }
}

/** Which field of the micro-op each register operand stands in: as the assembler fills them, one after the other. */
function registerFieldsOf(instruction: Instruction): number[] {
  let next: number = Op.R0;
  return instruction.operands.map(({ kind }) => (kind === "r" || kind === "x" || kind === "q" ? next++ : 0));
}

/** Whether the instruction ends its block for a target that is not relative, and its micro-op has {@link Op.LINK_ANY}. */
export function linksAnywhere({ row, operands }: Instruction): boolean {
  return row.ends === true && !row.system && operands.every(({ kind }) => kind === "r" || kind === "m");
}

/** Everything a handler's code depends on. */
export function handlerKey(instruction: Instruction): string {
  const { row, bits, mode, addressBits, locked, repeat } = instruction;
  const shapes = instruction.operands.map((o) => o.kind + o.bits).join(",");
  const parts = [row.name, bits, shapes];
  // Whatever sets RIP cuts it to the width of the mode.
  if (row.modal || row.ends) parts.push(`mode${mode}`);
  if (row.addressSized) parts.push(`address${addressBits}`);
  if (row.repeats) parts.push(`repeat${repeat}`);
  if (locked) parts.push("lock");
  return parts.join("/");
}

/** Adds a handler function to a module, exported under its key. */
export function defineHandler(module: Module, target: Target, key: string, emit: (e: HandlerEmitter) => void): void {
  const f = new CpuFunc(target, [pointerType()]);
  f.block((fault) => {
    const e = new HandlerEmitter(f, f.parameterPointer(0), fault, null);
    emit(e);
    f.return(Next.OP);
  });
  f.return(Next.FAULT);
  f.code.push(0x00);
  module.defineExport(key, handlerSignature(), f.locals, f.finish());
}
