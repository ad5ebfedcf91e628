/** The portable state of `core/x64_state.ts` to and from KVM's structs. */
import { X64, X64_STATE_BYTES, X64_STATE_VERSION } from "../../core/x64_state.ts";
import { check, errno, Kvm, KvmStruct, libc, systemError } from "./abi.ts";
import { KvmX64, KvmX64Struct } from "./x64_abi.ts";

const REGS = KvmX64Struct.kvm_regs;
const SREGS = KvmX64Struct.kvm_sregs2;
const SEGMENT = KvmX64Struct.kvm_segment;
const EVENTS = KvmX64Struct.kvm_vcpu_events;
const MSRS = KvmX64Struct.kvm_msrs.entries;
const MSR = KvmX64Struct.kvm_msr_entry;

/** In the order of X64.GPR. */
const GPRS = [
  REGS.rax,
  REGS.rcx,
  REGS.rdx,
  REGS.rbx,
  REGS.rsp,
  REGS.rbp,
  REGS.rsi,
  REGS.rdi,
  REGS.r8,
  REGS.r9,
  REGS.r10,
  REGS.r11,
  REGS.r12,
  REGS.r13,
  REGS.r14,
  REGS.r15,
];
/** In the order of X64.SEGMENTS. */
const SEGMENTS = [SREGS.es, SREGS.cs, SREGS.ss, SREGS.ds, SREGS.fs, SREGS.gs, SREGS.ldt, SREGS.tr];
/** Fields that are one u64 in both. */
const CONTROLS = [
  [X64.CR0, SREGS.cr0],
  [X64.CR2, SREGS.cr2],
  [X64.CR3, SREGS.cr3],
  [X64.CR4, SREGS.cr4],
  [X64.CR8, SREGS.cr8],
  [X64.EFER, SREGS.efer],
  [X64.APIC_BASE, SREGS.apic_base],
] as const;

/** MSRs with a place of their own in the layout (SDM vol. 4, 2.1; AMD APM vol. 2, A). The deadline comes last: it is a timer. */
const PLACED_MSRS = [
  [0x10, X64.TSC],
  [0xc000_0081, X64.STAR],
  [0xc000_0082, X64.LSTAR],
  [0xc000_0083, X64.CSTAR],
  [0xc000_0084, X64.SFMASK],
  [0xc000_0102, X64.KERNEL_GS_BASE],
  [0x174, X64.SYSENTER_CS],
  [0x175, X64.SYSENTER_ESP],
  [0x176, X64.SYSENTER_EIP],
  [0x277, X64.PAT],
  [0xc000_0103, X64.TSC_AUX],
  [0x1a0, X64.MISC_ENABLE],
  [0x6e0, X64.TSC_DEADLINE],
] as const;

/** MSRs that stand elsewhere in the state: FS and GS base in the segments, EFER and APIC base among the controls. */
const ELSEWHERE = new Set([0xc000_0100, 0xc000_0101, 0xc000_0080, 0x1b]);

/**
 * MTRRs (SDM vol. 3, 12.11.2), which KVM has but does not list: default type, fixed ranges, and the eight variable ones
 * of KVM.
 */
const MTRRS = [
  ...[0x2ff, 0x250, 0x258, 0x259],
  ...Array.from({ length: 8 }, (_, i) => 0x268 + i),
  ...Array.from({ length: 16 }, (_, i) => 0x200 + i),
];

/** Hyper-V's MSRs, which CPUID does not offer the guest; some of them are clocks. */
const isHyperV = (index: number) => index >= 0x4000_0000 && index < 0x4000_1000;

/** Moves one vCPU's state. Every struct is made once. */
export class StateMover {
  private readonly fd: number;
  private readonly hasLocalApic: boolean;
  private readonly sregs2: boolean;
  private readonly regs = new DataView(new ArrayBuffer(REGS.sizeof));
  private readonly sregs = new DataView(new ArrayBuffer(SREGS.sizeof));
  private readonly events = new DataView(new ArrayBuffer(EVENTS.sizeof));
  private readonly debug = new DataView(new ArrayBuffer(KvmX64Struct.kvm_debugregs.sizeof));
  private readonly xcrs = new DataView(new ArrayBuffer(KvmX64Struct.kvm_xcrs.sizeof));
  private readonly mp = new DataView(new ArrayBuffer(KvmStruct.kvm_mp_state.sizeof));
  private readonly placed: DataView<ArrayBuffer>;
  /** MSRs without a place of their own, and what they are at power-on. */
  private readonly others: number[];
  private readonly powerOn = new Map<number, bigint>();
  private readonly powerOnApic = new Uint8Array(X64.LOCAL_APIC_BYTES);
  private powerOnApicBase = 0n;

  /** @param others indices besides the placed ones, from {@link readMsrIndices} */
  constructor(fd: number, hasLocalApic: boolean, sregs2: boolean, others: readonly number[]) {
    this.fd = fd;
    this.hasLocalApic = hasLocalApic;
    this.sregs2 = sregs2;
    this.placed = msrList(PLACED_MSRS.map(([index]) => index));
    this.others = this.readable(others).slice(0, X64.MAX_OTHER_MSRS);
    const list = msrList(this.others);
    this.call(KvmX64.GET_MSRS, list, "reading MSRs");
    this.others.forEach((index, i) =>
      this.powerOn.set(index, list.getBigUint64(MSRS + i * MSR.sizeof + MSR.data, true))
    );
    if (hasLocalApic) this.call(KvmX64.GET_LAPIC, this.powerOnApic, "reading the APIC");
    this.call(KvmX64.GET_SREGS, this.sregs, "reading system registers");
    this.powerOnApicBase = this.sregs.getBigUint64(SREGS.apic_base, true);
  }

  get(buffer: ArrayBuffer): void {
    const state = checkedView(buffer);
    new Uint8Array(buffer).fill(0);
    state.setUint32(X64.VERSION, X64_STATE_VERSION, true);

    // First: it settles what INIT and SIPI have left pending.
    this.call(Kvm.GET_MP_STATE, this.mp, "reading the run state");
    state.setUint32(X64.ACTIVITY, activityOf(this.mp.getUint32(0, true)), true);

    this.call(KvmX64.GET_REGS, this.regs, "reading registers");
    GPRS.forEach((from, i) => copy64(this.regs, from, state, X64.GPR + i * 8));
    copy64(this.regs, REGS.rip, state, X64.RIP);
    copy64(this.regs, REGS.rflags, state, X64.RFLAGS);

    this.call(this.sregs2 ? KvmX64.GET_SREGS2 : KvmX64.GET_SREGS, this.sregs, "reading system registers");
    SEGMENTS.forEach((from, i) => this.getSegment(from, state, X64.SEGMENTS + i * 16));
    copy64(this.sregs, SREGS.gdt, state, X64.GDTR_BASE);
    copy64(this.sregs, SREGS.idt, state, X64.IDTR_BASE);
    state.setUint32(X64.GDTR_LIMIT, this.sregs.getUint16(SREGS.gdt + 8, true), true);
    state.setUint32(X64.IDTR_LIMIT, this.sregs.getUint16(SREGS.idt + 8, true), true);
    for (const [to, from] of CONTROLS) copy64(this.sregs, from, state, to);
    if (this.sregs2 && this.sregs.getUint32(SREGS.flags, true) & KvmX64.SREGS2_FLAGS_PDPTRS_VALID) {
      state.setUint32(X64.PDPTRS_VALID, 1, true);
      for (let i = 0; i < 32; i += 8) copy64(this.sregs, SREGS.pdptrs + i, state, X64.PDPTRS + i);
    }

    this.call(KvmX64.GET_DEBUGREGS, this.debug, "reading debug registers");
    for (let i = 0; i < 48; i += 8) copy64(this.debug, i, state, X64.DR + i);

    this.call(KvmX64.GET_XSAVE, new Uint8Array(buffer, X64.XSAVE, X64.XSAVE_BYTES), "reading FPU state");
    this.call(KvmX64.GET_XCRS, this.xcrs, "reading XCR0");
    for (let i = 0; i < this.xcrs.getUint32(0, true); i++) {
      const at = KvmX64Struct.kvm_xcrs.xcrs + i * KvmX64Struct.kvm_xcr.sizeof;
      if (this.xcrs.getUint32(at, true) === 0) copy64(this.xcrs, at + KvmX64Struct.kvm_xcr.value, state, X64.XCR0);
    }

    this.call(KvmX64.GET_MSRS, this.placed, "reading MSRs");
    PLACED_MSRS.forEach(([, to], i) => copy64(this.placed, MSRS + i * MSR.sizeof + MSR.data, state, to));
    const others = msrList(this.others);
    const read = this.call(KvmX64.GET_MSRS, others, "reading MSRs");
    state.setUint32(X64.OTHER_MSR_COUNT, read, true);
    new Uint8Array(buffer).set(new Uint8Array(others.buffer, MSRS, read * MSR.sizeof), X64.OTHER_MSRS);

    this.call(KvmX64.GET_VCPU_EVENTS, this.events, "reading pending events");
    const { events } = this;
    const either = (a: number, b: number) => events.getUint8(a) | events.getUint8(b);
    state.setUint8(X64.EXCEPTION_PENDING, either(EVENTS["exception.injected"], EVENTS["exception.pending"]));
    if (state.getUint8(X64.EXCEPTION_PENDING)) {
      state.setUint8(X64.EXCEPTION_VECTOR, events.getUint8(EVENTS["exception.nr"]));
      state.setUint8(X64.EXCEPTION_HAS_ERROR, events.getUint8(EVENTS["exception.has_error_code"]));
      state.setUint32(X64.EXCEPTION_ERROR, events.getUint32(EVENTS["exception.error_code"], true), true);
    }
    state.setUint8(X64.INTERRUPT_INJECTED, events.getUint8(EVENTS["interrupt.injected"]));
    if (state.getUint8(X64.INTERRUPT_INJECTED)) {
      state.setUint8(X64.INTERRUPT_VECTOR, events.getUint8(EVENTS["interrupt.nr"]));
    }
    state.setUint8(X64.INTERRUPT_SHADOW, events.getUint8(EVENTS["interrupt.shadow"]));
    state.setUint8(X64.NMI_PENDING, either(EVENTS["nmi.injected"], EVENTS["nmi.pending"]));
    state.setUint8(X64.NMI_MASKED, events.getUint8(EVENTS["nmi.masked"]));

    if (this.hasLocalApic) {
      this.call(KvmX64.GET_LAPIC, new Uint8Array(buffer, X64.LOCAL_APIC, X64.LOCAL_APIC_BYTES), "reading the APIC");
    }
  }

  set(buffer: ArrayBuffer): void {
    const state = checkedView(buffer);
    const version = state.getUint32(X64.VERSION, true);
    if (version < 1 || version > X64_STATE_VERSION) {
      throw new Error(`vCPU state of version ${version} is not known here`);
    }

    GPRS.forEach((to, i) => copy64(state, X64.GPR + i * 8, this.regs, to));
    copy64(state, X64.RIP, this.regs, REGS.rip);
    copy64(state, X64.RFLAGS, this.regs, REGS.rflags);
    this.call(KvmX64.SET_REGS, this.regs, "setting registers");

    // XCR0 says what XSAVE may hold.
    this.xcrs.setUint32(0, 1, true);
    this.xcrs.setUint32(4, 0, true);
    this.xcrs.setUint32(KvmX64Struct.kvm_xcrs.xcrs, 0, true);
    const xcr0 = state.getBigUint64(X64.XCR0, true);
    // Bit 0 (x87) is always set in a real one; a state made by a loader may leave it out.
    this.xcrs.setBigUint64(KvmX64Struct.kvm_xcrs.xcrs + KvmX64Struct.kvm_xcr.value, xcr0 | 1n, true);
    this.call(KvmX64.SET_XCRS, this.xcrs, "setting XCR0");
    // A copy: KVM takes whole pages' worth, and nothing beyond the area may be read.
    this.call(KvmX64.SET_XSAVE, new Uint8Array(buffer, X64.XSAVE, X64.XSAVE_BYTES), "setting FPU state");

    new Uint8Array(this.sregs.buffer).fill(0);
    SEGMENTS.forEach((to, i) => this.setSegment(state, X64.SEGMENTS + i * 16, to));
    copy64(state, X64.GDTR_BASE, this.sregs, SREGS.gdt);
    copy64(state, X64.IDTR_BASE, this.sregs, SREGS.idt);
    this.sregs.setUint16(SREGS.gdt + 8, state.getUint32(X64.GDTR_LIMIT, true), true);
    this.sregs.setUint16(SREGS.idt + 8, state.getUint32(X64.IDTR_LIMIT, true), true);
    for (const [from, to] of CONTROLS) copy64(state, from, this.sregs, to);
    if (this.sregs2 && state.getUint32(X64.PDPTRS_VALID, true)) {
      this.sregs.setUint32(SREGS.flags, KvmX64.SREGS2_FLAGS_PDPTRS_VALID, true);
      for (let i = 0; i < 32; i += 8) copy64(state, X64.PDPTRS + i, this.sregs, SREGS.pdptrs + i);
    }
    // A loader's state says nothing of the APIC: it is then as at power-on.
    if (state.getBigUint64(X64.APIC_BASE, true) === 0n) {
      this.sregs.setBigUint64(SREGS.apic_base, this.powerOnApicBase, true);
    }
    this.call(this.sregs2 ? KvmX64.SET_SREGS2 : KvmX64.SET_SREGS, this.sregs, "setting system registers");

    for (let i = 0; i < 48; i += 8) copy64(state, X64.DR + i, this.debug, i);
    this.call(KvmX64.SET_DEBUGREGS, this.debug, "setting debug registers");

    // The APIC after APIC_BASE, which says whether it is on; the run state after both.
    if (this.hasLocalApic) {
      const named = hasBytes(state, X64.LOCAL_APIC, X64.LOCAL_APIC_BYTES);
      const page = named ? new Uint8Array(buffer, X64.LOCAL_APIC, X64.LOCAL_APIC_BYTES) : this.powerOnApic;
      this.call(KvmX64.SET_LAPIC, page, "setting the APIC");
    }

    this.setOtherMsrs(state);
    PLACED_MSRS.forEach(([index, from], i) => {
      this.placed.setUint32(MSRS + i * MSR.sizeof, index, true);
      copy64(state, from, this.placed, MSRS + i * MSR.sizeof + MSR.data);
    });
    this.setMsrs(this.placed, PLACED_MSRS.length);

    const { events } = this;
    new Uint8Array(events.buffer).fill(0);
    events.setUint8(EVENTS["exception.injected"], state.getUint8(X64.EXCEPTION_PENDING));
    events.setUint8(EVENTS["exception.nr"], state.getUint8(X64.EXCEPTION_VECTOR));
    events.setUint8(EVENTS["exception.has_error_code"], state.getUint8(X64.EXCEPTION_HAS_ERROR));
    events.setUint32(EVENTS["exception.error_code"], state.getUint32(X64.EXCEPTION_ERROR, true), true);
    events.setUint8(EVENTS["interrupt.injected"], state.getUint8(X64.INTERRUPT_INJECTED));
    events.setUint8(EVENTS["interrupt.nr"], state.getUint8(X64.INTERRUPT_VECTOR));
    events.setUint8(EVENTS["interrupt.shadow"], state.getUint8(X64.INTERRUPT_SHADOW));
    events.setUint8(EVENTS["nmi.pending"], state.getUint8(X64.NMI_PENDING));
    events.setUint8(EVENTS["nmi.masked"], state.getUint8(X64.NMI_MASKED));
    const valid = KvmX64.VCPUEVENT_VALID_NMI_PENDING | KvmX64.VCPUEVENT_VALID_SHADOW;
    events.setUint32(EVENTS.flags, valid, true);
    this.call(KvmX64.SET_VCPU_EVENTS, events, "setting pending events");

    if (this.hasLocalApic) {
      this.mp.setUint32(0, MP_STATES[state.getUint32(X64.ACTIVITY, true)] ?? Kvm.MP_STATE_RUNNABLE, true);
      this.call(Kvm.SET_MP_STATE, this.mp, "setting the run state");
    }
  }

  /** MSRs that a state does not speak of go back to what they were at power-on. */
  private setOtherMsrs(state: DataView): void {
    const values = new Map(this.powerOn);
    const count = Math.min(state.getUint32(X64.OTHER_MSR_COUNT, true), X64.MAX_OTHER_MSRS);
    for (let i = 0; i < count; i++) {
      const at = X64.OTHER_MSRS + i * MSR.sizeof;
      const index = state.getUint32(at, true);
      if (values.has(index)) values.set(index, state.getBigUint64(at + MSR.data, true));
    }
    const list = msrList([...values.keys()]);
    let at = MSRS + MSR.data;
    for (const value of values.values()) {
      list.setBigUint64(at, value, true);
      at += MSR.sizeof;
    }
    this.setMsrs(list, values.size);
  }

  /** KVM_SET_MSRS stops at the first it refuses (read-only ones are among those it lists): go on after it. */
  private setMsrs(list: DataView<ArrayBuffer>, count: number): void {
    let from = 0;
    while (from < count) {
      const rest = new DataView(new ArrayBuffer(MSRS + (count - from) * MSR.sizeof));
      rest.setUint32(0, count - from, true);
      new Uint8Array(rest.buffer).set(new Uint8Array(list.buffer, MSRS + from * MSR.sizeof), MSRS);
      from += this.call(KvmX64.SET_MSRS, rest, "setting MSRs") + 1;
    }
  }

  /** Those of the indices that this vCPU can read. */
  private readable(indices: readonly number[]): number[] {
    const wanted = indices.filter((index) =>
      !ELSEWHERE.has(index) && !isHyperV(index) && !PLACED_MSRS.some(([placed]) => placed === index)
    );
    const result: number[] = [];
    let from = 0;
    while (from < wanted.length) {
      const count = libc().ioctlBuffer(this.fd, KvmX64.GET_MSRS, msrList(wanted.slice(from)));
      if (count < 0) throw systemError(errno(), "reading MSRs");
      result.push(...wanted.slice(from, from + count));
      from += count + 1;
    }
    return result;
  }

  private getSegment(from: number, state: DataView, to: number): void {
    const { sregs } = this;
    const u8 = (offset: number) => sregs.getUint8(from + offset);
    copy64(sregs, from + SEGMENT.base, state, to);
    state.setUint32(to + 8, sregs.getUint32(from + SEGMENT.limit, true), true);
    state.setUint16(to + 12, sregs.getUint16(from + SEGMENT.selector, true), true);
    const present = u8(SEGMENT.present) && !u8(SEGMENT.unusable) ? 1 : 0;
    const attributes = u8(SEGMENT.type) | u8(SEGMENT.s) << 4 | u8(SEGMENT.dpl) << 5 | present << 7 |
      u8(SEGMENT.avl) << 12 | u8(SEGMENT.l) << 13 | u8(SEGMENT.db) << 14 | u8(SEGMENT.g) << 15;
    state.setUint16(to + 14, attributes, true);
  }

  private setSegment(state: DataView, from: number, to: number): void {
    const { sregs } = this;
    const attributes = state.getUint16(from + 14, true);
    copy64(state, from, sregs, to + SEGMENT.base);
    sregs.setUint32(to + SEGMENT.limit, state.getUint32(from + 8, true), true);
    sregs.setUint16(to + SEGMENT.selector, state.getUint16(from + 12, true), true);
    sregs.setUint8(to + SEGMENT.type, attributes & 15);
    sregs.setUint8(to + SEGMENT.s, attributes >> 4 & 1);
    sregs.setUint8(to + SEGMENT.dpl, attributes >> 5 & 3);
    sregs.setUint8(to + SEGMENT.present, attributes >> 7 & 1);
    sregs.setUint8(to + SEGMENT.unusable, ~attributes >> 7 & 1);
    sregs.setUint8(to + SEGMENT.avl, attributes >> 12 & 1);
    sregs.setUint8(to + SEGMENT.l, attributes >> 13 & 1);
    sregs.setUint8(to + SEGMENT.db, attributes >> 14 & 1);
    sregs.setUint8(to + SEGMENT.g, attributes >> 15 & 1);
  }

  private call(request: number, buffer: ArrayBufferView<ArrayBuffer>, what: string): number {
    return check(libc().ioctlBuffer(this.fd, request, buffer as Uint8Array<ArrayBuffer>), what);
  }
}

/** KVM_GET_MSR_INDEX_LIST, what a snapshot must hold as KVM sees it, and the MTRRs. */
export function readMsrIndices(kvmFd: number): number[] {
  const list = new Uint32Array(1024);
  list[0] = list.length - 1;
  check(libc().ioctlBuffer(kvmFd, KvmX64.GET_MSR_INDEX_LIST, list), "reading the list of MSRs");
  return [...new Set([...MTRRS, ...list.subarray(1, 1 + list[0])])];
}

const MP_STATES = [Kvm.MP_STATE_RUNNABLE, Kvm.MP_STATE_HALTED, Kvm.MP_STATE_INIT_RECEIVED];

function activityOf(mpState: number): number {
  if (mpState === Kvm.MP_STATE_HALTED) return 1;
  return mpState === Kvm.MP_STATE_UNINITIALIZED || mpState === Kvm.MP_STATE_INIT_RECEIVED ? 2 : 0;
}

function msrList(indices: readonly number[]): DataView<ArrayBuffer> {
  const list = new DataView(new ArrayBuffer(MSRS + indices.length * MSR.sizeof));
  list.setUint32(0, indices.length, true);
  indices.forEach((index, i) => list.setUint32(MSRS + i * MSR.sizeof, index, true));
  return list;
}

function copy64(from: DataView, fromOffset: number, to: DataView, toOffset: number): void {
  to.setBigUint64(toOffset, from.getBigUint64(fromOffset, true), true);
}

function hasBytes(view: DataView, offset: number, length: number): boolean {
  for (let i = 0; i < length; i += 4) if (view.getUint32(offset + i, true) !== 0) return true;
  return false;
}

function checkedView(buffer: ArrayBuffer): DataView {
  if (buffer.byteLength < X64_STATE_BYTES) {
    throw new RangeError(`a vCPU's state takes ${X64_STATE_BYTES} bytes, not ${buffer.byteLength}`);
  }
  return new DataView(buffer);
}
