/** LOCK between vCPUs in each of the two tiers: the conformance suite's behaviours, which mix them. */
import assert from "node:assert/strict";
import { at } from "../../tests/conformance/assembler.ts";
import { atomicBehaviours } from "../../tests/conformance/atomic_behaviours.ts";
import { withGuest } from "../../tests/conformance/behaviour.ts";
import { endWorkers, type Guest, type GuestVcpu, startState } from "../../tests/conformance/guest.ts";
import { type RunResult, Shared } from "../../tests/conformance/protocol.ts";
import { soft } from "./hypervisor.ts";
import { testMode } from "./test_mode.ts";

/** A line that nothing else of the guest stands in, and the one behind it. */
const CELL = 0x5_0000;
const SUBJECT = { name: "soft", hypervisor: soft, ownControllers: true, pvm: false };

for (const [tier, threshold] of [["interpreter", -1], ["regions", 1]] as const) {
  for (const { name, run } of atomicBehaviours) {
    Deno.test({
      name: `${tier}: ${name}`,
      // Workers are kept from one test to the next.
      sanitizeResources: false,
      sanitizeOps: false,
      fn: async () => {
        testMode.threshold = threshold;
        try {
          await run(SUBJECT);
        } finally {
          testMode.threshold = 0;
        }
      },
    });
  }
}

/** Four vCPUs that each want to be alone all the time. */
async function contend(guest: Guest): Promise<{ vcpus: GuestVcpu[]; runs: Promise<RunResult>[] }> {
  guest.load(64, (code) => {
    code.mov("r8", CELL).label("more").lockCmpxchgPair(at({ base: "r8" }), 16);
    code.lock().arithmetic("add", at({ base: "r8", displacement: 0x3c, size: 8 }), 1).jmp("more");
  });
  const vcpus: GuestVcpu[] = [];
  while (vcpus.length < 4) vcpus.push(await guest.vcpu(vcpus.length));
  const runs = vcpus.map((vcpu, index) => vcpu.run({ state: startState(64, index) }));
  const sum = () => guest.view.getUint32(CELL + 0x3c, true);
  while (sum() < 1000) await new Promise((resolve) => setTimeout(resolve, 5));
  return { vcpus, runs };
}

Deno.test({
  name: "vCPUs that all want to be alone come out when they are interrupted, one by one",
  sanitizeResources: false,
  sanitizeOps: false,
  fn: () =>
    withGuest(SUBJECT, async (guest) => {
      const { vcpus, runs } = await contend(guest);
      for (const [index, vcpu] of vcpus.entries()) {
        await vcpu.stop();
        assert.equal((await runs[index]).end, "INTERRUPTED");
        // Those that are left go on: nobody waits for one that is out.
        const sum = guest.view.getUint32(CELL + 0x3c, true);
        while (index < 3 && guest.view.getUint32(CELL + 0x3c, true) - sum < 1000) {
          await new Promise((resolve) => setTimeout(resolve, 5));
        }
      }
    }, { cpus: 4 }),
});

Deno.test({
  name: "vCPUs that all want to be alone come out when the partition is closed",
  sanitizeResources: false,
  sanitizeOps: false,
  fn: () =>
    withGuest(SUBJECT, async (guest) => {
      const { vcpus, runs } = await contend(guest);
      for (const vcpu of vcpus) Atomics.store(vcpu.words, Shared.STOP, 1);
      guest.partition.close();
      for (const run of runs) assert.equal((await run).end, "INTERRUPTED");
    }, { cpus: 4 }),
});

Deno.test({ name: "the Workers end", sanitizeResources: false, sanitizeOps: false, fn: endWorkers });
