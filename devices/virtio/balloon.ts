/** The memory balloon (virtio 1.2, 5.5), with statistics and free page reporting. */
import type { RegisterFile } from "../../core/registers.ts";
import { type DataPlaneWires, VirtioDevice, type VirtioOptions, Word } from "./device.ts";
import { type Chain, QueueWord, type Virtqueue } from "./queue.ts";

const BALLOON = 5;
const PAGE = 4096;

// 5.5.3
const BalloonFeature = { STATS_VQ: 1, DEFLATE_ON_OOM: 2, REPORTING: 5 } as const;

// 5.5.2. Free page reporting is queue 4; drivers that number only the queues they use find it at 3, or at 2 without
// statistics (Linux before 6.11). Free page hinting, which would be 3, is not offered, so all of them can mean it.
const INFLATE = 0;
const DEFLATE = 1;
const STATISTICS = 2;
const QUEUE_SIZES = [128, 128, 64, 64, 64];

// 5.5.4: words of the configuration space.
const CONFIG_BYTES = 16;
const TARGET = 0;
const ACTUAL = 1;

/** Most bytes of page numbers taken from one request; Linux sends 1024. */
const MOST_NUMBER_BYTES = 65536;
/** Bytes of one statistic: tag, value (5.5.6.4). */
const STATISTIC_BYTES = 10;
const MOST_STATISTICS = 64;

/** What a guest tells of its memory, by tag (5.5.6.4): bytes, or a count of events. */
export const STATISTIC_NAMES = [
  "swapIn",
  "swapOut",
  "majorFaults",
  "minorFaults",
  "freeMemory",
  "totalMemory",
  "availableMemory",
  "diskCaches",
  "hugePageAllocations",
  "hugePageFailures",
] as const;

/** One of {@link STATISTIC_NAMES}. */
export type StatisticName = (typeof STATISTIC_NAMES)[number];

/** What the data plane is given. */
export interface BalloonWires extends DataPlaneWires {
  /**
   * Gives host memory back: it reads as zeroes when the guest touches it again. Does not throw.
   * @param offset into guest memory, a multiple of 4096
   * @param length bytes, a multiple of 4096
   */
  release: (offset: number, length: number) => void;
}

// The device's own words.
const ASKED = 0;
const SERIAL = 1;
const VALUES = 2; // two words each, low first; all ones where the guest did not say

/** A balloon. */
export class VirtioBalloon extends VirtioDevice {
  private release: ((offset: number, length: number) => void) | null = null;
  private readonly numbers = new Uint32Array(256);
  private readonly numberBytes = new Uint8Array(this.numbers.buffer);
  private readonly statistic = new DataView(new ArrayBuffer(STATISTIC_BYTES));
  private readonly statisticBytes = new Uint8Array(this.statistic.buffer);

  constructor(file: RegisterFile, options: VirtioOptions) {
    super(file, options, {
      type: BALLOON,
      name: "virtio-balloon",
      queueSizes: QUEUE_SIZES,
      features: Object.values(BalloonFeature),
      configBytes: CONFIG_BYTES,
      words: VALUES + STATISTIC_NAMES.length * 2,
    });
    this.configWritable[ACTUAL] = -1;
  }

  protected initializeConfig(): void {
    this.setConfig(TARGET, 0);
    this.setConfig(ACTUAL, 0);
  }

  protected override deviceReset(): void {
    const words = this.registers.words;
    this.setConfig(ACTUAL, 0);
    words.fill(-1, this.ownWord + VALUES, this.ownWord + VALUES + STATISTIC_NAMES.length * 2);
  }

  /** Makes this the data plane. */
  attach(wires: BalloonWires): void {
    this.attachWires(wires);
    this.release = wires.release;
  }

  /** Any thread: asks the guest to give up this many bytes in all. */
  setTarget(bytes: number): void {
    this.setConfig(TARGET, Math.floor(bytes / PAGE));
    this.configChanged();
  }

  /** Bytes the guest says it has given up. */
  get actual(): number {
    return (Atomics.load(this.registers.words, this.configWord + ACTUAL) >>> 0) * PAGE;
  }

  /** Any thread: asks the guest for fresh statistics; {@link statisticsSerial} rises when they are there. */
  requestStatistics(): void {
    Atomics.store(this.registers.words, this.ownWord + ASKED, 1);
    this.wake();
  }

  /** How many times the guest sent statistics. */
  get statisticsSerial(): number {
    return Atomics.load(this.registers.words, this.ownWord + SERIAL);
  }

  /** What the guest last said of its memory; a name is missing where it said nothing. */
  statistics(): Partial<Record<StatisticName, number>> {
    const result: Partial<Record<StatisticName, number>> = {};
    STATISTIC_NAMES.forEach((name, tag) => {
      const at = this.ownWord + VALUES + tag * 2;
      const low = this.registers.words[at];
      const high = this.registers.words[at + 1];
      if (low !== -1 || high !== -1) result[name] = (low >>> 0) + (high >>> 0) * 0x1_0000_0000;
    });
    return result;
  }

  protected override prepare(): void {
    if (!this.has(BalloonFeature.STATS_VQ)) return;
    const words = this.registers.words;
    const held = this.queueWord(STATISTICS) + QueueWord.PROGRESS;
    if (words[held] === 0 || Atomics.exchange(words, this.ownWord + ASKED, 0) === 0) return;
    // 5.5.6.3: the driver fills the buffer anew when it gets it back.
    const queue = this.ring(STATISTICS);
    if (queue !== null) this.giveBack(queue, held);
  }

  protected request(index: number, queue: Virtqueue, chain: Chain): boolean {
    if (this.memory === null || this.release === null) return false;
    if (index === STATISTICS && this.has(BalloonFeature.STATS_VQ)) {
      queue.advance(chain);
      this.readStatistics(chain);
      const held = this.queueWord(index) + QueueWord.PROGRESS;
      // A driver has one such buffer; whoever brings more gets the older ones back.
      this.giveBack(queue, held);
      this.registers.words[held] = (chain.slots << 16) | chain.id;
      return true;
    }
    queue.advance(chain);
    if (index === INFLATE) this.inflate(chain);
    else if (index !== DEFLATE && this.has(BalloonFeature.REPORTING)) this.reported(chain);
    queue.complete(chain.id, chain.slots, 0);
    return true;
  }

  private giveBack(queue: Virtqueue, held: number): void {
    const words = this.registers.words;
    const value = words[held];
    if (value === 0) return;
    words[held] = 0;
    queue.complete(value & 0xffff, value >>> 16, 0);
    if (queue.wantsInterrupt()) this.transport?.signalQueue(STATISTICS);
  }

  /** 5.5.6: an array of page numbers, given up one by one; runs of them go back to the host together. */
  private inflate(chain: Chain): void {
    const length = Math.min(chain.readableBytes, MOST_NUMBER_BYTES) & ~3;
    let start = 0;
    let pages = 0;
    for (let at = 0; at < length; at += this.numberBytes.length) {
      const count = chain.read(this.memory!, at, this.numberBytes, Math.min(length - at, this.numberBytes.length)) >> 2;
      for (let i = 0; i < count; i++) {
        const page = this.numbers[i];
        if (pages > 0 && page === start + pages) pages++;
        else if (pages > 0 && page === start - 1) {
          start = page;
          pages++;
        } else {
          this.giveUp(start, pages);
          start = page;
          pages = 1;
        }
      }
    }
    this.giveUp(start, pages);
  }

  private giveUp(start: number, pages: number): void {
    if (pages === 0) return;
    const offset = this.memory!.offset(start * PAGE, pages * PAGE);
    if (offset >= 0) this.release!(offset, pages * PAGE);
    else this.registers.words[Word.ERRORS]++;
  }

  /** 5.5.6.7: every device-writable piece is a range of pages that nobody uses now. */
  private reported(chain: Chain): void {
    for (let i = chain.readable; i < chain.count; i++) {
      const start = Math.ceil(chain.offsets[i] / PAGE) * PAGE;
      const end = Math.floor((chain.offsets[i] + chain.lengths[i]) / PAGE) * PAGE;
      if (end > start) this.release!(start, end - start);
    }
  }

  private readStatistics(chain: Chain): void {
    const words = this.registers.words;
    const count = Math.min(Math.floor(chain.readableBytes / STATISTIC_BYTES), MOST_STATISTICS);
    for (let i = 0; i < count; i++) {
      chain.read(this.memory!, i * STATISTIC_BYTES, this.statisticBytes, STATISTIC_BYTES);
      const tag = this.statistic.getUint16(0, true);
      if (tag >= STATISTIC_NAMES.length) continue;
      const at = this.ownWord + VALUES + tag * 2;
      words[at] = this.statistic.getInt32(2, true);
      words[at + 1] = this.statistic.getInt32(6, true);
    }
    if (count > 0) Atomics.add(words, this.ownWord + SERIAL, 1);
  }
}
