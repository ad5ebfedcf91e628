/** Runs fuzzed guests, one after another, on one vCPU. */
import { Exit, EXIT_NAMES, type PartitionHandle, type Vcpu } from "../../core/hypervisor.ts";
import { soft } from "../../backends/soft/hypervisor.ts";
import { buildControllers } from "../conformance/controllers.ts";
import { FUZZ_RAM, fuzzCase } from "./fuzz_case.ts";
import { Random } from "./random.ts";

export interface FuzzRequest {
  handle: PartitionHandle;
  controllers: WebAssembly.Memory;
  shared: SharedArrayBuffer;
  first: number;
  count: number;
}

/** Words shared with the Worker: what it is at, and whether the case's time is over. */
export const FuzzWord = { SEED: 0, RUNS: 1, STOP: 2, WORDS: 16 } as const;

export interface FuzzReport {
  /** How the cases ended, by name. */
  ends: Record<string, number>;
  /** What went wrong: seed and words. */
  failures: { seed: number; mode: string; error: string }[];
  /** Most bytes of V8's heap and outside of it, after a case. */
  memory: number;
}

/** Most exits of a case. */
const MAXIMUM_EXITS = 64;

self.onmessage = ({ data }: MessageEvent<FuzzRequest>) => {
  const words = new Int32Array(data.shared);
  const partition = soft.attachPartition(data.handle);
  const memory = partition.memory();
  const ram = new Uint8Array(memory.buffer, memory.byteOffset, FUZZ_RAM);
  let vcpu = openVcpu();
  const report: FuzzReport = { ends: {}, failures: [], memory: 0 };
  function openVcpu(): Vcpu {
    const made = partition.createVcpu(0);
    const controllers = buildControllers(partition, 1, data.controllers, 0);
    made.attachLocalApic(controllers.apics[0]);
    return made;
  }
  for (let seed = data.first; seed < data.first + data.count; seed++) {
    const it = fuzzCase(seed);
    try {
      it.fill(ram);
      vcpu.setState(it.state);
      Atomics.store(words, FuzzWord.STOP, 0);
      Atomics.store(words, FuzzWord.SEED, seed);
      Atomics.add(words, FuzzWord.RUNS, 1);
      const end = runCase(vcpu, new Random(seed), words);
      report.ends[end] = (report.ends[end] ?? 0) + 1;
    } catch (error) {
      report.failures.push({ seed, mode: it.mode, error: (error as Error).stack ?? String(error) });
      vcpu.close();
      vcpu = openVcpu();
      if (report.failures.length > 20) break;
    }
    if (seed % 64 === 0) {
      const { rss } = Deno.memoryUsage();
      report.memory = Math.max(report.memory, rss);
    }
  }
  Atomics.store(words, FuzzWord.SEED, -1);
  vcpu.close();
  self.postMessage(report);
};

function runCase(vcpu: Vcpu, random: Random, words: Int32Array): string {
  for (let exits = 0; exits < MAXIMUM_EXITS; exits++) {
    const reason = vcpu.run();
    switch (reason) {
      case Exit.IO_READ:
      case Exit.MMIO_READ:
        for (let i = 0; i < vcpu.size * vcpu.count; i++) vcpu.bytes[vcpu.dataOffset + i] = random.next();
        break;
      case Exit.MSR_READ:
      case Exit.MSR_WRITE:
        vcpu.msrFault = random.below(2);
        break;
      case Exit.IO_WRITE:
      case Exit.MMIO_WRITE:
        break;
      case Exit.INTERRUPTED:
        if (Atomics.load(words, FuzzWord.STOP) !== 0) return "INTERRUPTED";
        break;
      default:
        return EXIT_NAMES[reason];
    }
  }
  return "exits";
}
