/**
 * Disks that start by other people's boot loaders, configured by those loaders' own tools: what hv finds in them, and
 * what it says of those that it cannot look into.
 */
import assert from "node:assert/strict";
import { inspectDisk } from "../../mod.ts";
import { needs } from "../skip.ts";
import { text, tool, which } from "./command.ts";
import { grubMkconfig, type GrubSystem, type ProbedDevice } from "./grub_mkconfig.ts";
import { makeExt4, makeFat, makeGpt } from "./image.ts";
import { debianKernel } from "./kernel.ts";
import { unpacked } from "./packages.ts";

const ROOT_UUID = "11111111-2222-4333-8444-555555555555";
const BOOT_UUID = "21111111-2222-4333-8444-555555555555";
const PARTUUID = (digit: number) => `${digit}aaaaaaa-2222-4333-8444-555555555555`;
const MACHINE_ID = "0123456789abcdef0123456789abcdef";
const TIME = 1767225600;
const NEW = "6.8.0-40-generic";
const OLD = "6.8.0-9-generic";

const tools = ["apt-get", "dpkg-deb", "mke2fs", "mkfs.fat", "mcopy", "sfdisk", "unshare", "objcopy"];
const missing = tools.filter((name) => which(name) === null);
/** A root of one's own is what grub-mkconfig and kernel-install run in; some containers forbid it. */
const unshares = missing.length === 0 && await tool(["unshare", ...Deno.uid() === 0 ? ["-m"] : ["-Urm"], "true"])
  .then(() => true, () => false);
const ignore = needs(
  unshares,
  "disks by other people's boot loaders",
  missing.length > 0 ? `not installed: ${missing.join(" ")}` : "unshare is forbidden here",
);

/** Debian's kernel under the names that the disks give it, and an initrd. */
async function kernels(folder: string, names: readonly string[], initrds: readonly string[]): Promise<void> {
  const { vmlinuz } = await debianKernel("cloud");
  const initrd = await tool(["cpio", "-o", "-H", "newc", "--quiet"], { stdin: "" });
  for (const name of names) await tool(["install", "-D", "-m", "644", vmlinuz, `${folder}/${name}`]);
  for (const name of initrds) {
    await tool(["install", "-D", "-m", "644", "/dev/stdin", `${folder}/${name}`], { stdin: initrd });
  }
}

async function put(path: string, content: string | Uint8Array): Promise<void> {
  await Deno.mkdir(path.slice(0, path.lastIndexOf("/")), { recursive: true });
  await (typeof content === "string" ? Deno.writeTextFile(path, content) : Deno.writeFile(path, content));
}

/** Files below a folder, for a FAT file system. */
async function filesOf(folder: string): Promise<Map<string, Uint8Array<ArrayBuffer>>> {
  const names = (await text(["find", ".", "-type", "f", "-printf", "%P\\n"], { cwd: folder })).split("\n");
  const files = new Map<string, Uint8Array<ArrayBuffer>>();
  for (const name of names.filter((one) => one !== "").sort()) {
    files.set(name, await Deno.readFile(`${folder}/${name}`));
  }
  return files;
}

function test(name: string, work: (folder: string) => Promise<void>): void {
  Deno.test({
    name,
    ignore,
    fn: async () => {
      const folder = await Deno.makeTempDir({ prefix: "hv-loaders-" });
      try {
        await work(folder);
      } finally {
        await tool(["rm", "-rf", folder]);
      }
    },
  });
}

const ext = (folder: string, name: string, uuid: string, mib = 48) =>
  makeExt4(`${folder}/${name}.fs`, { source: `${folder}/${name}`, mib, uuid, time: TIME });

/** A GPT disk of these files; each type as sfdisk's. */
async function gpt(folder: string, parts: readonly (readonly [name: string, type: string])[]): Promise<string> {
  const path = `${folder}/disk.img`;
  await makeGpt(
    path,
    ROOT_UUID,
    parts.map(([name, type], i) => ({ file: `${folder}/${name}.fs`, type, uuid: PARTUUID(i) })),
  );
  return path;
}

const device = (partition: number, uuid: string, table = "gpt"): ProbedDevice => ({
  device: `/dev/vda${partition}`,
  uuid,
  fs: "ext2",
  partmap: table === "gpt" ? "gpt" : "msdos",
  name: `hd0,${table === "gpt" ? "gpt" : "msdos"}${partition}`,
});

const UBUNTU = `GRUB_TIMEOUT_STYLE=hidden
GRUB_TIMEOUT=0
GRUB_DISTRIBUTOR=Ubuntu
GRUB_CMDLINE_LINUX_DEFAULT="quiet splash"
GRUB_CMDLINE_LINUX=""
`;

/** A /boot as update-grub leaves it. */
async function grubBoot(boot: string, system: GrubSystem): Promise<void> {
  await put(`${boot}/grub/grub.cfg`, await grubMkconfig(system));
  await kernels(
    boot,
    system.releases.map((release) => `vmlinuz-${release}`),
    system.releases.map((release) => `initrd.img-${release}`),
  );
}

/** What `hv run` would start, in a form to compare. */
async function start(path: string) {
  const report = await inspectDisk(path);
  assert.ok(report.boot, report.problems.join("\n"));
  const { boot } = report;
  const { architecture, format } = boot.kernel;
  assert.deepEqual([architecture, format], ["x86_64", "bzImage"]);
  return {
    report,
    source: boot.source,
    kernel: boot.kernel.path,
    initrds: boot.initrds.map((one) => one.path),
    commandLine: boot.commandLine,
    titles: report.entries.map((one) => one.title),
  };
}

test("Debian's update-grub: the default entry", async (folder) => {
  await grubBoot(`${folder}/root/boot`, {
    root: device(2, ROOT_UUID),
    releases: [NEW, OLD],
    settings: 'GRUB_DISTRIBUTOR=Debian\nGRUB_CMDLINE_LINUX_DEFAULT="quiet"\nGRUB_CMDLINE_LINUX="console=ttyS0"\n',
  });
  await makeFat(`${folder}/esp.fs`, { mib: 8, label: "ESP", serial: "12345678", files: new Map([["x", "y"]]) });
  await ext(folder, "root", ROOT_UUID);
  const found = await start(await gpt(folder, [["esp", "U"], ["root", "L"]]));
  assert.equal(found.source, "grub.cfg");
  assert.equal(found.kernel, `/boot/vmlinuz-${NEW}`);
  assert.deepEqual(found.initrds, [`/boot/initrd.img-${NEW}`]);
  // On this machine there is no /dev/disk/by-uuid for the disk, so the script writes the device.
  assert.equal(found.commandLine, "root=/dev/vda2 ro console=ttyS0 quiet");
  assert.deepEqual(found.titles, [
    "Debian GNU/Linux",
    ...[NEW, OLD].flatMap((release) =>
      ["", " (recovery mode)"].map((mode) =>
        `Advanced options for Debian GNU/Linux > Debian GNU/Linux, with Linux ${release}${mode}`
      )
    ),
  ]);
  assert.deepEqual(found.report.problems, []);
});

test("Ubuntu's update-grub on MBR and ext3: the saved entry of a submenu", async (folder) => {
  const boot = `${folder}/root/boot`;
  await grubBoot(boot, {
    root: device(1, ROOT_UUID, "dos"),
    releases: [NEW, OLD],
    settings: `GRUB_DEFAULT=saved\nGRUB_SAVEDEFAULT=true\n${UBUNTU}`,
    ubuntu: true,
  });
  const env = `${boot}/grub/grubenv`;
  const editenv = `${await unpacked("grub-common")}/usr/bin/grub-editenv`;
  const saved = `gnulinux-advanced-${ROOT_UUID}>gnulinux-${OLD}-advanced-${ROOT_UUID}`;
  await tool([editenv, env, "create"]);
  await tool([editenv, env, "set", `saved_entry=${saved}`, "recordfail=1"]);

  const path = `${folder}/disk.img`;
  await Deno.truncate(path, 0).catch(() => Deno.writeFile(path, new Uint8Array()));
  await Deno.truncate(path, 65 << 20);
  await tool(["sfdisk", "-q", "--no-reread", "--no-tell-kernel", path], { stdin: "label: dos\nstart=2048, type=83\n" });
  await tool(["mke2fs", "-q", "-F", "-t", "ext3", "-U", ROOT_UUID, "-d", `${folder}/root`, `${folder}/ext3`, "64M"]);
  await tool(["dd", `if=${folder}/ext3`, `of=${path}`, "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none"]);

  const found = await start(path);
  assert.equal(found.report.partitions[0].fileSystem?.type, "ext3");
  assert.equal(found.kernel, `/boot/vmlinuz-${OLD}`);
  assert.deepEqual(found.initrds, [`/boot/initrd.img-${OLD}`]);
  assert.match(found.commandLine, /^root=\/dev\/vda1 ro quiet splash( vt\.handoff=7)? console=ttyS0$/);
  assert.deepEqual(found.report.problems, []);
});

test("Ubuntu Server: / on LVM, /boot of its own", async (folder) => {
  await grubBoot(`${folder}/boot`, {
    root: {
      ...device(3, ROOT_UUID),
      device: "/dev/mapper/ubuntu--vg-ubuntu--lv",
      abstraction: "lvm",
      name: "lvmid/a/b",
    },
    boot: device(2, BOOT_UUID),
    releases: [NEW],
    settings: UBUNTU,
    ubuntu: true,
  });
  await makeFat(`${folder}/esp.fs`, { mib: 8, label: "ESP", serial: "12345678", files: new Map([["x", "y"]]) });
  await ext(folder, "boot", BOOT_UUID);
  await physicalVolume(`${folder}/pv.fs`);
  const found = await start(await gpt(folder, [["esp", "U"], ["boot", "L"], ["pv", "V"]]));
  assert.equal(found.report.partitions[2].fileSystem?.type, "LVM2_member");
  assert.equal(found.kernel, `/vmlinuz-${NEW}`);
  assert.match(found.commandLine, /^root=\/dev\/mapper\/ubuntu--vg-ubuntu--lv ro quiet splash/);
  assert.deepEqual(found.report.problems, []);
});

/** An LVM physical volume in a volume group, as LVM's own tools make it where they may have a loop device. */
async function physicalVolume(path: string): Promise<void> {
  await Deno.writeFile(path, new Uint8Array());
  await Deno.truncate(path, 32 << 20);
  const lvm = which("lvm");
  if (lvm === null || Deno.uid() !== 0) {
    console.error("SKIPPED an LVM volume by LVM's tools: needs root and Debian's lvm2; its label is written instead");
    const label = new Uint8Array(512);
    // lib/format_text/layout.h: label sector 1 of four; LABELONE, sector number, CRC, offset of LVM2 001.
    label.set(new TextEncoder().encode("LABELONE"));
    label[8] = 1;
    label.set(new TextEncoder().encode("LVM2 001abcdefGHIJ0123KLMN4567opqr89STuv"), 24);
    const file = await Deno.open(path, { write: true });
    await file.seek(512, Deno.SeekMode.Start);
    await file.write(label);
    file.close();
    return;
  }
  const loop = (await text(["losetup", "-f", "--show", path])).trim();
  try {
    // Of all block devices this one only: others may hold a group of that name, of a run at the same time, or killed.
    await tool([lvm, "pvcreate", "--devices", loop, "-y", loop]);
    await tool([lvm, "vgcreate", "--devices", loop, "hv-test-vg", loop]);
  } finally {
    await tool(["losetup", "-d", loop]);
  }
}

test("LVM without a /boot of its own, btrfs, XFS, LUKS: each is named, with what to do", async (folder) => {
  const tree = `${folder}/tree`;
  await kernels(`${tree}/boot`, [`vmlinuz-${NEW}`], [`initrd.img-${NEW}`]);
  const makers: [program: string, made: RegExp, make: (path: string) => Promise<unknown>][] = [
    ["true", /an LVM physical volume/, (path) => physicalVolume(path)],
    ["mkfs.btrfs", /a Btrfs file system/, (path) => tool(["mkfs.btrfs", "-q", "--rootdir", tree, "--shrink", path])],
    ["mkfs.xfs", /an XFS file system/, (path) => tool(["mkfs.xfs", "-q", path])],
    [
      "cryptsetup",
      /LUKS-encrypted/,
      (path) => tool(["cryptsetup", "-q", "luksFormat", "--pbkdf-force-iterations=4", path, "-"], { stdin: "secret" }),
    ],
  ];
  for (const [program, made, make] of makers) {
    if (which(program) === null) {
      console.error(`SKIPPED a disk by ${program}: not installed`);
      continue;
    }
    const path = `${folder}/x.fs`;
    await Deno.writeFile(path, new Uint8Array());
    await Deno.truncate(path, 320 << 20);
    await make(path);
    await Deno.truncate(path, Math.ceil((await Deno.stat(path)).size / 2 ** 20) * 2 ** 20);
    const { boot, problems } = await inspectDisk(await gpt(folder, [["x", "L"]]));
    assert.equal(boot, null);
    assert.match(problems.join("\n"), made);
    assert.match(problems.join("\n"), /--kernel/);
  }
});

test("Fedora's GRUB: entries of the Boot Loader Specification, kernelopts, a saved entry", async (folder) => {
  const boot = `${folder}/boot`;
  const rescue = `0-rescue-${MACHINE_ID}`;
  for (const release of [NEW, OLD, rescue]) {
    await put(
      `${boot}/loader/entries/${MACHINE_ID}-${release}.conf`,
      `title Fedora Linux (${release}) 40 (Server Edition)
version ${release}
linux /vmlinuz-${release}
initrd /initramfs-${release}.img $tuned_initrd
${release === OLD ? "" : "options $kernelopts $tuned_params\n"}id fedora-20240101-${release}
grub_users $grub_users
grub_arg --unrestricted
grub_class fedora
`,
    );
  }
  await kernels(
    boot,
    [NEW, OLD, rescue].map((release) => `vmlinuz-${release}`),
    [NEW, OLD, rescue].map((release) => `initramfs-${release}.img`),
  );
  const find = (variable: string, uuid: string, partition: number) =>
    `set ${variable}='hd0,gpt${partition}'
if [ x$feature_platform_search_hint = xy ]; then
  search --no-floppy --fs-uuid --set=${variable} --hint-bios=hd0,gpt${partition}  ${uuid}
else
  search --no-floppy --fs-uuid --set=${variable} ${uuid}
fi
`;
  // The shape of what Fedora's grub2-mkconfig writes; that tool is in no Debian package.
  await put(
    `${boot}/grub2/grub.cfg`,
    `set pager=1
if [ -f \${config_directory}/grubenv ]; then
  load_env -f \${config_directory}/grubenv
elif [ -s $prefix/grubenv ]; then
  load_env
fi
if [ "\${next_entry}" ] ; then
   set default="\${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="\${saved_entry}"
fi
insmod part_gpt
insmod xfs
${find("root", ROOT_UUID, 3)}insmod ext2
${find("boot", BOOT_UUID, 2)}set default_kernelopts="root=/dev/mapper/fedora-root ro rhgb quiet"
if [ -z "\${kernelopts}" ]; then
  set kernelopts="root=/dev/mapper/fedora-root ro from-fallback"
fi
insmod blscfg
blscfg
if [ "\${boot_success}" = "1" -o "\${boot_indeterminate}" = "1" ]; then
  set menu_hide_ok=1
else
  set menu_hide_ok=0
fi
`,
  );
  const editenv = `${await unpacked("grub-common")}/usr/bin/grub-editenv`;
  const env = `${boot}/grub2/grubenv`;
  await tool([editenv, env, "create"]);
  const kernelopts = "kernelopts=root=UUID=x ro rhgb from-grubenv";
  await tool([editenv, env, "set", kernelopts, "tuned_params=skew_tick=1", "boot_success=0"]);
  await makeFat(`${folder}/esp.fs`, { mib: 8, label: "ESP", serial: "12345678", files: new Map([["x", "y"]]) });
  // / is XFS, as Fedora Server has it: hv does not read it, and need not.
  await Deno.writeFile(`${folder}/root.fs`, new Uint8Array());
  await Deno.truncate(`${folder}/root.fs`, 320 << 20);
  if (which("mkfs.xfs")) await tool(["mkfs.xfs", "-q", "-m", `uuid=${ROOT_UUID}`, `${folder}/root.fs`]);
  const build = async () => {
    await ext(folder, "boot", BOOT_UUID, 64);
    return await start(await gpt(folder, [["esp", "U"], ["boot", "L"], ["root", "L"]]));
  };
  const first = await build();
  assert.equal(first.kernel, `/vmlinuz-${NEW}`);
  assert.deepEqual(first.initrds, [`/initramfs-${NEW}.img`]);
  assert.equal(first.commandLine, "root=UUID=x ro rhgb from-grubenv skew_tick=1 console=ttyS0");
  assert.deepEqual(first.titles.length, 3);

  await tool([editenv, env, "set", `saved_entry=${MACHINE_ID}-${OLD}`]);
  const second = await build();
  assert.equal(second.kernel, `/vmlinuz-${OLD}`);
  assert.equal(second.commandLine, "root=/dev/mapper/fedora-root ro rhgb quiet console=ttyS0");
});

/** The ESP is a file system of its own here, where paths in entries begin, as kernel-install sees by its mount point. */
const RUN_KERNEL_INSTALL = `set -e
mkdir "$1/mounted"
mount -t tmpfs esp "$1/mounted"
cp -R "$1/esp/." "$1/mounted"
export KERNEL_INSTALL_CONF_ROOT="$1/etc"
printf 'layout=bls\\nBOOT_ROOT=%s\\nMACHINE_ID=%s\\n' "$1/mounted" "$2" > "$1/etc/install.conf"
for release in $3; do
  kernel-install add $release "$1/kernel/linux-$release" "$1/kernel/initrd.img"
done
cp -R "$1/mounted/." "$1/esp"
`;

/** How a script gets a root of its own. */
const UNSHARE = ["unshare", Deno.uid() === 0 ? "-m" : "-Urm", "--propagation", "private", "sh", "-c"];

test("systemd-boot: entries by kernel-install, and loader.conf's default", async (folder) => {
  if (which("kernel-install") === null) return console.error("SKIPPED systemd-boot: kernel-install is not installed");
  await kernels(`${folder}/kernel`, [`linux-${NEW}`, `linux-${OLD}`], ["initrd.img"]);
  await put(`${folder}/etc/cmdline`, "root=LABEL=root rw\n");
  await put(`${folder}/etc/entry-token`, `${MACHINE_ID}\n`);
  const loader = `${await unpacked("systemd-boot-efi")}/usr/lib/systemd/boot/efi/systemd-bootx64.efi`;
  for (const place of ["EFI/systemd/systemd-bootx64.efi", "EFI/BOOT/BOOTX64.EFI"]) {
    await tool(["install", "-D", "-m", "644", loader, `${folder}/esp/${place}`]);
  }
  for (const release of [OLD, NEW]) await Deno.mkdir(`${folder}/esp/${MACHINE_ID}/${release}`, { recursive: true });
  await tool([...UNSHARE, RUN_KERNEL_INSTALL, "sh", folder, MACHINE_ID, `${OLD} ${NEW}`]);
  const build = async () => {
    const files = await filesOf(`${folder}/esp`);
    await makeFat(`${folder}/esp.fs`, { mib: 64, label: "ESP", serial: "12345678", files });
    return await start(await gpt(folder, [["esp", "U"]]));
  };
  const first = await build();
  assert.equal(first.source, "bls");
  assert.equal(first.kernel, `/${MACHINE_ID}/${NEW}/linux`);
  assert.deepEqual(first.initrds, [`/${MACHINE_ID}/${NEW}/initrd.img`]);
  assert.equal(first.commandLine, `root=LABEL=root rw systemd.machine_id=${MACHINE_ID} console=ttyS0`);
  await put(`${folder}/esp/loader/loader.conf`, `timeout 3\ndefault ${MACHINE_ID}-${OLD}.conf\n`);
  assert.equal((await build()).kernel, `/${MACHINE_ID}/${OLD}/linux`);
  await put(`${folder}/esp/loader/loader.conf`, `default ${MACHINE_ID}-6.8.0-9-*\n`);
  assert.equal((await build()).kernel, `/${MACHINE_ID}/${OLD}/linux`);
});

test("a unified kernel image over systemd's stub", async (folder) => {
  const stub = `${await unpacked("systemd-boot-efi")}/usr/lib/systemd/boot/efi/linuxx64.efi.stub`;
  await kernels(folder, ["linux"], ["initrd"]);
  await put(`${folder}/cmdline`, "root=LABEL=root ro quiet\n");
  await put(`${folder}/uname`, `${NEW}\n`);
  await put(`${folder}/osrel`, 'ID=debian\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\n');
  // systemd-stub(7)'s sections, put behind the stub's own, as dracut and Arch's mkinitcpio do.
  const sections = [["osrel", 0x20000], ["uname", 0x28000], ["cmdline", 0x30000], ["initrd", 0x1000000], [
    "linux",
    0x2000000,
  ]];
  const image = `${folder}/esp/EFI/Linux/debian-${NEW}.efi`;
  await put(image, "");
  await tool([
    "objcopy",
    ...sections.flatMap(([name, address]) => [
      ...["--add-section", `.${name}=${folder}/${name}`],
      ...["--change-section-vma", `.${name}=${address}`],
    ]),
    stub,
    image,
  ]);
  await makeFat(`${folder}/esp.fs`, {
    mib: 48,
    label: "ESP",
    serial: "12345678",
    files: await filesOf(`${folder}/esp`),
  });
  const { boot, problems } = await inspectDisk(await gpt(folder, [["esp", "U"]]));
  assert.ok(boot, problems.join("\n"));
  assert.deepEqual([boot.source, boot.title], ["uki", "Debian GNU/Linux 12 (bookworm)"]);
  assert.equal(boot.kernel.architecture, "x86_64");
  assert.equal(boot.kernel.version, (await debianKernel("cloud")).release);
  assert.equal(boot.commandLine, "root=LABEL=root ro quiet console=ttyS0");
  assert.ok(boot.initrd, "the image's own initrd is what the guest gets");
});

/** /boot is a file system of its own here, as u-boot-update sees by its device number. */
const RUN_U_BOOT_UPDATE = `set -e
mount -t tmpfs boot /boot
mount -t tmpfs etc /etc/default
cp -R "$1/boot/." /boot/
cp "$1/etc/u-boot" /etc/default/u-boot
export PATH="$3/usr/bin:$PATH" PERL5LIB="$3/usr/share/perl5"
"$2/usr/sbin/u-boot-update"
cp -R /boot/extlinux "$1/boot/"
`;

test("extlinux.conf by u-boot-update", async (folder) => {
  const names = (prefix: string) => [NEW, OLD].map((release) => `${prefix}-${release}`);
  await kernels(`${folder}/boot`, names("vmlinuz"), names("initrd.img"));
  await put(`${folder}/etc/u-boot`, 'U_BOOT_ROOT="root=/dev/vda2"\nU_BOOT_PARAMETERS="ro quiet"\n');
  const trees = [await unpacked("u-boot-menu"), await unpacked("linux-base")];
  await tool([...UNSHARE, RUN_U_BOOT_UPDATE, "sh", folder, ...trees]);
  await ext(folder, "boot", BOOT_UUID, 64);
  const found = await start(await gpt(folder, [["boot", "L"]]));
  assert.equal(found.source, "extlinux");
  assert.equal(found.kernel, `/vmlinuz-${NEW}`);
  assert.deepEqual(found.initrds, [`/initrd.img-${NEW}`]);
  assert.equal(found.commandLine, "root=/dev/vda2 ro quiet console=ttyS0");
  assert.equal(found.titles.length, 4);
});
