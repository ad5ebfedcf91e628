/**
 * What all Workers of one partition know of it: words in a SharedArrayBuffer. Nothing here is touched between two exits
 * but a vCPU's own kick word.
 */
import type { MemoryRegion } from "../../core/hypervisor.ts";
import { lockWord, unlockWord } from "../../core/mutex.ts";

/** Memory regions of one partition. */
export const MAX_REGIONS = 256;

// Int32 words.
const LOCK = 0;
const CLOSING = 1;
const ATTACHED = 2;
const LOGGING = 3;
const FIRST_VCPU = 16;
// Per vCPU: 1 while it exists, 1 from the moment it is kicked until it has said INTERRUPTED.
const VCPU_WORDS = 2;
// Doubles, after the words: memory address, size, then guest address, size, offset, read-only of each region.
const REGION_DOUBLES = 4;

/** The shared words, as one Worker sees them. */
export class SharedState {
  readonly buffer: SharedArrayBuffer;
  private readonly words: Int32Array;
  private readonly memoryDoubles: Float64Array;
  private readonly regions: Float64Array;

  static allocate(vcpus: number): SharedArrayBuffer {
    return new SharedArrayBuffer((FIRST_VCPU + vcpus * VCPU_WORDS) * 4 + (2 + MAX_REGIONS * REGION_DOUBLES) * 8);
  }

  constructor(buffer: SharedArrayBuffer, vcpus: number) {
    this.buffer = buffer;
    const wordBytes = (FIRST_VCPU + vcpus * VCPU_WORDS) * 4;
    this.words = new Int32Array(buffer, 0, wordBytes / 4);
    this.memoryDoubles = new Float64Array(buffer, wordBytes, 2);
    this.regions = new Float64Array(buffer, wordBytes + 16, MAX_REGIONS * REGION_DOUBLES);
  }

  get closing(): boolean {
    return Atomics.load(this.words, CLOSING) !== 0;
  }
  setClosing(): void {
    Atomics.store(this.words, CLOSING, 1);
  }

  /** Counts one more Worker that holds the partition. */
  attach(): void {
    Atomics.add(this.words, ATTACHED, 1);
  }
  /** True for the last one. */
  detach(): boolean {
    return Atomics.sub(this.words, ATTACHED, 1) === 1;
  }

  get memoryAddress(): number {
    return this.memoryDoubles[0];
  }
  get memorySize(): number {
    return this.memoryDoubles[1];
  }
  setMemory(address: number, size: number): void {
    this.memoryDoubles[0] = address;
    this.memoryDoubles[1] = size;
  }

  /** Whether writable regions log what the guest writes; read and written with {@link locked}. */
  get logging(): boolean {
    return this.words[LOGGING] !== 0;
  }
  set logging(on: boolean) {
    this.words[LOGGING] = on ? 1 : 0;
  }

  /** Runs `action` while no other Worker changes regions. */
  locked<T>(action: () => T): T {
    lockWord(this.words, LOCK);
    try {
      return action();
    } finally {
      unlockWord(this.words, LOCK);
    }
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
