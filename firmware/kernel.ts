/** What kind of kernel a file is, told from its bytes alone. */
import { type Compression, CompressionError, decompress, sniff } from "./decompress/mod.ts";
import { EM_386, EM_AARCH64, EM_X86_64, isElf, readElf } from "./elf.ts";
import { readPe } from "./pe.ts";

/** Forms kernels come in. */
export type KernelFormat =
  | "bzImage"
  | "vmlinux"
  | "unified kernel image"
  | "arm64 Image"
  | "EFI zboot"
  | "EFI application"
  | "unknown";

/** The setup header of a bzImage (Documentation/arch/x86/boot.rst, "Details of Header Fields"). */
export interface SetupHeader {
  /** Boot protocol, as 0x020f for 2.15. */
  protocol: number;
  /** Where the protected-mode code begins in the file. */
  codeOffset: number;
  /** The packed vmlinux in the file; length 0 before protocol 2.08. */
  payloadOffset: number;
  payloadLength: number;
  /** XLF_KERNEL_64: has the 64-bit entry point at 0x200. */
  entry64: boolean;
  relocatable: boolean;
  kernelAlignment: number;
  prefAddress: number;
  /** Bytes of memory the kernel needs from where it runs before it reads the memory map. */
  initSize: number;
  /** Most bytes of command line, without the terminating zero. */
  commandLineSize: number;
  /** Highest address an initrd's last byte may have. */
  initrdAddressMax: number;
  /** The header itself, from offset 0x1f1 of the file to its end. */
  bytes: Uint8Array;
}

/** What {@link identifyKernel} tells. */
export interface KernelImage {
  format: KernelFormat;
  /** `x86_64`, `i386`, `aarch64`; null when not known. */
  architecture: "x86_64" | "i386" | "aarch64" | null;
  /** Release, as `uname -r` says it; null when the file does not tell. */
  version: string | null;
  /** How the kernel proper is packed. */
  compression: Compression;
  /** Null unless a bzImage. */
  setup: SetupHeader | null;
  /** Why hv cannot start it, in words; null when it can. */
  problem: string | null;
  /** The bytes to start: a unified kernel image's `.linux`, what was inside a gzip file, or the file itself. */
  bytes: Uint8Array;
}

const HDRS = 0x53726448;
/** What linux_banner begins with (init/version-timestamp.c). */
const VERSION_BANNER = "Linux version ";

/** Offsets in a bzImage's first sectors (boot.rst). */
const SETUP_SECTS = 0x1f1;
const HEADER_END = 0x201;

function readSetup(bytes: Uint8Array, view: DataView): SetupHeader | null {
  if (bytes.length < 0x270 || view.getUint16(0x1fe, true) !== 0xaa55 || view.getUint32(0x202, true) !== HDRS) {
    return null;
  }
  const protocol = view.getUint16(0x206, true);
  const codeOffset = ((bytes[SETUP_SECTS] || 4) + 1) * 512;
  const since = (version: number, at: number) => protocol >= version ? view.getUint32(at, true) : 0;
  const payloadLength = since(0x208, 0x24c);
  return {
    protocol,
    codeOffset,
    payloadOffset: codeOffset + since(0x208, 0x248),
    payloadLength,
    entry64: protocol >= 0x20c && (view.getUint16(0x236, true) & 1) !== 0,
    relocatable: protocol >= 0x205 && bytes[0x234] !== 0,
    kernelAlignment: since(0x205, 0x230),
    prefAddress: protocol >= 0x20a ? Number(view.getBigUint64(0x258, true)) : 0x100000,
    initSize: since(0x20a, 0x260),
    commandLineSize: protocol >= 0x206 ? view.getUint32(0x238, true) : 255,
    initrdAddressMax: protocol >= 0x203 ? view.getUint32(0x22c, true) : 0x37ffffff,
    bytes: bytes.subarray(SETUP_SECTS, Math.min(HEADER_END + 1 + bytes[HEADER_END], 0x290)),
  };
}

function text(bytes: Uint8Array, at: number, most: number): string {
  let end = at;
  while (end < bytes.length && end < at + most && bytes[end] !== 0) end++;
  return new TextDecoder("latin1").decode(bytes.subarray(at, end));
}

function bannerVersion(bytes: Uint8Array): string | null {
  const { Buffer } = process.getBuiltinModule("node:buffer");
  const at = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).indexOf(VERSION_BANNER);
  if (at < 0) return null;
  return text(bytes, at + VERSION_BANNER.length, 128).split(/[\s(]/)[0] || null;
}

function otherArchitecture(name: string): string {
  return `the kernel is for another architecture (${name}), hv runs x86 kernels here`;
}

/** Looks at a kernel file. Never throws: what is wrong stands in `problem`. */
export function identifyKernel(bytes: Uint8Array): KernelImage {
  try {
    return identify(bytes, 0);
  } catch (error) {
    return { ...UNKNOWN, bytes, problem: (error as Error).message };
  }
}

const UNKNOWN: Omit<KernelImage, "bytes"> = {
  format: "unknown",
  architecture: null,
  version: null,
  compression: "none",
  setup: null,
  problem: "not a kernel in any form hv knows (bzImage, ELF vmlinux, unified kernel image)",
};

function identify(bytes: Uint8Array, depth: number): KernelImage {
  const base: KernelImage = { ...UNKNOWN, bytes };
  const packed = sniff(bytes);
  if (packed !== "none" && depth === 0) {
    try {
      const inner = identify(decompress(bytes).data, depth + 1);
      if (inner.format !== "unknown") return { ...inner, compression: packed };
    } catch (error) {
      if (!(error instanceof CompressionError)) throw error;
      return { ...base, compression: packed, problem: `the kernel file could not be unpacked: ${error.message}` };
    }
  }
  if (bytes.length < 64) return { ...base, problem: bytes.length === 0 ? "the kernel file is empty" : base.problem };
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);

  if (isElf(bytes)) {
    const machine = view.getUint16(18, true);
    const ours = machine === EM_X86_64 && bytes[4] === 2 || machine === EM_386 && bytes[4] === 1;
    if (!ours) {
      const architecture = machine === EM_AARCH64 ? "aarch64" : null;
      return {
        ...base,
        format: "vmlinux",
        architecture,
        problem: otherArchitecture(architecture ?? `ELF machine ${machine}`),
      };
    }
    const image: KernelImage = {
      ...base,
      format: "vmlinux",
      architecture: bytes[4] === 2 ? "x86_64" : "i386",
      problem: null,
    };
    try {
      if (readElf(bytes).segments.length === 0) image.problem = "the ELF file has nothing to load";
    } catch (error) {
      image.problem = (error as Error).message;
    }
    image.version = bannerVersion(bytes);
    return image;
  }

  const pe = readPe(bytes);
  const linux = pe?.sections.get(".linux");
  if (pe !== null && linux !== undefined) {
    const inner = depth < 2 ? identify(linux, depth + 1) : { ...base };
    const uname = pe.sections.get(".uname");
    return {
      ...inner,
      format: "unified kernel image",
      version: inner.version ?? (uname ? text(uname, 0, 128).trim() : null),
    };
  }

  const setup = readSetup(bytes, view);
  if (setup !== null) {
    const versionAt = view.getUint16(0x20e, true) + 0x200;
    const image: KernelImage = {
      ...base,
      format: "bzImage",
      architecture: setup.entry64 ? "x86_64" : "i386",
      version: versionAt > 0x200 && versionAt < setup.codeOffset
        ? text(bytes, versionAt, 256).split(/\s/)[0] || null
        : null,
      setup,
      problem: null,
    };
    const payloadEnd = setup.payloadOffset + setup.payloadLength;
    // Below 2.06 the command line's limit is unknown, below 2.10 how much memory the kernel needs to start.
    if (setup.protocol < 0x20a) image.problem = "the kernel is older than 2.6.31: its boot protocol is before 2.10";
    else if (setup.codeOffset >= bytes.length || payloadEnd > bytes.length) {
      image.problem = `the kernel file is cut short: ${bytes.length} bytes of at least ${
        Math.max(payloadEnd, setup.codeOffset)
      }`;
    }
    if (setup.payloadLength > 0 && setup.payloadOffset < bytes.length) {
      image.compression = sniff(bytes, setup.payloadOffset);
    }
    return image;
  }

  // Documentation/arch/arm64/booting.rst: "ARM\x64" at 56.
  if (view.getUint32(56, true) === 0x644d5241) {
    return { ...base, format: "arm64 Image", architecture: "aarch64", problem: otherArchitecture("aarch64") };
  }
  if (pe !== null) {
    const architecture = pe.machine === 0xaa64 ? "aarch64" : pe.machine === 0x8664 ? "x86_64" : null;
    // drivers/firmware/efi/libstub/zboot-header.S: "zimg" at 4, the packing's name at 24.
    const zboot = view.getUint32(4, true) === 0x676d697a;
    return {
      ...base,
      format: zboot ? "EFI zboot" : "EFI application",
      architecture,
      problem: architecture === "aarch64"
        ? otherArchitecture("aarch64")
        : zboot
        ? "an EFI zboot image, which x86-64 kernels do not come in"
        : "an EFI program with no kernel in it",
    };
  }

  return base;
}

/**
 * The ELF vmlinux inside a bzImage, unpacked.
 * @throws {CompressionError} when it is damaged or packed in a way hv cannot unpack
 */
export function extractVmlinux(bytes: Uint8Array, setup: SetupHeader): Uint8Array {
  const end = setup.payloadOffset + setup.payloadLength;
  if (setup.payloadLength === 0 || end > bytes.length) throw new CompressionError("the kernel file is cut short");
  const { format, data } = decompress(bytes.subarray(setup.payloadOffset, end));
  // boot.rst: "payload_length"; the build appends the unpacked size, which gzip has by itself.
  const size = new DataView(bytes.buffer, bytes.byteOffset + end - 4, 4).getUint32(0, true);
  if (format !== "none" && data.length !== size) throw new CompressionError(`the ${format} data is cut short`);
  if (!isElf(data)) throw new CompressionError("what is packed in the kernel is no ELF file");
  return data;
}
