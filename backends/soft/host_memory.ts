/** The shared WebAssembly.Memory as the host sees it. All of this needs FFI and goes without where that is not allowed. */

/** asm-generic/mman-common.h */
const MADV_DONTNEED = 4;
const MADV_HUGEPAGE = 14;

/** The address of the memory, for system calls; 0 where it cannot be found. */
export function hostAddress(buffer: ArrayBufferLike, offset: number): number {
  try {
    const view = new Uint8Array(buffer as ArrayBuffer, offset, 1);
    return Number(Deno.UnsafePointer.value(Deno.UnsafePointer.of(view)));
  } catch {
    return 0;
  }
}

/**
 * Asks for big pages, as QEMU and our KVM backend do: guest RAM, TLBs and decoded blocks are touched all over, and the
 * host's TLB holds little of them in pages of 4 KiB. Nothing happens where the host does not grant it.
 */
export function adviseHugePages(memory: WebAssembly.Memory): void {
  advise(memory, 0, memory.buffer.byteLength, MADV_HUGEPAGE);
}

/** Gives pages of the memory back to the host, which reads them as zeroes then; false where it does not take them. */
export function releasePages(memory: WebAssembly.Memory, offset: number, bytes: number): boolean {
  return advise(memory, offset, bytes, MADV_DONTNEED);
}

/** Whether this host's system takes pages back: of others' madvise nothing is asked. */
export const TAKES_PAGES = Deno.build.os === "linux";

/** madvise(2) of a part of the memory that begins and ends with a page; false where nothing came of it. */
function advise(memory: WebAssembly.Memory, offset: number, bytes: number, advice: number): boolean {
  if (!TAKES_PAGES) return false;
  const address = hostAddress(memory.buffer, offset);
  if (address === 0) return false;
  try {
    const libc = Deno.dlopen("libc.so.6", { madvise: { parameters: ["usize", "usize", "i32"], result: "i32" } });
    const result = libc.symbols.madvise(BigInt(address), BigInt(bytes), advice);
    libc.close();
    return result === 0;
  } catch {
    // No glibc here.
    return false;
  }
}
