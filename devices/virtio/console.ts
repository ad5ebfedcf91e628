/** The console (virtio 1.2, 5.3): one port, two queues, a size. */
import type { ByteRing } from "../../core/byte_ring.ts";
import type { RegisterFile } from "../../core/registers.ts";
import { type DataPlaneWires, VirtioDevice, type VirtioOptions } from "./device.ts";
import { type Chain, QueueWord, type Virtqueue } from "./queue.ts";

const CONSOLE = 3;
/** 5.3.3 */
const FEATURE_SIZE = 0;
const CONFIG_BYTES = 12;
/** Columns, and rows in the high half (5.3.4). */
const SIZE = 0;
const RECEIVE = 0;
const QUEUE_SIZE = 64;

/** What a console is; the same in every Worker. */
export interface ConsoleOptions extends VirtioOptions {
  columns: number;
  rows: number;
  /**
   * The guest has said something here for the first time, from when on the input is this device's; or, with false, has
   * reset the device. On any thread, with this device's lock held or in its data plane.
   */
  opened?(open: boolean): void;
}

/** What the data plane is given. After writing to `input`, wake it; after reading from `output`, {@link VirtioConsole.drained}. */
export interface ConsoleWires extends DataPlaneWires {
  /** Bytes for the guest. */
  input: ByteRing;
  /** Bytes from the guest. */
  output: ByteRing;
}

// The device's own words.
const WAITING = 0;
const OPENED = 1;

/** A console: `hvc0` to Linux. */
export class VirtioConsole extends VirtioDevice {
  private readonly size: number;
  private input: ByteRing | null = null;
  private output: ByteRing | null = null;
  private readonly opened: ConsoleOptions["opened"];

  constructor(file: RegisterFile, options: ConsoleOptions) {
    super(file, options, {
      type: CONSOLE,
      name: "virtio-console",
      queueSizes: [QUEUE_SIZE, QUEUE_SIZE],
      features: [FEATURE_SIZE],
      configBytes: CONFIG_BYTES,
      words: 2,
    });
    this.size = packSize(options.columns, options.rows);
    this.opened = options.opened;
  }

  protected initializeConfig(): void {
    this.setConfig(SIZE, this.size);
    this.setConfig(1, 1); // ports
  }

  protected override deviceReset(): void {
    const open = this.registers.words[this.ownWord + OPENED] !== 0;
    this.registers.words.fill(0, this.ownWord, this.ownWord + 2);
    if (open) this.opened?.(false);
  }

  /** Makes this the data plane. */
  attach(wires: ConsoleWires): void {
    this.attachWires(wires);
    this.input = wires.input;
    this.output = wires.output;
  }

  /** Any thread: the terminal has another size now. */
  resize(columns: number, rows: number): void {
    this.setConfig(SIZE, packSize(columns, rows));
    this.configChanged();
  }

  /** Any thread, after taking bytes out of the output ring: the guest may go on where it waited for room. */
  drained(): void {
    if (Atomics.exchange(this.registers.words, this.ownWord + WAITING, 0) !== 0) this.wake();
  }

  protected request(index: number, queue: Virtqueue, chain: Chain): boolean {
    if (this.memory === null || this.input === null || this.output === null) return false;
    return index === RECEIVE
      ? this.receive(queue, chain, this.input, this.memory.bytes)
      : this.transmit(index, queue, chain, this.output, this.memory.bytes);
  }

  private receive(queue: Virtqueue, chain: Chain, input: ByteRing, bytes: Uint8Array): boolean {
    // Until then the input is another device's.
    if (this.registers.words[this.ownWord + OPENED] === 0 || input.length === 0) return false;
    let total = 0;
    for (let i = chain.readable; i < chain.count; i++) {
      const done = input.read(bytes, chain.offsets[i], chain.offsets[i] + chain.lengths[i]);
      total += done;
      if (done < chain.lengths[i]) break;
    }
    queue.advance(chain);
    queue.complete(chain.id, chain.slots, total);
    return true;
  }

  private transmit(index: number, queue: Virtqueue, chain: Chain, output: ByteRing, bytes: Uint8Array): boolean {
    const words = this.registers.words;
    if (words[this.ownWord + OPENED] === 0) {
      words[this.ownWord + OPENED] = 1;
      this.opened?.(true);
      // Linux reads the size of a console with one port when it changes, not when it finds the console; and it is not
      // ready to be told before the port exists, which the first output proves.
      this.transport?.signalConfig();
      this.wake();
    }
    const progress = this.queueWord(index) + QueueWord.PROGRESS;
    // What went out of this request before, when there was no more room.
    let skip = words[progress];
    for (let i = 0; i < chain.readable; i++) {
      const length = chain.lengths[i];
      if (skip >= length) {
        skip -= length;
        continue;
      }
      while (skip < length) {
        const done = output.write(bytes, chain.offsets[i] + skip, chain.offsets[i] + length);
        skip += done;
        words[progress] += done;
        if (skip === length) break;
        // Full. Said before looking once more, so that a reader who makes room from here on wakes us.
        Atomics.store(words, this.ownWord + WAITING, 1);
        if (output.room === 0) return false;
      }
      skip = 0;
    }
    words[progress] = 0;
    queue.advance(chain);
    queue.complete(chain.id, chain.slots, 0);
    return true;
  }
}

function packSize(columns: number, rows: number): number {
  return (columns & 0xffff) | (rows << 16);
}
