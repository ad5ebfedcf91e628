/** What README.md promises, done as it says. */
import assert from "node:assert/strict";
import { probeBackends } from "../mod.ts";
import { ROOT } from "./guests/cache.ts";
import { TOOL_ENV, which } from "./guests/command.ts";
import { demoDisk } from "./guests/demo_disk.ts";
import { copyDisk } from "./guests/image.ts";
import { debianKernel } from "./guests/kernel.ts";
import { Terminal } from "./guests/terminal.ts";
import { needs } from "./skip.ts";

/** Seconds for a guest to boot: on a machine that is busy with other things, the software CPU takes minutes. */
const BOOT = 240;

const readme = await Deno.readTextFile(`${ROOT}/README.md`);
const usable = (await probeBackends()).some(({ support }) => support.usable);
const ignore = needs(usable, "README", "no backend can run a stock kernel here: see hv doctor") ||
  needs(which("apt-get") !== null, "README", "the demo disk is made of Debian's packages");

/** The code blocks of a language, as they stand there. */
function blocks(language: string): string[] {
  return [...readme.matchAll(new RegExp(`^\`\`\`${language}\n(.*?)^\`\`\``, "gms"))].map((match) => match[1]);
}

/** Runs `work` in a folder with a copy of the demo disk in it, named as the README names it. */
async function withDisk(work: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "hv-readme-" });
  try {
    await copyDisk(await demoDisk(), `${folder}/disk.img`);
    await work(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test({
  name: "README: the script runs as it is written",
  ignore,
  fn: () =>
    withDisk(async (folder) => {
      const [script, ...others] = blocks("ts");
      assert.equal(others.length, 0, "one script");
      assert.ok(script.trim().split("\n").length <= 12, "the script is short");
      await Deno.writeTextFile(`${folder}/script.ts`, script);
      // The README's reader stands in the checkout; here it is the disk's folder, so that nothing is left in the checkout.
      await Deno.writeTextFile(`${folder}/mod.ts`, `export * from "${ROOT}/mod.ts";\n`);
      const before = await Deno.readFile(`${folder}/disk.img`);
      await using terminal = new Terminal([Deno.execPath(), "run", "-A", "script.ts"], { cwd: folder });
      const { code, output, errors } = await terminal.end(BOOT + 60);
      assert.equal(code, 0, errors);
      assert.equal(output, `the guest runs Linux ${(await debianKernel("cloud")).release}\nthe guest powered off\n`);
      assert.ok(
        Buffer.from(before).equals(await Deno.readFile(`${folder}/disk.img`)),
        "ephemeral: the disk is as it was",
      );
      assert.deepEqual([...Deno.readDirSync(folder)].map(({ name }) => name).sort(), [
        "disk.img",
        "mod.ts",
        "script.ts",
      ]);
    }),
});

Deno.test({
  name: "README: a disk's console in a terminal, and the shell back after poweroff",
  ignore: ignore || needs(which("script") !== null, "README in a terminal", "needs util-linux's script"),
  fn: () =>
    withDisk(async (folder) => {
      const [session] = blocks("console");
      const hv = `deno run -A --quiet '${ROOT}/cli/main.ts'`;
      const command = session.match(/^\$ (deno task hv run disk\.img)$/m)?.[1];
      assert.ok(command, "the session begins with the main command");
      const shell = `${command.replace("deno task hv", hv)}; echo "[$?]"`;
      await using terminal = new Terminal(["script", "-q", "-e", "-c", shell, "/dev/null"], {
        cwd: folder,
        env: { PATH: `${Deno.execPath().replace(/\/[^/]*$/, "")}:${TOOL_ENV.PATH}` },
      });
      // Each line of hv's own in the README is said, with this machine's backend and kernel version.
      const own = session.split("\n").filter((line) => line.startsWith("hv: "));
      assert.ok(own.length >= 2);
      await terminal.expect(/hv: using \w+/, 30);
      await terminal.expect(/hv: starts 'Debian GNU\/Linux' \(grub\.cfg\): Linux [\w.-]+-cloud-amd64/, 30);
      await terminal.expect("hv-demo login: ", BOOT);
      await terminal.send("root\r");
      await terminal.expect("# ", BOOT);
      await terminal.send("poweroff\r");
      await terminal.expect("[0]", BOOT);
      assert.equal((await terminal.end(30)).code, 0);
    }),
});

Deno.test({
  name: "README: hv inspect, hv doctor and the help say what it says they do",
  ignore,
  fn: () =>
    withDisk(async (folder) => {
      const hv = async (...args: string[]) => {
        const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
          args: ["run", "-A", "--quiet", `${ROOT}/cli/main.ts`, ...args],
          cwd: folder,
          stdin: "null",
        }).output();
        const decoder = new TextDecoder();
        assert.equal(code, 0, decoder.decode(stderr));
        return decoder.decode(stdout);
      };
      assert.match(await hv("inspect", "disk.img"), /Debian GNU\/Linux/);
      assert.match(await hv("doctor"), /soft: works/);
      const help = await hv("run", "--help");
      for (const option of readme.match(/--[a-z]+/g)!.filter((one) => one !== "--help")) {
        assert.ok(help.includes(option), option);
      }
    }),
});

Deno.test("README: every link, task and file it names is there", async () => {
  const { tasks } = JSON.parse(await Deno.readTextFile(`${ROOT}/deno.json`));
  for (const [, name] of readme.matchAll(/(?:deno|deno@[\d.]+) task (\w+)/g)) assert.ok(tasks[name], `task ${name}`);
  for (const [, path] of readme.matchAll(/\]\(([^)#:]+)\)/g)) await Deno.stat(`${ROOT}/${path}`);
});
