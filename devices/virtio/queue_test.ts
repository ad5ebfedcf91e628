import assert from "node:assert/strict";
import { VirtioBlock } from "./block.ts";
import { Feature, Status, Word } from "./device.ts";
import { Descriptor } from "./queue.ts";
import {
  type DriverQueue,
  MemoryDisk,
  PackedDriver,
  type Piece,
  SplitDriver,
  TestMachine,
  VirtioDriver,
} from "./testing.ts";

const SECTORS = 256;

function blockMachine(disk = new MemoryDisk(SECTORS * 512)) {
  const machine = new TestMachine(64 << 20);
  const block = new VirtioBlock(machine.file, {
    wake: machine.wake,
    capacity: disk.size,
    readonly: disk.readonly,
    discardable: true,
    serial: "TEST",
    queueSize: 64,
  });
  machine.add(block, 1);
  machine.start();
  block.attach({ memory: machine.memory, report: machine.report, disk });
  return { machine, block, disk, driver: new VirtioDriver(machine, 1) };
}

function service(block: VirtioBlock): void {
  for (let i = 0; block.service(); i++) assert.ok(i < 1000, "the device never comes to rest");
}

/** A small generator: tests that fail say with which seed. */
function random(seed: number) {
  return (below: number): number => {
    seed = (Math.imul(seed, 1664525) + 1013904223) | 0;
    return Math.floor(((seed >>> 8) / 0x1000000) * below);
  };
}

for (const layout of ["split", "packed"] as const) {
  for (const eventIndex of [false, true]) {
    for (const size of layout === "split" ? [1, 8, 64] : [1, 7, 64]) {
      Deno.test(`virtqueue ${layout} of ${size}, event index ${eventIndex}: chains of every shape, many rounds`, () => {
        const { machine, block, disk, driver } = blockMachine();
        driver.start(layout, size, 1, [9], eventIndex);
        const queue = driver.queues[0];
        queue.allowInterrupts(true);
        const next = random(size * 4 + +eventIndex + (layout === "split" ? 0 : 2));
        const model = new Uint8Array(SECTORS * 512);
        const bytes = machine.memory.bytes;
        const arena = machine.allocate(1 << 20, 4096);
        // The driver's tables come from an allocator that never frees: what a round used is given back here.
        const scratch = (machine as unknown as { next: number }).next;
        for (let round = 0; round < 600; round++) {
          (machine as unknown as { next: number }).next = scratch;
          const pending: { id: number; check: () => void }[] = [];
          let at = arena;
          // One request a round may touch a sector: the device may do them in any order.
          const batch = 1 + next(4);
          for (let b = 0; b < batch; b++) {
            const write = next(2) === 1;
            const sectors = 1 + next(3);
            const sector = b * 32 + next(29);
            const length = sectors * 512;
            const header = at;
            const view = machine.memory.view;
            view.setUint32(header, write ? 1 : 0, true);
            view.setUint32(header + 4, 0, true);
            view.setBigUint64(header + 8, BigInt(sector), true);
            const data = header + 16;
            const status = data + length;
            at = status + 32;
            bytes[status] = 0xee;
            if (write) { for (let i = 0; i < length; i++) bytes[data + i] = next(256); }
            else bytes.fill(0x77, data, data + length);
            // Any cut, empty pieces too; the header, the data and the status know nothing of the pieces' ends.
            const indirect = next(2) === 1;
            const most = indirect ? 20 : size;
            const readable = cut(header, write ? 16 + length : 16, next, Math.max(1, Math.floor(most / 2)), false);
            const writable = cut(
              write ? status : data,
              write ? 1 : length + 1,
              next,
              Math.max(1, Math.floor(most / 2)),
              true,
            );
            const pieces = [...readable, ...writable];
            const id = queue.offer(pieces, indirect || pieces.length > size);
            if (id < 0) break;
            const expected = write
              ? bytes.slice(data, data + length)
              : model.slice(sector * 512, sector * 512 + length);
            if (write) model.set(expected, sector * 512);
            pending.push({
              id,
              check: () => {
                assert.equal(bytes[status], 0);
                if (!write) assert.deepEqual(bytes.subarray(data, data + length), expected);
              },
            });
          }
          assert.equal(queue.wantsNotification(), true, `round ${round}: the device sleeps and must be woken`);
          const before = machine.messages.length;
          driver.notifyQueue(0);
          service(block);
          assert.equal(machine.messages.length > before, true, "an interrupt for what was used");
          const used = queue.collect();
          queue.allowInterrupts(true);
          assert.equal(used.length, pending.length);
          for (const { id } of used) pending.find((p) => p.id === id)!.check();
        }
        assert.deepEqual(disk.data, model);
        assert.equal(block.registers.words[Word.FAULTS], 0);
        assert.deepEqual(machine.reports, []);
      });
    }
  }
}

function cut(address: number, length: number, next: (below: number) => number, most: number, write: boolean): Piece[] {
  const pieces: Piece[] = [];
  while (length > 0) {
    const part = pieces.length + 1 >= most ? length : Math.min(length, next(4) === 0 ? next(3) : 1 + next(length));
    pieces.push({ address, length: part, write });
    address += part;
    length -= part;
  }
  return pieces;
}

/** Offers one flush and returns what the driver sees of it. */
function flush(machine: TestMachine, queue: DriverQueue): { status: number; id: number } {
  const header = machine.allocate(32);
  machine.memory.view.setUint32(header, 4, true);
  machine.memory.bytes[header + 16] = 0xee;
  const id = queue.offer([{ address: header, length: 16 }, { address: header + 16, length: 1, write: true }]);
  return { status: header + 16, id };
}

for (const layout of ["split", "packed"] as const) {
  Deno.test(`virtqueue ${layout}: interrupts come when asked for and not otherwise`, () => {
    for (const eventIndex of [false, true]) {
      const { machine, block, driver } = blockMachine();
      driver.start(layout, 16, 1, [9], eventIndex);
      const queue = driver.queues[0];
      queue.allowInterrupts(false);
      for (let i = 0; i < 3; i++) flush(machine, queue);
      service(block);
      assert.equal(machine.messages.length, 0, `event index ${eventIndex}: not asked for`);
      assert.equal(queue.collect().length, 3);
      if (!eventIndex) continue;
      // After the fourth from here: none for three, one for the next. A packed ring counts descriptors, two a flush.
      queue.allowInterrupts(true, layout === "split" ? 4 : 7);
      for (let i = 0; i < 3; i++) flush(machine, queue);
      service(block);
      assert.equal(machine.messages.length, 0);
      flush(machine, queue);
      flush(machine, queue);
      service(block);
      assert.deepEqual(machine.messages, [101]);
    }
  });

  Deno.test(`virtqueue ${layout}: a request that comes while the device goes to sleep is not lost`, () => {
    for (const eventIndex of [false, true]) {
      const { machine, block, disk, driver } = blockMachine();
      driver.start(layout, 16, 1, [9], eventIndex);
      const queue = driver.queues[0];
      // While the device serves one request, the driver offers another and, asking, hears that no notification is due.
      let more = 5;
      disk.flush = () => {
        if (more-- > 0) {
          flush(machine, queue);
          assert.equal(queue.wantsNotification(), false, "a device at work wants no notification");
        }
      };
      flush(machine, queue);
      assert.equal(queue.wantsNotification(), true);
      service(block);
      assert.equal(queue.collect().length, 6);
    }
  });

  Deno.test(`virtqueue ${layout}: one call of service is bounded`, () => {
    const { machine, block, disk, driver } = blockMachine();
    driver.start(layout, 64, 1, [9]);
    const queue = driver.queues[0];
    let served = 0;
    const header = machine.allocate(32);
    machine.memory.view.setUint32(header, 4, true);
    const again = () =>
      queue.offer([{ address: header, length: 16 }, { address: header + 16, length: 1, write: true }]);
    disk.flush = () => {
      served++;
      queue.collect();
      again();
      again();
    };
    again();
    assert.equal(block.service(), true, "more waits");
    assert.equal(served, 256);
  });
}

// What a driver must not do, each with the reset that the specification asks for (2.1.2).
const HOSTILE: Record<string, (machine: TestMachine, queue: DriverQueue, at: number) => void> = {
  "a descriptor beyond RAM": (m, q) => m.memory.view.setBigUint64(q.descriptors, 0x1000_0000n, true),
  "a descriptor at the top of the address space": (m, q) =>
    m.memory.view.setBigUint64(q.descriptors, 0xffff_ffff_ffff_fff0n, true),
  "a descriptor whose end wraps": (m, q) => m.memory.view.setUint32(q.descriptors + 8, 0xffff_ffff, true),
  "readable after writable": (m, q) => {
    m.memory.view.setUint16(flagsOf(q, 0), m.memory.view.getUint16(flagsOf(q, 0), true) | Descriptor.WRITE, true);
    m.memory.view.setUint16(flagsOf(q, 1), m.memory.view.getUint16(flagsOf(q, 1), true) & ~Descriptor.WRITE, true);
  },
  "no header": (m, q) => m.memory.view.setUint32(q.descriptors + 8, 15, true),
  "no status": (m, q) => m.memory.view.setUint32(q.descriptors + 16 + 8, 0, true),
  "an indirect table with half an entry": (m, q) => makeIndirect(m, q, m.allocate(64), 24),
  "an indirect table of nothing": (m, q) => makeIndirect(m, q, m.allocate(64), 0),
  "an indirect table beyond RAM": (m, q) => makeIndirect(m, q, 0x3fff_fff0, 32),
  "an indirect table of 4 GiB": (m, q) => makeIndirect(m, q, 0, 0xffff_fff0),
};
const HOSTILE_SPLIT: typeof HOSTILE = {
  "a chain that is a loop": (m, q) => {
    m.memory.view.setUint16(q.descriptors + 12, Descriptor.NEXT, true);
    m.memory.view.setUint16(q.descriptors + 14, 0, true);
  },
  "next beyond the table": (m, q) => m.memory.view.setUint16(q.descriptors + 14, 16, true),
  "a head beyond the table": (m, q) => m.memory.view.setUint16(q.driver + 4, 0xffff, true),
  "an index further than the ring is long": (m, q) => m.memory.view.setUint16(q.driver + 2, 17, true),
  "an indirect table that goes on in the ring": (m, q) => {
    makeIndirect(m, q, m.allocate(64), 32);
    m.memory.view.setUint16(flagsOf(q, 0), Descriptor.INDIRECT | Descriptor.NEXT, true);
  },
  "an indirect table in an indirect table": (m, q) => {
    const table = m.allocate(64);
    makeIndirect(m, q, table, 32);
    m.memory.view.setUint16(table + 12, Descriptor.INDIRECT, true);
  },
  "an indirect chain that is a loop": (m, q) => {
    const table = m.allocate(64);
    makeIndirect(m, q, table, 32);
    m.memory.view.setUint16(table + 12, Descriptor.NEXT, true);
  },
  "an indirect chain out of its table": (m, q) => {
    const table = m.allocate(64);
    makeIndirect(m, q, table, 32);
    m.memory.view.setUint16(table + 12, Descriptor.NEXT, true);
    m.memory.view.setUint16(table + 14, 2, true);
  },
};
const HOSTILE_PACKED: typeof HOSTILE = {
  "a chain that never ends": (m, q) => {
    for (let i = 0; i < q.size; i++) {
      m.memory.view.setBigUint64(q.descriptors + i * 16, 0x1000n, true);
      m.memory.view.setUint16(flagsOf(q, i), Descriptor.NEXT | 0x80, true);
    }
  },
  "an indirect descriptor inside a chain": (m, q, status) => {
    // All else is right about it: a table with the one entry that would complete the chain.
    const { view } = m.memory;
    const table = m.allocate(16);
    view.setBigUint64(table, BigInt(status), true);
    view.setUint32(table + 8, 1, true);
    view.setUint16(table + 14, Descriptor.WRITE, true);
    view.setBigUint64(q.descriptors + 16, BigInt(table), true);
    view.setUint32(q.descriptors + 16 + 8, 16, true);
    view.setUint16(flagsOf(q, 1), Descriptor.INDIRECT | 0x80, true);
  },
};

function flagsOf(queue: DriverQueue, index: number): number {
  return queue.descriptors + index * 16 + (queue instanceof SplitDriver ? 12 : 14);
}
function makeIndirect(machine: TestMachine, queue: DriverQueue, table: number, length: number): void {
  machine.memory.view.setBigUint64(queue.descriptors, BigInt(table), true);
  machine.memory.view.setUint32(queue.descriptors + 8, length, true);
  const keep = machine.memory.view.getUint16(flagsOf(queue, 0), true) & 0x8080;
  machine.memory.view.setUint16(flagsOf(queue, 0), Descriptor.INDIRECT | keep, true);
}

Deno.test("virtqueue packed: a descriptor that is marked used is no offer", () => {
  const { machine, block, disk, driver } = blockMachine();
  driver.start("packed", 16, 1, [9]);
  const queue = driver.queues[0];
  flush(machine, queue);
  const flags = machine.memory.view.getUint16(flagsOf(queue, 0), true);
  // 2.8.1: available when AVAIL is the wrap counter and USED is not.
  machine.memory.view.setUint16(flagsOf(queue, 0), flags | 0x8000, true);
  service(block);
  assert.equal(disk.flushes, 0);
  assert.equal(driver.status & Status.NEEDS_RESET, 0);
  machine.memory.view.setUint16(flagsOf(queue, 0), flags, true);
  service(block);
  assert.equal(disk.flushes, 1);
});

for (const layout of ["split", "packed"] as const) {
  const cases = { ...HOSTILE, ...(layout === "split" ? HOSTILE_SPLIT : HOSTILE_PACKED) };
  for (const [name, damage] of Object.entries(cases)) {
    Deno.test(`hostile ${layout} ring: ${name}`, () => {
      const { machine, block, disk, driver } = blockMachine();
      driver.start(layout, 16, 1, [9]);
      const queue = driver.queues[0];
      const { status } = flush(machine, queue);
      damage(machine, queue, status);
      service(block);
      assert.equal(driver.status & Status.NEEDS_RESET, Status.NEEDS_RESET);
      assert.equal(block.registers.words[Word.FAULTS], 1);
      assert.deepEqual(machine.messages, [100], "a configuration interrupt says so");
      assert.equal(machine.reports.length, 1);
      // The ring is what is refused, not a request that was made of what stood beyond it.
      assert.equal(/header or no status/.test(machine.reports[0]), /^no /.test(name), machine.reports[0]);
      assert.equal(disk.flushes, 0);
      // Nothing goes on until the reset, however often it is woken.
      service(block);
      assert.equal(block.registers.words[Word.FAULTS], 1);
      driver.start(layout, 16, 1, [9]);
      const good = flush(machine, driver.queues[0]);
      service(block);
      assert.equal(machine.memory.bytes[good.status], 0);
      assert.equal(disk.flushes, 1);
    });
  }

  for (
    const [name, change] of Object.entries({
      "a size that is not allowed": (q: DriverQueue) => ({ ...q, size: layout === "split" ? 6 : 65 }),
      "a size of 0": (q: DriverQueue) => ({ ...q, size: 0 }),
      "descriptors outside RAM": (q: DriverQueue) => ({ ...q, size: q.size, descriptors: 0x8000_0000_0000 }),
      "descriptors that end outside RAM": (q: DriverQueue) => ({ ...q, size: q.size, descriptors: (64 << 20) - 16 }),
      "descriptors out of line": (q: DriverQueue) => ({ ...q, size: q.size, descriptors: q.descriptors + 8 }),
      "a driver area out of line": (q: DriverQueue) => ({ ...q, size: q.size, driver: q.driver + 1 }),
      "a device area out of line": (q: DriverQueue) => ({ ...q, size: q.size, device: q.device + 2 }),
      "a device area at the end of RAM": (q: DriverQueue) => ({ ...q, size: q.size, device: 64 << 20 }),
    })
  ) {
    Deno.test(`hostile ${layout} geometry: ${name}`, () => {
      const { machine, block, driver } = blockMachine();
      assert.ok(driver.negotiate([Feature.VERSION_1, ...(layout === "packed" ? [Feature.RING_PACKED] : [])]));
      const queue = layout === "split" ? new SplitDriver(machine, 16, false) : new PackedDriver(machine, 16, false);
      driver.setUp(0, change(queue) as DriverQueue);
      driver.ready();
      service(block);
      assert.equal(driver.status & Status.NEEDS_RESET, Status.NEEDS_RESET);
      assert.deepEqual(machine.messages, [100]);
    });
  }
}
