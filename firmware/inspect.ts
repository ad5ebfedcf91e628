/** `hv inspect`: a disk image opened and looked into, without changing it. */
import type { DiskSpec } from "../storage/disk.ts";
import { DiskSource } from "../storage/disk_source.ts";
import { openDisk } from "../storage/open.ts";
import { type DiskReport, reportDisk } from "./find_kernel.ts";

export type { DiskReport } from "./find_kernel.ts";

/**
 * What is on a disk and what `hv run` would start.
 * @param disk path of an image, or how to open it; it is opened read-only
 * @throws HvError when the image cannot be opened or read; what is wrong inside it stands in the report
 */
// Asynchronous for its callers' sake: other image formats may have to be.
export async function inspectDisk(disk: string | DiskSpec): Promise<DiskReport> {
  const spec = typeof disk === "string" ? { path: disk } : disk;
  let opened;
  try {
    opened = await openDisk({ ...spec, readonly: true, ephemeral: false });
    return reportDisk(new DiskSource(opened));
  } finally {
    opened?.close();
  }
}
