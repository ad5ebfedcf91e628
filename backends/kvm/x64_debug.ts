/** Breakpoints and single steps by KVM_SET_GUEST_DEBUG. */
import type { VcpuDebug } from "../../core/hypervisor.ts";
import { check, Kvm, KvmStruct, libc } from "./abi.ts";

/** The debugger's side of one vCPU; the guest's own debug registers stay untouched. */
export class KvmX64Debug implements VcpuDebug {
  private readonly fd: number;
  private readonly struct = new BigUint64Array(KvmStruct.kvm_guest_debug.sizeof / 8);
  private stepping = false;
  /** One instruction is being stepped over, with the breakpoints off. */
  private passing = false;
  private addresses: bigint[] = [];

  constructor(fd: number) {
    this.fd = fd;
  }

  /**
   * Whether the exit at `address` was a breakpoint's. Its instruction must pass before the breakpoint is set again: with
   * RF alone (SDM vol. 3, 18.3.1.1) it would not where KVM emulates it. So it is stepped over.
   */
  passBreakpoint(address: number): boolean {
    this.passing = this.addresses.some((breakpoint) => Number(BigInt.asUintN(64, breakpoint)) === address);
    if (this.passing) this.apply();
    return this.passing;
  }

  /** After a DEBUG exit at `address` with {@link passBreakpoint} in force: whether someone asked for it. */
  passed(address: number): boolean {
    const wanted = this.stepping || this.addresses.some((it) => Number(BigInt.asUintN(64, it)) === address);
    if (!this.passBreakpoint(address)) this.apply();
    return wanted;
  }

  singleStep(on: boolean): void {
    this.stepping = on;
    this.apply();
  }

  breakpoints(addresses: bigint[]): void {
    if (addresses.length > 4) throw new RangeError("there are four breakpoints in hardware");
    this.addresses = [...addresses];
    this.apply();
  }

  private apply(): void {
    const { struct } = this;
    const addresses = this.passing ? [] : this.addresses;
    let control = 0;
    if (this.stepping || this.passing) control |= Kvm.GUESTDBG_ENABLE | Kvm.GUESTDBG_SINGLESTEP;
    if (addresses.length > 0) control |= Kvm.GUESTDBG_ENABLE | Kvm.GUESTDBG_USE_HW_BP;
    struct.fill(0n);
    struct[0] = BigInt(control);
    const registers = KvmStruct.kvm_guest_debug.arch / 8;
    addresses.forEach((address, i) => struct[registers + i] = BigInt.asUintN(64, address));
    // DR7: the global enables, execution, one byte (SDM vol. 3, 18.2.4); bit 10 is always 1.
    if (addresses.length > 0) {
      struct[registers + 7] = addresses.reduce((dr7, _, i) => dr7 | 2n << BigInt(i * 2), 0x400n);
    }
    check(libc().ioctlBuffer(this.fd, Kvm.SET_GUEST_DEBUG, struct), "setting breakpoints");
  }
}
