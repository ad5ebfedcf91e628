/** Counting tests: what every suite's output is boiled down to. */

/** How a suite went. */
export interface Tally {
  passed: number;
  failed: number;
  skipped: number;
  /** Why tests were skipped, as they said it. */
  reasons: string[];
}

/** Nothing yet. */
export function emptyTally(): Tally {
  return { passed: 0, failed: 0, skipped: 0, reasons: [] };
}

/** Adds `more` to `sum`. */
export function addTally(sum: Tally, more: Tally): void {
  sum.passed += more.passed;
  sum.failed += more.failed;
  sum.skipped += more.skipped;
  for (const reason of more.reasons) if (!sum.reasons.includes(reason)) sum.reasons.push(reason);
}

// The last line of `deno test`: `ok | 5 passed (2 steps) | 0 failed | 1 ignored | 3 filtered out (7s)`.
const DENO_TEST = /^\w+ \| (\d+) passed(?: \([^)]*\))? \| (\d+) failed(?: \([^)]*\))?(?: \| (\d+) ignored)?/gm;
// The last line of our own suites.
const OURS = /^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$/gm;
// A suite with several subjects has such a line for each: `kvm: 40 passed, 0 failed, 2 skipped`.
const SUBJECT = /^[\w(), -]+: (\d+) passed, (\d+) failed(?:, (\d+) skipped)?$/gm;
// One test of `deno test`, for a run that was stopped before its last line.
const ONE_TEST = /\.\.\. (ok|FAILED|ignored) \(/g;
const REASON = /^\s*(?:SKIPPED|skip) (.*)$/gm;
const ABSENT = /^not here: (.*)$/gm;

/**
 * Reads the counts out of what a suite printed. A suite that ended badly has failed at least once, whatever it
 * counted; one that ended well without counting anything counts as one test.
 */
export function readTally(output: string, code: number): Tally {
  // deno-lint-ignore no-control-regex
  const plain = output.replace(/\x1b\[[0-9;]*m/g, "").replaceAll("\r", "");
  const tally = emptyTally();
  const last = [...plain.matchAll(DENO_TEST), ...plain.matchAll(OURS)].sort((a, b) => a.index - b.index).at(-1);
  const counts = last ? [last] : [...plain.matchAll(SUBJECT)];
  for (const [, passed, failed, skipped] of counts) {
    tally.passed += Number(passed);
    tally.failed += Number(failed);
    tally.skipped += Number(skipped ?? 0);
  }
  if (!counts.length) {
    for (const [, result] of plain.matchAll(ONE_TEST)) {
      tally[result === "ok" ? "passed" : result === "FAILED" ? "failed" : "skipped"]++;
    }
  }
  const counted = tally.passed + tally.failed + tally.skipped > 0;
  // A backend that is not on this machine is one skip, however many tests it would have had.
  const absent = [...plain.matchAll(ABSENT)].map((match) => match[1].trim());
  tally.skipped += absent.length;
  if (code !== 0 && tally.failed === 0) tally.failed = 1;
  tally.reasons = [...new Set([...[...plain.matchAll(REASON)].map((match) => match[1].trim()), ...absent])];
  // Where nothing was there to be run, nothing has passed.
  if (!counted && !absent.length && code === 0) tally[tally.reasons.length ? "skipped" : "passed"] = 1;
  return tally;
}

/** `N passed, N failed, N skipped` */
export function tallyLine(tally: Tally): string {
  return `${tally.passed} passed, ${tally.failed} failed, ${tally.skipped} skipped`;
}
