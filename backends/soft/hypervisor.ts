/** The software CPU as a backend: it runs everywhere. */
import type { Hypervisor, Partition, PartitionConfig, PartitionHandle, Support } from "../../core/hypervisor.ts";
import { PHYSICAL_BITS } from "./cpu/mmu.ts";
import { MAXIMUM_MEMORY, type Memories } from "./layout.ts";
import { SoftPartition } from "./partition.ts";

/** Most vCPUs in a partition. */
const MAXIMUM_CPUS = 8;

export const soft: Hypervisor = {
  name: "soft",

  probe(): Support {
    return {
      usable: true,
      reason: "the software CPU runs x86-64 guests on any machine, without virtualization",
      architectures: ["x86_64"],
      maxVcpus: MAXIMUM_CPUS,
      maxMemory: MAXIMUM_MEMORY,
      physicalAddressBits: PHYSICAL_BITS,
      features: {},
      restricted: false,
    };
  },

  createPartition(config: PartitionConfig): Partition {
    if (config.architecture !== "x86_64") {
      throw new Error(`the software CPU runs x86_64 guests, not ${config.architecture}`);
    }
    if (config.cpus > MAXIMUM_CPUS) throw new RangeError(`the software CPU has at most ${MAXIMUM_CPUS} vCPUs`);
    if (config.memory > MAXIMUM_MEMORY) throw new RangeError("the software CPU's guests have at most 16 GiB of memory");
    return new SoftPartition(config);
  },

  attachPartition(handle: PartitionHandle): Partition {
    return new SoftPartition(handle.config, handle.memories as Memories);
  },
};
