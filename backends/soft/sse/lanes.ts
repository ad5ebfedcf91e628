/** Helpers for whole vectors: zero, rearrangement by numbers known only at run time, MMX values as vectors. */
import type { CpuFunc } from "../cpu_function.ts";
import { type I32, i32, type I64, splat, V128, v128 } from "../wasm/values.ts";
import { Simd } from "./simd.ts";

/** All zeros. */
export const zero: () => V128 = () => v128(0n, 0n);

/** A constant of 16 bytes, the lowest first. */
export function bytes(values: readonly number[]): V128 {
  return new V128([0xfd, 12, ...values.map((value) => value & 0xff)]);
}

/** A constant of four 32-bit lanes, the lowest first. */
export function words32(values: readonly number[]): V128 {
  return new V128([0xfd, 12, ...new Uint8Array(new Int32Array(values).buffer)]);
}

/** A constant of eight 16-bit lanes. */
export function words16(values: readonly number[]): V128 {
  return new V128([0xfd, 12, ...new Uint8Array(new Int16Array(values).buffer)]);
}

/** 64 bits, zero-extended to a vector. */
export function low(value: I64): V128 {
  return zero().withI64(0, value);
}

/** The low half of `a` below the low half of `b`. */
export function join(a: V128, b: V128): V128 {
  return a.shuffle(b, [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23]);
}

/** Bytes of `v` by the indices in `indices`; 0 for an index above 15. */
export function swizzle(v: V128, indices: V128): V128 {
  return v.op2(Simd.I8X16_SWIZZLE, indices);
}

const IOTA = Array.from({ length: 16 }, (_, i) => i);

/** Bytes `from` to `from + 15` of `a` above `b` (32 bytes) above zeros; `from` is at most 239. */
export function window(f: CpuFunc, a: V128 | null, b: V128, from: I32): V128 {
  const at = f.v128(splat(from, 8).op2(Simd.I8X16_ADD, bytes(IOTA)));
  const lower = swizzle(b, at);
  if (a === null) return lower;
  return lower.or(swizzle(a, at.op2(Simd.I8X16_SUB, splat(i32(16), 8))));
}

/** All bytes moved up by `count` (16 or more: zeros). */
export function shiftUp(v: V128, count: I32): V128 {
  return swizzle(v, bytes(IOTA).op2(Simd.I8X16_SUB, splat(count, 8)));
}

/** A mask of all ones in the lane (of so many bytes) with number `lane`, which is below their count. */
export function laneMask(lane: I32, size: 1 | 2 | 4 | 8): V128 {
  const numbers = IOTA.map((i) => Math.floor(i / size));
  return splat(lane, 8).op2(Simd.I8X16_EQ, bytes(numbers));
}
