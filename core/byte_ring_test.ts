import assert from "node:assert/strict";
import { ByteRing } from "./byte_ring.ts";

Deno.test("bytes come out as they went in, around the end of the ring", () => {
  const ring = new ByteRing(ByteRing.allocate(16));
  let expected = 0;
  for (let round = 0, value = 0; round < 50; round++) {
    const count = ring.write(Uint8Array.from({ length: 11 }, () => value++ & 0xff));
    value -= 11 - count;
    const out = new Uint8Array(7);
    const got = ring.read(out);
    for (let i = 0; i < got; i++) assert.equal(out[i], expected++ & 0xff);
  }
});

Deno.test("a full ring takes nothing, an empty one gives nothing", () => {
  const ring = new ByteRing(ByteRing.allocate(4));
  for (let i = 0; i < 4; i++) assert.equal(ring.push(i), true);
  assert.equal(ring.push(4), false);
  assert.equal(ring.write(new Uint8Array(3)), 0);
  assert.deepEqual([ring.length, ring.room], [4, 0]);
  for (let i = 0; i < 4; i++) assert.equal(ring.shift(), i);
  assert.equal(ring.shift(), -1);
  assert.equal(ring.read(new Uint8Array(1)), 0);
});

Deno.test("what those who push have looked for is kept back from everybody else", () => {
  const ring = new ByteRing(ByteRing.allocate(16, 3));
  assert.equal(ring.write(new Uint8Array(12)), 12);
  assert.deepEqual([ring.room, ring.seemsFull], [1, false]);
  // Three have seen room for one byte; before they push it somebody else takes it.
  assert.equal(ring.write(new Uint8Array(12)), 1);
  assert.deepEqual([ring.room, ring.seemsFull, ring.write(new Uint8Array(1))], [0, true, 0]);
  for (let i = 0; i < 3; i++) assert.equal(ring.push(i), true);
  assert.deepEqual([ring.room, ring.push(3)], [0, false]);
});

Deno.test("two threads that write lose nothing", async () => {
  const ring = new ByteRing(ByteRing.allocate(1024));
  const each = 50_000;
  const workers = [0, 1].map((mark) => {
    const worker = new Worker(new URL("./byte_ring_test_worker.ts", import.meta.url), { type: "module" });
    worker.postMessage({ buffer: ring.buffer, mark, count: each });
    return worker;
  });
  const counts = [0, 0];
  const chunk = new Uint8Array(256);
  const until = performance.now() + 30_000;
  while (counts[0] + counts[1] < 2 * each && performance.now() < until) {
    const got = ring.read(chunk);
    for (let i = 0; i < got; i++) counts[chunk[i]]++;
    if (got === 0) await new Promise((resolve) => setTimeout(resolve, 0));
  }
  assert.deepEqual(counts, [each, each]);
  for (const worker of workers) worker.terminate();
});

Deno.test("threads that look for room before they push lose nothing, however many saw the same byte", async () => {
  const pushers = 4;
  const each = 30_000;
  const ring = new ByteRing(ByteRing.allocate(64, pushers));
  const lost = new Int32Array(new SharedArrayBuffer(4));
  const workers = Array.from({ length: pushers }, (_, mark) => {
    const worker = new Worker(new URL("./byte_ring_test_worker.ts", import.meta.url), { type: "module" });
    worker.postMessage({ buffer: ring.buffer, mark, count: each, lost });
    return worker;
  });
  const chunk = new Uint8Array(8);
  const until = performance.now() + 60_000;
  let got = 0;
  while (got + Atomics.load(lost, 0) < pushers * each && performance.now() < until) {
    const count = ring.read(chunk);
    got += count;
    if (count === 0) await new Promise((resolve) => setTimeout(resolve, 0));
  }
  for (const worker of workers) worker.terminate();
  assert.deepEqual([got, lost[0]], [pushers * each, 0]);
});
