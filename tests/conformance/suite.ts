/** The conformance suite: what every backend does, by name. It defines the contract of `core/hypervisor.ts`. */
import type { Hypervisor } from "../../core/hypervisor.ts";
import { type Behaviour, Skip, type Subject } from "./behaviour.ts";
import { atomicBehaviours } from "./atomic_behaviours.ts";
import { interruptBehaviours } from "./interrupt_behaviours.ts";
import { memoryBehaviours } from "./memory_behaviours.ts";
import { mmioBehaviours } from "./mmio_behaviours.ts";
import { portBehaviours } from "./port_behaviours.ts";
import { stateBehaviours } from "./state_behaviours.ts";

export const BEHAVIOURS: readonly Behaviour[] = [
  ...portBehaviours,
  ...mmioBehaviours,
  ...memoryBehaviours,
  ...stateBehaviours,
  ...interruptBehaviours,
  ...atomicBehaviours,
];

const LOADERS: Record<string, () => Promise<Hypervisor>> = {
  kvm: async () => (await import("../../backends/kvm/hypervisor.ts")).kvm,
  whpx: async () => (await import("../../backends/whpx/hypervisor.ts")).whpx,
  soft: async () => (await import("../../backends/soft/hypervisor.ts")).soft,
};

/** A column of the table that is not there, and why. */
export interface Absent {
  name: string;
  reason: string;
}

/** Every backend that runs guests here, KVM and WHPX in both their forms. */
export async function findSubjects(): Promise<{ subjects: Subject[]; absent: Absent[] }> {
  const subjects: Subject[] = [];
  const absent: Absent[] = [];
  for (const [name, load] of Object.entries(LOADERS)) {
    let hypervisor: Hypervisor;
    try {
      hypervisor = await load();
      if (!hypervisor) throw new Error("it is not finished");
    } catch (error) {
      absent.push({ name, reason: (error as Error).message.split("\n")[0] });
      continue;
    }
    const support = hypervisor.probe();
    if (!support.usable && !support.restricted) {
      absent.push({ name, reason: support.reason });
      continue;
    }
    const pvm = (name === "kvm" && support.restricted) || (name === "whpx" && shimOverPvm());
    const label = pvm ? `${name} (PVM)` : name;
    subjects.push({ name: label, hypervisor, ownControllers: true, pvm });
    if (name === "kvm" || name === "whpx") {
      subjects.push({ name: `${label}, our controllers`, hypervisor, ownControllers: false, pvm });
    }
  }
  return { subjects, absent };
}

/** WHPX' shim has the powers of the KVM it stands on (tests/lab/windows). */
function shimOverPvm(): boolean {
  if (!Deno.env.get("HV_WHPX_SHIM")) return false;
  try {
    // On Wine, drive Z is the root of Linux.
    return Deno.statSync(`${Deno.build.os === "windows" ? "Z:" : ""}/sys/module/kvm_pvm`).isDirectory;
  } catch {
    return false;
  }
}

/** What became of one behaviour on one backend. */
export interface Outcome {
  result: "pass" | "FAIL" | "skip";
  /** Why not, in words. */
  detail: string;
}

/** Why a behaviour is not run, or null. */
export function skipReason(behaviour: Behaviour, subject: Subject): string | null {
  if (subject.pvm && behaviour.pvm) return behaviour.pvm;
  return behaviour.skip?.(subject) ?? null;
}

/** Runs one behaviour; never throws. */
export async function runBehaviour(behaviour: Behaviour, subject: Subject): Promise<Outcome> {
  const reason = skipReason(behaviour, subject);
  if (reason !== null) return { result: "skip", detail: reason };
  try {
    await behaviour.run(subject);
    return { result: "pass", detail: "" };
  } catch (error) {
    if (error instanceof Skip) return { result: "skip", detail: error.message };
    return { result: "FAIL", detail: (error as Error).message };
  }
}
