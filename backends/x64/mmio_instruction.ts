/**
 * Completes the one instruction behind a memory-mapped access, for platforms that report the access but do not carry
 * it out (WHPX; Hypervisor.framework on x86-64). Covers every form that compilers and kernels use on device memory:
 * MOV in all sizes, MOVZX/MOVSX/MOVSXD, the ALU group with memory on either side, TEST, XCHG, XADD, CMPXCHG, INC, DEC,
 * NOT, NEG, BT/BTS/BTR/BTC with an immediate, SETcc, CMOVcc, PUSH and POP of memory, MOVS/STOS/LODS/SCAS with REP,
 * MOVBE, MOVNTI, and the SSE moves of 4, 8 and 16 bytes. Encodings: Intel SDM vol. 2, chapter 2 and the opcode maps of appendix A.
 *
 * One instance a vCPU; nothing is allocated per instruction. 64-bit values are pairs of int32, low first.
 */

/** What {@link MmioInstruction.next} wants. */
export const Step = {
  /** Read `size` bytes of device memory at `offset` from the faulting address into `view` at 0, then call next(). */
  READ: 0,
  /** Write the `size` bytes of `view` at 0 to device memory at `offset` from the faulting address, then call next(). */
  WRITE: 1,
  /** Done: registers and flags are updated, the instruction pointer too. */
  DONE: 2,
  /** A page of ordinary memory that the instruction needs as well is not there: `faultLow`/`faultHigh` say which. */
  PAGE_FAULT: 3,
  /** MOVS from device memory to device memory: the platform has told only one of the two addresses. */
  REFUSED: 4,
} as const;

/** Registers as the platform hands them over: each 4 words of 32 bits (the shape of WHV_REGISTER_VALUE). */
export interface InstructionRegisters {
  /** rax rcx rdx rbx rsp rbp rsi rdi r8..r15 rip rflags. */
  readonly words: Int32Array;
  /** xmm0..xmm15. */
  readonly xmm: Int32Array;
  /** Bases of es cs ss ds fs gs, two words each. */
  readonly segmentBases: Int32Array;
}

/** The guest's ordinary memory by linear address: the other side of PUSH, POP and MOVS. */
export interface InstructionMemory {
  /**
   * @returns an index into {@link bytes}, -1 when the page is not mapped, -2 when it is mapped to device memory (then
   * the platform will report that access by itself when the instruction is run again)
   */
  translate(low: number, high: number, size: number, write: boolean): number;
  readonly bytes: Uint8Array;
}

const RSP = 4;
const RSI = 6;
const RDI = 7;
const RCX = 1;
const RBP = 5;
const RIP = 16;
const RFLAGS = 17;

const SS = 2;
/** First register of each 16-bit addressing form: bx bx bp bp si di bp bx (SDM vol. 2, table 2-1). */
const BASE_16 = [3, 3, 5, 5, RSI, RDI, 5, 3];

// RFLAGS bits, SDM vol. 1, 3.4.3.
const CF = 1, PF = 4, AF = 0x10, ZF = 0x40, SF = 0x80, DF = 0x400, OF = 0x800;
const ARITHMETIC = CF | PF | AF | ZF | SF | OF;

// Groups of instructions that take the same steps.
const Kind = {
  LOAD: 0,
  STORE: 1,
  ALU_TO_REGISTER: 2,
  ALU_TO_MEMORY: 3,
  COMPARE: 4,
  TEST: 5,
  EXCHANGE: 6,
  EXCHANGE_ADD: 7,
  COMPARE_EXCHANGE: 8,
  UNARY: 9,
  BIT: 10,
  PUSH: 11,
  POP: 12,
  MOVS: 13,
  STOS: 14,
  LODS: 15,
  VECTOR_LOAD: 16,
  VECTOR_STORE: 17,
  SET_CONDITION: 18,
  MOVE_CONDITION: 19,
  SCAS: 20,
} as const;

// How LOAD widens; MOVBE swaps.
const Extend = { NONE: 0, ZERO: 1, SIGN: 2, SWAP: 3 } as const;

/** Decodes and completes one instruction at a time. */
export class MmioInstruction {
  /** Bytes of the access that {@link next} asks for: 1 to 8. */
  size = 0;
  /** From the faulting address: 8 for the upper half of a 16-byte access, else 0. */
  offset = 0;
  /** Bytes of the instruction. */
  length = 0;
  /** After PAGE_FAULT: the linear address. */
  faultLow = 0;
  faultHigh = 0;
  /** After PAGE_FAULT: whether it was a store. */
  faultWrite = false;
  /** Linear address of the memory operand; for MOVS that of its source. */
  linearLow = 0;
  linearHigh = 0;
  /** True when {@link next} changed an XMM register. */
  xmmChanged = false;

  private readonly registers: InstructionRegisters;
  private readonly memory: InstructionMemory;
  private readonly view: DataView;

  private kind = 0;
  private extend = 0;
  private operation = 0;
  private register = 0;
  private highByte = false;
  private operandSize = 4;
  private registerSize = 4;
  private addressSize = 8;
  private fromImmediate = false;
  private immediateLow = 0;
  private immediateHigh = 0;
  private repeat = false;
  private repeatWhileEqual = false;
  private sourceSegment = 3;
  private long = false;
  private ripRelative = false;
  private step = 0;
  private low = 0;
  private high = 0;

  /**
   * @param view where data goes to and comes from, at offset 0: the vCPU's exit bytes
   */
  constructor(registers: InstructionRegisters, memory: InstructionMemory, view: DataView) {
    this.registers = registers;
    this.memory = memory;
    this.view = view;
  }

  /**
   * Decodes.
   * @param bytes at the instruction pointer
   * @param count how many of them there are
   * @param bits the code segment's default: 16, 32 or 64
   * @returns false when it is none of the known forms, or runs past `count`
   */
  decode(bytes: Uint8Array, count: number, bits: number): boolean {
    let at = 0;
    let operandOverride = false;
    let addressOverride = false;
    let repeatNe = false;
    let segmentOverride = false;
    let rex = 0;
    this.repeat = false;
    this.sourceSegment = 3;
    this.step = 0;
    this.offset = 0;
    this.fromImmediate = false;
    this.highByte = false;
    this.extend = Extend.NONE;
    this.xmmChanged = false;
    this.long = bits === 64;
    prefixes: for (; at < count; at++) {
      switch (bytes[at]) {
        case 0x66:
          operandOverride = true;
          break;
        case 0x67:
          addressOverride = true;
          break;
        case 0xf2:
          repeatNe = true;
          break;
        case 0xf3:
          this.repeat = true;
          break;
        case 0x26:
          this.sourceSegment = 0;
          segmentOverride = true;
          break;
        case 0x2e:
          this.sourceSegment = 1;
          segmentOverride = true;
          break;
        case 0x36:
          this.sourceSegment = 2;
          segmentOverride = true;
          break;
        case 0x3e:
          this.sourceSegment = 3;
          segmentOverride = true;
          break;
        case 0x64:
          this.sourceSegment = 4;
          segmentOverride = true;
          break;
        case 0x65:
          this.sourceSegment = 5;
          segmentOverride = true;
          break;
        case 0xf0:
          break;
        default:
          break prefixes;
      }
    }
    if (this.long && at < count && (bytes[at] & 0xf0) === 0x40) rex = bytes[at++];
    if (at >= count) return false;
    const wide = (rex & 8) !== 0;
    const normal = wide ? 8 : (bits === 16) !== operandOverride ? 2 : 4;
    this.addressSize = this.long ? (addressOverride ? 4 : 8) : (bits === 16) !== addressOverride ? 2 : 4;
    let opcode = bytes[at++];
    let map = 0;
    if (opcode === 0x0f) {
      if (at >= count) return false;
      opcode = bytes[at++];
      map = 1;
      if (opcode === 0x38) {
        if (at >= count) return false;
        opcode = bytes[at++];
        map = 2;
      }
    }
    // Forms without ModR/M.
    if (map === 0) {
      if (opcode >= 0xa0 && opcode <= 0xa3) {
        this.kind = opcode < 0xa2 ? Kind.LOAD : Kind.STORE;
        this.setSize(opcode & 1 ? normal : 1);
        this.register = 0;
        this.length = at + this.addressSize;
        if (this.length > count) return false;
        this.effective(
          this.addressSize === 2 ? word16(bytes, at) & 0xffff : word32(bytes, at),
          this.addressSize === 8 ? word32(bytes, at + 4) : 0,
          this.sourceSegment,
        );
        return true;
      }
      if (opcode === 0xa4 || opcode === 0xa5 || (opcode >= 0xaa && opcode <= 0xaf)) {
        this.kind = opcode < 0xa6 ? Kind.MOVS : opcode < 0xac ? Kind.STOS : opcode < 0xae ? Kind.LODS : Kind.SCAS;
        this.repeatWhileEqual = this.repeat;
        this.setSize(opcode & 1 ? normal : 1);
        this.register = 0;
        this.repeat ||= repeatNe;
        this.length = at;
        const inDestination = this.kind === Kind.STOS || this.kind === Kind.SCAS;
        const words = this.registers.words;
        const pointer = (inDestination ? RDI : RSI) * 4;
        this.effective(words[pointer], words[pointer + 1], inDestination ? 0 : this.sourceSegment);
        return true;
      }
    }
    if (at >= count) return false;
    const modrm = bytes[at];
    at = this.decodeAddress(bytes, at, count, rex, segmentOverride);
    if (at < 0) return false;
    const field = (modrm >> 3) & 7;
    this.register = field | ((rex & 4) << 1);
    const byteForm = (opcode & 1) === 0;
    this.length = at;
    const known = map === 0
      ? this.decodeOneByte(opcode, field, byteForm, normal)
      : map === 1
      ? this.decodeTwoByte(opcode, field, byteForm, normal, operandOverride, repeatNe, wide)
      : this.decodeThreeByte(opcode, normal);
    if (!known) return false;
    if (this.operandSize === 1 && rex === 0 && this.register >= 4 && this.usesByteRegister()) {
      this.highByte = true;
      this.register -= 4;
    }
    if (this.fromImmediate) {
      at = this.length;
      const bytesOfImmediate = this.immediateLow;
      if (at + bytesOfImmediate > count) return false;
      this.immediateLow = bytesOfImmediate === 1
        ? (bytes[at] << 24) >> 24
        : bytesOfImmediate === 2
        ? ((bytes[at] | (bytes[at + 1] << 8)) << 16) >> 16
        : bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24);
      this.immediateHigh = this.immediateLow >> 31;
      this.length = at + bytesOfImmediate;
    }
    if (this.ripRelative) this.addRip();
    return this.length <= 15;
  }

  /** Whether the decoded instruction moves an XMM register: they are wanted only then. */
  get usesVectors(): boolean {
    return this.kind === Kind.VECTOR_LOAD || this.kind === Kind.VECTOR_STORE;
  }

  /** Goes on: the first call after {@link decode} begins; later ones follow a READ or WRITE that was carried out. */
  next(): number {
    const step = this.step++;
    switch (this.kind) {
      case Kind.LOAD:
        if (step === 0) return this.read();
        this.take();
        this.load();
        return this.done();
      case Kind.STORE:
        if (step === 1) return this.done();
        this.source();
        if (this.extend === Extend.SWAP) this.swapBytes();
        return this.write();
      case Kind.ALU_TO_REGISTER: {
        if (step === 0) return this.read();
        this.take();
        const low = this.low;
        const high = this.high;
        this.getRegister(this.register, this.operandSize, this.highByte);
        this.alu(this.operation, this.low, this.high, low, high);
        if (this.operation !== 7) this.setRegister(this.register, this.operandSize, this.highByte);
        return this.done();
      }
      case Kind.ALU_TO_MEMORY:
      case Kind.COMPARE:
      case Kind.TEST: {
        if (step === 0) return this.read();
        if (step === 2) return this.done();
        this.take();
        const low = this.low;
        const high = this.high;
        this.source();
        if (this.kind === Kind.TEST) this.alu(4, low, high, this.low, this.high);
        else this.alu(this.operation, low, high, this.low, this.high);
        return this.kind === Kind.ALU_TO_MEMORY ? this.write() : this.done();
      }
      case Kind.EXCHANGE: {
        if (step === 0) return this.read();
        if (step === 2) return this.done();
        this.take();
        const low = this.low;
        const high = this.high;
        this.getRegister(this.register, this.operandSize, this.highByte);
        const outLow = this.low;
        const outHigh = this.high;
        this.low = low;
        this.high = high;
        this.setRegister(this.register, this.operandSize, this.highByte);
        this.low = outLow;
        this.high = outHigh;
        return this.write();
      }
      case Kind.EXCHANGE_ADD: {
        if (step === 0) return this.read();
        if (step === 2) return this.done();
        this.take();
        const low = this.low;
        const high = this.high;
        this.getRegister(this.register, this.operandSize, this.highByte);
        this.alu(0, low, high, this.low, this.high);
        const sumLow = this.low;
        const sumHigh = this.high;
        this.low = low;
        this.high = high;
        this.setRegister(this.register, this.operandSize, this.highByte);
        this.low = sumLow;
        this.high = sumHigh;
        return this.write();
      }
      case Kind.COMPARE_EXCHANGE: {
        if (step === 0) return this.read();
        if (step === 2) return this.done();
        this.take();
        const low = this.low;
        const high = this.high;
        this.getRegister(0, this.operandSize, false);
        this.alu(7, this.low, this.high, low, high);
        if ((this.registers.words[RFLAGS * 4] & ZF) !== 0) {
          this.getRegister(this.register, this.operandSize, this.highByte);
          return this.write();
        }
        this.low = low;
        this.high = high;
        this.setRegister(0, this.operandSize, false);
        // A failed compare writes the old value back (SDM vol. 2, CMPXCHG): a device sees the cycle.
        return this.write();
      }
      case Kind.UNARY: {
        if (step === 0) return this.read();
        if (step === 2) return this.done();
        this.take();
        this.unary();
        return this.write();
      }
      case Kind.BIT: {
        if (step === 0) return this.read();
        if (step === 2) return this.done();
        this.take();
        return this.bit() ? this.write() : this.done();
      }
      case Kind.PUSH: {
        if (step === 0) return this.read();
        this.take();
        return this.push();
      }
      case Kind.POP:
        return step === 0 ? this.pop() : this.finishPop();
      case Kind.MOVS:
        return this.movs(step);
      case Kind.STOS:
        if (this.repeat && this.countIsZero()) return this.done();
        if (step === 0) {
          this.getRegister(0, this.operandSize, false);
          return this.write();
        }
        this.advance(RDI);
        return this.doneString();
      case Kind.LODS:
        if (this.repeat && this.countIsZero()) return this.done();
        if (step === 0) return this.read();
        this.take();
        this.setRegister(0, this.operandSize, false);
        this.advance(RSI);
        return this.doneString();
      case Kind.SET_CONDITION:
        if (step === 1) return this.done();
        this.low = this.condition(this.operation) ? 1 : 0;
        return this.write();
      case Kind.MOVE_CONDITION:
        if (step === 0) return this.read();
        this.take();
        // A 32-bit one clears the upper half whether it moves or not (SDM vol. 2, CMOVcc).
        if (!this.condition(this.operation)) this.getRegister(this.register, this.operandSize, false);
        this.setRegister(this.register, this.operandSize, false);
        return this.done();
      case Kind.SCAS:
        return this.scas(step);
      case Kind.VECTOR_LOAD:
        return this.vectorLoad(step);
      default:
        return this.vectorStore(step);
    }
  }

  private setSize(size: number): void {
    this.operandSize = size;
    this.registerSize = size;
    this.size = size;
  }

  private usesByteRegister(): boolean {
    return !this.fromImmediate && this.extend === Extend.NONE && this.kind !== Kind.UNARY;
  }

  /** Asks for the immediate: `bytes` of it follow the address; decode() reads them. */
  private withImmediate(bytes: number): void {
    this.fromImmediate = true;
    this.immediateLow = bytes;
  }

  private decodeOneByte(opcode: number, field: number, byteForm: boolean, normal: number): boolean {
    this.setSize(byteForm ? 1 : normal);
    if (opcode < 0x40 && (opcode & 7) < 4) {
      // ADD OR ADC SBB AND SUB XOR CMP; bit 1 says which side is the destination.
      this.operation = opcode >> 3;
      if (opcode & 2) this.kind = Kind.ALU_TO_REGISTER;
      else this.kind = this.operation === 7 ? Kind.COMPARE : Kind.ALU_TO_MEMORY;
      return true;
    }
    switch (opcode) {
      case 0x63:
        if (!this.long) return false;
        this.kind = Kind.LOAD;
        this.extend = Extend.SIGN;
        this.operandSize = this.size = 4;
        this.registerSize = normal;
        return true;
      case 0x80:
      case 0x81:
      case 0x83:
        this.operation = field;
        this.kind = field === 7 ? Kind.COMPARE : Kind.ALU_TO_MEMORY;
        this.withImmediate(opcode === 0x81 ? Math.min(normal, 4) : 1);
        return true;
      case 0x84:
      case 0x85:
        this.kind = Kind.TEST;
        return true;
      case 0x86:
      case 0x87:
        this.kind = Kind.EXCHANGE;
        return true;
      case 0x88:
      case 0x89:
        this.kind = Kind.STORE;
        return true;
      case 0x8a:
      case 0x8b:
        this.kind = Kind.LOAD;
        return true;
      case 0x8f:
        this.setSize(this.long && normal === 4 ? 8 : normal);
        this.kind = Kind.POP;
        return field === 0;
      case 0xc6:
      case 0xc7:
        this.kind = Kind.STORE;
        this.withImmediate(byteForm ? 1 : Math.min(normal, 4));
        return field === 0;
      case 0xf6:
      case 0xf7:
        if (field < 2) {
          this.kind = Kind.TEST;
          this.withImmediate(byteForm ? 1 : Math.min(normal, 4));
          return true;
        }
        this.kind = Kind.UNARY;
        this.operation = field;
        return field === 2 || field === 3;
      case 0xfe:
      case 0xff:
        if (field === 6 && opcode === 0xff) {
          this.setSize(this.long && normal === 4 ? 8 : normal);
          this.kind = Kind.PUSH;
          return true;
        }
        this.kind = Kind.UNARY;
        this.operation = field;
        return field < 2;
    }
    return false;
  }

  private decodeTwoByte(
    opcode: number,
    field: number,
    byteForm: boolean,
    normal: number,
    operandOverride: boolean,
    repeatNe: boolean,
    wide: boolean,
  ): boolean {
    if ((opcode & 0xf0) === 0x90) {
      this.setSize(1);
      this.kind = Kind.SET_CONDITION;
      this.operation = opcode & 15;
      return true;
    }
    if ((opcode & 0xf0) === 0x40) {
      this.setSize(normal);
      this.kind = Kind.MOVE_CONDITION;
      this.operation = opcode & 15;
      return true;
    }
    this.setSize(byteForm ? 1 : normal);
    switch (opcode) {
      case 0xb6:
      case 0xb7:
      case 0xbe:
      case 0xbf:
        this.kind = Kind.LOAD;
        this.extend = opcode < 0xb8 ? Extend.ZERO : Extend.SIGN;
        this.operandSize = this.size = byteForm ? 1 : 2;
        this.registerSize = normal;
        return true;
      case 0xb0:
      case 0xb1:
        this.kind = Kind.COMPARE_EXCHANGE;
        return true;
      case 0xc0:
      case 0xc1:
        this.kind = Kind.EXCHANGE_ADD;
        return true;
      case 0xc3: // MOVNTI
        this.setSize(wide ? 8 : 4);
        this.kind = Kind.STORE;
        return true;
      case 0xba:
        this.setSize(normal);
        this.kind = Kind.BIT;
        this.operation = field;
        this.withImmediate(1);
        return field >= 4;
      case 0x10: // MOVUPS MOVUPD MOVSS MOVSD
      case 0x11:
        this.vector(opcode & 1, this.repeat ? 4 : repeatNe ? 8 : 16);
        return true;
      case 0x12: // MOVLPS, MOVHPS merge into one half: only the stores are plain.
      case 0x16:
        return false;
      case 0x13:
        this.vector(1, 8);
        return !this.repeat && !repeatNe;
      case 0x28: // MOVAPS MOVAPD
      case 0x29:
        this.vector(opcode & 1, 16);
        return true;
      case 0x2b: // MOVNTPS
      case 0xe7: // MOVNTDQ
        this.vector(1, 16);
        return opcode === 0x2b || operandOverride;
      case 0x6e: // MOVD MOVQ
        this.vector(0, wide ? 8 : 4);
        return operandOverride;
      case 0x7e:
        if (this.repeat) this.vector(0, 8);
        else this.vector(1, wide ? 8 : 4);
        return this.repeat || operandOverride;
      case 0x6f: // MOVDQA MOVDQU
      case 0x7f:
        this.vector(opcode === 0x7f ? 1 : 0, 16);
        return operandOverride || this.repeat;
      case 0xd6:
        this.vector(1, 8);
        return operandOverride;
    }
    return false;
  }

  private decodeThreeByte(opcode: number, normal: number): boolean {
    // MOVBE
    this.setSize(normal);
    this.extend = Extend.SWAP;
    this.kind = opcode === 0xf0 ? Kind.LOAD : Kind.STORE;
    return (opcode === 0xf0 || opcode === 0xf1) && normal > 1;
  }

  private vector(store: number, size: number): void {
    this.kind = store ? Kind.VECTOR_STORE : Kind.VECTOR_LOAD;
    this.operandSize = size;
    this.size = Math.min(size, 8);
  }

  // --- steps

  private read(): number {
    return Step.READ;
  }

  private write(): number {
    const { view, size } = this;
    if (size === 1) view.setInt8(0, this.low);
    else if (size === 2) view.setInt16(0, this.low, true);
    else {
      view.setInt32(0, this.low, true);
      if (size === 8) view.setInt32(4, this.high, true);
    }
    return Step.WRITE;
  }

  /** What was read, zero-extended, into low and high. */
  private take(): void {
    const { view, size } = this;
    this.high = 0;
    if (size === 1) this.low = view.getUint8(0);
    else if (size === 2) this.low = view.getUint16(0, true);
    else {
      this.low = view.getInt32(0, true);
      if (size === 8) this.high = view.getInt32(4, true);
    }
  }

  private load(): void {
    if (this.extend === Extend.SWAP) this.swapBytes();
    else if (this.extend === Extend.SIGN) {
      if (this.size === 1) this.low = (this.low << 24) >> 24;
      else if (this.size === 2) this.low = (this.low << 16) >> 16;
      this.high = this.low >> 31;
    }
    this.setRegister(this.register, this.registerSize, this.highByte && this.extend === Extend.NONE);
  }

  private swapBytes(): void {
    const low = this.low;
    if (this.size === 2) this.low = ((low & 0xff) << 8) | ((low >>> 8) & 0xff);
    else if (this.size === 4) this.low = swap32(low);
    else {
      this.low = swap32(this.high);
      this.high = swap32(low);
    }
  }

  private done(): number {
    this.addTo(RIP, this.length);
    if (!this.long) this.registers.words[RIP * 4 + 1] = 0;
    return Step.DONE;
  }

  /** The value the instruction stores or combines with: its immediate, or its register. */
  private source(): void {
    if (this.fromImmediate) {
      this.low = this.immediateLow;
      this.high = this.immediateHigh;
    } else this.getRegister(this.register, this.operandSize, this.highByte);
  }

  private getRegister(index: number, size: number, highByte: boolean): void {
    const words = this.registers.words;
    const low = words[index * 4];
    this.high = size === 8 ? words[index * 4 + 1] : 0;
    if (highByte) this.low = (low >>> 8) & 0xff;
    else if (size === 1) this.low = low & 0xff;
    else if (size === 2) this.low = low & 0xffff;
    else this.low = low;
  }

  private setRegister(index: number, size: number, highByte: boolean): void {
    const words = this.registers.words;
    const at = index * 4;
    if (highByte) words[at] = (words[at] & ~0xff00) | ((this.low & 0xff) << 8);
    else if (size === 1) words[at] = (words[at] & ~0xff) | (this.low & 0xff);
    else if (size === 2) words[at] = (words[at] & ~0xffff) | (this.low & 0xffff);
    else {
      words[at] = this.low;
      words[at + 1] = size === 8 ? this.high : 0;
    }
  }

  /** low:high = operation(a, b) in the operand's size, with the flags SDM vol. 1, 7.3.2 gives. */
  private alu(operation: number, aLow: number, aHigh: number, bLow: number, bHigh: number): void {
    const flags = this.registers.words[RFLAGS * 4];
    const carryIn = flags & CF;
    switch (operation) {
      case 1:
        this.logic(aLow | bLow, aHigh | bHigh);
        return;
      case 4:
        this.logic(aLow & bLow, aHigh & bHigh);
        return;
      case 6:
        this.logic(aLow ^ bLow, aHigh ^ bHigh);
        return;
      case 0:
      case 2:
        this.add(aLow, aHigh, bLow, bHigh, operation === 2 ? carryIn : 0);
        return;
      default:
        this.subtract(aLow, aHigh, bLow, bHigh, operation === 3 ? carryIn : 0);
    }
  }

  private logic(low: number, high: number): void {
    this.low = low;
    this.high = high;
    this.setFlags(this.resultFlags());
  }

  private add(aLow: number, aHigh: number, bLow: number, bHigh: number, carry: number): void {
    const size = this.operandSize;
    const low = (aLow + bLow + carry) | 0;
    let high = 0;
    let carryOut: number;
    if (size < 4) {
      const mask = size === 1 ? 0xff : 0xffff;
      carryOut = (aLow & mask) + (bLow & mask) + carry > mask ? 1 : 0;
    } else {
      carryOut = (aLow >>> 0) + (bLow >>> 0) + carry > 0xffffffff ? 1 : 0;
      if (size === 8) {
        high = (aHigh + bHigh + carryOut) | 0;
        carryOut = (aHigh >>> 0) + (bHigh >>> 0) + carryOut > 0xffffffff ? 1 : 0;
      }
    }
    this.low = low;
    this.high = high;
    const overflow = this.sign(~(aLow ^ bLow) & (aLow ^ low), ~(aHigh ^ bHigh) & (aHigh ^ high));
    this.setFlags(this.resultFlags() | carryOut | ((aLow ^ bLow ^ low) & AF) | (overflow ? OF : 0));
  }

  private subtract(aLow: number, aHigh: number, bLow: number, bHigh: number, borrow: number): void {
    const size = this.operandSize;
    const low = (aLow - bLow - borrow) | 0;
    let high = 0;
    let borrowOut: number;
    if (size < 4) {
      const mask = size === 1 ? 0xff : 0xffff;
      borrowOut = (aLow & mask) - (bLow & mask) - borrow < 0 ? 1 : 0;
    } else {
      borrowOut = (aLow >>> 0) - (bLow >>> 0) - borrow < 0 ? 1 : 0;
      if (size === 8) {
        high = (aHigh - bHigh - borrowOut) | 0;
        borrowOut = (aHigh >>> 0) - (bHigh >>> 0) - borrowOut < 0 ? 1 : 0;
      }
    }
    this.low = low;
    this.high = high;
    const overflow = this.sign((aLow ^ bLow) & (aLow ^ low), (aHigh ^ bHigh) & (aHigh ^ high));
    this.setFlags(this.resultFlags() | borrowOut | ((aLow ^ bLow ^ low) & AF) | (overflow ? OF : 0));
  }

  private unary(): void {
    const carry = this.registers.words[RFLAGS * 4] & CF;
    const { low, high } = this;
    switch (this.operation) {
      case 2: // NOT: no flags
        this.low = ~low;
        this.high = ~high;
        return;
      case 3: // NEG
        this.subtract(0, 0, low, high, 0);
        return;
      default: // INC, DEC keep CF
        if (this.operation === 0) this.add(low, high, 1, 0, 0);
        else this.subtract(low, high, 1, 0, 0);
        this.registers.words[RFLAGS * 4] = (this.registers.words[RFLAGS * 4] & ~CF) | carry;
    }
  }

  /** BT BTS BTR BTC with an immediate, taken modulo the operand's size; true when there is something to store. */
  private bit(): boolean {
    const number = this.immediateLow & (this.operandSize * 8 - 1);
    const mask = 1 << (number & 31);
    const inHigh = number >= 32;
    const word = inHigh ? this.high : this.low;
    const words = this.registers.words;
    words[RFLAGS * 4] = (words[RFLAGS * 4] & ~CF) | (word & mask ? CF : 0);
    const result = this.operation === 5 ? word | mask : this.operation === 6 ? word & ~mask : word ^ mask;
    if (inHigh) this.high = result;
    else this.low = result;
    return this.operation !== 4;
  }

  private push(): number {
    const size = this.operandSize;
    const index = this.stackAt(-size, true);
    if (index < 0) return Step.PAGE_FAULT;
    this.storeRam(index, size);
    this.addTo(RSP, -size);
    return this.done();
  }

  private pop(): number {
    const index = this.stackAt(0, false);
    if (index < 0) return Step.PAGE_FAULT;
    this.loadRam(index, this.operandSize);
    return this.write();
  }

  private finishPop(): number {
    this.addTo(RSP, this.operandSize);
    return this.done();
  }

  private stackAt(displacement: number, write: boolean): number {
    const words = this.registers.words;
    this.linear(words[RSP * 4], words[RSP * 4 + 1], 2, displacement);
    return this.translateLinear(this.operandSize, write);
  }

  /** One element of MOVS: from device memory to RAM, or from RAM to device memory. */
  private movs(step: number): number {
    if (this.repeat && this.countIsZero()) return this.done();
    const words = this.registers.words;
    if (step === 0) {
      // The side that is RAM decides; a source in device memory is read first in any case.
      this.linear(words[RSI * 4], words[RSI * 4 + 1], this.sourceSegment, 0);
      const source = this.translateLinear(this.size, false);
      if (source === -1) return Step.PAGE_FAULT;
      if (source < 0) return this.read();
      this.loadRam(source, this.size);
      this.step = 8;
      return this.write();
    }
    if (step === 1) {
      this.take();
      this.linear(words[RDI * 4], words[RDI * 4 + 1], 0, 0);
      const target = this.translateLinear(this.size, true);
      if (target < 0) return target === -1 ? Step.PAGE_FAULT : Step.REFUSED;
      this.storeRam(target, this.size);
    }
    this.advance(RSI);
    this.advance(RDI);
    return this.doneString();
  }

  /** One element of SCAS; a repetition ends when the comparison comes out the other way. */
  private scas(step: number): number {
    if (this.repeat && this.countIsZero()) return this.done();
    if (step === 0) return this.read();
    this.take();
    const { low, high } = this;
    this.getRegister(0, this.operandSize, false);
    this.alu(7, this.low, this.high, low, high);
    this.advance(RDI);
    const equal = (this.registers.words[RFLAGS * 4] & ZF) !== 0;
    if (this.repeat && equal !== this.repeatWhileEqual) {
      this.countDown();
      return this.done();
    }
    return this.doneString();
  }

  /** Whether a condition code of SETcc, CMOVcc holds (SDM vol. 1, appendix B). */
  private condition(code: number): boolean {
    const flags = this.registers.words[RFLAGS * 4];
    const less = ((flags & SF) !== 0) !== ((flags & OF) !== 0);
    let holds: boolean;
    switch (code >> 1) {
      case 0:
        holds = (flags & OF) !== 0;
        break;
      case 1:
        holds = (flags & CF) !== 0;
        break;
      case 2:
        holds = (flags & ZF) !== 0;
        break;
      case 3:
        holds = (flags & (CF | ZF)) !== 0;
        break;
      case 4:
        holds = (flags & SF) !== 0;
        break;
      case 5:
        holds = (flags & PF) !== 0;
        break;
      case 6:
        holds = less;
        break;
      default:
        holds = less || (flags & ZF) !== 0;
    }
    return holds !== ((code & 1) !== 0);
  }

  private doneString(): number {
    if (this.repeat) {
      this.countDown();
      // The instruction pointer stays: the next element faults again, and interrupts are taken in between.
      if (!this.countIsZero()) return Step.DONE;
    }
    return this.done();
  }

  private countDown(): void {
    const words = this.registers.words;
    if (this.addressSize === 8) this.addTo(RCX, -1);
    else if (this.addressSize === 4) {
      words[RCX * 4] = (words[RCX * 4] - 1) | 0;
      words[RCX * 4 + 1] = 0;
    } else words[RCX * 4] = (words[RCX * 4] & ~0xffff) | ((words[RCX * 4] - 1) & 0xffff);
  }

  private countIsZero(): boolean {
    const words = this.registers.words;
    if (this.addressSize === 2) return (words[RCX * 4] & 0xffff) === 0;
    return words[RCX * 4] === 0 && (this.addressSize === 4 || words[RCX * 4 + 1] === 0);
  }

  private advance(index: number): void {
    const words = this.registers.words;
    const delta = words[RFLAGS * 4] & DF ? -this.size : this.size;
    if (this.addressSize === 8) this.addTo(index, delta);
    else if (this.addressSize === 4) {
      words[index * 4] = (words[index * 4] + delta) | 0;
      words[index * 4 + 1] = 0;
    } else words[index * 4] = (words[index * 4] & ~0xffff) | ((words[index * 4] + delta) & 0xffff);
  }

  private vectorLoad(step: number): number {
    const { registers, view } = this;
    const at = this.register * 4;
    if (step === 0) return this.read();
    if (step === 1) {
      registers.xmm[at] = view.getInt32(0, true);
      registers.xmm[at + 1] = this.operandSize > 4 ? view.getInt32(4, true) : 0;
      registers.xmm[at + 2] = 0;
      registers.xmm[at + 3] = 0;
      this.xmmChanged = true;
      if (this.operandSize === 16) {
        this.offset = 8;
        return this.read();
      }
      return this.done();
    }
    registers.xmm[at + 2] = view.getInt32(0, true);
    registers.xmm[at + 3] = view.getInt32(4, true);
    return this.done();
  }

  private vectorStore(step: number): number {
    const at = this.register * 4 + step * 2;
    if (step * 8 >= this.operandSize) return this.done();
    this.offset = step * 8;
    this.low = this.registers.xmm[at];
    this.high = this.registers.xmm[at + 1];
    return this.write();
  }

  // --- helpers

  private addTo(index: number, delta: number): void {
    const words = this.registers.words;
    const low = words[index * 4];
    const sum = (low + delta) | 0;
    words[index * 4] = sum;
    const carry = delta >= 0 ? (sum >>> 0 < low >>> 0 ? 1 : 0) : sum >>> 0 > low >>> 0 ? -1 : 0;
    words[index * 4 + 1] = (words[index * 4 + 1] + carry) | 0;
  }

  /** faultLow:faultHigh = segment base + register + displacement, in the address size. */
  private linear(low: number, high: number, segment: number, displacement: number): void {
    if (this.addressSize === 2) low &= 0xffff;
    if (this.addressSize < 8) high = 0;
    const bases = this.registers.segmentBases;
    // In 64-bit mode only FS and GS have a base (SDM vol. 1, 3.4.4).
    const useBase = !this.long || segment >= 4;
    const baseLow = useBase ? bases[segment * 2] : 0;
    const baseHigh = useBase ? bases[segment * 2 + 1] : 0;
    const shifted = (low + displacement) | 0;
    const borrow = displacement < 0 && shifted >>> 0 > low >>> 0 ? -1 : 0;
    const sum = (shifted + baseLow) | 0;
    this.faultLow = sum;
    this.faultHigh = this.long
      ? (high + borrow + baseHigh + ((shifted >>> 0) + (baseLow >>> 0) > 0xffffffff ? 1 : 0)) | 0
      : 0;
  }

  /**
   * Decodes ModR/M, SIB and displacement (SDM vol. 2, tables 2-1 to 2-3) and works the operand's linear address out.
   * @returns where the immediate begins; -1 for a register operand or too few bytes
   */
  private decodeAddress(bytes: Uint8Array, at: number, count: number, rex: number, override: boolean): number {
    const modrm = bytes[at++];
    const mod = modrm >> 6;
    const rm = modrm & 7;
    this.ripRelative = false;
    if (mod === 3) return -1;
    const words = this.registers.words;
    const { addressSize } = this;
    let displacement = mod === 1 ? 1 : mod === 2 ? 4 : 0;
    let low = 0;
    let high = 0;
    let onStack = false;
    if (addressSize === 2) {
      if (mod === 2 || (mod === 0 && rm === 6)) displacement = 2;
      if (mod !== 0 || rm !== 6) {
        low = words[BASE_16[rm] * 4];
        if (rm < 4) low = (low + words[(rm & 1 ? RDI : RSI) * 4]) | 0;
        onStack = rm === 2 || rm === 3 || rm === 6;
      }
    } else {
      let base = rm | ((rex & 1) << 3);
      if (rm === 4) {
        if (at >= count) return -1;
        const sib = bytes[at++];
        const index = ((sib >> 3) & 7) | ((rex & 2) << 2);
        const scale = sib >> 6;
        base = (sib & 7) | ((rex & 1) << 3);
        if (index !== RSP) {
          low = words[index * 4] << scale;
          high = (words[index * 4 + 1] << scale) | (scale ? words[index * 4] >>> (32 - scale) : 0);
        }
        if (mod === 0 && (base & 7) === 5) {
          displacement = 4;
          base = -1;
        }
      } else if (mod === 0 && rm === 5) {
        displacement = 4;
        this.ripRelative = this.long;
        base = -1;
      }
      if (base >= 0) {
        onStack = base === RSP || base === RBP;
        const sum = (low + words[base * 4]) | 0;
        high = (high + words[base * 4 + 1] + (sum >>> 0 < low >>> 0 ? 1 : 0)) | 0;
        low = sum;
      }
    }
    if (at + displacement > count) return -1;
    const value = displacement === 1
      ? (bytes[at] << 24) >> 24
      : displacement === 2
      ? word16(bytes, at)
      : displacement === 4
      ? word32(bytes, at)
      : 0;
    const sum = (low + value) | 0;
    high = (high + (value >> 31) + (sum >>> 0 < low >>> 0 ? 1 : 0)) | 0;
    this.effective(sum, high, override || !onStack ? this.sourceSegment : SS);
    return at + displacement;
  }

  /** linear = segment base + offset, in the address size. */
  private effective(low: number, high: number, segment: number): void {
    if (this.addressSize === 2) low &= 0xffff;
    if (this.addressSize < 8) high = 0;
    this.linearLow = low;
    this.linearHigh = high;
    if (this.long && segment < 4) return;
    const bases = this.registers.segmentBases;
    const sum = (low + bases[segment * 2]) | 0;
    this.linearLow = sum;
    this.linearHigh = this.long ? (high + bases[segment * 2 + 1] + (sum >>> 0 < low >>> 0 ? 1 : 0)) | 0 : 0;
  }

  /** The address counts from the next instruction. */
  private addRip(): void {
    const words = this.registers.words;
    const low = (words[RIP * 4] + this.length) | 0;
    const carry = low >>> 0 < words[RIP * 4] >>> 0 ? 1 : 0;
    const sum = (this.linearLow + low) | 0;
    this.linearHigh = this.addressSize === 4
      ? 0
      : (this.linearHigh + words[RIP * 4 + 1] + carry + (sum >>> 0 < low >>> 0 ? 1 : 0)) | 0;
    this.linearLow = sum;
  }

  private translateLinear(size: number, write: boolean): number {
    this.faultWrite = write;
    return this.memory.translate(this.faultLow, this.faultHigh, size, write);
  }

  private storeRam(index: number, size: number): void {
    const bytes = this.memory.bytes;
    for (let i = 0; i < size; i++) {
      bytes[index + i] = (i < 4 ? this.low >>> (8 * i) : this.high >>> (8 * (i - 4))) & 0xff;
    }
  }

  private loadRam(index: number, size: number): void {
    const bytes = this.memory.bytes;
    this.low = 0;
    this.high = 0;
    for (let i = 0; i < size; i++) {
      if (i < 4) this.low |= bytes[index + i] << (8 * i);
      else this.high |= bytes[index + i] << (8 * (i - 4));
    }
  }

  private sign(low: number, high: number): boolean {
    const size = this.operandSize;
    return size === 8 ? high < 0 : size === 4 ? low < 0 : (low & (size === 1 ? 0x80 : 0x8000)) !== 0;
  }

  /** ZF, SF and PF of low:high. */
  private resultFlags(): number {
    const { low, high, operandSize: size } = this;
    const zero = size === 8 ? (low | high) === 0 : size === 4 ? low === 0 : (low & (size === 1 ? 0xff : 0xffff)) === 0;
    let parity = low & 0xff;
    parity ^= parity >> 4;
    parity ^= parity >> 2;
    parity ^= parity >> 1;
    return (zero ? ZF : 0) | (this.sign(low, high) ? SF : 0) | (parity & 1 ? 0 : PF);
  }

  private setFlags(flags: number): void {
    const words = this.registers.words;
    words[RFLAGS * 4] = (words[RFLAGS * 4] & ~ARITHMETIC) | flags;
  }
}

function swap32(value: number): number {
  return (value << 24) | ((value & 0xff00) << 8) | ((value >>> 8) & 0xff00) | (value >>> 24);
}

function word16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] | (bytes[at + 1] << 8)) << 16) >> 16;
}

function word32(bytes: Uint8Array, at: number): number {
  return bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24);
}
