/**
 * A small real guest disk, made in seconds: GPT, an EFI system partition, an ext4 root with Debian's cloud kernel, an
 * initrd that loads the virtio modules, a grub.cfg, and busybox as the userland with a login on the console.
 * `root` logs in without a password; `poweroff` and the power button end it cleanly.
 */
import { cached, digest } from "./cache.ts";
import { text, tool } from "./command.ts";
import { grubCfg } from "./grub_cfg.ts";
import { makeExt4, makeFat, makeGpt } from "./image.ts";
import { busybox, busyboxEntries, cpio, type Entry, zstd } from "./initramfs.ts";
import { type DebianKernel, debianKernel, moduleFiles } from "./kernel.ts";

const ROOT_UUID = "4c1f7e2a-93b5-4d08-a6c1-7be2d05f9a31";
const ROOT_PARTUUID = "7d3e5b90-2f64-4c8e-9a17-c05d8b6e1f42";
const ESP_PARTUUID = "c9e1a4f7-6b30-4d52-8f9c-1e7a3d5b0c68";
const DISK_UUID = "0f8b6d4c-3a2e-4f1d-b9c7-5e6a7d8c9b0a";
const ESP_SERIAL = "5D2E81C4";
const ROOT_MIB = 64;
const ESP_MIB = 8;
// 2026-01-01T00:00:00Z
const TIME = 1767225600;

/** Loaded by the initrd, in this order: what stands between the kernel and a root on virtio. */
const INITRD_MODULES = ["virtio_pci", "virtio_mmio", "virtio_blk"];

/** On the root file system for the running guest, loaded by the devices' modalias. */
const ROOT_MODULES = [
  ...INITRD_MODULES,
  ...["virtio_net", "virtio_console", "virtio_rng", "virtio_balloon", "virtio_input", "virtiofs", "virtio_scsi"],
  ...["vmw_vsock_virtio_transport", "button", "evdev", "qemu_fw_cfg", "pvpanic_pci"],
  ...["vfat", "nls_cp437", "nls_ascii", "nls_utf8", "isofs", "overlay", "loop"],
];

const INIT = `#!/bin/sh
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
for module in $(cat /modules/order); do insmod /modules/$module; done
root= init=/sbin/init mode=ro
for word in $(cat /proc/cmdline); do
  case "$word" in
    root=*) root="\${word#root=}" ;;
    init=*) init="\${word#init=}" ;;
    rw) mode=rw ;;
  esac
done
tries=0
while :; do
  case "$root" in
    UUID=*|LABEL=*) device=$(findfs "$root" 2>/dev/null) ;;
    *) device="$root" ;;
  esac
  [ -b "$device" ] && break
  tries=$((tries + 1))
  if [ $tries -gt 100 ]; then
    echo "initrd: no root device $root" > /dev/console
    cat /proc/partitions > /dev/console
    exit 1
  fi
  sleep 0.1
done
mount -t ext4 -o $mode "$device" /root || exit 1
for one in dev proc sys; do mount --move /$one /root/$one; done
exec switch_root /root "$init"
`;

const FILES: Record<string, string> = {
  "etc/hostname": "hv-demo\n",
  "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 hv-demo\n",
  "etc/passwd": "root::0:0:root:/root:/bin/sh\n",
  "etc/group": "root:x:0:\ntty:x:5:\n",
  "etc/os-release": 'PRETTY_NAME="hv demo (Debian kernel, busybox)"\nNAME="hv demo"\nID=hv-demo\n',
  "etc/issue": "\nA small guest: Debian's kernel, busybox. Log in as root, no password; poweroff ends it.\n\n",
  "etc/fstab": `UUID=${ROOT_UUID} / ext4 errors=remount-ro 0 1
UUID=${ESP_SERIAL.slice(0, 4)}-${ESP_SERIAL.slice(4)} /boot/efi vfat umask=0077,noauto 0 1
`,
  "etc/profile": "export PATH=/usr/sbin:/usr/bin:/sbin:/bin PS1='root@\\h:\\w# '\n",
  "etc/inittab": `::sysinit:/etc/init.d/rcS
::respawn:/etc/init.d/console
::ctrlaltdel:/sbin/reboot
::shutdown:/etc/init.d/rcK
`,
};

const SCRIPTS: Record<string, string> = {
  "etc/init.d/rcS": `#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -o remount,rw /
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
hostname -F /etc/hostname
find /sys/devices -name modalias -exec cat {} + | sort -u | xargs modprobe -a -b -q 2>/dev/null
modprobe -q evdev
ip link set lo up
acpid -c /etc/acpi
`,
  // The kernel's own console, whatever it is here (ttyS0, hvc0, ttyAMA0): the last one named is /dev/console.
  "etc/init.d/console": `#!/bin/sh
exec /sbin/getty -L "$(sed 's/.* //' /sys/class/tty/console/active)" 115200 vt100
`,
  "etc/init.d/rcK": `#!/bin/sh
sync
umount -a -r 2>/dev/null
`,
  "etc/acpi/PWRF/00000080": "#!/bin/sh\npoweroff\n",
};

/**
 * The initrd of the demo disk: it loads the virtio modules, mounts the root the command line names and goes on there.
 * @param more modules that are loaded as well
 */
export async function initrd(kernel: DebianKernel, more: readonly string[] = []): Promise<Uint8Array<ArrayBuffer>> {
  const modules = await moduleFiles(kernel, [...INITRD_MODULES, ...more]);
  const name = (path: string) => path.slice(path.lastIndexOf("/") + 1);
  const entries: Entry[] = [
    ...await busyboxEntries(),
    { path: "init", data: INIT, mode: 0o755 },
    { path: "modules/order", data: modules.map(name).join("\n") + "\n" },
    ...modules.map((path) => ({ path: `modules/${name(path)}`, data: Deno.readFileSync(path) })),
  ];
  return await zstd(cpio(entries));
}

async function populate(tree: string, kernel: DebianKernel): Promise<void> {
  const put = async (path: string, data: string | Uint8Array, mode = 0o644) => {
    const full = `${tree}/${path}`;
    await Deno.mkdir(full.slice(0, full.lastIndexOf("/")), { recursive: true });
    await (typeof data === "string" ? Deno.writeTextFile(full, data) : Deno.writeFile(full, data));
    await Deno.chmod(full, mode);
  };
  for (const entry of await busyboxEntries()) {
    const full = `${tree}/${entry.path}`;
    if ("directory" in entry) await Deno.mkdir(full, { recursive: true });
    else if ("link" in entry) await Deno.symlink(entry.link, full);
    else await put(entry.path, entry.data, entry.mode);
  }
  for (const path of ["boot/efi", "boot/grub", "mnt", "var/log", "etc/acpi/PWRF"]) {
    await Deno.mkdir(`${tree}/${path}`, { recursive: true });
  }
  await Deno.chmod(`${tree}/tmp`, 0o1777);
  for (const [path, data] of Object.entries(FILES)) await put(path, data);
  for (const [path, data] of Object.entries(SCRIPTS)) await put(path, data, 0o755);
  const lib = `lib/modules/${kernel.release}`;
  for (const path of await moduleFiles(kernel, ROOT_MODULES)) {
    await put(`${lib}${path.slice(kernel.modules.length)}`, await Deno.readFile(path));
  }
  for (const list of ["modules.builtin", "modules.order"]) {
    await put(`${lib}/${list}`, await Deno.readFile(`${kernel.modules}/${list}`));
  }
  await text([await busybox(), "depmod", "-b", tree, kernel.release]);
  await put(`boot/vmlinuz-${kernel.release}`, await Deno.readFile(kernel.vmlinuz));
  await put(`boot/config-${kernel.release}`, await Deno.readFile(kernel.config));
  await put(`boot/initrd.img-${kernel.release}`, await initrd(kernel));
  await Deno.symlink(`boot/vmlinuz-${kernel.release}`, `${tree}/vmlinuz`);
  await Deno.symlink(`boot/initrd.img-${kernel.release}`, `${tree}/initrd.img`);
  const append = "console=tty0 console=ttyS0,115200";
  await put("boot/grub/grub.cfg", grubCfg({ uuid: ROOT_UUID, partition: "gpt2", release: kernel.release, append }));
  await tool(["find", tree, "-exec", "touch", "-h", "-d", `@${TIME}`, "{}", "+"]);
}

/** The path of the pristine demo disk image (74 MiB, 24 MB of it used). Callers copy it before they write to it. */
export async function demoDisk(): Promise<string> {
  const kernel = await debianKernel("cloud");
  const sources = [new URL(import.meta.url), new URL("./grub_cfg.ts", import.meta.url)];
  const files = [...sources, await busybox()];
  const recipe = await digest(...await Promise.all(files.map((file) => Deno.readFile(file))));
  return await cached(`disks/demo_${kernel.version}_${recipe}.img`, async (image, step) => {
    const work = `${image}.work`;
    await tool(["rm", "-rf", work]);
    await Deno.mkdir(`${work}/tree`, { recursive: true });
    try {
      step.detail = "files";
      await populate(`${work}/tree`, kernel);
      step.detail = "file systems";
      const grub = `search.fs_uuid ${ROOT_UUID} root\nset prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg\n`;
      const files = new Map([["EFI/debian/grub.cfg", grub]]);
      await makeFat(`${work}/esp`, { mib: ESP_MIB, label: "ESP", serial: ESP_SERIAL, files });
      await makeExt4(`${work}/root`, { source: `${work}/tree`, mib: ROOT_MIB, uuid: ROOT_UUID, time: TIME });
      await makeGpt(image, DISK_UUID, [
        { file: `${work}/esp`, type: "U", uuid: ESP_PARTUUID },
        { file: `${work}/root`, type: "L", uuid: ROOT_PARTUUID },
      ]);
    } finally {
      await tool(["rm", "-rf", work]);
    }
  });
}

if (import.meta.main) console.log(await demoDisk());
