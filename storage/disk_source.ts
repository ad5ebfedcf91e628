/** A disk as plain bytes, for partition tables and file systems. */
import type { ByteSource } from "./byte_source.ts";
import type { Disk } from "./disk.ts";
import { BufferVector } from "./io_vector.ts";

const BLOCK = 32768;
const BLOCKS = 64;

/**
 * Reads through a cache of 2 MiB, since metadata is read in small pieces; larger reads pass it by. What others write
 * to the disk meanwhile may go unseen.
 */
export class DiskSource implements ByteSource {
  readonly size: number;
  private readonly disk: Disk;
  /** In order of use, the eldest first. */
  private readonly cache = new Map<number, Uint8Array>();
  private readonly vector = new BufferVector(new Uint8Array(0));

  /** @param disk stays the caller's, who closes it */
  constructor(disk: Disk) {
    this.disk = disk;
    this.size = disk.size;
  }

  read(offset: number, target: Uint8Array): void {
    if (!(offset >= 0 && offset + target.length <= this.size)) {
      throw new RangeError(`bytes ${offset}..${offset + target.length} lie outside ${this.size}`);
    }
    if (target.length >= BLOCK) {
      this.disk.read(offset, this.vector.set(target, 0, target.length));
      return;
    }
    for (let done = 0; done < target.length;) {
      const index = Math.floor((offset + done) / BLOCK);
      const start = offset + done - index * BLOCK;
      const take = Math.min(BLOCK - start, target.length - done);
      target.set(this.block(index).subarray(start, start + take), done);
      done += take;
    }
  }

  private block(index: number): Uint8Array {
    let block = this.cache.get(index);
    if (block !== undefined) {
      this.cache.delete(index);
    } else {
      if (this.cache.size >= BLOCKS) this.cache.delete(this.cache.keys().next().value!);
      block = new Uint8Array(Math.min(BLOCK, this.size - index * BLOCK));
      this.disk.read(index * BLOCK, this.vector.set(block, 0, block.length));
    }
    this.cache.set(index, block);
    return block;
  }
}
