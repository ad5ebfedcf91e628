/**
 * Wine and deno.exe inside the x86-64 lab, where a real kvm-amd is: for machines without a /dev/kvm of their own. What
 * is installed here goes in as a read-only disk; L1 has no packages and no network.
 */
import { CACHE, cached, digest } from "../../guests/cache.ts";
import { text, tool } from "../../guests/command.ts";
import { makeExt4 } from "../../guests/image.ts";
import { lab } from "../lab.ts";
import { sharedLibraries } from "../programs.ts";
import type { KvmHost } from "./kvm_host.ts";
import { denoFolder, prefix, shimFolder, windowsPath, WINE_ENV } from "./wine.ts";

/** Debian's packages wine64, libwine and wine put these there. */
const WINE_FOLDERS = ["/usr/lib/wine", "/usr/lib/x86_64-linux-gnu/wine", "/usr/share/wine"];
const DLLS = "/usr/lib/x86_64-linux-gnu/wine/x86_64-windows";
const PREFIX = `${CACHE}/windows/prefix`;

/** The disk: Wine at its own paths, deno.exe, and a prefix whose DLLs are links to Wine's. */
async function wineImage(): Promise<string> {
  const deno = await denoFolder();
  await prefix();
  const version = await text(["dpkg-query", "-W", "-f", "${Version}", "libwine"]);
  const key = await digest(version, deno, Deno.readFileSync(new URL(import.meta.url)));
  return await cached(`windows/wine_${key}.img`, async (path) => {
    const folder = `${path}.files`;
    try {
      for (const from of WINE_FOLDERS) {
        const to = folder + from.slice(0, from.lastIndexOf("/"));
        await Deno.mkdir(to, { recursive: true });
        await tool(["cp", "-a", from, to]);
      }
      await tool(["cp", "-a", deno, `${folder}/deno`]);
      await Deno.mkdir(`${folder}/prefix`);
      for (const name of ["system.reg", "user.reg", "userdef.reg", ".update-timestamp", "dosdevices"]) {
        await tool(["cp", "-a", `${PREFIX}/${name}`, `${folder}/prefix/`]);
      }
      for (const name of (await text(["find", "drive_c", "-type", "d"], { cwd: PREFIX })).split("\n").filter(Boolean)) {
        await Deno.mkdir(`${folder}/prefix/${name}`, { recursive: true });
      }
      for (const { name } of Deno.readDirSync(DLLS)) {
        await Deno.symlink(`${DLLS}/${name}`, `${folder}/prefix/drive_c/windows/system32/${name}`);
      }
      await makeExt4(path, {
        source: folder,
        mib: 1500,
        uuid: "5f4d9ee0-31a5-4c0e-9a43-0c5b1f7e2d11",
        time: 1_700_000_000,
      });
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
}

const quoted = (words: readonly string[]) => words.map((word) => `'${word}'`).join(" ");
const assignments = (env: Record<string, string>) =>
  quoted(Object.entries(env).map(([name, value]) => `${name}=${value}`));

/** Boots a lab with Wine in it: some 20 s, then 30 s for the first deno.exe and 10 s for every other. */
export async function wineInLab(): Promise<KvmHost> {
  const shim = await shimFolder();
  const machine = await lab({
    memory: "2G",
    // Wine returns to Windows' code by IRET from ring 3 to ring 3. QEMU before 9.1 reads the frame for it as ring 0
    // would, which SMAP forbids: a page fault "supervisor read access in user mode".
    cpuFlags: "smap=off",
    disks: [await wineImage()],
    files: [
      ...await sharedLibraries("/usr/lib/x86_64-linux-gnu/wine/x86_64-unix/ntdll.so"),
      { path: "lab/whpx_shim.so", data: await Deno.readFile(`${shim}/whpx_shim.so`) },
      { path: "lab/WinHvPlatform.dll", data: await Deno.readFile(`${shim}/WinHvPlatform.dll`) },
    ],
    echo: true,
  });
  try {
    const { code, output } = await machine.run(
      [
        "set -e",
        "mkdir -p /wine /usr/lib/x86_64-linux-gnu /usr/share",
        "mount -t ext4 -o ro /dev/vda /wine",
        ...WINE_FOLDERS.map((folder) => `ln -s /wine${folder} ${folder}`),
        "cp -a /wine/prefix /tmp/prefix",
      ].join("\n"),
    );
    if (code !== 0) throw new Error(`Wine does not go into the lab:\n${output}`);
  } catch (error) {
    await machine[Symbol.asyncDispose]();
    throw error;
  }
  return {
    denoExe: (args, env, seconds) => {
      const all = {
        ...WINE_ENV,
        WINEPREFIX: "/tmp/prefix",
        DENO_DIR: "C:\\deno_dir",
        HV_WHPX_SHIM: windowsPath("/lab/WinHvPlatform.dll"),
        ...env,
      };
      // L1's standard output is a terminal, which Wine would paint a console on, 80 columns wide.
      const command = `timeout -k 5 ${seconds} env ${assignments(all)} /usr/lib/wine/wine64 /wine/deno/deno.exe`;
      return machine.run(
        `${command} ${quoted(args)} >/tmp/output 2>&1; code=$?; grep -v -i freetype /tmp/output; exit $code`,
        seconds + 15,
      );
    },
    denoLinux: (args, env, seconds) =>
      machine.run(
        `exec env ${assignments({ HV_WHPX_SHIM: "/lab/whpx_shim.so", ...env })} deno ${quoted(args)}`,
        seconds,
      ),
    [Symbol.asyncDispose]: () => machine[Symbol.asyncDispose](),
  };
}
