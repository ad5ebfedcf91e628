/** What the suite and its vCPU Workers say to each other. */
import type { PartitionHandle } from "../../core/hypervisor.ts";

/** A write to this port ends {@link RunRequest}. */
export const DONE_PORT = 0xfe;
/** A write to this port counts one in {@link Shared.PROGRESS} and is not logged. */
export const PROGRESS_PORT = 0xfd;

/** Words of the buffer shared with a Worker. */
export const Shared = { STOP: 0, INTERRUPTED: 1, PROGRESS: 2, WORDS: 16 } as const;

export interface OpenRequest {
  kind: "open";
  handle: PartitionHandle;
  index: number;
  /** Registers of the interrupt controllers of `devices/`, where the backend has none; else null. */
  controllers: WebAssembly.Memory | null;
  shared: SharedArrayBuffer;
}

export interface RunRequest {
  kind: "run";
  /** State to begin in; null to go on. */
  state: ArrayBuffer | null;
  /** Bytes given to reads, in order; all ones after them. */
  answers: number[];
  /** Whether MSR accesses raise #GP. */
  msrFault: boolean;
  /** False: the state is set and read, and nothing runs. */
  enter: boolean;
  /** Stops after this many exits, which were answered, but not gone on from. */
  exits?: number;
  singleStep?: boolean;
  breakpoints?: bigint[];
  /** Whether the state is wanted at the end. */
  wantState: boolean;
}

export interface CloseRequest {
  kind: "close";
}

export type Request = OpenRequest | RunRequest | CloseRequest;

/** How a run went. */
export interface RunResult {
  /** Each exit in words: `out 0x80 ab`, `in 0x80 2`, `write 0xd0000 78563412`, `read 0xd0000 4`, `rdmsr 0x123`. */
  log: string[];
  /** `done`, or the name of the exit that ended it. */
  end: string;
  /** [0] of the vCPU's address at the end. */
  address: number;
  state: ArrayBuffer | null;
  failure: { reason: string; registers: Record<string, string>; instruction: Uint8Array } | null;
}

export type Response = { result: RunResult } | { error: string } | { ok: true };
