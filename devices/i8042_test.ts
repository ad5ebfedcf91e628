import assert from "node:assert/strict";
import { I8042 } from "./i8042.ts";
import { RecordedEvents, registersOf } from "./test_wires.ts";

function make() {
  const events = new RecordedEvents();
  const controller = new I8042(registersOf(I8042), events);
  controller.reset();
  const command = (byte: number): void => controller.command.write(0, 1, byte);
  const data = (byte: number): void => controller.data.write(0, 1, byte);
  const status = (): number => controller.command.read(0, 1);
  const read = (): number => controller.data.read(0, 1);
  return { events, command, data, status, read };
}

Deno.test("8042: self-test, interface test and command byte answer", () => {
  const { command, data, status, read } = make();
  for (const [code, answer] of [[0xaa, 0x55], [0xab, 0x00], [0xa9, 0x01]]) {
    assert.equal(status() & 1, 0);
    command(code);
    assert.equal(status() & 3, 1, "a byte waits");
    assert.equal(read(), answer);
    assert.equal(status() & 1, 0);
  }
  command(0x60);
  data(0x45);
  command(0x20);
  assert.equal(read(), 0x65, "the auxiliary port stays disabled: there is none");
  command(0xd2);
  data(0x9c);
  assert.equal(read(), 0x9c);
});

Deno.test("8042: no keyboard and no mouse answer", () => {
  const { command, data, status } = make();
  data(0xf2);
  assert.equal(status() & 1, 0);
  command(0xd4);
  data(0xf2);
  command(0xd3);
  data(0x5a);
  assert.equal(status() & 1, 0);
});

Deno.test("8042: reset by pulse and by output port", () => {
  const { command, data, events } = make();
  command(0xff);
  command(0xd1);
  data(0x03);
  assert.deepEqual(events.told, []);
  command(0xfe);
  command(0xd1);
  data(0x02);
  assert.deepEqual(events.told, ["reset", "reset"]);
});
