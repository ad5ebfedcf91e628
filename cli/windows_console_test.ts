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
