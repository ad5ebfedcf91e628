/** The demo disk under hv and under QEMU, in the lab: what the benchmarks of whole machines compare. */
import { fileURLToPath } from "node:url";
import { demoDisk } from "../tests/guests/demo_disk.ts";
import { bootFiles } from "../tests/guests/qemu.ts";
import { countInstructions, lab } from "../tests/lab/lab.ts";
import { qemuEntries } from "../tests/lab/programs.ts";
import type { Entry } from "../tests/guests/initramfs.ts";
import { bundle } from "../tools/bundle.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));

const FILES = "/lab/boot";
/** Where in the lab hv is as the binary has it. */
const BUNDLE = "/lab/hv";
const IMAGE = `${FILES}/disk.img`;

/** MiB of guest memory. */
export const MEMORY = 256;

/**
 * Command lines that boot the disk on standard streams without changing it; `hv`, and QEMU's machines by their names.
 * QEMU is handed the kernel and initrd as they lie on the disk; hv finds them there.
 */
export async function contenders(): Promise<Record<"hv" | "pc" | "microvm", string[]>> {
  const append = await Deno.readTextFile(`${FILES}/append`);
  // Where throw-away overlays go: ours and QEMU's.
  await Deno.mkdir("/var/tmp", { recursive: true });
  const qemu = (machine: string, disk: string) => [
    ...["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-nographic", "-monitor", "none"],
    ...["-serial", "stdio", "-M", machine, "-accel", "kvm", "-cpu", "host", "-smp", "1", "-m", `${MEMORY}M`],
    ...["-drive", `file=${IMAGE},format=raw,if=none,id=disk,snapshot=on`, "-device", `${disk},drive=disk`],
    ...["-kernel", `${FILES}/vmlinuz`, "-initrd", `${FILES}/initrd`, "-append", append],
  ];
  const { main } = await bundled();
  const hv = [Deno.execPath(), "run", "-A", "--quiet", "--no-check", main, "run", IMAGE, "--ephemeral"];
  return {
    hv: [...hv, "--memory", `${MEMORY}M`, "--backend", "kvm"],
    pc: qemu("pc", "virtio-blk-pci,disable-legacy=on"),
    microvm: qemu("microvm", "virtio-blk-device"),
  };
}

/**
 * Hv as the binary has it, bundled; in the lab it was brought along.
 * @param root a checkout
 */
export async function bundled(root = ROOT): Promise<{ main: string } & Disposable> {
  if (Deno.env.has("LAB")) return { main: `${BUNDLE}/cli/main.js`, [Symbol.dispose]: () => {} };
  const folder = await Deno.makeTempDir({ prefix: "hv-bundle-" });
  const { main } = await bundle(root, `${folder}/hv`);
  return { main, [Symbol.dispose]: () => Deno.removeSync(folder, { recursive: true }) };
}

/** All files below a folder, as they are to lie below another in the lab. */
function* tree(folder: string, to: string): Generator<Entry> {
  for (const { name, isDirectory } of Deno.readDirSync(folder)) {
    if (isDirectory) yield* tree(`${folder}/${name}`, `${to}/${name}`);
    else yield { path: `${to}/${name}`, data: Deno.readFileSync(`${folder}/${name}`) };
  }
}

async function bundleEntries(): Promise<Entry[]> {
  using hv = await bundled();
  return [...tree(hv.main.replace(/\/cli\/main\.js$/, ""), BUNDLE.slice(1))];
}

/**
 * Runs a command in a lab that has the disk, QEMU and a bundled hv.
 * @param seconds after which it has failed
 * @param icount counts instructions instead of time
 * @returns its exit code
 */
export async function runInLab(command: string, seconds: number, icount = false): Promise<number> {
  const image = await demoDisk();
  const { vmlinuz, initrd, append } = await bootFiles(image);
  const put = (name: string, data: Uint8Array | string) => ({ path: `${FILES.slice(1)}/${name}`, data });
  const files = [
    ...await qemuEntries(),
    put("vmlinuz", vmlinuz),
    put("initrd", initrd),
    put("append", append),
    put("disk.img", await Deno.readFile(image)),
    ...await bundleEntries(),
  ];
  const options = { files, memory: "2G", echo: true };
  if (icount) return (await countInstructions(command, seconds, options)).code;
  await using machine = await lab(options);
  return (await machine.run(command, seconds)).code;
}
