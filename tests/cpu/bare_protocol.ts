/** What a bare guest's runner and its vCPU Worker say to each other. */
import type { PartitionHandle } from "../../core/hypervisor.ts";

/** COM1: what is written there is the guest's output. */
export const COM1 = 0x3f8;
/** A write here ends the guest, as QEMU's isa-debug-exit does; its value is the exit code. */
export const EXIT_PORT = 0xf4;
/** The 8259s. */
export const PIC_PRIMARY = 0x20;
export const PIC_SECONDARY = 0xa0;
/** Diagnostic codes of firmware (POST). */
export const POST_PORT = 0x80;

/** QEMU's firmware configuration device: the selector, and the data a byte at a time (docs/specs/fw_cfg). */
export const FW_CFG_SELECTOR = 0x510;
export const FW_CFG_DATA = 0x511;

/** QEMU's pc-testdev (hw/misc/pc-testdev.c): memory that leaves the guest, a port for each interrupt line, a port that latches. */
export const DEVICE_MEMORY = { address: 0xff00_0000, size: 0x1_0000 } as const;
export const LINE_PORTS = 0x2000;
export const LATCH_PORT = 0xe0;

/** Words of the buffer shared with the Worker. */
export const Word = { STOP: 0, EXITS: 1, WORDS: 16 } as const;

export interface BareRequest {
  handle: PartitionHandle;
  /** Registers of the interrupt controllers of `devices/`. */
  controllers: WebAssembly.Memory;
  shared: SharedArrayBuffer;
  /** The state to begin in; null: as after RESET. */
  state: ArrayBuffer | null;
  /** 32-bit items of the firmware configuration device, by selector. */
  firmwareItems: Record<number, number>;
}

/** How a bare guest went. */
export interface BareResult {
  /** `exit`, `stopped`, or the name of the exit that ended it. */
  end: string;
  /** The value written to {@link EXIT_PORT}, else -1. */
  code: number;
  /** What the guest wrote to COM1. */
  output: string;
  /** Codes written to {@link POST_PORT}, the last 64. */
  post: number[];
  state: ArrayBuffer;
}
