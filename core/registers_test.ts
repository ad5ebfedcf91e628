import assert from "node:assert/strict";
import { FIRST_WORD, RegisterFile } from "./registers.ts";

Deno.test("the same order of allocation finds the same block, and blocks do not share a cache line", () => {
  const one = new RegisterFile();
  const two = new RegisterFile(one.buffer);
  const a = [one.allocate(3), one.allocate(20)];
  const b = [two.allocate(3), two.allocate(20)];
  a[1].words[FIRST_WORD] = 42;
  assert.equal(b[1].words[FIRST_WORD], 42);
  assert.equal(a[0].words.byteOffset % 64, 0);
  assert.equal(a[1].words.byteOffset % 64, 0);
  assert.throws(() => one.allocate(RegisterFile.BYTES), /too many devices/);
});

Deno.test("the lock excludes threads: no increment is lost", async () => {
  const file = new RegisterFile();
  const registers = file.allocate(1);
  const rounds = 50_000;
  // Three, so that one may still wait when another that waited has the lock.
  const workers = [0, 1, 2].map(() => {
    const worker = new Worker(new URL("./registers_test_worker.ts", import.meta.url), { type: "module" });
    const done = new Promise((resolve) => worker.onmessage = resolve);
    worker.postMessage({ buffer: file.buffer, rounds });
    return done.then(() => worker.terminate());
  });
  await Promise.all(workers);
  assert.equal(registers.words[FIRST_WORD], 3 * rounds);
  assert.equal(registers.words[0], 0);
});
