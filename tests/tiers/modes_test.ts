/** The demo disk boots in each mode of the software CPU that strains it; in the long form the Debian disk does as well. */
import { which } from "../guests/command.ts";
import { needs } from "../skip.ts";
import { BOOT_MODES, bootInMode } from "./modes.ts";

const demo = needs(
  which("apt-get") !== null,
  "boots in the software CPU's modes",
  "the demo disk is made of Debian's packages",
);
const long = "the Debian disk in the software CPU's modes";
const debian =
  needs(Deno.env.has("HV_LONG"), long, "takes an hour: deno task test --long tiers, or deno task modes --debian") ||
  needs(Deno.uid() === 0 && which("mmdebstrap") !== null, long, "needs root and Debian's mmdebstrap");

for (const disk of ["demo", "debian"] as const) {
  for (const mode of BOOT_MODES) {
    Deno.test({
      name: `the ${disk} disk boots on the software CPU: ${mode.what}`,
      ignore: disk === "demo" ? demo : debian,
      fn: async () => {
        const { shell, cpu, compared } = await bootInMode(mode, disk, disk === "demo" ? 600 : 7200);
        console.error(
          `  ${disk}, ${mode.name}: a shell after ${shell.toFixed(1)} s, ${cpu.toFixed(1)} s of CPU ${compared}`,
        );
      },
    });
  }
}
