/**
 * Real programs in a guest, compared with this machine's own CPU: each check of `checks/` runs in the same file tree in a
 * guest and here (chroot), and must print the same.
 *
 *   deno run -A tests/programs/run.ts [NAME]... [--short] [--backend NAME] [--cpus N]
 */
import type { BackendName } from "../../core/hypervisor.ts";
import { ROOT } from "../guests/cache.ts";
import { tool } from "../guests/command.ts";
import { programsDisk } from "./disk.ts";
import { type CheckResult, readOutputs, runHere, runInGuest, type Work, writeWork } from "./guest.ts";

const CHECKS = `${ROOT}/tests/programs/checks`;

/** The names of all checks. */
export const CHECK_NAMES: readonly string[] = [...Deno.readDirSync(CHECKS)]
  .map(({ name }) => name).filter((name) => name.endsWith(".sh")).map((name) => name.slice(0, -3)).sort();

/** How the checks are run: all of them where none is named. */
export type CheckOptions = Omit<Work, "scripts" | "names" | "disk"> & Partial<Pick<Work, "names">>;

/** What all checks printed, here and there. */
export interface CheckReport {
  readonly results: CheckResult[];
  /** By name, what the host's CPU made of it. */
  readonly expected: Map<string, string>;
  /** By name, what the guest's CPU made of it. */
  readonly actual: Map<string, string>;
  /** The kernel's log of the guest. */
  readonly dmesg: string;
}

/** Runs checks in a guest and here. It must be root's: the tree is made and entered as root. */
export async function runChecks(options: CheckOptions): Promise<CheckReport> {
  const names = options.names?.length ? options.names : CHECK_NAMES;
  const work = { ...options, scripts: CHECKS, names };
  const disk = await programsDisk();
  const folder = await Deno.makeTempDir({ prefix: "hv-programs-" });
  try {
    const here = `${folder}/here`;
    const there = `${folder}/there`;
    await writeWork(here, work);
    const genpkey = ["openssl", "genpkey", "-quiet", "-out"];
    await tool([...genpkey, `${here}/checks/rsa.pem`, "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
    await tool([...genpkey, `${here}/checks/ed25519.pem`, "-algorithm", "ED25519"]);
    await tool(["cp", "-r", here, there]);
    await runHere(disk, here);
    const results = await runInGuest(disk, there, work);
    const dmesg = await Deno.readTextFile(`${there}/out/dmesg`);
    return { results, expected: await readOutputs(here, names), actual: await readOutputs(there, names), dmesg };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** The first lines in which two texts differ; empty when they are equal. */
export function difference(expected: string, actual: string): string {
  const a = expected.split("\n");
  const b = actual.split("\n");
  const lines: string[] = [];
  for (let i = 0; i < Math.max(a.length, b.length) && lines.length < 20; i++) {
    if (a[i] !== b[i]) {
      lines.push(`line ${i + 1}, host:  ${a[i]?.slice(0, 300)}`, `line ${i + 1}, guest: ${b[i]?.slice(0, 300)}`);
    }
  }
  return lines.join("\n");
}

async function main(): Promise<number> {
  const value = (option: string) => Deno.args.includes(option) ? Deno.args[Deno.args.indexOf(option) + 1] : undefined;
  const names = Deno.args.filter((name) => CHECK_NAMES.includes(name));
  const report = await runChecks({
    names,
    length: Deno.args.includes("--short") ? "short" : "long",
    backend: value("--backend") as BackendName | undefined,
    cpus: Number(value("--cpus") ?? 1),
    limit: 1800,
    onResult: ({ name, code, seconds }) => console.log(`${name}: exit code ${code} after ${seconds.toFixed(1)} s`),
  });
  let failed = 0;
  for (const { name } of report.results) {
    const lines = difference(report.expected.get(name)!, report.actual.get(name)!);
    if (!lines) continue;
    failed++;
    console.log(`${name} differs:\n${lines}`);
  }
  const traps = report.dmesg.match(/.*(traps:|segfault|Oops|Call Trace|WARNING:).*/g) ?? [];
  if (traps.length) console.log(`the kernel's log:\n${traps.join("\n")}`);
  console.log(failed ? `${failed} of ${report.results.length} checks differ` : "all as on the host");
  return failed || traps.length ? 1 : 0;
}

if (import.meta.main) Deno.exit(await main());
