import assert from "node:assert/strict";
import { ByteRing } from "../../core/byte_ring.ts";
import { Bus } from "../../core/bus.ts";
import { DiskError } from "../../storage/disk.ts";
import { STATISTIC_NAMES, VirtioBalloon } from "./balloon.ts";
import { type BlockOptions, VirtioBlock } from "./block.ts";
import { VirtioConsole } from "./console.ts";
import { Status, Word } from "./device.ts";
import { VirtioMmio } from "./mmio_transport.ts";
import { VirtioRng } from "./rng.ts";
import { MemoryDisk, type Piece, SplitDriver, TestMachine, VirtioDriver } from "./testing.ts";

const FLUSH = 9;
const CONFIG_WCE = 11;
const DISCARD = 13;
const WRITE_ZEROES = 14;

function setUpBlock(disk = new MemoryDisk(1 << 20), options: Partial<BlockOptions> = {}) {
  const machine = new TestMachine();
  const block = new VirtioBlock(machine.file, {
    wake: machine.wake,
    capacity: disk.size,
    readonly: disk.readonly,
    discardable: true,
    serial: "SERIAL-OF-20-LETTERS",
    ...options,
  });
  machine.add(block, 3);
  machine.start();
  block.attach({ memory: machine.memory, report: machine.report, disk });
  const driver = new VirtioDriver(machine, 3);
  const request = (type: number, sector: number, data: Piece[], queue = 0): number => {
    const header = machine.allocate(17);
    machine.memory.view.setUint32(header, type, true);
    machine.memory.view.setUint32(header + 8, sector % 0x1_0000_0000, true);
    machine.memory.view.setUint32(header + 12, Math.floor(sector / 0x1_0000_0000), true);
    machine.memory.bytes[header + 16] = 0xee;
    driver.queues[queue].offer([{ address: header, length: 16 }, ...data, {
      address: header + 16,
      length: 1,
      write: true,
    }]);
    while (block.service());
    return machine.memory.bytes[header + 16];
  };
  return { machine, block, disk, driver, request };
}

Deno.test("block: what the configuration space says", () => {
  const { machine, driver } = setUpBlock(new MemoryDisk(3 << 20), { queues: 4, queueSize: 128 });
  const read = (offset: number, size: number) => machine.read(driver.deviceConfig + offset, size);
  assert.equal(read(0, 4) + read(4, 4) * 2 ** 32, (3 << 20) / 512);
  assert.equal(read(12, 4), 126);
  assert.equal(read(20, 4), 512);
  assert.equal(read(24, 1), 3, "4096-byte physical blocks");
  assert.equal(read(32, 1), 1, "writes back");
  assert.equal(read(34, 2), 4, "queues");
  assert.equal(read(59, 4), 0, "nothing past the end");
  machine.write(driver.deviceConfig, 4, 0);
  assert.equal(read(0, 4), (3 << 20) / 512, "a driver does not change the capacity");
  assert.equal(machine.read(driver.common + 18, 2), 4, "number of queues");
  const offered = driver.offered();
  for (const bit of [2, 6, 9, 10, 11, 12, 13, 14, 28, 29, 32, 34, 40]) {
    assert.ok((offered >> BigInt(bit)) & 1n, `${bit}`);
  }
  assert.equal((offered >> 5n) & 1n, 0n, "not read-only");
});

Deno.test("block: several queues, each with its vector", () => {
  const { machine, driver, request, disk } = setUpBlock(undefined, { queues: 3 });
  driver.start("split", 16, 3, [FLUSH, 12]);
  for (const q of driver.queues) q.allowInterrupts(true);
  disk.data.fill(0x5a, 512, 1024);
  for (const queue of [2, 0, 1]) {
    const to = machine.allocate(512);
    assert.equal(request(0, 1, [{ address: to, length: 512, write: true }], queue), 0);
    assert.equal(machine.memory.bytes[to + 511], 0x5a);
  }
  assert.deepEqual(machine.messages, [103, 101, 102]);
});

Deno.test("block: id, flush, discard, write zeroes", () => {
  const { machine, driver, request, disk } = setUpBlock();
  driver.start("packed", 64, 1, [FLUSH, CONFIG_WCE, DISCARD, WRITE_ZEROES]);
  const at = machine.allocate(4096);
  assert.equal(request(8, 0, [{ address: at, length: 20, write: true }]), 0);
  assert.equal(new TextDecoder().decode(machine.memory.bytes.slice(at, at + 20)), "SERIAL-OF-20-LETTERS");
  assert.equal(request(4, 0, []), 0);
  assert.equal(disk.flushes, 1);
  const segment = (i: number, sector: number, count: number, flags: number) => {
    machine.memory.view.setUint32(at + i * 16, sector, true);
    machine.memory.view.setUint32(at + i * 16 + 4, 0, true);
    machine.memory.view.setUint32(at + i * 16 + 8, count, true);
    machine.memory.view.setUint32(at + i * 16 + 12, flags, true);
  };
  disk.data.fill(1);
  segment(0, 8, 8, 0);
  segment(1, 32, 1, 0);
  assert.equal(request(11, 0, [{ address: at, length: 32 }]), 0);
  assert.equal(disk.data.indexOf(0), 8 * 512);
  assert.equal(disk.data.reduce((n, b) => n + +(b === 0), 0), 9 * 512);
  segment(0, 0, 1, 1);
  assert.equal(request(13, 0, [{ address: at, length: 16 }]), 0);
  assert.equal(disk.data.indexOf(1), 512);
  // Ranges and flags that cannot be.
  segment(0, 2047, 2, 0);
  assert.equal(request(11, 0, [{ address: at, length: 16 }]), 1, "beyond the end");
  segment(0, 0, 0xffff_ffff, 0);
  assert.equal(request(13, 0, [{ address: at, length: 16 }]), 1, "more than offered");
  segment(0, 0, 1, 1);
  assert.equal(request(11, 0, [{ address: at, length: 16 }]), 2, "a discard has no unmap flag");
  segment(0, 0, 1, 4);
  assert.equal(request(13, 0, [{ address: at, length: 16 }]), 2, "a flag nobody knows");
  assert.equal(request(11, 0, [{ address: at, length: 15 }]), 1, "half a segment");
  assert.equal(request(11, 0, []), 1, "no segment");
  assert.equal(request(0x99, 0, []), 2, "a request nobody knows");
  // Write through on request, and without FLUSH always.
  machine.write(driver.deviceConfig + 32, 1, 0);
  disk.flushes = 0;
  assert.equal(request(1, 0, [{ address: at, length: 512 }]), 0);
  assert.equal(disk.flushes, 1);
  driver.status = 0;
  assert.equal(machine.read(driver.deviceConfig + 32, 1), 1, "the cache mode does not survive a reset");
  driver.start("packed", 64, 1, []);
  assert.equal(request(1, 0, [{ address: at, length: 512 }]), 0);
  assert.equal(disk.flushes, 2);
  assert.equal(request(11, 0, [{ address: at, length: 16 }]), 2, "discard was not negotiated");
});

Deno.test("block: outside the disk, read-only, and a disk that fails", () => {
  const { machine, driver, request, disk, block } = setUpBlock();
  driver.start("split", 64, 1, [FLUSH]);
  const at = machine.allocate(4096);
  const piece = { address: at, length: 1024, write: true };
  assert.equal(request(0, 2047, [piece]), 1);
  assert.equal(request(0, 2 ** 55, [piece]), 1);
  assert.equal(request(0, 2 ** 64 - 4096, [piece]), 1);
  assert.equal(request(0, 0, [{ ...piece, length: 1000 }]), 1, "not whole sectors");
  assert.equal(request(1, 2047, [{ address: at, length: 1024 }]), 1);
  assert.equal(request(0, 0, []), 0, "nothing at all");
  assert.deepEqual(machine.reports, [], "a driver's mistakes are not the disk's");
  for (let i = 0; i < 2; i++) {
    disk.failure = new DiskError("full", "no space left on the device that holds disk.img");
    assert.equal(request(1, 0, [{ address: at, length: 512 }]), 1);
  }
  disk.failure = new TypeError("a mistake of ours");
  assert.equal(request(0, 0, [{ address: at, length: 512, write: true }]), 1);
  assert.equal(machine.reports.length, 2, "each kind of failure is described once");
  assert.match(machine.reports[0], /no space left on the device that holds disk.img/);
  assert.ok(block.registers.words[Word.ERRORS] >= 8);
  assert.equal(driver.status & Status.NEEDS_RESET, 0);

  const cd = setUpBlock(new MemoryDisk(1 << 20, true));
  assert.equal((cd.driver.offered() >> 5n) & 1n, 1n);
  cd.driver.start("split", 64, 1, [FLUSH, 5]);
  const to = cd.machine.allocate(512);
  assert.equal(cd.request(1, 0, [{ address: to, length: 512 }]), 1);
  assert.equal(cd.request(0, 0, [{ address: to, length: 512, write: true }]), 0);
  assert.equal(cd.request(4, 0, []), 0);
});

Deno.test("block: a disk that grows tells the driver", () => {
  const { machine, driver, disk, block } = setUpBlock();
  driver.start("split", 64, 1, [FLUSH]);
  const generation = machine.read(driver.common + 21, 1);
  disk.size = 2 << 20;
  block.refresh();
  assert.ok(machine.wakes > 0);
  while (block.service());
  assert.deepEqual(machine.messages, [100]);
  assert.equal(machine.read(driver.deviceConfig, 4), 4096);
  assert.notEqual(machine.read(driver.common + 21, 1), generation);
  assert.equal(machine.read(driver.isr, 1), 2);
});

Deno.test("console: both directions, a full output ring, resize", () => {
  const machine = new TestMachine();
  const opened: boolean[] = [];
  const console = new VirtioConsole(machine.file, {
    wake: machine.wake,
    columns: 80,
    rows: 25,
    opened: (open) => opened.push(open),
  });
  machine.add(console, 1);
  machine.start();
  const input = new ByteRing(ByteRing.allocate(256));
  const output = new ByteRing(ByteRing.allocate(64));
  console.attach({ memory: machine.memory, report: machine.report, input, output });
  const driver = new VirtioDriver(machine, 1);
  driver.start("split", 16, 2, [0]);
  assert.equal(machine.read(driver.deviceConfig, 4), 80 | (25 << 16));
  const [receive, transmit] = driver.queues;
  for (const q of driver.queues) q.allowInterrupts(true);

  // Receive: two pieces, then what is left over goes into the next buffer.
  const buffers = machine.allocate(64);
  receive.offer([{ address: buffers, length: 3, write: true }, { address: buffers + 8, length: 2, write: true }]);
  receive.offer([{ address: buffers + 16, length: 16, write: true }]);
  while (console.service());
  assert.equal(receive.collect().length, 0, "nothing to receive");
  input.write(new TextEncoder().encode("hello, guest"));
  while (console.service());
  assert.deepEqual(
    [receive.collect().length, opened.length],
    [0, 0],
    "the guest has said nothing here: the keys are not for it",
  );
  const greeting = machine.allocate(1);
  transmit.offer([{ address: greeting, length: 1 }]);
  while (console.service());
  while (console.service());
  assert.deepEqual(opened, [true]);
  assert.equal(transmit.collect().length, 1);
  output.shift();
  assert.deepEqual(receive.collect().map((u) => u.written), [5, 7]);
  const text = (at: number, n: number) => new TextDecoder().decode(machine.memory.bytes.slice(at, at + n));
  assert.equal(text(buffers, 3) + text(buffers + 8, 2) + text(buffers + 16, 7), "hello, guest");
  assert.ok(machine.messages.includes(101));

  // Transmit: 300 bytes through a ring of 64 come out whole and once.
  const sent = Uint8Array.from({ length: 300 }, (_, i) => i & 0xff);
  const at = machine.allocate(300);
  machine.memory.bytes.set(sent, at);
  transmit.offer([{ address: at, length: 100 }, { address: at + 100, length: 1 }, { address: at + 101, length: 199 }]);
  const got: number[] = [];
  for (let i = 0; got.length < 300; i++) {
    assert.ok(i < 50, "the console waits for ever");
    const woken = machine.wakes;
    while (console.service());
    if (got.length < 300 - 64) assert.equal(transmit.collect().length, 0, "given back before it was sent");
    for (let n = 0; n < 40 && output.length > 0; n++) got.push(output.shift());
    console.drained();
    if (got.length < 200) assert.ok(machine.wakes > woken, "room in the ring wakes a console that waits");
  }
  while (console.service());
  assert.deepEqual(got, [...sent]);
  assert.equal(transmit.collect().length, 1);
  assert.equal(machine.messages.filter((m) => m === 100).length, 1, "the first output: the driver is told the size");

  machine.messages.length = 0;
  console.resize(132, 43);
  while (console.service());
  assert.deepEqual(machine.messages, [100]);
  assert.equal(machine.read(driver.deviceConfig, 4), 132 | (43 << 16));

  machine.write(driver.common + 20, 1, 0);
  while (console.service());
  assert.deepEqual(opened, [true, false], "a reset gives the terminal back");
});

Deno.test("rng: random bytes, all of them, and no more than a request may have", () => {
  const machine = new TestMachine();
  const rng = new VirtioRng(machine.file, { wake: machine.wake });
  machine.add(rng, 1);
  machine.start();
  rng.attach({ memory: machine.memory, report: machine.report });
  const driver = new VirtioDriver(machine, 1);
  assert.equal(driver.deviceConfig, undefined, "no configuration space, no capability for it");
  driver.start("packed", 8, 1);
  const at = machine.allocate(200000);
  driver.queues[0].offer([{ address: at, length: 5000, write: true }, { address: at + 6000, length: 3, write: true }]);
  driver.queues[0].offer([{ address: at + 8192, length: 150000, write: true }]);
  while (rng.service());
  assert.deepEqual(driver.queues[0].collect().map((u) => u.written), [5003, 65536]);
  const bytes = machine.memory.bytes;
  for (const part of [bytes.slice(at, at + 5000), bytes.slice(at + 8192, at + 8192 + 65536)]) {
    const zeroes = part.reduce((n, b) => n + +(b === 0), 0);
    assert.ok(zeroes < part.length / 128, "as many zeroes as chance makes");
  }
  assert.equal(bytes.slice(at + 5000, at + 6000).some((b) => b !== 0), false);
  assert.equal(bytes.slice(at + 8192 + 65536, at + 190000).some((b) => b !== 0), false);
});

for (const reportingQueue of [4, 3, 2]) {
  Deno.test(`balloon: pages, statistics, reporting on queue ${reportingQueue}`, () => {
    const machine = new TestMachine();
    const balloon = new VirtioBalloon(machine.file, { wake: machine.wake });
    machine.add(balloon, 1);
    machine.start();
    const released: [number, number][] = [];
    balloon.attach({
      memory: machine.memory,
      report: machine.report,
      release: (offset, length) => void released.push([offset, length]),
    });
    const driver = new VirtioDriver(machine, 1);
    driver.start("split", 32, reportingQueue + 1, reportingQueue === 2 ? [2, 5] : [1, 2, 5]);
    for (const q of driver.queues) q.allowInterrupts(true);

    balloon.setTarget(64 << 20);
    while (balloon.service());
    assert.deepEqual(machine.messages, [100]);
    assert.equal(machine.read(driver.deviceConfig, 4), 16384);

    const numbers = [10, 11, 12, 20, 19, 18, 30, 0xffff_ffff, 40, 40];
    const at = machine.allocate(4096);
    numbers.forEach((n, i) => machine.memory.view.setUint32(at + i * 4, n, true));
    driver.queues[0].offer([{ address: at, length: 13 }, { address: at + 13, length: numbers.length * 4 - 13 }]);
    while (balloon.service());
    assert.equal(driver.queues[0].collect().length, 1);
    const pages = released.flatMap(([o, l]) => Array.from({ length: l / 4096 }, (_, i) => o / 4096 + i));
    assert.deepEqual(pages.sort((a, b) => a - b), [10, 11, 12, 18, 19, 20, 30, 40, 40]);
    assert.ok(released.length <= 5, "runs go back together");
    machine.write(driver.deviceConfig + 4, 4, 9);
    assert.equal(balloon.actual, 9 * 4096);
    driver.queues[1].offer([{ address: at, length: 40 }]);
    while (balloon.service());
    assert.equal(driver.queues[1].collect().length, 1, "deflated");

    released.length = 0;
    const report = driver.queues[reportingQueue];
    report.offer([
      { address: 0x40_0000, length: 0x20_0000, write: true },
      { address: 0x60_0800, length: 0x1000, write: true },
      { address: 0x70_0800, length: 0x1800, write: true },
    ]);
    while (balloon.service());
    assert.deepEqual(released, [[0x40_0000, 0x20_0000], [0x70_1000, 0x1000]], "whole pages only");
    assert.equal(report.collect().length, 1);

    if (reportingQueue === 2) return;
    assert.deepEqual(balloon.statistics(), {});
    const statistics = machine.allocate(256);
    const fill = (free: bigint) => {
      [[4, free], [5, 16n << 30n], [77, 1n]].forEach(([tag, value], i) => {
        machine.memory.view.setUint16(statistics + i * 10, Number(tag), true);
        machine.memory.view.setBigUint64(statistics + i * 10 + 2, BigInt(value), true);
      });
      driver.queues[2].offer([{ address: statistics, length: 30 }]);
    };
    fill(5n << 30n);
    while (balloon.service());
    assert.equal(driver.queues[2].collect().length, 0, "kept until somebody asks");
    assert.equal(balloon.statisticsSerial, 1);
    assert.deepEqual(balloon.statistics(), { [STATISTIC_NAMES[4]]: 5 * 2 ** 30, [STATISTIC_NAMES[5]]: 16 * 2 ** 30 });
    machine.messages.length = 0;
    balloon.requestStatistics();
    while (balloon.service());
    assert.deepEqual(machine.messages, [103]);
    assert.equal(driver.queues[2].collect().length, 1);
    fill(6n << 30n);
    while (balloon.service());
    assert.equal(balloon.statistics().freeMemory, 6 * 2 ** 30);
    assert.equal(balloon.statisticsSerial, 2);
  });
}

Deno.test("mmio: a block device in a page of its own", () => {
  const machine = new TestMachine();
  const disk = new MemoryDisk(1 << 20);
  const block = new VirtioBlock(machine.file, {
    wake: machine.wake,
    capacity: disk.size,
    readonly: false,
    discardable: true,
    serial: "x",
    queueSize: 16,
  });
  let level = 0;
  const mmio = new VirtioMmio(machine.file, block, { line: { set: (value) => void (level = value) } });
  const bus = new Bus("memory");
  const base = 0xd000_0000;
  bus.map(base, VirtioMmio.BYTES, mmio);
  mmio.initialize();
  block.attach({ memory: machine.memory, report: machine.report, disk });
  const read = (offset: number, size = 4) => machine.read(base + offset, size, bus);
  const write = (offset: number, value: number, size = 4) => machine.write(base + offset, size, value, bus);
  assert.deepEqual([0, 4, 8].map((o) => read(o)), [0x74726976, 2, 2]);
  assert.equal(read(0xb0), 0xffff_ffff, "no shared memory");
  for (let round = 0; round < 2; round++) {
    write(0x70, 0);
    assert.equal(read(0x70), 0, "reset is complete at once");
    write(0x70, 3);
    write(0x14, 1);
    assert.equal(read(0x10) & 1, 1);
    write(0x24, 0);
    write(0x20, 1 << FLUSH);
    write(0x24, 1);
    write(0x20, 1);
    write(0x70, 11);
    assert.equal(read(0x70), 11);
    const queue = new SplitDriver(machine, 16, false);
    write(0x30, 0);
    assert.equal(read(0x34), 16);
    write(0x38, 16);
    [queue.descriptors, queue.driver, queue.device].forEach((address, i) => {
      write(0x80 + i * 16, address);
      write(0x84 + i * 16, 0);
    });
    write(0x44, 1);
    write(0x70, 15);
    const at = machine.allocate(1024);
    machine.memory.view.setBigUint64(at + 8, 3n, true);
    disk.data.fill(0x42 + round, 3 * 512, 4 * 512);
    queue.offer([{ address: at, length: 16 }, { address: at + 16, length: 513, write: true }]);
    const wakes = machine.wakes;
    write(0x50, 0);
    assert.ok(machine.wakes > wakes);
    while (block.service());
    assert.equal(machine.memory.bytes[at + 16], 0x42 + round);
    assert.equal(level, 1);
    assert.equal(read(0x60), 1);
    write(0x64, 1);
    assert.equal(level, 0);
    assert.equal(queue.collect().length, 1);
    assert.equal(read(0x100), 2048);
    write(0x44, 0);
    assert.equal(read(0x44), 0);
  }
});
