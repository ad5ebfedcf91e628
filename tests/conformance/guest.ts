/** A small guest on one backend: memory, code, and its vCPUs in Workers. */
import type { HostMemory, Hypervisor, Interrupts, MemoryRegion, Partition } from "../../core/hypervisor.ts";
import { monotonicNow } from "../../core/clock.ts";
import { RegisterFile } from "../../core/registers.ts";
import { X64, X64_STATE_BYTES, X64_STATE_VERSION } from "../../core/x64_state.ts";
import { Assembler } from "./assembler.ts";
import { buildControllers, type Controllers } from "./controllers.ts";
import {
  DONE_PORT,
  type OpenRequest,
  type Request,
  type Response,
  type RunRequest,
  type RunResult,
  Shared,
} from "./protocol.ts";

/** Guest physical addresses of a small guest. */
export const Layout = {
  CODE: 0x1000,
  /** Where a second vCPU starts: start-up vector 2. */
  AP_CODE: 0x2000,
  STACK: 0x8000,
  DATA: 0x9000,
  GDT: 0xf000,
  IDT: 0x1_0000,
  PAGE_TABLES: 0x2_0000,
  RAM_SIZE: 0xa_0000,
  /** Nothing is here: every access leaves the guest. */
  MMIO: 0xd_0000,
  /** The same above 4 GiB. */
  MMIO_HIGH: 0x1_2345_6000,
} as const;

/** Host memory of a small guest: RAM, and a piece to map where a behaviour wants it. */
export const EXTRA_OFFSET = Layout.RAM_SIZE;
export const EXTRA_SIZE = 0x1_0000;

/** Selectors in the GDT. */
const CODE64 = 0x08;
const DATA = 0x10;
const CODE32 = 0x18;

export type Mode = 16 | 32 | 64;

/** Workers that wait for the next guest. */
const idle: Worker[] = [];

/** Ends the Workers that wait. */
export function endWorkers(): void {
  for (const worker of idle.splice(0)) worker.terminate();
}

/** Seconds until a behaviour counts as hung; the lab is slower than a machine. */
export const TIMEOUT = 1000 * Number(Deno.env.get("HV_CONFORMANCE_TIMEOUT") ?? 10);

export class Guest {
  readonly partition: Partition;
  readonly memory: HostMemory;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly interrupts: Interrupts;
  readonly ram: MemoryRegion = { guestAddress: 0, offset: 0, size: Layout.RAM_SIZE };
  private readonly cpus: number;
  private readonly controllers: Controllers | null = null;
  private readonly controllerRegisters: WebAssembly.Memory | null = null;
  private readonly vcpus: GuestVcpu[] = [];
  private closed = false;

  constructor(hypervisor: Hypervisor, options: { cpus?: number; ownControllers?: boolean } = {}) {
    this.cpus = options.cpus ?? 1;
    const size = EXTRA_OFFSET + EXTRA_SIZE;
    this.partition = hypervisor.createPartition({
      architecture: "x86_64",
      cpus: this.cpus,
      memory: size,
      epoch: monotonicNow(),
      platformInterruptControllers: options.ownControllers ?? true,
    });
    this.memory = this.partition.allocateMemory(size);
    this.bytes = new Uint8Array(this.memory.buffer, this.memory.byteOffset, size);
    this.view = new DataView(this.memory.buffer, this.memory.byteOffset, size);
    this.partition.mapMemory(this.ram);
    this.interrupts = this.partition.interrupts;
    if (!this.partition.controllers.ioApic) {
      this.controllerRegisters = RegisterFile.allocate();
      this.controllers = buildControllers(this.partition, this.cpus, this.controllerRegisters, -1);
      for (const apic of this.controllers.apics) apic.reset();
      this.interrupts = this.controllers.interrupts;
    }
    this.writeTables();
  }

  /** Assembles code; it ends with a write to {@link DONE_PORT} unless it never gets there. */
  load(bits: Mode, write: (code: Assembler) => void, origin: number = Layout.CODE): Assembler {
    const code = new Assembler(bits, origin);
    write(code);
    code.out(DONE_PORT, "al").hlt();
    this.bytes.set(code.assemble(), origin);
    return code;
  }

  /** Makes vCPU `index` in a Worker. */
  async vcpu(index = 0): Promise<GuestVcpu> {
    const vcpu = new GuestVcpu(idle.pop() ?? startWorker(), (i) => this.partition.interruptVcpu(i), index);
    this.vcpus.push(vcpu);
    await vcpu.open(this.partition.handle(), this.controllerRegisters);
    return vcpu;
  }

  /** Loads code, runs it on vCPU 0 from its beginning, and tells how it went. */
  async run(bits: Mode, write: (code: Assembler) => void, options: Partial<RunRequest> = {}): Promise<RunResult> {
    this.load(bits, write);
    return await (this.vcpus[0] ?? await this.vcpu()).run({ state: startState(bits), ...options });
  }

  /** Points a vector of the 64-bit IDT at code. */
  setVector(vector: number, address: number): void {
    const at = Layout.IDT + vector * 16;
    this.view.setUint16(at, address & 0xffff, true);
    this.view.setUint16(at + 2, CODE64, true);
    this.view.setUint16(at + 4, 0x8e00, true); // present interrupt gate (SDM vol. 3, 6.14.1)
    this.view.setUint16(at + 6, address >>> 16, true);
  }

  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    for (const vcpu of this.vcpus) await vcpu.close();
    this.partition.close();
  }

  /** GDT, and page tables that map the first 5 GiB onto themselves. */
  private writeTables(): void {
    const { view } = this;
    [0n, 0x00af_9b00_0000_ffffn, 0x00cf_9300_0000_ffffn, 0x00cf_9b00_0000_ffffn].forEach((descriptor, i) =>
      view.setBigUint64(Layout.GDT + i * 8, descriptor, true)
    );
    const tables = Layout.PAGE_TABLES;
    view.setBigUint64(tables, BigInt(tables + 0x1000) | 3n, true);
    for (let gib = 0; gib < 5; gib++) {
      const directory = tables + 0x2000 + gib * 0x1000;
      view.setBigUint64(tables + 0x1000 + gib * 8, BigInt(directory) | 3n, true);
      for (let i = 0; i < 512; i++) {
        // Present, writable, 2 MiB page, accessed and dirty: page walks write nothing.
        view.setBigUint64(directory + i * 8, BigInt(gib * 2 ** 30 + i * 2 ** 21) | 0xe3n, true);
      }
    }
  }
}

function startWorker(): Worker {
  return new Worker(new URL("./vcpu_worker.ts", import.meta.url), { type: "module" });
}

/** What a run is asked when nothing is. */
const NO_RUN: RunRequest = { kind: "run", state: null, answers: [], msrFault: false, enter: false, wantState: false };

/** One vCPU, as the suite drives it. */
export class GuestVcpu {
  /** See {@link Shared}. */
  readonly words = new Int32Array(new SharedArrayBuffer(Shared.WORDS * 4));
  private readonly worker: Worker;
  private readonly interrupt: (index: number) => void;
  private readonly index: number;
  private busy: Promise<unknown> = Promise.resolve();
  private closed = false;
  private hung = false;

  constructor(worker: Worker, interrupt: (index: number) => void, index: number) {
    this.worker = worker;
    this.interrupt = interrupt;
    this.index = index;
  }

  async open(handle: OpenRequest["handle"], controllers: WebAssembly.Memory | null): Promise<void> {
    await this.ask({
      kind: "open",
      handle,
      index: this.index,
      controllers,
      shared: this.words.buffer as SharedArrayBuffer,
    });
  }

  /** Runs until DONE or an exit that only the suite can answer. */
  run(request: Partial<RunRequest> = {}): Promise<RunResult> {
    const result = this.request(request);
    // A behaviour that has failed waits for its runs no more; that they fail too is no news.
    result.catch(() => {});
    return result;
  }

  private async request(request: Partial<RunRequest>): Promise<RunResult> {
    const response = await this.ask({
      ...NO_RUN,
      enter: true,
      ...Object.fromEntries(Object.entries(request).filter(([, value]) => value !== undefined)),
    });
    return (response as { result: RunResult }).result;
  }

  /** Sets a state and reads it again; the vCPU goes on from there. */
  async copyState(state: ArrayBuffer): Promise<ArrayBuffer> {
    return (await this.run({ state, enter: false, wantState: true })).state!;
  }

  /** Makes a run() in progress return, and waits for it. */
  async stop(): Promise<void> {
    Atomics.store(this.words, Shared.STOP, 1);
    this.interrupt(this.index);
    await this.busy.catch(() => {});
  }

  /** Waits on the main thread until a shared word is at least `value`; throws after {@link TIMEOUT}. */
  async waitFor(word: number, value: number): Promise<void> {
    const end = performance.now() + TIMEOUT;
    for (;;) {
      const seen = Atomics.load(this.words, word);
      if (seen >= value) return;
      if (performance.now() > end) throw new Error(`the guest got to ${seen} instead of ${value}`);
      const wait = Atomics.waitAsync(this.words, word, seen, 100);
      if (wait.async) await wait.value;
    }
  }

  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    await this.stop();
    if (this.hung) return;
    await this.ask({ kind: "close" });
    idle.push(this.worker);
  }

  private ask(request: Request): Promise<Response> {
    const answer = new Promise<Response>((resolve, reject) => {
      const timer = setTimeout(async () => {
        this.hung = true;
        const words = `the vCPU's Worker did not come back from '${request.kind}' in ${TIMEOUT / 1000} s`;
        reject(new Error(`${words}; ${await this.whereItHung()}`));
      }, TIMEOUT);
      this.worker.onerror = (event) => {
        event.preventDefault();
        clearTimeout(timer);
        this.hung = true;
        reject(new Error(event.message));
      };
      this.worker.onmessage = ({ data }: MessageEvent<Response>) => {
        clearTimeout(timer);
        if ("error" in data) reject(new Error(data.error));
        else resolve(data);
      };
    });
    this.busy = answer;
    this.worker.postMessage(request);
    return answer;
  }

  /** Takes a hung vCPU out of the guest, so that the process can end, and says where it was. */
  private async whereItHung(): Promise<string> {
    const next = () =>
      new Promise<Response | null>((resolve) => {
        const timer = setTimeout(() => resolve(null), 2000);
        this.worker.onmessage = ({ data }: MessageEvent<Response>) => {
          clearTimeout(timer);
          resolve(data);
        };
      });
    const out = next();
    Atomics.store(this.words, Shared.STOP, 1);
    this.interrupt(this.index);
    const ended = await out;
    if (ended === null) return "a kick did not bring it back either";
    if (!("result" in ended)) return "a kick brought it back";
    const told = next();
    this.worker.postMessage({ ...NO_RUN, wantState: true } satisfies RunRequest);
    const state = await told;
    if (!state || !("result" in state) || !state.result.state) return `a kick brought it back: ${ended.result.end}`;
    const view = new DataView(state.result.state);
    const hex = (offset: number) => "0x" + view.getBigUint64(offset, true).toString(16);
    return `a kick brought it back: ${ended.result.end} at RIP ${hex(X64.RIP)}, RFLAGS ${hex(X64.RFLAGS)}, activity ` +
      `${view.getUint32(X64.ACTIVITY, true)}, ${Atomics.load(this.words, Shared.PROGRESS)} steps of progress`;
  }
}

/** The state in which code at {@link Layout.CODE} starts, in one of the CPU's modes. */
export function startState(bits: Mode, index = 0): ArrayBuffer {
  const state = new ArrayBuffer(X64_STATE_BYTES);
  const view = new DataView(state);
  const u64 = (offset: number, value: number | bigint) => view.setBigUint64(offset, BigInt(value), true);
  view.setUint32(X64.VERSION, X64_STATE_VERSION, true);
  u64(X64.GPR + 4 * 8, Layout.STACK);
  u64(X64.RIP, Layout.CODE);
  u64(X64.RFLAGS, 2);
  // Attributes as in x64_state.ts: accessed code or data, present; L or D/B, G.
  const [codeAttributes, dataAttributes, limit] = bits === 64
    ? [0xa09b, 0xc093, 0xffff_ffff]
    : bits === 32
    ? [0xc09b, 0xc093, 0xffff_ffff]
    : [0x9b, 0x93, 0xffff];
  for (let i = 0; i < 8; i++) {
    const at = X64.SEGMENTS + i * 16;
    const code = i === 1;
    const system = i >= 6;
    view.setUint32(at + 8, system ? 0xffff : limit, true);
    view.setUint16(at + 12, bits === 16 || system ? 0 : code ? (bits === 64 ? CODE64 : CODE32) : DATA, true);
    // LDT type 2; busy TSS type 11 (in real mode KVM and hardware both want one too).
    view.setUint16(at + 14, i === 6 ? 0x82 : i === 7 ? 0x8b : code ? codeAttributes : dataAttributes, true);
  }
  u64(X64.GDTR_BASE, Layout.GDT);
  view.setUint32(X64.GDTR_LIMIT, 31, true);
  u64(X64.IDTR_BASE, bits === 16 ? 0 : Layout.IDT);
  view.setUint32(X64.IDTR_LIMIT, bits === 16 ? 0x3ff : 0xfff, true);
  // PE, MP, ET, NE, PG; PAE, OSFXSR, OSXMMEXCPT; LME, LMA.
  u64(X64.CR0, bits === 64 ? 0x8000_0033 : bits === 32 ? 0x33 : 0x30);
  if (bits !== 16) u64(X64.CR4, bits === 64 ? 0x620 : 0x600);
  if (bits === 64) {
    u64(X64.CR3, Layout.PAGE_TABLES);
    u64(X64.EFER, 0x500);
  }
  u64(X64.XCR0, 1);
  u64(X64.DR + 4 * 8, 0xffff_0ff0);
  u64(X64.DR + 5 * 8, 0x400);
  u64(X64.APIC_BASE, index === 0 ? 0xfee0_0900 : 0xfee0_0800);
  u64(X64.PAT, 0x0007_0406_0007_0406n);
  // x87 control word and MXCSR as after FNINIT and reset; XSTATE_BV names x87 and SSE.
  view.setUint16(X64.XSAVE, 0x37f, true);
  view.setUint32(X64.XSAVE + 24, 0x1f80, true);
  u64(X64.XSAVE + 512, 3);
  return state;
}
