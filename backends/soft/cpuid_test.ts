/**
 * CPUID says what the instruction table has, and nothing else: every encoding is asked of a decoder by others, which
 * names the feature that each instruction belongs to. What is advertised must decode and run, what is not must be #UD.
 */
import assert from "node:assert/strict";
import { Exit } from "../../core/hypervisor.ts";
import { X64 } from "../../core/x64_state.ts";
import { startState } from "../../tests/conformance/guest.ts";
import { needs } from "../../tests/skip.ts";
import { cpuid } from "./cpuid.ts";
import { decode } from "./decode.ts";
import { soft } from "./hypervisor.ts";
import "./isa/all.ts";

const iced = await import("iced-x86").catch(() => null);
const ignore = needs(iced !== null, "CPUID against the instruction table", "it needs the npm package iced-x86");

/** A bit of CPUID: leaf, subleaf, register (0 EAX, 1 EBX, 2 ECX, 3 EDX), bit. */
type Bit = readonly [leaf: number, subleaf: number, register: number, bit: number];
const bit1c = (bit: number): Bit => [1, 0, 2, bit];
const bit1d = (bit: number): Bit => [1, 0, 3, bit];
const bit7b = (bit: number): Bit => [7, 0, 1, bit];
const bit7c = (bit: number): Bit => [7, 0, 2, bit];
const bit7d = (bit: number): Bit => [7, 0, 3, bit];
const bit71a = (bit: number): Bit => [7, 1, 0, bit];
const extendedC = (bit: number): Bit => [0x8000_0001, 0, 2, bit];
const extendedD = (bit: number): Bit => [0x8000_0001, 0, 3, bit];

/** Bits of features that are instructions, by the decoder's name (SDM vol. 2, CPUID; AMD APM vol. 3, E.3 and E.4). */
const INSTRUCTIONS: Record<string, Bit> = {
  FPU: bit1d(0),
  FPU287: bit1d(0),
  FPU387: bit1d(0),
  TSC: bit1d(4),
  MSR: bit1d(5),
  CX8: bit1d(8),
  SEP: bit1d(11),
  CMOV: bit1d(15),
  CLFSH: bit1d(19),
  MMX: bit1d(23),
  FXSR: bit1d(24),
  SSE: bit1d(25),
  SSE2: bit1d(26),
  SSE3: bit1c(0),
  PCLMULQDQ: bit1c(1),
  MONITOR: bit1c(3),
  VMX: bit1c(5),
  SMX: bit1c(6),
  SSSE3: bit1c(9),
  FMA: bit1c(12),
  CMPXCHG16B: bit1c(13),
  SSE4_1: bit1c(19),
  SSE4_2: bit1c(20),
  MOVBE: bit1c(22),
  POPCNT: bit1c(23),
  AES: bit1c(25),
  XSAVE: bit1c(26),
  AVX: bit1c(28),
  F16C: bit1c(29),
  RDRAND: bit1c(30),
  FSGSBASE: bit7b(0),
  SGX1: bit7b(2),
  BMI1: bit7b(3),
  HLE: bit7b(4),
  AVX2: bit7b(5),
  BMI2: bit7b(8),
  INVPCID: bit7b(10),
  RTM: bit7b(11),
  HLE_or_RTM: bit7b(11),
  AVX512F: bit7b(16),
  AVX512DQ: bit7b(17),
  RDSEED: bit7b(18),
  ADX: bit7b(19),
  SMAP: bit7b(20),
  AVX512_IFMA: bit7b(21),
  CLFLUSHOPT: bit7b(23),
  CLWB: bit7b(24),
  AVX512CD: bit7b(28),
  SHA: bit7b(29),
  AVX512BW: bit7b(30),
  AVX512VL: bit7b(31),
  PREFETCHWT1: bit7c(0),
  AVX512_VBMI: bit7c(1),
  PKU: bit7c(3),
  WAITPKG: bit7c(5),
  AVX512_VBMI2: bit7c(6),
  CET_SS: bit7c(7),
  GFNI: bit7c(8),
  VAES: bit7c(9),
  VPCLMULQDQ: bit7c(10),
  AVX512_VNNI: bit7c(11),
  AVX512_BITALG: bit7c(12),
  AVX512_VPOPCNTDQ: bit7c(14),
  RDPID: bit7c(22),
  CLDEMOTE: bit7c(25),
  MOVDIRI: bit7c(27),
  MOVDIR64B: bit7c(28),
  ENQCMD: bit7c(29),
  UINTR: bit7d(5),
  AVX512_VP2INTERSECT: bit7d(8),
  SERIALIZE: bit7d(14),
  TSXLDTRK: bit7d(16),
  PCONFIG: bit7d(18),
  CET_IBT: bit7d(20),
  AMX_BF16: bit7d(22),
  AVX512_FP16: bit7d(23),
  AMX_TILE: bit7d(24),
  AMX_INT8: bit7d(25),
  RAO_INT: bit71a(3),
  AVX_VNNI: bit71a(4),
  FRED: bit71a(17),
  LKGS: bit71a(18),
  WRMSRNS: bit71a(19),
  HRESET: bit71a(22),
  XSAVEOPT: [0xd, 1, 0, 0],
  XSAVEC: [0xd, 1, 0, 1],
  XSAVES: [0xd, 1, 0, 3],
  SVM: extendedC(2),
  LZCNT: extendedC(5),
  SSE4A: extendedC(6),
  PREFETCHW: extendedC(8),
  XOP: extendedC(11),
  SKINIT_or_SVM: extendedC(12),
  LWP: extendedC(15),
  FMA4: extendedC(16),
  TBM: extendedC(21),
  MONITORX: extendedC(29),
  SYSCALL: extendedD(11),
  RDTSCP: extendedD(27),
  X64: extendedD(29),
  D3NOWEXT: extendedD(30),
  D3NOW: extendedD(31),
  CLZERO: [0x8000_0008, 0, 1, 0],
  RDPRU: [0x8000_0008, 0, 1, 4],
  WBNOINVD: [0x8000_0008, 0, 1, 9],
};

/** Instructions that every x86-64 processor has, without a bit. All other names are extensions we do not know. */
const ALWAYS = new Set([
  "INTEL8086",
  "INTEL186",
  "INTEL286",
  "INTEL386",
  "INTEL486",
  "CPUID",
  "MULTIBYTENOP",
  "PAUSE",
  "RDPMC",
]);

/** Bits that are no instruction's: what they stand for. */
const OTHERS: readonly (readonly [name: string, bit: Bit])[] = [
  ["debugging extensions", bit1d(2)],
  ["4-MiB pages", bit1d(3)],
  ["PAE", bit1d(6)],
  ["machine check exception", bit1d(7)],
  ["local APIC", bit1d(9)],
  ["MTRRs: none, and switched off", bit1d(12)],
  ["global pages", bit1d(13)],
  ["machine check architecture", bit1d(14)],
  ["PAT", bit1d(16)],
  ["36-bit addresses of 4-MiB pages", bit1d(17)],
  ["more than one logical processor", bit1d(28)],
  ["process-context identifiers", bit1c(17)],
  ["x2APIC", bit1c(21)],
  ["TSC deadline", bit1c(24)],
  ["CR4.OSXSAVE", bit1c(27)],
  ["hypervisor", bit1c(31)],
  ["IA32_TSC_ADJUST", bit7b(1)],
  ["SMEP", bit7b(7)],
  ["IBRS and IBPB: IA32_SPEC_CTRL, IA32_PRED_CMD", bit7d(26)],
  ["IA32_ARCH_CAPABILITIES", bit7d(29)],
  ["BHI_DIS_S in IA32_SPEC_CTRL", [7, 2, 3, 4]],
  ["XGETBV of 1", [0xd, 1, 0, 2]],
  ["LAHF in 64-bit mode", extendedC(0)],
  ["NX", extendedD(20)],
  ["1-GiB pages", extendedD(26)],
  ["invariant TSC", [0x8000_0007, 0, 3, 8]],
];

/** Registers of CPUID that are feature bits. */
const WORDS: readonly (readonly [leaf: number, subleaf: number, register: number])[] = [
  [1, 0, 2],
  [1, 0, 3],
  [7, 0, 1],
  [7, 0, 2],
  [7, 0, 3],
  ...[0, 1, 2, 3].flatMap((register) => [[7, 1, register], [7, 2, register]] as const),
  [0xd, 1, 0],
  [0x8000_0001, 0, 2],
  [0x8000_0001, 0, 3],
  [0x8000_0007, 0, 3],
  [0x8000_0008, 0, 1],
];

const answer = new Int32Array(4);
function word(leaf: number, subleaf: number, register: number): number {
  cpuid(leaf, subleaf, { index: 0, cpus: 2, osxsave: true, x2apic: true }, answer);
  return answer[register];
}
const has = ([leaf, subleaf, register, bit]: Bit) => (word(leaf, subleaf, register) >>> bit & 1) !== 0;
const advertised = new Set([
  ...ALWAYS,
  ...Object.keys(INSTRUCTIONS).filter((feature) => has(INSTRUCTIONS[feature])),
]);

/** An encoding, what the decoder makes of it, and what ours does. */
interface Encoding {
  bytes: number[];
  mode: 16 | 32 | 64;
  /** The decoder's name, null when it knows none. */
  code: string | null;
  features: string[];
  length: number;
}

/** All opcodes, with each mandatory prefix, register operand and ModR/M extension; VEX, EVEX and XOP by opcode. */
function* encodings(mode: 16 | 32 | 64): Generator<number[]> {
  const forms = [...Array(8).keys()].map((reg) => reg << 3 | 1);
  for (let modrm = 0xc0; modrm <= 0xff; modrm++) forms.push(modrm);
  for (const map of [[], [0x0f], [0x0f, 0x38], [0x0f, 0x3a]]) {
    for (let opcode = 0; opcode < 256; opcode++) {
      for (const prefix of [[], [0x66], [0xf2], [0xf3]]) {
        for (const rex of mode === 64 ? [[], [0x48]] : [[]]) {
          for (const modrm of forms) yield [...prefix, ...rex, ...map, opcode, modrm];
        }
      }
    }
  }
  for (let opcode = 0; opcode < 256; opcode++) {
    for (let pp = 0; pp < 4; pp++) {
      for (const modrm of [0xc1, ...(mode === 64 ? [0x01] : [])]) {
        yield [0xc5, 0xf8 | pp, opcode, modrm];
        for (const map of [1, 2, 3]) yield [0xc4, 0xe0 | map, 0x78 | pp, opcode, modrm];
        for (const map of [1, 2, 3, 5, 6]) yield [0x62, 0xf0 | map, 0x7c | pp, 0x08, opcode, modrm];
        for (const map of [8, 9, 10]) yield [0x8f, 0xe0 | map, 0x78 | pp, opcode, modrm];
      }
    }
  }
}

// Without these features their encodings are older instructions with a prefix that means nothing.
const options = iced === null ? 0 : (advertised.has("BMI1") ? 0 : iced.DecoderOptions.NoMPFX_0FBC) |
  (advertised.has("LZCNT") ? 0 : iced.DecoderOptions.NoMPFX_0FBD) |
  (advertised.has("WBNOINVD") ? 0 : iced.DecoderOptions.NoWbnoinvd);

/** The bytes under test; what follows them is 0. */
const padded = new Uint8Array(15);
function ask(start: number[], mode: 16 | 32 | 64): Encoding {
  const { Code, CpuidFeature, Decoder } = iced!;
  padded.fill(0);
  padded.set(start);
  const decoder = new Decoder(mode, padded, options);
  const instruction = decoder.decode();
  const code = instruction.code === Code.INVALID ? null : Code[instruction.code];
  const features = code === null ? [] : [...instruction.cpuidFeatures()].map((feature) => CpuidFeature[feature]);
  const { length } = instruction;
  const bytes = [...padded.subarray(0, Math.max(start.length, length))];
  instruction.free();
  decoder.free();
  return { bytes, mode, code, features, length };
}

const hex = (bytes: number[]) => bytes.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
const describe = ({ bytes, mode, code, features }: Encoding) =>
  `${hex(bytes)} in ${mode}-bit mode: ${code ?? "no instruction"}${features.length ? ` of ${features.join("+")}` : ""}`;

/** Encodings that Intel reserved for hints: instructions of later processors that do nothing on older ones. */
const isHint = (name: string) => name === "nop" || name === "prefetchw";

/** What must be #UD though the table has a row, and one encoding of each instruction that must run. */
const refused: Encoding[] = [];
const runs = new Map<string, Encoding>();

Deno.test({
  name: "soft: the table has the instructions that CPUID advertises, and no others",
  ignore,
  fn: () => {
    const wrong = new Map<string, string>();
    const seen = new Set<string>();
    let known = 0;
    for (const mode of [16, 32, 64] as const) {
      for (const bytes of encodings(mode)) {
        const theirs = ask(bytes, mode);
        const ours = decode(padded, 0, 15, mode);
        const row = typeof ours === "number" ? null : ours.row;
        const wanted = theirs.code !== null && theirs.features.every((feature) => advertised.has(feature));
        const note = (what: string) => {
          const key = `${theirs.code} ${row?.name} ${what}`;
          if (!wrong.has(key)) wrong.set(key, `${describe(theirs)}: ${what}`);
        };
        if (wanted) {
          known++;
          for (const feature of theirs.features) seen.add(feature);
          if (row === null) note("advertised, and not in the table");
          else if (typeof ours !== "number" && ours.length !== theirs.length) {
            note(`${ours.length} bytes long instead of ${theirs.length}`);
          } else if (mode === 64 && !/^Ud[012]/.test(theirs.code!) && !runs.has(theirs.code!)) {
            runs.set(theirs.code!, theirs);
          }
        } else if (theirs.code === null) {
          // Operands that no register has are refused when the instruction runs.
          if (row !== null && mode === 64) refused.push(theirs);
        } else if (row === null) {
          if (mode === 64) refused.push(theirs);
        } else if (!isHint(row.name)) note(`not advertised, and in the table as ${row.name}`);
      }
    }
    assert.ok(known > 300_000, "few encodings");
    assert.equal(wrong.size, 0, `\n${[...wrong.values()].join("\n")}`);
    // Every bit has instructions that were looked at.
    for (const [feature, bit] of Object.entries(INSTRUCTIONS)) {
      if (has(bit)) assert.ok(seen.has(feature), `${feature} is advertised, and no instruction of it was seen`);
    }
  },
});

Deno.test("soft: every feature bit of CPUID is accounted for", () => {
  const named = [...Object.values(INSTRUCTIONS), ...OTHERS.map(([, bit]) => bit)].filter(has);
  for (const [leaf, subleaf, register] of WORDS) {
    let mask = 0;
    for (const bit of named) if (bit[0] === leaf && bit[1] === subleaf && bit[2] === register) mask |= 1 << bit[3];
    assert.equal(
      (word(leaf, subleaf, register) >>> 0).toString(2),
      (mask >>> 0).toString(2),
      `CPUID ${leaf.toString(16)}.${subleaf} ${["EAX", "EBX", "ECX", "EDX"][register]}`,
    );
  }
});

Deno.test("soft: CPUID shows KVM's interface without a feature, so that no kernel tests the timer or asks for a clock", () => {
  cpuid(0x4000_0000, 0, { index: 0, cpus: 1, osxsave: false, x2apic: true }, answer);
  assert.equal(answer[0], 0x4000_0001);
  assert.equal(new TextDecoder().decode(new Uint8Array(answer.buffer, 4)), "KVMKVMKVM\0\0\0");
  for (const leaf of [0x4000_0001, 0x4000_0002, 0x4000_0100]) {
    cpuid(leaf, 0, { index: 0, cpus: 1, osxsave: false, x2apic: true }, answer);
    assert.deepEqual([...answer], [0, 0, 0, 0], leaf.toString(16));
  }
});

const RAM = 1 << 21;
const PML4 = 0x1000, PDPT = 0x2000, DIRECTORY = 0x3000, GDT = 0x4000, IDT = 0x5000, HANDLERS = 0x6000, COUNT = 0x7000;
/** The handler of #UD that goes on with the next instruction. */
const UNDEFINED = 0x6800;
const CODE = 0x8000, DATA = 0x1_8000, STACK = 0x1_a000, SLOTS = 0x2_0000;
/** Bytes of memory for each instruction that must be refused. */
const SLOT = 16;
/** Ports that tell how it went: the end, and exceptions by vector. */
const END = 0x70, EXCEPTION = 0x80;
const HLT = 0xf4;

Deno.test({
  name: "soft: what CPUID advertises runs, what it does not is #UD",
  ignore,
  fn: () => {
    const partition = soft.createPartition({ architecture: "x86_64", cpus: 1, memory: RAM });
    const memory = partition.allocateMemory(RAM);
    partition.mapMemory({ guestAddress: 0, offset: 0, size: RAM });
    const ram = new Uint8Array(memory.buffer, memory.byteOffset, RAM);
    const view = new DataView(memory.buffer, memory.byteOffset, RAM);
    const vcpu = partition.createVcpu(0);
    const state = startState(64);
    const registers = new DataView(state);
    registers.setBigUint64(X64.GDTR_BASE, BigInt(GDT), true);
    registers.setUint32(X64.GDTR_LIMIT, 23, true);
    registers.setBigUint64(X64.IDTR_BASE, BigInt(IDT), true);
    registers.setUint32(X64.IDTR_LIMIT, 32 * 16 - 1, true);
    registers.setBigUint64(X64.CR3, BigInt(PML4), true);
    // PAE, OSFXSR, OSXMMEXCPT, FSGSBASE, OSXSAVE; EFER: SCE, LME, LMA.
    registers.setBigUint64(X64.CR4, 0x5_0620n, true);
    registers.setBigUint64(X64.EFER, 0x501n, true);
    registers.setBigUint64(X64.XCR0, 3n, true);
    registers.setBigUint64(X64.LSTAR, BigInt(CODE + 0x800), true);

    /** Puts everything but the code in its place. */
    const prepare = (rip: number) => {
      ram.fill(0, 0, CODE - 0x1000);
      view.setBigUint64(PML4, BigInt(PDPT | 3), true);
      view.setBigUint64(PDPT, BigInt(DIRECTORY | 3), true);
      view.setBigUint64(DIRECTORY, 0x83n, true);
      view.setBigUint64(GDT + 8, 0x00af_9b00_0000_ffffn, true);
      view.setBigUint64(GDT + 16, 0x00cf_9300_0000_ffffn, true);
      for (let vector = 0; vector < 32; vector++) {
        const handler = vector === 6 && rip >= SLOTS ? UNDEFINED : HANDLERS + vector * 8;
        view.setUint32(IDT + vector * 16, (8 << 16) | handler, true);
        view.setUint32(IDT + vector * 16 + 4, 0x8e00, true);
        // out EXCEPTION + vector, al; hlt
        ram.set([0xe6, EXCEPTION + vector, HLT], HANDLERS + vector * 8);
      }
      ram.fill(HLT, CODE - 0x1000, CODE + 0x1000);
      ram.fill(HLT, DATA - 0x1000, STACK + 0x1000);
      for (let r = 0; r < 16; r++) registers.setBigUint64(X64.GPR + r * 8, BigInt(r === 4 ? STACK : DATA), true);
      registers.setBigUint64(X64.RIP, BigInt(rip), true);
    };
    /** The vector of the first exception that an instruction ends in, or null. */
    const run = (bytes: number[]): number | null => {
      prepare(CODE);
      ram.set(bytes, CODE);
      vcpu.setState(state);
      const exit = vcpu.run();
      return exit === Exit.IO_WRITE && vcpu.port >= EXCEPTION && vcpu.port < EXCEPTION + 32
        ? vcpu.port - EXCEPTION
        : null;
    };

    try {
      assert.ok(refused.length > 1000, "few encodings that must be refused");
      assert.ok(runs.size > 700, "few instructions");
      const wrong: string[] = [];
      // All in a row: the handler of #UD goes on with the next.
      ram.fill(HLT, SLOTS, RAM);
      refused.forEach(({ bytes }, i) => ram.set(bytes, SLOTS + i * SLOT));
      ram.set([0xe6, END], SLOTS + refused.length * SLOT);
      for (let next = 0; next < refused.length;) {
        prepare(SLOTS + next * SLOT);
        // inc dword [COUNT]; add qword [rsp], SLOT; iretq
        ram.set([0xff, 0x04, 0x25, 0, COUNT >> 8, 0, 0, 0x48, 0x83, 0x04, 0x24, SLOT, 0x48, 0xcf], UNDEFINED);
        view.setUint32(COUNT, 0, true);
        vcpu.setState(state);
        const exit = vcpu.run();
        next += view.getUint32(COUNT, true);
        if (exit === Exit.IO_WRITE && vcpu.port === END) break;
        const vector = exit === Exit.IO_WRITE ? vcpu.port - EXCEPTION : -1;
        wrong.push(`${describe(refused[next++])}: ${vector >= 0 ? `exception ${vector}` : "runs"}, not #UD`);
      }
      for (const encoding of runs.values()) {
        if (run(encoding.bytes) === 6) wrong.push(`${describe(encoding)}: #UD`);
      }
      assert.equal(wrong.length, 0, `\n${wrong.slice(0, 60).join("\n")}`);
    } finally {
      vcpu.close();
      partition.close();
    }
  },
});
