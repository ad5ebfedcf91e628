/** One x86-64 vCPU of KVM. */
import {
  ApicEvent,
  Exit,
  type ExitReason,
  type LocalInterruptController,
  type Vcpu,
  type VcpuFailure,
} from "../../core/hypervisor.ts";
import { X64, X64_STATE_BYTES } from "../../core/x64_state.ts";
import { failureRegisters } from "../x64/failure_registers.ts";
import { sleepHalted, startedState } from "../x64/local_apic_events.ts";
import { C, check, Errno, errno, Kvm, KvmStruct, libc, systemError } from "./abi.ts";
import type { KvmPartition } from "./partition.ts";
import { forget, handleKicks, viewOf } from "./shared_state.ts";
import { KvmX64, KvmX64Struct } from "./x64_abi.ts";
import { KvmX64Debug } from "./x64_debug.ts";
import { StateMover } from "./x64_state.ts";

const RUN = { ...KvmStruct.kvm_run, ...KvmX64Struct.kvm_run };
const KVM_RUN = Kvm.RUN;
const { EXIT_IO, EXIT_IO_OUT, EXIT_MMIO } = Kvm;
const IMMEDIATE_EXIT = RUN.immediate_exit;
const TWO_32 = 0x1_0000_0000;
// Indices of fields of struct kvm_run as 32-bit words.
const EXIT_REASON = RUN.exit_reason / 4;
const IO_COUNT = RUN["io.count"] / 4;
const IO_DATA_OFFSET = RUN["io.data_offset"] / 4;
const MMIO_ADDRESS = RUN["mmio.phys_addr"] / 4;
const MMIO_LENGTH = RUN["mmio.len"] / 4;
const MSR_INDEX = RUN["msr.index"] / 4;
// Direction and size, bytes, and port, 16 bits, in one word.
const IO = RUN["io.direction"] / 4;
const MMIO_DATA = RUN["mmio.data"];
const MMIO_IS_WRITE = RUN["mmio.is_write"];
const MSR_ERROR = RUN["msr.error"];
const MSR_DATA = RUN["msr.data"];
/** Exits that are completed by the next KVM_RUN. */
const OPEN_EXITS: ReadonlySet<number> = new Set([
  Kvm.EXIT_IO,
  Kvm.EXIT_MMIO,
  Kvm.EXIT_HYPERCALL,
  Kvm.EXIT_X86_RDMSR,
  Kvm.EXIT_X86_WRMSR,
]);
/** One instruction touches at most this many pieces of 8 bytes: FXSAVE's and XSAVE's areas go in pieces, too. */
const MAX_PIECES = 1024;
/** What an internal step returns when there is nothing for the machine to answer. */
const AGAIN = -1;

/** A vCPU on the thread that made it. */
export class KvmX64Vcpu implements Vcpu {
  readonly index: number;
  port = 0;
  size = 0;
  count = 0;
  readonly address = new Float64Array(1);
  readonly bytes: Uint8Array;
  readonly view: DataView;
  dataOffset = 0;
  msr = 0;
  msrFault = 0;
  readonly debug: KvmX64Debug;

  private readonly partition: KvmPartition;
  private readonly fd: number;
  private readonly ioctl: (fd: number, request: number, argument: number) => number;
  private readonly runPage: number;
  private readonly runBuffer: ArrayBuffer;
  private readonly words: Int32Array;
  /** One KVM_RUN: an exit reason, or {@link AGAIN}. */
  private readonly enter: () => number;
  private readonly mover: StateMover;
  private msrPending = false;
  /** The debugger steps over a breakpoint's instruction. */
  private passing = false;
  private reason = "";
  private closed = false;

  // Only without KVM's interrupt controllers.
  private controller: LocalInterruptController | null = null;
  private halted = false;
  private waitsForStartup: boolean;
  private readonly vector = new Uint32Array(1);
  private powerOn: ArrayBuffer | null = null;

  constructor(
    partition: KvmPartition,
    index: number,
    cpuid: Uint32Array<ArrayBuffer>,
    msrIndices: readonly number[],
  ) {
    const { ioctl, ioctlBuffer, mmap, gettid } = libc();
    this.partition = partition;
    this.index = index;
    this.ioctl = ioctl;
    this.fd = check(ioctl(partition.vmFd, Kvm.CREATE_VCPU, index), `making vCPU ${index}`);
    const { localApic } = partition.controllers;
    this.waitsForStartup = !localApic && index > 0;
    const runBytes = check(ioctl(partition.kvmFd, Kvm.GET_VCPU_MMAP_SIZE, 0), "asking for the size of kvm_run");
    this.runPage = Number(mmap(0n, BigInt(runBytes), C.PROT_READ | C.PROT_WRITE, C.MAP_SHARED, this.fd, 0n));
    if (this.runPage > 2 ** 56) {
      const code = errno();
      libc().close(this.fd);
      throw systemError(code, "mapping kvm_run");
    }
    this.runBuffer = viewOf(this.runPage, runBytes);
    this.bytes = new Uint8Array(this.runBuffer);
    this.view = new DataView(this.runBuffer);
    this.words = new Int32Array(this.runBuffer);
    this.enter = this.entering(new Uint32Array(this.runBuffer));
    try {
      check(ioctlBuffer(this.fd, KvmX64.SET_CPUID2, cpuid), "setting CPUID");
      this.setFastStrings();
      this.mover = new StateMover(
        this.fd,
        localApic,
        partition.extension(KvmX64.CAP_SREGS2) > 0,
        msrIndices,
      );
      handleKicks();
    } catch (error) {
      libc().munmap(BigInt(this.runPage), BigInt(runBytes));
      libc().close(this.fd);
      throw error;
    }
    this.debug = new KvmX64Debug(this.fd);
    if (partition.shared.closing) this.bytes[IMMEDIATE_EXIT] = 1;
    partition.shared.openVcpu(index, gettid(), this.runPage);
  }

  run(): ExitReason {
    if (this.msrPending) this.answerMsr();
    if (this.controller !== null) return this.runWithController(this.controller);
    let reason = this.enter();
    while (reason < 0) reason = this.enter();
    return reason as ExitReason;
  }

  attachLocalApic(controller: LocalInterruptController): void {
    if (this.partition.controllers.localApic) throw new Error("this partition has local APICs of its own");
    this.controller = controller;
    this.powerOn = new ArrayBuffer(X64_STATE_BYTES);
    this.mover.get(this.powerOn);
  }

  getState(state: ArrayBuffer): void {
    this.completeExit();
    this.mover.get(state);
    if (this.partition.controllers.localApic) return;
    new DataView(state).setUint32(X64.ACTIVITY, this.waitsForStartup ? 2 : this.halted ? 1 : 0, true);
  }

  setState(state: ArrayBuffer): void {
    this.completeExit();
    this.mover.set(state);
    const activity = new DataView(state).getUint32(X64.ACTIVITY, true);
    this.halted = activity === 1;
    this.waitsForStartup = activity === 2;
  }

  failure(): VcpuFailure {
    const state = new ArrayBuffer(X64_STATE_BYTES);
    let registers: Record<string, string> = {};
    try {
      this.getState(state);
      registers = failureRegisters(state);
    } catch {
      // A machine that is gone has no registers; the reason still stands.
    }
    return { reason: this.reason || "the vCPU has not failed", registers, instruction: this.instructionBytes(state) };
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.partition.shared.closeVcpu(this.index);
    const size = this.runBuffer.byteLength;
    forget(this.runBuffer);
    libc().munmap(BigInt(this.runPage), BigInt(size));
    libc().close(this.fd);
  }

  /**
   * Makes {@link enter}. What it closes over is constant to V8 where the fields of an object are not: addresses of the
   * views and the descriptor become part of the code.
   */
  private entering(doubleWords: Uint32Array): () => number {
    const { fd, ioctl, words, bytes, address } = this;
    return () => {
      if (ioctl(fd, KVM_RUN, 0) !== 0) return this.notEntered();
      const exit = words[EXIT_REASON];
      if (exit === EXIT_IO) {
        const io = words[IO];
        this.size = io >> 8 & 0xff;
        this.port = io >>> 16;
        this.count = words[IO_COUNT];
        this.dataOffset = words[IO_DATA_OFFSET];
        return (io & 0xff) === EXIT_IO_OUT ? Exit.IO_WRITE : Exit.IO_READ;
      }
      if (exit === EXIT_MMIO) {
        address[0] = doubleWords[MMIO_ADDRESS] + doubleWords[MMIO_ADDRESS + 1] * TWO_32;
        this.size = words[MMIO_LENGTH];
        this.dataOffset = MMIO_DATA;
        return bytes[MMIO_IS_WRITE] !== 0 ? Exit.MMIO_WRITE : Exit.MMIO_READ;
      }
      return this.decode(exit);
    };
  }

  /** Every exit but the two that devices answer. */
  private decode(exit: number): number {
    switch (exit) {
      case Kvm.EXIT_X86_RDMSR:
        return this.leaveForMsr(Exit.MSR_READ);
      case Kvm.EXIT_X86_WRMSR:
        return this.leaveForMsr(Exit.MSR_WRITE);
      case Kvm.EXIT_HLT:
        return Exit.HALT;
      case Kvm.EXIT_INTR:
        return Exit.INTERRUPTED;
      case Kvm.EXIT_IRQ_WINDOW_OPEN:
      case Kvm.EXIT_SET_TPR:
        return AGAIN;
      case Kvm.EXIT_SHUTDOWN:
        return Exit.SHUTDOWN;
      case Kvm.EXIT_HYPERCALL:
        return Exit.HYPERCALL;
      case Kvm.EXIT_DEBUG:
        this.address[0] = this.view.getUint32(RUN["debug.arch.pc"], true) +
          this.view.getUint32(RUN["debug.arch.pc"] + 4, true) * TWO_32;
        return this.leaveForDebug();
      case Kvm.EXIT_SYSTEM_EVENT:
        return this.systemEvent();
      default:
        return this.fail();
    }
  }

  /** KVM_RUN returned -1. */
  private notEntered(): number {
    const code = errno();
    if (code === Errno.EINTR) {
      this.consumeKick();
      return Exit.INTERRUPTED;
    }
    // A vCPU that waited for SIPI was woken.
    if (code === Errno.EAGAIN) return AGAIN;
    if (this.partition.shared.closing) return Exit.INTERRUPTED;
    this.reason = systemError(code, "KVM could not run the guest").message;
    if (code === Errno.EFAULT) this.reason += " (it touched memory that the host could not provide)";
    return Exit.FAILED;
  }

  /**
   * A kick after this sets the flag anew, and the next KVM_RUN returns at once; one before it is answered by this exit.
   * Whoever kicks and sees the flag set does no more: so what he did before, be it an interrupt request or to close the
   * partition, must not be looked for before the flag is seen to be 0, which takes more than a plain store. While the
   * partition closes the flag stays set, and every later run() returns.
   */
  private consumeKick(): void {
    Atomics.store(this.bytes, IMMEDIATE_EXIT, 0);
    if (this.partition.shared.closing) this.bytes[IMMEDIATE_EXIT] = 1;
  }

  private leaveForMsr(reason: ExitReason): ExitReason {
    this.msr = this.words[MSR_INDEX];
    this.dataOffset = MSR_DATA;
    this.size = 8;
    this.msrFault = 0;
    this.msrPending = true;
    return reason;
  }

  private leaveForDebug(): number {
    const address = this.address[0];
    if (this.passing && !this.debug.passed(address)) {
      this.passing = false;
      return AGAIN;
    }
    this.passing = this.debug.passBreakpoint(address);
    return Exit.DEBUG;
  }

  private answerMsr(): void {
    this.bytes[MSR_ERROR] = this.msrFault;
    this.msrPending = false;
  }

  /**
   * Lets KVM finish what the last exit began, without entering the guest. Until then the state is that of the middle of
   * an instruction, and the next KVM_RUN would finish it over whatever state was set (Linux, Documentation/virt/kvm/api.rst,
   * "The kvm_run structure": re-enter with immediate_exit). What takes several exits is answered with what is there.
   */
  private completeExit(): void {
    if (this.msrPending) this.answerMsr();
    const { bytes, words } = this;
    this.partition.shared.withoutKicks(this.index, () => {
      const kicked = bytes[IMMEDIATE_EXIT];
      bytes[IMMEDIATE_EXIT] = 1;
      for (let left = MAX_PIECES; left > 0 && OPEN_EXITS.has(words[EXIT_REASON]); left--) {
        words[EXIT_REASON] = Kvm.EXIT_INTR;
        if (this.ioctl(this.fd, KVM_RUN, 0) !== 0) words[EXIT_REASON] = Kvm.EXIT_INTR;
      }
      bytes[IMMEDIATE_EXIT] = kicked;
    });
  }

  private systemEvent(): ExitReason {
    const type = this.words[RUN["system_event.type"] / 4];
    if (type === Kvm.SYSTEM_EVENT_SHUTDOWN) return Exit.SHUTDOWN;
    if (type === Kvm.SYSTEM_EVENT_RESET) return Exit.RESET;
    this.reason = type === Kvm.SYSTEM_EVENT_CRASH
      ? "the guest told the platform that it crashed"
      : `the guest raised system event ${type}, which is not known here`;
    return Exit.FAILED;
  }

  private fail(): ExitReason {
    const exit = this.words[EXIT_REASON];
    const hex = (offset: number) => `0x${this.view.getBigUint64(offset, true).toString(16)}`;
    if (exit === Kvm.EXIT_INTERNAL_ERROR) {
      const error = this.words[RUN["internal.suberror"] / 4];
      this.reason = INTERNAL_ERRORS[error] ?? `KVM gave up with internal error ${error}`;
      if (this.partition.restricted) {
        this.reason += " (this is KVM's PVM module, which runs only kernels made for it)";
      }
    } else if (exit === Kvm.EXIT_FAIL_ENTRY) {
      const code = hex(RUN["fail_entry.hardware_entry_failure_reason"]);
      this.reason = `the CPU refused to enter the guest: hardware reason ${code} on host CPU ` +
        this.words[RUN["fail_entry.cpu"] / 4];
    } else if (exit === Kvm.EXIT_UNKNOWN) {
      this.reason = `the guest left for a hardware reason KVM does not know: ${hex(RUN["hw.hardware_exit_reason"])}`;
    } else {
      this.reason = `KVM left the guest with exit ${exit}, which is not known here`;
    }
    return Exit.FAILED;
  }

  private instructionBytes(state: ArrayBuffer): Uint8Array {
    const { words, bytes } = this;
    if (
      words[EXIT_REASON] === Kvm.EXIT_INTERNAL_ERROR &&
      words[RUN["internal.suberror"] / 4] === Kvm.INTERNAL_ERROR_EMULATION && words[RUN["internal.ndata"] / 4] >= 3 &&
      words[RUN["emulation_failure.flags"] / 4] & Kvm.INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES
    ) {
      const at = RUN["emulation_failure.insn_bytes"];
      return bytes.slice(at, at + Math.min(bytes[RUN["emulation_failure.insn_size"]], 15));
    }
    return this.readCode(new DataView(state));
  }

  /** Up to 15 bytes at the instruction pointer, out of guest memory. */
  private readCode(state: DataView): Uint8Array {
    const codeSegment = X64.SEGMENTS + 16;
    const struct = new BigUint64Array(KvmX64Struct.kvm_translation.sizeof / 8);
    struct[0] = state.getBigUint64(codeSegment, true) + state.getBigUint64(X64.RIP, true);
    if (libc().ioctlBuffer(this.fd, KvmX64.TRANSLATE, struct) < 0 || (struct[2] & 0xffn) === 0n) {
      return new Uint8Array(0);
    }
    return this.partition.readGuest(Number(struct[1]), Math.min(15, 4096 - Number(struct[1] & 0xfffn)));
  }

  /** IA32_MISC_ENABLE bit 0: string instructions by the line (SDM vol. 4, table 2-2). Firmware sets it on a PC. */
  private setFastStrings(): void {
    const list = new Uint32Array(6);
    list.set([1, 0, 0x1a0, 0, 1, 0]);
    libc().ioctlBuffer(this.fd, KvmX64.SET_MSRS, list);
  }

  // Without KVM's interrupt controllers: the machine's local APIC is asked, and a halt is slept out here.

  private runWithController(controller: LocalInterruptController): ExitReason {
    const { bytes, view } = this;
    for (;;) {
      this.takeEvents(controller);
      if (this.halted || this.waitsForStartup) {
        if (bytes[IMMEDIATE_EXIT] !== 0) {
          this.consumeKick();
          return Exit.INTERRUPTED;
        }
        if (sleepHalted(controller)) this.halted = false;
        continue;
      }
      if (controller.poll() && bytes[RUN.ready_for_interrupt_injection] !== 0) {
        const vector = controller.acknowledge();
        if (vector >= 0) {
          this.vector[0] = vector;
          libc().ioctlBuffer(this.fd, KvmX64.INTERRUPT, this.vector);
          bytes[RUN.ready_for_interrupt_injection] = 0;
        }
      }
      bytes[RUN.request_interrupt_window] = controller.poll() ? 1 : 0;
      view.setUint32(RUN.cr8, controller.taskPriority(), true);
      const reason = this.enter();
      controller.setTaskPriority(view.getUint32(RUN.cr8, true));
      if (reason === Exit.HALT) {
        // With interrupts off nothing but the machine ends it.
        if (bytes[RUN.if_flag] === 0) return Exit.HALT;
        this.halted = true;
      } else if (reason >= 0) return reason as ExitReason;
    }
  }

  private takeEvents(controller: LocalInterruptController): void {
    if (!controller.poll()) return;
    const events = controller.takeEvents();
    if (events & ApicEvent.INIT) {
      this.mover.set(this.powerOn!);
      this.waitsForStartup = this.index > 0;
      this.halted = false;
    }
    if (events & ApicEvent.STARTUP && this.waitsForStartup) {
      const state = startedState(this.powerOn!, controller.startupVector);
      this.mover.set(state);
      this.waitsForStartup = false;
    }
    if (events & ApicEvent.NMI) {
      this.ioctl(this.fd, KvmX64.NMI, 0);
      this.halted = false;
    }
  }
}

const INTERNAL_ERRORS: Record<number, string> = {
  [Kvm.INTERNAL_ERROR_EMULATION]: "KVM could not emulate an instruction of the guest",
  [Kvm.INTERNAL_ERROR_SIMUL_EX]: "the guest raised exceptions that KVM could not deliver together",
  [Kvm.INTERNAL_ERROR_DELIVERY_EV]: "the guest faulted while KVM was delivering an event to it",
  [Kvm.INTERNAL_ERROR_UNEXPECTED_EXIT_REASON]: "the guest left for a hardware reason KVM did not expect",
};
