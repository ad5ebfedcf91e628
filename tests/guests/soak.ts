/**
 * Boots one of our disks again and again with several vCPUs: each time a login, work on all vCPUs at once with results
 * that are checked, a kernel without complaints, `poweroff`.
 *
 *   deno run -A tests/guests/soak.ts IMAGE BACKEND VCPUS BOOTS [show]
 *
 * The image is not written to. With `show` the kernel's log of the first boot is printed. Exit code 0 when all went well.
 */
import assert from "node:assert/strict";
import { Machine } from "../../mod.ts";
import type { BackendName } from "../../core/hypervisor.ts";
import { complaints } from "./kernel_log.ts";
import { GuestShell } from "./shell.ts";

const [path, backend, vcpus, boots, show] = Deno.args;
const cpus = Number(vcpus);
/** Longest wait for a login or for the work; the lab's vCPUs share what one emulated CPU has. */
const PATIENCE = "300s";

/** Every vCPU computes, talks on the console and writes to the disk, all at once. */
const WORK = "for i in $(seq $(nproc)); do (md5sum </bin/busybox; seq 1 2000 | md5sum; " +
  "dd if=/dev/zero bs=64k count=32 of=/root/work$i conv=fsync 2>/dev/null; md5sum </root/work$i) & done; wait";

for (let boot = 1; boot <= Number(boots); boot++) {
  await using machine = await Machine.create({
    backend: backend as BackendName,
    disks: [path],
    ephemeral: true,
    memory: "256M",
    cpus,
  });
  const began = performance.now();
  machine.start();
  const shell = await GuestShell.login(machine, PATIENCE);
  const login = performance.now();
  assert.equal(await shell.run("nproc"), `${cpus}\n`);
  const sums = (await shell.run(WORK, PATIENCE)).trim().split("\n");
  assert.equal(sums.length, 3 * cpus, sums.join("\n"));
  assert.equal(new Set(sums).size, 3, `all vCPUs compute the same: ${sums.join("\n")}`);
  const log = await shell.run("dmesg", PATIENCE);
  if (show && boot === 1) console.log(log);
  assert.deepEqual(complaints(log), []);
  // Without MTRRs Linux does without PAT. The software CPU has neither caches nor MTRRs.
  if (backend !== "soft") assert.match(log, /x86\/PAT: Configuration \[0-7\]: WB {2}WC/);
  await machine.console.sendLine("poweroff");
  assert.equal((await machine.wait()).reason, "poweroff");
  const seconds = (from: number, to: number) => ((to - from) / 1000).toFixed(1);
  console.log(`boot ${boot}: login after ${seconds(began, login)} s, off after ${seconds(began, performance.now())} s`);
}
console.log(`passed: ${boots} boots with ${cpus} vCPUs`);
