/** Makes V8 collect what is no longer used. */

/** More than V8 lets buffers grow by between two full collections: 200 MB did not do, 600 did. */
const BYTES = 768 << 20;

/**
 * Makes V8 begin a full collection. A forgotten region costs some 55 KiB, of which V8 counts only its few objects: by
 * itself it let 7000 of them, 400 MB, lie until its heap had grown. What it does count is buffers. The pages of this one
 * are never touched: for a moment it takes addresses, no memory.
 */
export function collectCode(): void {
  try {
    new ArrayBuffer(BYTES);
  } catch {
    // The host promises no more memory than it has: then V8 collects when it thinks fit.
  }
}

/** More than a process has addresses for (47 bits on x86-64 and arm64). */
const IMPOSSIBLE = 2 ** 47;

/**
 * Makes V8 collect all there is and shrink its heap: what it does before it says that a buffer cannot be had. Takes
 * 100 to 200 ms after a boot of Debian.
 */
export function collectAll(): void {
  try {
    new ArrayBuffer(IMPOSSIBLE);
  } catch {
    // That is what was wanted.
  }
}
