/**
 * What the guest is told of its hypervisor: that there is one, and nothing it would have to speak Hyper-V's language
 * with. A guest that saw Microsoft's signature would ask for hypercall pages and reference clocks that WHPX serves only
 * in part; without it, stock kernels take the TSC, HPET and PIT of a plain PC.
 */
import { Struct } from "./abi.ts";

const RESULT = Struct.WHV_X64_CPUID_RESULT;
/** First leaf of hypervisors (Microsoft Hypervisor Top Level Functional Specification, 2.4). */
const HYPERVISOR_LEAF = 0x4000_0000;
/** Twelve letters for EBX, ECX, EDX, as KVMKVMKVM and VMwareVMware have. */
const SIGNATURE = "hv.on.deno.x";

/** WHV_X64_CPUID_RESULT[]: answers of ours, in place of the platform's. */
export function cpuidResults(): Uint8Array<ArrayBuffer> {
  const entry = new DataView(new ArrayBuffer(RESULT.sizeof));
  const letters = new TextEncoder().encode(SIGNATURE);
  entry.setUint32(RESULT.Function, HYPERVISOR_LEAF, true);
  // The highest hypervisor leaf is this one.
  entry.setUint32(RESULT.Eax, HYPERVISOR_LEAF, true);
  new Uint8Array(entry.buffer).set(letters, RESULT.Ebx);
  return new Uint8Array(entry.buffer);
}

/** Leaf 1, which tells of the local APIC (SDM vol. 2, CPUID, tables 3-10 and 3-11). */
const FEATURES_LEAF = 1;
const ECX_X2APIC = 1 << 21;
const ECX_TSC_DEADLINE = 1 << 24;
const EDX_APIC = 1 << 9;

/**
 * UINT32[]: leaves whose CPUID leaves the guest. None where the local APIC is the platform's, which then tells of it
 * itself. One of ours is an xAPIC: its timer does not know the guest's TSC, and its registers are in memory.
 */
export function cpuidExits(localApic: boolean): Uint32Array<ArrayBuffer> {
  return localApic ? new Uint32Array() : Uint32Array.of(FEATURES_LEAF);
}

/** ECX of a leaf of {@link cpuidExits}, from what the platform would say. */
export function cpuidEcx(leaf: number, ecx: number): number {
  return leaf === FEATURES_LEAF ? ecx & ~(ECX_X2APIC | ECX_TSC_DEADLINE) : ecx;
}

/** EDX of such a leaf. */
export function cpuidEdx(leaf: number, edx: number): number {
  return leaf === FEATURES_LEAF ? edx | EDX_APIC : edx;
}
