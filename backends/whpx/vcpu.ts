/**
 * One vCPU of WHPX. The platform stops at an instruction it does not carry out; this carries it out: ports and MSRs
 * here, memory I/O by `backends/x64/mmio_instruction.ts`.
 */
import {
  ApicEvent,
  type EndOfInterruptListener,
  Exit,
  type ExitReason,
  type LocalInterruptController,
  type Vcpu,
  type VcpuFailure,
} from "../../core/hypervisor.ts";
import { X64, X64_STATE_BYTES } from "../../core/x64_state.ts";
import { failureRegisters } from "../x64/failure_registers.ts";
import { sleepHalted, startedState } from "../x64/local_apic_events.ts";
import { MmioInstruction, Step } from "../x64/mmio_instruction.ts";
import {
  Access,
  check,
  ExceptionType,
  ExitReason as Reason,
  PendingType,
  type Platform,
  platform,
  Register as R,
  resultName,
  Struct,
} from "./abi.ts";
import { cpuidEcx, cpuidEdx } from "./cpuid.ts";
import { WhpxDebug } from "./debug.ts";
import { GuestMemory } from "./guest_memory.ts";
import { dropsWrite, isApicMsr, readKnownMsr } from "./msrs.ts";
import type { WhpxPartition } from "./partition.ts";
import { alignedBytes, RegisterList } from "./registers.ts";
import { StateMover } from "./state.ts";

const CONTEXT = Struct.WHV_RUN_VP_EXIT_CONTEXT;
const TWO_32 = 0x1_0000_0000;
// Fields of WHV_RUN_VP_EXIT_CONTEXT as indices of 32-bit words.
const EXECUTION = CONTEXT["VpContext.ExecutionState"] / 4;
const CS_BASE = CONTEXT["VpContext.Cs.Base"] / 4;
const CONTEXT_RIP = CONTEXT["VpContext.Rip"] / 4;
const CONTEXT_RFLAGS = CONTEXT["VpContext.Rflags"] / 4;
const MEMORY_INFO = CONTEXT["MemoryAccess.AccessInfo"] / 4;
const MEMORY_GPA = CONTEXT["MemoryAccess.Gpa"] / 4;
const IO_INFO = CONTEXT["IoPortAccess.AccessInfo"] / 4;
const IO_PORT = CONTEXT["IoPortAccess.PortNumber"] / 2;
const IO_RAX = CONTEXT["IoPortAccess.Rax"] / 4;
const IO_RCX = CONTEXT["IoPortAccess.Rcx"] / 4;
const IO_RSI = CONTEXT["IoPortAccess.Rsi"] / 4;
const IO_RDI = CONTEXT["IoPortAccess.Rdi"] / 4;
const IO_DS = CONTEXT["IoPortAccess.Ds.Base"] / 4;
const IO_ES = CONTEXT["IoPortAccess.Es.Base"] / 4;
const MSR_INFO = CONTEXT["MsrAccess.AccessInfo"] / 4;
const MSR_NUMBER = CONTEXT["MsrAccess.MsrNumber"] / 4;
const MSR_RAX = CONTEXT["MsrAccess.Rax"] / 4;
const MSR_RDX = CONTEXT["MsrAccess.Rdx"] / 4;
const CPUID_LEAF = CONTEXT["CpuidAccess.Rax"] / 4;
const CPUID_RAX = CONTEXT["CpuidAccess.DefaultResultRax"] / 4;
const CPUID_RCX = CONTEXT["CpuidAccess.DefaultResultRcx"] / 4;
const CPUID_RDX = CONTEXT["CpuidAccess.DefaultResultRdx"] / 4;
const CPUID_RBX = CONTEXT["CpuidAccess.DefaultResultRbx"] / 4;
const EOI_VECTOR = CONTEXT["ApicEoi.InterruptVector"] / 4;
// Bits of the word at EXECUTION: WHV_X64_VP_EXECUTION_STATE, then InstructionLength and Cr8.
const LONG_MODE = 1 << 4;
const INTERRUPTION_PENDING = 1 << 6;
const INTERRUPT_SHADOW = 1 << 12;
// WHV_X64_IO_PORT_ACCESS_INFO.
const IO_WRITE = 1;
const IO_STRING = 1 << 4;
const IO_REPEAT = 1 << 5;
const INTERRUPT_FLAG = 0x200;
const DIRECTION_FLAG = 0x400;

/** Bytes of one exit of string I/O. */
const DATA_BYTES = 4096;
/** Longest instruction (SDM vol. 2, 2.3.11). */
const MAX_INSTRUCTION = 15;
/** What an internal step returns when there is nothing for the machine to answer. */
const AGAIN = -1;

/** What the exit that the machine answers leaves to be done. */
const Pending = { NOTHING: 0, PORT_READ: 1, STRING_READ: 2, MSR_READ: 3, MSR_WRITE: 4, INSTRUCTION: 5 } as const;
/** Registers that instructions work on: general, RIP, RFLAGS, then the segments with their bases. */
const INSTRUCTION_NAMES = Array.from({ length: R.WHvX64RegisterGs + 1 }, (_, i) => i);
/** Of these, the ones an instruction changes. */
const CHANGED = R.WHvX64RegisterRflags + 1;

/** A vCPU on the thread that made it. */
export class WhpxVcpu implements Vcpu {
  readonly index: number;
  port = 0;
  size = 0;
  count = 0;
  readonly address = new Float64Array(1);
  readonly bytes = new Uint8Array(DATA_BYTES);
  readonly view = new DataView(this.bytes.buffer);
  dataOffset = 0;
  msr = 0;
  msrFault = 0;
  readonly debug: WhpxDebug | null;

  private readonly partition: WhpxPartition;
  private readonly pointer: Deno.PointerValue;
  private readonly runProcessor: Platform["WHvRunVirtualProcessor"];
  private readonly context: Uint8Array<ArrayBuffer>;
  private readonly contextPointer: Deno.PointerValue;
  private readonly words: Int32Array;
  private readonly halfWords: Uint16Array;
  private readonly data = new Int32Array(this.bytes.buffer);
  private readonly mover: StateMover;
  private readonly memory: GuestMemory;
  private pending: number = Pending.NOTHING;
  private reason = "";
  private dead = false;
  private closed = false;

  // Instructions that the platform leaves to us.
  private readonly registers: RegisterList;
  private readonly vectors: RegisterList;
  private readonly segmentBases = new Int32Array(12);
  private readonly instruction: MmioInstruction;
  private readonly code = new Uint8Array(MAX_INSTRUCTION + 1);
  /** Guest physical address of the fault. */
  private readonly fault = new Float64Array(1);
  /** Of an access across a page's end: bytes in the first page, else 0. Where the piece in progress begins. */
  private split = 0;
  private pieceOffset = 0;
  private pieceReason: ExitReason = Exit.MMIO_READ;

  // Few registers at a time: what ends an instruction.
  private readonly rip: RegisterList;
  private readonly accumulator: RegisterList;
  private readonly results: RegisterList;
  private readonly string: RegisterList;
  private readonly event: RegisterList;
  private readonly shadow: RegisterList;

  // Repeated port reads.
  private readonly linear = new Int32Array(2);
  private stringElements = 0;
  private stringMask = 0;

  /** While single-stepping: an instruction was completed here, and nothing has been told of it. */
  private stepOwed = false;
  private ioApic: EndOfInterruptListener | null = null;

  // Only without the platform's APIC.
  private controller: LocalInterruptController | null = null;
  private halted = false;
  private waitsForStartup: boolean;
  private ready = false;
  private windowAsked = false;
  private taskPriority = 0;
  private readonly interruption: RegisterList;
  private readonly window: RegisterList;
  private readonly cr8: RegisterList;
  private readonly msrValue = new Int32Array(2);
  private powerOn: ArrayBuffer | null = null;

  constructor(partition: WhpxPartition, index: number) {
    this.partition = partition;
    this.index = index;
    this.pointer = partition.pointer;
    this.runProcessor = platform().WHvRunVirtualProcessor;
    check(platform().WHvCreateVirtualProcessor(partition.pointer, index, 0), `making vCPU ${index}`);
    this.context = alignedBytes(CONTEXT.sizeof);
    this.contextPointer = Deno.UnsafePointer.of(this.context);
    this.words = new Int32Array(this.context.buffer, this.context.byteOffset, CONTEXT.sizeof / 4);
    this.halfWords = new Uint16Array(this.context.buffer, this.context.byteOffset, CONTEXT.sizeof / 2);
    const list = (...names: number[]) => new RegisterList(partition.pointer, index, names);
    this.registers = list(...INSTRUCTION_NAMES);
    this.vectors = list(...Array.from({ length: 16 }, (_, i) => R.WHvX64RegisterXmm0 + i));
    this.rip = list(R.WHvX64RegisterRip);
    this.accumulator = list(R.WHvX64RegisterRip, R.WHvX64RegisterRax, R.WHvX64RegisterRdx);
    this.results = list(
      R.WHvX64RegisterRip,
      R.WHvX64RegisterRax,
      R.WHvX64RegisterRcx,
      R.WHvX64RegisterRdx,
      R.WHvX64RegisterRbx,
    );
    this.string = list(R.WHvX64RegisterRip, R.WHvX64RegisterRcx, R.WHvX64RegisterRsi, R.WHvX64RegisterRdi);
    this.event = list(R.WHvRegisterPendingEvent);
    this.shadow = list(R.WHvRegisterInterruptState);
    this.interruption = list(R.WHvRegisterPendingInterruption);
    this.window = list(R.WHvX64RegisterDeliverabilityNotifications);
    this.cr8 = list(R.WHvX64RegisterCr8);
    this.debug = partition.debugExits ? new WhpxDebug(partition, index) : null;
    this.memory = new GuestMemory(partition, index);
    this.instruction = new MmioInstruction(
      { words: this.registers.words, xmm: this.vectors.words, segmentBases: this.segmentBases },
      this.memory,
      this.view,
    );
    const { localApic } = partition.controllers;
    this.waitsForStartup = !localApic && index > 0;
    try {
      this.mover = new StateMover(partition.pointer, index, localApic);
      if (localApic && index > 0) this.mover.suspend(1);
    } catch (error) {
      platform().WHvDeleteVirtualProcessor(partition.pointer, index);
      throw error;
    }
    partition.shared.openVcpu(index);
    if (partition.shared.closing) this.dead = true;
  }

  run(): ExitReason {
    if (this.dead) return Exit.INTERRUPTED;
    if (this.pending !== Pending.NOTHING) {
      const reason = this.finish();
      if (reason >= 0) return reason as ExitReason;
    }
    if (this.stepOwed) {
      this.stepOwed = false;
      if (this.debug !== null && this.debug.stepping) return this.leaveForDebug(this.debug);
    }
    if (this.controller !== null) return this.runWithController(this.controller);
    for (;;) {
      const reason = this.enter();
      if (reason >= 0) return reason as ExitReason;
    }
  }

  attachLocalApic(controller: LocalInterruptController): void {
    if (this.partition.controllers.localApic) throw new Error("this partition has local APICs of its own");
    this.controller = controller;
    this.powerOn = new ArrayBuffer(X64_STATE_BYTES);
    this.mover.get(this.powerOn);
    // INIT leaves the TSC alone (SDM vol. 3, table 9-1); zero says so.
    new DataView(this.powerOn).setBigUint64(X64.TSC, 0n, true);
    this.loadReadiness(this.powerOn);
  }

  attachIoApic(ioApic: EndOfInterruptListener): void {
    this.ioApic = ioApic;
  }

  getState(state: ArrayBuffer): void {
    this.settle();
    this.mover.get(state);
    const view = new DataView(state);
    this.debug?.hide(view);
    if (this.partition.controllers.localApic) return;
    view.setUint32(X64.ACTIVITY, this.waitsForStartup ? 2 : this.halted ? 1 : 0, true);
    if (this.waitsForStartup) view.setBigUint64(X64.TSC, 0n, true);
  }

  setState(state: ArrayBuffer): void {
    this.pending = Pending.NOTHING;
    this.stepOwed = false;
    this.mover.set(state);
    this.debug?.restore();
    const activity = new DataView(state).getUint32(X64.ACTIVITY, true);
    this.halted = activity === 1;
    this.waitsForStartup = activity === 2;
    this.loadReadiness(state);
  }

  failure(): VcpuFailure {
    const state = new ArrayBuffer(X64_STATE_BYTES);
    let registers: Record<string, string> = {};
    try {
      this.mover.get(state);
      registers = failureRegisters(state);
    } catch {
      // A partition that is gone has no registers; the reason still stands.
    }
    const count = this.readCode();
    return {
      reason: this.reason || "the vCPU has not failed",
      registers,
      instruction: this.code.slice(0, Math.min(count, MAX_INSTRUCTION)),
    };
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.dead = true;
    this.partition.shared.closeVcpu(this.index);
    platform().WHvDeleteVirtualProcessor(this.pointer, this.index);
  }

  /** One WHvRunVirtualProcessor: an exit reason, or {@link AGAIN}. */
  private enter(): number {
    const { debug } = this;
    return debug !== null && debug.active ? this.enterDebugged(debug) : this.enterGuest();
  }

  private enterDebugged(debug: WhpxDebug): number {
    debug.arm();
    const { words } = this;
    // What is completed here after this exit must find the guest's own flags, so they are put back inside.
    const reason = this.enterGuest(debug);
    const completed = words[0] === Reason.X64IoPortAccess || words[0] === Reason.MemoryAccess ||
      words[0] === Reason.X64MsrAccess || words[0] === Reason.X64Cpuid;
    if (!debug.stepping || !completed || reason === Exit.FAILED) return reason;
    if (reason === AGAIN) return this.leaveForDebug(debug);
    this.stepOwed = true;
    return reason;
  }

  private leaveForDebug(debug: WhpxDebug): ExitReason {
    this.address[0] = debug.stop();
    return Exit.DEBUG;
  }

  private exception(): number {
    const { debug } = this;
    if (this.context[CONTEXT["VpException.ExceptionType"]] !== ExceptionType.DebugTrapOrFault || debug === null) {
      return this.fail("the platform left the guest for an exception that nobody asked for");
    }
    if (debug.isOurs()) return this.leaveForDebug(debug);
    // WHV_X64_PENDING_EXCEPTION_EVENT: pending, exception; #DB has no error code.
    this.event.words.fill(0);
    this.event.words[0] = 1 | ExceptionType.DebugTrapOrFault << 16;
    const result = this.event.set(1);
    return result < 0 ? this.fail(`the platform refused the guest's own #DB: ${resultName(result)}`) : AGAIN;
  }

  private enterGuest(debug?: WhpxDebug): number {
    const { words } = this;
    const result = this.runProcessor(this.pointer, this.index, this.contextPointer, CONTEXT.sizeof);
    if (result < 0) return this.fail(`the platform could not run the guest: ${resultName(result)}`);
    if (debug !== undefined) debug.disarm();
    switch (words[0]) {
      case Reason.X64IoPortAccess:
        return this.portAccess();
      case Reason.MemoryAccess:
        return this.memoryAccess();
      case Reason.X64MsrAccess:
        return this.msrAccess();
      case Reason.X64Cpuid:
        return this.cpuid();
      case Reason.Exception:
        return this.exception();
      case Reason.X64ApicEoi:
        if (this.ioApic !== null) this.ioApic.endOfInterrupt(words[EOI_VECTOR]);
        return AGAIN;
      case Reason.X64InterruptWindow:
        this.windowAsked = false;
        return AGAIN;
      case Reason.X64Halt:
        return Exit.HALT;
      case Reason.Canceled:
        return this.canceled();
      case Reason.UnrecoverableException:
        return Exit.SHUTDOWN;
      case Reason.None:
        return AGAIN;
      case Reason.InvalidVpRegisterValue:
        return this.fail("the platform found the vCPU's registers invalid");
      case Reason.UnsupportedFeature:
        return this.fail(
          `the guest used what the platform does not support (code ${
            words[CONTEXT["UnsupportedFeature.FeatureCode"] / 4]
          }, ` +
            `parameter 0x${(words[CONTEXT["UnsupportedFeature.FeatureParameter"] / 4] >>> 0).toString(16)})`,
        );
      default:
        return this.fail(`the platform left the guest with reason 0x${words[0].toString(16)}, which is not known here`);
    }
  }

  /**
   * The platform remembers a cancel until the next run. One whose kick was seen already (a halted vCPU looks at the
   * word by itself) means nothing any more.
   */
  private canceled(): number {
    const { shared } = this.partition;
    if (shared.closing) {
      this.dead = true;
      return Exit.INTERRUPTED;
    }
    return this.takeKick() ? Exit.INTERRUPTED : AGAIN;
  }

  private takeKick(): boolean {
    const { shared } = this.partition;
    if (!shared.kicked(this.index)) return false;
    shared.clearKick(this.index);
    if (shared.closing) this.dead = true;
    return true;
  }

  private fail(reason: string): number {
    this.reason = reason;
    return Exit.FAILED;
  }

  /** Does what the last exit left, now that it is answered: an exit reason, or {@link AGAIN}. */
  private finish(): number {
    const pending = this.pending;
    this.pending = Pending.NOTHING;
    switch (pending) {
      case Pending.PORT_READ:
        return this.finishPortRead();
      case Pending.STRING_READ:
        return this.finishStringRead();
      case Pending.MSR_READ:
      case Pending.MSR_WRITE:
        return this.finishMsr(pending === Pending.MSR_READ);
      default:
        return this.resumeInstruction();
    }
  }

  /** Brings the registers up to date where that needs the machine no more. */
  private settle(): void {
    if (this.pending === Pending.NOTHING || this.dead) return;
    // An instruction with an access still to come stays as if it had not begun: it begins again.
    this.finish();
    this.pending = Pending.NOTHING;
  }

  // --- the instruction pointer

  private get long(): boolean {
    // Cs.Attributes bit 13 is L; it counts in long mode only.
    return (this.words[EXECUTION] & LONG_MODE) !== 0 &&
      (this.halfWords[CONTEXT["VpContext.Cs.Attributes"] / 2] & 0x2000) !== 0;
  }

  private get bits(): number {
    if (this.long) return 64;
    return (this.halfWords[CONTEXT["VpContext.Cs.Attributes"] / 2] & 0x4000) !== 0 ? 32 : 16;
  }

  /** Puts the next instruction's address into the first register of a list. */
  private nextRip(list: RegisterList): void {
    const { words } = this;
    const length = (words[EXECUTION] >> 16) & 15;
    const low = words[CONTEXT_RIP];
    const sum = (low + length) | 0;
    list.words[0] = sum;
    list.words[1] = this.long ? (words[CONTEXT_RIP + 1] + (sum >>> 0 < low >>> 0 ? 1 : 0)) | 0 : 0;
    // STI's shadow covers one instruction, and this was it.
    if ((words[EXECUTION] & INTERRUPT_SHADOW) !== 0) this.clearShadow();
  }

  private clearShadow(): void {
    if (this.shadow.get() < 0) return;
    this.shadow.words[0] &= ~1;
    this.shadow.set(1);
  }

  // --- ports

  private portAccess(): number {
    const { words } = this;
    const info = words[IO_INFO];
    this.port = this.halfWords[IO_PORT];
    this.size = (info >> 1) & 7;
    this.dataOffset = 0;
    if ((info & IO_STRING) !== 0) return this.stringAccess(info);
    this.count = 1;
    if ((info & IO_WRITE) === 0) {
      this.pending = Pending.PORT_READ;
      return Exit.IO_READ;
    }
    this.data[0] = words[IO_RAX];
    this.nextRip(this.rip);
    this.rip.set(1);
    return Exit.IO_WRITE;
  }

  private finishPortRead(): number {
    const { words, size, accumulator } = this;
    this.nextRip(accumulator);
    const mask = size === 1 ? 0xff : size === 2 ? 0xffff : -1;
    accumulator.words[4] = (words[IO_RAX] & ~mask) | (this.data[0] & mask);
    // 32-bit results clear the upper half (SDM vol. 1, 3.4.1.1).
    accumulator.words[5] = size === 4 ? 0 : words[IO_RAX + 1];
    accumulator.set(2);
    return AGAIN;
  }

  /** INS and OUTS: as many elements as lie in one page and one buffer. */
  private stringAccess(info: number): number {
    const { words, size, string } = this;
    const write = (info & IO_WRITE) !== 0;
    const repeat = (info & IO_REPEAT) !== 0;
    const bits = this.bits;
    let addressBits = bits;
    let base = write ? IO_DS : IO_ES;
    const { context } = this;
    const code = CONTEXT["IoPortAccess.InstructionBytes"];
    const count = Math.min(context[CONTEXT["IoPortAccess.InstructionByteCount"]], MAX_INSTRUCTION);
    for (let i = 0; i < count; i++) {
      const byte = context[code + i];
      if (byte === 0x67) addressBits = bits === 32 ? 16 : 32;
      // Only OUTS has a segment to choose; the context holds but two of them.
      else if (write && (byte === 0x26 || byte === 0x2e || byte === 0x36 || byte === 0x64 || byte === 0x65)) {
        base = byte === 0x26 ? IO_ES : this.fetchSegmentBase(byte);
      } else if (byte === 0x6c || byte === 0x6d || byte === 0x6e || byte === 0x6f) break;
    }
    const mask = addressBits === 16 ? 0xffff : -1;
    const wide = addressBits === 64;
    this.stringMask = wide ? 64 : addressBits;
    const left = wide && words[IO_RCX + 1] !== 0 ? DATA_BYTES : (words[IO_RCX] & mask) >>> 0;
    if (repeat && left === 0) {
      this.nextRip(this.rip);
      this.rip.set(1);
      return AGAIN;
    }
    const pointer = write ? IO_RSI : IO_RDI;
    const low = words[pointer] & mask;
    const high = wide ? words[pointer + 1] : 0;
    const useBase = bits !== 64 || base === FETCHED_BASE;
    const baseLow = !useBase ? 0 : base === FETCHED_BASE ? this.linear[0] : words[base];
    const baseHigh = !useBase ? 0 : base === FETCHED_BASE ? this.linear[1] : words[base + 1];
    const sum = (low + baseLow) | 0;
    this.linear[0] = sum;
    this.linear[1] = bits === 64 ? (high + baseHigh + (sum >>> 0 < low >>> 0 ? 1 : 0)) | 0 : 0;
    // Backwards, or across a page's end: one element at a time.
    const inPage = Math.floor((0x1000 - (sum & 0xfff)) / size);
    const backwards = (words[CONTEXT_RFLAGS] & DIRECTION_FLAG) !== 0;
    this.count = !repeat || backwards || inPage === 0 ? 1 : Math.min(left, inPage, DATA_BYTES / size);
    this.stringElements = repeat ? this.count : 0;
    const length = this.count * size;
    const { memory } = this;
    if (!write) {
      // What cannot be stored must not be read from the device.
      if (!memory.reach(this.linear[0], this.linear[1], length, true)) return this.memoryFault();
      this.pending = Pending.STRING_READ;
      return Exit.IO_READ;
    }
    if (!memory.read(this.linear[0], this.linear[1], length, this.bytes)) return this.memoryFault();
    this.moveString(string.at(R.WHvX64RegisterRsi), pointer, backwards);
    return Exit.IO_WRITE;
  }

  private finishStringRead(): number {
    const { memory, linear, string } = this;
    if (!memory.write(linear[0], linear[1], this.count * this.size, this.bytes)) return this.memoryFault();
    const backwards = (this.words[CONTEXT_RFLAGS] & DIRECTION_FLAG) !== 0;
    this.moveString(string.at(R.WHvX64RegisterRdi), IO_RDI, backwards);
    return AGAIN;
  }

  /** Moves RSI or RDI, counts RCX down, and leaves the instruction when it is done. */
  private moveString(at: number, pointer: number, backwards: boolean): void {
    const { words, string } = this;
    const list = string.words;
    for (let i = 0; i < 2; i++) {
      list[string.at(R.WHvX64RegisterRcx) / 4 + i] = words[IO_RCX + i];
      list[string.at(R.WHvX64RegisterRsi) / 4 + i] = words[IO_RSI + i];
      list[string.at(R.WHvX64RegisterRdi) / 4 + i] = words[IO_RDI + i];
    }
    const bytes = this.count * this.size;
    addTo(list, at / 4, words[pointer], words[pointer + 1], backwards ? -bytes : bytes, this.stringMask);
    const rcx = string.at(R.WHvX64RegisterRcx) / 4;
    let done = true;
    if (this.stringElements > 0) {
      addTo(list, rcx, words[IO_RCX], words[IO_RCX + 1], -this.stringElements, this.stringMask);
      const low = this.stringMask === 16 ? list[rcx] & 0xffff : list[rcx];
      done = low === 0 && (this.stringMask !== 64 || list[rcx + 1] === 0);
    }
    if (done) this.nextRip(string);
    else {
      list[0] = words[CONTEXT_RIP];
      list[1] = words[CONTEXT_RIP + 1];
    }
    string.set(4);
  }

  /** The base of the segment a prefix names, into `linear`. */
  private fetchSegmentBase(prefix: number): number {
    const segment = prefix === 0x2e ? 1 : prefix === 0x36 ? 2 : prefix === 0x64 ? 4 : 5;
    check(this.registers.get(), "reading registers");
    const at = (R.WHvX64RegisterEs + segment) * 4;
    this.linear[0] = this.bits === 64 && segment < 4 ? 0 : this.registers.words[at];
    this.linear[1] = this.bits === 64 && segment < 4 ? 0 : this.registers.words[at + 1];
    return FETCHED_BASE;
  }

  // --- MSRs

  private msrAccess(): number {
    const { words } = this;
    const index = words[MSR_NUMBER];
    const write = (words[MSR_INFO] & 1) !== 0;
    this.msr = index;
    this.msrFault = 0;
    this.size = 8;
    this.dataOffset = 0;
    this.data[0] = write ? words[MSR_RAX] : 0;
    this.data[1] = write ? words[MSR_RDX] : 0;
    if (this.controller !== null && isApicMsr(index)) {
      const { msrValue } = this;
      msrValue[0] = this.data[0];
      msrValue[1] = this.data[1];
      const good = write ? this.controller.writeMsr(index, msrValue) : this.controller.readMsr(index, msrValue);
      this.msrFault = good ? 0 : 1;
      this.data[0] = msrValue[0];
      this.data[1] = msrValue[1];
      return this.finishMsr(!write);
    }
    if (write ? dropsWrite(index) : readKnownMsr(index, this.data)) return this.finishMsr(!write);
    this.pending = write ? Pending.MSR_WRITE : Pending.MSR_READ;
    return write ? Exit.MSR_WRITE : Exit.MSR_READ;
  }

  private finishMsr(read: boolean): number {
    if (this.msrFault !== 0) return this.raise(13, 0, 0, 0);
    const { accumulator } = this;
    this.nextRip(accumulator);
    // RDMSR clears the upper halves (SDM vol. 2).
    accumulator.words[4] = this.data[0];
    accumulator.words[5] = 0;
    accumulator.words[8] = this.data[1];
    accumulator.words[9] = 0;
    accumulator.set(read ? 3 : 1);
    return AGAIN;
  }

  // --- CPUID

  private cpuid(): number {
    const { words, results } = this;
    const leaf = words[CPUID_LEAF];
    this.nextRip(results);
    const list = results.words;
    // In 64-bit mode too, all four are 32 bits wide and clear the upper halves (SDM vol. 2).
    list.fill(0, 4);
    list[4] = words[CPUID_RAX];
    list[8] = cpuidEcx(leaf, words[CPUID_RCX]);
    list[12] = cpuidEdx(leaf, words[CPUID_RDX]);
    list[16] = words[CPUID_RBX];
    const result = results.set(5);
    return result < 0 ? this.fail(`the platform refused the answer to CPUID: ${resultName(result)}`) : AGAIN;
  }

  /** Raises an exception with an error code at the present instruction; the parameter of a page fault is CR2. */
  private raise(vector: number, error: number, parameterLow: number, parameterHigh: number): number {
    const { words } = this.event;
    // WHV_X64_PENDING_EXCEPTION_EVENT: pending, exception, DeliverErrorCode.
    words[0] = 1 | 1 << 8 | vector << 16;
    words[1] = error;
    words[2] = parameterLow;
    words[3] = parameterHigh;
    const result = this.event.set(1);
    return result < 0 ? this.fail(`the platform refused exception ${vector}: ${resultName(result)}`) : AGAIN;
  }

  /** After {@link GuestMemory} could not: a page fault in the guest, or the end of what is possible. */
  private memoryFault(): number {
    const { memory } = this;
    if (memory.device) return this.fail("the guest used device memory as ordinary memory in a way not known here");
    // Error code (SDM vol. 3, 4.7): present, write, user.
    const user = (this.words[EXECUTION] & 3) === 3 ? 4 : 0;
    const error = (memory.protection ? 1 : 0) | (memory.faultWrite ? 2 : 0) | user;
    return this.raise(14, error, memory.faultLow, memory.faultHigh);
  }

  // --- memory I/O

  private memoryAccess(): number {
    const { words, registers, instruction } = this;
    if ((words[MEMORY_INFO] & 3) === Access.Execute) {
      return this.fail("the guest runs code where there is no memory");
    }
    this.fault[0] = (words[MEMORY_GPA] >>> 0) + (words[MEMORY_GPA + 1] >>> 0) * TWO_32;
    const result = registers.get();
    if (result < 0) return this.fail(`the platform did not give the registers: ${resultName(result)}`);
    for (let i = 0; i < 6; i++) {
      const at = (R.WHvX64RegisterEs + i) * 4;
      this.segmentBases[i * 2] = registers.words[at];
      this.segmentBases[i * 2 + 1] = registers.words[at + 1];
    }
    const bits = this.bits;
    const { context } = this;
    let count = Math.min(context[CONTEXT["MemoryAccess.InstructionByteCount"]], 16);
    const code = CONTEXT["MemoryAccess.InstructionBytes"];
    for (let i = 0; i < count; i++) this.code[i] = context[code + i];
    if (count === 0 || !instruction.decode(this.code, count, bits)) {
      // The platform fetches nothing where it has to walk page tables first, or too little at a page's end.
      count = this.readCode();
      if (!instruction.decode(this.code, count, bits)) {
        return this.fail("the guest reached device memory with an instruction not known here");
      }
    }
    if (instruction.usesVectors && this.vectors.get() < 0) return this.fail("the platform did not give XMM registers");
    this.measureSplit();
    return this.stepInstruction();
  }

  /** Instruction bytes at CS:RIP into `code`; how many there are. */
  private readCode(): number {
    const { words } = this;
    const low = words[CONTEXT_RIP];
    const base = this.long ? 0 : words[CS_BASE];
    const sum = (low + base) | 0;
    const high = this.long ? words[CONTEXT_RIP + 1] : 0;
    const inPage = 0x1000 - (sum & 0xfff);
    const first = Math.min(inPage, MAX_INSTRUCTION);
    if (!this.memory.read(sum, high, first, this.code)) return 0;
    if (first === MAX_INSTRUCTION) return first;
    const next = (sum + first) | 0;
    const rest = new Uint8Array(MAX_INSTRUCTION - first);
    if (!this.memory.read(next, next === 0 ? high + 1 : high, rest.length, rest)) return first;
    this.code.set(rest, first);
    return MAX_INSTRUCTION;
  }

  /**
   * An access may cross from one page into another, and only one of them be device memory: `split` is then the bytes in
   * the first page.
   */
  private measureSplit(): void {
    const { instruction } = this;
    const within = instruction.linearLow & 0xfff;
    this.split = within + instruction.size > 0x1000 ? 0x1000 - within : 0;
  }

  /** After the machine has carried out an access. */
  private resumeInstruction(): number {
    if (this.split !== 0) {
      const reason = this.afterPiece();
      if (reason !== AGAIN) return reason;
    }
    return this.stepInstruction();
  }

  private stepInstruction(): number {
    const { instruction, registers } = this;
    switch (instruction.next()) {
      case Step.READ:
        if (this.split !== 0) return this.firstPiece(Exit.MMIO_READ);
        return this.leaveForMemory(Exit.MMIO_READ, instruction.offset, instruction.size, 0);
      case Step.WRITE:
        if (this.split !== 0) return this.firstPiece(Exit.MMIO_WRITE);
        return this.leaveForMemory(Exit.MMIO_WRITE, instruction.offset, instruction.size, 0);
      case Step.PAGE_FAULT:
        return this.memoryFault();
      case Step.REFUSED:
        return this.fail("the guest copied from device memory to device memory in one instruction");
    }
    if ((this.words[EXECUTION] & INTERRUPT_SHADOW) !== 0) this.clearShadow();
    const result = registers.set(CHANGED);
    if (result < 0) return this.fail(`the platform refused the registers: ${resultName(result)}`);
    if (instruction.xmmChanged) this.vectors.set(16);
    return AGAIN;
  }

  private leaveForMemory(reason: ExitReason, offset: number, size: number, dataOffset: number): number {
    this.address[0] = this.fault[0] + offset;
    this.size = size;
    this.dataOffset = dataOffset;
    this.pending = Pending.INSTRUCTION;
    return reason;
  }

  // Pieces of an access across a page's end. The data is one run in `bytes`; each side is RAM or a device.

  private firstPiece(reason: ExitReason): number {
    const { instruction, split, memory } = this;
    this.pieceReason = reason;
    this.pieceOffset = 0;
    // The fault in the first page: that is the device's side. Else it is RAM, and the fault in the second.
    if ((this.fault[0] % 0x1000) !== 0) return this.leaveForMemory(reason, 0, split, 0);
    const { linearLow: low, linearHigh: high } = instruction;
    const done = reason === Exit.MMIO_READ
      ? memory.read(low, high, split, this.bytes)
      : memory.write(low, high, split, this.bytes);
    if (!done) return this.memoryFault();
    this.pieceOffset = split;
    return this.leaveForMemory(reason, 0, instruction.size - split, split);
  }

  /** The first piece was a device's: what is left lies in the next page. */
  private afterPiece(): number {
    if (this.pieceOffset !== 0) return AGAIN;
    const { instruction, split, memory, pieceReason: reason } = this;
    this.pieceOffset = split;
    const low = (instruction.linearLow + split) | 0;
    const high = low === 0 ? (instruction.linearHigh + 1) | 0 : instruction.linearHigh;
    const rest = instruction.size - split;
    const bytes = this.bytes.subarray(split, instruction.size);
    if (reason === Exit.MMIO_READ ? memory.read(low, high, rest, bytes) : memory.write(low, high, rest, bytes)) {
      return AGAIN;
    }
    if (!memory.device) return this.memoryFault();
    this.fault[0] = memory.guestAddress;
    return this.leaveForMemory(reason, 0, rest, split);
  }

  // Without the platform's APIC: the machine's is asked, and a halt is slept out here.

  private runWithController(controller: LocalInterruptController): ExitReason {
    const { words } = this;
    for (;;) {
      this.takeEvents(controller);
      if (this.halted || this.waitsForStartup) {
        if (this.takeKick()) return Exit.INTERRUPTED;
        if (sleepHalted(controller)) this.halted = false;
        continue;
      }
      if (this.ready && controller.poll()) {
        const vector = controller.acknowledge();
        if (vector >= 0) this.interrupt(PendingType.Interrupt, vector);
      }
      if (controller.poll() !== this.windowAsked) this.askForWindow(!this.windowAsked);
      const priority = controller.taskPriority();
      if (priority !== this.taskPriority) {
        this.taskPriority = priority;
        this.cr8.words[0] = priority;
        this.cr8.set(1);
      }
      const reason = this.enter();
      const execution = words[EXECUTION];
      this.ready = (words[CONTEXT_RFLAGS] & INTERRUPT_FLAG) !== 0 &&
        (execution & (INTERRUPT_SHADOW | INTERRUPTION_PENDING)) === 0;
      const newPriority = (execution >> 20) & 15;
      if (newPriority !== this.taskPriority) {
        this.taskPriority = newPriority;
        controller.setTaskPriority(newPriority);
      }
      if (reason === Exit.HALT) {
        // With interrupts off nothing but the machine ends it.
        if ((words[CONTEXT_RFLAGS] & INTERRUPT_FLAG) === 0) return Exit.HALT;
        this.halted = true;
        this.ready = true;
      } else if (reason >= 0) return reason as ExitReason;
    }
  }

  /** WHV_X64_PENDING_INTERRUPTION_REGISTER. */
  private interrupt(type: number, vector: number): void {
    this.interruption.words[0] = 1 | type << 1 | vector << 16;
    this.interruption.words[1] = 0;
    this.interruption.set(1);
    this.ready = false;
  }

  private askForWindow(on: boolean): void {
    this.windowAsked = on;
    // WHV_X64_DELIVERABILITY_NOTIFICATIONS_REGISTER.InterruptNotification, of any priority.
    this.window.words[0] = on ? 2 : 0;
    this.window.set(1);
  }

  /** Whether the vCPU can take an interrupt in this state. */
  private loadReadiness(state: ArrayBuffer): void {
    const view = new DataView(state);
    this.ready = (view.getUint32(X64.RFLAGS, true) & INTERRUPT_FLAG) !== 0 &&
      view.getUint8(X64.INTERRUPT_SHADOW) === 0 &&
      view.getUint8(X64.INTERRUPT_INJECTED) === 0 && view.getUint8(X64.EXCEPTION_PENDING) === 0;
    this.taskPriority = view.getUint8(X64.CR8) & 15;
  }

  private takeEvents(controller: LocalInterruptController): void {
    if (!controller.poll()) return;
    const events = controller.takeEvents();
    if (events & ApicEvent.INIT) {
      this.mover.set(this.powerOn!);
      this.loadReadiness(this.powerOn!);
      this.waitsForStartup = this.index > 0;
      this.halted = false;
    }
    if (events & ApicEvent.STARTUP && this.waitsForStartup) {
      const state = startedState(this.powerOn!, controller.startupVector);
      this.mover.set(state);
      this.loadReadiness(state);
      this.waitsForStartup = false;
    }
    if (events & ApicEvent.NMI) {
      this.interrupt(PendingType.Nmi, 2);
      this.halted = false;
    }
  }
}

/** Stands for a segment base that is in `linear` already, among indices of the exit context. */
const FETCHED_BASE = -1;

/** words[at] = low:high + delta in `bits`; the bits above stay in 16-bit addressing and are cleared in 32-bit. */
function addTo(words: Int32Array, at: number, low: number, high: number, delta: number, bits: number): void {
  const sum = (low + delta) | 0;
  if (bits === 16) {
    words[at] = (low & ~0xffff) | (sum & 0xffff);
    words[at + 1] = high;
    return;
  }
  words[at] = sum;
  const carry = delta >= 0 ? (sum >>> 0 < low >>> 0 ? 1 : 0) : sum >>> 0 > low >>> 0 ? -1 : 0;
  words[at + 1] = bits === 64 ? (high + carry) | 0 : 0;
}
