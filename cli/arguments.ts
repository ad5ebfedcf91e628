/** Command lines: a table says which options there are, and this reads them and says what is wrong in words. */

/** An option of a command. */
export interface Option {
  /** Without the dashes. */
  name: string;
  /** What its value is called in help, if it takes one. */
  value?: string;
  /** The values it takes, where there are few; completions offer them. */
  choices?: readonly string[];
  /** Its value is a file, for completions. */
  file?: boolean;
  /** May be given more than once. */
  repeatable?: boolean;
  /** One sentence for help. */
  description: string;
}

/** A positional argument of a command. */
export interface Positional {
  name: string;
  required: boolean;
  choices?: readonly string[];
  file?: boolean;
}

/** What may stand behind `hv COMMAND`. */
export interface Syntax {
  name: string;
  options: readonly Option[];
  positionals: readonly Positional[];
}

/** A command line, read. */
export interface Arguments {
  /** The value of an option, its last one if repeated; undefined if it was not given. */
  value(name: string): string | undefined;
  /** All values of a repeatable option. */
  values(name: string): string[];
  /** Whether an option was given. */
  has(name: string): boolean;
  positionals: string[];
}

/** Wrong use, in one sentence. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/**
 * Reads a command line: `--name value`, `--name=value`, `-h`, and `--` before what only looks like an option.
 * @throws UsageError
 */
export function parseArguments(syntax: Syntax, args: readonly string[]): Arguments {
  const given = new Map<string, string[]>();
  const positionals: string[] = [];
  for (let at = 0; at < args.length; at++) {
    const arg = args[at];
    if (arg === "--") {
      positionals.push(...args.slice(at + 1));
      break;
    }
    if (arg === "-" || !arg.startsWith("-")) {
      positionals.push(arg);
      continue;
    }
    const equals = arg.indexOf("=");
    const flag = arg === "-h" ? "--help" : equals < 0 ? arg : arg.slice(0, equals);
    const option = syntax.options.find(({ name }) => flag === `--${name}`);
    if (!option) throw new UsageError(unknown("option", flag, syntax.options.map(({ name }) => `--${name}`)));
    let value = equals < 0 ? undefined : arg.slice(equals + 1);
    if (option.value === undefined) {
      if (value !== undefined) throw new UsageError(`${flag} takes no value`);
      value = "";
    } else if (value === undefined) {
      value = args[++at];
      // `--memory --cpus 2` forgot a value; a value that begins with a dash is written `--append=-x`.
      if (value === undefined || (value.startsWith("--") && value.length > 2)) {
        throw new UsageError(`${flag} needs a value: ${flag} ${option.value}`);
      }
    }
    if (option.choices && !option.choices.includes(value)) {
      throw new UsageError(`${flag}: ${unknown("value", value, option.choices)}`);
    }
    const before = given.get(option.name);
    if (before && !option.repeatable && option.value !== undefined) {
      throw new UsageError(`${flag} is given twice: ${before[0]} and ${value}`);
    }
    given.set(option.name, [...before ?? [], value]);
  }
  if (!given.has("help")) checkPositionals(syntax, positionals);
  return {
    value: (name) => given.get(name)?.at(-1),
    values: (name) => given.get(name) ?? [],
    has: (name) => given.has(name),
    positionals,
  };
}

function checkPositionals(syntax: Syntax, positionals: string[]): void {
  const expected = syntax.positionals;
  const missing = expected.find(({ required }, index) => required && index >= positionals.length);
  if (missing) throw new UsageError(`${missing.name} is missing`);
  if (positionals.length > expected.length) {
    throw new UsageError(`do not know what to do with '${positionals[expected.length]}'`);
  }
  positionals.forEach((value, index) => {
    const { name, choices } = expected[index];
    if (choices && !choices.includes(value)) throw new UsageError(`${name}: ${unknown("value", value, choices)}`);
  });
}

/** A whole number of at least `least`. */
export function wholeNumber(flag: string, text: string, least: number): number {
  const number = /^\d+$/.test(text) ? Number(text) : NaN;
  if (!(number >= least && Number.isSafeInteger(number))) {
    throw new UsageError(`${flag} takes a whole number of at least ${least}, not '${text}'`);
  }
  return number;
}

/** Says that something is unknown, and what was probably meant, or else what there is. */
export function unknown(kind: string, given: string, known: readonly string[]): string {
  const near = nearest(given, known);
  const hint = near ? `did you mean '${near}'?` : `there is ${known.join(", ")}`;
  return `unknown ${kind} '${given}': ${hint}`;
}

/** The candidate that is a prefix away, or a few typing errors; null when none is near. */
export function nearest(word: string, candidates: readonly string[]): string | null {
  let best: string | null = null;
  let bestDistance = Math.max(1, Math.floor(word.replace(/^-+/, "").length / 3)) + 1;
  for (const candidate of candidates) {
    const distance = editDistance(word, candidate);
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
  }
  if (best === null && word.replace(/^-+/, "").length >= 2) {
    best = candidates.find((candidate) => candidate.startsWith(word)) ?? null;
  }
  return best;
}

/** Insertions, deletions, replacements and swaps of neighbours that turn one word into the other. */
function editDistance(from: string, to: string): number {
  let older: number[] = [];
  let previous = Array.from({ length: to.length + 1 }, (_, index) => index);
  for (let i = 1; i <= from.length; i++) {
    const row = [i];
    for (let j = 1; j <= to.length; j++) {
      const replace = previous[j - 1] + (from[i - 1] === to[j - 1] ? 0 : 1);
      row[j] = Math.min(replace, previous[j] + 1, row[j - 1] + 1);
      if (i > 1 && j > 1 && from[i - 1] === to[j - 2] && from[i - 2] === to[j - 1]) {
        row[j] = Math.min(row[j], older[j - 2] + 1);
      }
    }
    [older, previous] = [previous, row];
  }
  return previous[to.length];
}
