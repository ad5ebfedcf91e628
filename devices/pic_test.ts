import assert from "node:assert/strict";
import { Pic } from "./pic.ts";
import { RecordedLine, registersOf } from "./test_wires.ts";

/** Initializes as Linux's init_8259A does: vectors 30h and 38h. */
function make(icw4 = 1) {
  const line = new RecordedLine();
  const pic = new Pic(registersOf(Pic), line);
  pic.reset();
  for (const [chip, base, icw3] of [[pic.primary, 0x30, 4], [pic.secondary, 0x38, 2]] as const) {
    chip.write(0, 1, 0x11);
    chip.write(1, 1, base);
    chip.write(1, 1, icw3);
    chip.write(1, 1, icw4);
  }
  return { pic, line };
}

function pulse(pic: Pic, irq: number): void {
  pic.setLine(irq, 1);
  pic.setLine(irq, 0);
}

Deno.test("8259: an uninitialized pair stays silent", () => {
  const line = new RecordedLine();
  const pic = new Pic(registersOf(Pic), line);
  pic.reset();
  for (let irq = 0; irq < 16; irq++) pulse(pic, irq);
  assert.equal(line.level, 0);
  assert.equal(pic.acknowledge(), -1);
});

Deno.test("8259: the mask register reads back, as Linux probes it", () => {
  const { pic } = make();
  pic.primary.write(1, 1, 0xfb);
  assert.equal(pic.primary.read(1, 1), 0xfb);
});

Deno.test("8259: fully nested priorities and non-specific EOI", () => {
  const { pic, line } = make();
  pulse(pic, 5);
  pulse(pic, 3);
  assert.equal(line.level, 1);
  assert.equal(pic.acknowledge(), 0x33);
  assert.equal(line.level, 0, "IRQ 5 waits for IRQ 3's end");
  pulse(pic, 1);
  assert.equal(line.level, 1, "IRQ 1 nests");
  assert.equal(pic.acknowledge(), 0x31);
  pic.primary.write(0, 1, 0x0b);
  assert.equal(pic.primary.read(0, 1), 0b1010, "ISR");
  pic.primary.write(0, 1, 0x20);
  assert.equal(pic.primary.read(0, 1), 0b1000, "the highest ended");
  pic.primary.write(0, 1, 0x20);
  assert.equal(line.level, 1);
  assert.equal(pic.acknowledge(), 0x35);
  pic.primary.write(0, 1, 0x60 | 5);
  assert.equal(pic.primary.read(0, 1), 0, "specific EOI");
});

Deno.test("8259: the secondary comes through the cascade", () => {
  const { pic, line } = make();
  pulse(pic, 8);
  assert.equal(pic.acknowledge(), 0x38);
  pic.primary.write(0, 1, 0x0b);
  pic.secondary.write(0, 1, 0x0b);
  assert.deepEqual([pic.primary.read(0, 1), pic.secondary.read(0, 1)], [4, 1]);
  pulse(pic, 3);
  assert.equal(line.level, 0, "the cascade is above IRQ 3");
  pic.secondary.write(0, 1, 0x20);
  pic.primary.write(0, 1, 0x20);
  assert.equal(pic.acknowledge(), 0x33);
});

Deno.test("8259: masks hold back, and unmasking lets a latched edge through", () => {
  const { pic, line } = make();
  pic.primary.write(1, 1, 0x10);
  pulse(pic, 4);
  assert.equal(line.level, 0);
  pic.primary.write(1, 1, 0);
  assert.equal(line.level, 1);
  assert.equal(pic.acknowledge(), 0x34);
});

Deno.test("8259: an edge counts once, a level as long as it lasts (ELCR)", () => {
  const { pic, line } = make(3); // automatic EOI
  pic.setLine(4, 1);
  assert.equal(pic.acknowledge(), 0x34);
  assert.equal(pic.acknowledge(), -1);
  pic.elcr.write(1, 1, 0xff);
  assert.equal(pic.elcr.read(1, 1), 0xde, "IRQ 8 and 13 cannot be level-triggered");
  pic.elcr.write(0, 1, 0xff);
  assert.equal(pic.elcr.read(0, 1), 0xf8);
  pic.setLine(4, 0);
  pic.setLine(11, 1);
  assert.equal(pic.acknowledge(), 0x3b);
  assert.equal(pic.acknowledge(), 0x3b);
  pic.setLine(11, 0);
  assert.equal(line.level, 0);
  assert.equal(pic.acknowledge(), -1);
});

Deno.test("8259: rotation gives the served input the lowest priority", () => {
  const { pic } = make();
  pulse(pic, 0);
  assert.equal(pic.acknowledge(), 0x30);
  pic.primary.write(0, 1, 0xa0);
  pulse(pic, 0);
  pulse(pic, 1);
  assert.equal(pic.acknowledge(), 0x31);
  pic.primary.write(0, 1, 0xc0 | 3); // set priority: IRQ 4 is highest now
  pic.primary.write(0, 1, 0x60 | 1);
  pulse(pic, 4);
  assert.equal(pic.acknowledge(), 0x34);
});

Deno.test("8259: special mask mode and poll", () => {
  const { pic, line } = make();
  pulse(pic, 1);
  pic.acknowledge();
  pic.primary.write(1, 1, 0x02);
  pulse(pic, 6);
  assert.equal(line.level, 0);
  pic.primary.write(0, 1, 0x68);
  assert.equal(line.level, 1, "a masked in-service bit does not block others");
  pic.primary.write(0, 1, 0x0c);
  assert.equal(pic.primary.read(0, 1), 0x86);
  pic.primary.write(0, 1, 0x0c);
  assert.equal(pic.primary.read(0, 1), 0);
});

Deno.test("8259: ICW1 forgets edges, masks and service", () => {
  const { pic, line } = make();
  pulse(pic, 1);
  pic.acknowledge();
  pulse(pic, 0);
  assert.equal(line.level, 1);
  pic.primary.write(0, 1, 0x11);
  assert.equal(line.level, 0);
  assert.equal(pic.primary.read(0, 1), 0);
});
