/** LOCK between vCPUs in each of the two tiers: the conformance suite's behaviours, which mix them. */
import { atomicBehaviours } from "../../tests/conformance/atomic_behaviours.ts";
import { endWorkers } from "../../tests/conformance/guest.ts";
import { soft } from "./hypervisor.ts";
import { testMode } from "./test_mode.ts";

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

Deno.test({ name: "the Workers end", sanitizeResources: false, sanitizeOps: false, fn: endWorkers });
