/**
 * The x86-64 lab: a Linux with a real kvm-amd, on any machine.
 *
 * QEMU's software CPU emulates AMD's SVM with nested paging; Debian's kernel runs on it (called L1), and on its /dev/kvm
 * runs what is to be tested: this repository, on this same Deno. No network, no root, nothing installed in L1.
 */
import { TOOL_ENV } from "../guests/command.ts";
import type { Entry } from "../guests/initramfs.ts";
import { type DebianKernel, debianKernel } from "../guests/kernel.ts";
import { step } from "../guests/progress.ts";
import { qemuProgram } from "../guests/qemu.ts";
import { Terminal } from "../guests/terminal.ts";
import { writeInitramfs } from "./initramfs.ts";

/** What kind of machine L1 runs on. */
export interface LabOptions {
  /** How kvm-amd translates the guest's memory: nested paging, or shadow page tables. `npt` by default. */
  readonly kvm?: "npt" | "shadow";
  /** Processors of L1; 1 by default. */
  readonly cpus?: number;
  /** What of `-cpu max` is off in L1: QEMU's words, as `smap=off`; nothing by default. */
  readonly cpuFlags?: string;
  /** Memory of L1 as QEMU wants it; `1536M` by default. */
  readonly memory?: string;
  /** Raw images that L1 sees as /dev/vda, /dev/vdb and so on; written through. */
  readonly disks?: readonly string[];
  /** Files besides the repository. */
  readonly files?: readonly Entry[];
  /** Shows all output as it comes; off by default. */
  readonly echo?: boolean;
}

/** How a script in the lab ended. */
export interface LabResult {
  /** Its exit code; 137 when its time was over. */
  readonly code: number;
  /** What it wrote to standard output and standard error. */
  readonly output: string;
}

/** A running lab; `await using` ends it and leaves nothing behind. */
export interface Lab {
  /**
   * Runs a shell script in L1, in the root of the repository, with `deno` on PATH.
   * @param seconds after which it is killed; 60 by default
   * @throws when L1 itself died; the error has its kernel's last words
   */
  run(script: string, seconds?: number): Promise<LabResult>;
  [Symbol.asyncDispose](): Promise<void>;
}

// L1 needs this much to boot on a busy machine with two cores; it takes 6 s on an idle one.
const BOOT_SECONDS = 120;
// A request is one line of a terminal in canonical mode, which holds 4095 bytes (N_TTY_BUF_SIZE, drivers/tty/n_tty.c).
const LONGEST_REQUEST = 3_900;

interface Machine {
  readonly folder: string;
  readonly kernel: DebianKernel;
  readonly options: LabOptions;
  readonly icount: boolean;
}

function qemuArguments({ folder, kernel, options, icount }: Machine): string[] {
  const disks = (options.disks ?? []).flatMap((path, i) => [
    ...["-drive", `file=${path},format=raw,if=none,id=disk${i},cache=writeback,discard=unmap`],
    ...["-device", `virtio-blk-pci,drive=disk${i},disable-legacy=on`],
  ]);
  // Linux gives its timer 160 million cycles of the host's TSC for five ticks and panics without: on a busy machine QEMU
  // does not run for that long.
  const append = ["console=ttyS0", "quiet", "panic=-1", "mitigations=off", "oops=panic", "no_timer_check"];
  append.push(`lab.npt=${options.kvm === "shadow" ? 0 : 1}`);
  if (disks.length) append.push(`lab.disks=${options.disks!.length}`);
  // Instructions instead of time: each is one nanosecond of the guest's clocks, and every run is the same run.
  const deterministic = ["-icount", "shift=0,sleep=off", "-rtc", "base=2026-01-01T00:00:00,clock=vm", "-seed", "1"];
  return [
    ...["qemu-system-x86_64", "-nodefaults", "-no-reboot", "-nographic", "-monitor", "none"],
    ...["-serial", `file:${folder}/console`, "-serial", "stdio"],
    ...[
      "-M",
      "q35",
      "-accel",
      "tcg,tb-size=512",
      "-cpu",
      ["max", ...options.cpuFlags ? [options.cpuFlags] : []].join(","),
    ],
    ...["-smp", `${options.cpus ?? 1}`, "-m", options.memory ?? "1536M"],
    ...(icount ? deterministic : []),
    ...disks,
    ...["-kernel", kernel.vmlinuz, "-initrd", `${folder}/initramfs`, "-append", append.join(" ")],
  ];
}

/** Shows output as it comes, without the lines that end an answer; these may come in pieces. */
function echoWithoutMarks(): (text: string) => void {
  const encoder = new TextEncoder();
  let held = "";
  return (text) => {
    // deno-lint-ignore no-control-regex
    const clean = (held + text).replace(/\x1e\w+ \d+\n/g, "");
    const mark = clean.indexOf("\x1e");
    const shown = mark < 0 ? clean : clean.slice(0, mark);
    held = clean.slice(shown.length);
    Deno.stderr.writeSync(encoder.encode(shown));
  };
}

class RunningLab implements Lab {
  #folder: string;
  #terminal: Terminal;
  #next = 1;

  constructor(machine: Machine) {
    this.#folder = machine.folder;
    const echo = machine.options.echo ? echoWithoutMarks() : undefined;
    this.#terminal = new Terminal(qemuArguments(machine), { env: TOOL_ENV, onOutput: echo });
  }

  /** Waits for the line that ends a request's answer. */
  async answer(nonce: string, seconds: number): Promise<LabResult> {
    try {
      const match = await this.#terminal.expect(new RegExp(`([^]*?)\\x1e${nonce} (\\d+)\n`), seconds);
      return { code: Number(match[2]), output: match[1] };
    } catch (error) {
      const log = await Deno.readTextFile(`${this.#folder}/console`).catch(() => "");
      throw new Error(`${(error as Error).message}\nL1's kernel says:\n${log.slice(-3000)}`);
    }
  }

  async run(script: string, seconds = 60): Promise<LabResult> {
    const nonce = `r${this.#next++}x${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`;
    const bytes = new TextEncoder().encode(script);
    const line = `${nonce} ${seconds} ${btoa(String.fromCharCode(...bytes))}`;
    if (line.length > LONGEST_REQUEST) throw new Error("too long a script for the lab: put it into a file");
    await this.#terminal.sendLine(line);
    return await this.answer(nonce, seconds + 30);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#terminal[Symbol.asyncDispose]();
    await Deno.remove(this.#folder, { recursive: true });
  }
}

/** Removes what labs left that were killed with no chance to do it themselves. */
async function sweep(folder: string): Promise<void> {
  const running = (pid: string) => Deno.stat(`/proc/${pid}`).then(() => true, () => false);
  for await (const { name } of Deno.readDir(folder)) {
    const pid = name.match(/^hv-lab-(\d+)-/)?.[1];
    // Another user's are not ours to remove.
    if (pid && !await running(pid)) await Deno.remove(`${folder}/${name}`, { recursive: true }).catch(() => {});
  }
}

async function start(options: LabOptions, icount: boolean, extra: readonly Entry[]): Promise<RunningLab> {
  if (!qemuProgram()) throw new Error("the lab needs qemu-system-x86_64; 'deno run -A tests/tools.ts' installs it");
  const kernel = await debianKernel("cloud");
  const folder = await Deno.makeTempDir({ prefix: `hv-lab-${Deno.pid}-` });
  await sweep(folder.slice(0, folder.lastIndexOf("/")));
  try {
    const files = [...options.files ?? [], ...extra];
    await step("packing the lab", () => writeInitramfs(`${folder}/initramfs`, kernel, files));
    return new RunningLab({ folder, kernel, options, icount });
  } catch (error) {
    await Deno.remove(folder, { recursive: true });
    throw error;
  }
}

/** Boots a lab; it is ready for `run` when this resolves (some 10 s). */
export async function lab(options: LabOptions = {}): Promise<Lab> {
  const running = await start(options, false, []);
  try {
    await step("booting the lab", () => running.answer("ready", BOOT_SECONDS));
    return running;
  } catch (error) {
    await running[Symbol.asyncDispose]();
    throw error;
  }
}

/**
 * Runs one script in a lab that counts instructions: one processor, no disks, clocks that advance one nanosecond per
 * instruction. Time that L1 measures is therefore instructions, the same in every run.
 * @param seconds of the guest's time, that is 10^9 instructions each; the real limit is ten times that
 */
export async function countInstructions(
  script: string,
  seconds: number,
  options: Pick<LabOptions, "kvm" | "files" | "memory" | "echo"> = {},
): Promise<LabResult> {
  await using running = await start(options, true, [
    { path: "lab/autorun", data: script },
    { path: "lab/seconds", data: `${seconds}` },
  ]);
  return await running.answer("autorun", BOOT_SECONDS + seconds * 10);
}
