/** Which machine a blueprint describes. */
import type { Blueprint, Board, BoardConfig } from "../core/board.ts";
import type { Partition } from "../core/hypervisor.ts";
import type { GuestMemory } from "../core/memory.ts";
import type { Boot } from "../firmware/boot.ts";
import { Pc } from "./pc.ts";
import { preparePcBoot } from "./pc_boot.ts";
import { PcAddress } from "./pc_map.ts";

/** First guest address below 4 GiB that is not RAM. */
export const RAM_HOLE_START = PcAddress.RAM_HOLE_START;

/**
 * Builds the devices of a machine, the same in every Worker.
 * @param report told in words what a person should know
 */
export function buildBoard(blueprint: Blueprint, partition: Partition, report: (text: string) => void): Board {
  return new Pc(blueprint, partition, report);
}

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
}
