/**
 * Configuration space, ports, BARs and MSI-X under anything a guest may do, from two Workers' objects over the same
 * words. Nothing throws or hangs; what is constant stays so; capability lists end; accesses stay in their BAR.
 * `HV_FUZZ=n` runs n times as many seeds.
 */
import assert from "node:assert/strict";
import { Bus } from "../../core/bus.ts";
import type { BusDevice } from "../../core/device.ts";
import { RegisterFile, type Registers } from "../../core/registers.ts";
import { PciBus } from "./bus.ts";
import { ConfigPorts } from "./config_ports.ts";
import { Ecam } from "./ecam.ts";
import { PciFunction } from "./function.ts";
import { HostBridge } from "./host_bridge.ts";
import { PciWindow } from "./window.ts";

const EFFORT = Number(Deno.env.get("HV_FUZZ") ?? 1);
const ECAM = 0xe000_0000;
const WINDOWS = [{ start: 0xc000_0000, size: 0x2000_0000 }, { start: 0x10_0000_0000, size: 0x4000_0000 }];

function xorshift(seed: number): (below: number) => number {
  let x = Math.imul(seed + 1, 0x9e3779b1) | 1;
  return (below) => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return (x >>> 0) % below;
  };
}

/** Answers anything, and insists that it lies within its BAR. */
class Bounded implements BusDevice {
  readonly registers: Registers;
  accesses = 0;
  private readonly size: number;
  constructor(file: RegisterFile, size: number) {
    this.registers = file.allocate(0);
    this.size = size;
  }
  private check(offset: number, size: number): void {
    this.accesses++;
    assert.ok(Number.isInteger(offset) && offset >= 0 && offset + size <= this.size, `${offset}+${size}`);
  }
  read(offset: number, size: number): number {
    this.check(offset, size);
    return offset | 0;
  }
  write(offset: number, size: number): void {
    this.check(offset, size);
  }
}

class Target extends PciFunction {
  readonly areas: Bounded[] = [];
  wanted = false;
  constructor(file: RegisterFile, bus: PciBus, slot: number) {
    super(file, bus, slot, {
      vendor: 0x1af4,
      device: slot,
      revision: 1,
      classCode: 0xff0000,
      subsystemVendor: 0x1af4,
      subsystem: 0x1100,
    });
    for (const [index, size, wide] of [[0, 16, false], [1, 0x4000, true], [3, 0x100_0000, false]] as const) {
      const area = new Bounded(file, size);
      this.areas.push(area);
      this.addBar(index, size, wide, area);
    }
    this.addIntx();
    this.addMsix(file, 4, 1 + slot * 20);
  }
  protected override intxPending(): boolean {
    return this.wanted;
  }
  drive(wanted: boolean): void {
    this.wanted = wanted;
    this.updateIntx();
  }
}

function build(shared?: WebAssembly.Memory) {
  const file = new RegisterFile(shared);
  const state = { messages: 0, levels: [0, 0] };
  const bus = new PciBus(file, {
    sink: {
      signalMessage: (address, data) => {
        assert.ok(address === (address | 0) && data === (data | 0));
        state.messages++;
      },
    },
    lines: [0, 1].map((i) => ({ line: { set: (level: number) => void (state.levels[i] = level) }, number: i })),
  });
  new HostBridge(file, bus);
  const targets = [1, 2, 3].map((slot) => new Target(file, bus, slot));
  const memory = new Bus("memory");
  const ports = new Bus("port");
  memory.map(ECAM, Ecam.bytes(256), new Ecam(file, bus));
  for (const window of WINDOWS) memory.map(window.start, window.size, new PciWindow(bus, window.start));
  ports.map(ConfigPorts.PORT, ConfigPorts.PORTS, new ConfigPorts(file, bus, { reset: () => {} }));
  return { file, bus, targets, memory, ports, state };
}

const SIZES = [1, 2, 4, 8];

function capability(target: Target, id: number): number {
  let at = target.config.word(0x34) & 0xff;
  while ((target.config.word(at) & 0xff) !== id) at = (target.config.word(at) >> 8) & 0xff;
  return at;
}

Deno.test("fuzz: PCI, all of it, from two Workers", () => {
  let accesses = 0;
  let messages = 0;
  const start = performance.now();
  for (let seed = 0; seed < 60 * EFFORT; seed++) {
    const next = xorshift(seed);
    const first = build();
    first.bus.initialize();
    first.bus.assignBars(WINDOWS);
    const machines = [first, build(first.file.memory)];
    const address = new Float64Array(1);
    const view = new DataView(new ArrayBuffer(8));
    const value = () => [0, -1, next(0xffff_ffff), 1 << next(32), WINDOWS[0].start + next(0x2000_0000)][next(5)];
    try {
      for (let i = 0; i < 4000; i++) {
        const machine = machines[next(2)];
        const target = machine.targets[next(3)];
        const size = SIZES[next(4)];
        let space = machine.memory;
        switch (next(8)) {
          case 0:
            address[0] = ECAM + next(0x1000_0000 - 8);
            break;
          case 1:
          case 2:
            address[0] = ECAM + next(5) * 0x8000 + (next(4) === 0 ? next(4096 - 8) : next(256 - 8));
            break;
          case 3:
            space = machine.ports;
            address[0] = 0xcf8 + next(12);
            break;
          case 4:
            address[0] = WINDOWS[next(2)].start + next(0x2000_0000);
            break;
          case 5: {
            // Where a BAR is now, or just beside it.
            const bar = target.bars[next(target.bars.length)];
            address[0] = bar.base + [0, bar.size - 1, next(bar.size), bar.size, -1][next(5)];
            break;
          }
          case 6:
            if (next(2) === 0) target.msix!.send(next(100));
            else target.drive(next(2) === 0);
            continue;
          default:
            // Enable decoding and MSI-X now and then, so that the rest reaches something.
            address[0] = ECAM + target.slot * 0x8000 + 4;
            view.setUint32(0, 6, true);
            machine.memory.write(address, 2, view, 0);
            address[0] = ECAM + target.slot * 0x8000 + capability(target, 0x11) + 2;
            view.setUint32(0, 0x8000, true);
            machine.memory.write(address, 2, view, 0);
            // A vector that may go out.
            address[0] = target.bars[3].base + next(20) * 16 + 4;
            view.setUint32(0, 0, true);
            machine.memory.write(address, 4, view, 0);
            address[0] += 8;
            machine.memory.write(address, 4, view, 0);
            continue;
        }
        view.setUint32(0, value(), true);
        view.setUint32(4, value(), true);
        if (next(2) === 0) space.read(address, size, view, 0);
        else space.write(address, size, view, 0);
      }
      for (const { slot, bars, config } of first.targets) {
        assert.equal(config.word(0), 0x1af4 | (slot << 16));
        assert.equal(config.word(8), 0xff000001 | 0);
        let steps = 0;
        for (let p = config.word(0x34) & 0xff; p !== 0; p = (config.word(p) >> 8) & 0xff) assert.ok(steps++ < 3);
        assert.equal(steps, 3);
        for (const bar of bars) {
          assert.equal(bar.base % bar.size, 0);
          assert.equal(config.word(0x10 + bar.index * 4) & 15, bar.wide ? 4 : 0);
        }
      }
      // Every lock was given back.
      const registers = machines.flatMap((m) => m.targets.flatMap((t) => [t.config.registers, t.msix!.registers]));
      for (const { words } of registers) assert.equal(words[0], 0);
    } catch (error) {
      throw new Error(`seed ${seed}`, { cause: error });
    }
    for (const machine of machines) {
      for (const target of machine.targets) for (const area of target.areas) accesses += area.accesses;
      messages += machine.state.messages;
    }
    assert.ok(performance.now() - start < 30000 * EFFORT, "too slow to be right");
  }
  assert.ok(accesses > 60 * EFFORT, `only ${accesses} accesses reached a BAR`);
  assert.ok(messages > 0, "no message was ever sent");
});
