/** A partition of the Windows Hypervisor Platform. */
import type {
  Doorbells,
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
import { HvError } from "../../core/errors.ts";
import { checkRegion } from "../memory_region.ts";
import {
  ApicMode,
  Capability,
  check,
  ExceptionType,
  InterruptType,
  MapFlag,
  platform,
  Property,
  Result,
  Struct,
  system,
  Win,
} from "./abi.ts";
import { cpuidExits, cpuidResults } from "./cpuid.ts";
import { WhpxDirtyPages } from "./dirty_pages.ts";
import { WindowsEvent } from "./event.ts";
import { capability } from "./probe.ts";
import { SharedState } from "./shared_state.ts";
import { WhpxVcpu } from "./vcpu.ts";

const PAGE = 4096;
const CONTROL = Struct.WHV_INTERRUPT_CONTROL;

/** What a Worker attaches by. Handles are the process's, so numbers are enough. */
export interface WhpxHandle extends PartitionHandle {
  readonly backend: "whpx";
  readonly partition: number;
  readonly localApic: boolean;
  readonly shared: SharedArrayBuffer;
}

/** One partition, as one Worker holds it. */
export class WhpxPartition implements Partition {
  readonly config: PartitionConfig;
  /** WHV_PARTITION_HANDLE. */
  readonly pointer: Deno.PointerValue;
  readonly shared: SharedState;
  readonly controllers: PlatformControllers;
  readonly interrupts: Interrupts;
  readonly doorbells: Doorbells | null;
  readonly dirtyPages: WhpxDirtyPages | null;
  /** Whether #DB can be made to leave the guest. */
  readonly debugExits: boolean;
  private readonly creator: boolean;
  private readonly wakers: WindowsEvent[] = [];
  private host: HostMemory | null = null;
  private closed = false;

  /**
   * The pages stay accessible all the time: a device that is told to use one meanwhile must not take the process with it,
   * as it would at decommitted memory. What Windows has not taken when they are touched again is what was put there.
   */
  readonly releaseMemory = (offset: number, length: number): void => {
    const { buffer, byteOffset, address } = this.memory();
    new Uint8Array(buffer, byteOffset + offset, length).fill(0);
    const pointer = Deno.UnsafePointer.create(BigInt(address + offset));
    const { DiscardVirtualMemory, VirtualAlloc } = system();
    // Neither does anything to large pages, which Windows keeps.
    if (DiscardVirtualMemory) DiscardVirtualMemory(pointer, BigInt(length));
    else VirtualAlloc(pointer, BigInt(length), Win.MEM_RESET, Win.PAGE_READWRITE);
  };

  /** Makes a partition. */
  static create(config: PartitionConfig): WhpxPartition {
    const handle = new BigUint64Array(1);
    check(platform().WHvCreatePartition(handle), "making a partition (`hv doctor` says what to do)");
    const pointer = Deno.UnsafePointer.create(handle[0]);
    try {
      setNumber(pointer, Property.ProcessorCount, config.cpus, 4, `making ${config.cpus} vCPUs`);
      const offered = capability(Capability.ExtendedVmExits);
      const exits = Exits.MSR | (offered & Exits.CPUID) | (canExitForDebug() ? Exits.EXCEPTION : 0);
      setNumber(pointer, Property.ExtendedVmExits, exits, 8, "asking for exits of MSRs");
      setNumber(pointer, Property.X64MsrExitBitmap, 1, 8, "asking for exits of unknown MSRs");
      const results = cpuidResults();
      check(
        platform().WHvSetPartitionProperty(pointer, Property.CpuidResultList, results, results.length),
        "setting CPUID",
      );
      const localApic = config.platformInterruptControllers !== false && askForApic(pointer);
      const leaves = cpuidExits(localApic);
      if ((offered & Exits.CPUID) !== 0 && leaves.length > 0) {
        check(
          platform().WHvSetPartitionProperty(pointer, Property.CpuidExitList, leaves, leaves.byteLength),
          "asking for exits of CPUID",
        );
      }
      check(platform().WHvSetupPartition(pointer), "setting the partition up");
      const shared = new SharedState(SharedState.allocate(config.cpus), config.cpus);
      return new WhpxPartition(config, pointer, localApic, shared, true);
    } catch (error) {
      platform().WHvDeletePartition(pointer);
      throw error;
    }
  }

  /** Joins one from another Worker. */
  static attach(handle: WhpxHandle): WhpxPartition {
    const shared = new SharedState(handle.shared, handle.config.cpus);
    const pointer = Deno.UnsafePointer.create(BigInt(handle.partition));
    return new WhpxPartition(handle.config, pointer, handle.localApic, shared, false);
  }

  private constructor(
    config: PartitionConfig,
    pointer: Deno.PointerValue,
    localApic: boolean,
    shared: SharedState,
    creator: boolean,
  ) {
    this.config = config;
    this.pointer = pointer;
    this.shared = shared;
    this.creator = creator;
    this.controllers = { localApic, ioApic: false, pit: false, paravirtualClock: false };
    this.interrupts = new WhpxInterrupts(this);
    const { WHvRegisterPartitionDoorbellEvent: add, WHvUnregisterPartitionDoorbellEvent: remove } = platform();
    this.doorbells = add && remove ? new WhpxDoorbells(this) : null;
    this.debugExits = canExitForDebug();
    this.dirtyPages = capability(Capability.Features) & 8 ? new WhpxDirtyPages(this) : null;
    shared.attach();
  }

  allocateMemory(size: number): HostMemory {
    if (this.shared.memorySize !== 0) throw new Error("the partition's memory is there already");
    if (!(size > 0 && size % PAGE === 0)) throw new RangeError(`guest memory of ${size} bytes is not whole pages`);
    const address = allocate(size);
    if (address === null) throw new HvError(`the host has no room for ${size} bytes of guest memory`);
    this.shared.setMemory(Number(Deno.UnsafePointer.value(address)), size);
    return this.memory();
  }

  memory(): HostMemory {
    const { memoryAddress: address, memorySize: size } = this.shared;
    if (size === 0) throw new Error("the partition's memory has not been allocated");
    if (this.host === null) {
      const pointer = Deno.UnsafePointer.create(BigInt(address))!;
      const buffer = Deno.UnsafePointerView.getArrayBuffer(pointer, size);
      this.host = { buffer, byteOffset: 0, size, address };
    }
    return this.host;
  }

  mapMemory(region: MemoryRegion): void {
    checkRegion(region, this.shared.memorySize);
    const { guestAddress, size } = region;
    this.shared.locked(() => {
      // WHvMapGpaRange would replace what is there.
      for (const other of this.shared.allRegions()) {
        if (guestAddress < other.guestAddress + other.size && other.guestAddress < guestAddress + size) {
          throw new RangeError(`memory is mapped at 0x${guestAddress.toString(16)} already`);
        }
      }
      if (!this.shared.addRegion(region)) throw new RangeError("too many memory regions");
      try {
        this.mapRange(region, this.shared.logging);
      } catch (error) {
        this.shared.removeRegion(region);
        throw error;
      }
    });
  }

  unmapMemory(region: MemoryRegion): void {
    const { guestAddress, size } = region;
    const where = `0x${guestAddress.toString(16)}`;
    this.shared.locked(() => {
      if (!this.shared.removeRegion(region)) throw new RangeError(`no memory is mapped at ${where}`);
      check(
        platform().WHvUnmapGpaRange(this.pointer, BigInt(guestAddress), BigInt(size)),
        `unmapping guest memory at ${where}`,
      );
    });
  }

  /** WHvMapGpaRange, anew or in place of the same range's mapping. */
  mapRange(region: MemoryRegion, log: boolean): void {
    const { guestAddress, offset, size, readonly } = region;
    const source = Deno.UnsafePointer.create(BigInt(this.shared.memoryAddress + offset));
    const flags = MapFlag.Read | MapFlag.Execute | (readonly ? 0 : MapFlag.Write) |
      (log && !readonly ? MapFlag.TrackDirtyPages : 0);
    check(
      platform().WHvMapGpaRange(this.pointer, source, BigInt(guestAddress), BigInt(size), flags),
      `mapping guest memory at 0x${guestAddress.toString(16)}`,
    );
  }

  createWaker(): Waker {
    const waker = new WindowsEvent();
    this.wakers.push(waker);
    return waker;
  }

  attachWaker(handle: WakerHandle): Waker {
    return new WindowsEvent(handle);
  }

  createVcpu(index: number): Vcpu {
    if (!(index >= 0 && index < this.config.cpus)) throw new RangeError(`there is no vCPU ${index}`);
    return new WhpxVcpu(this, index);
  }

  interruptVcpu(index: number): void {
    if (!(index >= 0 && index < this.config.cpus)) return;
    if (this.shared.kick(index)) platform().WHvCancelRunVirtualProcessor(this.pointer, index, 0);
  }

  /** Has every #DB of the guest leave it, whoever causes it. Windows takes this only while no vCPU runs. */
  exitForDebug(): void {
    setNumber(
      this.pointer,
      Property.ExceptionExitBitmap,
      1 << ExceptionType.DebugTrapOrFault,
      8,
      "asking for exits of debug exceptions (pause the machine first)",
    );
  }

  handle(): WhpxHandle {
    return {
      backend: "whpx",
      config: this.config,
      partition: Number(Deno.UnsafePointer.value(this.pointer)),
      localApic: this.controllers.localApic,
      shared: this.shared.buffer,
    };
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    if (this.creator) {
      // From now on every run() returns at once. The partition itself lasts until the last Worker has let it go: a
      // vCPU that runs in it is not to be pulled away under its thread.
      this.shared.setClosing();
      for (let index = 0; index < this.config.cpus; index++) this.interruptVcpu(index);
      for (const waker of this.wakers) waker.close();
    }
    const { memoryAddress: address, memorySize: size } = this.shared;
    // Every view becomes empty, so that a late access is an undefined and not a crash.
    if (this.host && !(this.host.buffer as ArrayBuffer).detached) (this.host.buffer as ArrayBuffer).transfer();
    if (!this.shared.detach()) return;
    platform().WHvDeletePartition(this.pointer);
    if (size !== 0) system().VirtualFree(Deno.UnsafePointer.create(BigInt(address)), 0n, Win.MEM_RELEASE);
  }
}

/** WHV_EXTENDED_VM_EXITS. */
const Exits = { CPUID: 1, MSR: 2, EXCEPTION: 4 } as const;

function canExitForDebug(): boolean {
  return (capability(Capability.ExtendedVmExits) & Exits.EXCEPTION) !== 0 &&
    (capability(Capability.ExceptionExitBitmap) & 1 << ExceptionType.DebugTrapOrFault) !== 0;
}

/** Pages for the guest, large ones where this user may have them (the right 'Lock pages in memory'). */
function allocate(size: number): Deno.PointerValue {
  const { VirtualAlloc, GetLargePageMinimum } = system();
  const large = Number(GetLargePageMinimum());
  if (large !== 0 && size % large === 0) {
    const type = Win.MEM_COMMIT | Win.MEM_RESERVE | Win.MEM_LARGE_PAGES;
    const address = VirtualAlloc(null, BigInt(size), type, Win.PAGE_READWRITE);
    if (address !== null) return address;
  }
  return VirtualAlloc(null, BigInt(size), Win.MEM_COMMIT | Win.MEM_RESERVE, Win.PAGE_READWRITE);
}

function setProperty(pointer: Deno.PointerValue, code: number, value: number, bytes: 4 | 8): number {
  const words = new Uint32Array(bytes / 4);
  words[0] = value;
  return platform().WHvSetPartitionProperty(pointer, code, words, bytes);
}

function setNumber(pointer: Deno.PointerValue, code: number, value: number, bytes: 4 | 8, what: string): void {
  check(setProperty(pointer, code, value, bytes), what);
}

/** Local APICs of the platform: with x2APIC, else without; false where it has none to give. */
function askForApic(pointer: Deno.PointerValue): boolean {
  const { WHvGetVirtualProcessorInterruptControllerState2: get, WHvSetVirtualProcessorInterruptControllerState2: set } =
    platform();
  // An APIC whose state cannot be moved would be lost at the first reset.
  if (!get || !set || (capability(Capability.Features) & 2) === 0) return false;
  for (const mode of [ApicMode.X2Apic, ApicMode.XApic]) {
    if (setProperty(pointer, Property.LocalApicEmulationMode, mode, 4) >= 0) return true;
  }
  return false;
}

/** WHvRequestInterrupt for messages. The struct is this Worker's own, so threads do not meet in it. */
class WhpxInterrupts implements Interrupts {
  private readonly partition: WhpxPartition;
  private readonly words = new Uint32Array(CONTROL.sizeof / 4);
  private readonly struct: Deno.PointerValue;

  constructor(partition: WhpxPartition) {
    this.partition = partition;
    this.struct = Deno.UnsafePointer.of(this.words);
  }

  setLine(): void {
    throw new Error("WHPX has no I/O APIC: lines are the machine's");
  }

  signalMessage(address: number, data: number): void {
    // SDM vol. 3, 11.11: FEEh, destination in bits 19:12, mode in bit 2; mode, vector and trigger in the data.
    if ((address & 0xfff00000) !== (0xfee00000 | 0) || this.partition.shared.closing) return;
    const mode = (data >> 8) & 7;
    const vector = data & 0xff;
    if (mode !== InterruptType.Fixed && mode !== InterruptType.LowestPriority && mode !== InterruptType.Nmi) return;
    // Vectors 0 to 15 are no interrupts (11.5.2); WHPX would call the request wrong.
    if (mode !== InterruptType.Nmi && vector < 16) return;
    const level = mode !== InterruptType.Nmi && (data & 0x8000) !== 0 ? 1 : 0;
    this.words[0] = mode | (((address >> 2) & 1) << 8) | (level << 12);
    this.words[1] = 0;
    this.words[CONTROL.Destination / 4] = (address >>> 12) & 0xff;
    this.words[CONTROL.Vector / 4] = vector;
    platform().WHvRequestInterrupt(this.partition.pointer, this.struct, CONTROL.sizeof);
  }
}

/** WHvRegisterPartitionDoorbellEvent on guest memory addresses. */
class WhpxDoorbells implements Doorbells {
  private readonly partition: WhpxPartition;

  constructor(partition: WhpxPartition) {
    this.partition = partition;
  }

  add(address: number, width: number, match: number, waker: Waker): void {
    const event = Deno.UnsafePointer.create(BigInt((waker.handle as { descriptor: number }).descriptor));
    check(
      platform().WHvRegisterPartitionDoorbellEvent!(this.partition.pointer, matchData(address, width, match), event),
      `a doorbell at 0x${address.toString(16)}`,
    );
  }

  remove(address: number, width: number, match: number): void {
    const result = platform().WHvUnregisterPartitionDoorbellEvent!(
      this.partition.pointer,
      matchData(address, width, match),
    );
    if (result !== Result.E_INVALIDARG) check(result, `taking back a doorbell at 0x${address.toString(16)}`);
  }
}

function matchData(address: number, width: number, match: number): Uint8Array<ArrayBuffer> {
  const offsets = Struct.WHV_DOORBELL_MATCH_DATA;
  const view = new DataView(new ArrayBuffer(offsets.sizeof));
  view.setBigUint64(offsets.GuestAddress, BigInt(address), true);
  view.setBigUint64(offsets.Value, match === -1 ? 0n : BigInt(match >>> 0), true);
  view.setUint32(offsets.Length, width, true);
  // MatchOnValue, MatchOnLength.
  view.setUint32(offsets.Length + 4, (match === -1 ? 0 : 1) | (width === 0 ? 0 : 2), true);
  return new Uint8Array(view.buffer);
}
