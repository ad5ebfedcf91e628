/** From a path to a disk: what format an image has, and who reads it. */
import { type Disk, DiskError, type DiskSpec } from "./disk.ts";
import { type HostFile, openHostFile } from "./host_file.ts";
import { BufferVector } from "./io_vector.ts";
import { OverlayDisk } from "./overlay.ts";
import { RawDisk } from "./raw.ts";

/** An image format. */
interface Format {
  name: string;
  /** By the first 1024 bytes of the file (zeroes where it is shorter). */
  recognise(head: Uint8Array): boolean;
  /** Takes the file over. Null: recognised only, and `advice` says what to do instead. */
  open: ((file: HostFile) => Disk) | null;
  advice?: string;
}

const CONVERT = "convert it with: qemu-img convert -O raw IMAGE disk.img";

/** Every format by its magic number, the first match wins; `raw`, which has none, comes last. */
const FORMATS: readonly Format[] = [
  { name: "qcow2", recognise: (head) => starts(head, 0, "QFI\xfb"), open: null, advice: CONVERT },
  {
    name: "vmdk",
    recognise: (head) => starts(head, 0, "KDMV") || starts(head, 0, "COWD") || starts(head, 0, "# Disk DescriptorFile"),
    open: null,
    advice: CONVERT,
  },
  { name: "vdi", recognise: (head) => starts(head, 64, "\x7f\x10\xda\xbe"), open: null, advice: CONVERT },
  { name: "vhdx", recognise: (head) => starts(head, 0, "vhdxfile"), open: null, advice: CONVERT },
  { name: "vhd", recognise: (head) => starts(head, 0, "conectix"), open: null, advice: CONVERT },
  { name: "qed", recognise: (head) => starts(head, 0, "QED\0"), open: null, advice: CONVERT },
  {
    name: "gzip",
    recognise: (head) => starts(head, 0, "\x1f\x8b\x08"),
    open: null,
    advice: "unpack it with gunzip -k",
  },
  { name: "xz", recognise: (head) => starts(head, 0, "\xfd7zXZ\0"), open: null, advice: "unpack it with xz -dk" },
  {
    name: "zstd",
    recognise: (head) => starts(head, 0, "\x28\xb5\x2f\xfd"),
    open: null,
    advice: "unpack it with zstd -d",
  },
  { name: "zip", recognise: (head) => starts(head, 0, "PK\x03\x04"), open: null, advice: "unpack it with unzip" },
  { name: "raw", recognise: () => true, open: (file) => new RawDisk(file) },
];

/**
 * Opens for reading a disk that this process itself holds open, and so has locked, while the guest does not write: to
 * find the kernel again when the guest restarts. Otherwise as {@link openDisk}.
 */
export function openOwnDisk(spec: DiskSpec): Disk {
  return take(openHostFile(spec.path, { readonly: true, locked: false }), {
    ...spec,
    readonly: true,
    ephemeral: false,
  });
}

/**
 * Opens a disk image or block device, in whichever thread it is wanted: exclusively for writing, shared for reading.
 * Throws a {@link DiskError} whose message says what to do.
 */
export function openDisk(spec: DiskSpec): Disk {
  const ephemeral = spec.ephemeral === true && spec.readonly !== true;
  return take(openHostFile(spec.path, { readonly: spec.readonly === true || ephemeral }), { ...spec, ephemeral });
}

function take(file: HostFile, spec: DiskSpec): Disk {
  let disk: Disk | null = null;
  try {
    disk = openFormat(file, spec);
    return spec.ephemeral ? new OverlayDisk(disk) : disk;
  } catch (error) {
    if (disk !== null) disk.close();
    else file.close();
    throw error;
  }
}

function openFormat(file: HostFile, spec: DiskSpec): Disk {
  if (file.size === 0) {
    throw new DiskError("format", `${spec.path}: is empty; give it a size with: truncate -s 10G ${spec.path}`);
  }
  const head = new Uint8Array(1024);
  file.read(0, new BufferVector(head));
  const format = FORMATS.find((f) => spec.format === undefined ? f.recognise(head) : f.name === spec.format);
  if (format === undefined) {
    const known = FORMATS.filter((f) => f.open !== null).map((f) => f.name).join(", ");
    const message = `${spec.path}: there is no disk format '${spec.format}'; known are: ${known}`;
    throw new DiskError("format", message, { usage: true });
  }
  if (format.open === null) {
    throw new DiskError(
      "format",
      `${spec.path}: ${format.name} images are not supported yet; ${format.advice}, or say format raw if it is one`,
    );
  }
  return format.open(file);
}

function starts(bytes: Uint8Array, offset: number, magic: string): boolean {
  for (let i = 0; i < magic.length; i++) {
    if (bytes[offset + i] !== magic.charCodeAt(i)) return false;
  }
  return true;
}
