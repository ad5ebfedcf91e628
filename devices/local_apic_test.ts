import assert from "node:assert/strict";
import { ApicEvent } from "../core/hypervisor.ts";
import { RegisterFile } from "../core/registers.ts";
import { ApicBus, DeliveryMode } from "./apic_bus.ts";
import { LocalApic } from "./local_apic.ts";
import { ManualClock } from "./test_wires.ts";

const FREQUENCIES = { tsc: 2e9, timer: 1e9 };
const X2 = 0x800;

function machine(cpus: number) {
  const file = new RegisterFile(RegisterFile.allocate(65536));
  const kicks: number[] = [];
  const bus = new ApicBus((index) => kicks.push(index));
  const clock = new ManualClock();
  const apics = Array.from(
    { length: cpus },
    (_, i) => new LocalApic(file.allocate(LocalApic.WORDS), i, bus, clock, FREQUENCIES),
  );
  for (const apic of apics) {
    apic.reset();
    apic.write(0xf0, 4, 0x1ff);
  }
  return { apics, bus, clock, kicks };
}

function wrmsr(apic: LocalApic, index: number, low: number, high = 0): boolean {
  return apic.writeMsr(index, Int32Array.of(low, high));
}

function rdmsr(apic: LocalApic, index: number): number | null {
  const value = new Int32Array(2);
  return apic.readMsr(index, value) ? (value[1] >>> 0) * 2 ** 32 + (value[0] >>> 0) : null;
}

function drain(apic: LocalApic): number[] {
  const vectors = [];
  for (let v = apic.acknowledge(); v >= 0; v = apic.acknowledge()) {
    vectors.push(v);
    if (!wrmsr(apic, X2 + 0x0b, 0)) apic.write(0xb0, 4, 0);
  }
  return vectors;
}

Deno.test("local APIC: the page after reset (SDM vol. 3, 11.4.7.1 and table 11-1)", () => {
  const { apics } = machine(2);
  apics[1].reset();
  const cases: [number, number][] = [
    [0x20, 1 << 24],
    [0x30, 0x00050014],
    [0x80, 0],
    [0xd0, 0],
    [0xe0, -1],
    [0xf0, 0xff],
    [0x100, 0],
    [0x200, 0],
    [0x300, 0],
    [0x320, 0x10000],
    [0x350, 0x10000],
    [0x370, 0x10000],
    [0x380, 0],
    [0x390, 0],
    [0x3e0, 0],
  ];
  for (const [offset, value] of cases) assert.equal(apics[1].read(offset, 4), value, offset.toString(16));
  assert.equal(rdmsr(apics[0], 0x1b), 0xfee00900, "the bootstrap processor, enabled");
  assert.equal(rdmsr(apics[1], 0x1b), 0xfee00800);
  assert.equal(apics[1].poll(), false);
  assert.equal(apics[1].acknowledge(), -1);
});

Deno.test("local APIC: priorities hold interrupts back and let them through (11.8.3)", () => {
  const { apics: [apic] } = machine(1);
  for (const vector of [0x31, 0x45, 0x44, 0xef]) apic.accept(vector, 0);
  assert.equal(apic.acknowledge(), 0xef);
  assert.equal(apic.read(0xa0, 4), 0xe0, "PPR is the class in service");
  assert.equal(apic.poll(), false, "nothing below class 14 interrupts its handler");
  apic.accept(0xf0, 0);
  assert.equal(apic.acknowledge(), 0xf0, "but a higher class does");
  apic.write(0xb0, 4, 0);
  assert.equal(apic.read(0x170, 4), 1 << 15, "the first EOI ends F0h only");
  apic.write(0xb0, 4, 0);
  apic.setTaskPriority(4);
  assert.equal(apic.read(0x80, 4), 0x40);
  assert.equal(apic.poll(), false, "class 4 waits at task priority 4");
  apic.setTaskPriority(3);
  assert.deepEqual(drain(apic), [0x45, 0x44]);
  assert.equal(apic.taskPriority(), 3);
  apic.setTaskPriority(0);
  assert.deepEqual(drain(apic), [0x31]);
});

Deno.test("local APIC: an EOI of a level-triggered interrupt is told to the I/O APIC (11.8.5)", () => {
  const { apics: [apic], bus } = machine(1);
  const ended: number[] = [];
  bus.ioApic = { endOfInterrupt: (vector) => ended.push(vector) };
  apic.accept(0x51, 1);
  apic.accept(0x52, 0);
  assert.equal(apic.read(0x180 + 0x20, 4), 1 << 0x11, "TMR");
  drain(apic);
  apic.write(0xb0, 4, 0);
  assert.deepEqual(ended, [0x51]);
});

Deno.test("local APIC: who a destination means (11.6.2, 11.12.10)", () => {
  const { apics, bus } = machine(20);
  const took = (destination: number, logical: number): number[] => {
    bus.deliver(destination, logical, DeliveryMode.FIXED, 0x60, 0);
    return apics.filter((apic) => drain(apic).length > 0).map((apic) => apic.index);
  };
  for (const apic of apics) apic.write(0xd0, 4, apic.index < 8 ? 1 << (24 + apic.index) : 0);
  assert.deepEqual(took(3, 0), [3]);
  assert.equal(took(0xff, 0).length, 20, "physical broadcast");
  assert.deepEqual(took(0x85, 1), [0, 2, 7], "flat model");
  for (const apic of apics) {
    apic.write(0xe0, 4, 0);
    apic.write(0xd0, 4, ((apic.index >> 2 << 4) | (1 << (apic.index & 3))) << 24);
  }
  assert.deepEqual(took(0x25, 1), [8, 10], "cluster model");
  for (const apic of apics) assert.ok(wrmsr(apic, 0x1b, 0xfee00c00 | (apic.index === 0 ? 0x100 : 0)));
  assert.deepEqual(took((1 << 16) | 0b1001, 1), [16, 19], "x2APIC clusters");
  assert.deepEqual(took(17, 0), [17]);
  assert.equal(took(-1, 0).length, 20);
  assert.equal(rdmsr(apics[18], X2 + 0x0d), 0x10004);
  assert.equal(rdmsr(apics[18], X2 + 0x02), 18);
});

Deno.test("local APIC: ICR, shorthands and special messages (11.6.1)", () => {
  const { apics, kicks, bus } = machine(3);
  const [a, b, c] = apics;
  bus.ownCpu = 0;
  const icr = (low: number, destination = 0): void => {
    a.write(0x310, 4, destination << 24);
    a.write(0x300, 4, low);
  };
  icr(0x40, 1);
  assert.deepEqual([drain(a), drain(b), drain(c)], [[], [0x40], []]);
  icr(0x41 | (1 << 18));
  assert.deepEqual([drain(a), drain(b), drain(c)], [[0x41], [], []]);
  icr(0x42 | (2 << 18));
  assert.deepEqual([drain(a), drain(b), drain(c)], [[0x42], [0x42], [0x42]]);
  icr(0x43 | (3 << 18));
  assert.deepEqual([drain(a), drain(b), drain(c)], [[], [0x43], [0x43]]);
  assert.deepEqual(kicks, [1, 1, 2, 1, 2], "the sender's own CPU is not kicked");
  icr(0xc500, 1); // INIT, assert, level
  icr(0x8500, 1); // INIT, de-assert: nothing
  assert.equal(b.poll(), true);
  b.accept(0x50, 0);
  assert.equal(b.takeEvents(), ApicEvent.INIT);
  assert.equal(b.poll(), false, "INIT forgets what was requested");
  assert.equal(b.read(0xf0, 4), 0xff);
  icr(0x0600 | 0x9a, 1);
  assert.equal(b.takeEvents(), ApicEvent.STARTUP);
  assert.equal(b.startupVector, 0x9a);
  icr(0x0400, 2);
  assert.equal(c.takeEvents(), ApicEvent.NMI);
  assert.equal(c.takeEvents(), 0);
});

Deno.test("local APIC: lowest priority goes to one, the least busy", () => {
  const { apics, bus } = machine(3);
  apics[0].setTaskPriority(5);
  apics[1].setTaskPriority(1);
  apics[2].setTaskPriority(3);
  bus.signalMessage(0xfee00000 | (0xff << 12) | 0b1100, (DeliveryMode.LOWEST_PRIORITY << 8) | 0x66);
  assert.deepEqual(apics.map(drain), [[], [0x66], []]);
});

Deno.test("local APIC: software-disabled, it takes no fixed interrupt but INIT and NMI (11.4.7.2)", () => {
  const { apics: [apic] } = machine(1);
  apic.write(0x320, 4, 0x30);
  apic.write(0xf0, 4, 0xff);
  assert.equal(apic.read(0x320, 4), 0x10030, "all LVT entries get masked");
  apic.write(0x320, 4, 0x30);
  assert.equal(apic.read(0x320, 4), 0x10030, "and stay so");
  assert.equal(apic.accept(0x50, 0), false);
  assert.equal(apic.receive(DeliveryMode.NMI, 0, 0), true);
  assert.equal(apic.poll(), true);
});

Deno.test("local APIC: errors are latched by a write to ESR (11.5.3)", () => {
  const { apics: [apic] } = machine(1);
  apic.write(0x370, 4, 0xfe);
  apic.write(0x300, 4, 0x05);
  assert.equal(apic.read(0x280, 4), 0);
  apic.write(0x280, 4, 0);
  assert.equal(apic.read(0x280, 4), 1 << 5, "send illegal vector");
  assert.deepEqual(drain(apic), [0xfe]);
  apic.accept(3, 0);
  apic.read(0x40, 4);
  apic.write(0x280, 4, 0);
  assert.equal(apic.read(0x280, 4), (1 << 6) | (1 << 7));
  apic.write(0x280, 4, 0);
  assert.equal(apic.read(0x280, 4), 0);
});

Deno.test("local APIC: the timer counts down once or again and again (11.5.4)", () => {
  const { apics: [apic], clock } = machine(1);
  apic.write(0x3e0, 4, 0b0011); // divide by 16: 62.5 counts a microsecond
  apic.write(0x320, 4, 0x40);
  apic.write(0x380, 4, 62_500); // one millisecond
  assert.equal(apic.timeUntilTimer(), 1);
  clock.milliseconds += 0.5;
  assert.equal(apic.read(0x390, 4), 31_250);
  assert.equal(apic.poll(), false);
  clock.milliseconds += 0.5;
  assert.equal(apic.timeUntilTimer(), 0);
  assert.equal(apic.poll(), true);
  assert.deepEqual(drain(apic), [0x40]);
  assert.equal(apic.read(0x390, 4), 0);
  assert.equal(apic.timeUntilTimer(), -1);

  apic.write(0x320, 4, 0x41 | (1 << 17));
  apic.write(0x380, 4, 62_500);
  for (let i = 0; i < 3; i++) {
    clock.milliseconds += 1;
    assert.equal(apic.poll(), true);
    assert.deepEqual(drain(apic), [0x41]);
  }
  clock.milliseconds += 10.25;
  apic.poll();
  assert.deepEqual(drain(apic), [0x41], "missed periods make one interrupt");
  assert.equal(apic.timeUntilTimer(), 0.75, "and the phase is kept");
  apic.write(0x320, 4, 0x41 | (1 << 17) | (1 << 16));
  assert.equal(apic.timeUntilTimer(), -1, "a masked timer wakes nobody");
  clock.milliseconds += 5;
  assert.equal(apic.poll(), false);
  apic.write(0x380, 4, 0);
  assert.equal(apic.read(0x390, 4), 0);
  for (const [bits, divisor] of [[0b1011, 1], [0, 2], [1, 4], [2, 8], [8, 32], [9, 64], [10, 128]]) {
    apic.write(0x3e0, 4, bits);
    apic.write(0x320, 4, 0x42);
    apic.write(0x380, 4, 1_000_000);
    assert.equal(apic.timeUntilTimer(), divisor, `divide configuration ${bits}`);
  }
});

Deno.test("local APIC: TSC-deadline (11.5.4.1)", () => {
  const { apics: [apic], clock } = machine(1);
  assert.ok(wrmsr(apic, 0x6e0, 5));
  assert.equal(rdmsr(apic, 0x6e0), 0, "ignored in other timer modes");
  apic.write(0x320, 4, 0x50 | (2 << 17));
  const deadline = (clock.milliseconds + 2) * 2e6;
  wrmsr(apic, 0x6e0, deadline | 0, Math.floor(deadline / 2 ** 32));
  assert.equal(rdmsr(apic, 0x6e0), deadline);
  assert.equal(apic.timeUntilTimer(), 2);
  apic.write(0x380, 4, 1000);
  assert.equal(apic.timeUntilTimer(), 2, "the initial count has no meaning here");
  clock.milliseconds += 2;
  assert.equal(apic.poll(), true);
  assert.equal(rdmsr(apic, 0x6e0), 0);
  assert.deepEqual(drain(apic), [0x50]);
  wrmsr(apic, 0x6e0, 1);
  assert.equal(apic.poll(), true, "a deadline in the past fires at once");
  drain(apic);
  wrmsr(apic, 0x6e0, -1, 0x7fff);
  wrmsr(apic, 0x6e0, 0);
  assert.equal(apic.timeUntilTimer(), -1);
  wrmsr(apic, 0x6e0, -1, 0x7fff);
  apic.write(0x320, 4, 0x50);
  assert.equal(apic.timeUntilTimer(), -1, "leaving the mode disarms");
});

Deno.test("local APIC: x2APIC mode, its registers and its faults (11.12)", () => {
  const { apics: [apic, other] } = machine(2);
  assert.equal(rdmsr(apic, X2 + 0x08), null, "no x2APIC registers in xAPIC mode");
  assert.equal(wrmsr(apic, 0x1b, 0xfee00400 | 0), false, "EXTD without EN");
  assert.equal(wrmsr(apic, 0x1b, 0xfee00d01 | 0), false, "reserved bits");
  assert.equal(wrmsr(apic, 0x1b, 0xfee00900 | 0, 1), false);
  assert.ok(wrmsr(apic, 0x1b, 0xfee00d00 | 0));
  assert.equal(apic.read(0x30, 4), -1, "the page no longer answers");
  assert.equal(wrmsr(apic, 0x1b, 0xfee00900 | 0), false, "no way straight back");
  assert.equal(rdmsr(apic, X2 + 0x03), 0x00050014);
  assert.ok(wrmsr(other, 0x1b, 0xfee00c00 | 0));
  assert.ok(wrmsr(apic, X2 + 0x30, 0x55, 1), "one write sends");
  assert.equal(rdmsr(apic, X2 + 0x30), 2 ** 32 + 0x55);
  assert.equal(other.acknowledge(), 0x55);
  assert.ok(wrmsr(other, X2 + 0x0b, 0));
  assert.ok(wrmsr(apic, X2 + 0x3f, 0x77));
  assert.equal(apic.acknowledge(), 0x77);
  const faults: [number, number][] = [
    [0x0b, 1],
    [0x28, 1],
    [0x08, 0x100],
    [0x0f, 0x1000],
    [0x32, 1 << 19],
    [0x02, 0],
    [0x03, 0],
    [0x0d, 0],
    [0x10, 0],
    [0x31, 0],
    [0x39, 0],
    [0x3e, 4],
    [0x3f, 0x100],
  ];
  for (const [register, value] of faults) {
    assert.equal(wrmsr(apic, X2 + register, value), false, `write ${register.toString(16)}`);
  }
  for (const register of [0x00, 0x09, 0x0b, 0x0c, 0x0e, 0x29, 0x31, 0x3f]) {
    assert.equal(rdmsr(apic, X2 + register), null, `read ${register.toString(16)}`);
  }
  assert.ok(wrmsr(apic, 0x1b, 0xfee00100 | 0), "off");
  assert.equal(wrmsr(apic, 0x1b, 0xfee00d00 | 0), false, "from off to x2APIC only through xAPIC");
  assert.ok(wrmsr(apic, 0x1b, 0xfee00900 | 0));
});

Deno.test("local APIC: the 8259 interrupts through LINT0 in virtual wire mode", () => {
  const { apics: [apic, other], bus, kicks } = machine(2);
  let pending = 0x08;
  bus.pic = {
    acknowledge() {
      const vector = pending;
      pending = -1;
      bus.setIntr(0);
      return vector;
    },
  };
  bus.setIntr(1);
  assert.deepEqual(kicks, [0], "only the bootstrap processor listens");
  assert.equal(other.poll(), false);
  assert.equal(apic.poll(), true);
  assert.equal(apic.acknowledge(), 0x08);
  assert.equal(apic.poll(), false);
  assert.equal(apic.read(0x100, 4), 0, "an external interrupt is not in service in the APIC");
  apic.write(0x350, 4, 0x10700);
  bus.setIntr(1);
  assert.equal(apic.poll(), false);
  apic.write(0x350, 4, 0x700);
  assert.equal(apic.poll(), true, "unmasking lets it through");
});

Deno.test("local APICs of two threads: 10 000 IPIs each way, none lost", async () => {
  const registers = RegisterFile.allocate(65536);
  const clock = new ManualClock();
  const file = new RegisterFile(registers);
  const bus = new ApicBus(() => {});
  for (let i = 0; i < 2; i++) {
    const apic = new LocalApic(file.allocate(LocalApic.WORDS), i, bus, clock, FREQUENCIES);
    apic.reset();
    apic.write(0xf0, 4, 0x1ff);
  }
  const results = [0, 1].map((index) => {
    const worker = new Worker(new URL("./local_apic_test_worker.ts", import.meta.url), { type: "module" });
    return new Promise<number>((resolve, reject) => {
      worker.onmessage = ({ data }) => {
        worker.terminate();
        resolve(data);
      };
      worker.onerror = reject;
      worker.postMessage({ registers, index, count: 10_000 });
    });
  });
  assert.deepEqual(await Promise.all(results), [10_000, 10_000]);
});
