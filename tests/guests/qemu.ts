/** Guests under QEMU's own software CPU (TCG): the reference that shows that a disk is right. */
import { which } from "./command.ts";
import { readFromRoot } from "./image.ts";
import { Terminal, type TerminalOptions } from "./terminal.ts";

/** What a disk's own boot loader would start. */
export interface BootFiles {
  readonly vmlinuz: Uint8Array<ArrayBuffer>;
  readonly initrd: Uint8Array<ArrayBuffer>;
  readonly append: string;
}

/** The first entry of the grub.cfg in the root file system of one of our disks. */
export async function bootFiles(image: string): Promise<BootFiles> {
  const cfg = new TextDecoder().decode(await readFromRoot(image, "/boot/grub/grub.cfg"));
  const linux = cfg.match(/^\s*linux\s+(\S+)\s+(.*?)\s*$/m);
  const initrd = cfg.match(/^\s*initrd\s+(\S+)/m);
  if (!linux || !initrd) throw new Error(`no linux and initrd line in the grub.cfg of ${image}`);
  return {
    vmlinuz: await readFromRoot(image, linux[1]),
    initrd: await readFromRoot(image, initrd[1]),
    append: linux[2],
  };
}

/** The QEMU program, or null where Debian's qemu-system-x86 is not installed. */
export function qemuProgram(): string | null {
  return which("qemu-system-x86_64");
}

/** A guest to start from one of our disks. */
export interface QemuGuest extends TerminalOptions {
  readonly image: string;
  readonly cpus?: number;
  /** As QEMU wants it: `512M`. */
  readonly memory?: string;
  /** Extra words for the kernel's command line. */
  readonly append?: string;
}

/**
 * Starts a disk under TCG with its own kernel, initrd and command line, as virtio-blk over PCI, modern only.
 * The console is the terminal; QEMU ends when the guest powers off or resets.
 * @returns the terminal; `files` is a directory to be removed when it ended
 */
export async function qemuGuest(guest: QemuGuest): Promise<{ terminal: Terminal; files: string }> {
  const files = await Deno.makeTempDir({ prefix: "hv-qemu-" });
  const boot = await bootFiles(guest.image);
  await Deno.writeFile(`${files}/vmlinuz`, boot.vmlinuz);
  await Deno.writeFile(`${files}/initrd`, boot.initrd);
  const argv = [
    ...["qemu-system-x86_64", "-nodefaults", "-no-reboot", "-nographic", "-monitor", "none", "-serial", "stdio"],
    ...["-M", "q35", "-accel", "tcg,tb-size=256", "-cpu", "max"],
    ...["-smp", `${guest.cpus ?? 1}`, "-m", guest.memory ?? "512M"],
    ...["-drive", `file=${guest.image},format=raw,if=none,id=disk,cache=writeback,discard=unmap`],
    ...["-device", "virtio-blk-pci,drive=disk,disable-legacy=on", "-device", "virtio-rng-pci"],
    ...["-kernel", `${files}/vmlinuz`, "-initrd", `${files}/initrd`],
    ...["-append", `${boot.append} ${guest.append ?? ""}`.trim()],
  ];
  return { terminal: new Terminal(argv, guest), files };
}
