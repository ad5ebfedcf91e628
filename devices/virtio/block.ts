/** The block device (virtio 1.2, 5.2). */
import type { RegisterFile } from "../../core/registers.ts";
import { type Disk, DiskError } from "../../storage/disk.ts";
import { type DataPlaneWires, VirtioDevice, type VirtioOptions, Word } from "./device.ts";
import { type Chain, ChainVector, type Virtqueue } from "./queue.ts";

const BLOCK = 2;
const SECTOR = 512;

// 5.2.3
const BlockFeature = {
  SEG_MAX: 2,
  RO: 5,
  BLK_SIZE: 6,
  FLUSH: 9,
  TOPOLOGY: 10,
  CONFIG_WCE: 11,
  MQ: 12,
  DISCARD: 13,
  WRITE_ZEROES: 14,
} as const;

// 5.2.4: words of the configuration space.
const CONFIG_BYTES = 60;
const CAPACITY = 0; // two words
const SEG_MAX = 3;
const BLK_SIZE = 5;
const TOPOLOGY = 6; // physical block exponent, alignment offset, minimum I/O size
const OPTIMAL_IO = 7;
const WRITEBACK = 8; // a byte; the number of queues in the high half
const DISCARD = 9; // most sectors, most segments, alignment
const WRITE_ZEROES = 12; // most sectors, most segments, whether it may unmap

// 5.2.6
const Type = { IN: 0, OUT: 1, FLUSH: 4, GET_ID: 8, DISCARD: 11, WRITE_ZEROES: 13 } as const;
const BlockStatus = { OK: 0, IOERR: 1, UNSUPP: 2 } as const;
const HEADER_BYTES = 16;
const ID_BYTES = 20;
const SEGMENT_BYTES = 16;
const UNMAP = 1;

const MOST_SEGMENTS = 32;
/** Most sectors of one discard segment: 1 GiB, which a file system gives back in one go. */
const MOST_DISCARD = 1 << 21;
/** Most sectors of one write-zeroes segment: 64 MiB, since a host may have to write them. */
const MOST_ZEROES = 1 << 17;
/** What a guest should align its writes to, as a power of two of sectors: pages of the host. */
const PHYSICAL_EXPONENT = 3;

/** What a block device is; the same in every Worker. */
export interface BlockOptions extends VirtioOptions {
  /** Bytes of the disk when the machine is made. */
  capacity: number;
  readonly: boolean;
  /** Whether the disk gives space back. */
  discardable: boolean;
  /** What `lsblk -o SERIAL` shows: up to 20 bytes of ASCII. */
  serial: string;
  /** Request queues; 1 unless told otherwise. */
  queues?: number;
  /** Entries of each: a power of two; 256 unless told otherwise. */
  queueSize?: number;
}

/** What the data plane is given. */
export interface BlockWires extends DataPlaneWires {
  disk: Disk;
}

// The device's own words.
const REFRESH = 0;

/** A disk. */
export class VirtioBlock extends VirtioDevice {
  private readonly capacity: number;
  private readonly serial: Uint8Array;
  private disk: Disk | null = null;
  private vector: ChainVector | null = null;
  private readonly header = new Int32Array(HEADER_BYTES / 4);
  private readonly headerBytes = new Uint8Array(this.header.buffer);
  private readonly segments = new Int32Array(MOST_SEGMENTS * SEGMENT_BYTES / 4);
  private readonly segmentBytes = new Uint8Array(this.segments.buffer);
  private readonly reported = new Set<string>();

  constructor(file: RegisterFile, options: BlockOptions) {
    const queues = options.queues ?? 1;
    const features: number[] = [BlockFeature.SEG_MAX, BlockFeature.BLK_SIZE, BlockFeature.TOPOLOGY, BlockFeature.FLUSH];
    if (queues > 1) features.push(BlockFeature.MQ);
    if (options.readonly) features.push(BlockFeature.RO);
    else {
      features.push(BlockFeature.CONFIG_WCE, BlockFeature.WRITE_ZEROES);
      if (options.discardable) features.push(BlockFeature.DISCARD);
    }
    super(file, options, {
      type: BLOCK,
      name: "virtio-blk",
      queueSizes: new Array(queues).fill(options.queueSize ?? 256),
      features,
      configBytes: CONFIG_BYTES,
      words: 1,
    });
    this.capacity = options.capacity;
    this.serial = new Uint8Array(ID_BYTES);
    new TextEncoder().encodeInto(options.serial, this.serial);
    if (!options.readonly) this.configWritable[WRITEBACK] = 0xff;
  }

  protected initializeConfig(): void {
    this.setCapacity(this.capacity);
    // Header and status take two of a chain's entries.
    this.setConfig(SEG_MAX, Math.max(1, this.queueSizes[0] - 2));
    this.setConfig(BLK_SIZE, SECTOR);
    this.setConfig(TOPOLOGY, PHYSICAL_EXPONENT | (1 << (PHYSICAL_EXPONENT + 16)));
    this.setConfig(OPTIMAL_IO, 0);
    this.setConfig(WRITEBACK, 1 | (this.queueSizes.length << 16));
    this.setConfig(DISCARD, MOST_DISCARD);
    this.setConfig(DISCARD + 1, MOST_SEGMENTS);
    this.setConfig(DISCARD + 2, 1 << PHYSICAL_EXPONENT);
    this.setConfig(WRITE_ZEROES, MOST_ZEROES);
    this.setConfig(WRITE_ZEROES + 1, MOST_SEGMENTS);
    this.setConfig(WRITE_ZEROES + 2, 1);
  }

  private setCapacity(bytes: number): void {
    const sectors = Math.floor(bytes / SECTOR);
    this.setConfig(CAPACITY, sectors);
    this.setConfig(CAPACITY + 1, Math.floor(sectors / 0x1_0000_0000));
  }

  protected override deviceReset(): void {
    // 5.2.5: the cache writes back unless the driver asks otherwise.
    const at = this.configWord + WRITEBACK;
    this.registers.words[at] = (this.registers.words[at] & ~0xff) | 1;
  }

  /** Makes this the data plane. */
  attach(wires: BlockWires): void {
    this.attachWires(wires);
    this.disk = wires.disk;
    this.vector = new ChainVector(wires.memory);
  }

  /** Any thread: the image may have another size now; the guest is told if so. */
  refresh(): void {
    Atomics.store(this.registers.words, this.ownWord + REFRESH, 1);
    this.wake();
  }

  protected override prepare(): void {
    if (Atomics.exchange(this.registers.words, this.ownWord + REFRESH, 0) === 0 || this.disk === null) return;
    try {
      this.setCapacity(this.disk.refresh());
      this.configChanged();
    } catch (error) {
      this.describe(error);
    }
  }

  protected request(_index: number, queue: Virtqueue, chain: Chain): boolean {
    if (this.memory === null || this.disk === null) return false;
    if (chain.readableBytes < HEADER_BYTES || chain.writableBytes < 1) {
      this.fault("a request has no header or no status");
      return false;
    }
    queue.advance(chain);
    chain.read(this.memory, 0, this.headerBytes, HEADER_BYTES);
    const data = chain.writableBytes - 1;
    let status: number;
    try {
      status = this.perform(chain, this.disk, data);
    } catch (error) {
      this.describe(error);
      status = BlockStatus.IOERR;
    }
    if (status !== BlockStatus.OK) this.registers.words[Word.ERRORS]++;
    // 5.2.6: the status is the last byte of the request, wherever its pieces end.
    const last = chain.count - 1;
    this.memory.bytes[chain.offsets[last] + chain.lengths[last] - 1] = status;
    // The length counts from the front (2.7.8.2): with the data unwritten, not even the status is told of.
    queue.complete(chain.id, chain.slots, status === BlockStatus.OK || data === 0 ? chain.writableBytes : 0);
    return true;
  }

  /** Carries out the request in `header`; `data` bytes of the chain are the device's to fill. */
  private perform(chain: Chain, disk: Disk, data: number): number {
    const header = this.header;
    const vector = this.vector!;
    const offset = ((header[2] >>> 0) + (header[3] >>> 0) * 0x1_0000_0000) * SECTOR;
    switch (header[0]) {
      case Type.IN:
        if (!this.inRange(disk, offset, data)) return BlockStatus.IOERR;
        if (chain.slice(vector, true, 0, data) > 0) disk.read(offset, vector);
        return BlockStatus.OK;
      case Type.OUT: {
        const length = chain.readableBytes - HEADER_BYTES;
        if (disk.readonly || !this.inRange(disk, offset, length)) return BlockStatus.IOERR;
        if (chain.slice(vector, false, HEADER_BYTES, length) > 0) disk.write(offset, vector);
        if (this.writesThrough()) disk.flush();
        return BlockStatus.OK;
      }
      case Type.FLUSH:
        if (!disk.readonly) disk.flush();
        return BlockStatus.OK;
      case Type.GET_ID:
        chain.write(this.memory!, 0, this.serial, Math.min(data, ID_BYTES));
        return BlockStatus.OK;
      case Type.DISCARD:
      case Type.WRITE_ZEROES:
        return this.performSegments(chain, disk, header[0] === Type.DISCARD);
    }
    return BlockStatus.UNSUPP;
  }

  /** 5.2.6.2: discard and write-zeroes name their ranges in the data. */
  private performSegments(chain: Chain, disk: Disk, discard: boolean): number {
    const bytes = chain.readableBytes - HEADER_BYTES;
    if (disk.readonly || !this.has(discard ? BlockFeature.DISCARD : BlockFeature.WRITE_ZEROES)) {
      return BlockStatus.UNSUPP;
    }
    const count = bytes / SEGMENT_BYTES;
    if (count < 1 || count > MOST_SEGMENTS || (bytes & (SEGMENT_BYTES - 1)) !== 0) return BlockStatus.IOERR;
    chain.read(this.memory!, HEADER_BYTES, this.segmentBytes, bytes);
    const segments = this.segments;
    for (let at = 0; at < count * 4; at += 4) {
      const sectors = segments[at + 2] >>> 0;
      const flags = segments[at + 3];
      // 5.2.6.2: unknown flags, and UNMAP for a discard, are unsupported.
      if ((flags & ~UNMAP) !== 0 || (discard && flags !== 0)) return BlockStatus.UNSUPP;
      const offset = ((segments[at] >>> 0) + (segments[at + 1] >>> 0) * 0x1_0000_0000) * SECTOR;
      if (sectors > (discard ? MOST_DISCARD : MOST_ZEROES)) return BlockStatus.IOERR;
      if (!this.inRange(disk, offset, sectors * SECTOR)) return BlockStatus.IOERR;
    }
    for (let at = 0; at < count * 4; at += 4) {
      const offset = ((segments[at] >>> 0) + (segments[at + 1] >>> 0) * 0x1_0000_0000) * SECTOR;
      const length = (segments[at + 2] >>> 0) * SECTOR;
      if (length === 0) continue;
      if (discard) disk.discard(offset, length);
      else disk.writeZeroes(offset, length, (segments[at + 3] & UNMAP) !== 0);
    }
    if (this.writesThrough()) disk.flush();
    return BlockStatus.OK;
  }

  private inRange(disk: Disk, offset: number, length: number): boolean {
    return (length & (SECTOR - 1)) === 0 && offset + length <= disk.size;
  }

  /** 5.2.6.2: without FLUSH, or with the cache set to write through, a completed write is on the medium. */
  private writesThrough(): boolean {
    return !this.has(BlockFeature.FLUSH) || (this.registers.words[this.configWord + WRITEBACK] & 0xff) === 0;
  }

  /** Says what is wrong with the disk, each kind of thing once. */
  private describe(error: unknown): void {
    const kind = error instanceof DiskError ? error.code : String(error);
    if (this.reported.size > 16 || this.reported.has(kind)) return;
    this.reported.add(kind);
    this.report(`${this.name}: ${error instanceof Error ? error.message : error}`);
  }
}
