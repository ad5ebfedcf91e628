/**
 * Guest addresses and ports to devices. Overlaps are refused when the machine is built; a read that no device answers
 * gives all ones, a write goes nowhere, and both are counted.
 */
import type { BusDevice } from "./device.ts";

/** One address space: ports, or guest physical memory that is not RAM. */
export class Bus {
  private readonly name: string;
  // Parallel arrays, sorted by start: a lookup touches numbers only.
  private starts = new Float64Array(0);
  private ends = new Float64Array(0);
  private devices: BusDevice[] = [];
  private last = 0;
  /** Accesses that no device answered. */
  unmappedReads = 0;
  unmappedWrites = 0;

  /** @param name for messages: `port` or `memory` */
  constructor(name: string) {
    this.name = name;
  }

  /** Puts a device at [start, start + size). Throws when something is there already. */
  map(start: number, size: number, device: BusDevice): void {
    const end = start + size;
    let at = 0;
    while (at < this.devices.length && this.starts[at] < start) at++;
    if ((at > 0 && this.ends[at - 1] > start) || (at < this.devices.length && this.starts[at] < end)) {
      throw new RangeError(`two devices at ${this.name} 0x${start.toString(16)}-0x${(end - 1).toString(16)}`);
    }
    this.starts = insert(this.starts, at, start);
    this.ends = insert(this.ends, at, end);
    this.devices.splice(at, 0, device);
    this.last = 0;
  }

  /** Takes away what was mapped at `start`; false when nothing begins there. */
  unmap(start: number): boolean {
    const at = this.starts.indexOf(start);
    if (at < 0) return false;
    this.starts = this.starts.filter((_, i) => i !== at);
    this.ends = this.ends.filter((_, i) => i !== at);
    this.devices.splice(at, 1);
    this.last = 0;
    return true;
  }

  /**
   * Answers a read: puts `size` bytes at `bytes[at]`.
   * @param address an element 0 that holds the address; a number argument of this size would be boxed
   */
  read(address: Float64Array, size: number, view: DataView, at: number): void {
    const index = this.find(address[0], size);
    if (index < 0) {
      this.unmappedReads++;
      for (let i = 0; i < size; i++) view.setUint8(at + i, 0xff);
      return;
    }
    const device = this.devices[index];
    const offset = address[0] - this.starts[index];
    device.registers.lock();
    if (size === 4) view.setInt32(at, device.read(offset, 4), true);
    else if (size === 1) view.setInt8(at, device.read(offset, 1));
    else if (size === 2) view.setInt16(at, device.read(offset, 2), true);
    else if (size === 8) {
      view.setInt32(at, device.read(offset, 4), true);
      view.setInt32(at + 4, device.read(offset + 4, 4), true);
    } else for (let i = 0; i < size; i++) view.setInt8(at + i, device.read(offset + i, 1));
    device.registers.unlock();
  }

  /** Carries out a write of the `size` bytes at `bytes[at]`; `address` as in {@link read}. */
  write(address: Float64Array, size: number, view: DataView, at: number): void {
    const index = this.find(address[0], size);
    if (index < 0) {
      this.unmappedWrites++;
      return;
    }
    const device = this.devices[index];
    const offset = address[0] - this.starts[index];
    device.registers.lock();
    if (size === 4) device.write(offset, 4, view.getInt32(at, true));
    else if (size === 1) device.write(offset, 1, view.getUint8(at));
    else if (size === 2) device.write(offset, 2, view.getUint16(at, true));
    else if (size === 8) {
      device.write(offset, 4, view.getInt32(at, true));
      device.write(offset + 4, 4, view.getInt32(at + 4, true));
    } else for (let i = 0; i < size; i++) device.write(offset + i, 1, view.getUint8(at + i));
    device.registers.unlock();
  }

  /** The range that holds all of [address, address + size), or -1; the last hit is tried first. */
  private find(address: number, size: number): number {
    const last = this.last;
    if (last < this.devices.length && address >= this.starts[last] && address + size <= this.ends[last]) return last;
    let low = 0;
    let high = this.devices.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.starts[middle] <= address) low = middle + 1;
      else high = middle;
    }
    const at = low - 1;
    if (at < 0 || address + size > this.ends[at]) return -1;
    this.last = at;
    return at;
  }
}

function insert(array: Float64Array, at: number, value: number): Float64Array<ArrayBuffer> {
  const result = new Float64Array(array.length + 1);
  result.set(array.subarray(0, at));
  result[at] = value;
  result.set(array.subarray(at), at + 1);
  return result;
}
