import assert from "node:assert/strict";
import { Hpet } from "./hpet.ts";
import { CountedReschedule, ManualClock, RecordedLine, registersOf } from "./test_wires.ts";

function make() {
  const lines: RecordedLine[] = Array.from({ length: 24 }, () => new RecordedLine());
  const clock = new ManualClock();
  const driver = { setLine: (irq: number, level: number) => lines[irq].set(level) };
  const hpet = new Hpet(registersOf(Hpet), driver, clock, new CountedReschedule());
  hpet.reset();
  return { hpet, lines, clock };
}

Deno.test("HPET: capabilities (IA-PC HPET 1.0a, 2.3.4)", () => {
  const { hpet } = make();
  const low = hpet.read(0, 4);
  assert.equal(low >>> 16, 0x8086);
  assert.equal((low >> 15) & 1, 1, "legacy replacement");
  assert.equal((low >> 13) & 1, 1, "64-bit counter");
  assert.equal(((low >> 8) & 31) + 1, 3);
  assert.notEqual(low & 0xff, 0);
  assert.equal(hpet.read(4, 4), 10_000_000, "10 ns, below the 100 ns limit");
  for (let timer = 0; timer < 3; timer++) assert.equal(hpet.read(0x100 + 0x20 * timer, 4) & 0x30, 0x30);
});

Deno.test("HPET: the counter stands, runs, is set, and reads whole over a carry", () => {
  const { hpet, clock } = make();
  clock.milliseconds += 5;
  assert.equal(hpet.read(0xf0, 4), 0);
  hpet.write(0xf0, 4, -10);
  hpet.write(0xf4, 4, 7);
  hpet.write(0x10, 4, 1);
  assert.deepEqual([hpet.read(0xf0, 4), hpet.read(0xf4, 4)], [-10, 7]);
  assert.equal(hpet.read(0xf0, 4), -10);
  clock.milliseconds += 0.000155;
  assert.equal(hpet.read(0xf4, 4), 7, "the second half of a 64-bit read is of the same moment");
  clock.milliseconds += 1;
  assert.equal(hpet.read(0xf4, 4), 8);
  assert.equal(hpet.read(0xf0, 4), 100_005);
  hpet.write(0x10, 4, 0);
  clock.milliseconds += 1;
  assert.equal(hpet.read(0xf0, 4), 100_005);
});

Deno.test("HPET: one-shot and periodic in legacy replacement, as Linux programs them", () => {
  const { hpet, lines, clock } = make();
  hpet.write(0x10, 4, 0);
  hpet.write(0x10, 4, 3);
  hpet.write(0x100, 4, 0x104); // enabled, 32-bit
  hpet.write(0x108, 4, 50_000);
  assert.ok(Math.abs(hpet.tick() - 0.5) < 1e-6);
  clock.milliseconds += 0.5;
  assert.ok(hpet.tick() > 40_000, "the next match is a turn of 2^32 away");
  assert.equal(lines[0].edges, 1);
  // hpet_set_periodic: accumulator and period with VAL_SET_CNF, then the period alone.
  hpet.write(0x100, 4, 0x14c);
  hpet.write(0x108, 4, 150_000);
  hpet.write(0x108, 4, 100_000);
  for (let i = 0; i < 4; i++) {
    clock.milliseconds += 1;
    hpet.tick();
    assert.equal(lines[0].edges, 2 + i);
  }
  clock.milliseconds += 3;
  hpet.tick();
  assert.equal(lines[0].edges, 8, "an edge for each of three periods that nobody saw");
  clock.milliseconds += 1000;
  hpet.tick();
  assert.equal(lines[0].edges, 108, "but not for all of a second");
  assert.equal(hpet.read(0x108, 4), 100_850_000);
  const pit = new RecordedLine();
  hpet.legacyLine(pit).set(1);
  assert.equal(pit.edges, 0, "the 8254 is disconnected");
  hpet.write(0x10, 4, 1);
  hpet.legacyLine(pit).set(1);
  assert.equal(pit.edges, 1);
});

Deno.test("HPET: a 64-bit accumulator arrives in two halves", () => {
  const { hpet } = make();
  hpet.write(0x100, 4, 0x48);
  hpet.write(0x108, 4, 5);
  hpet.write(0x10c, 4, 6);
  assert.deepEqual([hpet.read(0x108, 4), hpet.read(0x10c, 4)], [5, 6]);
  hpet.write(0x108, 4, 9);
  assert.deepEqual([hpet.read(0x108, 4), hpet.read(0x10c, 4)], [5, 6], "only the period now");
});

Deno.test("HPET: level-triggered interrupts stay until their status is cleared (2.3.6)", () => {
  const { hpet, lines, clock } = make();
  assert.equal(hpet.read(0x144, 4) & (1 << 21), 1 << 21);
  hpet.write(0x140, 4, (21 << 9) | 0x106);
  hpet.write(0x148, 4, 1000);
  hpet.write(0x10, 4, 1);
  clock.milliseconds += 0.02;
  hpet.tick();
  assert.equal(lines[21].level, 1);
  assert.equal(hpet.read(0x20, 4), 4);
  hpet.write(0x20, 4, 3);
  assert.equal(lines[21].level, 1);
  hpet.write(0x20, 4, 4);
  assert.equal(lines[21].level, 0);
  assert.equal(hpet.read(0x20, 4), 0);
});
