/**
 * The contract a backend fulfils. Everything above this file speaks of a machine's CPU only in these terms, and
 * `tests/conformance/` says in code what each of them means.
 *
 * Two rules shape it. Whatever happens between two calls of {@link Vcpu.run} allocates nothing, so an exit is a small
 * integer and its details stand in fields and views that were made once. And an optional power is an object or null,
 * never a method that throws.
 */

/** Why {@link Vcpu.run} returned. */
export const Exit = {
  /** `IN`/`INS`: fill `size * count` bytes at `dataOffset`, then run again. */
  IO_READ: 0,
  /** `OUT`/`OUTS`: `size * count` bytes stand at `dataOffset`. */
  IO_WRITE: 1,
  /** A load from an unmapped guest address: fill `size` bytes at `dataOffset`, then run again. */
  MMIO_READ: 2,
  /** A store to an unmapped (or read-only) guest address: `size` bytes stand at `dataOffset`. */
  MMIO_WRITE: 3,
  /** The guest halted with nothing left that could wake it (interrupts off, no controller of the backend's own). */
  HALT: 4,
  /** {@link Vcpu.interrupt} was called, or a signal came: look at the machine's state and run again. */
  INTERRUPTED: 5,
  /** Triple fault, or the platform's own word that the guest shut down. */
  SHUTDOWN: 6,
  /** The guest asked the platform for a reset. */
  RESET: 7,
  /** `RDMSR` of a register the backend does not own: `msr` is its index; fill 8 bytes, or set `msrFault` to 1. */
  MSR_READ: 8,
  /** `WRMSR` of a register the backend does not own: 8 bytes stand at `dataOffset`; `msrFault` as above. */
  MSR_WRITE: 9,
  /** A hypercall the backend does not answer itself. */
  HYPERCALL: 10,
  /** A breakpoint or single step that {@link Vcpu.setDebug} asked for. */
  DEBUG: 11,
  /** The platform gave up on the guest: {@link Vcpu.failure} says why. */
  FAILED: 12,
} as const;

/** One of {@link Exit}'s values. */
export type ExitReason = (typeof Exit)[keyof typeof Exit];

/** The names of {@link Exit}, by value, for messages and statistics. */
export const EXIT_NAMES: readonly string[] = Object.keys(Exit);

/** A guest's instruction set. */
export type Architecture = "x86_64" | "aarch64";

/** What {@link Hypervisor.probe} found on this machine. */
export interface Support {
  /** Whether a partition that runs unmodified guests can be made. */
  usable: boolean;
  /** For a person, in a few words: what is here, or what is missing. */
  reason: string;
  /** What to do about what is missing; absent when nothing is missing, or nothing can be done. */
  advice?: string;
  /** Guest architectures this backend can run here. */
  architectures: Architecture[];
  /** Most vCPUs in one partition; 0 when not usable. */
  maxVcpus: number;
  /** Most bytes of guest memory in one partition; 0 when not usable. */
  maxMemory: number;
  /** Width of guest physical addresses in bits. */
  physicalAddressBits: number;
  /** Facts worth showing in `hv doctor`, by name. */
  features: Record<string, string | number | boolean>;
  /**
   * True where small guests run but unmodified kernels do not (KVM's PVM module): good for tests, never chosen
   * automatically. `usable` is false then.
   */
  restricted: boolean;
}

/** Why a backend cannot be used here: what is missing, and what to do about it where something can be done. */
export type Missing = Pick<Support, "reason" | "advice">;

/** The answer of a backend that cannot be used here. */
export function unusable(missing: Missing): Support {
  return {
    usable: false,
    ...missing,
    architectures: [],
    maxVcpus: 0,
    maxMemory: 0,
    physicalAddressBits: 0,
    features: {},
    restricted: false,
  };
}

/** One way to run guests. */
export interface Hypervisor {
  /** The name `--backend` takes: `kvm`, `hvf`, `whpx`, `soft`. */
  readonly name: BackendName;
  /** Looks at this machine; changes nothing and never throws. */
  probe(): Support;
  /** Makes an empty partition. Throws an Error whose message says what to do. */
  createPartition(config: PartitionConfig): Partition;
  /** Joins, from another Worker, the partition whose {@link Partition.handle} this is. */
  attachPartition(handle: PartitionHandle): Partition;
}

/** The backends there are. */
export type BackendName = "kvm" | "hvf" | "whpx" | "soft";

/** What must be known before memory and vCPUs are made. */
export interface PartitionConfig {
  architecture: Architecture;
  /** Number of vCPUs, 1 or more: all sit in one package, one thread a core. */
  cpus: number;
  /** Bytes of guest RAM that will be asked of {@link Partition.allocateMemory} in all. */
  memory: number;
  /**
   * `monotonicNow()` at which the guest's clocks read zero; a CPU of ours counts its TSC from there, at
   * `TSC_FREQUENCY` (both in `clock.ts`), so that local APICs of ours agree with it. Default: now.
   */
  epoch?: number;
  /**
   * Ask the backend for its own interrupt controllers and PIT where it has them (default true). With false the machine
   * brings those of `devices/`; only the conformance suite needs that choice.
   */
  platformInterruptControllers?: boolean;
}

/** What a Worker needs to attach: numbers, strings and shared buffers only. */
export interface PartitionHandle {
  readonly backend: BackendName;
  readonly config: PartitionConfig;
  readonly [field: string]: unknown;
}

/** Host memory that can be mapped into a guest. One mapping; every Worker sees the same bytes. */
export interface HostMemory {
  /** A SharedArrayBuffer, or an ArrayBuffer over memory that lies outside V8's heap. */
  readonly buffer: ArrayBufferLike;
  /** Where guest memory begins in {@link buffer}: the software CPU keeps its own state before it. */
  readonly byteOffset: number;
  /** Bytes of guest memory, a multiple of 4096. */
  readonly size: number;
  /** The host address of byte 0 of guest memory, for system calls; 0 where there is none to give. */
  readonly address: number;
}

/** A piece of guest physical address space backed by host memory. */
export interface MemoryRegion {
  /** First guest physical address; 4096-aligned. */
  guestAddress: number;
  /** Where the region begins in the {@link HostMemory}; 4096-aligned. */
  offset: number;
  /** Bytes; a multiple of 4096. */
  size: number;
  /** Guest stores leave `run()` as MMIO_WRITE. */
  readonly?: boolean;
}

/** Which interrupt controllers and timers the partition emulates itself; the machine supplies the others. */
export interface PlatformControllers {
  /** A local APIC per vCPU, with INIT/SIPI, IPIs, x2APIC and its timer. */
  localApic: boolean;
  /** IOAPIC and 8259s: {@link Interrupts.setLine} reaches them. */
  ioApic: boolean;
  /** 8254 timer at ports 40h-43h and 61h. */
  pit: boolean;
  /** A paravirtual clock the guest finds by CPUID (kvmclock). */
  paravirtualClock: boolean;
}

/** How devices interrupt the guest; callable from any thread. */
export interface Interrupts {
  /**
   * Drives a line of the platform's IOAPIC (and 8259 for lines below 16). Only where `controllers.ioApic` is true.
   * @param irq global system interrupt number
   * @param level 1 asserted, 0 not
   */
  setLine(irq: number, level: number): void;
  /**
   * Sends a message-signalled interrupt. Only where `controllers.localApic` is true.
   * @param address low 32 bits of the message address, as an int32
   * @param data the message data, as an int32
   */
  signalMessage(address: number, data: number): void;
}

/** Something one Worker sleeps on and any thread rings; rings are remembered until the next wait. */
export interface Waker {
  /** Waits until rung or `timeout` milliseconds have passed (-1: for ever). True when rung. */
  wait(timeout: number): boolean;
  /** Rings. */
  wake(): void;
  /** What another Worker passes to {@link Partition.attachWaker}. */
  readonly handle: WakerHandle;
}

/** A {@link Waker} as it travels between Workers. */
export type WakerHandle = { readonly descriptor: number } | { readonly word: Int32Array };

/** Optional power: guest writes to a notify register that wake a Worker without leaving the vCPU's `run()`. */
export interface Doorbells {
  /**
   * Watches for guest writes.
   * @param address guest physical address
   * @param width bytes of the write, 1, 2 or 4; 0 for any
   * @param match the value that must be written, or -1 for any
   */
  add(address: number, width: number, match: number, waker: Waker): void;
  /** Takes back what {@link add} did, with the same arguments. */
  remove(address: number, width: number, match: number, waker: Waker): void;
}

/** Optional power: which pages the guest has written. */
export interface DirtyPages {
  /** Begins (or ends) tracking over all writable regions. */
  track(on: boolean): void;
  /**
   * Reads and clears the bits of one region.
   * @param bitmap one bit a 4 KiB page, least significant first; `ceil(size / 4096 / 8)` bytes
   */
  take(region: MemoryRegion, bitmap: Uint8Array): void;
}

/** Optional power: event descriptors that are interrupt messages, for those who have nothing but a descriptor. */
export interface MessageDescriptors {
  /** Makes one; callable from any Worker. The vCPUs need not be stopped. */
  create(): MessageDescriptor;
}

/** An eventfd that sends a message-signalled interrupt whenever it is written, by any process or by the kernel. */
export interface MessageDescriptor {
  readonly descriptor: number;
  /** What is sent from now on; nothing is before. Arguments as {@link Interrupts.signalMessage}. */
  route(address: number, data: number): void;
  /** Sends it from this process. */
  ring(): void;
  close(): void;
}

/** A virtual machine as the platform sees it: memory, interrupts, vCPUs; no devices. */
export interface Partition {
  readonly controllers: PlatformControllers;
  readonly interrupts: Interrupts;
  /** Null where guest writes cannot wake a Worker by themselves. */
  readonly doorbells: Doorbells | null;
  /** Null where the platform cannot tell. */
  readonly dirtyPages: DirtyPages | null;
  /** Null, or not there, where an interrupt takes a call. */
  readonly messageDescriptors?: MessageDescriptors | null;
  /** Zeroed memory for the guest, once a partition. Throws when the host has not that much. */
  allocateMemory(size: number): HostMemory;
  /** The memory of {@link allocateMemory}, in a Worker that attached. */
  memory(): HostMemory;
  mapMemory(region: MemoryRegion): void;
  unmapMemory(region: MemoryRegion): void;
  /**
   * Gives the host back the pages behind a piece of guest memory, which reads as zeroes after; offsets and lengths in
   * bytes, 4096-aligned. Null where the host takes nothing back.
   */
  readonly releaseMemory: ((offset: number, length: number) => void) | null;
  createWaker(): Waker;
  attachWaker(handle: WakerHandle): Waker;
  /** Makes vCPU `index`; call it in the Worker that will run it. vCPU 0 starts at reset, others wait for INIT/SIPI. */
  createVcpu(index: number): Vcpu;
  /**
   * Makes vCPU `index` leave `run()` with INTERRUPTED soon, from any thread, also while it is halted; if it is not in
   * `run()`, its next `run()` returns at once. Harmless before the vCPU exists or after it is closed.
   */
  interruptVcpu(index: number): void;
  handle(): PartitionHandle;
  /**
   * Brings the platform's IOAPIC, 8259s and PIT back to power-on, for a reboot; the creator's call, while no vCPU runs.
   * Local APICs follow {@link Vcpu.setState}. Not there where the machine brings them all.
   */
  resetControllers?(): void;
  /** Frees all this Worker holds of the partition; the creator's call, after every vCPU is closed, ends it. */
  close(): void;
}

/** One virtual CPU, bound to the thread that made it. */
export interface Vcpu {
  readonly index: number;
  /** Runs the guest until something only the machine can answer; completes the exit before it first. */
  run(): ExitReason;

  // The exit's details, valid until the next run().
  /** Port of IO_*, below 65536. */
  port: number;
  /** Bytes of one access: 1, 2, 4 (I/O), 1 to 8 (MMIO). */
  size: number;
  /** Repetitions of IO_*: `rep outsb` of n bytes comes as one exit with count n, or as several. */
  count: number;
  /** [0]: guest physical address of MMIO_*, or the linear address of DEBUG. A double in place: nothing is boxed. */
  readonly address: Float64Array;
  /** Where the exit's bytes stand; little-endian. */
  readonly bytes: Uint8Array;
  /** The same bytes for 16- and 32-bit access. */
  readonly view: DataView;
  /** Where in {@link bytes} they begin. */
  dataOffset: number;
  /** Index of the register of MSR_*, as an int32. */
  msr: number;
  /** Set to 1 by the answerer of MSR_* to raise #GP in the guest. */
  msrFault: number;

  /**
   * Where the partition has no local APIC of its own, the machine's is asked for interrupts here. Called once,
   * before the first run().
   */
  attachLocalApic(controller: LocalInterruptController): void;

  /**
   * Optional power, there where the partition has local APICs but no I/O APIC (`controllers`): the machine's I/O APIC
   * is told here, on the vCPU's thread, that the CPU ended a level-triggered interrupt. Called before the first run().
   */
  attachIoApic?(ioApic: EndOfInterruptListener): void;

  /** Copies the whole architectural state out (see `x64_state.ts`). */
  getState(state: ArrayBuffer): void;
  /** Copies it in. Throws when the state cannot be this vCPU's. */
  setState(state: ArrayBuffer): void;
  /** Optional power: breakpoints and single steps as DEBUG exits. */
  readonly debug: VcpuDebug | null;
  /** After FAILED: the reason in words, the registers and the instruction bytes. */
  failure(): VcpuFailure;
  close(): void;
}

/** An I/O APIC as a CPU that brings its own local APIC sees it. */
export interface EndOfInterruptListener {
  /** @param vector of the interrupt that was ended */
  endOfInterrupt(vector: number): void;
}

/** Optional power of a {@link Vcpu}. */
export interface VcpuDebug {
  /** Leave with DEBUG after every instruction. */
  singleStep(on: boolean): void;
  /** Leave with DEBUG before the instruction at these linear addresses (at most 4). */
  breakpoints(addresses: bigint[]): void;
}

/** What is told of a guest that the platform gave up on. */
export interface VcpuFailure {
  /** One sentence. */
  reason: string;
  /** Registers as `name=hex`, by name. */
  registers: Record<string, string>;
  /** Bytes at the instruction pointer, as far as known. */
  instruction: Uint8Array;
}

/** What {@link LocalInterruptController.takeEvents} may hold. */
export const ApicEvent = {
  /** The vCPU goes to its INIT state and waits for SIPI. */
  INIT: 1,
  /** Start-up IPI: `startupVector` says where. */
  STARTUP: 2,
  NMI: 4,
} as const;

/**
 * A local APIC as the CPU sees it, for backends without their own (implemented once, in `devices/local_apic.ts`).
 * Every method is called on the vCPU's own thread, on the exit path: int32s in and out, nothing allocated.
 */
export interface LocalInterruptController {
  /**
   * Brings the timer up to date and says whether anything waits for this CPU that it could take now, given its task
   * priority: an event of {@link ApicEvent}, or a fixed interrupt.
   */
  poll(): boolean;
  /** {@link ApicEvent} bits that came since the last call, now cleared. */
  takeEvents(): number;
  /** Vector of the last STARTUP event. */
  readonly startupVector: number;
  /** The deliverable fixed interrupt of the highest priority, moved from request to service; -1 when there is none. */
  acknowledge(): number;
  /** CR8: task priority class, 0 to 15. */
  taskPriority(): number;
  setTaskPriority(value: number): void;
  /** IA32_APIC_BASE, IA32_TSC_DEADLINE and x2APIC registers: low and high words in `value`; false raises #GP. */
  readMsr(index: number, value: Int32Array): boolean;
  writeMsr(index: number, value: Int32Array): boolean;
  /** Milliseconds until the timer fires: 0 when it already has, -1 when none is armed. */
  timeUntilTimer(): number;
  /**
   * The word that changes, with `Atomics.notify`, whenever something is sent to this CPU. To halt: read it, see
   * {@link poll} false, then `Atomics.wait` on it with the value read and the time of {@link timeUntilTimer}. The sender
   * calls {@link Partition.interruptVcpu} besides, so a backend may sleep on whatever that rings instead.
   */
  readonly doorbell: Int32Array;
}
