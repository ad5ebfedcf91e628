/**
 * A file or block device of the host, read and written at positions, straight between it and the memory of a vector.
 * {@link HostFile} has three implementations: Linux' vectored calls and Windows' positioned ones, both through FFI, and
 * Deno's own files everywhere else.
 */
import { DiskError, type IoVector } from "./disk.ts";
import { DenoHostFile } from "./host_file_deno.ts";
import { LinuxHostFile } from "./host_file_linux.ts";
import { WindowsHostFile } from "./host_file_windows.ts";
import { posix } from "./abi/posix.ts";
import { windowsFiles } from "./abi/windows.ts";

/** An open file. Methods throw a {@link DiskError} in words. Offsets and lengths are in bytes, already checked. */
export interface HostFile {
  readonly path: string;
  readonly readonly: boolean;
  /** Bytes when it was opened or last asked by {@link refresh}, of the file or the block device. */
  readonly size: number;
  /** Whether {@link punch} gives space back and leaves zeroes. */
  readonly sparse: boolean;
  /** Fills the vector. @returns the bytes read, fewer than asked only at the end of the file */
  read(offset: number, vector: IoVector): number;
  /** Writes all of the vector; the file grows where that passes its end. */
  write(offset: number, vector: IoVector): void;
  /** When this returns all that was written is on the medium. After a failure it fails for good: the host forgot data. */
  flush(): void;
  /** Gives space back, the bytes read as zeroes after. @returns false where this file cannot do it (nothing was done) */
  punch(offset: number, length: number): boolean;
  /** Bytes read as zeroes after; `unmap` allows giving their space back. */
  zero(offset: number, length: number, unmap: boolean): void;
  /** @param size in bytes; for files only */
  truncate(size: number): void;
  refresh(): number;
  /** Harmless when done twice. Releases the lock. */
  close(): void;
}

/**
 * Opens a disk image with its lock: exclusive for writing, shared for reading. Ends in a {@link DiskError} in words.
 * `locked: false` takes none: for reading what this process has locked itself, and nothing else.
 */
export function openHostFile(path: string, options: { readonly: boolean; locked?: boolean }): HostFile {
  const { readonly, locked = true } = options;
  return implementation().open(path, readonly, locked);
}

/** A nameless file for throw-away data, sparse, of `size` bytes: gone with its last user, however that one ends. */
export function openTemporaryFile(size: number): HostFile {
  const folder = temporaryFolder();
  return implementation().openTemporary(folder, size);
}

function implementation(): typeof LinuxHostFile | typeof WindowsHostFile | typeof DenoHostFile {
  return posix() !== null ? LinuxHostFile : windowsFiles() !== null ? WindowsHostFile : DenoHostFile;
}

/** Where large throw-away data goes: /tmp is often memory, /var/tmp by the Filesystem Hierarchy Standard is not. */
function temporaryFolder(): string {
  const chosen = Deno.env.get("TMPDIR") ?? Deno.env.get("TEMP");
  if (chosen !== undefined && chosen !== "") return chosen;
  if (Deno.build.os === "windows") throw new DiskError("missing", "no folder for temporary files: set TEMP to one");
  return "/var/tmp";
}
