/** What Windows Hypervisor Platform is on this machine, and why not where it is not. */
import { type Missing, type Support, unusable } from "../../core/hypervisor.ts";
import { Capability, platform, resultName, shimPath } from "./abi.ts";

const HOW_TO_ENABLE = "switch it on with `dism /online /enable-feature /featurename:HypervisorPlatform /all` in a " +
  "terminal of an administrator, then restart Windows";

const NEWER_WINDOWS = "hv needs Windows 10 2004 (build 19041) or newer";

/** A capability's low 32 bits; 0 for what this Windows does not know. */
export function capability(code: number): number {
  const words = new Uint32Array(4);
  return platform().WHvGetCapability(code, words, 8, new Uint32Array(1)) >= 0 ? words[0] : 0;
}

/** {@link Hypervisor.probe}. */
export function probeWhpx(): Support {
  const windows = Deno.build.os === "windows";
  if (!windows && shimPath() === null) {
    return unusable({ reason: "WHPX is a part of Windows, and this is not Windows" });
  }
  if (Deno.build.arch !== "x86_64") {
    return unusable({ reason: "WHPX runs x86-64 guests on x86-64 Windows only, and this is another CPU" });
  }
  try {
    platform();
  } catch (error) {
    return unusable(whyNotLoaded(error as Error));
  }
  // A BOOL, 4 bytes.
  const present = new Uint32Array(1);
  const result = platform().WHvGetCapability(Capability.HypervisorPresent, present, 4, new Uint32Array(1));
  if (result < 0) return unusable({ reason: `Windows Hypervisor Platform does not answer: ${resultName(result)}` });
  if (present[0] === 0) {
    return unusable({
      reason: "Windows Hypervisor Platform is installed, but the hypervisor does not run",
      advice:
        "switch virtualization on in the firmware (BIOS/UEFI; in a virtual machine, nested virtualization at its " +
        "host), and have the hypervisor started with `bcdedit /set hypervisorlaunchtype auto` as administrator; then " +
        "restart Windows",
    });
  }
  const features = capability(Capability.Features);
  if ((capability(Capability.ExtendedVmExits) & 2) === 0 || (features & 4) === 0) {
    return unusable({
      reason: "this Windows is too old: its Windows Hypervisor Platform cannot report MSRs or move FPU state",
      advice: NEWER_WINDOWS,
    });
  }
  const api = platform();
  const localApic = (features & 2) !== 0 && api.WHvGetVirtualProcessorInterruptControllerState2 !== null;
  const shim = shimPath() !== null;
  return {
    usable: true,
    reason: shim ? "the tests' shim of Windows Hypervisor Platform" : "Windows Hypervisor Platform",
    architectures: ["x86_64"],
    maxVcpus: 64,
    maxMemory: Deno.systemMemoryInfo().total,
    // WHPX does not tell; every CPU with second-level paging has at least this.
    physicalAddressBits: 39,
    features: {
      localApic,
      dirtyPages: (features & 8) !== 0,
      doorbells: api.WHvRegisterPartitionDoorbellEvent !== null,
    },
    restricted: false,
  };
}

function whyNotLoaded(error: Error): Missing {
  if (error instanceof Deno.errors.NotCapable || error instanceof Deno.errors.PermissionDenied) {
    return {
      reason: "Deno may not load WinHvPlatform.dll",
      advice: "run hv with --allow-ffi (`deno run -A`), or use hv.exe",
    };
  }
  if (/symbol/i.test(error.message)) {
    return { reason: `this Windows is too old for hv (${error.message})`, advice: NEWER_WINDOWS };
  }
  return { reason: "Windows Hypervisor Platform is not installed", advice: HOW_TO_ENABLE };
}
