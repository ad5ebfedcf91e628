/** What a behaviour of the suite is. */
import type { Hypervisor } from "../../core/hypervisor.ts";
import { Guest, type Mode } from "./guest.ts";

/** A backend, as one column of the table. */
export interface Subject {
  /** Name of the column. */
  name: string;
  hypervisor: Hypervisor;
  /** False: the machine's own interrupt controllers, of `devices/`. */
  ownControllers: boolean;
  /** KVM's PVM module: what it cannot do for a known reason is skipped. */
  pvm: boolean;
}

/** One row: it passes by not throwing. */
export interface Behaviour {
  name: string;
  run(subject: Subject): Promise<void>;
  /** Why this backend need not do it; null when it must. */
  skip?(subject: Subject): string | null;
  /** Why PVM cannot. */
  pvm?: string;
}

/** Thrown by a behaviour that finds an optional power missing. */
export class Skip extends Error {}

/** Makes a guest, hands it over, and closes it whatever happens. */
export async function withGuest<T>(
  subject: Subject,
  action: (guest: Guest) => Promise<T>,
  options: { cpus?: number } = {},
): Promise<T> {
  const guest = new Guest(subject.hypervisor, { ...options, ownControllers: subject.ownControllers });
  try {
    return await action(guest);
  } finally {
    await guest.close();
  }
}

/** Whether this Linux itself runs on QEMU's software CPU, as in the lab. */
export function runsOnTcg(): boolean {
  try {
    return /QEMU TCG/.test(Deno.readTextFileSync("/proc/cpuinfo"));
  } catch {
    return false;
  }
}

export const MODES: readonly Mode[] = [16, 32, 64];

/** Little-endian bytes. */
export function bytesOf(value: number | bigint, size: number): number[] {
  return Array.from({ length: size }, (_, i) => Number(BigInt.asUintN(64, BigInt(value)) >> BigInt(i * 8) & 0xffn));
}
/** The same in hexadecimal, as the log has it. */
export function hexOf(value: number | bigint, size: number): string {
  return bytesOf(value, size).map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
