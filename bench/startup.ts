/**
 * From `hv run` to the guest's first instruction, against `deno --version`.
 *
 *     deno run -A bench/startup.ts [--rounds=15] [--backend=kvm] [--other=OTHER/CHECKOUT] [--icount]
 *
 * The guest's first instructions write a byte to COM1; wall time goes from the start of the process to that byte's
 * arrival on its standard output. CPU time is that of the whole process to its end, user and system, all threads. All
 * take turns. Hv is run bundled, as the binary has it (tools/bundle.ts), and from its sources. With --other, another
 * checkout of hv, bundled too, is measured in the same turns: on a busy machine only such a ratio tells whether a change
 * helped. With --icount it runs in the lab, where a millisecond is a million instructions.
 */
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { testKernel } from "../cli/kernel_fixture.ts";
import { probeBackends } from "../mod.ts";
import { bundled, runInLab } from "./contenders.ts";
import { childrenCpuSeconds, median } from "./usage.ts";

/** Milliseconds over `deno --version` that were promised. */
const TARGET = 150;

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "15" },
    backend: { type: "string", multiple: true },
    other: { type: "string" },
    icount: { type: "boolean", default: false },
  },
});
if (values.icount && !Deno.env.has("LAB")) {
  const command = `deno run -A --no-check bench/startup.ts ${Deno.args.join(" ")}`;
  Deno.exit(await runInLab(command, 600, true));
}
const rounds = Number(values.rounds);
const usable = (await probeBackends()).filter(({ support }) => support.usable || support.restricted);
const backends = values.backend ?? usable.map(({ name }) => name);

const folder = Deno.makeTempDirSync({ prefix: "hv-startup-" });
const kernel = `${folder}/kernel.elf`;
Deno.writeFileSync(kernel, testKernel());
Deno.writeTextFileSync(`${folder}/empty.ts`, "Deno.exit(0);\n");

interface Contender {
  name: string;
  args: string[];
  /** Wall time ends at the first byte of standard output, not at the end of the process. */
  firstByte: boolean;
  wall: number[];
  cpu: number[];
}
const contender = (name: string, args: string[], firstByte = false): Contender => ({
  name,
  args,
  firstByte,
  wall: [],
  cpu: [],
});
const hv = (main: string, backend: string) => {
  const flags = ["--backend", backend, "--kernel", kernel, "--memory", "64M", "--timeout", "60s"];
  return ["run", "-A", "--quiet", main, "run", ...flags];
};
const here = await bundled();
const other = values.other === undefined ? null : await bundled(values.other);
const sources = fileURLToPath(new URL("../cli/main.ts", import.meta.url));
const contenders = [
  contender("deno --version", ["--version"]),
  contender("deno, empty script", ["run", "-A", "--quiet", `${folder}/empty.ts`]),
];
for (const backend of backends) {
  if (other) contenders.push(contender(`other hv, ${backend}`, hv(other.main, backend), true));
  contenders.push(contender(`hv run, ${backend}`, hv(here.main, backend), true));
  contenders.push(contender(`  from sources`, hv(sources, backend), true));
}

async function measure({ args, firstByte, wall, cpu }: Contender, keep: boolean): Promise<void> {
  const cpuBefore = childrenCpuSeconds();
  const began = performance.now();
  const child = new Deno.Command(Deno.execPath(), { args, stdin: "piped", stdout: "piped", stderr: "null" }).spawn();
  // What the kernel reads ends it.
  const writer = child.stdin.getWriter();
  void writer.write(new TextEncoder().encode("x")).then(() => writer.close()).catch(() => {});
  let first = 0;
  for await (const _ of child.stdout) first ||= performance.now() - began;
  const { code } = await child.status;
  if (firstByte && (code !== 7 || first === 0)) throw new Error(`hv ${args.join(" ")} ended with ${code}`);
  if (!keep) return;
  wall.push(firstByte ? first : performance.now() - began);
  cpu.push((childrenCpuSeconds() - cpuBefore) * 1e3);
}

try {
  for (let round = -1; round < rounds; round++) for (const one of contenders) await measure(one, round >= 0);
} finally {
  Deno.removeSync(folder, { recursive: true });
  here[Symbol.dispose]();
  other?.[Symbol.dispose]();
}

console.log(`${rounds} rounds, in turn; ms`);
console.log(`${"".padEnd(22)}wall best  median   over deno   CPU best  median`);
const [baseline] = contenders;
for (const { name, wall, cpu } of contenders) {
  const row = [Math.min(...wall), median(wall), median(wall) - median(baseline.wall), Math.min(...cpu), median(cpu)];
  console.log(name.padEnd(22) + row.map((value, i) => value.toFixed(0).padStart([9, 8, 12, 11, 8][i])).join(""));
}
for (const backend of backends) {
  const ours = contenders.find(({ name }) => name === `hv run, ${backend}`)!;
  const over = median(ours.wall) - median(baseline.wall);
  console.log(
    `hv run, ${backend}: ${over.toFixed(0)} ms over deno --version (promised: ${TARGET}), ratio ${
      (over / TARGET).toFixed(2)
    }`,
  );
  const other = contenders.find(({ name }) => name === `other hv, ${backend}`);
  if (!other) continue;
  const ratio = (of: (one: Contender) => number[]) => (median(of(ours)) / median(of(other))).toFixed(3);
  console.log(`against the other checkout: wall ${ratio(({ wall }) => wall)}, CPU ${ratio(({ cpu }) => cpu)}`);
}
