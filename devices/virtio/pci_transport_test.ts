import assert from "node:assert/strict";
import { VirtioBlock } from "./block.ts";
import { Feature, Status } from "./device.ts";
import { MemoryDisk, SplitDriver, TestMachine, VirtioDriver, WINDOWS } from "./testing.ts";

function setUp(queues = 2) {
  const machine = new TestMachine();
  const disk = new MemoryDisk(1 << 20);
  const block = new VirtioBlock(machine.file, {
    wake: machine.wake,
    capacity: disk.size,
    readonly: false,
    discardable: true,
    serial: "x",
    queues,
    queueSize: 64,
  });
  machine.add(block, 5);
  machine.start();
  block.attach({ memory: machine.memory, report: machine.report, disk });
  const driver = new VirtioDriver(machine, 5);
  const read = (queue = 0) => {
    const at = machine.allocate(1024);
    driver.queues[queue].offer([{ address: at, length: 16 }, { address: at + 16, length: 513, write: true }]);
    machine.memory.bytes[at + 528] = 0xee;
    return at + 528;
  };
  return { machine, disk, block, driver, read };
}

Deno.test("transport: identity and capabilities", () => {
  const { machine, driver } = setUp();
  assert.equal(machine.config(5, 0), 0x1042_1af4);
  assert.equal(machine.config(5, 8), 0x0100_0001, "mass storage, revision 1");
  assert.ok(machine.config(5, 0x2e, 2) >= 0x40);
  assert.deepEqual(driver.capabilities.map((c) => c.id), [0x10, 0x01, 0x11, 9, 9, 9, 9, 9]);
  assert.equal(driver.multiplier, 4);
  for (const { id, at } of driver.capabilities) {
    assert.equal(at & 3, 0);
    if (id === 9) assert.equal(machine.config(5, at + 2, 1), [0, 16, 20, 16, 16, 20][machine.config(5, at + 3, 1)]);
  }
});

Deno.test("transport: features are agreed on, or not", () => {
  const { machine, driver } = setUp();
  assert.equal(driver.negotiate([Feature.EVENT_IDX]), false, "a legacy driver");
  assert.equal(driver.negotiate([Feature.VERSION_1, 60]), false, "what was not offered");
  assert.equal(driver.negotiate([Feature.VERSION_1]), true);
  machine.write(driver.common + 8, 4, 0);
  machine.write(driver.common + 12, 4, 1 << 28);
  assert.equal(machine.read(driver.common + 12, 4), 0, "nothing more after FEATURES_OK");
  machine.write(driver.common, 4, 7);
  assert.equal(machine.read(driver.common + 4, 4), 0, "no feature bits from 224 on");
  driver.status = 0;
  assert.equal(driver.status, 0);
  driver.status = 1;
  driver.status = 2;
  assert.equal(driver.status, 3, "a driver clears no bit");
  driver.status = 0xff;
  assert.equal(driver.status & Status.NEEDS_RESET, 0, "and does not ask for its own reset");
});

Deno.test("transport: registers of the queues", () => {
  const { machine, driver } = setUp();
  const { common } = driver;
  driver.negotiate([Feature.VERSION_1]);
  for (const queue of [0, 1]) {
    machine.write(common + 22, 2, queue);
    assert.equal(machine.read(common + 24, 2), 64);
    assert.equal(machine.read(common + 26, 2), 0xffff);
    assert.equal(machine.read(common + 30, 2), queue);
    machine.write(common + 26, 2, 3);
    assert.equal(machine.read(common + 26, 2), 0xffff, "no such vector");
    machine.write(common + 26, 2, 2);
    assert.equal(machine.read(common + 26, 2), 2);
  }
  machine.write(common + 16, 2, 1);
  assert.equal(machine.read(common + 16, 2), 1);
  machine.write(common + 16, 2, 9);
  assert.equal(machine.read(common + 16, 2), 0xffff);
  for (const queue of [2, 0xffff]) {
    machine.write(common + 22, 2, queue);
    assert.equal(machine.read(common + 24, 2), 0, "no such queue");
    machine.write(common + 24, 2, 8);
    machine.write(common + 28, 2, 1);
    assert.equal(machine.read(common + 28, 2), 0);
  }
  machine.write(common + 22, 2, 0);
  const queue = driver.setUp(0, new SplitDriver(machine, 32, false));
  machine.write(common + 24, 2, 8);
  machine.write(common + 32, 4, 0xdead_0000);
  assert.equal(machine.read(common + 24, 2), 32, "an enabled queue does not change");
  assert.equal(machine.read(common + 32, 4), queue.descriptors);
  machine.write(common + 28, 2, 0);
  assert.equal(machine.read(common + 28, 2), 1);
});

Deno.test("transport: masked vectors stay pending, no vector sends nothing", () => {
  const { machine, block, driver, read } = setUp();
  driver.start("split", 16, 2, [12], false);
  machine.write(driver.msixTable + 1 * 16 + 12, 4, 1);
  read();
  block.service();
  assert.deepEqual(machine.messages, []);
  const pending = driver.msixTable + 0x800;
  assert.equal(machine.read(pending, 4), 2);
  machine.write(driver.msixTable + 1 * 16 + 12, 4, 0);
  assert.deepEqual(machine.messages, [101]);
  assert.equal(machine.read(pending, 4), 0);
  // The whole function.
  const control = driver.capabilities.find((c) => c.id === 0x11)!.at + 2;
  machine.setConfig(5, control, 2, 0xc000);
  read();
  read(1);
  block.service();
  assert.deepEqual(machine.messages, [101]);
  machine.setConfig(5, control, 2, 0x8000);
  assert.deepEqual(machine.messages, [101, 101, 102]);
  machine.write(driver.common + 22, 2, 0);
  machine.write(driver.common + 26, 2, 0xffff);
  read();
  block.service();
  assert.equal(machine.messages.length, 3);
});

Deno.test("transport: without MSI-X the line goes up, and the ISR register lets it down", () => {
  const { machine, block, driver, read } = setUp();
  const control = driver.capabilities.find((c) => c.id === 0x11)!.at + 2;
  machine.setConfig(5, control, 2, 0);
  driver.start("split", 16, 2, [12], false);
  assert.equal(machine.config(5, 0x3c, 2), 0x0100 | 17, "INTA, where the machine wired it");
  const up = () => machine.lines[5 % 4];
  read();
  block.service();
  assert.deepEqual(machine.messages, []);
  assert.equal(up(), 1);
  assert.equal(machine.config(5, 6, 2) & 8, 8, "interrupt status");
  machine.setConfig(5, 4, 2, 0x406);
  assert.equal(up(), 0, "INTx disabled");
  machine.setConfig(5, 4, 2, 6);
  assert.equal(up(), 1);
  assert.equal(machine.read(driver.isr, 1), 1);
  assert.equal(up(), 0);
  assert.equal(machine.read(driver.isr, 1), 0);
  read();
  block.service();
  assert.equal(up(), 1);
  driver.status = 0;
  assert.equal(up(), 0, "a reset lets it down");
});

Deno.test("transport: no bus mastering, no access to memory", () => {
  const { machine, block, driver, read } = setUp();
  driver.start("split", 16, 2, [12]);
  machine.setConfig(5, 4, 2, 2);
  const status = read();
  block.service();
  assert.equal(machine.memory.bytes[status], 0xee);
  const wakes = machine.wakes;
  machine.setConfig(5, 4, 2, 6);
  assert.ok(machine.wakes > wakes);
  block.service();
  assert.equal(machine.memory.bytes[status], 0);
});

Deno.test("transport: doorbells are where the notify area is", () => {
  const { machine, block, driver } = setUp();
  const at = (base: number) => [0, 1].map((i) => base + 0x3000 + i * 4);
  assert.deepEqual([...machine.doorbells], [0, 1].map((i) => driver.notify + i * 4));
  machine.setConfig(5, 4, 2, 4);
  assert.deepEqual([...machine.doorbells], []);
  machine.setConfig(5, 0x10, 4, 0x1000_0000);
  machine.setConfig(5, 0x14, 4, 0x80);
  assert.deepEqual([...machine.doorbells], []);
  machine.setConfig(5, 4, 2, 6);
  assert.deepEqual([...machine.doorbells], at(0x80_1000_0000));
  machine.setConfig(5, 0x10, 4, 0xc100_0000);
  machine.setConfig(5, 0x14, 4, 0);
  assert.deepEqual([...machine.doorbells], at(0xc100_0000));
  const wakes = machine.wakes;
  machine.write(0xc100_3004, 2, 1);
  assert.equal(machine.wakes, wakes + 1, "where there are none, the register wakes");
  machine.pci.reset();
  assert.deepEqual([...machine.doorbells], []);
  machine.pci.assignBars(WINDOWS);
  assert.equal(machine.doorbells.size, 2);
  assert.equal(block.status, 0);
});

Deno.test("transport: the access capability reaches the registers without a BAR", () => {
  const { machine, driver } = setUp();
  const cap = driver.capabilities.findLast((c) => c.id === 9)!.at;
  const access = (offset: number, length: number, bar = 0) => {
    machine.setConfig(5, cap + 4, 1, bar);
    machine.setConfig(5, cap + 8, 4, offset);
    machine.setConfig(5, cap + 12, 4, length);
  };
  machine.setConfig(5, 4, 2, 0); // BARs off
  access(20, 1);
  machine.setConfig(5, cap + 16, 1, 3);
  access(20, 2);
  assert.equal(machine.config(5, cap + 16) & 0xff, 3);
  assert.equal(driver.status, 0xff, "the BAR itself is silent");
  for (
    const [offset, length, bar] of [[0x4000, 4, 0], [0xffff_fffc, 4, 0], [2, 4, 0], [0, 8, 0], [0, 0, 0], [0, 4, 2]]
  ) {
    access(offset, length, bar);
    machine.setConfig(5, cap + 16, 4, 0x55);
    assert.equal(machine.config(5, cap + 16), 0x55, "a place that is none is only a register");
  }
});

Deno.test("reset in flight: the device lets go before the status reads 0", () => {
  for (const layout of ["split", "packed"] as const) {
    const { machine, disk, block, driver, read } = setUp(1);
    driver.start(layout, 16, 1, []);
    const first = read();
    const second = read();
    let during = -1;
    disk.read = () => {
      driver.status = 0; // another vCPU, while this request is under way
      during = driver.status;
      driver.status = 1; // one that does not wait
    };
    const wakes = machine.wakes;
    assert.equal(block.service(), false);
    assert.notEqual(during, 0, "not reset while a request is under way");
    assert.ok(machine.wakes > wakes);
    assert.equal(driver.status, 0, "reset when it was done");
    assert.equal(machine.memory.bytes[first], 0);
    assert.equal(machine.memory.bytes[second], 0xee, "the next request was not begun");
    disk.read = MemoryDisk.prototype.read;
    driver.start(layout, 16, 1, []);
    const third = read();
    block.service();
    assert.equal(machine.memory.bytes[third], 0);
    assert.equal(driver.queues[0].collect().length, 1);
  }
});

Deno.test("queue reset: one queue begins anew, the other goes on; in flight too", () => {
  for (const layout of ["split", "packed"] as const) {
    const { machine, disk, block, driver, read } = setUp(2);
    driver.start(layout, 16, 2, [12]);
    read(0);
    read(1);
    block.service();
    const { common } = driver;
    const resetQueue = (queue: number) => {
      machine.write(common + 22, 2, queue);
      machine.write(common + 58, 2, 1);
      return machine.read(common + 58, 2);
    };
    assert.equal(resetQueue(0), 0, "at once when nothing is under way");
    assert.equal(machine.read(common + 28, 2), 0);
    assert.equal(machine.read(common + 26, 2), 0xffff);
    const other = read(1);
    const lost = read(0);
    block.service();
    assert.equal(machine.memory.bytes[other], 0);
    assert.equal(machine.memory.bytes[lost], 0xee);
    const fresh = () => new (driver.queues[0].constructor as typeof SplitDriver)(machine, 8, true);
    driver.setUp(0, fresh());
    const again = read(0);
    block.service();
    assert.equal(machine.memory.bytes[again], 0);

    let during = -1;
    disk.read = () => void (during = resetQueue(0));
    read(0);
    block.service();
    assert.equal(during, 1);
    machine.write(common + 22, 2, 0);
    assert.equal(machine.read(common + 58, 2), 0);
    assert.equal(machine.read(common + 28, 2), 0);
    assert.equal(driver.status & Status.DRIVER_OK, Status.DRIVER_OK);
  }
});

Deno.test("transport: a device kept in shared words goes on in another Worker's objects", () => {
  const { machine, disk, block, driver, read } = setUp(1);
  driver.start("packed", 16, 1, []);
  for (let i = 0; i < 11; i++) read();
  block.service();
  driver.queues[0].collect();
  // The same machine built again over copies of the same bytes: what a snapshot restores.
  const copy = new TestMachine();
  new Uint8Array(copy.file.memory.buffer).set(new Uint8Array(machine.file.memory.buffer));
  copy.memory.bytes.set(machine.memory.bytes);
  const twin = new VirtioBlock(copy.file, {
    wake: copy.wake,
    capacity: disk.size,
    readonly: false,
    discardable: true,
    serial: "x",
    queues: 1,
    queueSize: 64,
  });
  copy.add(twin, 5);
  twin.attach({ memory: copy.memory, report: copy.report, disk });
  const status = read();
  copy.memory.bytes.set(machine.memory.bytes);
  twin.service();
  assert.equal(copy.memory.bytes[status], 0);
  assert.deepEqual(copy.messages, [101]);
  assert.deepEqual(copy.reports, []);
});
