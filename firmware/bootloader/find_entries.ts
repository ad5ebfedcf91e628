/** All that a disk offers to start, and what its own boot loader would start. */
import { type BootEntry, type BootVolume, checkFiles, isFile, listDirectory } from "./boot_entry.ts";
import { readBootLoaderEntries } from "./boot_loader_specification.ts";
import { readExtlinuxEntries } from "./extlinux.ts";
import { readGrubEntries } from "./grub.ts";
import { readKernelFiles } from "./kernel_files.ts";

/** What {@link findBootEntries} found. */
export interface BootEntries {
  /** The default first of its source; exactly one has `isDefault` unless nothing can be started. */
  entries: BootEntry[];
  /** What went wrong outside any entry, in words. */
  problems: string[];
}

/** systemd-boot where firmware finds it: then its entries are what the disk starts, whatever else lies about. */
function hasSystemdBoot(volume: BootVolume): boolean {
  return ["/EFI/systemd", "/efi/EFI/systemd", "/boot/EFI/systemd", "/boot/efi/EFI/systemd"].some((directory) =>
    listDirectory(volume, directory).some((name) => /^systemd-boot.*\.efi$/i.test(name))
  ) || ["/loader/loader.conf", "/boot/loader/loader.conf"].some((path) => isFile(volume, path));
}

/** Reads every kind of configuration in all volumes. Never throws: what is damaged becomes a problem in words. */
export function findBootEntries(volumes: readonly BootVolume[]): BootEntries {
  const problems: string[] = [];
  const guarded = (what: string, read: () => BootEntry[]): BootEntry[] => {
    try {
      return read();
    } catch (error) {
      problems.push(`${what}: ${(error as Error).message}`);
      return [];
    }
  };
  const grub: BootEntry[] = [];
  let pointers: BootEntry[] = [];
  for (const volume of volumes) {
    grub.push(...guarded("grub.cfg", () => {
      const menu = readGrubEntries(volume, volumes);
      problems.push(...menu?.problems ?? []);
      if (menu === null) return [];
      // An ESP's grub.cfg only points to the menu, which is read where it is; alone it must do.
      if (!menu.path.startsWith("/EFI/")) return menu.entries;
      if (pointers.length === 0) pointers = menu.entries;
      return [];
    }));
  }
  if (grub.length === 0) grub.push(...pointers);
  const bls = volumes.flatMap((volume) => guarded("boot loader entries", () => readBootLoaderEntries(volume)));
  const extlinux = volumes.flatMap((volume) => guarded("extlinux", () => readExtlinuxEntries(volume)));
  const sources = volumes.some(hasSystemdBoot) ? [bls, grub, extlinux] : [grub, bls, extlinux];
  let entries = sources.flat();
  // What GRUB's blscfg made of a file is not listed a second time.
  entries = entries.filter((entry, i) =>
    entry.source !== "bls" ||
    entries.findIndex((one) => one.source === "bls" && one.id === entry.id && one.partition === entry.partition) === i
  );
  if (!entries.some((entry) => entry.kernel !== null)) {
    entries.push(...volumes.flatMap((volume) => guarded("kernels", () => readKernelFiles(volume))));
  }
  checkFiles(entries, volumes);
  const startable = (entry: BootEntry) =>
    entry.kernel !== null && !entry.problems.includes(`${entry.kernel.path} is missing`);
  const chosen = entries.find((entry) => entry.isDefault && startable(entry)) ?? entries.find(startable);
  for (const entry of entries) entry.isDefault = entry === chosen;
  return { entries, problems };
}
