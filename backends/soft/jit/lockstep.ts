/**
 * Tier against tier while a guest runs: before a region is run, it is run in a sandbox, the interpreter runs as many
 * instructions from the same state on the same memory, and registers, flags and memory must be equal afterwards.
 *
 * In the sandbox a page of RAM is copied when it is first touched, so that neither tier sees what devices store
 * meanwhile, and nothing is stored to the guest's memory. The interpreter is a core of its own, with an area of its own,
 * and runs blocks of one instruction. For one vCPU; see test_mode.ts.
 */
import { Core, type Imports } from "../core.ts";
import { Leave } from "../cpu/external.ts";
import { Fault } from "../emitter.ts";
import { CpuArea, type Layout, type Memories, Shared, State, Tlb } from "../layout.ts";
import { KEY_SINGLE } from "../mode_key.ts";
import { SANDBOX_BYTES } from "../test_mode.ts";

/** A region's function. */
export type RegionFunction = (budget: number) => number;

/** The first runs of each region that are compared. */
const FIRST_RUNS = 24;
/** The most instructions of a region's run in the sandbox. */
const BUDGET = 2000;
const PAGE = 4096;
/** Accessed, in a page table's entry: fetches set it as well, and only the interpreter fetches. */
const ACCESSED = 0x20;

/** (func (import "m" "f") (param i32) (result i32)), exported: JavaScript as a function for the table. */
const WRAPPER = new WebAssembly.Module(
  new Uint8Array([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 1, 6, 1, 0x60, 1, 0x7f, 1, 0x7f, 2, 7, 1, 1, 0x6d, 1, 0x66, 0, 0],
    ...[7, 5, 1, 1, 0x66, 0, 0],
  ]),
);

class GivenUp extends Error {}

/** Compares the regions of one core. */
export class Lockstep {
  private readonly shadow: Core;
  private readonly bytes: Uint8Array;
  private readonly view: DataView;
  private readonly base: number;
  private readonly shadowBase: number;
  private readonly every: number;
  private runs = 0;
  /** Copies of pages: the one worked on, by the page's address; -1 where there is none yet. */
  private readonly work = new Map<number, number>();
  /** As the page was. */
  private readonly pristine = new Map<number, number>();
  private next = 0;
  private interpreting = false;
  private readonly before = new Uint8Array(State.BYTES);
  private readonly after = new Uint8Array(State.BYTES);
  private readonly afterView = new DataView(this.after.buffer);

  constructor(private readonly core: Core, memories: Memories, private readonly layout: Layout, index: number) {
    if (layout.memory64) throw new RangeError("regions are compared in guests with less than 4 GiB of memory");
    this.bytes = new Uint8Array(memories.own.buffer);
    this.view = new DataView(memories.own.buffer);
    this.every = this.view.getInt32(Shared.LOCKSTEP, true);
    this.base = layout.cpuBase(index);
    this.shadowBase = layout.cpuBase(layout.cpus);
    const refuse = () => {
      throw new Error("lockstep: the interpreter left the region's instructions");
    };
    const imports: Imports = {
      cpuid: refuse,
      access_msr: refuse,
      clock: refuse,
      task_priority: refuse,
      random_bits: refuse,
    };
    this.shadow = new Core(memories, layout, layout.cpus, imports, { sandbox: this.page });
    this.shadow.onCodePage = () => core.flushWrites();
    // Memory that is all zeros is no empty TLB.
    this.view.setUint32(this.shadowBase + State.TLB_FILLS, 0xffff_ffff, true);
  }

  /** A page's decoded code is forgotten. */
  dropPage(page: number): void {
    this.shadow.dropPage(page);
  }

  /** A function for the table that runs a region and compares it. */
  wrap(region: RegionFunction): RegionFunction {
    let first = FIRST_RUNS;
    const f = (budget: number) => {
      if (first > 0 || ++this.runs % this.every === 0) {
        first--;
        this.compare(region, Math.min(budget, BUDGET));
      }
      return region(budget);
    };
    return new WebAssembly.Instance(WRAPPER, { m: { f } }).exports.f as RegionFunction;
  }

  /** JavaScript's answer to {@link import("../cpu/mmu.ts").sandboxPage}. */
  readonly page = (address: number): number => {
    const page = address >>> 0;
    const known = this.work.get(page);
    if (known !== undefined) return known;
    const original = this.interpreting ? this.pristine.get(page) : undefined;
    const copy = original ?? this.copyOf(page);
    // What only the interpreter touches is compared with what it was.
    if (original === undefined) this.pristine.set(page, this.copyOf(page));
    this.work.set(page, copy);
    return copy;
  };

  private copyOf(page: number): number {
    const { bytes, view, layout } = this;
    if (this.next + PAGE > SANDBOX_BYTES) throw new GivenUp("the sandbox is full");
    const copy = layout.sandbox + this.next;
    this.next += PAGE;
    bytes.copyWithin(copy, page, page + PAGE);
    const number = (at: number) => (at - layout.ramBase) / PAGE;
    bytes[layout.pageAttributes + number(copy)] = bytes[layout.pageAttributes + number(page)];
    const hash = view.getBigInt64(layout.pageHashes + 8 * number(page), true);
    view.setBigInt64(layout.pageHashes + 8 * number(copy), hash, true);
    return copy;
  }

  /** Empties a data TLB, but not the instruction TLB: regions look there which pages they may run on. */
  private flushData(base: number): void {
    const at = base + CpuArea.TLB;
    const { view } = this;
    const fills = view.getUint32(base + State.TLB_FILLS, true);
    if (fills > State.TLB_FILLS_KNOWN) this.bytes.fill(0xff, at, at + Tlb.PRIVILEGES * Tlb.BYTES);
    else {
      for (let i = 0; i < fills; i++) {
        const entry = view.getUint32(base + State.TLB_FILLED + 4 * i, true);
        view.setBigInt64(entry + Tlb.TAG, -1n, true);
        view.setBigInt64(entry + Tlb.WRITE, -1n, true);
      }
    }
    view.setUint32(base + State.TLB_FILLS, 0, true);
  }

  /** The state to or from a copy, without the word that other threads write to. */
  private save(to: Uint8Array): void {
    to.set(this.bytes.subarray(this.base, this.base + State.BYTES));
  }
  private restore(from: Uint8Array, base: number): void {
    this.bytes.set(from.subarray(0, State.ATTENTION), base);
    this.bytes.set(from.subarray(State.ATTENTION + 4), base + State.ATTENTION + 4);
  }

  private count(index: number, more: number): void {
    const at = Shared.LOCKSTEP_COUNTS + 8 * index;
    this.view.setFloat64(at, this.view.getFloat64(at, true) + more, true);
  }

  private compare(region: RegionFunction, budget: number): void {
    const { view, base, shadowBase, core, shadow } = this;
    this.flushData(base);
    this.save(this.before);
    this.work.clear();
    this.pristine.clear();
    this.next = 0;
    this.interpreting = false;
    view.setInt32(base + State.SANDBOX, 1, true);
    let left = budget;
    let flags = 0;
    try {
      left = region(budget);
      flags = core.exports.read_flags();
    } catch (error) {
      if (!(error instanceof GivenUp)) throw error;
      this.count(3, 1);
      left = -1;
    } finally {
      this.save(this.after);
      this.flushData(base);
      this.restore(this.before, base);
      view.setUint32(base + State.TLB_FILLS, 0, true);
    }
    const fault = this.afterView.getInt32(State.FAULT, true);
    // The instruction that faults is charged for as well, but nothing is before the region has begun.
    const ran = fault !== Fault.NONE && left !== budget ? budget - left - 1 : budget - left;
    if (left === -1 || (ran === 0 && fault !== Fault.EXCEPTION)) return;

    const regionsPages = new Map(this.work);
    this.work.clear();
    this.interpreting = true;
    shadow.exports.flush_tlb();
    this.restore(this.before, shadowBase);
    for (const field of [State.TLB, State.INSTRUCTION_TLB]) {
      view.setUint32(shadowBase + field, view.getUint32(base + field, true) - base + shadowBase, true);
    }
    view.setUint32(shadowBase + State.TLB_FILLS, 0, true);
    view.setUint32(shadowBase + State.NO_LINK, 0, true);
    view.setInt32(shadowBase + State.ATTENTION, 0, true);
    view.setInt32(shadowBase + State.SANDBOX, 1, true);
    view.setInt32(shadowBase + State.DELIVERED, 0, true);
    const mode = view.getBigUint64(shadowBase + State.MODE_KEY, true) | KEY_SINGLE;
    view.setBigUint64(shadowBase + State.MODE_KEY, mode, true);
    try {
      this.interpret(ran);
      this.compareStates(shadow.exports.read_flags(), flags, ran);
      this.compareMemory(regionsPages);
      if (fault === Fault.EXCEPTION) this.compareException();
    } catch (error) {
      if (!(error instanceof GivenUp)) throw error;
      this.count(3, 1);
      return;
    } finally {
      view.setInt32(shadowBase + State.SANDBOX, 0, true);
    }
    this.count(0, 1);
    this.count(1, ran);
    if (fault === Fault.EXCEPTION) this.count(2, 1);
  }

  /** Runs so many instructions on the shadow. */
  private interpret(count: number): void {
    const { view, shadowBase, shadow } = this;
    let left = count;
    while (left > 0) {
      const reason = shadow.exports.run(left);
      left = view.getInt32(shadowBase + State.BUDGET, true);
      if (reason === Leave.BUDGET) continue;
      if (reason !== Leave.DECODE) this.differs(`the interpreter left with ${reason} before ${left} more instructions`);
      this.decode();
    }
  }

  private decode(): void {
    const { view, shadowBase, shadow } = this;
    const physical = Number(view.getBigUint64(shadowBase + State.FETCH_PHYSICAL, true));
    const linear = view.getBigUint64(shadowBase + State.FETCH_LINEAR, true);
    const key = view.getBigUint64(shadowBase + State.MODE_KEY, true);
    const done = shadow.decode(physical, BigInt(physical) | key, () => {
      const second = shadow.exports.fetch_translate(BigInt.asIntN(64, (linear | 4095n) + 1n));
      return view.getInt32(shadowBase + State.FAULT, true) ? -1 : Number(second);
    });
    if (done !== "done") this.differs(`the interpreter cannot fetch at ${linear.toString(16)}: ${done}`);
  }

  private compareStates(flags: number, regionsFlags: number, ran: number): void {
    const { view, shadowBase, afterView } = this;
    const difference = (name: string, field: number) => {
      const interpreted = view.getBigUint64(shadowBase + field, true);
      const compiled = afterView.getBigUint64(field, true);
      if (interpreted === compiled) return;
      this.differs(`after ${ran} instructions ${name} is ${compiled.toString(16)}, not ${interpreted.toString(16)}`);
    };
    for (let i = 0; i < 16; i++) difference(`register ${i}`, State.GPR + 8 * i);
    difference("RIP", State.RIP);
    if (flags !== regionsFlags) this.differs(`after ${ran} instructions the flags are ${regionsFlags}, not ${flags}`);
    // XMM, x87, MXCSR, FCW, FSW, FTW, FOP, FIP, FDP.
    for (let field = State.XMM; field < State.INTERRUPT_RIP; field += 8) difference(`state ${field}`, field);
  }

  private compareMemory(regionsPages: Map<number, number>): void {
    const { work, pristine } = this;
    for (const [page, copy] of regionsPages) if (!work.has(page)) this.comparePage(page, copy, pristine.get(page)!);
    for (const [page, copy] of work) this.comparePage(page, regionsPages.get(page) ?? pristine.get(page)!, copy);
  }

  private comparePage(page: number, compiled: number, interpreted: number): void {
    const { view } = this;
    for (let i = 0; i < PAGE; i += 4) {
      const difference = view.getUint32(compiled + i, true) ^ view.getUint32(interpreted + i, true);
      if (difference === 0 || (difference === ACCESSED && i % 8 === 0)) continue;
      const hex = (at: number) => view.getUint32(at + i, true).toString(16);
      const where = (page - this.layout.ramBase + i).toString(16);
      this.differs(`at ${where} of RAM stands ${hex(compiled)}, not ${hex(interpreted)}`);
    }
  }

  /** The instruction behind raises the same exception. */
  private compareException(): void {
    const { view, shadowBase, afterView } = this;
    const reason = () => this.shadow.exports.run(1);
    let left = reason();
    for (; left === Leave.DECODE; left = reason()) this.decode();
    const delivered = view.getInt32(shadowBase + State.DELIVERED, true) - 1;
    const vector = afterView.getInt32(State.VECTOR, true);
    if (delivered !== vector) this.differs(`exception ${vector} was raised, and by the interpreter ${delivered}`);
    for (const field of [State.ERROR, State.CR2, State.CR2 + 4]) {
      const compiled = afterView.getInt32(field, true);
      const interpreted = view.getInt32(shadowBase + field, true);
      if (compiled !== interpreted) this.differs(`exception ${vector}: ${compiled} at ${field}, not ${interpreted}`);
    }
  }

  private differs(what: string): never {
    const rip = new DataView(this.before.buffer).getBigUint64(State.RIP, true).toString(16);
    throw new Error(`lockstep: the region at ${rip} differs from the interpreter: ${what}`);
  }
}
