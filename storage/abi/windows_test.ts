/** Windows' numbers, layouts and names against mingw-w64's headers and import library. */
import assert from "node:assert/strict";
import { compiledConstants, hasMingw, missingExports } from "../../tests/lab/windows/mingw.ts";
import { needs } from "../../tests/skip.ts";
import { ErrorCode, File, NAMES, Struct } from "./windows.ts";

Deno.test({
  name: "file calls of Windows: numbers, layouts and names are those of the headers",
  ignore: needs(hasMingw, "file calls of Windows", "needs gcc-mingw-w64-x86-64 and mingw-w64's headers"),
  fn: async () => {
    const wanted: Record<string, number> = { ...File, ...ErrorCode };
    for (const [struct, fields] of Object.entries(Struct)) {
      for (const [field, offset] of Object.entries(fields)) {
        wanted[field === "sizeof" ? `sizeof(${struct})` : `offsetof(${struct}, ${field})`] = offset;
      }
    }
    assert.deepEqual(await compiledConstants(["windows.h", "winioctl.h", "stddef.h"], Object.keys(wanted)), wanted);
    assert.deepEqual(await missingExports("kernel32", NAMES), []);
  },
});
