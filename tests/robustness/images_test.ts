/** Disks that are cut, damaged or hold nothing to start: each is one sentence and an exit code. */
import { makeExt4, makeGpt } from "../guests/image.ts";
import { which } from "../guests/command.ts";
import { needs } from "../skip.ts";
import { BACKENDS, HV, refuses } from "./hv.ts";

const TIME = 1767225600;
const UUID = "6a0f3c52-91d7-4e2b-8c14-d5b7f0a9e361";
const MIB = 2 ** 20;
const tools = ["mke2fs", "sfdisk", "dd"].every((name) => which(name)) && Deno.build.os === "linux";
const ignore = needs(tools, "disks that cannot be started", "needs Linux, e2fsprogs and fdisk") ||
  needs(BACKENDS.length > 0, "disks that cannot be started", "no backend runs here: see hv doctor");

const folder = await Deno.makeTempDir({ prefix: "hv-images-" });
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));

/** The header of an arm64 Image (Linux, Documentation/arm64/booting.rst, section 4), and some megabytes behind it. */
function arm64Kernel(): Uint8Array<ArrayBuffer> {
  const image = new Uint8Array(3 * MIB).fill(0x1f);
  const view = new DataView(image.buffer);
  view.setUint32(0, 0xfa405a4d, true);
  view.setBigUint64(16, BigInt(image.length), true);
  view.setUint32(56, 0x644d5241, true);
  return image;
}

/** A disk with a GPT and an ext4 root; `files` by path. */
async function makeDisk(name: string, files: Record<string, Uint8Array | string>): Promise<string> {
  const tree = `${folder}/${name}.tree`;
  for (const [path, data] of Object.entries(files)) {
    await Deno.mkdir(`${tree}/${path}`.replace(/[^/]*$/, ""), { recursive: true });
    await Deno.writeFile(`${tree}/${path}`, typeof data === "string" ? new TextEncoder().encode(data) : data);
  }
  const root = `${folder}/${name}.root`;
  await makeExt4(root, { source: tree, mib: 16, uuid: UUID, time: TIME });
  const disk = `${folder}/${name}.img`;
  await makeGpt(disk, UUID, [{ file: root, type: "L", uuid: UUID }]);
  return disk;
}

const grub = (lines: string) => `menuentry 'A disk' {\n  search --fs-uuid --set=root ${UUID}\n${lines}\n}\n`;
const starts = grub("  linux /boot/vmlinuz root=/dev/vda1\n  initrd /boot/initrd");

const cases: [name: string, make: () => Promise<string>, sentence: RegExp][] = [
  [
    "a kernel of another architecture",
    () => makeDisk("arm64", { "boot/grub/grub.cfg": starts, "boot/vmlinuz": arm64Kernel(), "boot/initrd": "x" }),
    /arm64\.img: \/boot\/vmlinuz: the kernel is for another architecture \(aarch64\)/,
  ],
  [
    "a kernel that is none",
    () =>
      makeDisk("text", { "boot/grub/grub.cfg": starts, "boot/vmlinuz": "no kernel\n".repeat(999), "boot/initrd": "x" }),
    /text\.img: \/boot\/vmlinuz: .*not a kernel/,
  ],
  [
    "an entry whose kernel is missing",
    () => makeDisk("missing", { "boot/grub/grub.cfg": starts }),
    /missing\.img: .*\/boot\/vmlinuz/,
  ],
  [
    "files, but no kernel",
    () => makeDisk("files", { "etc/hostname": "nobody\n" }),
    /files\.img: no kernel found on this disk: give --kernel/,
  ],
  [
    "an end in the middle of the kernel",
    async () => {
      const disk = await makeDisk("cut", { "boot/grub/grub.cfg": starts, "boot/vmlinuz": arm64Kernel() });
      await Deno.truncate(disk, 3 * MIB);
      return disk;
    },
    /cut\.img: .*(cut|damaged|past the end)/,
  ],
  [
    "an end before its first partition",
    async () => {
      const disk = await makeDisk("head", { "boot/grub/grub.cfg": starts });
      await Deno.truncate(disk, 40 * 512);
      return disk;
    },
    /head\.img: .*partition 1: .*no kernel found/,
  ],
  [
    "an end in the middle of its partition table",
    async () => {
      const disk = await makeDisk("table", { "boot/grub/grub.cfg": starts });
      await Deno.truncate(disk, 1000);
      return disk;
    },
    /table\.img: .*GPT.*no kernel found/,
  ],
  [
    "not a byte",
    async () => {
      await Deno.writeFile(`${folder}/empty.img`, new Uint8Array(0));
      return `${folder}/empty.img`;
    },
    /empty\.img: is empty; give it a size/,
  ],
];
for (const [name, make, sentence] of cases) {
  Deno.test({
    name: `hv run on a disk with ${name}`,
    ignore,
    fn: async () => {
      const disk = await make();
      await refuses([...HV, "run", disk, "--backend", BACKENDS[0], "--memory", "64M", "--timeout", "30s"], 1, sentence);
    },
  });
}
