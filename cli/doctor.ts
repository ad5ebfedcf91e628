/** `hv doctor`: what can run guests here, and what is missing. */
import { type BackendProbe, chooseBackend, formatSize, HvError, probeBackends, VERSION } from "../mod.ts";
import type { Arguments } from "./arguments.ts";
import { ExitCode } from "./exit_codes.ts";
import { print } from "./messages.ts";

/** Writes the report; resolves with 0 if guests can run here. */
export async function execute(args: Arguments): Promise<number> {
  const backends = await probeBackends();
  const host = {
    hv: VERSION,
    deno: Deno.version.deno,
    system: `${Deno.build.os} ${Deno.osRelease()}`,
    architecture: Deno.build.arch,
    cpus: navigator.hardwareConcurrency,
    memory: Deno.systemMemoryInfo().total,
  };
  let choice: { usable: boolean; line: string };
  try {
    choice = { usable: true, line: (await chooseBackend("auto", "x86_64")).line };
  } catch (error) {
    if (!(error instanceof HvError)) throw error;
    choice = { usable: false, line: error.message };
  }
  const conformance = args.has("self-test") ? await import("./conformance.ts") : null;
  const selfTest = await conformance?.runSelfTest();
  if (args.has("json")) print(JSON.stringify({ host, backends, choice, selfTest }, null, 2) + "\n");
  else {
    print([
      `hv ${host.hv}, Deno ${host.deno}, ${host.system} ${host.architecture}`,
      `${host.cpus} CPUs, ${formatSize(host.memory)} of memory`,
      ...backends.flatMap((backend) => ["", ...describe(backend)]),
      "",
      `hv run: ${choice.line}`,
      ...(conformance && selfTest ? ["", conformance.describeSelfTest(selfTest)] : []),
      "",
    ].join("\n"));
  }
  const failed = selfTest?.results.some(({ failures }) => failures.length > 0) ?? false;
  return choice.usable && !failed ? ExitCode.OK : ExitCode.ERROR;
}

function describe({ name, support }: BackendProbe): string[] {
  const verdict = support.usable ? "works" : support.restricted ? "restricted" : "does not work";
  const lines = [`${name}: ${verdict}: ${support.reason}`];
  if (support.advice) lines.push(`  what to do: ${support.advice}`);
  if (support.usable || support.restricted) {
    lines.push(
      `  guests: ${support.architectures.join(", ")}; at most ${support.maxVcpus} vCPUs, ${
        formatSize(support.maxMemory)
      } of memory, ${support.physicalAddressBits}-bit addresses`,
    );
  }
  for (const [feature, value] of Object.entries(support.features)) {
    const shown = typeof value === "boolean" ? (value ? "yes" : "no") : value;
    lines.push(`  ${feature.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)}: ${shown}`);
  }
  return lines;
}
