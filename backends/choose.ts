/** Which backend: probe, explain, pick. It never falls back silently. */
import { HvError } from "../core/errors.ts";
import type { Architecture, BackendName, Hypervisor, Partition, PartitionHandle, Support } from "../core/hypervisor.ts";

// Best first. Each is loaded when it is wanted: a Worker over KVM never reads the software CPU.
const LOADERS: Record<string, () => Promise<Hypervisor>> = {
  kvm: async () => (await import("./kvm/hypervisor.ts")).kvm,
  whpx: async () => (await import("./whpx/hypervisor.ts")).whpx,
  soft: async () => (await import("./soft/hypervisor.ts")).soft,
};

/** Backends that are a part of one system: elsewhere they are not worth a word when one is picked. */
const ONLY_ON: Record<string, typeof Deno.build.os> = { kvm: "linux", whpx: "windows" };

/** The names `--backend` takes besides `auto`, best first. */
export const BACKEND_NAMES = Object.keys(LOADERS) as BackendName[];

/** A backend and what it found here. */
export interface BackendProbe {
  /** As `--backend` takes it. */
  name: BackendName;
  /** What it can do here, or why it cannot. */
  support: Support;
}

/** A chosen backend. */
export interface BackendChoice {
  hypervisor: Hypervisor;
  support: Support;
  /** What was chosen, and why not the better ones: one line. */
  line: string;
}

/** Asks every backend of this build what it finds on this machine, best first. */
export async function probeBackends(): Promise<BackendProbe[]> {
  const probes: BackendProbe[] = [];
  for (const name of BACKEND_NAMES) probes.push({ name, support: (await LOADERS[name]()).probe() });
  return probes;
}

/**
 * Picks the best usable backend, or the one that was named.
 * @throws HvError when it cannot run such a guest here, with each backend's reason
 */
export async function chooseBackend(name: "auto" | BackendName, architecture: Architecture): Promise<BackendChoice> {
  if (name !== "auto") {
    if (!LOADERS[name]) {
      throw new HvError(`there is no backend '${name}': choose from auto, ${BACKEND_NAMES.join(", ")}`, {
        usage: true,
      });
    }
    const hypervisor = await LOADERS[name]();
    const support = hypervisor.probe();
    // A restricted platform runs what it can when it is named: the guest may be made for it.
    if (!support.usable && !support.restricted) throw new HvError(`${name} cannot be used: ${whyNot(support)}`);
    return { hypervisor, support, line: `${name}: ${support.reason}` };
  }
  const refused: BackendProbe[] = [];
  for (const candidate of BACKEND_NAMES) {
    if ((ONLY_ON[candidate] ?? Deno.build.os) !== Deno.build.os) continue;
    const hypervisor = await LOADERS[candidate]();
    const support = hypervisor.probe();
    if (support.usable && support.architectures.includes(architecture)) {
      const others = refused.map(({ name, support }) => `; not ${name}: ${support.reason}`).join("");
      const more = refused.some(({ support }) => support.advice) ? " ('hv doctor' says what to do)" : "";
      return { hypervisor, support, line: `using ${candidate}${others}${more}` };
    }
    refused.push({ name: candidate as BackendName, support });
  }
  const reasons = refused.map(({ name, support }) => `${name} (${whyNot(support)})`);
  throw new HvError(`nothing here can run the guest: ${reasons.join("; ")}`);
}

/** A backend's refusal with all that there is to say. */
function whyNot({ reason, advice }: Support): string {
  return advice ? `${reason}: ${advice}` : reason;
}

/** Loads a backend, which then is there at once when a partition of it is joined. */
export async function loadBackend(name: BackendName): Promise<void> {
  await LOADERS[name]();
}

/** Joins, in a Worker, the partition whose handle this is. */
export async function attachPartition(handle: PartitionHandle): Promise<Partition> {
  return (await LOADERS[handle.backend]()).attachPartition(handle);
}
