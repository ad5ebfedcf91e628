/**
 * The region JIT of one vCPU: collects hot blocks, compiles their regions in batches, installs them, forgets them when
 * their code changes.
 *
 * A block's HEAT is what ties it to its region: above 0 it counts down at each run, at 0 the interpreter leaves with
 * HOT, below 0 it is minus the number of a region that is run instead.
 */
import type { Target } from "../cpu_function.ts";
import { Block } from "../layout.ts";
import { Module, signature } from "../wasm/module.ts";
import { Type } from "../wasm/values.ts";
import { type CachedRegion, CodeCache } from "./code_cache.ts";
import { collectCode } from "../collect.ts";
import { generate } from "./generate.ts";
import { findRegion } from "./region.ts";
import { defineRegionSupport } from "./support.ts";

/** A block that never becomes hot. */
export const NEVER = 0x7fff_ffff;
/** Where regions begin in the table of functions; handlers are below. */
export const REGION_TABLE = 16384;
/** Bytes of regions that are forgotten before V8 is made to give their memory back. */
const FORGOTTEN = 4 << 20;
/** Regions a module. */
const BATCH = 16;
/** Milliseconds after which fewer are compiled as well. */
const PATIENCE = 5;
/**
 * Runs of a block before it is worth compiling: most of what is warm does not pay for it. Booting Debian took 43.3 CPU
 * seconds with 16 000, 36.9 with 64 000 and 37.4 with 150 000, and 334, 289 and 278 MiB.
 */
export const DEFAULT_THRESHOLD = 64_000;

/** A block that has run this part of the threshold is compiled along with one that is hot. */
const WARM = 64;

/** The physical address in a block's key. */
const PHYSICAL = (1n << 52n) - 1n;

/** A region's type: budget in instructions -> what is left of it. */
export function regionSignature() {
  return signature([Type.i32], [Type.i32]);
}

/** What the JIT needs of the core. */
export interface RegionHost {
  readonly target: Target;
  readonly table: WebAssembly.Table;
  /** The memory that guest RAM lies in. */
  readonly ram: Uint8Array;
  readonly view: DataView;
  instantiate(module: Module): WebAssembly.Instance;
  /** Adds functions that other modules may import. */
  link(exports: WebAssembly.Exports): void;
  /** Address in that memory of a guest physical address, or -1. */
  hostOf(physical: number): number;
  /** Address of the decoded block at a physical address, or 0; `mode` is the block's key without its low 52 bits. */
  blockAt(physical: number, mode: number): number;
  /** Physical address of the page of a linear address, where the instruction TLB knows it, or -1. */
  fetched(linear: bigint): number;
  /** Page number, for {@link RegionJit.dropPage}. */
  pageOf(host: number): number;
  /** The region, or for tests one that compares it first. */
  compared(region: CallableFunction): CallableFunction;
}

/** An entry of a region that is to be compiled. */
interface Hot {
  key: bigint;
  physical: number;
  /** Mode bits of the block's key. */
  mode: bigint;
  /** Physical addresses of the pages before and after, or -1. */
  before: number;
  after: number;
}

/** Counts, for statistics. */
export interface JitStatistics {
  regions: number;
  compiled: number;
  modules: number;
  instructions: number;
  milliseconds: number;
  bytes: number;
}

export class RegionJit {
  readonly statistics: JitStatistics = {
    regions: 0,
    compiled: 0,
    modules: 0,
    instructions: 0,
    milliseconds: 0,
    bytes: 0,
  };
  /** By key. */
  private readonly queue = new Map<bigint, Hot>();
  private waitingSince = 0;
  private next = 1;
  private readonly free: number[] = [];
  /** Bytes of Wasm of regions forgotten since {@link collectCode}. */
  private forgotten = 0;
  private readonly cache: CodeCache;

  /**
   * @param threshold runs of a block before it is compiled; at 1 that is done at once, for tests
   * @param maximumBytes of regions' Wasm
   */
  constructor(private readonly host: RegionHost, private readonly threshold: number, maximumBytes: number) {
    this.cache = new CodeCache(maximumBytes, {
      ask: (region) => this.setHeat(region, 0),
      forget: (region) => this.forget(region),
    });
    const module = new Module();
    defineRegionSupport(module, host.target);
    host.link(host.instantiate(module).exports);
  }

  /** A block has been run often; its HEAT is 0. */
  hot(block: number, physical: number, linear: bigint, mode: bigint): void {
    const key = BigInt(physical) | mode;
    const known = this.cache.find(key);
    this.host.view.setInt32(block + Block.HEAT, known === undefined ? NEVER : -known.number, true);
    if (known !== undefined) return this.cache.ran(known);
    const before = this.host.fetched(linear - 4096n);
    const after = this.host.fetched(linear + 4096n);
    if (this.queue.size === 0) this.waitingSince = performance.now();
    this.queue.set(key, { key, physical, mode, before, after });
    if (this.threshold === 1) this.flush();
  }

  /** To be called between runs: compiles when enough is waiting, or something has waited long enough. */
  poll(): void {
    if (this.queue.size === 0) return;
    if (this.queue.size < BATCH && performance.now() - this.waitingSince < PATIENCE) return;
    this.flush();
  }

  private flush(): void {
    const batch = [...this.queue.values()];
    this.queue.clear();
    this.compile(batch);
    this.cache.makeRoom();
    this.statistics.regions = this.cache.size;
  }

  /** Sets HEAT of a region's entry, where that is decoded. */
  private setHeat(region: CachedRegion, heat: number): void {
    const { host } = this;
    const block = host.blockAt(Number(region.key & PHYSICAL), modeNumber(region.key));
    if (block !== 0) host.view.setInt32(block + Block.HEAT, heat, true);
  }

  /** HEAT of a block that is decoded. */
  heatOf(key: bigint): number {
    const known = this.cache.find(key);
    return known === undefined ? this.threshold : this.cache.isAsked(known) ? 0 : -known.number;
  }

  private compile(batch: Hot[]): void {
    const { host, statistics } = this;
    if (this.forgotten >= FORGOTTEN) {
      this.forgotten = 0;
      collectCode();
    }
    const start = performance.now();
    const module = new Module();
    const made: CachedRegion[] = [];
    for (const { key, physical, mode, before, after } of batch) {
      if (this.cache.find(key) !== undefined || host.blockAt(physical, modeNumber(mode)) === 0) continue;
      const first = physical - physical % 4096;
      const places = [before, first, after].map((page) => (page < 0 ? -1 : host.hostOf(page)));
      if (places[1] < 0) continue;
      const origin = places[0] < 0 ? 0 : -4096;
      const bytes = new Uint8Array((places[0] < 0 ? 0 : 4096) + 4096 + (places[2] < 0 ? 0 : 4096));
      if (places[0] >= 0) bytes.set(host.ram.subarray(places[0], places[0] + 4096));
      bytes.set(host.ram.subarray(places[1], places[1] + 4096), -origin);
      if (places[2] >= 0) bytes.set(host.ram.subarray(places[2], places[2] + 4096), 4096 - origin);
      const pageAt = (offset: number) => (offset < 0 ? before : offset < 4096 ? first : after);
      const bits = modeNumber(mode);
      const region = findRegion({
        bytes,
        origin,
        entry: physical % 4096,
        key: mode,
        warm: (offset) => this.isWarm(host.blockAt(pageAt(offset) + (offset & 4095), bits)),
      });
      if (region === null) continue;
      const others = region.otherPages.map((distance) => ({ distance, physical: pageAt(distance * 4096) }));
      const { locals, code, hints } = generate(host.target, region, others);
      const number = this.free.pop() ?? this.next++;
      module.defineExport(`r${number}`, regionSignature(), locals, code, hints);
      // The pages beside it may be one and the same.
      const pages = new Set([0, ...region.otherPages].map((distance) => host.pageOf(places[distance + 1])));
      made.push({ key, number, bytes: code.length, pages });
      statistics.instructions += region.instructions;
      statistics.bytes += code.length;
    }
    if (made.length > 0) {
      const { exports } = host.instantiate(module);
      while (host.table.length <= REGION_TABLE + this.next) host.table.grow(1024);
      for (const region of made) {
        const { number } = region;
        host.table.set(REGION_TABLE + number, host.compared(exports[`r${number}`] as CallableFunction) as never);
        this.cache.add(region);
        this.setHeat(region, -number);
      }
      statistics.compiled += made.length;
    }
    statistics.modules++;
    statistics.milliseconds += performance.now() - start;
  }

  /** Whether a block has been run often enough to be worth compiling along with others. */
  private isWarm(block: number): boolean {
    if (block === 0) return false;
    const heat = this.host.view.getInt32(block + Block.HEAT, true);
    // Above the threshold: it has been hot once and waits, or is none of its own region.
    return heat <= this.threshold - Math.floor(this.threshold / WARM) || heat > this.threshold;
  }

  /** The code of a page has changed; its blocks are gone already. */
  dropPage(page: number): void {
    this.cache.forgetPage(page);
    this.statistics.regions = this.cache.size;
  }

  /** Forgets all regions. */
  dropAll(): void {
    this.cache.forgetAll();
    this.queue.clear();
    this.statistics.regions = 0;
  }

  private forget(region: CachedRegion): void {
    this.host.table.set(REGION_TABLE + region.number, null);
    this.free.push(region.number);
    this.forgotten += region.bytes;
    // The entry's block may be of another page, and stay.
    this.setHeat(region, this.threshold);
  }
}

function modeNumber(key: bigint): number {
  return Number(key >> 52n);
}
