/** Help, made from the table of commands. */
import type { Option } from "./arguments.ts";
import { type Command, COMMANDS, TOP_LEVEL } from "./commands.ts";

/** `hv --help`. */
export function topLevelHelp(): string {
  const examples = COMMANDS.map(({ examples }) => examples[0]);
  return [
    "hv runs virtual machines.",
    "",
    "Usage: hv COMMAND [OPTIONS]",
    "",
    "Commands:",
    columns(COMMANDS.map(({ name, summary }) => [name, summary])),
    "",
    "Options:",
    columns(TOP_LEVEL.options.map(optionRow)),
    "",
    "Examples:",
    columns(examples),
    "",
    "'hv COMMAND --help' says more about a command.",
    "",
  ].join("\n");
}

/** `hv COMMAND --help`. */
export function commandHelp(command: Command): string {
  const positionals = command.positionals.map(({ name, required }) => required ? name : `[${name}]`);
  return [
    `${command.summary}.`,
    "",
    `Usage: ${["hv", command.name, ...positionals, "[OPTIONS]"].join(" ")}`,
    "",
    command.description,
    "",
    "Options:",
    columns(command.options.map(optionRow)),
    "",
    "Examples:",
    command.examples.map(([line, what]) => `  ${line}\n      ${what}`).join("\n"),
    "",
  ].join("\n");
}

function optionRow({ name, value, choices, description, repeatable }: Option): [string, string] {
  const shown = choices ? choices.join("|") : value;
  return [
    `${name === "help" ? "-h, " : ""}--${name}${shown ? ` ${shown}` : ""}`,
    description + (repeatable ? " (repeatable)" : ""),
  ];
}

/** Two columns; a left side too wide for its column gets a line of its own. */
function columns(rows: readonly (readonly [string, string])[]): string {
  const LIMIT = 26;
  const width = Math.max(...rows.map(([left]) => left.length).filter((length) => length <= LIMIT));
  return rows.map(([left, right]) =>
    left.length <= LIMIT ? `  ${left.padEnd(width)}  ${right}` : `  ${left}\n  ${" ".repeat(width)}  ${right}`
  ).join("\n");
}
