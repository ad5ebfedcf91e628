/**
 * What every virtio device has in common (virtio 1.2, chapters 2 and 3), behind whichever transport.
 *
 * One class, two faces over the same shared words. The **register face** is built in every Worker and answers the
 * guest on the vCPU's own thread, under the lock of {@link VirtioDevice.registers}. The **data plane** is the same
 * object in the I/O Worker after `attach`: {@link VirtioDevice.service} walks the queues, does the work, and raises
 * the interrupts itself. Exactly one Worker serves a device.
 *
 * How a machine is built, the same in every Worker (register blocks are handed out in this order, so the order is part
 * of what a snapshot means):
 *
 * ```ts
 * const pci = new PciBus(file, { sink, lines });                // MessageSink; four {line, number} for INTA..INTD
 * new HostBridge(file, pci);                                    // 00:00.0
 * const disk = new VirtioBlock(file, { wake, capacity, readonly, discardable, serial, queues });
 * new VirtioPci(file, pci, disk, { slot: 1, doorbells });       // or new VirtioMmio(file, disk, { line })
 * ports.map(0xcf8, 8, new ConfigPorts(file, pci, { reset }));   // port CF9h is in there too
 * memory.map(ECAM, Ecam.bytes(1), new Ecam(file, pci));
 * for (const w of windows) memory.map(w.start, w.size, new PciWindow(pci, w.start));
 *
 * pci.initialize(); pci.assignBars(windows);                    // only the thread that makes the machine, once
 * disk.attach({ memory, report, disk: openDisk(...) });         // only the I/O Worker that serves it
 * pci.reset(); pci.assignBars(windows);                         // machine reset, vCPUs stopped
 * ```
 *
 * Constructors never write to shared words: a Worker may be built while the guest runs.
 *
 * How the I/O Worker finds work: it sleeps on one Waker. `wake` (given to each device) rings it from any thread: guest
 * notifications that left `run()`, resets, and calls of the host such as a console resize. Where the platform has
 * doorbells, `doorbells` (given to the transport) rings the same Waker without leaving `run()`; the transport adds and
 * removes addresses by itself whenever the guest enables, disables or moves the BAR. On every ring the Worker calls
 * `service()` of all its devices, again as long as one of them returns true, then sleeps.
 *
 * Locks, outermost first: `ConfigPorts`/`Ecam` registers, a function's configuration space, a device's registers, its
 * MSI-X block, an interrupt line. The data plane takes none but the last two.
 */
import type { GuestMemory } from "../../core/memory.ts";
import { FIRST_WORD, type RegisterFile, type Registers } from "../../core/registers.ts";
import { PackedQueue } from "./packed_queue.ts";
import { Chain, Peek, QueueWord, type Virtqueue } from "./queue.ts";
import { SplitQueue } from "./split_queue.ts";

/** What an I/O Worker calls. */
export interface DataPlane {
  /**
   * Does what waits in the queues, a bounded amount of it.
   * @returns true when more waits: call again before sleeping
   */
  service(): boolean;
}

/** What a transport does for its device; callable from any thread, with no lock but those of the transport. */
export interface VirtioTransport {
  /** Tells the driver that buffers of a queue were used. */
  signalQueue(index: number): void;
  /** Tells the driver that the configuration or the status changed. */
  signalConfig(): void;
  /** Called, with the device's lock held, when a reset cleared the interrupt status. */
  interruptsCleared(): void;
  /** Whether the device may touch guest memory at all (PCI: bus mastering). */
  mayAccessMemory(): boolean;
}

/** Where guest writes that ring the I/O Worker by themselves are registered; null where the platform has none. */
export interface NotifyDoorbells {
  /** @param address guest physical address of one queue's notify register */
  add(address: number): void;
  /** Takes back what {@link add} did. What either throws is ignored: a guest may put two devices at one address. */
  remove(address: number): void;
}

/** What every device is given, in every Worker. */
export interface VirtioOptions {
  /** Wakes the Worker that serves the device; callable from any thread. */
  wake: () => void;
}

/** What every device's data plane is given, in the I/O Worker. */
export interface DataPlaneWires {
  memory: GuestMemory;
  /** Says a thing once, for the log: what is wrong with a disk, or with the driver. */
  report: (text: string) => void;
}

/** Device status bits (2.1). */
export const Status = {
  ACKNOWLEDGE: 1,
  DRIVER: 2,
  DRIVER_OK: 4,
  FEATURES_OK: 8,
  NEEDS_RESET: 0x40,
  FAILED: 0x80,
} as const;

/** Feature bits that belong to no device type (chapter 6). */
export const Feature = {
  INDIRECT_DESC: 28,
  EVENT_IDX: 29,
  VERSION_1: 32,
  RING_PACKED: 34,
  RING_RESET: 40,
} as const;

/** Words of a device's registers that every device has, from {@link FIRST_WORD} on. */
export const Word = {
  STATUS: FIRST_WORD,
  DEVICE_FEATURE_SELECT: FIRST_WORD + 1,
  DRIVER_FEATURE_SELECT: FIRST_WORD + 2,
  DRIVER_FEATURES: FIRST_WORD + 3, // two words
  CONFIG_VECTOR: FIRST_WORD + 5,
  QUEUE_SELECT: FIRST_WORD + 6,
  /** Rises with every change of the configuration space that the host makes (2.5.1). */
  GENERATION: FIRST_WORD + 7,
  /** Bit 0 a queue interrupt, bit 1 a configuration interrupt. */
  ISR: FIRST_WORD + 8,
  /** Who may touch the queues: 0 nobody does, 1 the data plane, 2 a reset. */
  OWNER: FIRST_WORD + 9,
  /** {@link Stop} bits: resets that wait for the data plane to let go. */
  STOP: FIRST_WORD + 10,
  /** 1 when the host changed the configuration and the driver has not been told. */
  CONFIG_PENDING: FIRST_WORD + 11,
  /** Requests served, and impossible things a driver did, since the machine was made; for statistics. */
  REQUESTS: FIRST_WORD + 12,
  FAULTS: FIRST_WORD + 13,
  /** Requests answered with an error. */
  ERRORS: FIRST_WORD + 14,
  /** The transport's own. */
  TRANSPORT: FIRST_WORD + 15, // four words
} as const;
const QUEUES = FIRST_WORD + 20;

/** {@link QueueWord}s. */
const QUEUE_WORDS = 16;

const Stop = { DEVICE: 1, QUEUE: 2 } as const;
const OWNER_NONE = 0;
const OWNER_DATA_PLANE = 1;
const OWNER_RESET = 2;

/** A vector that sends nothing (4.1.5.1.2). */
export const NO_VECTOR = 0xffff;

/** Requests of one queue in one call of `service`: what a driver can hold up other devices with. */
const BUDGET = 256;

/** What a device type says of itself. */
export interface VirtioShape {
  /** Device ID (chapter 5). */
  type: number;
  /** For messages and log lines: `virtio-blk`. */
  name: string;
  /** Most entries of each queue: a power of two up to 32768. */
  queueSizes: number[];
  /** The device type's own feature bits; the common ones are added. */
  features: number[];
  /** Bytes of the device configuration space. */
  configBytes: number;
  /** Words the device type needs for itself. */
  words: number;
}

/** The base of all device types. */
export abstract class VirtioDevice implements DataPlane {
  readonly registers: Registers;
  readonly type: number;
  readonly name: string;
  readonly queueSizes: readonly number[];
  readonly configBytes: number;
  /** What the device offers: two words. */
  readonly features = new Int32Array(2);
  /** First word of the device configuration space. */
  protected readonly configWord: number;
  /** First word of the device type's own. */
  protected readonly ownWord: number;
  /** Which bits of the configuration space the driver may write. */
  protected readonly configWritable: Int32Array;
  /** Rings the Worker that serves the device. */
  readonly wake: () => void;
  /** Set by the transport when it is built. */
  transport: VirtioTransport | null = null;

  protected memory: GuestMemory | null = null;
  protected report: (text: string) => void = () => {};
  protected readonly chain = new Chain();
  private readonly rings: (Virtqueue | null)[];
  private readonly ringEpochs: Int32Array;
  private faultReported = false;

  protected constructor(file: RegisterFile, options: VirtioOptions, shape: VirtioShape) {
    this.wake = options.wake;
    this.type = shape.type;
    this.name = shape.name;
    this.queueSizes = shape.queueSizes;
    this.configBytes = shape.configBytes;
    this.configWord = QUEUES + shape.queueSizes.length * QUEUE_WORDS;
    const configWords = (shape.configBytes + 3) >> 2;
    this.ownWord = this.configWord + configWords;
    this.configWritable = new Int32Array(configWords);
    this.registers = file.allocate(this.ownWord + shape.words - FIRST_WORD);
    this.rings = shape.queueSizes.map(() => null);
    this.ringEpochs = new Int32Array(shape.queueSizes.length).fill(-1);
    for (const bit of [...Object.values(Feature), ...shape.features]) this.features[bit >> 5] |= 1 << (bit & 31);
  }

  /** First word of a queue's registers. */
  queueWord(index: number): number {
    return QUEUES + index * QUEUE_WORDS;
  }

  /** Whether the driver accepted a feature. */
  has(feature: number): boolean {
    return (this.registers.words[Word.DRIVER_FEATURES + (feature >> 5)] & (1 << (feature & 31))) !== 0;
  }

  // The register face: called with the lock of `registers` held.

  /** Puts the device into the state of a machine that was never on. Once, before any Worker runs. */
  initialize(): void {
    this.registers.words.fill(0, FIRST_WORD);
    this.clear();
    this.initializeConfig();
  }

  /** Sets what the configuration space holds when the machine is made. */
  protected abstract initializeConfig(): void;

  /** Resets at once, waiting for the data plane to let go: for a machine's reset, with the vCPUs stopped. */
  reset(): void {
    const words = this.registers.words;
    Atomics.or(words, Word.STOP, Stop.DEVICE);
    this.settle(true);
  }

  /** @returns 32 feature bits that the driver selected */
  deviceFeatures(): number {
    const select = this.registers.words[Word.DEVICE_FEATURE_SELECT];
    return select === 0 || select === 1 ? this.features[select] : 0;
  }

  /** @returns what the driver accepted of the 32 bits that it selected */
  driverFeatures(): number {
    const words = this.registers.words;
    const select = words[Word.DRIVER_FEATURE_SELECT];
    return select === 0 || select === 1 ? words[Word.DRIVER_FEATURES + select] : 0;
  }

  setDriverFeatures(value: number): void {
    const words = this.registers.words;
    const select = words[Word.DRIVER_FEATURE_SELECT];
    // 3.1.1: after FEATURES_OK the driver accepts no more.
    if ((words[Word.STATUS] & Status.FEATURES_OK) !== 0 || (select !== 0 && select !== 1)) return;
    words[Word.DRIVER_FEATURES + select] = value;
  }

  get status(): number {
    return Atomics.load(this.registers.words, Word.STATUS);
  }

  /**
   * @param wait whether a reset must be complete on return (virtio-mmio), or may take until the status reads 0
   */
  setStatus(value: number, wait: boolean): void {
    const words = this.registers.words;
    value &= 0xff;
    if (value === 0) {
      Atomics.or(words, Word.STOP, Stop.DEVICE);
      if (!this.settle(wait)) this.wake();
      return;
    }
    if (Atomics.load(words, Word.STOP) & Stop.DEVICE) return;
    const old = Atomics.load(words, Word.STATUS);
    if ((value & ~old & Status.FEATURES_OK) !== 0 && !this.featuresAcceptable()) value &= ~Status.FEATURES_OK;
    // 2.1.1: a driver clears no bit; NEEDS_RESET is the device's to set.
    Atomics.or(words, Word.STATUS, value & ~Status.NEEDS_RESET);
    if ((value & ~old & Status.DRIVER_OK) !== 0) this.wake();
  }

  /** 2.2.2, 6.2: a subset of what was offered, and never without VERSION_1, which legacy drivers do not know. */
  private featuresAcceptable(): boolean {
    const words = this.registers.words;
    return (words[Word.DRIVER_FEATURES] & ~this.features[0]) === 0 &&
      (words[Word.DRIVER_FEATURES + 1] & ~this.features[1]) === 0 && this.has(Feature.VERSION_1);
  }

  /** Writes a word of an inactive queue: its size and its three addresses. */
  setQueueWord(index: number, word: number, value: number): void {
    if (index >= this.queueSizes.length) return;
    const at = this.queueWord(index);
    // 4.1.4.3.2: these change only before the queue is enabled.
    if (Atomics.load(this.registers.words, at + QueueWord.ENABLE) === 0) this.registers.words[at + word] = value;
  }

  enableQueue(index: number): void {
    if (index >= this.queueSizes.length) return;
    const words = this.registers.words;
    const at = this.queueWord(index);
    if (words[at + QueueWord.RESET] !== 0) return;
    Atomics.store(words, at + QueueWord.ENABLE, 1);
    if (this.status & Status.DRIVER_OK) this.wake();
  }

  /** 2.6.1: begins the reset of one queue; its RESET word reads 0 when that is done. `wait` as in {@link setStatus}. */
  resetQueue(index: number, wait: boolean): void {
    if (index >= this.queueSizes.length) return;
    const words = this.registers.words;
    Atomics.store(words, this.queueWord(index) + QueueWord.RESET, 1);
    Atomics.or(words, Word.STOP, Stop.QUEUE);
    if (!this.settle(wait)) this.wake();
  }

  /** Reads 1, 2 or 4 bytes of the device configuration space; zeroes past its end. */
  readConfig(offset: number, size: number): number {
    let value = 0;
    for (let i = 0; i < size; i++) {
      const at = offset + i;
      if (at < this.configBytes) {
        value |= ((this.registers.words[this.configWord + (at >> 2)] >> ((at & 3) * 8)) & 0xff) << (i * 8);
      }
    }
    return value;
  }

  /** Writes what the driver may write of it. */
  writeConfig(offset: number, size: number, value: number): void {
    const words = this.registers.words;
    for (let i = 0; i < size; i++) {
      const at = offset + i;
      if (at >= this.configBytes) break;
      const shift = (at & 3) * 8;
      const mask = this.configWritable[at >> 2] & (0xff << shift);
      // Words the driver may not write are the host's, which changes them without this lock.
      if (mask === 0) continue;
      const word = this.configWord + (at >> 2);
      words[word] = (words[word] & ~mask) | ((((value >> (i * 8)) & 0xff) << shift) & mask);
    }
    this.configWritten(offset, size);
  }

  /** Called after the driver wrote to the configuration space. */
  protected configWritten(_offset: number, _size: number): void {}

  /** Changes a word of the configuration space from any thread, without a lock; follow with {@link configChanged}. */
  protected setConfig(word: number, value: number): void {
    Atomics.store(this.registers.words, this.configWord + word, value);
  }

  /** Tells the driver of a change the host made. */
  protected configChanged(): void {
    // The generation rises after the words: a driver that read old and new ones mixed sees it change (2.5.1).
    Atomics.add(this.registers.words, Word.GENERATION, 1);
    Atomics.store(this.registers.words, Word.CONFIG_PENDING, 1);
    this.wake();
  }

  // Resets and the data plane meet here. Either the one who asks for a stop finds nobody at the queues and carries it
  // out, or the data plane, when it lets go, finds what was asked: OWNER is taken by compare-exchange, STOP is set
  // before OWNER is tried and read after OWNER was freed, and all four are sequentially consistent.

  /** Carries out the stops that were asked for; false when the data plane is at work and `wait` is false. */
  private settle(wait: boolean): boolean {
    const words = this.registers.words;
    for (;;) {
      const owner = Atomics.compareExchange(words, Word.OWNER, OWNER_NONE, OWNER_RESET);
      if (owner === OWNER_NONE) break;
      if (!wait) return false;
      // The data plane looks at STOP between two requests and never waits for the lock this thread may hold.
      Atomics.wait(words, Word.OWNER, owner);
    }
    const stop = Atomics.exchange(words, Word.STOP, 0);
    if (stop & Stop.DEVICE) this.clear();
    else if (stop & Stop.QUEUE) {
      for (let i = 0; i < this.queueSizes.length; i++) {
        if (Atomics.load(words, this.queueWord(i) + QueueWord.RESET) !== 0) this.clearQueue(i);
      }
    }
    Atomics.store(words, Word.OWNER, OWNER_NONE);
    Atomics.notify(words, Word.OWNER);
    return true;
  }

  private clear(): void {
    const words = this.registers.words;
    for (let i = 0; i < this.queueSizes.length; i++) this.clearQueue(i);
    words[Word.DEVICE_FEATURE_SELECT] = 0;
    words[Word.DRIVER_FEATURE_SELECT] = 0;
    words[Word.DRIVER_FEATURES] = 0;
    words[Word.DRIVER_FEATURES + 1] = 0;
    words[Word.CONFIG_VECTOR] = NO_VECTOR;
    words[Word.QUEUE_SELECT] = 0;
    words[Word.CONFIG_PENDING] = 0;
    Atomics.store(words, Word.ISR, 0);
    this.transport?.interruptsCleared();
    this.deviceReset();
    // Last: a driver that reads 0 may begin anew at once.
    Atomics.store(words, Word.STATUS, 0);
  }

  private clearQueue(index: number): void {
    const words = this.registers.words;
    const at = this.queueWord(index);
    const epoch = words[at + QueueWord.EPOCH];
    words.fill(0, at, at + QUEUE_WORDS);
    words[at + QueueWord.SIZE] = this.queueSizes[index];
    words[at + QueueWord.VECTOR] = NO_VECTOR;
    words[at + QueueWord.EPOCH] = (epoch + 1) | 0;
  }

  /** Brings the device type's own words to their state after a reset. */
  protected deviceReset(): void {}

  // The data plane: one Worker, which holds OWNER while it is at the queues.

  /** Gives the data plane its wires; each device type has a public form of it. */
  protected attachWires(wires: DataPlaneWires): void {
    this.memory = wires.memory;
    this.report = wires.report;
  }

  service(): boolean {
    const words = this.registers.words;
    for (;;) {
      const owner = Atomics.compareExchange(words, Word.OWNER, OWNER_NONE, OWNER_DATA_PLANE);
      if (owner === OWNER_NONE) break;
      Atomics.wait(words, Word.OWNER, owner); // a reset, a few instructions long
    }
    let more = false;
    if (Atomics.load(words, Word.STOP) === 0) more = this.work();
    Atomics.store(words, Word.OWNER, OWNER_NONE);
    Atomics.notify(words, Word.OWNER);
    if (Atomics.load(words, Word.STOP) !== 0) {
      // A reset changes words that register handlers read, so it holds their lock; taken only now that OWNER is free.
      this.registers.lock();
      this.settle(false);
      this.registers.unlock();
    }
    return more;
  }

  private work(): boolean {
    const words = this.registers.words;
    if (!this.live()) return false;
    this.prepare();
    if (Atomics.exchange(words, Word.CONFIG_PENDING, 0) !== 0) this.transport?.signalConfig();
    let more = false;
    for (let i = 0; i < this.queueSizes.length; i++) {
      const queue = this.ring(i);
      if (queue !== null && this.process(i, queue)) more = true;
      if (!this.live()) return false;
    }
    return more;
  }

  /** Does what the host asked for, before the queues are looked at. */
  protected prepare(): void {}

  /** Whether the driver is there and nothing tells the data plane to let go. */
  private live(): boolean {
    const words = this.registers.words;
    return Atomics.load(words, Word.STOP) === 0 &&
      (Atomics.load(words, Word.STATUS) & (Status.DRIVER_OK | Status.NEEDS_RESET)) === Status.DRIVER_OK &&
      this.transport !== null && this.transport.mayAccessMemory();
  }

  /** The queue the driver enabled, or null; geometry is checked here, once. */
  protected ring(index: number): Virtqueue | null {
    const words = this.registers.words;
    const at = this.queueWord(index);
    if (this.memory === null || Atomics.load(words, at + QueueWord.ENABLE) === 0) return null;
    const epoch = words[at + QueueWord.EPOCH];
    const known = this.rings[index];
    if (known !== null && this.ringEpochs[index] === epoch) return known;
    this.faultReported = false;
    const layout = this.has(Feature.RING_PACKED) ? PackedQueue : SplitQueue;
    const queue = layout.activate(this.memory, words, at, {
      most: this.queueSizes[index],
      indirect: this.has(Feature.INDIRECT_DESC),
      eventIndex: this.has(Feature.EVENT_IDX),
    });
    if (queue === null) this.fault(`queue ${index} does not lie in memory, is not aligned or has an impossible size`);
    this.rings[index] = queue;
    this.ringEpochs[index] = epoch;
    return queue;
  }

  /** Serves one queue until it is empty or the device takes no more; true when the budget ended before that. */
  private process(index: number, queue: Virtqueue): boolean {
    const words = this.registers.words;
    const chain = this.chain;
    queue.disableNotifications();
    for (let left = BUDGET; left > 0; left--) {
      if (Atomics.load(words, Word.STOP) !== 0) return false;
      const found = queue.peek(chain);
      if (found === Peek.CHAIN) {
        if (!this.request(index, queue, chain)) return false;
        words[Word.REQUESTS]++;
        if (queue.wantsInterrupt()) this.transport?.signalQueue(index);
      } else if (found === Peek.EMPTY) {
        if (!queue.enableNotifications()) return false;
      } else {
        this.fault(`queue ${index} holds an impossible descriptor`);
        return false;
      }
    }
    return true;
  }

  /**
   * Serves the request that was just peeked: advances, works, completes.
   * @returns false when it was left as it is, until the host wakes the device
   */
  protected abstract request(index: number, queue: Virtqueue, chain: Chain): boolean;

  /** 2.1.2: what the driver did cannot be gone on with. */
  protected fault(what: string): void {
    const words = this.registers.words;
    Atomics.add(words, Word.FAULTS, 1);
    Atomics.or(words, Word.STATUS, Status.NEEDS_RESET);
    this.transport?.signalConfig();
    if (!this.faultReported) this.report(`${this.name}: the driver must reset the device: ${what}`);
    this.faultReported = true;
  }
}
