/** Windows Hypervisor Platform, through WinHvPlatform.dll and kernel32.dll and nothing else. */
import type { Hypervisor, PartitionConfig, PartitionHandle } from "../../core/hypervisor.ts";
import { type WhpxHandle, WhpxPartition } from "./partition.ts";
import { probeWhpx } from "./probe.ts";

/** The backend `--backend whpx` names. */
export const whpx: Hypervisor = {
  name: "whpx",
  probe: () => probeWhpx(),
  createPartition(config: PartitionConfig) {
    return WhpxPartition.create(config);
  },
  attachPartition(handle: PartitionHandle) {
    return WhpxPartition.attach(handle as WhpxHandle);
  },
};
