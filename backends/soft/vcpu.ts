/** The software CPU's vCPU: runs generated code, and answers what that cannot. */
import { TSC_FREQUENCY } from "../../core/clock.ts";
import {
  ApicEvent,
  Exit,
  type ExitReason,
  type LocalInterruptController,
  type Vcpu,
  type VcpuDebug,
  type VcpuFailure,
} from "../../core/hypervisor.ts";
import { GPR_NAMES, SEGMENT_BYTES, X64, X64_STATE_VERSION } from "../../core/x64_state.ts";
import { Core } from "./core.ts";
import { decode, DecodeFailure, MAXIMUM_LENGTH } from "./decode.ts";
import { modeOf } from "./interpreter/assemble.ts";
import { cpuid, type CpuidContext } from "./cpuid.ts";
import { External, Leave } from "./cpu/external.ts";
import { Source } from "./cpu/interrupts.ts";
import { CR4, EFER } from "./cpu/mmu.ts";
import { Flag, FlagKind } from "./flags.ts";
import { type Layout, type Memories, Reg, Seg, Segment, Shared, State } from "./layout.ts";
import type { Mailbox } from "./mailbox.ts";
import { KEY_LIMITED, KEY_SINGLE } from "./mode_key.ts";
import { loadMxcsr } from "./sse/float_functions.ts";
import { readMsr, SPEC_CTRL, SPEC_CTRL_BITS, TSC_ADJUST, writeMsr } from "./msr.ts";

/** Instructions between two looks at timers and requests, where no test wants others. */
const BUDGET = 100_000;
// The upper word of MODE_KEY, and bits in it: no BigInt is made between two runs.
const KEY_UPPER = (State.MODE_KEY >> 2) + 1;
const LIMITED = Number(KEY_LIMITED >> 32n);
const SINGLE = Number(KEY_SINGLE >> 32n);
/** Milliseconds a halted vCPU sleeps at most before it looks around. */
const NAP = 1000;
/** Milliseconds of sleep ahead that leave time to tidy up. */
const QUIET = 200;

/** TSC ticks of a second. */
const SECOND = BigInt(TSC_FREQUENCY);

const Attention = { HALT: 1, WINDOW: 2, REQUEST: 4 } as const;
/** As KVM_X86_SHADOW_INT_*. */
const Shadow = { NONE: 0, MOV_SS: 1, STI: 2 } as const;
/** Bits of DR6 and DR7 (SDM vol. 3, 18.2.3 and 18.2.4). */
const Dr6 = { BS: 0x4000 } as const;
const Dr7 = { ENABLED: 0xff, GD: 0x2000 } as const;
/** DELIVERED after a debug exception. */
const DEBUG_DELIVERED = 2;
const Activity = { RUNNING: 0, HALTED: 1, WAIT_FOR_SIPI: 2 } as const;

export class SoftVcpu implements Vcpu {
  readonly index: number;
  port = 0;
  size = 0;
  count = 1;
  readonly address = new Float64Array(1);
  readonly bytes: Uint8Array;
  readonly view: DataView;
  dataOffset = 0;
  msr = 0;
  msrFault = 0;
  readonly debug: VcpuDebug = {
    singleStep: (on) => {
      this.stepping = on;
    },
    breakpoints: (addresses) => {
      if (addresses.length > 4) throw new RangeError("at most 4 breakpoints");
      this.breaks = addresses.map((address) => BigInt.asUintN(64, address));
      this.stoppedAt = -1n;
    },
  };
  private stepping = false;
  private breaks: bigint[] = [];
  /** The breakpoint that {@link run} last stopped at: its instruction runs next. */
  private stoppedAt = -1n;

  readonly core: Core;
  private readonly state: DataView;
  private readonly words: Int32Array;
  private readonly mailbox: Mailbox;
  private readonly cpus: number;
  /** Milliseconds from the partition's making to this Worker's time origin. */
  private readonly clockOrigin: number;
  private readonly budget: number;
  private readonly flushing: boolean;
  private apic: LocalInterruptController | null = null;
  /** What the last exit waits for. */
  private pending: "nothing" | "access" | "input" | "msr" = "nothing";
  private failureReason = "";
  private readonly scratch = new Int32Array(4);
  private readonly msrValue = new Int32Array(2);
  private readonly cpuidContext: CpuidContext;

  constructor(memories: Memories, layout: Layout, index: number, mailbox: Mailbox) {
    const { buffer } = memories.own;
    this.index = index;
    this.mailbox = mailbox;
    this.cpus = layout.cpus;
    const base = layout.cpuBase(index);
    this.state = new DataView(buffer, base, State.BYTES);
    this.words = new Int32Array(buffer, base, State.BYTES / 4);
    this.bytes = new Uint8Array(buffer, base, State.BYTES);
    this.view = this.state;
    const shared = new DataView(buffer);
    this.clockOrigin = performance.timeOrigin - shared.getFloat64(Shared.EPOCH, true);
    this.budget = shared.getInt32(Shared.BUDGET, true) || BUDGET;
    this.flushing = shared.getInt32(Shared.FLUSH, true) !== 0;
    this.cpuidContext = { index, cpus: layout.cpus, osxsave: false, x2apic: false };
    this.core = new Core(memories, layout, index, {
      cpuid: () => this.cpuid(),
      access_msr: (number, write) => this.accessMsr(number, write),
      clock: () => this.clock(),
      task_priority: (value) => this.taskPriority(value),
      random_bits: () => {
        crypto.getRandomValues(this.random);
        this.state.setInt32(State.SCRATCH, this.random[0], true);
        this.state.setInt32(State.SCRATCH + 4, this.random[1], true);
      },
    });
    this.core.onCodePage = () => mailbox.askOthersToFlush(index, () => this.serveMailbox());
    this.core.onCodeWritten = (page) => mailbox.tellCodeWritten(index, page);
    this.reset();
    if (index > 0) this.state.setInt32(State.ACTIVITY, Activity.WAIT_FOR_SIPI, true);
  }
  private readonly random = new Int32Array(2);

  /** Ticks of the TSC since the partition was made, before TSC_OFFSET. */
  private clock(): number {
    return (performance.now() + this.clockOrigin) * (TSC_FREQUENCY / 1000);
  }

  attachLocalApic(controller: LocalInterruptController): void {
    this.apic = controller;
    this.cpuidContext.x2apic = true;
  }

  run(): ExitReason {
    const { mailbox, index } = this;
    mailbox.enter(index);
    try {
      let reason = this.finishPending();
      if (reason < 0) reason = this.runUntilExit();
      return reason as ExitReason;
    } finally {
      mailbox.leave(index);
    }
  }

  /** Completes the last exit: its instruction runs again, alone, with the answer in the log. -1 when it is complete. */
  private finishPending(): number {
    if (this.pending === "nothing") return -1;
    if (this.pending === "input") {
      this.finishInput();
      return -1;
    }
    const { state } = this;
    if (this.pending === "access") state.setInt32(State.LOG_FILLED, state.getInt32(State.LOG_FILLED, true) + 1, true);
    const left = this.step();
    if (left === Leave.EXTERNAL) return this.externalExit();
    this.pending = "nothing";
    state.setInt32(State.LOG_FILLED, 0, true);
    state.setInt32(State.LOG_INDEX, 0, true);
    if (left !== Leave.BUDGET) return this.exitOf(left);
    this.debugTrap();
    return this.stepping ? this.debugExit() : -1;
  }

  /** Runs one instruction, or delivers its exception, whatever asks for attention meanwhile; alone where it asks to. */
  private step(): number {
    const left = this.stepOnce();
    if (left !== Leave.ALONE) return left;
    const { state, mailbox, index } = this;
    mailbox.beginAlone(index);
    state.setInt32(State.ALONE, 1, true);
    try {
      return this.stepOnce();
    } finally {
      state.setInt32(State.ALONE, 0, true);
      mailbox.endAlone(index);
    }
  }

  private stepOnce(): number {
    const { state, words } = this;
    for (;;) {
      this.serveMailbox();
      const attention = Atomics.exchange(words, State.ATTENTION >> 2, 0);
      const shadow = state.getInt32(State.SHADOW, true);
      state.setInt32(State.SHADOW, 0, true);
      state.setInt32(State.LOG_INDEX, 0, true);
      state.setInt32(State.DELIVERED, 0, true);
      words[KEY_UPPER] |= SINGLE;
      const left = this.core.exports.run(1);
      words[KEY_UPPER] &= ~SINGLE;
      if (attention) Atomics.or(words, State.ATTENTION >> 2, attention);
      if (left === Leave.DECODE) {
        state.setInt32(State.SHADOW, shadow, true);
        this.decode(state.getBigUint64(State.MODE_KEY, true) | KEY_SINGLE);
        if (state.getInt32(State.DELIVERED, true)) return Leave.BUDGET;
      } else if (left === Leave.ATTENTION && state.getInt32(State.BUDGET, true) > 0) {
        state.setInt32(State.SHADOW, shadow, true);
      } else return left === Leave.ATTENTION ? Leave.BUDGET : left;
    }
  }

  private runUntilExit(): number {
    const { state, words, core } = this;
    for (;;) {
      this.serveMailbox();
      if (this.mailbox.takeInterrupt(this.index)) return Exit.INTERRUPTED;
      if (this.shutDown) return Exit.SHUTDOWN;
      if (state.getInt32(State.ACTIVITY, true) !== Activity.RUNNING) {
        if (!this.sleep()) return Exit.HALT;
        if (state.getInt32(State.ACTIVITY, true) !== Activity.RUNNING) continue;
      }
      Atomics.store(words, State.ATTENTION >> 2, 0);
      // Asked again after the word was cleared: a request between the two is not lost.
      if (this.mailbox.waits(this.index)) continue;
      const apic = this.apic;
      if (apic !== null) {
        // Cleared first: only an interrupt that waits for IF asks to be told when it is set.
        state.setInt32(State.INTERRUPT_WINDOW, 0, true);
        if ((apic.poll() || this.nmiWaits()) && !this.takeInterrupts(apic)) continue;
      }
      if (
        this.stepping || this.breaks.length > 0 || state.getInt32(State.RFLAGS, true) & Flag.TF ||
        state.getInt32(State.DR + 40, true) & Dr7.ENABLED || state.getInt32(State.SHADOW, true) !== 0 ||
        this.watching || this.nearLimit()
      ) {
        const reason = this.runSlowly();
        if (reason >= 0) return reason;
        continue;
      }
      core.jit?.poll();
      if (this.flushing) core.exports.flush_tlb();
      const left = core.exports.run(this.budget);
      if (left === Leave.DECODE) this.decode(state.getBigUint64(State.MODE_KEY, true));
      else if (left === Leave.HOT) core.hot();
      else if (left === Leave.ALONE || left === Leave.LIMIT) {
        const reason = this.runSlowly();
        if (reason >= 0) return reason;
      } else if (left > Leave.ATTENTION) {
        const reason = this.exitOf(left);
        if (left === Leave.EXTERNAL) this.finishPort();
        if (reason >= 0) return reason;
      }
    }
  }

  /**
   * An IN or OUT that left is over as far as the CPU goes, but for the register that IN sets: it does not run again, as
   * other instructions do. Not where a single step or the like would be due behind it.
   */
  private finishPort(): void {
    const { words } = this;
    if (words[State.PORT_ONLY >> 2] === 0) return;
    words[State.PORT_ONLY >> 2] = 0;
    words[State.RIP >> 2] = words[State.PORT_NEXT >> 2];
    words[(State.RIP >> 2) + 1] = words[(State.PORT_NEXT >> 2) + 1];
    this.pending = this.state.getInt32(State.LOG + 12, true) === External.PORT_READ ? "input" : "nothing";
  }

  /** Puts what the machine answered into AL, AX or EAX. */
  private finishInput(): void {
    const { state, words } = this;
    const value = words[(State.LOG + 16) >> 2];
    const at = State.GPR + Reg.AX * 8;
    if (this.size === 1) state.setUint8(at, value);
    else if (this.size === 2) state.setUint16(at, value, true);
    else {
      words[at >> 2] = value;
      words[(at >> 2) + 1] = 0;
    }
    this.pending = "nothing";
  }

  /**
   * One instruction under TF, single step, breakpoints, in the shadow of STI or MOV SS, near the code segment's limit, or
   * with the other vCPUs stopped; an exit, or -1.
   */
  private runSlowly(): number {
    const { state } = this;
    const rip = this.linearRip();
    if (this.breaks.includes(rip) && this.stoppedAt !== rip) {
      this.stoppedAt = rip;
      return this.debugExit();
    }
    this.stoppedAt = -1n;
    this.armWatch();
    const flags = state.getInt32(State.RFLAGS, true);
    // MOV SS holds instruction breakpoints back as well (SDM vol. 3, 6.8.3).
    const hit = flags & Flag.RF || state.getInt32(State.SHADOW, true) === Shadow.MOV_SS
      ? 0
      : this.breakpointsAt(Number(rip));
    if (hit !== 0) {
      this.debugException(hit);
      return -1;
    }
    if (this.crossesLimit()) {
      if (this.core.exports.deliver(13, 0, Source.EXCEPTION) !== 0) this.shutDown = true;
      return -1;
    }
    state.setInt32(State.RFLAGS, flags & ~Flag.RF, true);
    this.trap = (flags & Flag.TF) !== 0;
    this.privilege = state.getInt32(State.CPL, true);
    const left = this.step();
    if (left !== Leave.BUDGET) return this.exitOf(left);
    this.debugTrap();
    return this.stepping ? this.debugExit() : -1;
  }
  /** Whether TF was set, and CPL, when the instruction began. */
  private trap = false;
  private privilege = 0;
  /** DR6's bits of data breakpoints that MOV SS holds back. */
  private heldBack = 0;
  /** Data breakpoints are armed. */
  private watching = false;

  /** Whether the page of RIP, and what an instruction in it may reach, lies within the code segment's limit. */
  private nearLimit(): boolean {
    const { state } = this;
    if ((this.words[KEY_UPPER] & LIMITED) === 0) return false;
    const rip = state.getUint32(State.RIP, true);
    const page = rip + (4095 - Number(this.linearRip() & 4095n));
    return page + MAXIMUM_LENGTH > state.getUint32(State.SEGMENTS + Seg.CS * Segment.BYTES + Segment.LIMIT, true);
  }
  /** Whether the instruction at RIP ends beyond the limit. */
  private crossesLimit(): boolean {
    const { state } = this;
    const limit = state.getUint32(State.SEGMENTS + Seg.CS * Segment.BYTES + Segment.LIMIT, true);
    if (limit === 0xffff_ffff) return false;
    const mode = modeOf(state.getBigUint64(State.MODE_KEY, true));
    if (mode === 64) return false;
    const room = limit - state.getUint32(State.RIP, true) + 1;
    if (room <= 0) return true;
    if (room >= MAXIMUM_LENGTH) return false;
    const bytes = this.instructionBytes();
    return bytes.length >= room && decode(bytes, 0, room, mode) === DecodeFailure.TRUNCATED;
  }

  private nmiWaits(): boolean {
    const { state } = this;
    return state.getInt32(State.NMI_PENDING, true) !== 0 && state.getInt32(State.NMI_MASKED, true) === 0;
  }

  /** Instruction breakpoints of DR0-DR3 that stand at a linear address, as DR6's bits (SDM vol. 3, 18.2.4). */
  private breakpointsAt(rip: number): number {
    const { state } = this;
    const dr7 = state.getInt32(State.DR + 40, true);
    let hit = 0;
    for (let i = 0; i < 4; i++) {
      const enabled = (dr7 >> (2 * i)) & 3;
      const kind = (dr7 >> (16 + 4 * i)) & 3;
      if (enabled && kind === 0 && Number(state.getBigUint64(State.DR + 8 * i, true)) === rip) hit |= 1 << i;
    }
    return hit;
  }

  /** Makes accesses take the slow path, which compares them, while a breakpoint of data or ports is enabled. */
  private armWatch(): void {
    const { state } = this;
    const dr7 = state.getInt32(State.DR + 40, true);
    let data = false;
    // R/W is 01 or 11 for data, 10 for ports under CR4.DE (SDM vol. 3, 18.2.4).
    const ports = (state.getUint32(State.CR4, true) & CR4.DE) !== 0;
    for (let i = 0; i < 4; i++) {
      const kind = (dr7 >> (16 + 4 * i)) & 3;
      if ((dr7 >> (2 * i)) & 3 && (kind & 1 || (kind === 2 && ports))) data = true;
    }
    state.setInt32(State.WATCH_HITS, 0, true);
    if (data === this.watching) return;
    this.watching = data;
    state.setInt32(State.WATCH, data ? 1 : 0, true);
    this.core.exports.flush_tlb();
  }

  /** The debug exception that comes after an instruction: a single step, data breakpoints. */
  private debugTrap(): void {
    const { state } = this;
    let hit = (this.watching ? state.getInt32(State.WATCH_HITS, true) : 0) | this.heldBack;
    // Not for an instruction that faulted, nor behind one that entered the kernel and cleared TF.
    const entered = state.getInt32(State.CPL, true) !== this.privilege &&
      !(state.getInt32(State.RFLAGS, true) & Flag.TF);
    const shadowed = state.getInt32(State.SHADOW, true) === Shadow.MOV_SS;
    if (this.trap && !state.getInt32(State.DELIVERED, true) && !entered && !shadowed) hit |= Dr6.BS;
    this.trap = false;
    this.heldBack = shadowed ? hit : 0;
    if (hit === 0 || shadowed) return;
    // INT1 takes them into its own exception.
    if (state.getInt32(State.DELIVERED, true) === DEBUG_DELIVERED) {
      state.setInt32(State.DR + 32, state.getInt32(State.DR + 32, true) | hit, true);
    } else this.debugException(hit);
  }

  private debugException(hit: number): void {
    const { state } = this;
    const dr6 = State.DR + 32;
    state.setUint32(dr6, (state.getUint32(dr6, true) & ~0xf) | hit, true);
    state.setInt32(State.DR + 40, state.getInt32(State.DR + 40, true) & ~Dr7.GD, true);
    // It ends the halt of a HLT that was stepped over.
    state.setInt32(State.ACTIVITY, Activity.RUNNING, true);
    if (this.core.exports.deliver(1, -1, Source.EXCEPTION) !== 0) this.shutDown = true;
  }

  private linearRip(): bigint {
    const { state } = this;
    const base = state.getBigUint64(State.CODE_BASE, true);
    return (state.getBigUint64(State.RIP, true) + base) & state.getBigUint64(State.CODE_MASK, true);
  }

  private debugExit(): number {
    this.address[0] = Number(this.linearRip());
    return Exit.DEBUG;
  }

  /** Turns a {@link Leave} into an exit. */
  private exitOf(left: number): number {
    switch (left) {
      case Leave.EXTERNAL:
        return this.externalExit();
      case Leave.PAUSE:
        this.pending = "msr";
        return this.msrExit;
      case Leave.SHUTDOWN:
        return Exit.SHUTDOWN;
      default:
        this.failureReason = "an exception could not be delivered: its stack or tables lie in device memory";
        return Exit.FAILED;
    }
  }
  private msrExit: number = Exit.MSR_READ;
  private msrAnswered = false;

  /** Describes the access at LOG_INDEX. */
  private externalExit(): number {
    const { state } = this;
    const at = State.LOG + state.getInt32(State.LOG_INDEX, true) * State.LOG_ENTRY;
    this.pending = "access";
    this.size = state.getInt32(at + 8, true);
    this.dataOffset = at + 16;
    this.count = 1;
    const kind = state.getInt32(at + 12, true);
    if (kind >= External.PORT_READ) this.port = state.getInt32(at, true);
    else this.address[0] = state.getUint32(at, true) + state.getUint32(at + 4, true) * 2 ** 32;
    switch (kind) {
      case External.READ:
        return Exit.MMIO_READ;
      case External.WRITE:
        return Exit.MMIO_WRITE;
      case External.PORT_READ:
        return Exit.IO_READ;
      default:
        return Exit.IO_WRITE;
    }
  }

  private decode(key: bigint): void {
    const { state, core } = this;
    const physical = Number(state.getBigUint64(State.FETCH_PHYSICAL, true));
    const linear = state.getBigUint64(State.FETCH_LINEAR, true);
    const done = core.decode(physical, BigInt(physical) | key, () => {
      const next = (linear | 4095n) + 1n;
      const second = core.exports.fetch_translate(BigInt.asIntN(64, next & state.getBigUint64(State.CODE_MASK, true)));
      return state.getInt32(State.FAULT, true) ? -1 : Number(second);
    });
    if (done === "done") return;
    // Where no RAM answers, a fetch reads all ones: FF FF is undefined.
    const vector = done === "fault" ? state.getInt32(State.VECTOR, true) : 6;
    const error = done === "fault" ? state.getInt32(State.ERROR, true) : -1;
    state.setInt32(State.FAULT, 0, true);
    const failed = core.exports.deliver(vector, error, Source.EXCEPTION);
    if (failed !== 0) this.shutDown = true;
  }
  private shutDown = false;

  /** Takes what the local APIC has. False when the vCPU must be looked at anew. */
  private takeInterrupts(apic: LocalInterruptController): boolean {
    const { state } = this;
    const events = apic.takeEvents();
    if (events & ApicEvent.INIT) {
      this.reset();
      state.setInt32(State.ACTIVITY, Activity.WAIT_FOR_SIPI, true);
      return false;
    }
    if (events & ApicEvent.NMI) state.setInt32(State.NMI_PENDING, 1, true);
    if (state.getInt32(State.SHADOW, true) !== 0) return true;
    if (state.getInt32(State.NMI_PENDING, true) && !state.getInt32(State.NMI_MASKED, true)) {
      state.setInt32(State.NMI_PENDING, 0, true);
      state.setInt32(State.NMI_MASKED, 1, true);
      this.deliver(2);
      return true;
    }
    if (!(state.getInt32(State.RFLAGS, true) & Flag.IF)) {
      state.setInt32(State.INTERRUPT_WINDOW, 1, true);
      return true;
    }
    const vector = apic.acknowledge();
    if (vector >= 0) {
      this.deliver(vector);
      // Another one may wait behind it.
      state.setInt32(State.INTERRUPT_WINDOW, 1, true);
    }
    return true;
  }

  private deliver(vector: number): void {
    if (this.core.exports.deliver(vector, -1, Source.EXTERNAL) !== 0) this.shutDown = true;
  }

  /** Sleeps until something happens. False when nothing but the machine can end this halt. */
  private sleep(): boolean {
    const { state, apic } = this;
    const waiting = state.getInt32(State.ACTIVITY, true);
    const enabled = (state.getInt32(State.RFLAGS, true) & Flag.IF) !== 0;
    if (apic === null) return false;
    if (apic.poll()) {
      const events = apic.takeEvents();
      if (events & ApicEvent.INIT) {
        this.reset();
        state.setInt32(State.ACTIVITY, Activity.WAIT_FOR_SIPI, true);
      }
      if (events & ApicEvent.STARTUP && state.getInt32(State.ACTIVITY, true) === Activity.WAIT_FOR_SIPI) {
        this.startUp(apic.startupVector);
        return true;
      }
      if (events & ApicEvent.NMI) {
        state.setInt32(State.NMI_PENDING, 1, true);
        if (waiting === Activity.HALTED) state.setInt32(State.ACTIVITY, Activity.RUNNING, true);
      }
      if (waiting === Activity.HALTED && enabled) {
        state.setInt32(State.ACTIVITY, Activity.RUNNING, true);
        return true;
      }
      if (events) return true;
    }
    if (waiting === Activity.HALTED && !enabled && this.cpus === 1) return false;
    const timer = apic.timeUntilTimer();
    const time = timer < 0 ? NAP : Math.min(timer, NAP);
    this.mailbox.leave(this.index);
    // What is left of the time is not known after tidying: it is looked at again.
    const tidied = time >= QUIET && this.core.tidy(performance.now());
    // Whoever sends to the local APIC interrupts this vCPU too, so one word stands for both.
    if (time > 0 && !tidied) this.mailbox.sleep(this.index, time);
    this.mailbox.enter(this.index);
    return true;
  }

  private startUp(vector: number): void {
    const { state } = this;
    const cs = State.SEGMENTS + Seg.CS * Segment.BYTES;
    state.setInt32(cs + Segment.SELECTOR, vector << 8, true);
    state.setBigUint64(cs + Segment.BASE, BigInt(vector << 12), true);
    state.setBigUint64(State.RIP, 0n, true);
    state.setInt32(State.ACTIVITY, Activity.RUNNING, true);
    this.core.exports.update_mode();
  }

  /** Does what other vCPUs asked for. */
  private serveMailbox(): void {
    const { mailbox, index, core } = this;
    if (mailbox.aloneAsked(index)) mailbox.letAlone(index);
    if (mailbox.flushAsked(index)) {
      core.flushWrites();
      mailbox.acknowledgeFlush(index);
    }
    mailbox.takeCodeWritten(index, (page) => core.dropPage(page), () => core.dropAll());
    if (mailbox.regionsChanged(index)) core.exports.flush_tlb();
  }

  // What generated code asks.

  private cpuid(): void {
    const { state, scratch } = this;
    this.cpuidContext.osxsave = (state.getUint32(State.CR4, true) & CR4.OSXSAVE) !== 0;
    cpuid(
      state.getInt32(State.GPR + Reg.AX * 8, true),
      state.getInt32(State.GPR + Reg.CX * 8, true),
      this.cpuidContext,
      scratch,
    );
    [Reg.AX, Reg.BX, Reg.CX, Reg.DX].forEach((register, i) => {
      state.setUint32(State.GPR + register * 8, scratch[i], true);
      state.setUint32(State.GPR + register * 8 + 4, 0, true);
    });
  }

  private accessMsr(number: number, write: number): number {
    const { state, apic, msrValue } = this;
    if (this.msrAnswered) {
      this.msrAnswered = false;
      return this.msrFault ? 1 : (this.putMsr(write), 0);
    }
    const ax = State.GPR + Reg.AX * 8;
    const dx = State.GPR + Reg.DX * 8;
    const local = number === 0x1b || number === 0x6e0 || (number >= 0x800 && number < 0x900);
    if (local) {
      if (apic === null) {
        if (number !== 0x1b) return 1;
      } else if (write) {
        msrValue[0] = state.getInt32(ax, true);
        msrValue[1] = state.getInt32(dx, true);
        // End of interrupt, or a timer: another interrupt may be due.
        Atomics.or(this.words, State.ATTENTION >> 2, Attention.WINDOW);
        return apic.writeMsr(number, msrValue) ? 0 : 1;
      } else {
        if (!apic.readMsr(number, msrValue)) return 1;
        state.setBigUint64(ax, BigInt(msrValue[0] >>> 0), true);
        state.setBigUint64(dx, BigInt(msrValue[1] >>> 0), true);
        return 0;
      }
    }
    const context = { state, clock: this.clock() };
    if (write) {
      const value = (BigInt(state.getUint32(dx, true)) << 32n) | BigInt(state.getUint32(ax, true));
      const answer = writeMsr(context, number, value);
      if (answer === "fault") return 1;
      if (answer === "translation") this.core.exports.flush_tlb();
      if (answer === "translation") this.core.exports.update_mode();
      if (answer !== "unknown") return 0;
    } else {
      const value = readMsr(context, number);
      if (value !== null) {
        state.setBigUint64(ax, value & 0xffff_ffffn, true);
        state.setBigUint64(dx, value >> 32n, true);
        return 0;
      }
    }
    this.msr = number | 0;
    this.msrFault = 0;
    this.msrExit = write ? Exit.MSR_WRITE : Exit.MSR_READ;
    this.msrAnswered = true;
    this.dataOffset = State.SCRATCH;
    state.setInt32(State.SCRATCH, write ? state.getInt32(ax, true) : 0, true);
    state.setInt32(State.SCRATCH + 4, write ? state.getInt32(dx, true) : 0, true);
    return 2;
  }

  private putMsr(write: number): void {
    if (write) return;
    const { state } = this;
    state.setBigUint64(State.GPR + Reg.AX * 8, BigInt(state.getUint32(State.SCRATCH, true)), true);
    state.setBigUint64(State.GPR + Reg.DX * 8, BigInt(state.getUint32(State.SCRATCH + 4, true)), true);
  }

  private taskPriority(value: number): number {
    const { apic } = this;
    if (apic === null) return 0;
    if (value < 0) return apic.taskPriority();
    apic.setTaskPriority(value);
    Atomics.or(this.words, State.ATTENTION >> 2, Attention.WINDOW);
    return 0;
  }

  // State.

  /** The state after RESET (SDM vol. 3, table 10-1). */
  private reset(): void {
    const { state } = this;
    const cr0 = state.getBigUint64(State.CR0, true);
    this.bytes.fill(0, 0, State.ATTENTION);
    this.bytes.fill(0, State.SHADOW, State.BYTES);
    const segment = (number: number, selector: number, base: bigint, attributes: number) => {
      const at = State.SEGMENTS + number * Segment.BYTES;
      state.setInt32(at + Segment.SELECTOR, selector, true);
      state.setBigUint64(at + Segment.BASE, base, true);
      state.setUint32(at + Segment.LIMIT, 0xffff, true);
      state.setInt32(at + Segment.ATTRIBUTES, attributes, true);
    };
    for (let i = 0; i < 6; i++) segment(i, 0, 0n, 0x93);
    segment(Seg.CS, 0xf000, 0xffff_0000n, 0x9b);
    segment(Seg.LDTR, 0, 0n, 0x82);
    segment(Seg.TR, 0, 0n, 0x8b);
    state.setBigUint64(State.RIP, 0xfff0n, true);
    state.setBigUint64(State.CR0, (cr0 & 0x6000_0000n) | (cr0 === 0n ? 0x6000_0010n : 0x10n), true);
    state.setUint32(State.GDTR_LIMIT, 0xffff, true);
    state.setUint32(State.IDTR_LIMIT, 0xffff, true);
    state.setBigUint64(State.GPR + Reg.DX * 8, 0x906edn, true);
    state.setBigUint64(State.DR + 32, 0xffff_0ff0n, true);
    state.setBigUint64(State.DR + 40, 0x400n, true);
    state.setBigUint64(State.PAT, 0x0007_0406_0007_0406n, true);
    state.setBigUint64(State.MISC_ENABLE, 1n, true);
    state.setBigUint64(State.APIC_BASE, 0xfee0_0800n | (this.index === 0 ? 0x100n : 0n), true);
    state.setBigUint64(State.XCR0, 1n, true);
    loadMxcsr(state, 0x1f80);
    state.setUint16(State.FCW, 0x40, true);
    state.setUint16(State.FTW, 0xffff, true);
    this.state.setUint32(State.TLB_FILLS, 0xffff_ffff, true);
    this.core.exports.flush_tlb();
    this.core.exports.update_mode();
  }

  getState(target: ArrayBuffer): void {
    if (this.pending === "input") this.finishInput();
    const { state } = this;
    const out = new DataView(target);
    new Uint8Array(target).fill(0);
    const copy = (to: number, from: number) => out.setBigUint64(to, state.getBigUint64(from, true), true);
    out.setUint32(X64.VERSION, X64_STATE_VERSION, true);
    out.setUint32(X64.ACTIVITY, state.getInt32(State.ACTIVITY, true), true);
    for (let i = 0; i < 16; i++) copy(X64.GPR + i * 8, State.GPR + i * 8);
    copy(X64.RIP, State.RIP);
    out.setUint32(X64.RFLAGS, this.core.exports.read_flags(), true);
    for (let i = 0; i < 8; i++) {
      const from = State.SEGMENTS + i * Segment.BYTES;
      const to = X64.SEGMENTS + i * SEGMENT_BYTES;
      copy(to, from + Segment.BASE);
      out.setUint32(to + 8, state.getUint32(from + Segment.LIMIT, true), true);
      out.setUint16(to + 12, state.getUint32(from + Segment.SELECTOR, true), true);
      out.setUint16(to + 14, state.getUint32(from + Segment.ATTRIBUTES, true), true);
    }
    for (const [to, from] of WORDS) copy(to, from);
    out.setUint32(X64.GDTR_LIMIT, state.getUint32(State.GDTR_LIMIT, true), true);
    out.setUint32(X64.IDTR_LIMIT, state.getUint32(State.IDTR_LIMIT, true), true);
    for (let i = 0; i < 6; i++) copy(X64.DR + i * 8, State.DR + i * 8);
    out.setBigUint64(X64.CR8, BigInt(this.apic?.taskPriority() ?? 0), true);
    const tsc = BigInt(Math.floor(this.clock()));
    out.setBigInt64(X64.TSC, tsc + state.getBigInt64(State.TSC_OFFSET, true), true);
    out.setUint8(X64.INTERRUPT_SHADOW, state.getInt32(State.SHADOW, true));
    out.setUint8(X64.NMI_MASKED, state.getInt32(State.NMI_MASKED, true));
    out.setUint8(X64.NMI_PENDING, state.getInt32(State.NMI_PENDING, true));
    if (this.apic?.readMsr(0x6e0, this.msrValue)) {
      out.setInt32(X64.TSC_DEADLINE, this.msrValue[0], true);
      out.setInt32(X64.TSC_DEADLINE + 4, this.msrValue[1], true);
    }
    out.setUint32(X64.OTHER_MSR_COUNT, 2, true);
    out.setUint32(X64.OTHER_MSRS, SPEC_CTRL, true);
    copy(X64.OTHER_MSRS + 8, State.SPEC_CTRL);
    out.setUint32(X64.OTHER_MSRS + 16, TSC_ADJUST, true);
    copy(X64.OTHER_MSRS + 24, State.TSC_OFFSET);
    this.copyFpu(out, X64.XSAVE, true);
  }

  setState(source: ArrayBuffer): void {
    const { state } = this;
    const from = new DataView(source);
    if (from.getUint32(X64.VERSION, true) !== X64_STATE_VERSION) throw new Error("not a state of this version");
    const copy = (to: number, at: number) => state.setBigUint64(to, from.getBigUint64(at, true), true);
    state.setInt32(State.ACTIVITY, from.getUint32(X64.ACTIVITY, true), true);
    for (let i = 0; i < 16; i++) copy(State.GPR + i * 8, X64.GPR + i * 8);
    copy(State.RIP, X64.RIP);
    const flags = from.getUint32(X64.RFLAGS, true);
    state.setInt32(State.FLAG_KIND, FlagKind.EXPLICIT, true);
    state.setBigUint64(State.FLAG_A, BigInt(flags & Flag.ARITHMETIC), true);
    state.setInt32(State.RFLAGS, flags & ~Flag.ARITHMETIC & ~2, true);
    for (let i = 0; i < 8; i++) {
      const to = State.SEGMENTS + i * Segment.BYTES;
      const at = X64.SEGMENTS + i * SEGMENT_BYTES;
      copy(to + Segment.BASE, at);
      state.setUint32(to + Segment.LIMIT, from.getUint32(at + 8, true), true);
      state.setUint32(to + Segment.SELECTOR, from.getUint16(at + 12, true), true);
      const attributes = from.getUint16(at + 14, true);
      state.setUint32(to + Segment.ATTRIBUTES, attributes | (attributes & 0x80 ? 0 : 0x1_0000), true);
    }
    for (const [at, to] of WORDS) copy(to, at);
    // LMA follows from LME and PG where the writer left it out.
    if (from.getBigUint64(X64.CR0, true) & 0x8000_0000n && from.getBigUint64(X64.EFER, true) & BigInt(EFER.LME)) {
      state.setBigUint64(State.EFER, from.getBigUint64(X64.EFER, true) | BigInt(EFER.LMA), true);
    }
    state.setUint32(State.GDTR_LIMIT, from.getUint32(X64.GDTR_LIMIT, true), true);
    state.setUint32(State.IDTR_LIMIT, from.getUint32(X64.IDTR_LIMIT, true), true);
    for (let i = 0; i < 6; i++) copy(State.DR + i * 8, X64.DR + i * 8);
    const tsc = BigInt(Math.floor(this.clock()));
    // The TSC counts from the machine's epoch, as local APICs of ours do. Only a state that clearly says otherwise moves
    // it: 0 says nothing, and a difference below a second is the time that copying took, unless IA32_TSC_ADJUST says how
    // far the guest itself has moved it.
    const wanted = from.getBigInt64(X64.TSC, true);
    const difference = wanted - tsc;
    const told = wanted !== 0n && (difference > SECOND || difference < -SECOND);
    state.setBigInt64(State.TSC_OFFSET, told ? difference : 0n, true);
    state.setBigUint64(State.SPEC_CTRL, 0n, true);
    for (let i = 0; i < Math.min(from.getUint32(X64.OTHER_MSR_COUNT, true), X64.MAX_OTHER_MSRS); i++) {
      const at = X64.OTHER_MSRS + i * 16;
      const msr = from.getUint32(at, true);
      if (msr === SPEC_CTRL) {
        state.setBigUint64(State.SPEC_CTRL, from.getBigUint64(at + 8, true) & SPEC_CTRL_BITS, true);
      } else if (msr === TSC_ADJUST) {
        const adjust = from.getBigInt64(at + 8, true);
        const apart = difference - adjust;
        if (wanted !== 0n && apart < SECOND && apart > -SECOND) state.setBigInt64(State.TSC_OFFSET, adjust, true);
      }
    }
    state.setInt32(State.SHADOW, from.getUint8(X64.INTERRUPT_SHADOW) & 3, true);
    state.setInt32(State.NMI_MASKED, from.getUint8(X64.NMI_MASKED), true);
    state.setInt32(State.NMI_PENDING, from.getUint8(X64.NMI_PENDING), true);
    state.setInt32(State.INTERRUPT_WINDOW, 0, true);
    // CPL is the DPL of SS; in real mode 0.
    const ss = state.getInt32(State.SEGMENTS + Seg.SS * Segment.BYTES + Segment.ATTRIBUTES, true);
    const cs = state.getInt32(State.SEGMENTS + Seg.CS * Segment.BYTES + Segment.SELECTOR, true);
    const protectedMode = (state.getUint32(State.CR0, true) & 1) !== 0;
    state.setInt32(State.CPL, protectedMode ? (ss & 0x80 ? (ss >> 5) & 3 : cs & 3) : 0, true);
    state.setInt32(State.FAULT, 0, true);
    state.setInt32(State.LOG_FILLED, 0, true);
    state.setInt32(State.PORT_ONLY, 0, true);
    this.pending = "nothing";
    this.shutDown = false;
    this.apic?.setTaskPriority(Number(from.getBigUint64(X64.CR8, true) & 15n));
    this.copyFpu(from, X64.XSAVE, false);
    // The machine may have loaded another program.
    this.core.dropAll();
    this.core.exports.flush_tlb();
    this.core.exports.update_mode();
  }

  /** FXSAVE64 image (SDM vol. 1, 10.5.1) to or from the state. */
  private copyFpu(image: DataView, at: number, out: boolean): void {
    const { state } = this;
    const top = (state.getUint16(State.FSW, true) >> 11) & 7;
    if (out) {
      image.setUint16(at, state.getUint16(State.FCW, true), true);
      image.setUint16(at + 2, state.getUint16(State.FSW, true), true);
      const tags = state.getUint16(State.FTW, true);
      let abridged = 0;
      for (let i = 0; i < 8; i++) if (((tags >> (2 * i)) & 3) !== 3) abridged |= 1 << i;
      image.setUint8(at + 4, abridged);
      image.setUint32(at + 24, state.getUint32(State.MXCSR, true), true);
      image.setUint32(at + 28, 0xffff, true);
      for (let i = 0; i < 8; i++) {
        const from = State.X87 + ((top + i) & 7) * 16;
        for (let b = 0; b < 10; b++) image.setUint8(at + 32 + i * 16 + b, state.getUint8(from + b));
      }
      for (let b = 0; b < 256; b++) image.setUint8(at + 160 + b, state.getUint8(State.XMM + b));
      return;
    }
    state.setUint16(State.FCW, image.getUint16(at, true), true);
    state.setUint16(State.FSW, image.getUint16(at + 2, true), true);
    const newTop = (image.getUint16(at + 2, true) >> 11) & 7;
    const abridged = image.getUint8(at + 4);
    let tags = 0;
    for (let i = 0; i < 8; i++) if (!(abridged & (1 << i))) tags |= 3 << (2 * i);
    state.setUint16(State.FTW, tags, true);
    loadMxcsr(state, image.getUint32(at + 24, true) & 0xffff);
    for (let i = 0; i < 8; i++) {
      const to = State.X87 + ((newTop + i) & 7) * 16;
      for (let b = 0; b < 10; b++) state.setUint8(to + b, image.getUint8(at + 32 + i * 16 + b));
    }
    for (let b = 0; b < 256; b++) state.setUint8(State.XMM + b, image.getUint8(at + 160 + b));
  }

  failure(): VcpuFailure {
    const { state } = this;
    const registers: Record<string, string> = {};
    const hex = (at: number) => state.getBigUint64(at, true).toString(16);
    GPR_NAMES.forEach((name, i) => registers[name] = hex(State.GPR + i * 8));
    registers.rip = hex(State.RIP);
    registers.cr0 = hex(State.CR0);
    registers.cr2 = hex(State.CR2);
    registers.cr3 = hex(State.CR3);
    registers.cr4 = hex(State.CR4);
    return { reason: this.failureReason, registers, instruction: this.instructionBytes() };
  }

  /** Up to 15 bytes at RIP, as far as they lie in RAM. */
  private instructionBytes(): Uint8Array {
    const { state, core } = this;
    const bytes: number[] = [];
    const mask = state.getBigUint64(State.CODE_MASK, true);
    let linear = this.linearRip();
    while (bytes.length < MAXIMUM_LENGTH) {
      const physical = core.exports.fetch_translate(BigInt.asIntN(64, linear));
      const faulted = state.getInt32(State.FAULT, true) !== 0;
      state.setInt32(State.FAULT, 0, true);
      const more = faulted ? new Uint8Array(0) : core.codeBytes(Number(physical));
      if (more.length === 0) break;
      bytes.push(...more);
      linear = (linear + BigInt(more.length)) & mask;
    }
    return new Uint8Array(bytes.slice(0, MAXIMUM_LENGTH));
  }

  close(): void {
    this.mailbox.leave(this.index);
  }
}

/** Fields of the portable state that are copied as they are: [portable, ours]. */
const WORDS: readonly (readonly [number, number])[] = [
  [X64.GDTR_BASE, State.GDTR_BASE],
  [X64.IDTR_BASE, State.IDTR_BASE],
  [X64.CR0, State.CR0],
  [X64.CR2, State.CR2],
  [X64.CR3, State.CR3],
  [X64.CR4, State.CR4],
  [X64.EFER, State.EFER],
  [X64.XCR0, State.XCR0],
  [X64.APIC_BASE, State.APIC_BASE],
  [X64.STAR, State.STAR],
  [X64.LSTAR, State.LSTAR],
  [X64.CSTAR, State.CSTAR],
  [X64.SFMASK, State.SFMASK],
  [X64.KERNEL_GS_BASE, State.KERNEL_GS_BASE],
  [X64.SYSENTER_CS, State.SYSENTER_CS],
  [X64.SYSENTER_ESP, State.SYSENTER_ESP],
  [X64.SYSENTER_EIP, State.SYSENTER_EIP],
  [X64.PAT, State.PAT],
  [X64.TSC_AUX, State.TSC_AUX],
  [X64.MISC_ENABLE, State.MISC_ENABLE],
];
