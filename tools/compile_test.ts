import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { fileURLToPath } from "node:url";
import { bundle } from "./bundle.ts";

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

Deno.test("compile: the binary holds its Workers, and a runtime that is not denort is told of", async () => {
  const { code, words, binary } = await runTool([], { DENORT_BIN: Deno.execPath() });
  assert.ok(binary, words);
  const haystack = Buffer.from(binary.buffer);
  const folder = await Deno.makeTempDir({ prefix: "hv-bundle-" });
  try {
    const { main, workers } = await bundle(ROOT, folder);
    const chunks = [...Deno.readDirSync(folder)].filter(({ isFile }) => isFile).map(({ name }) => `${folder}/${name}`);
    assert.ok(chunks.length > 10, `${chunks.length} chunks`);
    for (const file of [main, ...workers, ...chunks]) {
      assert.ok(haystack.includes(Buffer.from(Deno.readFileSync(file))), `${file} is not in the binary`);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
  // With Deno itself in denort's place the result is a plain Deno, and must not pass for hv.
  assert.equal(code, 1);
  assert.match(words, /says 'deno .*': the runtime it was made with is not denort/);
});

Deno.test("compile: a download that is out of reach is told in words", async () => {
  const cache = await Deno.makeTempDir({ prefix: "hv-compile-cache-" });
  try {
    const dead = "http://127.0.0.1:9";
    const env = { DENO_DIR: cache, HTTPS_PROXY: dead, HTTP_PROXY: dead, https_proxy: dead };
    const withoutBundler = await runTool(["--target", "macos-arm64"], env);
    assert.equal(withoutBundler.code, 1);
    assert.match(
      withoutBundler.words,
      /hv could not be bundled\. Deno's bundler is esbuild, which Deno takes from npm/,
    );
    // Deno's own cache has the bundler after this.
    await Deno.writeTextFile(`${cache}/empty.ts`, "");
    const args = ["bundle", "--quiet", "--output", `${cache}/empty.js`, `${cache}/empty.ts`];
    await new Deno.Command(Deno.execPath(), { args, env: { DENO_DIR: cache } }).output();
    const { code, words } = await runTool(["--target", "macos-arm64"], env);
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
