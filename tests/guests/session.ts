/** What a user does with a guest, the same for every hypervisor: log in, write a file, power off. */
import assert from "node:assert/strict";
import { fsck, readFromRoot } from "./image.ts";
import type { Ending, Terminal } from "./terminal.ts";

/**
 * Logs in on a console that shows one of our disks booting, writes a file and powers the guest off.
 * @param seconds the longest wait for the login prompt
 * @returns how the hypervisor ended
 */
export async function loginWritePoweroff(terminal: Terminal, seconds: number): Promise<Ending> {
  // Not at the end of the output: a message of the kernel's may stand behind it.
  await terminal.expect(/login: /, seconds);
  await terminal.sendLine("root");
  // Not up to the end of the output: busybox's shell asks the terminal for its cursor after the prompt (ESC [6n).
  await terminal.expect(/[~\w]# /, seconds);
  await terminal.sendLine("echo written by the guest > /root/proof; nproc; grep -c virtio /proc/interrupts; uname -m");
  // Between the lines a shell may switch its bracketed paste on and off.
  await terminal.expect(/[1-9][0-9]*\s+[1-9][0-9]*\s+x86_64\s/, seconds);
  await terminal.sendLine("poweroff");
  return await terminal.end(seconds);
}

/**
 * Looks at the disk afterwards: the file is there and e2fsck finds nothing to repair.
 * @throws if not
 */
export async function proveWritten(image: string): Promise<void> {
  await fsck(image);
  assert.equal(new TextDecoder().decode(await readFromRoot(image, "/root/proof")), "written by the guest\n");
}
