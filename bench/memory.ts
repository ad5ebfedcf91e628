/**
 * Resident memory of hv less its guest's RAM, against QEMU's with the same guest.
 *
 *     deno run -A bench/memory.ts
 *
 * Runs in the lab (tests/lab). Each boots the demo disk under the same KVM; at the login prompt /proc/PID/smaps tells
 * what is resident, less the mapping that is as big as the guest's RAM. Private is what this process alone holds: of
 * several machines the rest, above all the program's text, is there once.
 */
import { Terminal } from "../tests/guests/terminal.ts";
import { contenders, MEMORY, runInLab } from "./contenders.ts";

/** Longest wait for the login prompt. */
const SECONDS = 300;

/** In KiB. */
interface Resident {
  /** Of the guest's RAM. */
  guest: number;
  /** Of everything else. */
  own: number;
  /** Part of `own` that no other process has. */
  private: number;
}

function resident(pid: number): Resident {
  const sum: Resident = { guest: 0, own: 0, private: 0 };
  const smaps = Deno.readTextFileSync(`/proc/${pid}/smaps`);
  for (const mapping of smaps.split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)) {
    const value = (name: string) => Number(mapping.match(new RegExp(`^${name}: +(\\d+) kB`, "m"))?.[1] ?? 0);
    if (value("Size") === MEMORY * 1024 && value("Rss") > sum.guest) {
      // The biggest of that size; what was taken for it before was not it.
      sum.own += sum.guest;
      sum.guest = value("Rss");
    } else {
      sum.own += value("Rss");
      sum.private += value("Private_Clean") + value("Private_Dirty");
    }
  }
  return sum;
}

/** The process that this one has started. */
function childOf(parent: number): number {
  for (const { name } of Deno.readDirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    // proc(5): pid (comm) state ppid
    const stat = Deno.readTextFileSync(`/proc/${name}/stat`);
    if (Number(stat.slice(stat.lastIndexOf(")")).split(" ")[2]) === parent) return Number(name);
  }
  throw new Error("no child process");
}

async function measureHere(): Promise<void> {
  const results: Record<string, Resident> = {};
  for (const [name, command] of Object.entries(await contenders())) {
    await using terminal = new Terminal(command);
    await terminal.expect(/login: $/, SECONDS);
    results[name] = resident(childOf(Deno.pid));
  }
  const mib = (kib: number) => (kib / 1024).toFixed(1).padStart(8);
  console.log("MiB              own  private  guest RAM resident");
  for (const [name, { own, private: alone, guest }] of Object.entries(results)) {
    console.log(
      `${(name === "hv" ? "hv" : `qemu ${name}`).padEnd(12)}${mib(own)}${mib(alone).padStart(9)}${mib(guest)}`,
    );
  }
  for (const part of ["own", "private"] as const) {
    const better = Math.min(results.pc[part], results.microvm[part]);
    console.log(`hv against the better QEMU: ${part} ${(results.hv[part] / better).toFixed(2)}`);
  }
}

if (Deno.env.has("LAB")) await measureHere();
else Deno.exitCode = await runInLab("deno run -A --no-check bench/memory.ts", 3 * SECONDS);
