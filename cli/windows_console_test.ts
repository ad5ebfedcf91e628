/** Modes of Windows' console: the numbers by the headers, the rest by a console where there is one. */
import assert from "node:assert/strict";
import { compiledConstants, hasMingw, missingExports } from "../tests/lab/windows/mingw.ts";
import { needs } from "../tests/skip.ts";
import { ConsoleMode, enterVirtualTerminal, NAMES, rawInputMode, rawOutputMode } from "./windows_console.ts";

Deno.test({
  name: "Windows console: numbers and names are those of the headers",
  ignore: needs(hasMingw, "Windows console's numbers", "needs gcc-mingw-w64-x86-64 and mingw-w64's headers"),
  fn: async () => {
    assert.deepEqual(await compiledConstants(["windows.h"], Object.keys(ConsoleMode)), ConsoleMode);
    assert.deepEqual(await missingExports("kernel32", NAMES), []);
  },
});

Deno.test("Windows console: raw modes keep what they do not speak of", () => {
  // Quick edit (40h), extended flags (80h), insert (20h) and mouse (10h) stay as the person has them.
  assert.equal(rawInputMode(0x1f7), 0x3f0);
  assert.equal(rawOutputMode(3), 0xf);
});

Deno.test({
  name: "Windows console: switching over and back is harmless without a console",
  ignore: needs(Deno.build.os === "windows", "Windows console", "this is not Windows"),
  sanitizeResources: false,
  fn: () => {
    const restore = enterVirtualTerminal();
    restore();
    restore();
  },
});

/** This process' console as Windows tells of it: modes of input and output, code pages; null where there is none. */
function settings(): Record<string, number> | null {
  if (Deno.build.os !== "windows") return null;
  const { GetStdHandle, GetConsoleMode, GetConsoleCP, GetConsoleOutputCP } = Deno.dlopen("kernel32.dll", {
    GetStdHandle: { parameters: ["u32"], result: "pointer" },
    GetConsoleMode: { parameters: ["pointer", "buffer"], result: "i32" },
    GetConsoleCP: { parameters: [], result: "u32" },
    GetConsoleOutputCP: { parameters: [], result: "u32" },
  }).symbols;
  const [input, output] = [new Uint32Array(1), new Uint32Array(1)];
  if (GetConsoleMode(GetStdHandle(ConsoleMode.STD_INPUT_HANDLE), input) === 0) return null;
  if (GetConsoleMode(GetStdHandle(ConsoleMode.STD_OUTPUT_HANDLE), output) === 0) return null;
  return { input: input[0], output: output[0], inputPage: GetConsoleCP(), outputPage: GetConsoleOutputCP() };
}

Deno.test({
  name: "Windows console: it is switched over, and put back as it was, code pages too",
  ignore: needs(settings() !== null, "Windows console switched over", "no console of Windows here"),
  sanitizeResources: false,
  fn: () => {
    const { SetConsoleCP, SetConsoleOutputCP } = Deno.dlopen("kernel32.dll", {
      SetConsoleCP: { parameters: ["u32"], result: "i32" },
      SetConsoleOutputCP: { parameters: ["u32"], result: "i32" },
    }).symbols;
    // A code page that a Windows of Western Europe has, other for each direction, and not the one that hv sets.
    assert.notEqual(SetConsoleCP(850), 0);
    assert.notEqual(SetConsoleOutputCP(437), 0);
    const before = settings()!;
    assert.equal(before.inputPage, 850);
    assert.equal(before.outputPage, 437);
    const restore = enterVirtualTerminal();
    const raw = settings()!;
    restore();
    assert.deepEqual(raw, {
      input: rawInputMode(before.input),
      output: rawOutputMode(before.output),
      inputPage: ConsoleMode.CP_UTF8,
      outputPage: ConsoleMode.CP_UTF8,
    });
    assert.deepEqual(settings(), before);
  },
});
