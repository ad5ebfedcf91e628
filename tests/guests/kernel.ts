/** Debian's own kernels, out of their packages. */
import { packageVersion, unpacked } from "./packages.ts";

/**
 * Which of Debian's kernels: `cloud` for virtual machines (virtio as modules), `generic` for everything; of 32 bits
 * `686` and, with PAE, `686-pae`.
 */
export type Flavour = "cloud" | "generic" | "686" | "686-pae";

/** A kernel and its modules on this machine. */
export interface DebianKernel {
  /** As `uname -r` says it: `6.1.0-1-cloud-amd64`. */
  readonly release: string;
  /** Path of the bzImage. */
  readonly vmlinuz: string;
  /** Path of `/lib/modules/<release>`. */
  readonly modules: string;
  /** Path of the build configuration. */
  readonly config: string;
  /** Path of System.map. */
  readonly systemMap: string;
  /** Version of the package it comes from. */
  readonly version: string;
}

const META: Record<Flavour, string> = {
  cloud: "linux-image-cloud-amd64",
  generic: "linux-image-amd64",
  "686": "linux-image-686",
  "686-pae": "linux-image-686-pae",
};

/** The newest kernel of that flavour that apt offers, downloaded on the first use (cloud 27 MB, generic 70 MB). */
export async function debianKernel(flavour: Flavour = "cloud"): Promise<DebianKernel> {
  const architecture = flavour.startsWith("686") ? "i386" : undefined;
  const meta = await packageVersion(META[flavour], architecture);
  const image = meta.depends.find((one) => one.startsWith("linux-image-"));
  if (!image) throw new Error(`${META[flavour]} ${meta.version} depends on no kernel image`);
  const release = image.slice("linux-image-".length);
  const root = await unpacked(image, architecture);
  return {
    release,
    vmlinuz: `${root}/boot/vmlinuz-${release}`,
    modules: `${root}/lib/modules/${release}`,
    config: `${root}/boot/config-${release}`,
    systemMap: `${root}/boot/System.map-${release}`,
    version: meta.version,
  };
}

/**
 * The paths of kernel modules, dependencies first, in the order `insmod` wants them.
 * @param names module names without `.ko`; `-` and `_` are the same; one that is built in is left out
 * @throws if a module is neither built in nor there
 */
export async function moduleFiles(kernel: DebianKernel, names: readonly string[]): Promise<string[]> {
  const plain = (path: string) => path.slice(path.lastIndexOf("/") + 1).replace(/\.ko$/, "").replaceAll("-", "_");
  const builtin = new Set((await Deno.readTextFile(`${kernel.modules}/modules.builtin`)).trim().split("\n").map(plain));
  const paths = new Map<string, string>();
  const walk = (folder: string) => {
    for (const entry of Deno.readDirSync(folder)) {
      const path = `${folder}/${entry.name}`;
      if (entry.isDirectory) walk(path);
      else if (entry.name.endsWith(".ko")) paths.set(plain(path), path);
    }
  };
  walk(`${kernel.modules}/kernel`);
  const order: string[] = [];
  const add = (name: string) => {
    const key = name.replaceAll("-", "_");
    if (builtin.has(key)) return;
    const path = paths.get(key);
    if (!path) throw new Error(`the kernel ${kernel.release} has no module ${name}`);
    if (order.includes(path)) return;
    for (const dependency of moduleDepends(Deno.readFileSync(path))) add(dependency);
    order.push(path);
  };
  names.forEach(add);
  return order;
}

/** The `depends=` line of a module's .modinfo section (MODULE_INFO in <linux/moduleparam.h>: NUL-ended strings). */
function moduleDepends(module: Uint8Array): string[] {
  const text = new TextDecoder("latin1").decode(module);
  const depends = text.match(/\0depends=([^\0]*)\0/)?.[1] ?? "";
  return depends.split(",").filter(Boolean);
}

if (import.meta.main) {
  console.log(await debianKernel(Deno.args[0] === "generic" ? "generic" : "cloud"));
}
