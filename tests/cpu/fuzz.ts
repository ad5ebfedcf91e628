/**
 * Fuzzes the software CPU: `deno run -A tests/cpu/fuzz.ts [first seed] [cases]`.
 *
 * What must hold for every case: no JavaScript exception, and `interruptVcpu` gets the vCPU out of `run()` within
 * {@link STOP_WITHIN}, whatever the guest does.
 */
import { monotonicNow } from "../../core/clock.ts";
import { RegisterFile } from "../../core/registers.ts";
import { soft } from "../../backends/soft/hypervisor.ts";
import { buildControllers } from "../conformance/controllers.ts";
import { FUZZ_RAM } from "./fuzz_case.ts";
import { type FuzzReport, type FuzzRequest, FuzzWord } from "./fuzz_worker.ts";

/** Milliseconds a case computes before it is interrupted. */
const CASE_TIME = 4;
/** Milliseconds within which an interrupted vCPU must be out. */
export const STOP_WITHIN = 100;
/** Milliseconds after which it counts as hung. */
const HUNG = 10_000;

/** What a run of the fuzzer found. */
export interface FuzzOutcome extends FuzzReport {
  /** Longest time from `interruptVcpu` until the case was over, in milliseconds, and its seed. */
  slowest: number;
  slowestSeed: number;
  hung: number | null;
}

/** Runs cases `first` to `first + count - 1`. */
export async function fuzz(first: number, count: number): Promise<FuzzOutcome> {
  const partition = soft.createPartition({ architecture: "x86_64", cpus: 1, memory: FUZZ_RAM, epoch: monotonicNow() });
  partition.allocateMemory(FUZZ_RAM);
  partition.mapMemory({ guestAddress: 0, offset: 0, size: FUZZ_RAM });
  const controllers = RegisterFile.allocate();
  for (const apic of buildControllers(partition, 1, controllers, -1).apics) apic.reset();
  const shared = new SharedArrayBuffer(FuzzWord.WORDS * 4);
  const words = new Int32Array(shared);
  const worker = new Worker(new URL("./fuzz_worker.ts", import.meta.url), { type: "module" });
  let slowest = 0;
  let slowestSeed = -1;
  let hung: number | null = null;
  let give = (_: FuzzReport) => {};
  let fail = (_: Error) => {};
  const finished = new Promise<FuzzReport>((resolve, reject) => [give, fail] = [resolve, reject]);
  worker.onmessage = ({ data }: MessageEvent<FuzzReport>) => give(data);
  worker.onerror = (event) => {
    event.preventDefault();
    fail(new Error(`case ${words[FuzzWord.SEED]}: ${event.message}`));
  };
  const request: FuzzRequest = { handle: partition.handle(), controllers, shared, first, count };
  worker.postMessage(request);
  let seen = -1;
  let since = performance.now();
  let asked = 0;
  let askedSeed = -1;
  const caseIsOver = () => {
    const time = performance.now() - asked;
    if (asked && time > slowest) [slowest, slowestSeed] = [time, askedSeed];
    asked = 0;
  };
  const watch = setInterval(() => {
    const now = performance.now();
    const runs = Atomics.load(words, FuzzWord.RUNS);
    if (runs !== seen) {
      caseIsOver();
      seen = runs;
      since = now;
    } else if (runs === 0) {
      // The Worker is still being made: that is no case's time.
    } else if (!asked && now - since > CASE_TIME) {
      asked = now;
      askedSeed = Atomics.load(words, FuzzWord.SEED);
      Atomics.store(words, FuzzWord.STOP, 1);
      partition.interruptVcpu(0);
    } else if (asked && Atomics.load(words, FuzzWord.SEED) >= 0 && now - asked > HUNG) {
      hung = words[FuzzWord.SEED];
      give({ ends: {}, failures: [], memory: 0 });
    }
  }, 1);
  try {
    const report = await finished;
    caseIsOver();
    return { ...report, slowest, slowestSeed, hung };
  } finally {
    clearInterval(watch);
    worker.terminate();
    partition.close();
  }
}

if (import.meta.main) {
  const outcome = await fuzz(Number(Deno.args[0] ?? 1), Number(Deno.args[1] ?? 2000));
  for (const failure of outcome.failures) console.log(`case ${failure.seed} (${failure.mode}): ${failure.error}\n`);
  console.log(outcome.ends, `slowest stop ${outcome.slowest.toFixed(1)} ms (case ${outcome.slowestSeed})`);
  console.log(`${Math.round(outcome.memory / 2 ** 20)} MiB`);
  if (outcome.hung !== null) console.log(`HUNG: case ${outcome.hung}`);
  Deno.exit(outcome.failures.length || outcome.hung !== null ? 1 : 0);
}
