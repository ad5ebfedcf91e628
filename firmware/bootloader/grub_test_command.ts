/** GRUB's `test` and `[` (GRUB manual, "test"). */
import { compareVersions } from "./version_order.ts";

/** What a test may ask of the disk. */
export interface FileTests {
  /** Kind and size of a path in GRUB's notation; null when there is no such thing. */
  status(path: string): { type: string; size: number } | null;
}

function integer(text: string): number {
  const value = Number.parseInt(text, 10);
  return Number.isNaN(value) ? 0 : value;
}

const STRINGS: Record<string, (a: string, b: string) => boolean> = {
  "=": (a, b) => a === b,
  "==": (a, b) => a === b,
  "!=": (a, b) => a !== b,
  "<": (a, b) => a < b,
  "<=": (a, b) => a <= b,
  ">": (a, b) => a > b,
  ">=": (a, b) => a >= b,
  "-eq": (a, b) => integer(a) === integer(b),
  "-ne": (a, b) => integer(a) !== integer(b),
  "-ge": (a, b) => integer(a) >= integer(b),
  "-gt": (a, b) => integer(a) > integer(b),
  "-le": (a, b) => integer(a) <= integer(b),
  "-lt": (a, b) => integer(a) < integer(b),
  // Fedora's: versions, as rpm orders them.
  "-vgt": (a, b) => compareVersions(a, b) > 0,
  "-vge": (a, b) => compareVersions(a, b) >= 0,
  "-vlt": (a, b) => compareVersions(a, b) < 0,
  "-vle": (a, b) => compareVersions(a, b) <= 0,
  "-veq": (a, b) => compareVersions(a, b) === 0,
  "-vne": (a, b) => compareVersions(a, b) !== 0,
  // Numbers behind a common beginning that is no number.
  "-pgt": (a, b) => withoutPrefix(a, b) > 0,
  "-plt": (a, b) => withoutPrefix(a, b) < 0,
};

function withoutPrefix(a: string, b: string): number {
  let i = 0;
  while (i < a.length && a[i] === b[i] && !/[0-9]/.test(a[i])) i++;
  return integer(a.slice(i)) - integer(b.slice(i));
}

/** Whether the expression is true; a malformed one is false. */
export function grubTest(words: readonly string[], files: FileTests): boolean {
  let at = 0;
  const primary = (depth: number): boolean => {
    const word = words[at];
    if (word === undefined || depth > 32) return false;
    const operator = words[at + 1];
    if (operator !== undefined && Object.hasOwn(STRINGS, operator) && at + 2 < words.length) {
      at += 3;
      return STRINGS[operator](word, words[at - 1]);
    }
    if (word === "!") {
      at++;
      return !primary(depth + 1);
    }
    if (word === "(") {
      at++;
      const value = either(depth + 1);
      if (words[at] === ")") at++;
      return value;
    }
    if (at + 1 < words.length && /^-[zndefs]$/.test(word)) {
      at += 2;
      if (word === "-z") return operator === "";
      if (word === "-n") return operator !== "";
      const status = files.status(operator);
      if (word === "-d") return status?.type === "directory";
      if (word === "-s") return status !== null && status.size > 0;
      return word === "-e" ? status !== null : status !== null && status.type !== "directory";
    }
    at++;
    return word !== "";
  };
  const both = (depth: number): boolean => {
    let value = primary(depth);
    while (at < words.length && words[at] !== "-o" && words[at] !== ")") {
      if (words[at] === "-a") at++;
      const next = primary(depth);
      value = value && next;
    }
    return value;
  };
  const either = (depth: number): boolean => {
    let value = both(depth);
    while (words[at] === "-o") {
      at++;
      const next = both(depth);
      value = value || next;
    }
    return value;
  };
  return either(0);
}
