/**
 * MSRs that stock kernels touch without asking first, before they can take the #GP a missing one raises (Linux'
 * arch/x86/kernel/verify_cpu.S reads IA32_MISC_ENABLE with no IDT), and that WHPX does not answer on every host.
 * Reads give these values, writes are dropped. Intel SDM vol. 4, table 2-2; AMD APM vol. 2, appendix A.
 */
const VALUES: readonly (readonly [index: number, low: number, high: number])[] = [
  [0x17, 0, 0], // IA32_PLATFORM_ID
  [0x3a, 1, 0], // IA32_FEATURE_CONTROL: locked, no VMX
  [0x8b, 0, 1], // IA32_BIOS_SIGN_ID: a microcode revision
  [0xce, 0, 0], // MSR_PLATFORM_INFO
  [0x140, 0, 0], // MISC_FEATURE_ENABLES
  [0x179, 0, 0], // IA32_MCG_CAP: no machine-check banks
  [0x17a, 0, 0], // IA32_MCG_STATUS
  [0x1a0, 1, 0], // IA32_MISC_ENABLE: fast strings, as firmware leaves it
  [0x1d9, 0, 0], // IA32_DEBUGCTL
  [0xc001_0010, 0, 0], // SYSCFG
  [0xc001_0015, 0, 0], // HWCR
  [0xc001_001f, 0, 0], // NB_CFG
  [0xc001_0114, 0, 0], // VM_CR
  [0xc001_1029, 0, 0], // DE_CFG
];

const INDICES = Int32Array.from(VALUES, ([index]) => index | 0);
const WORDS = Int32Array.from(VALUES.flatMap(([, low, high]) => [low, high]));

/** IA32_MISC_ENABLE as {@link VALUES} has it: it has no place among WHPX's registers. */
export const MISC_ENABLE = 1n;

/**
 * Answers a read of one of the known MSRs into two words, low first.
 * @param index as an int32
 * @returns false for all others
 */
export function readKnownMsr(index: number, value: Int32Array): boolean {
  const at = INDICES.indexOf(index);
  if (at < 0) return false;
  value[0] = WORDS[at * 2];
  value[1] = WORDS[at * 2 + 1];
  return true;
}

/** Whether a write of this MSR is dropped. */
export function dropsWrite(index: number): boolean {
  return INDICES.indexOf(index) >= 0;
}

/** MSRs that belong to the local APIC: APIC base, TSC deadline, x2APIC's registers (SDM vol. 3, 11.12). */
export function isApicMsr(index: number): boolean {
  return index === 0x1b || index === 0x6e0 || (index >= 0x800 && index <= 0x8ff);
}
