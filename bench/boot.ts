/**
 * Boot of the busybox demo disk to its login prompt: hv against QEMU (`-M pc`, `-M microvm`) under the same KVM.
 *
 *     deno run -A bench/boot.ts [--icount] [--rounds=2] [--trace] [--only=hv|pc|microvm]
 *
 * Runs in the lab (tests/lab), where every machine has the same real kvm-amd. Compared are CPU seconds, user and system,
 * of the whole process from its start to the prompt, and exits as KVM itself counts them (debugfs). The lab's clock
 * follows the real one, so on a busy machine its CPU seconds swing by a factor of two; with --icount a second in there
 * is 10^9 instructions, and every run the same run. --trace counts exits by reason, port and address with KVM's own
 * tracepoints; it slows the guest down, so its CPU seconds mean nothing.
 */
import { parseArgs } from "node:util";
import { Terminal } from "../tests/guests/terminal.ts";
import { contenders, runInLab } from "./contenders.ts";
import { childrenCpuSeconds } from "./usage.ts";

/** Longest wait for the login prompt. */
const SECONDS = 300;
const TRACEFS = "/sys/kernel/tracing";
const EXITS = "/sys/kernel/debug/kvm/exits";
/** What is counted for each event, and how many lines of it are shown. */
const TRACES: [event: string, keys: string, lines: number][] = [
  ["kvm_exit", "exit_reason", 16],
  ["kvm_pio", "port,rw", 24],
  ["kvm_mmio", "gpa.hex,type", 16],
  ["kvm_userspace_exit", "reason", 8],
  ["kvm_msr", "ecx.hex,write", 10],
];

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "2" },
    icount: { type: "boolean", default: false },
    trace: { type: "boolean", default: false },
    only: { type: "string" },
  },
});

interface Result {
  cpu: number;
  exits: number;
}

const shell = (script: string) => new Deno.Command("sh", { args: ["-c", script] }).outputSync();

async function boot(command: string[]): Promise<Result> {
  const before = childrenCpuSeconds();
  let exits: number;
  {
    await using terminal = new Terminal(command);
    await terminal.expect(/login: $/, SECONDS);
    // Of all machines there are: this one.
    exits = Number(await Deno.readTextFile(EXITS));
  }
  return { cpu: childrenCpuSeconds() - before, exits };
}

async function traced(command: string[]): Promise<void> {
  for (const [event, keys] of TRACES) {
    shell(`echo 'hist:keys=${keys}:sort=hitcount.descending:size=1024' >${TRACEFS}/events/kvm/${event}/trigger`);
  }
  const { exits } = await boot(command);
  console.log(`exits: ${exits}`);
  for (const [event, keys, lines] of TRACES) {
    const text = await Deno.readTextFile(`${TRACEFS}/events/kvm/${event}/hist`);
    console.log(`${event}: ${text.match(/Hits: \d+/)?.[0] ?? ""}`);
    console.log(text.split("\n").filter((line) => line.startsWith("{")).slice(0, lines).join("\n"));
    shell(`echo '!hist:keys=${keys}' >${TRACEFS}/events/kvm/${event}/trigger`);
  }
}

async function measureHere(): Promise<void> {
  shell(`mount -t debugfs none /sys/kernel/debug; mount -t tracefs none ${TRACEFS}`);
  const all: Record<string, string[]> = await contenders();
  const names = values.only ? [values.only] : Object.keys(all);
  if (values.trace) {
    for (const name of names) {
      console.log(`--- ${name}`);
      await traced(all[name]);
    }
    return;
  }
  const results: Record<string, Result[]> = {};
  // The first run of hv on a machine translates its TypeScript, and is not counted.
  if (names.includes("hv")) await boot(all.hv);
  for (let round = 0; round < Number(values.rounds); round++) {
    for (const name of names) (results[name] ??= []).push(await boot(all[name]));
  }
  const best = (name: string, of: keyof Result) => Math.min(...results[name].map((result) => result[of]));
  console.log(`${values.rounds} rounds, in turn, the best of each`);
  console.log(values.icount ? "           G instr.   exits" : "             CPU s    exits");
  for (const name of names) {
    const label = name === "hv" ? "hv" : `qemu ${name}`;
    console.log(
      `${label.padEnd(13)}${best(name, "cpu").toFixed(2).padStart(5)}${`${best(name, "exits")}`.padStart(9)}`,
    );
  }
  const qemu = names.filter((name) => name !== "hv");
  if (!names.includes("hv") || qemu.length === 0) return;
  for (const [of, word] of [["cpu", "CPU seconds"], ["exits", "exits"]] as const) {
    const baseline = Math.min(...qemu.map((name) => best(name, of)));
    console.log(`hv against the better QEMU: ${word} ${(best("hv", of) / baseline).toFixed(3)}`);
  }
}

if (Deno.env.has("LAB")) await measureHere();
else {
  const boots = Number(values.rounds) * 3 + 1;
  const command = `deno run -A --no-check bench/boot.ts ${Deno.args.join(" ")}`;
  Deno.exitCode = await runInLab(command, boots * SECONDS, values.icount);
}
