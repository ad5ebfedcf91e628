/**
 * The software CPU against QEMU's TCG: the same guest programs without an operating system, in the same run.
 *
 *     deno run -A bench/soft.ts [--rounds=3] [--only=row,row] [--interpreter] [--boot]
 *
 * Each program runs as a process of its own on both; compared are CPU seconds, user and system, less those of a program
 * that does nothing: what a busy machine adds to wall time is in neither, start and background compilation are in both.
 * The median of the rounds' ratios counts. --boot: the busybox demo disk to its login prompt instead, once on each; CPU
 * seconds from the process's start, all threads. Needs gcc and qemu-system-x86_64.
 */
import { parseArgs } from "node:util";
import { Rig } from "../backends/soft/jit/rig.ts";
import { State } from "../backends/soft/layout.ts";
import { demoDisk } from "../tests/guests/demo_disk.ts";
import { bootFiles } from "../tests/guests/qemu.ts";
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
  { name: "ALU mix", program: "alu_mix", count: 200_000_000, units: 10, unit: "MIPS" },
  { name: "2 loads and a store", program: "loads_stores", count: 150_000_000, units: 8, unit: "MIPS" },
  { name: "sieve", program: "sieve", count: 800, units: 1, unit: "M rounds/s" },
  { name: "SHA-256", program: "sha256", count: 700_000, units: 64, unit: "MB/s" },
  { name: "switch interpreter", program: "switch_interpreter", count: 12_000_000, units: 12, unit: "M steps/s" },
  { name: "rep movsb", program: "rep_movsb", count: 150, units: 1 << 20, unit: "MB/s" },
  { name: "rep stosq", program: "rep_stosq", count: 4000, units: 1 << 20, unit: "MB/s" },
  { name: "8-byte copies", program: "copy8", count: 1000, units: 1 << 20, unit: "MB/s" },
  { name: "SSE copies", program: "copy16", count: 3000, units: 1 << 20, unit: "MB/s" },
  { name: "SSE2 double", program: "sse2_double", count: 30_000_000, units: 6, unit: "MFLOPS" },
  { name: "SYSCALL and SYSRET", program: "system_call", count: 15_000_000, units: 1, unit: "M/s" },
  { name: "page fault", program: "page_fault", count: 1_000_000, units: 1, unit: "M/s" },
  { name: "context switch", program: "context_switch", count: 500_000, units: 2, unit: "M/s" },
];

const LOAD = 0x10_0000;
const ENTRY = LOAD + 0x1000;

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "3" },
    only: { type: "string" },
    interpreter: { type: "boolean", default: false },
    boot: { type: "boolean", default: false },
    child: { type: "string" },
  },
});

/** Runs an image on our CPU, in this process. */
function runHere(image: string): void {
  const rig = new Rig(values.interpreter ? -1 : 0);
  rig.load(new Uint8Array(0));
  rig.bytes.set(Deno.readFileSync(image), LOAD);
  rig.field(State.RIP).setBigUint64(0, BigInt(ENTRY), true);
  const reason = rig.run();
  if (reason !== 0) throw new Error(`the guest ended with exit ${reason}`);
}

async function run(command: string, args: string[], codes = [0]): Promise<number> {
  const before = childrenCpuSeconds();
  const { code, stderr } = await new Deno.Command(command, { args, stderr: "piped", stdout: "null" }).output();
  if (!codes.includes(code)) throw new Error(`${command}: ${code}: ${new TextDecoder().decode(stderr)}`);
  return childrenCpuSeconds() - before;
}

async function build(folder: string, program: string, count: number): Promise<string> {
  const native = (name: string) => new URL(`native/${name}`, import.meta.url).pathname;
  const elf = `${folder}/${program}.elf`;
  const flags = ["-O2", "-ffreestanding", "-fno-stack-protector", "-fno-pic", "-no-pie", "-mno-red-zone", "-nostdlib"];
  const places = `--section-start=.boot=0x${LOAD.toString(16)},-Ttext=0x${(LOAD + 0x2000).toString(16)}`;
  const link = ["-static", `-Wl,${places},--build-id=none,-e,start64,-z,noexecstack`];
  await run("gcc", [
    ...flags,
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
  const image = `${folder}/${program}.bin`;
  await run("objcopy", ["-O", "binary", elf, image]);
  return image;
}

const ours = (image: string) =>
  run(Deno.execPath(), [
    ...["run", "-A", "--no-check", "--quiet", import.meta.url, `--child=${image}`],
    ...(values.interpreter ? ["--interpreter"] : []),
  ]);
const tcg = (image: string) =>
  run("qemu-system-x86_64", [
    ...["-accel", "tcg", "-cpu", "max", "-M", "pc", "-m", "64", "-nodefaults", "-display", "none", "-no-reboot"],
    ...["-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-kernel", image],
  ], [3]);

/** CPU seconds until a program's output has `login:`; it is killed then. */
async function untilLogin(command: string, args: string[]): Promise<number> {
  const child = new Deno.Command(command, { args, stdin: "piped", stdout: "piped", stderr: "null" }).spawn();
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of child.stdout) {
    text += decoder.decode(chunk, { stream: true });
    if (!text.includes("login:")) continue;
    // utime and stime in ticks of 10 ms (proc_pid_stat(5)), behind the name in parentheses.
    const fields = Deno.readTextFileSync(`/proc/${child.pid}/stat`).split(") ")[1].split(" ");
    child.kill("SIGKILL");
    return (Number(fields[11]) + Number(fields[12])) / 100;
  }
  throw new Error(`${command} ended without a login prompt: ${text.slice(-200)}`);
}

async function compareBoots(): Promise<void> {
  const disk = await demoDisk();
  const boot = await bootFiles(disk);
  const folder = await Deno.makeTempDir({ prefix: "hv-bench-soft-" });
  try {
    Deno.writeFileSync(`${folder}/vmlinuz`, boot.vmlinuz);
    Deno.writeFileSync(`${folder}/initrd`, boot.initrd);
    const main = new URL("../cli/main.ts", import.meta.url).pathname;
    const hv = await untilLogin(Deno.execPath(), [
      ...["run", "-A", "--no-check", main, "run", disk, "--ephemeral", "--backend", "soft", "--memory", "256M"],
    ]);
    const tcg = await untilLogin("qemu-system-x86_64", [
      ...["-nodefaults", "-no-reboot", "-nographic", "-monitor", "none", "-serial", "stdio", "-M", "q35"],
      ...["-accel", "tcg", "-cpu", "max", "-m", "256", "-device", "virtio-blk-pci,drive=disk"],
      ...["-drive", `file=${disk},format=raw,if=none,id=disk,snapshot=on`],
      ...["-kernel", `${folder}/vmlinuz`, "-initrd", `${folder}/initrd`, "-append", boot.append],
    ]);
    console.log(
      `boot to login: hv ${hv.toFixed(1)} s, TCG ${tcg.toFixed(1)} s of CPU: ${(hv / tcg).toFixed(2)}x TCG's time`,
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

if (values.boot) {
  await compareBoots();
  Deno.exit(0);
}
if (values.child !== undefined) {
  runHere(values.child);
  Deno.exit(0);
}
const folder = await Deno.makeTempDir({ prefix: "hv-bench-soft-" });
try {
  const only = values.only?.split(",");
  const rounds = Number(values.rounds);
  const empty = await build(folder, "nothing", 0);
  const start = { ours: Infinity, tcg: Infinity };
  for (let round = 0; round < rounds; round++) {
    start.ours = Math.min(start.ours, await ours(empty));
    start.tcg = Math.min(start.tcg, await tcg(empty));
  }
  console.log(`start: ${start.ours.toFixed(2)} s and ${start.tcg.toFixed(2)} s (taken off below)\n`);
  console.log("work                    hv              TCG             hv's speed to TCG's");
  for (const row of ROWS) {
    if (only && !only.includes(row.program)) continue;
    const image = await build(folder, row.program, row.count);
    const times: { ours: number; tcg: number }[] = [];
    for (let round = 0; round < rounds; round++) {
      const a = Math.max(1e-3, (await ours(image)) - start.ours);
      const b = Math.max(1e-3, (await tcg(image)) - start.tcg);
      times.push({ ours: a, tcg: b });
    }
    const rate = (seconds: number) =>
      `${(row.count * row.units / seconds / 1e6).toPrecision(3)} ${row.unit}`.padEnd(16);
    const ratio = median(times.map((time) => time.tcg / time.ours));
    console.log(
      row.name.padEnd(24) + rate(median(times.map((time) => time.ours))) + rate(median(times.map((time) => time.tcg))) +
        `${ratio.toFixed(2)}x`,
    );
  }
} finally {
  await Deno.remove(folder, { recursive: true });
}
