/**
 * The SingleStepTests suites for real mode (https://github.com/SingleStepTests: 8086, 80286) on the software CPU: what
 * single instructions did on the real processor, in registers and memory.
 *
 *     deno run -A tests/cpu/single_step.ts DIRECTORY [--each=N] [--opcodes=REGEX] [--show=N]
 *
 * DIRECTORY holds the `.MOO.gz` files; flags that the suite's `metadata.json` calls undefined are not compared. Prints
 * how many passed, how many failed for each known difference between that processor and one of today, and the rest.
 */
import { gunzipSync } from "node:zlib";
import { Exit } from "../../core/hypervisor.ts";
import { X64, X64_STATE_BYTES } from "../../core/x64_state.ts";
import { soft } from "../../backends/soft/hypervisor.ts";
import { type MooState, type MooTest, readMoo, type Register, REGISTERS } from "./moo.ts";

const MEGABYTE = 1 << 20;
/** What real mode reaches above a megabyte. */
const HIGH = 0xfff0;
const HLT = 0xf4;
const NOP = 0x90;
/** Bytes that an 8086 fetches ahead. */
const PREFETCHED = 6;
/** Where registers stand in the state. */
const GENERAL: Partial<Record<Register, number>> = { ax: 0, cx: 1, dx: 2, bx: 3, sp: 4, bp: 5, si: 6, di: 7 };
const SEGMENTS: Partial<Record<Register, number>> = { es: 0, cs: 1, ss: 2, ds: 3 };
/** Flags of the 8086; what is above them depends on the processor. */
const FLAGS = 0x0fd5;

const option = (name: string) => Deno.args.find((argument) => argument.startsWith(`--${name}=`))?.split("=")[1];
const directory = Deno.args.find((argument) => !argument.startsWith("--"));
if (directory === undefined) {
  console.error("usage: deno run -A tests/cpu/single_step.ts DIRECTORY [--each=N] [--opcodes=REGEX] [--show=N]");
  Deno.exit(2);
}
const each = Number(option("each") ?? Infinity);
const opcodes = new RegExp(option("opcodes") ?? "");
const show = Number(option("show") ?? 3);

/** What the suite says of an opcode. */
interface Opcode {
  status?: string;
  "flags-mask"?: number;
  reg?: Record<string, Opcode>;
}
function readOpcodes(): Record<string, Opcode> {
  for (const place of [`${directory}/metadata.json`, `${directory}/../v1/metadata.json`]) {
    try {
      return JSON.parse(Deno.readTextFileSync(place)).opcodes;
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  console.error(`no metadata.json in ${directory}`);
  Deno.exit(2);
}
const metadata = readOpcodes();

/** Handlers that tests do not name: vector V's is the first byte of segment HANDLERS + V. */
const HANDLERS = 0xe000;
const ofVector = (address: number) => [0, 0, (HANDLERS + (address >> 2)) & 0xff, HANDLERS >> 8][address & 3];
const vectorOf = (cs: number) => (cs >= HANDLERS && cs < HANDLERS + 256 ? cs - HANDLERS : null);

/** The machine: all of its memory is HLT but for what a test says. */
class RealMode {
  private readonly partition = soft.createPartition({ architecture: "x86_64", cpus: 1, memory: 2 * MEGABYTE });
  private readonly memory = this.partition.allocateMemory(2 * MEGABYTE);
  readonly ram = new Uint8Array(this.memory.buffer, this.memory.byteOffset, MEGABYTE + HIGH);
  private readonly vcpu;
  private readonly state = new ArrayBuffer(X64_STATE_BYTES);
  private readonly view = new DataView(this.state);
  private readonly atReset: Uint8Array;

  /** @param wraps addresses at a megabyte: an 8086 has no A20 */
  constructor(private readonly wraps: boolean) {
    this.partition.mapMemory({ guestAddress: 0, offset: 0, size: MEGABYTE });
    this.partition.mapMemory({ guestAddress: MEGABYTE, offset: wraps ? 0 : MEGABYTE, size: MEGABYTE });
    this.vcpu = this.partition.createVcpu(0);
    this.vcpu.getState(this.state);
    this.atReset = new Uint8Array(this.state.slice(0));
    this.clean(null);
  }

  /** Where in memory an address of real mode is. */
  place(segment: number, offset: number): number {
    return (segment * 16 + (offset & 0xffff)) & (this.wraps ? MEGABYTE - 1 : 2 * MEGABYTE - 1);
  }

  /** Makes memory again what it is without a test: these addresses, or all. */
  clean(addresses: Iterable<number> | null): void {
    const { ram } = this;
    if (addresses === null) {
      ram.fill(HLT);
      for (let address = 0; address < 1024; address++) ram[address] = ofVector(address);
    } else for (const address of addresses) ram[address] = address < 1024 ? ofVector(address) : HLT;
  }

  /** Runs from a state to the first HLT; null when something else ended it. */
  run(before: MooState["registers"]): Record<Register, number> | null {
    const { state, view, vcpu } = this;
    new Uint8Array(state).set(this.atReset);
    for (const register of REGISTERS) {
      const value = before[register] ?? 0;
      if (GENERAL[register] !== undefined) view.setBigUint64(X64.GPR + GENERAL[register] * 8, BigInt(value), true);
      else if (SEGMENTS[register] !== undefined) {
        const at = X64.SEGMENTS + SEGMENTS[register] * 16;
        view.setBigUint64(at, BigInt(value * 16), true);
        view.setUint16(at + 12, value, true);
      }
    }
    view.setBigUint64(X64.RIP, BigInt(before.ip!), true);
    view.setBigUint64(X64.RFLAGS, BigInt(before.flags! & FLAGS | 2), true);
    vcpu.setState(state);
    for (;;) {
      const exit = vcpu.run();
      if (exit === Exit.IO_READ) {
        vcpu.bytes.fill(0xff, vcpu.dataOffset, vcpu.dataOffset + vcpu.size * vcpu.count);
      } else if (exit === Exit.HALT) break;
      else if (exit !== Exit.IO_WRITE) return null;
    }
    vcpu.getState(state);
    const after = {} as Record<Register, number>;
    for (const register of REGISTERS) {
      if (GENERAL[register] !== undefined) after[register] = view.getUint16(X64.GPR + GENERAL[register] * 8, true);
      else if (SEGMENTS[register] !== undefined) {
        after[register] = view.getUint16(X64.SEGMENTS + SEGMENTS[register] * 16 + 12, true);
      }
    }
    after.ip = view.getUint16(X64.RIP, true);
    after.flags = view.getUint16(X64.RFLAGS, true);
    return after;
  }

  close(): void {
    this.vcpu.close();
    this.partition.close();
  }
}

const hex = (value: number) => value.toString(16);

const files = [...Deno.readDirSync(directory)].map(({ name }) => name).filter((name) => name.endsWith(".MOO.gz"))
  .sort();
if (files.length === 0) {
  console.error(`no .MOO.gz in ${directory}`);
  Deno.exit(2);
}
const read = (name: string, most: number) => readMoo(gunzipSync(Deno.readFileSync(`${directory}/${name}`)), most);
const { cpu } = read(files[0], 1);
/** Whether the processor stops by itself behind the instruction: an 8086 goes on with NOP. */
const endsInHalt = cpu !== "8086";
const machine = new RealMode(cpu === "8086");

/** How a test came out otherwise than on the real processor. */
interface Difference {
  test: MooTest;
  /** The bytes of the instruction without prefixes, the first its opcode. */
  instruction: Uint8Array;
  prefixes: Uint8Array;
  /** Our exception, where the real processor raised none or another. */
  vector: number | null;
  registers: Set<Register>;
  words: string;
}

const PREFIXES = [0x26, 0x2e, 0x36, 0x3e, 0xf0, 0xf2, 0xf3];

/** What is different after a test; null when nothing is. One that jumps to or reads the place of HLT is not run. */
function difference(test: MooTest, mask: number): Difference | "no room for HLT" | null {
  const { ram } = machine;
  const { before, after } = test;
  const expected = { ...before.registers, ...after.registers } as Record<Register, number>;
  const touched = new Map(before.memory);
  // An 8086's instruction is followed by as many NOPs as were fetched: HLT comes behind them, so that it sees them.
  let nops = 0;
  if (!endsInHalt) { while (touched.get(machine.place(expected.cs, expected.ip + nops)) === NOP) nops++; }
  const end = machine.place(expected.cs, expected.ip + (endsInHalt ? -1 : nops));
  if (!endsInHalt && touched.has(end)) return "no room for HLT";
  for (const [address, value] of touched) ram[address] = value;
  ram[end] = HLT;
  for (const [address, value] of after.memory) touched.set(address, value);
  touched.set(end, HLT);
  const result = machine.run(before.registers);
  const wrong: string[] = [];
  const registers = new Set<Register>();
  for (const register of REGISTERS) {
    let ours = result?.[register] ?? -1, theirs = expected[register];
    if (register === "flags") ours &= mask & FLAGS, theirs &= mask & FLAGS;
    if (register === "ip" && !endsInHalt) theirs = (theirs + nops + 1) & 0xffff;
    if (ours === theirs) continue;
    registers.add(register);
    wrong.push(`${register} ${hex(ours)} instead of ${hex(theirs)}`);
  }
  // An interrupt's frame has flags above CS and IP.
  const pushed = machine.place(expected.ss, before.registers.sp! - 2);
  for (const [address, value] of touched) {
    let compared = 0xff;
    if (test.exception !== null && address === pushed) compared = mask & FLAGS & 0xff;
    if (test.exception !== null && address === pushed + 1) compared = (mask & FLAGS) >> 8;
    if ((ram[address] ^ value) & compared) {
      wrong.push(`[${hex(address)}] ${hex(ram[address])} instead of ${hex(value)}`);
    }
  }
  if (wrong.length === 0) {
    machine.clean(touched.keys());
    return null;
  }
  machine.clean(null);
  let first = 0;
  while (PREFIXES.includes(test.bytes[first])) first++;
  return {
    test,
    instruction: test.bytes.subarray(first, test.bytes.length - (endsInHalt ? 1 : 0)),
    prefixes: test.bytes.subarray(0, first),
    vector: result !== null && result.ip === 1 ? vectorOf(result.cs) : null,
    registers,
    words: wrong.join(", "),
  };
}

/** What processors of today do otherwise, and how such a test is told from others. */
const DIFFERENCES: readonly (readonly [cpu: RegExp, words: string, holds: (d: Difference) => boolean])[] = [
  [
    /286/,
    "LOCK before an instruction that does not take it is #UD since the 80386",
    ({ prefixes, vector }) => prefixes.includes(0xf0) && vector === 6,
  ],
  [
    /286/,
    "an instruction may have 15 bytes, an 80286's 10",
    ({ test, instruction, prefixes }) => test.exception === 13 && prefixes.length + instruction.length > 10,
  ],
  [
    /286/,
    "a stack access beyond the segment is #SS, an 80286's #GP in real mode",
    ({ test, vector }) => test.exception === 13 && vector === 12,
  ],
  [
    /286/,
    "a string instruction that faults leaves its registers alone; an 80286 has moved them on",
    ({ test, instruction, registers }) =>
      test.exception === 13 && /^(6[c-f]|a[4-7a-f])$/.test(hex(instruction[0])) &&
      [...registers].every((register) => ["cx", "si", "di"].includes(register)),
  ],
  [
    /286/,
    "segment registers 4 and 5 are FS and GS",
    ({ test, instruction }) =>
      test.exception === 6 && [0x8c, 0x8e].includes(instruction[0]) && [4, 5].includes(instruction[1] >> 3 & 7),
  ],
  [
    /286/,
    "POP to memory that faults leaves SP alone; an 80286 has moved it on",
    ({ test, instruction, registers }) =>
      test.exception === 13 && instruction[0] === 0x8f && [...registers].every((register) => register === "sp"),
  ],
  [
    /286/,
    "the two bounds of BOUND are one operand; an 80286 reads the second when it needs it, from offset 0 after FFFF",
    ({ instruction, vector }) => instruction[0] === 0x62 && (vector === 12 || vector === 13),
  ],
  [
    /8086/,
    "IP does not wrap: #GP on processors since the 80286, and on ours",
    ({ test }) => test.before.registers.ip! + test.bytes.length + PREFETCHED > 0xffff,
  ],
  [
    /8086/,
    "60-6F, C0, C1, C8 and C9 are instructions of their own since the 80186",
    ({ instruction }) => /^(6.|c[0189])$/.test(hex(instruction[0])),
  ],
  [
    /8086/,
    "encodings without a meaning are #UD: CS as a destination, registers 4 to 7 of MOV, extensions of 8F, C6, C7, FF",
    ({ instruction, vector }) => /^(8[cef]|c[67]|ff)$/.test(hex(instruction[0])) && vector === 6,
  ],
  [
    /8086/,
    "segment registers 4 and 5 are FS and GS",
    ({ instruction }) => [0x8c, 0x8e].includes(instruction[0]) && (instruction[1] >> 3 & 7) > 3,
  ],
  [
    /8086/,
    "a word at the last byte of a segment is #GP or #SS, and not the first byte again",
    ({ vector }) => vector === 12 || vector === 13,
  ],
  [
    /8086/,
    "PUSH SP stores SP as it was",
    ({ instruction }) => instruction[0] === 0x54 || (instruction[0] === 0xff && instruction[1] >> 3 === 0x1e),
  ],
  [
    /8086/,
    "FLAGS has no ones in bits 12 to 15",
    ({ instruction, registers }) => [0x9c, 0xcc, 0xcd, 0xce].includes(instruction[0]) && registers.size === 0,
  ],
  [
    /8086/,
    "a divide error is a fault: it tells the address of the instruction, an 8086 that of the next",
    ({ instruction, registers }) => /^(d4|f[67])$/.test(hex(instruction[0])) && registers.size === 0,
  ],
  [
    /8086/,
    "a quotient of -128 or -32768 is none of an 8086's, and REP before IDIV negates it",
    ({ instruction, prefixes, registers }) =>
      [0xf6, 0xf7].includes(instruction[0]) && (instruction[1] >> 3 & 7) === 7 &&
      (prefixes.includes(0xf2) || prefixes.includes(0xf3) || registers.has("cs")),
  ],
  [
    /8086/,
    "shift counts are cut to 5 bits",
    ({ test, instruction }) => [0xd2, 0xd3].includes(instruction[0]) && (test.before.registers.cx! & 0xff) > 31,
  ],
  [
    /8086/,
    "extension 6 of shifts is SHL, and not SETMO",
    ({ instruction }) => (instruction[0] & 0xfc) === 0xd0 && (instruction[1] >> 3 & 7) === 6,
  ],
  [
    /8086/,
    "AAA, AAS, DAA and DAS carry out of AL as an 80286 does",
    ({ instruction }) => [0x27, 0x2f, 0x37, 0x3f].includes(instruction[0]),
  ],
  [/8086/, "escapes have a coprocessor to go to", ({ instruction }) => (instruction[0] & 0xf8) === 0xd8],
];

const counts = new Map<string, number>();
let passed = 0, skipped = 0, unexplained = 0;
for (const name of files) {
  const opcode = name.slice(0, -".MOO.gz".length);
  if (!opcodes.test(opcode)) continue;
  const [main, extension] = opcode.split(".");
  const known = extension === undefined ? metadata[main] : metadata[main]?.reg?.[extension];
  let shown = 0;
  for (const test of read(name, each).tests) {
    const different = difference(test, known?.["flags-mask"] ?? 0xffff);
    if (different === null) {
      passed++;
      continue;
    }
    if (different === "no room for HLT") {
      skipped++;
      continue;
    }
    const reason = DIFFERENCES.find(([cpus, , holds]) => cpus.test(cpu) && holds(different))?.[1];
    if (reason !== undefined) counts.set(reason, (counts.get(reason) ?? 0) + 1);
    else {
      unexplained++;
      if (shown++ < show) {
        const bytes = [...test.bytes].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
        const end = test.exception === null ? "" : ` (exception ${test.exception})`;
        console.log(`${opcode} [${bytes}] ${test.name}${end}: ${different.words}`);
      }
    }
  }
}
machine.close();
for (const [reason, count] of counts) console.log(`${count} differ: ${reason}`);
if (skipped > 0) console.log(`${skipped} not run: they jump to, or read, the place where HLT would have to stand`);
const asKnown = [...counts.values()].reduce((a, b) => a + b, 0);
console.log(`${passed} passed, ${asKnown} differ as known, ${unexplained} failed`);
Deno.exit(unexplained === 0 ? 0 : 1);
