/**
 * Windows' file calls through FFI. Addresses in guest memory reach a call as `words[0]`, a BigUint64Array over the two
 * 32-bit halves stored just before: V8's optimizing compiler passes the word on without making a BigInt (measured for
 * `posix.ts`). Names and numbers are those of the SDK's fileapi.h, winioctl.h, winnt.h, winbase.h and winerror.h;
 * `windows_test.ts` compares every one with mingw-w64's headers.
 */

export const File = {
  GENERIC_READ: 0x80000000,
  GENERIC_WRITE: 0x40000000,
  DELETE: 0x10000,
  FILE_SHARE_READ: 1,
  FILE_SHARE_WRITE: 2,
  FILE_SHARE_DELETE: 4,
  CREATE_NEW: 1,
  OPEN_EXISTING: 3,
  FILE_ATTRIBUTE_NORMAL: 0x80,
  FILE_ATTRIBUTE_TEMPORARY: 0x100,
  FILE_FLAG_DELETE_ON_CLOSE: 0x04000000,
  FILE_TYPE_DISK: 1,
  LOCKFILE_FAIL_IMMEDIATELY: 1,
  LOCKFILE_EXCLUSIVE_LOCK: 2,
  FSCTL_SET_SPARSE: 0x900c4,
  FSCTL_SET_ZERO_DATA: 0x980c8,
  FILE_SUPPORTS_SPARSE_FILES: 0x40,
  FileEndOfFileInfo: 6,
} as const;

export const ErrorCode = {
  ERROR_FILE_NOT_FOUND: 2,
  ERROR_PATH_NOT_FOUND: 3,
  ERROR_TOO_MANY_OPEN_FILES: 4,
  ERROR_ACCESS_DENIED: 5,
  ERROR_WRITE_PROTECT: 19,
  ERROR_SHARING_VIOLATION: 32,
  ERROR_LOCK_VIOLATION: 33,
  ERROR_HANDLE_EOF: 38,
  ERROR_HANDLE_DISK_FULL: 39,
  ERROR_BAD_NETPATH: 53,
  ERROR_BAD_NET_NAME: 67,
  ERROR_DISK_FULL: 112,
  ERROR_INVALID_NAME: 123,
  ERROR_DIRECTORY: 267,
  ERROR_IO_PENDING: 997,
} as const;

/** minwinbase.h `OVERLAPPED`; winioctl.h `FILE_ZERO_DATA_INFORMATION`. */
export const Struct = {
  OVERLAPPED: { Offset: 16, OffsetHigh: 20, sizeof: 32 },
  FILE_ZERO_DATA_INFORMATION: { FileOffset: 0, BeyondFinalZero: 8, sizeof: 16 },
} as const;

const symbols = {
  CreateFileW: { parameters: ["buffer", "u32", "u32", "pointer", "u32", "u32", "pointer"], result: "pointer" },
  CloseHandle: { parameters: ["pointer"], result: "i32" },
  ReadFile: { parameters: ["pointer", "u64", "u32", "buffer", "buffer"], result: "i32" },
  WriteFile: { parameters: ["pointer", "u64", "u32", "buffer", "buffer"], result: "i32" },
  FlushFileBuffers: { parameters: ["pointer"], result: "i32" },
  GetFileSizeEx: { parameters: ["pointer", "buffer"], result: "i32" },
  GetFileType: { parameters: ["pointer"], result: "u32" },
  SetFileInformationByHandle: { parameters: ["pointer", "i32", "buffer", "u32"], result: "i32" },
  LockFileEx: { parameters: ["pointer", "u32", "u32", "u32", "u32", "buffer"], result: "i32" },
  DeviceIoControl: {
    parameters: ["pointer", "u32", "buffer", "u32", "pointer", "u32", "buffer", "pointer"],
    result: "i32",
  },
  GetVolumeInformationByHandleW: {
    parameters: ["pointer", "pointer", "u32", "pointer", "pointer", "buffer", "pointer", "u32"],
    result: "i32",
  },
  GetLastError: { parameters: [], result: "u32" },
} as const satisfies Deno.ForeignLibraryInterface;

/** The names taken from kernel32.dll. */
export const NAMES = Object.keys(symbols);

/** kernel32.dll's file calls. */
export type WindowsFiles = Deno.DynamicLibrary<typeof symbols>["symbols"];

let loaded: WindowsFiles | null | undefined;

/** kernel32.dll's file calls; null elsewhere, or without permission for FFI. */
export function windowsFiles(): WindowsFiles | null {
  if (loaded !== undefined) return loaded;
  loaded = null;
  if (Deno.build.os === "windows") {
    try {
      loaded = Deno.dlopen("kernel32.dll", symbols).symbols;
    } catch {
      loaded = null;
    }
  }
  return loaded;
}

/** A path as Windows' wide calls want it: UTF-16 with a zero at its end. */
export function wideString(text: string): Uint16Array<ArrayBuffer> {
  const wide = new Uint16Array(text.length + 1);
  for (let i = 0; i < text.length; i++) wide[i] = text.charCodeAt(i);
  return wide;
}
