/** Test support: a file system out of an object. */
import type { FileStatus, FileSystem } from "../../storage/file_system.ts";
import type { BootVolume } from "./boot_entry.ts";

/** Files by absolute path; their directories come by themselves. */
export class MemoryFileSystem implements FileSystem {
  readonly type = "ext4";
  readonly uuid: string | null;
  readonly label: string | null;
  private readonly files: Map<string, Uint8Array>;

  constructor(files: Record<string, string | Uint8Array>, uuid: string | null = null, label: string | null = null) {
    const encoder = new TextEncoder();
    this.files = new Map(
      Object.entries(files).map(([path, data]) => [path, typeof data === "string" ? encoder.encode(data) : data]),
    );
    this.uuid = uuid;
    this.label = label;
  }

  stat(path: string): FileStatus | null {
    const file = this.files.get(path);
    if (file) return { type: "file", size: file.length };
    return this.list(path).length > 0 ? { type: "directory", size: 0 } : null;
  }

  list(path: string): string[] {
    const prefix = path === "/" ? "/" : `${path}/`;
    const names = [...this.files.keys()].filter((one) => one.startsWith(prefix)).map((one) =>
      one.slice(prefix.length).split("/")[0]
    );
    return [...new Set(names)].sort();
  }

  read(path: string, limit = 2 ** 30): Uint8Array {
    const file = this.files.get(path);
    if (!file || file.length > limit) throw new Error(`${path} cannot be read`);
    return file;
  }
}

/** One partition with these files. */
export function volume(
  partition: number,
  files: Record<string, string | Uint8Array>,
  uuid: string | null = null,
  label: string | null = null,
): BootVolume {
  return { partition, table: partition === 0 ? null : "gpt", fileSystem: new MemoryFileSystem(files, uuid, label) };
}
