import assert from "node:assert/strict";
import { needs } from "../tests/skip.ts";
import { HAS_TERMINAL, Program, startInTerminal } from "./process_fixture.ts";

const FIXTURE = new URL("./session_fixture.ts", import.meta.url).pathname;
const COMMAND = [Deno.execPath(), "run", "--allow-all", "--quiet", "--no-check", FIXTURE];
const windows = Deno.build.os === "windows";

const start = (...args: string[]) => new Program([...COMMAND, ...args]);

const endings: [string, number, RegExp][] = [
  ["poweroff", 0, /^hv: the guest powered off$/m],
  ["panic", 3, /^hv: the guest died: panic$/m],
  ["triple-fault", 3, /^hv: the guest died: triple-fault$/m],
  ["failed", 3, /^hv: the guest died: failed$/m],
  ["exit 7", 7, /^hv: the guest ended with 7$/m],
  ["exit 0", 0, /^hv: the guest ended with 0$/m],
];
for (const [order, code, words] of endings) {
  Deno.test(`session: a guest's end by '${order}' is exit code ${code}, in words on stderr`, async () => {
    const program = start();
    await program.said("ready");
    await program.send(`${order}\n`);
    assert.equal(await program.ends(), code);
    assert.match(program.error, words);
    assert.doesNotMatch(program.error, /^(?!hv: |$)/m, "every line on stderr says that it is hv's");
    assert.equal(program.out, "ready\r\n", "stdout is the guest's alone");
  });
}

Deno.test("session: the guest goes on when a piped stdin ends", async () => {
  const program = start();
  await program.send("hello\n");
  await program.closeInput();
  await program.said('heard "hello"');
  await new Promise((resolve) => setTimeout(resolve, 200));
  program.child.kill("SIGTERM");
  assert.equal(await program.ends(), 0);
});

Deno.test("session: the time given is over", async () => {
  const program = start("timeout=400");
  assert.equal(await program.ends(), 124);
  assert.match(program.error, /^hv: the guest had not ended after 0\.4 s: stopped it$/m);
});

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  Deno.test({
    name: `session: the first ${signal} presses the power button`,
    ignore: needs(!windows, `session: ${signal}`, "signals are sent on Unix"),
    fn: async () => {
      const program = start();
      await program.said("ready");
      program.child.kill(signal);
      assert.equal(await program.ends(), 0);
      assert.equal(program.out, "ready\r\n[power button]\r\n");
    },
  });

  Deno.test({
    name: `session: a second ${signal} stops a guest that does not care`,
    ignore: needs(!windows, `session: ${signal} twice`, "signals are sent on Unix"),
    fn: async () => {
      const program = start("deaf");
      await program.said("ready");
      program.child.kill(signal);
      await program.said("[power button]");
      program.child.kill(signal);
      assert.equal(await program.ends(), 1);
      assert.match(program.error, /once more stops at once\nhv: stopping at once\nhv: the machine was stopped\n$/);
    },
  });
}

Deno.test("session: the console goes into a file", async () => {
  const file = await Deno.makeTempFile({ prefix: "hv-console-" });
  try {
    const program = start(`console=${file}`, "timeout=300");
    assert.equal(await program.ends(), 124);
    assert.equal(program.out, "");
    assert.equal(await Deno.readTextFile(file), "ready\r\n");
  } finally {
    await Deno.remove(file);
  }
});

for (const [obedience, code] of [["", 0], ["deaf", 1]] as const) {
  Deno.test({
    name: `session: stdout without a reader ends the guest${obedience && " that does not care"}, without a stack trace`,
    ignore: needs(!windows, "session: broken pipe", "needs a Unix shell"),
    fn: async () => {
      const line = `(sleep 0.3; echo flood 3000; sleep 1) | { ${COMMAND.map((word) => `'${word}'`).join(" ")} ` +
        `${obedience}; echo "code=$?" >&2; } | head -n 2`;
      const { stdout, stderr } = await new Deno.Command("sh", { args: ["-c", line] }).output();
      const errors = new TextDecoder().decode(stderr);
      assert.match(new TextDecoder().decode(stdout), /^ready\r\nx{1022}\r\n$/);
      assert.match(errors, /^hv: nobody reads the console any more: pressing the power button$/m);
      assert.match(errors, new RegExp(`^code=${code}$`, "m"));
      assert.doesNotMatch(errors, /BrokenPipe| {4}at /);
    },
  });
}

Deno.test("session: all a guest says reaches a slow reader, also what it said last", async () => {
  const program = start();
  await program.said("ready");
  await program.send("flood 2000\npoweroff\n");
  assert.equal(await program.ends(), 0);
  assert.equal(program.out.length, "ready\r\n".length + 2000 * 1024);
});

// With a terminal, whose settings are compared before and after.
const startHere = (...args: string[]) => startInTerminal([...COMMAND, ...args]);

function terminalTest(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, ignore: needs(HAS_TERMINAL, name, "needs Linux with util-linux's script"), fn });
}

terminalTest("terminal: keys go to the guest as they are, Ctrl-C too, and the escape is hv's", async () => {
  const program = startHere();
  await program.said("ready");
  await program.send("a\x03b\r");
  await program.said('heard "a\\u0003b"');
  await program.send("\x1d?");
  await program.said("hv: Ctrl-] p   press the power button\r\n");
  await program.send("\x1dz");
  await program.said("hv: no such command");
  await program.send("x\x1d\x1dy\r");
  await program.said('heard "x\\u001dy"');
  await program.send("\x1d");
  await program.send("p");
  await program.said("code=");
  await program.ends();
  assert.match(program.out, /\[power button\]\r\nhv: the guest powered off\r\ncode=0\r\nrestored\r\n$/);
  assert.ok(!program.out.includes("\r\r\n"), "a raw terminal adds nothing to what the guest writes");
});

terminalTest("terminal: Ctrl-] q quits at once, from a guest that does not care", async () => {
  const program = startHere("deaf");
  await program.said("ready");
  await program.send("\x1dq");
  await program.ends();
  assert.match(program.out, /hv: stopping at once\r\nhv: the machine was stopped\r\ncode=1\r\nrestored\r\n$/);
});

/** The process of the fixture itself, below `script` and a shell. */
async function pidOf(program: Program): Promise<number> {
  await program.said("ready");
  await program.send("pid\r");
  // A number may come in pieces.
  const line = /pid (\d+)\r\n/;
  await program.said(line);
  return Number(line.exec(program.out)![1]);
}

/** Asks stty of the terminal a process is in, or changes its settings, from outside. */
async function stty(pid: number, ...settings: string[]): Promise<string> {
  const terminal = await Deno.readLink(`/proc/${pid}/fd/0`);
  const { success, stdout } = await new Deno.Command("stty", { args: ["-F", terminal, ...settings] }).output();
  assert.ok(success);
  return new TextDecoder().decode(stdout);
}

terminalTest("terminal: the guest is told the window's size, and each change", async () => {
  const program = startHere();
  const pid = await pidOf(program);
  await program.send("size\r");
  await program.said("size 91x33");
  await stty(pid, "cols", "50", "rows", "20");
  for (let tries = 0; tries < 100 && !program.out.includes("size 50x20"); tries++) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    await program.send("size\r");
  }
  assert.match(program.out, /size 50x20/);
  await program.send("poweroff\r");
  await program.ends();
});

for (const order of ["poweroff", "panic", "throw", "reject", "exit 9"]) {
  terminalTest(`terminal: it is restored after '${order}'`, async () => {
    const program = startHere();
    await program.said("ready");
    await program.send(`${order}\r`);
    await program.ends();
    assert.match(program.out, /code=\d+\r\nrestored\r\n$/);
    assert.doesNotMatch(program.out, / {4}at /, "no stack trace");
    if (/throw|reject/.test(order)) assert.match(program.out, /hv: internal error: .*\r\n.*\r\ncode=1\r\n/);
  });
}

terminalTest("terminal: --debug shows the stack trace of a bug, the terminal restored first", async () => {
  const program = startHere("debug");
  await program.said("ready");
  await program.send("throw\r");
  await program.ends();
  assert.match(program.out, /hv: internal error: thrown in a timer\r\n.*\r\nhv: {5}at /);
  assert.match(program.out, /code=1\r\nrestored\r\n$/);
});

for (const signal of ["SIGTERM", "SIGHUP", "SIGQUIT", "SIGINT"] as const) {
  terminalTest(`terminal: it is restored after ${signal}`, async () => {
    const program = startHere();
    Deno.kill(await pidOf(program), signal);
    await program.ends();
    assert.match(program.out, /code=[01]\r\nrestored\r\n$/);
  });
}

terminalTest("terminal: it is the guest's again after a stop and a continue", async () => {
  const program = startHere();
  const pid = await pidOf(program);
  Deno.kill(pid, "SIGSTOP");
  await stty(pid, "sane");
  Deno.kill(pid, "SIGCONT");
  // What hv does last when it takes the terminal; what is typed before is not the guest's.
  for (let tries = 0; tries < 400 && !/^-opost\b/m.test(await stty(pid, "-a")); tries++) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  await program.send("a\x03b\r");
  await program.said('heard "a\\u0003b"');
  await program.send("poweroff\r");
  await program.ends();
  assert.match(program.out, /code=0\r\nrestored\r\n$/);
});
