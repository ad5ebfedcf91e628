/**
 * Prints who passes what:
 *
 *     deno run -A tests/conformance/run.ts [--backend=NAME] [part of a behaviour's name]
 */
import { endWorkers } from "./guest.ts";
import { BEHAVIOURS, findSubjects, type Outcome, runBehaviour } from "./suite.ts";

const filter = Deno.args.find((argument) => !argument.startsWith("--")) ?? "";
const backend = Deno.args.find((argument) => argument.startsWith("--backend="))?.slice("--backend=".length) ?? "";
const found = await findSubjects();
const subjects = found.subjects.filter(({ name }) => name.startsWith(backend));
const absent = found.absent.filter(({ name }) => name.startsWith(backend));
const behaviours = BEHAVIOURS.filter(({ name }) => name.includes(filter));
const details: string[] = [];
const counts = subjects.map(() => ({ pass: 0, FAIL: 0, skip: 0 }));
const width = Math.max(...behaviours.map(({ name }) => name.length), 0);

for (const { name, reason } of absent) console.log(`not here: ${name}: ${reason}`);
console.log(["".padEnd(width), ...subjects.map(({ name }) => name)].join("  "));
for (const behaviour of behaviours) {
  const outcomes: Outcome[] = [];
  for (const [i, subject] of subjects.entries()) {
    const outcome = await runBehaviour(behaviour, subject);
    counts[i][outcome.result]++;
    if (outcome.result !== "pass") {
      details.push(`${outcome.result} ${subject.name}: ${behaviour.name}: ${outcome.detail}`);
    }
    outcomes.push(outcome);
  }
  const cells = outcomes.map(({ result }, i) => result.padEnd(subjects[i].name.length));
  console.log([behaviour.name.padEnd(width), ...cells].join("  ").trimEnd());
}
subjects.forEach(({ name }, i) => {
  console.log(`${name}: ${counts[i].pass} passed, ${counts[i].FAIL} failed, ${counts[i].skip} skipped`);
});
if (details.length > 0) console.log("\n" + details.join("\n"));
endWorkers();
Deno.exit(counts.some(({ FAIL }) => FAIL > 0) ? 1 : 0);
