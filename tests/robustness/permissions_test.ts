/** What a plain user meets: a /dev/kvm and files that are not theirs. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { testKernel } from "../../cli/kernel_fixture.ts";
import { Program } from "../../cli/process_fixture.ts";
import { parseSize } from "../../mod.ts";
import { which } from "../guests/command.ts";
import { needs } from "../skip.ts";
import { BACKENDS, HV, refuses } from "./hv.ts";

const NOBODY = 65534;
const root = Deno.build.os === "linux" && Deno.uid() === 0;
const folder = await Deno.makeTempDir({ prefix: "hv-permissions-" });
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));

/** A copy of Deno that nobody may run: this one may lie in root's home. */
async function denoForAll(): Promise<string> {
  const copy = `${folder}/deno`;
  await Deno.link(Deno.execPath(), copy).catch(() => Deno.copyFile(Deno.execPath(), copy));
  return copy;
}

let asNobody: string[] = [];
if (root && which("setpriv")) {
  await Deno.chmod(folder, 0o755);
  await Deno.mkdir(`${folder}/home`);
  await Deno.chown(`${folder}/home`, NOBODY, NOBODY);
  const user = ["setpriv", `--reuid=${NOBODY}`, `--regid=${NOBODY}`, "--clear-groups"];
  const environment = ["env", `HOME=${folder}/home`, `DENO_DIR=${folder}/home/deno`, `TMPDIR=${folder}/home`];
  asNobody = [...user, ...environment, await denoForAll(), ...HV.slice(1)];
  const main = fileURLToPath(new URL("../../cli/main.ts", import.meta.url));
  const readable = await new Program([...user, "test", "-r", main]).ends();
  if (readable !== 0) asNobody = [];
}
const ignore = needs(
  asNobody.length > 0,
  "hv as a user without rights",
  "needs root, setpriv and a checkout that others may read",
);

const kernel = `${folder}/kernel.elf`;
await Deno.writeFile(kernel, testKernel(), { mode: 0o644 });
const image = async (name: string, mode: number) => {
  await Deno.writeFile(`${folder}/${name}`, new Uint8Array(1 << 20));
  await Deno.chmod(`${folder}/${name}`, mode);
  return `${folder}/${name}`;
};

const kvmClosed = !ignore && await Deno.stat("/dev/kvm").then(({ mode }) => (mode! & 0o6) === 0, () => false);
Deno.test({
  name: "hv run --backend kvm without permission on /dev/kvm says which group, and is exit code 1",
  ignore: ignore || needs(kvmClosed, "no permission on /dev/kvm", "needs a /dev/kvm that is closed to others"),
  fn: () => refuses([...asNobody, "run", "--kernel", kernel, "--backend", "kvm"], 1, /\/dev\/kvm.*group/),
});

const soft = BACKENDS.includes("soft");
const withSoft = (...args: string[]) => [...asNobody, "run", "--kernel", kernel, "--memory", "64M", ...args];
Deno.test({
  name: "hv run on images that are not the user's",
  ignore: ignore || needs(soft, "images that are not the user's", "needs the software CPU"),
  fn: async () => {
    const secret = await image("secret.img", 0o600);
    const shown = await image("shown.img", 0o644);
    const run = (...args: string[]) => withSoft("--backend", "soft", "--timeout", "30s", ...args);
    await refuses(run("--disk", secret), 1, /secret\.img: no permission to write it; [^\n]*(read-only|ephemeral)/);
    await refuses(run("--disk", `${secret},readonly`), 1, /secret\.img: no permission to read it; /);
    await refuses(run("--disk", shown), 1, /shown\.img: no permission to write it; [^\n]*(read-only|ephemeral)/);
    for (const how of [["--disk", `${shown},readonly`], ["--disk", shown, "--ephemeral"]]) {
      const program = new Program(run(...how));
      await program.said("ready");
      await program.send("x");
      assert.equal(await program.ends(), 7, `what the message advises works: ${program.error}`);
    }
  },
});

Deno.test({
  name: "hv run chooses the software CPU when /dev/kvm is closed, and says why",
  ignore: ignore || needs(soft && kvmClosed, "falling back without permission", "needs a closed /dev/kvm"),
  fn: async () => {
    const program = new Program(withSoft("--timeout", "30s"));
    await program.said("ready");
    await program.send("x");
    assert.equal(await program.ends(), 7);
    assert.match(
      program.error,
      /^hv: using soft; not kvm: no permission for \/dev\/kvm[^\n]* \('hv doctor' says what to do\)\nhv: the guest ended/,
    );
  },
});

Deno.test({
  name: "hv run with a quarter more memory than the host has",
  ignore: needs(BACKENDS.length > 0, "--memory beyond the host", "no backend runs here: see hv doctor"),
  fn: async () => {
    const { total } = Deno.systemMemoryInfo();
    const memory = `${Math.ceil(total * 1.25 / parseSize("1M"))}M`;
    const command = [...HV, "run", "--kernel", kernel, "--backend", BACKENDS[0], "--memory", memory];
    await refuses(command, 2, /cannot give the guest [\d.]+ GiB: at most/);
  },
});
