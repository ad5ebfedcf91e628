/** SMBIOS 3 tables (DMTF DSP0134 3.4): what a guest shows as its maker, model, processors and memory. */

import { Fields } from "./fields.ts";

/** What SMBIOS tells of a machine. */
export interface SmbiosInfo {
  /** hv's version, as the firmware's and the machine's. */
  version: string;
  cpus: number;
  /** Bytes of RAM from guest address 0 on. */
  lowMemory: number;
  /** Bytes of RAM from 4 GiB on. */
  highMemory: number;
  /** The machine's UUID, 16 bytes in the order they are written; all zeros say that it has none. */
  uuid: Uint8Array;
}

/** What {@link buildSmbios} made. */
export interface SmbiosTables {
  /** Belongs at the base address the tables were built for. */
  bytes: Uint8Array<ArrayBuffer>;
  /** Guest physical address of the entry point: the base address. */
  entryAddress: number;
}

const MANUFACTURER = "hv";
const PRODUCT = "Virtual PC";
const RELEASE_DATE = "01/01/2026";

const ENTRY_POINT_LENGTH = 24;
const TABLES_OFFSET = 32;

const Handle = {
  BIOS: 0x0000,
  SYSTEM: 0x0100,
  CHASSIS: 0x0300,
  PROCESSOR: 0x0400,
  MEMORY_ARRAY: 0x1000,
  MEMORY_DEVICE: 0x1100,
  MEMORY_MAP: 0x1300,
  BOOT: 0x2000,
  END: 0x7f00,
} as const;

/** A structure being written: a formatted area with fields at the specification's offsets, then its strings. */
class Structure extends Fields {
  private readonly strings: string[] = [];

  constructor(type: number, length: number, handle: number) {
    super(length);
    this.u8(0, type).u8(1, length).u16(2, handle);
  }

  raw(offset: number, value: Uint8Array): this {
    this.bytes.set(value, offset);
    return this;
  }

  /** A string's number goes into the field, its text behind the formatted area (6.1.3). */
  string(offset: number, value: string): this {
    let index = this.strings.indexOf(value);
    if (index < 0) index = this.strings.push(value) - 1;
    return this.u8(offset, index + 1);
  }

  build(): Uint8Array {
    const text = this.strings.map((value) => value + "\0").join("") || "\0";
    const tail = new TextEncoder().encode(text + "\0");
    const result = new Uint8Array(this.bytes.length + tail.length);
    result.set(this.bytes);
    result.set(tail, this.bytes.length);
    return result;
  }
}

/**
 * Builds the entry point and the structures behind it.
 * @param baseAddress guest physical address they will lie at: 16-aligned and between F0000h and FFFFFh, where a guest
 * without UEFI looks for it (5.2.2)
 */
export function buildSmbios(info: SmbiosInfo, baseAddress: number): SmbiosTables {
  if (baseAddress % 16 !== 0) throw new RangeError("the SMBIOS entry point begins at a multiple of 16");
  const structures = [
    bios(info),
    system(info),
    chassis(),
    processor(info),
    memoryArray(info),
    memoryDevice(info),
    ...memoryMaps(info),
    new Structure(32, 11, Handle.BOOT),
    new Structure(127, 4, Handle.END),
  ].map((structure) => structure.build());
  const length = structures.reduce((total, structure) => total + structure.length, 0);

  const bytes = new Uint8Array(TABLES_OFFSET + length);
  const view = new DataView(bytes.buffer);
  // 64-bit entry point (5.2.2), version 3.4.
  bytes.set(new TextEncoder().encode("_SM3_"));
  bytes.set([ENTRY_POINT_LENGTH, 3, 4, 0, 1], 6);
  view.setUint32(12, length, true);
  view.setBigUint64(16, BigInt(baseAddress + TABLES_OFFSET), true);
  bytes[5] = -bytes.subarray(0, ENTRY_POINT_LENGTH).reduce((sum, byte) => sum + byte, 0) & 0xff;
  let at = TABLES_OFFSET;
  for (const structure of structures) {
    bytes.set(structure, at);
    at += structure.length;
  }
  return { bytes, entryAddress: baseAddress };
}

/** BIOS information (7.1). */
function bios({ version }: SmbiosInfo): Structure {
  const [major, minor] = version.split(".").map((part) => parseInt(part, 10) & 0xff);
  const CHARACTERISTICS_NOT_SUPPORTED = 1 << 3;
  const ACPI = 1 << 0;
  const VIRTUAL_MACHINE = 1 << 4;
  return new Structure(0, 26, Handle.BIOS).string(4, MANUFACTURER).string(5, version).u16(6, 0xe000)
    .string(8, RELEASE_DATE).u8(9, 0).u64(10, CHARACTERISTICS_NOT_SUPPORTED).u8(18, ACPI).u8(19, VIRTUAL_MACHINE)
    .u8(20, major).u8(21, minor).u8(22, 0xff).u8(23, 0xff).u16(24, 0);
}

/** System information (7.2). */
function system({ version, uuid }: SmbiosInfo): Structure {
  // 7.2.1: the first three fields are little-endian.
  const stored = Uint8Array.from(uuid);
  stored.subarray(0, 4).reverse();
  stored.subarray(4, 6).reverse();
  stored.subarray(6, 8).reverse();
  const WAKE_UP_POWER_SWITCH = 6;
  return new Structure(1, 27, Handle.SYSTEM).string(4, MANUFACTURER).string(5, PRODUCT).string(6, version)
    .raw(8, stored).u8(24, WAKE_UP_POWER_SWITCH);
}

/** System enclosure (7.4): of kind other, all states safe. */
function chassis(): Structure {
  const OTHER = 1;
  const SAFE = 3;
  const SECURITY_NONE = 3;
  return new Structure(3, 22, Handle.CHASSIS).string(4, MANUFACTURER).u8(5, OTHER).u8(9, SAFE).u8(10, SAFE)
    .u8(11, SAFE).u8(12, SECURITY_NONE);
}

/** Processor information (7.5): all vCPUs sit in one package, one thread a core. */
function processor({ cpus }: SmbiosInfo): Structure {
  const CENTRAL_PROCESSOR = 3;
  const FAMILY_OTHER = 1;
  const ENABLED_IN_SOCKET = 0x41;
  const UPGRADE_OTHER = 1;
  const NO_CACHE_INFORMATION = 0xffff;
  const SIXTY_FOUR_BIT = 1 << 2;
  const counted = cpus < 255 ? cpus : 255;
  return new Structure(4, 48, Handle.PROCESSOR).string(4, "CPU 0").u8(5, CENTRAL_PROCESSOR).u8(6, FAMILY_OTHER)
    .string(7, MANUFACTURER).u8(24, ENABLED_IN_SOCKET).u8(25, UPGRADE_OTHER)
    .u16(26, NO_CACHE_INFORMATION).u16(28, NO_CACHE_INFORMATION).u16(30, NO_CACHE_INFORMATION)
    .u8(35, counted).u8(36, counted).u8(37, counted).u16(38, cpus > 1 ? SIXTY_FOUR_BIT | 1 << 3 : SIXTY_FOUR_BIT)
    .u16(40, FAMILY_OTHER).u16(42, cpus).u16(44, cpus).u16(46, cpus);
}

/** Physical memory array (7.17): one device, without error correction. */
function memoryArray({ lowMemory, highMemory }: SmbiosInfo): Structure {
  const LOCATION_OTHER = 1;
  const SYSTEM_MEMORY = 3;
  const NO_ERROR_CORRECTION = 3;
  const EXTENDED_CAPACITY = 0x8000_0000;
  return new Structure(16, 23, Handle.MEMORY_ARRAY).u8(4, LOCATION_OTHER).u8(5, SYSTEM_MEMORY).u8(
    6,
    NO_ERROR_CORRECTION,
  )
    .u32(7, EXTENDED_CAPACITY).u16(11, 0xfffe).u16(13, 1).u64(15, lowMemory + highMemory);
}

/** Memory device (7.18): all of RAM as one module. */
function memoryDevice({ lowMemory, highMemory }: SmbiosInfo): Structure {
  const NO_ERROR_INFORMATION = 0xfffe;
  const UNKNOWN_WIDTH = 0xffff;
  const FORM_DIMM = 9;
  const TYPE_RAM = 7;
  const DETAIL_OTHER = 1 << 1;
  const EXTENDED_SIZE = 0x7fff;
  // Sizes in MiB from 32767 on take the extended field.
  const mebibytes = Math.ceil((lowMemory + highMemory) / 2 ** 20);
  const small = mebibytes < EXTENDED_SIZE;
  return new Structure(17, 40, Handle.MEMORY_DEVICE).u16(4, Handle.MEMORY_ARRAY).u16(6, NO_ERROR_INFORMATION)
    .u16(8, UNKNOWN_WIDTH).u16(10, UNKNOWN_WIDTH).u16(12, small ? mebibytes : EXTENDED_SIZE).u8(14, FORM_DIMM)
    .string(16, "DIMM 0").u8(18, TYPE_RAM).u16(19, DETAIL_OTHER).string(23, MANUFACTURER)
    .u32(28, small ? 0 : mebibytes);
}

/** Memory array mapped addresses (7.20): RAM from 0 on, and RAM from 4 GiB on. */
function memoryMaps({ lowMemory, highMemory }: SmbiosInfo): Structure[] {
  const ranges = [{ start: 0, size: lowMemory }, { start: 2 ** 32, size: highMemory }].filter(({ size }) => size > 0);
  return ranges.map(({ start, size }, index) =>
    // The extended fields hold bytes; the older ones hold KiB, or all ones.
    new Structure(19, 31, Handle.MEMORY_MAP + index).u32(4, 0xffff_ffff).u32(8, 0xffff_ffff)
      .u16(12, Handle.MEMORY_ARRAY).u8(14, 1).u64(15, start).u64(23, start + size - 1)
  );
}
