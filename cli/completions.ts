/** `hv completions`: scripts that teach a shell hv's commands, made from the table of commands. */
import type { Arguments, Option } from "./arguments.ts";
import { type Command, COMMANDS, type SHELLS, TOP_LEVEL } from "./commands.ts";
import { ExitCode } from "./exit_codes.ts";
import { print } from "./messages.ts";

type Shell = (typeof SHELLS)[number];

/** Writes the script. */
export function execute(args: Arguments): Promise<number> {
  print(completions(args.positionals[0] as Shell));
  return Promise.resolve(ExitCode.OK);
}

/** The script for a shell. */
export function completions(shell: Shell): string {
  return { bash, zsh, fish }[shell]();
}

const names = () => COMMANDS.map(({ name }) => name);
const flags = (options: readonly Option[]) => options.map(({ name }) => `--${name}`);

/** What a word of its own may be: the choices of the first positional, or files. */
function positionalOf({ positionals }: Command): { choices: readonly string[]; file: boolean } {
  return { choices: positionals[0]?.choices ?? [], file: positionals[0]?.file ?? false };
}

function bash(): string {
  // No reply means files (`complete -o default`), which bash completes and quotes better than a function could.
  const words = (choices: readonly string[]) => `COMPREPLY=($(compgen -W '${choices.join(" ")}' -- "$word"))`;
  const branches = COMMANDS.map((command) => {
    const values = command.options.filter(({ value }) => value !== undefined).map(({ name, choices }) =>
      `        --${name}) ${choices ? `${words(choices)}; ` : ""}return ;;`
    );
    const { choices } = positionalOf(command);
    return `    ${command.name})
      case $before in
${[...values, "        *) ;;"].join("\n")}
      esac
      if [[ $word == -* ]]; then ${words(flags(command.options))}
      ${choices.length > 0 ? `else ${words(choices)}\n      fi` : "fi"} ;;`;
  });
  return `# hv: completions for bash
_hv() {
  local word=\${COMP_WORDS[COMP_CWORD]} before=\${COMP_WORDS[COMP_CWORD - 1]}
  COMPREPLY=()
  # --name=value arrives as three words.
  if [[ $word == = ]]; then word=
  elif [[ $before == = ]]; then before=\${COMP_WORDS[COMP_CWORD - 2]}
  fi
  if ((COMP_CWORD == 1)); then
    ${words([...names(), "help", ...flags(TOP_LEVEL.options)])}
    return
  fi
  case \${COMP_WORDS[1]} in
${branches.join("\n")}
    help) ${words(names())} ;;
  esac
}
complete -o default -F _hv hv
`;
}

function zsh(): string {
  // A description stands in brackets, in a string in single quotes.
  const clean = (text: string) => text.replaceAll("'", "’").replace(/([\[\]:\\])/g, "\\$1");
  const specification = ({ name, value, choices, file, repeatable, description }: Option) => {
    const taken = choices ? `:${name}:(${choices.join(" ")})` : file ? `:${name}:_files` : `:${name}: `;
    return `'${repeatable ? "*" : ""}--${name}${value === undefined ? "" : "="}[${clean(description)}]${
      value === undefined ? "" : taken
    }'`;
  };
  const branches = COMMANDS.map((command) => {
    const { choices, file } = positionalOf(command);
    const positional = choices.length > 0 ? `'1: :(${choices.join(" ")})'` : file ? "'1: :_files'" : "";
    const lines = [...command.options.map(specification), positional].filter((line) => line);
    return `    ${command.name})\n      _arguments ${lines.join(" \\\n        ")} ;;`;
  });
  return `#compdef hv
# hv: completions for zsh
_hv() {
  local -a commands
  commands=(
${COMMANDS.map(({ name, summary }) => `    '${name}:${clean(summary)}'`).join("\n")}
  )
  if ((CURRENT == 2)); then
    _describe command commands
    _arguments ${TOP_LEVEL.options.map(specification).join(" ")}
    return
  fi
  local command=$words[2]
  shift words
  ((CURRENT--))
  case $command in
${branches.join("\n")}
    help) _describe command commands ;;
  esac
}
# As a file in $fpath it is called for the first completion; evaluated, it only registers itself.
if [[ $funcstack[1] == _hv ]]; then _hv "$@"; else compdef _hv hv; fi
`;
}

function fish(): string {
  const clean = (text: string) => text.replaceAll("\\", "\\\\").replaceAll("'", "\\'");
  const option = (condition: string) => ({ name, value, choices, file, description }: Option) =>
    [
      `complete -c hv -n '${condition}' -l ${name}`,
      ...(name === "help" ? ["-s h"] : []),
      ...(value === undefined ? [] : [choices ? `-x -a '${choices.join(" ")}'` : file ? "-r -F" : "-x"]),
      `-d '${clean(description)}'`,
    ].join(" ");
  return [
    "# hv: completions for fish",
    "complete -c hv -f",
    ...COMMANDS.map(({ name, summary }) => `complete -c hv -n __fish_use_subcommand -a ${name} -d '${clean(summary)}'`),
    ...TOP_LEVEL.options.map(option("__fish_use_subcommand")),
    ...COMMANDS.flatMap((command) => {
      const condition = `__fish_seen_subcommand_from ${command.name}`;
      const { choices, file } = positionalOf(command);
      return [
        ...command.options.map(option(condition)),
        ...(choices.length > 0 ? [`complete -c hv -n '${condition}' -a '${choices.join(" ")}'`] : []),
        ...(file ? [`complete -c hv -n '${condition}' -F`] : []),
      ];
    }),
    "",
  ].join("\n");
}
