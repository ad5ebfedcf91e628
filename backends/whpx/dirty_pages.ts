/** Which pages the guest has written, by WHPX's dirty bitmap. */
import type { DirtyPages, MemoryRegion } from "../../core/hypervisor.ts";
import { check, platform } from "./abi.ts";
import type { WhpxPartition } from "./partition.ts";

/** WHvMapGpaRangeFlagTrackDirtyPages and WHvQueryGpaRangeDirtyBitmap. */
export class WhpxDirtyPages implements DirtyPages {
  private readonly partition: WhpxPartition;

  constructor(partition: WhpxPartition) {
    this.partition = partition;
  }

  track(on: boolean): void {
    const { partition } = this;
    const { shared } = partition;
    shared.locked(() => {
      shared.logging = on;
      // Mapping a range again replaces its flags, and leaves no moment without it (WHvMapGpaRange, Remarks).
      for (const region of shared.allRegions()) if (!region.readonly) partition.mapRange(region, on);
    });
  }

  take(region: MemoryRegion, bitmap: Uint8Array): void {
    const length = Math.ceil(region.size / 4096 / 8);
    if (bitmap.length < length) throw new RangeError(`the bitmap takes ${length} bytes, not ${bitmap.length}`);
    const words = new BigUint64Array(Math.ceil(length / 8));
    const { guestAddress, size } = region;
    check(
      platform().WHvQueryGpaRangeDirtyBitmap(
        this.partition.pointer,
        BigInt(guestAddress),
        BigInt(size),
        words,
        words.byteLength,
      ),
      "reading the bitmap of written pages",
    );
    bitmap.set(new Uint8Array(words.buffer, 0, length));
  }
}
