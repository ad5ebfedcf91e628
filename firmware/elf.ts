/** ELF executables as kernels come in (System V gABI, chapters 4 and 5). */

/** A piece to load. */
export interface ElfSegment {
  /** Guest physical address. */
  physical: number;
  /** What the file holds of it. */
  data: Uint8Array;
  /** Bytes in memory; those behind `data` are zero. */
  size: number;
}

/** What is needed to load and enter an ELF kernel. */
export interface ElfImage {
  /** e_machine: 3 i386, 62 x86-64, 183 arm64. */
  machine: number;
  entry: number;
  segments: ElfSegment[];
  /** 32-bit physical entry point of the Xen note XEN_ELFNOTE_PHYS32_ENTRY (PVH), or null. */
  pvhEntry: number | null;
}

/** e_machine of i386, x86-64 and arm64. */
export const EM_386 = 3;
export const EM_X86_64 = 62;
export const EM_AARCH64 = 183;

const PT_LOAD = 1;
const PT_NOTE = 4;
/** Xen's public/elfnote.h. */
const XEN_ELFNOTE_PHYS32_ENTRY = 18;
const MAX_PROGRAM_HEADERS = 256;
/** Fields of a program header. */
const PHDR64 = { OFFSET: 8, PADDR: 24, FILESZ: 32, MEMSZ: 40, BYTES: 56 } as const;
const PHDR32 = { OFFSET: 4, PADDR: 12, FILESZ: 16, MEMSZ: 20, BYTES: 32 } as const;

/** Whether the bytes begin an ELF file. */
export function isElf(bytes: Uint8Array): boolean {
  return bytes.length >= 20 && bytes[0] === 0x7f && bytes[1] === 0x45 && bytes[2] === 0x4c && bytes[3] === 0x46;
}

/** Reads the program headers. Throws an Error in words when the file is damaged or of another kind. */
export function readElf(bytes: Uint8Array): ElfImage {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (!isElf(bytes) || bytes.length < 64) throw new Error("the ELF file is cut short");
  const machine = view.getUint16(18, bytes[5] !== 2);
  if (bytes[5] !== 1) throw new Error("a big-endian ELF file");
  const wide = bytes[4] === 2;
  // Elf64_Addr and Elf32_Addr.
  const word = (at: number) => wide ? Number(view.getBigUint64(at, true)) : view.getUint32(at, true);
  const table = word(wide ? 32 : 28);
  const step = view.getUint16(wide ? 54 : 42, true);
  const count = view.getUint16(wide ? 56 : 44, true);
  const field = wide ? PHDR64 : PHDR32;
  if (step < field.BYTES || count > MAX_PROGRAM_HEADERS || table + step * count > bytes.length) {
    throw new Error("the ELF file is damaged or cut short: its program headers lie outside it");
  }
  const segments: ElfSegment[] = [];
  let pvhEntry: number | null = null;
  for (let i = 0; i < count; i++) {
    const at = table + i * step;
    const type = view.getUint32(at, true);
    if (type !== PT_LOAD && type !== PT_NOTE) continue;
    const offset = word(at + field.OFFSET), physical = word(at + field.PADDR);
    const fileSize = word(at + field.FILESZ), size = word(at + field.MEMSZ);
    if (offset + fileSize > bytes.length || (type === PT_LOAD && size < fileSize)) {
      throw new Error("the ELF file is damaged or cut short: a segment lies outside it");
    }
    const data = bytes.subarray(offset, offset + fileSize);
    if (type === PT_NOTE) pvhEntry ??= findPvhEntry(data);
    else if (size > 0) segments.push({ physical, data, size });
  }
  return { machine, entry: word(24), segments, pvhEntry };
}

function findPvhEntry(notes: Uint8Array): number | null {
  const view = new DataView(notes.buffer, notes.byteOffset, notes.length);
  let at = 0;
  while (at + 12 <= notes.length) {
    const nameSize = view.getUint32(at, true);
    const size = view.getUint32(at + 4, true);
    const name = at + 12;
    const data = name + Math.ceil(nameSize / 4) * 4;
    if (data + size > notes.length) return null;
    const xen = nameSize === 4 && view.getUint32(name, true) === 0x006e6558; // "Xen\0"
    if (xen && view.getUint32(at + 8, true) === XEN_ELFNOTE_PHYS32_ENTRY && size >= 4) {
      return view.getUint32(data, true);
    }
    at = data + Math.ceil(size / 4) * 4;
  }
  return null;
}
