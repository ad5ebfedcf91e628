/**
 * A Debian userland of real programs as a read-only ext4 disk, made by mmdebstrap, and the same files as a tree, in which
 * this machine's own CPU runs them.
 */
import { cached, digest } from "../guests/cache.ts";
import { codename, debianSources } from "../guests/debian_disk.ts";
import { tool, TOOL_ENV, which } from "../guests/command.ts";
import { makeExt4 } from "../guests/image.ts";
import { busybox } from "../guests/initramfs.ts";
import { packageVersion } from "../guests/packages.ts";

const UUID = "2f9b7c1e-64d3-4a85-9e0f-b1c8d7a35e62";
const MIB = 1024;
// 2026-01-01T00:00:00Z
const TIME = 1767225600;

const INCLUDE = [
  ...["python3", "libpython3.11-testsuite", "perl", "gcc", "libc6-dev"],
  ...["openssl", "sqlite3", "xz-utils", "zstd", "gzip", "bzip2"],
  // What the programs' own tests are built with.
  ...["make", "tcl8.6-dev"],
];

/** The first program of the guest: the other disk says what to do. */
const INIT = `#!/bin/sh
mount -t ext4 /dev/vdb /mnt
exec /bin/sh /mnt/init
`;

/** Where the programs lie. */
export interface ProgramsDisk {
  /** Directory of the root file system; nobody writes to it. */
  readonly tree: string;
  /** The same files as an ext4 image without a partition table. */
  readonly image: string;
}

async function bootstrap(tree: string): Promise<void> {
  await Deno.writeTextFile(`${tree}.list`, await debianSources());
  const argv = ["mmdebstrap", "--mode=root", "--variant=minbase", `--include=${INCLUDE.join(",")}`];
  await tool([...argv, codename(), tree, `${tree}.list`], { env: TOOL_ENV });
  await Deno.remove(`${tree}.list`);
  const unused = ["var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man"];
  await tool(["rm", "-rf", ...unused.map((path) => `${tree}/${path}`)]);
  await Deno.copyFile(await busybox(), `${tree}/bin/busybox`);
  await Deno.copyFile(Deno.execPath(), `${tree}/usr/bin/deno`);
  await Deno.writeTextFile(`${tree}/sbin/hv-checks`, INIT, { mode: 0o755 });
}

/** The programs, made on the first call in about two minutes; it must be root's. */
export async function programsDisk(): Promise<ProgramsDisk> {
  const { version } = await packageVersion("python3.11");
  const recipe = await digest(INIT, INCLUDE.join(), `${MIB} ${Deno.version.deno}`, codename());
  const folder = await cached(`programs/${version}_${recipe}`, async (path, step) => {
    if (Deno.uid() !== 0) throw new Error("making the programs' disk needs root (mmdebstrap with chroot)");
    if (!which("mmdebstrap")) throw new Error("making the programs' disk needs Debian's mmdebstrap");
    await Deno.mkdir(path);
    step.detail = "mmdebstrap";
    await bootstrap(`${path}/tree`);
    step.detail = "file system";
    await makeExt4(`${path}/disk.img`, { source: `${path}/tree`, mib: MIB, uuid: UUID, time: TIME });
  });
  return { tree: `${folder}/tree`, image: `${folder}/disk.img` };
}

if (import.meta.main) console.log(await programsDisk());
