import assert from "node:assert/strict";
import { ByteRing } from "./byte_ring.ts";
import { Console } from "./console.ts";

function fixture(capacity = 64) {
  const output = new ByteRing(ByteRing.allocate(capacity));
  const input = new ByteRing(ByteRing.allocate(capacity));
  let arrived = 0;
  const panics: string[] = [];
  const console = new Console(output, input, {
    inputArrived: () => arrived++,
    outputDrained: () => {},
    resize: () => {},
    panicked: (reason) => panics.push(reason),
  });
  const pumping = console.pump();
  return {
    output,
    input,
    console,
    arrived: () => arrived,
    panics,
    say: (text: string) => output.write(new TextEncoder().encode(text)),
    close: async () => {
      console.end();
      await pumping;
    },
  };
}

Deno.test("expect matches across chunks, in order, once", async () => {
  const guest = fixture();
  guest.say("hello lo");
  const match = guest.console.expect("login:", { timeout: "5s" });
  guest.say("gin: user 42\n");
  assert.deepEqual(await match, { text: "login:", before: "hello ", groups: [] });
  assert.deepEqual((await guest.console.expect(/user (\d+)/)).groups, ["42"]);
  await assert.rejects(guest.console.expect("login:", { timeout: "50ms" }), /did not say within 0\.05 s "login:"/);
  const late = guest.console.expect("never", { timeout: "5s" });
  await Promise.all([assert.rejects(late, /the guest ended before it said "never"/), guest.close()]);
});

Deno.test("a stream gets every byte from the first on, and a slow reader makes the guest wait", async () => {
  const guest = fixture(1024);
  guest.say("early ");
  await guest.console.expect("early");
  const reader = guest.console.readable.getReader();
  const line = "x".repeat(1000);
  let accepted = 0;
  for (let i = 0; i < 200; i++) {
    if (guest.output.room >= 1000) {
      guest.say(line);
      accepted++;
    }
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  assert.ok(accepted < 100, `the ring filled up: ${accepted}`);
  let bytes = 0;
  const closing = guest.close();
  for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read()) bytes += chunk.value.length;
  await closing;
  assert.equal(bytes, "early ".length + accepted * 1000);
});

Deno.test("input waits for room and rings the device", async () => {
  const guest = fixture(16);
  const sending = guest.console.send("0123456789abcdefXYZ");
  const got: number[] = [];
  for (let i = 0; i < 100 && got.length < 19; i++) {
    for (let byte = guest.input.shift(); byte >= 0; byte = guest.input.shift()) got.push(byte);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  await sending;
  assert.equal(String.fromCharCode(...got), "0123456789abcdefXYZ");
  assert.ok(guest.arrived() >= 2);
  await guest.close();
});

Deno.test("a panic is noticed, once its line is whole, in whatever pieces it comes", async () => {
  const guest = fixture(1024);
  for (const piece of ["[ 1.0] Kernel pa", "nic - not syncing: VFS: no ", "root\r", "\n[ 1.1] CPU: 0\n"]) {
    guest.say(piece);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  await guest.close();
  assert.deepEqual(guest.panics, ["VFS: no root"]);
});
