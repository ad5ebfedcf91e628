/**
 * Boots a copy of one of our disks with `hv run` here, wherever that is: logs in, writes a file, powers off.
 *
 *   deno run -A tests/lab/boot.ts IMAGE SECONDS [ARGUMENTS OF hv run]...
 *
 * IMAGE itself is written to. Exit code 0 when the guest did all that and hv ended with 0; the caller looks at the disk.
 */
import { fileURLToPath } from "node:url";
import { loginWritePoweroff } from "../guests/session.ts";
import { Terminal } from "../guests/terminal.ts";

const HV = fileURLToPath(new URL("../../cli/main.ts", import.meta.url));

const [image, seconds, ...args] = Deno.args;
await using terminal = new Terminal([Deno.execPath(), "run", "-A", "--quiet", HV, "run", image, ...args]);
try {
  const began = performance.now();
  const { code, errors } = await loginWritePoweroff(terminal, Number(seconds));
  console.log(errors.trim());
  console.log(`hv run: ${((performance.now() - began) / 1000).toFixed(1)} s from start to end, exit code ${code}`);
  Deno.exitCode = code;
} catch (error) {
  console.log((error as Error).message);
  Deno.exitCode = 1;
}
