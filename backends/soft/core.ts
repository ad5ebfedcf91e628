/** The generated code of one vCPU: the core module, handlers made when first needed, and the cache of decoded blocks. */
import "./isa/all.ts";
import { BlockIndex, keyUpper } from "./block_index.ts";
import { defineExternal } from "./cpu/external.ts";
import { defineInterrupts } from "./cpu/interrupts.ts";
import { defineMmu } from "./cpu/mmu.ts";
import { defineSegments } from "./cpu/segments.ts";
import { defineTasks } from "./cpu/tasks.ts";
import { defineTransfers } from "./cpu/transfer.ts";
import type { Target } from "./cpu_function.ts";
import { defineFlagFunctions } from "./flags.ts";
import { decode, type Instruction } from "./decode.ts";
import { hotExamples } from "./interpreter/hot.ts";
import { addressKey, BlockAssembler, emitEnd, type HandlerSource } from "./interpreter/assemble.ts";
import { defineHandler, type HandlerEmitter, handlerKey } from "./interpreter/handler.ts";
import { defineLoop, type InlineHandler, setOf } from "./interpreter/loop.ts";
import { defineSystem } from "./isa/system.ts";
import { defineWideArithmetic } from "./isa/wide.ts";
import { defineFloatingPoint } from "./sse/define.ts";
import { transcendentalImport } from "./x87/import.ts";
import { collectAll } from "./collect.ts";
import { releasePages } from "./host_memory.ts";
import { DEFAULT_THRESHOLD, NEVER, RegionJit } from "./jit/compile.ts";
import { Lockstep, type RegionFunction } from "./jit/lockstep.ts";
import {
  Block,
  BlockTable,
  CpuArea,
  InstructionTlb,
  type Layout,
  type Memories,
  Op,
  PageAttribute,
  Seg,
  Shared,
  State,
  Tlb,
} from "./layout.ts";
import { KEY_SINGLE } from "./mode_key.ts";
import { setMemory64 } from "./wasm/memory.ts";
import { Module } from "./wasm/module.ts";

/** What the generated code asks of JavaScript. */
export interface Imports {
  cpuid(): void;
  access_msr(index: number, write: number): number;
  clock(): number;
  task_priority(value: number): number;
  random_bits(): void;
}

/** What the generated code offers JavaScript. */
export interface Exports {
  run(budget: number): number;
  deliver(vector: number, error: number, source: number): number;
  flush_tlb(): void;
  note_page(page: number): void;
  fetch_translate(linear: bigint): bigint;
  update_mode(): void;
  read_flags(): number;
  write_flags(value: number, mask: number): void;
}

/** What makes a core one that {@link Lockstep} compares with: it has no JIT, and its memory is a sandbox. */
export interface Shadow {
  readonly sandbox: (address: number) => number;
}

/** Blocks decoded that leave enough behind for {@link Core.tidy}: some 20 MB, as a boot does. */
const UNTIDY = 20_000;
/** Milliseconds in which a guest that rests decodes no more than so many blocks: whoever drives it waits for nothing. */
const REST = 5000;
const RESTING = 500;
/** Most bytes of regions' Wasm of a machine, and of one vCPU. With what V8 makes of it, one costs some 9 of memory. */
const MACHINE_CODE = 128 << 20;
const VCPU_CODE = 64 << 20;

/** Code and caches of one vCPU. */
export class Core implements HandlerSource {
  readonly exports: Exports;
  private readonly memory: WebAssembly.Memory;
  private readonly layout: Layout;
  private readonly base: number;
  private readonly view: DataView;
  private readonly bytes: Uint8Array;
  /** The memory that guest RAM lies in. */
  private readonly ram: Uint8Array;
  private readonly state: DataView;
  private readonly words: Int32Array;
  private readonly table: WebAssembly.Table;
  private readonly pages: number;
  private readonly target: Target;
  private readonly linkage: Record<string, WebAssembly.ExportValue>;
  private readonly numbers = new Map<string, number>();
  private wanted: { key: string; number: number; emit: (e: HandlerEmitter) => void }[] = [];
  /** Since the last {@link tidy}. */
  private decodedBlocks = 0;
  /** When the guest began to rest, and {@link decodedBlocks} then. */
  private restSince = 0;
  private restBlocks = 0;
  private nextHandler = 0;
  private readonly assembler: BlockAssembler;
  private nextBlock: number;
  private readonly known: BlockIndex;
  /** Addresses of blocks by page of RAM. */
  private readonly blocksOf = new Map<number, number[]>();
  private readonly staleHandler: number;
  /** Null when it is switched off. */
  readonly jit: RegionJit | null;
  /** Compares the JIT's regions with the interpreter, in tests. */
  private readonly lockstep: Lockstep | null = null;
  /** Called when a page becomes code, or stops being it, so that other vCPUs follow. */
  onCodePage: (page: number) => void = () => {};
  onCodeWritten: (page: number) => void = () => {};

  constructor(memories: Memories, layout: Layout, index: number, imports: Imports, shadow?: Shadow) {
    const memory = memories.own;
    this.memory = memory;
    this.layout = layout;
    this.base = layout.cpuBase(index);
    this.view = new DataView(memory.buffer);
    this.bytes = new Uint8Array(memory.buffer);
    this.ram = new Uint8Array(memories.ram.buffer);
    this.state = new DataView(memory.buffer, this.base, State.BYTES);
    this.words = new Int32Array(memory.buffer);
    this.pages = Math.ceil(layout.total / 65536);
    this.target = { layout, base: this.base };
    this.table = new WebAssembly.Table({ element: "anyfunc", initial: 4096 });
    this.assembler = new BlockAssembler(this.view, this);
    this.known = new BlockIndex(this.view);
    this.nextBlock = this.base + CpuArea.BLOCKS;
    this.setMemory();

    const module = new Module();
    const { target } = this;
    defineMmu(module, target);
    defineExternal(module, target);
    defineSegments(module, target);
    defineInterrupts(module, target);
    defineTransfers(module, target);
    defineTasks(module, target);
    defineFlagFunctions(module, target);
    defineSystem(module, target);
    defineWideArithmetic(module, target);
    defineFloatingPoint(module, target);
    defineLoop(module, target, this.inlineHandlers());
    this.linkage = {
      memory,
      ram: memories.ram,
      table: this.table,
      ...imports as unknown as Record<string, WebAssembly.ExportValue>,
      ...transcendentalImport(() => this.state),
      code_written: (page: number) => this.codeWritten(page),
      sandbox_page: (address: number) => (shadow?.sandbox ?? this.lockstep!.page)(address),
    };
    const instance = this.instantiate(module);
    Object.assign(this.linkage, instance.exports);
    this.exports = instance.exports as unknown as Exports;
    this.staleHandler = this.handler("stale", (e) => e.restart());
    this.flushHandlers();
    const threshold = shadow ? -1 : this.view.getInt32(Shared.JIT_THRESHOLD, true);
    this.jit = threshold < 0 ? null : this.makeJit(threshold || DEFAULT_THRESHOLD);
    if (layout.sandbox && this.jit !== null) this.lockstep = new Lockstep(this, memories, layout, index);
  }

  private setMemory(): void {
    setMemory64(this.layout.memory64, this.layout.separateRam > 0);
  }

  private instantiate(module: Module): WebAssembly.Instance {
    this.setMemory();
    const compiled = new WebAssembly.Module(module.build(this.pages, this.layout.separateRam / 65536));
    return new WebAssembly.Instance(compiled, { m: this.linkage });
  }

  /** Gives the first numbers to the handlers that the loop holds itself. */
  private inlineHandlers(): InlineHandler[] {
    const inline: InlineHandler[] = [];
    const add = (key: string, emit: (e: HandlerEmitter) => void) => {
      if (this.numbers.has(key)) return;
      this.numbers.set(key, this.nextHandler++);
      inline.push({ emit });
    };
    add("end", emitEnd);
    for (const segment of [Seg.FS, Seg.GS]) {
      add(addressKey(64, 64, segment), (e) => e.emitAddress(64, 64, segment));
    }
    for (const code of hotExamples()) {
      const example = decode(code, 0, code.length, 64) as Instruction;
      add(handlerKey(example), (e) => {
        e.shape(example);
        example.row.emit(e);
      });
    }
    return inline;
  }

  handler(key: string, emit: (e: HandlerEmitter) => void): number {
    const known = this.numbers.get(key);
    if (known !== undefined) return known;
    const number = this.nextHandler++;
    this.numbers.set(key, number);
    // The shape an emitter reads from its instruction must be that of now, so the code is made now.
    this.wanted.push({ key, number, emit });
    return number;
  }

  /** Compiles the handlers that were asked for since the last time. */
  private flushHandlers(): void {
    if (this.wanted.length === 0) return;
    const wanted = this.wanted;
    this.wanted = [];
    this.setMemory();
    const module = new Module();
    for (const { key, emit } of wanted) defineHandler(module, this.target, key, emit);
    const { exports } = this.instantiate(module);
    while (this.table.length < this.nextHandler) this.table.grow(4096);
    for (const { key, number } of wanted) this.table.set(number, exports[key] as never);
  }

  /**
   * Decodes the block at FETCH_LINEAR and FETCH_PHYSICAL.
   * @param second physical address of the next page, or -1 when it cannot be fetched; asked for when needed
   * @returns false when there is no RAM to fetch from
   */
  decode(physical: number, key: bigint, second: () => number): "done" | "fault" | "not RAM" {
    const known = this.blockAt(physical, Number(key >> 52n));
    if (known !== 0) {
      this.enter(known, this.setAt(physical | 0), key);
      return "done";
    }
    const host = this.hostOf(physical);
    if (host < 0) return "not RAM";
    const pageBytes = 4096 - (physical & 4095);
    const limit = key & KEY_SINGLE ? 1 : undefined;
    if (this.nextBlock + 65536 > this.base + CpuArea.BLOCKS + CpuArea.BLOCKS_BYTES) this.dropBlocks();
    // Room for SECOND_PAGE.
    const address = this.nextBlock - Block.SECOND_PAGE;
    const code = this.ram.subarray(host, host + pageBytes);
    // HAS_CODE comes first: what is stored after the bytes were read must be noticed.
    const page = this.markCode(host);
    let made = this.assembler.assemble(address + Block.OPS, code, pageBytes, key, limit);
    let secondPage = -1;
    if (made === null) {
      secondPage = second();
      if (secondPage < 0) return "fault";
      const secondHost = this.hostOf(secondPage);
      if (secondHost < 0) return "not RAM";
      const joined = new Uint8Array(pageBytes + 16);
      joined.set(code);
      joined.set(this.ram.subarray(secondHost, secondHost + 16), pageBytes);
      this.markCode(secondHost);
      made = this.assembler.assemble(address + Block.OPS, joined, pageBytes, key, 1)!;
    }
    this.flushHandlers();
    this.decodedBlocks++;
    const { view } = this;
    view.setUint16(address + Block.INSTRUCTIONS, made.instructions, true);
    view.setUint16(address + Block.MICRO_OPS, made.ops, true);
    const compilable = this.jit !== null && secondPage < 0 && !(key & KEY_SINGLE);
    view.setInt32(address + Block.HEAT, compilable ? this.jit!.heatOf(key) : NEVER, true);
    view.setBigUint64(address + Block.KEY, key, true);
    view.setUint32(address + Block.LINK, 1, true);
    view.setInt32(address + Block.CROSSING, secondPage < 0 ? 0 : 1, true);
    if (secondPage >= 0) view.setBigInt64(address + Block.SECOND_PAGE, BigInt(secondPage), true);
    this.enter(address, this.setAt(physical | 0), key);
    this.remember(page, address);
    // What a crossing block depends on is looked at each time it is decoded anew.
    if (secondPage >= 0) this.remember(this.pageOf(this.hostOf(secondPage)), address);
    else this.known.add(address);
    this.nextBlock = (address + Block.OPS + made.ops * Op.BYTES + 7) & ~7;
    return "done";
  }

  /**
   * To be called between two runs when there is time: gives back the memory that decoding and compiling needed for a
   * while, and that of decoded blocks, once the guest has rested. Not right behind a boot: who waited for a prompt goes
   * on then, or stops the machine.
   * @param now milliseconds on any scale that does not go back
   * @returns whether that took time
   */
  tidy(now: number): boolean {
    if (this.decodedBlocks < UNTIDY) return false;
    if (this.decodedBlocks - this.restBlocks > RESTING) {
      this.restBlocks = this.decodedBlocks;
      this.restSince = now;
    }
    if (now - this.restSince < REST) return false;
    this.decodedBlocks = 0;
    this.restBlocks = 0;
    this.dropBlocks();
    releasePages(this.memory, this.nextBlock, CpuArea.BLOCKS_BYTES);
    collectAll();
    return true;
  }

  /** Puts a block into the table that the loop looks into. */
  private enter(address: number, set: number, key: bigint): void {
    const { view, bytes } = this;
    // It becomes the first of its set, and takes the first free place or that of its own key; without one, the last
    // block of the set goes to the other set of the pair, if that has room.
    const last = set + BlockTable.SET - BlockTable.ENTRY;
    let place = this.placeIn(set, key);
    if (place < 0) {
      place = last;
      const other = this.placeIn(otherSet(set), view.getBigUint64(last, true));
      if (other >= 0) bytes.copyWithin(other, last, last + BlockTable.ENTRY);
    }
    bytes.copyWithin(set + BlockTable.ENTRY, set, place);
    view.setBigUint64(set, key, true);
    view.setUint32(set + 8, address, true);
  }

  /** Address of the set for a physical address. */
  private setAt(physicalLow: number): number {
    return this.base + CpuArea.BLOCK_TABLE + setOf(physicalLow);
  }

  /** The place of a set that a key has, or the first free one, or -1. */
  private placeIn(set: number, key: bigint): number {
    const { view } = this;
    for (let place = set; place < set + BlockTable.SET; place += BlockTable.ENTRY) {
      if (view.getUint32(place + 8, true) === 0 || view.getBigUint64(place, true) === key) return place;
    }
    return -1;
  }

  private remember(page: number, block: number): void {
    const list = this.blocksOf.get(page);
    if (list) list.push(block);
    else this.blocksOf.set(page, [block]);
  }

  private pageOf(host: number): number {
    return Math.floor((host - this.layout.ramBase) / 4096);
  }

  /** Notes that a page holds decoded code; stores to it take the slow path from now on. */
  private markCode(host: number): number {
    const page = this.pageOf(host);
    const at = this.layout.pageAttributes + page;
    if (!(Atomics.load(this.bytes, at) & PageAttribute.HAS_CODE)) {
      Atomics.or(this.bytes, at, PageAttribute.HAS_CODE);
      this.flushWrites();
      this.onCodePage(page);
      this.exports.note_page(page);
    }
    return page;
  }

  /** Forgets which pages may be stored to. */
  flushWrites(): void {
    for (let privilege = 0; privilege < Tlb.PRIVILEGES; privilege++) {
      const at = this.base + CpuArea.TLB + privilege * Tlb.BYTES + Tlb.WRITE;
      this.bytes.fill(0xff, at, at + Tlb.BYTES - Tlb.WRITE);
    }
  }

  /** A page with code was stored to: its blocks go. The Wasm code's import. */
  private codeWritten(page: number): void {
    Atomics.and(this.bytes, this.layout.pageAttributes + page, ~PageAttribute.HAS_CODE);
    this.dropPage(page);
    this.onCodeWritten(page);
  }

  /** Forgets the blocks of a page; a block that is running stops at its next instruction. */
  dropPage(page: number): void {
    this.lockstep?.dropPage(page);
    this.jit?.dropPage(page);
    const blocks = this.blocksOf.get(page);
    if (!blocks) return;
    this.blocksOf.delete(page);
    const { view } = this;
    for (const address of blocks) {
      // One that crosses into another page that was dropped before.
      if (view.getBigUint64(address + Block.KEY, true) === 0n) continue;
      const set = this.setAt(view.getInt32(address + Block.KEY, true));
      this.known.remove(address);
      view.setBigUint64(address + Block.KEY, 0n, true);
      for (const half of [set, otherSet(set)]) {
        for (let place = half; place < half + BlockTable.SET; place += BlockTable.ENTRY) {
          if (view.getUint32(place + 8, true) !== address) continue;
          view.setBigUint64(place, 0n, true);
          view.setUint32(place + 8, 0, true);
        }
      }
      const ops = view.getUint16(address + Block.MICRO_OPS, true);
      for (let i = 0; i < ops; i++) {
        view.setUint16(address + Block.OPS + i * Op.BYTES + Op.HANDLER, this.staleHandler, true);
      }
    }
  }

  /** Forgets all blocks and regions. Not while one is running. */
  dropAll(): void {
    this.jit?.dropAll();
    this.dropBlocks();
  }

  /** Forgets all blocks; regions stay, and are found again when their entries are. */
  private dropBlocks(): void {
    if (this.blocksOf.size > 0) {
      const table = this.base + CpuArea.BLOCK_TABLE;
      this.bytes.fill(0, table, table + BlockTable.BYTES);
    }
    this.blocksOf.clear();
    this.known.clear();
    this.state.setUint32(State.NO_LINK, 0, true);
    this.nextBlock = this.base + CpuArea.BLOCKS;
  }

  private makeJit(threshold: number): RegionJit {
    return new RegionJit(
      {
        target: this.target,
        table: this.table,
        ram: this.ram,
        view: this.view,
        instantiate: (module) => this.instantiate(module),
        link: (exports) => void Object.assign(this.linkage, exports),
        hostOf: (physical) => this.hostOf(physical),
        pageOf: (host) => this.pageOf(host),
        blockAt: (physical, mode) => this.blockAt(physical, mode),
        fetched: (linear) => this.fetched(linear),
        compared: (region) => (this.lockstep === null ? region : this.lockstep.wrap(region as RegionFunction)),
      },
      threshold,
      Math.min(VCPU_CODE, MACHINE_CODE / this.layout.cpus),
    );
  }

  /** A block's HEAT is used up: {@link Leave.HOT}. */
  hot(): void {
    const { state } = this;
    const block = state.getUint32(State.HOT_BLOCK, true);
    const physical = Number(state.getBigUint64(State.FETCH_PHYSICAL, true));
    this.jit?.hot(
      block,
      physical,
      state.getBigInt64(State.FETCH_LINEAR, true),
      state.getBigUint64(State.MODE_KEY, true),
    );
  }

  /** Physical address of a linear address's page, where the instruction TLB knows it, or -1. */
  private fetched(linear: bigint): number {
    const index = Number((linear >> 12n) & BigInt(InstructionTlb.ENTRIES - 1));
    const at = this.state.getUint32(State.INSTRUCTION_TLB, true) + index * InstructionTlb.ENTRY;
    if (this.view.getBigInt64(at, true) !== (linear & ~4095n)) return -1;
    return Number(this.view.getBigInt64(at + 8, true));
  }

  /** Address of the decoded block, or 0. */
  private blockAt(physical: number, mode: number): number {
    return this.known.find(physical | 0, keyUpper(physical, mode));
  }

  /** Address in the memory of a guest physical address, or -1. */
  hostOf(physical: number): number {
    const count = this.words[Shared.REGION_COUNT >> 2];
    for (let i = 0; i < count; i++) {
      const at = Shared.REGIONS + i * Shared.REGION_BYTES;
      const start = Number(this.view.getBigUint64(at, true));
      const size = Number(this.view.getBigUint64(at + 8, true));
      if (physical >= start && physical < start + size) {
        return Number(this.view.getBigUint64(at + 16, true)) + physical - start;
      }
    }
    return -1;
  }

  /** A copy of up to 15 bytes of RAM at a guest physical address, within its page. */
  codeBytes(physical: number): Uint8Array {
    const host = this.hostOf(physical);
    return host < 0 ? new Uint8Array(0) : this.ram.slice(host, host + Math.min(15, 4096 - (physical & 4095)));
  }

  /** How many handlers there are, for statistics. */
  get handlers(): number {
    return this.nextHandler;
  }

  /** Keys of the handlers, by number. */
  get handlerKeys(): string[] {
    return [...this.numbers.keys()];
  }

  get stateView(): DataView {
    return this.state;
  }
}

/** The set that takes what a set has no room for: the other one of two beside each other. */
function otherSet(set: number): number {
  return set % (2 * BlockTable.SET) === 0 ? set + BlockTable.SET : set - BlockTable.SET;
}
