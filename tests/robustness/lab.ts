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
 * @param trial `kills`, `full`, `gone`, `medium`
 * @param seconds after which it has failed
 */
export async function writerInLab(trial: string, seconds: number): Promise<Tally> {
  if (trial === "medium") return await withBadSector((disk) => run(trial, seconds, [disk], "/dev/vda"));
  return await run(trial, seconds);
}

/** Gives `body` a disk for L1 of which QEMU does not give back one sector, and whose first flush fails. */
async function withBadSector<T>(body: (disk: string) => Promise<T>): Promise<T> {
  const folder = await Deno.makeTempDir({ prefix: `hv-lab-${Deno.pid}-medium-` });
  try {
    await Deno.writeFile(`${folder}/disk.img`, new Uint8Array(8 << 20).fill(0x5a));
    const error = (words: string) => `[inject-error]\nevent = "none"\nerrno = "5"\n${words}\n`;
    const errors = error('iotype = "read"\nsector = "9000"') + error('iotype = "flush"\nonce = "on"');
    await Deno.writeTextFile(`${folder}/errors`, errors);
    return await body(`blkdebug:${folder}/errors:${folder}/disk.img`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function run(trial: string, seconds: number, disks: string[] = [], ...more: string[]): Promise<Tally> {
  const { kernel, initrd } = await writerGuest();
  const files = [
    ...await e2fsprogs(),
    { path: `${FOLDER}/kernel`, data: kernel },
    { path: `${FOLDER}/initrd`, data: initrd },
  ];
  await using machine = await lab({ files, memory: "2G", disks, echo: true });
  const words = [trial, "kvm", `${FOLDER}/kernel`, `${FOLDER}/initrd`, ...more];
  const command = `deno run -A --no-check tests/robustness/writer.ts ${words.join(" ")}`;
  const { code, output } = await machine.run(command, seconds);
  return readTally(output, code);
}
