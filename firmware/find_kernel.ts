/** What a disk would start: its partitions looked into, its boot loader's choice, the files that choice names. */
import type { ByteSource } from "../storage/byte_source.ts";
import type { FileSystem } from "../storage/file_system.ts";
import { type PartitionEntry, partitionSource, type PartitionTable, readPartitions } from "../storage/partitions.ts";
import { identify, type Identity, probeFileSystem } from "../storage/probe.ts";
import { type BootEntry, type BootFile, type BootVolume, isFile, listDirectory } from "./bootloader/boot_entry.ts";
import { findBootEntries } from "./bootloader/find_entries.ts";
import { unpackInitrd } from "./decompress/initrd.ts";
import { identifyKernel, type KernelFormat, type KernelImage } from "./kernel.ts";
import { readPe } from "./pe.ts";

/** Most bytes of one kernel or initrd. */
const MAX_FILE = 1 << 30;

/** One partition, or the whole disk as number 0, with what it holds. */
export interface DiskVolume {
  number: number;
  entry: PartitionEntry | null;
  size: number;
  identity: Identity | null;
  /** Null when it holds none that can be read here. */
  fileSystem: FileSystem | null;
  problems: string[];
}

/** A disk looked into. */
export interface FoundDisk {
  size: number;
  table: PartitionTable | null;
  volumes: DiskVolume[];
  entries: BootEntry[];
  /** What would be started; null when there is nothing. */
  chosen: BootEntry | null;
  /** In words, what is wrong and what to do. */
  problems: string[];
}

/** The files of an entry. */
export interface LoadedEntry {
  kernel: Uint8Array;
  initrd?: Uint8Array;
  /** As the disk says it, before {@link adjustCommandLine}. */
  commandLine: string;
}

/** Looks into a disk. Throws only what reading the disk itself throws. */
export function findKernel(disk: ByteSource): FoundDisk {
  const problems: string[] = [];
  const table = readPartitions(disk);
  problems.push(...table?.problems.map((one) => `the partition table: ${one}`) ?? []);
  const volumes = table === null
    ? [lookInto(disk, 0, null)]
    : table.partitions.map((entry) => lookInto(partitionSource(disk, entry), entry.index, entry));
  if (table === null && volumes[0].identity === null) {
    problems.push("the disk has no partition table, and no file system that hv knows");
  }
  const bootVolumes: BootVolume[] = volumes.flatMap(({ number, fileSystem }) =>
    fileSystem === null
      ? []
      : [{ partition: number, table: table === null ? null : table.type === "gpt" ? "gpt" : "mbr", fileSystem }]
  );
  const found = findBootEntries(bootVolumes);
  problems.push(...found.problems);
  const chosen = found.entries.find((one) => one.isDefault) ?? null;
  const all = { size: disk.size, table, volumes, entries: found.entries, chosen, problems };
  if (chosen === null) problems.push(...whyNothing(all));
  return all;
}

function lookInto(source: ByteSource | null, number: number, entry: PartitionEntry | null): DiskVolume {
  const problems = [...entry?.problems ?? []];
  const volume: DiskVolume = {
    number,
    entry,
    size: source?.size ?? entry?.size ?? 0,
    identity: null,
    fileSystem: null,
    problems,
  };
  if (source === null) return volume;
  try {
    volume.identity = identify(source);
    volume.fileSystem = probeFileSystem(source);
  } catch (error) {
    problems.push((error as Error).message);
  }
  return volume;
}

function whyNothing({ volumes, entries, problems }: FoundDisk): string[] {
  const reasons: string[] = [];
  for (const volume of volumes) {
    const where = volume.number === 0 ? "the disk" : `partition ${volume.number}`;
    const type = volume.identity?.type;
    if (type === "crypto_LUKS") reasons.push(`${where} is LUKS-encrypted: hv cannot look for a kernel in it`);
    else if (volume.identity !== null && volume.fileSystem === null && type !== "swap") {
      reasons.push(`${where} holds ${volume.identity.description}, which hv cannot read`);
    }
    reasons.push(...volume.problems.map((one) => `${where}: ${one}`));
  }
  for (const entry of entries.slice(0, 3)) {
    if (entry.problems.length > 0) reasons.push(`the entry '${entry.title}': ${entry.problems.join(", ")}`);
  }
  const windows = volumes.some(({ fileSystem }) =>
    fileSystem !== null &&
    listDirectory({ partition: 0, table: null, fileSystem }, "/EFI").some((one) => /^microsoft$/i.test(one))
  );
  if (windows) reasons.push("the disk starts Windows, which needs a firmware");
  if (!problems.includes("no kernel found on this disk: give --kernel")) {
    reasons.push("no kernel found on this disk: give --kernel");
  }
  return reasons;
}

function readBootFile(disk: FoundDisk, file: BootFile): Uint8Array {
  const fileSystem = disk.volumes.find((one) => one.number === file.partition)?.fileSystem;
  if (!fileSystem) throw new Error(`${file.path}: its partition cannot be read`);
  return fileSystem.read(file.path, MAX_FILE);
}

/** Reads what an entry names. Several initrds become one. Throws an Error in words. */
export function loadEntry(disk: FoundDisk, entry: BootEntry): LoadedEntry {
  if (entry.kernel === null) throw new Error(`the entry '${entry.title}' names no kernel`);
  const kernel = readBootFile(disk, entry.kernel);
  const initrds = entry.initrds.map((one) => readBootFile(disk, one));
  if (initrds.length === 0) {
    const own = readPe(kernel)?.sections.get(".initrd");
    if (own) initrds.push(own);
  }
  const commandLine = entry.source === "files" ? `${rootParameter(disk, entry)} ro`.trim() : entry.commandLine;
  if (initrds.length < 2) return { kernel, initrd: initrds[0], commandLine };
  // The kernel takes each archive only at a multiple of 4 bytes.
  const joined = new Uint8Array(initrds.reduce((sum, one) => sum + (one.length + 3 & ~3), 0));
  let at = 0;
  for (const one of initrds) {
    joined.set(one, at);
    at += one.length + 3 & ~3;
  }
  return { kernel, initrd: joined, commandLine };
}

/** Where no configuration names a root: the partition that looks like one, the kernel's own first. */
function rootParameter(disk: FoundDisk, entry: BootEntry): string {
  const looksLikeRoot = ({ fileSystem }: DiskVolume) =>
    fileSystem !== null &&
    ["/etc/os-release", "/sbin/init", "/etc/inittab", "/init", "/bin/sh"].some((path) =>
      isFile({ partition: 0, table: null, fileSystem }, path)
    );
  const own = disk.volumes.find((one) => one.number === entry.partition);
  const root = own !== undefined && looksLikeRoot(own) ? own : disk.volumes.find(looksLikeRoot);
  if (root === undefined) return "";
  // Without an initrd nothing resolves a file system's UUID.
  if (entry.initrds.length > 0 && root.identity?.uuid) return `root=UUID=${root.identity.uuid}`;
  return root.entry?.uuid
    ? `root=PARTUUID=${root.entry.uuid}`
    : root.number === 0
    ? "root=/dev/vda"
    : `root=/dev/vda${root.number}`;
}

/** What {@link adjustCommandLine} made. */
export interface AdjustedCommandLine {
  commandLine: string;
  /** What was put behind the disk's own, for a person to see; empty when nothing was. */
  added: string;
}

/** Which of a machine's devices the user's terminal is attached to. */
export type ConsoleDevice = "serial" | "virtio";

/** The parameter that makes COM1 a guest's console, and how a disk may have said so itself. */
const SERIAL = { parameter: "console=ttyS0", named: /(?:^|\s)console=(?:ttyS0\b|uart(?:8250)?,io,0x3f8\b)/ };

/** The same of a virtio console. */
const VIRTIO = { parameter: "console=hvc0", named: /(?:^|\s)console=hvc0\b/ };

/**
 * systemd gives every console of the kernel a login, but decides before a module has made hvc0; and one terminal wants
 * one login. (systemd-debug-generator(8); who is not systemd passes over a parameter with a dot in its name.)
 */
const ONE_LOGIN = "systemd.wants=serial-getty@hvc0.service systemd.mask=serial-getty@ttyS0.service";

/**
 * Makes the user's terminal a console of the guest. Linux takes the last `console=` as /dev/console, so what is added
 * stands last; a disk that names the device anywhere is left as it is, and nothing it says is ever removed.
 * @param append what the user wants added
 * @param device where the terminal is attached; with virtio the kernel's first lines still come by COM1
 */
export function adjustCommandLine(
  commandLine: string,
  append = "",
  device: ConsoleDevice = "serial",
): AdjustedCommandLine {
  const line = [commandLine.trim(), append.trim()].filter((one) => one !== "").join(" ");
  // Behind a lone `--` everything belongs to init.
  const [options, ...init] = line.split(/(?:^|\s)--(?=\s|$)/);
  const consoles = device === "serial" ? [SERIAL] : [SERIAL, VIRTIO];
  const missing = consoles.filter(({ named }) => !named.test(options)).map(({ parameter }) => parameter);
  if (missing.includes(VIRTIO.parameter)) missing.push(ONE_LOGIN);
  const rest = init.length > 0 ? ` --${init.join(" --")}` : "";
  return {
    commandLine: [options.trim(), ...missing].join(" ").trim() + rest,
    added: [append.trim(), ...missing].filter((one) => one !== "").join(" "),
  };
}

/** What of a kernel a report tells. */
export interface KernelReport {
  path: string;
  size: number;
  format: KernelFormat;
  version: string | null;
  compression: string;
  architecture: string | null;
}

/** A disk and what it would start, as JSON. Sizes and offsets in bytes. */
export interface DiskReport {
  /** Bytes of the whole disk. */
  size: number;
  /** Null when the disk has none: then it may hold a file system as a whole. */
  partitionTable: { type: "gpt" | "dos"; uuid: string | null } | null;
  /** Partitions in the table's order; a file system over the whole disk is number 0. */
  partitions: {
    number: number;
    start: number;
    size: number;
    type: string | null;
    name: string | null;
    uuid: string | null;
    fileSystem: { type: string; uuid: string | null; label: string | null; readable: boolean } | null;
    problems: string[];
  }[];
  /** All that the disk offers to start. */
  entries: BootEntry[];
  /** What would be started; null when there is nothing. */
  boot: {
    source: string;
    title: string;
    id: string;
    kernel: KernelReport;
    initrds: { path: string; size: number }[];
    /** The initrd as the guest gets it; null without one. */
    initrd: { compression: string[]; unpackedSize: number } | null;
    commandLine: string;
    /** What hv puts behind the disk's own command line. */
    added: string;
    problems: string[];
  } | null;
  /** In words, what is wrong and what to do. */
  problems: string[];
}

/** Tells all of a disk that `hv inspect` shows. Never throws for what is on the disk. */
export function reportDisk(source: ByteSource): DiskReport {
  const disk = findKernel(source);
  const problems = [...disk.problems];
  let boot: DiskReport["boot"] = null;
  if (disk.chosen?.kernel) {
    try {
      boot = reportBoot(disk, disk.chosen, disk.chosen.kernel);
      problems.push(...boot.problems);
    } catch (error) {
      problems.push((error as Error).message);
    }
  }
  return {
    size: disk.size,
    partitionTable: disk.table === null ? null : { type: disk.table.type, uuid: disk.table.uuid },
    partitions: disk.volumes.map(({ number, entry, size, identity, fileSystem, problems }) => ({
      number,
      start: entry?.start ?? 0,
      size,
      type: entry?.typeName ?? entry?.type ?? null,
      name: entry?.name ?? null,
      uuid: entry?.uuid ?? null,
      fileSystem: identity === null
        ? null
        : { type: identity.type, uuid: identity.uuid, label: identity.label, readable: fileSystem !== null },
      problems,
    })),
    entries: disk.entries,
    boot,
    problems,
  };
}

function reportBoot(disk: FoundDisk, entry: BootEntry, file: BootFile): NonNullable<DiskReport["boot"]> {
  const { kernel: bytes, initrd, commandLine } = loadEntry(disk, entry);
  const kernel: KernelImage = identifyKernel(bytes);
  const problems = [...entry.problems];
  if (kernel.problem !== null) problems.push(`${file.path}: ${kernel.problem}`);
  const unpacked = initrd === undefined ? null : unpackInitrd(initrd);
  problems.push(...unpacked?.problems ?? []);
  return {
    source: entry.source,
    title: entry.title,
    id: entry.id,
    kernel: {
      path: file.path,
      size: bytes.length,
      format: kernel.format,
      version: kernel.version,
      compression: kernel.compression,
      architecture: kernel.architecture,
    },
    initrds: entry.initrds.map((one) => ({ path: one.path, size: readBootFile(disk, one).length })),
    initrd: unpacked === null ? null : { compression: unpacked.formats, unpackedSize: unpacked.data.length },
    ...adjustCommandLine(commandLine),
    problems,
  };
}
