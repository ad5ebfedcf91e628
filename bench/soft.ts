/**
 * The software CPU against QEMU's TCG, and v86 where that can follow: the same guest programs without an operating
 * system, in the same run.
 *
 *     deno run -A bench/soft.ts [--rounds=3] [--only=row,row] [--bits=64|32] [--interpreter] [--parallel]
 *
 * Each program runs as a process of its own on all; compared are CPU seconds, user and system, less those of a program
 * that does nothing: what a busy machine adds to wall time is in none, start and background compilation are in all. The
 * median of the rounds' ratios counts. --parallel: the same work shared by two vCPUs against one vCPU doing it alone.
 * Whole machines are soft_boot.ts's. Needs gcc, qemu-system-x86_64 and, for v86, SeaBIOS as Debian's package `seabios`
 * has it.
 */
import { parseArgs } from "node:util";
import { soft } from "../backends/soft/hypervisor.ts";
import { Rig } from "../backends/soft/jit/rig.ts";
import { State } from "../backends/soft/layout.ts";
import { X64 } from "../core/x64_state.ts";
import { startState } from "../tests/conformance/guest.ts";
import type { Work } from "./soft_vcpu.ts";
import { childrenCpuSeconds, median } from "./usage.ts";

interface Row {
  name: string;
  program: string;
  /** Repetitions. */
  count: number;
  /** What one repetition is, for the rate. */
  units: number;
  unit: string;
}

const ROWS: Row[] = [
  { name: "dec/jnz", program: "dec_jnz", count: 1_500_000_000, units: 2, unit: "MIPS" },
  { name: "ALU mix", program: "alu_mix", count: 600_000_000, units: 10, unit: "MIPS" },
  { name: "2 loads and a store", program: "loads_stores", count: 500_000_000, units: 8, unit: "MIPS" },
  { name: "sieve", program: "sieve", count: 2400, units: 1, unit: "M rounds/s" },
  { name: "SHA-256", program: "sha256", count: 2_100_000, units: 64, unit: "MB/s" },
  { name: "switch interpreter", program: "switch_interpreter", count: 24_000_000, units: 12, unit: "M steps/s" },
  { name: "rep movsb", program: "rep_movsb", count: 400, units: 1 << 20, unit: "MB/s" },
  { name: "rep stosq", program: "rep_stosq", count: 40_000, units: 1 << 20, unit: "MB/s" },
  { name: "8-byte copies", program: "copy8", count: 1000, units: 1 << 20, unit: "MB/s" },
  { name: "SSE copies", program: "copy16", count: 3000, units: 1 << 20, unit: "MB/s" },
  { name: "SSE2 double", program: "sse2_double", count: 150_000_000, units: 6, unit: "MFLOPS" },
  { name: "SYSCALL and SYSRET", program: "system_call", count: 15_000_000, units: 1, unit: "M/s" },
  { name: "page fault", program: "page_fault", count: 1_000_000, units: 1, unit: "M/s" },
  { name: "context switch", program: "context_switch", count: 500_000, units: 2, unit: "M/s" },
];

/** Those of plain computing run in 32-bit protected mode with paging as well. */
const ROWS32 = ROWS.filter(({ program }) =>
  ["dec_jnz", "alu_mix", "sieve", "sha256", "switch_interpreter"].includes(program)
);
/** Seconds of CPU over a start that say something. */
const MEANINGFUL = 0.1;
/** Pieces of the work that vCPUs share. */
const PIECES = 40_000;

const LOAD = 0x10_0000;
/** Where hv enters the image: see native/soft_start.S. */
const ENTRY = { 64: LOAD + 0x1000, 32: LOAD + 0x20 };
type Bits = keyof typeof ENTRY;

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "3" },
    only: { type: "string" },
    interpreter: { type: "boolean", default: false },
    parallel: { type: "boolean", default: false },
    bits: { type: "string" },
    child: { type: "string" },
    cpus: { type: "string" },
  },
});

/** Runs an image on our CPU, in this process. */
function runHere(image: string, bits: Bits): void {
  const rig = new Rig(values.interpreter ? -1 : 0);
  rig.load(new Uint8Array(0), startState(bits));
  rig.bytes.set(Deno.readFileSync(image), LOAD);
  rig.field(State.RIP).setBigUint64(0, BigInt(ENTRY[bits]), true);
  const reason = rig.run();
  if (reason !== 0) throw new Error(`the guest ended with exit ${reason}`);
}

/** Runs an image on so many vCPUs, each in a Worker; tells the milliseconds from the first instruction to the last. */
async function runParallel(image: string, cpus: number): Promise<void> {
  const size = 64 << 20;
  const partition = soft.createPartition({ architecture: "x86_64", cpus, memory: size, epoch: 0 });
  const { buffer, byteOffset } = partition.allocateMemory(size);
  const view = new DataView(buffer, byteOffset, size);
  partition.mapMemory({ guestAddress: 0, offset: 0, size });
  new Uint8Array(buffer, byteOffset).set(Deno.readFileSync(image), LOAD);
  // The tables that `main` completes.
  [0x8_1003, 0x8_2003].forEach((entry, level) => view.setUint32(0x8_0000 + level * 0x1000, entry, true));
  view.setUint32(0x8_2000, 0x83, true);
  const gate = new Int32Array(new SharedArrayBuffer(8));
  const done = Array.from({ length: cpus }, (_, index) => {
    const worker = new Worker(new URL("./soft_vcpu.ts", import.meta.url), { type: "module" });
    const state = startState(64);
    const fields = new DataView(state);
    fields.setBigUint64(X64.CR3, 0x8_0000n, true);
    fields.setBigUint64(X64.RIP, BigInt(ENTRY[64]), true);
    fields.setBigUint64(X64.GPR + 7 * 8, BigInt(index), true);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    worker.onmessage = ({ data }) => data === 0 ? resolve() : reject(new Error(`a vCPU ended with exit ${data}`));
    worker.onerror = ({ message }) => reject(new Error(message));
    worker.postMessage({ handle: partition.handle(), index, state, gate } satisfies Work);
    return promise;
  });
  for (let ready = 0; (ready = Atomics.load(gate, 0)) < cpus;) await Atomics.waitAsync(gate, 0, ready).value;
  const start = performance.now();
  Atomics.store(gate, 1, 1);
  Atomics.notify(gate, 1);
  await Promise.all(done);
  console.log(performance.now() - start);
  partition.close();
}

/** Runs a program; gives its CPU seconds and what it wrote. */
async function watched(command: string, args: string[], codes = [0]): Promise<{ seconds: number; output: string }> {
  const before = childrenCpuSeconds();
  const { code, stdout, stderr } = await new Deno.Command(command, { args, stderr: "piped" }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  if (!codes.includes(code)) throw new Error(`${command}: ${code}: ${text(stderr)}`);
  return { seconds: childrenCpuSeconds() - before, output: text(stdout) };
}
const run = async (command: string, args: string[], codes = [0]) => (await watched(command, args, codes)).seconds;

async function build(folder: string, program: string, count: number, bits: Bits): Promise<string> {
  const native = (name: string) => new URL(`native/${name}`, import.meta.url).pathname;
  const elf = `${folder}/${program}${bits}-${count}.elf`;
  const flags = ["-O2", "-ffreestanding", "-fno-stack-protector", "-fno-pic", "-no-pie", "-mno-red-zone", "-nostdlib"];
  const places = `--section-start=.boot=0x${LOAD.toString(16)},-Ttext=0x${(LOAD + 0x2000).toString(16)}`;
  const link = ["-static", `-Wl,${places},--build-id=none,-e,start64,-z,noexecstack`];
  await run("gcc", [
    ...flags,
    `-m${bits}`,
    "-fno-asynchronous-unwind-tables",
    "-Wno-main",
    "-Wno-unused-function",
    `-DPROGRAM=${program}`,
    `-DCOUNT=${count}UL`,
    native("soft_start.S"),
    native("soft_guest.c"),
    ...link,
    "-o",
    elf,
  ]);
  const image = `${folder}/${program}${bits}-${count}.bin`;
  await run("objcopy", ["-O", "binary", elf, image]);
  return image;
}

const self = ["run", "-A", "--no-check", "--quiet", import.meta.url];
const ours = (image: string, bits: Bits) =>
  run(Deno.execPath(), [
    ...[...self, `--child=${image}`, `--bits=${bits}`],
    ...(values.interpreter ? ["--interpreter"] : []),
  ]);
const tcg = (image: string) =>
  run("qemu-system-x86_64", [
    ...["-accel", "tcg", "-cpu", "max", "-M", "pc", "-m", "64", "-nodefaults", "-display", "none", "-no-reboot"],
    ...["-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-kernel", image],
  ], [3]);
const v86 = (image: string) =>
  run(Deno.execPath(), [
    ...["run", "-A", "--no-check", "--quiet", "--no-lock", "--unstable-raw-imports"],
    ...[new URL("./soft_v86.ts", import.meta.url).pathname, image],
  ]);

/** The same work by one vCPU and by two. */
async function compareParallel(folder: string, rounds: number): Promise<void> {
  const image = await build(folder, "parallel", PIECES, 64);
  const empty = await build(folder, "parallel", 0, 64);
  const on = async (image: string, cpus: number) => {
    const { seconds, output } = await watched(Deno.execPath(), [...self, `--child=${image}`, `--cpus=${cpus}`]);
    return { cpu: seconds, wall: Number(output) / 1000 };
  };
  const start = [await on(empty, 1), await on(empty, 2)];
  const ratios: { wall: number; cpu: number }[] = [];
  for (let round = 0; round < rounds; round++) {
    const one = await on(image, 1);
    const two = await on(image, 2);
    const cpu = (one.cpu - start[0].cpu) / (two.cpu - start[1].cpu);
    ratios.push({ wall: one.wall / two.wall, cpu });
  }
  const best = Math.max(...ratios.map(({ wall }) => wall));
  console.log(
    `two vCPUs against one, the same work: ${median(ratios.map(({ wall }) => wall)).toFixed(2)}x as fast (best round ` +
      `${best.toFixed(2)}x); one's CPU time is ${median(ratios.map(({ cpu }) => cpu)).toFixed(2)} of both's`,
  );
}

async function compareRows(folder: string, rounds: number, rows: Row[], bits: Bits): Promise<void> {
  const only = values.only?.split(",");
  const contenders: { name: string; run: (image: string) => Promise<number> }[] = [
    { name: "hv", run: (image) => ours(image, bits) },
    { name: "TCG", run: tcg },
  ];
  // v86 is a 32-bit processor.
  if (bits === 32) contenders.push({ name: "v86", run: v86 });
  const empty = await build(folder, "nothing", 0, bits);
  const starts = contenders.map(() => Infinity);
  for (let round = 0; round < rounds; round++) {
    for (const [i, contender] of contenders.entries()) starts[i] = Math.min(starts[i], await contender.run(empty));
  }
  console.log(`\n${bits} bits; start (taken off below): ${starts.map((time) => `${time.toFixed(2)} s`).join(", ")}`);
  const others = contenders.slice(1).map(({ name }) => `hv's to ${name}'s`.padEnd(14));
  console.log(["work".padEnd(24), ...contenders.map(({ name }) => name.padEnd(18)), ...others].join(""));
  for (const row of rows) {
    if (only && !only.includes(row.program)) continue;
    const image = await build(folder, row.program, row.count, bits);
    const times: number[][] = [];
    for (let round = 0; round < rounds; round++) {
      const round: number[] = [];
      for (const [i, { run }] of contenders.entries()) {
        round.push(Math.max(MEANINGFUL, (await run(image)) - starts[i]));
      }
      times.push(round);
    }
    // Faster than can be told: a start varies by as much.
    const least = contenders.map((_, i) => times.some((round) => round[i] === MEANINGFUL));
    const rates = contenders.map((_, i) => {
      const seconds = median(times.map((time) => time[i]));
      const rate = `${(row.count * row.units / seconds / 1e6).toPrecision(3)} ${row.unit}`;
      return `${least[i] ? "> " : ""}${rate}`.padEnd(18);
    });
    const ratios = others.map((_, i) => {
      const ratio = `${median(times.map((time) => time[i + 1] / time[0])).toFixed(2)}x`;
      return (least[i + 1] ? "?" : `${least[0] ? "> " : ""}${ratio}`).padEnd(14);
    });
    console.log([row.name.padEnd(24), ...rates, ...ratios].join("").trimEnd());
  }
}

const bits = values.bits === undefined ? null : Number(values.bits) as Bits;
if (values.child !== undefined) {
  if (values.cpus !== undefined) await runParallel(values.child, Number(values.cpus));
  else runHere(values.child, bits ?? 64);
  Deno.exit(0);
}
const folder = await Deno.makeTempDir({ prefix: "hv-bench-soft-" });
try {
  const rounds = Number(values.rounds);
  if (values.parallel) await compareParallel(folder, rounds);
  else {
    if (bits !== 32) await compareRows(folder, rounds, ROWS, 64);
    if (bits !== 64) await compareRows(folder, rounds, ROWS32, 32);
  }
} finally {
  await Deno.remove(folder, { recursive: true });
}
