/** Which pages the guest has written, by KVM's dirty log. */
import type { DirtyPages, MemoryRegion } from "../../core/hypervisor.ts";
import { addressOf, check, Kvm, KvmStruct, libc } from "./abi.ts";
import { MAX_SLOTS, type SharedState } from "./shared_state.ts";

/** What this needs of its partition. */
export interface SlotOwner {
  readonly vmFd: number;
  readonly shared: SharedState;
  setSlot(slot: number, region: MemoryRegion, log: boolean): void;
}

/** KVM_MEM_LOG_DIRTY_PAGES and KVM_GET_DIRTY_LOG. */
export class KvmDirtyPages implements DirtyPages {
  private readonly partition: SlotOwner;

  constructor(partition: SlotOwner) {
    this.partition = partition;
  }

  track(on: boolean): void {
    const { shared } = this.partition;
    shared.locked(() => {
      shared.logging = on;
      for (let slot = 0; slot < MAX_SLOTS; slot++) {
        const region = shared.slot(slot);
        if (region && !region.readonly) this.partition.setSlot(slot, region, on);
      }
    });
  }

  take(region: MemoryRegion, bitmap: Uint8Array): void {
    const { shared, vmFd } = this.partition;
    const length = Math.ceil(region.size / 4096 / 8);
    if (bitmap.length < length) throw new RangeError(`the bitmap takes ${length} bytes, not ${bitmap.length}`);
    // The kernel writes whole 64-bit words.
    const words = new Uint8Array(Math.ceil(length / 8) * 8);
    shared.locked(() => {
      const slot = shared.findSlot(region);
      if (slot < 0) throw new RangeError(`no memory is mapped at 0x${region.guestAddress.toString(16)}`);
      const offsets = KvmStruct.kvm_dirty_log;
      const struct = new DataView(new ArrayBuffer(offsets.sizeof));
      struct.setUint32(offsets.slot, slot, true);
      struct.setBigUint64(offsets.dirty_bitmap, addressOf(words), true);
      const bytes = new Uint8Array(struct.buffer);
      check(libc().ioctlBuffer(vmFd, Kvm.GET_DIRTY_LOG, bytes), "reading the log of written pages");
    });
    bitmap.set(words.subarray(0, length));
  }
}
