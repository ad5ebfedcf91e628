/** What to start on a disk without a boot loader's configuration: kernels by their usual names. */
import { type BootEntry, type BootVolume, isFile, listDirectory, MAX_ENTRIES } from "./boot_entry.ts";
import { compareVersions } from "./version_order.ts";

const KERNEL = /^(vmlinuz|vmlinux|bzImage|kernel)(?:-(.+))?$/;

function initrdNames(version: string): string[] {
  if (version === "") return ["initrd.img", "initrd", "initramfs.img", "initramfs"];
  return [
    `initrd.img-${version}`,
    `initrd-${version}`,
    `initrd-${version}.img`,
    `initramfs-${version}.img`,
    `initramfs-${version}`,
    `initramfs-linux-${version}.img`,
  ];
}

/** Kernels in `/boot` and `/` of one volume, newest first; the first is the default. */
export function readKernelFiles(volume: BootVolume): BootEntry[] {
  const found: { entry: BootEntry; version: string }[] = [];
  for (const directory of ["/boot", ""]) {
    const names = listDirectory(volume, directory || "/");
    for (const name of names) {
      const match = KERNEL.exec(name);
      const path = `${directory}/${name}`;
      if (!match || /rescue|\.old$/.test(name) || found.length >= MAX_ENTRIES || !isFile(volume, path)) continue;
      const version = match[2] ?? "";
      const initrd = initrdNames(version).find((one) => names.includes(one));
      found.push({
        entry: {
          source: "files",
          title: version === "" ? `Linux (${path})` : `Linux ${version}`,
          id: path,
          partition: volume.partition,
          kernel: { partition: volume.partition, path },
          initrds: initrd === undefined ? [] : [{ partition: volume.partition, path: `${directory}/${initrd}` }],
          commandLine: "",
          isDefault: false,
          problems: [],
        },
        version,
      });
    }
  }
  // A name without a version is usually a link to the newest; with one the initrd fits for sure.
  found.sort((a, b) =>
    (a.version === "" ? 1 : 0) - (b.version === "" ? 1 : 0) || compareVersions(b.version, a.version)
  );
  if (found.length > 0) found[0].entry.isDefault = true;
  return found.map(({ entry }) => entry);
}
