import assert from "node:assert/strict";
import { FIRST_WORD, RegisterFile } from "./registers.ts";

Deno.test("the same order of allocation finds the same block, and blocks do not share a cache line", () => {
  const one = new RegisterFile();
  const two = new RegisterFile(one.memory);
  const a = [one.allocate(3), one.allocate(20)];
  const b = [two.allocate(3), two.allocate(20)];
  a[1].words[FIRST_WORD] = 42;
  assert.equal(b[1].words[FIRST_WORD], 42);
  assert.equal(a[0].words.byteOffset % 64, 0);
  assert.equal(a[1].words.byteOffset % 64, 0);
  assert.throws(() => one.allocate(1 << 20), /too many devices/);
});

/** Longest a run of the Workers may take; a lost wake-up lasts for ever. */
const TIME = 30_000;

/** Several Workers increment one word under one lock. */
async function contend(workerCount: number, rounds: number, held: number, inWasm: boolean): Promise<void> {
  const file = new RegisterFile();
  const registers = file.allocate(1);
  const workers = Array.from(
    { length: workerCount },
    () => new Worker(new URL("./registers_test_worker.ts", import.meta.url), { type: "module" }),
  );
  const all = Promise.all(workers.map((worker) =>
    new Promise((resolve) => {
      worker.onmessage = resolve;
      worker.postMessage({ memory: file.memory, rounds, held, inWasm });
    })
  ));
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(new Error(`asleep at ${registers.words[FIRST_WORD]} of ${workerCount * rounds}`));
      // Wakes whoever sleeps for ever, so that the process can end.
      Atomics.notify(registers.words, 0);
    }, TIME);
  });
  try {
    await Promise.race([all, late]);
    assert.equal(registers.words[FIRST_WORD], workerCount * rounds);
    assert.equal(registers.words[0], 0);
  } finally {
    clearTimeout(timer);
    for (const worker of workers) worker.terminate();
  }
}

// Three and more, so that one may still wait when another that waited has the lock.
for (const inWasm of [true, false]) {
  const form = inWasm ? "a device's lock" : "a lock in any word";
  Deno.test(`${form} excludes threads: no increment is lost`, () => contend(3, 50_000, 0, inWasm));
  Deno.test(`${form} wakes everyone who sleeps for it`, () => contend(5, 3_000, 3_000, inWasm));
}
