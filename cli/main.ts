/** The `hv` command. */
import { parseArguments, unknown, UsageError } from "./arguments.ts";
import { type Command, COMMANDS, TOP_LEVEL } from "./commands.ts";
import { ExitCode } from "./exit_codes.ts";
import { commandHelp, topLevelHelp } from "./help.ts";
import { print, say } from "./messages.ts";
import { runProgram } from "./program.ts";

const findCommand = (name: string) => COMMANDS.find((command) => command.name === name);

async function executeCommand(command: Command, rest: readonly string[]): Promise<number> {
  const parsed = parseArguments(command, rest);
  if (parsed.has("help")) {
    print(commandHelp(command));
    return ExitCode.OK;
  }
  const { execute } = await command.load();
  return await execute(parsed);
}

async function executeTopLevel(args: readonly string[]): Promise<number> {
  const names = COMMANDS.map(({ name }) => name);
  const [first, about] = args;
  if (first === undefined) {
    say(`say what to do: ${names.join(", ")}; 'hv --help' shows more`);
    return ExitCode.USAGE;
  }
  if (first === "help") {
    const command = findCommand(about);
    if (about !== undefined && !command) throw new UsageError(unknown("command", about, names));
    print(command ? commandHelp(command) : topLevelHelp());
    return ExitCode.OK;
  }
  if (!first.startsWith("-")) throw new UsageError(unknown("command", first, names));
  const parsed = parseArguments(TOP_LEVEL, args);
  if (parsed.has("version")) {
    const { VERSION } = await import("../mod.ts");
    print(`hv ${VERSION}\n`);
  } else print(topLevelHelp());
  return ExitCode.OK;
}

if (import.meta.main) {
  const [first, ...rest] = Deno.args;
  const command = findCommand(first);
  await runProgram(() => command ? executeCommand(command, rest) : executeTopLevel(Deno.args), {
    debug: Deno.args.includes("--debug"),
    command: command ? `hv ${command.name}` : "hv",
  });
}
