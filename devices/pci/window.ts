/** The guest addresses that BARs may lie at, as one device of the memory bus. */
import type { BusDevice } from "../../core/device.ts";
import { Registers } from "../../core/registers.ts";
import type { Bar } from "./bar.ts";
import type { PciBus } from "./bus.ts";

/** Finding a BAR reads words only, and the device behind it has a lock: none is needed here. */
class NoLock extends Registers {
  constructor() {
    super(new Int32Array(0), { lock() {}, unlock() {} });
  }
  override lock(): void {}
  override unlock(): void {}
}

/**
 * Routes accesses to whichever BAR is at an address now. Mapped once, over a whole window of at most 2 GiB, so nothing
 * has to be re-mapped in any Worker when the guest moves a BAR.
 */
export class PciWindow implements BusDevice {
  readonly registers: Registers = new NoLock();
  /** Accesses that no BAR answered. */
  unmappedReads = 0;
  unmappedWrites = 0;
  private readonly bars: readonly Bar[];
  private readonly start: number;
  private last = 0;
  private within = 0;

  /** @param start guest physical address that the window is mapped at */
  constructor(bus: PciBus, start: number) {
    this.bars = bus.bars;
    this.start = start;
  }

  read(offset: number, size: number): number {
    const bar = this.find(offset, size);
    if (bar === null) {
      this.unmappedReads++;
      return -1;
    }
    const device = bar.device;
    device.registers.lock();
    const value = device.read(this.within, size);
    device.registers.unlock();
    return value;
  }

  write(offset: number, size: number, value: number): void {
    const bar = this.find(offset, size);
    if (bar === null) {
      this.unmappedWrites++;
      return;
    }
    const device = bar.device;
    device.registers.lock();
    device.write(this.within, size, value);
    device.registers.unlock();
  }

  /** The BAR that holds all of an access, with `within` saying where in it; the last one is tried first. */
  private find(offset: number, size: number): Bar | null {
    const address = this.start + offset;
    const bars = this.bars;
    for (let i = -1; i < bars.length; i++) {
      const at = i < 0 ? this.last : i;
      if (at >= bars.length) return null;
      const within = bars[at].offset(address);
      if (within >= 0 && within + size <= bars[at].size) {
        this.last = at;
        this.within = within;
        return bars[at];
      }
    }
    return null;
  }
}
