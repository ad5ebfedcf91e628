/** Whole runs of `hv` for the tests of this folder. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { Program } from "../../cli/process_fixture.ts";
import { probeBackends } from "../../mod.ts";

const MAIN = fileURLToPath(new URL("../../cli/main.ts", import.meta.url));

/** The command line of hv from this checkout. */
export const HV: readonly string[] = [Deno.execPath(), "run", "--allow-all", "--quiet", "--no-check", MAIN];

// A restricted platform refuses stock kernels, but runs those of our own.
/** Backends that start here, best first. */
export const BACKENDS: readonly string[] = (await probeBackends())
  .filter(({ support }) => support.usable || support.restricted)
  .map(({ name }) => name);

/** Runs a command to its end: it says one clear sentence, nothing on standard output, and ends with the code. */
export async function refuses(command: readonly string[], code: number, sentence: RegExp): Promise<void> {
  const program = new Program([...command]);
  const ended = await program.ends();
  assert.match(program.error, sentence);
  assert.match(program.error, /^hv: [^\n]+\n(hv: see 'hv run --help'\n)?$/, "one sentence");
  assert.equal(program.out, "", "stdout is the guest's alone");
  assert.equal(ended, code);
}
