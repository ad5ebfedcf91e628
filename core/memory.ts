/**
 * Guest physical memory as devices see it: RAM below a hole that ends at 4 GiB, and RAM above it.
 *
 * Every address and length here was written by a guest. {@link GuestMemory.offset} is the one border where they are
 * checked; what it returns indexes `bytes` safely.
 */
import type { HostMemory, MemoryRegion } from "./hypervisor.ts";

const FOUR_GIB = 0x1_0000_0000;

/** Guest RAM: one run of host bytes behind one or two runs of guest addresses. */
export class GuestMemory {
  /** All of RAM; index with what {@link offset} returned. */
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** RAM as 32-bit words, for Atomics (index = offset / 4). */
  readonly words: Int32Array;
  /** RAM as 16-bit words, for Atomics (index = offset / 2). */
  readonly halfWords: Uint16Array;
  /** Host address of `bytes[0]`, for system calls. */
  readonly hostAddress: number;
  readonly size: number;
  /** Bytes of RAM that begin at guest address 0; what is left begins at 4 GiB. */
  readonly lowSize: number;
  readonly highSize: number;

  /**
   * @param host the bytes
   * @param holeStart first guest address below 4 GiB that is not RAM; 4096-aligned
   */
  constructor(host: HostMemory, holeStart: number) {
    this.size = host.size;
    this.lowSize = Math.min(host.size, holeStart);
    this.highSize = host.size - this.lowSize;
    this.bytes = new Uint8Array(host.buffer, host.byteOffset, host.size);
    this.view = new DataView(host.buffer, host.byteOffset, host.size);
    this.words = new Int32Array(host.buffer, host.byteOffset, host.size / 4);
    this.halfWords = new Uint16Array(host.buffer, host.byteOffset, host.size / 2);
    this.hostAddress = host.address;
  }

  /** What to map into the partition. */
  regions(): MemoryRegion[] {
    const regions: MemoryRegion[] = [{ guestAddress: 0, offset: 0, size: this.lowSize }];
    if (this.highSize > 0) regions.push({ guestAddress: FOUR_GIB, offset: this.lowSize, size: this.highSize });
    return regions;
  }

  /**
   * Where `length` bytes at a guest address stand in {@link bytes}, or -1 unless all of them are RAM in one run.
   * Safe for any two numbers, NaN and negative ones among them.
   */
  offset(guestAddress: number, length: number): number {
    if (!(guestAddress >= 0 && length >= 0)) return -1;
    const end = guestAddress + length;
    if (end <= this.lowSize) return guestAddress;
    if (guestAddress >= FOUR_GIB && end - FOUR_GIB <= this.highSize) return guestAddress - FOUR_GIB + this.lowSize;
    return -1;
  }

  /** Copies bytes in, for loaders. Throws a RangeError outside RAM. */
  write(guestAddress: number, data: Uint8Array): void {
    this.bytes.set(data, this.checked(guestAddress, data.length));
  }

  /** A view of RAM, for loaders. Throws a RangeError outside RAM. */
  slice(guestAddress: number, length: number): Uint8Array {
    const start = this.checked(guestAddress, length);
    return this.bytes.subarray(start, start + length);
  }

  private checked(guestAddress: number, length: number): number {
    const offset = this.offset(guestAddress, length);
    if (offset < 0) {
      throw new RangeError(`guest memory 0x${guestAddress.toString(16)}+0x${length.toString(16)} is outside RAM`);
    }
    return offset;
  }
}
