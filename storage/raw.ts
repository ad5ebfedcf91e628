/** Raw images: the file's bytes are the disk's. */
import { type Disk, DiskError, type IoVector } from "./disk.ts";
import type { HostFile } from "./host_file.ts";
import { vectorLength, zeroVector } from "./io_vector.ts";

/**
 * A raw image. A size that is no multiple of 512 is rounded up, as QEMU does: what lacks of the last sector reads as
 * zeroes, and writing it makes the file grow to the whole sector.
 */
export class RawDisk implements Disk {
  readonly readonly: boolean;
  private readonly file: HostFile;
  private bytes: number;

  /** @param file belongs to the disk from now on */
  constructor(file: HostFile) {
    this.file = file;
    this.readonly = file.readonly;
    this.bytes = wholeSectors(file.size);
  }

  get size(): number {
    return this.bytes;
  }

  get discardable(): boolean {
    return this.file.sparse;
  }

  read(offset: number, vector: IoVector): void {
    const length = vectorLength(vector);
    this.check(offset, length);
    const done = this.file.read(offset, vector);
    if (done === length) return;
    if (offset + done < this.bytes - 511) {
      throw new DiskError("io", `${this.file.path}: ended at byte ${offset + done}; it was cut while in use`);
    }
    zeroVector(vector, done, length);
  }

  write(offset: number, vector: IoVector): void {
    this.checkWrite(offset, vectorLength(vector));
    this.file.write(offset, vector);
  }

  flush(): void {
    if (!this.readonly) this.file.flush();
  }

  discard(offset: number, length: number): void {
    this.checkWrite(offset, length);
    this.file.punch(offset, length);
  }

  writeZeroes(offset: number, length: number, unmap: boolean): void {
    this.checkWrite(offset, length);
    this.file.zero(offset, length, unmap);
  }

  refresh(): number {
    this.bytes = wholeSectors(this.file.refresh());
    return this.bytes;
  }

  close(): void {
    this.file.close();
  }

  private checkWrite(offset: number, length: number): void {
    if (this.readonly) throw new DiskError("readonly", `${this.file.path}: was opened read-only`);
    this.check(offset, length);
  }

  private check(offset: number, length: number): void {
    if (!(offset >= 0 && length >= 0 && offset + length <= this.bytes)) {
      throw new DiskError("range", `${this.file.path}: bytes ${offset}+${length} lie outside its ${this.bytes}`);
    }
  }
}

function wholeSectors(size: number): number {
  return Math.ceil(size / 512) * 512;
}
