/**
 * What an instruction's definition is written in. There are two implementations: the interpreter's handlers, where an
 * operand is a field of the micro-op, and the region JIT, where it is a constant and registers live in Wasm locals.
 *
 * The rule that makes instructions restartable: a definition changes nothing the guest can see (registers, flags)
 * before its last access to memory; {@link Emitter.modify} and {@link Emitter.store} come first, then {@link write},
 * then flags.
 */
import type { CpuFunc } from "./cpu_function.ts";
import { bits, carry, condition, Flag, FlagKind, type LazyFlags } from "./flags.ts";
import { Reg, State, Tlb } from "./layout.ts";
import type { Label, Local } from "./wasm/function.ts";
import { nowhere, type Pointer, pointerOf } from "./wasm/memory.ts";
import { declare } from "./wasm/module.ts";
import { type F32, type F64, type I32, type I64, i64, Type, type V128 } from "./wasm/values.ts";

/** Operand size in bits. */
export type Bits = 8 | 16 | 32 | 64;

/** Kinds of operands. */
export type OperandKind =
  /** general register */
  | "r"
  /** memory */
  | "m"
  /** immediate, sign-extended to 64 bits */
  | "i"
  /** XMM register */
  | "x"
  /** MMX register */
  | "q"
  /** relative branch target */
  | "j";

/** What is fixed of an operand when code is generated for both tiers. */
export interface OperandShape {
  kind: OperandKind;
  bits: number;
}

/** Exception vectors (SDM vol. 3, table 6-1). */
export const Vector = {
  DE: 0,
  DB: 1,
  NMI: 2,
  BP: 3,
  OF: 4,
  BR: 5,
  UD: 6,
  NM: 7,
  DF: 8,
  TS: 10,
  NP: 11,
  SS: 12,
  GP: 13,
  PF: 14,
  MF: 16,
  AC: 17,
  XM: 19,
} as const;

/** Kinds of {@link State.FAULT}. */
export const Fault = { NONE: 0, EXCEPTION: 1, EXIT: 2, RETRY: 3 } as const;

/** Reads up to 8 bytes that the fast path could not: (address, bytes) -> value, zero-extended; may set FAULT. */
export const loadSlow = declare("load_slow", [Type.i64, Type.i32], Type.i64);
/** As {@link loadSlow}, and checks that the same bytes may be stored to. */
export const loadForWriteSlow = declare("load_for_write_slow", [Type.i64, Type.i32], Type.i64);
/** Stores up to 8 bytes: (address, bytes, value); may set FAULT, and has stored nothing then. */
export const storeSlow = declare("store_slow", [Type.i64, Type.i32, Type.i64], null);
/** Reads 16 bytes: the address where they stand; may set FAULT. */
export const load128Slow = declare("load128_slow", [Type.i64], "pointer");
export const store128Slow = declare("store128_slow", [Type.i64, Type.v128], null);
/** Sets FAULT unless the other vCPUs are stopped: what comes behind it is done with them stopped. */
export const needAlone = declare("need_alone", [], null);
/** Makes the #GP of a stack access whose address is not canonical #SS. */
export const stackFault = declare("stack_fault", [], null);
/** Sets FAULT to an exception: (vector, error or -1). */
export const raise = declare("raise", [Type.i32, Type.i32], null);
/** The linear address of a stack access outside 64-bit mode: (offset, bytes, write). */
export const stackLinear = declare("stack_linear", [Type.i64, Type.i32, Type.i32], Type.i64);

/** One instruction's context of code generation. */
export abstract class Emitter {
  abstract readonly f: CpuFunc;
  /** Operand size of the instruction. */
  bits: Bits = 64;
  /** Address size. */
  addressBits: 16 | 32 | 64 = 64;
  /** Code size of the mode: 64 in 64-bit mode. */
  mode: 16 | 32 | 64 = 64;
  /** A LOCK prefix is there. */
  locked = false;
  /** 0, 0xf2 or 0xf3. */
  repeat = 0;
  operands: readonly OperandShape[] = [];
  /** The access under way is one of the stack, whatever segment a memory operand has. */
  protected onStack = false;

  // What the tiers implement.

  /** General register of operand `index`, its low `bits`, sign-extended. */
  protected abstract readRegister(index: number, bits: number): I64;
  protected abstract readRegisterUnsigned(index: number, bits: number): I64;
  /** Writes `bits` of the register operand; 32 bits clear the upper half. */
  protected abstract writeRegister(index: number, bits: number, value: I64): void;
  /** A register by number ({@link Reg}), all 64 bits. */
  abstract reg(number: number): I64;
  abstract setReg(number: number, value: I64): void;
  /** Linear address of the memory operand. */
  protected abstract effectiveAddress(index: number): I64;
  /** Value of an immediate operand. */
  abstract immediate(index: number): I64;
  abstract readXmm(index: number): V128;
  abstract writeXmm(index: number, value: V128): void;
  /** XMM register by number. */
  abstract xmm(number: number): V128;
  abstract setXmm(number: number, value: V128): void;
  /** Address of the state of MMX register operand `index`. */
  abstract mmxPlace(index: number): Pointer;
  /** The lazy flags as they stand. */
  abstract flags(): LazyFlags;
  protected abstract setLazy(kind: number, a: I64, b: I64 | null, result: I64 | null): void;
  /** Runs `change`, which sets flags (and nothing else that a tier keeps track of), when the condition holds. */
  abstract flagsWhen(condition: I32, change: () => void): void;
  /** The immediate's value where it is known when code is generated, else null. */
  abstract constant(index: number): number | null;
  /** Base of the present data TLB. */
  protected abstract tlb(): Pointer;
  /** Called at the start of every cold path that may fault. */
  protected abstract enterSlowPath(): void;
  /** Where code goes when FAULT is set. */
  protected abstract readonly faultLabel: Label;
  /** RIP of the next instruction. */
  abstract nextRip(): I64;
  /** RIP of this instruction. */
  abstract currentRip(): I64;
  /** Ends the block; RIP in the state is right already. */
  abstract finishBlock(): void;
  /** Leaves the instruction for `rip` (already masked); ends the block. */
  abstract jumpTo(rip: I64): void;
  /** Jumps to operand `index` (a relative target) when the condition holds; ends the block. */
  abstract branch(taken: I32 | null, index: number): void;
  /** The address of operand `index`, a relative target, as {@link branch} goes there. */
  abstract branchTarget(index: number): I64;
  /** Branches are compared with the limit of the code segment. */
  abstract readonly limitsBranches: boolean;
  /** The instruction changed what decoding or translation depend on: continue at the next one from scratch. */
  abstract endBlock(): void;
  /** Ends the block and continues with this very instruction: a repeated one that goes on. */
  abstract restart(): void;
  /** The small number that the decoder left for this handler: the segment of implicit accesses. */
  abstract auxiliary(): I32;

  /** Whether the lowest number of XMM operand `index`, of so many bits, is known to be none that is denormal. */
  isNormal(_index: number, _bits: 32 | 64): boolean {
    return false;
  }
  /** From here on {@link isNormal} may say so: on every other path {@link leaveIfDenormal} has looked. */
  noteNormal(_index: number, _bits: 32 | 64): void {}
  /** On a path that runs rarely: a tier that keeps track of denormal numbers does the instruction in another way. */
  leaveIfDenormal(_denormal: I32): void {}

  // Operands.

  /** Operand, sign-extended to 64 bits; stays what it is when registers change. */
  read(index: number): Local<I64> {
    const { kind, bits } = this.operands[index];
    if (kind === "m") return this.load(this.address(index), bits);
    if (kind === "i") return this.f.i64(this.immediate(index));
    return this.f.i64(this.readRegister(index, bits));
  }

  /** Operand, zero-extended. */
  readUnsigned(index: number): Local<I64> {
    const { kind, bits } = this.operands[index];
    if (kind === "m") return this.loadUnsigned(this.address(index), bits);
    if (kind === "i") return this.f.i64(this.immediate(index).zx(bits));
    return this.f.i64(this.readRegisterUnsigned(index, bits));
  }

  /** Writes the operand's bits of the value. */
  write(index: number, value: I64): void {
    const { kind, bits } = this.operands[index];
    if (kind === "m") this.store(this.address(index), bits, value);
    else this.writeRegister(index, bits, value);
  }

  isMemory(index: number): boolean {
    return this.operands[index].kind === "m";
  }

  /** Address of a memory operand. */
  address(index: number): Local<I64> {
    return this.f.i64(this.effectiveAddress(index));
  }

  /**
   * Reads operand `index`, computes what to write and writes it; atomically under a LOCK prefix (`change` is then run
   * again when another CPU came between, so it must only compute).
   * @param change from the old value, sign-extended, to the new
   * @param always locked whatever the prefix: XCHG
   */
  modify(index: number, change: (old: Local<I64>) => I64, always = false): void {
    const { kind, bits } = this.operands[index];
    if (kind !== "m") {
      const old = this.f.i64(this.readRegister(index, bits));
      const value = this.f.i64(change(old));
      this.writeRegister(index, bits, value);
      return;
    }
    this.modifyMemory(this.address(index), bits, change, this.locked || always);
  }

  /** {@link modify} of memory at a linear address. */
  modifyMemory(address: Local<I64>, bits: number, change: (old: Local<I64>) => I64, locked: boolean): void {
    if (locked) return this.modifyLocked(address, bits, change);
    const { f } = this;
    const old = f.i64();
    const place = f.pointer(undefined, true);
    this.access(Tlb.WRITE, address, bits >> 3, (at) => {
      f.set(place, at);
      f.set(old, place.signed(bits));
    }, () => {
      f.set(place, nowhere());
      f.set(old, f.call64(loadForWriteSlow, address, bits >> 3).sx(bits));
    });
    const value = f.i64(change(old));
    f.if(place.isNowhere(), () => this.storeSlowly(address, bits, value), () => f.storeBits(bits, place, value));
  }

  private storeSlowly(address: I64, bits: number, value: I64): void {
    const { f } = this;
    this.enterSlowPath();
    f.do(storeSlow, address, bits >> 3, value);
    this.faultIf(f.s32(State.FAULT));
  }

  private modifyLocked(address: Local<I64>, bits: number, change: (old: Local<I64>) => I64): void {
    const { f } = this;
    const bytes = bits >> 3;
    const place = f.pointer(undefined, true);
    const entry = f.pointer(this.tlbSlot(address));
    const old = f.i64();
    const fits = entry.i64(Tlb.WRITE).eq(address.add(bytes - 1).and(-4096));
    const aligned = bytes > 1 ? fits.and(address.i32().and(bytes - 1).eqz()) : fits;
    const find = () => f.set(place, this.placeOf(address, entry, Tlb.WRITE));
    f.if(aligned, find, () => {
      this.enterSlowPath();
      f.set(place, nowhere());
      // What no atomic of the host's can do; while data breakpoints are armed, nothing is in the TLB.
      this.aloneIf(address.i32().and(bytes - 1).or(f.s32(State.WATCH)));
      f.set(old, f.call64(loadForWriteSlow, address, bytes).sx(bits));
      this.faultIf(f.s32(State.FAULT));
      // The first touch of a page filled the TLB.
      f.if(aligned, find);
    });
    f.loop((again) => {
      f.if(place.isNowhere().eqz(), () => f.set(old, place.atomicLoad(bits).sx(bits)));
      const value = f.i64(change(old));
      f.if(place.isNowhere(), () => this.storeSlowly(address, bits, value), () => {
        const expected = old.zx(bits);
        f.brIf(again, place.atomicCompareExchange(bits, expected, value.zx(bits)).ne(expected));
      });
    });
  }

  /** The instruction goes on from here with the other vCPUs stopped, when the condition is not 0. */
  aloneIf(condition: I32): void {
    const { f } = this;
    if (f.target.layout.cpus === 1) return;
    f.if(condition, () => f.do(needAlone));
    this.faultIf(f.s32(State.FAULT));
  }

  // Memory.

  /** Address of the entry of the data TLB that an address may be in. */
  tlbSlot(address: I64): Pointer {
    return pointerOf(address.shrU(12 - 4).and((Tlb.ENTRIES - 1) << 4)).add(this.tlb());
  }

  /** The address in RAM of a linear address that an entry's side ({@link Tlb.TAG}, {@link Tlb.WRITE}) is for. */
  placeOf(address: I64, entry: Pointer, side: number): Pointer {
    return pointerOf(address).add(entry.pointer(side + Tlb.ADDEND)).inRam();
  }

  /** Leaves the instruction when the condition (FAULT, usually) is not 0. */
  faultIf(set: I32): void {
    this.f.brIf(this.faultLabel, set);
  }

  /** Calls for a value something that may set FAULT, and leaves when it has. */
  checked<T extends I32 | I64 | Pointer | V128>(local: Local<T>, call: T): Local<T> {
    this.enterSlowPath();
    this.f.set(local, call);
    this.faultIf(this.f.s32(State.FAULT));
    return local;
  }

  /**
   * Runs `fast` with the place in RAM of what stands at a linear address, where the TLB has its page; otherwise `slow`,
   * which may set FAULT.
   * @param side of the TLB: {@link Tlb.TAG} to read, {@link Tlb.WRITE} to write
   * @param aligned #GP(0) unless the address is a multiple of `bytes`
   */
  protected access(
    side: number,
    address: Local<I64>,
    bytes: number,
    fast: (place: Pointer) => void,
    slow: () => void,
    aligned = false,
  ): void {
    const { f } = this;
    if (aligned) this.raiseIf(address.i32().has(bytes - 1), Vector.GP, 0);
    const entry = f.pointer(this.tlbSlot(address));
    const page = bytes === 1 ? address.and(-4096) : address.add(bytes - 1).and(-4096);
    f.if(entry.i64(side).eq(page), () => fast(this.placeOf(address, entry, side)), () => {
      this.enterSlowPath();
      slow();
      this.faultIf(f.s32(State.FAULT));
    });
  }

  private loadInto(address: Local<I64>, bits: number, unsigned: boolean): Local<I64> {
    const { f } = this;
    const value = f.i64();
    const fast = (place: Pointer) => f.set(value, unsigned ? place.unsigned(bits) : place.signed(bits));
    this.access(Tlb.TAG, address, bits >> 3, fast, () => {
      const raw = f.call64(loadSlow, address, bits >> 3);
      f.set(value, unsigned ? raw : raw.sx(bits));
    });
    return value;
  }

  /** Loads `bits` from a linear address, sign-extended. */
  load(address: Local<I64>, bits: number): Local<I64> {
    return this.loadInto(address, bits, false);
  }
  loadUnsigned(address: Local<I64>, bits: number): Local<I64> {
    return this.loadInto(address, bits, true);
  }

  /** Stores the low `bits` to a linear address. */
  store(address: Local<I64>, bits: number, value: I64): void {
    const { f } = this;
    const stored = f.i64(value);
    const fast = (place: Pointer) => f.storeBits(bits, place, stored);
    this.access(Tlb.WRITE, address, bits >> 3, fast, () => f.do(storeSlow, address, bits >> 3, stored));
  }

  /** Loads 16 bytes; with `aligned`, #GP(0) unless the address is a multiple of 16. */
  load128(address: Local<I64>, aligned: boolean): Local<V128> {
    const { f } = this;
    const value = f.v128();
    const fast = (place: Pointer) => f.set(value, place.v128());
    const slow = () => f.set(value, f.callPointer(load128Slow, address).v128());
    this.access(Tlb.TAG, address, 16, fast, slow, aligned);
    return value;
  }

  store128(address: Local<I64>, aligned: boolean, value: V128): void {
    const { f } = this;
    const stored = f.v128(value);
    const fast = (place: Pointer) => f.storeV128(place, stored);
    this.access(Tlb.WRITE, address, 16, fast, () => f.do(store128Slow, address, stored), aligned);
  }

  // XMM operands, register or memory.

  /** Operand as 128 bits; memory must be aligned unless `unaligned`. */
  readVector(index: number, unaligned = false): Local<V128> {
    if (this.isMemory(index)) return this.load128(this.address(index), !unaligned);
    return this.f.v128(this.readXmm(index));
  }
  writeVector(index: number, value: V128, unaligned = false): void {
    if (this.isMemory(index)) this.store128(this.address(index), !unaligned, value);
    else this.writeXmm(index, value);
  }
  /** The low 64 bits of an XMM or memory operand. */
  readLow64(index: number): Local<I64> {
    if (this.isMemory(index)) return this.load(this.address(index), 64);
    return this.f.i64(this.readXmm(index).i64(0));
  }
  /** The low 32 bits of an XMM or memory operand. */
  readLow32(index: number): Local<I32> {
    if (this.isMemory(index)) return this.f.i32(this.load(this.address(index), 32).i32());
    return this.f.i32(this.readXmm(index).i32(0));
  }
  /** The low double of an XMM or memory operand. */
  readDouble(index: number): Local<F64> {
    return this.f.f64(this.readLow64(index).bitsF64());
  }
  readSingle(index: number): Local<F32> {
    return this.f.f32(this.readLow32(index).bitsF32());
  }

  // Flags.

  flagsAdd(a: I64, b: I64, result: I64): void {
    this.setLazy(FlagKind.ADD, a, b, result);
  }
  flagsSub(a: I64, b: I64, result: I64): void {
    this.setLazy(FlagKind.SUB, a, b, result);
  }
  flagsAdc(a: I64, b: I64, result: I64): void {
    this.setLazy(FlagKind.ADC, a, b, result);
  }
  flagsSbb(a: I64, b: I64, result: I64): void {
    this.setLazy(FlagKind.SBB, a, b, result);
  }
  /** Of old + 1 and old - 1; CF as it was. */
  flagsInc(carry: I64, old: I64, result: I64): void {
    this.setLazy(FlagKind.INC, carry, old, result);
  }
  flagsDec(carry: I64, old: I64, result: I64): void {
    this.setLazy(FlagKind.DEC, carry, old, result);
  }
  /** ZF SF PF from the result, the others 0. */
  flagsLogic(result: I64): void {
    this.setLazy(FlagKind.PARTIAL, i64(0), null, result);
  }
  /** ZF SF PF from the result; CF AF OF from `others`, at their places. */
  flagsPartial(result: I64, others: I64): void {
    this.setLazy(FlagKind.PARTIAL, others, null, result);
  }
  /**
   * As {@link flagsPartial}; what the others follow from is kept, and they may be asked for later, or never.
   * @param others from `a`, the result and `b`; it computes with nothing else that changes
   */
  flagsDeferred(result: I64, others: (a: I64, result: I64, b: I64) => I64, a: I64, b = a): void {
    this.flagsPartial(result, this.f.i64(others(a, result, b)));
  }
  /**
   * Sets the flags of `mask` and keeps the others.
   * @param from what the new ones follow from
   * @param value from this to the new ones at their places, the others 0; may be asked for later, or never
   */
  flagsOver(mask: number, from: I64, value: (from: I64) => I32): void {
    this.flagsExplicit(this.f.i32(this.flagBits().and(Flag.ARITHMETIC & ~mask).or(value(from))));
  }
  /** All six at their places. */
  flagsExplicit(value: I32): void {
    this.setLazy(FlagKind.EXPLICIT, value.i64u(), null, null);
  }
  /** CF as 0 or 1. */
  carry(): I32 {
    return carry(this.f, this.flags());
  }
  /** The six arithmetic flags at their places. */
  flagBits(): I32 {
    return bits(this.f, this.flags());
  }
  /** Condition code as 0 or 1. */
  condition(cc: number): I32 {
    return condition(this.f, cc, this.flags());
  }

  // Exceptions.

  /** Raises an exception at this instruction; `error` as a constant or i32, none when absent. */
  raise(vector: number, error: I32 | number = -1): void {
    this.enterSlowPath();
    this.f.do(raise, vector, error);
    this.f.br(this.faultLabel);
  }
  raiseIf(set: I32, vector: number, error: I32 | number = -1): void {
    this.f.if(set, () => this.raise(vector, error));
  }

  // Stack and control.

  /** Linear address of `bytes` at a stack offset. */
  protected stackAddress(offset: I64, bytes: number, write: boolean): Local<I64> {
    const { f } = this;
    if (this.mode === 64) return f.i64(offset);
    return this.checked(f.i64(), f.call64(stackLinear, offset, bytes, write ? 1 : 0));
  }

  /** Stores to a stack offset; the stack pointer stays. */
  storeStack(offset: I64, bits: number, value: I64): void {
    const address = this.stackAddress(offset, bits >> 3, true);
    this.onStack = true;
    this.store(address, bits, value);
    this.onStack = false;
  }
  /** Faults where {@link storeStack} would. */
  probeStack(offset: I64, bits: number): void {
    const { f } = this;
    const address = this.stackAddress(offset, bits >> 3, true);
    this.onStack = true;
    this.enterSlowPath();
    f.drop(f.call64(loadForWriteSlow, address, bits >> 3));
    this.faultIf(f.s32(State.FAULT));
    this.onStack = false;
  }
  /** Loads from a stack offset, zero-extended. */
  loadStack(offset: I64, bits: number): Local<I64> {
    const address = this.stackAddress(offset, bits >> 3, false);
    this.onStack = true;
    const value = this.loadUnsigned(address, bits);
    this.onStack = false;
    return value;
  }

  /** Pushes the low `bits`. */
  push(value: I64, bits: number): void {
    const pointer = this.f.i64(this.reg(Reg.SP).sub(bits >> 3));
    this.storeStack(pointer, bits, value);
    this.setStackPointer(pointer);
  }

  /** What `bytes` above the top of the stack hold, zero-extended; the stack pointer stays. */
  peek(bits: number, bytes = 0): Local<I64> {
    return this.loadStack(this.reg(Reg.SP).add(bytes), bits);
  }

  /** Moves the stack pointer by bytes, within the stack's width. */
  adjustStack(bytes: I64 | number): void {
    this.setStackPointer(this.f.i64(this.reg(Reg.SP).add(bytes)));
  }

  /** Sets SP, ESP or RSP, as wide as the stack is. */
  setStackPointer(value: Local<I64>): void {
    if (this.mode === 64) this.setReg(Reg.SP, value);
    else this.setLegacyStackPointer(value);
  }
  protected abstract setLegacyStackPointer(value: Local<I64>): void;

  /** Jumps to an address in a register or memory, cut to the operand size. */
  jumpIndirect(target: I64): void {
    this.jumpTo(this.mode === 64 ? target : target.and(this.bits === 16 ? 0xffff : 0xffff_ffff));
  }
}
