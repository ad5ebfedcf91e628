/**
 * Base address registers (PCI Express Base 5.0, 7.5.1.2.1). The address in the configuration space is the only truth
 * there is: every Worker looks there, so a BAR that the guest moves through one vCPU has moved for all.
 */
import type { BusDevice } from "../../core/device.ts";
import { FIRST_WORD } from "../../core/registers.ts";
import { Command, type ConfigSpace, Header } from "./config_space.ts";

const TYPE_64 = 4;
const FOUR_GIB = 0x1_0000_0000;

/** A window of guest physical addresses that BARs may lie in. */
export interface AddressWindow {
  /** First guest physical address. */
  start: number;
  /** Bytes. */
  size: number;
}

/** One memory BAR and the device behind it. */
export class Bar {
  readonly index: number;
  /** Bytes: a power of two, 16 or more. */
  readonly size: number;
  /** Whether it takes two registers and may lie above 4 GiB. */
  readonly wide: boolean;
  readonly device: BusDevice;
  private readonly config: ConfigSpace;
  private readonly words: Int32Array;
  private readonly low: number;

  constructor(config: ConfigSpace, index: number, size: number, wide: boolean, device: BusDevice) {
    if (size < 16 || (size & (size - 1)) !== 0) throw new RangeError(`a BAR cannot have ${size} bytes`);
    this.config = config;
    this.index = index;
    this.size = size;
    this.wide = wide;
    this.device = device;
    this.words = config.registers.words;
    this.low = FIRST_WORD + (Header.BAR >> 2) + index;
    // Sizing: the guest writes ones and reads back which bits exist, so a mask is all it takes.
    config.define(Header.BAR + index * 4, wide ? TYPE_64 : 0, -size);
    if (wide) config.define(Header.BAR + index * 4 + 4, 0, -1);
  }

  /** Guest physical address, decoded or not. */
  get base(): number {
    const low = (this.words[this.low] & -16) >>> 0;
    return this.wide ? low + (this.words[this.low + 1] >>> 0) * FOUR_GIB : low;
  }

  /** Whether the guest lets the function answer memory accesses. */
  get decoded(): boolean {
    return (this.config.word(Header.COMMAND) & Command.MEMORY) !== 0;
  }

  /** How far an address lies into the BAR, or -1 when it is not decoded there. Safe while another vCPU moves it. */
  offset(address: number): number {
    if (!this.decoded) return -1;
    const offset = address - this.base;
    return offset >= 0 && offset < this.size ? offset : -1;
  }

  /** Puts it somewhere, as firmware does. */
  place(address: number): void {
    this.words[this.low] = (this.words[this.low] & 15) | (address | 0);
    if (this.wide) this.words[this.low + 1] = Math.floor(address / FOUR_GIB);
  }
}

/**
 * Gives BARs their addresses as firmware would: largest first, each aligned to its size, in the first window with
 * room that it can reach.
 */
export function assignBars(bars: Bar[], windows: AddressWindow[]): void {
  const free = windows.map((window) => window.start);
  for (const bar of [...bars].sort((a, b) => b.size - a.size)) {
    const at = windows.findIndex((window, i) => {
      const end = aligned(free[i], bar.size) + bar.size;
      return end <= window.start + window.size && (bar.wide || end <= FOUR_GIB);
    });
    if (at < 0) throw new RangeError(`no window has room for a PCI BAR of ${bar.size} bytes`);
    const address = aligned(free[at], bar.size);
    free[at] = address + bar.size;
    bar.place(address);
  }
}

function aligned(address: number, size: number): number {
  return Math.ceil(address / size) * size;
}
