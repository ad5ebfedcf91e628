/** The conformance suite as tests, for every backend that runs guests here. */
import { needs } from "../skip.ts";
import { endWorkers } from "./guest.ts";
import { BEHAVIOURS, findSubjects, skipReason } from "./suite.ts";
import { Skip } from "./behaviour.ts";

const { subjects, absent } = await findSubjects();
for (const { name, reason } of absent) needs(false, `conformance: ${name}`, reason);

for (const subject of subjects) {
  for (const behaviour of BEHAVIOURS) {
    const name = `conformance: ${subject.name}: ${behaviour.name}`;
    const reason = skipReason(behaviour, subject);
    Deno.test({
      name,
      ignore: needs(reason === null, name, reason ?? ""),
      // Workers are kept from one behaviour to the next; `endWorkers` ends them.
      sanitizeResources: false,
      sanitizeOps: false,
      fn: async () => {
        try {
          await behaviour.run(subject);
        } catch (error) {
          if (!(error instanceof Skip)) throw error;
          console.error(`SKIPPED ${name}: ${error.message}`);
        }
      },
    });
  }
}

Deno.test({ name: "conformance: the Workers end", sanitizeResources: false, sanitizeOps: false, fn: endWorkers });
