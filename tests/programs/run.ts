/**
 * Real programs in a guest, compared with this machine's own CPU: each check of `checks/` runs in the same file tree in a
 * guest and here (chroot), and must print the same.
 *
 *   deno run -A tests/programs/run.ts [NAME]... [--short] [--backend NAME] [--cpus N]
 */
import { Machine } from "../../mod.ts";
import type { BackendName } from "../../core/hypervisor.ts";
import { ROOT } from "../guests/cache.ts";
import { text, tool } from "../guests/command.ts";
import { initrd } from "../guests/demo_disk.ts";
import { makeExt4 } from "../guests/image.ts";
import { debianKernel } from "../guests/kernel.ts";
import { programsDisk } from "./disk.ts";

const CHECKS = `${ROOT}/tests/programs/checks`;
const UUID = "8c5e2d71-0b4f-4f63-9a2e-d16f7c3b9e05";
const WORK_MIB = 64;
const TIME = 1767225600;

/** The names of all checks. */
export const CHECK_NAMES: readonly string[] = [...Deno.readDirSync(CHECKS)]
  .map(({ name }) => name).filter((name) => name.endsWith(".sh")).map((name) => name.slice(0, -3)).sort();

/** Runs all checks one after another; the console hears of each, its output goes to a file. */
const RUN_CHECKS = `for check in $(cat /mnt/names); do
  mkdir /tmp/$check && cd /tmp/$check && export HOME=/tmp/$check
  echo "begin $check"
  sh /mnt/checks/$check.sh "$(cat /mnt/length)" >/mnt/out/$check 2>&1
  echo "end $check $?"
  cd / && rm -rf /tmp/$check
done
`;

/** The guest's first program after it has mounted the work disk. */
const INIT = `export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 TZ=UTC TERM=dumb
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mkdir /run/shm && mount -t tmpfs shm /dev/shm 2>/dev/null
/bin/busybox ip link set lo up
. /mnt/run
dmesg >/mnt/out/dmesg
umount /mnt
echo "all ended"
/bin/busybox poweroff -f
`;

/** How the checks are run. */
export interface CheckOptions {
  readonly names?: readonly string[];
  readonly length: "short" | "long";
  readonly backend?: BackendName;
  readonly cpus?: number;
  /** The longest time one check may take in the guest, in seconds. */
  readonly limit: number;
  /** Told of each check when it has ended in the guest. */
  readonly onResult?: (result: CheckResult) => void;
}

/** What came of a check. */
export interface CheckResult {
  readonly name: string;
  readonly code: number;
  /** Seconds in the guest. */
  readonly seconds: number;
}

/** What all checks printed, here and there. */
export interface CheckReport {
  readonly results: CheckResult[];
  /** By name, what the host's CPU made of it. */
  readonly expected: Map<string, string>;
  /** By name, what the guest's CPU made of it. */
  readonly actual: Map<string, string>;
  /** The kernel's log of the guest. */
  readonly dmesg: string;
}

async function writeWork(folder: string, names: readonly string[], length: string): Promise<void> {
  await Deno.mkdir(`${folder}/out`, { recursive: true });
  await tool(["cp", "-r", CHECKS, `${folder}/checks`]);
  const genpkey = ["openssl", "genpkey", "-quiet", "-out"];
  await tool([...genpkey, `${folder}/checks/rsa.pem`, "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
  await tool([...genpkey, `${folder}/checks/ed25519.pem`, "-algorithm", "ED25519"]);
  await Deno.writeTextFile(`${folder}/init`, INIT);
  await Deno.writeTextFile(`${folder}/run`, RUN_CHECKS);
  await Deno.writeTextFile(`${folder}/names`, names.join("\n") + "\n");
  await Deno.writeTextFile(`${folder}/length`, length + "\n");
}

async function readOutputs(folder: string, names: readonly string[]): Promise<Map<string, string>> {
  const read = async (name: string) => await Deno.readTextFile(`${folder}/${name}`).catch(() => "");
  return new Map(await Promise.all(names.map(async (name) => [name, await read(name)] as const)));
}

/** Runs the checks on this machine's CPU, in the programs' tree, with name spaces of their own. */
async function runHere(tree: string, work: string): Promise<void> {
  const script = `set -e
mount --make-rprivate /
mount --bind "${tree}" "${tree}"
mount -t proc proc "${tree}/proc"
mount --rbind /dev "${tree}/dev"
mount -t tmpfs tmp "${tree}/tmp"
mount --bind "${work}" "${tree}/mnt"
mount -o remount,bind,ro "${tree}"
exec chroot "${tree}" /bin/sh /mnt/run
`;
  const env = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C.UTF-8", TZ: "UTC", TERM: "dumb" };
  await tool(["unshare", "-m", "-p", "-f", "sh", "-c", script], { env });
}

async function runInGuest(image: string, work: string, names: readonly string[], options: CheckOptions) {
  const kernel = await debianKernel("cloud");
  const folder = await Deno.makeTempDir({ prefix: "hv-programs-" });
  try {
    await Deno.writeFile(`${folder}/initrd`, await initrd(kernel));
    await using machine = await Machine.create({
      backend: options.backend ?? "auto",
      cpus: options.cpus ?? 1,
      memory: "1G",
      kernel: kernel.vmlinuz,
      initrd: `${folder}/initrd`,
      append: "root=/dev/vda ro init=/sbin/hv-checks console=ttyS0 quiet",
      disks: [{ path: image, readonly: true }, work],
    });
    machine.start();
    const results: CheckResult[] = [];
    const limit = options.limit * 1000;
    await machine.console.expect(`begin ${names[0]}`, { timeout: 180_000 });
    for (const name of names) {
      const began = performance.now();
      const { groups } = await machine.console.expect(new RegExp(`end ${name} (\\d+)`), { timeout: limit });
      const result = { name, code: Number(groups[0]), seconds: (performance.now() - began) / 1000 };
      results.push(result);
      options.onResult?.(result);
    }
    await machine.console.expect("all ended");
    await machine.wait();
    return results;
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Runs checks in a guest and here. It must be root's: the tree is made and entered as root. */
export async function runChecks(options: CheckOptions): Promise<CheckReport> {
  const names = options.names?.length ? options.names : CHECK_NAMES;
  const { tree, image } = await programsDisk();
  const folder = await Deno.makeTempDir({ prefix: "hv-programs-" });
  try {
    await writeWork(`${folder}/job`, names, options.length);
    await makeExt4(`${folder}/job.img`, { source: `${folder}/job`, mib: WORK_MIB, uuid: UUID, time: TIME });
    await runHere(tree, `${folder}/job`);
    const expected = await readOutputs(`${folder}/job/out`, names);
    const results = await runInGuest(image, `${folder}/job.img`, names, options);
    await text(["e2fsck", "-fn", `${folder}/job.img`]);
    await tool(["debugfs", "-R", `rdump /out ${folder}`, `${folder}/job.img`]);
    const actual = await readOutputs(`${folder}/out`, names);
    return { results, expected, actual, dmesg: await Deno.readTextFile(`${folder}/out/dmesg`) };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** The first lines in which two texts differ; empty when they are equal. */
export function difference(expected: string, actual: string): string {
  const a = expected.split("\n");
  const b = actual.split("\n");
  const lines: string[] = [];
  for (let i = 0; i < Math.max(a.length, b.length) && lines.length < 20; i++) {
    if (a[i] !== b[i]) {
      lines.push(`line ${i + 1}, host:  ${a[i]?.slice(0, 300)}`, `line ${i + 1}, guest: ${b[i]?.slice(0, 300)}`);
    }
  }
  return lines.join("\n");
}

async function main(): Promise<number> {
  const value = (option: string) => Deno.args.includes(option) ? Deno.args[Deno.args.indexOf(option) + 1] : undefined;
  const names = Deno.args.filter((name) => CHECK_NAMES.includes(name));
  const report = await runChecks({
    names,
    length: Deno.args.includes("--short") ? "short" : "long",
    backend: value("--backend") as BackendName | undefined,
    cpus: Number(value("--cpus") ?? 1),
    limit: 1800,
    onResult: ({ name, code, seconds }) => console.log(`${name}: exit code ${code} after ${seconds.toFixed(1)} s`),
  });
  let failed = 0;
  for (const { name } of report.results) {
    const lines = difference(report.expected.get(name)!, report.actual.get(name)!);
    if (!lines) continue;
    failed++;
    console.log(`${name} differs:\n${lines}`);
  }
  const traps = report.dmesg.match(/.*(traps:|segfault|Oops|Call Trace|WARNING:).*/g) ?? [];
  if (traps.length) console.log(`the kernel's log:\n${traps.join("\n")}`);
  console.log(failed ? `${failed} of ${report.results.length} checks differ` : "all as on the host");
  return failed || traps.length ? 1 : 0;
}

if (import.meta.main) Deno.exit(await main());
