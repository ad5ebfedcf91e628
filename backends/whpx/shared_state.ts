/**
 * What all Workers of one partition know of it: words in a SharedArrayBuffer. Nothing here is touched between two exits
 * but a vCPU's own kick word.
 */
import type { MemoryRegion } from "../../core/hypervisor.ts";
import { PARTITION_WORDS, PartitionState } from "../partition_state.ts";

/** Memory regions of one partition. */
export const MAX_REGIONS = 256;

// Int32 words.
const FIRST_VCPU = PARTITION_WORDS;
// Per vCPU: 1 while it exists, 1 from the moment it is kicked until it has said INTERRUPTED.
const VCPU_WORDS = 2;
// Doubles, after the words: guest address, size, offset, read-only of each region.
const REGION_DOUBLES = 4;

/** The shared words, as one Worker sees them. */
export class SharedState extends PartitionState {
  private readonly regions: Float64Array;

  static allocate(vcpus: number): SharedArrayBuffer {
    return new SharedArrayBuffer((FIRST_VCPU + vcpus * VCPU_WORDS) * 4 + MAX_REGIONS * REGION_DOUBLES * 8);
  }

  constructor(buffer: SharedArrayBuffer, vcpus: number) {
    const words = FIRST_VCPU + vcpus * VCPU_WORDS;
    super(buffer, words);
    this.regions = new Float64Array(buffer, words * 4, MAX_REGIONS * REGION_DOUBLES);
  }

  /** Notes a region; false when there are too many. */
  addRegion(region: MemoryRegion): boolean {
    for (let at = 0; at < this.regions.length; at += REGION_DOUBLES) {
      if (this.regions[at + 1] !== 0) continue;
      this.regions.set([region.guestAddress, region.size, region.offset, region.readonly ? 1 : 0], at);
      return true;
    }
    return false;
  }
  /** Forgets a region; false when there is none like it. */
  removeRegion(region: MemoryRegion): boolean {
    for (let at = 0; at < this.regions.length; at += REGION_DOUBLES) {
      if (this.regions[at] !== region.guestAddress || this.regions[at + 1] !== region.size) continue;
      this.regions.fill(0, at, at + REGION_DOUBLES);
      return true;
    }
    return false;
  }
  allRegions(): MemoryRegion[] {
    const found: MemoryRegion[] = [];
    for (let at = 0; at < this.regions.length; at += REGION_DOUBLES) {
      const [guestAddress, size, offset, readonly] = this.regions.subarray(at, at + REGION_DOUBLES);
      if (size !== 0) found.push({ guestAddress, size, offset, readonly: readonly !== 0 });
    }
    return found;
  }

  /**
   * Where the guest address stands in host memory, -1 when no region holds all `length` bytes.
   * @param write read-only regions do not count
   */
  offsetOf(guestAddress: number, length: number, write: boolean): number {
    const { regions } = this;
    for (let at = 0; at < regions.length; at += REGION_DOUBLES) {
      const size = regions[at + 1];
      if (size === 0) continue;
      const within = guestAddress - regions[at];
      if (within >= 0 && within + length <= size && !(write && regions[at + 3] !== 0)) return regions[at + 2] + within;
    }
    return -1;
  }

  /** A vCPU is there, and not kicked. */
  openVcpu(index: number): void {
    Atomics.store(this.words, FIRST_VCPU + index * VCPU_WORDS + 1, 0);
    Atomics.store(this.words, FIRST_VCPU + index * VCPU_WORDS, 1);
  }
  closeVcpu(index: number): void {
    Atomics.store(this.words, FIRST_VCPU + index * VCPU_WORDS, 0);
  }
  /** Notes a kick; true when nobody else's is still on its way. */
  kick(index: number): boolean {
    const at = FIRST_VCPU + index * VCPU_WORDS;
    return Atomics.load(this.words, at) !== 0 && Atomics.exchange(this.words, at + 1, 1) === 0;
  }
  kicked(index: number): boolean {
    return Atomics.load(this.words, FIRST_VCPU + index * VCPU_WORDS + 1) !== 0;
  }
  clearKick(index: number): void {
    Atomics.store(this.words, FIRST_VCPU + index * VCPU_WORDS + 1, 0);
  }
}
