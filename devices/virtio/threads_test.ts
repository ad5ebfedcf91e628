import assert from "node:assert/strict";
import { VirtioBlock } from "./block.ts";
import { Status, Word } from "./device.ts";
import { TestMachine, VirtioDriver } from "./testing.ts";
import type { Start } from "./threads_test_worker.ts";

const MEMORY = 8 << 20;

Deno.test("two threads: requests, notifications, resets and queue resets, none lost and nothing written after", async () => {
  const machine = new TestMachine(MEMORY);
  const words = new Int32Array(new SharedArrayBuffer(64));
  const wake = () => {
    Atomics.add(words, 0, 1);
    Atomics.notify(words, 0);
  };
  const block = new VirtioBlock(machine.file, {
    wake,
    capacity: 1 << 20,
    readonly: false,
    discardable: true,
    serial: "T",
    queues: 2,
    queueSize: 64,
  });
  machine.add(block, 1);
  machine.start();
  const worker = new Worker(new URL("./threads_test_worker.ts", import.meta.url), { type: "module" });
  const ended = new Promise<string[]>((resolve, reject) => {
    worker.onmessage = (event) => resolve(event.data);
    worker.onerror = (event) => reject(new Error(event.message));
  });
  try {
    worker.postMessage(
      {
        ram: machine.memory.bytes.buffer as SharedArrayBuffer,
        registers: machine.file.memory,
        control: words.buffer,
        memoryBytes: MEMORY,
      } satisfies Start,
    );
    Atomics.wait(words, 3, 0, 20000);
    assert.equal(words[3], 1, "the I/O Worker started");

    const driver = new VirtioDriver(machine, 1);
    const allocator = machine as unknown as { next: number };
    const base = allocator.next;
    const { bytes } = machine.memory;
    let served = 0;
    let seed = 7;
    const next = (below: number) => {
      seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
      return (seed >> 8) % below;
    };
    const offer = (queue: number) => {
      const at = machine.allocate(4096 + 64);
      machine.memory.view.setUint32(at + 8, next(1000), true);
      bytes[at + 4112] = 0xee;
      const id = driver.queues[queue].offer([
        { address: at, length: 16 },
        { address: at + 16, length: 4097, write: true },
      ]);
      if (id >= 0 && driver.queues[queue].wantsNotification()) driver.notifyQueue(queue);
      return id >= 0 ? at + 4112 : -1;
    };
    /** Spins, with a bound in time: a lost notification ends here. */
    const until = (what: string, done: () => boolean) => {
      const start = performance.now();
      while (!done()) assert.ok(performance.now() - start < 20000, `${what}: waited in vain`);
    };
    for (let round = 0; round < 60; round++) {
      allocator.next = base;
      const layout = round % 2 === 0 ? "split" : "packed";
      driver.start(layout, 16, 2, [12], round % 3 !== 0);
      for (const queue of driver.queues) queue.allowInterrupts(true);
      // Everything that is offered comes back, although each side notifies only when asked.
      for (let burst = 0; burst < 4; burst++) {
        let offered = 0;
        let used = 0;
        for (let i = 1 + next(20); i > 0; i--) {
          if (offer(next(2)) >= 0) offered++;
          if (next(3) === 0) used += driver.queues.reduce((n, q) => n + q.collect().length, 0);
        }
        until(`round ${round}, ${layout}`, () => {
          used += driver.queues.reduce((n, q) => n + q.collect().length, 0);
          return used === offered;
        });
        served += used;
      }
      // And what is under way when a reset comes has ended when the reset has.
      for (let i = 0; i < 6; i++) offer(i % 2);
      for (let spin = next(3000); spin > 0; spin--) Atomics.load(words, 5);
      if (next(2) === 0) {
        driver.status = 0;
        until("device reset", () => driver.status === 0);
      } else {
        machine.write(driver.common + 22, 2, 0);
        machine.write(driver.common + 58, 2, 1);
        until("queue reset", () => machine.read(driver.common + 58, 2) === 0);
        assert.equal(machine.read(driver.common + 28, 2), 0);
        // A whole request: the Worker may be at it already when the reset comes.
        const at = machine.allocate(32);
        until("the other queue goes on", () => {
          driver.queues[1].collect();
          return driver.queues[1].offer([{ address: at, length: 16 }, { address: at + 16, length: 1, write: true }]) >=
            0;
        });
        driver.status = 0;
        until("device reset", () => driver.status === 0);
      }
      bytes.fill(0x33, base, allocator.next);
      for (let spin = next(20000); spin > 0; spin--) Atomics.load(words, 5);
      const touched = bytes.subarray(base, allocator.next).findIndex((byte) => byte !== 0x33);
      assert.equal(touched, -1, `round ${round}: guest memory was written after the reset`);
    }
    assert.ok(served > 1200, `${served} requests`);
    assert.equal(block.registers.words[Word.FAULTS], 0);
    assert.equal(block.status & Status.NEEDS_RESET, 0);
    assert.ok(Atomics.load(words, 1) > 0);
  } finally {
    Atomics.store(words, 2, 1);
    wake();
  }
  assert.deepEqual(await ended, []);
  worker.terminate();
});
