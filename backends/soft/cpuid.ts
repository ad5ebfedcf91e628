/** What CPUID says: exactly what the instruction table has. */

import { TSC_FREQUENCY } from "../../core/clock.ts";
import { HYPERVISOR_LEAVES, lettersAt } from "../x64/hypervisor_leaves.ts";

const VENDOR = "GenuineIntel";
const BRAND = "hv software CPU (x86-64-v2)";

const bits = (...numbers: number[]) => numbers.reduce((all, n) => all | (1 << n), 0);

/** What the vCPU knows that the answer depends on. */
export interface CpuidContext {
  index: number;
  cpus: number;
  /** CR4.OSXSAVE */
  osxsave: boolean;
  x2apic: boolean;
}

/** Answers a leaf into `out`: EAX EBX ECX EDX. */
export function cpuid(leaf: number, subleaf: number, context: CpuidContext, out: Int32Array): void {
  out.fill(0);
  const set = (a: number, b: number, c: number, d: number) => {
    out[0] = a;
    out[1] = b;
    out[2] = c;
    out[3] = d;
  };
  switch (leaf >>> 0) {
    case 0:
      return set(0x16, lettersAt(VENDOR, 0), lettersAt(VENDOR, 8), lettersAt(VENDOR, 4));
    case 1:
      return set(
        // Family 6, model 9EH, stepping 13.
        0x000906ed,
        (context.index << 24) | (Math.max(1, context.cpus) << 16) | (8 << 8),
        // SSE3 PCLMULQDQ SSSE3 CX16 PCID SSE4.1 SSE4.2 x2APIC MOVBE POPCNT TSC-deadline AES XSAVE RDRAND hypervisor; OSXSAVE
        bits(0, 1, 9, 13, 17, 19, 20, 22, 23, 25, 26, 30, 31) | (context.osxsave ? bits(27) : 0) |
          (context.x2apic ? bits(21, 24) : 0),
        // FPU VME- DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR (none) PGE MCA CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2 HTT
        bits(0, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26) |
          (context.cpus > 1 ? bits(28) : 0),
      );
    case 4:
      return;
    case 7:
      // BHI_CTRL: there is no branch history to poison, so the kernel need not clear it at every system call.
      if (subleaf === 2) return set(0, 0, 0, bits(4));
      if (subleaf !== 0) return;
      // FSGSBASE TSC_ADJUST SMEP INVPCID SMAP SHA; EDX: ARCH_CAPABILITIES, IBRS. With TSC_ADJUST Linux trusts an
      // invariant TSC: its watchdog takes a host that is busy between two reads of the HPET for a TSC that is not.
      return set(2, bits(0, 1, 7, 10, 20, 29), 0, bits(26, 29));
    case 0xb:
      if (subleaf === 0) return set(0, 1, 0x100, context.index);
      if (subleaf === 1) {
        return set(Math.ceil(Math.log2(Math.max(1, context.cpus))), context.cpus, 0x201, context.index);
      }
      return set(0, 0, subleaf, context.index);
    case 0xd:
      // x87 and SSE in 576 bytes; XSAVEOPT XSAVEC XGETBV(1) (SDM vol. 1, 13.2).
      if (subleaf === 0) return set(3, 576, 576, 0);
      if (subleaf === 1) return set(7, 576, 0, 0);
      return;
    case 0x15:
      // TSC = crystal * EBX / EAX.
      return set(1, TSC_FREQUENCY / 25_000_000, 25_000_000, 0);
    case 0x16:
      return set(TSC_FREQUENCY / 1_000_000, TSC_FREQUENCY / 1_000_000, 100, 0);
    case 0x4000_0000:
    case 0x4000_0001: {
      const { eax, ebx, ecx, edx } = HYPERVISOR_LEAVES[leaf & 1];
      return set(eax, ebx, ecx, edx);
    }
    case 0x8000_0000:
      return set(0x8000_0008 | 0, 0, 0, 0);
    case 0x8000_0001:
      // LAHF PREFETCHW; SYSCALL NX 1-GiB pages RDTSCP long mode
      return set(0, 0, bits(0, 8), bits(11, 20, 26, 27, 29));
    case 0x8000_0002:
    case 0x8000_0003:
    case 0x8000_0004: {
      const at = ((leaf & 0xf) - 2) * 16;
      return set(lettersAt(BRAND, at), lettersAt(BRAND, at + 4), lettersAt(BRAND, at + 8), lettersAt(BRAND, at + 12));
    }
    case 0x8000_0007:
      // Invariant TSC.
      return set(0, 0, 0, bits(8));
    case 0x8000_0008:
      return set(40 | (48 << 8), 0, 0, 0);
  }
}
