/**
 * The own tests of sqlite and OpenSSL in a guest, by their own judgement: their sources are those that Debian's packages
 * are made of, built with the programs' gcc in the programs' tree.
 *
 *   deno run -A tests/programs/suites.ts [sqlite|openssl]... [--short] [--backend NAME] [--cpus N]
 */
import { relative } from "node:path";
import type { BackendName } from "../../core/hypervisor.ts";
import { cached, digest, ROOT } from "../guests/cache.ts";
import { text, tool } from "../guests/command.ts";
import { makeExt4 } from "../guests/image.ts";
import { packageVersion } from "../guests/packages.ts";
import { sourcePackage } from "../guests/source_package.ts";
import { type ProgramsDisk, programsDisk } from "./disk.ts";
import { type CheckResult, readOutputs, runHere, runInGuest, type Work, writeWork } from "./guest.ts";

const SUITES = `${ROOT}/tests/programs/suites`;
const BUILDS = `${ROOT}/tests/programs/builds`;
const UUID = "5d0c7a3e-9b61-4e2f-8a4d-3c6f1e9b7d20";
const TIME = 1767225600;

/** How many of a suite's tests ended in which way. */
export interface SuiteCounts {
  readonly passed: number;
  readonly failed: number;
  /** What the suite says of each failure. */
  readonly failures: readonly string[];
}

interface Suite {
  /** The package with its source. */
  readonly source: string;
  /** Reads what the suite printed; null when it did not come to its end. */
  readonly count: (output: string) => SuiteCounts | null;
}

/** `0 errors out of 4043 tests on …`, once for each program that ran; failures are lines of `! NAME …`. */
function countSqlite(output: string): SuiteCounts | null {
  const ends = [...output.matchAll(/^(\d+) errors out of (\d+) tests/gm)];
  const begun = [...output.matchAll(/^== /gm)].length;
  if (!begun || ends.length !== begun) return null;
  const sum = (group: number) => ends.reduce((all, end) => all + Number(end[group]), 0);
  const failures = [...output.matchAll(/^! .*$/gm)].map(([line]) => line);
  return { passed: sum(2) - sum(1), failed: sum(1), failures };
}

/** The summaries of Perl's TAP::Harness, one for the FIPS provider and one for all else; what failed is listed before. */
function countOpenssl(output: string): SuiteCounts | null {
  const ends = [...output.matchAll(/^Files=\d+, Tests=(\d+).*\nResult: (\w+)/gm)];
  if (ends.length !== 2 && ends.every(([, , result]) => result === "PASS")) return null;
  const failures = [...output.matchAll(/^\S+\.t .*\(Wstat: .*$/gm)].map(([line]) => line);
  const failed = Math.max(failures.length, ends.filter(([, , result]) => result !== "PASS").length);
  return { passed: ends.reduce((sum, [, tests]) => sum + Number(tests), 0) - failed, failed, failures };
}

const SUITE: Readonly<Record<string, Suite>> = {
  openssl: { source: "openssl", count: countOpenssl },
  sqlite: { source: "sqlite3", count: countSqlite },
};

/** The names of the suites. */
export const SUITE_NAMES: readonly string[] = Object.keys(SUITE);

/** A suite, built, as an ext4 image; the first call builds it, for minutes. It must be root's. */
async function built(name: string, disk: ProgramsDisk): Promise<string> {
  const script = await Deno.readTextFile(`${BUILDS}/${name}.sh`);
  const source = await sourcePackage(SUITE[name].source);
  const { version } = await packageVersion(SUITE[name].source);
  const key = `programs/${name}_${version}_${await digest(script, relative(ROOT, disk.tree))}.img`.replaceAll(":", ".");
  return await cached(key, async (image, step) => {
    const work = `${image}.work`;
    try {
      await Deno.mkdir(work);
      await tool(["cp", "-r", source, `${work}/source`]);
      await Deno.writeTextFile(`${work}/run`, `cd /opt && exec sh /mnt/build >/mnt/log 2>&1\n`);
      await Deno.writeTextFile(`${work}/build`, script);
      step.detail = `building ${name}`;
      await runHere(disk, work, `${work}/source`).catch(async (error) => {
        throw new Error(`${error.message}\n${(await Deno.readTextFile(`${work}/log`)).slice(-3000)}`);
      });
      step.detail = "file system";
      const kept = `${work}/source/kept`;
      const mib = Number((await text(["du", "-sm", kept])).split("\t")[0]);
      await makeExt4(image, { source: kept, mib: Math.ceil(mib * 1.2) + 64, uuid: UUID, time: TIME });
    } finally {
      await tool(["rm", "-rf", work]);
    }
  });
}

/** What came of a suite in a guest. */
export interface SuiteReport extends CheckResult {
  readonly output: string;
  /** Null when it did not come to its end. */
  readonly counts: SuiteCounts | null;
  /** The kernel's log of the guest. */
  readonly dmesg: string;
}

/** Runs a suite in a guest. It must be root's. */
export async function runSuite(
  name: string,
  options: Omit<Work, "scripts" | "names" | "disk">,
): Promise<SuiteReport> {
  const programs = await programsDisk();
  const work = { ...options, scripts: SUITES, names: [name], disk: await built(name, programs) };
  const folder = await Deno.makeTempDir({ prefix: "hv-suite-" });
  try {
    await writeWork(`${folder}/job`, work);
    const [result] = await runInGuest(programs, `${folder}/job`, work);
    const output = (await readOutputs(`${folder}/job`, [name])).get(name)!;
    const dmesg = await Deno.readTextFile(`${folder}/job/out/dmesg`);
    return { ...result, output, counts: SUITE[name].count(output), dmesg };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function main(): Promise<number> {
  const value = (option: string) => Deno.args.includes(option) ? Deno.args[Deno.args.indexOf(option) + 1] : undefined;
  const chosen = Deno.args.filter((name) => SUITE_NAMES.includes(name));
  let bad = false;
  for (const name of chosen.length ? chosen : SUITE_NAMES) {
    const { code, seconds, output, counts } = await runSuite(name, {
      length: Deno.args.includes("--short") ? "short" : "long",
      backend: value("--backend") as BackendName | undefined,
      cpus: Number(value("--cpus") ?? 1),
      limit: 14_400,
      onStep: (step, seconds) => console.log(`${seconds.toFixed(1).padStart(7)} s  ${step}`),
    });
    bad ||= code !== 0 || counts === null || counts.failed > 0;
    if (!counts) console.log(`${name} did not come to its end, exit code ${code}:\n${output.slice(-3000)}`);
    else {
      for (const line of counts.failures) console.log(line);
      console.log(
        `${name}: ${counts.passed} passed, ${counts.failed} failed, ${seconds.toFixed(1)} s, exit code ${code}`,
      );
    }
  }
  return bad ? 1 : 0;
}

if (import.meta.main) Deno.exit(await main());
