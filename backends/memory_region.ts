/** What every backend asks of a memory region before it maps it. */
import type { MemoryRegion } from "../core/hypervisor.ts";

const PAGE = 4096;

/**
 * Checks that a region is made of whole pages and lies in a partition's host memory.
 * @param memorySize bytes of that
 * @throws {RangeError} if not
 */
export function checkRegion({ guestAddress, offset, size }: MemoryRegion, memorySize: number): void {
  for (const value of [guestAddress, offset, size]) {
    if (!Number.isSafeInteger(value) || value < 0 || value % PAGE !== 0) {
      throw new RangeError(`a memory region is made of whole pages: 0x${value.toString(16)}`);
    }
  }
  if (size === 0 || offset + size > memorySize) throw new RangeError("the region is outside host memory");
}
