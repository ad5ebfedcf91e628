import assert from "node:assert/strict";
import { RegisterFile } from "../core/registers.ts";
import { ApicBus } from "./apic_bus.ts";
import { InterruptRouter } from "./interrupt_router.ts";
import { IoApic, MAX_OWED_TICKS, TIMER_PIN } from "./io_apic.ts";
import { LocalApic } from "./local_apic.ts";
import { Pic } from "./pic.ts";
import { ManualClock } from "./test_wires.ts";

function machine() {
  const file = new RegisterFile(RegisterFile.allocate(65536));
  const bus = new ApicBus(() => {});
  const clock = new ManualClock();
  const apics = [0, 1].map((i) =>
    new LocalApic(file.allocate(LocalApic.WORDS), i, bus, clock, { tsc: 1e9, timer: 1e9 })
  );
  const ioApic = new IoApic(file.allocate(IoApic.WORDS), bus);
  const pic = new Pic(file.allocate(Pic.WORDS), { set: (level) => bus.setIntr(level) });
  bus.pic = pic;
  pic.reset();
  ioApic.reset();
  for (const apic of apics) {
    apic.reset();
    apic.write(0xf0, 4, 0x1ff);
  }
  return { apics, ioApic, pic, router: new InterruptRouter(pic, ioApic, bus) };
}

function set(ioApic: IoApic, index: number, value: number): void {
  ioApic.write(0x00, 4, index);
  ioApic.write(0x10, 4, value);
}

function get(ioApic: IoApic, index: number): number {
  ioApic.write(0x00, 4, index);
  return ioApic.read(0x10, 4);
}

const MASKED = 1 << 16;
const LEVEL = 1 << 15;
const REMOTE_IRR = 1 << 14;

Deno.test("I/O APIC: registers (82093AA, 3.2)", () => {
  const { ioApic } = machine();
  assert.equal(get(ioApic, 0x01), 0x170011);
  set(ioApic, 0x01, -1);
  assert.equal(get(ioApic, 0x01), 0x170011);
  set(ioApic, 0x00, -1);
  assert.equal(get(ioApic, 0x00), 0x0f000000);
  assert.equal(get(ioApic, 0x02), 0x0f000000);
  for (let pin = 0; pin < 24; pin++) assert.equal(get(ioApic, 0x10 + 2 * pin), MASKED);
  set(ioApic, 0x10, -1);
  assert.equal(get(ioApic, 0x10), 0x1ffff & ~0x5000, "delivery status and remote IRR are read-only");
  set(ioApic, 0x11, -1);
  assert.equal(get(ioApic, 0x11), 0xff000000 | 0);
  assert.equal(get(ioApic, 0x40), 0, "no such register");
});

Deno.test("I/O APIC: edges are sent once, and lost while masked", () => {
  const { ioApic, apics: [apic] } = machine();
  set(ioApic, 0x10 + 2 * 4, 0x34);
  ioApic.setLine(4, 1);
  ioApic.setLine(4, 1);
  assert.equal(apic.acknowledge(), 0x34);
  apic.write(0xb0, 4, 0);
  assert.equal(apic.acknowledge(), -1);
  ioApic.setLine(4, 0);
  set(ioApic, 0x10 + 2 * 4, 0x34 | MASKED);
  ioApic.setLine(4, 1);
  set(ioApic, 0x10 + 2 * 4, 0x34);
  assert.equal(apic.acknowledge(), -1);
});

Deno.test("I/O APIC: a level is sent again after each EOI while it lasts (remote IRR)", () => {
  const { ioApic, apics: [, apic] } = machine();
  set(ioApic, 0x11 + 2 * 16, 1 << 24);
  set(ioApic, 0x10 + 2 * 16, 0x56 | LEVEL | MASKED);
  ioApic.setLine(16, 1);
  assert.equal(apic.poll(), false);
  set(ioApic, 0x10 + 2 * 16, 0x56 | LEVEL);
  for (let i = 0; i < 3; i++) {
    assert.equal(apic.acknowledge(), 0x56);
    assert.equal(get(ioApic, 0x10 + 2 * 16), 0x56 | LEVEL | REMOTE_IRR);
    assert.equal(apic.acknowledge(), -1, "no second message before the EOI");
    apic.write(0xb0, 4, 0);
  }
  assert.equal(apic.acknowledge(), 0x56);
  ioApic.setLine(16, 0);
  apic.write(0xb0, 4, 0);
  assert.equal(apic.acknowledge(), -1);
  assert.equal(get(ioApic, 0x10 + 2 * 16), 0x56 | LEVEL);
});

/** Edges of the timer's line. */
function tick(ioApic: IoApic, times: number): void {
  for (let i = 0; i < times; i++) {
    ioApic.setLine(TIMER_PIN, 0);
    ioApic.setLine(TIMER_PIN, 1);
  }
}

Deno.test("I/O APIC: the timer's edges are owed until the one before has ended, as many as came", () => {
  const { ioApic, apics: [apic] } = machine();
  const entry = 0x10 + 2 * TIMER_PIN;
  set(ioApic, entry, 0x30);
  tick(ioApic, 5);
  ioApic.setLine(TIMER_PIN, 0);
  for (let i = 0; i < 5; i++) {
    assert.equal(apic.acknowledge(), 0x30);
    assert.equal(apic.acknowledge(), -1, "one at a time");
    assert.equal(get(ioApic, entry), 0x30, "still an edge-triggered entry");
    apic.write(0xb0, 4, 0);
  }
  assert.equal(apic.acknowledge(), -1, "and no more than came");

  // Another line's edges merge, as they do in hardware.
  set(ioApic, 0x10 + 2 * 4, 0x34);
  for (let i = 0; i < 5; i++) {
    ioApic.setLine(4, 0);
    ioApic.setLine(4, 1);
  }
  assert.equal(apic.acknowledge(), 0x34);
  apic.write(0xb0, 4, 0);
  assert.equal(apic.acknowledge(), -1);
});

Deno.test("I/O APIC: what the timer is owed goes when its entry is written, and when nobody ends its interrupt", () => {
  const { ioApic, apics: [apic] } = machine();
  const entry = 0x10 + 2 * TIMER_PIN;
  set(ioApic, entry, 0x30);
  tick(ioApic, 5);
  assert.equal(apic.acknowledge(), 0x30);
  set(ioApic, entry, 0x31 | MASKED);
  tick(ioApic, 5);
  set(ioApic, entry, 0x31);
  apic.write(0xb0, 4, 0);
  assert.equal(apic.acknowledge(), -1);
  tick(ioApic, 1);
  assert.equal(apic.acknowledge(), 0x31);
  apic.write(0xb0, 4, 0);

  // The interrupt is lost in a local APIC that INIT resets.
  tick(ioApic, 1);
  apic.reset();
  apic.write(0xf0, 4, 0x1ff);
  tick(ioApic, MAX_OWED_TICKS);
  assert.equal(apic.acknowledge(), -1);
  tick(ioApic, 1);
  assert.equal(apic.acknowledge(), 0x31);
  apic.write(0xb0, 4, 0);
  assert.equal(apic.acknowledge(), -1);
});

Deno.test("I/O APIC: making an entry edge-triggered clears remote IRR, as Linux's __eoi_ioapic_pin relies on", () => {
  const { ioApic } = machine();
  set(ioApic, 0x10 + 2 * 17, 0x57 | LEVEL);
  ioApic.setLine(17, 1);
  assert.equal(get(ioApic, 0x10 + 2 * 17) & REMOTE_IRR, REMOTE_IRR);
  set(ioApic, 0x10 + 2 * 17, 0x57 | MASKED);
  set(ioApic, 0x10 + 2 * 17, 0x57 | LEVEL | MASKED);
  assert.equal(get(ioApic, 0x10 + 2 * 17) & REMOTE_IRR, 0);
});

Deno.test("router: ISA IRQ 0 is global interrupt 2, ISA lines reach the 8259s too, messages the local APICs", () => {
  const { ioApic, pic, router, apics: [apic] } = machine();
  set(ioApic, 0x10 + 2 * 2, 0x30);
  set(ioApic, 0x10, 0x31);
  router.setLine(0, 1);
  assert.equal(apic.acknowledge(), 0x30);
  assert.equal(pic.primary.read(0, 1) & 1, 1, "IRR of the 8259");
  router.signalMessage(0xfee00000 | 0, 0x61);
  assert.equal(apic.acknowledge(), 0x61);
  router.signalMessage(0xfed00000 | 0, 0x71);
  assert.equal(apic.acknowledge(), -1);
  for (const irq of [24, 1000, -1]) router.setLine(irq, 1);
});
