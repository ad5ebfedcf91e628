import assert from "node:assert/strict";
import { RtcCmos } from "./rtc_cmos.ts";
import { CountedReschedule, ManualClock, RecordedLine, registersOf } from "./test_wires.ts";

function make(utc: string) {
  const line = new RecordedLine();
  const clock = new ManualClock();
  const start = Date.parse(utc) - clock.milliseconds;
  const rtc = new RtcCmos(registersOf(RtcCmos), line, clock, new CountedReschedule(), () => start + clock.milliseconds);
  rtc.reset();
  const get = (index: number): number => {
    rtc.write(0, 1, index);
    return rtc.read(1, 1);
  };
  const set = (index: number, value: number): void => {
    rtc.write(0, 1, index);
    rtc.write(1, 1, value);
  };
  const time = (): number[] => [0x32, 9, 8, 7, 6, 4, 2, 0].map(get);
  return { rtc, line, clock, get, set, time };
}

Deno.test("RTC: UTC in BCD and binary, 24 and 12 hours", () => {
  const { set, get, time } = make("2026-11-23T17:45:59.100Z");
  assert.deepEqual(time(), [0x20, 0x26, 0x11, 0x23, 0x02, 0x17, 0x45, 0x59]);
  assert.equal(get(0x0d), 0x80, "valid RAM and time");
  set(0x0b, 0x06);
  assert.deepEqual(time(), [20, 26, 11, 23, 2, 17, 45, 59]);
  set(0x0b, 0x04);
  assert.equal(get(4), 0x80 | 5);
  set(0x0b, 0x00);
  assert.equal(get(4), 0x85);
});

Deno.test("RTC: noon and midnight in 12-hour mode", () => {
  const { clock, set, get } = make("2026-01-01T00:10:00Z");
  set(0x0b, 0x00);
  assert.equal(get(4), 0x12);
  clock.milliseconds += 12 * 3600e3;
  assert.equal(get(4), 0x92);
});

Deno.test("RTC: update in progress shows before the second turns", () => {
  const { clock, get } = make("2026-01-01T00:00:00.500Z");
  assert.equal(get(0x0a), 0x26);
  clock.milliseconds += 498;
  assert.equal(get(0x0a), 0xa6);
  clock.milliseconds += 2;
  assert.equal(get(0x0a), 0x26);
});

Deno.test("RTC: setting the time as Linux's mc146818_set_time does", () => {
  const { clock, set, get, time } = make("2026-01-01T00:00:00Z");
  set(0x0b, get(0x0b) | 0x80);
  set(0x0a, get(0x0a) | 0x70);
  for (const [index, value] of [[9, 0x31], [8, 0x12], [7, 0x31], [4, 0x23], [2, 0x59], [0, 0x58], [0x32, 0x20]]) {
    set(index, value);
  }
  clock.milliseconds += 5000;
  assert.equal(get(0), 0x58, "SET holds the time");
  set(0x0b, get(0x0b) & ~0x80);
  set(0x0a, 0x26);
  clock.milliseconds += 2000;
  assert.deepEqual(time(), [0x20, 0x32, 0x01, 0x01, 0x05, 0x00, 0x00, 0x00]);
});

Deno.test("RTC: alarm, with bytes that match every time", () => {
  const { rtc, line, clock, set, get } = make("2026-01-01T09:59:58.250Z");
  set(0x01, 0x00);
  set(0x03, 0x00);
  set(0x05, 0x10);
  set(0x0b, 0x22);
  assert.equal(rtc.tick(), 750);
  clock.milliseconds += 750;
  rtc.tick();
  assert.equal(line.level, 0);
  clock.milliseconds += 1000;
  rtc.tick();
  assert.equal(line.level, 1);
  assert.equal(get(0x0c), 0x80 | 0x20 | 0x10);
  assert.equal(line.level, 0, "reading C lowers the line");
  assert.equal(get(0x0c), 0);
  set(0x03, 0xff);
  set(0x05, 0xc0);
  for (let i = 0; i < 120; i++) {
    clock.milliseconds += 1000;
    rtc.tick();
    get(0x0c);
  }
  assert.equal(line.edges, 3, "each minute");
});

Deno.test("RTC: update-ended and periodic interrupts", () => {
  const { rtc, line, clock, set, get } = make("2026-01-01T00:00:00Z");
  set(0x0b, 0x12);
  clock.milliseconds += 1000;
  rtc.tick();
  assert.equal(get(0x0c), 0x90);
  set(0x0a, 0x26); // 1024 Hz
  set(0x0b, 0x42);
  const edges = line.edges;
  for (let i = 0; i < 1024; i++) {
    const wait = rtc.tick();
    assert.ok(wait > 0 && wait <= 1);
    clock.milliseconds += 1000 / 1024;
    rtc.tick();
    get(0x0c);
  }
  assert.equal(line.edges - edges, 1024);
  set(0x0b, 0x02);
  assert.equal(rtc.tick(), -1, "no interrupt wanted, no wake-ups");
});

Deno.test("RTC: CMOS memory keeps what is written; index bit 7 is the NMI mask", () => {
  const { rtc, set, get } = make("2026-01-01T00:00:00Z");
  set(0x40, 0x5a);
  set(0x80 | 0x7f, 0xa5);
  assert.deepEqual([get(0x40), get(0x7f)], [0x5a, 0xa5]);
  assert.equal(rtc.read(0, 1), -1);
});

Deno.test("RTC: nonsense as a time is a time", () => {
  const { set, time } = make("2026-01-01T00:00:00Z");
  set(0x0b, 0x82);
  for (const index of [0, 2, 4, 6, 7, 8, 9, 0x32]) set(index, 0xff);
  set(0x0b, 0x02);
  for (const value of time()) assert.ok(value >= 0 && value <= 0xff);
});
