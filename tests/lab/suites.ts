/** What runs in the lab: each suite boots a lab of its own, so that none leans on what another left. */
import { debianDisk } from "../guests/debian_disk.ts";
import { demoDisk, initrd } from "../guests/demo_disk.ts";
import { MODULES } from "../guests/generic_kernel.ts";
import { copyDisk } from "../guests/image.ts";
import { debianKernel } from "../guests/kernel.ts";
import { proveWritten } from "../guests/session.ts";
import { readTally, type Tally } from "../tally.ts";
import { fileURLToPath } from "node:url";
import { countInstructions, lab, type LabOptions } from "./lab.ts";
import { compiled } from "./programs.ts";
import { shimFolder } from "./windows/wine.ts";
import type { Entry } from "../guests/initramfs.ts";
import { writerInLab } from "../robustness/lab.ts";

/** A suite of the lab. */
export interface Suite {
  readonly name: string;
  /** Only in the long form. */
  readonly long?: boolean;
  run(): Promise<Tally>;
}

function script(name: string, command: string, seconds: number, options: LabOptions & { long?: boolean } = {}): Suite {
  return {
    name,
    long: options.long,
    run: async () => {
      await using machine = await lab({ ...options, echo: true });
      const { code, output } = await machine.run(command, seconds);
      return readTally(output, code);
    },
  };
}

/** Boots a disk with `hv run` under the lab's KVM, and looks at the disk on this side afterwards. */
function boot(
  name: string,
  disk: () => Promise<string>,
  seconds: number,
  options: LabOptions & { long?: boolean; args?: string; file?: boolean; whpx?: boolean } = {},
): Suite {
  return {
    name,
    long: options.long,
    run: async () => {
      const folder = await Deno.makeTempDir({ prefix: `hv-lab-${Deno.pid}-disk-` });
      try {
        const image = `${folder}/disk.img`;
        await copyDisk(await disk(), image);
        {
          const files = options.whpx ? [await whpxShim()] : [];
          await using machine = await lab({ ...options, files, disks: [image], echo: true });
          const backend = options.whpx ? "whpx" : "kvm";
          const run = (target: string) =>
            `${
              options.whpx ? WHPX_SHIM : ""
            } deno run -A tests/guests/boot.ts ${target} ${seconds} --backend ${backend} ${options.args ?? ""}`;
          // A file is what users have; a disk too big for L1's memory is given to hv as the block device it is there.
          const command = options.file
            ? `cp /dev/vda /tmp/disk.img && ${run("/tmp/disk.img")} && cp /tmp/disk.img /dev/vda && sync`
            : `${run("/dev/vda")} && sync`;
          const { code, output } = await machine.run(command, seconds * 3);
          if (code !== 0) return readTally(output, code);
        }
        await proveWritten(image);
        return readTally("", 0);
      } finally {
        await Deno.remove(folder, { recursive: true });
      }
    },
  };
}

/** Boots of the demo disk, one after the other, with work on all vCPUs. */
function soak(cpus: number, boots: number): Suite {
  return {
    name: `${boots} boots with ${cpus} vCPUs at work`,
    long: true,
    run: async () => {
      const image = await Deno.makeTempFile({ prefix: `hv-lab-${Deno.pid}-`, suffix: ".img" });
      try {
        await copyDisk(await demoDisk(), image);
        await using machine = await lab({ cpus: 2, disks: [image], echo: true });
        const command = `deno run -A --no-check tests/guests/soak.ts /dev/vda kvm ${cpus} ${boots}`;
        const { code, output } = await machine.run(command, 200 * boots);
        return readTally(output, code);
      } finally {
        await Deno.remove(image);
      }
    },
  };
}

/** The strict stand-in for Windows Hypervisor Platform, over the lab's KVM (tests/lab/windows). */
async function whpxShim(): Promise<Entry> {
  return { path: "lab/whpx_shim.so", data: await Deno.readFile(`${await shimFolder()}/whpx_shim.so`) };
}
const WHPX_SHIM = "HV_WHPX_SHIM=/lab/whpx_shim.so";

// A behaviour takes a fraction of a second here, but an emulated machine beside a busy test can stand still for long.
const CONFORMANCE = "HV_CONFORMANCE_TIMEOUT=60 deno run -A tests/conformance/run.ts --backend=kvm";

/** All of them, the short ones first. */
export const suites: readonly Suite[] = [
  script("the KVM backend's own tests, kvm-amd", "deno test -A --no-check backends/kvm", 240),
  script("conformance, kvm-amd with nested paging", CONFORMANCE, 480),
  boot("hv boots the demo disk, kvm-amd with nested paging", demoDisk, 300, { file: true, args: "--memory 256M" }),
  script("conformance, kvm-amd with shadow paging", CONFORMANCE, 400, { long: true, kvm: "shadow" }),
  boot("hv boots the demo disk, kvm-amd with shadow paging", demoDisk, 300, {
    long: true,
    kvm: "shadow",
    file: true,
    args: "--memory 256M",
  }),
  boot("hv boots the demo disk with 2 processors", demoDisk, 180, {
    long: true,
    cpus: 2,
    file: true,
    args: "--cpus 2 --memory 256M",
  }),
  boot("hv boots the Debian disk", debianDisk, 400, { long: true, memory: "2G", args: "--memory 512M" }),
  {
    name: "Debian's generic kernel, kvm-amd with nested paging",
    long: true,
    run: async () => {
      const folder = await Deno.makeTempDir({ prefix: `hv-lab-${Deno.pid}-generic-` });
      try {
        const kernel = await debianKernel("generic");
        await copyDisk(await debianDisk(), `${folder}/disk.img`);
        const files = [
          { path: "lab/generic/kernel", data: await Deno.readFile(kernel.vmlinuz) },
          { path: "lab/generic/initrd", data: await initrd(kernel, MODULES) },
        ];
        {
          await using machine = await lab({ files, memory: "2G", disks: [`${folder}/disk.img`], echo: true });
          const script = "deno run -A --no-check tests/guests/generic_kernel.ts kvm";
          const { code, output } = await machine.run(
            `${script} /lab/generic/kernel ${kernel.release} /lab/generic/initrd /dev/vda && sync`,
            1800,
          );
          if (code !== 0) return readTally(output, code);
        }
        await proveWritten(`${folder}/disk.img`);
        return readTally("", 0);
      } finally {
        await Deno.remove(folder, { recursive: true });
      }
    },
  },
  {
    name: "conformance, the WHPX backend over its shim and kvm-amd",
    long: true,
    run: async () => {
      await using machine = await lab({ files: [await whpxShim()], echo: true });
      const command = `${WHPX_SHIM} HV_CONFORMANCE_TIMEOUT=60 deno run -A tests/conformance/run.ts --backend=whpx`;
      const { code, output } = await machine.run(command, 400);
      return readTally(output, code);
    },
  },
  boot("hv boots the demo disk, the WHPX backend over its shim and kvm-amd", demoDisk, 300, {
    long: true,
    whpx: true,
    file: true,
    args: "--memory 256M",
  }),
  boot("hv boots the demo disk with 2 processors, the WHPX backend over its shim and kvm-amd", demoDisk, 300, {
    long: true,
    cpus: 2,
    whpx: true,
    file: true,
    args: "--cpus 2 --memory 256M",
  }),
  boot("hv boots the Debian disk, the WHPX backend over its shim and kvm-amd", debianDisk, 500, {
    long: true,
    whpx: true,
    memory: "2G",
    args: "--memory 512M",
  }),
  { name: "20 kills while the guest writes", long: true, run: () => writerInLab("kills", 900) },
  { name: "a host that runs out of space", long: true, run: () => writerInLab("full", 400) },
  {
    name: "an image that is removed, then cut, while the guest reads it",
    long: true,
    run: () => writerInLab("gone", 400),
  },
  { name: "a medium that does not give back a sector", long: true, run: () => writerInLab("medium", 400) },
  ...[2, 4].map((cpus) => soak(cpus, 5)),
  {
    name: "instructions per exit",
    long: true,
    run: async () => {
      const files = [await compiled(fileURLToPath(new URL("../../bench/native/exit_loop.c", import.meta.url)))];
      // Fewer exits than V8 wants before it optimizes the loop would count its slow start.
      const command = "HV_EXIT_LOOP=/lab/exit_loop deno run -A bench/exit.ts 20000 4 10000";
      const { code, output } = await countInstructions(command, 120, { files, echo: true });
      return readTally(output, code);
    },
  },
];
