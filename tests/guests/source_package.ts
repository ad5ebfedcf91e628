/**
 * What Debian packages are made of, obtained by this machine's own apt into the cache: the authors' own archives, without
 * Debian's changes. Nothing is installed.
 */
import { cached } from "./cache.ts";
import { tool, which } from "./command.ts";
import { packageVersion } from "./packages.ts";

const CONFIGURED = "/etc/apt/sources.list.d/debian.sources";

/** Whether sources can be had: apt with the sources file that Debian 12 writes. */
export function sourcesAvailable(): boolean {
  try {
    return which("apt-get") !== null && Deno.statSync(CONFIGURED).isFile;
  } catch {
    return false;
  }
}

/** The directory with the unpacked source of a package. */
export async function sourcePackage(name: string): Promise<string> {
  const { version } = await packageVersion(name);
  return await cached(`sources/${name}_${version}_upstream`.replaceAll(":", "."), async (path, step) => {
    const work = `${path}/work`;
    await Deno.mkdir(`${work}/lists/partial`, { recursive: true });
    // The machine's archives, asked for sources instead of binaries.
    const sources = (await Deno.readTextFile(CONFIGURED)).replace(/^Types: deb$/gm, "Types: deb-src");
    await Deno.writeTextFile(`${work}/debian.sources`, sources);
    const apt = ["apt-get", "-q"];
    const folders = [`Etc::sourcelist=${work}/debian.sources`, "Etc::sourceparts=-", `State::lists=${work}/lists`];
    const caches = ["Cache::srcpkgcache=", "Cache::pkgcache="];
    for (const option of [...folders, ...caches]) apt.push("-o", `Dir::${option}`);
    apt.push("-o", "APT::Sandbox::User=root");
    step.detail = "fetching the lists of sources";
    await tool([...apt, "update"]);
    step.detail = "downloading";
    await tool([...apt, "source", "--download-only", "--tar-only", name], { cwd: work });
    const archive = [...Deno.readDirSync(work)].map((entry) => entry.name).find((file) =>
      /\.orig\.tar\.\w+$/.test(file)
    );
    if (!archive) throw new Error(`apt-get source ${name} left no archive`);
    step.detail = "unpacking";
    await tool(["tar", "-xf", `${work}/${archive}`, "-C", path, "--strip-components=1", "--no-same-owner"]);
    await Deno.remove(work, { recursive: true });
  });
}
