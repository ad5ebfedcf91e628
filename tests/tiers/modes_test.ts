/** A disk boots in each mode that strains the software CPU: in CI the demo disk, in the long form the Debian disk. */
import { which } from "../guests/command.ts";
import { needs } from "../skip.ts";
import { BOOT_MODES, bootInMode } from "./modes.ts";

const name = "boots in the software CPU's modes";
const long = Deno.env.has("HV_LONG");
const ignore = needs(which("apt-get") !== null, name, "the disks are made of Debian's packages") ||
  needs(!long || (Deno.uid() === 0 && which("mmdebstrap") !== null), name, "needs root and Debian's mmdebstrap");

for (const { name, what, settings, short } of BOOT_MODES) {
  const used = long ? settings : short;
  if (used === null) continue;
  Deno.test({
    name: `the ${long ? "Debian" : "demo"} disk boots on the software CPU: ${what}`,
    ignore,
    fn: async () => {
      const { shell, cpu, compared } = await bootInMode(used, long ? "debian" : "demo", long ? 7200 : 600);
      console.error(`  ${name}: a shell after ${shell.toFixed(1)} s, ${cpu.toFixed(1)} s of CPU; ${compared}`);
    },
  });
}
