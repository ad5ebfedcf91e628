/**
 * The Debian packages that the tests need. As root on a machine with apt the missing ones are installed, with progress;
 * elsewhere the one command that installs them is printed, and the tests that need them are skipped, saying so.
 */
import { TOOL_ENV, which } from "./guests/command.ts";

/** A tool, the package it comes in, and what the tests do with it. */
interface Tool {
  /** A program on PATH, or a file's full path. */
  readonly probe: string;
  readonly name: string;
}

const TOOLS: readonly Tool[] = [
  { probe: "qemu-system-x86_64", name: "qemu-system-x86" }, // the lab, and the reference for guests
  { probe: "qemu-img", name: "qemu-utils" }, // images in other people's formats
  { probe: "gcc", name: "gcc" }, // struct layouts, reference loops
  { probe: "/usr/include/stdio.h", name: "libc6-dev" },
  { probe: "/usr/include/linux/kvm.h", name: "linux-libc-dev" },
  { probe: "nasm", name: "nasm" }, // guests of a few instructions
  { probe: "objdump", name: "binutils" },
  { probe: "iasl", name: "acpica-tools" }, // ACPI tables by somebody else's judgement
  { probe: "mmdebstrap", name: "mmdebstrap" }, // the Debian disk
  { probe: "busybox", name: "busybox-static" },
  { probe: "mke2fs", name: "e2fsprogs" },
  { probe: "mkfs.fat", name: "dosfstools" },
  { probe: "mcopy", name: "mtools" },
  { probe: "sfdisk", name: "fdisk" },
  { probe: "sgdisk", name: "gdisk" },
  { probe: "genisoimage", name: "genisoimage" },
  { probe: "xorriso", name: "xorriso" },
  { probe: "mkfs.btrfs", name: "btrfs-progs" }, // file systems that are named, not read
  { probe: "mkfs.xfs", name: "xfsprogs" },
  { probe: "mkntfs", name: "ntfs-3g" },
  { probe: "mksquashfs", name: "squashfs-tools" },
  { probe: "cryptsetup", name: "cryptsetup-bin" },
  { probe: "lvm", name: "lvm2" },
  { probe: "dmidecode", name: "dmidecode" }, // SMBIOS tables by somebody else's judgement
  { probe: "zsh", name: "zsh" }, // completions
  { probe: "fish", name: "fish" },
  { probe: "x86_64-w64-mingw32-gcc", name: "gcc-mingw-w64-x86-64" }, // the Windows API's layouts
  { probe: "/usr/x86_64-w64-mingw32/include/winhvplatform.h", name: "mingw-w64-x86-64-dev" },
  { probe: "cpio", name: "cpio" },
  { probe: "gzip", name: "gzip" },
  { probe: "bzip2", name: "bzip2" },
  { probe: "xz", name: "xz-utils" },
  { probe: "zstd", name: "zstd" },
  { probe: "lz4", name: "lz4" },
  { probe: "/usr/lib/wine/wine64", name: "wine64" }, // Windows' Deno
  { probe: "npm", name: "npm" },
  { probe: "setpriv", name: "util-linux" }, // children that do not outlive us
  { probe: "script", name: "bsdutils" }, // a terminal around a program
];

function present(tool: Tool): boolean {
  if (!tool.probe.startsWith("/")) return which(tool.probe) !== null;
  try {
    return Deno.statSync(tool.probe).isFile;
  } catch {
    return false;
  }
}

/** The names of the packages that are not there, of those named or of all. */
function missingPackages(only?: readonly string[]): string[] {
  return TOOLS.filter((tool) => !present(tool)).map((tool) => tool.name).filter((name) => only?.includes(name) ?? true);
}

/** Whether apt has ever fetched its lists here; an image of a fresh machine comes without. */
function aptHasLists(): boolean {
  try {
    return [...Deno.readDirSync("/var/lib/apt/lists")].some((entry) =>
      entry.name.endsWith("_Packages") ||
      entry.name.includes("_Packages.")
    );
  } catch {
    return false;
  }
}

/** Runs apt-get and shows its own progress, at most one line every five seconds. */
async function apt(args: readonly string[]): Promise<boolean> {
  const child = new Deno.Command("apt-get", {
    // APT::Status-Fd: machine-readable progress, lines of `kind:item:percent:words`.
    args: ["-q", "-y", "-o", "APT::Status-Fd=1", "-o", "DPkg::Lock::Timeout=300", ...args],
    env: { ...TOOL_ENV, DEBIAN_FRONTEND: "noninteractive" },
    stdin: "null",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const log: string[] = [];
  let last = Date.now();
  for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) {
    log.push(chunk);
    const progress = [...chunk.matchAll(/^(?:dl|pm)status:[^:]*:([\d.]+):(.*)$/gm)].at(-1);
    if (!progress || Date.now() - last < 5_000) continue;
    last = Date.now();
    console.error(`  ${Number(progress[1]).toFixed(0).padStart(3)} % ${progress[2]}`);
  }
  const { success } = await child.status;
  if (!success) console.error(log.join("").split("\n").slice(-20).join("\n"));
  return success;
}

/**
 * Makes sure of the packages, as far as this user may.
 * @param only these packages; all that the tests need by default
 * @returns the names of those still missing
 */
export async function ensureTools(only?: readonly string[]): Promise<string[]> {
  const missing = missingPackages(only);
  const lists = which("apt-get") !== null && aptHasLists();
  if (!missing.length && lists) return [];
  const install = ["install", "--no-install-recommends", ...missing];
  if (Deno.uid() !== 0 || !which("apt-get")) {
    const command = `sudo apt-get update && sudo apt-get ${install.join(" ")}`;
    console.error(`Needed, and not here: ${missing.join(", ") || "Debian's package lists"}.`);
    console.error(which("apt-get") ? `As root: ${command}` : "There is no apt here: use a Debian machine.");
    return missing;
  }
  // The guests are made of Debian's packages as well, so the lists are needed even where no tool is missing.
  console.error("Fetching the package lists ...");
  if (!await apt(["update"])) console.error("apt-get update failed; trying with the lists that are here");
  if (missing.length) {
    console.error(`Installing ${missing.join(", ")} ...`);
    await apt(install);
  }
  return missingPackages(only);
}

if (import.meta.main) {
  const missing = await ensureTools();
  console.error(missing.length ? `Still missing: ${missing.join(", ")}` : "All tools are there.");
  Deno.exit(missing.length ? 1 : 0);
}
