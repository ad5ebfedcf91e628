/**
 * What a request costs on its way through a virtqueue, without the disk: 4 KiB reads in batches of 32 by a driver that
 * does as little as the specification lets it. Baseline: the same calls of the same disk, with nothing in between.
 *
 *     deno run -A bench/virtqueue.ts
 */
import v8 from "node:v8";
import { VirtioBlock } from "../devices/virtio/block.ts";
import { MemoryDisk, TestMachine, VirtioDriver } from "../devices/virtio/testing.ts";
import { Descriptor } from "../devices/virtio/queue.ts";

const REQUESTS = 1 << 20;
const BATCH = 32;
const SIZE = 128;
const BYTES = 4096;

/** Reads nothing: what is left is the queue. */
class NoDisk extends MemoryDisk {
  touched = 0;
  override read(offset: number, vector: { lengths: Int32Array; count: number }): void {
    for (let i = 0; i < vector.count; i++) this.touched += vector.lengths[i];
    this.touched += offset;
  }
}

interface Run {
  name: string;
  /** Serves a batch. */
  batch: () => void;
}

function direct(): Run {
  const disk = new NoDisk(1 << 20);
  const vector = { offsets: new Float64Array(4), lengths: new Int32Array(4).fill(BYTES), count: 1 };
  return {
    name: "direct calls",
    batch: () => {
      for (let i = 0; i < BATCH; i++) disk.read(i * BYTES, vector);
    },
  };
}

function queue(layout: "split" | "packed", indirect: boolean): Run {
  const machine = new TestMachine(64 << 20);
  const disk = new NoDisk(1 << 20);
  const block = new VirtioBlock(machine.file, {
    wake: () => {},
    capacity: disk.size,
    readonly: false,
    discardable: true,
    serial: "bench",
    queueSize: SIZE,
  });
  machine.add(block, 1);
  machine.start();
  block.attach({ memory: machine.memory, report: machine.report, disk });
  const driver = new VirtioDriver(machine, 1);
  driver.start(layout, SIZE, 1, [9]);
  const ring = driver.queues[0];
  ring.allowInterrupts(false); // an interrupt's cost is the backend's
  const { words, halfWords, bytes } = machine.memory;
  const header = machine.allocate(32 * BATCH);
  const data = machine.allocate(BYTES * BATCH, 4096);
  const tables = machine.allocate(48 * BATCH);
  for (let i = 0; i < BATCH; i++) words[(header + i * 32) / 4 + 2] = i * 8;
  const put = (at: number, address: number, length: number, last: number) => {
    const word = at >> 2;
    words[word] = address;
    words[word + 1] = 0;
    words[word + 2] = length;
    words[word + 3] = last;
  };
  for (let i = 0; i < BATCH; i++) {
    const table = tables + i * 48;
    put(table, header + i * 32, 16, Descriptor.NEXT | (1 << 16));
    put(table + 16, data + i * BYTES, BYTES, Descriptor.NEXT | Descriptor.WRITE | (2 << 16));
    put(table + 32, header + i * 32 + 16, 1, Descriptor.WRITE);
  }
  if (layout === "packed") {
    // In a packed table flags are the high half.
    for (let i = 0; i < BATCH; i++) {
      for (let k = 0; k < 3; k++) words[((tables + i * 48 + k * 16) >> 2) + 3] = k === 0 ? 0 : Descriptor.WRITE << 16;
    }
  }
  let available = 0;
  let next = 0;
  let wrap = 1;
  const splitBatch = () => {
    for (let i = 0; i < BATCH; i++) {
      const at = ring.descriptors + i * 3 * 16;
      if (indirect) put(ring.descriptors + i * 16, tables + i * 48, 48, Descriptor.INDIRECT);
      else {
        put(at, header + i * 32, 16, Descriptor.NEXT | ((i * 3 + 1) << 16));
        put(at + 16, data + i * BYTES, BYTES, Descriptor.NEXT | Descriptor.WRITE | ((i * 3 + 2) << 16));
        put(at + 32, header + i * 32 + 16, 1, Descriptor.WRITE);
      }
      halfWords[(ring.driver >> 1) + 2 + (available & (SIZE - 1))] = indirect ? i : i * 3;
      available = (available + 1) & 0xffff;
    }
    Atomics.store(halfWords, (ring.driver >> 1) + 1, available);
    block.service();
    if (halfWords[(ring.device >> 1) + 1] !== available || bytes[header + 16] !== 0) throw new Error("not served");
  };
  const packedOne = (address: number, length: number, id: number, flags: number) => {
    put(ring.descriptors + next * 16, address, length, id | ((flags | (wrap ? 0x80 : 0x8000)) << 16));
    if (++next === SIZE) {
      next = 0;
      wrap ^= 1;
    }
  };
  const packedBatch = () => {
    for (let i = 0; i < BATCH; i++) {
      if (indirect) packedOne(tables + i * 48, 48, i, Descriptor.INDIRECT);
      else {
        packedOne(header + i * 32, 16, i, Descriptor.NEXT);
        packedOne(data + i * BYTES, BYTES, i, Descriptor.NEXT | Descriptor.WRITE);
        packedOne(header + i * 32 + 16, 1, i, Descriptor.WRITE);
      }
    }
    block.service();
    if (bytes[header + 16] !== 0) throw new Error("not served");
  };
  return {
    name: `${layout}, ${indirect ? "indirect" : "three descriptors"}`,
    batch: layout === "split" ? splitBatch : packedBatch,
  };
}

function measure(run: Run): { nanoseconds: number; allocated: number } {
  for (let i = 0; i < 20000; i++) run.batch();
  // V8's own count of every byte ever allocated; Node's types do not know it yet.
  const heap = () => (v8.getHeapStatistics() as unknown as { total_allocated_bytes: number }).total_allocated_bytes;
  heap();
  const before = heap();
  const overhead = heap() - before;
  const start = performance.now();
  const used = heap();
  for (let i = 0; i < REQUESTS / BATCH; i++) run.batch();
  const allocated = heap() - used - overhead;
  return { nanoseconds: (performance.now() - start) * 1e6 / REQUESTS, allocated: allocated / REQUESTS };
}

const runs = [direct(), queue("split", false), queue("split", true), queue("packed", false), queue("packed", true)];
let baseline = 0;
console.log(`${REQUESTS} requests of ${BYTES} bytes, batches of ${BATCH}`);
for (const run of runs) {
  const { nanoseconds, allocated } = measure(run);
  baseline ||= nanoseconds;
  console.log(
    `${run.name.padEnd(26)} ${nanoseconds.toFixed(1).padStart(7)} ns  ${
      (1000 / nanoseconds).toFixed(2).padStart(6)
    } M/s  +${(nanoseconds - baseline).toFixed(1)} ns  ${allocated.toFixed(4)} bytes allocated each`,
  );
}
