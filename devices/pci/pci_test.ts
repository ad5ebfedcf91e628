import assert from "node:assert/strict";
import { Bus } from "../../core/bus.ts";
import type { BusDevice } from "../../core/device.ts";
import { FIRST_WORD, RegisterFile, type Registers } from "../../core/registers.ts";
import { PciBus } from "./bus.ts";
import { ConfigPorts } from "./config_ports.ts";
import { Ecam } from "./ecam.ts";
import { PciFunction } from "./function.ts";
import { HostBridge } from "./host_bridge.ts";
import { PciWindow } from "./window.ts";

const ECAM = 0xe000_0000;
const WINDOWS = [{ start: 0xc000_0000, size: 0x1000_0000 }, { start: 0x100_0000_0000, size: 0x4000_0000 }];

/** Remembers the last access and answers with it. */
class Scratch implements BusDevice {
  readonly registers: Registers;
  constructor(file: RegisterFile) {
    this.registers = file.allocate(2);
  }
  read(offset: number, size: number): number {
    this.registers.words[FIRST_WORD] = offset;
    return size === 4 ? this.registers.words[FIRST_WORD + 1] : offset;
  }
  write(offset: number, _size: number, value: number): void {
    this.registers.words[FIRST_WORD] = offset;
    this.registers.words[FIRST_WORD + 1] = value;
  }
}

/** A function with a narrow and a wide BAR, MSI-X and a line. */
class TestFunction extends PciFunction {
  readonly narrow: Scratch;
  readonly wide: Scratch;
  pending = false;
  constructor(file: RegisterFile, bus: PciBus, slot: number) {
    super(file, bus, slot, {
      vendor: 0x1234,
      device: 0x5678,
      revision: 7,
      classCode: 0x088000,
      subsystemVendor: 0x1af4,
      subsystem: 0x1100,
    });
    this.narrow = new Scratch(file);
    this.wide = new Scratch(file);
    this.addBar(0, 0x1000, false, this.narrow);
    this.addBar(1, 0x10_0000, true, this.wide);
    this.addIntx();
    this.addMsix(file, 4, 40);
  }
  protected override intxPending(): boolean {
    return this.pending;
  }
  drive(pending: boolean): void {
    this.pending = pending;
    this.updateIntx();
  }
}

/** One machine's worth of PCI; over the registers of another, its second Worker. */
function build(shared?: WebAssembly.Memory) {
  const file = new RegisterFile(shared);
  const messages: [number, number][] = [];
  const levels = [0, 0, 0, 0];
  let resets = 0;
  const bus = new PciBus(file, {
    sink: { signalMessage: (address, data) => void messages.push([address >>> 0, data]) },
    lines: levels.map((_, i) => ({ line: { set: (level: number) => void (levels[i] = level) }, number: 16 + i })),
  });
  new HostBridge(file, bus);
  const functions = [1, 5, 6].map((slot) => new TestFunction(file, bus, slot));
  const memory = new Bus("memory");
  const ports = new Bus("port");
  memory.map(ECAM, Ecam.bytes(2), new Ecam(file, bus));
  for (const window of WINDOWS) memory.map(window.start, window.size, new PciWindow(bus, window.start));
  ports.map(ConfigPorts.PORT, ConfigPorts.PORTS, new ConfigPorts(file, bus, { reset: () => resets++ }));
  const address = new Float64Array(1);
  const view = new DataView(new ArrayBuffer(8));
  const read = (at: number, size = 4, space = memory): number => {
    address[0] = at;
    space.read(address, size, view, 0);
    return size === 1 ? view.getUint8(0) : size === 2 ? view.getUint16(0, true) : view.getUint32(0, true);
  };
  const write = (at: number, value: number, size = 4, space = memory): void => {
    address[0] = at;
    view.setUint32(0, value >>> 0, true);
    space.write(address, size, view, 0);
  };
  const at = (slot: number, offset: number) => ECAM + slot * 0x8000 + offset;
  return { file, bus, functions, memory, ports, messages, levels, read, write, at, resets: () => resets };
}

function started() {
  const machine = build();
  machine.bus.initialize();
  machine.bus.assignBars(WINDOWS);
  return machine;
}

Deno.test("pci: headers, and nothing where nothing is", () => {
  const { read, write, at } = started();
  assert.equal(read(at(0, 0)), 0x0008_1b36);
  assert.equal(read(at(0, 0x0a), 2), 0x0600);
  assert.equal(read(at(1, 0)), 0x5678_1234);
  assert.equal(read(at(1, 8)), 0x0880_0007);
  assert.equal(read(at(1, 0x2c)), 0x1100_1af4);
  assert.equal(read(at(1, 0x0e), 1), 0, "one function");
  assert.equal(read(at(1, 0x3c), 2), 0x0100 | 17);
  write(at(1, 0), 0);
  assert.equal(read(at(1, 0)), 0x5678_1234);
  assert.equal(read(at(1, 0x100)), 0, "no extended capability");
  assert.equal(read(at(1, 0xffc)), 0);
  for (const nothing of [at(2, 0), at(1, 0) + 0x1000, at(31, 0), ECAM + 0x10_0000, ECAM + 0x1f_fffc]) {
    assert.equal(read(nothing), 0xffff_ffff);
    write(nothing, 0);
    assert.equal(read(nothing, 2), 0xffff);
  }
});

Deno.test("pci: capabilities are a chain that ends", () => {
  const { read, write, at } = started();
  assert.equal(read(at(1, 6), 2) & 0x10, 0x10);
  const seen: number[] = [];
  for (let p = read(at(1, 0x34), 1); p !== 0; p = read(at(1, p + 1), 1)) {
    assert.ok(seen.length < 48);
    seen.push(read(at(1, p), 1));
    if (seen.at(-1) === 0x10) {
      assert.equal(read(at(1, p + 2), 2), 0x0092, "version 2, root complex integrated endpoint");
      write(at(1, p + 8), 0xffff, 2);
      assert.equal(read(at(1, p + 8), 2), 0x781f, "payload size and phantom functions stay as they are");
    }
    if (seen.at(-1) === 0x01) {
      write(at(1, p + 4), 3, 2);
      assert.equal(read(at(1, p + 4), 2), 0x000b);
    }
  }
  assert.deepEqual(seen, [0x10, 0x01, 0x11]);
});

Deno.test("pci: BARs are sized, placed and moved", () => {
  const { bus, functions, read, write, at } = started();
  const bases = bus.bars.map((bar) => bar.base);
  assert.equal(new Set(bases).size, bases.length);
  bus.bars.forEach((bar) => assert.equal(bar.base % bar.size, 0));
  // Firmware left them decoded: a guest without any finds its devices.
  assert.equal(read(at(5, 4), 2), 2);
  write(functions[1].bars[0].base + 0x10, 0x1234_5678);
  assert.equal(functions[1].narrow.registers.words[FIRST_WORD], 0x10);
  assert.equal(read(functions[1].bars[0].base + 0x10), 0x1234_5678);

  const size = (offset: number) => {
    const old = read(at(1, offset));
    write(at(1, offset), 0xffff_ffff);
    const mask = read(at(1, offset));
    write(at(1, offset), old);
    return mask;
  };
  assert.equal(size(0x10), 0xffff_f000);
  assert.equal(size(0x14), 0xfff0_0004);
  assert.equal(size(0x18), 0xffff_ffff);
  assert.equal(size(0x20), 0xffff_f004);
  assert.equal(size(0x30), 0, "no expansion ROM");

  const before = functions[0].bars[1].base;
  write(before + 0x40, 7);
  // Above 4 GiB, in the other window; half moved it is nowhere in particular, and harmless.
  write(at(1, 0x18), 0x100);
  write(at(1, 0x14), 0x0080_0000);
  assert.equal(functions[0].bars[1].base, 0x100_0080_0000);
  assert.equal(read(before + 0x40), 0xffff_ffff);
  assert.equal(read(0x100_0080_0040), 7);
  write(at(1, 4), 0, 2);
  assert.equal(read(0x100_0080_0040), 0xffff_ffff, "not decoded");
  write(at(1, 4), 2, 2);
  assert.equal(read(0x100_0080_0040), 7);
  // The last bytes, and an access that leaves the BAR.
  write(0x100_0080_0000 + 0xf_fffc, 9);
  assert.equal(functions[0].wide.registers.words[FIRST_WORD], 0xf_fffc);
  assert.equal(read(0x100_0080_0000 + 0xf_fffe), 0xffff_ffff);
  // Outside any window a BAR is silent.
  write(at(1, 0x10), 0x4000_0000);
  assert.equal(read(0x4000_0000), 0xffff_ffff);
});

Deno.test("pci: a BAR that one Worker moves has moved for another", () => {
  const first = started();
  const second = build(first.file.memory);
  assert.deepEqual(second.bus.bars.map((b) => b.base), first.bus.bars.map((b) => b.base));
  const base = first.functions[2].bars[0].base;
  second.write(base, 5);
  assert.equal(first.read(base), 5);
  first.write(first.at(6, 0x10), 0xcf00_0000);
  assert.equal(second.read(base), 0xffff_ffff);
  assert.equal(second.read(0xcf00_0000), 5);
});

Deno.test("pci: windows too small are refused when the machine is built", () => {
  const { bus } = build();
  bus.initialize();
  assert.throws(() => bus.assignBars([{ start: 0xc000_0000, size: 0x1_0000 }]), /no window has room/);
  assert.throws(() => bus.assignBars([{ start: 0x100_0000_0000, size: 0x1000_0000 }]), /no window has room/);
  assert.throws(() => new HostBridge(new RegisterFile(), bus), /slot 0 is taken/);
});

Deno.test("pci: ports and memory show the same configuration space", () => {
  const { read, write, at, ports, resets } = started();
  const select = (slot: number, register: number) => write(0xcf8, 0x8000_0000 | (slot << 11) | register, 4, ports);
  select(1, 0x2c);
  assert.equal(read(0xcf8, 4, ports), 0x8000_082c);
  for (const size of [1, 2, 4]) {
    for (let i = 0; i + size <= 4; i++) assert.equal(read(0xcfc + i, size, ports), read(at(1, 0x2c + i), size));
  }
  select(1, 0x3c);
  write(0xcfc, 0x99, 1, ports);
  assert.equal(read(at(1, 0x3c), 2), 0x0199);
  select(2, 0);
  assert.equal(read(0xcfc, 4, ports), 0xffff_ffff);
  write(0xcf8, (1 << 11) | 0x2c, 4, ports);
  assert.equal(read(0xcfc, 4, ports), 0xffff_ffff, "not enabled");
  write(0xcf8, 0x8001_0000, 4, ports);
  assert.equal(read(0xcfc, 4, ports), 0xffff_ffff, "another bus");
  // The reset control register shares the port.
  write(0xcf9, 2, 1, ports);
  assert.equal(resets(), 0);
  write(0xcf9, 6, 1, ports);
  assert.equal(resets(), 1);
  assert.equal(read(0xcf9, 1, ports), 6);
});

Deno.test("pci: accesses across words, and errors that are cleared by writing ones", () => {
  const { read, write, at } = started();
  assert.equal(read(at(1, 2)), 0x0002_5678);
  assert.equal(read(at(1, 3), 2), 0x0256);
  write(at(1, 2), 0x0406_ffff);
  assert.equal(read(at(1, 4), 2), 0x0406);
  write(at(1, 5), 0, 2);
  assert.equal(read(at(1, 4), 2), 6);
  write(at(1, 6), 0xffff, 2);
  assert.equal(read(at(1, 6), 2), 0x0010);
});

Deno.test("pci: functions share a line", () => {
  const { functions, levels, read, write, at } = started();
  const [one, five] = functions; // slots 1 and 5: both on the second line
  one.drive(true);
  five.drive(true);
  assert.deepEqual(levels, [0, 1, 0, 0]);
  one.drive(false);
  assert.deepEqual(levels, [0, 1, 0, 0]);
  assert.equal(read(at(5, 6), 2) & 8, 8);
  assert.equal(read(at(1, 6), 2) & 8, 0);
  write(at(5, 4), 0x402, 2);
  assert.deepEqual(levels, [0, 0, 0, 0]);
  assert.equal(read(at(5, 6), 2) & 8, 8, "the status does not look at the disable bit");
  write(at(5, 4), 2, 2);
  assert.deepEqual(levels, [0, 1, 0, 0]);
  functions[2].drive(true);
  assert.deepEqual(levels, [0, 1, 1, 0]);
  // MSI-X takes the line away.
  let msix = read(at(5, 0x34), 1);
  while (read(at(5, msix), 1) !== 0x11) msix = read(at(5, msix + 1), 1);
  write(at(5, msix + 2), 0x8000, 2);
  assert.deepEqual(levels, [0, 0, 1, 0]);
});

Deno.test("pci: MSI-X table, masks and pending bits", () => {
  const { functions, messages, read, write, at } = started();
  const [one] = functions;
  const table = one.bars[2].base;
  let cap = read(at(1, 0x34), 1);
  while (read(at(1, cap), 1) !== 0x11) cap = read(at(1, cap + 1), 1);
  assert.equal(read(at(1, cap + 2), 2), 39);
  assert.equal(read(at(1, cap + 4)), 4);
  assert.equal(read(at(1, cap + 8)), 0x804);
  assert.equal(read(table + 12), 1, "masked after reset");
  for (const vector of [0, 33, 39]) {
    write(table + vector * 16, 0xfee0_1003);
    assert.equal(read(table + vector * 16), 0xfee0_1000);
    write(table + vector * 16 + 8, 0x4000 + vector);
    write(table + vector * 16 + 12, 0xffff_fffe);
    assert.equal(read(table + vector * 16 + 12), 0);
  }
  const { msix } = one;
  msix!.send(33);
  assert.deepEqual(messages, [], "off: kept");
  assert.equal(read(table + 0x804), 2);
  assert.equal(read(table + 0x804, 1), 2);
  write(at(1, cap + 2), 0x8000, 2);
  assert.deepEqual(messages, [[0xfee0_1000, 0x4021]]);
  assert.equal(read(table + 0x804), 0);
  msix!.send(39);
  msix!.send(40);
  msix!.send(0xffff);
  assert.equal(messages.length, 2);
  write(table + 0x800, 0xffff_ffff);
  assert.equal(read(table + 0x800), 0, "pending bits are read-only");
  write(table + 16 * 40, 5);
  assert.equal(read(table + 16 * 40), 0, "past the table");
  write(table + 1, 0xaa, 1);
  assert.equal(read(table), 0xfee0_1000, "whole words only");
  write(table + 4, 1);
  msix!.send(0);
  assert.equal(messages.length, 2, "a message to above 4 GiB reaches no APIC");
});
