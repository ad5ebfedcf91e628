/**
 * Guests that write anything anywhere: into rings, descriptors, registers, also while the device is at work. A device
 * must not throw, hang, touch what is not guest memory, or be of no use after its reset. `HV_FUZZ=n` runs n times as
 * many seeds; a failure names the seed that makes it again.
 */
import assert from "node:assert/strict";
import { ByteRing } from "../../core/byte_ring.ts";
import { VirtioBalloon } from "./balloon.ts";
import { VirtioBlock } from "./block.ts";
import { VirtioConsole } from "./console.ts";
import { Feature, Status, type VirtioDevice, Word } from "./device.ts";
import { VirtioRng } from "./rng.ts";
import { MemoryDisk, PackedDriver, type Piece, SplitDriver, TestMachine, VirtioDriver } from "./testing.ts";

const EFFORT = Number(Deno.env.get("HV_FUZZ") ?? 1);
const RAM = 4 << 20;
const HOLE = 3 << 20;
const FOUR_GIB = 0x1_0000_0000;
/** Slowest that one call of service may be: a bound on work, with room for a busy machine. */
const MOST_MILLISECONDS = 3000;

type Random = (below: number) => number;

function xorshift(seed: number): Random {
  let x = Math.imul(seed + 1, 0x9e3779b1) | 1;
  return (below) => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return (x >>> 0) % below;
  };
}

/** Numbers that break things more often than others do. */
function interesting(next: Random): number {
  switch (next(8)) {
    case 0:
      return 0;
    case 1:
      return 0xffff_ffff - next(32);
    case 2:
      return HOLE - 16 + next(32);
    case 3:
      return (1 << next(31)) - next(2);
    case 4:
      return next(256);
    default:
      return next(0xffff_ffff);
  }
}

/** An address: usually RAM, often its edges, sometimes nowhere. */
function address(next: Random): bigint {
  switch (next(8)) {
    case 0:
      return BigInt(HOLE - next(64));
    case 1:
      return BigInt(FOUR_GIB + (RAM - HOLE) - next(64));
    case 2:
      return BigInt(FOUR_GIB + next(RAM - HOLE));
    case 3:
      return (BigInt(interesting(next)) << 32n) | BigInt(interesting(next));
    default:
      return BigInt(next(HOLE));
  }
}

/** A disk that checks what it is handed; it notes what is wrong, since a device takes what a disk throws for an error. */
class CheckingDisk extends MemoryDisk {
  readonly violations: string[] = [];
  machine: TestMachine | null = null;
  meanwhile: () => void = () => {};
  requests = 0;

  private checkVector(offset: number, vector: Parameters<MemoryDisk["read"]>[1]): void {
    this.requests++;
    let total = 0;
    if (!(vector.count > 0 && vector.count <= 1024)) this.violations.push(`${vector.count} pieces`);
    for (let i = 0; i < vector.count; i++) {
      const start = vector.offsets[i];
      const length = vector.lengths[i];
      if (!(Number.isInteger(start) && start >= 0 && length > 0 && start + length <= RAM)) {
        this.violations.push(`memory ${start}+${length}`);
      }
      total += length;
    }
    this.checkRange(offset, total);
  }
  private checkRange(offset: number, length: number): void {
    if (!(offset >= 0 && length > 0 && offset + length <= this.size)) this.violations.push(`disk ${offset}+${length}`);
  }
  override read(offset: number, vector: Parameters<MemoryDisk["read"]>[1]): void {
    this.checkVector(offset, vector);
    super.read(offset, vector);
    this.meanwhile();
  }
  override write(offset: number, vector: Parameters<MemoryDisk["read"]>[1]): void {
    this.checkVector(offset, vector);
    super.write(offset, vector);
    this.meanwhile();
  }
  override flush(): void {
    this.requests++;
    this.meanwhile();
  }
  override discard(offset: number, length: number): void {
    this.requests++;
    this.checkRange(offset, length);
  }
  override writeZeroes(offset: number, length: number): void {
    this.discard(offset, length);
  }
}

interface Guest {
  machine: TestMachine;
  devices: VirtioDevice[];
  drivers: VirtioDriver[];
  disk: CheckingDisk;
  input: ByteRing;
  output: ByteRing;
}

const QUEUES = [2, 2, 1, 5];
const FEATURES = [[9, 12, 13, 14], [0], [], [1, 2, 5]];

function build(): Guest {
  const machine = new TestMachine(RAM, HOLE);
  const disk = new CheckingDisk(256 * 512);
  const block = new VirtioBlock(machine.file, {
    wake: machine.wake,
    capacity: disk.size,
    readonly: false,
    discardable: true,
    serial: "FUZZ",
    queues: 2,
    queueSize: 32,
  });
  const console = new VirtioConsole(machine.file, { wake: machine.wake, columns: 80, rows: 25 });
  const rng = new VirtioRng(machine.file, { wake: machine.wake });
  const balloon = new VirtioBalloon(machine.file, { wake: machine.wake });
  const devices = [block, console, rng, balloon];
  devices.forEach((device, i) => machine.add(device, i + 1));
  machine.start();
  const input = new ByteRing(ByteRing.allocate(1024));
  const output = new ByteRing(ByteRing.allocate(1024));
  const wires = { memory: machine.memory, report: machine.report };
  block.attach({ ...wires, disk });
  console.attach({ ...wires, input, output });
  rng.attach(wires);
  balloon.attach({
    ...wires,
    release: (offset, length) =>
      assert.ok(offset >= 0 && length > 0 && offset % 4096 === 0 && length % 4096 === 0 && offset + length <= RAM),
  });
  const drivers = devices.map((_, i) => new VirtioDriver(machine, i + 1));
  return { machine, devices, drivers, disk, input, output };
}

function service(guest: Guest, seed: number): void {
  for (const device of guest.devices) {
    guest.disk.requests = 0;
    const start = performance.now();
    device.service();
    const took = performance.now() - start;
    assert.ok(took < MOST_MILLISECONDS, `seed ${seed}: ${device.name} worked for ${took} ms`);
    assert.ok(guest.disk.requests <= 2 * 256 * 32, `seed ${seed}: ${guest.disk.requests} requests in one call`);
  }
  while (guest.output.length > 0) guest.output.shift();
  assert.equal(guest.devices[1].status >= 0, true);
}

function startAll(guest: Guest, next: Random): void {
  guest.drivers.forEach((driver, i) => {
    const layout = next(2) === 0 ? "split" : "packed";
    const size = layout === "split" ? 1 << next(6) : 1 + next(32);
    // The queues of the entropy device are smaller than what others allow.
    driver.start(layout, Math.min(size, 16), QUEUES[i], FEATURES[i], next(2) === 0);
  });
}

/** A request that makes sense, in pieces that may not. */
function offer(guest: Guest, i: number, next: Random): void {
  const { machine } = guest;
  const queue = guest.drivers[i].queues[next(QUEUES[i])];
  if (queue === undefined) return;
  const at = machine.allocate(2048);
  machine.memory.view.setUint32(at, [0, 1, 4, 8, 11, 13, next(20)][next(7)], true);
  machine.memory.view.setUint32(at + 8, next(256), true);
  machine.memory.view.setUint32(at + 12, 0, true);
  const pieces: Piece[] = [{ address: at, length: 16 }];
  for (let k = next(4); k > 0; k--) {
    pieces.push({ address: next(8) === 0 ? interesting(next) : at + 16, length: next(4) * 512, write: next(2) === 0 });
  }
  pieces.push({ address: at + 1024, length: 1 + (next(8) === 0 ? next(600) : next(2) * 512), write: true });
  queue.offer(pieces, next(3) === 0 || pieces.length > queue.size);
}

/** Writes over some of a queue's memory. */
function scribble(guest: Guest, next: Random): void {
  const driver = guest.drivers[next(guest.drivers.length)];
  const queue = driver.queues[next(driver.queues.length)];
  if (queue === undefined) return;
  const { view } = guest.machine.memory;
  const entry = queue.descriptors + next(queue.size) * 16;
  switch (next(8)) {
    case 0:
      return view.setBigUint64(entry, address(next), true);
    case 6:
      // A loop of nothing, which no count of bytes or pieces ends.
      view.setUint32(entry + 8, 0, true);
      view.setUint16(entry + 12, 1, true);
      return view.setUint16(entry + 14, (entry - queue.descriptors) / 16, true);
    case 1:
      return view.setUint32(entry + 8, interesting(next), true);
    case 2:
      return view.setUint16(entry + 12, next(4) === 0 ? next(0x10000) : next(8), true);
    case 3:
      return view.setUint16(entry + 14, next(2) === 0 ? next(queue.size + 2) : next(0x10000), true);
    case 4:
      // The available ring with its index, or the driver's event area.
      return view.setUint16(
        queue.driver + (queue instanceof SplitDriver ? next(queue.size + 3) * 2 : next(2) * 2),
        interesting(next) & 0xffff,
        true,
      );
    case 5:
      return view.setUint16(queue.device + next(2) * 2, next(0x10000), true);
    default: {
      // An indirect table made of whatever there is.
      const table = next(HOLE - 4096) & -16;
      for (let k = 0; k < 8; k++) {
        view.setBigUint64(table + k * 16, address(next), true);
        view.setUint32(table + k * 16 + 8, interesting(next), true);
        view.setUint32(table + k * 16 + 12, next(8) | (next(10) << 16), true);
      }
      view.setBigUint64(entry, BigInt(table), true);
      view.setUint32(entry + 8, next(4) === 0 ? interesting(next) : next(12) * 16, true);
      const packed = queue instanceof PackedDriver;
      view.setUint16(entry + (packed ? 14 : 12), 4 | (packed ? [0x80, 0x8000][next(2)] : 0), true);
    }
  }
}

/** Does anything with the registers and the configuration space. */
function poke(guest: Guest, next: Random): void {
  const { machine } = guest;
  const i = next(guest.drivers.length);
  const driver = guest.drivers[i];
  const size = [1, 2, 4, 8][next(4)];
  switch (next(6)) {
    case 0:
    case 1: {
      const at = driver.common + (next(3) === 0 ? next(0x4000) : next(64));
      if (next(2) === 0) machine.read(at, size);
      else machine.write(at, size, interesting(next));
      return;
    }
    case 2:
      return driver.notifyQueue(next(8));
    case 3:
      return machine.write(driver.msixTable + next(0x1000), size, interesting(next));
    case 4:
      if (next(2) === 0) machine.config(i + 1, next(4096), size === 8 ? 4 : size);
      // Everything but the command register and the BARs: the driver would not find its device again.
      else machine.setConfig(i + 1, 0x28 + next(0xd8), size === 8 ? 4 : size, interesting(next));
      return;
    default:
      if (i === 1) (guest.devices[1] as VirtioConsole).resize(next(0x10000), next(0x10000));
      if (i === 3) (guest.devices[3] as VirtioBalloon).requestStatistics();
      guest.input.write(new Uint8Array(next(64)));
  }
}

/** After all that, a reset makes a device of use again. */
function stillOfUse(guest: Guest, seed: number): void {
  const { machine, disk } = guest;
  disk.meanwhile = () => {};
  machine.pci.reset();
  machine.pci.assignBars([{ start: 0xc000_0000, size: 0x1000_0000 }]);
  machine.memory.bytes.fill(0);
  (machine as unknown as { next: number }).next = 0x10000;
  const driver = new VirtioDriver(machine, 1);
  driver.start("split", 8, 1, [9]);
  const at = machine.allocate(1024);
  driver.queues[0].offer([{ address: at, length: 16 }, { address: at + 16, length: 513, write: true }]);
  machine.memory.bytes[at + 528] = 0xee;
  guest.devices[0].service();
  assert.equal(machine.memory.bytes[at + 528], 0, `seed ${seed}: the disk does not answer any more`);
  assert.equal(driver.status, Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK);
}

function fuzz(seeds: number, steps: number, step: (guest: Guest, next: Random) => void, concurrent: boolean): void {
  let requests = 0;
  let faults = 0;
  for (let seed = 0; seed < seeds; seed++) {
    try {
      const next = xorshift(seed);
      const guest = build();
      startAll(guest, next);
      if (concurrent) guest.disk.meanwhile = () => step(guest, next);
      for (let i = 0; i < steps; i++) {
        if ((i & 63) === 63) {
          (guest.machine as unknown as { next: number }).next = 0x10000;
          startAll(guest, next);
        }
        for (let k = next(4); k > 0; k--) offer(guest, next(4), next);
        step(guest, next);
        service(guest, seed);
        // A driver that loses count of its own ring begins anew.
        for (const driver of guest.drivers) {
          for (const queue of driver.queues) {
            try {
              queue.collect();
            } catch {
              queue.allowInterrupts(true);
            }
          }
        }
      }
      assert.deepEqual(guest.disk.violations, []);
      assert.ok(guest.machine.guardsIntact(), "host memory beside the guest's was written");
      assert.ok(guest.machine.reports.length <= steps * 8, "a log without bound");
      for (const { registers } of guest.devices) {
        requests += registers.words[Word.REQUESTS];
        faults += registers.words[Word.FAULTS];
      }
      stillOfUse(guest, seed);
    } catch (error) {
      throw new Error(`seed ${seed}`, { cause: error });
    }
  }
  // A fuzzer that never gets anywhere finds nothing: both good and bad requests must have come through.
  assert.ok(requests > seeds * steps / 10, `only ${requests} requests served`);
  assert.ok(faults > seeds, `only ${faults} faults`);
}

Deno.test("fuzz: rings and descriptors that anything may stand in", () => {
  fuzz(40 * EFFORT, 200, scribble, false);
});

Deno.test("fuzz: rings that change while the device reads them", () => {
  fuzz(40 * EFFORT, 200, (guest, next) => {
    for (let k = next(4); k >= 0; k--) scribble(guest, next);
  }, true);
});

Deno.test("fuzz: registers in any order, also while the device is at work", () => {
  fuzz(40 * EFFORT, 200, (guest, next) => {
    for (let k = next(4); k >= 0; k--) poke(guest, next);
    if (next(4) === 0) scribble(guest, next);
  }, true);
});

Deno.test("fuzz: queues set up anywhere", () => {
  for (let seed = 0; seed < 200 * EFFORT; seed++) {
    const next = xorshift(seed);
    const guest = build();
    for (let i = 0; i < 20; i++) {
      const at = next(4);
      const driver = guest.drivers[at];
      const features = [Feature.VERSION_1, ...FEATURES[at]];
      if (next(2) === 0) features.push(Feature.RING_PACKED);
      if (next(2) === 0) features.push(Feature.EVENT_IDX);
      if (next(2) === 0) features.push(Feature.INDIRECT_DESC);
      if (!driver.negotiate(features)) continue;
      for (let q = 0; q < QUEUES[at]; q++) {
        const size = next(4) === 0 ? interesting(next) & 0xffff : 1 << next(6);
        const place = () => Number(address(next) & ~(next(4) === 0 ? 0n : 15n));
        driver.setUp(q, { size, descriptors: place(), driver: place(), device: place() } as SplitDriver);
      }
      // What lies at such places are not rings; noise makes them look like some.
      for (let k = 0; k < 2000; k++) guest.machine.memory.words[next(RAM / 4)] = next(8) | (next(16) << 16);
      driver.ready();
      service(guest, seed);
    }
    assert.ok(guest.machine.guardsIntact(), `seed ${seed}`);
    stillOfUse(guest, seed);
  }
});
