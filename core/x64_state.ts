/**
 * The architectural state of an x86-64 vCPU in one portable layout: what `Vcpu.getState` writes and `setState` reads,
 * whatever the backend. All numbers little-endian; offsets in bytes. Segment attributes have the form of a VMCS access
 * rights field (Intel SDM vol. 3, 25.4.1): bits 0-3 type, 4 S, 5-6 DPL, 7 P, 12 AVL, 13 L, 14 D/B, 15 G.
 */

/** Layout version, at {@link X64.VERSION}. Additive changes raise it. */
export const X64_STATE_VERSION = 1;

/** Byte offsets in the state. */
export const X64 = {
  VERSION: 0, // u32
  /** u32: 0 runnable, 1 halted, 2 waiting for SIPI (after INIT, or an application processor at reset). */
  ACTIVITY: 4,
  /** 16 u64: rax rcx rdx rbx rsp rbp rsi rdi r8..r15 (the order of ModR/M). */
  GPR: 8,
  RIP: 136,
  RFLAGS: 144,
  /** 6 segments of {@link SEGMENT_BYTES}: es cs ss ds fs gs (the order of ModR/M), then ldtr, tr. */
  SEGMENTS: 152,
  GDTR_BASE: 280,
  IDTR_BASE: 288,
  GDTR_LIMIT: 296, // u32
  IDTR_LIMIT: 300, // u32
  CR0: 304,
  CR2: 312,
  CR3: 320,
  CR4: 328,
  CR8: 336,
  EFER: 344,
  XCR0: 352,
  /** dr0 dr1 dr2 dr3 dr6 dr7, u64 each. */
  DR: 360,
  APIC_BASE: 408,
  TSC: 416,
  STAR: 424,
  LSTAR: 432,
  CSTAR: 440,
  SFMASK: 448,
  KERNEL_GS_BASE: 456,
  SYSENTER_CS: 464,
  SYSENTER_ESP: 472,
  SYSENTER_EIP: 480,
  PAT: 488,
  TSC_AUX: 496,
  TSC_DEADLINE: 504,
  MISC_ENABLE: 512,
  /** Interrupt state: u8 each. */
  EXCEPTION_PENDING: 520,
  EXCEPTION_VECTOR: 521,
  EXCEPTION_HAS_ERROR: 522,
  /** 1 while STI or MOV SS holds interrupts off, as KVM_X86_SHADOW_INT_*: bit 0 MOV SS, bit 1 STI. */
  INTERRUPT_SHADOW: 523,
  NMI_MASKED: 524,
  NMI_PENDING: 525,
  INTERRUPT_INJECTED: 526,
  INTERRUPT_VECTOR: 527,
  EXCEPTION_ERROR: 528, // u32
  /** u32: 1 when {@link X64.PDPTRS} are the four loaded page-directory pointers of PAE paging (SDM vol. 3, 4.4.1). */
  PDPTRS_VALID: 532,
  PDPTRS: 536,
  /** FXSAVE64 image, 512 bytes (SDM vol. 1, 10.5.1), then the standard-format XSAVE header and extended areas. */
  XSAVE: 576,
  XSAVE_BYTES: 4096,
  /** Local APIC register page, 1 KiB: 64 registers of 16 bytes (SDM vol. 3, 11.4.1). Zero when the machine owns it. */
  LOCAL_APIC: 4672,
  LOCAL_APIC_BYTES: 1024,
  /**
   * MSRs without a place above (MTRRs, paravirtual clock, speculation control ...), as many as the backend has: a u32
   * count, then index u32, reserved u32, value u64 each. Those a state does not name take their power-on value.
   */
  OTHER_MSR_COUNT: 5696,
  OTHER_MSRS: 5704,
  MAX_OTHER_MSRS: 160,
} as const;

/**
 * Makes the power-on state of another vCPU that of one on which firmware has run, too: with the boot state's MSRs that
 * have no place of their own, and a TSC of zero, which leaves it in step with vCPU 0's.
 */
export function afterFirmware(bootState: ArrayBufferLike, powerOn: ArrayBuffer): void {
  const others = powerOn.byteLength - X64.OTHER_MSR_COUNT;
  new Uint8Array(powerOn, X64.OTHER_MSR_COUNT).set(new Uint8Array(bootState, X64.OTHER_MSR_COUNT, others));
  new DataView(powerOn).setBigUint64(X64.TSC, 0n, true);
}

/** One segment: base u64, limit u32 (in bytes), selector u16, attributes u16 (bit 15 of which is G; unusable: P = 0). */
export const SEGMENT_BYTES = 16;

/** Bytes of the whole state. */
export const X64_STATE_BYTES = 8264;

/** Names in the order of {@link X64.GPR}. */
export const GPR_NAMES = [
  "rax",
  "rcx",
  "rdx",
  "rbx",
  "rsp",
  "rbp",
  "rsi",
  "rdi",
  "r8",
  "r9",
  "r10",
  "r11",
  "r12",
  "r13",
  "r14",
  "r15",
] as const;

/** Names in the order of {@link X64.SEGMENTS}. */
export const SEGMENT_NAMES = ["es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"] as const;
