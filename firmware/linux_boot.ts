/**
 * Starting Linux on x86 without firmware: kernel, initrd, command line and tables are put into guest memory, and
 * the first vCPU begins at the kernel's own entry point.
 *
 * There are three ways in. A bzImage's vmlinux is unpacked on the host and entered at `startup_64`, or a 32-bit kernel's
 * at `startup_32`, since a guest would take seconds for it under emulation; this runs the kernel at the address it was
 * linked for: KASLR happens in the bzImage's own decompressor, which does not run. Where hv cannot unpack it, the
 * bzImage's own entry is used. An ELF file that is not Linux but has a PVH note is entered as PVH says.
 */
import { releaseBuffer } from "../core/buffers.ts";
import { HvError } from "../core/errors.ts";
import type { GuestMemory } from "../core/memory.ts";
import {
  BootParams,
  E820_ENTRY_BYTES,
  E820_MAX_ENTRIES,
  SETUP_DATA_HEADER_BYTES,
  SETUP_RNG_SEED,
} from "./boot_params.ts";
import { type Compression, CompressionError } from "./decompress/mod.ts";
import { unpackInitrd } from "./decompress/initrd.ts";
import { E820_RAM, type E820Range, pcMemoryMap } from "./e820.ts";
import { type ElfSegment, EM_X86_64, readElf } from "./elf.ts";
import { enter, gdtEntries, resetState, setFirmwareMsrs } from "./entry_state.ts";
import { extractVmlinux, identifyKernel, type KernelImage, type SetupHeader } from "./kernel.ts";
import { readPe } from "./pe.ts";

/** A way into a kernel. */
export type BootWay = "vmlinux" | "bzImage" | "pvh";

/** What {@link prepareLinux} is given. */
export interface LinuxBoot {
  memory: GuestMemory;
  /** The kernel file as it is on a disk, in any form {@link identifyKernel} knows. */
  kernel: Uint8Array;
  /** The initrd as it is on a disk; of a unified kernel image its own is used when this is absent. */
  initrd?: Uint8Array;
  commandLine: string;
  /** Leaves the initrd packed as it is: the guest unpacks it. Otherwise that is done here, where there is room for it. */
  initrdStaysPacked?: boolean;
  /** Guest address of the ACPI RSDP; 0 when there is none. */
  rsdpAddress: number;
  /** What must not be used as RAM, besides a PC's usual areas below 1 MiB. Tables must stand in memory by themselves. */
  e820Reserved?: readonly E820Range[];
  /** Bytes that seed the guest's random numbers, at most 512; absent: 32 of the host's. */
  randomSeed?: Uint8Array;
  /** A vCPU's state at reset, changed in place; absent: a new one as the architecture defines it. */
  state?: ArrayBuffer;
  /** Insists on one way instead of the best. */
  way?: BootWay;
}

/** What {@link prepareLinux} did. */
export interface PreparedLinux {
  /** State of the first vCPU, laid out as `core/x64_state.ts` says. */
  state: ArrayBuffer;
  way: BootWay;
  /** One sentence for a person: which way was taken, and why. */
  how: string;
  kernel: KernelImage;
  entry: number;
  /** Where the initrd stands; null without one. */
  initrd: { address: number; size: number; formats: Compression[]; problems: string[] } | null;
  commandLine: string;
  e820: E820Range[];
}

// Where things stand below EBDA_START. The kernel copies all of it before it uses that memory, or reserves it.
const GDT = 0x1000;
const START_INFO = 0x2000;
const RNG_SEED = 0x4000;
const BOOT_PARAMS = 0x7000;
const STACK_TOP = 0x8ff0;
const PAGE_TABLES = 0x9000;
const COMMAND_LINE = 0x20000;
const COMMAND_LINE_ROOM = 0x10000;
const LOW_END = COMMAND_LINE + COMMAND_LINE_ROOM;

const PAGE = 4096;
const MIB = 2 ** 20;
/** COMMAND_LINE_SIZE of x86 less the zero, for a kernel without a setup header. */
const VMLINUX_COMMAND_LINE = 2047;
/** initrd_addr_max of every 64-bit kernel. */
const VMLINUX_INITRD_MAX = 0x7fffffff;
/** The newest boot protocol whose fields are filled in: 2.15. */
const PROTOCOL = 0x020f;
const MAX_SEED = 512;
/** What a guest should have besides its kernel and its unpacked initrd. */
const WORKING_ROOM = 64 * MIB;

/** include/public/arch-x86/hvm/start_info.h of Xen. */
const XEN_HVM_START_MAGIC = 0x336ec578;

interface Loadable {
  way: BootWay;
  /** Entered in 64-bit mode. */
  wide: boolean;
  how: string;
  entry: number;
  segments: ElfSegment[];
  /** What the segments lie in, when it was unpacked here. */
  unpacked?: Uint8Array;
  /** All memory the kernel wants for itself before it reads the memory map. */
  start: number;
  end: number;
}

/** Puts everything a Linux kernel needs into guest memory and says how its first vCPU starts. */
export function prepareLinux(boot: LinuxBoot): PreparedLinux {
  const { memory } = boot;
  const kernel = identifyKernel(boot.kernel);
  if (kernel.problem !== null) throw new HvError(kernel.problem);
  if (memory.lowSize < MIB) throw new HvError("Linux needs --memory at least 64M");
  const loadable = chooseWay(kernel, boot.way);
  const map = pcMemoryMap(memory, boot.e820Reserved ?? []);
  if (map.length > E820_MAX_ENTRIES) throw new HvError("the memory map has too many ranges");

  const line = new TextEncoder().encode(boot.commandLine);
  const most = Math.min(kernel.setup?.commandLineSize ?? VMLINUX_COMMAND_LINE, COMMAND_LINE_ROOM - 1);
  if (line.length > most) {
    throw new HvError(`the command line has ${line.length} bytes, this kernel takes at most ${most}`);
  }
  if (line.includes(0)) throw new HvError("the command line has a zero byte in it");

  if (loadable.end > memory.lowSize || loadable.start < LOW_END) {
    const needed = toMib(loadable.end + WORKING_ROOM);
    throw new HvError(
      loadable.start < LOW_END
        ? `the kernel wants to be at 0x${loadable.start.toString(16)}, where hv puts its tables`
        : `the kernel does not fit into memory: it needs --memory at least ${needed}`,
    );
  }
  for (const range of [{ start: 0, size: LOW_END }, { start: loadable.start, size: loadable.end - loadable.start }]) {
    const taken = (boot.e820Reserved ?? []).find((one) =>
      one.size > 0 && one.start < range.start + range.size && range.start < one.start + one.size
    );
    if (taken) throw new HvError(`the kernel's memory overlaps what is reserved at 0x${taken.start.toString(16)}`);
  }
  const initrd = placeInitrd(boot, kernel, loadable, map);

  for (const { physical, data, size } of loadable.segments) {
    const target = memory.slice(physical, size);
    target.set(data);
    target.fill(0, data.length);
  }
  if (initrd !== null) memory.write(initrd.address, initrd.data);
  memory.slice(COMMAND_LINE, line.length + 1).fill(0);
  memory.write(COMMAND_LINE, line);
  const { wide } = loadable;
  const linux = loadable.way !== "pvh";
  memory.write(GDT, new Uint8Array(gdtEntries(wide).buffer));
  if (wide) writeIdentityMap(memory);
  if (linux) {
    const seed = boot.randomSeed ?? crypto.getRandomValues(new Uint8Array(32));
    writeBootParams(memory, kernel.setup, initrd, boot.rsdpAddress, map, seed.subarray(0, MAX_SEED));
  } else {
    writeStartInfo(memory, initrd, boot.rsdpAddress, map);
  }
  const state = boot.state ?? resetState();
  setFirmwareMsrs(state);
  enter(state, {
    wide,
    linux,
    instruction: loadable.entry,
    information: linux ? BOOT_PARAMS : START_INFO,
    stack: STACK_TOP,
    gdt: GDT,
    pageTables: PAGE_TABLES,
  });
  const prepared: PreparedLinux = {
    state,
    way: loadable.way,
    how: loadable.how,
    kernel,
    entry: loadable.entry,
    initrd: initrd === null
      ? null
      : { address: initrd.address, size: initrd.data.length, formats: initrd.formats, problems: initrd.problems },
    commandLine: boot.commandLine,
    e820: map,
  };
  for (const copy of [loadable.unpacked, initrd?.data]) {
    if (copy && copy.buffer !== boot.kernel.buffer && copy.buffer !== boot.initrd?.buffer) releaseBuffer(copy.buffer);
  }
  return prepared;
}

function toMib(bytes: number): string {
  return `${Math.ceil(bytes / MIB)}M`;
}

function chooseWay(kernel: KernelImage, wanted: BootWay | undefined): Loadable {
  const { setup } = kernel;
  if (setup === null) return elfWay(kernel.bytes, "the ELF kernel", null, wanted ?? null, kernel.version !== null);
  if (wanted === "bzImage") return bzImageWay(kernel.bytes, setup, "as asked");
  try {
    const vmlinux = extractVmlinux(kernel.bytes, setup);
    const way = elfWay(
      vmlinux,
      `vmlinux, unpacked from the bzImage (${kernel.compression})`,
      setup,
      wanted ?? null,
      true,
    );
    return { ...way, unpacked: vmlinux };
  } catch (error) {
    if (!(error instanceof CompressionError)) throw error;
    if (wanted !== undefined) throw new HvError(`the bzImage could not be unpacked: ${error.message}`);
    // Damage would only come out in the guest, as a dead machine without a word.
    if (/cut short|damaged|checksum/.test(error.message)) {
      throw new HvError(`the kernel is damaged: ${error.message}`);
    }
    return bzImageWay(kernel.bytes, setup, `hv could not unpack it: ${error.message}`);
  }
}

function elfWay(
  bytes: Uint8Array,
  what: string,
  setup: SetupHeader | null,
  wanted: BootWay | null,
  linux: boolean,
): Loadable {
  let elf;
  try {
    elf = readElf(bytes);
  } catch (error) {
    throw new HvError(`the kernel is damaged: ${(error as Error).message}`);
  }
  const start = Math.min(...elf.segments.map((one) => one.physical));
  let end = Math.max(...elf.segments.map((one) => one.physical + one.size));
  if (!Number.isSafeInteger(end)) throw new HvError("the kernel is damaged: a segment has an impossible address");
  if (setup !== null) end = Math.max(end, setup.prefAddress + setup.initSize);
  if (wanted === "bzImage") throw new HvError("an ELF kernel has no bzImage entry point");
  if (wanted === "pvh" && elf.pvhEntry === null) throw new HvError("the kernel has no PVH entry point");
  const pvh = wanted === "pvh" || (wanted === null && !linux && elf.pvhEntry !== null);
  const entry = pvh ? elf.pvhEntry! : elf.entry;
  if (!elf.segments.some((one) => entry >= one.physical && entry < one.physical + one.size)) {
    throw new HvError("the kernel is damaged: its entry point lies outside it");
  }
  const at = `0x${entry.toString(16)}`;
  const wide = !pvh && elf.machine === EM_X86_64;
  return {
    way: pvh ? "pvh" : "vmlinux",
    wide,
    how: pvh
      ? `${what}, entered at ${at} as PVH in 32-bit mode`
      : `${what}, entered at ${at} (startup_${wide ? 64 : 32})`,
    entry,
    segments: elf.segments,
    start,
    end,
  };
}

function bzImageWay(bytes: Uint8Array, setup: SetupHeader, why: string): Loadable {
  const data = bytes.subarray(setup.codeOffset);
  const start = setup.prefAddress;
  const wide = setup.entry64;
  return {
    way: "bzImage",
    wide,
    how: `bzImage by its ${wide ? 64 : 32}-bit entry point, unpacking itself in the guest (${why})`,
    // boot.rst: the 32-bit entry point is where the code begins, the 64-bit one 0x200 behind.
    entry: start + (wide ? 0x200 : 0),
    segments: [{ physical: start, data, size: data.length }],
    start,
    end: start + Math.max(setup.initSize, data.length),
  };
}

interface PlacedInitrd {
  address: number;
  data: Uint8Array;
  formats: Compression[];
  problems: string[];
}

function placeInitrd(
  boot: LinuxBoot,
  kernel: KernelImage,
  loadable: Loadable,
  map: readonly E820Range[],
): PlacedInitrd | null {
  const given = boot.initrd ?? (kernel.format === "unified kernel image" ? unifiedInitrd(boot.kernel) : undefined);
  if (given === undefined || given.length === 0) return null;
  // Plain cpio spares the guest the unpacking but takes its room twice until the guest has read it.
  const room = boot.memory.lowSize - loadable.end - WORKING_ROOM;
  const limit = Math.min(Math.floor(room / 2), kernel.setup?.initrdAddressMax ?? VMLINUX_INITRD_MAX);
  let { data, formats, problems } = limit > given.length && !boot.initrdStaysPacked
    ? unpackInitrd(given, limit)
    : { data: given, formats: [] as Compression[], problems: [] as string[] };
  let address = highestGap(data.length, kernel, loadable, map);
  if (address < 0 && data !== given) {
    data = given;
    formats = [];
    problems = [];
    address = highestGap(data.length, kernel, loadable, map);
  }
  if (address < 0) {
    const reserved = (boot.e820Reserved ?? []).filter((one) => one.start < boot.memory.lowSize);
    const needed = loadable.end + given.length + reserved.reduce((sum, one) => sum + one.size + PAGE, 0) + WORKING_ROOM;
    const most = kernel.setup?.initrdAddressMax ?? VMLINUX_INITRD_MAX;
    throw new HvError(
      needed > most
        ? `the initrd (${toMib(given.length)}) is too big for this kernel`
        : `the initrd (${toMib(given.length)}) does not fit: the guest needs --memory at least ${toMib(needed)}`,
    );
  }
  return { address, data, formats, problems };
}

/** The highest page-aligned place for `size` bytes in RAM below the kernel's limit and clear of the kernel; -1: none. */
function highestGap(size: number, kernel: KernelImage, loadable: Loadable, map: readonly E820Range[]): number {
  const top = (kernel.setup?.initrdAddressMax ?? VMLINUX_INITRD_MAX) + 1;
  for (const range of map.toReversed()) {
    if (range.type !== E820_RAM || range.start < MIB) continue;
    const end = Math.min(range.start + range.size, top);
    const from = Math.max(range.start, range.start < loadable.end ? loadable.end : range.start);
    const address = Math.floor((end - size) / PAGE) * PAGE;
    if (address >= from) return address;
  }
  return -1;
}

function unifiedInitrd(bytes: Uint8Array): Uint8Array | undefined {
  return readPe(bytes)?.sections.get(".initrd");
}

/** Identity-maps the first 4 GiB with pages of 2 MiB: PML4, PDPT, four page directories (SDM vol. 3, 4.5). */
function writeIdentityMap(memory: GuestMemory): void {
  const tables = memory.slice(PAGE_TABLES, 6 * PAGE);
  tables.fill(0);
  const view = new DataView(tables.buffer, tables.byteOffset, tables.length);
  const presentWritable = 3;
  view.setUint32(0, PAGE_TABLES + PAGE | presentWritable, true);
  for (let i = 0; i < 4; i++) view.setUint32(PAGE + i * 8, PAGE_TABLES + (2 + i) * PAGE | presentWritable, true);
  const largePage = 0x80;
  for (let i = 0; i < 4 * 512; i++) {
    view.setUint32(2 * PAGE + i * 8, (i * 2 * MIB + (presentWritable | largePage)) >>> 0, true);
  }
}

function writeBootParams(
  memory: GuestMemory,
  setup: SetupHeader | null,
  initrd: PlacedInitrd | null,
  rsdpAddress: number,
  map: readonly E820Range[],
  seed: Uint8Array,
): void {
  const page = memory.slice(BOOT_PARAMS, BootParams.BYTES);
  page.fill(0);
  const view = new DataView(page.buffer, page.byteOffset, page.length);
  if (setup !== null) {
    page.set(setup.bytes, BootParams.HDR);
  } else {
    view.setUint16(BootParams.BOOT_FLAG, 0xaa55, true);
    view.setUint32(BootParams.HEADER, 0x53726448, true); // "HdrS"
    view.setUint16(BootParams.VERSION, PROTOCOL, true);
    view.setUint32(BootParams.KERNEL_ALIGNMENT, 2 * MIB, true);
    view.setUint32(BootParams.CMDLINE_SIZE, VMLINUX_COMMAND_LINE, true);
    view.setUint8(BootParams.LOADFLAGS, 1); // LOADED_HIGH
  }
  view.setUint8(BootParams.TYPE_OF_LOADER, 0xff); // no identifier assigned
  view.setUint16(BootParams.VID_MODE, 0xffff, true); // "normal"
  view.setUint32(BootParams.CMD_LINE_PTR, COMMAND_LINE, true);
  if (initrd !== null) {
    view.setUint32(BootParams.RAMDISK_IMAGE, initrd.address, true);
    view.setUint32(BootParams.RAMDISK_SIZE, initrd.data.length, true);
  }
  view.setBigUint64(BootParams.ACPI_RSDP_ADDR, BigInt(rsdpAddress), true);
  view.setUint8(BootParams.E820_ENTRIES, map.length);
  map.forEach((range, i) => {
    const at = BootParams.E820_TABLE + i * E820_ENTRY_BYTES;
    view.setBigUint64(at, BigInt(range.start), true);
    view.setBigUint64(at + 8, BigInt(range.size), true);
    view.setUint32(at + 16, range.type, true);
  });
  // setup_data came with protocol 2.09.
  if (seed.length > 0 && view.getUint16(BootParams.VERSION, true) >= 0x209) {
    const node = memory.slice(RNG_SEED, SETUP_DATA_HEADER_BYTES + seed.length);
    const header = new DataView(node.buffer, node.byteOffset, SETUP_DATA_HEADER_BYTES);
    header.setBigUint64(0, 0n, true);
    header.setUint32(8, SETUP_RNG_SEED, true);
    header.setUint32(12, seed.length, true);
    node.set(seed, SETUP_DATA_HEADER_BYTES);
    view.setBigUint64(BootParams.SETUP_DATA, BigInt(RNG_SEED), true);
  }
}

/** struct hvm_start_info version 1 with one module and the memory map behind it (Xen's start_info.h). */
function writeStartInfo(
  memory: GuestMemory,
  initrd: PlacedInitrd | null,
  rsdpAddress: number,
  map: readonly E820Range[],
): void {
  const MODULES = 64, MAP = 128;
  const block = memory.slice(START_INFO, MAP + map.length * 24);
  block.fill(0);
  const view = new DataView(block.buffer, block.byteOffset, block.length);
  view.setUint32(0, XEN_HVM_START_MAGIC, true);
  view.setUint32(4, 1, true); // version
  view.setUint32(12, initrd === null ? 0 : 1, true); // nr_modules
  view.setBigUint64(16, initrd === null ? 0n : BigInt(START_INFO + MODULES), true);
  view.setBigUint64(24, BigInt(COMMAND_LINE), true);
  view.setBigUint64(32, BigInt(rsdpAddress), true);
  view.setBigUint64(40, BigInt(START_INFO + MAP), true);
  view.setUint32(48, map.length, true); // memmap_entries
  if (initrd !== null) {
    view.setBigUint64(MODULES, BigInt(initrd.address), true);
    view.setBigUint64(MODULES + 8, BigInt(initrd.data.length), true);
  }
  map.forEach((range, i) => {
    view.setBigUint64(MAP + i * 24, BigInt(range.start), true);
    view.setBigUint64(MAP + i * 24 + 8, BigInt(range.size), true);
    view.setUint32(MAP + i * 24 + 16, range.type, true);
  });
}
