/**
 * CPUID as the guest sees it: what KVM supports here, with the topology of one package of single-thread cores, the
 * vCPU's own identity, and without what a snapshot could not hold (nested virtualization).
 */
import { Errno, errno, libc, systemError } from "./abi.ts";
import { KvmX64, KvmX64Struct } from "./x64_abi.ts";

const ENTRY = KvmX64Struct.kvm_cpuid_entry2;
const ENTRIES = KvmX64Struct.kvm_cpuid2.entries;
const MAX_ENTRIES = 256;

/** What CPUID answers for one leaf and subleaf. */
export interface CpuidEntry {
  leaf: number;
  subleaf: number;
  /** Whether the subleaf matters. */
  indexed: boolean;
  eax: number;
  ebx: number;
  ecx: number;
  edx: number;
}

/** KVM_GET_SUPPORTED_CPUID. */
export function supportedCpuid(kvmFd: number): CpuidEntry[] {
  const buffer = new Uint32Array((ENTRIES + MAX_ENTRIES * ENTRY.sizeof) / 4);
  buffer[0] = MAX_ENTRIES;
  if (libc().ioctlBuffer(kvmFd, KvmX64.GET_SUPPORTED_CPUID, buffer) < 0) {
    const code = errno();
    throw systemError(code, code === Errno.E2BIG ? "KVM reports more CPUID leaves than expected" : "reading CPUID");
  }
  const entries: CpuidEntry[] = [];
  for (let i = 0; i < buffer[0]; i++) {
    const at = (ENTRIES + i * ENTRY.sizeof) / 4;
    const [leaf, subleaf, flags, eax, ebx, ecx, edx] = buffer.subarray(at, at + 7);
    entries.push({ leaf, subleaf, indexed: (flags & KvmX64.CPUID_FLAG_SIGNIFCANT_INDEX) !== 0, eax, ebx, ecx, edx });
  }
  return entries;
}

/** struct kvm_cpuid2. */
export function encodeCpuid(entries: readonly CpuidEntry[]): Uint32Array<ArrayBuffer> {
  const buffer = new Uint32Array((ENTRIES + entries.length * ENTRY.sizeof) / 4);
  buffer[0] = entries.length;
  entries.forEach((entry, i) => {
    const flags = entry.indexed ? KvmX64.CPUID_FLAG_SIGNIFCANT_INDEX : 0;
    const { leaf, subleaf, eax, ebx, ecx, edx } = entry;
    buffer.set([leaf, subleaf, flags, eax, ebx, ecx, edx], (ENTRIES + i * ENTRY.sizeof) / 4);
  });
  return buffer;
}

/** Width of guest physical addresses: CPUID 80000008h EAX[7:0] (AMD APM vol. 3, E.4.7). */
export function physicalAddressBits(entries: readonly CpuidEntry[]): number {
  return entries.find((entry) => entry.leaf === 0x8000_0008)?.eax! & 0xff || 36;
}

const bit = (n: number) => (1 << n) >>> 0;

/**
 * @param supported of {@link supportedCpuid}
 * @param index the vCPU, which is its APIC id too
 * @param cpus vCPUs in the package
 * @param tscDeadline whether the partition's local APIC has that timer mode
 * @param localApic whether the partition has local APICs of its own
 */
export function guestCpuid(
  supported: readonly CpuidEntry[],
  index: number,
  cpus: number,
  tscDeadline: boolean,
  localApic: boolean,
): CpuidEntry[] {
  // Bits of an APIC id that number the cores.
  const coreBits = cpus > 1 ? 32 - Math.clz32(cpus - 1) : 0;
  const entries: CpuidEntry[] = [];
  for (const original of supported) {
    const entry = { ...original };
    switch (entry.leaf) {
      case 0x1: // SDM vol. 2, CPUID, leaf 01h
        entry.ebx = (entry.ebx & 0xffff) | (Math.min(1 << coreBits, 255) << 16) | (index << 24);
        entry.ecx |= bit(31); // a hypervisor is present
        entry.ecx &= ~bit(5); // VMX
        entry.ecx = localApic ? entry.ecx | bit(21) : entry.ecx & ~bit(21); // x2APIC
        entry.ecx = tscDeadline ? entry.ecx | bit(24) : entry.ecx & ~bit(24);
        entry.edx = cpus > 1 ? entry.edx | bit(28) : entry.edx & ~bit(28); // HTT: more than one logical processor
        break;
      case 0x4: // Intel's deterministic cache parameters
        entry.eax = shareCache(entry.eax, cpus) & 0x03ff_ffff | ((1 << coreBits) - 1) << 26;
        break;
      case 0xb:
      case 0x1f: // extended topology: made below
        continue;
      case 0x8000_0001:
        entry.ecx &= ~bit(2); // SVM
        entry.ecx = cpus > 1 ? entry.ecx | bit(1) : entry.ecx & ~bit(1); // CmpLegacy: the logical CPUs are cores
        break;
      case 0x8000_0008: // AMD APM vol. 3, E.4.7: cores less one, and bits of their ids
        entry.ecx = (entry.ecx & ~0xf0ff) | (cpus - 1) | (coreBits << 12);
        break;
      case 0x8000_000a: // SVM features
        continue;
      case 0x8000_001d: // AMD's cache topology
        entry.eax = shareCache(entry.eax, cpus);
        break;
      case 0x8000_001e: // AMD's processor topology: APIC id, core, node
        entry.eax = index;
        entry.ebx = index & 0xff;
        entry.ecx = 0;
        break;
    }
    for (const register of ["eax", "ebx", "ecx", "edx"] as const) entry[register] >>>= 0;
    entries.push(entry);
  }
  const highest = entries.find((entry) => entry.leaf === 0);
  for (const leaf of [0xb, 0x1f]) {
    // 1Fh stands only where the CPU had it.
    if (leaf === 0x1f && !supported.some((entry) => entry.leaf === leaf)) continue;
    if (highest && highest.eax < leaf) highest.eax = leaf;
    // SDM vol. 2, leaf 0Bh: level 0 is threads of a core (type 1), level 1 cores of the package (type 2), then none.
    entries.push(
      { leaf, subleaf: 0, indexed: true, eax: 0, ebx: 1, ecx: 0x100, edx: index },
      { leaf, subleaf: 1, indexed: true, eax: coreBits, ebx: cpus, ecx: 0x201, edx: index },
      { leaf, subleaf: 2, indexed: true, eax: 0, ebx: 0, ecx: 2, edx: index },
    );
  }
  return entries;
}

/** EAX[25:14] of leaves 4 and 8000001Dh: logical CPUs sharing a cache, less one. Level 3 is the package's. */
function shareCache(eax: number, cpus: number): number {
  if ((eax & 0x1f) === 0) return eax;
  const level = (eax >> 5) & 7;
  return eax & ~(0xfff << 14) | (level >= 3 ? cpus - 1 : 0) << 14;
}
