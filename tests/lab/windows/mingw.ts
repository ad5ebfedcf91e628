/** What mingw-w64's compiler and libraries say of Windows' C interfaces. */
import assert from "node:assert/strict";

const TARGET = "x86_64-w64-mingw32";
const MARK = 0x1122_3344_5566_7788n;

/** Whether the cross compiler is here. */
export const hasMingw = works(`${TARGET}-gcc`);

function works(command: string): boolean {
  try {
    return new Deno.Command(command, { args: ["--version"], stdout: "null", stderr: "null" }).outputSync().success;
  } catch {
    return false;
  }
}

async function run(command: string, ...args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(command, { args }).output();
  assert.ok(success, new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout);
}

/**
 * Compiles `const struct { mark; ... } = { mark, ... }` and reads its bytes out of the object file.
 * @param members declarations after the mark, which has 8 bytes
 * @returns the 64-bit words after the mark
 */
export async function compiledWords(
  headers: string[],
  members: string[],
  initializers: string[],
): Promise<BigUint64Array> {
  const folder = await Deno.makeTempDir({ prefix: "hv-mingw-" });
  try {
    const source = [
      ...headers.map((header) => `#include <${header}>`),
      "const struct { unsigned long long mark;",
      ...members,
      `} values = { 0x${MARK.toString(16)}ull,`,
      ...initializers,
      "};",
    ];
    await Deno.writeTextFile(`${folder}/abi.c`, source.join("\n"));
    await run(`${TARGET}-gcc`, "-c", "-o", `${folder}/abi.o`, `${folder}/abi.c`);
    await run(`${TARGET}-objcopy`, "-O", "binary", "-j", ".rdata", `${folder}/abi.o`, `${folder}/abi.bin`);
    const bytes = await Deno.readFile(`${folder}/abi.bin`);
    const words = new BigUint64Array(bytes.buffer, 0, Math.floor(bytes.length / 8));
    return words.slice(words.indexOf(MARK) + 1);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Values of constant expressions, as unsigned 32-bit numbers, by expression. */
export async function compiledConstants(headers: string[], expressions: string[]): Promise<Record<string, number>> {
  const values = await compiledWords(
    headers,
    expressions.map((_, i) => `unsigned long long v${i};`),
    expressions.map((expression) => `(unsigned int)(${expression}),`),
  );
  return Object.fromEntries(expressions.map((expression, i) => [expression, Number(values[i])]));
}

/** Those of the names that an import library does not have. */
export async function missingExports(library: string, names: readonly string[]): Promise<string[]> {
  const path = (await run(`${TARGET}-gcc`, `-print-file-name=lib${library}.a`)).trim();
  const exported = new Set((await run(`${TARGET}-nm`, path)).split("\n").map((line) => line.split(" ").at(-1)));
  return names.filter((name) => !exported.has(name));
}
