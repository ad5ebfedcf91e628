/** What boot loaders' configurations come down to, whichever loader it is. */
import type { FileSystem } from "../../storage/file_system.ts";

/** A file system that configurations, kernels and initrds may lie in. */
export interface BootVolume {
  /** The partition's number as its table counts, from 1; 0 for a file system over the whole disk. */
  partition: number;
  /** Kind of partition table; null for a whole disk. */
  table: "gpt" | "mbr" | null;
  fileSystem: FileSystem;
}

/** A file in one of the volumes. */
export interface BootFile {
  partition: number;
  path: string;
}

/** Where a row was read from. */
export type BootSource = "grub.cfg" | "bls" | "uki" | "extlinux" | "files";

/** One thing the disk offers to start. */
export interface BootEntry {
  source: BootSource;
  title: string;
  /** What the loader calls it: a menu entry's id, a file name, a label. */
  id: string;
  /** Number of the partition that holds the configuration; 0 for a whole disk. */
  partition: number;
  /** Null when it starts something else than a Linux kernel (`problems` says what). */
  kernel: BootFile | null;
  initrds: BootFile[];
  commandLine: string;
  /** Whether the disk's own loader would start it when nobody touches a key; at most one is. */
  isDefault: boolean;
  /** What is wrong with it, in words. */
  problems: string[];
}

/** Most bytes read of a configuration file: they are written by hand or by scripts. */
export const MAX_CONFIG_BYTES = 4 << 20;
/** Most rows of one source. */
export const MAX_ENTRIES = 512;

/** A small text file; null when it is missing, too large or unreadable. */
export function readText(volume: BootVolume, path: string): string | null {
  try {
    if (volume.fileSystem.stat(path)?.type !== "file") return null;
    return new TextDecoder().decode(volume.fileSystem.read(path, MAX_CONFIG_BYTES));
  } catch {
    return null;
  }
}

/** Names in a directory; empty when there is none or it cannot be read. */
export function listDirectory(volume: BootVolume, path: string): string[] {
  try {
    return volume.fileSystem.stat(path)?.type === "directory" ? volume.fileSystem.list(path) : [];
  } catch {
    return [];
  }
}

/** Whether a path names a file. */
export function isFile(volume: BootVolume, path: string): boolean {
  try {
    return volume.fileSystem.stat(path)?.type === "file";
  } catch {
    return false;
  }
}

/** Adds to each entry's problems the files it names that are not there. */
export function checkFiles(entries: BootEntry[], volumes: readonly BootVolume[]): void {
  for (const entry of entries) {
    for (const file of [entry.kernel, ...entry.initrds]) {
      if (file === null) continue;
      const volume = volumes.find((one) => one.partition === file.partition);
      if (!volume || !isFile(volume, file.path)) entry.problems.push(`${file.path} is missing`);
    }
  }
}
