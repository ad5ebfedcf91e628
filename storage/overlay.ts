/** `ephemeral`: a disk whose changes go to a throw-away file and are gone with the process. */
import { type Disk, DiskError, type IoVector } from "./disk.ts";
import { type HostFile, openTemporaryFile } from "./host_file.ts";
import { BufferVector, vectorLength, VectorWindow, zeroVector } from "./io_vector.ts";

/** What is copied at once: a host page, and most file systems' block. */
const CLUSTER = 4096;
/** Clusters a leaf of the map covers: 128 MiB in a bitmap of 4 KiB. */
const LEAF_CLUSTERS = 32768;

/**
 * Copy-on-write over any disk. Its file is nameless and sparse, with each cluster at its own place, so it never takes
 * more than the disk's size; the map takes 1/32768 of what was touched. Not for several threads at once.
 */
export class OverlayDisk implements Disk {
  readonly size: number;
  readonly readonly = false;
  private readonly base: Disk;
  private readonly file: HostFile;
  private readonly leaves: (Uint8Array | null)[];
  private readonly window = new VectorWindow();
  private readonly cluster = new BufferVector(new Uint8Array(CLUSTER));

  /** @param base belongs to the overlay from now on; never written */
  constructor(base: Disk) {
    this.base = base;
    this.size = base.size;
    this.file = openTemporaryFile(this.size);
    this.leaves = new Array(Math.ceil(this.size / CLUSTER / LEAF_CLUSTERS)).fill(null);
  }

  get discardable(): boolean {
    return this.file.sparse;
  }

  read(offset: number, vector: IoVector): void {
    const length = vectorLength(vector);
    this.check(offset, length);
    for (let done = 0; done < length;) {
      const at = offset + done;
      const own = this.has(Math.floor(at / CLUSTER));
      let end = Math.floor(at / CLUSTER) + 1;
      while (end * CLUSTER < offset + length && this.has(end) === own) end++;
      const run = Math.min(end * CLUSTER, offset + length) - at;
      const part = run === length ? vector : this.window.set(vector, done, run);
      if (own) {
        const got = this.file.read(at, part);
        if (got < run) zeroVector(part, got, run);
      } else {
        this.base.read(at, part);
      }
      done += run;
    }
  }

  write(offset: number, vector: IoVector): void {
    const length = vectorLength(vector);
    this.check(offset, length);
    if (length === 0) return;
    this.copyEdges(offset, length);
    this.file.write(offset, vector);
    this.take(offset, length);
  }

  /** Nothing to do: what is thrown away need not reach a medium. */
  flush(): void {}

  discard(offset: number, length: number): void {
    this.check(offset, length);
    // Only where zeroes cost nothing: a hint is not worth writing for.
    if (this.file.sparse) this.writeZeroes(offset, length, true);
  }

  writeZeroes(offset: number, length: number, _unmap: boolean): void {
    this.check(offset, length);
    if (length === 0) return;
    this.copyEdges(offset, length);
    this.file.zero(offset, length, true);
    this.take(offset, length);
  }

  refresh(): number {
    return this.size;
  }

  close(): void {
    this.file.close();
    this.base.close();
  }

  private has(cluster: number): boolean {
    const leaf = this.leaves[Math.floor(cluster / LEAF_CLUSTERS)];
    const bit = cluster % LEAF_CLUSTERS;
    return leaf !== null && (leaf[bit >> 3] & (1 << (bit & 7))) !== 0;
  }

  /** Marks every cluster of a range as ours. */
  private take(offset: number, length: number): void {
    const end = Math.ceil((offset + length) / CLUSTER);
    for (let cluster = Math.floor(offset / CLUSTER); cluster < end;) {
      const index = Math.floor(cluster / LEAF_CLUSTERS);
      const leaf = this.leaves[index] ??= new Uint8Array(LEAF_CLUSTERS / 8);
      const bit = cluster % LEAF_CLUSTERS;
      if ((bit & 7) === 0 && end - cluster >= 8) {
        leaf[bit >> 3] = 0xff;
        cluster += 8;
      } else {
        leaf[bit >> 3] |= 1 << (bit & 7);
        cluster++;
      }
    }
  }

  /** Copies up the first and the last cluster of a range where it covers them only in part. */
  private copyEdges(offset: number, length: number): void {
    const end = offset + length;
    const first = Math.floor(offset / CLUSTER);
    const last = Math.floor((end - 1) / CLUSTER);
    if (offset % CLUSTER !== 0 || end < Math.min((first + 1) * CLUSTER, this.size)) this.copyUp(first);
    if (last !== first && end % CLUSTER !== 0 && end < this.size) this.copyUp(last);
  }

  private copyUp(cluster: number): void {
    if (this.has(cluster)) return;
    const start = cluster * CLUSTER;
    this.cluster.lengths[0] = Math.min(CLUSTER, this.size - start);
    this.base.read(start, this.cluster);
    this.file.write(start, this.cluster);
    this.take(start, this.cluster.lengths[0]);
  }

  private check(offset: number, length: number): void {
    if (!(offset >= 0 && length >= 0 && offset + length <= this.size)) {
      throw new DiskError("range", `bytes ${offset}+${length} lie outside the disk's ${this.size}`);
    }
  }
}
