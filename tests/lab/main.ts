/**
 * `deno task lab`: what only a real KVM can show, on any machine.
 *
 *   deno task lab               the short form, as CI runs it
 *   deno task lab --long        everything: two processors, shadow paging, a whole Debian, instructions per exit
 *   deno task lab --only=WORD   those suites with WORD in their names, long ones too
 *   deno task lab run [OPTION]... COMMAND...
 *                               any command in the lab, in the root of the repository. Options: --shadow, --icount,
 *                               --cpus=N, --memory=SIZE, --seconds=N, --disk=FILE (there /dev/vda and so on),
 *                               --compile=FILE.c (there /lab/FILE), --qemu (there qemu-system-x86_64)
 */
import { parseArgs } from "node:util";
import { addTally, emptyTally, tallyLine } from "../tally.ts";
import { countInstructions, lab } from "./lab.ts";
import { compiled, qemuEntries } from "./programs.ts";
import { suites } from "./suites.ts";

async function runCommand(args: string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      shadow: { type: "boolean" },
      icount: { type: "boolean" },
      cpus: { type: "string", default: "1" },
      memory: { type: "string", default: "1536M" },
      seconds: { type: "string", default: "300" },
      disk: { type: "string", multiple: true, default: [] },
      compile: { type: "string", multiple: true, default: [] },
      qemu: { type: "boolean", default: false },
    },
  });
  const script = positionals.join(" ");
  if (!script) throw new Error("lab run: no command given");
  const files = await Promise.all(values.compile.map(compiled));
  if (values.qemu) files.push(...await qemuEntries());
  const common = { kvm: values.shadow ? "shadow" : "npt", memory: values.memory, files, echo: true } as const;
  if (values.icount) return (await countInstructions(script, Number(values.seconds), common)).code;
  await using machine = await lab({ ...common, cpus: Number(values.cpus), disks: values.disk });
  return (await machine.run(script, Number(values.seconds))).code;
}

async function runSuites(args: string[]): Promise<number> {
  const { values } = parseArgs({
    args,
    options: { long: { type: "boolean", default: Deno.env.has("HV_LONG") }, only: { type: "string", default: "" } },
  });
  const sum = emptyTally();
  const chosen = suites.filter(({ name, long }) => values.only ? name.includes(values.only) : !long || values.long);
  if (!chosen.length) throw new Error(`no suite has '${values.only}' in its name`);
  for (const suite of chosen) {
    const began = Date.now();
    console.error(`lab: ${suite.name}`);
    let words: string;
    try {
      const tally = await suite.run();
      addTally(sum, tally);
      words = tallyLine(tally);
    } catch (error) {
      sum.failed++;
      words = `failed: ${(error as Error).message}`;
    }
    console.log(`lab: ${suite.name}: ${words} (${((Date.now() - began) / 1000).toFixed(1)} s)`);
  }
  for (const reason of sum.reasons) console.log(`SKIPPED ${reason}`);
  console.log(tallyLine(sum));
  return sum.failed ? 1 : 0;
}

try {
  const [first, ...rest] = Deno.args;
  Deno.exit(first === "run" ? await runCommand(rest) : await runSuites(Deno.args));
} catch (error) {
  console.error(`lab: ${(error as Error).message}`);
  Deno.exit(1);
}
