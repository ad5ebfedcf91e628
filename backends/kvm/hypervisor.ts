/** KVM, through libc and nothing else. */
import type { Hypervisor, PartitionConfig, PartitionHandle } from "../../core/hypervisor.ts";
import { type KvmHandle, KvmPartition } from "./partition.ts";
import { probeKvm } from "./probe.ts";

/** The backend `--backend kvm` names. */
export const kvm: Hypervisor = {
  name: "kvm",
  probe: () => probeKvm(),
  createPartition(config: PartitionConfig) {
    return KvmPartition.create(config);
  },
  attachPartition(handle: PartitionHandle) {
    return KvmPartition.attach(handle as KvmHandle);
  },
};
