/** The entropy device (virtio 1.2, 5.4). */
import type { RegisterFile } from "../../core/registers.ts";
import { type DataPlaneWires, VirtioDevice, type VirtioOptions } from "./device.ts";
import type { Chain, Virtqueue } from "./queue.ts";

const ENTROPY = 4;
const QUEUE_SIZE = 16;
/** Most bytes of one request: 5.4.6.1 lets a device give fewer than were asked for. */
const MOST_BYTES = 65536;

/** Random bytes of the host's own generator. */
export class VirtioRng extends VirtioDevice {
  // getRandomValues refuses shared memory, so bytes take one step in between.
  private readonly pool = new Uint8Array(4096);

  constructor(file: RegisterFile, options: VirtioOptions) {
    super(file, options, {
      type: ENTROPY,
      name: "virtio-rng",
      queueSizes: [QUEUE_SIZE],
      features: [],
      configBytes: 0,
      words: 0,
    });
  }

  protected initializeConfig(): void {}

  /** Makes this the data plane. */
  attach(wires: DataPlaneWires): void {
    this.attachWires(wires);
  }

  protected request(_index: number, queue: Virtqueue, chain: Chain): boolean {
    if (this.memory === null) return false;
    queue.advance(chain);
    const length = Math.min(chain.writableBytes, MOST_BYTES);
    for (let at = 0; at < length; at += this.pool.length) {
      crypto.getRandomValues(this.pool);
      chain.write(this.memory, at, this.pool, Math.min(length - at, this.pool.length));
    }
    // What a guest was given, nobody finds here again.
    this.pool.fill(0);
    queue.complete(chain.id, chain.slots, length);
    return true;
  }
}
