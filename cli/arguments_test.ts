import assert from "node:assert/strict";
import { nearest, parseArguments, type Syntax, UsageError, wholeNumber } from "./arguments.ts";

const SYNTAX: Syntax = {
  name: "run",
  positionals: [{ name: "DISK", required: false }],
  options: [
    { name: "memory", value: "SIZE", description: "" },
    { name: "backend", value: "NAME", choices: ["auto", "kvm", "soft"], description: "" },
    { name: "disk", value: "FILE", repeatable: true, description: "" },
    { name: "append", value: "TEXT", description: "" },
    { name: "ephemeral", description: "" },
    { name: "help", description: "" },
  ],
};
const parse = (...args: string[]) => parseArguments(SYNTAX, args);

Deno.test("arguments: options with values in either form, flags, repeated ones, positionals between them", () => {
  const args = parse("--memory", "2G", "a.img", "--disk=b", "--disk", "c", "--ephemeral");
  assert.equal(args.value("memory"), "2G");
  assert.deepEqual(args.values("disk"), ["b", "c"]);
  assert.ok(args.has("ephemeral"));
  assert.ok(!args.has("backend"));
  assert.equal(args.value("backend"), undefined);
  assert.deepEqual(args.positionals, ["a.img"]);
});

Deno.test("arguments: values that look like options, and names that do", () => {
  assert.equal(parse("--append", "-v").value("append"), "-v");
  assert.equal(parse("--append=--verbose root=/dev/vda").value("append"), "--verbose root=/dev/vda");
  assert.equal(parse("--append=").value("append"), "");
  assert.deepEqual(parse("--", "--memory").positionals, ["--memory"]);
  assert.deepEqual(parse("-").positionals, ["-"]);
});

const wrong: [string[], string][] = [
  [["--memroy", "2G"], "unknown option '--memroy': did you mean '--memory'?"],
  [["--mem=2G"], "unknown option '--mem': did you mean '--memory'?"],
  [["--ephemreal"], "unknown option '--ephemreal': did you mean '--ephemeral'?"],
  [["-m"], "unknown option '-m': there is --memory, --backend, --disk, --append, --ephemeral, --help"],
  [["--memory"], "--memory needs a value: --memory SIZE"],
  [["--memory", "--ephemeral"], "--memory needs a value: --memory SIZE"],
  [["--ephemeral=yes"], "--ephemeral takes no value"],
  [["--backend", "kvn"], "--backend: unknown value 'kvn': did you mean 'kvm'?"],
  [["--backend", "xen"], "--backend: unknown value 'xen': there is auto, kvm, soft"],
  [["--memory=1G", "--memory=2G"], "--memory is given twice: 1G and 2G"],
  [["a.img", "b.img"], "do not know what to do with 'b.img'"],
];
for (const [args, message] of wrong) {
  Deno.test(`arguments: ${args.join(" ")} is answered in words`, () => {
    assert.throws(() => parse(...args), new UsageError(message));
  });
}

Deno.test("arguments: a missing positional is named, unless help is asked for", () => {
  const syntax: Syntax = { ...SYNTAX, positionals: [{ name: "SHELL", required: true, choices: ["bash", "zsh"] }] };
  assert.throws(() => parseArguments(syntax, []), new UsageError("SHELL is missing"));
  assert.throws(
    () => parseArguments(syntax, ["bsh"]),
    new UsageError("SHELL: unknown value 'bsh': did you mean 'bash'?"),
  );
  assert.ok(parseArguments(syntax, ["-h"]).has("help"));
});

Deno.test("arguments: whole numbers", () => {
  assert.equal(wholeNumber("--cpus", "16", 1), 16);
  for (const text of ["0", "-1", "1.5", "two", "", "1e3", "0x4", "99999999999999999999"]) {
    assert.throws(
      () => wholeNumber("--cpus", text, 1),
      new UsageError(`--cpus takes a whole number of at least 1, not '${text}'`),
    );
  }
});

Deno.test("arguments: only near words are suggested", () => {
  const words = ["run", "inspect", "doctor", "completions"];
  assert.equal(nearest("rnu", words), "run");
  assert.equal(nearest("docter", words), "doctor");
  assert.equal(nearest("comp", words), "completions");
  assert.equal(nearest("start", words), null);
  assert.equal(nearest("x", words), null);
});
