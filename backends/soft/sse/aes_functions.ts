/** The AES round's pieces (FIPS 197, section 5) on whole vectors, without tables in memory. */
import { type CpuFunc, declare, defineCpuFunction, type Target } from "../cpu_function.ts";
import type { Module } from "../wasm/module.ts";
import { i32, type I64, i64, splat, Type, type V128 } from "../wasm/values.ts";
import { bytes, swizzle } from "./lanes.ts";
import { Simd } from "./simd.ts";

/** The S-box applied to all bytes; and its inverse. */
export const subBytes = declare("aes_sub_bytes", [Type.v128], Type.v128);
export const inverseSubBytes = declare("aes_inverse_sub_bytes", [Type.v128], Type.v128);
/** (a, b) -> the low 64 bits of the carry-less product. */
export const carrylessLow = declare("carryless_low", [Type.i64, Type.i64], Type.i64);
/** Bits in the reverse order. */
export const reverseBits = declare("reverse_bits", [Type.i64], Type.i64);

/** Product in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1. */
function product(a: number, b: number): number {
  let r = 0;
  for (; b; b >>= 1) {
    if (b & 1) r ^= a;
    a = (a << 1) ^ (a & 0x80 ? 0x11b : 0);
  }
  return r;
}

/** The S-box by its definition (FIPS 197, 5.1.1): the inverse in the field, then an affine map. */
function substitution(): number[] {
  return Array.from({ length: 256 }, (_, value) => {
    let inverse = 0;
    for (let i = 1; i < 256 && value; i++) if (product(value, i) === 1) inverse = i;
    let r = 0x63;
    for (let k = 0; k < 5; k++) r ^= ((inverse << k) | (inverse >> (8 - k))) & 0xff;
    return r;
  });
}

const ROTATE = (by: number) => Array.from({ length: 16 }, (_, i) => (i & ~3) | ((i + by) & 3));

/** Twice each byte in the field. */
function double(v: V128): V128 {
  return v.shift(Simd.I8X16_SHL, i32(1)).xor(v.shift(108, i32(7)).and(splat(i32(0x1b), 8)));
}

/** MixColumns. */
export function mixColumns(f: CpuFunc, value: V128): V128 {
  const v = f.v128(value);
  const next = f.v128(v.shuffle(v, ROTATE(1)));
  const rest = v.shuffle(v, ROTATE(2)).xor(v.shuffle(v, ROTATE(3)));
  return double(f.v128(v.xor(next))).xor(next).xor(rest);
}

/** InvMixColumns: MixColumns after a product with 5 + 4x^2. */
export function inverseMixColumns(f: CpuFunc, value: V128): V128 {
  const v = f.v128(value);
  const twice = f.v128(double(f.v128(v.xor(v.shuffle(v, ROTATE(2))))));
  return mixColumns(f, v.xor(double(twice)));
}

export function defineAesFunctions(module: Module, target: Target): void {
  const box = substitution();
  const inverse = Array.from({ length: 256 }, (_, value) => box.indexOf(value));
  for (const [name, table] of [[subBytes, box], [inverseSubBytes, inverse]] as const) {
    defineCpuFunction(module, target, name, (f) => {
      const index = f.v128(f.parameterV128(0));
      const r = f.v128(swizzle(bytes(table.slice(0, 16)), index));
      // Sixteen entries at a time: indices outside of them give 0.
      for (let row = 1; row < 16; row++) {
        f.set(index, index.op2(Simd.I8X16_SUB, splat(i32(16), 8)));
        f.set(r, r.or(swizzle(bytes(table.slice(row * 16, row * 16 + 16)), index)));
      }
      f.return(r);
    });
  }
  defineCpuFunction(module, target, carrylessLow, (f) => {
    // Every fourth bit at a time: the carries of an integer product then stay below the next bit that counts.
    const part = (v: I64, n: number) => f.i64(v.and(0x1111_1111_1111_1111n << BigInt(n)));
    const a = [0, 1, 2, 3].map((n) => part(f.parameter64(0), n));
    const b = [0, 1, 2, 3].map((n) => part(f.parameter64(1), n));
    let r: I64 = i64(0);
    for (let n = 0; n < 4; n++) {
      let sum: I64 = a[0].mul(b[n]);
      for (let k = 1; k < 4; k++) sum = sum.xor(a[k].mul(b[(n - k) & 3]));
      r = r.or(sum.and(BigInt.asUintN(64, 0x1111_1111_1111_1111n << BigInt(n))));
    }
    f.return(r);
  });
  defineCpuFunction(module, target, reverseBits, (f) => {
    const v = f.i64(f.parameter64(0));
    for (
      const [by, mask] of [
        [1, 0x5555_5555_5555_5555n],
        [2, 0x3333_3333_3333_3333n],
        [4, 0x0f0f_0f0f_0f0f_0f0fn],
        [8, 0x00ff_00ff_00ff_00ffn],
        [16, 0x0000_ffff_0000_ffffn],
      ] as const
    ) {
      f.set(v, v.shrU(by).and(mask).or(v.and(mask).shl(by)));
    }
    f.return(v.rotl(32));
  });
}
