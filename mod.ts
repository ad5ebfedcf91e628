/**
 * hv: virtual machines from Deno.
 *
 * ```ts
 * import { Machine } from "./mod.ts";
 *
 * await using machine = await Machine.create({ disks: ["disk.img"], memory: "1G", ephemeral: true });
 * machine.start();
 * await machine.console.expect("login:", { timeout: "90s" });
 * await machine.console.sendLine("root");
 * ```
 *
 * @module
 */
import type { DiskReport } from "./firmware/inspect.ts";
import type { DiskSpec } from "./storage/disk.ts";

export { Machine } from "./core/machine.ts";
export type { MachineEnd, MachineOptions, MachineState, MachineStats } from "./core/machine.ts";
export type { Console, ExpectMatch } from "./core/console.ts";
export { DiskError, type DiskSpec } from "./storage/disk.ts";
export type { DiskReport } from "./firmware/inspect.ts";
export { HvError } from "./core/errors.ts";
export { formatSize, parseDuration, parseSize } from "./core/units.ts";
export { BACKEND_NAMES, type BackendProbe, chooseBackend, probeBackends } from "./backends/choose.ts";
export type { BackendName, Support } from "./core/hypervisor.ts";
export { VERSION } from "./core/version.ts";

/**
 * What is on a disk and what `hv run` would start.
 * @param disk path of an image, or how to open it; it is opened read-only
 * @throws HvError when the image cannot be opened or read; what is wrong inside it stands in the report
 */
export async function inspectDisk(disk: string | DiskSpec): Promise<DiskReport> {
  // Loaded when it is asked for: a machine starts without it.
  return await (await import("./firmware/inspect.ts")).inspectDisk(disk);
}
