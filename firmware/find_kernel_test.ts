import assert from "node:assert/strict";
import process from "node:process";
import { which } from "../tests/guests/command.ts";
import { makeExt4, makeFat, makeGpt } from "../tests/guests/image.ts";
import { needs } from "../tests/skip.ts";
import { loadBoot } from "./boot.ts";
import { adjustCommandLine } from "./find_kernel.ts";
import { inspectDisk } from "./inspect.ts";

const UUID = "11111111-2222-4333-8444-555555555555";

Deno.test("command line: the terminal becomes a console, and nothing of the disk's is removed", () => {
  const made = (line: string, append?: string) => adjustCommandLine(line, append).commandLine;
  assert.equal(made("root=/dev/vda1 quiet"), "root=/dev/vda1 quiet console=ttyS0");
  assert.equal(made("console=tty0 ro"), "console=tty0 ro console=ttyS0");
  assert.equal(made("console=ttyS0,115200n8 ro"), "console=ttyS0,115200n8 ro");
  assert.equal(made("console=ttyS0 console=tty0"), "console=ttyS0 console=tty0");
  assert.equal(made("console=ttyS01 ro"), "console=ttyS01 ro console=ttyS0");
  assert.equal(made("ro", "single"), "ro single console=ttyS0");
  assert.equal(made("ro -- --for-init console=ttyS0"), "ro console=ttyS0 -- --for-init console=ttyS0");
  assert.equal(made(""), "console=ttyS0");
  assert.deepEqual(adjustCommandLine("ro", "debug").added, "debug console=ttyS0");
  const login = "systemd.wants=serial-getty@hvc0.service systemd.mask=serial-getty@ttyS0.service";
  const virtio = (line: string, append?: string) => adjustCommandLine(line, append, "virtio").commandLine;
  assert.equal(virtio("ro"), `ro console=ttyS0 console=hvc0 ${login}`);
  assert.equal(virtio("console=ttyS0 ro", "debug -- x"), `console=ttyS0 ro debug console=hvc0 ${login} -- x`);
  assert.equal(virtio("console=hvc0 console=ttyS0,115200"), "console=hvc0 console=ttyS0,115200");
});

const missing = ["mke2fs", "sfdisk", "mkfs.fat", "mcopy"].filter((name) => which(name) === null);
const ignore = needs(missing.length === 0, "inspect real disks", `not installed: ${missing.join(" ")}`);

/** A GPT disk with an ESP and an ext4 root that holds these files. */
async function disk(folder: string, files: Record<string, string | Uint8Array>): Promise<string> {
  for (const [path, content] of Object.entries(files)) {
    const at = `${folder}/tree${path}`;
    await Deno.mkdir(at.slice(0, at.lastIndexOf("/")), { recursive: true });
    await Deno.writeFile(at, typeof content === "string" ? new TextEncoder().encode(content) : content);
  }
  await makeFat(`${folder}/esp`, { mib: 8, label: "ESP", serial: "12345678", files: new Map([["x", "y"]]) });
  await makeExt4(`${folder}/root`, { source: `${folder}/tree`, mib: 16, uuid: UUID, label: "root", time: 1767225600 });
  await makeGpt(`${folder}/disk.img`, UUID, [
    { file: `${folder}/esp`, type: "U", uuid: "aaaaaaaa-2222-4333-8444-555555555555" },
    { file: `${folder}/root`, type: "L", uuid: "bbbbbbbb-2222-4333-8444-555555555555" },
  ]);
  return `${folder}/disk.img`;
}

/** An arm64 Image (booting.rst: "ARM\x64" at 56). */
function armImage(): Uint8Array {
  const image = new Uint8Array(4096);
  image.set([0x41, 0x52, 0x4d, 0x64], 56);
  return image;
}

async function inFolder(work: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "hv-inspect-" });
  try {
    await Deno.mkdir(`${folder}/tree`);
    await work(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test({
  name: "inspect: a disk with a kernel for another machine, found by grub.cfg",
  ignore,
  fn: () =>
    inFolder(async (folder) => {
      const path = await disk(folder, {
        "/boot/grub/grub.cfg": `menuentry ARM { search --set=root --label root; linux /boot/vmlinuz root=LABEL=root }`,
        "/boot/vmlinuz": armImage(),
      });
      const report = await inspectDisk(path);
      assert.equal(report.partitionTable?.type, "gpt");
      assert.deepEqual(report.partitions.map((one) => one.fileSystem?.type), ["vfat", "ext4"]);
      assert.equal(report.boot?.kernel.architecture, "aarch64");
      assert.equal(report.boot?.commandLine, "root=LABEL=root console=ttyS0");
      assert.equal(report.boot?.added, "console=ttyS0");
      assert.match(report.problems.join(), /another architecture \(aarch64\)/);
      assert.deepEqual(JSON.parse(JSON.stringify(report)), report);
      await assert.rejects(
        loadBoot({ disk: { path } }),
        /disk\.img: \/boot\/vmlinuz: the kernel is for another architecture/,
      );
    }),
});

Deno.test({
  name: "inspect: no configuration at all: the root is found and named",
  ignore,
  fn: () =>
    inFolder(async (folder) => {
      const path = await disk(folder, { "/boot/vmlinuz-1.2.3": armImage(), "/etc/os-release": "ID=x\n" });
      const { boot } = await inspectDisk(path);
      assert.equal(boot?.source, "files");
      assert.equal(boot?.commandLine, "root=PARTUUID=bbbbbbbb-2222-4333-8444-555555555555 ro console=ttyS0");
    }),
});

Deno.test({
  name: "inspect: disks with nothing to start say why",
  ignore,
  fn: () =>
    inFolder(async (folder) => {
      const path = await disk(folder, { "/home/me": "no kernel here" });
      assert.deepEqual((await inspectDisk(path)).problems, ["no kernel found on this disk: give --kernel"]);
      await assert.rejects(loadBoot({ disk: { path } }), /no kernel found on this disk: give --kernel/);

      // Encrypted: what cryptsetup writes at the front of a partition (LUKS2 On-Disk Format, 2.1).
      const file = await Deno.open(path, { write: true });
      await file.seek(9 * 2 ** 20, Deno.SeekMode.Start);
      await file.write(new Uint8Array([0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe, 0, 2]));
      file.close();
      assert.match((await inspectDisk(path)).problems.join("\n"), /partition 2 is LUKS-encrypted/);

      await Deno.writeFile(`${folder}/noise.img`, crypto.getRandomValues(new Uint8Array(65536)));
      assert.match((await inspectDisk(`${folder}/noise.img`)).problems.join("\n"), /no partition table/);
      await assert.rejects(inspectDisk(folder), /is a directory/);
      await assert.rejects(inspectDisk(`${folder}/none`), /no such file/);
    }),
});

Deno.test({
  name: "inspect: damage anywhere in the metadata never throws and never hangs",
  ignore,
  fn: () =>
    inFolder(async (folder) => {
      const path = await disk(folder, {
        "/boot/grub/grub.cfg":
          `search --set=root --label root\nmenuentry x { linux /boot/vmlinuz a; initrd /boot/initrd }`,
        "/boot/vmlinuz": armImage(),
        "/boot/initrd": "070701 not quite a cpio archive",
      });
      const whole = await Deno.readFile(path);
      const begin = process.cpuUsage();
      let state = 42;
      const next = () => (state = Math.imul(state, 1103515245) + 12345 >>> 0) >>> 4;
      for (let round = 0; round < 60; round++) {
        const damaged = whole.slice(0, round % 5 === 0 ? 2 ** 20 * (1 + next() % 20) : whole.length);
        // GPT, FAT's first sectors, ext4's superblock, descriptors, inodes and directories.
        const area = [0, 2 ** 20, 9 * 2 ** 20][round % 3];
        for (let i = 0; i < 40; i++) damaged[(area + next() % (round % 2 ? 4096 : 400_000)) % damaged.length] = next();
        await Deno.writeFile(path, damaged);
        await inspectDisk(path);
      }
      // Of our own: what other programs do meanwhile is not counted.
      const { user, system } = process.cpuUsage(begin);
      assert(user + system < 60e6, `${(user + system) / 1e6} s of CPU`);
    }),
});
