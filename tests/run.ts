/**
 * `deno task test`: everything that CI runs, in stages. The last line of its output is the count of all tests.
 *
 *   deno task test                  all stages
 *   deno task test unit lab         only these
 *   deno task test --long           also what takes long: a whole Debian on the software CPU, the long form of the lab
 *   deno task test --list           the names of the stages
 */
import { ROOT } from "./guests/cache.ts";
import { TOOL_ENV } from "./guests/command.ts";
import { addTally, emptyTally, readTally, type Tally, tallyLine } from "./tally.ts";
import { ensureTools } from "./tools.ts";

interface Stage {
  readonly name: string;
  /** Arguments for Deno; null for the stage that is a function. */
  readonly args: readonly string[] | (() => Promise<Tally>);
  /** A stage that takes longer is killed and has failed; in seconds. */
  readonly limit: number;
}

async function tools(): Promise<Tally> {
  const tally = emptyTally();
  const missing = await ensureTools();
  if (missing.length) {
    tally.skipped = 1;
    tally.reasons.push(`tests that need ${missing.join(", ")}: not installed, and not installable here`);
  } else tally.passed = 1;
  return tally;
}

// Types have a stage of their own.
const TEST = ["test", "-A", "--no-check"];

// Looks at the descriptors and mappings of its whole process, which files that run in parallel share.
const PROCESS_WIDE = "backends/kvm/partition_test.ts";

const STAGES: readonly Stage[] = [
  { name: "tools", args: tools, limit: 900 },
  { name: "format", args: ["fmt", "--check", "--quiet"], limit: 60 },
  { name: "lint", args: ["lint", "--quiet"], limit: 60 },
  { name: "types", args: ["check", "--quiet", "."], limit: 180 },
  { name: "unit", args: [...TEST, "--parallel", `--ignore=.cache,dist,tests,${PROCESS_WIDE}`], limit: 900 },
  {
    name: "machines",
    args: [...TEST, "--ignore=tests/guests,tests/lab,tests/conformance,tests/programs", "tests", PROCESS_WIDE],
    limit: 900,
  },
  { name: "conformance", args: ["run", "-A", "--quiet", "tests/conformance/run.ts"], limit: 300 },
  { name: "guests", args: [...TEST, "tests/guests/disks_test.ts"], limit: 400 },
  { name: "boots", args: [...TEST, "tests/guests/hv_test.ts"], limit: 600 },
  // Not in CI until it has been seen to pass there: only when named.
  ...(Deno.args.includes("programs") || Deno.args.includes("--list")
    ? [{ name: "programs", args: [...TEST, "tests/programs"], limit: 900 }]
    : []),
  { name: "lab", args: ["run", "-A", "--quiet", "tests/lab/main.ts"], limit: 600 },
  { name: "windows", args: ["run", "-A", "--quiet", "tests/lab/windows/main.ts"], limit: 800 },
];

const LONG = Deno.args.includes("--long");
const NAMES = Deno.args.filter((argument) => argument !== "--long");

/** Runs Deno with its output shown as it comes, and kept. */
async function runDeno(args: readonly string[], limit: number): Promise<Tally> {
  const child = new Deno.Command(Deno.execPath(), {
    args: [...args],
    cwd: ROOT,
    env: {
      ...LONG ? { HV_LONG: "1" } : {},
      ...TOOL_ENV,
      NO_COLOR: "1",
      DENO_NO_UPDATE_CHECK: "1",
      DENO_JOBS: `${navigator.hardwareConcurrency}`,
    },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    // A process group of its own: what a stage has started ends with it.
    detached: true,
  }).spawn();
  const kill = () => {
    try {
      Deno.kill(-child.pid, "SIGKILL");
    } catch {
      // all of it has ended
    }
  };
  const interrupted = () => {
    kill();
    Deno.exit(130);
  };
  Deno.addSignalListener("SIGINT", interrupted);
  Deno.addSignalListener("SIGTERM", interrupted);
  let output = "";
  const encoder = new TextEncoder();
  const follow = async (stream: ReadableStream<Uint8Array<ArrayBuffer>>) => {
    for await (const text of stream.pipeThrough(new TextDecoderStream())) {
      output += text;
      Deno.stdout.writeSync(encoder.encode(text));
    }
  };
  const timer = setTimeout(() => {
    output += `\nstopped: longer than ${limit} s\n`;
    console.log(`stopped: longer than ${limit} s`);
    kill();
  }, limit * 1000);
  try {
    await Promise.all([follow(child.stdout), follow(child.stderr)]);
    return readTally(output, (await child.status).code);
  } finally {
    clearTimeout(timer);
    kill();
    Deno.removeSignalListener("SIGINT", interrupted);
    Deno.removeSignalListener("SIGTERM", interrupted);
  }
}

interface Row {
  readonly name: string;
  readonly tally: Tally;
  readonly seconds: number;
}

function summary(rows: readonly Row[], sum: Tally): void {
  const width = Math.max(...rows.map((row) => row.name.length), 5);
  console.log(`\n${"stage".padEnd(width)}  ${"".padEnd(6)}  passed  failed  skipped      time`);
  for (const { name, tally, seconds } of rows) {
    const counts = [tally.passed, tally.failed, tally.skipped].map((count, i) => `${count}`.padStart([6, 6, 7][i]));
    const word = tally.failed ? "FAILED" : "ok";
    console.log(`${name.padEnd(width)}  ${word.padEnd(6)}  ${counts.join("  ")}  ${seconds.toFixed(1).padStart(6)} s`);
  }
  if (sum.reasons.length) console.log(`\nSkipped, and why:`);
  for (const reason of sum.reasons) console.log(`  ${reason}`);
  console.log(`\n${tallyLine(sum)}`);
}

async function main(): Promise<number> {
  if (Deno.args.includes("--list")) {
    for (const stage of STAGES) console.log(stage.name);
    return 0;
  }
  const unknown = NAMES.find((name) => !STAGES.some((stage) => stage.name === name));
  if (unknown) {
    console.error(`no stage ${unknown}; there are ${STAGES.map((stage) => stage.name).join(", ")}`);
    return 2;
  }
  const rows: Row[] = [];
  const sum = emptyTally();
  for (const { name, args, limit } of STAGES.filter(({ name }) => !NAMES.length || NAMES.includes(name))) {
    console.log(`\n=== ${name}`);
    const began = performance.now();
    const tally = typeof args === "function" ? await args() : await runDeno(args, LONG ? limit * 5 : limit);
    rows.push({ name, tally, seconds: (performance.now() - began) / 1000 });
    addTally(sum, tally);
  }
  summary(rows, sum);
  return sum.failed ? 1 : 0;
}

Deno.exit(await main());
