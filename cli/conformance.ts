/** `hv doctor --self-test`: does each backend of this machine do what hv relies on? A report to send in. */
import { selfTest, type SelfTestReport } from "../tests/conformance/report.ts";
import { say } from "./messages.ts";

/** Runs hv's conformance suite, with a word now and then on how far it is. */
export function runSelfTest(): Promise<SelfTestReport> {
  return selfTest((text) => say(text));
}

/** The report for a person. */
export function describeSelfTest({ results, absent }: SelfTestReport): string {
  const lines: string[] = [];
  for (const { name, passed, failures, skips, time } of results) {
    const seconds = (time / 1000).toFixed(1);
    lines.push(`${name}: ${passed} passed, ${failures.length} failed, ${skips.length} skipped in ${seconds} s`);
    for (const failure of failures) lines.push(`  FAILED ${failure}`);
    for (const skip of skips) lines.push(`  skipped ${skip}`);
  }
  for (const { name, reason } of absent) lines.push(`${name}: not here: ${reason}`);
  lines.push(
    results.some(({ failures }) => failures.length > 0)
      ? "Something failed: please send this whole report in an issue, with the name of your CPU."
      : "Nothing failed. This report is welcome too: it says what hv works on.",
  );
  return lines.join("\n");
}
