/**
 * Debian's generic kernel, with all its drivers, on every backend that runs stock kernels here: the Debian disk's userland
 * comes to a login on it, and no driver finds something wrong with the machine.
 */
import { probeBackends } from "../../mod.ts";
import { needs } from "../skip.ts";
import { which } from "./command.ts";
import { debianDisk } from "./debian_disk.ts";
import { initrd } from "./demo_disk.ts";
import { bootGenericKernel, MODULES } from "./generic_kernel.ts";
import { copyDisk } from "./image.ts";
import { debianKernel } from "./kernel.ts";
import { proveWritten } from "./session.ts";

const backends = (await probeBackends()).filter(({ support }) => support.usable).map(({ name }) => name);
const name = "Debian's generic kernel";
const ignore = needs(Deno.env.has("HV_LONG"), name, "takes minutes: deno task test --long") ||
  needs(backends.length > 0, name, "no backend can run a stock kernel here: see hv doctor") ||
  needs(Deno.uid() === 0 && which("mmdebstrap") !== null, name, "needs root and Debian's mmdebstrap");

for (const backend of backends) {
  Deno.test({
    name: `Debian's generic kernel on ${backend}: to a login, a written file, poweroff, and clean`,
    ignore,
    fn: async () => {
      const folder = await Deno.makeTempDir({ prefix: "hv-generic-" });
      try {
        const kernel = await debianKernel("generic");
        await copyDisk(await debianDisk(), `${folder}/disk.img`);
        await Deno.writeFile(`${folder}/initrd`, await initrd(kernel, MODULES));
        const files = { initrd: `${folder}/initrd`, image: `${folder}/disk.img` };
        await bootGenericKernel({ backend, kernel: kernel.vmlinuz, release: kernel.release, ...files });
        await proveWritten(`${folder}/disk.img`);
      } finally {
        await Deno.remove(folder, { recursive: true });
      }
    },
  });
}
