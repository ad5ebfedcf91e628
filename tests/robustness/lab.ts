/** The trials of `writer.ts` in the lab. */
import type { Entry } from "../guests/initramfs.ts";
import { which } from "../guests/command.ts";
import { lab } from "../lab/lab.ts";
import { sharedLibraries } from "../lab/programs.ts";
import { readTally, type Tally } from "../tally.ts";
import { writerGuest } from "./writer_guest.ts";

const FOLDER = "/lab/writer";

/** e2fsprogs of this machine. */
async function e2fsprogs(): Promise<Entry[]> {
  const entries: Entry[] = [{ path: "etc/mke2fs.conf", data: await Deno.readFile("/etc/mke2fs.conf") }];
  for (const name of ["mke2fs", "e2fsck", "debugfs"]) {
    const program = which(name);
    if (!program) throw new Error(`${name} is not installed; 'deno run -A tests/tools.ts' installs it`);
    entries.push({ path: program, data: await Deno.readFile(program), mode: 0o755 }, ...await sharedLibraries(program));
  }
  return entries;
}

/**
 * Runs a trial under the lab's KVM.
 * @param trial `kills`, `full`
 * @param seconds after which it has failed
 */
export async function writerInLab(trial: string, seconds: number): Promise<Tally> {
  const { kernel, initrd } = await writerGuest();
  const files = [
    ...await e2fsprogs(),
    { path: `${FOLDER}/kernel`, data: kernel },
    { path: `${FOLDER}/initrd`, data: initrd },
  ];
  await using machine = await lab({ files, memory: "2G", echo: true });
  const command = `deno run -A --no-check tests/robustness/writer.ts ${trial} kvm ${FOLDER}/kernel ${FOLDER}/initrd`;
  const { code, output } = await machine.run(command, seconds);
  return readTally(output, code);
}
