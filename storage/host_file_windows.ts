/** Windows: positioned reads and writes straight into a vector's memory, a lock outside the data, sparse files. */
import { win32 } from "node:path";
import { ErrorCode, File, Struct, wideString, type WindowsFiles, windowsFiles } from "./abi/windows.ts";
import { DiskError, type IoVector } from "./disk.ts";
import * as errors from "./host_file_errors.ts";
import type { HostFile } from "./host_file.ts";
import { vectorLength } from "./io_vector.ts";
import { writeZeroes } from "./write_zeroes.ts";

const TWO_32 = 0x1_0000_0000;
const OVERLAPPED = Struct.OVERLAPPED;
/** Most bytes of one call: ReadFile and WriteFile take a DWORD. */
const MOST = 1 << 30;
/** INVALID_HANDLE_VALUE, handleapi.h. */
const INVALID_HANDLE = 0xffff_ffff_ffff_ffffn;
/**
 * One byte that stands for the whole image, near the end of what an offset can say. Windows' locks are mandatory: on
 * the data itself they would keep this very process from reading it by another handle.
 */
const LOCK_OFFSET_HIGH = 0x7fff_0000;

export class WindowsHostFile implements HostFile {
  readonly path: string;
  readonly readonly: boolean;
  size = 0;
  sparse = false;
  private readonly calls: WindowsFiles;
  private readonly handle: Deno.PointerValue;
  private madeSparse = false;
  private closed = false;
  private flushFailed = false;
  private readonly overlapped = new Uint32Array(OVERLAPPED.sizeof / 4);
  private readonly moved = new Uint32Array(1);
  private readonly halves = new Uint32Array(4);
  private readonly words = new BigUint64Array(this.halves.buffer);
  private unsafeBytes: Uint8Array | null = null;
  private unsafeAddress = 0;

  private constructor(calls: WindowsFiles, path: string, handle: Deno.PointerValue, readonly: boolean) {
    this.calls = calls;
    this.path = path;
    this.handle = handle;
    this.readonly = readonly;
  }

  static open(path: string, readonly: boolean, locked = true): WindowsHostFile {
    const calls = windowsFiles()!;
    const access = readonly ? File.GENERIC_READ : (File.GENERIC_READ | File.GENERIC_WRITE) >>> 0;
    // Others may open it too, as far as the lock lets them.
    const handle = calls.CreateFileW(
      wideString(longPath(path)),
      access,
      File.FILE_SHARE_READ | File.FILE_SHARE_WRITE,
      null,
      File.OPEN_EXISTING,
      File.FILE_ATTRIBUTE_NORMAL,
      null,
    );
    if (Deno.UnsafePointer.value(handle) === INVALID_HANDLE) throw openError(calls.GetLastError(), path, readonly);
    const file = new WindowsHostFile(calls, path, handle, readonly);
    try {
      if (calls.GetFileType(handle) !== File.FILE_TYPE_DISK) throw errors.notAFile(path);
      if (locked) file.lock();
      file.refresh();
      file.sparse = !readonly && file.volumeHasHoles();
      return file;
    } catch (error) {
      file.close();
      throw error;
    }
  }

  /** Windows deletes it with its last handle, also when the process is killed. */
  static openTemporary(folder: string, size: number): WindowsHostFile {
    const calls = windowsFiles()!;
    const path = `${folder}\\hv-overlay-${crypto.randomUUID()}`;
    const handle = calls.CreateFileW(
      wideString(longPath(path)),
      (File.GENERIC_READ | File.GENERIC_WRITE | File.DELETE) >>> 0,
      File.FILE_SHARE_READ | File.FILE_SHARE_WRITE | File.FILE_SHARE_DELETE,
      null,
      File.CREATE_NEW,
      File.FILE_ATTRIBUTE_TEMPORARY | File.FILE_FLAG_DELETE_ON_CLOSE,
      null,
    );
    if (Deno.UnsafePointer.value(handle) === INVALID_HANDLE) {
      const reason = errorName(calls.GetLastError());
      throw new DiskError(
        "permission",
        `${folder}: no temporary file can be made there (${reason}); set TEMP to a writable folder`,
      );
    }
    const file = new WindowsHostFile(calls, `temporary file in ${folder}`, handle, false);
    try {
      file.sparse = file.volumeHasHoles();
      file.makeSparse();
      file.truncate(size);
    } catch (error) {
      file.close();
      throw error;
    }
    return file;
  }

  read(offset: number, vector: IoVector): number {
    const base = this.base(vector);
    let done = 0;
    for (let i = 0; i < vector.count; i++) {
      for (let at = 0; at < vector.lengths[i];) {
        const length = Math.min(vector.lengths[i] - at, MOST);
        this.place(offset + done, base + vector.offsets[i] + at);
        if (this.calls.ReadFile(this.handle, this.words[0], length, this.moved, this.overlapped) === 0) {
          const code = this.calls.GetLastError();
          if (code === ErrorCode.ERROR_HANDLE_EOF) return done;
          throw this.ioError(code, "reading");
        }
        if (this.moved[0] === 0) return done;
        at += this.moved[0];
        done += this.moved[0];
      }
    }
    return done;
  }

  write(offset: number, vector: IoVector): void {
    if (this.readonly) throw errors.refusedWrite(this.path);
    const base = this.base(vector);
    let done = 0;
    for (let i = 0; i < vector.count; i++) {
      for (let at = 0; at < vector.lengths[i];) {
        const length = Math.min(vector.lengths[i] - at, MOST);
        this.place(offset + done, base + vector.offsets[i] + at);
        if (this.calls.WriteFile(this.handle, this.words[0], length, this.moved, this.overlapped) === 0) {
          throw this.ioError(this.calls.GetLastError(), "writing");
        }
        if (this.moved[0] === 0) throw errors.failed(this.path, "writing", "nothing was taken");
        at += this.moved[0];
        done += this.moved[0];
      }
    }
    const end = offset + vectorLength(vector);
    if (end > this.size) this.size = end;
  }

  flush(): void {
    if (this.readonly) return;
    if (this.flushFailed) throw errors.failed(this.path, "flushing", "an earlier flush failed, data was lost");
    if (this.calls.FlushFileBuffers(this.handle) !== 0) return;
    this.flushFailed = true;
    throw this.ioError(this.calls.GetLastError(), "flushing");
  }

  punch(offset: number, length: number): boolean {
    if (this.readonly) throw errors.refusedWrite(this.path);
    if (length === 0) return true;
    if (this.sparse && this.makeSparse() && this.zeroData(offset, length)) return true;
    this.sparse = false;
    return false;
  }

  zero(offset: number, length: number, unmap: boolean): void {
    if (this.readonly) throw errors.refusedWrite(this.path);
    if (length === 0 || (unmap && this.punch(offset, length))) return;
    // In a sparse file it would give the space back, which was not asked for.
    if (!this.madeSparse && this.zeroData(offset, Math.min(length, Math.max(0, this.size - offset)))) {
      const rest = offset + length - Math.max(this.size, offset);
      if (rest > 0) writeZeroes(this, offset + length - rest, rest);
      return;
    }
    writeZeroes(this, offset, length);
  }

  truncate(size: number): void {
    this.setHalves(0, size);
    const end = new Uint8Array(this.halves.buffer, 0, 8);
    if (this.calls.SetFileInformationByHandle(this.handle, File.FileEndOfFileInfo, end, 8) === 0) {
      throw this.ioError(this.calls.GetLastError(), `resizing to ${size} bytes`);
    }
    this.size = size;
  }

  refresh(): number {
    const size = new Uint32Array(2);
    if (this.calls.GetFileSizeEx(this.handle, size) === 0) {
      throw this.ioError(this.calls.GetLastError(), "asking for the size");
    }
    this.size = size[0] + size[1] * TWO_32;
    return this.size;
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.calls.CloseHandle(this.handle);
  }

  private lock(): void {
    this.overlapped.fill(0);
    this.overlapped[OVERLAPPED.OffsetHigh / 4] = LOCK_OFFSET_HIGH;
    const flags = File.LOCKFILE_FAIL_IMMEDIATELY | (this.readonly ? 0 : File.LOCKFILE_EXCLUSIVE_LOCK);
    if (this.calls.LockFileEx(this.handle, flags, 0, 1, 0, this.overlapped) !== 0) return;
    const code = this.calls.GetLastError();
    if (code === ErrorCode.ERROR_LOCK_VIOLATION || code === ErrorCode.ERROR_IO_PENDING) {
      throw errors.busy(this.path, this.readonly);
    }
    // File systems without locks: an image there works, unguarded.
  }

  /** Where the next transfer begins in the file and in memory. */
  private place(position: number, address: number): void {
    const { overlapped } = this;
    const high = Math.floor(position / TWO_32);
    overlapped[0] =
      overlapped[1] =
      overlapped[2] =
      overlapped[3] =
        0;
    overlapped[OVERLAPPED.Offset / 4] = position - high * TWO_32;
    overlapped[OVERLAPPED.OffsetHigh / 4] = high;
    this.setHalves(0, address);
  }

  private base(vector: IoVector): number {
    if (vector.hostAddress !== 0) return vector.hostAddress;
    const { bytes } = vector;
    if (this.unsafeBytes !== bytes) {
      // Asking for `buffer` moves small arrays off V8's heap, after which they stay where they are.
      if (bytes.buffer.byteLength === 0) return 0;
      this.unsafeAddress = Number(Deno.UnsafePointer.value(Deno.UnsafePointer.of(bytes as Uint8Array<ArrayBuffer>)));
      this.unsafeBytes = bytes;
    }
    return this.unsafeAddress;
  }

  private setHalves(index: number, value: number): void {
    const high = Math.floor(value / TWO_32);
    this.halves[2 * index] = value - high * TWO_32;
    this.halves[2 * index + 1] = high;
  }

  private volumeHasHoles(): boolean {
    const flags = new Uint32Array(1);
    const known = this.calls.GetVolumeInformationByHandleW(this.handle, null, 0, null, null, flags, null, 0) !== 0;
    return known && (flags[0] & File.FILE_SUPPORTS_SPARSE_FILES) !== 0;
  }

  private makeSparse(): boolean {
    if (this.madeSparse) return true;
    this.madeSparse = this.control(File.FSCTL_SET_SPARSE, new Uint8Array(0));
    return this.madeSparse;
  }

  private zeroData(offset: number, length: number): boolean {
    if (length === 0) return true;
    this.setHalves(0, offset);
    this.setHalves(1, offset + length);
    return this.control(File.FSCTL_SET_ZERO_DATA, new Uint8Array(this.halves.buffer));
  }

  private control(code: number, input: Uint8Array<ArrayBuffer>): boolean {
    return this.calls.DeviceIoControl(this.handle, code, input, input.length, null, 0, this.moved, null) !== 0;
  }

  private ioError(code: number, doing: string): DiskError {
    if (code === ErrorCode.ERROR_DISK_FULL || code === ErrorCode.ERROR_HANDLE_DISK_FULL) return errors.full(this.path);
    return errors.failed(this.path, doing, errorName(code));
  }
}

/** Full and in the form that knows no limit of 260 characters: `\\?\C:\...`, `\\?\UNC\server\share\...`. */
function longPath(path: string): string {
  return win32.toNamespacedPath(path.startsWith("\\\\.\\") ? path : win32.resolve(path));
}

function openError(code: number, path: string, readonly: boolean): DiskError {
  switch (code) {
    case ErrorCode.ERROR_FILE_NOT_FOUND:
    case ErrorCode.ERROR_PATH_NOT_FOUND:
    case ErrorCode.ERROR_BAD_NETPATH:
    case ErrorCode.ERROR_BAD_NET_NAME:
    case ErrorCode.ERROR_INVALID_NAME:
      return errors.missing(path);
    case ErrorCode.ERROR_ACCESS_DENIED:
    case ErrorCode.ERROR_DIRECTORY:
      // Windows says the same of a folder and of a file that is forbidden.
      return isDirectory(path) ? errors.directory(path) : errors.forbidden(path, readonly);
    case ErrorCode.ERROR_WRITE_PROTECT:
      return errors.readOnlyMedium(path);
    case ErrorCode.ERROR_SHARING_VIOLATION:
    case ErrorCode.ERROR_LOCK_VIOLATION:
      return errors.busy(path, readonly);
    case ErrorCode.ERROR_TOO_MANY_OPEN_FILES:
      return new DiskError("io", `${path}: too many open files; close some programs`);
    default:
      return errors.failed(path, "opening", errorName(code));
  }
}

function isDirectory(path: string): boolean {
  try {
    return Deno.statSync(path).isDirectory;
  } catch {
    return false;
  }
}

function errorName(code: number): string {
  const name = Object.entries(ErrorCode).find(([, value]) => value === code)?.[0];
  return name ? `${name} (${code})` : `Windows error ${code}`;
}
