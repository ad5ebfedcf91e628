/** A KVM virtual machine. */
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
import { C, check, cString, Errno, errno, Kvm, KvmStruct, libc, systemError } from "./abi.ts";
import { EventFd } from "./eventfd.ts";
import { KvmDirtyPages } from "./dirty_pages.ts";
import { forget, mapAnonymous, MAX_SLOTS, SharedState, viewOf } from "./shared_state.ts";
import { isPvm } from "./probe.ts";
import { KvmMessageDescriptors } from "./x64_routing.ts";
import { type ControllerState, createX64Vcpu, prepareX64, readControllers, writeControllers } from "./x64_platform.ts";

const REGION = KvmStruct.kvm_userspace_memory_region;
const PAGE = 4096;

/** What a Worker attaches by. Descriptors are the process's, so numbers are enough. */
export interface KvmHandle extends PartitionHandle {
  readonly backend: "kvm";
  readonly kvmFd: number;
  readonly vmFd: number;
  readonly shared: SharedArrayBuffer;
}

/** One virtual machine, as one Worker holds it. */
export class KvmPartition implements Partition {
  readonly config: PartitionConfig;
  readonly kvmFd: number;
  readonly vmFd: number;
  readonly shared: SharedState;
  readonly controllers: PlatformControllers;
  readonly interrupts: Interrupts;
  readonly doorbells: Doorbells | null;
  readonly dirtyPages: KvmDirtyPages;
  readonly messageDescriptors: KvmMessageDescriptors | null;
  private readonly creator: boolean;
  private readonly powerOnControllers: ControllerState | null;
  private readonly wakers: EventFd[] = [];
  private host: HostMemory | null = null;
  private closed = false;
  readonly releaseMemory = (offset: number, length: number): void => {
    // Private anonymous pages: what is dropped reads as zeroes (madvise(2), MADV_DONTNEED).
    libc().madvise(BigInt(this.memory().address + offset), BigInt(length), C.MADV_DONTNEED);
  };

  /** Makes a virtual machine. */
  static create(config: PartitionConfig, device = "/dev/kvm"): KvmPartition {
    const kvmFd = libc().open(cString(device), C.O_RDWR | C.O_CLOEXEC);
    if (kvmFd < 0) throw systemError(errno(), `opening ${device} (\`hv doctor\` says what to do)`);
    let vmFd = -1;
    try {
      vmFd = createVm(kvmFd);
      prepareX64(vmFd, config);
      return new KvmPartition(
        config,
        kvmFd,
        vmFd,
        new SharedState(SharedState.allocate(config.cpus), config.cpus),
        true,
      );
    } catch (error) {
      if (vmFd >= 0) libc().close(vmFd);
      libc().close(kvmFd);
      throw error;
    }
  }

  /** Joins one from another Worker. */
  static attach(handle: KvmHandle): KvmPartition {
    const shared = new SharedState(handle.shared, handle.config.cpus);
    return new KvmPartition(handle.config, handle.kvmFd, handle.vmFd, shared, false);
  }

  private constructor(config: PartitionConfig, kvmFd: number, vmFd: number, shared: SharedState, creator: boolean) {
    this.config = config;
    this.kvmFd = kvmFd;
    this.vmFd = vmFd;
    this.shared = shared;
    this.creator = creator;
    const own = config.platformInterruptControllers !== false;
    this.controllers = { localApic: own, ioApic: own, pit: own, paravirtualClock: true };
    this.interrupts = new KvmInterrupts(this);
    this.doorbells = this.extension(Kvm.CAP_IOEVENTFD) > 0 ? new KvmDoorbells(this) : null;
    this.dirtyPages = new KvmDirtyPages(this);
    this.messageDescriptors = own && this.extension(Kvm.CAP_IRQFD) > 0 ? new KvmMessageDescriptors(vmFd, shared) : null;
    this.powerOnControllers = creator && own ? readControllers(vmFd) : null;
    shared.attach();
  }

  /** Whether this is KVM's PVM module. */
  get restricted(): boolean {
    return isPvm();
  }

  /** KVM_CHECK_EXTENSION on this machine. */
  extension(capability: number): number {
    return libc().ioctl(this.vmFd, Kvm.CHECK_EXTENSION, capability);
  }

  allocateMemory(size: number): HostMemory {
    if (this.shared.memorySize !== 0) throw new Error("the partition's memory is there already");
    if (!(size > 0 && size % PAGE === 0)) throw new RangeError(`guest memory of ${size} bytes is not whole pages`);
    let address: number;
    try {
      address = mapAnonymous(size);
    } catch (cause) {
      throw new HvError(`the host has no room for ${size} bytes of guest memory: ${(cause as Error).message}`, {
        cause,
      });
    }
    this.shared.setMemory(address, size);
    return this.memory();
  }

  memory(): HostMemory {
    const { memoryAddress: address, memorySize: size } = this.shared;
    if (size === 0) throw new Error("the partition's memory has not been allocated");
    return this.host ??= { buffer: viewOf(address, size), byteOffset: 0, size, address };
  }

  mapMemory(region: MemoryRegion): void {
    checkRegion(region, this.shared.memorySize);
    this.shared.locked(() => {
      const slot = this.shared.takeSlot(region);
      if (slot < 0) throw new RangeError("too many memory regions");
      try {
        this.setSlot(slot, region, this.shared.logging);
      } catch (error) {
        this.shared.freeSlot(slot);
        throw error;
      }
    });
  }

  unmapMemory(region: MemoryRegion): void {
    this.shared.locked(() => {
      const slot = this.shared.findSlot(region);
      if (slot < 0) throw new RangeError(`no memory is mapped at 0x${region.guestAddress.toString(16)}`);
      this.setSlot(slot, { ...region, size: 0 }, false);
      this.shared.freeSlot(slot);
    });
  }

  /** KVM_SET_USER_MEMORY_REGION; a size of 0 takes the slot away. */
  setSlot(slot: number, region: MemoryRegion, log: boolean): void {
    const flags = (region.readonly ? Kvm.MEM_READONLY : 0) | (log && !region.readonly ? Kvm.MEM_LOG_DIRTY_PAGES : 0);
    const struct = new DataView(new ArrayBuffer(REGION.sizeof));
    struct.setUint32(REGION.slot, slot, true);
    struct.setUint32(REGION.flags, region.size === 0 ? 0 : flags, true);
    struct.setBigUint64(REGION.guest_phys_addr, BigInt(region.guestAddress), true);
    struct.setBigUint64(REGION.memory_size, BigInt(region.size), true);
    struct.setBigUint64(REGION.userspace_addr, BigInt(this.shared.memoryAddress + region.offset), true);
    const where = `0x${region.guestAddress.toString(16)}`;
    check(
      libc().ioctlBuffer(this.vmFd, Kvm.SET_USER_MEMORY_REGION, bytesOf(struct)),
      `mapping guest memory at ${where}`,
    );
  }

  /** Guest memory as it lies behind a guest address, for messages; empty where there is none. */
  readGuest(guestAddress: number, length: number): Uint8Array {
    for (let slot = 0; slot < MAX_SLOTS; slot++) {
      const region = this.shared.slot(slot);
      if (!region || guestAddress < region.guestAddress || guestAddress >= region.guestAddress + region.size) continue;
      const at = guestAddress - region.guestAddress;
      return new Uint8Array(this.memory().buffer, region.offset + at, Math.min(length, region.size - at)).slice();
    }
    return new Uint8Array(0);
  }

  createWaker(): Waker {
    const waker = new EventFd();
    this.wakers.push(waker);
    return waker;
  }

  attachWaker(handle: WakerHandle): Waker {
    return new EventFd(handle);
  }

  createVcpu(index: number): Vcpu {
    if (!(index >= 0 && index < this.config.cpus)) throw new RangeError(`there is no vCPU ${index}`);
    return createX64Vcpu(this, index);
  }

  interruptVcpu(index: number): void {
    this.shared.kick(index);
  }

  handle(): KvmHandle {
    const { config, kvmFd, vmFd } = this;
    return { backend: "kvm", config, kvmFd, vmFd, shared: this.shared.buffer };
  }

  resetControllers(): void {
    if (this.powerOnControllers) writeControllers(this.vmFd, this.powerOnControllers);
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    if (this.creator) {
      // From now on a vCPU that is kicked leaves every run() at once; the kernel keeps the machine until the last
      // vCPU's descriptor is closed, so no run() ever works on a machine that is gone.
      this.shared.setClosing();
      for (let index = 0; index < this.config.cpus; index++) this.shared.kick(index);
      for (const waker of this.wakers) waker.close();
      libc().close(this.vmFd);
      libc().close(this.kvmFd);
    }
    const { memoryAddress: address, memorySize: size } = this.shared;
    if (this.host) forget(this.host.buffer as ArrayBuffer);
    // The last one unmaps; until then the addresses stay valid for those who still look, but hold no memory.
    if (this.shared.detach() && size !== 0) libc().munmap(BigInt(address), BigInt(size));
    else if (this.creator && size !== 0) libc().madvise(BigInt(address), BigInt(size), C.MADV_DONTNEED);
  }
}

/** KVM_CREATE_VM, which a signal may interrupt. */
function createVm(kvmFd: number): number {
  for (;;) {
    const fd = libc().ioctl(kvmFd, Kvm.CREATE_VM, 0);
    if (fd >= 0) return fd;
    const code = errno();
    if (code !== Errno.EINTR) throw systemError(code, "creating a virtual machine");
  }
}

function bytesOf(view: DataView<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  return new Uint8Array(view.buffer);
}

/** KVM_IRQ_LINE and KVM_SIGNAL_MSI. The structs are this Worker's own, so threads do not meet in them. */
class KvmInterrupts implements Interrupts {
  private readonly partition: KvmPartition;
  private readonly vmFd: number;
  private readonly line = new Int32Array(KvmStruct.kvm_irq_level.sizeof / 4);
  private readonly message = new Int32Array(KvmStruct.kvm_msi.sizeof / 4);

  constructor(partition: KvmPartition) {
    this.partition = partition;
    this.vmFd = partition.vmFd;
  }

  setLine(irq: number, level: number): void {
    if (this.partition.shared.closing) return;
    this.line[0] = irq;
    this.line[1] = level;
    libc().ioctlBuffer(this.vmFd, Kvm.IRQ_LINE, this.line);
  }

  signalMessage(address: number, data: number): void {
    if (this.partition.shared.closing) return;
    this.message[0] = address;
    this.message[2] = data;
    libc().ioctlBuffer(this.vmFd, Kvm.SIGNAL_MSI, this.message);
  }
}

/** KVM_IOEVENTFD on guest memory addresses. */
class KvmDoorbells implements Doorbells {
  private readonly partition: KvmPartition;

  constructor(partition: KvmPartition) {
    this.partition = partition;
  }

  add(address: number, width: number, match: number, waker: Waker): void {
    this.set(address, width, match, waker, 0);
  }

  remove(address: number, width: number, match: number, waker: Waker): void {
    this.set(address, width, match, waker, Kvm.IOEVENTFD_FLAG_DEASSIGN);
  }

  private set(address: number, width: number, match: number, waker: Waker, flags: number): void {
    const offsets = KvmStruct.kvm_ioeventfd;
    const struct = new DataView(new ArrayBuffer(offsets.sizeof));
    if (match !== -1) flags |= Kvm.IOEVENTFD_FLAG_DATAMATCH;
    struct.setBigUint64(offsets.datamatch, match === -1 ? 0n : BigInt(match >>> 0), true);
    struct.setBigUint64(offsets.addr, BigInt(address), true);
    struct.setUint32(offsets.len, width, true);
    struct.setInt32(offsets.fd, (waker.handle as { descriptor: number }).descriptor, true);
    struct.setUint32(offsets.flags, flags, true);
    const what = `a doorbell at 0x${address.toString(16)}`;
    check(libc().ioctlBuffer(this.partition.vmFd, Kvm.IOEVENTFD, bytesOf(struct)), what);
  }
}
