/** Whole runs of `hv run` with a kernel of our own, on every backend that can run it here. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { probeBackends } from "../mod.ts";
import { needs } from "../tests/skip.ts";
import { KEYS, testKernel } from "./kernel_fixture.ts";
import { HAS_TERMINAL, Program, startInTerminal } from "./process_fixture.ts";

const MAIN = fileURLToPath(new URL("./main.ts", import.meta.url));
const HV = [Deno.execPath(), "run", "--allow-all", "--quiet", "--no-check", MAIN];
const windows = Deno.build.os === "windows";

// A restricted platform refuses stock kernels, but runs this one.
const backends = (await probeBackends()).filter(({ support }) => support.usable || support.restricted);
needs(backends.length > 0, "hv run with a kernel of our own", "no backend runs here: see hv doctor");

const folder = await Deno.makeTempDir({ prefix: "hv-run-" });
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));
const kernel = `${folder}/kernel.elf`;
await Deno.writeFile(kernel, testKernel());

for (const { name: backend } of backends) {
  const base = [...HV, "run", "--kernel", kernel, "--backend", backend, "--memory", "64M"];
  const command = (...more: string[]) => [...base, "--timeout", "60s", ...more];

  const endings: [key: keyof typeof KEYS, code: number, sentence: RegExp][] = [
    ["powerOff", 0, /^hv: the guest powered off\n$/],
    ["exit7", 7, /^hv: the guest ended with code 7\n$/],
    ["panic", 3, /^hv: the guest's kernel panicked: [^\n]+\n$/],
    ["tripleFault", 3, /^hv: the guest died of a triple fault [^\n]+\n$/],
  ];
  for (const [key, code, sentence] of endings) {
    Deno.test(`hv run on ${backend}: the guest's ${key} is exit code ${code}`, async () => {
      const program = new Program(command());
      await program.said("ready");
      await program.send(`ab${KEYS[key]}`);
      assert.equal(await program.ends(), code);
      assert.equal(program.out, "ready\r\nab", "stdout is the guest's alone");
      assert.match(program.error, sentence);
    });
  }

  Deno.test(`hv run on ${backend}: a guest that resets starts again`, async () => {
    const program = new Program(command());
    await program.said("ready");
    await program.send(KEYS.reset);
    await program.said("ready\r\nready");
    await program.send(KEYS.exit7);
    assert.equal(await program.ends(), 7);
  });

  for (const key of ["spin", "halt"] as const) {
    Deno.test(`hv run on ${backend}: --timeout stops a guest in ${key}`, async () => {
      const program = new Program([...base, "--timeout", "2s"]);
      await program.said("ready");
      await program.send(KEYS[key]);
      assert.equal(await program.ends(), 124);
      assert.equal(program.error, "hv: the guest had not ended after 2 s: stopped it\n");
    });
  }

  Deno.test({
    name: `hv run on ${backend}: SIGTERM presses the power button, and twice stops a guest that does not care`,
    ignore: needs(!windows, "hv run: SIGTERM", "signals are sent on Unix"),
    fn: async () => {
      const willing = new Program(command());
      await willing.said("ready");
      willing.child.kill("SIGTERM");
      assert.equal(await willing.ends(), 0);
      assert.match(willing.error, /pressing the power button; once more stops at once\nhv: the guest powered off\n$/);

      const deaf = new Program(command());
      await deaf.said("ready");
      await deaf.send(`${KEYS.deaf}!`);
      await deaf.said("!");
      deaf.child.kill("SIGTERM");
      await deaf.said("pressing");
      deaf.child.kill("SIGTERM");
      assert.equal(await deaf.ends(), 1);
      assert.match(deaf.error, /stopping at once\nhv: the machine was stopped\n$/);
    },
  });

  Deno.test(`hv run on ${backend}: stdin that ends, and a console in a file`, async () => {
    const log = `${folder}/${backend}.log`;
    const program = new Program(command("--console", log));
    while (!(await Deno.readTextFile(log).catch(() => "")).includes("ready")) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    program.child.kill("SIGTERM");
    assert.equal(await program.ends(), 0);
    assert.equal(await Deno.readTextFile(log), "ready\r\n");

    const piped = new Program(command());
    await piped.send("xyz".replace(KEYS.exit7, "w"));
    await piped.closeInput();
    await piped.said("wyz");
    piped.child.kill("SIGTERM");
    assert.equal(await piped.ends(), 0);
    assert.equal(piped.out, "ready\r\nwyz");
  });

  Deno.test({
    name: `hv run on ${backend}: in a terminal, with the escape, and the terminal restored after a guest's death`,
    ignore: needs(HAS_TERMINAL, `hv run on ${backend} in a terminal`, "needs Linux with util-linux's script"),
    fn: async () => {
      const program = startInTerminal(command());
      await program.said("ready");
      await program.send("a\x03b");
      await program.said("a\x03b");
      await program.send("\x1dp");
      await program.ends();
      assert.match(
        program.out,
        /hv: pressing the power button\r\n[^]*hv: the guest powered off\r\ncode=0\r\nrestored\r\n$/,
      );

      const dying = startInTerminal(command());
      await dying.said("ready");
      await dying.send(KEYS.tripleFault);
      await dying.ends();
      assert.match(dying.out, /hv: the guest died of a triple fault [^\n]+\ncode=3\r\nrestored\r\n$/);
    },
  });
}
