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

  const zeros = `${folder}/zeros.img`;
  const arm = `${folder}/arm.elf`;
  const refusals: [args: string[], code: number, sentence: RegExp][] = [
    [[`${folder}/none.img`], 1, /none\.img: no such file/],
    [[folder], 1, /is a directory/],
    [[zeros], 1, /no kernel found on this disk/],
    [["--kernel", `${folder}/none`], 1, /there is no kernel at/],
    [["--kernel", folder], 1, /is a directory, not a file/],
    [["--kernel", zeros], 1, /not a kernel in any form hv knows/],
    [["--kernel", arm], 1, /the kernel is for another architecture \(aarch64\)/],
    [["--kernel", kernel, "--initrd", `${folder}/none`], 1, /there is no initrd at/],
    [["--kernel", kernel, "--append", "x".repeat(100_000)], 1, /the command line has 100\d{3} bytes/],
    [["--kernel", kernel, "--memory", "100T"], 2, /cannot give the guest 100 TiB: at most/],
    [["--kernel", kernel, "--memory", "1M"], 2, /1 MiB of memory is too little/],
    [["--kernel", kernel, "--cpus", "100000"], 2, /not 100000/],
    [["--kernel", kernel, "--disk", "/dev/null"], 1, /neither a file nor a block device/],
    [["--kernel", kernel, "--disk", `${zeros},format=tar`], 2, /no disk format 'tar'; known are: raw/],
  ];
  for (const [args, code, sentence] of refusals) {
    const title = args.join(" ").replaceAll(`${folder}/`, "").replace(folder, "FOLDER").slice(0, 60);
    Deno.test({
      name: `hv run on ${backend} refuses ${title} in one sentence`,
      ignore: needs(!windows || !args.includes("/dev/null"), `hv run refuses ${title}`, "needs Unix"),
      fn: async () => {
        await Deno.writeFile(zeros, new Uint8Array(1 << 20));
        await Deno.writeFile(arm, testKernel().with(18, 183));
        const program = new Program([...HV, "run", "--backend", backend, "--timeout", "20s", ...args]);
        assert.equal(await program.ends(), code);
        assert.equal(program.out, "");
        assert.match(program.error, sentence);
        assert.match(program.error, /^hv: [^\n]+\n(hv: see 'hv run --help'\n)?$/);
      },
    });
  }

  Deno.test({
    name: `hv run on ${backend} refuses a disk that another machine writes to`,
    ignore: needs(Deno.build.os === "linux", `hv run on ${backend}: a busy disk`, "locks are tested on Linux"),
    fn: async () => {
      const disk = `${folder}/busy-${backend}.img`;
      await Deno.writeFile(disk, new Uint8Array(1 << 20));
      const owner = new Program(command("--disk", disk));
      await owner.said("ready");
      const second = new Program(command("--disk", disk));
      assert.equal(await second.ends(), 1);
      assert.match(second.error, /^hv: [^\n]*busy-[^\n]*: another process has it open; [^\n]+\n$/);
      const reader = new Program(command("--disk", disk, "--ephemeral"));
      assert.equal(await reader.ends(), 1);
      assert.match(reader.error, /^hv: [^\n]*busy-[^\n]*: another process has it open for writing; [^\n]+\n$/);
      await owner.send(KEYS.powerOff);
      assert.equal(await owner.ends(), 0);

      const readers = [1, 2].map(() => new Program(command("--disk", disk, "--ephemeral")));
      for (const one of readers) await one.said("ready");
      for (const one of readers) await one.send(KEYS.powerOff);
      for (const one of readers) assert.equal(await one.ends(), 0);
    },
  });

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
      // The time runs from hv's start: on a busy machine it can be over before the guest is there.
      for (let seconds = 2;; seconds *= 2) {
        const program = new Program([...base, "--timeout", `${seconds}s`]);
        const told = await program.said("ready\r\n", seconds + 60)
          .then(() => program.send(KEYS[key])).then(() => true, () => false);
        assert.equal(await program.ends(), 124);
        if (!told && seconds < 60) continue;
        assert.equal(program.error, `hv: the guest had not ended after ${seconds} s: stopped it\n`);
        assert.ok(told, "the guest came to its work");
        break;
      }
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

  const hangUp = `hv run on ${backend}: a terminal that goes away presses the power button`;
  Deno.test({
    name: hangUp,
    ignore: needs(HAS_TERMINAL, hangUp, "needs Linux with util-linux's script"),
    fn: async () => {
      const code = `${folder}/${backend}.code`;
      // The shell around it lives on, to tell how hv ended.
      const line = command().map((word) => `"${word}"`).join(" ");
      const program = startInTerminal(["sh", "-c", `trap : HUP; ${line}; echo $? >"${code}"`]);
      await program.said("ready");
      await program[Symbol.asyncDispose]();
      while (!(await Deno.readTextFile(code).catch(() => "")).endsWith("\n")) {
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      assert.equal(await Deno.readTextFile(code), "0\n", "the guest has powered off by itself");
    },
  });

  Deno.test({
    name: `hv run on ${backend}: Ctrl-C in a terminal that is not the guest's presses the power button`,
    ignore: needs(HAS_TERMINAL, `hv run on ${backend}: Ctrl-C`, "needs Linux with util-linux's script"),
    fn: async () => {
      const log = `${folder}/${backend}-interrupted.log`;
      // The shell around it gets the Ctrl-C too, and is to go on.
      const program = startInTerminal(command("--console", log), "trap : INT");
      while (!(await Deno.readTextFile(log).catch(() => "")).includes("ready")) {
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      await program.send("\x03");
      await program.ends();
      assert.match(program.out, /hv: SIGINT: pressing the power button;[^\n]+\nhv: the guest powered off\r\ncode=0/);
    },
  });

  Deno.test({
    name: `hv run on ${backend}: a console that cannot be written ends the machine with an error`,
    ignore: needs(Deno.build.os === "linux", `hv run on ${backend}: a full console`, "needs /dev/full"),
    fn: async () => {
      const program = new Program(command("--console", "/dev/full"));
      assert.equal(await program.ends(), 1);
      assert.match(program.error, /^hv: [^\n]*\/dev\/full[^\n]*No space left[^\n]*\n$/);
    },
  });
}
