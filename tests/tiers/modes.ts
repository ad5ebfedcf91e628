/**
 * Whole boots of the software CPU in modes that strain it: each must come to a login, write a file, power off and leave a
 * clean disk.
 *
 *   deno task modes [MODE]... [--short] [--debian]
 *
 * --short: the settings that CI uses. --debian: the Debian disk (systemd), not the demo disk: an hour and more in all.
 */
import assert from "node:assert/strict";
import { type TestMode, testMode } from "../../backends/soft/test_mode.ts";
import { Machine } from "../../mod.ts";
import { debianDisk } from "../guests/debian_disk.ts";
import { demoDisk } from "../guests/demo_disk.ts";
import { copyDisk } from "../guests/image.ts";
import { proveWritten } from "../guests/session.ts";
import { complaints } from "../guests/kernel_log.ts";
import { GuestShell } from "../guests/shell.ts";

/** A mode: what it does, and the settings that make it so. */
export interface BootMode {
  readonly name: string;
  readonly what: string;
  readonly settings: Partial<TestMode>;
  /** Settings for the demo disk in CI, where those of the long form take minutes; null: only in the long form. */
  readonly short: Partial<TestMode> | null;
}

/** The modes. */
export const BOOT_MODES: readonly BootMode[] = [
  { name: "interpreter", what: "nothing is compiled", settings: { threshold: -1 }, short: null },
  { name: "threshold", what: "blocks are compiled early", settings: { threshold: 1 }, short: { threshold: 500 } },
  { name: "budget", what: "runs end after few instructions", settings: { budget: 1 }, short: { budget: 8 } },
  {
    name: "flush",
    what: "every TLB is emptied all the time",
    settings: { flush: true, budget: 1 },
    short: { flush: true, budget: 30 },
  },
  { name: "separate", what: "guest RAM is a memory of its own", settings: { separateRam: true }, short: null },
  {
    name: "lockstep",
    what: "regions are compared with the interpreter",
    settings: { lockstep: 64, threshold: 500 },
    short: { lockstep: 1024, threshold: 2000 },
  },
];

/** How a boot went. */
export interface BootReport {
  /** Seconds to a shell, and of CPU in all. */
  readonly shell: number;
  readonly cpu: number;
  /** In words, what lockstep compared; else empty. */
  readonly compared: string;
}

/** Seconds of CPU that this process has used (proc(5): utime and stime in ticks of 1/100 s). */
function cpuSeconds(): number {
  const fields = Deno.readTextFileSync("/proc/self/stat").replace(/^.*\) /, "").split(" ");
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

/**
 * Boots a disk in a mode.
 * @param limit seconds that the guest may take to a login
 */
export async function bootInMode(
  settings: Partial<TestMode>,
  disk: "demo" | "debian",
  limit: number,
): Promise<BootReport> {
  const folder = await Deno.makeTempDir({ prefix: "hv-mode-" });
  const usual = { ...testMode };
  try {
    await copyDisk(await (disk === "demo" ? demoDisk() : debianDisk()), `${folder}/disk.img`);
    const began = performance.now();
    const before = cpuSeconds();
    Object.assign(testMode, settings);
    await using machine = await Machine.create({ backend: "soft", disks: [`${folder}/disk.img`], memory: "512M" });
    const counts = testMode.counts;
    Object.assign(testMode, usual);
    machine.start();
    const shell = await GuestShell.login(machine, `${limit}s`).catch(async (error) => {
      // What the guest ended of says more than that it ended.
      if (machine.state === "running") throw error;
      throw new Error(`${(await machine.wait()).message}; ${error.message}`);
    });
    const seconds = (performance.now() - began) / 1000;
    await shell.run("echo written by the guest > /root/proof", `${limit}s`);
    // Programs of their own, after the kernel's: signals, pipes, floating point.
    assert.match(await shell.run("seq 1 2000 | sort -n | md5sum", `${limit}s`), /^ea4d0a24dabcaa11f9aa979b872d162b /);
    const log = await shell.run("dmesg", `${limit}s`);
    assert.deepEqual(complaints(log), []);
    await machine.console.sendLine("poweroff");
    assert.equal((await machine.wait()).reason, "poweroff");
    await proveWritten(`${folder}/disk.img`);
    const cpu = cpuSeconds() - before;
    let compared = "";
    if (counts) {
      const { runs, instructions, exceptions, givenUp } = counts();
      assert.ok(runs > 10_000 && instructions > 100_000 && exceptions > 0, `compared too little: ${runs} runs`);
      assert.ok(givenUp < runs / 100, `${givenUp} runs were not compared`);
      compared = `${runs} runs of regions compared, ${instructions} instructions, ${exceptions} exceptions, ` +
        `${givenUp} not`;
    }
    return { shell: seconds, cpu, compared };
  } finally {
    Object.assign(testMode, usual);
    await Deno.remove(folder, { recursive: true });
  }
}

async function main(): Promise<number> {
  const names = Deno.args.filter((argument) => !argument.startsWith("--"));
  const short = Deno.args.includes("--short");
  const disk = Deno.args.includes("--debian") ? "debian" : "demo";
  let failed = 0;
  for (const mode of BOOT_MODES) {
    const settings = short ? mode.short : mode.settings;
    if (settings === null || (names.length && !names.includes(mode.name))) continue;
    try {
      const { shell, cpu, compared } = await bootInMode(settings, disk, 7200);
      console.log(`${mode.name}: a shell after ${shell.toFixed(1)} s, ${cpu.toFixed(1)} s of CPU in all; ${compared}`);
    } catch (error) {
      failed++;
      console.log(`${mode.name}: ${(error as Error).message}`);
    }
  }
  console.log(`${failed} failed`);
  return failed ? 1 : 0;
}

if (import.meta.main) Deno.exit(await main());
