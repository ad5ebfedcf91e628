/**
 * Whole machines on the software CPU against QEMU's TCG, in the same run.
 *
 *     deno run -A bench/soft_boot.ts [--disks=demo,debian] [--rounds=1] [--idle=30] [--only-hv] [--console=serial|virtio]
 *
 * Each disk is booted to its login prompt on both in turns, one vCPU, QEMU with the same kernel, initrd and command line
 * (q35, direct kernel). CPU seconds, user and system, of all threads from the process's start to the prompt. At hv's
 * prompt /proc tells what is resident apart from the guest's RAM, which is a part of one mapping: its pages are counted
 * in /proc/PID/pagemap. Then it idles for `--idle` seconds (30 s after the prompt), what is resident is looked at again,
 * and it writes a file of 1 MB to its serial port. Needs qemu-system-x86_64.
 */
import { parseArgs } from "node:util";
import { layoutFor } from "../backends/soft/layout.ts";
import { debianDisk } from "../tests/guests/debian_disk.ts";
import { demoDisk } from "../tests/guests/demo_disk.ts";
import { bootFiles } from "../tests/guests/qemu.ts";
import { Terminal } from "../tests/guests/terminal.ts";
import { median } from "./usage.ts";

/** Longest wait for a prompt. */
const SECONDS = 900;
/** Bytes written to the serial port. */
const SERIAL = 1_000_000;

const DISKS = {
  demo: { make: demoDisk, memory: 256 },
  debian: { make: debianDisk, memory: 1024 },
};

const { values } = parseArgs({
  options: {
    disks: { type: "string", default: "demo,debian" },
    rounds: { type: "string", default: "1" },
    idle: { type: "string", default: "30" },
    "only-hv": { type: "boolean", default: false },
    /** Of hv; TCG's is always serial. */
    console: { type: "string", default: "serial" },
  },
});

/** User and system seconds of a process until now, all threads: utime and stime in ticks of 10 ms (proc_pid_stat(5)). */
function cpuSeconds(pid: number): number {
  const fields = Deno.readTextFileSync(`/proc/${pid}/stat`).split(") ")[1].split(" ");
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

/** MiB resident apart from the guest's RAM. */
function resident(pid: number, memory: number): number {
  const layout = layoutFor(1, memory * 2 ** 20);
  let all = 0;
  let start = -1;
  let most = 0;
  for (const mapping of Deno.readTextFileSync(`/proc/${pid}/smaps`).split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)) {
    const value = (name: string) => Number(mapping.match(new RegExp(`^${name}: +(\\d+) kB`, "m"))?.[1] ?? 0);
    all += value("Rss");
    // Of those that are big enough (V8 reserves some for code) the one that is used.
    if (value("Size") * 1024 < layout.total || value("Rss") <= most) continue;
    most = value("Rss");
    start = parseInt(mapping, 16);
  }
  if (start < 0) throw new Error("no mapping of the guest's memory");
  // proc_pid_pagemap(5): 64 bits a page, bit 63 when it is present.
  using pagemap = Deno.openSync(`/proc/${pid}/pagemap`);
  const entries = new Uint8Array((layout.ram / 4096) * 8);
  pagemap.seekSync((start + layout.ramBase) / 4096 * 8, Deno.SeekMode.Start);
  for (let at = 0; at < entries.length;) at += pagemap.readSync(entries.subarray(at)) ?? entries.length;
  let pages = 0;
  for (let at = 7; at < entries.length; at += 8) pages += entries[at] >> 7;
  return all / 1024 - pages / 256;
}

/** Waits, measuring what the process uses meanwhile: part of a core. */
async function use(pid: number, seconds: number): Promise<number> {
  const before = cpuSeconds(pid);
  const began = performance.now();
  await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
  return (cpuSeconds(pid) - before) / ((performance.now() - began) / 1000);
}

interface Run {
  login: number;
  /** MiB resident apart from guest RAM, at the prompt and after it has idled. */
  own: number;
  rested: number;
  idle: number;
  /** CPU seconds for {@link SERIAL} bytes. */
  serial: number;
}

async function run(argv: string[], memory: number, ours: boolean): Promise<Run> {
  await using terminal = new Terminal(argv);
  await terminal.expect(/login: $/, SECONDS);
  const { pid } = terminal;
  const login = cpuSeconds(pid);
  const ownMemory = () => (ours ? resident(pid, memory) : 0);
  const own = ownMemory();
  let idle = 0;
  if (Number(values.idle) > 0) {
    await use(pid, 30);
    idle = await use(pid, Number(values.idle));
  }
  const rested = ownMemory();
  await terminal.sendLine("root");
  await terminal.expect(/[~\w]# /, SECONDS);
  await terminal.sendLine(
    `yes 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde | head -c ${SERIAL} > /tmp/big`,
  );
  await terminal.sendLine("echo rea''dy");
  await terminal.expect("ready", SECONDS);
  await use(pid, 2);
  const before = cpuSeconds(pid);
  await terminal.sendLine("cat /tmp/big; echo do''ne");
  await terminal.expect("done", SECONDS);
  return { login, own, rested, idle, serial: cpuSeconds(pid) - before };
}

const main = new URL("../cli/main.ts", import.meta.url).pathname;
for (const name of values.disks.split(",") as (keyof typeof DISKS)[]) {
  const { make, memory } = DISKS[name];
  const disk = await make();
  const boot = await bootFiles(disk);
  const folder = await Deno.makeTempDir({ prefix: "hv-bench-soft-" });
  try {
    Deno.writeFileSync(`${folder}/vmlinuz`, boot.vmlinuz);
    Deno.writeFileSync(`${folder}/initrd`, boot.initrd);
    const hv = [
      ...[Deno.execPath(), "run", "-A", "--no-check", "--quiet", main, "run", disk],
      ...["--ephemeral", "--backend", "soft", "--memory", `${memory}M`, "--console-device", values.console],
    ];
    const tcg = [
      ...["qemu-system-x86_64", "-nodefaults", "-no-reboot", "-nographic", "-monitor", "none", "-serial", "stdio"],
      ...["-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", `${memory}`],
      ...["-drive", `file=${disk},format=raw,if=none,id=disk,snapshot=on`, "-device", "virtio-blk-pci,drive=disk"],
      ...["-kernel", `${folder}/vmlinuz`, "-initrd", `${folder}/initrd`, "-append", boot.append],
    ];
    const ratios: number[] = [];
    for (let round = 0; round < Number(values.rounds); round++) {
      for (const [who, argv] of [["hv", hv], ["TCG", tcg]] as const) {
        if (who === "TCG" && values["only-hv"]) continue;
        const r = await run(argv, memory, who === "hv");
        const parts = [
          `to login ${r.login.toFixed(2)} CPU-s`,
          ...(who === "hv" ? [`resident ${r.own.toFixed(0)} MiB less guest RAM, then ${r.rested.toFixed(0)}`] : []),
          `idle ${(r.idle * 100).toFixed(2)} % of a core`,
          `serial ${(SERIAL / 1e6 / r.serial).toFixed(3)} MB a CPU-s`,
        ];
        console.log(`${name.padEnd(8)}${who.padEnd(5)}${parts.join("; ")}`);
        ratios.push(who === "hv" ? r.login : ratios.pop()! / r.login);
      }
    }
    if (!values["only-hv"]) console.log(`${name.padEnd(8)}hv's time to TCG's: ${median(ratios).toFixed(2)}`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
