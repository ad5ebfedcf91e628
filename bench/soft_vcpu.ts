/** One vCPU of a partition of the software CPU in a Worker, for bench/soft.ts. */
import { soft } from "../backends/soft/hypervisor.ts";
import { Exit, type PartitionHandle } from "../core/hypervisor.ts";

/** What to run. */
export interface Work {
  handle: PartitionHandle;
  index: number;
  state: ArrayBuffer;
  /** [0]: vCPUs that are ready; [1]: not 0 when they may begin. */
  gate: Int32Array<SharedArrayBuffer>;
}

declare const self: {
  onmessage: (event: MessageEvent<Work>) => void;
  postMessage(exit: number): void;
  close(): void;
};

self.onmessage = ({ data: { handle, index, state, gate } }) => {
  const vcpu = soft.attachPartition(handle).createVcpu(index);
  vcpu.setState(state);
  Atomics.add(gate, 0, 1);
  Atomics.notify(gate, 0);
  Atomics.wait(gate, 1, 0);
  const reason = vcpu.run();
  self.postMessage(reason === Exit.IO_WRITE ? 0 : reason);
  self.close();
};
