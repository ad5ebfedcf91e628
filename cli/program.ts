/** The frame of a program: whatever goes wrong ends in words and an exit code, with the terminal given back. */
import { ExitCode } from "./exit_codes.ts";
import { say } from "./messages.ts";

/** What {@link explain} needs to know. */
export interface ExplainOptions {
  /** Show stack traces. */
  debug: boolean;
  /** The command line whose `--help` explains its use. */
  command: string;
}

/** Says what went wrong; returns the exit code for it. */
export function explain(error: unknown, { debug, command }: ExplainOptions): number {
  const known = isForPeople(error);
  const usage = known && (error.name === "UsageError" || error.usage === true);
  if (known) say(error.message);
  else say(`internal error: ${error instanceof Error ? error.message : error}`);
  if (debug) {
    for (let cause = error; cause instanceof Error; cause = cause.cause) say(cause.stack ?? cause.message);
  } else if (usage) say(`see '${command} --help'`);
  else if (!known) say("this is a bug of hv: please report it, with what --debug adds to this message");
  return usage ? ExitCode.USAGE : ExitCode.ERROR;
}

/** Errors whose message is a sentence for people. By name: their classes would load all of hv to show one. */
function isForPeople(error: unknown): error is Error & { usage?: boolean } {
  return error instanceof Error && ["UsageError", "HvError", "DiskError"].includes(error.name);
}

/** Runs a program to its exit code, which it never returns from. What nobody awaited and caught is explained too. */
export async function runProgram(body: () => Promise<number>, options: ExplainOptions): Promise<never> {
  const explainAndExit = (event: Event, error: unknown) => {
    event.preventDefault();
    // The terminal is restored by a listener of `unload`; words come after, or raw mode would put them askew.
    globalThis.dispatchEvent(new Event("unload"));
    Deno.exit(explain(error, options));
  };
  globalThis.addEventListener("error", (event) => explainAndExit(event, event.error));
  globalThis.addEventListener("unhandledrejection", (event) => explainAndExit(event, event.reason));
  let code: number;
  try {
    code = await body();
  } catch (error) {
    code = explain(error, options);
  }
  Deno.exit(code);
}
