/**
 * Valgrind's own tests of instructions (none/tests/amd64 of Debian's source package), as programs in a guest on the
 * software CPU: `deno run -A tests/cpu/valgrind_suite.ts [--only=NAME,...]`. Each is compiled once, run by the host's
 * CPU and in the guest, and must write the same.
 */
import { CACHE } from "../guests/cache.ts";
import { tool } from "../guests/command.ts";
import { busyboxEntries, cpio, type Entry } from "../guests/initramfs.ts";
import { debianKernel } from "../guests/kernel.ts";
import { sourcePackage } from "../guests/source_package.ts";

/** Instructions that the CPU does not offer (see its CPUID): their programs end themselves or are not run. */
const NOT_OFFERED =
  /^(avx|bmi|f16c|fma|lzcnt|mpx|xacq|rdseed|rdrand|aes|insn_pclmulqdq|movbe|fb_test|adx|tm1|looper|bug132813)/;

/** Programs that say nothing about a CPU that keeps to the manual. */
const EXPLAINED: Record<string, string> = {
  allexec: "starts programs of its own build tree",
  shrld: "prints SHLD and SHRD of 16 bits by more than 16, which are undefined (SDM vol. 2)",
};

export interface Program {
  name: string;
  file: string;
  /** What the host's CPU wrote, as a hash. */
  expected: string;
}

async function sha(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return [...hash].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Compiles the programs, and runs each here. */
export async function buildPrograms(only: string[]): Promise<{ programs: Program[]; left: Record<string, string> }> {
  const root = await sourcePackage("valgrind");
  const folder = `${root}/none/tests/amd64`;
  const out = `${CACHE}/cpu/valgrind`;
  await Deno.mkdir(out, { recursive: true });
  const programs: Program[] = [];
  const left: Record<string, string> = {};
  for (const { name: file } of [...Deno.readDirSync(folder)].sort((a, b) => a.name < b.name ? -1 : 1)) {
    const [, name, kind] = file.match(/^(.*)\.(c|def)$/) ?? [];
    if (!name || (only.length > 0 && !only.includes(name))) continue;
    if (NOT_OFFERED.test(name)) {
      left[name] = "not offered by CPUID";
      continue;
    }
    if (EXPLAINED[name]) {
      left[name] = EXPLAINED[name];
      continue;
    }
    let source = `${folder}/${file}`;
    const program = `${out}/${name}`;
    try {
      if (kind === "def") {
        source = `${out}/${name}.c`;
        await Deno.writeFile(source, await tool(["perl", `${folder}/gen_insn_test.pl`, `${folder}/${file}`]));
      }
      const include = ["-I", root, "-I", folder, "-I", `${root}/include`];
      const flags = ["-static", "-no-pie", "-O1", "-w", "-fno-strict-aliasing", "-msse4.2", "-mcx16"];
      await tool(["gcc", ...flags, ...include, source, "-o", program, "-lm", "-lpthread"]);
    } catch (error) {
      left[name] = `does not compile: ${(error as Error).message.split("\n")[0].slice(0, 120)}`;
      continue;
    }
    const { code, stdout } = await new Deno.Command(program, {
      cwd: folder,
      stdin: "null",
      stderr: "null",
      signal: AbortSignal.timeout(30_000),
    }).output();
    programs.push({ name, file: program, expected: `${code} ${await sha(stdout as Uint8Array<ArrayBuffer>)}` });
  }
  return { programs, left };
}

/** Runs them in a guest: exit status and hash of each. */
export async function runInGuest(programs: Program[], seconds: number): Promise<Map<string, string>> {
  const kernel = await debianKernel();
  const entries: Entry[] = await busyboxEntries();
  for (const { name, file } of programs) {
    entries.push({ path: `t/${name}`, data: await Deno.readFile(file), mode: 0o755 });
  }
  const lines = [
    "#!/bin/sh",
    "mount -t devtmpfs dev /dev; mount -t proc proc /proc",
    "cd /t",
    ...programs.map(({ name }) =>
      `./${name} </dev/null >/tmp/out 2>/dev/null; echo RESULT ${name} $? $(sha256sum </tmp/out | cut -c1-64)`
    ),
    "echo RESULTS END",
    "poweroff -f",
    "",
  ];
  entries.push({ path: "init", data: lines.join("\n"), mode: 0o755 });
  const folder = await Deno.makeTempDir({ prefix: "hv-cpu-" });
  try {
    await Deno.writeFile(`${folder}/initrd`, cpio(entries));
    const { stdout } = await new Deno.Command(Deno.execPath(), {
      args: [
        ...["run", "-A", "--no-check", new URL("../../cli/main.ts", import.meta.url).pathname, "run"],
        ...["--backend", "soft", "--memory", "512M", "--timeout", `${seconds}s`, "--kernel", kernel.vmlinuz],
        ...["--initrd", `${folder}/initrd`, "--append", "console=ttyS0 quiet panic=-1"],
      ],
      stdin: "null",
      stderr: "inherit",
    }).output();
    const text = new TextDecoder().decode(stdout);
    if (!text.includes("RESULTS END")) console.error(`the guest did not get to the end:\n${text.slice(-1500)}`);
    return new Map([...text.matchAll(/^RESULT (\S+) (\d+ [0-9a-f]{64})/gm)].map(([, name, result]) => [name, result]));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

if (import.meta.main) {
  const only = Deno.args.find((one) => one.startsWith("--only="))?.slice(7).split(",") ?? [];
  const { programs, left } = await buildPrograms(only);
  const results = await runInGuest(programs, 280);
  let passed = 0;
  for (const { name, expected } of programs) {
    const result = results.get(name);
    if (result === expected) passed++;
    else console.log(`FAIL ${name}: host ${expected.slice(0, 12)}, guest ${result?.slice(0, 12) ?? "nothing"}`);
  }
  for (const [name, why] of Object.entries(left)) console.log(`left out ${name}: ${why}`);
  console.log(
    `valgrind none/tests/amd64: ${passed} of ${programs.length} passed, ${Object.keys(left).length} left out`,
  );
  Deno.exit(passed === programs.length ? 0 : 1);
}
