/**
 * grub.cfg by GRUB's own grub-mkconfig out of Debian's packages, for a disk that is not this machine's: it runs in a
 * root of its own, over this machine's programs, and is told about the disk where it would ask grub-probe.
 */
import { text, tool } from "./command.ts";
import { unpacked } from "./packages.ts";

/** What grub-probe would say of a device (grub-probe(8), `--target`). */
export interface ProbedDevice {
  /** As the running system calls it: `/dev/vda2`. */
  readonly device: string;
  readonly uuid: string;
  /** GRUB's name of the file system: `ext2`, `xfs` ... */
  readonly fs: string;
  /** What lies below: `lvm`, or nothing. */
  readonly abstraction?: string;
  /** `gpt` or `msdos`. */
  readonly partmap: string;
  /** As GRUB calls it: `hd0,gpt2`, `lvm/vg-root`. */
  readonly name: string;
}

/** A system to be configured. */
export interface GrubSystem {
  readonly root: ProbedDevice;
  /** A file system of its own for /boot. */
  readonly boot?: ProbedDevice;
  /** Kernel releases in /boot, each with an initrd. */
  readonly releases: readonly string[];
  /** What /etc/default/grub says. */
  readonly settings: string;
  /** Switches Ubuntu's own features on, which its build of the same script has. */
  readonly ubuntu?: boolean;
}

/** Where GRUB's scripts have Ubuntu's features, off in Debian's build. */
const UBUNTU = /^(ubuntu_recovery|quiet_boot|quick_boot|gfxpayload_dynamic|vt_handoff)="0"$/gm;

const RUN = `set -e
root=$1
mount -t tmpfs root $root
mkdir -p $root/usr $root/etc $root/proc $root/dev $root/tmp $root/boot $root/var
for folder in bin sbin lib lib64; do [ ! -L /$folder ] || ln -s usr/$folder $root/$folder; done
mount -t overlay overlay -o lowerdir=$2:/usr $root/usr
cp -R $3/etc/. $root/etc/
[ -z "$4" ] || mount -t tmpfs boot $root/boot
cp -R $3/boot/. $root/boot/
mount --rbind /dev $root/dev
mount --rbind /proc $root/proc
exec chroot $root /usr/sbin/grub-mkconfig
`;

function grubProbe(devices: readonly [path: string, device: ProbedDevice][]): string {
  const answers = devices.flatMap(([path, one]) => {
    const facts: Record<string, string> = {
      fs_uuid: one.uuid,
      fs: one.fs,
      abstraction: one.abstraction ?? "",
      partmap: one.partmap,
      compatibility_hint: one.name,
      drive: `(${one.name})`,
      // Debian's kernels have no name for a partition without its UUID but this.
      partuuid: "",
      hints_string: one.abstraction
        ? `--hint='${one.name}' `
        : `--hint-bios=${one.name} --hint-efi=${one.name} --hint-baremetal=${one.name.replace("hd0", "ahci0")} `,
      cryptodisk_uuid: "",
    };
    return [
      `  "device ${path}") echo '${one.device}' ;;`,
      ...Object.entries(facts).map(([target, answer]) =>
        `  "${target} ${one.device}") printf '%s' "${answer.replaceAll('"', '\\"')}" ;;`
      ),
    ];
  });
  return `#!/bin/sh
target=fs
while [ $# -gt 0 ]; do
  case "$1" in
    --target=*) target="\${1#--target=}" ;;
    -t) target="$2"; shift ;;
    --device | -d) ;;
    *) what="$1" ;;
  esac
  shift
done
case "$target $what" in
${[...new Set(answers)].join("\n")}
  "device "*) echo '${devices[0][1].device}' ;;
  *) echo "no answer to $target $what" >&2; exit 1 ;;
esac
`;
}

/** The text of the grub.cfg that update-grub would write on that system. */
export async function grubMkconfig(system: GrubSystem): Promise<string> {
  const folder = await Deno.makeTempDir({ prefix: "hv-grub-" });
  try {
    const usr = `${folder}/usr`;
    for (const path of [usr, `${folder}/root`, `${folder}/files/etc/default`, `${folder}/files/boot/grub`]) {
      await Deno.mkdir(path, { recursive: true });
    }
    for (const name of ["grub-common", "grub2-common"]) {
      const tree = await unpacked(name);
      await tool(["cp", "-R", `${tree}/usr/.`, usr]);
      await tool(["cp", "-R", `${tree}/etc/.`, `${folder}/files/etc`]);
    }
    const script = `${folder}/files/etc/grub.d/10_linux`;
    const original = await Deno.readTextFile(script);
    if (system.ubuntu) {
      const changed = original.replace(UBUNTU, '$1="1"');
      if (changed === original) throw new Error("this GRUB's 10_linux has no switches for Ubuntu's features");
      await Deno.writeTextFile(script, changed);
    }
    await Deno.writeTextFile(`${folder}/files/etc/default/grub`, system.settings);
    for (const release of system.releases) {
      for (const name of ["vmlinuz-", "initrd.img-"]) {
        await Deno.writeTextFile(`${folder}/files/boot/${name}${release}`, "x");
      }
    }
    const probe = grubProbe([["/", system.root], ["/boot", system.boot ?? system.root]]);
    await Deno.writeTextFile(`${usr}/sbin/grub-probe`, probe, { mode: 0o755 });
    const roots = Deno.uid() === 0 ? ["unshare", "-m"] : ["unshare", "-Urm"];
    return await text([
      ...[...roots, "--propagation", "private", "sh", "-c", RUN, "sh"],
      ...[`${folder}/root`, usr, `${folder}/files`, system.boot ? "own" : ""],
    ]);
  } finally {
    await tool(["rm", "-rf", folder]);
  }
}
