/** Linux: vectored positioned I/O through glibc, open-file-description locks, holes. */
import {
  AT_EMPTY_PATH,
  BLKGETSIZE64,
  BLKZEROOUT,
  cString,
  EACCES,
  EAGAIN,
  EBUSY,
  EDQUOT,
  EFBIG,
  EINTR,
  EINVAL,
  EIO,
  EISDIR,
  ELOOP,
  EMFILE,
  ENFILE,
  ENODEV,
  ENOENT,
  ENOLCK,
  ENOSPC,
  ENOSYS,
  ENOTDIR,
  ENXIO,
  EOPNOTSUPP,
  EPERM,
  EROFS,
  ETXTBSY,
  F_OFD_GETLK,
  F_OFD_SETLK,
  F_RDLCK,
  F_UNLCK,
  F_WRLCK,
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  FALLOC_FL_ZERO_RANGE,
  FLOCK,
  IOV_MAX,
  O_CLOEXEC,
  O_CREAT,
  O_EXCL,
  O_NONBLOCK,
  O_RDONLY,
  O_RDWR,
  O_TMPFILE,
  type Posix,
  posix,
  S_IFBLK,
  S_IFDIR,
  S_IFMT,
  S_IFREG,
  STATX,
  STATX_BASIC_STATS,
} from "./abi/posix.ts";
import { DiskError, type IoVector } from "./disk.ts";
import { vectorLength } from "./io_vector.ts";
import { writeZeroes } from "./write_zeroes.ts";
import * as errors from "./host_file_errors.ts";
import type { HostFile } from "./host_file.ts";

const TWO_32 = 0x1_0000_0000;

// QEMU's image locking protocol (its block/file-posix.c): byte 100 + n is locked by who uses power n, byte 200 + n by
// who does not let others use it; powers are 0 read consistently, 1 write, 3 resize. Keeping to it makes hv and QEMU
// refuse each other's disks.
const LOCK_START = 100;
const LOCK_LENGTH = 200;
const LOCK_READ = 100;
const LOCK_WRITE = 101;
const LOCK_NO_WRITERS = 201;
const LOCK_NO_WRITERS_LENGTH = 99;

export class LinuxHostFile implements HostFile {
  readonly path: string;
  readonly readonly: boolean;
  size: number;
  sparse: boolean;
  private readonly posix: Posix;
  private readonly fd: number;
  private readonly isBlockDevice: boolean;
  private closed = false;
  private flushFailed = false;
  /** `struct iovec` array, as halves: address low, address high, length, 0. */
  private iov = new Uint32Array(4 * 16);
  // One word for preadv, two for fallocate.
  private readonly halves = new Int32Array(4);
  private readonly words = new BigInt64Array(this.halves.buffer);
  private unsafeBytes: Uint8Array | null = null;
  private unsafeAddress = 0;

  private constructor(p: Posix, path: string, fd: number, readonly: boolean, isBlockDevice: boolean) {
    this.posix = p;
    this.path = path;
    this.fd = fd;
    this.readonly = readonly;
    this.isBlockDevice = isBlockDevice;
    this.size = 0;
    this.sparse = false;
  }

  static open(path: string, readonly: boolean, locked = true): LinuxHostFile {
    const p = posix()!;
    const name = cString(path);
    // O_EXCL without O_CREAT on a block device: the kernel refuses while it is mounted or otherwise claimed.
    let flags = (readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK;
    if (!readonly && isBlockDevice(path)) flags |= O_EXCL;
    const fd = p.calls.open(name, flags, 0);
    if (fd < 0) throw openError(p.errno[0], path, readonly);
    try {
      const status = statx(p, fd, path);
      const kind = new DataView(status.buffer).getUint16(STATX.mode, true) & S_IFMT;
      if (kind === S_IFDIR) throw errors.directory(path);
      if (kind !== S_IFREG && kind !== S_IFBLK) throw errors.notAFile(path);
      const file = new LinuxHostFile(p, path, fd, readonly, kind === S_IFBLK);
      if (locked) file.lock();
      file.refresh();
      file.sparse = !readonly && (kind === S_IFBLK ? unmapsToZeroes(status) : file.probeHoles());
      return file;
    } catch (error) {
      p.calls.close(fd);
      throw error;
    }
  }

  static openTemporary(folder: string, size: number): LinuxHostFile {
    const p = posix()!;
    let fd = p.calls.open(cString(folder), O_TMPFILE | O_RDWR | O_CLOEXEC, 0o600);
    if (fd < 0 && (p.errno[0] === EOPNOTSUPP || p.errno[0] === EISDIR || p.errno[0] === EINVAL)) {
      // File systems without O_TMPFILE: a name for an instant.
      const name = cString(`${folder}/hv-overlay-${crypto.randomUUID()}`);
      fd = p.calls.open(name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0o600);
      if (fd >= 0) p.calls.unlink(name);
    }
    if (fd < 0) {
      throw new DiskError(
        "permission",
        `${folder}: no temporary file can be made there (${errorName(p.errno[0])}); set TMPDIR to a writable folder`,
      );
    }
    const file = new LinuxHostFile(p, `temporary file in ${folder}`, fd, false, false);
    try {
      file.truncate(size);
      file.sparse = file.probeHoles();
    } catch (error) {
      file.close();
      throw error;
    }
    return file;
  }

  read(offset: number, vector: IoVector): number {
    const total = vectorLength(vector);
    let done = 0;
    while (done < total) {
      const count = this.fill(vector, done);
      this.setWord(0, offset + done);
      const n = this.posix.calls.preadv(this.fd, this.iov, count, this.words[0]);
      if (n > 0) done += n;
      else if (n === 0) break;
      else if (this.posix.errno[0] !== EINTR) throw this.ioError("reading");
    }
    return done;
  }

  write(offset: number, vector: IoVector): void {
    if (this.readonly) throw errors.refusedWrite(this.path);
    const total = vectorLength(vector);
    let done = 0;
    while (done < total) {
      const count = this.fill(vector, done);
      this.setWord(0, offset + done);
      const n = this.posix.calls.pwritev(this.fd, this.iov, count, this.words[0]);
      if (n > 0) done += n;
      else if (n === 0) throw errors.failed(this.path, "writing", "nothing was taken");
      else if (this.posix.errno[0] !== EINTR) throw this.ioError("writing");
    }
    if (offset + total > this.size) this.size = offset + total;
  }

  flush(): void {
    // Linux reports a failed write-back once and then forgets the pages: a later success would be a lie.
    if (this.flushFailed) throw errors.failed(this.path, "flushing", "an earlier flush failed, data was lost");
    while (this.posix.calls.fdatasync(this.fd) < 0) {
      const errno = this.posix.errno[0];
      if (errno === EINTR) continue;
      if (errno === EINVAL || errno === EROFS) return;
      this.flushFailed = true;
      throw this.ioError("flushing");
    }
  }

  punch(offset: number, length: number): boolean {
    if (this.readonly) throw errors.refusedWrite(this.path);
    if (length === 0) return true;
    if (!this.sparse) return false;
    if (this.fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length)) return true;
    this.sparse = false;
    return false;
  }

  zero(offset: number, length: number, unmap: boolean): void {
    if (this.readonly) throw errors.refusedWrite(this.path);
    if (length === 0 || (unmap && this.punch(offset, length))) return;
    if (this.isBlockDevice) {
      if (offset % 512 === 0 && length % 512 === 0 && this.zeroOut(offset, length)) return;
    } else if (this.fallocate(FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length)) {
      return;
    }
    writeZeroes(this, offset, length);
  }

  truncate(size: number): void {
    this.setWord(0, size);
    while (this.posix.calls.ftruncate(this.fd, this.words[0]) < 0) {
      if (this.posix.errno[0] !== EINTR) throw this.ioError(`resizing to ${size} bytes`);
    }
    this.size = size;
  }

  refresh(): number {
    if (this.isBlockDevice) {
      const size = new Uint32Array(2);
      if (this.posix.calls.ioctl(this.fd, BLKGETSIZE64, new Uint8Array(size.buffer)) < 0) {
        throw this.ioError("asking for the size");
      }
      this.size = size[0] + size[1] * TWO_32;
    } else {
      const status = new DataView(statx(this.posix, this.fd, this.path).buffer);
      this.size = status.getUint32(STATX.fileSize, true) + status.getUint32(STATX.fileSize + 4, true) * TWO_32;
    }
    return this.size;
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.posix.calls.close(this.fd);
  }

  private lock(): void {
    const granted = this.readonly
      ? this.lockRange(F_RDLCK, LOCK_READ, 1) && this.lockRange(F_RDLCK, LOCK_NO_WRITERS, LOCK_NO_WRITERS_LENGTH) &&
        !this.isWrittenElsewhere()
      : this.lockRange(F_WRLCK, LOCK_START, LOCK_LENGTH);
    if (!granted) throw errors.busy(this.path, this.readonly);
  }

  private lockRange(type: number, start: number, length: number): boolean {
    const flock = describeLock(type, start, length);
    while (this.posix.calls.fcntl(this.fd, F_OFD_SETLK, flock) < 0) {
      const errno = this.posix.errno[0];
      if (errno === EAGAIN || errno === EACCES) return false;
      // File systems without locks (some FUSE and network ones): an image there works, unguarded, as with QEMU.
      if (errno === ENOLCK || errno === EOPNOTSUPP || errno === ENOSYS || errno === EINVAL) return true;
      if (errno !== EINTR) throw this.ioError("locking");
    }
    return true;
  }

  /** A writing QEMU locks its byte for reading only, so it takes asking whether we could lock it for writing. */
  private isWrittenElsewhere(): boolean {
    const flock = describeLock(F_WRLCK, LOCK_WRITE, 1);
    if (this.posix.calls.fcntl(this.fd, F_OFD_GETLK, flock) < 0) return false;
    return new DataView(flock.buffer).getInt16(FLOCK.type, true) !== F_UNLCK;
  }

  /** Builds the iovecs of what is left after `skip` bytes. @returns how many */
  private fill(vector: IoVector, skip: number): number {
    const base = vector.hostAddress !== 0 ? vector.hostAddress : this.addressOf(vector.bytes);
    if (this.iov.length < 4 * Math.min(vector.count, IOV_MAX)) this.iov = new Uint32Array(4 * IOV_MAX);
    const iov = this.iov;
    let n = 0;
    for (let i = 0; i < vector.count && n < IOV_MAX; i++) {
      const length = vector.lengths[i];
      if (skip >= length) {
        skip -= length;
        continue;
      }
      const address = base + vector.offsets[i] + skip;
      const high = Math.floor(address / TWO_32);
      iov[4 * n] = address - high * TWO_32;
      iov[4 * n + 1] = high;
      iov[4 * n + 2] = length - skip;
      iov[4 * n + 3] = 0;
      n++;
      skip = 0;
    }
    return n;
  }

  private addressOf(bytes: Uint8Array): number {
    if (this.unsafeBytes !== bytes) {
      // Asking for `buffer` moves small arrays off V8's heap, after which they stay where they are.
      if (bytes.buffer.byteLength === 0) return 0;
      this.unsafeAddress = Number(Deno.UnsafePointer.value(Deno.UnsafePointer.of(bytes as Uint8Array<ArrayBuffer>)));
      this.unsafeBytes = bytes;
    }
    return this.unsafeAddress;
  }

  private setWord(index: number, value: number): void {
    const high = Math.floor(value / TWO_32);
    this.halves[2 * index] = value - high * TWO_32;
    this.halves[2 * index + 1] = high;
  }

  /** @returns false where the file system cannot do it */
  private fallocate(mode: number, offset: number, length: number): boolean {
    this.setWord(0, offset);
    this.setWord(1, length);
    while (this.posix.calls.fallocate(this.fd, mode, this.words[0], this.words[1]) < 0) {
      const errno = this.posix.errno[0];
      if (errno === EOPNOTSUPP || errno === ENOSYS || errno === ENODEV || errno === EPERM || errno === EINVAL) {
        return false;
      }
      if (errno !== EINTR) throw this.ioError("freeing space");
    }
    return true;
  }

  private zeroOut(offset: number, length: number): boolean {
    this.setWord(0, offset);
    this.setWord(1, length);
    return this.posix.calls.ioctl(this.fd, BLKZEROOUT, new Uint8Array(this.halves.buffer)) === 0;
  }

  /** A hole behind the end changes nothing, and tells whether holes can be made. */
  private probeHoles(): boolean {
    const end = Math.ceil(this.size / 4096) * 4096;
    return this.fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, end, 4096);
  }

  private ioError(doing: string): DiskError {
    const errno = this.posix.errno[0];
    if (errno === ENOSPC || errno === EDQUOT) return errors.full(this.path);
    if (errno === EFBIG) {
      return new DiskError(
        "full",
        `${this.path}: larger than a file may be there; check ulimit -f and the file system`,
      );
    }
    return errors.failed(this.path, doing, errorName(errno));
  }
}

function describeLock(type: number, start: number, length: number): Uint8Array<ArrayBuffer> {
  const flock = new Uint8Array(FLOCK.size);
  const view = new DataView(flock.buffer);
  view.setInt16(FLOCK.type, type, true);
  view.setUint32(FLOCK.start, start, true);
  view.setUint32(FLOCK.length, length, true);
  return flock;
}

function isBlockDevice(path: string): boolean {
  try {
    return Deno.statSync(path).isBlockDevice === true;
  } catch {
    return false;
  }
}

function statx(p: Posix, fd: number, path: string): Uint8Array<ArrayBuffer> {
  const status = new Uint8Array(STATX.size);
  if (p.calls.statx(fd, cString(""), AT_EMPTY_PATH, STATX_BASIC_STATS, status) < 0) {
    throw errors.failed(path, "asking for the size", errorName(p.errno[0]));
  }
  return status;
}

/** Whether the device takes write-zeroes with unmapping (sysfs' queue/write_zeroes_max_bytes); partitions ask theirs. */
function unmapsToZeroes(status: Uint8Array<ArrayBuffer>): boolean {
  const view = new DataView(status.buffer);
  const id = `${view.getUint32(STATX.rdevMajor, true)}:${view.getUint32(STATX.rdevMinor, true)}`;
  for (const folder of [`/sys/dev/block/${id}`, `/sys/dev/block/${id}/..`]) {
    try {
      return Number(Deno.readTextFileSync(`${folder}/queue/write_zeroes_max_bytes`)) > 0;
    } catch {
      continue;
    }
  }
  return false;
}

function openError(errno: number, path: string, readonly: boolean): DiskError {
  switch (errno) {
    case ENOENT:
    case ENOTDIR:
      return errors.missing(path);
    case EACCES:
    case EPERM:
      return errors.forbidden(path, readonly);
    case EISDIR:
      return errors.directory(path);
    case EROFS:
      return errors.readOnlyMedium(path);
    case EBUSY:
    case ETXTBSY:
      return new DiskError(
        "busy",
        `${path}: the host itself uses it (mounted, swap, or part of a volume); release it first`,
      );
    case ENXIO:
    case ENODEV:
      return errors.notAFile(path);
    case ELOOP:
      return new DiskError("missing", `${path}: its symbolic links lead in a circle; name the image itself`);
    case EMFILE:
    case ENFILE:
      return new DiskError("io", `${path}: too many open files; raise the limit with: ulimit -n 65536`);
    default:
      return errors.failed(path, "opening", errorName(errno));
  }
}

function errorName(errno: number): string {
  switch (errno) {
    case EIO:
      return "input/output error";
    case EACCES:
    case EPERM:
      return "permission denied";
    case ENOENT:
      return "no such folder";
    case ENOSPC:
      return "no space left";
    default:
      return `error ${errno}`;
  }
}
