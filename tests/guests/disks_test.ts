/**
 * The guests' disks boot under QEMU's TCG: what hv is tested with is right by somebody else's judgement. And what Debian's
 * own tools wrote on them is read.
 */
import assert from "node:assert/strict";
import { findKernel } from "../../firmware/find_kernel.ts";
import { DiskSource } from "../../storage/disk_source.ts";
import { openDisk } from "../../storage/open.ts";
import { needs } from "../skip.ts";
import { which } from "./command.ts";
import { debianDisk } from "./debian_disk.ts";
import { demoDisk } from "./demo_disk.ts";
import { copyDisk } from "./image.ts";
import { qemuGuest, qemuProgram } from "./qemu.ts";
import { loginWritePoweroff, proveWritten } from "./session.ts";

/** @param seconds the longest wait for the guest: QEMU's CPU is slow where the machine is busy with other things */
async function bootAndWrite(pristine: string, seconds: number): Promise<void> {
  const image = await Deno.makeTempFile({ prefix: "hv-disk-", suffix: ".img" });
  try {
    await copyDisk(pristine, image);
    const { terminal, files } = await qemuGuest({ image });
    try {
      assert.equal((await loginWritePoweroff(terminal, seconds)).code, 0);
    } finally {
      await terminal[Symbol.asyncDispose]();
      await Deno.remove(files, { recursive: true });
    }
    await proveWritten(image);
  } finally {
    await Deno.remove(image);
  }
}

const qemu = qemuProgram() !== null;
const apt = which("apt-get") !== null;
/** The Debian disk can be made here. */
const debian = apt && Deno.uid() === 0 && which("mmdebstrap") !== null;

Deno.test({
  name: "the demo disk boots under QEMU to a login, writes, powers off, and is clean",
  ignore: needs(qemu && apt, "demo disk under QEMU", "needs apt and Debian's qemu-system-x86"),
  fn: async () => await bootAndWrite(await demoDisk(), 240),
});

Deno.test({
  name: "the Debian disk boots under QEMU to a login, writes, powers off, and is clean",
  ignore: needs(
    qemu && debian,
    "Debian disk under QEMU",
    "needs root, apt, Debian's mmdebstrap and qemu-system-x86",
  ),
  fn: async () => await bootAndWrite(await debianDisk(), 1500),
});

Deno.test({
  name: "grub.cfg: the one Debian's own update-grub wrote on a whole disk",
  ignore: needs(debian, "update-grub's own grub.cfg", "needs root, apt and Debian's mmdebstrap"),
  async fn() {
    const disk = openDisk({ path: await debianDisk(), readonly: true });
    try {
      const found = findKernel(new DiskSource(disk));
      assert.deepEqual(found.problems, []);
      assert.equal(found.entries.length, 3);
      assert.match(found.chosen!.kernel!.path, /^\/boot\/vmlinuz-\d/);
      assert.match(found.chosen!.commandLine, /^root=UUID=[0-9a-f-]{36} ro /);
    } finally {
      disk.close();
    }
  },
});
