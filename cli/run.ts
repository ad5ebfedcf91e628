/** `hv run`: a machine in this terminal. */
import { type DiskSpec, HvError, Machine, type MachineOptions, parseDuration, parseSize } from "../mod.ts";
import { type Arguments, nearest, UsageError, wholeNumber } from "./arguments.ts";
import { ExitCode } from "./exit_codes.ts";
import { say } from "./messages.ts";
import { runSession, type SessionOptions } from "./session.ts";

/** Runs the machine; resolves with hv's exit code. */
export async function execute(args: Arguments): Promise<number> {
  const options = machineOptions(args);
  const timeout = startTimeout(args.value("timeout"));
  const console = openConsole(args.value("console") ?? "stdio");
  const creating = Machine.create({ ...options, onMessage: say });
  // A machine that is still being made when the time is over holds nothing that outlives this process.
  const exit = () => {
    say(`the machine was not ready after ${timeout!.text}`);
    Deno.exit(ExitCode.TIMEOUT);
  };
  timeout?.signal.addEventListener("abort", exit);
  await using machine = await creating;
  timeout?.signal.removeEventListener("abort", exit);
  return await runSession(machine, { console, timeout });
}

/** What the command line says of the machine. */
export function machineOptions(args: Arguments): MachineOptions {
  const disks: DiskSpec[] = args.positionals.map((path) => ({ path }));
  disks.push(...args.values("disk").map(parseDisk));
  const kernel = args.value("kernel");
  if (disks.length === 0 && kernel === undefined) {
    throw new UsageError("nothing to run: name a DISK, or give a --kernel");
  }
  const twice = disks.find(({ path }, index) => disks.findIndex((other) => other.path === path) < index);
  if (twice) throw new UsageError(`the disk ${twice.path} is named twice`);
  if (kernel === undefined && args.has("initrd")) throw new UsageError("--initrd goes with --kernel");
  const cpus = args.value("cpus");
  return {
    disks,
    kernel,
    initrd: args.value("initrd"),
    append: args.value("append"),
    memory: parsed("--memory", args.value("memory"), parseSize),
    cpus: cpus === undefined ? undefined : wholeNumber("--cpus", cpus, 1),
    console: args.value("console-device") as MachineOptions["console"],
    backend: args.value("backend") as MachineOptions["backend"],
    ephemeral: args.has("ephemeral"),
  };
}

/** `FILE[,readonly][,format=FORMAT]`; a comma that belongs to the file's name is doubled. */
export function parseDisk(text: string): DiskSpec {
  const [path, ...settings] = text.replaceAll(",,", "\0").split(",").map((part) => part.replaceAll("\0", ","));
  if (path === "") throw new UsageError(`--disk ${text}: the file's name is missing`);
  const disk: DiskSpec = { path };
  for (const setting of settings) {
    if (setting === "readonly") disk.readonly = true;
    else if (/^format=./.test(setting)) disk.format = setting.slice("format=".length);
    else {
      const near = nearest(setting.replace(/=.*/, ""), ["readonly", "format"]);
      const hint = near
        ? `did you mean '${near === "format" ? "format=raw" : near}'?`
        : "there is readonly, format=raw";
      throw new UsageError(`--disk ${text}: unknown setting '${setting}': ${hint}`);
    }
  }
  return disk;
}

function parsed<T>(flag: string, text: string | undefined, parse: (text: string) => T): T | undefined {
  if (text === undefined) return undefined;
  try {
    return parse(text);
  } catch (error) {
    if (error instanceof HvError) throw new UsageError(`${flag}: ${error.message}`);
    throw error;
  }
}

function startTimeout(text: string | undefined): SessionOptions["timeout"] {
  const milliseconds = parsed("--timeout", text, parseDuration);
  if (milliseconds === undefined) return undefined;
  // Beyond this a timer of the platform would fire at once.
  if (milliseconds >= 2 ** 31) throw new UsageError(`--timeout: '${text}' is more than 24 days`);
  const controller = new AbortController();
  Deno.unrefTimer(setTimeout(() => controller.abort(), milliseconds));
  return { signal: controller.signal, text: `${milliseconds / 1000} s` };
}

function openConsole(target: string): SessionOptions["console"] {
  if (target === "stdio" || target === "none") return target;
  try {
    return { path: target, file: Deno.openSync(target, { write: true, create: true, truncate: true }) };
  } catch (error) {
    throw new HvError(`the console cannot go to ${target}: ${(error as Error).message}`, { cause: error });
  }
}
