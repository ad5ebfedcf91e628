/** Programs of this machine in the lab, which has nothing but busybox and Deno. */
import { cached, digest } from "../guests/cache.ts";
import { text, tool, which } from "../guests/command.ts";
import type { Entry } from "../guests/initramfs.ts";

/** The shared libraries a program asks for, at the paths where its loader looks for them. */
export async function sharedLibraries(program: string): Promise<Entry[]> {
  const entries: Entry[] = [];
  for (const [, path] of (await text(["ldd", program])).matchAll(/(?:=> )?(\/\S+) \(0x/g)) {
    entries.push({ path, data: await Deno.readFile(path), mode: 0o755 });
  }
  return entries;
}

/** A C program, compiled here without shared libraries, at `/lab/<name of the file without .c>`. */
export async function compiled(source: string): Promise<Entry> {
  const name = source.slice(source.lastIndexOf("/") + 1).replace(/\.c$/, "");
  const key = await digest(await Deno.readFile(source), await text(["gcc", "--version"]));
  const program = await cached(`lab/${name}_${key}`, async (path) => {
    await tool(["gcc", "-O2", "-static", "-pthread", "-o", path, source]);
  });
  return { path: `lab/${name}`, data: await Deno.readFile(program), mode: 0o755 };
}

// What `-M pc`, `-M q35` and `-M microvm` load for a kernel given with -kernel, without devices that have ROMs.
const QEMU_BLOBS = [
  "/usr/share/seabios/bios-256k.bin",
  "/usr/share/qemu/linuxboot_dma.bin",
  "/usr/share/qemu/pvh.bin",
  "/usr/share/qemu/kvmvapic.bin",
  "/usr/share/qemu/qboot.rom",
  "/usr/share/qemu/bios-microvm.bin",
];

/** QEMU itself, to run the same guest under the same KVM: the baseline of the boot benchmarks. */
export async function qemuEntries(): Promise<Entry[]> {
  const program = which("qemu-system-x86_64");
  if (!program) throw new Error("qemu-system-x86_64 is not installed");
  const entries: Entry[] = [
    { path: program, data: await Deno.readFile(program), mode: 0o755 },
    ...await sharedLibraries(program),
  ];
  for (const path of QEMU_BLOBS) {
    try {
      const data = await Deno.readFile(path);
      entries.push({ path: `usr/share/qemu/${path.slice(path.lastIndexOf("/") + 1)}`, data });
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  return entries;
}
