import assert from "node:assert/strict";
import { ByteRing } from "../core/byte_ring.ts";
import { RecordedLine, registersOf } from "./test_wires.ts";
import { Uart16550 } from "./uart_16550.ts";

function make(capacity = 64) {
  const line = new RecordedLine();
  const input = new ByteRing(ByteRing.allocate(256));
  const output = new ByteRing(ByteRing.allocate(capacity));
  const uart = new Uart16550(registersOf(Uart16550), line, input, output);
  uart.reset();
  return { uart, line, input, output };
}

function text(ring: ByteRing): string {
  const bytes = new Uint8Array(ring.length);
  ring.read(bytes);
  return new TextDecoder().decode(bytes);
}

const encode = (s: string): Uint8Array => new TextEncoder().encode(s);

Deno.test("16550A: after reset (PC16550D, table II)", () => {
  const { uart } = make();
  assert.deepEqual([1, 2, 3, 4, 5, 6].map((i) => uart.read(i, 1)), [0, 1, 0, 0, 0x60, 0xb0]);
});

Deno.test("16550A: Linux's autoconfig() sees a 16550A and nothing finer", () => {
  const { uart } = make();
  const out = (offset: number, value: number): void => uart.write(offset, 1, value);
  const inb = (offset: number): number => uart.read(offset, 1);
  // Two writes to IER must read back.
  out(1, 0);
  assert.equal(inb(1) & 0x0f, 0);
  out(1, 0x0f);
  assert.equal(inb(1) & 0x0f, 0x0f);
  out(1, 0);
  // Loopback test: UART_MCR_LOOP | 0x0A gives CTS and DCD.
  out(4, 0x1a);
  assert.equal(inb(6) & 0xf0, 0x90);
  out(4, 0);
  // EFR of 16650 and 16850 (LCR 80h, BFh): offset 2 must not read zero.
  out(3, 0xbf);
  out(2, 0);
  out(3, 0);
  out(2, 1);
  assert.equal(inb(2) >> 6, 3, "FIFOs enabled");
  out(3, 0x80);
  assert.notEqual(inb(2), 0);
  out(3, 0xbf);
  assert.notEqual(inb(2), 0);
  // 64-byte FIFO of a 16750.
  out(3, 0);
  out(2, 0x21);
  assert.equal(inb(2) >> 5, 6);
  out(2, 1);
  out(3, 0x80);
  out(2, 0x21);
  assert.equal(inb(2) >> 5, 6);
  out(2, 1);
  out(3, 0);
  // UUE of the XScale.
  out(1, 0x40);
  assert.equal(inb(1) & 0x40, 0);
  // size_fifo: 16 bytes in loopback.
  out(2, 7);
  out(4, 0x10);
  for (let i = 0; i < 256; i++) out(0, i);
  let count = 0;
  while ((inb(5) & 1) !== 0) {
    assert.equal(inb(0), count);
    count++;
  }
  assert.equal(count, 16);
  // Scratch register and divisor.
  out(7, 0xa5);
  assert.equal(inb(7), 0xa5);
  out(3, 0x83);
  out(0, 0x34);
  out(1, 0x12);
  assert.deepEqual([inb(0), inb(1)], [0x34, 0x12]);
  out(3, 0x03);
  assert.equal(inb(1), 0);
});

Deno.test("16550A: Linux's THRE test finds no bug: enabling THRI raises it again each time", () => {
  const { uart } = make();
  uart.write(4, 1, 0x08);
  for (let i = 0; i < 3; i++) {
    uart.write(1, 1, 2);
    assert.equal(uart.read(2, 1), 0x02);
    uart.write(1, 1, 0);
    uart.write(1, 1, 2);
    assert.equal(uart.read(2, 1), 0x02);
    assert.equal(uart.read(2, 1), 0x01, "reading IIR clears it");
    uart.write(1, 1, 0);
  }
});

Deno.test("16550A: unplugged, it loses what it sends, leaves the keys alone, and still says that it is ready", () => {
  const { uart, input, output } = make();
  input.write(encode("keys"));
  uart.plug(false);
  uart.receive();
  for (const byte of encode("more than a FIFO holds")) {
    assert.equal(uart.read(5, 1) & 0x61, 0x60);
    uart.write(0, 1, byte);
  }
  assert.deepEqual([input.length, output.length], [4, 0]);
  uart.plug(true);
  uart.write(0, 1, 0x21);
  assert.equal(text(output), "!");
  assert.equal(String.fromCharCode(uart.read(0, 1)), "k");
  uart.plug(false);
  uart.reset();
  uart.write(0, 1, 0x21);
  assert.equal(output.length, 1, "a reset plugs it in");
});

Deno.test("16550A: output, with one rising edge a burst", () => {
  const { uart, line, output } = make();
  uart.write(4, 1, 0x0b);
  uart.write(2, 1, 1);
  uart.write(1, 1, 2);
  assert.equal(line.edges, 1);
  assert.equal(uart.read(2, 1), 0xc2);
  assert.equal(line.level, 0);
  for (const byte of encode("sixteen bytes ok")) uart.write(0, 1, byte);
  assert.equal(line.edges, 2);
  assert.equal(text(output), "sixteen bytes ok");
});

Deno.test("16550A: a full output ring holds THRE back, and nothing is lost", () => {
  const { uart, line, output } = make(4);
  uart.write(4, 1, 0x08);
  uart.write(2, 1, 1);
  uart.write(1, 1, 2);
  for (const byte of encode("0123456789abcdef")) uart.write(0, 1, byte);
  assert.equal(uart.read(5, 1) & 0x60, 0);
  uart.read(2, 1);
  assert.equal(line.level, 0);
  let all = "";
  for (let i = 0; i < 4; i++) {
    all += text(output);
    uart.drained();
  }
  assert.equal(all, "0123456789abcdef");
  assert.equal(uart.read(5, 1) & 0x60, 0x60);
  assert.equal(line.level, 1);
});

Deno.test("16550A: input at the trigger level, below it as a timeout, and all of a long paste", () => {
  const { uart, line, input } = make();
  uart.write(4, 1, 0x08);
  uart.write(2, 1, 0x81); // trigger at 8
  uart.write(1, 1, 1);
  input.write(encode("abc"));
  uart.receive();
  assert.equal(line.level, 1);
  assert.equal(uart.read(2, 1), 0xcc);
  assert.equal(uart.read(5, 1) & 1, 1);
  const taken: number[] = [];
  const takeAll = (): void => {
    while ((uart.read(5, 1) & 1) !== 0) taken.push(uart.read(0, 1));
  };
  takeAll();
  assert.equal(line.level, 0);
  assert.equal(uart.read(2, 1), 0xc1);
  input.write(encode("d".repeat(100)));
  uart.receive();
  assert.equal(uart.read(2, 1), 0xc4);
  takeAll();
  assert.equal(String.fromCharCode(...taken), "abc" + "d".repeat(100));
  assert.equal(line.level, 0);
});

Deno.test("16550A: OUT2 gates the interrupt, loopback cuts it off", () => {
  const { uart, line, input } = make();
  uart.write(1, 1, 1);
  input.write(encode("x"));
  uart.receive();
  assert.equal(line.level, 0);
  uart.write(4, 1, 0x08);
  assert.equal(line.level, 1);
  uart.write(4, 1, 0x18);
  assert.equal(line.level, 0);
});

Deno.test("16550A: loopback, overrun, line status and modem status interrupts", () => {
  const { uart, output } = make();
  uart.write(4, 1, 0x10);
  uart.read(6, 1);
  uart.write(1, 1, 0x0f);
  uart.read(2, 1);
  uart.write(0, 1, 0x41);
  uart.write(0, 1, 0x42);
  assert.equal(output.length, 0, "nothing leaves");
  assert.equal(uart.read(2, 1), 0x06);
  assert.equal(uart.read(5, 1), 0x63);
  assert.equal(uart.read(5, 1), 0x61, "overrun is cleared by the read");
  assert.equal(uart.read(2, 1), 0x04);
  assert.equal(uart.read(0, 1), 0x42, "without FIFOs the newer character stays");
  assert.equal(uart.read(2, 1), 0x02);
  uart.write(4, 1, 0x12);
  assert.equal(uart.read(2, 1), 0x00);
  assert.equal(uart.read(6, 1), 0x11, "CTS and its delta");
  assert.equal(uart.read(6, 1), 0x10);
  assert.equal(uart.read(2, 1), 0x01);
  uart.write(4, 1, 0x14);
  uart.write(4, 1, 0x10);
  assert.equal(uart.read(6, 1) & 0x0f, 0x05, "RI's trailing edge, and CTS fell");
});
