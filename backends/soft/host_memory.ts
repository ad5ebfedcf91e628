/** The shared WebAssembly.Memory as the host sees it. All of this needs FFI and goes without where that is not allowed. */

/** asm-generic/mman-common.h */
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
  if (Deno.build.os !== "linux") return;
  const address = hostAddress(memory.buffer, 0);
  if (address === 0) return;
  try {
    const libc = Deno.dlopen("libc.so.6", { madvise: { parameters: ["usize", "usize", "i32"], result: "i32" } });
    libc.symbols.madvise(BigInt(address), BigInt(memory.buffer.byteLength), MADV_HUGEPAGE);
    libc.close();
  } catch {
    // No glibc here.
  }
}
