/** What a machine's board is to the core: `machines/pc.ts` and `machines/virt.ts` each make one. */
import type { Bus } from "./bus.ts";
import type { TimedDevice } from "./device.ts";
import type { PartitionHandle, Vcpu, WakerHandle } from "./hypervisor.ts";
import type { Disk, DiskSpec } from "../storage/disk.ts";

/** What the person asked for, in plain data. */
export interface BoardConfig {
  /** Number of vCPUs. */
  cpus: number;
  /** Bytes of RAM. */
  memory: number;
  disks: BoardDisk[];
  /** Where the terminal is attached. */
  console: "serial" | "virtio";
  /** Milliseconds of {@link import("./clock.ts").monotonicNow} at which the guest's clocks read zero. */
  epoch: number;
}

/** A disk as the guest sees it, besides how to open it. */
export interface BoardDisk extends DiskSpec {
  /** Bytes when the machine is made. */
  size: number;
  /** Whether the image gives space back. */
  discardable: boolean;
}

/** All that a Worker needs to join a machine: plain data and shared buffers. */
export interface Blueprint {
  partition: PartitionHandle;
  board: BoardConfig;
  /** Memory of the {@link import("./registers.ts").RegisterFile}. */
  registers: WebAssembly.Memory;
  /** Words of the {@link import("./control.ts").Control}. */
  control: SharedArrayBuffer;
  /** {@link import("./byte_ring.ts").ByteRing}s of the console. */
  consoleInput: SharedArrayBuffer;
  consoleOutput: SharedArrayBuffer;
  /** State of vCPU 0 at the start of a boot, in the layout of `x64_state.ts`. */
  bootState: SharedArrayBuffer;
  /** Rung to wake the I/O Worker. */
  ioWaker: WakerHandle;
}

/** What an I/O Worker serves. */
export interface DataPlane {
  /**
   * Opens what the device needs of the host; throws an Error in words.
   * @param openDisk opens an image; only the I/O Worker loads what can
   */
  open(openDisk: (spec: DiskSpec) => Disk): void;
  /**
   * Does what waits, a bounded amount: walks the queues, moves the data, raises interrupts. Never throws.
   * @returns true when more waits: to be called again before sleeping
   */
  service(): boolean;
  /** Everything the guest was told is done reaches the medium; then lets go of the host's things. */
  close(): void;
}

/** A machine's devices, wired. Every Worker builds its own over the same shared bytes. */
export interface Board {
  readonly ports: Bus;
  readonly memory: Bus;
  readonly dataPlanes: DataPlane[];
  readonly timers: TimedDevice[];
  /** In the Worker of a vCPU: maps what each CPU has of its own. */
  attachVcpu(vcpu: Vcpu): void;
  /** All devices as at power-on. On the control thread, while no other Worker runs. */
  reset(): void;
  /** There are new bytes in the console's input ring. */
  consoleInput(): void;
  /** Bytes were taken out of the console's output ring. */
  consoleDrained(): void;
  /** The terminal's size changed; in characters. */
  consoleResize(columns: number, rows: number): void;
  powerButton(): void;
}
