/**
 * ISO 9660 (ECMA-119), read-only, with Rock Ridge (IEEE P1282 over SUSP, P1281) or else Joliet names; without either,
 * names as Linux shows them: small letters, no version.
 */
import type { ByteSource } from "./byte_source.ts";
import type { FileStatus, FileSystem } from "./file_system.ts";
import { label, utf16 } from "./identifiers.ts";
import { walk, type Walkable } from "./paths.ts";

const SECTOR = 2048;
const FIRST_DESCRIPTOR = 16;
const MAX_DESCRIPTORS = 64;
const MAX_DIRECTORY = 64 << 20;
/** Continuation areas followed for one record. */
const MAX_CONTINUATIONS = 32;
const DEFAULT_LIMIT = 1 << 30;

interface Extent {
  start: number;
  size: number;
}

interface Node {
  name: string;
  type: FileStatus["type"];
  extents: Extent[];
  size: number;
  target: string | null;
  isCompressed: boolean;
}

/** Whether a volume descriptor is there. */
export function isIso9660(source: ByteSource): boolean {
  if (source.size < (FIRST_DESCRIPTOR + 1) * SECTOR) return false;
  const head = new Uint8Array(6);
  source.read(FIRST_DESCRIPTOR * SECTOR, head);
  return new TextDecoder().decode(head.subarray(1)) === "CD001";
}

export class Iso9660FileSystem implements FileSystem, Walkable<Node> {
  readonly type = "iso9660";
  readonly uuid: string | null;
  readonly label: string | null;
  /** Whose names are shown. */
  readonly names: "rock ridge" | "joliet" | "plain";
  readonly root: Node;
  private readonly source: ByteSource;
  private readonly blockSize: number;
  /** Bytes before the system use area's own (SUSP 5.3, the SP entry). */
  private readonly skip: number = 0;

  /** Throws an Error in words when there is no primary volume descriptor. */
  constructor(source: ByteSource) {
    this.source = source;
    let primary: Uint8Array | null = null;
    let joliet: Uint8Array | null = null;
    for (let i = 0; i < MAX_DESCRIPTORS; i++) {
      const descriptor = this.bytes((FIRST_DESCRIPTOR + i) * SECTOR, SECTOR);
      if (new TextDecoder().decode(descriptor.subarray(1, 6)) !== "CD001" || descriptor[0] === 255) break;
      if (descriptor[0] === 1) primary ??= descriptor;
      // UCS-2 levels 1 to 3 by their escape sequences (Joliet specification, "Escape Sequences").
      const isUcs2 = descriptor[88] === 0x25 && descriptor[89] === 0x2f && [0x40, 0x43, 0x45].includes(descriptor[90]);
      if (descriptor[0] === 2 && isUcs2) joliet ??= descriptor;
    }
    if (primary === null) throw new Error("no ISO 9660 primary volume descriptor");
    // ECMA-119 8.4.12: the logical block size.
    this.blockSize = primary[128] | primary[129] << 8;
    if (![512, 1024, 2048].includes(this.blockSize)) throw new Error(`ISO 9660 blocks of ${this.blockSize} bytes`);
    this.uuid = volumeTime(primary.subarray(830, 847)) ?? volumeTime(primary.subarray(813, 830));
    this.label = label(primary.subarray(40, 72));

    const rootRecord = primary.subarray(156, 190);
    const skip = this.rockRidgeSkip(rootRecord);
    if (skip !== null) {
      this.names = "rock ridge";
      this.skip = skip;
    } else {
      this.names = joliet === null ? "plain" : "joliet";
    }
    const extent = this.extent(this.names === "joliet" ? joliet!.subarray(156, 190) : rootRecord);
    this.root = {
      name: "",
      type: "directory",
      extents: [extent],
      size: extent.size,
      target: null,
      isCompressed: false,
    };
  }

  stat(path: string): FileStatus | null {
    const node = walk(this, path);
    return node === null ? null : { type: node.type, size: node.size };
  }

  list(path: string): string[] {
    const node = walk(this, path);
    if (node === null) throw new Error(`${path}: no such directory`);
    if (node.type !== "directory") throw new Error(`${path}: not a directory`);
    return this.entries(node).map((entry) => entry.name).sort();
  }

  read(path: string, limit: number = DEFAULT_LIMIT): Uint8Array {
    const node = walk(this, path);
    if (node === null) throw new Error(`${path}: no such file`);
    if (node.type !== "file") throw new Error(`${path}: not a file`);
    if (node.isCompressed) throw new Error(`${path}: is compressed (zisofs), which is not supported`);
    if (node.size > limit) throw new Error(`${path}: ${node.size} bytes, more than ${limit}`);
    return this.contents(node);
  }

  lookup(node: Node, name: string): Node | null {
    if (node.type !== "directory") return null;
    const entries = this.entries(node);
    const exact = entries.find((entry) => entry.name === name);
    if (exact !== undefined || this.names === "rock ridge") return exact ?? null;
    return entries.find((entry) => entry.name.toLowerCase() === name.toLowerCase()) ?? null;
  }

  link(node: Node): string | null {
    return node.target;
  }

  private contents(node: Node): Uint8Array {
    for (const extent of node.extents) {
      if (extent.start + extent.size > this.source.size) throw new Error("a file lies past the end: the image was cut");
    }
    const data = new Uint8Array(node.size);
    let done = 0;
    for (const extent of node.extents) {
      this.source.read(extent.start, data.subarray(done, done + extent.size));
      done += extent.size;
    }
    return data;
  }

  private entries(directory: Node): Node[] {
    if (directory.size > MAX_DIRECTORY) throw new Error(`a directory of ${directory.size} bytes: damaged`);
    const bytes = this.contents(directory);
    const nodes: Node[] = [];
    let unfinished: Node | null = null;
    for (let at = 0; at < bytes.length;) {
      const length = bytes[at];
      // Records do not cross sectors (ECMA-119 6.8.1.1); the rest of one is zero.
      if (length === 0) {
        at = (Math.floor(at / SECTOR) + 1) * SECTOR;
        continue;
      }
      const record = bytes.subarray(at, at + length);
      if (length < 34 || record.length < length || 33 + record[32] > length) {
        throw new Error("a directory is damaged: impossible record");
      }
      at += length;
      const isSelfOrParent = record[32] === 1 && record[33] <= 1;
      if (isSelfOrParent) continue;
      const node = this.node(record);
      if (node === null) continue;
      // ECMA-119 9.1.6: bit 7 says that the file goes on in the next record.
      if (unfinished !== null && unfinished.name === node.name) {
        unfinished.extents.push(...node.extents);
        unfinished.size += node.size;
      } else {
        nodes.push(node);
        unfinished = node;
      }
      if ((record[25] & 0x80) === 0) unfinished = null;
    }
    return nodes;
  }

  /** One directory record. Null for one that is not to be shown. */
  private node(record: Uint8Array): Node | null {
    const extent = this.extent(record);
    const isDirectory = (record[25] & 2) !== 0;
    const identifier = record.subarray(33, 33 + record[32]);
    const node: Node = {
      name: "",
      type: isDirectory ? "directory" : "file",
      extents: [extent],
      size: extent.size,
      target: null,
      isCompressed: false,
    };
    if (this.names === "rock ridge") {
      if (!this.applyRockRidge(record, node)) return null;
      if (node.name !== "") return node;
    }
    const text = this.names === "joliet" ? utf16(identifier, true) : new TextDecoder("latin1").decode(identifier);
    node.name = text.replace(/;\d+$/, "").replace(/\.$/, "");
    if (this.names !== "joliet") node.name = node.name.toLowerCase();
    return node.name === "" ? null : node;
  }

  /** @returns false for a directory's old place after it was moved up */
  private applyRockRidge(record: Uint8Array, node: Node): boolean {
    let name = "";
    let hasTarget = false;
    let target = "";
    // Set while a component, or the list of them, goes on in the next SL.
    let joins = true;
    for (const entry of this.systemUse(record)) {
      const view = new DataView(entry.buffer, entry.byteOffset, entry.length);
      switch (String.fromCharCode(entry[0], entry[1])) {
        case "NM":
          if ((entry[4] & 6) === 0) name += new TextDecoder().decode(entry.subarray(5));
          break;
        case "PX": {
          if (entry.length < 8) break;
          const format = view.getUint32(4, true) & 0o170000;
          node.type = format === 0o100000
            ? "file"
            : format === 0o040000
            ? "directory"
            : format === 0o120000
            ? "symlink"
            : "other";
          break;
        }
        case "SL":
          hasTarget = true;
          for (let at = 5; at + 2 <= entry.length; at += 2 + entry[at + 1]) {
            const flags = entry[at];
            const text = flags & 2
              ? "."
              : flags & 4
              ? ".."
              : new TextDecoder().decode(entry.subarray(at + 2, at + 2 + entry[at + 1]));
            if (flags & 8) {
              target = "/";
              joins = true;
              continue;
            }
            target += joins ? text : `/${text}`;
            joins = (flags & 1) !== 0;
          }
          break;
        case "CL": {
          if (entry.length < 8) break;
          // The directory was moved up (P1282 4.1.5.1): its own `.` record tells its size.
          const start = view.getUint32(4, true) * this.blockSize;
          const self = this.bytes(start, 34);
          node.extents = [this.extent(self)];
          node.size = node.extents[0].size;
          node.type = "directory";
          break;
        }
        case "RE":
          return false;
        case "ZF":
          node.isCompressed = true;
          break;
      }
    }
    node.name = name;
    if (hasTarget && node.type === "symlink") {
      node.target = target;
      node.size = target.length;
    }
    return true;
  }

  /** The system use entries of a record, and of the continuation areas it names. */
  private systemUse(record: Uint8Array): Uint8Array[] {
    const entries: Uint8Array[] = [];
    // The identifier is padded to an even offset (ECMA-119 9.1.12).
    let area: Uint8Array | null = record.subarray(33 + record[32] + (record[32] % 2 === 0 ? 1 : 0) + this.skip);
    for (let hops = 0; area !== null && hops < MAX_CONTINUATIONS; hops++) {
      let next: Uint8Array | null = null;
      for (let at = 0; at + 4 <= area.length;) {
        const length: number = area[at + 2];
        if (length < 4 || at + length > area.length) break;
        const entry: Uint8Array = area.subarray(at, at + length);
        at += length;
        if (entry[0] === 0x53 && entry[1] === 0x54) break; // ST
        if (entry[0] === 0x43 && entry[1] === 0x45 && length >= 28) {
          // CE: block, offset, length (SUSP 5.1)
          const view = new DataView(entry.buffer, entry.byteOffset, length);
          const size = Math.min(view.getUint32(20, true), SECTOR);
          next = this.bytes(view.getUint32(4, true) * this.blockSize + view.getUint32(12, true), size);
        } else {
          entries.push(entry);
        }
      }
      area = next;
    }
    return entries;
  }

  /** Looks for SUSP and a Rock Ridge entry in the root's `.` record. @returns the bytes to skip, or null */
  private rockRidgeSkip(rootRecord: Uint8Array): number | null {
    const { start, size } = this.extent(rootRecord);
    if (size < SECTOR || start + SECTOR > this.source.size) return null;
    const sector = this.bytes(start, SECTOR);
    const self = sector.subarray(0, sector[0]);
    if (self.length < 34 + 7) return null;
    // SP: "SP", 7, 1, 0xbe, 0xef, skip
    const at = 34;
    if (self[at] !== 0x53 || self[at + 1] !== 0x50 || self[at + 4] !== 0xbe || self[at + 5] !== 0xef) return null;
    const isRockRidge = this.systemUse(self).some((entry) => {
      const signature = String.fromCharCode(entry[0], entry[1]);
      return signature === "PX" || signature === "RR" || signature === "NM";
    });
    return isRockRidge ? self[at + 6] : null;
  }

  private extent(record: Uint8Array): Extent {
    const view = new DataView(record.buffer, record.byteOffset, record.length);
    // Behind the extended attribute record, where there is one (ECMA-119 9.1.2).
    return { start: (view.getUint32(2, true) + record[1]) * this.blockSize, size: view.getUint32(10, true) };
  }

  private bytes(offset: number, length: number): Uint8Array {
    if (offset + length > this.source.size) throw new Error(`byte ${offset} is missing: the ISO 9660 image was cut`);
    const bytes = new Uint8Array(length);
    this.source.read(offset, bytes);
    return bytes;
  }
}

/** A time of 16 digits (ECMA-119 8.4.26.1), as blkid makes a UUID of it. Null when not set. */
function volumeTime(bytes: Uint8Array): string | null {
  const digits = new TextDecoder("latin1").decode(bytes.subarray(0, 16));
  if (!/^\d{16}$/.test(digits) || /^0+$/.test(digits)) return null;
  return [digits.slice(0, 4), ...digits.slice(4).match(/../g)!].join("-");
}
