/** What KVM is on this machine: usable, or what is missing and what to do about it. */
import { type Missing, type Support, unusable } from "../../core/hypervisor.ts";
import { C, cString, Errno, errno, Kvm, libc } from "./abi.ts";
import { physicalAddressBits, supportedCpuid } from "./x64_cpuid.ts";

/** Where the probe looks; tests put other things there. */
export interface SystemView {
  os: string;
  architecture: string;
  device: string;
  cpuinfo: string;
  modules: string;
  /** Where the names of groups stand. */
  groups: string;
  /** Bytes of host memory. */
  memory: () => number;
  /** Opens the device for reading and writing: a descriptor, or minus an errno. */
  open: (path: string) => number;
  /** ioctl with a number; negative on error. */
  ioctl: (fd: number, request: number, argument: number) => number;
}

/** This machine. */
export function thisSystem(): SystemView {
  return {
    os: Deno.build.os,
    architecture: Deno.build.arch,
    device: "/dev/kvm",
    cpuinfo: "/proc/cpuinfo",
    modules: "/sys/module",
    groups: "/etc/group",
    memory: () => Deno.systemMemoryInfo().total,
    open: (path) => {
      const fd = libc().open(cString(path), C.O_RDWR | C.O_CLOEXEC);
      return fd < 0 ? -errno() : fd;
    },
    ioctl: (fd, request, argument) => libc().ioctl(fd, request, argument),
  };
}

/** Looks; changes nothing, never throws. */
export function probeKvm(system: SystemView = thisSystem()): Support {
  try {
    return probe(system);
  } catch (error) {
    return unusable({ reason: `KVM could not be looked at: ${(error as Error).message}` });
  }
}

function probe(system: SystemView): Support {
  if (system.os !== "linux") return unusable({ reason: "KVM is part of Linux, and this is not Linux" });
  if (system.architecture !== "x86_64") {
    return unusable({ reason: `hv's KVM backend runs on x86-64 hosts, not ${system.architecture}` });
  }
  const extension = virtualizationExtension(system);
  const { device } = system;
  const fd = system.open(device);
  if (fd < 0) return unusable(whyNotOpen(system, -fd, extension));
  try {
    const version = system.ioctl(fd, Kvm.GET_API_VERSION, 0);
    if (version < 0) return unusable({ reason: `${device} is there, but it is not KVM: its API does not answer` });
    const check = (capability: number) => system.ioctl(fd, Kvm.CHECK_EXTENSION, capability);
    if (version !== Kvm.API_VERSION || check(Kvm.CAP_IMMEDIATE_EXIT) <= 0 || check(Kvm.CAP_SIGNAL_MSI) <= 0) {
      const lack = version === Kvm.API_VERSION ? " without immediate_exit" : "";
      return unusable({
        reason: `KVM here is too old (API ${version}${lack})`,
        advice: "update the kernel: hv needs Linux 4.13 or newer",
      });
    }
    const cpuid = supportedCpuid(fd);
    const bits = physicalAddressBits(cpuid);
    const pvm = isPvm(system);
    const maxVcpus = Math.max(check(Kvm.CAP_MAX_VCPUS), check(Kvm.CAP_NR_VCPUS), 1);
    return {
      usable: !pvm,
      reason: pvm
        ? "this machine's /dev/kvm is KVM's PVM module, which runs only PVM-aware kernels, not those of stock disks"
        : `KVM with ${extension === "svm" ? "AMD-V" : extension === "vmx" ? "VT-x" : "an unknown CPU extension"}`,
      architectures: ["x86_64"],
      // APIC ids above 254 would need x2APIC routing.
      maxVcpus: Math.min(maxVcpus, 254),
      maxMemory: Math.min(system.memory(), 2 ** bits - 2 ** 30),
      physicalAddressBits: bits,
      features: {
        api: version,
        extension: extension || (pvm ? "pvm" : "none"),
        nestedPaging: nestedPaging(system),
        doorbells: check(Kvm.CAP_IOEVENTFD) > 0,
        interruptDescriptors: check(Kvm.CAP_IRQFD) > 0,
        readOnlyMemory: check(Kvm.CAP_READONLY_MEM) > 0,
        recommendedVcpus: check(Kvm.CAP_NR_VCPUS),
      },
      restricted: pvm,
    };
  } finally {
    libc().close(fd);
  }
}

/** Whether KVM is the PVM module: there, and no hardware virtualization that another module could use. */
export function isPvm(system: SystemView = thisSystem()): boolean {
  return exists(`${system.modules}/kvm_pvm`) && virtualizationExtension(system) === "";
}

/** `vmx`, `svm` or nothing, as the CPU says. */
function virtualizationExtension(system: SystemView): string {
  const flags = /^flags\s*:(.*)$/m.exec(read(system.cpuinfo))?.[1].split(/\s+/) ?? [];
  return flags.includes("vmx") ? "vmx" : flags.includes("svm") ? "svm" : "";
}

function whyNotOpen(system: SystemView, code: number, extension: string): Missing {
  const { device } = system;
  if (code === Errno.EPERM) {
    return {
      reason: `${device} is here, but its use is forbidden`,
      advice: `this is a container without it: pass it in (--device ${device})`,
    };
  }
  if (code === Errno.EACCES) {
    if (/^kvm:/m.test(read(system.groups))) {
      return {
        reason: `no permission for ${device}`,
        advice: "add yourself to the group kvm with `sudo usermod -aG kvm $USER` and log in again",
      };
    }
    return {
      reason: `no permission for ${device}, and there is no group kvm`,
      advice: '`sudo groupadd -r kvm`, put `KERNEL=="kvm", GROUP="kvm", MODE="0660"` into ' +
        "/etc/udev/rules.d/65-kvm.rules, `sudo udevadm trigger /dev/kvm`, then `sudo usermod -aG kvm $USER` and log in " +
        "again",
    };
  }
  if (code === Errno.EBUSY) {
    return { reason: `${device} is busy: another hypervisor holds the CPU's virtualization`, advice: "stop it" };
  }
  if (code !== Errno.ENOENT && code !== Errno.ENODEV && code !== Errno.ENXIO) {
    return { reason: `${device} cannot be opened (errno ${code})` };
  }
  if (extension === "") {
    return {
      reason: `no ${device}, and the CPU offers neither VT-x nor AMD-V`,
      advice: "switch virtualization on in the firmware (BIOS/UEFI); in a virtual machine, switch nested " +
        "virtualization on at its host; in a container, pass the device in",
    };
  }
  const name = extension === "svm" ? "kvm_amd" : "kvm_intel";
  if (exists(`${system.modules}/${name}`)) {
    return {
      reason: `${name} is loaded but ${device} is not here`,
      advice: `in a container, pass it in (--device ${device})`,
    };
  }
  return {
    reason: `no ${device}`,
    advice: `load the module with \`sudo modprobe ${name}\` (if it refuses, virtualization is switched off in the ` +
      "firmware)",
  };
}

function nestedPaging(system: SystemView): string {
  const npt = read(`${system.modules}/kvm_amd/parameters/npt`) || read(`${system.modules}/kvm_intel/parameters/ept`);
  if (npt === "") return "unknown";
  return /^[Y1]/.test(npt) ? "yes" : "no";
}

function read(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return "";
  }
}

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}
