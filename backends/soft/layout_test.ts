/** The layout of a vCPU's state. */
import assert from "node:assert/strict";
import { State } from "./layout.ts";

Deno.test("soft: no two fields of the state stand in one place", () => {
  const names = new Map<number, string>();
  for (const [name, offset] of Object.entries(State)) {
    assert.equal(names.get(offset), undefined, `${name} and ${names.get(offset)} at ${offset}`);
    names.set(offset, name);
  }
});
