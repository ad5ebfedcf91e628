/**
 * kvm-unit-tests (https://gitlab.com/kvm-unit-tests/kvm-unit-tests) on the software CPU, those for one vCPU.
 *
 *     (in its directory) ./configure --arch=x86_64 && make
 *     deno run -A tests/cpu/kvm_unit_tests.ts DIRECTORY [NAME...]
 *
 * DIRECTORY is the built tree; NAMEs are of its `x86/unittests.cfg`. Prints what failed, and the counts of what the tests
 * report.
 */
import { loadMultiboot } from "./multiboot.ts";
import { runBareGuest } from "./bare_guest.ts";

/** Items of QEMU's firmware configuration device that the tests ask for (lib/x86/fwcfg.h). */
const RAM_SIZE = 3, NB_CPUS = 5, MAX_CPUS = 15;
const RAM = 256 << 20;
const TIMEOUT = 120_000;

const [directory, ...names] = Deno.args;
if (directory === undefined) {
  console.error("usage: deno run -A tests/cpu/kvm_unit_tests.ts DIRECTORY [NAME...]");
  Deno.exit(2);
}

interface Unit {
  name: string;
  [key: string]: string;
}
const units: Unit[] = [];
for (const line of Deno.readTextFileSync(`${directory}/x86/unittests.cfg`).split("\n")) {
  const section = /^\[(.+)\]/.exec(line);
  const setting = /^(\w+) *= *(.*?) *$/.exec(line);
  if (section) units.push({ name: section[1] });
  else if (setting && units.length > 0) units.at(-1)![setting[1]] = setting[2];
}

/** Why a unit is not for one vCPU without virtualization of its own; null when it is. */
function reasonAgainst(unit: Unit): string | null {
  if (unit.arch === "i386") return "built for 32 bits only";
  if (Number(unit.smp ?? 1) > 1) return "needs several vCPUs";
  if (/\b(vmx|svm)\b/.test(`${unit.groups} ${unit.file}`)) return "needs VMX or SVM";
  try {
    Deno.statSync(`${directory}/x86/${unit.file}`);
  } catch {
    return `${unit.file} is not built`;
  }
  return null;
}

const totals = { PASS: 0, FAIL: 0, SKIP: 0 };
let right = 0, wrong = 0, left = 0;
for (const unit of units) {
  if (names.length > 0 && !names.includes(unit.name)) continue;
  const against = reasonAgainst(unit);
  if (against !== null) {
    left++;
    if (names.length > 0) console.log(`${unit.name}: ${against}`);
    continue;
  }
  const image = Deno.readFileSync(`${directory}/x86/${unit.file}`);
  const given = (unit.test_args ?? "").replace(/^(['"])(.*)\1$/, "$2");
  const guest = loadMultiboot(image, `${unit.file} ${given}`, RAM);
  const result = await runBareGuest({
    ram: RAM,
    ...guest,
    firmwareItems: { [RAM_SIZE]: RAM, [NB_CPUS]: 1, [MAX_CPUS]: 1 },
    biosInterrupts: true,
    timeout: TIMEOUT,
  });
  const lines = result.output.split("\n").map((line) => line.trimEnd());
  const counts = { PASS: 0, FAIL: 0, SKIP: 0 };
  for (const line of lines) {
    const word = /^(PASS|FAIL|SKIP)\b/.exec(line)?.[1] as keyof typeof counts | undefined;
    if (word) counts[word]++, totals[word]++;
  }
  const good = result.end === "exit" && result.code === 0;
  if (good) right++;
  else wrong++;
  console.log(
    `${good ? "ok  " : "FAIL"} ${unit.name}: ${counts.PASS} passed, ${counts.FAIL} failed, ${counts.SKIP} skipped` +
      (good ? "" : `; ended with ${result.end}, code ${result.code}`),
  );
  if (!good) {
    const told = lines.filter((line) => /^FAIL/.test(line));
    for (const line of told.length > 0 ? told.slice(0, 12) : lines.slice(-6)) console.log(`     ${line}`);
  }
}
console.log(`${right} of ${right + wrong} programs, ${left} not run; reports: ${JSON.stringify(totals)}`);
Deno.exit(wrong === 0 ? 0 : 1);
