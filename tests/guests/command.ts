/** Running other people's tools. */

/** How a tool is run. */
export interface CommandOptions {
  readonly cwd?: string;
  readonly env?: Record<string, string>;
  /** Given to the tool as its standard input; none by default. */
  readonly stdin?: string | Uint8Array<ArrayBuffer>;
  /** Exit codes that are no error; 0 alone by default. */
  readonly accept?: readonly number[];
}

// Debian keeps sfdisk, mke2fs, mkfs.fat and debugfs where a plain user's PATH does not look.
const PATH = `${Deno.env.get("PATH") ?? ""}:/usr/local/sbin:/usr/sbin:/sbin`;

/** The environment tools run in: ours, in English, with the system's tools on PATH. */
export const TOOL_ENV: Readonly<Record<string, string>> = { PATH, LC_ALL: "C.UTF-8", TZ: "UTC" };

/** The full path of a program on PATH or among the system's tools; null when it is not there. */
export function which(name: string): string | null {
  for (const folder of PATH.split(":")) {
    try {
      if (folder && Deno.statSync(`${folder}/${name}`).isFile) return `${folder}/${name}`;
    } catch {
      // not in this one
    }
  }
  return null;
}

/**
 * Runs a tool to its end and gives its standard output.
 * @throws with everything the tool said when its exit code is not an accepted one
 */
export async function tool(argv: readonly string[], options: CommandOptions = {}): Promise<Uint8Array<ArrayBuffer>> {
  const program = which(argv[0]) ?? argv[0];
  const child = new Deno.Command(program, {
    args: argv.slice(1),
    cwd: options.cwd,
    env: { ...TOOL_ENV, ...options.env },
    stdin: options.stdin === undefined ? "null" : "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const output = child.output();
  if (options.stdin !== undefined) {
    const writer = child.stdin.getWriter();
    const bytes = typeof options.stdin === "string" ? new TextEncoder().encode(options.stdin) : options.stdin;
    // A tool may end before it has read everything; its exit code tells whether that was an error.
    await writer.write(bytes).then(() => writer.close()).catch(() => {});
  }
  const { code, stdout, stderr } = await output;
  if (!(options.accept ?? [0]).includes(code)) {
    const decoder = new TextDecoder();
    throw new Error(
      `${argv.join(" ")} ended with exit code ${code}:\n${decoder.decode(stdout)}${decoder.decode(stderr)}`,
    );
  }
  return stdout;
}

/** Runs a tool to its end and gives its standard output as text. */
export async function text(argv: readonly string[], options: CommandOptions = {}): Promise<string> {
  return new TextDecoder().decode(await tool(argv, options));
}
