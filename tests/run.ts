/**
 * `deno task test`: everything that CI runs, in stages. Two stages run at a time: each keeps about one processor busy.
 * What failed is repeated at the end; the very last line is the count of all tests.
 *
 *   deno task test                  all stages
 *   deno task test unit lab         only these
 *   deno task test --long           also what takes long: see docs/testing.md
 *   deno task test --list           the names of the stages
 */
import { excerpt } from "./failures.ts";
import { ROOT } from "./guests/cache.ts";
import { TOOL_ENV } from "./guests/command.ts";
import { addTally, emptyTally, readTally, type Tally, tallyLine } from "./tally.ts";
import { ensureTools } from "./tools.ts";

interface Stage {
  readonly name: string;
  /** Arguments for Deno; or a function, for the stage that others need. */
  readonly args: readonly string[] | (() => Promise<Tally>);
  /** A stage that takes longer is killed and has failed; in seconds: some six times what it takes beside another. */
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

/** In the order in which they are begun: those that take longest first, so that the two lanes end together. */
const STAGES: readonly Stage[] = [
  { name: "tools", args: tools, limit: 900 },
  { name: "format", args: ["fmt", "--check", "--quiet"], limit: 120 },
  { name: "lint", args: ["lint", "--quiet"], limit: 120 },
  { name: "types", args: ["check", "--quiet", "."], limit: 300 },
  { name: "windows", args: ["run", "-A", "--quiet", "tests/lab/windows/main.ts"], limit: 1800 },
  { name: "unit", args: [...TEST, `--ignore=.cache,dist,tests,${PROCESS_WIDE}`], limit: 3000 },
  { name: "programs", args: [...TEST, "tests/programs"], limit: 3000 },
  { name: "machines", args: [...TEST, "tests/*_test.ts", "tests/cpu", "tests/robustness", PROCESS_WIDE], limit: 1200 },
  { name: "boots", args: [...TEST, "tests/guests/hv_test.ts", "tests/guests/generic_kernel_test.ts"], limit: 1500 },
  { name: "32-bit", args: [...TEST, "tests/guests/i386_test.ts"], limit: 900 },
  { name: "lab", args: ["run", "-A", "--quiet", "tests/lab/main.ts"], limit: 1500 },
  { name: "tiers", args: [...TEST, "tests/tiers"], limit: 900 },
  { name: "guests", args: [...TEST, "tests/guests/disks_test.ts", "tests/guests/loaders_test.ts"], limit: 900 },
  { name: "conformance", args: ["run", "-A", "--quiet", "tests/conformance/run.ts"], limit: 450 },
];

/** Stages that run at a time. */
const LANES = Math.max(1, Math.min(2, navigator.hardwareConcurrency));

const LONG = Deno.args.includes("--long");
const NAMES = Deno.args.filter((argument) => argument !== "--long");

/** The process groups of the stages that run: what a stage has started ends with it. */
const running = new Set<number>();

function kill(group: number): void {
  try {
    Deno.kill(-group, "SIGKILL");
  } catch {
    // all of it has ended
  }
}

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  Deno.addSignalListener(signal, () => {
    running.forEach(kill);
    Deno.exit(130);
  });
}

/** Writes whole lines to standard output, each with the stage's name before it where several run. */
function printer(name: string): (text: string, end?: boolean) => void {
  const encoder = new TextEncoder();
  let rest = "";
  return (text, end = false) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop()!;
    if (end && rest) lines.push(rest);
    Deno.stdout.writeSync(encoder.encode(lines.map((line) => `${name} | ${line}\n`).join("")));
  };
}

interface Result {
  readonly name: string;
  readonly tally: Tally;
  readonly seconds: number;
  readonly output: string;
}

/** Runs Deno with its output shown as it comes, and kept. */
async function runDeno(
  name: string,
  args: readonly string[],
  limit: number,
): Promise<{ output: string; code: number }> {
  const child = new Deno.Command(Deno.execPath(), {
    args: [...args],
    cwd: ROOT,
    env: {
      ...LONG ? { HV_LONG: "1" } : {},
      ...TOOL_ENV,
      NO_COLOR: "1",
      DENO_NO_UPDATE_CHECK: "1",
    },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    detached: true,
  }).spawn();
  running.add(child.pid);
  let output = "";
  const follow = async (stream: ReadableStream<Uint8Array<ArrayBuffer>>) => {
    const print = printer(name);
    for await (const text of stream.pipeThrough(new TextDecoderStream())) {
      output += text;
      print(text);
    }
    print("", true);
  };
  const timer = setTimeout(() => {
    output += `\nstopped: longer than ${limit} s\n`;
    console.log(`${name} | stopped: longer than ${limit} s`);
    kill(child.pid);
  }, limit * 1000);
  try {
    await Promise.all([follow(child.stdout), follow(child.stderr)]);
    return { output, code: (await child.status).code };
  } finally {
    clearTimeout(timer);
    kill(child.pid);
    running.delete(child.pid);
  }
}

async function runStage({ name, args, limit }: Stage): Promise<Result> {
  console.log(`=== ${name} begins`);
  const began = performance.now();
  let tally: Tally;
  let output = "";
  if (typeof args === "function") tally = await args();
  else {
    const ended = await runDeno(name, args, LONG ? limit * 8 : limit);
    output = ended.output;
    tally = readTally(output, ended.code);
  }
  const seconds = (performance.now() - began) / 1000;
  console.log(`=== ${name} ${tally.failed ? "FAILED" : "is done"} after ${seconds.toFixed(1)} s: ${tallyLine(tally)}`);
  return { name, tally, seconds, output };
}

function summary(results: readonly Result[], sum: Tally, seconds: number): void {
  const width = Math.max(...results.map((result) => result.name.length), 5);
  console.log(`\n${"stage".padEnd(width)}  ${"".padEnd(6)}  passed  failed  skipped      time`);
  for (const { name, tally, seconds } of results) {
    const counts = [tally.passed, tally.failed, tally.skipped].map((count, i) => `${count}`.padStart([6, 6, 7][i]));
    const word = tally.failed ? "FAILED" : "ok";
    console.log(`${name.padEnd(width)}  ${word.padEnd(6)}  ${counts.join("  ")}  ${seconds.toFixed(1).padStart(6)} s`);
  }
  console.log(`all of it: ${seconds.toFixed(1)} s`);
  if (sum.reasons.length) console.log(`\nSkipped, and why:`);
  for (const { name, tally } of results) for (const reason of tally.reasons) console.log(`  ${name}: ${reason}`);
  const failed = results.filter(({ tally }) => tally.failed > 0);
  for (const { name, output } of failed) console.log(`\nFailed in ${name}:\n${excerpt(output)}`);
  if (failed.length) console.log(`\nFailed: ${failed.map(({ name }) => name).join(", ")}`);
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
  const began = performance.now();
  const results: Result[] = [];
  const queue = STAGES.filter(({ name }) => !NAMES.length || NAMES.includes(name));
  // Everything else may need what it installs.
  if (queue[0]?.name === "tools") results.push(await runStage(queue.shift()!));
  const lane = async () => {
    for (let stage = queue.shift(); stage; stage = queue.shift()) results.push(await runStage(stage));
  };
  await Promise.all(Array.from({ length: LANES }, lane));
  const sum = emptyTally();
  for (const { tally } of results) addTally(sum, tally);
  summary(results, sum, (performance.now() - began) / 1000);
  return sum.failed ? 1 : 0;
}

Deno.exit(await main());
