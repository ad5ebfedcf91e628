import assert from "node:assert/strict";
import { addTally, emptyTally, readTally, tallyLine } from "./tally.ts";

Deno.test("the counts of deno test are read, with steps, ignored ones and colours", () => {
  const output = "SKIPPED kvm: no /dev/kvm\n\x1b[32mok\x1b[0m | 12 passed (3 steps) | 0 failed | 2 ignored (4s)\n";
  assert.deepEqual(readTally(output, 0), { passed: 12, failed: 0, skipped: 2, reasons: ["kvm: no /dev/kvm"] });
});

Deno.test("the counts of a failed deno test are read", () => {
  const output = "FAILED | 3 passed | 1 failed (1 step) (20ms)\n\nerror: Test failed\n";
  assert.equal(tallyLine(readTally(output, 1)), "3 passed, 1 failed, 0 skipped");
});

Deno.test("our own last line is read, and it is the last one that counts", () => {
  const output = "1 passed, 0 failed\n7 passed, 0 failed, 4 skipped\r\n";
  assert.equal(tallyLine(readTally(output, 0)), "7 passed, 0 failed, 4 skipped");
});

Deno.test("the subjects of a suite are added up, and one that is not here is a skip", () => {
  const output =
    "not here: soft: no such thing\nkvm: 7 passed, 0 failed, 1 skipped\nkvm, our controllers: 5 passed, 2 failed, " +
    "0 skipped\nskip kvm: x: y\n";
  assert.deepEqual(readTally(output, 1), {
    passed: 12,
    failed: 2,
    skipped: 2,
    reasons: ["kvm: x: y", "soft: no such thing"],
  });
});

Deno.test("a run that was stopped counts what it had done", () => {
  const output =
    "a ... ok (1ms)\nb ... ignored (0ms)\nc ... FAILED (2ms)\nd ... ok (1s)\n'e' has been running for over (1m0s)\n";
  assert.equal(tallyLine(readTally(output, 137)), "2 passed, 1 failed, 1 skipped");
  assert.equal(tallyLine(readTally("a ... ok (1ms)\n", 137)), "1 passed, 1 failed, 0 skipped");
});

Deno.test("a bad exit code is a failure, whatever was counted", () => {
  assert.equal(tallyLine(readTally("ok | 5 passed | 0 failed (1s)\n", 1)), "5 passed, 1 failed, 0 skipped");
  assert.equal(tallyLine(readTally("Segmentation fault", 139)), "0 passed, 1 failed, 0 skipped");
});

Deno.test("a reason is told once", () => {
  const sum = emptyTally();
  for (let i = 0; i < 2; i++) addTally(sum, readTally("SKIPPED a: b\nok | 0 passed | 0 failed | 1 ignored (0ms)", 0));
  assert.deepEqual(sum, { passed: 0, failed: 0, skipped: 2, reasons: ["a: b"] });
});

Deno.test("a suite that had nothing to run, and says why, is a skip", () => {
  const output = "SKIPPED hv run on real disks: needs apt\n\nok | 0 passed | 0 failed (1ms)\n";
  assert.equal(tallyLine(readTally(output, 0)), "0 passed, 0 failed, 1 skipped");
});

Deno.test("what a test printed on its way is not the count of the suite", () => {
  const output = "7 passed, 0 failed\n\nok | 12 passed | 0 failed (4s)\n";
  assert.equal(tallyLine(readTally(output, 0)), "12 passed, 0 failed, 0 skipped");
});
