/** Which machine a blueprint describes. */
import type { Blueprint, Board } from "../core/board.ts";
import type { Partition } from "../core/hypervisor.ts";
import { Pc } from "./pc.ts";
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
