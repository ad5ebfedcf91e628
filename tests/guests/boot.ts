/**
 * Boots one of our disks with `hv run` on this machine, wherever that is: logs in, writes a file, powers off.
 *
 *   deno run -A tests/guests/boot.ts IMAGE SECONDS [ARGUMENTS OF hv run]...
 *
 * IMAGE itself is written to. The guest's console is shown. Exit code 0 when the guest did all that and hv ended with 0;
 * the caller looks at the disk.
 */
import { fileURLToPath } from "node:url";
import { loginWritePoweroff } from "./session.ts";
import { Terminal } from "./terminal.ts";

const HV = fileURLToPath(new URL("../../cli/main.ts", import.meta.url));

const [image, seconds, ...args] = Deno.args;
const encoder = new TextEncoder();
const argv = [Deno.execPath(), "run", "-A", "--quiet", HV, "run", image, ...args];
const began = performance.now();
await using terminal = new Terminal(argv, { onOutput: (text) => Deno.stdout.writeSync(encoder.encode(text)) });
try {
  const { code, errors } = await loginWritePoweroff(terminal, Number(seconds));
  console.log(errors.trim());
  console.log(`hv run: ${((performance.now() - began) / 1000).toFixed(1)} s from start to end, exit code ${code}`);
  Deno.exitCode = code;
} catch (error) {
  console.log((error as Error).message);
  Deno.exitCode = 1;
}
