/** The guests' disks boot under QEMU's TCG: what hv is tested with is right by somebody else's judgement. */
import assert from "node:assert/strict";
import { needs } from "../skip.ts";
import { which } from "./command.ts";
import { debianDisk } from "./debian_disk.ts";
import { demoDisk } from "./demo_disk.ts";
import { copyDisk } from "./image.ts";
import { qemuGuest, qemuProgram } from "./qemu.ts";
import { loginWritePoweroff, proveWritten } from "./session.ts";

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

Deno.test({
  name: "the demo disk boots under QEMU to a login, writes, powers off, and is clean",
  ignore: needs(qemu && apt, "demo disk under QEMU", "needs apt and Debian's qemu-system-x86"),
  fn: async () => await bootAndWrite(await demoDisk(), 60),
});

Deno.test({
  name: "the Debian disk boots under QEMU to a login, writes, powers off, and is clean",
  ignore: needs(
    qemu && apt && Deno.uid() === 0 && which("mmdebstrap") !== null,
    "Debian disk under QEMU",
    "needs root, apt, Debian's mmdebstrap and qemu-system-x86",
  ),
  fn: async () => await bootAndWrite(await debianDisk(), 120),
});
