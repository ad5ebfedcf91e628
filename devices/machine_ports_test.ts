import assert from "node:assert/strict";
import { DebugExit } from "./debug_exit.ts";
import { PvPanic } from "./pvpanic.ts";
import { RecordedEvents, registersOf } from "./test_wires.ts";

Deno.test("pvpanic: tells what it knows, and the machine what it is told", () => {
  const events = new RecordedEvents();
  const device = new PvPanic(registersOf(PvPanic), events);
  assert.equal(device.read(0, 1), 3);
  for (const value of [0, 4, 1, 2]) device.write(0, 1, value);
  assert.deepEqual(events.told, ["panic 1", "panic 2"]);
});

Deno.test("debug exit: the low byte is the exit code", () => {
  const events = new RecordedEvents();
  const device = new DebugExit(registersOf(DebugExit), events);
  device.write(0, 1, 0);
  device.write(0, 4, 0x12a);
  assert.deepEqual(events.told, ["exit 0", "exit 42"]);
});
