/** One instruction at a time on the software CPU's interpreter, with the same records as the native program. */
import { Core } from "../core.ts";
import { Flag, FlagKind } from "../flags.ts";
import { CpuArea, layoutFor, Op, Seg, Segment, Shared, State } from "../layout.ts";
import { BlockAssembler, type HandlerSource } from "../interpreter/assemble.ts";
import { defineHandler, type HandlerEmitter, Next } from "../interpreter/handler.ts";
import { loadMxcsr } from "../sse/float_functions.ts";
import { Module } from "../wasm/module.ts";
import { ARENA, ARENA_BYTES, CODE, Fx, Record, RECORD_BYTES, WINDOW, WINDOW_BYTES } from "./record.ts";

const CR0_PE_MP_NE = 0x23n;
/** OSFXSR, OSXMMEXCPT, FSGSBASE, OSXSAVE. */
const CR4 = 0x5_0600n;
const EFER_LMA_LME_SCE = 0x501n;

/** Handlers, each in a module of its own, linked with a core. */
class Handlers implements HandlerSource {
  private readonly numbers = new Map<string, number>();
  private readonly functions: ((op: number) => number)[] = [];
  private readonly wanted: { key: string; emit: (e: HandlerEmitter) => void }[] = [];
  constructor(private readonly core: Core) {}

  handler(key: string, emit: (e: HandlerEmitter) => void): number {
    const known = this.numbers.get(key);
    if (known !== undefined) return known;
    this.numbers.set(key, this.wanted.length);
    return this.wanted.push({ key, emit }) - 1;
  }
  function(number: number): (op: number) => number {
    const known = this.functions[number];
    if (known) return known;
    const { key, emit } = this.wanted[number];
    const module = new Module();
    defineHandler(module, this.core["target"], key, emit);
    return this.functions[number] = this.core["instantiate"](module).exports[key] as (op: number) => number;
  }
}

/** An interpreter in 64-bit mode without paging, whose RAM is the arena. */
export class SoftCpu {
  private readonly core: Core;
  private readonly view: DataView;
  private readonly state: DataView;
  private readonly bytes: Uint8Array;
  private readonly ram: number;
  private readonly block: number;
  private readonly base: number;
  private readonly key: bigint;
  private readonly handlers: Handlers;
  private readonly assembler: BlockAssembler;

  constructor() {
    const layout = layoutFor(1, ARENA_BYTES);
    const pages = layout.total / 65536;
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    this.core = new Core({ own: memory, ram: memory }, layout, 0, {
      cpuid() {},
      access_msr: () => 1,
      clock: () => 0,
      task_priority: () => 0,
      random_bits() {},
    });
    this.view = new DataView(memory.buffer);
    this.handlers = new Handlers(this.core);
    this.assembler = new BlockAssembler(this.view, this.handlers);
    this.bytes = new Uint8Array(memory.buffer);
    const state = this.state = this.core.stateView;
    this.base = layout.cpuBase(0);
    this.ram = layout.ramBase;
    this.block = this.base + CpuArea.BLOCKS;
    this.view.setBigUint64(Shared.REGIONS, BigInt(ARENA), true);
    this.view.setBigUint64(Shared.REGIONS + 8, BigInt(ARENA_BYTES), true);
    this.view.setBigUint64(Shared.REGIONS + 16, BigInt(this.ram), true);
    this.view.setUint32(Shared.REGION_COUNT, 1, true);
    state.setBigUint64(State.CR0, CR0_PE_MP_NE, true);
    state.setBigUint64(State.CR4, CR4, true);
    state.setBigUint64(State.EFER, EFER_LMA_LME_SCE, true);
    state.setBigUint64(State.XCR0, 3n, true);
    state.setInt32(State.CPL, 3, true);
    const segment = (number: number, attributes: number, base = 0) => {
      const at = State.SEGMENTS + number * Segment.BYTES;
      state.setInt32(at + Segment.ATTRIBUTES, attributes, true);
      state.setUint32(at + Segment.LIMIT, 0xffff_ffff, true);
      state.setBigUint64(at + Segment.BASE, BigInt(base), true);
    };
    segment(Seg.CS, 0xa0fb);
    for (const data of [Seg.SS, Seg.DS, Seg.ES]) segment(data, 0xc0f3);
    segment(Seg.GS, 0xc0f3, WINDOW);
    this.core.exports.flush_tlb();
    this.core.exports.update_mode();
    this.key = state.getBigUint64(State.MODE_KEY, true);
  }

  /** Runs the record at `at` and writes the result over it; the window and all state that counts are in it. */
  run(record: DataView, at: number): void {
    const { state, view, bytes } = this;
    const source = new Uint8Array(record.buffer, record.byteOffset + at, RECORD_BYTES);
    const length = record.getUint32(at + Record.LENGTH, true);
    const flags = Number(record.getBigUint64(at + Record.FLAGS, true) & 0xffff_ffffn);
    for (let r = 0; r < 16; r++) {
      state.setBigUint64(State.GPR + r * 8, record.getBigUint64(at + Record.GPR + r * 8, true), true);
    }
    state.setInt32(State.FLAG_KIND, FlagKind.EXPLICIT, true);
    state.setBigUint64(State.FLAG_A, BigInt(flags & Flag.ARITHMETIC), true);
    state.setInt32(State.RFLAGS, (flags & ~Flag.ARITHMETIC) | 2, true);
    this.loadImage(record, at + Record.FX);
    bytes.set(source.subarray(Record.WINDOW), this.ram + WINDOW - ARENA);
    bytes.fill(0xcc, this.ram + CODE - ARENA, this.ram + CODE - ARENA + 32);
    bytes.set(source.subarray(0, length), this.ram + CODE - ARENA);

    state.setBigUint64(State.RIP, BigInt(CODE), true);
    state.setInt32(State.FAULT, 0, true);
    const code = bytes.subarray(this.ram + CODE - ARENA, this.ram + CODE - ARENA + 32);
    const made = this.assembler.assemble(this.block, code, code.length, this.key, 1)!;
    let next = 0;
    let op = this.block;
    for (let i = 0; i < made.ops; i++, op += Op.BYTES) {
      const number = view.getUint16(op + Op.HANDLER, true);
      next = this.handlers.function(number)(op);
      if (next !== Next.OP) break;
    }
    const faulted = next === Next.FAULT;
    const kind = state.getInt32(State.FAULT, true);
    const result = new DataView(record.buffer, record.byteOffset + at, RECORD_BYTES);
    source.fill(0, 0, Record.WINDOW);
    result.setInt32(Record.TRAP, !faulted ? -1 : kind === 1 ? state.getInt32(State.VECTOR, true) : 1000 + kind, true);
    result.setInt32(Record.ERROR, faulted ? state.getInt32(State.ERROR, true) : 0, true);
    result.setBigUint64(Record.RIP, faulted ? BigInt(CODE) : state.getBigUint64(State.RIP, true), true);
    result.setUint32(Record.FLAGS, this.core.exports.read_flags(), true);
    for (let r = 0; r < 16; r++) {
      result.setBigUint64(Record.GPR + r * 8, state.getBigUint64(State.GPR + r * 8, true), true);
    }
    this.storeImage(result, Record.FX);
    source.set(bytes.subarray(this.ram + WINDOW - ARENA, this.ram + WINDOW - ARENA + WINDOW_BYTES), Record.WINDOW);
  }

  private loadImage(image: DataView, at: number): void {
    const { state } = this;
    const status = image.getUint16(at + Fx.FSW, true);
    state.setUint16(State.FCW, image.getUint16(at + Fx.FCW, true), true);
    state.setUint16(State.FSW, status, true);
    state.setUint16(State.FOP, 0, true);
    state.setBigUint64(State.FIP, 0n, true);
    state.setBigUint64(State.FDP, 0n, true);
    const tags = image.getUint8(at + Fx.FTW);
    let full = 0;
    for (let r = 0; r < 8; r++) if (!((tags >> r) & 1)) full |= 3 << (2 * r);
    state.setUint16(State.FTW, full, true);
    loadMxcsr(state, image.getUint32(at + Fx.MXCSR, true));
    for (let i = 0; i < 8; i++) {
      const register = State.X87 + (((status >> 11) + i) & 7) * 16;
      state.setBigUint64(register, image.getBigUint64(at + Fx.ST + i * 16, true), true);
      state.setUint16(register + 8, image.getUint16(at + Fx.ST + i * 16 + 8, true), true);
    }
    for (let i = 0; i < 32; i++) {
      state.setBigUint64(State.XMM + i * 8, image.getBigUint64(at + Fx.XMM + i * 8, true), true);
    }
  }

  private storeImage(image: DataView, at: number): void {
    const { state } = this;
    const status = state.getUint16(State.FSW, true);
    image.setUint16(at + Fx.FCW, state.getUint16(State.FCW, true), true);
    image.setUint16(at + Fx.FSW, status, true);
    const full = state.getUint16(State.FTW, true);
    let tags = 0;
    for (let r = 0; r < 8; r++) if (((full >> (2 * r)) & 3) !== 3) tags |= 1 << r;
    image.setUint8(at + Fx.FTW, tags);
    image.setUint32(at + Fx.MXCSR, state.getUint32(State.MXCSR, true), true);
    for (let i = 0; i < 8; i++) {
      const register = State.X87 + (((status >> 11) + i) & 7) * 16;
      image.setBigUint64(at + Fx.ST + i * 16, state.getBigUint64(register, true), true);
      image.setUint16(at + Fx.ST + i * 16 + 8, state.getUint16(register + 8, true), true);
    }
    for (let i = 0; i < 32; i++) {
      image.setBigUint64(at + Fx.XMM + i * 8, state.getBigUint64(State.XMM + i * 8, true), true);
    }
  }
}
