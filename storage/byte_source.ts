/** Read-only random access to bytes: what partition tables and file systems are read from. */

/** A run of bytes somewhere. */
export interface ByteSource {
  /** Bytes in all. */
  readonly size: number;
  /** Fills `target` from `offset` on. Throws a RangeError when that passes the end. */
  read(offset: number, target: Uint8Array): void;
}

/** A part of another source: a partition of a disk. */
export class SubSource implements ByteSource {
  readonly size: number;
  private readonly parent: ByteSource;
  private readonly start: number;
  constructor(parent: ByteSource, start: number, size: number) {
    if (start < 0 || size < 0 || start + size > parent.size) {
      throw new RangeError(`bytes ${start}..${start + size} lie outside ${parent.size}`);
    }
    this.parent = parent;
    this.start = start;
    this.size = size;
  }
  read(offset: number, target: Uint8Array): void {
    if (offset < 0 || offset + target.length > this.size) {
      throw new RangeError(`bytes ${offset}..${offset + target.length} lie outside ${this.size}`);
    }
    this.parent.read(this.start + offset, target);
  }
}
