/** The regions that stand in the table: found by their entry and by page, and bounded: what has not run for long goes. */

/** The part of the regions that is asked for a sign of life, so that it is known which have not run for long. */
const ASKED = 1 / 4;
/** The part that is left unasked after it was made. */
const FRESH = 1 / 8;
/** The part of the bytes that is made free at a time. */
const ROOM = 1 / 64;

/** A region that stands in the table. */
export interface CachedRegion {
  /** Of its entry's block. */
  readonly key: bigint;
  /** Its place in the table. */
  readonly number: number;
  /** Of Wasm. */
  readonly bytes: number;
  /** Numbers of the pages with code of it. */
  readonly pages: ReadonlySet<number>;
}

/** What is to be done with a region. */
export interface CodeCacheActions {
  /** Has its next run told to {@link CodeCache.ran}. */
  ask(region: CachedRegion): void;
  /** It is no more. */
  forget(region: CachedRegion): void;
}

/**
 * Once three quarters of the bytes are used, a quarter of the regions is asked for a sign of life: those that have given
 * none go first.
 */
export class CodeCache {
  private readonly byKey = new Map<bigint, CachedRegion>();
  private readonly byPage = new Map<number, Set<CachedRegion>>();
  /** Each is in one of these: not asked since it was made; gave a sign of life; asked. The first are the oldest. */
  private readonly fresh = new Set<CachedRegion>();
  private readonly proven = new Set<CachedRegion>();
  private readonly asked = new Set<CachedRegion>();
  private used = 0;

  /** @param maximum bytes of Wasm of all regions */
  constructor(private readonly maximum: number, private readonly actions: CodeCacheActions) {}

  /** How many regions there are. */
  get size(): number {
    return this.byKey.size;
  }

  /** Bytes of Wasm of all regions. */
  get bytes(): number {
    return this.used;
  }

  /** The region of an entry. */
  find(key: bigint): CachedRegion | undefined {
    return this.byKey.get(key);
  }

  /** Whether a region's next run is to be told. */
  isAsked(region: CachedRegion): boolean {
    return this.asked.has(region);
  }

  /** A region that may have been asked runs. */
  ran(region: CachedRegion): void {
    if (this.asked.delete(region)) this.proven.add(region);
  }

  /** Adds a region; there must be none of its key. */
  add(region: CachedRegion): void {
    this.byKey.set(region.key, region);
    this.fresh.add(region);
    this.used += region.bytes;
    for (const page of region.pages) {
      const regions = this.byPage.get(page);
      if (regions) regions.add(region);
      else this.byPage.set(page, new Set([region]));
    }
  }

  /** Forgets regions where there is too much code. */
  makeRoom(): void {
    const { byKey, fresh, proven, asked, maximum } = this;
    if (this.used > maximum) {
      for (const regions of [asked, fresh, proven]) {
        for (const region of regions) {
          if (this.used <= maximum * (1 - ROOM)) break;
          this.forget(region);
        }
      }
    }
    if (this.used < maximum * (1 - ASKED) || asked.size > byKey.size * (ASKED - ROOM)) return;
    // Most code runs for a short time only: what has been used again is asked when there is little else.
    for (const [regions, left] of [[fresh, byKey.size * FRESH], [proven, 0]] as const) {
      for (const region of regions) {
        if (asked.size >= byKey.size * ASKED || regions.size <= left) break;
        regions.delete(region);
        asked.add(region);
        this.actions.ask(region);
      }
    }
  }

  /** Forgets the regions with code of a page. */
  forgetPage(page: number): void {
    const regions = this.byPage.get(page);
    if (regions === undefined) return;
    for (const region of regions) this.forget(region);
  }

  /** Forgets all regions. */
  forgetAll(): void {
    for (const region of this.byKey.values()) this.forget(region);
  }

  private forget(region: CachedRegion): void {
    this.byKey.delete(region.key);
    this.fresh.delete(region);
    this.proven.delete(region);
    this.asked.delete(region);
    this.used -= region.bytes;
    for (const page of region.pages) {
      const regions = this.byPage.get(page)!;
      regions.delete(region);
      if (regions.size === 0) this.byPage.delete(page);
    }
    this.actions.forget(region);
  }
}
