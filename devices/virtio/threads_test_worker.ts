/** The I/O Worker of threads_test.ts. */
import { VirtioBlock } from "./block.ts";
import { MemoryDisk, TestMachine } from "./testing.ts";

/** What the test posts. */
export interface Start {
  ram: SharedArrayBuffer;
  registers: WebAssembly.Memory;
  /** Word 0: rung by `wake`; 1: interrupts sent; 2: set to stop; 3: set once serving. */
  control: SharedArrayBuffer;
  memoryBytes: number;
}

declare const self: { onmessage: (event: MessageEvent<Start>) => void; postMessage(report: string[]): void };

self.onmessage = ({ data: { ram, registers, control, memoryBytes } }) => {
  const words = new Int32Array(control);
  const machine = new TestMachine(memoryBytes, undefined, { ram, registers });
  machine.messages.push = () => Atomics.add(words, 1, 1) + 1;
  const disk = new MemoryDisk(1 << 20);
  const block = new VirtioBlock(machine.file, {
    wake: () => {},
    capacity: disk.size,
    readonly: false,
    discardable: true,
    serial: "T",
    queues: 2,
    queueSize: 64,
  });
  machine.add(block, 1);
  block.attach({ memory: machine.memory, report: machine.report, disk });
  Atomics.store(words, 3, 1);
  Atomics.notify(words, 3);
  while (Atomics.load(words, 2) === 0) {
    const rung = Atomics.load(words, 0);
    if (block.service()) continue;
    Atomics.wait(words, 0, rung, 1000);
  }
  self.postMessage(machine.reports);
};
