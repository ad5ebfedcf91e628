/**
 * How the software CPU is made to run by its tests: it is set in the thread that makes a partition, before it is made,
 * and goes to the vCPUs' threads in the partition's memory. No option of hv leads here.
 */
import { type Layout, layoutFor, Shared } from "./layout.ts";

/** A mode, and what came of it. */
export interface TestMode {
  /** Runs of a block before the JIT compiles it; 0: as always, -1: never. */
  threshold: number;
  /** Instructions between two looks at timers and requests; 0: as always. */
  budget: number;
  /** Every TLB is emptied before each of these looks' runs. */
  flush: boolean;
  /** Of so many runs of a region one is compared with the interpreter, and the first of each region; 0: none. */
  lockstep: number;
  /** Guest RAM is a memory of its own, as it is above 15 GiB. */
  separateRam: boolean;
  /** Of the partition made last. */
  counts: (() => LockstepCounts) | null;
}

/** What {@link import("./jit/lockstep.ts").Lockstep} has compared. */
export interface LockstepCounts {
  /** Runs of regions. */
  runs: number;
  instructions: number;
  /** Runs that ended in an exception, which the interpreter raised as well. */
  exceptions: number;
  /** Runs that touched too much memory to be compared. */
  givenUp: number;
}

/** The mode of partitions made from now on. */
export const testMode: TestMode = {
  threshold: 0,
  budget: 0,
  flush: false,
  lockstep: 0,
  separateRam: false,
  counts: null,
};

/** Bytes behind guest RAM in which regions are run for comparison. */
export const SANDBOX_BYTES = 16 << 20;

/** Writes the mode into a partition's memory. */
export function writeTestMode(view: DataView): void {
  const { threshold, budget, flush, lockstep } = testMode;
  view.setInt32(Shared.JIT_THRESHOLD, threshold, true);
  view.setInt32(Shared.BUDGET, budget, true);
  view.setInt32(Shared.FLUSH, flush ? 1 : 0, true);
  view.setInt32(Shared.LOCKSTEP, lockstep, true);
  const count = (index: number) => view.getFloat64(Shared.LOCKSTEP_COUNTS + 8 * index, true);
  testMode.counts = lockstep === 0
    ? null
    : () => ({ runs: count(0), instructions: count(1), exceptions: count(2), givenUp: count(3) });
}

/** The layout of a partition that may be compared: with a vCPU's area more, and {@link SANDBOX_BYTES}. */
export function layoutWithSandbox(cpus: number, ram: number): Layout {
  const layout = layoutFor(cpus + 1, ram + SANDBOX_BYTES);
  return { ...layout, cpus, ram, sandbox: layout.ramBase + ram };
}
