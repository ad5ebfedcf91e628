/**
 * ext2, ext3 and ext4, read-only. Layout after the kernel's Documentation/filesystems/ext4 (struct names in comments).
 * Whatever metadata is read has its CRC-32C checked where the file system keeps one. The journal is not replayed.
 */
import type { ByteSource } from "./byte_source.ts";
import { crc32c } from "./crc32.ts";
import type { FileStatus, FileSystem } from "./file_system.ts";
import { label, uuid } from "./identifiers.ts";
import { walk, type Walkable } from "./paths.ts";

// s_feature_compat
const COMPAT_HAS_JOURNAL = 0x4;
const COMPAT_SPARSE_SUPER2 = 0x200;
// s_feature_incompat
const INCOMPAT_COMPRESSION = 0x1;
const INCOMPAT_FILETYPE = 0x2;
const INCOMPAT_RECOVER = 0x4;
const INCOMPAT_JOURNAL_DEV = 0x8;
const INCOMPAT_META_BG = 0x10;
const INCOMPAT_EXTENTS = 0x40;
const INCOMPAT_64BIT = 0x80;
const INCOMPAT_MMP = 0x100;
const INCOMPAT_FLEX_BG = 0x200;
const INCOMPAT_EA_INODE = 0x400;
const INCOMPAT_CSUM_SEED = 0x2000;
const INCOMPAT_LARGEDIR = 0x4000;
const INCOMPAT_INLINE_DATA = 0x8000;
const INCOMPAT_ENCRYPT = 0x10000;
const INCOMPAT_CASEFOLD = 0x20000;
const INCOMPAT_KNOWN = INCOMPAT_FILETYPE | INCOMPAT_RECOVER | INCOMPAT_META_BG | INCOMPAT_EXTENTS | INCOMPAT_64BIT |
  INCOMPAT_MMP | INCOMPAT_FLEX_BG | INCOMPAT_EA_INODE | INCOMPAT_CSUM_SEED | INCOMPAT_LARGEDIR |
  INCOMPAT_INLINE_DATA | INCOMPAT_ENCRYPT | INCOMPAT_CASEFOLD;
// s_feature_ro_compat
const RO_SPARSE_SUPER = 0x1;
const RO_LARGE_FILE = 0x2;
const RO_BTREE_DIR = 0x4;
const RO_METADATA_CSUM = 0x400;

// i_flags
const FLAG_ENCRYPT = 0x800;
const FLAG_INDEX = 0x1000;
const FLAG_EXTENTS = 0x80000;
const FLAG_INLINE_DATA = 0x10000000;

const ROOT_INODE = 2;
const EXTENT_MAGIC = 0xf30a;
/** EXT4_MAX_EXTENT_DEPTH of the kernel. */
const MAX_EXTENT_DEPTH = 5;
/** Longer extents are allocated but not written: they read as zeroes. */
const MAX_WRITTEN_EXTENT = 32768;
const TWO_32 = 0x1_0000_0000;
/** A directory of a million names is about 40 MiB. */
const MAX_DIRECTORY = 256 << 20;
const DEFAULT_LIMIT = 1 << 30;

interface Inode {
  number: number;
  mode: number;
  size: number;
  flags: number;
  raw: Uint8Array;
  view: DataView;
  /** What checksums of this inode's blocks begin with. */
  seed: number;
}

interface DirectoryEntry {
  inode: number;
  name: Uint8Array;
}

/** Whether an ext superblock is there. */
export function isExt(source: ByteSource): boolean {
  if (source.size < 2048) return false;
  const magic = new Uint8Array(2);
  source.read(1024 + 0x38, magic);
  return magic[0] === 0x53 && magic[1] === 0xef;
}

export class ExtFileSystem implements FileSystem, Walkable<Inode> {
  readonly type: "ext2" | "ext3" | "ext4" | "jbd";
  readonly uuid: string | null;
  readonly label: string | null;
  readonly problems: readonly string[];
  private readonly source: ByteSource;
  private readonly blockSize: number;
  private readonly blocks: number;
  private readonly firstDataBlock: number;
  private readonly blocksPerGroup: number;
  private readonly inodesPerGroup: number;
  private readonly inodes: number;
  private readonly inodeSize: number;
  private readonly descriptorSize: number;
  private readonly incompat: number;
  private readonly roCompat: number;
  private readonly compat: number;
  private readonly firstMetaGroup: number;
  private readonly backupGroups: readonly number[];
  private readonly checksums: boolean;
  private readonly seed: number;

  /** Throws an Error in words when the superblock is none, or asks for what is not known here. */
  constructor(source: ByteSource) {
    this.source = source;
    if (source.size < 2048) throw new Error("too small for an ext file system");
    // struct ext4_super_block
    const raw = new Uint8Array(1024);
    source.read(1024, raw);
    const view = new DataView(raw.buffer);
    if (view.getUint16(0x38, true) !== 0xef53) throw new Error("no ext superblock");
    const problems: string[] = [];
    const dynamic = view.getUint32(0x4c, true) > 0;
    this.compat = dynamic ? view.getUint32(0x5c, true) : 0;
    this.incompat = dynamic ? view.getUint32(0x60, true) : 0;
    this.roCompat = dynamic ? view.getUint32(0x64, true) : 0;
    this.uuid = uuid(raw.subarray(0x68, 0x78));
    this.label = label(raw.subarray(0x78, 0x88));
    this.type = this.typeByFeatures();
    this.checksums = (this.roCompat & RO_METADATA_CSUM) !== 0;
    if (this.checksums) {
      if (raw[0x175] !== 1) throw new Error(`unknown metadata checksum type ${raw[0x175]}`);
      if (crc32c(0xffffffff, raw.subarray(0, 0x3fc)) !== view.getUint32(0x3fc, true)) {
        problems.push("the superblock's checksum is wrong; check it with e2fsck");
      }
    }
    if (this.incompat & INCOMPAT_JOURNAL_DEV) throw new Error("an external ext journal, not a file system");
    const unknown = this.incompat & ~INCOMPAT_KNOWN;
    if (unknown & INCOMPAT_COMPRESSION) throw new Error("ext2 compression is not supported");
    if (unknown !== 0) throw new Error(`ext4 features 0x${(unknown >>> 0).toString(16)} are not known`);

    const logBlockSize = view.getUint32(0x18, true);
    if (logBlockSize > 6) throw new Error(`ext block size 2^${10 + logBlockSize} is out of range`);
    this.blockSize = 1024 << logBlockSize;
    const is64 = (this.incompat & INCOMPAT_64BIT) !== 0;
    this.blocks = view.getUint32(4, true) + (is64 ? view.getUint32(0x150, true) * TWO_32 : 0);
    this.inodes = view.getUint32(0, true);
    this.firstDataBlock = view.getUint32(0x14, true);
    this.blocksPerGroup = view.getUint32(0x20, true);
    this.inodesPerGroup = view.getUint32(0x28, true);
    this.inodeSize = dynamic ? view.getUint16(0x58, true) : 128;
    this.descriptorSize = is64 ? view.getUint16(0xfe, true) : 32;
    this.firstMetaGroup = view.getUint32(0x104, true);
    this.backupGroups = [view.getUint32(0x24c, true), view.getUint32(0x250, true)];
    if (
      this.blocksPerGroup === 0 || this.inodesPerGroup === 0 || this.inodeSize < 128 ||
      this.inodeSize > this.blockSize || (this.inodeSize & (this.inodeSize - 1)) !== 0 || this.descriptorSize < 32 ||
      this.descriptorSize > this.blockSize || (this.descriptorSize & (this.descriptorSize - 1)) !== 0
    ) {
      throw new Error("the ext superblock is damaged: impossible sizes; repair it with e2fsck");
    }
    this.seed = (this.incompat & INCOMPAT_CSUM_SEED) !== 0
      ? view.getUint32(0x270, true)
      : crc32c(0xffffffff, raw.subarray(0x68, 0x78));
    if (this.blocks * this.blockSize > source.size) {
      problems.push(
        `the file system is ${this.blocks * this.blockSize} bytes long, but only ${source.size} are there: it was cut`,
      );
    }
    if (this.incompat & INCOMPAT_RECOVER) {
      problems.push(
        "its journal was not replayed (it was not unmounted cleanly): what was written last may be missing",
      );
    } else if ((view.getUint16(0x3a, true) & 1) === 0) {
      problems.push("it was not unmounted cleanly");
    }
    if (view.getUint16(0x3a, true) & 2) problems.push("the kernel found errors in it; check it with e2fsck");
    this.problems = problems;
  }

  stat(path: string): FileStatus | null {
    const inode = walk(this, path);
    if (inode === null) return null;
    switch (inode.mode & 0o170000) {
      case 0o100000:
        return { type: "file", size: inode.size };
      case 0o040000:
        return { type: "directory", size: inode.size };
      case 0o120000:
        return { type: "symlink", size: inode.size };
      default:
        return { type: "other", size: 0 };
    }
  }

  list(path: string): string[] {
    const inode = walk(this, path);
    if (inode === null) throw new Error(`${path}: no such directory`);
    if ((inode.mode & 0o170000) !== 0o040000) throw new Error(`${path}: not a directory`);
    const names: string[] = [];
    const decoder = new TextDecoder();
    for (const entry of this.entries(inode)) {
      const name = decoder.decode(entry.name);
      if (name !== "." && name !== "..") names.push(name);
    }
    return names.sort();
  }

  read(path: string, limit: number = DEFAULT_LIMIT): Uint8Array {
    const inode = walk(this, path);
    if (inode === null) throw new Error(`${path}: no such file`);
    if ((inode.mode & 0o170000) !== 0o100000) throw new Error(`${path}: not a file`);
    if (inode.flags & FLAG_ENCRYPT) throw new Error(`${path}: is encrypted`);
    if (inode.size > limit) throw new Error(`${path}: ${inode.size} bytes, more than ${limit}`);
    return this.contents(inode);
  }

  // Walkable

  get root(): Inode {
    return this.inode(ROOT_INODE);
  }

  lookup(node: Inode, name: string): Inode | null {
    if ((node.mode & 0o170000) !== 0o040000) return null;
    const wanted = new TextEncoder().encode(name);
    for (const entry of this.entries(node)) {
      if (entry.name.length === wanted.length && entry.name.every((byte, i) => byte === wanted[i])) {
        return this.inode(entry.inode);
      }
    }
    return null;
  }

  link(node: Inode): string | null {
    if ((node.mode & 0o170000) !== 0o120000) return null;
    if (node.flags & FLAG_ENCRYPT) throw new Error(`symbolic link ${node.number} is encrypted`);
    if (node.size > this.blockSize) throw new Error(`symbolic link ${node.number} is ${node.size} bytes long: damaged`);
    // A short target stands in i_block itself.
    const isFast = node.size < 60 && (node.flags & (FLAG_EXTENTS | FLAG_INLINE_DATA)) === 0;
    const target = isFast ? node.raw.subarray(0x28, 0x28 + node.size) : this.contents(node);
    return new TextDecoder().decode(target);
  }

  /** As blkid tells them apart: by the first features that the elder ones do not have. */
  private typeByFeatures(): "ext2" | "ext3" | "ext4" | "jbd" {
    if (this.incompat & INCOMPAT_JOURNAL_DEV) return "jbd";
    const elderRo = (this.roCompat & ~(RO_SPARSE_SUPER | RO_LARGE_FILE | RO_BTREE_DIR)) === 0;
    const elder = elderRo && (this.incompat & ~(INCOMPAT_FILETYPE | INCOMPAT_META_BG | INCOMPAT_RECOVER)) === 0;
    if (!elder) return "ext4";
    return this.compat & COMPAT_HAS_JOURNAL ? "ext3" : "ext2";
  }

  private block(number: number): Uint8Array {
    const bytes = new Uint8Array(this.blockSize);
    this.readBlocks(number, bytes);
    return bytes;
  }

  /** Reads from a block on; `target` need not be whole blocks. */
  private readBlocks(number: number, target: Uint8Array): void {
    if (!(number > 0 && number * this.blockSize + target.length <= this.source.size && number < this.blocks)) {
      throw new Error(`block ${number} lies outside the file system: damaged, or the image was cut`);
    }
    this.source.read(number * this.blockSize, target);
  }

  /** struct ext4_group_desc of a group. */
  private descriptor(group: number): DataView {
    const perBlock = this.blockSize / this.descriptorSize;
    const index = Math.floor(group / perBlock);
    let block: number;
    if ((this.incompat & INCOMPAT_META_BG) === 0 || index < this.firstMetaGroup) {
      block = this.superblockBlock() + 1 + index;
    } else {
      const first = index * perBlock;
      block = this.firstDataBlock + first * this.blocksPerGroup + (this.hasSuperblock(first) ? 1 : 0);
      // With 1 KiB blocks and bigalloc, group 0 begins at block 0 while its superblock is in block 1.
      if (this.blockSize === 1024 && first === 0 && this.firstDataBlock === 0) block++;
    }
    const bytes = this.block(block).subarray((group % perBlock) * this.descriptorSize).subarray(0, this.descriptorSize);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    if (this.checksums) {
      let crc = crc32c(this.seed, word(group));
      crc = crc32c(crc, bytes.subarray(0, 0x1e));
      crc = crc32c(crc, new Uint8Array(2));
      crc = crc32c(crc, bytes.subarray(0x20));
      if ((crc & 0xffff) !== view.getUint16(0x1e, true)) {
        throw new Error(`the descriptor of block group ${group} is damaged (checksum); repair it with e2fsck`);
      }
    }
    return view;
  }

  private superblockBlock(): number {
    return this.blockSize === 1024 ? 1 : 0;
  }

  private hasSuperblock(group: number): boolean {
    if (group === 0) return true;
    if (this.compat & COMPAT_SPARSE_SUPER2) return this.backupGroups.includes(group);
    if ((this.roCompat & RO_SPARSE_SUPER) === 0 || group === 1) return true;
    for (const base of [3, 5, 7]) {
      let power = base;
      while (power < group) power *= base;
      if (power === group) return true;
    }
    return false;
  }

  /** struct ext4_inode. */
  private inode(number: number): Inode {
    if (!(number >= 1 && number <= this.inodes)) throw new Error(`inode ${number} does not exist: damaged directory`);
    const group = Math.floor((number - 1) / this.inodesPerGroup);
    const descriptor = this.descriptor(group);
    let table = descriptor.getUint32(8, true);
    if (this.descriptorSize >= 64) table += descriptor.getUint32(0x28, true) * TWO_32;
    const offset = ((number - 1) % this.inodesPerGroup) * this.inodeSize;
    const raw = new Uint8Array(this.inodeSize);
    const position = table * this.blockSize + offset;
    if (table === 0 || position + raw.length > this.source.size) {
      throw new Error(`inode ${number} lies outside the file system: damaged, or the image was cut`);
    }
    this.source.read(position, raw);
    const view = new DataView(raw.buffer);
    const seed = crc32c(crc32c(this.seed, word(number)), raw.subarray(0x64, 0x68));
    if (this.checksums) this.checkInode(number, raw, view, seed);
    const mode = view.getUint16(0, true);
    if (mode === 0) throw new Error(`inode ${number} is not in use: damaged directory`);
    // ext2's directories used i_size_high for access control lists.
    const hasHigh = (mode & 0o170000) === 0o100000 || (this.incompat & INCOMPAT_LARGEDIR) !== 0;
    return {
      number,
      mode,
      size: view.getUint32(4, true) + (hasHigh ? view.getUint32(0x6c, true) * TWO_32 : 0),
      flags: view.getUint32(0x20, true),
      raw,
      view,
      seed,
    };
  }

  /** Its checksum is over itself with i_checksum_lo and i_checksum_hi taken as zero. */
  private checkInode(number: number, raw: Uint8Array, view: DataView, seed: number): void {
    const hasHigh = this.inodeSize > 128 && view.getUint16(0x80, true) >= 4;
    const zeroed = raw.slice();
    zeroed.fill(0, 0x7c, 0x7e);
    if (hasHigh) zeroed.fill(0, 0x82, 0x84);
    const crc = crc32c(seed, zeroed);
    const right = hasHigh
      ? crc === (view.getUint16(0x7c, true) | view.getUint16(0x82, true) << 16) >>> 0
      : (crc & 0xffff) === view.getUint16(0x7c, true);
    if (!right) throw new Error(`inode ${number} is damaged (checksum); repair it with e2fsck`);
  }

  private contents(inode: Inode): Uint8Array {
    if (inode.flags & FLAG_INLINE_DATA) return this.inlineData(inode);
    const data = new Uint8Array(inode.size);
    this.mapRuns(inode, Math.ceil(inode.size / this.blockSize), (logical, physical, count) => {
      const start = logical * this.blockSize;
      this.readBlocks(physical, data.subarray(start, Math.min(start + count * this.blockSize, inode.size)));
    });
    return data;
  }

  /** Calls back for every run of written blocks below `end`, in order; what is not called for is a hole. */
  private mapRuns(inode: Inode, end: number, run: (logical: number, physical: number, count: number) => void): void {
    if (inode.flags & FLAG_EXTENTS) {
      this.mapExtents(inode, inode.raw.subarray(0x28, 0x28 + 60), -1, 0, TWO_32, end, run);
    } else {
      this.mapIndirect(inode, end, run);
    }
  }

  /**
   * struct ext4_extent_header and what follows. Each node must cover only its own part, in order, and something of it:
   * so a tree that lies cannot take more steps than the file has blocks.
   */
  private mapExtents(
    inode: Inode,
    node: Uint8Array,
    depth: number,
    from: number,
    to: number,
    end: number,
    run: (logical: number, physical: number, count: number) => void,
  ): void {
    const view = new DataView(node.buffer, node.byteOffset, node.length);
    const damaged = () => new Error(`inode ${inode.number} is damaged: impossible extent tree; repair it with e2fsck`);
    const count = view.getUint16(2, true);
    const max = view.getUint16(4, true);
    const here = view.getUint16(6, true);
    if (view.getUint16(0, true) !== EXTENT_MAGIC || count > max || 12 + 12 * max > node.length) throw damaged();
    if (depth === -1 ? here > MAX_EXTENT_DEPTH : here !== depth || count === 0) throw damaged();
    if (depth !== -1 && this.checksums) {
      // struct ext4_extent_tail
      const tail = 12 + 12 * max;
      if (tail + 4 > node.length || crc32c(inode.seed, node.subarray(0, tail)) !== view.getUint32(tail, true)) {
        throw new Error(
          `inode ${inode.number}: a block of its extent tree is damaged (checksum); repair it with e2fsck`,
        );
      }
    }
    for (let i = 0; i < count; i++) {
      const at = 12 + 12 * i;
      const logical = view.getUint32(at, true);
      if (logical < from || logical >= to) throw damaged();
      if (here === 0) {
        const length = view.getUint16(at + 4, true);
        const written = length <= MAX_WRITTEN_EXTENT;
        const blocks = written ? length : length - MAX_WRITTEN_EXTENT;
        if (blocks === 0) throw damaged();
        from = logical + blocks;
        if (logical >= end) return;
        const physical = view.getUint32(at + 8, true) + view.getUint16(at + 6, true) * TWO_32;
        if (written) run(logical, physical, Math.min(blocks, end - logical));
      } else {
        // struct ext4_extent_idx
        if (logical >= end) return;
        const next = i + 1 < count ? view.getUint32(at + 12, true) : to;
        if (next <= logical) throw damaged();
        const child = view.getUint32(at + 4, true) + view.getUint16(at + 8, true) * TWO_32;
        this.mapExtents(inode, this.block(child), here - 1, logical, next, end, run);
        from = next;
      }
    }
  }

  /** ext2's block map: 12 direct blocks, then one, two and three levels of indirect ones. */
  private mapIndirect(
    inode: Inode,
    end: number,
    run: (logical: number, physical: number, count: number) => void,
  ): void {
    let start = 0, first = 0, length = 0;
    const flush = () => {
      if (length > 0) run(start, first, length);
      length = 0;
    };
    const add = (logical: number, physical: number) => {
      if (physical === 0) return;
      if (length > 0 && logical === start + length && physical === first + length) {
        length++;
        return;
      }
      flush();
      start = logical;
      first = physical;
      length = 1;
    };
    const perBlock = this.blockSize / 4;
    const descend = (block: number, level: number, logical: number): void => {
      if (block === 0 || logical >= end) return;
      if (level === 0) return add(logical, block);
      const bytes = this.block(block);
      const view = new DataView(bytes.buffer);
      const span = perBlock ** (level - 1);
      for (let i = 0; i < perBlock && logical + i * span < end; i++) {
        descend(view.getUint32(4 * i, true), level - 1, logical + i * span);
      }
    };
    const table = 0x28;
    for (let i = 0; i < 12; i++) descend(inode.view.getUint32(table + 4 * i, true), 0, i);
    let logical = 12;
    for (let level = 1; level <= 3; level++) {
      descend(inode.view.getUint32(table + 4 * (11 + level), true), level, logical);
      logical += perBlock ** level;
    }
    flush();
  }

  /** i_block's 60 bytes, then the attribute `system.data` inside the inode. */
  private inlineData(inode: Inode): Uint8Array {
    const damaged = () =>
      new Error(`inode ${inode.number} is damaged: inline data does not fit; repair it with e2fsck`);
    if (inode.size > this.inodeSize) throw damaged();
    const data = new Uint8Array(inode.size);
    data.set(inode.raw.subarray(0x28, 0x28 + Math.min(60, inode.size)));
    if (inode.size <= 60) return data;
    const rest = this.inlineRest(inode);
    if (rest.length < inode.size - 60) throw damaged();
    data.set(rest.subarray(0, inode.size - 60), 60);
    return data;
  }

  private inlineRest(inode: Inode): Uint8Array {
    const nothing = new Uint8Array(0);
    if (this.inodeSize <= 128) return nothing;
    const { view, raw } = inode;
    // struct ext4_xattr_ibody_header, then struct ext4_xattr_entry's
    const start = 128 + view.getUint16(0x80, true);
    if (start + 4 > raw.length || view.getUint32(start, true) !== 0xea020000) return nothing;
    const first = start + 4;
    for (let at = first; at + 16 <= raw.length && view.getUint32(at, true) !== 0;) {
      const nameLength = raw[at];
      // EXT4_XATTR_INDEX_SYSTEM
      if (raw[at + 1] === 7 && new TextDecoder().decode(raw.subarray(at + 16, at + 16 + nameLength)) === "data") {
        const value = first + view.getUint16(at + 2, true);
        return raw.subarray(value, Math.min(value + view.getUint32(at + 8, true), raw.length));
      }
      at += (16 + nameLength + 3) & ~3;
    }
    return nothing;
  }

  private *entries(inode: Inode): Generator<DirectoryEntry> {
    if (inode.flags & FLAG_ENCRYPT) throw new Error(`directory ${inode.number} is encrypted`);
    if (inode.size > MAX_DIRECTORY) throw new Error(`directory ${inode.number} is ${inode.size} bytes long: damaged`);
    if (inode.flags & FLAG_INLINE_DATA) {
      // Four bytes of parent first: `.` and `..` are not stored.
      yield* this.records(inode, inode.raw.subarray(0x28 + 4, 0x28 + 60));
      yield* this.records(inode, this.inlineRest(inode));
      return;
    }
    const data = this.contents(inode);
    for (let at = 0; at < data.length; at += this.blockSize) {
      const block = data.subarray(at, at + this.blockSize);
      if (this.checksums && block.length === this.blockSize) this.checkDirectoryBlock(inode, block);
      // Nodes of a hashed directory look like blocks with one unused entry.
      yield* this.records(inode, block);
    }
  }

  /** struct ext4_dir_entry_2's. */
  private *records(inode: Inode, bytes: Uint8Array): Generator<DirectoryEntry> {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    for (let at = 0; at + 8 <= bytes.length;) {
      const length = this.recordLength(view, at);
      const nameLength = bytes[at + 6];
      if (length < 8 || (length & 3) !== 0 || at + length > bytes.length) {
        throw new Error(`directory ${inode.number} is damaged: impossible entry; repair it with e2fsck`);
      }
      const number = view.getUint32(at, true);
      if (number !== 0) {
        if (nameLength === 0 || 8 + nameLength > length) {
          throw new Error(`directory ${inode.number} is damaged: impossible name; repair it with e2fsck`);
        }
        yield { inode: number, name: bytes.subarray(at + 8, at + 8 + nameLength) };
      }
      at += length;
    }
  }

  /** 64 KiB does not fit 16 bits. */
  private recordLength(view: DataView, at: number): number {
    const length = view.getUint16(at + 4, true);
    return this.blockSize === 65536 && (length === 0xffff || length === 0) ? 65536 : length;
  }

  private checkDirectoryBlock(inode: Inode, block: Uint8Array): void {
    const view = new DataView(block.buffer, block.byteOffset, block.length);
    const size = this.blockSize;
    const damaged = () =>
      new Error(`a block of directory ${inode.number} is damaged (checksum); repair it with e2fsck`);
    // struct ext4_dir_entry_tail
    if (view.getUint32(size - 12, true) === 0 && view.getUint16(size - 8, true) === 12 && block[size - 5] === 0xde) {
      if (crc32c(inode.seed, block.subarray(0, size - 12)) !== view.getUint32(size - 4, true)) throw damaged();
      return;
    }
    if ((inode.flags & FLAG_INDEX) === 0) throw damaged();
    // struct dx_node or dx_root: limit and count, the entries, struct dx_tail behind the last possible one.
    const countAt = this.recordLength(view, 0) === size ? 8 : 32;
    const tail = countAt + 8 * view.getUint16(countAt, true);
    const used = countAt + 8 * view.getUint16(countAt + 2, true);
    if (tail + 8 > size || used > tail) throw damaged();
    let crc = crc32c(inode.seed, block.subarray(0, used));
    crc = crc32c(crc, block.subarray(tail, tail + 4));
    crc = crc32c(crc, new Uint8Array(4));
    if (crc !== view.getUint32(tail + 4, true)) throw damaged();
  }
}

/** Little-endian bytes of a number. */
function word(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, true);
  return bytes;
}
