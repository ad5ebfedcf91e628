/**
 * A whole Debian disk made by Debian's own tools: mmdebstrap, update-initramfs, update-grub, mke2fs, mkfs.fat, sfdisk.
 * GPT with an EFI system partition and an ext4 root; systemd, the cloud kernel, root without a password on ttyS0.
 */
import { cached, digest } from "./cache.ts";
import { text, tool, TOOL_ENV, which } from "./command.ts";
import { makeExt4, makeFat, makeGpt } from "./image.ts";
import { packageVersion } from "./packages.ts";
import type { Step } from "./progress.ts";

const ROOT_UUID = "6d8f4a52-1c5e-4a0b-9f3d-27c1b8e4d911";
const ROOT_PARTUUID = "b0a6f1d4-52c7-4b1e-8d53-9a1c47e02f66";
const ESP_PARTUUID = "3f7c9b2e-0d4a-4e6f-a1b8-5c2d8e9f7a10";
const DISK_UUID = "e2b4d6f8-1a3c-4e5f-8b7d-9c0e1f2a3b4c";
const ESP_SERIAL = "8A3C5D7E";
const ROOT_MIB = 1024;
const ESP_MIB = 64;

const INCLUDE = [
  "linux-image-cloud-amd64",
  "systemd-sysv",
  "dbus",
  "grub-common",
  "grub2-common",
  "e2fsprogs",
  "login",
  "passwd",
  "procps",
  "iproute2",
];

/**
 * What grub-probe would say on the booted disk. update-grub runs it to ask which device `/` lies on; while the disk is
 * being made there is no device yet, only the partition it will be.
 */
const GRUB_PROBE = `#!/bin/sh
for argument; do
  case "$argument" in
    --target=*) target="\${argument#--target=}" ;;
    -t) want=1 ;;
    *) [ -z "$want" ] || { target="$argument"; want=; } ;;
  esac
done
case "$target" in
  device) echo /dev/vda2 ;;
  fs_uuid) echo ${ROOT_UUID} ;;
  partuuid) echo ${ROOT_PARTUUID} ;;
  fs) echo ext2 ;;
  partmap) echo gpt ;;
  abstraction) ;;
  hints_string) echo '--hint-bios=hd0,gpt2 --hint-efi=hd0,gpt2 --hint-baremetal=ahci0,gpt2 ' ;;
  compatibility_hint) echo hd0,gpt2 ;;
  disk) echo /dev/vda ;;
  drive) echo '(hd0,gpt2)' ;;
  *) exit 1 ;;
esac
`;

/**
 * Runs in the tree of mmdebstrap, its first argument, before it is finished. systemd's patience is 90 s: on a busy machine
 * an emulated processor needs more, and a guest that goes to its emergency shell proves nothing.
 */
const CUSTOMIZE = `#!/bin/sh
set -e
root="$1"
echo hv-debian > "$root/etc/hostname"
printf '127.0.0.1 localhost\\n127.0.1.1 hv-debian\\n' > "$root/etc/hosts"
cat > "$root/etc/fstab" <<END
UUID=${ROOT_UUID} / ext4 errors=remount-ro 0 1
UUID=${ESP_SERIAL.slice(0, 4)}-${ESP_SERIAL.slice(4)} /boot/efi vfat umask=0077,x-systemd.device-timeout=30min 0 1
END
mkdir -p "$root/etc/systemd/system.conf.d"
cat > "$root/etc/systemd/system.conf.d/patience.conf" <<END
[Manager]
DefaultTimeoutStartSec=30min
DefaultDeviceTimeoutSec=30min
END
mkdir -p "$root/boot/efi" "$root/boot/grub"
chroot "$root" passwd -q -d root
cat > "$root/etc/default/grub" <<END
GRUB_DEFAULT=0
GRUB_TIMEOUT=5
GRUB_DISTRIBUTOR=\\\`lsb_release -i -s 2> /dev/null || echo Debian\\\`
GRUB_CMDLINE_LINUX_DEFAULT="quiet"
GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200"
END
cp "$0.probe" "$root/usr/sbin/grub-probe.stub"
mv "$root/usr/sbin/grub-probe" "$root/usr/sbin/grub-probe.real"
mv "$root/usr/sbin/grub-probe.stub" "$root/usr/sbin/grub-probe"
mkdir -p "$root/dev/disk/by-uuid"
touch "$root/dev/disk/by-uuid/${ROOT_UUID}"
chroot "$root" update-grub
rm -r "$root/dev/disk"
mv "$root/usr/sbin/grub-probe.real" "$root/usr/sbin/grub-probe"
: > "$root/etc/machine-id"
rm -rf "$root/var/lib/apt/lists"/* "$root/var/cache/apt"/*.bin
`;

/** Where apt takes this machine's Debian packages from, as lines of a sources.list; the guest comes from the same place. */
export async function debianSources(): Promise<string> {
  const format = "$(ORIGIN)|deb $(REPO_URI) $(RELEASE) $(COMPONENT)";
  const lines = (await text(["apt-get", "indextargets", "--format", format, "Created-By: Packages"])).split("\n");
  // Other people's archives have their own keys and their own ideas of a package.
  const debian = lines.filter((line) => line.startsWith("Debian|")).map((line) => line.slice("Debian|".length));
  if (!debian.length) throw new Error("apt has no lists of Debian's archive; run 'apt-get update' as root");
  return [...new Set(debian)].join("\n") + "\n";
}

/** The name of this Debian release: `bookworm`. */
export function codename(): string {
  const release = Deno.readTextFileSync("/etc/os-release");
  const name = release.match(/^VERSION_CODENAME="?([a-z]+)/m)?.[1];
  if (!name || !/^ID="?debian/m.test(release)) throw new Error("a Debian guest disk can only be made on Debian");
  return name;
}

/** Runs mmdebstrap with its progress shown. */
async function bootstrap(work: string, step: Step): Promise<void> {
  await Deno.writeTextFile(`${work}/customize`, CUSTOMIZE, { mode: 0o755 });
  await Deno.writeTextFile(`${work}/customize.probe`, GRUB_PROBE, { mode: 0o755 });
  await Deno.writeTextFile(`${work}/sources.list`, await debianSources());
  // What it mounts in the tree is nobody else's, and gone with it.
  const child = new Deno.Command(which("unshare") ?? "unshare", {
    args: [
      ...["--mount", which("mmdebstrap") ?? "mmdebstrap", "--mode=root"],
      "--variant=minbase",
      `--include=${INCLUDE.join(",")}`,
      `--customize-hook=${work}/customize "$1"`,
      codename(),
      `${work}/tree`,
      `${work}/sources.list`,
    ],
    env: { ...TOOL_ENV, SOURCE_DATE_EPOCH: "1767225600" },
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).spawn();
  const log: string[] = [];
  for await (const chunk of child.stderr.pipeThrough(new TextDecoderStream())) {
    log.push(chunk);
    step.detail = chunk.match(/^I: (.*)$/m)?.[1] ?? step.detail;
  }
  if (!(await child.status).success) throw new Error(`mmdebstrap failed:\n${log.join("").slice(-4000)}`);
}

/**
 * The path of a pristine Debian disk image (1.1 GiB, sparse). Callers copy it before they write to it.
 * The first call takes one to two minutes and must be root's.
 */
export async function debianDisk(): Promise<string> {
  const { version } = await packageVersion("linux-image-cloud-amd64");
  const recipe = await digest(GRUB_PROBE, CUSTOMIZE, INCLUDE.join(), `${ROOT_MIB} ${ESP_MIB}`, codename());
  return await cached(`disks/debian_${version}_${recipe}.img`, async (image, step) => {
    if (Deno.uid() !== 0) throw new Error("making the Debian guest disk needs root (mmdebstrap with chroot)");
    const work = `${image}.work`;
    await Deno.mkdir(work, { recursive: true });
    try {
      await bootstrap(work, step);
      step.detail = "file systems";
      const grub = "search.fs_uuid " + ROOT_UUID +
        " root\nset prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg\n";
      await makeFat(`${work}/esp`, {
        mib: ESP_MIB,
        label: "ESP",
        serial: ESP_SERIAL,
        files: new Map([["EFI/debian/grub.cfg", grub]]),
      });
      const time = 1767225600;
      await makeExt4(`${work}/root`, { source: `${work}/tree`, mib: ROOT_MIB, uuid: ROOT_UUID, time });
      await makeGpt(image, DISK_UUID, [
        { file: `${work}/esp`, type: "U", uuid: ESP_PARTUUID },
        { file: `${work}/root`, type: "L", uuid: ROOT_PARTUUID },
      ]);
    } finally {
      await tool(["rm", "-rf", "--one-file-system", work]);
    }
  });
}

if (import.meta.main) console.log(await debianDisk());
