/**
 * hv's hundreds of modules as a few dozen JavaScript files, for the binary: a module costs Deno as much to load as some
 * thousand lines of code, in each of a machine's three threads.
 */

/** Folders whose modules are not part of hv. */
const NOT_SHIPPED = new Set(["bench", "dist", "docs", "node_modules", "tests", "tools"]);
/** What of them is: `hv doctor --self-test`. */
const SHIPPED_TESTS = "tests/conformance";

/** The module that a bundle starts with. */
const MAIN = "cli/main";
/** How modules name a file beside them. */
const FILE_URL = /new URL\(\s*"(\.[^"]+)",\s*import\.meta\.url\s*,?\s*\)/g;

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
 * The Workers of hv, which modules name by `new URL("./x.ts", import.meta.url)`: neither `deno bundle` nor
 * `deno compile` sees these by itself. Paths from `root`, sorted.
 * @throws Error for a Worker that is named some other way, since a binary would lack it
 */
export function workerModules(root: string): string[] {
  const found = new Set<string>();
  const tests = exists(`${root}/${SHIPPED_TESTS}`) ? modules(root, `${SHIPPED_TESTS}/`) : [];
  for (const path of [...modules(root), ...tests]) {
    const source = Deno.readTextFileSync(`${root}/${path}`);
    for (const [, file] of source.matchAll(FILE_URL)) {
      if (file.endsWith(".ts")) found.add(resolve(file, path));
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

const resolve = (file: string, from: string) => new URL(file, `file:///${from}`).pathname.slice(1);

/** A bundle. */
export interface Bundle {
  /** The module that is hv, to be run by Deno. */
  main: string;
  /** The modules of its Workers. */
  workers: string[];
}

/**
 * Bundles hv into a folder, which is made anew.
 * @param root the checkout
 * @throws Error in words
 */
export async function bundle(root: string, output: string): Promise<Bundle> {
  await Deno.remove(output, { recursive: true }).catch(() => {});
  const workers = workerModules(root);
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["bundle", "--quiet", "--no-check", "--platform", "deno", "--code-splitting", "--outdir", output],
      ...[`${MAIN}.ts`, ...workers],
    ],
    cwd: root,
    env: { NO_COLOR: "1" },
    stdout: "null",
    stderr: "piped",
  }).output();
  if (!success) {
    throw new Error(
      `hv could not be bundled. Deno's bundler is esbuild, which Deno takes from npm once.\n${
        new TextDecoder().decode(stderr).trim()
      }`,
    );
  }
  const javaScript = (module: string) => `${output}/${module.replace(/\.ts$/, ".js")}`;
  for (const path of files(output)) nameWorkers(path, output);
  for (const worker of workers) Deno.statSync(javaScript(worker));
  return { main: javaScript(`${MAIN}.ts`), workers: workers.map(javaScript) };
}

function* files(folder: string): Generator<string> {
  for (const entry of Deno.readDirSync(folder)) {
    if (entry.isDirectory) yield* files(`${folder}/${entry.name}`);
    else yield `${folder}/${entry.name}`;
  }
}

/** Corrects, in one bundled file, where Workers are: the bundler moves the modules that name them, and not the names. */
function nameWorkers(path: string, output: string): void {
  const text = Deno.readTextFileSync(path);
  const up = "../".repeat(path.slice(output.length + 1).split("/").length - 1) || "./";
  const named = text.replace(FILE_URL, (_, file: string, at: number) => {
    // The bundler writes each module's path above it.
    const module = text.slice(0, at).match(/.*^\/\/ (\S+\.ts)$/ms)?.[1];
    if (module === undefined) throw new Error(`${path}: ${file} is named by a module without a name`);
    return `new URL("${up}${resolve(file, module).replace(/\.ts$/, ".js")}", import.meta.url)`;
  });
  if (named !== text) Deno.writeTextFileSync(path, named);
}
