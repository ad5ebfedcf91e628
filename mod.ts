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
export { Machine } from "./core/machine.ts";
export type { MachineEnd, MachineOptions, MachineState, MachineStats } from "./core/machine.ts";
export type { Console, ExpectMatch } from "./core/console.ts";
export type { DiskSpec } from "./storage/disk.ts";
export { HvError } from "./core/errors.ts";
export { formatSize, parseDuration, parseSize } from "./core/units.ts";
export { BACKEND_NAMES, type BackendProbe, chooseBackend, probeBackends } from "./backends/choose.ts";
export type { BackendName, Support } from "./core/hypervisor.ts";
export { inspectDisk } from "./firmware/inspect.ts";
export { VERSION } from "./core/version.ts";
