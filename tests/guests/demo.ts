/**
 * `deno task demo`: a small real guest disk, made of Debian's packages, and `hv run` on it.
 *
 * In a terminal the guest is the user's. Without one (CI, a pipe) it is driven: log in, write a file, power off. Where no
 * backend can run the guest, the same is shown inside the lab, where there is a KVM; with --lab that is done in any case.
 */
import { fileURLToPath } from "node:url";
import { lab } from "../lab/lab.ts";
import { ensureTools } from "../tools.ts";
import { CACHE, ROOT } from "./cache.ts";
import { demoDisk } from "./demo_disk.ts";
import { copyDisk, fsck } from "./image.ts";
import { proveWritten } from "./session.ts";

const HV = `${ROOT}/cli/main.ts`;
const DISK_TOOLS = ["e2fsprogs", "dosfstools", "mtools", "fdisk", "zstd"];
const LAB_TOOLS = ["qemu-system-x86"];

const say = (text: string) => console.error(`demo: ${text}`);

async function deno(args: readonly string[], stdin: "inherit" | "null"): Promise<number> {
  const child = new Deno.Command(Deno.execPath(), { args: [...args], stdin, stdout: "inherit", stderr: "inherit" });
  return (await child.spawn().status).code;
}

/** hv's own word on whether it can run a guest here, and on what. */
async function choice(): Promise<{ usable: boolean; line: string }> {
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", HV, "doctor", "--json"],
    stdin: "null",
  }).output();
  try {
    return JSON.parse(new TextDecoder().decode(stdout)).choice;
  } catch {
    throw new Error(`hv doctor failed:\n${new TextDecoder().decode(stderr)}`);
  }
}

async function require(packages: readonly string[]): Promise<void> {
  const missing = await ensureTools(packages);
  if (missing.length) throw new Error(`cannot go on without ${missing.join(", ")}`);
}

async function runHere(image: string): Promise<number> {
  if (Deno.stdin.isTerminal() && Deno.stdout.isTerminal()) {
    say(`hv run ${image}`);
    say("log in as root, no password; 'poweroff' ends it, and Ctrl-] then q ends it at once");
    const code = await deno(["run", "-A", "--quiet", HV, "run", image], "inherit");
    say(`hv ended with exit code ${code}; the disk is kept in ${image}`);
    return code;
  }
  say(`hv run ${image} (no terminal here: the guest is driven by a script)`);
  const driver = fileURLToPath(new URL("./boot.ts", import.meta.url));
  const code = await deno(["run", "-A", "--quiet", driver, image, "300"], "null");
  if (code === 0) await proveWritten(image);
  return code;
}

async function runInLab(image: string): Promise<number> {
  await require(LAB_TOOLS);
  say("the lab: a Linux with a real KVM on QEMU's software CPU, and in it: hv run --backend kvm");
  await using machine = await lab({ disks: [image], echo: true });
  const { code } = await machine.run("deno run -A tests/guests/boot.ts /dev/vda 120 --backend kvm && sync", 200);
  if (code === 0) await proveWritten(image);
  return code;
}

async function main(): Promise<number> {
  await require(DISK_TOOLS);
  say("making the guest's disk: Debian's kernel, busybox (cached after the first time)");
  const pristine = await demoDisk();
  const image = `${CACHE}/demo.img`;
  await copyDisk(pristine, image);
  const { usable, line } = await choice();
  const inLab = !usable || Deno.args.includes("--lab");
  if (!usable) {
    say(line);
    say("no backend of hv can run this guest on this machine yet, so it is shown inside the lab");
  }
  const code = await (inLab ? runInLab(image) : runHere(image));
  if (code === 0) {
    say(`the guest's file system is clean, by e2fsck -fn: ${(await fsck(image)).trim().split(": ").at(-1)}`);
  }
  return code;
}

try {
  Deno.exit(await main());
} catch (error) {
  say((error as Error).message);
  Deno.exit(1);
}
