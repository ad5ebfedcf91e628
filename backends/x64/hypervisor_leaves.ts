/**
 * What CPUID says of the hypervisor where the answer is a backend's own: KVM's interface, with none of its features
 * (Linux, Documentation/virt/kvm/x86/cpuid.rst; its layout is made for others to serve too).
 *
 * A stock kernel has to know the name. One that it does not know makes Linux prove the 8254 as on a PC of the nineties:
 * five ticks within 40 000 000 000 / HZ cycles of the TSC, else it panics, and a busy host is late with them. Under KVM,
 * Hyper-V and VMware it does not (`no_timer_check`). Of the three only KVM's interface asks for nothing: each MSR, each
 * hypercall and each shared page has a bit of its own, and all are clear. Hyper-V's wants a hypercall page and MSRs,
 * VMware's a port.
 */

/** Answers of one CPUID leaf. */
export interface CpuidLeaf {
  readonly leaf: number;
  readonly eax: number;
  readonly ebx: number;
  readonly ecx: number;
  readonly edx: number;
}

/** KVM_CPUID_SIGNATURE and KVM_CPUID_FEATURES (Linux, arch/x86/include/uapi/asm/kvm_para.h). */
const SIGNATURE_LEAF = 0x4000_0000;
const FEATURES_LEAF = 0x4000_0001;
const SIGNATURE = "KVMKVMKVM\0\0\0";

/** Four letters of a text, as CPUID has them in a register; zeroes behind its end. */
export function lettersAt(text: string, at: number): number {
  let value = 0;
  for (let i = 0; i < 4; i++) value |= text.charCodeAt(at + i) << (8 * i);
  return value;
}

const letters = (at: number) => lettersAt(SIGNATURE, at);

/** All leaves from 40000000h on that there are. */
export const HYPERVISOR_LEAVES: readonly CpuidLeaf[] = [
  // EAX: the highest of them.
  { leaf: SIGNATURE_LEAF, eax: FEATURES_LEAF, ebx: letters(0), ecx: letters(4), edx: letters(8) },
  // EAX: features; EDX: hints.
  { leaf: FEATURES_LEAF, eax: 0, ebx: 0, ecx: 0, edx: 0 },
];
