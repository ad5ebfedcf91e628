/** The portable state of `core/x64_state.ts` to and from WHPX's registers. */
import { X64, X64_STATE_BYTES, X64_STATE_VERSION } from "../../core/x64_state.ts";
import { check, PendingType, platform, Register as R } from "./abi.ts";
import { MISC_ENABLE } from "./msrs.ts";
import { RegisterList } from "./registers.ts";
import { XsaveArea } from "./xsave.ts";

/** Registers of 64 bits and their place. */
const NUMBERS: readonly (readonly [name: number, offset: number])[] = [
  ...Array.from({ length: 16 }, (_, i) => [R.WHvX64RegisterRax + i, X64.GPR + i * 8] as const),
  [R.WHvX64RegisterRip, X64.RIP],
  [R.WHvX64RegisterRflags, X64.RFLAGS],
  [R.WHvX64RegisterCr0, X64.CR0],
  [R.WHvX64RegisterCr2, X64.CR2],
  [R.WHvX64RegisterCr3, X64.CR3],
  [R.WHvX64RegisterCr4, X64.CR4],
  [R.WHvX64RegisterCr8, X64.CR8],
  [R.WHvX64RegisterEfer, X64.EFER],
  [R.WHvX64RegisterXCr0, X64.XCR0],
  [R.WHvX64RegisterDr0, X64.DR],
  [R.WHvX64RegisterDr1, X64.DR + 8],
  [R.WHvX64RegisterDr2, X64.DR + 16],
  [R.WHvX64RegisterDr3, X64.DR + 24],
  [R.WHvX64RegisterDr6, X64.DR + 32],
  [R.WHvX64RegisterDr7, X64.DR + 40],
  [R.WHvX64RegisterStar, X64.STAR],
  [R.WHvX64RegisterLstar, X64.LSTAR],
  [R.WHvX64RegisterCstar, X64.CSTAR],
  [R.WHvX64RegisterSfmask, X64.SFMASK],
  [R.WHvX64RegisterKernelGsBase, X64.KERNEL_GS_BASE],
  [R.WHvX64RegisterSysenterCs, X64.SYSENTER_CS],
  [R.WHvX64RegisterSysenterEsp, X64.SYSENTER_ESP],
  [R.WHvX64RegisterSysenterEip, X64.SYSENTER_EIP],
  [R.WHvX64RegisterPat, X64.PAT],
];

/** Registers with a place that not every host or Windows has. */
const OPTIONAL_NUMBERS: readonly (readonly [name: number, offset: number])[] = [
  [R.WHvX64RegisterTscAux, X64.TSC_AUX],
  [R.WHvX64RegisterTscDeadline, X64.TSC_DEADLINE],
];

/** MSRs without a place of their own (SDM vol. 4, table 2-2), as far as this host has them. */
const OTHER_MSRS: readonly (readonly [name: number, msr: number])[] = [
  [R.WHvX64RegisterTscAdjust, 0x3b],
  [R.WHvX64RegisterSpecCtrl, 0x48],
  [R.WHvX64RegisterXss, 0xda0],
  ...Array.from({ length: 8 }, (_, i) => [
    [R.WHvX64RegisterMsrMtrrPhysBase0 + i, 0x200 + 2 * i] as const,
    [R.WHvX64RegisterMsrMtrrPhysMask0 + i, 0x201 + 2 * i] as const,
  ]).flat(),
  [R.WHvX64RegisterMsrMtrrFix64k00000, 0x250],
  [R.WHvX64RegisterMsrMtrrFix16k80000, 0x258],
  [R.WHvX64RegisterMsrMtrrFix16kA0000, 0x259],
  ...Array.from({ length: 8 }, (_, i) => [R.WHvX64RegisterMsrMtrrFix4kC0000 + i, 0x268 + i] as const),
  [R.WHvX64RegisterMsrMtrrDefType, 0x2ff],
];

const SEGMENTS = Array.from({ length: 8 }, (_, i) => R.WHvX64RegisterEs + i);
const OTHER_ENTRY = 16;
/** Bytes of WHPX's local APIC state: the register page. */
const APIC_BYTES = 4096;

/** Moves one vCPU's state. Every list is made once. */
export class StateMover {
  private readonly partition: Deno.PointerValue;
  private readonly index: number;
  private readonly hasLocalApic: boolean;
  private readonly numbers: readonly (readonly [number, number])[];
  private readonly others: readonly (readonly [number, number])[];
  private readonly list: RegisterList;
  private readonly othersList: RegisterList;
  private readonly apicBase: RegisterList;
  private readonly tsc: RegisterList;
  private readonly activity: RegisterList;
  private readonly xsave: XsaveArea;
  private readonly apic = new Uint8Array(APIC_BYTES);
  private readonly powerOnApic: Uint8Array<ArrayBuffer>;
  private readonly powerOnApicBase: bigint;
  private readonly powerOnOthers = new Map<number, bigint>();

  constructor(partition: Deno.PointerValue, index: number, hasLocalApic: boolean) {
    this.partition = partition;
    this.index = index;
    this.hasLocalApic = hasLocalApic;
    // Some can be read and not written: what could not be put back is no state.
    const exists = ([name]: readonly [number, number]) => {
      const one = new RegisterList(partition, index, [name]);
      return one.get() >= 0 && one.set(1) >= 0;
    };
    this.numbers = [...NUMBERS, ...OPTIONAL_NUMBERS.filter(exists)];
    this.others = OTHER_MSRS.filter(exists);
    this.list = new RegisterList(partition, index, [
      ...this.numbers.map(([name]) => name),
      ...SEGMENTS,
      R.WHvX64RegisterIdtr,
      R.WHvX64RegisterGdtr,
      R.WHvRegisterInterruptState,
      R.WHvRegisterPendingInterruption,
    ]);
    this.othersList = new RegisterList(partition, index, this.others.map(([name]) => name));
    this.apicBase = new RegisterList(partition, index, [R.WHvX64RegisterApicBase]);
    this.tsc = new RegisterList(partition, index, [R.WHvX64RegisterTsc]);
    this.activity = new RegisterList(partition, index, [R.WHvRegisterInternalActivityState]);
    this.xsave = new XsaveArea(partition, index);
    this.readApic();
    this.powerOnApic = this.apic.slice();
    check(this.apicBase.get(), "reading the APIC's base");
    this.powerOnApicBase = this.apicBase.view.getBigUint64(0, true);
    check(this.othersList.get(), "reading MSRs");
    this.others.forEach(([, msr], i) => this.powerOnOthers.set(msr, this.othersList.view.getBigUint64(i * 16, true)));
  }

  get(buffer: ArrayBuffer): void {
    const state = checkedView(buffer);
    const bytes = new Uint8Array(buffer);
    bytes.fill(0);
    state.setUint32(X64.VERSION, X64_STATE_VERSION, true);
    const { list } = this;
    check(list.get(), "reading registers");
    this.numbers.forEach(([, to], i) => state.setBigUint64(to, list.view.getBigUint64(i * 16, true), true));
    // A segment is laid out in WHPX as it is in the state: base, limit, selector, attributes.
    SEGMENTS.forEach((name, i) => {
      const at = list.at(name);
      bytes.set(list.bytes.subarray(at, at + 16), X64.SEGMENTS + i * 16);
    });
    const idtr = list.at(R.WHvX64RegisterIdtr);
    const gdtr = list.at(R.WHvX64RegisterGdtr);
    state.setBigUint64(X64.IDTR_BASE, list.view.getBigUint64(idtr + 8, true), true);
    state.setUint32(X64.IDTR_LIMIT, list.view.getUint16(idtr + 6, true), true);
    state.setBigUint64(X64.GDTR_BASE, list.view.getBigUint64(gdtr + 8, true), true);
    state.setUint32(X64.GDTR_LIMIT, list.view.getUint16(gdtr + 6, true), true);
    state.setBigUint64(X64.MISC_ENABLE, MISC_ENABLE, true);
    check(this.apicBase.get(), "reading the APIC's base");
    state.setBigUint64(X64.APIC_BASE, this.apicBase.view.getBigUint64(0, true), true);

    check(this.tsc.get(), "reading the TSC");
    state.setBigUint64(X64.TSC, this.tsc.view.getBigUint64(0, true), true);

    const interruptState = list.view.getUint8(list.at(R.WHvRegisterInterruptState));
    // WHPX does not tell STI's shadow from that of MOV SS.
    state.setUint8(X64.INTERRUPT_SHADOW, interruptState & 1 ? 2 : 0);
    state.setUint8(X64.NMI_MASKED, (interruptState >> 1) & 1);
    this.getPending(state);

    this.xsave.get(bytes.subarray(X64.XSAVE, X64.XSAVE + X64.XSAVE_BYTES));
    check(this.othersList.get(), "reading MSRs");
    state.setUint32(X64.OTHER_MSR_COUNT, this.others.length, true);
    this.others.forEach(([, msr], i) => {
      const to = X64.OTHER_MSRS + i * OTHER_ENTRY;
      state.setUint32(to, msr, true);
      state.setBigUint64(to + 8, this.othersList.view.getBigUint64(i * 16, true), true);
    });
    if (!this.hasLocalApic) return;
    this.readApic();
    bytes.set(this.apic.subarray(0, X64.LOCAL_APIC_BYTES), X64.LOCAL_APIC);
    check(this.activity.get(), "reading the run state");
    const activity = this.activity.view.getUint8(0);
    // One that has not begun has the TSC of its partition, whatever that is when it does.
    if (activity & 1) state.setBigUint64(X64.TSC, 0n, true);
    state.setUint32(X64.ACTIVITY, activity & 1 ? 2 : activity & 2 ? 1 : 0, true);
  }

  set(buffer: ArrayBuffer): void {
    const state = checkedView(buffer);
    const bytes = new Uint8Array(buffer);
    const version = state.getUint32(X64.VERSION, true);
    if (version < 1 || version > X64_STATE_VERSION) {
      throw new Error(`vCPU state of version ${version} is not known here`);
    }
    // A loader's state says nothing of the APIC: it is then as at power-on.
    const base = state.getBigUint64(X64.APIC_BASE, true) || this.powerOnApicBase;
    this.apicBase.view.setBigUint64(0, base, true);
    // The platform without an APIC may refuse its base: the machine's own APIC has it then.
    const result = this.apicBase.set(1);
    if (this.hasLocalApic) check(result, "setting the APIC's base");

    const { list } = this;
    list.bytes.fill(0);
    this.numbers.forEach(([, from], i) => list.view.setBigUint64(i * 16, state.getBigUint64(from, true), true));
    // Bit 0 (x87) is always set in a real one; a state made by a loader may leave it out.
    const xcr0 = list.at(R.WHvX64RegisterXCr0);
    list.view.setBigUint64(xcr0, list.view.getBigUint64(xcr0, true) | 1n, true);
    SEGMENTS.forEach((name, i) => {
      const from = X64.SEGMENTS + i * 16;
      list.bytes.set(bytes.subarray(from, from + 16), list.at(name));
    });
    const idtr = list.at(R.WHvX64RegisterIdtr);
    const gdtr = list.at(R.WHvX64RegisterGdtr);
    list.view.setBigUint64(idtr + 8, state.getBigUint64(X64.IDTR_BASE, true), true);
    list.view.setUint16(idtr + 6, state.getUint32(X64.IDTR_LIMIT, true), true);
    list.view.setBigUint64(gdtr + 8, state.getBigUint64(X64.GDTR_BASE, true), true);
    list.view.setUint16(gdtr + 6, state.getUint32(X64.GDTR_LIMIT, true), true);
    const shadow = state.getUint8(X64.INTERRUPT_SHADOW) !== 0 ? 1 : 0;
    list.view.setUint8(list.at(R.WHvRegisterInterruptState), shadow | (state.getUint8(X64.NMI_MASKED) & 1) << 1);
    this.setPending(state);
    // Zero is a loader's word for power-on: the partition's vCPUs begin with one TSC, and keep it so.
    const tsc = state.getBigUint64(X64.TSC, true);
    if (tsc !== 0n) {
      this.tsc.view.setBigUint64(0, tsc, true);
      check(this.tsc.set(1), "setting the TSC");
    }
    check(list.set(list.names.length), "setting registers");

    this.xsave.set(bytes.subarray(X64.XSAVE, X64.XSAVE + X64.XSAVE_BYTES));
    this.setOtherMsrs(state);
    if (!this.hasLocalApic) return;
    const named = bytes.subarray(X64.LOCAL_APIC, X64.LOCAL_APIC + X64.LOCAL_APIC_BYTES).some((byte) => byte !== 0);
    this.apic.set(this.powerOnApic);
    if (named) this.apic.set(bytes.subarray(X64.LOCAL_APIC, X64.LOCAL_APIC + X64.LOCAL_APIC_BYTES));
    check(
      platform().WHvSetVirtualProcessorInterruptControllerState2!(this.partition, this.index, this.apic, APIC_BYTES),
      "setting the APIC",
    );
    const activity = state.getUint32(X64.ACTIVITY, true);
    this.suspend(activity === 2 ? 1 : activity === 1 ? 2 : 0);
  }

  /** WHV_INTERNAL_ACTIVITY_REGISTER: 1 waits for start-up, 2 is halted. */
  suspend(activity: number): void {
    this.activity.words.fill(0);
    this.activity.words[0] = activity;
    check(this.activity.set(1), "setting the run state");
  }

  private getPending(state: DataView): void {
    const at = this.list.at(R.WHvRegisterPendingInterruption);
    const word = this.list.view.getUint32(at, true);
    if ((word & 1) === 0) return;
    const vector = word >>> 16;
    switch ((word >> 1) & 7) {
      case PendingType.Interrupt:
        state.setUint8(X64.INTERRUPT_INJECTED, 1);
        state.setUint8(X64.INTERRUPT_VECTOR, vector);
        break;
      case PendingType.Nmi:
        state.setUint8(X64.NMI_PENDING, 1);
        break;
      case PendingType.Exception:
        state.setUint8(X64.EXCEPTION_PENDING, 1);
        state.setUint8(X64.EXCEPTION_VECTOR, vector);
        state.setUint8(X64.EXCEPTION_HAS_ERROR, (word >> 4) & 1);
        state.setUint32(X64.EXCEPTION_ERROR, this.list.view.getUint32(at + 4, true), true);
    }
  }

  private setPending(state: DataView): void {
    const at = this.list.at(R.WHvRegisterPendingInterruption);
    const { view } = this.list;
    if (state.getUint8(X64.EXCEPTION_PENDING)) {
      const error = state.getUint8(X64.EXCEPTION_HAS_ERROR) ? 0x10 : 0;
      view.setUint32(at, 1 | PendingType.Exception << 1 | error | state.getUint8(X64.EXCEPTION_VECTOR) << 16, true);
      view.setUint32(at + 4, state.getUint32(X64.EXCEPTION_ERROR, true), true);
    } else if (state.getUint8(X64.NMI_PENDING)) view.setUint32(at, 1 | PendingType.Nmi << 1 | 2 << 16, true);
    else if (state.getUint8(X64.INTERRUPT_INJECTED)) {
      view.setUint32(at, 1 | state.getUint8(X64.INTERRUPT_VECTOR) << 16, true);
    }
  }

  /** MSRs that a state does not speak of go back to what they were at power-on. */
  private setOtherMsrs(state: DataView): void {
    const values = new Map(this.powerOnOthers);
    const count = Math.min(state.getUint32(X64.OTHER_MSR_COUNT, true), X64.MAX_OTHER_MSRS);
    for (let i = 0; i < count; i++) {
      const at = X64.OTHER_MSRS + i * OTHER_ENTRY;
      const msr = state.getUint32(at, true);
      if (values.has(msr)) values.set(msr, state.getBigUint64(at + 8, true));
    }
    this.othersList.bytes.fill(0);
    this.others.forEach(([, msr], i) => this.othersList.view.setBigUint64(i * 16, values.get(msr)!, true));
    check(this.othersList.set(this.others.length), "setting MSRs");
  }

  private readApic(): void {
    if (!this.hasLocalApic) return;
    check(
      platform().WHvGetVirtualProcessorInterruptControllerState2!(
        this.partition,
        this.index,
        this.apic,
        APIC_BYTES,
        new Uint32Array(1),
      ),
      "reading the APIC",
    );
  }
}

function checkedView(buffer: ArrayBuffer): DataView {
  if (buffer.byteLength < X64_STATE_BYTES) throw new RangeError(`a vCPU state has ${X64_STATE_BYTES} bytes`);
  return new DataView(buffer);
}
