/** Everywhere else: Deno's own files, seek and then read or write, into views over the vector's memory. */
import { DiskError, type IoVector } from "./disk.ts";
import * as errors from "./host_file_errors.ts";
import type { HostFile } from "./host_file.ts";
import { writeZeroes } from "./write_zeroes.ts";

export class DenoHostFile implements HostFile {
  readonly path: string;
  readonly readonly: boolean;
  readonly sparse = false;
  size: number;
  private readonly file: Deno.FsFile;
  private readonly removeOnClose: string | null;
  private closed = false;
  private flushFailed = false;

  private constructor(path: string, file: Deno.FsFile, readonly: boolean, removeOnClose: string | null) {
    this.path = path;
    this.file = file;
    this.readonly = readonly;
    this.removeOnClose = removeOnClose;
    this.size = file.statSync().size;
  }

  static open(path: string, readonly: boolean, locked = true): DenoHostFile {
    let file: Deno.FsFile;
    try {
      const status = Deno.statSync(path);
      if (status.isDirectory) throw errors.directory(path);
      if (status.isBlockDevice) {
        throw new DiskError("format", `${path}: block devices cannot be opened on this platform; copy it to a file`);
      }
      if (!status.isFile) throw errors.notAFile(path);
      file = Deno.openSync(path, { read: true, write: !readonly });
    } catch (error) {
      throw openError(error, path, readonly);
    }
    // flock(2) on Unix, LockFileEx on Windows: whole-file locks, which QEMU does not look at.
    if (locked && !file.tryLockSync(!readonly)) {
      file.close();
      throw errors.busy(path, readonly);
    }
    return new DenoHostFile(path, file, readonly, null);
  }

  static openTemporary(folder: string, size: number): DenoHostFile {
    const path = Deno.makeTempFileSync({ dir: folder, prefix: "hv-overlay-" });
    const file = Deno.openSync(path, { read: true, write: true });
    file.truncateSync(size);
    let removeOnClose: string | null = null;
    try {
      Deno.removeSync(path);
    } catch {
      removeOnClose = path;
    }
    return new DenoHostFile(`temporary file in ${folder}`, file, false, removeOnClose);
  }

  read(offset: number, vector: IoVector): number {
    let done = 0;
    try {
      this.file.seekSync(offset, Deno.SeekMode.Start);
      for (let i = 0; i < vector.count; i++) {
        const start = vector.offsets[i];
        const length = vector.lengths[i];
        for (let at = 0; at < length;) {
          const n = this.file.readSync(vector.bytes.subarray(start + at, start + length));
          if (n === null || n === 0) return done;
          at += n;
          done += n;
        }
      }
    } catch (error) {
      throw this.ioError(error, "reading");
    }
    return done;
  }

  write(offset: number, vector: IoVector): void {
    if (this.readonly) throw errors.refusedWrite(this.path);
    let done = 0;
    try {
      this.file.seekSync(offset, Deno.SeekMode.Start);
      for (let i = 0; i < vector.count; i++) {
        const start = vector.offsets[i];
        const length = vector.lengths[i];
        for (let at = 0; at < length;) {
          const n = this.file.writeSync(vector.bytes.subarray(start + at, start + length));
          if (n === 0) throw errors.failed(this.path, "writing", "nothing was taken");
          at += n;
          done += n;
        }
      }
    } catch (error) {
      throw this.ioError(error, "writing");
    }
    if (offset + done > this.size) this.size = offset + done;
  }

  flush(): void {
    if (this.readonly) return;
    if (this.flushFailed) throw errors.failed(this.path, "flushing", "an earlier flush failed, data was lost");
    try {
      this.file.syncDataSync();
    } catch (error) {
      this.flushFailed = true;
      throw this.ioError(error, "flushing");
    }
  }

  punch(_offset: number, length: number): boolean {
    if (this.readonly) throw errors.refusedWrite(this.path);
    return length === 0;
  }

  zero(offset: number, length: number, _unmap: boolean): void {
    writeZeroes(this, offset, length);
  }

  truncate(size: number): void {
    try {
      this.file.truncateSync(size);
    } catch (error) {
      throw this.ioError(error, `resizing to ${size} bytes`);
    }
    this.size = size;
  }

  refresh(): number {
    this.size = this.file.statSync().size;
    return this.size;
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.file.close();
    if (this.removeOnClose !== null) Deno.removeSync(this.removeOnClose);
  }

  private ioError(error: unknown, doing: string): DiskError {
    if (error instanceof DiskError) return error;
    const code = (error as { code?: string }).code;
    if (code === "ENOSPC" || code === "EDQUOT" || code === "EFBIG") return errors.full(this.path);
    return errors.failed(this.path, doing, error instanceof Error ? error.message : String(error));
  }
}

function openError(error: unknown, path: string, readonly: boolean): DiskError {
  if (error instanceof DiskError) return error;
  if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return errors.missing(path);
  if (error instanceof Deno.errors.PermissionDenied) return errors.forbidden(path, readonly);
  if ((error as { code?: string }).code === "EROFS") return errors.readOnlyMedium(path);
  if (error instanceof Deno.errors.Busy) return errors.busy(path, readonly);
  return errors.failed(path, "opening", error instanceof Error ? error.message : String(error));
}
