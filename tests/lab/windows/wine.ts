/**
 * The Windows lab: the real deno.exe, from npm, on Wine. Everything Deno and hv do on Windows' interfaces is done there
 * on somebody else's implementation of them; what only Windows itself can show is listed in docs/windows.md.
 */
import { CACHE, cached, digest, ROOT } from "../../guests/cache.ts";
import { tool, TOOL_ENV, which } from "../../guests/command.ts";

/** The newest deno.exe that npm has and that starts on Wine 8. */
const DENO_VERSION = "2.9.5";
/** Debian keeps it off PATH. */
const WINE_PLACES = ["/usr/lib/wine/wine64", "/usr/lib/wine/wine"];

/** What wine is to leave alone: the installers of .NET and of a browser it would ask for. */
export const WINE_ENV = {
  WINEDEBUG: "-all",
  WINEDLLOVERRIDES: "mscoree,mshtml=",
  WINEPREFIX: `${CACHE}/windows/prefix`,
  NO_COLOR: "1",
  DENO_NO_UPDATE_CHECK: "1",
  DENO_NO_PROMPT: "1",
  DENO_DIR: windowsPath(`${CACHE}/windows/deno_dir`),
};

/** A path of this machine as programs on Wine see it: drive Z is the root. */
export function windowsPath(path: string): string {
  return `Z:${path.replaceAll("/", "\\")}`;
}

function wineProgram(): string | null {
  for (const path of [...WINE_PLACES, which("wine64")]) {
    try {
      if (path && Deno.statSync(path).isFile) return path;
    } catch {
      // not there
    }
  }
  return null;
}

/** The Debian packages that are missing here. */
export function missingTools(): string[] {
  const wanted: [string, boolean][] = [
    ["wine64", wineProgram() !== null],
    ["gcc-mingw-w64-x86-64", which("x86_64-w64-mingw32-gcc") !== null],
    ["npm", which("npm") !== null],
  ];
  return wanted.filter(([, there]) => !there).map(([name]) => name);
}

/** The shim's library for Deno on Linux, or its folder of DLLs for Deno on Wine. */
export async function shimFolder(): Promise<string> {
  const folder = new URL("./shim/", import.meta.url).pathname;
  const sources = ["build.sh", "platform.h", "whpx_shim.c", "bcryptprimitives.c"];
  const key = await digest(...sources.map((name) => Deno.readFileSync(folder + name)));
  return await cached(`windows/shim_${key}`, async (path) => {
    await tool(["sh", `${folder}build.sh`, path]);
  });
}

export async function denoFolder(): Promise<string> {
  const shim = await shimFolder();
  const stub = Deno.readFileSync(`${shim}/bcryptprimitives.dll`);
  return await cached(`windows/deno_${DENO_VERSION}_${await digest(stub)}`, async (path) => {
    await Deno.mkdir(path, { recursive: true });
    const name = await tool(["npm", "pack", "--silent", `@deno/win32-x64@${DENO_VERSION}`], { cwd: path });
    const archive = `${path}/${new TextDecoder().decode(name).trim().split("\n").at(-1)}`;
    await tool(["tar", "-xzf", archive, "-C", path, "--strip-components=1", "package/deno.exe"]);
    await Deno.remove(archive);
    await Deno.writeFile(`${path}/bcryptprimitives.dll`, stub);
  });
}

export async function prefix(): Promise<void> {
  await cached("windows/prefix.ready", async (path) => {
    const env = { ...WINE_ENV, HOME: `${CACHE}/windows` };
    await tool([wineProgram()!, "wineboot", "-i"], { env });
    await tool([wineProgram()!, "winecfg", "-v", "win10"], { env });
    await Deno.writeTextFile(path, "");
  });
}

/** How a program on Wine ended. */
export interface WineResult {
  readonly code: number;
  readonly output: string;
}

/** A Windows that Deno runs on. */
export interface WineLab {
  /** The command line of deno.exe with these arguments, and the environment it wants. */
  command(args: readonly string[]): { argv: string[]; env: Record<string, string> };
  /** Runs deno.exe in the root of the repository; standard output and error together. */
  deno(args: readonly string[], options?: { env?: Record<string, string>; seconds?: number }): Promise<WineResult>;
  /** Makes a folder of this machine a share, until it is disposed. */
  share(folder: string): Promise<AsyncDisposable & { readonly path: string }>;
  /** WinHvPlatform.dll over this machine's /dev/kvm, as Windows spells it. */
  readonly shim: string;
}

/** Prepares it; takes a minute the first time, nothing after. */
export async function wineLab(): Promise<WineLab> {
  const folder = await denoFolder();
  const shim = await shimFolder();
  await prefix();
  // Deno keeps a copy of itself there for each place it was started from.
  await Deno.remove(`${CACHE}/windows/deno_dir/node_compat_bin`, { recursive: true }).catch(() => {});
  const program = [wineProgram()!, `${folder}/deno.exe`];
  return {
    shim: windowsPath(`${shim}/WinHvPlatform.dll`),
    command: (args) => ({ argv: [...program, ...args], env: WINE_ENV }),
    share: async (folder) => {
      // Wine finds \\SERVER\SHARE there; no network is asked.
      const server = `hv-test-${crypto.randomUUID()}`;
      const place = `${WINE_ENV.WINEPREFIX}/dosdevices/unc/${server}`;
      await Deno.mkdir(place, { recursive: true });
      await Deno.symlink(folder, `${place}/share`);
      return {
        path: `\\\\${server}\\share`,
        [Symbol.asyncDispose]: () => Deno.remove(place, { recursive: true }),
      };
    },
    deno: async (args, { env = {}, seconds = 120 } = {}) => {
      const limited = ["timeout", "-k", "5", `${seconds}`, ...program, ...args];
      // No terminal and no DISPLAY: nothing may wait for a person.
      const { DISPLAY: _, ...ours } = Deno.env.toObject();
      const { code, stdout, stderr } = await new Deno.Command(limited[0], {
        args: limited.slice(1),
        cwd: ROOT,
        clearEnv: true,
        env: { ...ours, ...TOOL_ENV, ...WINE_ENV, ...env },
        stdin: "null",
        stdout: "piped",
        stderr: "piped",
      }).output();
      const decoder = new TextDecoder();
      return { code, output: decoder.decode(stdout) + decoder.decode(stderr) };
    },
  };
}
