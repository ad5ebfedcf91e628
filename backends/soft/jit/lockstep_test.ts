/** Regions are compared with the interpreter while they run, and a region that is wrong is found. */
import assert from "node:assert/strict";
import { Assembler, at } from "../../../tests/conformance/assembler.ts";
import { Reg, State } from "../layout.ts";
import { testMode } from "../test_mode.ts";
import { DONE_PORT, Place, Rig } from "./rig.ts";

function rig(): Rig {
  testMode.lockstep = 1;
  try {
    return new Rig(1);
  } finally {
    testMode.lockstep = 0;
  }
}

/** Adds up words and stores the sums, over several pages. */
function sums(): Uint8Array {
  const code = new Assembler(64, Place.CODE);
  code.mov("rsi", Place.DATA).mov("rcx", 2000).label("again")
    .arithmetic("add", "rax", at({ base: "rsi" })).arithmetic("add", at({ base: "rsi", displacement: 8 }), "rax")
    .arithmetic("add", "rsi", 16).unary("dec", "rcx").jcc("ne", "again").out(DONE_PORT, "al").hlt();
  return code.assemble();
}

Deno.test("regions that are right are compared and pass", () => {
  const machine = rig();
  machine.load(sums());
  machine.view.setUint32(Place.DATA, 5, true);
  assert.equal(machine.run(), 0);
  const counts = testMode.counts!();
  assert.ok(counts.runs > 0 && counts.instructions > 1000, JSON.stringify(counts));
  assert.equal(counts.givenUp, 0);
  assert.equal(machine.view.getUint32(Place.DATA + 8, true), 5);
});

/** What a wrong region might do after a right one has run. */
const WRONG: [string, RegExp, (machine: Rig) => void][] = [
  [
    "changes a register",
    /register 9 is 123/,
    ({ vcpu }) => vcpu.core.stateView.setUint32(State.GPR + 8 * 9, 0x123, true),
  ],
  ["counts wrongly", /register 1|RIP/, ({ vcpu }) => {
    const place = State.GPR + 8 * Reg.CX;
    vcpu.core.stateView.setUint32(place, vcpu.core.stateView.getUint32(place, true) - 1, true);
  }],
  ["leaves elsewhere", /RIP is/, ({ vcpu }) => vcpu.core.stateView.setUint32(State.RIP, Place.CODE, true)],
  // The first copy in the sandbox is the region's, of a page table.
  ["stores elsewhere", /of RAM stands/, ({ partition }) => {
    new Uint8Array(partition.memory().buffer)[partition.layout.sandbox + 0x800] ^= 1;
  }],
];

for (const [what, words, wrong] of WRONG) {
  Deno.test(`a region that ${what} is found`, () => {
    const machine = rig();
    const { core } = machine.vcpu;
    // Between the region and what compares it.
    const compared = core.jit!["host"].compared;
    (core.jit!["host"] as { compared: typeof compared }).compared = (region) =>
      compared((budget: number) => {
        const left = region(budget);
        wrong(machine);
        return left;
      });
    machine.load(sums());
    assert.throws(() => machine.run(), words);
  });
}
