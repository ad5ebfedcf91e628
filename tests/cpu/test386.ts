/**
 * test386.asm (https://github.com/barotto/test386.asm), a tester of the 80386 that runs in place of a BIOS, on the
 * software CPU.
 *
 *     deno run -A tests/cpu/test386.ts DIRECTORY
 *
 * DIRECTORY holds its source; nasm assembles it. Passes when the ROM reports that it is through, and its list of results
 * is the reference's.
 */
import { dirname } from "node:path";
import { X64 } from "../../core/x64_state.ts";
import { runBareGuest } from "./bare_guest.ts";
import { POST_PORT } from "./bare_protocol.ts";

const directory = Deno.args[0];
if (directory === undefined) {
  console.error("usage: deno run -A tests/cpu/test386.ts DIRECTORY");
  Deno.exit(2);
}
/** What is reported at the end. */
const DONE = 0xff;
/**
 * What the source is to be assembled with: codes and text where the runner looks, the ROM with task switches, and as for
 * Bochs: ARPL of what cannot be written is #GP, changed or not (SDM vol. 2, ARPL).
 */
const SETTINGS = { POST_PORT, COM_PORT: 1, ROM128: 1, BOCHS: 1 };

/** What it wants of an 80386 and processors of today do otherwise: a file, a text in it, another. */
const EDITS: readonly (readonly [file: string, from: string, to: string])[] = [
  // The accessed flag of a page directory's entry is set when the entry is used, also when the page table's turns out to
  // be not present (SDM vol. 3, 4.8).
  ["tests/paging_p.asm", "test  eax, PTE_ACCESSED ; PDE's A bit should be 0\n\tjnz   error", ""],
];

const work = Deno.makeTempDirSync({ prefix: "hv-test386-" });
try {
  for (const [file, from, to] of EDITS) {
    const source = Deno.readTextFileSync(`${directory}/src/${file}`);
    if (!source.includes(from)) throw new Error(`${file} is not what it was: no "${from}"`);
    Deno.mkdirSync(dirname(`${work}/${file}`), { recursive: true });
    Deno.writeTextFileSync(`${work}/${file}`, source.replace(from, to));
  }
  let configuration = Deno.readTextFileSync(`${directory}/src/configuration.asm`);
  for (const [name, value] of Object.entries(SETTINGS)) {
    configuration = configuration.replace(new RegExp(`^${name} equ .*`, "m"), `${name} equ ${value}`);
  }
  Deno.writeTextFileSync(`${work}/configuration.asm`, configuration);
  const made = new Deno.Command("nasm", {
    // The first directory that has a file wins.
    args: [
      `-i${work}/`,
      `-i${directory}/src/`,
      "-f",
      "bin",
      "-w-all",
      "-o",
      `${work}/rom`,
      `${directory}/src/test386.asm`,
    ],
    cwd: work,
  }).outputSync();
  if (!made.success) throw new Error(new TextDecoder().decode(made.stderr));
  const { end, output, post, state } = await runBareGuest({
    ram: 16 << 20,
    rom: Deno.readFileSync(`${work}/rom`),
    timeout: 300_000,
  });
  const view = new DataView(state);
  const register = (at: number) => view.getBigUint64(at, true).toString(16);
  const reference = Deno.readTextFileSync(`${directory}/test386-EE-reference.txt`).split(/\r?\n/)
    .filter((line) => line !== "");
  // The port's speed goes to the same address as its text.
  const lines = output.replace(/[^\x20-\x7e\n]/g, "").split("\n").filter((line) => line !== "");
  const wrong = reference.flatMap((line, i) => line.trim() === lines[i]?.trim() ? [] : [i]);
  const last = post.at(-1) ?? -1;
  console.log(`codes ${post.map((code) => code.toString(16)).join(" ")}; ended with ${end} at ${register(X64.RIP)}`);
  for (const i of wrong.slice(0, 20)) {
    console.log(`line ${i + 1}: ${lines[i] ?? "(none)"}\n  instead of ${reference[i]}`);
  }
  console.log(
    `${last === DONE ? "through" : `stopped in test ${last.toString(16)}`}; ` +
      `${reference.length - wrong.length} results right, ${wrong.length} not`,
  );
  Deno.exitCode = last === DONE && wrong.length === 0 ? 0 : 1;
} finally {
  Deno.removeSync(work, { recursive: true });
}
