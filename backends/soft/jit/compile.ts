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
import { generate } from "./generate.ts";
import { findRegion } from "./region.ts";
import { defineRegionSupport } from "./support.ts";

/** A block that never becomes hot. */
export const NEVER = 0x7fff_ffff;
/** Where regions begin in the table of functions; handlers are below. */
export const REGION_TABLE = 16384;
/** Most regions; beyond, all code is forgotten and what is hot then is compiled anew. */
const MAXIMUM_REGIONS = 8192;
/** Regions a module. */
const BATCH = 16;
/** Looks ({@link RegionJit.poll}) after which fewer are compiled as well. */
const PATIENCE = 2;
/** Runs of a block before it is worth compiling. */
export const DEFAULT_THRESHOLD = 2000;

/** A region's type: budget in instructions -> what is left of it. */
export function regionSignature() {
  return signature([Type.i32], [Type.i32]);
}

/** What the JIT needs of the core. */
export interface RegionHost {
  readonly target: Target;
  readonly table: WebAssembly.Table;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  instantiate(module: Module): WebAssembly.Instance;
  /** Adds functions that other modules may import. */
  link(exports: WebAssembly.Exports): void;
  /** Address in the memory of a guest physical address, or -1. */
  hostOf(physical: number): number;
  /** Address of the decoded block with this key, or 0. */
  blockAt(physical: number, key: bigint): number;
  /** Page number, for {@link RegionJit.dropPage}. */
  pageOf(host: number): number;
  /** Forgets all blocks; calls {@link RegionJit.dropAll}. */
  dropAll(): void;
}

interface Hot {
  physical: number;
  /** Mode bits of the block's key. */
  mode: bigint;
}

/** Counts, for statistics. */
export interface JitStatistics {
  regions: number;
  compiled: number;
  instructions: number;
  milliseconds: number;
  bytes: number;
}

export class RegionJit {
  readonly statistics: JitStatistics = { regions: 0, compiled: 0, instructions: 0, milliseconds: 0, bytes: 0 };
  private queue: Hot[] = [];
  private looks = 0;
  private next = 1;
  private readonly free: number[] = [];
  /** Regions by page, and by entry. */
  private readonly pages = new Map<number, { number: number; key: bigint }[]>();
  private readonly byKey = new Map<bigint, number>();

  /** @param eager compile what becomes hot at once: for tests */
  constructor(private readonly host: RegionHost, private readonly eager: boolean) {
    const module = new Module();
    defineRegionSupport(module, host.target);
    host.link(host.instantiate(module).exports);
  }

  /** A block has been run often; its HEAT is 0. */
  hot(block: number, physical: number, mode: bigint): void {
    const known = this.byKey.get(BigInt(physical) | mode);
    this.host.view.setInt32(block + Block.HEAT, known === undefined ? NEVER : -known, true);
    if (known !== undefined) return;
    this.queue.push({ physical, mode });
    if (this.eager) this.compile(this.queue.splice(0));
  }

  /** To be called between runs: compiles when enough is waiting, or something has waited long enough. */
  poll(): void {
    if (this.queue.length === 0) return;
    if (this.queue.length < BATCH && this.looks++ < PATIENCE) return;
    this.looks = 0;
    if (this.statistics.regions + this.queue.length > MAXIMUM_REGIONS) {
      this.host.dropAll();
      return;
    }
    this.compile(this.queue.splice(0, BATCH));
  }

  private compile(batch: Hot[]): void {
    const { host, statistics } = this;
    const start = performance.now();
    const module = new Module();
    const made: { number: number; page: number; physical: number; mode: bigint }[] = [];
    for (const { physical, mode } of batch) {
      if (this.byKey.has(BigInt(physical) | mode)) continue;
      const first = physical - physical % 4096;
      const base = host.hostOf(first);
      if (base < 0 || host.blockAt(physical, mode) === 0) continue;
      const code = host.bytes.subarray(base, base + 4096);
      const region = findRegion(code, physical % 4096, mode, (offset) => host.blockAt(first + offset, mode) !== 0);
      if (region === null) continue;
      const { locals, code: body, hints } = generate(host.target, region);
      const number = this.free.pop() ?? this.next++;
      module.defineExport(`r${number}`, regionSignature(), locals, body, hints);
      made.push({ number, page: host.pageOf(base), physical, mode });
      statistics.instructions += region.instructions;
      statistics.bytes += body.length;
    }
    if (made.length > 0) {
      const { exports } = host.instantiate(module);
      while (host.table.length <= REGION_TABLE + this.next) host.table.grow(1024);
      for (const { number, page, physical, mode } of made) {
        host.table.set(REGION_TABLE + number, exports[`r${number}`] as never);
        const key = BigInt(physical) | mode;
        this.byKey.set(key, number);
        const list = this.pages.get(page);
        if (list) list.push({ number, key });
        else this.pages.set(page, [{ number, key }]);
        host.view.setInt32(host.blockAt(physical, mode) + Block.HEAT, -number, true);
      }
      statistics.regions += made.length;
      statistics.compiled += made.length;
    }
    statistics.milliseconds += performance.now() - start;
  }

  /** The code of a page has changed; its blocks are gone already. */
  dropPage(page: number): void {
    const list = this.pages.get(page);
    if (!list) return;
    this.pages.delete(page);
    for (const { number, key } of list) this.drop(number, key);
  }

  /** Forgets all regions. */
  dropAll(): void {
    for (const [key, number] of this.byKey) this.drop(number, key);
    this.pages.clear();
    this.queue = [];
    this.looks = 0;
  }

  private drop(number: number, key: bigint): void {
    this.byKey.delete(key);
    this.host.table.set(REGION_TABLE + number, null);
    this.free.push(number);
    this.statistics.regions--;
  }
}
