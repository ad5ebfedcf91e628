/** String comparison of SSE4.2 (SDM vol. 1, 12.12; vol. 2, 4.1) as a Wasm function. */
import { type CpuFunc, declare, defineCpuFunction, type Target } from "../cpu_function.ts";
import { State } from "../layout.ts";
import { pointerOf32 } from "../wasm/memory.ts";
import type { Module } from "../wasm/module.ts";
import { type I32, i32, select, splat, Type, type V128 } from "../wasm/values.ts";
import { zero } from "./lanes.ts";
import { Simd } from "./simd.ts";

const V = Type.v128;
/** (a, b, immediate, length of a, length of b) -> IntRes2. */
export const compareStrings = declare("sse_compare_strings", [V, V, Type.i32, Type.i32, Type.i32], Type.i32);
/** (v, 1 for words) -> how many elements stand before the first zero. */
export const stringLength = declare("sse_string_length", [V, Type.i32], Type.i32);

const bytes = {
  count: 16,
  bits: 8 as const,
  eq: Simd.I8X16_EQ,
  geS: 43,
  geU: 44,
  leS: 41,
  leU: 42,
  mask: Simd.I8X16_BITMASK,
};
const words = { count: 8, bits: 16 as const, eq: Simd.I16X8_EQ, geS: 53, geU: 54, leS: 51, leU: 52, mask: 132 };

export function defineStringFunctions(module: Module, target: Target): void {
  defineCpuFunction(module, target, stringLength, (f) => {
    const v = f.parameterV128(0);
    const length = (form: typeof bytes | typeof words) => () =>
      f.return(v.op2(form.eq, zero()).test(form.mask).or(1 << form.count).ctz());
    f.if(f.parameter32(1), length(words), length(bytes));
  });

  defineCpuFunction(module, target, compareStrings, (f) => {
    const immediate = f.parameter32(2);
    f.if(immediate.and(1), () => compare(f, words), () => compare(f, bytes));
  });
}

function compare(f: CpuFunc, form: typeof bytes | typeof words): void {
  const { count, bits } = form;
  const a = f.parameterV128(0);
  const b = f.parameterV128(1);
  const immediate = f.parameter32(2);
  const aLength = f.parameter32(3);
  const bLength = f.parameter32(4);
  const all = (1 << count) - 1;
  const validA = f.i32(i32(1).shl(aLength).sub(1));
  const validB = f.i32(i32(1).shl(bLength).sub(1));
  const result = f.i32(0);
  f.setV128(State.SCRATCH, a);
  /** Element `j` of a in all lanes. */
  const spread = (j: I32): V128 => {
    const at = pointerOf32(bits === 8 ? j : j.shl(1)).add(f.place(State.SCRATCH));
    return splat(bits === 8 ? at.u8() : at.u16(), bits);
  };
  const test = (v: V128) => v.test(form.mask);
  const j = f.i32(0);
  const each = (step: number, limit: I32, body: () => void) => {
    f.block((done) =>
      f.loop((again) => {
        f.brIf(done, j.geU(limit));
        body();
        f.set(j, j.add(step));
        f.br(again);
      })
    );
  };
  f.switch(immediate.shrU(2).and(3), [
    // Equal any.
    () => each(1, aLength, () => f.set(result, result.or(test(spread(j).op2(form.eq, b)).and(validB)))),
    // Ranges.
    () =>
      each(2, aLength.and(~1), () => {
        const signed = b.op2(form.geS, spread(j)).and(b.op2(form.leS, spread(j.add(1))));
        const unsigned = b.op2(form.geU, spread(j)).and(b.op2(form.leU, spread(j.add(1))));
        f.set(result, result.or(select(immediate.has(2), test(signed), test(unsigned)).and(validB)));
      }),
    // Equal each: two ends are equal, an end and an element are not.
    () => {
      const equal = test(a.op2(form.eq, b)).and(validA).and(validB);
      f.set(result, equal.or(validA.or(validB).xor(-1).and(all)));
    },
  ], () => {
    // Equal ordered: what reaches beyond the vector counts as equal.
    f.set(result, all);
    each(1, aLength, () => {
      const equal = test(spread(j).op2(form.eq, b)).and(validB).or(-1 << count);
      f.set(result, result.and(equal.shrS(j)));
    });
  });
  f.if(immediate.has(0x10), () => {
    f.set(result, result.xor(select(immediate.has(0x20), validB as I32, i32(all))));
  });
  f.return(result.and(all));
}
