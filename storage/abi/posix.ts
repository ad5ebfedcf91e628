/**
 * Linux' file calls through FFI. 64-bit offsets reach the call as `bigs[0]`, a BigInt64Array over the two 32-bit halves
 * that were stored just before: V8's optimizing compiler passes the word on without making a BigInt. Measured with
 * `preadv` of nothing, ns a call: u32 offset 208, this 217 (0 collections in 5 M calls), `BigInt(n)` 237 (183
 * collections), a Number to an "i64" or "usize" parameter 352, `struct {u32, u32}` by value 367.
 *
 * macOS is not served here: `open`, `fcntl` and `ioctl` are variadic, and Apple's arm64 convention puts such arguments
 * on the stack, where fixed-arity FFI does not.
 */

/** <asm-generic/fcntl.h>; those below are the same on x86-64 and arm64. */
export const O_RDONLY = 0;
export const O_RDWR = 2;
export const O_CREAT = 0o100;
export const O_EXCL = 0o200;
export const O_CLOEXEC = 0o2000000;
/** O_NONBLOCK: opening a FIFO or a tty by mistake must not hang. */
export const O_NONBLOCK = 0o4000;
/** `__O_TMPFILE | O_DIRECTORY`; O_DIRECTORY differs (<asm/fcntl.h> of arm64). */
export const O_TMPFILE = 0o20000000 | (Deno.build.arch === "aarch64" ? 0o40000 : 0o200000);
export const F_RDLCK = 0;
export const F_WRLCK = 1;
/** <linux/fcntl.h>: locks that belong to the open file, not to the process. */
export const F_OFD_SETLK = 37;
export const F_OFD_GETLK = 36;
export const F_UNLCK = 2;
/** <fcntl.h> `struct flock`. */
export const FLOCK = { size: 32, type: 0, whence: 2, start: 8, length: 16, pid: 24 } as const;

/** <linux/stat.h> `struct statx`, the same on every architecture, unlike `struct stat`. */
export const STATX = { size: 256, mode: 28, fileSize: 40, blocks: 48, rdevMajor: 128, rdevMinor: 132 } as const;
export const STATX_BASIC_STATS = 0x7ff;
export const AT_EMPTY_PATH = 0x1000;
export const S_IFMT = 0o170000;
export const S_IFREG = 0o100000;
export const S_IFDIR = 0o040000;
export const S_IFBLK = 0o060000;

/** <linux/fs.h>. */
export const BLKGETSIZE64 = 0x80081272;
export const BLKDISCARD = 0x1277;
export const BLKZEROOUT = 0x127f;
/** <linux/falloc.h>. */
export const FALLOC_FL_KEEP_SIZE = 1;
export const FALLOC_FL_PUNCH_HOLE = 2;
export const FALLOC_FL_ZERO_RANGE = 0x10;
/** <limits.h>: pieces one vectored call takes. */
export const IOV_MAX = 1024;

/** <asm-generic/errno.h>. */
export const EPERM = 1;
export const ENOENT = 2;
export const EINTR = 4;
export const EIO = 5;
export const ENXIO = 6;
export const EAGAIN = 11;
export const EACCES = 13;
export const EBUSY = 16;
export const ENODEV = 19;
export const ENOTDIR = 20;
export const EISDIR = 21;
export const EINVAL = 22;
export const ENFILE = 23;
export const EMFILE = 24;
export const ETXTBSY = 26;
export const EFBIG = 27;
export const ENOSPC = 28;
export const EROFS = 30;
export const ENOLCK = 37;
export const ENOSYS = 38;
export const ELOOP = 40;
export const EOPNOTSUPP = 95;
export const EDQUOT = 122;

const symbols = {
  open: { parameters: ["buffer", "i32", "u32"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
  // Lengths stay below 2^31 (the kernel's MAX_RW_COUNT), so the ssize_t result fits an i32.
  preadv: { parameters: ["i32", "buffer", "i32", "i64"], result: "i32" },
  pwritev: { parameters: ["i32", "buffer", "i32", "i64"], result: "i32" },
  fdatasync: { parameters: ["i32"], result: "i32" },
  fallocate: { parameters: ["i32", "i32", "i64", "i64"], result: "i32" },
  ftruncate: { parameters: ["i32", "i64"], result: "i32" },
  statx: { parameters: ["i32", "buffer", "i32", "u32", "buffer"], result: "i32" },
  ioctl: { parameters: ["i32", "u32", "buffer"], result: "i32" },
  fcntl: { parameters: ["i32", "i32", "buffer"], result: "i32" },
  unlink: { parameters: ["buffer"], result: "i32" },
  __errno_location: { parameters: [], result: "pointer" },
} as const satisfies Deno.ForeignLibraryInterface;

/** The calls, and this thread's `errno` (module state is per thread: a Worker has its own). */
export interface Posix {
  readonly calls: Deno.DynamicLibrary<typeof symbols>["symbols"];
  readonly errno: Int32Array;
}

let loaded: Posix | null | undefined;

/** glibc's file calls; null where there is no glibc to call (musl, macOS, Windows) or no permission for FFI. */
export function posix(): Posix | null {
  if (loaded !== undefined) return loaded;
  loaded = null;
  if (Deno.build.os === "linux") {
    try {
      const calls = Deno.dlopen("libc.so.6", symbols).symbols;
      const location = calls.__errno_location();
      if (location !== null) {
        loaded = { calls, errno: new Int32Array(Deno.UnsafePointerView.getArrayBuffer(location, 4)) };
      }
    } catch {
      loaded = null;
    }
  }
  return loaded;
}

/** A path as C wants it. */
export function cString(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(text + "\0");
}
