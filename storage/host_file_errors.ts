/** What the host refused, in words that say what to do. */
import { DiskError } from "./disk.ts";

export function missing(path: string): DiskError {
  return new DiskError(
    "missing",
    `${path}: no such file; check the path, or make a disk of 10 GiB with: truncate -s 10G ${path}`,
  );
}

export function forbidden(path: string, readonly: boolean): DiskError {
  const doing = readonly ? "read" : "write";
  const hint = readonly ? "chmod it, or run as its owner" : "chmod it, or open it read-only or ephemeral";
  return new DiskError("permission", `${path}: no permission to ${doing} it; ${hint}`);
}

export function directory(path: string): DiskError {
  return new DiskError("format", `${path}: is a directory, not a disk image; name the image file inside it`);
}

export function notAFile(path: string): DiskError {
  return new DiskError("format", `${path}: is neither a file nor a block device, so it cannot be a disk`);
}

export function readOnlyMedium(path: string): DiskError {
  return new DiskError("readonly", `${path}: lies on a read-only file system; open it read-only or ephemeral`);
}

export function busy(path: string, readonly: boolean): DiskError {
  return new DiskError(
    "busy",
    readonly
      ? `${path}: another process has it open for writing; stop that machine first, or use a copy`
      : `${path}: another process has it open; stop that machine first, or start this one ephemeral or on a copy`,
  );
}

export function full(path: string): DiskError {
  return new DiskError("full", `${path}: no space left on the host's file system; free some and try again`);
}

export function failed(path: string, doing: string, reason: string): DiskError {
  return new DiskError("io", `${path}: ${doing} failed: ${reason}; check the host's medium and its kernel log`);
}

export function refusedWrite(path: string): DiskError {
  return new DiskError("readonly", `${path}: was opened read-only`);
}
