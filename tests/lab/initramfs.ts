/** What the lab's Linux boots from: one initramfs out of three parts, of which only the smallest changes often. */
import { cached, digest, ROOT } from "../guests/cache.ts";
import { TOOL_ENV } from "../guests/command.ts";
import { busyboxEntries, cpio, type Entry } from "../guests/initramfs.ts";
import { type DebianKernel, moduleFiles } from "../guests/kernel.ts";
import { sharedLibraries } from "./programs.ts";

const KVM_MODULES = ["irqbypass", "kvm", "kvm-amd"];
const DISK_MODULES = ["virtio_pci", "virtio_blk"];

/** Directories of the repository that the lab has no use for. */
const LEFT_OUT = new Set([".git", ".cache", "node_modules", "dist"]);

const baseName = (path: string) => path.slice(path.lastIndexOf("/") + 1);

/** Busybox, kernel modules and the first process. */
async function basePart(kernel: DebianKernel): Promise<string> {
  const init = await Deno.readTextFile(new URL("./init.sh", import.meta.url));
  const kvm = await moduleFiles(kernel, KVM_MODULES);
  const disk = await moduleFiles(kernel, DISK_MODULES);
  const key = await digest(init, kernel.version, ...kvm, ...disk);
  return await cached(`lab/base_${key}.cpio`, async (path) => {
    const entries: Entry[] = [
      ...await busyboxEntries(),
      { path: "init", data: init, mode: 0o755 },
      { path: "etc/passwd", data: "root::0:0:root:/root:/bin/sh\n" },
      { path: "etc/group", data: "root:x:0:\ntty:x:5:\n" },
      { path: "etc/hosts", data: "127.0.0.1 localhost\n" },
      { path: "modules/kvm.order", data: kvm.map(baseName).join("\n") + "\n" },
      { path: "modules/disk.order", data: disk.map(baseName).join("\n") + "\n" },
      ...[...kvm, ...disk].map((file) => ({ path: `modules/${baseName(file)}`, data: Deno.readFileSync(file) })),
    ];
    await Deno.writeFile(path, cpio(entries));
  });
}

/** This very Deno and the shared libraries it asks for, at the paths where its loader looks for them. */
async function denoPart(): Promise<string> {
  const program = Deno.execPath();
  const { size, mtime } = await Deno.stat(program);
  const key = await digest(program, `${size} ${mtime?.getTime()}`, Deno.version.deno);
  return await cached(`lab/deno_${Deno.version.deno}_${key}.cpio`, async (path) => {
    const entries: Entry[] = [
      { path: "usr/bin/deno", data: await Deno.readFile(program), mode: 0o755 },
      ...await sharedLibraries(program),
    ];
    await Deno.writeFile(path, cpio(entries));
  });
}

function repositoryFiles(): Entry[] {
  const entries: Entry[] = [];
  const walk = (folder: string) => {
    for (const entry of [...Deno.readDirSync(folder)].sort((a, b) => a.name < b.name ? -1 : 1)) {
      const path = `${folder}/${entry.name}`;
      if (entry.isDirectory) {
        if (!LEFT_OUT.has(entry.name)) walk(path);
      } else if (entry.isFile) entries.push({ path, data: Deno.readFileSync(path) });
    }
  };
  walk(ROOT);
  return entries;
}

/** The npm packages the repository imports: the lab has no network. */
async function moduleCache(): Promise<Entry[]> {
  const folder = `${ROOT}/.cache/lab/deno_dir`;
  await Deno.mkdir(folder, { recursive: true });
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["install", "--quiet"],
    cwd: ROOT,
    env: { ...TOOL_ENV, DENO_DIR: folder, NO_COLOR: "1" },
    stdout: "null",
    stderr: "piped",
  }).output();
  if (!success) throw new Error(`deno install for the lab failed:\n${new TextDecoder().decode(stderr)}`);
  const entries: Entry[] = [];
  const walk = (at: string) => {
    for (const entry of Deno.readDirSync(at)) {
      const path = `${at}/${entry.name}`;
      if (entry.isDirectory) walk(path);
      else if (entry.isSymlink) entries.push({ path: inLab(path), link: Deno.readLinkSync(path) });
      // Deno's databases at the top speed up what the lab does not do.
      else if (at !== folder) entries.push({ path: inLab(path), data: Deno.readFileSync(path) });
    }
  };
  const inLab = (path: string) => `deno_dir${path.slice(folder.length)}`;
  walk(folder);
  return entries;
}

/** The repository as it is now, what it imports, and what the caller adds. */
async function repositoryPart(extra: readonly Entry[]): Promise<Uint8Array<ArrayBuffer>> {
  const files = repositoryFiles();
  return cpio([{ path: "lab/root", data: ROOT }, ...files, ...await moduleCache(), ...extra]);
}

/**
 * Writes the lab's initramfs to a file.
 * @param extra files besides the repository, at their paths in the lab
 */
export async function writeInitramfs(path: string, kernel: DebianKernel, extra: readonly Entry[]): Promise<void> {
  using file = await Deno.open(path, { write: true, create: true, truncate: true });
  for (const part of [await basePart(kernel), await denoPart()]) {
    using source = await Deno.open(part);
    await source.readable.pipeTo(file.writable, { preventClose: true });
  }
  const repository = await repositoryPart(extra);
  for (let at = 0; at < repository.length;) at += await file.write(repository.subarray(at));
}
