/**
 * `deno task compile [--target NAME]...`: hv, bundled, as a single binary in `dist/`, its Workers embedded.
 *
 * `deno compile` puts hv's modules behind a runtime, denort, which it downloads for the target once. Where that download
 * is out of reach, `DENORT_BIN` names a denort that was brought here some other way.
 */
import { parseArgs } from "node:util";
import { fileURLToPath } from "node:url";
import { type Bundle, bundle } from "./bundle.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** What there are binaries for, as Deno names the platforms. */
export const TARGETS: Record<string, string> = {
  "linux-x64": "x86_64-unknown-linux-gnu",
  "linux-arm64": "aarch64-unknown-linux-gnu",
  "macos-x64": "x86_64-apple-darwin",
  "macos-arm64": "aarch64-apple-darwin",
  "windows-x64": "x86_64-pc-windows-msvc",
};

/**
 * Compiles hv for one platform.
 * @returns what went wrong, in words; null when nothing did
 */
export async function compile({ main, workers }: Bundle, target: string, output: string): Promise<string | null> {
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["compile", "--allow-all", "--no-check", "--target", TARGETS[target], "--output", output],
      ...[...workers.flatMap((file) => ["--include", file]), main],
    ],
    cwd: ROOT,
    env: { NO_COLOR: "1" },
    stdout: "null",
    stderr: "piped",
  }).output();
  if (success) return null;
  const text = new TextDecoder().decode(stderr).trim();
  if (/denort|dl\.deno\.land|sending request|download/i.test(text)) {
    return `the runtime for ${target} (denort ${Deno.version.deno}) cannot be downloaded here. Take denort-` +
      `${
        TARGETS[target]
      }.zip from Deno's release ${Deno.version.deno} on a machine that reaches it, unpack it, and run ` +
      `this again with DENORT_BIN=/path/to/denort.\n${text}`;
  }
  return text;
}

/** What the binary of this platform says of itself; a DENORT_BIN that is none makes a plain Deno of it. */
async function check(binary: string): Promise<string | null> {
  const { stdout } = await new Deno.Command(binary, { args: ["--version"], stderr: "null" }).output();
  const said = new TextDecoder().decode(stdout).split("\n")[0];
  return said.startsWith("hv ") ? null : `${binary} says '${said}': the runtime it was made with is not denort`;
}

async function main(): Promise<number> {
  const host = hostTarget();
  const { values } = parseArgs({ args: Deno.args, options: { target: { type: "string", multiple: true } } });
  const targets = values.target?.includes("all") ? Object.keys(TARGETS) : values.target ?? [host];
  const stranger = targets.find((target) => !TARGETS[target]);
  if (stranger !== undefined) {
    console.error(`there is no target '${stranger}': choose from ${Object.keys(TARGETS).join(", ")}, all`);
    return 2;
  }
  Deno.mkdirSync(`${ROOT}/dist`, { recursive: true });
  const folder = Deno.makeTempDirSync({ prefix: "hv-bundle-" });
  let failed = false;
  try {
    const bundled = await bundle(ROOT, `${folder}/hv`);
    for (const target of targets) {
      const output = `${ROOT}/dist/hv-${target}${target.startsWith("windows") ? ".exe" : ""}`;
      console.error(`${target} ...`);
      const problem = await compile(bundled, target, output) ?? (target === host ? await check(output) : null);
      console.error(problem ?? `${output}: ${Math.round(Deno.statSync(output).size / 2 ** 20)} MiB`);
      failed ||= problem !== null;
    }
  } catch (error) {
    console.error((error as Error).message);
    failed = true;
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
  return failed ? 1 : 0;
}

function hostTarget(): string {
  const system = Deno.build.os === "darwin" ? "macos" : Deno.build.os;
  return `${system}-${Deno.build.arch === "aarch64" ? "arm64" : "x64"}`;
}

if (import.meta.main) Deno.exit(await main());
