/**
 * FAT12, FAT16 and FAT32 with long names, read-only. After Microsoft's "FAT: General Overview of On-Disk Format" 1.03
 * (called "spec" below); names are looked up without regard to case.
 */
import type { ByteSource } from "./byte_source.ts";
import type { FileStatus, FileSystem } from "./file_system.ts";
import { walk, type Walkable } from "./paths.ts";

const ATTRIBUTE_VOLUME = 0x08;
const ATTRIBUTE_DIRECTORY = 0x10;
/** Read-only, hidden, system and volume together mark a part of a long name. */
const ATTRIBUTE_LONG_NAME = 0x0f;
/** 65536 entries of 32 bytes (spec, "FAT Directory Structure"). */
const MAX_DIRECTORY = 65536 * 32;
const DEFAULT_LIMIT = 1 << 30;

interface Entry {
  name: string;
  /** The 8.3 name, another way to the same file. */
  shortName: string;
  isDirectory: boolean;
  /** First cluster; 0 for an empty file, and for the root directory in `..`. */
  cluster: number;
  size: number;
}

interface Geometry {
  bits: 12 | 16 | 32;
  sectorSize: number;
  clusterSize: number;
  /** Bytes from the start of the file system. */
  fatStart: number;
  fatSize: number;
  rootStart: number;
  rootSize: number;
  dataStart: number;
  clusters: number;
  rootCluster: number;
}

/** Whether a FAT boot sector is there, one that means what it says. */
export function isFat(source: ByteSource): boolean {
  if (source.size < 512) return false;
  const sector = new Uint8Array(512);
  source.read(0, sector);
  return readGeometry(sector) !== null;
}

export class FatFileSystem implements FileSystem, Walkable<Entry> {
  readonly type = "vfat";
  readonly uuid: string | null;
  readonly label: string | null;
  readonly problems: readonly string[];
  /** FAT12, FAT16 or FAT32. */
  readonly bits: 12 | 16 | 32;
  readonly root: Entry = { name: "", shortName: "", isDirectory: true, cluster: 0, size: 0 };
  private readonly source: ByteSource;
  private readonly geometry: Geometry;

  /** Throws an Error in words when there is no FAT boot sector. */
  constructor(source: ByteSource) {
    this.source = source;
    const sector = new Uint8Array(512);
    if (source.size < 512) throw new Error("too small for a FAT file system");
    source.read(0, sector);
    const geometry = readGeometry(sector);
    if (geometry === null) throw new Error("no FAT boot sector");
    this.geometry = geometry;
    this.bits = geometry.bits;
    const end = geometry.dataStart + geometry.clusters * geometry.clusterSize;
    this.problems = end > source.size
      ? [`the file system is ${end} bytes long, but only ${source.size} are there: it was cut`]
      : [];
    const serial = geometry.bits === 32 ? 0x43 : 0x27;
    const digits = [3, 2, 1, 0].map((i) => sector[serial + i].toString(16).toUpperCase().padStart(2, "0"));
    this.uuid = `${digits[0]}${digits[1]}-${digits[2]}${digits[3]}`;
    this.label = this.readLabel(sector.subarray(serial + 4, serial + 15));
  }

  stat(path: string): FileStatus | null {
    const entry = walk(this, path);
    return entry === null ? null : { type: entry.isDirectory ? "directory" : "file", size: entry.size };
  }

  list(path: string): string[] {
    const entry = walk(this, path);
    if (entry === null) throw new Error(`${path}: no such directory`);
    if (!entry.isDirectory) throw new Error(`${path}: not a directory`);
    return this.entries(entry).map((child) => child.name).sort();
  }

  read(path: string, limit: number = DEFAULT_LIMIT): Uint8Array {
    const entry = walk(this, path);
    if (entry === null) throw new Error(`${path}: no such file`);
    if (entry.isDirectory) throw new Error(`${path}: not a file`);
    if (entry.size > limit) throw new Error(`${path}: ${entry.size} bytes, more than ${limit}`);
    if (entry.size > this.geometry.clusters * this.geometry.clusterSize) {
      throw new Error(`${path}: is damaged: larger than its file system`);
    }
    const data = new Uint8Array(entry.size);
    const done = this.readChain(entry.cluster, data);
    if (done < data.length) {
      throw new Error(`${path}: is damaged: its clusters end after ${done} of ${entry.size} bytes`);
    }
    return data;
  }

  lookup(node: Entry, name: string): Entry | null {
    if (!node.isDirectory) return null;
    const wanted = name.toLowerCase();
    return this.entries(node).find((entry) =>
      entry.name.toLowerCase() === wanted || entry.shortName.toLowerCase() === wanted
    ) ?? null;
  }

  link(): null {
    return null;
  }

  private entries(directory: Entry): Entry[] {
    const bytes = this.directoryBytes(directory);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const entries: Entry[] = [];
    let long = "";
    let longChecksum = -1;
    let expected = 0;
    for (let at = 0; at + 32 <= bytes.length && bytes[at] !== 0; at += 32) {
      const record = bytes.subarray(at, at + 32);
      const attributes = record[11];
      if (record[0] === 0xe5) {
        expected = 0;
        longChecksum = -1;
        continue;
      }
      if ((attributes & 0x3f) === ATTRIBUTE_LONG_NAME) {
        // Parts come last one first, numbered down to 1, each with the checksum of the short name that follows.
        const order = record[0] & 0x3f;
        if (record[0] & 0x40) {
          long = "";
          expected = order;
          longChecksum = record[13];
        }
        if (order !== expected || order === 0 || record[13] !== longChecksum) {
          expected = 0;
          longChecksum = -1;
          continue;
        }
        long = longNamePart(view, at) + long;
        expected--;
        continue;
      }
      const isComplete = longChecksum === shortNameChecksum(record) && expected === 0 && long !== "";
      const longName = isComplete ? long : null;
      longChecksum = -1;
      expected = 0;
      if (attributes & ATTRIBUTE_VOLUME) continue;
      const shortName = readShortName(record);
      if (shortName === "." || shortName === ".." || shortName === "") continue;
      const high = this.bits === 32 ? view.getUint16(at + 20, true) : 0;
      const isDirectory = (attributes & ATTRIBUTE_DIRECTORY) !== 0;
      entries.push({
        name: longName ?? shortName,
        shortName,
        isDirectory,
        cluster: high * 65536 + view.getUint16(at + 26, true),
        size: isDirectory ? 0 : view.getUint32(at + 28, true),
      });
    }
    return entries;
  }

  private directoryBytes(directory: Entry): Uint8Array {
    const { rootStart, rootSize, rootCluster } = this.geometry;
    if (directory.cluster === 0 && this.bits !== 32) {
      const bytes = new Uint8Array(rootSize);
      this.readBytes(rootStart, bytes);
      return bytes;
    }
    const first = directory.cluster === 0 ? rootCluster : directory.cluster;
    const clusters = this.chainLength(first);
    const bytes = new Uint8Array(clusters * this.geometry.clusterSize);
    this.readChain(first, bytes);
    return bytes;
  }

  /** Clusters of a directory, which does not tell its size. */
  private chainLength(first: number): number {
    const limit = Math.max(1, Math.floor(MAX_DIRECTORY / this.geometry.clusterSize));
    let count = 0;
    for (let cluster = first; this.isData(cluster); cluster = this.next(cluster)) {
      if (++count > limit) throw new Error(`directory at cluster ${first} is damaged: its clusters do not end`);
    }
    return count;
  }

  /** Fills `target` from a chain of clusters. @returns the bytes found before the chain ended */
  private readChain(first: number, target: Uint8Array): number {
    const { clusterSize, dataStart } = this.geometry;
    let done = 0;
    let cluster = first;
    while (done < target.length && this.isData(cluster)) {
      let count = 1;
      let next = this.next(cluster);
      while (next === cluster + count && done + count * clusterSize < target.length) {
        count++;
        next = this.next(next);
      }
      const take = Math.min(count * clusterSize, target.length - done);
      this.readBytes(dataStart + (cluster - 2) * clusterSize, target.subarray(done, done + take));
      done += take;
      cluster = next;
    }
    return done;
  }

  private isData(cluster: number): boolean {
    return cluster >= 2 && cluster < this.geometry.clusters + 2;
  }

  /** The cluster after one; not {@link isData} at the end of its chain. */
  private next(cluster: number): number {
    const { bits, fatStart, fatSize } = this.geometry;
    const offset = bits === 12 ? cluster + (cluster >> 1) : cluster * (bits / 8);
    if (offset + 4 > fatSize + 2) return 0;
    const bytes = new Uint8Array(bits === 32 ? 4 : 2);
    this.readBytes(fatStart + offset, bytes);
    const low = bytes[0] | bytes[1] << 8;
    if (bits === 16) return low;
    if (bits === 12) return cluster & 1 ? low >> 4 : low & 0xfff;
    return (low | bytes[2] << 16 | (bytes[3] & 0x0f) << 24) >>> 0;
  }

  private readBytes(offset: number, target: Uint8Array): void {
    if (offset + target.length > this.source.size) {
      throw new Error(`byte ${offset} of the FAT file system is missing: the image was cut`);
    }
    this.source.read(offset, target);
  }

  /** As blkid: the root directory's volume entry, or else the boot sector's. */
  private readLabel(bootSector: Uint8Array): string | null {
    try {
      const bytes = this.directoryBytes(this.root);
      for (let at = 0; at + 32 <= bytes.length && bytes[at] !== 0; at += 32) {
        const attributes = bytes[at + 11];
        if (bytes[at] === 0xe5 || (attributes & 0x3f) === ATTRIBUTE_LONG_NAME) continue;
        if ((attributes & (ATTRIBUTE_VOLUME | ATTRIBUTE_DIRECTORY)) !== ATTRIBUTE_VOLUME) continue;
        const text = decode(bytes.subarray(at, at + 11)).trimEnd();
        if (text !== "" && text !== "NO NAME") return text;
      }
    } catch {
      // A damaged root directory shows when it is listed; the boot sector has a label too.
    }
    const text = decode(bootSector).trimEnd();
    return text === "" || text === "NO NAME" ? null : text;
  }
}

/** BIOS Parameter Block (spec, "Boot Sector and BPB Structure"). Null when it makes no sense. */
function readGeometry(sector: Uint8Array): Geometry | null {
  const view = new DataView(sector.buffer, sector.byteOffset, 512);
  const sectorSize = view.getUint16(11, true);
  const perCluster = sector[13];
  const reserved = view.getUint16(14, true);
  const fats = sector[16];
  const rootEntries = view.getUint16(17, true);
  const sectors = view.getUint16(19, true) || view.getUint32(32, true);
  const media = sector[21];
  const fatSectors16 = view.getUint16(22, true);
  const fatSectors = fatSectors16 || view.getUint32(36, true);
  if (sector[510] !== 0x55 || sector[511] !== 0xaa) return null;
  if (sectorSize < 512 || sectorSize > 4096 || (sectorSize & (sectorSize - 1)) !== 0) return null;
  if (perCluster === 0 || (perCluster & (perCluster - 1)) !== 0) return null;
  if (reserved === 0 || fats === 0 || fats > 4 || fatSectors === 0 || (media !== 0xf0 && media < 0xf8)) return null;
  const rootStart = (reserved + fats * fatSectors) * sectorSize;
  const rootSize = rootEntries * 32;
  const dataStart = rootStart + Math.ceil(rootSize / sectorSize) * sectorSize;
  const clusters = Math.floor((sectors - dataStart / sectorSize) / perCluster);
  if (clusters < 1) return null;
  // The number of clusters alone says which FAT it is (spec, "FAT Type Determination"); mkfs tools mark 32 by size.
  const bits = fatSectors16 === 0 ? 32 : clusters < 4085 ? 12 : 16;
  const fatSize = fatSectors * sectorSize;
  return {
    bits,
    sectorSize,
    clusterSize: perCluster * sectorSize,
    fatStart: reserved * sectorSize,
    fatSize,
    rootStart,
    rootSize,
    dataStart,
    clusters: Math.min(clusters, Math.floor(fatSize * 8 / bits) - 2),
    rootCluster: bits === 32 ? view.getUint32(44, true) & 0x0fffffff : 0,
  };
}

/** 13 UTF-16 units in three places (spec, "FAT Long Directory Entries"). */
function longNamePart(view: DataView, at: number): string {
  let text = "";
  for (const offset of [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30]) {
    const unit = view.getUint16(at + offset, true);
    if (unit === 0) break;
    if (unit !== 0xffff) text += String.fromCharCode(unit);
  }
  return text;
}

function shortNameChecksum(record: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < 11; i++) sum = ((sum >> 1) | (sum << 7)) + record[i] & 0xff;
  return sum;
}

function readShortName(record: Uint8Array): string {
  const raw = record.slice(0, 11);
  // 0xe5 marks unused entries, so a name that begins with it is stored with 5.
  if (raw[0] === 5) raw[0] = 0xe5;
  let base = decode(raw.subarray(0, 8)).trimEnd();
  let extension = decode(raw.subarray(8)).trimEnd();
  // Windows NT keeps names in small letters without a long name: bits 3 and 4 of a reserved byte.
  if (record[12] & 0x08) base = base.toLowerCase();
  if (record[12] & 0x10) extension = extension.toLowerCase();
  return extension === "" ? base : `${base}.${extension}`;
}

/** Code page 437, what short names are in unless told otherwise, from 0x80 on. */
const CP437 = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀" +
  "αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u00a0";

function decode(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += byte < 0x80 ? String.fromCharCode(byte) : CP437[byte - 0x80];
  return text;
}
