/** The host bridge at 00:00.0: what a driver finds first, with nothing behind it to drive. */
import type { RegisterFile } from "../../core/registers.ts";
import type { PciBus } from "./bus.ts";
import { PciFunction } from "./function.ts";

/** 1B36:0008 is the number registered for a virtual machine's plain PCI Express host bridge. */
const IDENTITY = {
  vendor: 0x1b36,
  device: 0x0008,
  revision: 0,
  classCode: 0x060000,
  subsystemVendor: 0x1af4,
  subsystem: 0x1100,
};

/** Function 0 of slot 0. */
export class HostBridge extends PciFunction {
  constructor(file: RegisterFile, bus: PciBus) {
    super(file, bus, 0, IDENTITY);
  }
}
