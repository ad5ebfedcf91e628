/** The body of a region's function: notes which branches are unlikely, and stores through the JIT's own slow paths. */
import { CpuFunc, type Target } from "../cpu_function.ts";
import { load128Slow, loadForWriteSlow, loadSlow, store128Slow, storeSlow } from "../emitter.ts";
import type { Pointer } from "../wasm/memory.ts";
import type { BranchHint, FunctionName } from "../wasm/module.ts";
import type { Local } from "../wasm/function.ts";
import { type I32, type I64, Low32, Type, type Value } from "../wasm/values.ts";
import { regionLoad, regionLoad128, regionLoadForWrite, regionStore, regionStore128 } from "./support.ts";

/** What outside 64-bit mode stands for the slow loads. */
const NARROW = new Map<FunctionName, FunctionName>([[loadSlow, regionLoad], [load128Slow, regionLoad128]]);

export class RegionFunc extends CpuFunc {
  private readonly hints: BranchHint[] = [];
  private cold = false;

  /**
   * Parameter 0 is the budget.
   * @param narrow linear addresses have 32 bits
   */
  constructor(target: Target, private readonly narrow: boolean) {
    super(target, [Type.i32]);
  }

  /** A variable of a 32-bit computation is an i32; it is never assigned again. */
  override i64(initial?: I64 | number | bigint): Local<I64> {
    if (!(initial instanceof Low32)) return super.i64(initial);
    const half = this.i32(initial.i32());
    return Object.assign(Low32.of(half), { index: half.index });
  }

  /** The code being emitted runs rarely. */
  markCold(): void {
    this.cold = true;
  }

  override if(condition: I32, then: () => void, otherwise?: () => void): void {
    const at = this.code.length + condition.code.length;
    const outer = this.cold;
    let thenCold = false;
    let otherwiseCold = false;
    super.if(
      condition,
      () => {
        this.cold = false;
        then();
        thenCold = this.cold;
      },
      otherwise && (() => {
        this.cold = false;
        otherwise();
        otherwiseCold = this.cold;
      }),
    );
    this.cold = outer;
    if (thenCold !== otherwiseCold) this.hints.push({ at, likely: otherwiseCold });
  }

  /** An `if` of the guest's own: nothing is known of it. */
  plainIf(condition: I32, then: () => void, otherwise?: () => void): void {
    const outer = this.cold;
    super.if(condition, then, otherwise);
    this.cold = outer;
  }

  /** A store to a page with code must not happen in a region that may be of that code. */
  override do(name: FunctionName, ...args: (Value | number)[]): void {
    super.do(name === storeSlow ? regionStore : name === store128Slow ? regionStore128 : name, ...args);
  }

  override call64(name: FunctionName, ...args: (Value | number)[]): I64 {
    if (name === loadForWriteSlow) return super.call64(regionLoadForWrite, ...args);
    return super.call64((this.narrow && NARROW.get(name)) || name, ...args);
  }
  override callPointer(name: FunctionName, ...args: (Value | number)[]): Pointer {
    return super.callPointer((this.narrow && NARROW.get(name)) || name, ...args);
  }

  /** Takes all code and hints emitted so far away. */
  take(): { code: number[]; hints: BranchHint[] } {
    return { code: this.code.splice(0), hints: this.hints.splice(0) };
  }

  /** Puts taken code behind what there is. */
  append({ code, hints }: { code: number[]; hints: BranchHint[] }): void {
    const at = this.code.length;
    for (let i = 0; i < code.length; i++) this.code.push(code[i]);
    for (const hint of hints) this.hints.push({ at: hint.at + at, likely: hint.likely });
  }

  /** Branch hints in the order of the code. */
  sortedHints(): BranchHint[] {
    return this.hints.sort((a, b) => a.at - b.at);
  }
}
