/** How a machine starts; apart from what the machine is, since Workers need only that. */
import type { BoardConfig } from "../core/board.ts";
import type { GuestMemory } from "../core/memory.ts";
import type { Boot } from "../firmware/boot.ts";
import { preparePcBoot } from "./pc_boot.ts";

/**
 * Puts everything a boot begins with into guest memory.
 * @returns the state vCPU 0 starts in, laid out as `core/x64_state.ts` says
 */
export function prepareBoot(boot: Boot, memory: GuestMemory, board: BoardConfig, options: BootTables): ArrayBuffer {
  return preparePcBoot(boot, memory, board, options);
}

/** What the tables tell besides the board's own configuration. */
export interface BootTables {
  /** Whether the machine has the HPET of `devices/`. */
  hpet: boolean;
  /** Whether the guest's instructions run on the CPU itself, not in an emulator. */
  native: boolean;
}
