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

/** Gives pages of the memory back to the host, which reads them as zeroes or as they were. */
export function releasePages(memory: WebAssembly.Memory, offset: number, bytes: number): void {
  advise(memory, offset, bytes, MADV_DONTNEED);
}

/** madvise(2) of a part of the memory that begins and ends with a page. */
function advise(memory: WebAssembly.Memory, offset: number, bytes: number, advice: number): void {
  if (Deno.build.os !== "linux") return;
  const address = hostAddress(memory.buffer, offset);
  if (address === 0) return;
  try {
    const libc = Deno.dlopen("libc.so.6", { madvise: { parameters: ["usize", "usize", "i32"], result: "i32" } });
    libc.symbols.madvise(BigInt(address), BigInt(bytes), advice);
    libc.close();
  } catch {
    // No glibc here.
  }
}
