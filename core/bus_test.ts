import assert from "node:assert/strict";
import { Bus } from "./bus.ts";
import type { BusDevice } from "./device.ts";
import { RegisterFile } from "./registers.ts";

/** A device that remembers what it was asked, and whether the bus held its lock. */
class Probe implements BusDevice {
  readonly registers = new RegisterFile().allocate(1);
  readonly log: string[] = [];
  read(offset: number, size: number): number {
    this.log.push(`read ${offset} ${size} ${this.registers.words[0] !== 0 ? "locked" : "free"}`);
    return (0x80000000 | offset) | 0;
  }
  write(offset: number, size: number, value: number): void {
    this.log.push(`write ${offset} ${size} ${value}`);
  }
}

const at = (address: number) => new Float64Array([address]);

Deno.test("ranges do not overlap", () => {
  const bus = new Bus("port");
  bus.map(0x100, 8, new Probe());
  bus.map(0x108, 8, new Probe());
  bus.map(0xf8, 8, new Probe());
  for (const [start, size] of [[0x100, 1], [0x107, 2], [0xff, 2], [0x10f, 1], [0, 0x1000]]) {
    assert.throws(() => bus.map(start, size, new Probe()), /two devices at port/);
  }
});

Deno.test("handlers see offsets, with their lock held", () => {
  const bus = new Bus("memory");
  const probe = new Probe();
  bus.map(0xfec0_0000, 0x1000, probe);
  const view = new DataView(new ArrayBuffer(16));
  bus.read(at(0xfec0_0010), 4, view, 4);
  assert.equal(view.getUint32(4, true), 0x80000010);
  view.setUint16(0, 0xbeef, true);
  bus.write(at(0xfec0_0ffe), 2, view, 0);
  assert.deepEqual(probe.log, ["read 16 4 locked", `write 4094 2 ${0xbeef}`]);
  assert.equal(probe.registers.words[0], 0);
});

Deno.test("eight bytes are two accesses, low half first; odd sizes go byte by byte", () => {
  const bus = new Bus("memory");
  const probe = new Probe();
  bus.map(0, 0x100, probe);
  const view = new DataView(new ArrayBuffer(16));
  bus.read(at(8), 8, view, 0);
  view.setUint32(0, 1, true);
  view.setUint32(4, 2, true);
  bus.write(at(8), 8, view, 0);
  bus.read(at(1), 3, view, 0);
  assert.deepEqual(probe.log, [
    "read 8 4 locked",
    "read 12 4 locked",
    "write 8 4 1",
    "write 12 4 2",
    "read 1 1 locked",
    "read 2 1 locked",
    "read 3 1 locked",
  ]);
});

Deno.test("what nobody answers reads as all ones and is counted", () => {
  const bus = new Bus("port");
  const probe = new Probe();
  bus.map(0x10, 4, probe);
  const view = new DataView(new ArrayBuffer(8));
  bus.read(at(0x20), 4, view, 0);
  assert.equal(view.getUint32(0, true), 0xffffffff);
  // An access that passes the end of a range belongs to nobody.
  bus.read(at(0x12), 4, view, 4);
  assert.equal(view.getUint32(4, true), 0xffffffff);
  bus.write(at(0), 1, view, 0);
  assert.deepEqual([bus.unmappedReads, bus.unmappedWrites, probe.log.length], [2, 1, 0]);
});

Deno.test("a range can be taken away", () => {
  const bus = new Bus("memory");
  const probe = new Probe();
  bus.map(0x1000, 0x1000, probe);
  const view = new DataView(new ArrayBuffer(8));
  bus.read(at(0x1000), 1, view, 0);
  assert.equal(bus.unmap(0x1000), true);
  assert.equal(bus.unmap(0x1000), false);
  bus.read(at(0x1000), 1, view, 0);
  assert.equal(probe.log.length, 1);
});
