/** Sources of Debian packages, obtained by this machine's own apt into the cache: nothing is installed, nothing kept. */
import { cached } from "../guests/cache.ts";
import { text, tool, which } from "../guests/command.ts";

const CONFIGURED = "/etc/apt/sources.list.d/debian.sources";

/** Whether source packages can be had: apt with the sources file that Debian 12 writes. */
export function sourcesAvailable(): boolean {
  try {
    return which("apt-get") !== null && which("dpkg-source") !== null && Deno.statSync(CONFIGURED).isFile;
  } catch {
    return false;
  }
}

/** The directory of an unpacked source package. */
export async function sourcePackage(name: string): Promise<string> {
  const version = (await text(["apt-cache", "show", "--no-all-versions", name])).match(/^Version: (.*)$/m)?.[1] ?? "";
  return await cached(`sources/${name}_${version}`.replaceAll(":", "."), async (path, step) => {
    const lists = `${path}.lists`;
    await Deno.mkdir(`${lists}/partial`, { recursive: true });
    await Deno.mkdir(path, { recursive: true });
    // The machine's archives, asked for sources instead of binaries.
    const sources = (await Deno.readTextFile(CONFIGURED)).replace(/^Types: deb$/gm, "Types: deb-src");
    await Deno.writeTextFile(`${lists}.sources`, sources);
    const options = [`sourcelist=${lists}.sources`, "sourceparts=-"].map((option) => `Dir::Etc::${option}`);
    const apt = ["apt-get", "-q"];
    for (const option of [...options, `Dir::State::lists=${lists}`, "APT::Sandbox::User=root"]) apt.push("-o", option);
    step.detail = "fetching the lists of sources";
    await tool([...apt, "-o", "Dir::Cache::srcpkgcache=", "-o", "Dir::Cache::pkgcache=", "update"]);
    step.detail = "downloading";
    await tool([...apt, "source", "--download-only", name], { cwd: path });
    const description = [...Deno.readDirSync(path)].map((entry) => entry.name).find((file) => file.endsWith(".dsc"));
    if (!description) throw new Error(`apt-get source ${name} left no .dsc`);
    step.detail = "unpacking";
    await tool(["dpkg-source", "--no-check", "-x", description, "source"], { cwd: path });
    await Deno.remove(lists, { recursive: true });
    await Deno.remove(`${lists}.sources`);
  });
}
