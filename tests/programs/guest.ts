/** Runs the same work in the programs' file tree in a guest and, by chroot, on this machine's own CPU. */
import { Machine } from "../../mod.ts";
import type { BackendName } from "../../core/hypervisor.ts";
import { text, tool } from "../guests/command.ts";
import { initrd } from "../guests/demo_disk.ts";
import { makeExt4 } from "../guests/image.ts";
import { debianKernel } from "../guests/kernel.ts";
import type { ProgramsDisk } from "./disk.ts";

const UUID = "8c5e2d71-0b4f-4f63-9a2e-d16f7c3b9e05";
const WORK_MIB = 64;
const TIME = 1767225600;
const ENVIRONMENT = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C.UTF-8", TZ: "UTC", TERM: "dumb" };

/** The guest's first program after it has mounted the work disk. */
const INIT = `export ${Object.entries(ENVIRONMENT).map(([name, value]) => `${name}=${value}`).join(" ")}
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mkdir /run/shm && mount -t tmpfs shm /dev/shm 2>/dev/null
mount -t ext4 -o ro /dev/vdc /opt 2>/dev/null
/bin/busybox ip link set lo up
. /mnt/run
dmesg >/mnt/out/dmesg
umount /mnt
echo "all ended"
/bin/busybox poweroff -f
`;

/**
 * Runs `checks/NAME.sh` of the work disk for each line of its file `names`; the console hears of each, its output goes to
 * a file.
 */
const RUN = `for check in $(cat /mnt/names); do
  mkdir /tmp/$check && cd /tmp/$check && export HOME=/tmp/$check
  echo "begin $check"
  sh /mnt/checks/$check.sh "$(cat /mnt/length)" >/mnt/out/$check 2>&1
  echo "end $check $?"
  cd / && rm -rf /tmp/$check
done
`;

/** What is run, and how. */
export interface Work {
  /** A directory of shell scripts `NAME.sh`, with what they need beside them; they find it as `/mnt/checks`. */
  readonly scripts: string;
  readonly names: readonly string[];
  readonly length: "short" | "long";
  /** An ext4 image with more files, which the scripts find in `/opt`. */
  readonly disk?: string;
  readonly backend?: BackendName;
  readonly cpus?: number;
  /** The longest time one script, or one step of it, may take in the guest, in seconds. */
  readonly limit: number;
  /** Told of each step, a line `run STEP` that a script writes to the console, and the seconds until it. */
  readonly onStep?: (step: string, seconds: number) => void;
  /** Told of each script when it has ended in the guest. */
  readonly onResult?: (result: CheckResult) => void;
}

/** What came of a script. */
export interface CheckResult {
  readonly name: string;
  readonly code: number;
  /** Seconds in the guest. */
  readonly seconds: number;
}

/**
 * The directory that is the scripts' `/mnt`, where their output goes as well (`out`).
 * @param folder where it is made
 */
export async function writeWork(folder: string, { scripts, names, length }: Work): Promise<void> {
  await Deno.mkdir(`${folder}/out`, { recursive: true });
  await tool(["cp", "-r", scripts, `${folder}/checks`]);
  await Deno.writeTextFile(`${folder}/init`, INIT);
  await Deno.writeTextFile(`${folder}/run`, RUN);
  await Deno.writeTextFile(`${folder}/names`, names.join("\n") + "\n");
  await Deno.writeTextFile(`${folder}/length`, length + "\n");
}

/** What the scripts printed, by their names. */
export async function readOutputs(folder: string, names: readonly string[]): Promise<Map<string, string>> {
  const read = async (name: string) => await Deno.readTextFile(`${folder}/out/${name}`).catch(() => "");
  return new Map(await Promise.all(names.map(async (name) => [name, await read(name)] as const)));
}

/**
 * Runs `run` of a work directory on this machine's CPU, in the programs' tree, with name spaces of its own.
 * @param opt a directory that is `/opt` there, and may be written to
 */
export async function runHere({ tree }: ProgramsDisk, work: string, opt?: string): Promise<void> {
  const script = `set -e
mount --make-rprivate /
mount --bind "${tree}" "${tree}"
mount -t proc proc "${tree}/proc"
mount --rbind /dev "${tree}/dev"
mount -t tmpfs tmp "${tree}/tmp"
mount --bind "${work}" "${tree}/mnt"
${opt ? `mount --bind "${opt}" "${tree}/opt"` : ""}
mount -o remount,bind,ro "${tree}"
exec chroot "${tree}" /bin/sh /mnt/run
`;
  await tool(["unshare", "-m", "-p", "-f", "sh", "-c", script], { env: ENVIRONMENT });
}

/**
 * Runs the work in a guest.
 * @param folder that `writeWork` made; its `out` is the guest's afterwards
 */
export async function runInGuest(disk: ProgramsDisk, folder: string, work: Work): Promise<CheckResult[]> {
  const kernel = await debianKernel("cloud");
  const job = `${folder}.img`;
  await makeExt4(job, { source: folder, mib: WORK_MIB, uuid: UUID, time: TIME });
  await Deno.writeFile(`${folder}.initrd`, await initrd(kernel));
  await using machine = await Machine.create({
    backend: work.backend ?? "auto",
    cpus: work.cpus ?? 1,
    memory: "1G",
    kernel: kernel.vmlinuz,
    initrd: `${folder}.initrd`,
    append: "root=/dev/vda ro init=/sbin/hv-checks console=ttyS0 quiet",
    disks: [
      { path: disk.image, readonly: true },
      job,
      ...work.disk ? [{ path: work.disk, readonly: true }] : [],
    ],
  });
  machine.start();
  const results: CheckResult[] = [];
  await machine.console.expect(`begin ${work.names[0]}`, { timeout: 600 });
  for (const name of work.names) {
    const began = performance.now();
    let code = "";
    while (!code) {
      const { groups } = await machine.console.expect(/(?:run (\S+)|end \S+ (\d+))\r?\n/, { timeout: work.limit });
      if (groups[0]) work.onStep?.(groups[0], (performance.now() - began) / 1000);
      code = groups[1] ?? "";
    }
    const result = { name, code: Number(code), seconds: (performance.now() - began) / 1000 };
    results.push(result);
    work.onResult?.(result);
  }
  await machine.console.expect("all ended");
  await machine.wait();
  await text(["e2fsck", "-fn", job]);
  await Deno.remove(`${folder}/out`, { recursive: true });
  await tool(["debugfs", "-R", `rdump /out ${folder}`, job]);
  return results;
}
