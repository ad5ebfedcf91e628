/**
 * Partition tables: GPT (UEFI 2.10, chapter 5) and MBR with its chains of extended partitions. A table that lies gives
 * findings in words, never an exception.
 */
import { crc32 } from "./crc32.ts";
import { type ByteSource, SubSource } from "./byte_source.ts";
import { guid, utf16, uuid } from "./identifiers.ts";
import { PARTITION_TYPES } from "./partition_types.ts";

/** One partition. */
export interface PartitionEntry {
  /** From 1, as in /dev/sda1; MBR's logical partitions begin at 5. */
  index: number;
  /** Bytes from the start of the disk. */
  start: number;
  /** Bytes. */
  size: number;
  /** GPT: the type GUID, small letters. MBR: `0x83`. */
  type: string;
  /** What the type is called; null for one not known here. */
  typeName: string | null;
  /** GPT: the partition's name. Null when there is none. */
  name: string | null;
  /** PARTUUID as Linux spells it in `root=PARTUUID=`. */
  uuid: string | null;
  /** MBR's active flag, or GPT's legacy BIOS bootable attribute (bit 2). */
  bootable: boolean;
  /** What is wrong with it, in words. A partition with problems may reach past the disk: see {@link partitionSource}. */
  problems: string[];
}

export interface PartitionTable {
  /** As blkid's PTTYPE. */
  type: "gpt" | "dos";
  /** PTUUID: the disk's GUID, or the MBR's signature in 8 digits. */
  uuid: string | null;
  /** Bytes a sector, as the table counts. */
  sectorSize: number;
  partitions: PartitionEntry[];
  /** What is wrong with the table as a whole, in words. */
  problems: string[];
}

/** Linux takes as many from a GPT (MAX_UTBL of its partition code is 256; sgdisk makes at most 128 unless told). */
const MAX_GPT_ENTRIES = 1024;
/** Logical partitions that are followed: Linux' limit for the disk's minors is 256. */
const MAX_LOGICAL = 256;

/** Reads the partition table. Null when there is none, a file system on the whole disk for example. */
export function readPartitions(source: ByteSource): PartitionTable | null {
  const mbr = readAt(source, 0, 512);
  const hasMbr = mbr !== null && mbr[510] === 0x55 && mbr[511] === 0xaa;
  const isProtective = hasMbr && [0, 1, 2, 3].some((i) => mbr[446 + 16 * i + 4] === 0xee);
  // An MBR without an 0xee entry means that a GPT left behind is not in force (UEFI 5.2.3); a lost MBR does not.
  const findings: string[] = [];
  if (isProtective || !hasMbr) {
    const table = readGpt(source, findings);
    if (table !== null) {
      if (!isProtective) table.problems.push("the protective MBR is missing");
      finish(source, table);
      return table;
    }
  }
  if (!hasMbr || !looksLikeMbr(mbr)) return null;
  const table = readMbr(source, mbr);
  if (isProtective) {
    table.problems.push(...findings, "its MBR announces a GPT, but neither the GPT nor its backup can be read");
  }
  finish(source, table);
  return table;
}

/** The bytes of a partition, cut at the end of the disk. Null when it lies outside altogether. */
export function partitionSource(disk: ByteSource, partition: PartitionEntry): ByteSource | null {
  if (!(partition.start >= 0 && partition.start < disk.size)) return null;
  return new SubSource(disk, partition.start, Math.min(partition.size, disk.size - partition.start));
}

/** @param findings what is wrong with the primary GPT is added */
function readGpt(source: ByteSource, findings: string[]): PartitionTable | null {
  for (const sectorSize of [512, 4096]) {
    const primary = readGptAt(source, sectorSize, 1);
    if (typeof primary === "object") return primary;
    if (primary !== "absent") findings.push(`the primary GPT is damaged (${primary})`);
  }
  // The backup header stands in the last sector (UEFI 5.3.2).
  for (const sectorSize of [512, 4096]) {
    const last = Math.floor(source.size / sectorSize) - 1;
    if (last < 2) continue;
    const backup = readGptAt(source, sectorSize, last);
    if (typeof backup !== "object") continue;
    backup.problems.unshift(
      ...(findings.length > 0 ? findings : ["the primary GPT is missing"]),
      "the backup GPT at the end of the disk was used; repair it with: sgdisk -e",
    );
    return backup;
  }
  return null;
}

/** @returns the table, `absent` when there is no signature, or what is wrong */
function readGptAt(source: ByteSource, sectorSize: number, sector: number): PartitionTable | string {
  const header = readAt(source, sector * sectorSize, 512);
  // "EFI PART" (UEFI 5.3.2, table 5.5).
  if (header === null || new TextDecoder("latin1").decode(header.subarray(0, 8)) !== "EFI PART") return "absent";
  const view = new DataView(header.buffer, header.byteOffset);
  const headerSize = view.getUint32(12, true);
  if (headerSize < 92 || headerSize > 512) return `a header of ${headerSize} bytes`;
  const unsummed = header.slice(0, headerSize);
  unsummed.fill(0, 16, 20);
  if (crc32(unsummed) !== view.getUint32(16, true)) return "the header's checksum is wrong";
  if (wide(view, 24) !== sector) return "the header says that it stands elsewhere";
  const arrayStart = wide(view, 72) * sectorSize;
  const count = view.getUint32(80, true);
  const entrySize = view.getUint32(84, true);
  if (entrySize < 128 || entrySize > 4096 || (entrySize & 127) !== 0) return `entries of ${entrySize} bytes`;
  if (count > MAX_GPT_ENTRIES) return `${count} entries`;
  const array = readAt(source, arrayStart, count * entrySize);
  if (array === null) return "the entries lie outside the disk";
  if (crc32(array) !== view.getUint32(88, true)) return "the entries' checksum is wrong";

  const table: PartitionTable = {
    type: "gpt",
    uuid: guid(header.subarray(56, 72)),
    sectorSize,
    partitions: [],
    problems: [],
  };
  const firstUsable = wide(view, 40);
  const lastUsable = wide(view, 48);
  for (let i = 0; i < count; i++) {
    const entry = array.subarray(i * entrySize, i * entrySize + 128);
    const type = entry.subarray(0, 16);
    if (uuid(type) === null) continue;
    const fields = new DataView(entry.buffer, entry.byteOffset, 128);
    const first = wide(fields, 32);
    const last = wide(fields, 40);
    const problems: string[] = [];
    if (last < first) problems.push("ends before it begins");
    else if (first < firstUsable || last > lastUsable) problems.push("lies outside the table's usable sectors");
    table.partitions.push({
      index: i + 1,
      start: first * sectorSize,
      size: Math.max(0, last - first + 1) * sectorSize,
      type: guid(type),
      typeName: PARTITION_TYPES[guid(type)] ?? null,
      name: utf16(entry.subarray(56, 128)) || null,
      uuid: guid(entry.subarray(16, 32)),
      bootable: (entry[48] & 4) !== 0,
      problems,
    });
  }
  return table;
}

/** A boot sector of a file system has the same last bytes: there the entries are code and text. */
function looksLikeMbr(sector: Uint8Array): boolean {
  const view = new DataView(sector.buffer, sector.byteOffset);
  let used = 0;
  for (let i = 0; i < 4; i++) {
    const entry = 446 + 16 * i;
    if ((sector[entry] & 0x7f) !== 0) return false;
    if (sector[entry + 4] !== 0 && view.getUint32(entry + 12, true) !== 0) used++;
  }
  const text = new TextDecoder("latin1").decode(sector.subarray(0, 90));
  const isBootSector = text.slice(54, 57) === "FAT" || text.slice(82, 85) === "FAT" || text.slice(3, 7) === "NTFS" ||
    text.slice(3, 8) === "EXFAT";
  return used > 0 || !isBootSector;
}

function readMbr(source: ByteSource, mbr: Uint8Array): PartitionTable {
  const sectorSize = 512;
  const view = new DataView(mbr.buffer, mbr.byteOffset);
  const signature = view.getUint32(440, true).toString(16).padStart(8, "0");
  const table: PartitionTable = {
    type: "dos",
    uuid: signature === "00000000" ? null : signature,
    sectorSize,
    partitions: [],
    problems: [],
  };
  const add = (index: number, sector: Uint8Array, at: number, start: number, sectors: number) => {
    const type = "0x" + sector[at + 4].toString(16).padStart(2, "0");
    table.partitions.push({
      index,
      start: start * sectorSize,
      size: sectors * sectorSize,
      type,
      typeName: PARTITION_TYPES[type] ?? null,
      name: null,
      uuid: table.uuid === null ? null : `${signature}-${index.toString(16).padStart(2, "0")}`,
      bootable: sector[at] === 0x80,
      problems: [],
    });
  };
  const chains: number[] = [];
  for (let i = 0; i < 4; i++) {
    const at = 446 + 16 * i;
    const sectors = view.getUint32(at + 12, true);
    if (mbr[at + 4] === 0 || sectors === 0) continue;
    add(i + 1, mbr, at, view.getUint32(at + 8, true), sectors);
    if (isExtended(mbr[at + 4])) chains.push(view.getUint32(at + 8, true));
  }
  let index = 5;
  const seen = new Set<number>();
  for (const chain of chains) {
    for (let link: number | null = chain; link !== null;) {
      if (seen.has(link)) {
        table.problems.push(`the chain of logical partitions comes back to sector ${link}`);
        break;
      }
      if (seen.size >= MAX_LOGICAL) {
        table.problems.push(`more than ${MAX_LOGICAL} logical partitions; the others are not shown`);
        break;
      }
      seen.add(link);
      const sector: Uint8Array | null = readAt(source, link * sectorSize, 512);
      if (sector === null || sector[510] !== 0x55 || sector[511] !== 0xaa) {
        // A freshly made extended partition has nothing in it yet.
        if (link !== chain || sector === null) {
          table.problems.push(`the chain of logical partitions breaks at sector ${link}`);
        }
        break;
      }
      const entries = new DataView(sector.buffer, sector.byteOffset);
      const here: number = link;
      link = null;
      for (let i = 0; i < 4; i++) {
        const at = 446 + 16 * i;
        const sectors = entries.getUint32(at + 12, true);
        const start = entries.getUint32(at + 8, true);
        if (sector[at + 4] === 0 || sectors === 0) continue;
        // Data is counted from its own link, links from the chain's start.
        if (isExtended(sector[at + 4])) link ??= chain + start;
        else if (i < 2) add(index++, sector, at, here + start, sectors);
      }
    }
  }
  return table;
}

function isExtended(type: number): boolean {
  return type === 0x05 || type === 0x0f || type === 0x85;
}

/** Findings that are the same for both kinds. */
function finish(source: ByteSource, table: PartitionTable): void {
  const sorted = table.partitions.filter((p) => p.size > 0 && !isContainer(table, p)).sort((a, b) => a.start - b.start);
  let furthest: PartitionEntry | null = null;
  for (const partition of sorted) {
    if (furthest !== null && partition.start < furthest.start + furthest.size) {
      partition.problems.push(`overlaps partition ${furthest.index}`);
    }
    if (furthest === null || partition.start + partition.size > furthest.start + furthest.size) furthest = partition;
  }
  for (const partition of table.partitions) {
    if (partition.start >= source.size) partition.problems.push("lies behind the end of the disk");
    else if (partition.start + partition.size > source.size) {
      partition.problems.push(
        `reaches ${partition.start + partition.size - source.size} bytes past the end of the disk`,
      );
    }
  }
}

/** MBR entries that hold others: extended partitions, and a GPT's protective one. */
function isContainer(table: PartitionTable, partition: PartitionEntry): boolean {
  return table.type === "dos" && (partition.type === "0xee" || isExtended(Number(partition.type)));
}

function wide(view: DataView, offset: number): number {
  return view.getUint32(offset, true) + view.getUint32(offset + 4, true) * 0x1_0000_0000;
}

/** Null when the bytes are not all there, or cannot be read. */
function readAt(source: ByteSource, offset: number, length: number): Uint8Array | null {
  if (!(offset >= 0 && offset + length <= source.size)) return null;
  const bytes = new Uint8Array(length);
  try {
    source.read(offset, bytes);
  } catch {
    return null;
  }
  return bytes;
}
