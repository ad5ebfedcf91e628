/**
 * The disk contract: positioned, zero-copy, synchronous. Every image format fulfils it; the block device's I/O Worker,
 * the partition tables and the file systems are its callers. Offsets are in bytes and may pass 2^32.
 */
import { HvError } from "../core/errors.ts";

/**
 * Pieces of memory that one request reads into or writes from, filled and reused by the caller: no objects are made
 * for a request.
 */
export interface IoVector {
  /** The memory all pieces lie in. */
  readonly bytes: Uint8Array;
  /** Host address of `bytes[0]` for system calls; 0 where there is none, then `bytes` is used. */
  readonly hostAddress: number;
  /** Offsets into `bytes`, `count` of them. */
  readonly offsets: Float64Array;
  /** Bytes of each piece. */
  readonly lengths: Int32Array;
  count: number;
}

/** A disk image, opened. Methods throw a {@link DiskError} and leave what was there. */
export interface Disk {
  /** Bytes; a multiple of 512. May change while open (see {@link refresh}). */
  readonly size: number;
  readonly readonly: boolean;
  /** Whether {@link discard} gives space back. */
  readonly discardable: boolean;
  /** Fills the pieces of `vector` with the bytes from `offset` on. */
  read(offset: number, vector: IoVector): void;
  /** Writes the pieces; in the host's cache when it returns, on the medium after {@link flush}. */
  write(offset: number, vector: IoVector): void;
  /** When this returns, all that was written is on the medium. */
  flush(): void;
  /** The guest needs these bytes no more; they read as zeroes after, where {@link discardable}. */
  discard(offset: number, length: number): void;
  /** Makes bytes read as zeroes; `unmap` allows giving their space back. */
  writeZeroes(offset: number, length: number, unmap: boolean): void;
  /** Looks whether the size changed underneath (a grown image); returns it. */
  refresh(): number;
  close(): void;
}

/** What went wrong with a disk, in words; `code` is what the guest is told. */
export class DiskError extends HvError {
  /** Tells it from other errors where its class is another copy's: in a Worker, in a bundle. */
  override readonly name = "DiskError";
  /** What kind of trouble: the host's (`io`, `full`, `busy`, `missing`, `permission`), the image's, or the request's. */
  readonly code: "io" | "range" | "readonly" | "full" | "busy" | "format" | "missing" | "permission";
  /** @param options `usage`: the person's own words (a format, a setting) are what is wrong */
  constructor(code: DiskError["code"], message: string, options?: { usage?: boolean }) {
    super(message, options);
    this.code = code;
  }
}

/** How to open a disk: what a Worker needs to do it, so plain data. */
export interface DiskSpec {
  /** Path of the image file or block device. */
  path: string;
  /** The guest sees a write-protected disk; other machines may open it so at the same time. */
  readonly?: boolean;
  /** `raw` unless told or found otherwise. */
  format?: string;
  /** All writes go to a throw-away overlay that nobody else sees. */
  ephemeral?: boolean;
}
