/** What is proven of hv on Windows without a Windows. */
import assert from "node:assert/strict";
import { demoDisk } from "../../guests/demo_disk.ts";
import { copyDisk } from "../../guests/image.ts";
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
        seconds: 240,
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
    name: "hv inspect on deno.exe: a disk with a space in its path",
    run: (wine) =>
      withDisk(async (path) => {
        const output = await hv(wine, ["inspect", windowsPath(path)]);
        assert.match(output, /vmlinuz/, output);
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
        // script(1) makes the pseudo-terminal; Wine's conhost makes a console of Windows of it, and paints it.
        const quoted = argv.map((word) => `'${word}'`).join(" ");
        await using terminal = new Terminal(["script", "-qec", quoted, "/dev/null"], {
          env: { ...env, TERM: "xterm" },
          onOutput: (text) => Deno.stderr.writeSync(encode(text)),
        });
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
];

const encode = (text: string) => new TextEncoder().encode(text);

/** Shows what a suite printed, and counts it. */
function show(output: string, code: number): Tally {
  const tally = readTally(output, code);
  const lines = output.split("\n").filter((line) => /FAIL|SKIPPED|not here|passed|error/i.test(line));
  Deno.stderr.writeSync(encode((tally.failed ? output : lines.join("\n")) + "\n"));
  return tally;
}
