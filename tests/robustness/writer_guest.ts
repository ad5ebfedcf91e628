/**
 * A guest that writes numbered records with checksums to its disk, an ext4 file system, and announces on its console
 * each one that it has seen synced; or that reads its whole disk over and over. Debian's kernel with busybox in its
 * initrd.
 */
import { extractVmlinux, identifyKernel } from "../../firmware/kernel.ts";
import { busyboxEntries, cpio } from "../guests/initramfs.ts";
import { debianKernel, moduleFiles } from "../guests/kernel.ts";

/** Words for the guest's command line. */
export interface WriterOptions {
  /** Number of its first record. */
  first: number;
  /** KiB of a record. */
  kib: number;
  /** Whether it also keeps writing what it never syncs. */
  noise: boolean;
}

/** The kernel's command line. */
export function writerAppend({ first, kib, noise }: WriterOptions): string {
  return `console=ttyS0 quiet panic=-1 writer.first=${first} writer.kib=${kib} writer.noise=${noise ? 1 : 0}`;
}

/** The kernel's command line of the guest that reads: it says `READ` and the MD5 of its disk after each time. */
export const READER_APPEND = "console=ttyS0 quiet panic=-1 writer.reads";

/** What the reader says each time. */
export const READ = /READ ([0-9a-f]{32})\r?\n/g;

/** What the guest says of a record once `fsync` has returned for it: number and SHA-256. */
export const SYNCED = /SYNCED (\d+) ([0-9a-f]{64})\r?\n/g;

/** What it says when a write, a sync or a read has failed; then it powers off. */
export const FAILED = /FAILED (\d+)\r?\n/;

const INIT = `#!/bin/sh
mount -t devtmpfs dev /dev
mount -t proc proc /proc
for module in $(cat /modules/order); do insmod /modules/$module; done
for word in $(cat /proc/cmdline); do
  case "$word" in
    writer.first=*) number="\${word#writer.first=}" ;;
    writer.kib=*) kib="\${word#writer.kib=}" ;;
    writer.noise=*) noise="\${word#writer.noise=}" ;;
    writer.reads) reads=1 ;;
  esac
done
while [ ! -b /dev/vda ]; do sleep 0.05; done
while [ -n "$reads" ]; do
  echo 1 >/proc/sys/vm/drop_caches
  if ! dd if=/dev/vda of=/tmp/disk bs=64k 2>/dev/null; then
    echo FAILED 0
    poweroff -f
  fi
  sum=$(md5sum </tmp/disk)
  echo READ \${sum%% *}
done
mkdir -p /mnt
mount -t ext4 /dev/vda /mnt && mkdir -p /mnt/records || { echo NO DISK; poweroff -f; }
echo WRITING
if [ $noise = 1 ]; then
  while :; do dd if=/dev/zero of=/mnt/noise bs=4k count=16 2>/dev/null; done &
fi
while :; do
  dd if=/dev/urandom of=/tmp/record bs=1k count=$kib 2>/dev/null
  sum=$(sha256sum </tmp/record)
  if ! dd if=/tmp/record of=/mnt/records/$number bs=64k conv=fsync 2>/dev/null; then
    echo FAILED $number
    poweroff -f
  fi
  echo SYNCED $number \${sum%% *}
  number=$((number + 1))
done
`;

/** The guest's kernel, unpacked (which saves the lab's slow processor that work at every start), and its initrd. */
export async function writerGuest(): Promise<{ kernel: Uint8Array; initrd: Uint8Array }> {
  const kernel = await debianKernel("cloud");
  const image = await Deno.readFile(kernel.vmlinuz);
  const modules = await moduleFiles(kernel, ["virtio_pci", "virtio_blk"]);
  const name = (path: string) => path.slice(path.lastIndexOf("/") + 1);
  const initrd = cpio([
    ...await busyboxEntries(),
    { path: "init", data: INIT, mode: 0o755 },
    { path: "modules/order", data: modules.map(name).join("\n") + "\n" },
    ...modules.map((path) => ({ path: `modules/${name(path)}`, data: Deno.readFileSync(path) })),
  ]);
  return { kernel: extractVmlinux(image, identifyKernel(image).setup!), initrd };
}
