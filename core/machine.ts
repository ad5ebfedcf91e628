/**
 * A machine: built out of a backend, memory, devices and firmware; started, paused, stopped. This is the control
 * thread's side; it never touches the exit path.
 *
 *     created -> running <-> paused -> stopped, or failed with the reason
 */
import { type BackendChoice, chooseBackend } from "../backends/choose.ts";
import type { BootOptions } from "../firmware/boot.ts";
import type { Blueprint, Board, BoardConfig, BoardDisk } from "./board.ts";
import { releaseBuffer } from "./buffers.ts";
import { ByteRing } from "./byte_ring.ts";
import { monotonicNow } from "./clock.ts";
import { Console } from "./console.ts";
import { Command, Control, EndReason, WorkerState } from "./control.ts";
import { HvError } from "./errors.ts";
import { type BackendName, EXIT_NAMES, type Partition, type VcpuFailure } from "./hypervisor.ts";
import type { IoWorkerReport, IoWorkerStart } from "./io_worker.ts";
import { GuestMemory } from "./memory.ts";
import { RegisterFile } from "./registers.ts";
import { formatSize, parseDuration, parseSize } from "./units.ts";
import type { VcpuWorkerMessage, VcpuWorkerReport } from "./vcpu_worker.ts";
import { X64_STATE_BYTES } from "./x64_state.ts";
import type { Disk, DiskSpec } from "../storage/disk.ts";

const PAGE = 4096;
const CONSOLE_RING_BYTES = 1 << 16;
const MAX_CPUS = 240;
/** Milliseconds between a panic's first line and the machine's end: its trace takes this to be written. */
const PANIC_LAST_WORDS = 1000;

/** What a machine is made of. */
export interface MachineOptions {
  /** Disks, the first of which is booted from unless `kernel` is given. */
  disks?: (string | DiskSpec)[];
  /** RAM: bytes, or text like `1G` (default `1G`). */
  memory?: string | number;
  /** Number of vCPUs (default 1). */
  cpus?: number;
  /** A Linux kernel to start instead of the disk's: path of a bzImage, vmlinux or unified kernel image. */
  kernel?: string;
  /** Path of the initial RAM disk that goes with `kernel`. */
  initrd?: string;
  /** The kernel's command line; added to the disk's own when `kernel` is not given. */
  append?: string;
  /** `auto` (default) or the backend that must be used. */
  backend?: "auto" | BackendName;
  /** Writes to the disks are thrown away at the end. */
  ephemeral?: boolean;
  /**
   * Which device the terminal is: `serial` (default; every guest has a driver from its first line on), or `virtio`
   * (Linux's hvc0: faster, and told the terminal's size; until its driver is loaded the terminal is COM1's).
   */
  console?: "serial" | "virtio";
  /** Told one sentence at a time what a person should know: which backend was chosen, what was booted, warnings. */
  onMessage?: (text: string) => void;
}

/** Where a machine is in its life. */
export type MachineState = "created" | "running" | "paused" | "stopped" | "failed";

/** How a machine ended. */
export interface MachineEnd {
  /**
   * `poweroff` and `exit` are the guest's own doing; `panic` and `triple-fault` its death; `failed` ours or the host's;
   * `stopped` the work of {@link Machine.stop}.
   */
  reason: "poweroff" | "panic" | "triple-fault" | "failed" | "exit" | "stopped";
  /** The guest's own code, when it used the exit device. */
  exitCode?: number;
  /** One sentence for a person. */
  message: string;
}

/** Numbers about a machine, as they stand now. */
export interface MachineStats {
  /** Where it is in its life. */
  state: MachineState;
  /** The backend it runs on. */
  backend: BackendName;
  /** Exits of all vCPUs by reason. */
  exits: Record<string, number>;
  /** Milliseconds since {@link Machine.start}; 0 before. */
  uptime: number;
  /** Times the guest rebooted. */
  reboots: number;
}

/** A virtual machine. Make one with {@link Machine.create}. */
export class Machine {
  /** The guest's console. */
  readonly console: Console;
  /** The backend it runs on. */
  readonly backend: BackendName;
  private readonly options: MachineOptions;
  private readonly partition: Partition;
  private readonly blueprint: Blueprint;
  private readonly board: Board;
  private readonly memory: GuestMemory;
  private readonly control: Control;
  private readonly workers: Worker[] = [];
  private readonly cpus: number;
  private readonly finished = Promise.withResolvers<MachineEnd>();
  private readonly ready: Promise<void>;
  private currentState: MachineState = "created";
  private panic: string | null = null;
  private failure: VcpuFailure | null = null;
  private fatal: string | null = null;
  private startedAt = 0;
  private reboots = 0;
  private ending: Promise<void> | null = null;
  private pumping: Promise<void>;
  private io: Worker | null = null;

  /**
   * Builds a machine: everything a first instruction needs is in place when this resolves.
   * @throws HvError in words a person can act on
   */
  static async create(options: MachineOptions): Promise<Machine> {
    const cpus = checkCpus(options.cpus ?? 1);
    const memory = checkMemory(parseSize(options.memory ?? "1G"));
    // The longest way to a first instruction is vCPU 0's: its Worker reads its modules while this thread reads its own.
    const first = startVcpuWorker(0);
    let machine: Machine | undefined;
    try {
      const loading = Promise.all([import("../machines/choose.ts"), import("../storage/open.ts")]);
      loading.catch(() => {});
      const choice = await chooseBackend(options.backend ?? "auto", "x86_64");
      first.postMessage({ backend: choice.hypervisor.name } satisfies VcpuWorkerMessage);
      const [{ buildBoard, RAM_HOLE_START }, { openDisk }] = await loading;
      machine = new Machine(options, choice, { cpus, memory, buildBoard, RAM_HOLE_START, openDisk, first });
      for (const message of await machine.prepare()) machine.say(message);
      await machine.ready;
      if (machine.fatal) throw new HvError(machine.fatal);
      if (machine.control.endReason === EndReason.FAILED) throw new Error(machine.failure?.reason);
      return machine;
    } catch (error) {
      if (machine) await machine.stop();
      else first.terminate();
      throw error;
    }
  }

  private constructor(options: MachineOptions, choice: BackendChoice, parts: Parts) {
    const { memory } = parts;
    this.options = options;
    this.cpus = parts.cpus;
    if (options.backend === undefined || options.backend === "auto") this.say(choice.line);
    this.backend = choice.hypervisor.name;
    const limits = choice.support;
    if (this.cpus > limits.maxVcpus) {
      throw new HvError(`${this.backend} runs at most ${limits.maxVcpus} vCPUs here, not ${this.cpus}`, {
        usage: true,
      });
    }
    if (memory > limits.maxMemory) {
      throw new HvError(
        `this machine cannot give the guest ${formatSize(memory)}: at most ${formatSize(limits.maxMemory)}`,
        { usage: true },
      );
    }
    const config: BoardConfig = {
      cpus: this.cpus,
      memory,
      disks: (options.disks ?? []).map((disk) => describeDisk(disk, parts.openDisk, options.ephemeral)),
      console: options.console ?? "serial",
      epoch: monotonicNow(),
    };
    this.partition = choice.hypervisor.createPartition({
      architecture: "x86_64",
      cpus: this.cpus,
      memory,
      epoch: config.epoch,
    });
    try {
      this.memory = new GuestMemory(this.partition.allocateMemory(memory), parts.RAM_HOLE_START);
      for (const region of this.memory.regions()) this.partition.mapMemory(region);
      this.control = new Control();
      const waker = this.partition.createWaker();
      this.blueprint = {
        partition: this.partition.handle(),
        board: config,
        registers: RegisterFile.allocate(),
        control: this.control.words.buffer,
        consoleInput: ByteRing.allocate(CONSOLE_RING_BYTES),
        consoleOutput: ByteRing.allocate(CONSOLE_RING_BYTES, config.cpus),
        bootState: new SharedArrayBuffer(X64_STATE_BYTES),
        ioWaker: waker.handle,
      };
      this.wakeIo = () => waker.wake();
      this.board = parts.buildBoard(this.blueprint, this.partition, (text) => this.say(text));
      this.board.reset();
    } catch (error) {
      this.partition.close();
      throw error;
    }
    this.console = new Console(new ByteRing(this.blueprint.consoleOutput), new ByteRing(this.blueprint.consoleInput), {
      inputArrived: () => this.board.consoleInput(),
      outputDrained: () => this.board.consoleDrained(),
      resize: (columns, rows) => this.board.consoleResize(columns, rows),
      panicked: (reason) => this.guestPanicked(reason),
    });
    this.pumping = this.console.pump();
    this.control.setWorkerState(this.cpus, WorkerState.CLOSED);
    this.startVcpus(parts.first);
    this.ready = this.control.until(() => this.allVcpus((state) => state !== WorkerState.STARTING));
    this.watch();
  }

  private readonly wakeIo: () => void;

  /** Where it is in its life. */
  get state(): MachineState {
    return this.currentState;
  }

  /** Lets the guest run; from created or paused. */
  start(): void {
    if (this.currentState !== "created" && this.currentState !== "paused") {
      throw new HvError(`the machine is ${this.currentState}: only a new or paused one can be started`);
    }
    if (this.startedAt === 0) this.startedAt = monotonicNow();
    this.currentState = "running";
    this.control.command = Command.RUN;
    if (!this.io) this.startIo();
    else this.wakeIo();
  }

  /** Holds all vCPUs, then waits until the devices have finished what they had begun. */
  async pause(): Promise<void> {
    if (this.currentState !== "running") return;
    this.currentState = "paused";
    await this.hold();
  }

  /** Presses the power button: what the guest does then is its own decision. */
  powerButton(): void {
    this.board.powerButton();
  }

  /**
   * Asks the guest to power off, and stops it if it has not within the time.
   * @param options `timeout` as in `30s` (default 60s)
   */
  async shutdown(options: { timeout?: string | number } = {}): Promise<MachineEnd> {
    const timeout = parseDuration(options.timeout ?? "60s");
    if (this.currentState === "paused") this.start();
    this.powerButton();
    const timer = setTimeout(() => void this.stop(), timeout);
    const end = await this.wait();
    clearTimeout(timer);
    return end;
  }

  /** Ends the machine at once; what the guest was told is on disk, is. Stopping twice is harmless. */
  async stop(): Promise<void> {
    this.control.end(EndReason.STOPPED);
    await this.finish();
  }

  /** Resolves with how it ended, once everything it held is given back. */
  wait(): Promise<MachineEnd> {
    return this.finished.promise;
  }

  /** Numbers as they stand now; asking costs the guest nothing. */
  stats(): MachineStats {
    const exits: Record<string, number> = {};
    for (let vcpu = 0; vcpu < this.cpus; vcpu++) {
      const counters = this.control.exitCounters(vcpu);
      EXIT_NAMES.forEach((name, reason) => exits[name] = (exits[name] ?? 0) + (counters[reason] >>> 0));
    }
    return {
      state: this.currentState,
      backend: this.backend,
      exits,
      uptime: this.startedAt === 0 ? 0 : monotonicNow() - this.startedAt,
      reboots: this.reboots,
    };
  }

  /** {@link stop}, by `await using`: nothing of the machine is left. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  /** A panicked kernel stays where it is or reboots for ever: after the time it needs for its last words, that is the end. */
  private guestPanicked(reason: string): void {
    this.panic ??= reason;
    setTimeout(() => this.control.end(EndReason.PANIC), PANIC_LAST_WORDS);
  }

  /** Follows the machine to its end, through reboots. */
  private async watch(): Promise<void> {
    for (;;) {
      await this.control.until(() => this.control.endReason !== EndReason.NONE);
      if (this.control.endReason !== EndReason.RESET || this.ending || this.panic !== null) break;
      try {
        await this.hold();
        if (this.ending) break;
        await this.reboot();
      } catch (error) {
        this.fatal = `the guest rebooted and could not be started again: ${(error as Error).message}`;
        this.control.nextGeneration();
        this.control.end(EndReason.FAILED);
      }
    }
    await this.finish();
  }

  private async reboot(): Promise<void> {
    this.reboots++;
    this.partition.resetControllers?.();
    this.board.reset();
    await this.prepare();
    this.control.nextGeneration();
    this.control.command = Command.RUN;
    this.wakeIo();
  }

  private async hold(): Promise<void> {
    this.control.command = Command.HOLD;
    const settled = (state: number) => state === WorkerState.HELD || state === WorkerState.CLOSED;
    await this.kickUntil(() => this.allVcpus(settled));
    this.wakeIo();
    await this.control.until(() => this.allWorkers(settled));
  }

  /** vCPUs first, then devices, then drain, then memory: the order in which nothing is used after it is gone. */
  private finish(): Promise<void> {
    this.ending ??= (async () => {
      await this.ready;
      await this.hold();
      this.control.command = Command.STOP;
      this.wakeIo();
      await this.control.until(() => this.allWorkers((state) => state === WorkerState.CLOSED));
      this.partition.close();
      this.console.end();
      await this.pumping;
      const end = this.describeEnd();
      this.currentState = end.reason === "failed" ? "failed" : "stopped";
      this.finished.resolve(end);
    })();
    return this.ending;
  }

  /** Interrupts all vCPUs until the condition holds: one may have been between its look at the command and `run()`. */
  private async kickUntil(condition: () => boolean): Promise<void> {
    const kick = () => {
      for (let index = 0; index < this.cpus; index++) this.partition.interruptVcpu(index);
    };
    kick();
    const timer = setInterval(kick, 50);
    await this.control.until(condition);
    clearInterval(timer);
  }

  private allVcpus(test: (state: number) => boolean): boolean {
    for (let index = 0; index < this.cpus; index++) if (!test(this.control.workerState(index))) return false;
    return true;
  }

  private allWorkers(test: (state: number) => boolean): boolean {
    return this.allVcpus(test) && test(this.control.workerState(this.cpus));
  }

  private startVcpus(first: Worker): void {
    for (let index = 0; index < this.cpus; index++) {
      const worker = index === 0 ? first : startVcpuWorker(index);
      worker.onmessage = ({ data }: MessageEvent<VcpuWorkerReport>) => this.failure ??= data.failure;
      this.superviseWorker(worker, index);
      worker.postMessage({ blueprint: this.blueprint, index } satisfies VcpuWorkerMessage);
    }
  }

  /** Once the guest runs: this thread stands still until a Worker has begun, and the first doorbell is far off. */
  private startIo(): void {
    this.control.setWorkerState(this.cpus, WorkerState.STARTING);
    this.io = new Worker(new URL("./io_worker.ts", import.meta.url), { type: "module", name: "io" });
    this.io.onmessage = ({ data }: MessageEvent<IoWorkerReport>) => {
      if (!data.fatal) return this.say(data.message);
      this.fatal = data.message;
      this.control.end(EndReason.FAILED);
    };
    this.superviseWorker(this.io, this.cpus);
    this.io.postMessage({ blueprint: this.blueprint, index: this.cpus } satisfies IoWorkerStart);
  }

  /** A Worker that dies of a bug of ours ends the machine; it never takes the process with it. */
  private superviseWorker(worker: Worker, index: number): void {
    worker.onerror = (event) => {
      event.preventDefault();
      this.fatal ??= `${event.message} (${event.filename}:${event.lineno})`;
      this.control.end(EndReason.FAILED);
      this.control.setWorkerState(index, WorkerState.CLOSED);
    };
    this.workers.push(worker);
  }

  private bootOptions(): BootOptions {
    const { kernel, initrd, append } = this.options;
    const { console, disks } = this.blueprint.board;
    return { kernel, initrd, append, disk: disks[0], console };
  }

  /** Puts firmware tables and the kernel into memory, and the state they start in where vCPU 0 takes it from. */
  private async prepare(): Promise<string[]> {
    // Loaded here, so that the Workers start while this thread reads what starts a guest.
    const [{ loadBoot }, { prepareBoot }] = await Promise.all([
      import("../firmware/boot.ts"),
      import("../machines/boot.ts"),
    ]);
    const boot = await loadBoot(this.bootOptions());
    const state = prepareBoot(boot, this.memory, this.blueprint.board, {
      hpet: !this.partition.controllers.pit,
      native: this.backend !== "soft",
    });
    new Uint8Array(this.blueprint.bootState).set(new Uint8Array(state));
    // Now, not at some collection of garbage: this process holds a guest's memory besides.
    for (const { buffer } of [boot.kernel, ...boot.initrd ? [boot.initrd] : []]) releaseBuffer(buffer);
    return boot.messages;
  }

  private describeEnd(): MachineEnd {
    const { endReason, exitCode } = this.control;
    if (this.panic !== null && endReason !== EndReason.STOPPED) {
      return { reason: "panic", message: `the guest's kernel panicked: ${this.panic}` };
    }
    switch (endReason) {
      case EndReason.POWER_OFF:
        return { reason: "poweroff", message: "the guest powered off" };
      case EndReason.PANIC:
        return { reason: "panic", message: "the guest's kernel panicked: its last words are on the console" };
      case EndReason.TRIPLE_FAULT:
        return { reason: "triple-fault", message: "the guest died of a triple fault (no handler for its own fault)" };
      case EndReason.EXIT:
        return { reason: "exit", exitCode, message: `the guest ended with code ${exitCode}` };
      case EndReason.FAILED:
        return { reason: "failed", message: this.fatal ?? describeFailure(this.failure) };
      default:
        return { reason: "stopped", message: "the machine was stopped" };
    }
  }

  private say(message: string): void {
    this.options.onMessage?.(message);
  }
}

function describeFailure(failure: VcpuFailure | null): string {
  if (!failure) return "the guest could not go on";
  const registers = Object.entries(failure.registers).map(([name, value]) => `${name}=${value}`).join(" ");
  const bytes = Array.from(failure.instruction, (byte) => byte.toString(16).padStart(2, "0")).join(" ");
  return [failure.reason, registers, bytes && `instruction bytes: ${bytes}`].filter((line) => line).join("\n");
}

/** What a machine is put together from once it is loaded. */
interface Parts {
  cpus: number;
  memory: number;
  buildBoard: typeof import("../machines/choose.ts").buildBoard;
  RAM_HOLE_START: number;
  openDisk: (spec: DiskSpec) => Disk;
  /** vCPU 0's Worker, begun already. */
  first: Worker;
}

function startVcpuWorker(index: number): Worker {
  return new Worker(new URL("./vcpu_worker.ts", import.meta.url), { type: "module", name: `vcpu${index}` });
}

/** Opens a disk for a moment, to learn what the guest will see; what is wrong with it is told before anything starts. */
function describeDisk(
  disk: string | DiskSpec,
  openDisk: (spec: DiskSpec) => Disk,
  ephemeral?: boolean,
): BoardDisk {
  const spec = { ephemeral, ...(typeof disk === "string" ? { path: disk } : disk) };
  const opened = openDisk(spec);
  const { size, discardable } = opened;
  opened.close();
  return { ...spec, size, discardable };
}

function checkCpus(cpus: number): number {
  if (!Number.isInteger(cpus) || cpus < 1 || cpus > MAX_CPUS) {
    throw new HvError(`a machine has 1 to ${MAX_CPUS} vCPUs, not ${cpus}`, { usage: true });
  }
  return cpus;
}

function checkMemory(bytes: number): number {
  const rounded = Math.ceil(bytes / PAGE) * PAGE;
  if (rounded < 16 * 2 ** 20) {
    throw new HvError(`${formatSize(bytes)} of memory is too little: at least 16M`, { usage: true });
  }
  return rounded;
}
