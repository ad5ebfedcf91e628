/** What is proven of hv on Windows without a Windows. */
import assert from "node:assert/strict";
import { demoDisk } from "../../guests/demo_disk.ts";
import { text, tool } from "../../guests/command.ts";
import { copyDisk, partitionsOf } from "../../guests/image.ts";
import { loginWritePoweroff, proveWritten } from "../../guests/session.ts";
import { Terminal } from "../../guests/terminal.ts";
import { ROOT } from "../../guests/cache.ts";
import { readTally, type Tally } from "../../tally.ts";
import type { KvmHost } from "./kvm_host.ts";
import { windowsPath, type WineLab } from "./wine.ts";

/** One suite. */
export interface WindowsSuite {
  readonly name: string;
  /** Left out of the short form. */
  readonly long?: boolean;
  /** Left out of the short form where it would run in the lab: `deno task lab --long` has it as well. */
  readonly longInLab?: boolean;
  /** Needs /dev/kvm, of whatever kind: this machine's, or the lab's. */
  readonly kvm?: boolean;
  run(wine: WineLab, kvm: () => Promise<KvmHost>): Promise<Tally>;
}

const HV = windowsPath(`${ROOT}/cli/main.ts`);
const CLOSE_WINDOW = windowsPath(new URL("./close_window.ts", import.meta.url).pathname);
const CONSOLE_TEST = `${ROOT}/cli/windows_console_test.ts`;
/** Unit tests of what differs on Windows, and of what every platform shares; those that need Linux' tools skip. */
const UNIT_TESTS = [
  "core",
  "storage/host_file_test.ts",
  "storage/disk_test.ts",
  "storage/abi",
  "backends/whpx",
  "backends/x64",
  ...testsIn("devices").filter((path) => !path.endsWith("virtio/file_test.ts")), // wants holes, which Wine has not
  "cli/arguments_test.ts",
  "cli/completions_test.ts",
  "cli/escape_test.ts",
  "cli/windows_console_test.ts",
];

function testsIn(folder: string): string[] {
  return [...Deno.readDirSync(`${ROOT}/${folder}`)].flatMap(({ name, isDirectory }) =>
    isDirectory ? testsIn(`${folder}/${name}`) : name.endsWith("_test.ts") ? [`${folder}/${name}`] : []
  ).sort();
}

const one = (): Tally => ({ passed: 1, failed: 0, skipped: 0, reasons: [] });

async function hv(wine: WineLab, args: string[], seconds = 60): Promise<string> {
  const { code, output } = await wine.deno(["run", "-A", "--quiet", HV, ...args], { seconds });
  assert.equal(code, 0, `hv ${args.join(" ")} ended with ${code}:\n${output}`);
  return output;
}

/** A copy of the demo disk in a folder with a space in its name. */
async function withDisk<T>(action: (path: string) => Promise<T>): Promise<T> {
  const folder = await Deno.makeTempDir({ prefix: "hv windows " });
  try {
    await copyDisk(await demoDisk(), `${folder}/demo disk.img`);
    return await action(`${folder}/demo disk.img`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** In order. */
export const windowsSuites: readonly WindowsSuite[] = [
  {
    name: "the shim refuses every misuse; CPUID leaves the guest where that was asked for; by deno.exe",
    kvm: true,
    run: async (_, kvm) => {
      const script = windowsPath(new URL("./refusals.ts", import.meta.url).pathname);
      const args = ["run", "-A", "--quiet", "--no-check", script];
      const { code, output } = await (await kvm()).denoExe(args, { HV_CONFORMANCE_TIMEOUT: "60" }, 200);
      return show(output, code);
    },
  },
  {
    name: "WHPX backend over the shim, Deno on Linux: conformance",
    kvm: true,
    longInLab: true,
    run: async (_, kvm) => {
      const args = ["run", "-A", "--quiet", "--no-check", "tests/conformance/run.ts", "--backend=whpx"];
      const { code, output } = await (await kvm()).denoLinux(args, { HV_CONFORMANCE_TIMEOUT: "60" }, 400);
      return show(output, code);
    },
  },
  {
    name: "unit tests on deno.exe",
    run: async (wine) => {
      const { code, output } = await wine.deno(["test", "-A", "--no-check", ...UNIT_TESTS], {
        seconds: 600,
      });
      return show(output, code);
    },
  },
  {
    name: "WHPX backend over WinHvPlatform.dll, deno.exe: conformance",
    kvm: true,
    run: async (_, kvm) => {
      const args = ["run", "-A", "--quiet", "--no-check", "tests/conformance/run.ts", "--backend=whpx"];
      const { code, output } = await (await kvm()).denoExe(args, { HV_CONFORMANCE_TIMEOUT: "60" }, 560);
      return show(output, code);
    },
  },
  {
    name: "hv doctor --self-test on deno.exe: the software CPU's conformance, and a report to send in",
    long: true,
    run: async (wine) => {
      const { code, output } = await wine.deno(["run", "-A", "--quiet", HV, "doctor", "--self-test"], {
        env: { HV_CONFORMANCE_TIMEOUT: "60" },
        seconds: 600,
      });
      assert.equal(code, 0, output);
      assert.match(output, /^hv .*windows/m, output);
      assert.match(output, /^soft: [1-9]\d+ passed, 0 failed, \d+ skipped in /m, output);
      assert.match(output, /^whpx: not here: /m, output);
      assert.match(output, /^Nothing failed\./m, output);
      return one();
    },
  },
  {
    name: "hv doctor on deno.exe says why there is no WHPX, and what runs guests instead",
    run: async (wine) => {
      const { output } = await wine.deno(["run", "-A", "--quiet", HV, "doctor"], { seconds: 60 });
      assert.match(output, /^hv .*windows/m, output);
      assert.match(
        output,
        /^whpx: does not work: .+\s+what to do: .*(dism \/online|hypervisorlaunchtype)/m,
        output,
      );
      assert.match(output, /^hv run: using soft; not whpx: /m, output);
      return one();
    },
  },
  {
    name: "hv inspect on deno.exe: a disk with a space in its path, by forward slashes, on a share",
    run: (wine) =>
      withDisk(async (path) => {
        const folder = path.slice(0, path.lastIndexOf("/"));
        await using share = await wine.share(folder);
        const spellings = [windowsPath(path).replaceAll("\\", "/"), `${share.path}\\demo disk.img`];
        for (const spelling of spellings) {
          const output = await hv(wine, ["inspect", spelling]);
          assert.match(output, /vmlinuz/, `${spelling}: ${output}`);
        }
        const { code, output } = await wine.deno(
          ["run", "-A", "--quiet", HV, "inspect", "\\\\no-such-server\\share\\disk.img"],
        );
        assert.equal(code, 1, output);
        assert.match(output, /no-such-server.*no such file; check the path/, output);
        return one();
      }),
  },
  {
    name: "a script against mod.ts on deno.exe",
    run: (wine) =>
      withDisk(async (path) => {
        const script = windowsPath(new URL("./script.ts", import.meta.url).pathname);
        const { code, output } = await wine.deno(["run", "-A", "--quiet", script, windowsPath(path)], { seconds: 90 });
        assert.equal(code, 0, output);
        assert.match(output, /the machine was stopped/, output);
        return one();
      }),
  },
  {
    name: "hv run on deno.exe: the demo disk on the software CPU, its file written and its disk clean",
    long: true,
    run: (wine) =>
      withDisk(async (path) => {
        const { argv, env } = wine.command([
          ...["run", "-A", "--quiet", HV, "run", windowsPath(path)],
          ...["--backend", "soft", "--memory", "256M"],
        ]);
        await using terminal = new Terminal(argv, { env, onOutput: (text) => Deno.stderr.writeSync(encode(text)) });
        const { code } = await loginWritePoweroff(terminal, 600);
        assert.equal(code, 0);
        await terminal[Symbol.asyncDispose]();
        await proveWritten(path);
        return one();
      }),
  },
  {
    name: "hv run on deno.exe in a console window: a pseudo-terminal, escape sequences, keys",
    long: true,
    run: (wine) =>
      withDisk(async (path) => {
        const { argv, env } = wine.command([
          ...["run", "-A", "--quiet", HV, "run", windowsPath(path)],
          ...["--backend", "soft", "--memory", "256M", "--ephemeral"],
        ]);
        await using terminal = onPseudoTerminal(argv, env);
        await terminal.expect(/login:/, 600);
        await terminal.sendLine("root");
        await terminal.expect(/root#/, 120);
        // The answer is not what was typed, and does not come without it.
        await terminal.sendLine("echo $((6 * 7))-of-$(uname -s)");
        await terminal.expect(/42-of-Linux/, 120);
        await terminal.sendLine("poweroff");
        const { code, output } = await terminal.end(300);
        assert.equal(code, 0);
        assert.match(output, /hv: the guest powered off/);
        return one();
      }),
  },
  {
    name: "the console's modes and code pages on deno.exe, on a pseudo-terminal",
    run: async (wine) => {
      const { argv, env } = wine.command(["test", "-A", "--no-check", windowsPath(CONSOLE_TEST)]);
      await using terminal = onPseudoTerminal(argv, env);
      const { code, output } = await terminal.end(120);
      assert.equal(code, 0, output);
      // Told apart from a test that was skipped for want of a console.
      assert.match(output, /3 passed .* 0 failed .*ignored/, output);
      return one();
    },
  },
  {
    name: "hv run on deno.exe, its console window closed: the machine ends by itself, and leaves nothing",
    long: true,
    run: (wine) =>
      withDisk(async (path) => {
        await using temporary = await temporaryFolder(path);
        const trigger = `${path}.close`;
        const { argv, env } = wine.command([
          ...["run", "-A", "--quiet", CLOSE_WINDOW, windowsPath(trigger), HV, "run", windowsPath(path)],
          ...["--backend", "soft", "--memory", "256M", "--ephemeral"],
        ]);
        await using terminal = onPseudoTerminal(argv, { ...env, ...temporary.env });
        await terminal.expect(/login:/, 600);
        assert.equal(temporary.overlays().length, 1, "the overlay has a name on Windows");
        await Deno.writeTextFile(trigger, "");
        await terminal.expect(/hv: the terminal has hung up: pressing the power button/, 60);
        const { output } = await terminal.end(120);
        assert.match(output, /hv: the (guest powered off|machine was stopped)/, output);
        assert.match(output, /its window was closed: it ended with code [01] after \d+\.\d s/, output);
        assert.deepEqual(temporary.overlays(), []);
        return one();
      }),
  },
  {
    name: "hv run on deno.exe, killed: no temporary file and no lock are left, and what was synced is on the disk",
    long: true,
    run: (wine) =>
      withDisk(async (path) => {
        await using temporary = await temporaryFolder(path);
        const run = (...more: string[]) => [
          ...["run", "-A", "--quiet", HV, "run", windowsPath(path), "--backend", "soft", "--memory", "256M"],
          ...more,
        ];
        const start = (...more: string[]) => {
          const { argv, env } = wine.command(run(...more));
          return new Terminal(argv, { env: { ...env, ...temporary.env } });
        };
        {
          await using terminal = start("--ephemeral");
          await until(() => temporary.overlays().length === 1 && terminal.errors.includes("hv: starts"), 120);
          terminal.kill("SIGKILL");
          await terminal.end(60);
          // Wine's server notices it a moment later.
          await until(() => temporary.overlays().length === 0, 60);
        }
        {
          await using terminal = start();
          await terminal.expect(/login: /, 600);
          await terminal.sendLine("root");
          await terminal.expect(/[~\w]# /, 120);
          await terminal.sendLine("echo kept > /root/kept; sync; echo syn''ced; while :; do date >> /root/more; done");
          await terminal.expect(/synced/, 120);
          const second = await wine.deno(run("--timeout", "1s"), { seconds: 120 });
          assert.equal(second.code, 1, second.output);
          assert.match(second.output, /another process has it open; stop that machine first/, second.output);
          terminal.kill("SIGKILL");
          await terminal.end(60);
        }
        const again = await wine.deno(run("--timeout", "1s"), { seconds: 120 });
        assert.equal(again.code, 124, `the lock is gone: ${again.output}`);
        const root = await rootAfterPowerCut(path);
        assert.equal(await text(["debugfs", "-R", "cat /root/kept", root]), "kept\n");
        assert.deepEqual(temporary.overlays(), []);
        return one();
      }),
  },
];

/** script(1) makes the pseudo-terminal; Wine's conhost makes a console of Windows of it, and paints it. */
function onPseudoTerminal(argv: readonly string[], env: Record<string, string>): Terminal {
  const quoted = argv.map((word) => `'${word}'`).join(" ");
  return new Terminal(["script", "-qec", quoted, "/dev/null"], {
    env: { ...env, TERM: "xterm" },
    onOutput: (text) => Deno.stderr.writeSync(encode(text)),
  });
}

/** A folder for temporary files beside a disk, as programs on Wine are told of it, and hv's overlays in it. */
async function temporaryFolder(disk: string) {
  const folder = `${disk}.temporary`;
  await Deno.mkdir(folder);
  return {
    // Wine has its own TEMP, whatever it is given, and its server reads TMPDIR too: a path that both understand.
    env: { TMPDIR: folder },
    overlays: () => [...Deno.readDirSync(folder)].map(({ name }) => name).filter((name) => name.startsWith("hv-")),
    [Symbol.asyncDispose]: () => Deno.remove(folder, { recursive: true }),
  };
}

/**
 * A copy of the root file system of a disk whose guest lost its power, made whole by its journal.
 * @throws if anything else is to repair
 */
async function rootAfterPowerCut(disk: string): Promise<string> {
  const root = (await partitionsOf(disk)).at(-1)!;
  const file = `${disk}.root`;
  const place = [`skip=${root.offset}`, `count=${root.size}`, "iflag=skip_bytes,count_bytes"];
  await tool(["dd", `if=${disk}`, `of=${file}`, ...place, "bs=1M", "conv=sparse", "status=none"]);
  // 0 and 1: clean, or made clean by the journal. The second look tells that from damage.
  const { code, stdout } = await new Deno.Command("e2fsck", { args: ["-p", file], stderr: "inherit" }).output();
  assert.ok(code <= 1, `e2fsck -p ended with ${code}: ${new TextDecoder().decode(stdout)}`);
  await tool(["e2fsck", "-fn", file]);
  return file;
}

/** Waits until `done`; at most so many seconds. */
async function until(done: () => boolean, seconds: number): Promise<void> {
  for (const end = Date.now() + seconds * 1000; !done();) {
    assert.ok(Date.now() < end, `${seconds} s passed before ${done}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const encode = (text: string) => new TextEncoder().encode(text);

/** Shows what a suite printed, and counts it. */
function show(output: string, code: number): Tally {
  const tally = readTally(output, code);
  const lines = output.split("\n").filter((line) => /FAIL|SKIPPED|not here|passed|error/i.test(line));
  Deno.stderr.writeSync(encode((tally.failed ? output : lines.join("\n")) + "\n"));
  return tally;
}
