/** The software CPU's partition: one shared WebAssembly.Memory, its regions, its vCPUs. */
import { AtomicWaker } from "../../core/atomic_waker.ts";
import { monotonicNow } from "../../core/clock.ts";
import type {
  DirtyPages,
  HostMemory,
  Interrupts,
  MemoryRegion,
  Partition,
  PartitionConfig,
  PartitionHandle,
  PlatformControllers,
  Vcpu,
  Waker,
  WakerHandle,
} from "../../core/hypervisor.ts";
import { checkRegion } from "../memory_region.ts";
import { adviseHugePages, hostAddress, releasePages, TAKES_PAGES } from "./host_memory.ts";
import { inWasmPages, type Layout, layoutFor, type Memories, PageAttribute, Shared } from "./layout.ts";
import { Mailbox } from "./mailbox.ts";
import { layoutWithSandbox, testMode, writeTestMode } from "./test_mode.ts";
import { SoftVcpu } from "./vcpu.ts";

const NOT_OURS: Interrupts = { setLine() {}, signalMessage() {} };

export class SoftPartition implements Partition {
  readonly controllers: PlatformControllers = { localApic: false, ioApic: false, pit: false, paravirtualClock: false };
  readonly interrupts = NOT_OURS;
  readonly doorbells = null;
  readonly releaseMemory = TAKES_PAGES
    ? (offset: number, length: number): void => {
      const { ram } = this.memories;
      const start = this.layout.ramBase + offset;
      if (!releasePages(ram, start, length)) new Uint8Array(ram.buffer, start, length).fill(0);
    }
    : null;
  readonly dirtyPages: DirtyPages;
  readonly layout: Layout;
  private readonly config: PartitionConfig;
  private readonly memories: Memories;
  private readonly view: DataView;
  private readonly mailbox: Mailbox;
  private readonly isMaker: boolean;

  constructor(config: PartitionConfig, memories?: Memories) {
    this.config = config;
    this.isMaker = memories === undefined;
    const ram = Math.ceil(config.memory / 4096) * 4096;
    const compared = memories ? new DataView(memories.own.buffer).getInt32(Shared.LOCKSTEP, true) : testMode.lockstep;
    const separate = memories ? memories.ram.buffer.byteLength === inWasmPages(ram) : testMode.separateRam;
    this.layout = compared
      ? layoutWithSandbox(config.cpus, ram)
      : layoutFor(config.cpus, ram, separate ? 0 : undefined);
    this.memories = memories ?? makeMemories(this.layout);
    const memory = this.memories.own;
    this.view = new DataView(memory.buffer);
    if (this.isMaker) {
      this.view.setFloat64(Shared.EPOCH, config.epoch ?? monotonicNow(), true);
      writeTestMode(this.view);
    }
    this.mailbox = new Mailbox(memory, this.layout);
    const bytes = new Uint8Array(memory.buffer);
    const attributes = this.layout.pageAttributes;
    const ramPage = (region: MemoryRegion) => region.offset / 4096;
    this.dirtyPages = {
      track: (on) => {
        if (on) this.mailbox.changeRegions();
      },
      take: (region, bitmap) => {
        bitmap.fill(0);
        const first = attributes + ramPage(region);
        for (let page = 0; page < region.size / 4096; page++) {
          if (Atomics.and(bytes, first + page, ~PageAttribute.DIRTY) & PageAttribute.DIRTY) {
            bitmap[page >> 3] |= 1 << (page & 7);
          }
        }
        // Every vCPU's TLB forgets what it may store to, and says so again.
        this.mailbox.changeRegions();
      },
    };
  }

  allocateMemory(size: number): HostMemory {
    if (size > this.layout.ram) throw new RangeError("more memory than the partition was made for");
    return this.memory();
  }

  memory(): HostMemory {
    const { buffer } = this.memories.ram;
    return {
      buffer,
      byteOffset: this.layout.ramBase,
      size: this.layout.ram,
      address: hostAddress(buffer, this.layout.ramBase),
    };
  }

  mapMemory(region: MemoryRegion): void {
    const count = this.view.getUint32(Shared.REGION_COUNT, true);
    if (count === Shared.MAXIMUM_REGIONS) throw new RangeError("too many memory regions");
    checkRegion(region, this.layout.ram);
    const { guestAddress, size } = region;
    for (let i = 0; i < count; i++) {
      const other = this.region(i);
      if (guestAddress < other.guestAddress + other.size && other.guestAddress < guestAddress + size) {
        throw new RangeError("two memory regions overlap");
      }
    }
    this.writeRegion(count, region);
    this.view.setUint32(Shared.REGION_COUNT, count + 1, true);
    this.mailbox.changeRegions();
  }

  private region(index: number): { guestAddress: number; size: number } {
    const at = Shared.REGIONS + index * Shared.REGION_BYTES;
    return {
      guestAddress: Number(this.view.getBigUint64(at, true)),
      size: Number(this.view.getBigUint64(at + 8, true)),
    };
  }

  private writeRegion(index: number, region: MemoryRegion): void {
    const at = Shared.REGIONS + index * Shared.REGION_BYTES;
    this.view.setBigUint64(at, BigInt(region.guestAddress), true);
    this.view.setBigUint64(at + 8, BigInt(region.size), true);
    this.view.setBigUint64(at + 16, BigInt(this.layout.ramBase + region.offset), true);
    this.view.setUint32(at + 24, region.readonly ? 1 : 0, true);
  }

  unmapMemory(region: MemoryRegion): void {
    const count = this.view.getUint32(Shared.REGION_COUNT, true);
    const bytes = new Uint8Array(this.memories.own.buffer);
    for (let i = 0; i < count; i++) {
      const at = Shared.REGIONS + i * Shared.REGION_BYTES;
      const { guestAddress, size } = this.region(i);
      if (guestAddress !== region.guestAddress || size !== region.size) continue;
      const last = Shared.REGIONS + (count - 1) * Shared.REGION_BYTES;
      bytes.copyWithin(at, last, last + Shared.REGION_BYTES);
      this.view.setUint32(Shared.REGION_COUNT, count - 1, true);
      this.mailbox.changeRegions();
      return;
    }
    throw new RangeError("no such memory region is mapped");
  }

  createWaker(): Waker {
    return new AtomicWaker();
  }

  attachWaker(handle: WakerHandle): Waker {
    if (!("word" in handle)) throw new TypeError("a waker of another backend");
    return new AtomicWaker(handle.word);
  }

  createVcpu(index: number): Vcpu {
    return new SoftVcpu(this.memories, this.layout, index, this.mailbox);
  }

  interruptVcpu(index: number): void {
    this.mailbox.interrupt(index);
  }

  handle(): PartitionHandle {
    return { backend: "soft", config: this.config, memories: this.memories };
  }

  close(): void {
    if (!this.isMaker) return;
    // Whoever made the partition ends it: vCPUs that still run come out, and stay out.
    this.mailbox.close();
    // Now, not when no one holds this any more and V8 has collected it.
    releasePages(this.memories.ram, this.layout.ramBase, inWasmPages(this.layout.ram));
  }
}

function makeMemories(layout: Layout): Memories {
  const own = makeMemory(layout, layout.total);
  return { own, ram: layout.separateRam ? makeMemory(layout, layout.separateRam) : own };
}

function makeMemory(layout: Layout, bytes: number): WebAssembly.Memory {
  const memory = reserveMemory(layout, bytes);
  adviseHugePages(memory);
  return memory;
}

function reserveMemory(layout: Layout, bytes: number): WebAssembly.Memory {
  const pages = inWasmPages(bytes) / 65536;
  try {
    if (layout.memory64) {
      const descriptor = { initial: BigInt(pages), maximum: BigInt(pages), shared: true, address: "i64" };
      return new WebAssembly.Memory(descriptor as unknown as WebAssembly.MemoryDescriptor);
    }
    return new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  } catch {
    throw new RangeError(`the host has not ${Math.ceil(layout.ram / 2 ** 20)} MiB of memory for the guest`);
  }
}
