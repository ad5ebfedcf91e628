/** What of a failed suite's output is worth repeating at the end of a long run. */

/** The most lines repeated of one suite. */
const MOST = 60;
/** The most lines of one failed test. */
const MOST_OF_ONE = 20;

// Between these lines `deno test` tells of each failed test: its name, the error, the stack.
const ERRORS = / ERRORS \n/g;
const FAILURES = / FAILURES \n/;
// How our own suites and those of others mark a failure in a line.
const MARKED = /^(?!.*\b0 failed\b).*(?:\bFAIL(?:ED)?\b|\berror:|^stopped: |[1-9]\d* failed)/;
// A frame of a stack within Deno or the test framework says nothing.
const NOISE = /^\s+at .*(?:ext:|node:|jsr:)/;

/** The errors of `deno test`, each cut to a length that leaves room for the others. */
function denoErrors(plain: string): string[] {
  const lines: string[] = [];
  for (const match of plain.matchAll(ERRORS)) {
    const rest = plain.slice(match.index + match[0].length);
    for (const one of rest.split(FAILURES)[0].trim().split(/\n\n(?=\S.* => )/)) {
      const told = one.split("\n").filter((line) => line.trim() && !NOISE.test(line));
      lines.push(...told.slice(0, MOST_OF_ONE));
      if (told.length > MOST_OF_ONE) lines.push("  ...");
    }
  }
  return lines;
}

/** Says what failed, in a few lines, out of everything that a failed suite printed. */
export function excerpt(output: string): string {
  // deno-lint-ignore no-control-regex
  const plain = output.replace(/\x1b\[[0-9;]*m/g, "").replaceAll("\r", "");
  const all = plain.split("\n");
  const errors = denoErrors(plain);
  // A suite that was stopped, or died, tells no errors: then its last words count.
  const lines = errors.length ? errors : all.filter((line) => MARKED.test(line)).slice(0, MOST / 2);
  if (!errors.length) lines.push("its last lines:", ...all.filter((line) => line.trim()).slice(-MOST / 3));
  return lines.slice(0, MOST).map((line) => `  ${line.slice(0, 400)}`).join("\n");
}
