/** What the probe says on a Windows that lacks something, by libraries that lack it. */
import assert from "node:assert/strict";
import { tool, TOOL_ENV, which } from "../../tests/guests/command.ts";
import { needs } from "../../tests/skip.ts";
import { PLATFORM_NAMES } from "./abi.ts";

const PROBE = new URL("./probe.ts", import.meta.url).href;
const NEWER = /Doorbell|InterruptControllerState2/;

/** A library with these functions; WHvGetCapability answers `present` to the first question, `bits` to the others. */
async function library(path: string, names: readonly string[], present: number, bits: number): Promise<void> {
  const source = [
    "int WHvGetCapability(unsigned code, unsigned *out, unsigned room, unsigned *written) {",
    `  out[0] = code == 0 ? ${present}u : ${bits}u;`,
    "  if (room == 8) out[1] = 0;",
    "  return *written = room, 0;",
    "}",
    ...names.filter((name) => name !== "WHvGetCapability").map((name) => `int ${name}(void) { return 0; }`),
  ];
  await tool(["gcc", "-shared", "-fPIC", "-x", "c", "-o", path, "-"], { stdin: source.join("\n") });
}

async function probe(library: string, permissions: readonly string[]) {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--no-check", "--no-prompt", "--allow-env", "--allow-sys", ...permissions, "-"],
    env: { ...TOOL_ENV, HV_WHPX_SHIM: library },
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const writer = child.stdin.getWriter();
  const program = `import { probeWhpx } from ${JSON.stringify(PROBE)}; console.log(JSON.stringify(probeWhpx()));`;
  await writer.write(new TextEncoder().encode(program));
  await writer.close();
  const { stdout, stderr } = await child.output();
  const text = new TextDecoder().decode(stdout);
  assert.ok(text.startsWith("{"), new TextDecoder().decode(stderr));
  return JSON.parse(text) as { usable: boolean; reason: string; advice?: string; features: Record<string, boolean> };
}

Deno.test({
  name: "WHPX probe: what is missing is said, with what to do",
  ignore: needs(
    Deno.build.os === "linux" && which("gcc") !== null,
    "WHPX probe",
    "needs gcc, to make libraries that lack something",
  ),
  fn: async () => {
    const folder = await Deno.makeTempDir({ prefix: "hv-whpx-probe-" });
    try {
      const ffi = ["--allow-ffi"];
      const older = PLATFORM_NAMES.filter((name) => !NEWER.test(name));
      const path = `${folder}/platform.so`;
      const reason = async (permissions: readonly string[]) => {
        const { usable, reason, advice } = await probe(path, permissions);
        assert.equal(usable, false);
        return `${reason}: ${advice}`;
      };
      // The feature is off: Windows has no such DLL.
      assert.match(await reason(ffi), /dism \/online \/enable-feature \/featurename:HypervisorPlatform \/all/);
      // A Windows from before 2018: the DLL lacks functions.
      await library(path, ["WHvGetCapability", "WHvCreatePartition"], 1, 0xff);
      assert.match(await reason(ffi), /too old.*19041/);
      // One whose platform lacks what we need.
      await library(path, older, 1, 0);
      assert.match(await reason(ffi), /too old.*19041/);
      // No virtualization in the firmware, or the hypervisor not started.
      await library(path, older, 0, 0xff);
      assert.match(await reason(ffi), /firmware.*bcdedit \/set hypervisorlaunchtype auto/);
      assert.match(await reason([]), /--allow-ffi/);
      // All that is needed, nothing newer.
      await library(path, older, 1, 0xff);
      const old = await probe(path, ffi);
      assert.deepEqual([old.usable, old.features.localApic, old.features.doorbells], [true, false, false], old.reason);
      await library(path, PLATFORM_NAMES, 1, 0xff);
      const all = await probe(path, ffi);
      assert.deepEqual([all.usable, all.features.localApic, all.features.doorbells], [true, true, true], all.reason);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});
