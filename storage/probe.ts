/** What a run of bytes holds: the file systems that can be read here, and the names of others. */
import type { ByteSource } from "./byte_source.ts";
import { ExtFileSystem, isExt } from "./ext.ts";
import { FatFileSystem, isFat } from "./fat.ts";
import type { FileSystem } from "./file_system.ts";
import { hex, label, uuid } from "./identifiers.ts";
import { isIso9660, Iso9660FileSystem } from "./iso9660.ts";

/** What blkid(8) would say. */
export interface Identity {
  /** As blkid's TYPE: `ext4`, `vfat`, `crypto_LUKS`, `LVM2_member` ... */
  type: string;
  uuid: string | null;
  label: string | null;
  /** What it is, for a sentence: `an XFS file system`. */
  description: string;
}

/** A file system that can be read. `is` costs one small read; what it lets through may still be damaged. */
const READABLE: readonly { is(source: ByteSource): boolean; open(source: ByteSource): FileSystem }[] = [
  { is: isIso9660, open: (source) => new Iso9660FileSystem(source) },
  { is: isExt, open: (source) => new ExtFileSystem(source) },
  { is: isFat, open: (source) => new FatFileSystem(source) },
];

/** Known by their magic number only. Offsets are from each one's own documentation, and equal blkid's. */
const RECOGNISED: readonly {
  offset: number;
  magic: string;
  description: string;
  identify(head: Uint8Array): { type: string; uuid: string | null; label: string | null };
}[] = [
  {
    offset: 0,
    magic: "LUKS\xba\xbe",
    description: "a LUKS encrypted volume",
    identify: (head) => ({
      type: "crypto_LUKS",
      uuid: label(head.subarray(168, 208)),
      label: head[7] === 2 ? label(head.subarray(24, 72)) : null,
    }),
  },
  {
    offset: 0,
    magic: "XFSB",
    description: "an XFS file system",
    identify: (head) => ({ type: "xfs", uuid: uuid(head.subarray(32, 48)), label: label(head.subarray(108, 120)) }),
  },
  {
    offset: 0x10040,
    magic: "_BHRfS_M",
    description: "a Btrfs file system",
    identify: (head) => ({
      type: "btrfs",
      uuid: uuid(head.subarray(0x10020, 0x10030)),
      label: label(head.subarray(0x1012b, 0x1022b)),
    }),
  },
  {
    offset: 0,
    magic: "hsqs",
    description: "a SquashFS file system",
    identify: () => ({ type: "squashfs", uuid: null, label: null }),
  },
  {
    offset: 1024,
    magic: "\xe2\xe1\xf5\xe0",
    description: "an EROFS file system",
    identify: (head) => ({
      type: "erofs",
      uuid: uuid(head.subarray(1072, 1088)),
      label: label(head.subarray(1088, 1104)),
    }),
  },
  {
    offset: 1024,
    magic: "\x10\x20\xf5\xf2",
    description: "an F2FS file system",
    identify: (head) => ({ type: "f2fs", uuid: uuid(head.subarray(1024 + 0x6c, 1024 + 0x7c)), label: null }),
  },
  {
    offset: 3,
    magic: "NTFS    ",
    description: "an NTFS file system",
    identify: (head) => ({
      type: "ntfs",
      uuid: hex(head.slice(0x48, 0x50).reverse()).toUpperCase(),
      label: null,
    }),
  },
  {
    offset: 3,
    magic: "EXFAT   ",
    description: "an exFAT file system",
    identify: (head) => {
      const digits = hex(head.slice(100, 104).reverse()).toUpperCase();
      return { type: "exfat", uuid: `${digits.slice(0, 4)}-${digits.slice(4)}`, label: null };
    },
  },
  ...[4096, 8192, 16384, 65536].flatMap((page) =>
    ["SWAPSPACE2", "SWAP-SPACE"].map((magic) => ({
      offset: page - 10,
      magic,
      description: "swap space",
      identify: (head: Uint8Array) => ({
        type: "swap",
        uuid: magic === "SWAPSPACE2" ? uuid(head.subarray(1036, 1052)) : null,
        label: magic === "SWAPSPACE2" ? label(head.subarray(1052, 1068)) : null,
      }),
    }))
  ),
  ...[0, 512, 1024, 1536].map((sector) => ({
    offset: sector,
    magic: "LABELONE",
    description: "an LVM physical volume",
    identify: (head: Uint8Array) => {
      const id = new TextDecoder("latin1").decode(head.subarray(sector + 32, sector + 64));
      const parts = /^(.{6})(.{4})(.{4})(.{4})(.{4})(.{4})(.{6})$/s.exec(id);
      return { type: "LVM2_member", uuid: parts === null ? null : parts.slice(1).join("-"), label: null };
    },
  })),
];

/** The readable file system in these bytes; null when there is none. Throws an Error in words when one is damaged. */
export function probeFileSystem(source: ByteSource): FileSystem | null {
  return READABLE.find((system) => system.is(source))?.open(source) ?? null;
}

/** Says what these bytes hold, readable here or not; null when nothing is recognised. Throws as {@link probeFileSystem}. */
export function identify(source: ByteSource): Identity | null {
  const head = new Uint8Array(Math.min(0x10400, source.size));
  source.read(0, head);
  for (const known of RECOGNISED) {
    if (known.offset + known.magic.length > head.length) continue;
    let i = 0;
    while (i < known.magic.length && head[known.offset + i] === known.magic.charCodeAt(i)) i++;
    if (i === known.magic.length) return { ...known.identify(head), description: known.description };
  }
  const system = probeFileSystem(source);
  if (system === null) return null;
  return {
    type: system.type,
    uuid: system.uuid,
    label: system.label,
    description: `${/^[aeiou]/.test(system.type) ? "an" : "a"} ${system.type} file system`,
  };
}
