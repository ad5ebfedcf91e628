/**
 * Guest addresses and ports to devices. Overlaps are refused when the machine is built; a read that no device answers
 * gives all ones, a write goes nowhere, and both are counted.
 */
import type { BusDevice } from "./device.ts";
import type { Registers } from "./registers.ts";

/**
 * What is mapped at [start, end). It holds what is used of the device beside the device: devices have many shapes, and
 * V8 finds a property of many shapes by a search.
 */
class Range {
  readonly start: number;
  readonly end: number;
  readonly device: BusDevice;
  readonly registers: Registers;
  readonly read: BusDevice["read"];
  readonly write: BusDevice["write"];

  constructor(start: number, end: number, device: BusDevice) {
    this.start = start;
    this.end = end;
    this.device = device;
    this.registers = device.registers;
    this.read = device.read;
    this.write = device.write;
  }
}

/** One address space: ports, or guest physical memory that is not RAM. */
export class Bus {
  private readonly name: string;
  /** By address. */
  private readonly ranges: Range[] = [];
  /** The last hit, which is tried first. */
  private last: Range | null = null;
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
    if (this.ranges.some((range) => range.start < end && start < range.end)) {
      throw new RangeError(`two devices at ${this.name} 0x${start.toString(16)}-0x${(end - 1).toString(16)}`);
    }
    this.ranges.push(new Range(start, end, device));
    this.ranges.sort((a, b) => a.start - b.start);
  }

  /** Takes away what was mapped at `start`; false when nothing begins there. */
  unmap(start: number): boolean {
    const at = this.ranges.findIndex((range) => range.start === start);
    if (at < 0) return false;
    this.ranges.splice(at, 1);
    this.last = null;
    return true;
  }

  /**
   * Answers a read: puts `size` bytes at byte `at` of the view.
   * @param address an element 0 that holds the address; a number argument of this size would be boxed
   */
  read(address: Float64Array, size: number, view: DataView, at: number): void {
    const start = address[0];
    let range = this.last;
    if (range === null || start < range.start || start + size > range.end) range = this.search(address, size);
    if (range === null) return this.readNothing(size, view, at);
    const offset = (start - range.start) | 0;
    range.registers.lock();
    if (size === 4) view.setInt32(at, range.read.call(range.device, offset, 4), true);
    else if (size === 1) view.setInt8(at, range.read.call(range.device, offset, 1));
    else readOddly(range.device, offset, size, view, at);
    range.registers.unlock();
  }

  /** Carries out a write of the `size` bytes at byte `at` of the view; `address` as in {@link read}. */
  write(address: Float64Array, size: number, view: DataView, at: number): void {
    const start = address[0];
    let range = this.last;
    if (range === null || start < range.start || start + size > range.end) range = this.search(address, size);
    if (range === null) return this.writeNothing();
    const offset = (start - range.start) | 0;
    range.registers.lock();
    if (size === 4) range.write.call(range.device, offset, 4, view.getInt32(at, true));
    else if (size === 1) range.write.call(range.device, offset, 1, view.getUint8(at));
    else writeOddly(range.device, offset, size, view, at);
    range.registers.unlock();
  }

  private readNothing(size: number, view: DataView, at: number): void {
    this.unmappedReads++;
    for (let i = 0; i < size; i++) view.setUint8(at + i, 0xff);
  }

  private writeNothing(): void {
    this.unmappedWrites++;
  }

  /** The range that holds all of [address, address + size), from now on the one that is tried first; or null. */
  private search(where: Float64Array, size: number): Range | null {
    const address = where[0];
    let low = 0;
    let high = this.ranges.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.ranges[middle].start <= address) low = middle + 1;
      else high = middle;
    }
    if (low === 0 || address + size > this.ranges[low - 1].end) return null;
    return this.last = this.ranges[low - 1];
  }
}

// The rarer sizes, apart: V8 inlines what is small into the loop.

function readOddly(device: BusDevice, offset: number, size: number, view: DataView, at: number): void {
  if (size === 2) view.setInt16(at, device.read(offset, 2), true);
  else if (size === 8) {
    view.setInt32(at, device.read(offset, 4), true);
    view.setInt32(at + 4, device.read(offset + 4, 4), true);
  } else for (let i = 0; i < size; i++) view.setInt8(at + i, device.read(offset + i, 1));
}

function writeOddly(device: BusDevice, offset: number, size: number, view: DataView, at: number): void {
  if (size === 2) device.write(offset, 2, view.getUint16(at, true));
  else if (size === 8) {
    device.write(offset, 4, view.getInt32(at, true));
    device.write(offset + 4, 4, view.getInt32(at + 4, true));
  } else for (let i = 0; i < size; i++) device.write(offset + i, 1, view.getUint8(at + i));
}
