/** Initial RAM file systems: cpio archives in the `newc` format (Documentation/driver-api/early-userspace/buffer-format.rst). */
import { text, tool } from "./command.ts";
import { unpacked } from "./packages.ts";

/** One file of an archive; parents must come before what lies in them, or `cpio` adds them. */
export type Entry =
  | { readonly path: string; readonly directory: true; readonly mode?: number }
  | { readonly path: string; readonly link: string }
  | { readonly path: string; readonly data: Uint8Array | string; readonly mode?: number };

// File types of st_mode, <linux/stat.h>.
const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;

const encoder = new TextEncoder();

function padding(length: number): number {
  return (4 - (length & 3)) & 3;
}

/**
 * An uncompressed `newc` archive. Owner root, times zero: the same entries give the same bytes. Archives can be
 * concatenated; the kernel unpacks each of them in its turn.
 */
export function cpio(entries: Iterable<Entry>): Uint8Array<ArrayBuffer> {
  const pieces: Uint8Array[] = [];
  const known = new Set<string>();
  let inode = 1;
  const add = (path: string, mode: number, data: Uint8Array) => {
    const name = encoder.encode(`${path}\0`);
    // c_magic, c_ino, c_mode, c_uid, c_gid, c_nlink, c_mtime, c_filesize, c_dev*, c_rdev*, c_namesize, c_check
    const fields = [path === "TRAILER!!!" ? 0 : inode++, mode, 0, 0, 1, 0, data.length, 0, 0, 0, 0, name.length, 0];
    const header = "070701" + fields.map((field) => field.toString(16).padStart(8, "0")).join("");
    pieces.push(encoder.encode(header), name, new Uint8Array(padding(header.length + name.length)), data);
    pieces.push(new Uint8Array(padding(data.length)));
    known.add(path);
  };
  const parents = (path: string) => {
    for (let at = path.indexOf("/"); at > 0; at = path.indexOf("/", at + 1)) {
      const parent = path.slice(0, at);
      if (!known.has(parent)) add(parent, S_IFDIR | 0o755, new Uint8Array());
    }
  };
  for (const entry of entries) {
    const path = entry.path.replace(/^\/+/, "");
    parents(path);
    if ("directory" in entry) {
      if (!known.has(path)) add(path, S_IFDIR | (entry.mode ?? 0o755), new Uint8Array());
    } else if ("link" in entry) add(path, S_IFLNK | 0o777, encoder.encode(entry.link));
    else {
      const data = typeof entry.data === "string" ? encoder.encode(entry.data) : entry.data;
      add(path, S_IFREG | (entry.mode ?? 0o644), data);
    }
  }
  add("TRAILER!!!", 0, new Uint8Array());
  const archive = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    archive.set(piece, at);
    at += piece.length;
  }
  return archive;
}

/** The path of Debian's static busybox, of this machine's architecture or another. */
export async function busybox(architecture?: string): Promise<string> {
  return `${await unpacked("busybox-static", architecture)}/bin/busybox`;
}

/** Busybox at `/bin/busybox`, a link to it for each of its applets, and the directories that a userland expects. */
export async function busyboxEntries(architecture?: string): Promise<Entry[]> {
  const program = await busybox(architecture);
  // The list of this machine's: another architecture's program may not run here.
  const applets = (await text([await busybox(), "--list-full"])).trim().split("\n").filter((path) =>
    path !== "bin/busybox"
  );
  const directories = ["bin", "dev", "etc", "proc", "root", "run", "sbin", "sys", "tmp", "usr/bin", "usr/sbin", "var"];
  return [
    ...directories.map((path) => ({ path, directory: true as const })),
    { path: "bin/busybox", data: await Deno.readFile(program), mode: 0o755 },
    ...applets.map((path) => ({ path, link: "/bin/busybox" })),
  ];
}

/** Compresses as Debian's initramfs-tools does by default, with zstd. */
export async function zstd(archive: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  return await tool(["zstd", "-q", "-9", "-c"], { stdin: archive });
}
