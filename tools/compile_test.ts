import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { fileURLToPath } from "node:url";
import { embeddedFiles } from "./compile.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const HOST = `${Deno.build.os === "darwin" ? "macos" : Deno.build.os}-${
  Deno.build.arch === "aarch64" ? "arm64" : "x64"
}`;

/** Runs the tool from a copy of the tree that shares everything but `dist/`. */
async function runTool(args: string[], env: Record<string, string>) {
  const folder = await Deno.makeTempDir({ prefix: "hv-compile-" });
  try {
    for (const entry of Deno.readDirSync(ROOT)) {
      if (entry.name !== "dist" && !entry.name.startsWith(".")) {
        await new Deno.Command("cp", { args: ["-r", `${ROOT}/${entry.name}`, folder] }).output();
      }
    }
    const { code, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--allow-all", "--quiet", "--no-check", `${folder}/tools/compile.ts`, ...args],
      env: { NO_COLOR: "1", ...env },
    }).output();
    const binary = await Deno.readFile(`${folder}/dist/hv-${HOST}`).catch(() => null);
    return { code, words: new TextDecoder().decode(stderr), binary };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("compile: every Worker of hv is on the list of what is embedded", () => {
  const files = embeddedFiles(ROOT);
  assert.ok(files.includes("core/vcpu_worker.ts"), files.join());
  assert.ok(files.includes("core/io_worker.ts"), files.join());
  for (const file of files) assert.ok(Deno.statSync(`${ROOT}/${file}`).isFile, file);
});

Deno.test("compile: a Worker that a binary would lack is refused", async () => {
  const folder = await Deno.makeTempDir({ prefix: "hv-compile-" });
  try {
    await Deno.mkdir(`${folder}/core`);
    const write = (text: string) => Deno.writeTextFile(`${folder}/core/a.ts`, text);
    await write('new Worker(\n  new URL("../b/c.ts", import.meta.url),\n  { type: "module" },\n);');
    assert.deepEqual(embeddedFiles(folder), ["b/c.ts"]);
    await write("new Worker(URL.createObjectURL(blob))");
    assert.throws(() => embeddedFiles(folder), /core\/a\.ts: write new Worker\(new URL/);
    await write("new Worker(import.meta.resolve(`./${name}.ts`))");
    assert.throws(() => embeddedFiles(folder), /core\/a\.ts/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("compile: the binary holds its Workers, and a runtime that is not denort is told of", async () => {
  const { code, words, binary } = await runTool([], { DENORT_BIN: Deno.execPath() });
  assert.ok(binary, words);
  const haystack = Buffer.from(binary.buffer);
  for (const file of [...embeddedFiles(ROOT), "cli/run.ts", "machines/pc.ts", "backends/kvm/hypervisor.ts"]) {
    assert.ok(haystack.includes(Buffer.from(Deno.readFileSync(`${ROOT}/${file}`))), `${file} is not in the binary`);
  }
  // With Deno itself in denort's place the result is a plain Deno, and must not pass for hv.
  assert.equal(code, 1);
  assert.match(words, /says 'deno .*': the runtime it was made with is not denort/);
});

Deno.test("compile: a download that is out of reach is told in words", async () => {
  const cache = await Deno.makeTempDir({ prefix: "hv-compile-cache-" });
  try {
    const dead = "http://127.0.0.1:9";
    const { code, words } = await runTool(["--target", "macos-arm64"], {
      DENO_DIR: cache,
      HTTPS_PROXY: dead,
      HTTP_PROXY: dead,
      https_proxy: dead,
    });
    assert.equal(code, 1);
    assert.match(words, /the runtime for macos-arm64 \(denort .*\) cannot be downloaded here/);
    assert.match(words, /DENORT_BIN=/);
  } finally {
    await Deno.remove(cache, { recursive: true });
  }
});

Deno.test("compile: an unknown target is answered with those there are", async () => {
  const { code, words } = await runTool(["--target", "plan9"], {});
  assert.equal(code, 2);
  assert.match(words, /there is no target 'plan9': choose from linux-x64, .*, windows-x64, all/);
});
