/**
 * `deno task compile [--target NAME]...`: hv as a single binary in `dist/`, its Workers embedded.
 *
 * `deno compile` puts hv's modules behind a runtime, denort, which it downloads for the target once. Where that download
 * is out of reach, `DENORT_BIN` names a denort that was brought here some other way.
 */
import { parseArgs } from "node:util";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** What there are binaries for, as Deno names the platforms. */
export const TARGETS: Record<string, string> = {
  "linux-x64": "x86_64-unknown-linux-gnu",
  "linux-arm64": "aarch64-unknown-linux-gnu",
  "macos-x64": "x86_64-apple-darwin",
  "macos-arm64": "aarch64-apple-darwin",
  "windows-x64": "x86_64-pc-windows-msvc",
};

/** Folders whose modules are not part of hv. */
const NOT_SHIPPED = new Set(["bench", "dist", "docs", "node_modules", "tests", "tools"]);
/** What of them is: `hv doctor --self-test`. */
const SHIPPED_TESTS = "tests/conformance";

/** Hv's own modules: paths from `root`, tests left out. */
function* modules(root: string, folder = ""): Generator<string> {
  for (const entry of Deno.readDirSync(`${root}/${folder}`)) {
    const path = folder + entry.name;
    if (entry.isDirectory) {
      if (!entry.name.startsWith(".") && !NOT_SHIPPED.has(path)) yield* modules(root, `${path}/`);
    } else if (/\.ts$/.test(path) && !/_(test|test_worker|fixture)\.ts$/.test(path)) yield path;
  }
}

/**
 * The files that modules name by `new URL("./x.ts", import.meta.url)`, Workers above all: `deno compile` does not see
 * these by itself. Paths from `root`, sorted.
 * @throws Error for a Worker that is named some other way, since a binary would lack it
 */
export function embeddedFiles(root: string): string[] {
  const found = new Set<string>();
  const tests = exists(`${root}/${SHIPPED_TESTS}`) ? modules(root, `${SHIPPED_TESTS}/`) : [];
  for (const path of [...modules(root), ...tests]) {
    const source = Deno.readTextFileSync(`${root}/${path}`);
    for (const [, file] of source.matchAll(/new URL\(\s*"(\.[^"]+)",\s*import\.meta\.url\s*,?\s*\)/g)) {
      found.add(new URL(file, `file:///${path}`).pathname.slice(1));
    }
    const workers = source.match(/new Worker\(/g)?.length ?? 0;
    const embeddable = source.match(/new Worker\(\s*new URL\(\s*"\.[^"]+",\s*import\.meta\.url/g)?.length ?? 0;
    if (workers !== embeddable) {
      throw new Error(`${path}: write new Worker(new URL("./name.ts", import.meta.url)), or the binary lacks it`);
    }
  }
  return [...found].sort();
}

function exists(folder: string): boolean {
  try {
    return Deno.statSync(folder).isDirectory;
  } catch {
    return false;
  }
}

/**
 * Compiles hv for one platform.
 * @returns what went wrong, in words; null when nothing did
 */
export async function compile(target: string, output: string): Promise<string | null> {
  const includes = embeddedFiles(ROOT).flatMap((file) => ["--include", file]);
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["compile", "--allow-all", "--no-check", "--target", TARGETS[target], "--output", output],
      ...[...includes, "cli/main.ts"],
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
  let failed = false;
  for (const target of targets) {
    const output = `${ROOT}/dist/hv-${target}${target.startsWith("windows") ? ".exe" : ""}`;
    console.error(`${target} ...`);
    const problem = await compile(target, output) ?? (target === host ? await check(output) : null);
    console.error(problem ?? `${output}: ${Math.round(Deno.statSync(output).size / 2 ** 20)} MiB`);
    failed ||= problem !== null;
  }
  return failed ? 1 : 0;
}

function hostTarget(): string {
  const system = Deno.build.os === "darwin" ? "macos" : Deno.build.os;
  return `${system}-${Deno.build.arch === "aarch64" ? "arm64" : "x64"}`;
}

if (import.meta.main) Deno.exit(await main());
