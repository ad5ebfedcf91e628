/**
 * Breakpoints and single steps: RFLAGS.TF and the guest's own debug registers, with #DB made to leave the guest (Intel
 * SDM vol. 3, 18.2 and 18.3). WHPX has no debugger's set beside the guest's: while breakpoints are set, a guest that
 * writes its own debug registers takes them away.
 */
import type { VcpuDebug } from "../../core/hypervisor.ts";
import { X64 } from "../../core/x64_state.ts";
import { check, Register as R } from "./abi.ts";
import type { WhpxPartition } from "./partition.ts";
import { RegisterList } from "./registers.ts";

const TRAP_FLAG = 0x100;
/** RFLAGS.RF: the instruction at a breakpoint runs (SDM vol. 3, 18.3.1.1). */
const RESUME_FLAG = 0x1_0000;
const TWO_32 = 0x1_0000_0000;
/** Bit of WHV_X64_PENDING_DEBUG_EXCEPTION. */
const SINGLE_STEP = 1 << 4;
const LONG_MODE_CODE = 0x2000;

/** The debugger's side of one vCPU. */
export class WhpxDebug implements VcpuDebug {
  /** Whether anything is asked for: every entry of the guest is to be {@link arm}ed. */
  active = false;
  stepping = false;
  private addresses: number[] = [];
  private asked = false;
  /** Linear address of the last DEBUG exit, whose instruction is to run now; -1 else. */
  private stoppedAt = -1;
  private guestTrapFlag = 0;
  /** DR0 to DR3 and DR7 as the guest has them, while ours are in. */
  private saved: BigUint64Array | null = null;
  private readonly partition: WhpxPartition;
  private readonly flags: RegisterList;
  private readonly place: RegisterList;
  private readonly debugRegisters: RegisterList;
  private readonly pending: RegisterList;

  constructor(partition: WhpxPartition, index: number) {
    this.partition = partition;
    const list = (...names: number[]) => new RegisterList(partition.pointer, index, names);
    this.flags = list(R.WHvX64RegisterRflags, R.WHvRegisterInterruptState);
    this.place = list(R.WHvX64RegisterRip, R.WHvX64RegisterCs, R.WHvX64RegisterEfer);
    this.debugRegisters = list(
      R.WHvX64RegisterDr0,
      R.WHvX64RegisterDr1,
      R.WHvX64RegisterDr2,
      R.WHvX64RegisterDr3,
      R.WHvX64RegisterDr7,
    );
    this.pending = list(R.WHvX64RegisterPendingDebugException);
  }

  singleStep(on: boolean): void {
    this.stepping = on;
    this.apply();
  }

  breakpoints(addresses: bigint[]): void {
    if (addresses.length > 4) throw new RangeError("there are four breakpoints in hardware");
    if (this.saved === null && addresses.length > 0) this.saved = this.readDebugRegisters();
    if (this.saved !== null) {
      const values = addresses.length > 0 ? BigUint64Array.from([0n, 0n, 0n, 0n, 0x400n]) : this.saved;
      addresses.forEach((address, i) => {
        values[i] = BigInt.asUintN(64, address);
        // DR7: the global enable, execution, one byte (SDM vol. 3, 18.2.4); bit 10 is always 1.
        values[4] |= 2n << BigInt(i * 2);
      });
      this.writeDebugRegisters(values);
      if (addresses.length === 0) this.saved = null;
    }
    this.addresses = addresses.map((address) => Number(BigInt.asUintN(64, address)));
    this.apply();
  }

  /** Before an entry of the guest. */
  arm(): void {
    const { flags } = this;
    const here = this.address();
    check(flags.get(), "reading RFLAGS");
    this.guestTrapFlag = flags.words[0] & TRAP_FLAG;
    if (this.stepping) {
      flags.words[0] |= TRAP_FLAG;
      // An interrupt would be delivered instead of the instruction, and run to its end.
      flags.words[4] |= 1;
    }
    if (here === this.stoppedAt) flags.words[0] |= RESUME_FLAG;
    this.stoppedAt = -1;
    check(flags.set(this.stepping ? 2 : 1), "arming the debugger");
  }

  /** After it: the guest's flags are its own again. */
  disarm(): void {
    if (!this.stepping) return;
    const { flags, pending } = this;
    check(flags.get(), "reading RFLAGS");
    flags.words[0] = (flags.words[0] & ~TRAP_FLAG) | this.guestTrapFlag;
    flags.words[4] &= ~1;
    check(flags.set(2), "disarming the debugger");
    if (pending.get() >= 0 && (pending.words[0] & SINGLE_STEP) !== 0) {
      pending.words[0] &= ~SINGLE_STEP;
      check(pending.set(1), "taking back a debug exception");
    }
  }

  /** Whether a #DB at the present instruction is the debugger's; a guest that debugs itself has its own. */
  isOurs(): boolean {
    return this.stepping || this.addresses.includes(this.address());
  }

  /** The linear address that a DEBUG exit tells; its instruction runs at the next entry. */
  stop(): number {
    return this.stoppedAt = this.address();
  }

  /** In a state that was read: the guest's debug registers in place of ours. */
  hide(state: DataView): void {
    if (this.saved === null) return;
    for (let i = 0; i < 5; i++) state.setBigUint64(X64.DR + (i < 4 ? i : 5) * 8, this.saved[i], true);
  }

  /** After a state was written: its debug registers are the guest's, and ours are set again. */
  restore(): void {
    if (this.saved === null) return;
    this.saved = null;
    this.breakpoints(this.addresses.map(BigInt));
  }

  private apply(): void {
    this.active = this.stepping || this.addresses.length > 0;
    if (!this.active || this.asked) return;
    this.partition.exitForDebug();
    this.asked = true;
  }

  private address(): number {
    const { place } = this;
    check(place.get(), "reading RIP");
    const { words } = place;
    const rip = (words[0] >>> 0) + (words[1] >>> 0) * TWO_32;
    // WHV_X64_SEGMENT_REGISTER: base, then limit, selector and attributes. EFER.LMA is bit 10.
    const long = (words[8] & 0x400) !== 0 && ((words[7] >>> 16) & LONG_MODE_CODE) !== 0;
    return long ? rip : (rip + (words[4] >>> 0)) % TWO_32;
  }

  private readDebugRegisters(): BigUint64Array {
    check(this.debugRegisters.get(), "reading debug registers");
    return BigUint64Array.from({ length: 5 }, (_, i) => this.debugRegisters.view.getBigUint64(i * 16, true));
  }

  private writeDebugRegisters(values: BigUint64Array): void {
    values.forEach((value, i) => this.debugRegisters.view.setBigUint64(i * 16, value, true));
    check(this.debugRegisters.set(5), "setting debug registers");
  }
}
