/** CPUID over WHPX: what the platform says, but for the hypervisor's leaves and what depends on the local APIC. */
import { HYPERVISOR_LEAVES } from "../x64/hypervisor_leaves.ts";
import { Struct } from "./abi.ts";

const RESULT = Struct.WHV_X64_CPUID_RESULT;

/**
 * WHV_X64_CPUID_RESULT[]: answers of ours, in place of the platform's. A guest that saw Microsoft's signature would ask
 * for hypercall pages and reference clocks that WHPX serves only in part.
 */
export function cpuidResults(): Uint8Array<ArrayBuffer> {
  const results = new DataView(new ArrayBuffer(HYPERVISOR_LEAVES.length * RESULT.sizeof));
  HYPERVISOR_LEAVES.forEach(({ leaf, eax, ebx, ecx, edx }, i) => {
    const at = i * RESULT.sizeof;
    results.setUint32(at + RESULT.Function, leaf, true);
    results.setUint32(at + RESULT.Eax, eax, true);
    results.setUint32(at + RESULT.Ebx, ebx, true);
    results.setUint32(at + RESULT.Ecx, ecx, true);
    results.setUint32(at + RESULT.Edx, edx, true);
  });
  return new Uint8Array(results.buffer);
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
