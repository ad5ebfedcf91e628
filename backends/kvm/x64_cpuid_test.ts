/** The topology that CPUID tells, for any number of vCPUs. */
import assert from "node:assert/strict";
import { type CpuidEntry, encodeCpuid, guestCpuid, physicalAddressBits } from "./x64_cpuid.ts";

function leaf(number: number, registers: Partial<CpuidEntry>, subleaf = 0, indexed = false): CpuidEntry {
  return { leaf: number, subleaf, indexed, eax: 0, ebx: 0, ecx: 0, edx: 0, ...registers };
}

/** A host with 64 logical CPUs, AMD's and Intel's leaves both, and nested virtualization. */
const host = [
  leaf(0, { eax: 0x1f, ebx: 0x6874_7541 }),
  leaf(1, { eax: 0xa20f10, ebx: 0x3940_0800, ecx: 1 << 5 | 1 << 0, edx: 1 << 28 | 1 }),
  leaf(4, { eax: 0xfc00_4121 }, 0, true),
  leaf(4, { eax: 0xfc1f_c163 }, 3, true),
  leaf(0xb, { eax: 1, ebx: 2, ecx: 0x100, edx: 57 }, 0, true),
  leaf(0x1f, { eax: 1, ebx: 2, ecx: 0x100, edx: 57 }, 0, true),
  leaf(0x4000_0000, { eax: 0x4000_0001, ebx: 0x4b4d_564b }),
  leaf(0x8000_0001, { ecx: 1 << 2 | 1 << 0 }),
  leaf(0x8000_0008, { eax: 0x3030, ecx: 0x603f }),
  leaf(0x8000_000a, { ebx: 16 }),
  leaf(0x8000_001d, { eax: 0x000f_c163 }, 3, true),
  leaf(0x8000_001e, { eax: 57, ebx: 0x11c, ecx: 3 }),
];

function find(entries: CpuidEntry[], number: number, subleaf = 0): CpuidEntry {
  const matches = entries.filter((entry) => entry.leaf === number && entry.subleaf === subleaf);
  assert.equal(matches.length, 1, `leaf ${number.toString(16)}.${subleaf}`);
  return matches[0];
}

for (const [cpus, bits] of [[1, 0], [2, 1], [3, 2], [8, 3], [254, 8]] as const) {
  Deno.test(`CPUID of ${cpus} vCPUs: one package of single-thread cores`, () => {
    for (const index of new Set([0, cpus - 1])) {
      const entries = guestCpuid(host, index, cpus, true, true);
      const one = find(entries, 1);
      assert.equal(one.ebx >>> 24, index);
      assert.equal(one.ebx >>> 16 & 0xff, Math.min(1 << bits, 255));
      assert.equal(one.edx >>> 28 & 1, cpus > 1 ? 1 : 0);
      const smt = find(entries, 0xb, 0);
      const core = find(entries, 0xb, 1);
      assert.deepEqual([smt.eax, smt.ebx, smt.ecx, smt.edx], [0, 1, 0x100, index]);
      assert.deepEqual([core.eax, core.ebx, core.ecx, core.edx], [bits, cpus, 0x201, index]);
      assert.equal(find(entries, 0x1f, 1).ebx, cpus);
      assert.equal(find(entries, 4, 0).eax >>> 26, Math.min((1 << bits) - 1, 63));
      assert.equal(find(entries, 4, 0).eax >>> 14 & 0xfff, 0, "level 1 is one CPU's");
      assert.equal(find(entries, 4, 3).eax >>> 14 & 0xfff, cpus - 1, "level 3 is the package's");
      assert.equal(find(entries, 0x8000_001d, 3).eax >>> 14 & 0xfff, cpus - 1);
      assert.equal(find(entries, 0x8000_0008).ecx, bits << 12 | (cpus - 1));
      assert.equal(find(entries, 0x8000_001e).eax, index);
      assert.equal(find(entries, 0x8000_001e).ecx, 0);
    }
  });
}

Deno.test("CPUID: hypervisor bit, timers, nested virtualization", () => {
  const entries = guestCpuid(host, 0, 2, true, true);
  const { ecx } = find(entries, 1);
  assert.equal(ecx >>> 31, 1, "hypervisor");
  assert.equal(ecx >>> 24 & 1, 1, "TSC deadline");
  assert.equal(ecx >>> 21 & 1, 1, "x2APIC");
  assert.equal(ecx >>> 5 & 1, 0, "VMX");
  assert.equal(find(entries, 0x8000_0001).ecx >>> 2 & 1, 0, "SVM");
  assert.equal(find(entries, 0x8000_0001).ecx >>> 1 & 1, 1, "CmpLegacy");
  assert.ok(!entries.some(({ leaf }) => leaf === 0x8000_000a));
  assert.equal(find(entries, 0x4000_0000).ebx, 0x4b4d_564b);
  const without = find(guestCpuid(host, 0, 1, false, false), 1);
  assert.equal(without.ecx >>> 24 & 1, 0);
  assert.equal(without.ecx >>> 21 & 1, 0);
  assert.equal(physicalAddressBits(host), 48);
});

Deno.test("CPUID: the struct has a header of two words and ten for each entry", () => {
  const words = encodeCpuid([leaf(7, { ebx: 5, edx: 9 }, 2, true)]);
  assert.deepEqual([...words], [1, 0, 7, 2, 1, 0, 5, 0, 9, 0, 0, 0]);
});
