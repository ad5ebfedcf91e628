/** Random guests in every mode; the long form is `deno run -A tests/cpu/fuzz.ts SEED COUNT`. */
import assert from "node:assert/strict";
import { fuzz, STOP_WITHIN } from "./fuzz.ts";

Deno.test("random code, tables and registers: never a JavaScript exception, always stopped in time", async () => {
  const outcome = await fuzz(1, 600);
  assert.equal(outcome.hung, null);
  assert.deepEqual(outcome.failures, []);
  assert.equal(outcome.ends.FAILED, undefined, "what the guest does is architectural, whatever it does");
  // Every way to end was met: the cases are not all refused at their first instruction.
  for (const end of ["SHUTDOWN", "INTERRUPTED", "HALT", "exits"]) assert.ok(outcome.ends[end] > 0, end);
  if (outcome.slowest > STOP_WITHIN) {
    // A busy machine, or this case? It must be quick when it is asked again, once of three times.
    const again: number[] = [];
    const quick = () => again.some((time) => time < 10 * STOP_WITHIN);
    while (again.length < 3 && !quick()) again.push((await fuzz(outcome.slowestSeed, 1)).slowest);
    assert.ok(quick(), `case ${outcome.slowestSeed} took ${again.map(Math.round)} ms to stop`);
  }
});
