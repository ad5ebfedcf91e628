/** Every name, number and layout against mingw-w64's headers and import library. */
import assert from "node:assert/strict";
import { needs } from "../../tests/skip.ts";
import {
  Access,
  ApicMode,
  Bits,
  Capability,
  ExitReason,
  InterruptType,
  MapFlag,
  PendingType,
  PLATFORM_NAMES,
  Property,
  Register,
  Struct,
  SYSTEM_NAMES,
  TranslateFlag,
  TranslateResult,
  Win,
} from "./abi.ts";

const TARGET = "x86_64-w64-mingw32";
const compiler = works(`${TARGET}-gcc`);

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

/** What the compiler makes of constant expressions: they are read back out of the object file. */
async function evaluate(declarations: string[], initializers: string[]): Promise<BigUint64Array> {
  const folder = await Deno.makeTempDir({ prefix: "hv-whpx-abi-" });
  try {
    const source = [
      "#include <windows.h>",
      "#include <stddef.h>",
      "#include <winhvplatform.h>",
      "const struct { unsigned long long first;",
      ...declarations,
      "} values = { 0x1122334455667788ull,",
      ...initializers,
      "};",
    ];
    await Deno.writeTextFile(`${folder}/abi.c`, source.join("\n"));
    await run(`${TARGET}-gcc`, "-c", "-o", `${folder}/abi.o`, `${folder}/abi.c`);
    await run(`${TARGET}-objcopy`, "-O", "binary", "-j", ".rdata", `${folder}/abi.o`, `${folder}/abi.bin`);
    const bytes = await Deno.readFile(`${folder}/abi.bin`);
    const words = new BigUint64Array(bytes.buffer, 0, Math.floor(bytes.length / 8));
    const start = words.indexOf(0x1122_3344_5566_7788n);
    return words.slice(start + 1);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test({
  name: "WHPX ABI: numbers and layouts are those of the headers",
  ignore: needs(compiler, "WHPX ABI against winhvplatform.h", "needs gcc-mingw-w64-x86-64 and mingw-w64's headers"),
  fn: async () => {
    const wanted = new Map<string, number>();
    const add = (prefix: string, table: Record<string, number>) => {
      for (const [name, value] of Object.entries(table)) wanted.set(`${prefix}${name}`, value);
    };
    add("WHvCapabilityCode", Capability);
    add("WHvPartitionPropertyCode", Property);
    add("WHvX64LocalApicEmulationMode", ApicMode);
    add("WHvMapGpaRangeFlag", MapFlag);
    add("WHvTranslateGvaFlag", TranslateFlag);
    add("WHvTranslateGvaResult", TranslateResult);
    add("WHvRunVpExitReason", ExitReason);
    add("WHvMemoryAccess", Access);
    add("WHvX64InterruptType", InterruptType);
    add("WHvX64Pending", PendingType);
    add("", Register);
    add("", Win);
    for (const [struct, fields] of Object.entries(Struct)) {
      for (const [field, offset] of Object.entries(fields)) {
        wanted.set(field === "sizeof" ? `sizeof(${struct})` : `offsetof(${struct}, ${field})`, offset);
      }
    }
    const names = [...wanted.keys()];
    const values = await evaluate(
      names.map((_, i) => `unsigned long long v${i};`),
      names.map((name) => `(unsigned int)(${name}),`),
    );
    const found = Object.fromEntries(names.map((name, i) => [name, Number(values[i])]));
    assert.deepEqual(Object.fromEntries(wanted), found);
  },
});

Deno.test({
  name: "WHPX ABI: bit fields are where the compiler puts them",
  ignore: needs(compiler, "WHPX bit fields", "needs gcc-mingw-w64-x86-64 and mingw-w64's headers"),
  fn: async () => {
    const fields = Object.entries(Bits).flatMap(([struct, fields]) =>
      Object.entries(fields as Record<string, readonly [number, number]>).map(([field, bits]) => ({
        struct,
        field,
        bits,
      }))
    );
    // The fields of a struct that is longer than 64 bits stand in its first 64.
    const values = await evaluate(
      fields.map(({ struct }, i) =>
        `union { ${struct} s; unsigned long long q[8]; } __attribute__((aligned(16))) m${i};`
      ),
      fields.map(({ field }) => `{ .s = { .${field} = -1 } },`),
    );
    // After the marker and its padding to 16 bytes.
    const first = 1;
    const name = ({ struct, field }: { struct: string; field: string }) => `${struct}.${field}`;
    const found = Object.fromEntries(fields.map((it, i) => [name(it), values[first + i * 8].toString(16)]));
    const wanted = Object.fromEntries(
      fields.map((it) => [name(it), (((1n << BigInt(it.bits[1])) - 1n) << BigInt(it.bits[0])).toString(16)]),
    );
    assert.deepEqual(found, wanted);
  },
});

Deno.test({
  name: "WHPX ABI: every function is exported",
  ignore: needs(compiler, "WHPX names in the import library", "needs gcc-mingw-w64-x86-64"),
  fn: async () => {
    for (const [library, names] of [["winhvplatform", PLATFORM_NAMES], ["kernel32", SYSTEM_NAMES]] as const) {
      const path = (await run(`${TARGET}-gcc`, `-print-file-name=lib${library}.a`)).trim();
      const exported = new Set((await run(`${TARGET}-nm`, path)).split("\n").map((line) => line.split(" ").at(-1)));
      assert.deepEqual(names.filter((name) => !exported.has(name)), [], library);
    }
  },
});
