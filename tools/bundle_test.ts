import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { KEYS, testKernel } from "../cli/kernel_fixture.ts";
import { bundle, workerModules } from "./bundle.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));

Deno.test("bundle: every Worker of hv is on the list of what is embedded", () => {
  const files = workerModules(ROOT);
  assert.ok(files.includes("core/vcpu_worker.ts"), files.join());
  assert.ok(files.includes("core/io_worker.ts"), files.join());
  for (const file of files) assert.ok(Deno.statSync(`${ROOT}/${file}`).isFile, file);
});

Deno.test("bundle: a Worker that a binary would lack is refused", async () => {
  const folder = await Deno.makeTempDir({ prefix: "hv-bundle-" });
  try {
    await Deno.mkdir(`${folder}/core`);
    const write = (text: string) => Deno.writeTextFile(`${folder}/core/a.ts`, text);
    await write('new Worker(\n  new URL("../b/c.ts", import.meta.url),\n  { type: "module" },\n);');
    assert.deepEqual(workerModules(folder), ["b/c.ts"]);
    await write("new Worker(URL.createObjectURL(blob))");
    assert.throws(() => workerModules(folder), /core\/a\.ts: write new Worker\(new URL/);
    await write("new Worker(import.meta.resolve(`./${name}.ts`))");
    assert.throws(() => workerModules(folder), /core\/a\.ts/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("bundle: hv runs a guest from it, and finds all of its Workers", async () => {
  const folder = await Deno.makeTempDir({ prefix: "hv-bundle-" });
  try {
    const { main, workers } = await bundle(ROOT, `${folder}/hv`);
    assert.equal(workers.length, workerModules(ROOT).length);
    const named = new Set<string>();
    for (const { name, isFile } of Deno.readDirSync(`${folder}/hv`)) {
      if (!isFile) continue;
      const text = await Deno.readTextFile(`${folder}/hv/${name}`);
      for (const [, file] of text.matchAll(/new Worker\(\s*new URL\("([^"]+)"/g)) {
        named.add(fileURLToPath(new URL(file, `file://${folder}/hv/`)));
      }
    }
    assert.deepEqual([...named].sort(), workers);
    await Deno.writeFile(`${folder}/kernel`, testKernel());
    const child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--quiet", main, "run", "--backend", "soft", "--kernel", `${folder}/kernel`],
      env: { NO_COLOR: "1" },
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const keyboard = child.stdin.getWriter();
    await keyboard.write(new TextEncoder().encode(KEYS.exit7));
    await keyboard.close();
    const { code, stderr } = await child.output();
    assert.equal(code, 7, new TextDecoder().decode(stderr));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
