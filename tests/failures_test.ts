import assert from "node:assert/strict";
import { excerpt } from "./failures.ts";

async function denoTest(code: string): Promise<string> {
  const folder = await Deno.makeTempDir({ prefix: "hv-failures-" });
  try {
    await Deno.writeTextFile(`${folder}/x_test.ts`, code);
    const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["test", "--no-check", "--no-lock", `${folder}/x_test.ts`],
    }).output();
    return new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("of a run of deno test, the failed tests and their errors are repeated, and nothing else", async () => {
  const output = await denoTest(`
    Deno.test("good", () => console.log("noise"));
    Deno.test("first bad", () => { throw new Error("the lamp is out"); });
    Deno.test("second bad", async (t) => { await t.step("inner", () => { throw new Error("no bread"); }); });
  `);
  const told = excerpt(output);
  for (const words of [/first bad/, /the lamp is out/, /inner/, /no bread/]) assert.match(told, words);
  assert.doesNotMatch(told, /noise|good/);
});

Deno.test("a test with a long error leaves room for the others", async () => {
  const output = await denoTest(`
    Deno.test("long", () => { throw new Error("line\\n".repeat(500)); });
    Deno.test("short", () => { throw new Error("seen as well"); });
  `);
  assert.match(excerpt(output), /seen as well/);
  assert.ok(excerpt(output).split("\n").length < 60);
});

Deno.test("of other suites, the lines that tell of a failure and the last ones are repeated", () => {
  const lines = Array.from({ length: 500 }, (_, i) => `step ${i}`);
  lines[100] = "windows: conformance: FAILED: no answer";
  lines[101] = "kvm: 140 passed, 2 failed, 1 skipped";
  lines[102] = "soft: 141 passed, 0 failed, 1 skipped";
  const told = excerpt(lines.join("\n"));
  assert.match(told, /FAILED: no answer/);
  assert.match(told, /2 failed/);
  assert.doesNotMatch(told, /0 failed|step 7\b/);
  assert.match(told, /step 499/);
});

Deno.test("a suite that was stopped shows where it was", () => {
  assert.match(excerpt("a ... ok\nb ...\nstopped: longer than 3 s\n"), /stopped: longer than 3 s[^]*b \.\.\./);
});
