/** Debian packages, downloaded by this machine's own apt and unpacked into the cache: nothing is installed. */
import { cached } from "./cache.ts";
import { text, tool, which } from "./command.ts";

/** Options with which apt knows another architecture's packages, from lists of its own in the cache. */
async function foreignOptions(architecture: string): Promise<string[]> {
  if (!which("apt-get")) throw new Error("the tests' guests come from Debian packages, and apt is not here");
  const root = await cached(`packages/lists_${architecture}_1`, async (path, step) => {
    await Deno.mkdir(`${path}/lists/partial`, { recursive: true });
    await Deno.mkdir(`${path}/archives/partial`, { recursive: true });
    step.detail = "apt-get update";
    // 100: one of several archives was not to be had.
    await tool(["apt-get", "-q", ...options(path, architecture), "update"], { accept: [0, 100] });
  });
  return options(root, architecture);
}

function options(root: string, architecture: string): string[] {
  return [
    `APT::Architecture=${architecture}`,
    `APT::Architectures::=${architecture}`,
    `Dir::State::Lists=${root}/lists`,
    `Dir::Cache=${root}`,
    "Dir::State::status=/dev/null",
    "APT::Sandbox::User=root",
  ].flatMap((option) => ["-o", option]);
}

/** A package as the archive offers it. */
export interface PackageVersion {
  readonly name: string;
  readonly version: string;
  readonly depends: readonly string[];
}

/**
 * What apt knows of a package, of this machine's architecture unless another is named.
 * @throws in words when apt does not know it: not a Debian machine, or its lists were never fetched
 */
export async function packageVersion(name: string, architecture?: string): Promise<PackageVersion> {
  if (!which("apt-get")) throw new Error(`the tests' guests come from Debian packages (${name}), and apt is not here`);
  const foreign = architecture ? await foreignOptions(architecture) : [];
  // --no-all-versions: the newest candidate only, the one `apt-get download` takes.
  const record = await text(["apt-cache", ...foreign, "show", "--no-all-versions", name], { accept: [0, 100] });
  const field = (key: string) => record.match(new RegExp(`^${key}: (.*)$`, "m"))?.[1] ?? "";
  const version = field("Version");
  if (!version) {
    throw new Error(`apt does not know the package ${name}; run 'apt-get update' as root (Debian 12 or newer)`);
  }
  return { name, version, depends: field("Depends").split(",").map((one) => one.trim().split(" ")[0]).filter(Boolean) };
}

/**
 * The directory where a Debian package lies unpacked, as it would lie on `/`.
 * @param name of the package
 * @param architecture if it is not this machine's
 */
export async function unpacked(name: string, architecture?: string): Promise<string> {
  const { version } = await packageVersion(name, architecture);
  const foreign = architecture ? await foreignOptions(architecture) : [];
  const key = `packages/${name}_${version}${architecture ? `_${architecture}` : ""}`.replaceAll(":", ".");
  return await cached(key, async (path, step) => {
    const archive = `${path}/archive`;
    await Deno.mkdir(archive, { recursive: true });
    step.detail = "downloading";
    // The sandbox user `_apt` may not write into our cache; as a plain user the option has no effect.
    const apt = ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", ...foreign];
    await tool([...apt, `${name}=${version}`], { cwd: archive });
    const debs = [...Deno.readDirSync(archive)].map((entry) => entry.name).filter((file) => file.endsWith(".deb"));
    if (debs.length !== 1) throw new Error(`apt-get download ${name} left ${debs.length} packages`);
    step.detail = "unpacking";
    await tool(["dpkg-deb", "-x", `${archive}/${debs[0]}`, path]);
    await Deno.remove(archive, { recursive: true });
  });
}

if (import.meta.main) {
  for (const name of Deno.args) console.log(await unpacked(name));
}
