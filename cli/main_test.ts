import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { needs } from "../tests/skip.ts";
import { COMMANDS } from "./commands.ts";

const MAIN = fileURLToPath(new URL("./main.ts", import.meta.url));
const windows = Deno.build.os === "windows";

async function hv(...args: string[]): Promise<{ code: number; out: string; error: string }> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--allow-all", "--quiet", "--no-check", MAIN, ...args],
    stdin: "null",
  }).output();
  const decoder = new TextDecoder();
  return { code, out: decoder.decode(stdout), error: decoder.decode(stderr) };
}

/** Wrong use, and what hv says to it. */
const WRONG: [args: string[], sentence: string, help: string][] = [
  [["rnu", "disk.img"], "unknown command 'rnu': did you mean 'run'?", "hv"],
  [["start"], "unknown command 'start': there is run, inspect, doctor, completions", "hv"],
  [["--verison"], "unknown option '--verison': did you mean '--version'?", "hv"],
  [["help", "inspekt"], "unknown command 'inspekt': did you mean 'inspect'?", "hv"],
  [["run", "--memroy", "2G", "d"], "unknown option '--memroy': did you mean '--memory'?", "hv run"],
  [["run", "d", "--cpus"], "--cpus needs a value: --cpus N", "hv run"],
  [["run", "d", "--cpus", "none"], "--cpus takes a whole number of at least 1, not 'none'", "hv run"],
  [["run", "d", "--cpus", "0"], "--cpus takes a whole number of at least 1, not '0'", "hv run"],
  [["run", "d", "--memory", "2X"], "--memory: '2X' is not a size: write it like 512M or 2G", "hv run"],
  [["run", "d", "--timeout", "soon"], "--timeout: 'soon' is not a time: write it like 90s or 5m", "hv run"],
  [["run", "d", "--timeout", "9999h"], "--timeout: '9999h' is more than 24 days", "hv run"],
  [["run", "d", "--backend", "kmv"], "--backend: unknown value 'kmv': did you mean 'kvm'?", "hv run"],
  [["run"], "nothing to run: name a DISK, or give a --kernel", "hv run"],
  [["run", "d", "--initrd", "i"], "--initrd goes with --kernel", "hv run"],
  [["run", "a", "--disk", "a,readonly"], "the disk a is named twice", "hv run"],
  [["run", "a", "b"], "do not know what to do with 'b'", "hv run"],
  [["run", "--disk", "d,redonly"], "--disk d,redonly: unknown setting 'redonly': did you mean 'readonly'?", "hv run"],
  [["run", "--disk", "d,fmt"], "--disk d,fmt: unknown setting 'fmt': there is readonly, format=raw", "hv run"],
  [["run", "--disk", ",readonly"], "--disk ,readonly: the file's name is missing", "hv run"],
  [["inspect"], "DISK is missing", "hv inspect"],
  [["completions", "tcsh"], "SHELL: unknown value 'tcsh': there is bash, zsh, fish", "hv completions"],
];
for (const [args, sentence, help] of WRONG) {
  Deno.test(`hv ${args.join(" ")}: wrong use is exit code 2 and one sentence`, async () => {
    assert.deepEqual(await hv(...args), { code: 2, out: "", error: `hv: ${sentence}\nhv: see '${help} --help'\n` });
  });
}

Deno.test("hv alone says what there is to do", async () => {
  const { code, out, error } = await hv();
  assert.deepEqual([code, out], [2, ""]);
  assert.equal(error, "hv: say what to do: run, inspect, doctor, completions; 'hv --help' shows more\n");
});

Deno.test("hv --help and --version go to stdout", async () => {
  const help = await hv("--help");
  assert.deepEqual([help.code, help.error], [0, ""]);
  for (const { name, summary } of COMMANDS) assert.match(help.out, new RegExp(`^  ${name} +${summary}$`, "m"));
  assert.deepEqual(await hv("-h"), help);
  assert.deepEqual(await hv("help"), help);
  const version = await hv("--version");
  assert.deepEqual([version.code, version.error], [0, ""]);
  assert.match(version.out, /^hv \d+\.\d+\.\d+\n$/);
});

for (const command of COMMANDS) {
  Deno.test(`hv ${command.name} --help names every option and shows examples`, async () => {
    const { code, out, error } = await hv(command.name, "--help");
    assert.deepEqual([code, error], [0, ""]);
    for (const { name } of command.options) assert.ok(out.includes(`--${name}`), name);
    for (const [line, what] of command.examples) assert.ok(out.includes(`  ${line}\n      ${what}\n`), line);
    assert.ok(Math.max(...out.split("\n").map((line) => line.length)) <= 120, "fits a terminal");
    assert.equal((await hv("help", command.name)).out, out);
  });
}

Deno.test("hv run and hv inspect say of a file that is none what to do, without a stack trace unless asked", async () => {
  const folder = await Deno.makeTempDir({ prefix: "hv-cli-" });
  const { choice } = JSON.parse((await hv("doctor", "--json")).out);
  try {
    for (const command of ["run", "inspect"]) {
      for (const path of [`${folder}/missing.img`, folder]) {
        const { code, out, error } = await hv(command, path);
        assert.deepEqual([code, out], [1, ""], error);
        // Where nothing can run a guest, that comes first.
        const runs = command === "inspect" || choice.usable;
        assert.match(error, runs ? new RegExp(`^(hv: using .*\n)?hv: ${path}: [^\n]+\n$`) : /^hv: [^\n]+\n$/);
        const debug = await hv(command, path, "--debug");
        assert.match(debug.error, /^hv: {5}at /m);
      }
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("hv inspect tells of an empty disk, for a person and for a program", async () => {
  const folder = await Deno.makeTempDir({ prefix: "hv-cli-" });
  try {
    await Deno.writeFile(`${folder}/empty.img`, new Uint8Array(1 << 20));
    const text = await hv("inspect", `${folder}/empty.img`);
    assert.deepEqual([text.code, text.error], [0, ""]);
    assert.match(text.out, /: 1 MiB, no partitions\n[^]*hv run would find nothing to start here\.\n\nProblems:\n/);
    const json = await hv("inspect", "--json", `${folder}/empty.img`);
    const report = JSON.parse(json.out);
    assert.equal(report.size, 1 << 20);
    assert.equal(report.boot, null);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("hv run refuses a console that cannot be written", async () => {
  const { code, error } = await hv("run", "disk.img", "--console", "/no/such/folder/log");
  assert.equal(code, 1);
  assert.match(error, /^hv: the console cannot go to \/no\/such\/folder\/log: [^\n]+\n$/);
});

Deno.test("hv doctor tells of each backend, for a person and for a program", async () => {
  const json = await hv("doctor", "--json");
  const report = JSON.parse(json.out);
  assert.equal(json.error, "");
  const { choices } = COMMANDS.find(({ name }) => name === "run")!.options.find(({ name }) => name === "backend")!;
  for (const { name } of report.backends) assert.ok(choices!.includes(name), `--backend ${name}`);
  for (const { support } of report.backends) assert.match(support.reason, /\S/);
  assert.equal(json.code, report.choice.usable ? 0 : 1);
  const text = await hv("doctor");
  assert.equal(text.code, json.code);
  for (const { name, support } of report.backends) {
    const verdict = support.usable ? "works" : support.restricted ? "restricted" : "does not work";
    assert.ok(text.out.includes(`\n${name}: ${verdict}: ${support.reason}\n`), text.out);
  }
  for (const { support } of report.backends) {
    if (support.advice) assert.ok(text.out.includes(`\n  what to do: ${support.advice}\n`), text.out);
  }
  assert.ok(text.out.endsWith(`\nhv run: ${report.choice.line}\n`));
  assert.ok(report.choice.line.length < 160, `a line that is read: ${report.choice.line}`);
});

Deno.test({
  name: "hv's reports end quietly when nobody reads them",
  ignore: needs(!windows, "hv's reports into a closed pipe", "needs a Unix shell"),
  fn: async () => {
    const line = `{ '${Deno.execPath()}' run -A --quiet --no-check '${MAIN}' run --help; echo "code=$?" >&2; } | true`;
    const { stderr } = await new Deno.Command("sh", { args: ["-c", line] }).output();
    assert.equal(new TextDecoder().decode(stderr), "code=0\n");
  },
});
