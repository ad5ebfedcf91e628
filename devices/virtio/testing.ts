/**
 * A guest for tests: memory, buses, and a driver for either ring layout that goes by the specification, through the
 * same registers a real guest uses. What a hostile guest does, tests do to its memory afterwards.
 */
import { Bus } from "../../core/bus.ts";
import { GuestMemory } from "../../core/memory.ts";
import { RegisterFile } from "../../core/registers.ts";
import { PciBus } from "../pci/bus.ts";
import { ConfigPorts } from "../pci/config_ports.ts";
import { Ecam } from "../pci/ecam.ts";
import { HostBridge } from "../pci/host_bridge.ts";
import { PciWindow } from "../pci/window.ts";
import { Feature, Status, type VirtioDevice } from "./device.ts";
import { VirtioPci } from "./pci_transport.ts";
import { Descriptor } from "./queue.ts";

export const ECAM = 0xe000_0000;
export const WINDOWS = [{ start: 0xc000_0000, size: 0x2000_0000 }, { start: 0x80_0000_0000, size: 0x4000_0000 }];
const HOLE = 0xc000_0000;
const GUARD = 1 << 16;
const GUARD_BYTE = 0xa5;

/** A Disk in memory, for tests and benchmarks. */
export class MemoryDisk {
  readonly data: Uint8Array;
  size: number;
  readonly readonly: boolean;
  readonly discardable = true;
  reads = 0;
  writes = 0;
  flushes = 0;
  /** Thrown by the next request, when set. */
  failure: Error | null = null;

  constructor(size: number, readonly = false) {
    this.data = new Uint8Array(size);
    this.size = size;
    this.readonly = readonly;
  }
  private check() {
    const failure = this.failure;
    this.failure = null;
    if (failure) throw failure;
  }
  read(offset: number, vector: { bytes: Uint8Array; offsets: Float64Array; lengths: Int32Array; count: number }) {
    this.check();
    this.reads++;
    for (let i = 0; i < vector.count; i++) {
      const to = vector.offsets[i];
      const length = vector.lengths[i];
      for (let k = 0; k < length; k++) vector.bytes[to + k] = this.data[offset + k];
      offset += length;
    }
  }
  write(offset: number, vector: { bytes: Uint8Array; offsets: Float64Array; lengths: Int32Array; count: number }) {
    this.check();
    this.writes++;
    for (let i = 0; i < vector.count; i++) {
      const from = vector.offsets[i];
      const length = vector.lengths[i];
      for (let k = 0; k < length; k++) this.data[offset + k] = vector.bytes[from + k];
      offset += length;
    }
  }
  flush() {
    this.check();
    this.flushes++;
  }
  discard(offset: number, length: number) {
    this.check();
    this.data.fill(0, offset, offset + length);
  }
  writeZeroes(offset: number, length: number, _unmap: boolean) {
    this.check();
    this.data.fill(0, offset, offset + length);
  }
  refresh() {
    this.check();
    return this.size;
  }
  close() {}
}

/** Memory, buses and what came out of them. */
export class TestMachine {
  readonly file: RegisterFile;
  readonly memory: GuestMemory;
  readonly bus = new Bus("memory");
  readonly ports = new Bus("port");
  readonly pci: PciBus;
  readonly messages: number[] = [];
  readonly lines = [0, 0, 0, 0];
  readonly doorbells = new Set<number>();
  readonly reports: string[] = [];
  resets = 0;
  wakes = 0;
  private readonly address = new Float64Array(1);
  private readonly view = new DataView(new ArrayBuffer(16));
  private next = 0x10000;

  private readonly guards: Uint8Array[];

  /**
   * @param hole where RAM below 4 GiB ends
   * @param shared the buffers of a machine in another Worker, to build the same one over them
   */
  constructor(memoryBytes = 16 << 20, hole = HOLE, shared?: { registers: WebAssembly.Memory; ram: SharedArrayBuffer }) {
    const buffer = shared?.ram ?? new SharedArrayBuffer(memoryBytes + 2 * GUARD);
    this.file = new RegisterFile(shared?.registers);
    this.memory = new GuestMemory({ buffer, byteOffset: GUARD, size: memoryBytes, address: 0 }, hole);
    this.guards = [new Uint8Array(buffer, 0, GUARD), new Uint8Array(buffer, memoryBytes + GUARD)];
    for (const guard of this.guards) guard.fill(GUARD_BYTE);
    this.pci = new PciBus(this.file, {
      sink: { signalMessage: (_address, data) => void this.messages.push(data) },
      lines: this.lines.map((_, i) => ({
        line: { set: (level: number) => void (this.lines[i] = level) },
        number: 16 + i,
      })),
    });
    new HostBridge(this.file, this.pci);
  }

  /** Whether the host bytes before and after guest memory are what they were. */
  guardsIntact(): boolean {
    return this.guards.every((guard) => guard.every((byte) => byte === GUARD_BYTE));
  }

  readonly wake = (): void => void this.wakes++;
  readonly report = (text: string): void => void this.reports.push(text);

  add(device: VirtioDevice, slot: number): void {
    new VirtioPci(this.file, this.pci, device, {
      slot,
      doorbells: { add: (a) => void this.doorbells.add(a), remove: (a) => void this.doorbells.delete(a) },
    });
  }

  start(): void {
    this.ports.map(
      ConfigPorts.PORT,
      ConfigPorts.PORTS,
      new ConfigPorts(this.file, this.pci, { reset: () => this.resets++ }),
    );
    this.bus.map(ECAM, Ecam.bytes(1), new Ecam(this.file, this.pci));
    for (const window of WINDOWS) this.bus.map(window.start, window.size, new PciWindow(this.pci, window.start));
    this.pci.initialize();
    this.pci.assignBars(WINDOWS);
  }

  read(address: number, size: number, bus = this.bus): number {
    this.address[0] = address;
    bus.read(this.address, size, this.view, 0);
    return size === 1
      ? this.view.getUint8(0)
      : size === 2
      ? this.view.getUint16(0, true)
      : this.view.getUint32(0, true);
  }

  write(address: number, size: number, value: number, bus = this.bus): void {
    this.address[0] = address;
    this.view.setUint32(0, value >>> 0, true);
    bus.write(this.address, size, this.view, 0);
  }

  config(slot: number, offset: number, size = 4): number {
    return this.read(ECAM + slot * 0x8000 + offset, size);
  }

  setConfig(slot: number, offset: number, size: number, value: number): void {
    this.write(ECAM + slot * 0x8000 + offset, size, value);
  }

  /** Zeroed guest memory that nothing else uses. */
  allocate(bytes: number, alignment = 16): number {
    const at = Math.ceil(this.next / alignment) * alignment;
    this.next = at + bytes;
    if (this.next > this.memory.size) throw new RangeError("the test guest is out of memory");
    this.memory.bytes.fill(0, at, at + bytes);
    return at;
  }
}

/** A piece of a request. */
export interface Piece {
  address: number;
  length: number;
  write?: boolean;
}

/** A driver's side of a queue. */
export interface DriverQueue {
  readonly size: number;
  readonly descriptors: number;
  readonly driver: number;
  readonly device: number;
  /** Offers a request; -1 when the ring is full. Returns its id. */
  offer(pieces: Piece[], indirect?: boolean): number;
  /** Whether the device asked to be notified of what was offered since the last question. */
  wantsNotification(): boolean;
  /** What was used: ids and lengths, one after the other. */
  collect(): { id: number; written: number }[];
  /** With event index: asks for an interrupt after `count` more used entries; without: any or none. */
  allowInterrupts(on: boolean, count?: number): void;
}

/** 2.7 */
export class SplitDriver implements DriverQueue {
  readonly descriptors: number;
  readonly driver: number;
  readonly device: number;
  available = 0;
  private notified = 0;
  private used = 0;
  private readonly free: number[] = [];
  private readonly chains = new Map<number, number[]>();
  readonly size: number;
  private readonly machine: TestMachine;
  private readonly eventIndex: boolean;
  constructor(machine: TestMachine, size: number, eventIndex: boolean) {
    this.machine = machine;
    this.size = size;
    this.eventIndex = eventIndex;
    this.descriptors = machine.allocate(size * 16);
    this.driver = machine.allocate(size * 2 + 6, 2);
    this.device = machine.allocate(size * 8 + 6, 4);
    for (let i = 0; i < size; i++) this.free.push(i);
  }
  private put(at: number, piece: Piece, flags: number, next: number) {
    const view = this.machine.memory.view;
    view.setBigUint64(at, BigInt(piece.address), true);
    view.setUint32(at + 8, piece.length, true);
    view.setUint16(at + 12, flags | (piece.write ? Descriptor.WRITE : 0), true);
    view.setUint16(at + 14, next, true);
  }
  offer(pieces: Piece[], indirect = false): number {
    const slots = indirect ? 1 : pieces.length;
    if (this.free.length < slots) return -1;
    const taken = this.free.splice(0, slots);
    const head = taken[0];
    if (indirect) {
      const table = this.machine.allocate(pieces.length * 16);
      pieces.forEach((piece, i) => this.put(table + i * 16, piece, i + 1 < pieces.length ? Descriptor.NEXT : 0, i + 1));
      this.put(this.descriptors + head * 16, { address: table, length: pieces.length * 16 }, Descriptor.INDIRECT, 0);
    } else {
      pieces.forEach((piece, i) => {
        const more = i + 1 < taken.length;
        this.put(this.descriptors + taken[i] * 16, piece, more ? Descriptor.NEXT : 0, more ? taken[i + 1] : 0);
      });
    }
    this.chains.set(head, taken);
    const view = this.machine.memory.view;
    view.setUint16(this.driver + 4 + (this.available % this.size) * 2, head, true);
    this.available = (this.available + 1) & 0xffff;
    view.setUint16(this.driver + 2, this.available, true);
    return head;
  }
  wantsNotification(): boolean {
    const view = this.machine.memory.view;
    const before = this.notified;
    this.notified = this.available;
    if (!this.eventIndex) return (view.getUint16(this.device, true) & 1) === 0;
    const event = view.getUint16(this.device + 4 + this.size * 8, true);
    return ((this.available - event - 1) & 0xffff) < ((this.available - before) & 0xffff);
  }
  collect(): { id: number; written: number }[] {
    const view = this.machine.memory.view;
    const result = [];
    while (view.getUint16(this.device + 2, true) !== this.used) {
      const at = this.device + 4 + (this.used % this.size) * 8;
      const id = view.getUint32(at, true);
      const taken = this.chains.get(id);
      if (taken === undefined) throw new Error(`the device used ${id}, which was not offered`);
      this.chains.delete(id);
      this.free.push(...taken);
      result.push({ id, written: view.getUint32(at + 4, true) });
      this.used = (this.used + 1) & 0xffff;
    }
    return result;
  }
  allowInterrupts(on: boolean, count = 1): void {
    const view = this.machine.memory.view;
    if (this.eventIndex) {
      view.setUint16(this.driver + 4 + this.size * 2, (this.used + (on ? count - 1 : 0x8000)) & 0xffff, true);
    } else view.setUint16(this.driver, on ? 0 : 1, true);
  }
}

/** 2.8 */
export class PackedDriver implements DriverQueue {
  readonly descriptors: number;
  readonly driver: number;
  readonly device: number;
  private next = 0;
  private wrap = 1;
  private notified = 0x8000;
  private used = 0;
  private usedWrap = 1;
  private room: number;
  private ids: number[] = [];
  private readonly slots = new Map<number, number>();
  readonly size: number;
  private readonly machine: TestMachine;
  private readonly eventIndex: boolean;
  constructor(machine: TestMachine, size: number, eventIndex: boolean) {
    this.machine = machine;
    this.size = size;
    this.eventIndex = eventIndex;
    this.descriptors = machine.allocate(size * 16);
    this.driver = machine.allocate(4, 4);
    this.device = machine.allocate(4, 4);
    this.room = size;
    for (let i = 0; i < size; i++) this.ids.push(i);
  }
  offer(pieces: Piece[], indirect = false): number {
    const view = this.machine.memory.view;
    const entries: (Piece & { flags: number })[] = indirect
      ? [{ address: this.machine.allocate(pieces.length * 16), length: pieces.length * 16, flags: Descriptor.INDIRECT }]
      : pieces.map((piece, i) => ({ ...piece, flags: i + 1 < pieces.length ? Descriptor.NEXT : 0 }));
    if (this.room < entries.length) return -1;
    if (indirect) {
      pieces.forEach((piece, i) => {
        const at = entries[0].address + i * 16;
        view.setBigUint64(at, BigInt(piece.address), true);
        view.setUint32(at + 8, piece.length, true);
        view.setUint16(at + 14, piece.write ? Descriptor.WRITE : 0, true);
      });
    }
    const id = this.ids.shift()!;
    this.room -= entries.length;
    this.slots.set(id, entries.length);
    let headFlags = 0;
    const head = this.descriptors + this.next * 16;
    entries.forEach((entry, i) => {
      const at = this.descriptors + this.next * 16;
      view.setBigUint64(at, BigInt(entry.address), true);
      view.setUint32(at + 8, entry.length, true);
      view.setUint16(at + 12, id, true);
      const flags = entry.flags | (entry.write ? Descriptor.WRITE : 0) | (this.wrap ? 0x80 : 0x8000);
      if (i === 0) headFlags = flags;
      else view.setUint16(at + 14, flags, true);
      if (++this.next === this.size) {
        this.next = 0;
        this.wrap ^= 1;
      }
    });
    view.setUint16(head + 14, headFlags, true);
    return id;
  }
  wantsNotification(): boolean {
    const view = this.machine.memory.view;
    const before = this.notified;
    this.notified = this.next | (this.wrap << 15);
    const flags = view.getUint16(this.device + 2, true) & 3;
    if (flags !== 2) return flags === 0;
    // 2.8.10: the position is passed when it lies in [before, now).
    const distance = (from: number, to: number) =>
      (((to & 0x7fff) + ((to >> 15) ^ (from >> 15) ? this.size : 0)) - (from & 0x7fff) + 2 * this.size) %
      (2 * this.size);
    const event = view.getUint16(this.device, true);
    return distance(before, event) < distance(before, this.notified);
  }
  collect(): { id: number; written: number }[] {
    const view = this.machine.memory.view;
    const result = [];
    for (;;) {
      const at = this.descriptors + this.used * 16;
      const flags = view.getUint16(at + 14, true);
      if (((flags >> 7) & 1) !== this.usedWrap || ((flags >> 15) & 1) !== this.usedWrap) return result;
      const id = view.getUint16(at + 12, true);
      const slots = this.slots.get(id);
      if (slots === undefined) throw new Error(`the device used ${id}, which was not offered`);
      this.slots.delete(id);
      this.ids.push(id);
      this.room += slots;
      result.push({ id, written: flags & Descriptor.WRITE ? view.getUint32(at + 8, true) : 0 });
      this.used += slots;
      if (this.used >= this.size) {
        this.used -= this.size;
        this.usedWrap ^= 1;
      }
    }
  }
  allowInterrupts(on: boolean, count = 1): void {
    const view = this.machine.memory.view;
    if (on && this.eventIndex) {
      const position = this.used + count - 1;
      const wrapped = position >= this.size;
      view.setUint16(
        this.driver,
        (wrapped ? position - this.size : position) | ((this.usedWrap ^ +wrapped) << 15),
        true,
      );
      view.setUint16(this.driver + 2, 2, true);
    } else view.setUint16(this.driver + 2, on ? 0 : 1, true);
  }
}

/** A driver that found its device in configuration space. */
export class VirtioDriver {
  readonly slot: number;
  readonly common: number;
  readonly isr: number;
  readonly deviceConfig: number;
  readonly notify: number;
  readonly multiplier: number;
  readonly msixTable: number;
  readonly capabilities: { id: number; at: number }[] = [];
  readonly queues: DriverQueue[] = [];
  private readonly machine: TestMachine;

  constructor(machine: TestMachine, slot: number) {
    this.machine = machine;
    this.slot = slot;
    machine.setConfig(slot, 4, 2, 6); // memory, bus master
    const areas: number[] = [];
    this.multiplier = 0;
    this.msixTable = 0;
    for (let at = machine.config(slot, 0x34, 1); at !== 0; at = machine.config(slot, at + 1, 1)) {
      const id = machine.config(slot, at, 1);
      this.capabilities.push({ id, at });
      if (id === 0x11) {
        this.msixTable = this.bar(machine.config(slot, at + 4) & 7) + (machine.config(slot, at + 4) & ~7);
        machine.setConfig(slot, at + 2, 2, 0x8000);
      }
      if (id !== 9) continue;
      const type = machine.config(slot, at + 3, 1);
      areas[type] = this.bar(machine.config(slot, at + 4, 1)) + machine.config(slot, at + 8);
      if (type === 2) this.multiplier = machine.config(slot, at + 16);
    }
    [, this.common, this.notify, this.isr, this.deviceConfig] = areas;
  }

  private bar(index: number): number {
    const low = this.machine.config(this.slot, 0x10 + index * 4);
    const high = low & 4 ? this.machine.config(this.slot, 0x14 + index * 4) : 0;
    return ((low & -16) >>> 0) + high * 0x1_0000_0000;
  }

  get status(): number {
    return this.machine.read(this.common + 20, 1);
  }
  set status(value: number) {
    this.machine.write(this.common + 20, 1, value);
  }

  offered(): bigint {
    this.machine.write(this.common, 4, 1);
    const high = BigInt(this.machine.read(this.common + 4, 4));
    this.machine.write(this.common, 4, 0);
    return (high << 32n) | BigInt(this.machine.read(this.common + 4, 4));
  }

  /** 3.1.1, up to FEATURES_OK; returns whether the device agreed. */
  negotiate(features: number[]): boolean {
    this.status = 0;
    this.status = Status.ACKNOWLEDGE;
    this.status = Status.ACKNOWLEDGE | Status.DRIVER;
    const words = [0, 0];
    for (const bit of features) words[bit >> 5] |= 1 << (bit & 31);
    for (const i of [0, 1]) {
      this.machine.write(this.common + 8, 4, i);
      this.machine.write(this.common + 12, 4, words[i]);
    }
    this.status = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK;
    return (this.status & Status.FEATURES_OK) !== 0;
  }

  /** Makes a queue and enables it, with MSI-X vector `index + 1`, message data 100 + vector. */
  setUp(index: number, queue: DriverQueue): DriverQueue {
    const { machine, common } = this;
    machine.write(common + 22, 2, index);
    machine.write(common + 24, 2, queue.size);
    this.vector(26, index + 1);
    const addresses = [queue.descriptors, queue.driver, queue.device];
    addresses.forEach((address, i) => {
      machine.write(common + 32 + i * 8, 4, address % 0x1_0000_0000);
      machine.write(common + 36 + i * 8, 4, Math.floor(address / 0x1_0000_0000));
    });
    machine.write(common + 28, 2, 1);
    this.queues[index] = queue;
    return queue;
  }

  private vector(field: number, vector: number): void {
    this.machine.write(this.common + field, 2, vector);
    const entry = this.msixTable + vector * 16;
    this.machine.write(entry, 4, 0xfee0_0000);
    this.machine.write(entry + 4, 4, 0);
    this.machine.write(entry + 8, 4, 100 + vector);
    this.machine.write(entry + 12, 4, 0);
  }

  ready(): void {
    this.vector(16, 0);
    this.status = this.status | Status.DRIVER_OK;
  }

  /** Negotiates, makes all queues of one layout, goes. */
  start(layout: "split" | "packed", size: number, queues: number, extra: number[] = [], eventIndex = true): void {
    const features = [Feature.VERSION_1, Feature.INDIRECT_DESC, Feature.RING_RESET, ...extra];
    if (eventIndex) features.push(Feature.EVENT_IDX);
    if (layout === "packed") features.push(Feature.RING_PACKED);
    if (!this.negotiate(features)) throw new Error("the device refused the features");
    for (let i = 0; i < queues; i++) {
      this.setUp(
        i,
        layout === "split"
          ? new SplitDriver(this.machine, size, eventIndex)
          : new PackedDriver(this.machine, size, eventIndex),
      );
    }
    this.ready();
  }

  notifyQueue(index: number): void {
    this.machine.write(this.notify + index * this.multiplier, 2, index);
  }
}
