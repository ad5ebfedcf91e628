import assert from "node:assert/strict";
import { AcpiPm, AcpiPmOffset, SLEEP_TYPE_S5 } from "./acpi_pm.ts";
import { CountedReschedule, ManualClock, RecordedEvents, RecordedLine, registersOf } from "./test_wires.ts";

function make() {
  const sci = new RecordedLine();
  const clock = new ManualClock();
  const events = new RecordedEvents();
  const pm = new AcpiPm(registersOf(AcpiPm), sci, clock, new CountedReschedule(), events);
  pm.reset();
  return { pm, sci, clock, events };
}

const PWRBTN = 1 << 8;

Deno.test("ACPI PM1: the power button interrupts when enabled, until its status is cleared (ACPI 6.5, 4.8.3.1)", () => {
  const { pm, sci } = make();
  assert.equal(pm.read(AcpiPmOffset.CONTROL, 2), 1, "always in ACPI mode");
  pm.pressPowerButton();
  assert.equal(sci.level, 0);
  pm.write(AcpiPmOffset.EVENT + 2, 2, PWRBTN);
  assert.equal(sci.level, 1);
  assert.equal(pm.read(AcpiPmOffset.EVENT, 4), PWRBTN | (PWRBTN << 16));
  pm.write(AcpiPmOffset.EVENT, 2, ~PWRBTN & 0xffff);
  assert.equal(sci.level, 1, "zeros clear nothing");
  pm.write(AcpiPmOffset.EVENT, 2, PWRBTN);
  assert.equal(sci.level, 0);
  assert.equal(pm.read(AcpiPmOffset.EVENT, 2), 0);
});

Deno.test("ACPI PM1: S5 powers off, other sleep types do not", () => {
  const { pm, events } = make();
  pm.write(AcpiPmOffset.CONTROL, 2, (1 << 13) | (3 << 10) | 1);
  pm.write(AcpiPmOffset.CONTROL, 2, (SLEEP_TYPE_S5 << 10) | 1);
  assert.deepEqual(events.told, []);
  pm.write(AcpiPmOffset.CONTROL, 2, (1 << 13) | (SLEEP_TYPE_S5 << 10) | 1);
  assert.deepEqual(events.told, ["power off"]);
  assert.equal(pm.read(AcpiPmOffset.CONTROL, 2) & (1 << 13), 0, "SLP_EN reads zero");
});

Deno.test("ACPI PM timer: 3.579545 MHz, 32 bits; its top bit's changes set TMR_STS (4.8.3.3)", () => {
  const { pm, sci, clock } = make();
  const before = pm.read(AcpiPmOffset.TIMER, 4);
  clock.milliseconds += 1000;
  assert.equal(pm.read(AcpiPmOffset.TIMER, 4) - before, 3579545);
  assert.equal(pm.tick(), -1);
  pm.write(AcpiPmOffset.EVENT + 2, 2, 1);
  const wait = pm.tick();
  assert.ok(wait > 590_000 && wait < 600_000, String(wait));
  clock.milliseconds += wait;
  pm.tick();
  assert.equal(sci.level, 1);
  assert.ok(pm.read(AcpiPmOffset.TIMER, 4) < 0, "bit 31");
  pm.write(AcpiPmOffset.EVENT, 2, 1);
  assert.equal(sci.level, 0);
});

Deno.test("ACPI GPE0: status, enable, SCI (4.8.4.1)", () => {
  const { pm, sci } = make();
  pm.raiseEvent(3);
  pm.raiseEvent(40 + 9);
  assert.equal(sci.level, 0);
  pm.write(AcpiPmOffset.GPE0 + 2, 1, 8);
  assert.equal(sci.level, 1);
  assert.equal(pm.read(AcpiPmOffset.GPE0, 1), 8);
  pm.write(AcpiPmOffset.GPE0, 1, 8);
  assert.equal(sci.level, 0);
});
