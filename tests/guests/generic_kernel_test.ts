/**
 * Debian's generic kernel, with all its drivers, on every backend that runs stock kernels here: the Debian disk's userland
 * comes to a login on it, and no driver finds something wrong with the machine.
 */
import assert from "node:assert/strict";
import { Machine, probeBackends } from "../../mod.ts";
import { needs } from "../skip.ts";
import { which } from "./command.ts";
import { debianDisk } from "./debian_disk.ts";
import { initrd } from "./demo_disk.ts";
import { copyDisk } from "./image.ts";
import { complaints } from "./kernel_log.ts";
import { debianKernel } from "./kernel.ts";
import { proveWritten } from "./session.ts";
import { GuestShell } from "./shell.ts";

// The disk's own modules are the cloud kernel's: what its file systems need comes with the initrd.
const MODULES = ["crc32c_generic", "ext4", "vfat", "nls_cp437", "nls_ascii", "button"];

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
        await using machine = await Machine.create({
          backend,
          kernel: kernel.vmlinuz,
          initrd: `${folder}/initrd`,
          append: "root=/dev/vda2 console=ttyS0 quiet",
          disks: [`${folder}/disk.img`],
          memory: "768M",
        });
        machine.start();
        const shell = await GuestShell.login(machine, "1500s");
        assert.equal(await shell.run("uname -r", "300s"), `${kernel.release}\n`);
        await shell.run("echo written by the guest > /root/proof", "300s");
        const log = await shell.run("dmesg", "300s");
        assert.deepEqual(complaints(log), []);
        assert.doesNotMatch(log, /\bprobe of \S+ failed\b/);
        await machine.console.sendLine("poweroff");
        assert.equal((await machine.wait()).reason, "poweroff");
        await proveWritten(`${folder}/disk.img`);
      } finally {
        await Deno.remove(folder, { recursive: true });
      }
    },
  });
}
