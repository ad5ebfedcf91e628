/** The memory map a guest is told of (ACPI 6.5, section 15). */
import type { GuestMemory } from "../core/memory.ts";

/** Address range types (ACPI 6.5, table 15.5). */
export const E820_RAM = 1;
export const E820_RESERVED = 2;
export const E820_ACPI = 3;
export const E820_NVS = 4;

/** One range. */
export interface E820Range {
  start: number;
  size: number;
  type: number;
}

/** Where the extended BIOS data area of a PC begins, and the end of conventional memory. */
const EBDA_START = 0x9fc00;
const CONVENTIONAL_END = 0xa0000;
/** ROM and tables of a PC's BIOS: 0xf0000 to 1 MiB. */
const BIOS_START = 0xf0000;
const ONE_MIB = 0x100000;
const FOUR_GIB = 2 ** 32;

/**
 * The map of a PC with this RAM: sorted, without overlaps. `reserved` ranges win over RAM, wherever they lie.
 */
export function pcMemoryMap(memory: GuestMemory, reserved: readonly E820Range[]): E820Range[] {
  const wins: E820Range[] = [
    { start: EBDA_START, size: CONVENTIONAL_END - EBDA_START, type: E820_RESERVED },
    { start: BIOS_START, size: ONE_MIB - BIOS_START, type: E820_RESERVED },
    ...reserved.filter((range) => range.size > 0),
  ];
  const ram: E820Range[] = [{ start: 0, size: Math.min(memory.lowSize, CONVENTIONAL_END), type: E820_RAM }];
  if (memory.lowSize > ONE_MIB) ram.push({ start: ONE_MIB, size: memory.lowSize - ONE_MIB, type: E820_RAM });
  if (memory.highSize > 0) ram.push({ start: FOUR_GIB, size: memory.highSize, type: E820_RAM });
  const edges = new Set<number>();
  for (const { start, size } of [...wins, ...ram]) {
    edges.add(start);
    edges.add(start + size);
  }
  const sorted = [...edges].sort((a, b) => a - b);
  const map: E820Range[] = [];
  const holds = (range: E820Range, start: number, end: number) =>
    range.start <= start && end <= range.start + range.size;
  for (let i = 0; i + 1 < sorted.length; i++) {
    const start = sorted[i];
    const end = sorted[i + 1];
    // A later range of `reserved` is more particular: ACPI tables inside the BIOS's area stay ACPI.
    const range = wins.findLast((one) => holds(one, start, end)) ?? ram.find((one) => holds(one, start, end));
    if (range === undefined) continue;
    const last = map.at(-1);
    if (last !== undefined && last.type === range.type && last.start + last.size === start) last.size += end - start;
    else map.push({ start, size: end - start, type: range.type });
  }
  return map;
}
