/** The suite as `hv doctor --self-test` runs it: on a user's machine, without a test framework. */
import { endWorkers } from "./guest.ts";
import { BEHAVIOURS, findSubjects, runBehaviour } from "./suite.ts";

/** How one backend did. */
export interface SelfTestResult {
  /** The backend, and in which form. */
  name: string;
  passed: number;
  /** One line each: what was expected, and what was seen. */
  failures: string[];
  /** One line each: what was not asked of this backend, and why. */
  skips: string[];
  /** Milliseconds. */
  time: number;
}

/** What {@link selfTest} found. */
export interface SelfTestReport {
  results: SelfTestResult[];
  /** Backends that run no guests here, and why. */
  absent: { name: string; reason: string }[];
}

/**
 * Runs every behaviour on every backend that is here.
 * @param progress told, now and then, how far it has come
 */
export async function selfTest(progress: (text: string) => void): Promise<SelfTestReport> {
  const { subjects, absent } = await findSubjects();
  const results: SelfTestResult[] = [];
  for (const subject of subjects) {
    const result: SelfTestResult = { name: subject.name, passed: 0, failures: [], skips: [], time: 0 };
    const began = performance.now();
    let told = began;
    for (const [index, behaviour] of BEHAVIOURS.entries()) {
      const { result: verdict, detail } = await runBehaviour(behaviour, subject);
      const line = `${behaviour.name}: ${detail.replace(/\s+/g, " ").slice(0, 400)}`;
      if (verdict === "pass") result.passed++;
      else if (verdict === "skip") result.skips.push(line);
      else result.failures.push(line);
      if (performance.now() - told < 2000) continue;
      told = performance.now();
      progress(`${subject.name}: ${index + 1} of ${BEHAVIOURS.length}`);
    }
    result.time = performance.now() - began;
    results.push(result);
  }
  endWorkers();
  return { results, absent };
}
