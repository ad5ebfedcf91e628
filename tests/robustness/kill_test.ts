/**
 * SIGKILLs while a guest writes and syncs, and images that go while it reads, on every backend that runs a stock kernel
 * here; the lab has its own runs of it (`deno task lab --long --only=kills`, `--only=image`).
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { probeBackends } from "../../mod.ts";
import { which } from "../guests/command.ts";
import { needs } from "../skip.ts";
import { writerGuest } from "./writer_guest.ts";

/** Kills for each backend; a boot on the software CPU takes a while. */
const KILLS: Record<string, number> = { kvm: 20, soft: 2 };
const NAME = "kills while the guest writes";

const backends = (await probeBackends()).filter(({ support }) => support.usable).map(({ name }) => name);
const ignore =
  needs(backends.length > 0, NAME, "no backend runs a stock kernel here: deno task lab --long --only=kills") ||
  needs(
    ["mke2fs", "e2fsck", "debugfs", "apt-get"].every((name) => which(name)),
    NAME,
    "needs e2fsprogs, and apt for Debian's kernel",
  );
const writer = fileURLToPath(new URL("./writer.ts", import.meta.url));

/** Runs a trial of `writer.ts`, which must pass. */
async function passes(trial: string, backend: string, ...more: string[]): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "hv-kill-test-" });
  try {
    const guest = await writerGuest();
    await Deno.writeFile(`${folder}/kernel`, guest.kernel);
    await Deno.writeFile(`${folder}/initrd`, guest.initrd);
    const args = ["run", "-A", "--no-check", writer, trial, backend, `${folder}/kernel`, `${folder}/initrd`, ...more];
    const { code, stdout } = await new Deno.Command(Deno.execPath(), { args, stderr: "inherit" }).output();
    assert.equal(code, 0, new TextDecoder().decode(stdout));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

for (const backend of backends) {
  const kills = KILLS[backend] ?? 2;
  Deno.test({
    name: `hv run on ${backend}: after ${kills} kills all that the guest had seen synced is there`,
    ignore,
    fn: () => passes("kills", backend, `${kills}`),
  });
  Deno.test({
    name: `hv run on ${backend}: an image that is removed is read on, one that is cut is an I/O error in the guest`,
    ignore,
    fn: () => passes("gone", backend),
  });
}
