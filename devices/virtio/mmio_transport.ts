/** virtio over MMIO, version 2 (virtio 1.2, 4.2): one page, one level-triggered line. */
import type { BusDevice, InterruptLine } from "../../core/device.ts";
import { FIRST_WORD, type RegisterFile, type Registers } from "../../core/registers.ts";
import { Feature, type VirtioDevice, type VirtioTransport, Word } from "./device.ts";
import { QueueWord } from "./queue.ts";

// 4.2.2: register offsets.
const Register = {
  MAGIC: 0x000,
  VERSION: 0x004,
  DEVICE_ID: 0x008,
  VENDOR_ID: 0x00c,
  DEVICE_FEATURES: 0x010,
  DEVICE_FEATURES_SELECT: 0x014,
  DRIVER_FEATURES: 0x020,
  DRIVER_FEATURES_SELECT: 0x024,
  QUEUE_SELECT: 0x030,
  QUEUE_SIZE_MAX: 0x034,
  QUEUE_SIZE: 0x038,
  QUEUE_READY: 0x044,
  QUEUE_NOTIFY: 0x050,
  INTERRUPT_STATUS: 0x060,
  INTERRUPT_ACKNOWLEDGE: 0x064,
  STATUS: 0x070,
  QUEUE_DESCRIPTORS: 0x080,
  QUEUE_DRIVER: 0x090,
  QUEUE_DEVICE: 0x0a0,
  SHARED_MEMORY_LENGTH: 0x0b0, // and high half, and base: all ones for none
  QUEUE_RESET: 0x0c0,
  GENERATION: 0x0fc,
  CONFIG: 0x100,
} as const;
const MAGIC = 0x74726976; // "virt"
const VENDOR = 0x1af4;

const ISR_QUEUE = 1;
const ISR_CONFIG = 2;
const LEVEL = FIRST_WORD;

/** What the transport is given. */
export interface VirtioMmioWires {
  line: InterruptLine;
}

/** A virtio device in a page of its own. Register blocks: one for its interrupt line. */
export class VirtioMmio implements BusDevice, VirtioTransport {
  static readonly BYTES = 0x1000;
  readonly registers: Registers;
  private readonly device: VirtioDevice;
  private readonly line: InterruptLine;
  private readonly lineState: Registers;

  constructor(file: RegisterFile, device: VirtioDevice, wires: VirtioMmioWires) {
    this.device = device;
    this.registers = device.registers;
    this.line = wires.line;
    this.lineState = file.allocate(1);
    device.transport = this;
  }

  /** Once, before any Worker runs. */
  initialize(): void {
    this.device.initialize();
  }

  /** For a machine's reset, with the vCPUs stopped. */
  reset(): void {
    this.device.reset();
  }

  signalQueue(_index: number): void {
    Atomics.or(this.registers.words, Word.ISR, ISR_QUEUE);
    this.updateLine();
  }

  signalConfig(): void {
    Atomics.or(this.registers.words, Word.ISR, ISR_CONFIG);
    this.updateLine();
  }

  interruptsCleared(): void {
    this.updateLine();
  }

  mayAccessMemory(): boolean {
    return true;
  }

  /** Under a lock of its own: of two threads that change the status, the later one drives the line last. */
  private updateLine(): void {
    this.lineState.lock();
    const level = Atomics.load(this.registers.words, Word.ISR) !== 0 ? 1 : 0;
    if (level !== this.lineState.words[LEVEL]) {
      this.lineState.words[LEVEL] = level;
      this.line.set(level);
    }
    this.lineState.unlock();
  }

  read(offset: number, size: number): number {
    const device = this.device;
    if (offset >= Register.CONFIG) return device.readConfig(offset - Register.CONFIG, size);
    // 4.2.2.2: the registers are whole words.
    if (size !== 4 || (offset & 3) !== 0) return 0;
    const words = this.registers.words;
    switch (offset) {
      case Register.MAGIC:
        return MAGIC;
      case Register.VERSION:
        return 2;
      case Register.DEVICE_ID:
        return device.type;
      case Register.VENDOR_ID:
        return VENDOR;
      case Register.DEVICE_FEATURES:
        return device.deviceFeatures();
      case Register.INTERRUPT_STATUS:
        return Atomics.load(words, Word.ISR);
      case Register.STATUS:
        return device.status;
      case Register.GENERATION:
        return Atomics.load(words, Word.GENERATION);
      case Register.SHARED_MEMORY_LENGTH:
      case Register.SHARED_MEMORY_LENGTH + 4:
      case Register.SHARED_MEMORY_LENGTH + 8:
      case Register.SHARED_MEMORY_LENGTH + 12:
        return -1;
    }
    const index = words[Word.QUEUE_SELECT];
    if (!(index >= 0 && index < device.queueSizes.length)) return 0;
    switch (offset) {
      case Register.QUEUE_SIZE_MAX:
        return device.queueSizes[index];
      case Register.QUEUE_READY:
        return Atomics.load(words, device.queueWord(index) + QueueWord.ENABLE);
      case Register.QUEUE_RESET:
        return Atomics.load(words, device.queueWord(index) + QueueWord.RESET);
    }
    return 0;
  }

  write(offset: number, size: number, value: number): void {
    const device = this.device;
    if (offset >= Register.CONFIG) {
      device.writeConfig(offset - Register.CONFIG, size, value);
      return;
    }
    if (size !== 4 || (offset & 3) !== 0) return;
    const words = this.registers.words;
    const index = words[Word.QUEUE_SELECT];
    switch (offset) {
      case Register.DEVICE_FEATURES_SELECT:
        words[Word.DEVICE_FEATURE_SELECT] = value;
        return;
      case Register.DRIVER_FEATURES_SELECT:
        words[Word.DRIVER_FEATURE_SELECT] = value;
        return;
      case Register.DRIVER_FEATURES:
        device.setDriverFeatures(value);
        return;
      case Register.QUEUE_SELECT:
        words[Word.QUEUE_SELECT] = value & 0xffff;
        return;
      case Register.QUEUE_SIZE:
        device.setQueueWord(index, QueueWord.SIZE, value);
        return;
      case Register.QUEUE_READY:
        if (value === 1) device.enableQueue(index);
        // 4.2.2.2: the driver reads 0 back before it takes the memory, which is what a queue reset promises.
        else if (value === 0) device.resetQueue(index, true);
        return;
      case Register.QUEUE_NOTIFY:
        device.wake();
        return;
      case Register.INTERRUPT_ACKNOWLEDGE:
        Atomics.and(words, Word.ISR, ~value);
        this.updateLine();
        return;
      case Register.STATUS:
        // Unlike over PCI (4.1.4.3.1) no driver waits for the status to read 0.
        device.setStatus(value, true);
        return;
      case Register.QUEUE_RESET:
        if (value === 1 && device.has(Feature.RING_RESET)) device.resetQueue(index, true);
        return;
    }
    const part = (offset - Register.QUEUE_DESCRIPTORS) >> 4;
    if (part < 0 || part > 2 || (offset & 0xf) > 4) return;
    device.setQueueWord(index, QueueWord.DESCRIPTORS + part * 2 + ((offset >> 2) & 1), value);
  }
}
