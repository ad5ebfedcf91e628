/**
 * The region JIT's side of the emitter: operands are constants, guest registers live in Wasm locals while the region
 * runs and are written back where it is left.
 */
import type { Instruction, Operand } from "../decode.ts";
import { type Bits, Emitter, Fault, loadSlow, raise, Vector } from "../emitter.ts";
import { bits, carry, condition, Flag, FlagKind, type LazyFlags } from "../flags.ts";
import { Attribute, DATA_MASK, PLAIN_DATA } from "../cpu/segments.ts";
import { writes } from "../interpreter/assemble.ts";
import { segmentLinear } from "../interpreter/handler.ts";
import { CpuArea, InstructionTlb, LastPages, Reg, Seg, Segment, State, Tlb } from "../layout.ts";
import type { Label, Local } from "../wasm/function.ts";
import { type Pointer, pointerOf } from "../wasm/memory.ts";
import { declare } from "../wasm/module.ts";
import { type I32, i32, I64, i64, Low32, Type, type V128 } from "../wasm/values.ts";
import type { RegionFunc } from "./function.ts";
import type { Region } from "./region.ts";
import { flagResult, regionPage, unresolved } from "./support.ts";

const flagBitsOf = declare("flag_bits", [Type.i32, Type.i64, Type.i64, Type.i64], Type.i32);

/** Rows whose result for the flags is A ± B at the operand size, so that it need not be kept. */
const DERIVED = new Set(["add", "sub", "cmp", "neg", "xadd", "cmpxchg"]);

/** Rows whose low 32 bits follow from the operands' low 32 bits, flags aside. */
const LOW = new Set("mov not bswap rol ror shl shr imul".split(" "));
/** Rows whose flags do so as well. */
const LOW_FLAGS = new Set("add sub and or xor cmp test neg inc dec".split(" "));

/** What is known of the flags when code is generated. */
interface FlagState {
  /** {@link FlagKind}, or -1: it is in a local. */
  kind: number;
  /** Not 0: the result is A ± B sign-extended from so many bits, and not in its local. */
  derived: number;
  /** A, B and the result count in their low 32 bits only. */
  narrow: boolean;
  /** The kind is in a local and is none of ADD SUB ADC SBB: CF is bit 0 of A. */
  simple: boolean;
  /** What is missing. */
  deferred: Deferred | null;
}

/** Flags that are computed only where they are asked for, or the region is left. */
type Deferred =
  /** A of a state of {@link FlagKind.PARTIAL}, from what its fields are now. */
  | { what: "A"; from: (a: I64, result: I64, b: I64) => I64 }
  /** The flags of a mask, from {@link RegionEmitter.flagX}; they are over those of the state. */
  | { what: "over"; mask: number; from: (x: I64) => I32 };

function unknownFlags(simple: boolean): FlagState {
  return { kind: -1, derived: 0, narrow: false, simple, deferred: null };
}

/** What is known of a path when code is generated. */
export interface PathState {
  /** Instructions that the budget has not been charged for. */
  pending: number;
  flags: FlagState;
  /** XMM registers whose lowest number is not denormal. */
  normal: number;
}

/**
 * Where paths meet nothing is known.
 * @param simple {@link FlagState.simple}
 */
export function unknownPath(simple: boolean): PathState {
  return { pending: 0, flags: unknownFlags(simple), normal: 0 };
}

/** A page with code of the region besides the entry's. */
export interface OtherPage {
  /** In pages. */
  distance: number;
  physical: number;
}

/**
 * Where the page is that accesses through one register touched last: in {@link LastPages}, at this offset. Not in
 * locals: with those of the guest they are more than a host has registers, and are moved wherever paths meet.
 */
type LastPage = number;

/** The register an instruction's accesses follow: {@link RegionEmitter.prepare}; -1 for none. */
export function followed(i: Instruction): number {
  if (i.operands.some((o) => o.kind === "m")) return i.base < 16 ? i.base : i.index < 16 ? i.index : -1;
  return STACK.has(i.row.name) ? Reg.SP : -1;
}
const STACK = new Set("push pop call ret ret_drop call_indirect".split(" "));

export class RegionEmitter extends Emitter {
  readonly f: RegionFunc;
  protected faultLabel: Label = { depth: 0 };
  /** Instructions of this path that the budget has not been charged for. */
  private pending = 0;
  private state = unknownFlags(false);
  /** XMM registers whose lowest number is not denormal, on this path: {@link normalBit}. */
  private normal = 0;
  /** No one will see the flags that this instruction sets. */
  flagsUnseen = false;
  /** The condition of the branch just emitted; null: always. */
  taken: I32 | null = null;

  readonly registers: Local<I64>[];
  readonly registerUsed = new Array<boolean>(16).fill(false);
  readonly registerWritten = new Array<boolean>(16).fill(false);
  readonly vectors: Local<V128>[];
  readonly vectorUsed = new Array<boolean>(16).fill(false);
  readonly vectorWritten = new Array<boolean>(16).fill(false);
  private readonly flagKind: Local<I32>;
  private readonly flagA: Local<I64>;
  private readonly flagB: Local<I64>;
  private readonly flagR: Local<I64>;
  private readonly flagX: Local<I64>;
  private flagsWritten = false;
  /** RIP at the start of the entry's page; outside 64-bit mode CS may begin elsewhere, and it be below 0. */
  readonly page: Local<I64>;
  readonly exitRip: Local<I64>;
  readonly budget: Local<I32>;
  private readonly tlbBase: Local<Pointer>;

  /** Whether the code is of a loop. */
  inLoop = false;
  private readonly lastRead: LastPage[] = [];
  private readonly lastWritten: LastPage[] = [];
  /** Operands and result are {@link Low32}. */
  private low = false;
  private instruction!: Instruction;
  /** Of the instruction, from {@link page}. */
  private offset = 0;

  constructor(f: RegionFunc, private readonly region: Region) {
    super();
    this.mode = region.mode;
    this.f = f;
    this.budget = f.parameter32(0);
    this.page = f.i64();
    this.exitRip = f.i64();
    this.tlbBase = f.pointer();
    this.flagKind = f.i32();
    this.flagA = f.i64();
    this.flagB = f.i64();
    this.flagR = f.i64();
    this.flagX = f.i64();
    this.registers = Array.from({ length: 16 }, () => f.i64());
    this.vectors = region.usesVectors ? Array.from({ length: 16 }, () => f.v128()) : [];
  }

  /** Loops access memory through this register. */
  prepare(register: number): void {
    this.lastRead[register] = CpuArea.LAST_PAGES + register * LastPages.ENTRY;
    this.lastWritten[register] = this.lastRead[register] + LastPages.WRITE;
  }

  /** Where the region is left: RIP in {@link exitRip}, flags in their locals. */
  setExit(exit: Label): void {
    this.faultLabel = exit;
  }

  /** Emits one instruction, standing at `offset` from {@link page}. */
  emit(instruction: Instruction, offset: number, flagsUnseen: boolean): void {
    this.instruction = instruction;
    this.offset = offset;
    this.flagsUnseen = flagsUnseen;
    this.bits = instruction.bits as Bits;
    this.addressBits = instruction.addressBits;
    this.mode = instruction.mode;
    this.locked = instruction.locked;
    this.repeat = instruction.repeat;
    this.operands = instruction.operands;
    this.taken = null;
    this.pending++;
    const { name } = instruction.row;
    const unseen = flagsUnseen || name === "mov" || name === "not" || name === "bswap" || name.startsWith("cmov");
    this.low = this.bits === 32 &&
      (LOW_FLAGS.has(name) || unseen && (LOW.has(name) || name.startsWith("cmov"))) &&
      instruction.operands.every((o) =>
        o.bits === 32 || o.kind === "i" || name.startsWith("sh") || name.startsWith("ro")
      );
    this.f.scoped(() => instruction.row.emit(this));
  }

  // Entering and leaving.

  /** Loads what the region uses; emitted last, put first. */
  emitPrologue(simpleFlags: boolean, otherPages: readonly OtherPage[]): void {
    const { f, region } = this;
    const refuse = () => {
      f.markCold();
      f.set32(State.FAULT, Fault.RETRY);
      f.return(this.budget);
    };
    f.set(this.page, f.s64(State.RIP).sub(region.entry));
    if (!region.flat) {
      // All of it lies in the code segment without RIP's wrapping around, nor may it run over offset FFFF.
      const blocks = [...region.blocks.values()];
      const first = this.page.add(Math.min(...blocks.map(({ start }) => start)));
      const last = this.page.add(Math.max(...blocks.map(({ end }) => end)) - 1);
      const limit = f.s32(State.SEGMENTS + Seg.CS * Segment.BYTES + Segment.LIMIT).i64u();
      const wraps = region.mode === 16 ? last.gtS(0xfffe) : i32(0);
      f.if(first.ltS(0).or(last.gtS(limit)).or(wraps), refuse);
    }
    for (const { distance, physical } of otherPages) {
      // Mapped as when the region was made, or the interpreter runs.
      const linear = f.i64(this.page.add(distance * 4096));
      if (region.mode !== 64) f.set(linear, linear.add(f.s64(State.CODE_BASE)).u32());
      const slot = pointerOf(linear.shrU(12 - 4).and((InstructionTlb.ENTRIES - 1) << 4));
      const entry = f.pointer(slot.add(f.sPointer(State.INSTRUCTION_TLB)));
      f.if(entry.i64(0).ne(linear).or(entry.i64(8).ne(physical)), () => {
        f.markCold();
        const mapped = f.i32(0);
        f.if(entry.i64(0).ne(linear), () => f.set(mapped, f.call32(regionPage, linear, i64(physical))));
        f.if(mapped.eqz(), refuse);
      });
    }
    f.set(this.tlbBase, f.sPointer(State.TLB));
    this.registers.forEach((local, n) => {
      if (this.registerUsed[n]) f.set(local, f.s64(State.GPR + n * 8));
    });
    this.vectors.forEach((local, n) => {
      if (this.vectorUsed[n]) f.set(local, f.sV128(State.XMM + n * 16));
    });
    f.set(this.flagKind, f.s32(State.FLAG_KIND));
    f.set(this.flagA, f.s64(State.FLAG_A));
    f.set(this.flagB, f.s64(State.FLAG_B));
    f.set(this.flagR, f.s64(State.FLAG_RESULT));
    for (const last of [...this.lastRead, ...this.lastWritten]) if (last) f.set64(last + Tlb.TAG, -1);
    if (simpleFlags) this.simplifyDynamic();
  }

  /** Writes back what the region changed. */
  emitEpilogue(): void {
    const { f } = this;
    this.registers.forEach((local, n) => {
      if (this.registerWritten[n]) f.set64(State.GPR + n * 8, local);
    });
    this.vectors.forEach((local, n) => {
      if (this.vectorWritten[n]) f.setV128(State.XMM + n * 16, local);
    });
    if (this.flagsWritten) {
      this.resolve();
      f.set32(State.FLAG_KIND, this.flagKind);
      f.set64(State.FLAG_A, this.flagA);
      f.set64(State.FLAG_B, this.flagB);
      f.set64(State.FLAG_RESULT, this.flagR);
    }
    f.set64(State.RIP, this.exitRip);
    f.return(this.budget);
  }

  /** Charges the budget for the instructions of this path. */
  charge(): void {
    if (this.pending > 0) this.f.set(this.budget, this.budget.sub(this.pending));
    this.pending = 0;
  }

  /** Leaves the region for the code at an offset from {@link page}. */
  leave(offset: number): void {
    this.leaveTo(this.rip(offset));
  }

  /** RIP at an offset, as wide as the mode has it. */
  private rip(offset: number): I64 {
    const rip = this.page.add(offset);
    return this.mode === 64 ? rip : rip.and(this.mode === 16 ? 0xffff : 0xffff_ffff);
  }

  private leaveTo(rip: I64): void {
    this.f.set(this.exitRip, rip);
    this.leaveForExit();
  }

  /** Leaves the region for {@link exitRip}. */
  leaveForExit(): void {
    const { f, state } = this;
    this.storeKind();
    if (this.pending > 0) f.set(this.budget, this.budget.sub(this.pending));
    f.br(this.faultLabel);
    // Other paths go on.
    this.state = state;
  }

  /** What is known of the path that code is being generated for; set to go on from where it was taken. */
  get path(): PathState {
    return { pending: this.pending, flags: this.state, normal: this.normal };
  }
  set path({ pending, flags, normal }: PathState) {
    this.pending = pending;
    this.state = flags;
    this.normal = normal;
  }

  // Flags.

  /** Computes what has been deferred. */
  private complete(): void {
    const { f, state } = this;
    const { deferred } = state;
    if (!deferred) return;
    this.state = { ...state, deferred: null };
    this.flagsWritten = true;
    if (deferred.what === "A") {
      f.set(this.flagA, deferred.from(this.flagA, this.flagR, this.flagB));
      return;
    }
    const under = bits(f, this.flags()).and(Flag.ARITHMETIC & ~deferred.mask);
    f.set(this.flagA, under.or(deferred.from(this.flagX)).i64u());
    this.state = { kind: FlagKind.EXPLICIT, derived: 0, narrow: false, simple: false, deferred: null };
  }

  /** Puts the kind into its local, where it is known. */
  storeKind(): void {
    this.complete();
    const { kind, derived, narrow } = this.state;
    if (kind >= 0) this.f.set(this.flagKind, i32(unresolved(kind, derived || (narrow ? 32 : 0))));
  }

  /** Brings the flags into the form of flags.ts where they are not: {@link unresolved}. */
  private resolve(): void {
    const { f } = this;
    f.if(this.flagKind.gtU(255), () => {
      f.markCold();
      f.set(this.flagR, f.call64(flagResult, this.flagKind, this.flagA, this.flagB, this.flagR));
      const shift = f.i64(this.flagKind.shrU(8).i64u().neg().and(63));
      f.set(this.flagA, this.flagA.shl(shift).shrS(shift));
      f.set(this.flagB, this.flagB.shl(shift).shrS(shift));
      f.set(this.flagKind, this.flagKind.and(255));
    });
  }

  private simplifyDynamic(): void {
    const { f } = this;
    f.if(this.flagKind.and(255).sub(FlagKind.ADD).leU(FlagKind.SBB - FlagKind.ADD), () => {
      f.markCold();
      this.resolve();
      this.flagsWritten = true;
      f.set(this.flagA, f.call32(flagBitsOf, this.flagKind, this.flagA, this.flagB, this.flagR).i64u());
      f.set(this.flagKind, FlagKind.EXPLICIT);
    });
  }

  /**
   * Brings the flags into the form in which paths meet: all in locals.
   * @param simple what follows asks for CF: see {@link FlagState.simple}
   */
  meet(simple: boolean): void {
    this.complete();
    const { state } = this;
    if (state.kind < 0) {
      if (simple && !state.simple) this.simplifyDynamic();
    } else if (simple && !isSimple(state.kind)) {
      this.flagsWritten = true;
      const value = this.f.i32(bits(this.f, this.flags()));
      this.f.set(this.flagA, value.i64u());
      this.f.set(this.flagKind, FlagKind.EXPLICIT);
    } else this.storeKind();
  }

  override flags(): LazyFlags {
    this.complete();
    return this.flagsWithout();
  }

  /** The flags but for what is deferred. */
  private flagsWithout(): LazyFlags {
    const { state } = this;
    if (state.kind < 0) {
      this.resolve();
      return { kind: this.flagKind, a: this.flagA, b: this.flagB, result: this.flagR };
    }
    const field = (local: I64) => (state.narrow ? Low32.of(local) : local);
    const a = field(this.flagA);
    const b = field(this.flagB);
    const derived = state.kind === FlagKind.ADD ? a.add(b) : a.sub(b);
    return { kind: state.kind, a, b, result: state.derived ? derived.sx(state.derived) : field(this.flagR) };
  }

  protected setLazy(kind: number, a: I64, b: I64 | null, result: I64 | null): void {
    if (this.flagsUnseen) return;
    const { f } = this;
    const { name } = this.instruction.row;
    this.flagsWritten = true;
    const derived = DERIVED.has(name) && (kind === FlagKind.ADD || kind === FlagKind.SUB) ? this.bits : 0;
    if (result && !derived) f.set(this.flagR, result);
    if (b) f.set(this.flagB, b);
    f.set(this.flagA, a);
    this.state = { kind, derived, narrow: this.low, simple: false, deferred: null };
  }

  override flagsDeferred(result: I64, others: (a: I64, result: I64, b: I64) => I64, a: I64, b = a): void {
    if (this.flagsUnseen) return;
    this.setLazy(FlagKind.PARTIAL, a, b, result);
    this.state.deferred = { what: "A", from: others };
  }

  override flagsOver(mask: number, from: I64, value: (from: I64) => I32): void {
    if (this.flagsUnseen) return;
    const { deferred } = this.state;
    // What is over the same flags is over.
    const covered = deferred?.what === "over" && (deferred.mask & ~mask) === 0;
    if (!covered) this.complete();
    this.f.set(this.flagX, from);
    this.state = { ...this.state, deferred: { what: "over", mask, from: value } };
  }

  flagsWhen(when: I32, change: () => void): void {
    if (this.flagsUnseen) return;
    this.storeKind();
    const before = this.state;
    this.f.if(when, () => {
      change();
      this.storeKind();
    });
    const after = this.state;
    const simple = (state: FlagState) => (state.kind < 0 ? state.simple : isSimple(state.kind));
    this.state = unknownFlags(simple(before) && simple(after));
  }

  override carry(): I32 {
    const { name } = this.instruction.row;
    if (this.flagsUnseen && (name === "inc" || name === "dec")) return i32(0);
    const { deferred } = this.state;
    if (deferred?.what === "over" && deferred.mask & Flag.CF) return deferred.from(this.flagX).and(Flag.CF);
    if (this.state.kind < 0 && this.state.simple && !deferred) return this.flagA.i32().and(1);
    return carry(this.f, this.flags());
  }

  override condition(cc: number): I32 {
    const which = cc >> 1;
    const { deferred } = this.state;
    if (which === 1) return cc & 1 ? this.carry().eqz() : this.carry();
    if (which === 2 && deferred?.what === "over" && deferred.mask & Flag.ZF) {
      const zero = deferred.from(this.flagX).has(Flag.ZF);
      return cc & 1 ? zero.eqz() : zero;
    }
    // ZF, SF and PF of a partial result do not follow from A.
    if (deferred?.what === "A" && (which === 2 || which === 4 || which === 5)) {
      return condition(this.f, cc, this.flagsWithout());
    }
    return condition(this.f, cc, this.flags());
  }

  // Operands.

  override read(index: number): Local<I64> {
    if (!this.low) return super.read(index);
    return this.isMemory(index) ? this.loadLow(this.address(index)) : lowHalf(super.read(index));
  }
  override modify(index: number, change: (old: Local<I64>) => I64, always = false): void {
    super.modify(index, this.low ? (old) => change(lowHalf(old)) : change, always);
  }
  private operand(index: number): Operand {
    return this.operands[index] as Operand;
  }
  reg(number: number): I64 {
    this.registerUsed[number] = true;
    return this.registers[number];
  }
  setReg(number: number, value: I64): void {
    this.registerUsed[number] = true;
    this.registerWritten[number] = true;
    this.f.set(this.registers[number], value);
  }
  protected readRegister(index: number, bits: number): I64 {
    const { register, high } = this.operand(index);
    if (this.low && bits === 32) return this.reg(register);
    return high ? this.reg(register - 4).shrU(8).sx(8) : this.reg(register).sx(bits);
  }
  protected readRegisterUnsigned(index: number, bits: number): I64 {
    const { register, high } = this.operand(index);
    return high ? this.reg(register - 4).shrU(8).and(255) : this.reg(register).zx(bits);
  }
  protected writeRegister(index: number, bits: number, value: I64): void {
    const { register, high } = this.operand(index);
    if (high) {
      this.setReg(register - 4, this.reg(register - 4).and(~0xff00).or(value.and(0xff).shl(8)));
    } else if (bits >= 32) this.setReg(register, this.instruction.row.name === "movzx" ? value : value.zx(bits));
    else this.setReg(register, this.reg(register).and(bits === 16 ? ~0xffff : ~0xff).or(value.zx(bits)));
  }
  protected effectiveAddress(index: number): I64 {
    const { instruction: i, f } = this;
    // Of LEA to 32 bits, and of an address of 32 bits, only these count.
    const narrow = i.addressBits === 32 || (i.row.name === "lea" && i.bits === 32);
    const cut = (part: I64) => (narrow ? Low32.of(part) : part);
    const parts: I64[] = [];
    let displacement: bigint = BigInt(i.displacement);
    if (i.absolute) displacement = (BigInt(i.displacementHigh) << 32n) | BigInt(i.displacement >>> 0);
    if (i.relative) {
      parts.push(cut(this.page));
      displacement += BigInt(this.offset + i.length);
    } else if (i.base < 16) parts.push(cut(this.reg(i.base)));
    if (i.index < 16) parts.push(cut(this.reg(i.index)).shl(i.scale));
    if (displacement !== 0n || parts.length === 0) parts.push(cut(i64(displacement)));
    let address = parts.reduce((sum, part) => sum.add(part));
    if (i.addressBits === 16) address = address.zx(16);
    if (i.addressBits === 32 && i.row.name !== "lea") address = new I64(address.code);
    if (i.row.offset) return address;
    if (i.mode !== 64) return this.segmented(f.i64(address), index);
    if (i.segment === Seg.FS || i.segment === Seg.GS) {
      address = address.add(f.s64(State.SEGMENTS + i.segment * Segment.BYTES + Segment.BASE));
    }
    return address;
  }

  /** Linear address of a memory operand outside 64-bit mode. */
  private segmented(offset: Local<I64>, index: number): I64 {
    const { instruction: i, f } = this;
    if (this.region.flat && (i.segment === Seg.DS || i.segment === Seg.SS)) return offset;
    const at = State.SEGMENTS + i.segment * Segment.BYTES;
    const bytes = Math.max(1, this.operand(index).bits >> 3);
    const linear = f.i64(offset.add(f.s64(at + Segment.BASE)).u32());
    const other = f.s32(at + Segment.ATTRIBUTES).and(DATA_MASK).ne(PLAIN_DATA);
    f.if(other.or(offset.add(bytes - 1).gtU(f.s32(at + Segment.LIMIT).i64u())), () => {
      f.markCold();
      f.set(linear, f.call64(segmentLinear, i.segment, offset, bytes, writes(i) ? 1 : 0));
      this.faultIf(f.s32(State.FAULT));
    });
    return linear;
  }

  protected override stackAddress(offset: I64, bytes: number, write: boolean): Local<I64> {
    return this.mode !== 64 && this.region.flat ? this.f.i64(offset.u32()) : super.stackAddress(offset, bytes, write);
  }
  immediate(index: number): I64 {
    const { low, highWord } = this.operand(index);
    return i64((BigInt(highWord) << 32n) | BigInt(low >>> 0));
  }
  constant(index: number): number | null {
    const operand = this.operand(index);
    return operand.kind === "i" ? operand.low : null;
  }
  readXmm(index: number): V128 {
    return this.xmm(this.operand(index).register);
  }
  writeXmm(index: number, value: V128): void {
    this.setXmm(this.operand(index).register, value);
  }
  xmm(number: number): V128 {
    this.vectorUsed[number] = true;
    return this.vectors[number];
  }
  setXmm(number: number, value: V128): void {
    this.normal &= ~(normalBit(number, 32) | normalBit(number, 64));
    this.vectorUsed[number] = true;
    this.vectorWritten[number] = true;
    this.f.set(this.vectors[number], value);
  }
  mmxPlace(index: number): Pointer {
    return this.f.place(State.X87 + this.operand(index).register * 16);
  }
  protected tlb(): Pointer {
    return this.tlbBase;
  }
  auxiliary(): I32 {
    return i32(this.instruction.segment < 0 ? Seg.DS : this.instruction.segment);
  }

  // Memory: in loops the page of the last access comes before the TLB.

  private lastPage(table: readonly LastPage[]): LastPage | null {
    if (!this.inLoop) return null;
    const register = followed(this.instruction);
    return register < 0 ? null : table[register] ?? null;
  }

  /**
   * One compare shows that the access is aligned, so does not leave its page, and that the page is the last one; what is
   * not aligned takes the way of other pages.
   */
  protected override access(
    side: number,
    address: Local<I64>,
    bytes: number,
    fast: (place: Pointer) => void,
    slow: () => void,
    aligned = false,
  ): void {
    const last = this.lastPage(side === Tlb.TAG ? this.lastRead : this.lastWritten);
    if (last === null) return super.access(side, address, bytes, fast, slow, aligned);
    const { f } = this;
    f.block((done) => {
      f.if(address.and(-4096 | (bytes - 1)).ne(f.s64(last + Tlb.TAG)), () => {
        f.markCold();
        if (aligned) this.raiseIf(address.i32().has(bytes - 1), Vector.GP, 0);
        const page = f.i64((bytes === 1 ? address : address.add(bytes - 1)).and(-4096));
        const entry = f.pointer(this.tlbSlot(address));
        f.if(entry.i64(side).ne(page), () => {
          f.markCold();
          slow();
          this.faultIf(f.s32(State.FAULT));
          f.br(done);
        });
        f.set64(last + Tlb.TAG, page);
        f.setPointer(last + Tlb.ADDEND, entry.pointer(side + Tlb.ADDEND));
      });
      fast(pointerOf(address).add(f.sPointer(last + Tlb.ADDEND)).inRam());
    });
  }

  /** Loads the 32 bits that a 32-bit computation needs. */
  private loadLow(address: Local<I64>): Local<I64> {
    const { f } = this;
    const half = f.i32();
    const fast = (place: Pointer) => f.set(half, place.i32());
    this.access(Tlb.TAG, address, 4, fast, () => f.set(half, f.call64(loadSlow, address, 4).i32()));
    return lowHalf(half);
  }

  // Exceptions. Nothing the guest sees has changed: the region is left before this instruction.

  protected enterSlowPath(): void {
    this.f.markCold();
  }
  override faultIf(set: I32): void {
    this.f.if(set, () => {
      this.f.markCold();
      this.leave(this.offset);
    });
  }
  override raise(vector: number, error: I32 | number = -1): void {
    this.f.markCold();
    this.f.do(raise, vector, error);
    this.leave(this.offset);
  }

  // Numbers that are not denormal.

  override isNormal(index: number, bits: 32 | 64): boolean {
    return !this.isMemory(index) && (this.normal & normalBit(this.operand(index).register, bits)) !== 0;
  }
  override noteNormal(index: number, bits: 32 | 64): void {
    if (!this.isMemory(index)) this.normal |= normalBit(this.operand(index).register, bits);
  }
  /** The interpreter runs this instruction: what is known holds on. */
  override leaveIfDenormal(denormal: I32): void {
    this.f.if(denormal, () => {
      this.f.markCold();
      this.f.set32(State.FAULT, Fault.RETRY);
      this.leave(this.offset);
    });
  }

  // Control.

  currentRip(): I64 {
    return this.page.add(this.offset);
  }
  nextRip(): I64 {
    return this.rip(this.offset + this.instruction.length);
  }
  /** The last a RET or an indirect jump does: {@link generate} goes on from {@link exitRip}. */
  jumpTo(rip: I64): void {
    this.f.set(this.exitRip, rip);
  }
  get limitsBranches(): boolean {
    return !this.region.flat;
  }
  branchTarget(index: number): I64 {
    return this.rip(this.offset + this.instruction.length + this.operand(index).low);
  }
  branch(taken: I32 | null): void {
    this.taken = taken;
  }
  endBlock(): void {
    this.leaveTo(this.nextRip());
  }
  finishBlock(): void {
    throw new Error(`${this.instruction.row.name} in a region`);
  }
  restart(): void {
    throw new Error(`${this.instruction.row.name} in a region`);
  }
  protected setLegacyStackPointer(value: Local<I64>): void {
    const { f } = this;
    if (this.region.flat) return this.setReg(Reg.SP, value.u32());
    const wide = f.s32(State.SEGMENTS + Seg.SS * Segment.BYTES + Segment.ATTRIBUTES).has(Attribute.DB);
    f.if(wide, () => this.setReg(Reg.SP, value.u32()), () => {
      this.setReg(Reg.SP, this.reg(Reg.SP).and(~0xffff).or(value.and(0xffff)));
    });
  }
}

/** A variable of which the low 32 bits count. */
function lowHalf(value: Local<I32> | Local<I64>): Local<I64> {
  return Object.assign(Low32.of(value), { index: value.index });
}

function normalBit(register: number, bits: 32 | 64): number {
  return 1 << (bits === 64 ? register : register + 16);
}

function isSimple(kind: number): boolean {
  return kind < FlagKind.ADD || kind > FlagKind.SBB;
}
