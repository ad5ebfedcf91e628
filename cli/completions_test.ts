import assert from "node:assert/strict";
import { needs } from "../tests/skip.ts";
import { COMMANDS, SHELLS } from "./commands.ts";
import { completions } from "./completions.ts";

const decoder = new TextDecoder();

function installed(shell: string): boolean {
  try {
    return new Deno.Command(shell, { args: ["-c", "true"], stdout: "null", stderr: "null" }).outputSync().success;
  } catch {
    return false;
  }
}

/** Runs a shell with the completions in a file, in a folder that has `some file.img` in it. */
async function run(shell: (typeof SHELLS)[number], flags: string[], program: (file: string) => string) {
  const folder = await Deno.makeTempDir({ prefix: "hv-completions-" });
  try {
    await Deno.writeTextFile(`${folder}/hv.${shell}`, completions(shell));
    await Deno.writeTextFile(`${folder}/some file.img`, "");
    const { stdout, stderr } = await new Deno.Command(shell, {
      args: [...flags, "-c", program(`${folder}/hv.${shell}`)],
      cwd: folder,
      env: { HOME: folder, XDG_CONFIG_HOME: folder, TERM: "dumb" },
      stdin: "null",
    }).output();
    return { out: decoder.decode(stdout), error: decoder.decode(stderr) };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** What is typed, and words that must (or, after `!`, must not) be offered. */
const CASES: [typed: string, offered: string[]][] = [
  ["hv ", ["run", "inspect", "doctor", "completions"]],
  ["hv do", ["doctor", "!run"]],
  ["hv run --", ["--backend", "--ephemeral", "--timeout", "!--json"]],
  ["hv run --eph", ["--ephemeral", "!--backend"]],
  ["hv run --backend ", ["auto", "kvm", "whpx", "soft", "!run"]],
  ["hv run --cpus 2 --backend k", ["kvm", "!auto"]],
  ["hv doctor --j", ["--json"]],
  ["hv completions ", [...SHELLS]],
];

function check(typed: string, offered: string[], words: string[], context: string): void {
  for (const word of offered) {
    const wanted = !word.startsWith("!");
    assert.equal(words.includes(word.replace("!", "")), wanted, `'${typed}' ${word}: ${words.join(" ")}\n${context}`);
  }
}

Deno.test({
  name: "completions: bash",
  ignore: needs(installed("bash"), "completions: bash", "install bash"),
  fn: async () => {
    const press = CASES.map(([typed]) => `press ${JSON.stringify(typed)}`).join("\n");
    const { out, error } = await run("bash", ["--norc"], (file) =>
      `source ${file}; complete -p hv
       press() {
         read -ra COMP_WORDS <<<"$1"; [[ $1 == *' ' ]] && COMP_WORDS+=('')
         COMP_CWORD=$((\${#COMP_WORDS[@]} - 1)); COMPREPLY=(); _hv; echo "\${COMPREPLY[@]}"
       }
       ${press}
       COMP_WORDS=(hv run --backend = s) COMP_CWORD=4; _hv; echo "\${COMPREPLY[@]}"
       COMP_WORDS=(hv run --disk so) COMP_CWORD=3; _hv; echo "files:\${#COMPREPLY[@]}"`);
    assert.equal(error, "");
    const lines = out.split("\n");
    assert.equal(lines.shift(), "complete -o default -F _hv hv");
    for (const [typed, offered] of CASES) check(typed, offered, lines.shift()!.split(" "), out);
    assert.equal(lines.shift(), "soft");
    assert.equal(lines.shift(), "files:0", "no words of ours: bash completes files");
  },
});

Deno.test({
  name: "completions: fish",
  ignore: needs(installed("fish"), "completions: fish", "install fish"),
  fn: async () => {
    const press = CASES.map(([typed]) => `complete -C '${typed}'; echo ---`).join("\n");
    const { out, error } = await run(
      "fish",
      ["--no-config"],
      (file) => `source ${file}\n${press}\ncomplete -C 'hv run some'; echo ---`,
    );
    assert.equal(error, "");
    const answers = out.split("---\n").map((answer) => answer.split("\n").map((line) => line.split("\t")[0]));
    CASES.forEach(([typed, offered], index) => check(typed, offered, answers[index], out));
    assert.ok(
      answers[CASES.length].includes("some\\ file.img") || answers[CASES.length].includes("some file.img"),
      out,
    );
  },
});

Deno.test({
  name: "completions: zsh",
  ignore: needs(installed("zsh"), "completions: zsh", "install zsh"),
  fn: async () => {
    // A zsh in a pseudo-terminal of a zsh, where Tab is pressed; it lists what it would offer.
    const { out, error } = await run("zsh", ["-f"], (file) =>
      `zmodload zsh/zpty
       zpty -b shell zsh -f -i
       zpty -w shell 'PS1=; unsetopt prompt_sp; unset zle_bracketed_paste; autoload -Uz compinit
         compinit -D -u; LISTMAX=1000; bindkey "^I" list-choices
         mark() { zle -I; print -r -- "@@""@"; }; zle -N mark; bindkey "^X" mark
         source ${file}; print REA""DY'
       zpty -r -m shell line '*READY*'
       press() {
         # Ctrl-U takes away what was typed before; the mark comes after the list.
         zpty -w -n shell $'\\x15'"$1"$'\\t\\x18'
         local all; zpty -r -m shell all '*@@@*'
         print -r -- "$all"; print -- ---
       }
       ${CASES.map(([typed]) => `press ${JSON.stringify(typed)}`).join("\n")}
       zpty -d shell`);
    assert.equal(error, "");
    // deno-lint-ignore no-control-regex
    const plain = out.replace(/\x1b\[[0-9;?]*[a-zA-Z]/g, "");
    // Neither what was typed nor what an option means.
    const answers = plain.split("---\n").map((answer) =>
      answer.split(/[\r\n]+/).filter((line) => !/^\s*hv /.test(line)).flatMap((line) =>
        line.replace(/ -- .*/, "").split(/\s+/)
      )
    );
    CASES.forEach(([typed, offered], index) => check(typed, offered, answers[index], out));
  },
});

Deno.test("completions name every command and option", () => {
  for (const shell of SHELLS) {
    const script = completions(shell);
    for (const command of COMMANDS) {
      assert.ok(script.includes(command.name));
      for (const { name } of command.options) {
        assert.ok(script.includes(shell === "fish" ? `-l ${name}` : `--${name}`), `${shell}: --${name}`);
      }
    }
  }
});
