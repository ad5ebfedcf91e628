/**
 * virtio over PCI (virtio 1.2, 4.1): modern devices only. BAR 0 holds the four register areas, a page each; BAR 2 the
 * MSI-X table. Vector and INTx both work; a driver chooses.
 */
import type { BusDevice } from "../../core/device.ts";
import type { RegisterFile, Registers } from "../../core/registers.ts";
import type { PciBus } from "../pci/bus.ts";
import { Command, Header } from "../pci/config_space.ts";
import { PciFunction } from "../pci/function.ts";
import type { Msix } from "../pci/msix.ts";
import { Feature, NO_VECTOR, type NotifyDoorbells, type VirtioDevice, type VirtioTransport, Word } from "./device.ts";
import { QueueWord } from "./queue.ts";

const VENDOR = 0x1af4;
/** 4.1.2.1: a modern device's PCI device ID is this plus its virtio device ID. */
const MODERN_DEVICE = 0x1040;
/** 4.1.2.1: 40h or higher, so that no legacy driver takes the device for its own. */
const SUBSYSTEM = 0x1100;

/** Class codes, by virtio device ID: what operating systems show, and what nobody's driver goes by. */
const CLASS_CODES: Record<number, number> = { 1: 0x020000, 2: 0x010000, 3: 0x078000 };
const CLASS_OTHER = 0xff0000;

// 4.1.4: the areas of BAR 0.
const AREA_BYTES = 0x1000;
const ISR_AREA = 0x1000;
const DEVICE_AREA = 0x2000;
const NOTIFY_AREA = 0x3000;
const BAR_BYTES = 0x4000;
const BAR = 0;
const MSIX_BAR = 2;
const NOTIFY_MULTIPLIER = 4;

/** Vendor-specific capability (4.1.4): kinds of structure. */
const VENDOR_SPECIFIC = 0x09;
const CfgType = { COMMON: 1, NOTIFY: 2, ISR: 3, DEVICE: 4, PCI: 5 } as const;

// 4.1.4.3: offsets of the common configuration structure.
const Common = {
  DEVICE_FEATURE_SELECT: 0,
  DEVICE_FEATURE: 4,
  DRIVER_FEATURE_SELECT: 8,
  DRIVER_FEATURE: 12,
  CONFIG_VECTOR: 16, // and number of queues
  STATUS: 20, // and generation, and queue select
  QUEUE_SELECT: 22,
  QUEUE_SIZE: 24, // and vector
  QUEUE_VECTOR: 26,
  QUEUE_ENABLE: 28, // and notify offset
  QUEUE_DESCRIPTORS: 32,
  QUEUE_DRIVER: 40,
  QUEUE_DEVICE: 48,
  QUEUE_NOTIFY_DATA: 56, // and reset
  QUEUE_RESET: 58,
} as const;

// 4.1.4.9: words of the access capability.
const ACCESS_BAR = 4;
const ACCESS_OFFSET = 8;
const ACCESS_LENGTH = 12;
const ACCESS_DATA = 16;

const ISR_QUEUE = 1;
const ISR_CONFIG = 2;

// Where doorbells are registered now: the notify area's address, low word first, with bit 0 set; 0 for nowhere.
// Written under the lock of the configuration space, like the BAR they follow.
const DOORBELL = Word.TRANSPORT;
const DOORBELL_HIGH = Word.TRANSPORT + 1;
const REGISTERED = 1;

/** What the transport is given. */
export interface VirtioPciOptions {
  /** Device number on bus 0. */
  slot: number;
  doorbells: NotifyDoorbells | null;
}

/** A virtio device as a PCI function. Register blocks: those of the function. */
export class VirtioPci extends PciFunction implements BusDevice, VirtioTransport {
  /** The device's own: what guards it guards its registers in BAR 0. */
  readonly registers: Registers;
  private readonly device: VirtioDevice;
  private readonly vectors: Msix;
  private readonly doorbells: NotifyDoorbells | null;
  private readonly accessCapability: number;

  constructor(file: RegisterFile, bus: PciBus, device: VirtioDevice, options: VirtioPciOptions) {
    super(file, bus, options.slot, {
      vendor: VENDOR,
      device: MODERN_DEVICE + device.type,
      revision: 1,
      classCode: CLASS_CODES[device.type] ?? CLASS_OTHER,
      subsystemVendor: VENDOR,
      subsystem: SUBSYSTEM,
    });
    this.device = device;
    this.registers = device.registers;
    this.doorbells = options.doorbells;
    this.addBar(BAR, BAR_BYTES, true, this);
    this.addIntx();
    // A vector for each queue and one for configuration changes.
    this.vectors = this.addMsix(file, MSIX_BAR, device.queueSizes.length + 1);
    this.addStructure(CfgType.COMMON, 0, AREA_BYTES);
    this.addStructure(CfgType.ISR, ISR_AREA, AREA_BYTES);
    if (device.configBytes > 0) this.addStructure(CfgType.DEVICE, DEVICE_AREA, AREA_BYTES);
    this.addStructure(CfgType.NOTIFY, NOTIFY_AREA, AREA_BYTES, NOTIFY_MULTIPLIER);
    // 4.1.4.9: BAR, offset and length are the driver's to choose; the word after them is the window.
    this.accessCapability = this.config.addCapability(
      VENDOR_SPECIFIC,
      [(20 << 16) | (CfgType.PCI << 24), 0, 0, 0, 0],
      [0, 0xff, -1, -1, -1],
    );
    device.transport = this;
  }

  private addStructure(type: number, offset: number, length: number, multiplier?: number): void {
    const words = [type << 24, BAR, offset, length];
    if (multiplier !== undefined) words.push(multiplier);
    words[0] |= (words.length * 4) << 16;
    this.config.addCapability(VENDOR_SPECIFIC, words);
  }

  override initialize(): void {
    this.device.initialize();
    super.reset();
  }

  override reset(): void {
    this.device.reset();
    super.reset();
  }

  // VirtioTransport

  signalQueue(index: number): void {
    this.signal(this.registers.words[this.device.queueWord(index) + QueueWord.VECTOR], ISR_QUEUE);
  }

  signalConfig(): void {
    // 4.1.4.5.1: set for a configuration change with MSI-X too.
    if (this.vectors.enabled) Atomics.or(this.registers.words, Word.ISR, ISR_CONFIG);
    this.signal(this.registers.words[Word.CONFIG_VECTOR], ISR_CONFIG);
  }

  private signal(vector: number, cause: number): void {
    if (this.vectors.enabled) {
      if (vector !== NO_VECTOR) this.vectors.send(vector);
      return;
    }
    Atomics.or(this.registers.words, Word.ISR, cause);
    this.updateIntx();
  }

  interruptsCleared(): void {
    this.updateIntx();
  }

  mayAccessMemory(): boolean {
    return (this.config.word(Header.COMMAND) & Command.BUS_MASTER) !== 0;
  }

  protected override intxPending(): boolean {
    return Atomics.load(this.registers.words, Word.ISR) !== 0;
  }

  // BAR 0

  read(offset: number, size: number): number {
    if (offset < ISR_AREA) {
      const word = this.readCommon(offset & ~3) >>> ((offset & 3) * 8);
      return size === 4 ? word | 0 : size === 2 ? word & 0xffff : word & 0xff;
    }
    if (offset >= NOTIFY_AREA) return 0;
    if (offset >= DEVICE_AREA) return this.device.readConfig(offset - DEVICE_AREA, size);
    if (offset !== ISR_AREA) return 0;
    // 4.1.4.5: reading clears, and lets the line go.
    const cause = Atomics.exchange(this.registers.words, Word.ISR, 0);
    this.updateIntx();
    return cause;
  }

  write(offset: number, size: number, value: number): void {
    if (offset >= NOTIFY_AREA) this.device.wake();
    else if (offset >= DEVICE_AREA) this.device.writeConfig(offset - DEVICE_AREA, size, value);
    else if (offset < ISR_AREA) this.writeCommon(offset, value);
  }

  private readCommon(offset: number): number {
    const device = this.device;
    const words = this.registers.words;
    switch (offset) {
      case Common.DEVICE_FEATURE_SELECT:
        return words[Word.DEVICE_FEATURE_SELECT];
      case Common.DEVICE_FEATURE:
        return device.deviceFeatures();
      case Common.DRIVER_FEATURE_SELECT:
        return words[Word.DRIVER_FEATURE_SELECT];
      case Common.DRIVER_FEATURE:
        return device.driverFeatures();
      case Common.CONFIG_VECTOR:
        return words[Word.CONFIG_VECTOR] | (device.queueSizes.length << 16);
      case Common.STATUS:
        return device.status | ((Atomics.load(words, Word.GENERATION) & 0xff) << 8) | (words[Word.QUEUE_SELECT] << 16);
    }
    const index = words[Word.QUEUE_SELECT];
    // 4.1.4.3.2: a size of 0 says that there is no such queue.
    if (index >= device.queueSizes.length) return offset === Common.QUEUE_SIZE ? NO_VECTOR << 16 : 0;
    const at = device.queueWord(index);
    switch (offset) {
      case Common.QUEUE_SIZE:
        return words[at + QueueWord.SIZE] | (words[at + QueueWord.VECTOR] << 16);
      case Common.QUEUE_ENABLE:
        return Atomics.load(words, at + QueueWord.ENABLE) | (index << 16);
      case Common.QUEUE_NOTIFY_DATA:
        return index | (Atomics.load(words, at + QueueWord.RESET) << 16);
    }
    if (offset < Common.QUEUE_DESCRIPTORS || offset > Common.QUEUE_DEVICE + 4) return 0;
    return words[at + QueueWord.DESCRIPTORS + ((offset - Common.QUEUE_DESCRIPTORS) >> 2)];
  }

  /** 4.1.3.1: a driver writes each field with its own width, so the offset says which it is. */
  private writeCommon(offset: number, value: number): void {
    const device = this.device;
    const words = this.registers.words;
    const index = words[Word.QUEUE_SELECT];
    switch (offset) {
      case Common.DEVICE_FEATURE_SELECT:
        words[Word.DEVICE_FEATURE_SELECT] = value;
        return;
      case Common.DRIVER_FEATURE_SELECT:
        words[Word.DRIVER_FEATURE_SELECT] = value;
        return;
      case Common.DRIVER_FEATURE:
        device.setDriverFeatures(value);
        return;
      case Common.CONFIG_VECTOR:
        words[Word.CONFIG_VECTOR] = this.vector(value);
        return;
      case Common.STATUS:
        device.setStatus(value, false);
        return;
      case Common.QUEUE_SELECT:
        words[Word.QUEUE_SELECT] = value & 0xffff;
        return;
      case Common.QUEUE_SIZE:
        device.setQueueWord(index, QueueWord.SIZE, value & 0xffff);
        return;
      case Common.QUEUE_VECTOR:
        if (index < device.queueSizes.length) words[device.queueWord(index) + QueueWord.VECTOR] = this.vector(value);
        return;
      case Common.QUEUE_ENABLE:
        // 4.1.4.3.2: a driver never writes 0.
        if ((value & 0xffff) === 1) device.enableQueue(index);
        return;
      case Common.QUEUE_RESET:
        if ((value & 0xffff) === 1 && device.has(Feature.RING_RESET)) device.resetQueue(index, false);
        return;
    }
    if (offset < Common.QUEUE_DESCRIPTORS || offset > Common.QUEUE_DEVICE + 4 || (offset & 3) !== 0) return;
    device.setQueueWord(index, QueueWord.DESCRIPTORS + ((offset - Common.QUEUE_DESCRIPTORS) >> 2), value);
  }

  /** 4.1.5.1.2: a vector that cannot be mapped reads back as none. */
  private vector(value: number): number {
    value &= 0xffff;
    return value < this.vectors.vectors ? value : NO_VECTOR;
  }

  // Configuration space

  override readConfig(offset: number): number {
    if ((offset & ~3) === this.accessCapability + ACCESS_DATA) {
      const at = this.accessOffset();
      if (at >= 0) {
        this.registers.lock();
        this.config.setWord(offset, this.read(at, this.accessLength()));
        this.registers.unlock();
      }
    }
    return super.readConfig(offset);
  }

  override writeConfig(offset: number, value: number, lanes: number): void {
    super.writeConfig(offset, value, lanes);
    const word = offset & ~3;
    if (word === this.accessCapability + ACCESS_DATA) {
      const at = this.accessOffset();
      if (at < 0) return;
      this.registers.lock();
      this.write(at, this.accessLength(), this.config.word(word));
      this.registers.unlock();
    } else if (word === Header.COMMAND) this.device.wake(); // bus mastering may be on now
  }

  /** Where in BAR 0 the access capability points; -1 when nowhere (4.1.4.9). */
  private accessOffset(): number {
    const { config, accessCapability } = this;
    const offset = config.word(accessCapability + ACCESS_OFFSET);
    const length = this.accessLength();
    if ((config.word(accessCapability + ACCESS_BAR) & 0xff) !== BAR) return -1;
    if (length !== 1 && length !== 2 && length !== 4) return -1;
    return offset >= 0 && offset < BAR_BYTES && (offset & (length - 1)) === 0 ? offset : -1;
  }

  private accessLength(): number {
    return this.config.word(this.accessCapability + ACCESS_LENGTH);
  }

  /** Keeps the doorbells where the notify area is. */
  override decodeChanged(): void {
    if (this.doorbells === null) return;
    const bar = this.bars[0];
    const words = this.registers.words;
    const known = words[DOORBELL] === 0
      ? -1
      : ((words[DOORBELL] & ~REGISTERED) >>> 0) + (words[DOORBELL_HIGH] >>> 0) * 0x1_0000_0000;
    const wanted = bar.decoded ? bar.base + NOTIFY_AREA : -1;
    if (known === wanted) return;
    if (known >= 0) this.moveDoorbells(known, false);
    words[DOORBELL] = 0;
    if (wanted < 0) return;
    words[DOORBELL_HIGH] = Math.floor(wanted / 0x1_0000_0000);
    words[DOORBELL] = wanted | REGISTERED;
    this.moveDoorbells(wanted, true);
  }

  private moveDoorbells(area: number, add: boolean): void {
    for (let i = 0; i < this.device.queueSizes.length; i++) {
      const address = area + i * NOTIFY_MULTIPLIER;
      try {
        if (add) this.doorbells!.add(address);
        else this.doorbells!.remove(address);
      } catch {
        // A guest may put two devices at one address, which a platform refuses: the register itself wakes as well.
      }
    }
  }
}
