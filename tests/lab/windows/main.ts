/**
 * `deno task lab:windows`: hv on Windows' Deno, on any Linux with Wine.
 *
 *   deno task lab:windows              the short form, as CI runs it
 *   deno task lab:windows --long       everything: the software CPU's conformance, a whole boot on it
 *   deno task lab:windows --only=WORD  those suites with WORD in their names, long ones too
 *   deno task lab:windows run ARGUMENTS OF deno.exe...
 */
import { parseArgs } from "node:util";
import { addTally, emptyTally, tallyLine } from "../../tally.ts";
import { ensureTools } from "../../tools.ts";
import { windowsSuites } from "./suites.ts";
import { qemuProgram } from "../../guests/qemu.ts";
import { wineInLab } from "./in_lab.ts";
import { haveKvm, kvmHere, type KvmHost } from "./kvm_host.ts";
import { missingTools, wineLab } from "./wine.ts";

async function runSuites(args: string[]): Promise<number> {
  const { values } = parseArgs({
    args,
    options: { long: { type: "boolean", default: false }, only: { type: "string", default: "" } },
  });
  const sum = emptyTally();
  const skip = (name: string, reason: string) => {
    sum.skipped++;
    sum.reasons.push(`${name}: ${reason}`);
    console.log(`SKIPPED ${name}: ${reason}`);
  };
  if (missingTools().length) await ensureTools(["wine64", "gcc-mingw-w64-x86-64", "npm"]);
  const missing = missingTools();
  if (missing.length) {
    skip("the Windows lab", `needs ${missing.join(", ")}`);
    console.log(tallyLine(sum));
    return 0;
  }
  const wine = await wineLab();
  const here = haveKvm();
  // One for all suites: the lab takes its time to boot.
  let host: Promise<KvmHost> | null = null;
  const kvm = () => host ??= here ? kvmHere(wine) : wineInLab();
  const chosen = windowsSuites.filter(({ name, long, longInLab }) =>
    values.only ? name.includes(values.only) : values.long || !(long || (longInLab && !here))
  );
  if (!chosen.length) {
    console.error(`lab:windows: no suite has '${values.only}' in its name`);
    return 2;
  }
  for (const suite of chosen) {
    if (suite.kvm && !here && !qemuProgram()) {
      skip(suite.name, "no /dev/kvm for the shim, and no qemu-system-x86_64 for the lab, which has one");
      continue;
    }
    const began = Date.now();
    console.error(`windows: ${suite.name}${suite.kvm && !here ? " (in the x86-64 lab)" : ""}`);
    let words: string;
    try {
      const tally = await suite.run(wine, kvm);
      addTally(sum, tally);
      words = tallyLine(tally);
    } catch (error) {
      sum.failed++;
      words = `FAILED: ${(error as Error).message}`;
    }
    console.log(`windows: ${suite.name}: ${words} (${((Date.now() - began) / 1000).toFixed(1)} s)`);
  }
  await (await host as KvmHost | null)?.[Symbol.asyncDispose]();
  for (const reason of sum.reasons) console.log(`skip ${reason}`);
  console.log(tallyLine(sum));
  return sum.failed ? 1 : 0;
}

async function runCommand(args: string[]): Promise<number> {
  const { code, output } = await (await wineLab()).deno(args, { seconds: 600 });
  console.log(output);
  return code;
}

Deno.exit(Deno.args[0] === "run" ? await runCommand(Deno.args.slice(1)) : await runSuites(Deno.args));
