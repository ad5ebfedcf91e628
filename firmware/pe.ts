/** Sections of a Portable Executable, as unified kernel images use them (Microsoft PE Format; UAPI.5). */

/** A PE file's machine and sections. */
export interface PortableExecutable {
  /** IMAGE_FILE_MACHINE_*: 0x8664 x86-64, 0x14c i386, 0xaa64 arm64. */
  machine: number;
  /** Contents by section name; of two with one name the first. */
  sections: Map<string, Uint8Array>;
}

/** Most sections read: the format allows 65 535, images have a dozen. */
const MAX_SECTIONS = 96;

/** Reads the section table; null when the bytes are no PE file. A section that passes the file's end is left out. */
export function readPe(bytes: Uint8Array): PortableExecutable | null {
  if (bytes.length < 0x40 || bytes[0] !== 0x4d || bytes[1] !== 0x5a) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const pe = view.getUint32(0x3c, true);
  if (pe + 24 > bytes.length || view.getUint32(pe, true) !== 0x4550) return null;
  const machine = view.getUint16(pe + 4, true);
  const count = Math.min(view.getUint16(pe + 6, true), MAX_SECTIONS);
  const table = pe + 24 + view.getUint16(pe + 20, true);
  const sections = new Map<string, Uint8Array>();
  for (let i = 0; i < count; i++) {
    const at = table + i * 40;
    if (at + 40 > bytes.length) break;
    const name = new TextDecoder("latin1").decode(bytes.subarray(at, at + 8)).replace(/\0.*$/s, "");
    const virtualSize = view.getUint32(at + 8, true);
    const rawSize = view.getUint32(at + 16, true);
    const start = view.getUint32(at + 20, true);
    // The file holds rawSize bytes, padded; virtualSize is what was put in.
    const size = virtualSize > 0 ? Math.min(virtualSize, rawSize) : rawSize;
    if (start + size > bytes.length || sections.has(name)) continue;
    sections.set(name, bytes.subarray(start, start + size));
  }
  return { machine, sections };
}
