/** The order of versions that boot loaders sort by (UAPI.10 Version Format Specification). */

const IGNORED = /[^a-zA-Z0-9~^.-]/;
const DIGIT = /[0-9]/;

function run(text: string, at: number, what: RegExp): string {
  let end = at;
  while (end < text.length && what.test(text[end])) end++;
  return text.slice(at, end);
}

/** Below zero when `a` is older than `b`, above when newer. */
export function compareVersions(a: string, b: string): number {
  let i = 0, j = 0;
  for (;;) {
    while (i < a.length && IGNORED.test(a[i])) i++;
    while (j < b.length && IGNORED.test(b[j])) j++;
    // A pre-release is older than the release, which is the end of the string.
    if (a[i] === "~" || b[j] === "~") {
      if (a[i] !== b[j]) return a[i] === "~" ? -1 : 1;
      i++, j++;
      continue;
    }
    if (i >= a.length || j >= b.length) return (a.length > i ? 1 : 0) - (b.length > j ? 1 : 0);
    const separator = ["-", "^", "."].find((one) => a[i] === one || b[j] === one);
    if (separator !== undefined) {
      if (a[i] !== b[j]) return a[i] === separator ? -1 : 1;
      i++, j++;
      continue;
    }
    const what = DIGIT.test(a[i]) || DIGIT.test(b[j]) ? DIGIT : /[a-zA-Z]/;
    const left = run(a, i, what), right = run(b, j, what);
    i += left.length;
    j += right.length;
    if (what === DIGIT) {
      if (left === "" || right === "") return left === "" ? -1 : 1;
      const x = left.replace(/^0+/, ""), y = right.replace(/^0+/, "");
      if (x.length !== y.length) return x.length - y.length;
      if (x !== y) return x < y ? -1 : 1;
    } else if (left !== right) {
      return left < right ? -1 : 1;
    }
  }
}
