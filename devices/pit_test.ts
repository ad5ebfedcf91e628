import assert from "node:assert/strict";
import { Pit, PIT_FREQUENCY } from "./pit.ts";
import { CountedReschedule, ManualClock, RecordedLine, registersOf } from "./test_wires.ts";

function make() {
  const line = new RecordedLine();
  const clock = new ManualClock();
  const reschedule = new CountedReschedule();
  const pit = new Pit(registersOf(Pit), line, clock, reschedule);
  pit.reset();
  clock.milliseconds = 0;
  let ticks = 0;
  const pass = (count: number): void => {
    ticks += count;
    clock.milliseconds = (ticks + 0.5) * 1000 / PIT_FREQUENCY;
  };
  pass(1000);
  return { pit, line, pass, reschedule };
}

function program(pit: Pit, channel: number, mode: number, count: number, bcd = 0): void {
  pit.write(3, 1, (channel << 6) | 0x30 | (mode << 1) | bcd);
  pit.write(channel, 1, count & 0xff);
  pit.write(channel, 1, count >> 8);
}

function count(pit: Pit, channel: number): number {
  pit.write(3, 1, channel << 6);
  return pit.read(channel, 1) | (pit.read(channel, 1) << 8);
}

Deno.test("8254 mode 0: OUT rises at terminal count and stays; the count goes on", () => {
  const { pit, line, pass } = make();
  program(pit, 0, 0, 1000);
  pass(999);
  assert.ok(pit.tick() > 0);
  assert.equal(line.level, 0);
  assert.equal(count(pit, 0), 1);
  pass(1);
  assert.equal(pit.tick(), -1);
  assert.deepEqual([line.level, line.edges], [1, 1]);
  pass(5);
  assert.equal(count(pit, 0), 65531);
  pit.write(0, 1, 0x10);
  assert.equal(line.level, 0, "the first byte of a new count sets OUT low");
});

Deno.test("8254 mode 2: an interrupt each period, late ticks keep the phase", () => {
  const { pit, line, pass, reschedule } = make();
  program(pit, 0, 2, 11932);
  assert.equal(reschedule.count, 1);
  assert.equal(Math.round(pit.tick()), 10);
  for (let i = 1; i <= 5; i++) {
    pass(11932);
    pit.tick();
    assert.equal(line.edges, i);
  }
  pass(11932 * 3 + 6000);
  const wait = pit.tick();
  assert.equal(line.edges, 8, "an edge for each of three periods that nobody saw");
  assert.ok(Math.abs(wait - 5932 * 1000 / PIT_FREQUENCY) < 0.01, String(wait));
  assert.equal(count(pit, 0), 5932);
  pass(11932 * 1000);
  pit.tick();
  assert.equal(line.edges, 108, "but not for all of ten seconds");
});

Deno.test("8254 mode 2: a new count is used from the next period on", () => {
  const { pit, pass } = make();
  program(pit, 0, 2, 1000);
  pass(300);
  pit.write(0, 1, 100);
  pit.write(0, 1, 0);
  assert.equal(count(pit, 0), 700);
  pass(700);
  assert.equal(count(pit, 0), 100);
  pass(130);
  assert.equal(count(pit, 0), 70);
});

Deno.test("8254 mode 3: counts by two, a square wave", () => {
  const { pit, pass } = make();
  pit.control.write(0, 1, 1);
  program(pit, 2, 3, 1000);
  const out = (): number => (pit.control.read(0, 1) >> 5) & 1;
  assert.equal(out(), 1);
  pass(100);
  assert.equal(count(pit, 2), 800);
  pass(400);
  assert.equal(out(), 0);
  pass(500);
  assert.equal(out(), 1);
});

Deno.test("8254 channel 2 and port 61h: what Linux calibrates the TSC with", () => {
  const { pit, pass } = make();
  pit.control.write(0, 1, (pit.control.read(0, 1) & ~2) | 1);
  program(pit, 2, 0, 59659); // 50 ms
  pass(59658);
  assert.equal(pit.control.read(0, 1) & 0x2f, 0x01);
  pass(1);
  assert.equal(pit.control.read(0, 1) & 0x2f, 0x21);
  program(pit, 2, 0, 0xffff);
  assert.equal(pit.read(2, 1) | (pit.read(2, 1) << 8), 0xffff);
  pass(0x1234);
  assert.equal(pit.read(2, 1) | (pit.read(2, 1) << 8), 0xffff - 0x1234);
  pit.control.write(0, 1, 0);
  pass(5000);
  assert.equal(count(pit, 2), 0xffff - 0x1234, "a low gate stops it");
  pit.control.write(0, 1, 1);
  pass(5);
  assert.equal(count(pit, 2), 0xffff - 0x1239);
});

Deno.test("8254 modes 1 and 5 wait for a rising gate", () => {
  const { pit, pass } = make();
  program(pit, 2, 1, 100);
  pass(500);
  assert.equal(pit.control.read(0, 1) & 0x20, 0x20);
  pit.control.write(0, 1, 1);
  assert.equal(pit.control.read(0, 1) & 0x20, 0);
  pit.control.write(0, 1, 0);
  pass(99);
  assert.equal(pit.control.read(0, 1) & 0x20, 0);
  pass(1);
  assert.equal(pit.control.read(0, 1) & 0x20, 0x20);
});

Deno.test("8254: refresh toggles each 15 us", () => {
  const { pit, pass } = make();
  const seen = [];
  for (let i = 0; i < 4; i++, pass(18)) seen.push((pit.control.read(0, 1) >> 4) & 1);
  assert.equal(seen[0] + seen[1], 1);
  assert.deepEqual(seen.slice(0, 2), seen.slice(2));
});

Deno.test("8254: read-back latches status and count", () => {
  const { pit, pass } = make();
  pit.write(3, 1, 0x34);
  pit.write(3, 1, 0xe2); // status of channel 0
  assert.equal(pit.read(0, 1), 0b1111_0100, "OUT high, null count, both bytes, mode 2");
  pit.write(0, 1, 0xe8);
  pit.write(0, 1, 0x03);
  pass(10);
  pit.write(3, 1, 0xc2); // both
  pass(10);
  assert.equal(pit.read(0, 1), 0b1011_0100);
  assert.equal(pit.read(0, 1) | (pit.read(0, 1) << 8), 990);
});

Deno.test("8254: BCD, and zero as the greatest count", () => {
  const { pit, pass } = make();
  program(pit, 0, 2, 0x1000, 1);
  pass(1);
  assert.equal(count(pit, 0), 0x0999);
  program(pit, 0, 0, 0);
  pass(1);
  assert.equal(count(pit, 0), 0xffff);
});

Deno.test("8254: a count of one does not keep the I/O Worker busy", () => {
  const { pit, pass } = make();
  program(pit, 0, 2, 1);
  for (let i = 0; i < 10; i++, pass(1)) assert.ok(pit.tick() >= 0.1);
});
