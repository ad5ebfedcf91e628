/**
 * Boots one of our disks with Debian's generic kernel, which has all drivers: a login, a file written, a kernel's log
 * without a complaint of any driver, `poweroff`.
 *
 *   deno run -A tests/guests/generic_kernel.ts BACKEND KERNEL RELEASE INITRD IMAGE
 *
 * RELEASE is what `uname -r` must say. IMAGE is written to; whoever calls this looks at it afterwards. Exit code 0 when all went well.
 */
import assert from "node:assert/strict";
import { Machine } from "../../mod.ts";
import type { BackendName } from "../../core/hypervisor.ts";
import { complaints } from "./kernel_log.ts";
import { GuestShell } from "./shell.ts";

/** What the disk's file systems need comes with the initrd: the disk's own modules are the cloud kernel's. */
export const MODULES: readonly string[] = ["crc32c_generic", "ext4", "vfat", "nls_cp437", "nls_ascii", "button"];

/** Longest waits, for a login and for a command; the lab's vCPU is an emulated CPU's. */
const [LOGIN, COMMAND] = ["1500s", "300s"];

/** What is booted: a backend, and paths. */
export interface GenericBoot {
  readonly backend: BackendName;
  readonly kernel: string;
  /** What `uname -r` must say. */
  readonly release: string;
  readonly initrd: string;
  readonly image: string;
}

/** See the file's head. */
export async function bootGenericKernel({ backend, kernel, release, initrd, image }: GenericBoot): Promise<void> {
  await using machine = await Machine.create({
    backend,
    kernel,
    initrd,
    append: "root=/dev/vda2 console=ttyS0 quiet",
    disks: [image],
    memory: "768M",
  });
  machine.start();
  const shell = await GuestShell.login(machine, LOGIN);
  assert.equal(await shell.run("uname -r", COMMAND), `${release}\n`);
  await shell.run("echo written by the guest > /root/proof", COMMAND);
  const log = await shell.run("dmesg", COMMAND);
  assert.deepEqual(complaints(log), []);
  assert.doesNotMatch(log, /\bprobe of \S+ failed\b/);
  await machine.console.sendLine("poweroff");
  assert.equal((await machine.wait()).reason, "poweroff");
}

if (import.meta.main) {
  const [backend, kernel, release, initrd, image] = Deno.args;
  await bootGenericKernel({ backend: backend as BackendName, kernel, release, initrd, image });
  console.log("passed: a boot with Debian's generic kernel");
}
