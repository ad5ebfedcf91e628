/** Disk images made with other people's tools (mke2fs, mkfs.fat, mtools, sfdisk): no loop device, no mount, no root. */
import { text, tool } from "./command.ts";

const MIB = 1024 * 1024;
const SECTOR = 512;

/** A partition to be: a file with its content and what the partition table says of it. */
export interface PartitionSource {
  /** Path of a file with the partition's content, a multiple of 1 MiB long. */
  readonly file: string;
  /** Type in sfdisk's GPT shorthand: `U` an EFI system partition, `L` Linux data, or a GUID. */
  readonly type: string;
  readonly uuid: string;
  readonly name?: string;
}

/** A partition as it lies in an image. */
export interface PartitionPlace {
  /** Bytes from the image's start. */
  readonly offset: number;
  readonly size: number;
  readonly type: string;
  readonly uuid: string;
}

async function sparseFile(path: string, size: number): Promise<void> {
  using file = await Deno.open(path, { write: true, create: true, truncate: true });
  await file.truncate(size);
}

/**
 * An ext4 file system with the content of a directory; everything in it belongs to root.
 * @param time of creation in seconds since 1970, which with the UUID makes the result repeatable
 */
export async function makeExt4(
  path: string,
  options: { source: string; mib: number; uuid: string; label?: string; time: number },
): Promise<void> {
  await sparseFile(path, options.mib * MIB);
  const label = options.label ? ["-L", options.label] : [];
  // 1.47.0's metadata_csum_seed and orphan_file are what Debian 12's installer writes as well: no -O here.
  const argv = [
    "mke2fs",
    "-q",
    "-F",
    "-t",
    "ext4",
    "-U",
    options.uuid,
    "-E",
    `hash_seed=${options.uuid},root_owner=0:0`,
  ];
  await tool([...argv, ...label, "-d", options.source, path], { env: { E2FSPROGS_FAKE_TIME: `${options.time}` } });
  if (Deno.uid() !== 0) await giveToRoot(path, options.source);
}

/** What `mke2fs -d` copied from a plain user's files becomes root's. */
async function giveToRoot(image: string, source: string): Promise<void> {
  const paths = (await text(["find", ".", "-printf", "%P\\n"], { cwd: source })).split("\n").filter(Boolean);
  const script = paths.flatMap((path) => [`sif "/${path}" uid 0`, `sif "/${path}" gid 0`]).join("\n") + "\n";
  await tool(["debugfs", "-w", "-f", "-", image], { stdin: script });
}

/** A FAT file system with the given files, made without mounting it. */
export async function makeFat(
  path: string,
  options: { mib: number; label: string; serial: string; files: ReadonlyMap<string, string | Uint8Array<ArrayBuffer>> },
): Promise<void> {
  await sparseFile(path, options.mib * MIB);
  await tool(["mkfs.fat", "--invariant", "-i", options.serial, "-n", options.label, path]);
  const made = new Set<string>();
  for (const [name, content] of options.files) {
    for (let at = name.indexOf("/"); at > 0; at = name.indexOf("/", at + 1)) {
      const folder = name.slice(0, at);
      if (!made.has(folder)) await tool(["mmd", "-i", path, `::${folder}`]);
      made.add(folder);
    }
    await tool(["mcopy", "-i", path, "-", `::${name}`], { stdin: content });
  }
}

/** A disk image with a GUID partition table and the given partitions in it, each aligned to 1 MiB. */
export async function makeGpt(path: string, diskId: string, partitions: readonly PartitionSource[]): Promise<void> {
  const sizes = await Promise.all(partitions.map(async (one) => (await Deno.stat(one.file)).size));
  // One MiB before the first partition, one after the last for the backup table.
  await sparseFile(path, sizes.reduce((sum, size) => sum + size, 2 * MIB));
  const lines = ["label: gpt", `label-id: ${diskId}`];
  let start = MIB;
  const starts = sizes.map((size) => (start += size) - size);
  partitions.forEach((one, i) => {
    const name = one.name ? `, name="${one.name}"` : "";
    const place = `start=${starts[i] / SECTOR}, size=${sizes[i] / SECTOR}`;
    lines.push(`${place}, type=${one.type}, uuid=${one.uuid}${name}`);
  });
  await tool(["sfdisk", "-q", "--no-reread", "--no-tell-kernel", path], { stdin: lines.join("\n") + "\n" });
  for (let i = 0; i < partitions.length; i++) {
    const place = [`of=${path}`, `seek=${starts[i] / MIB}`];
    await tool(["dd", `if=${partitions[i].file}`, ...place, "bs=1M", "conv=sparse,notrunc", "status=none"]);
  }
}

/** The partitions of an image as sfdisk sees them. */
export async function partitionsOf(image: string): Promise<PartitionPlace[]> {
  const { partitiontable } = JSON.parse(await text(["sfdisk", "--json", image]));
  return partitiontable.partitions.map((one: { start: number; size: number; type: string; uuid: string }) => ({
    offset: one.start * SECTOR,
    size: one.size * SECTOR,
    type: one.type,
    uuid: one.uuid,
  }));
}

/** `image?offset=N`: the root file system of one of our images, as e2fsprogs' tools want it named. */
export async function rootFileSystem(image: string): Promise<string> {
  const places = await partitionsOf(image);
  return `${image}?offset=${places[places.length - 1].offset}`;
}

/**
 * Checks the root file system of one of our images without changing it.
 * @returns what e2fsck said
 * @throws if e2fsck finds anything to repair
 */
export async function fsck(image: string): Promise<string> {
  return await text(["e2fsck", "-fn", await rootFileSystem(image)]);
}

/** Reads a file out of the root file system of one of our images; symbolic links are followed by debugfs. */
export async function readFromRoot(image: string, path: string): Promise<Uint8Array<ArrayBuffer>> {
  const folder = await Deno.makeTempDir({ prefix: "hv-image-" });
  try {
    await tool(["debugfs", "-R", `dump ${path} ${folder}/out`, await rootFileSystem(image)]);
    return await Deno.readFile(`${folder}/out`);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) throw new Error(`no ${path} in the root file system of ${image}`);
    throw error;
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Copies an image and keeps its holes. */
export async function copyDisk(from: string, to: string): Promise<void> {
  await tool(["cp", "--sparse=always", from, to]);
}
