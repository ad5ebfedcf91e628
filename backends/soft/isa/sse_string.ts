/** SSE4.2: string comparison. */
import type { Emitter } from "../emitter.ts";
import { Reg } from "../layout.ts";
import { low, words16 } from "../sse/lanes.ts";
import { Simd } from "../sse/simd.ts";
import { compareStrings, stringLength } from "../sse/string_functions.ts";
import type { Local } from "../wasm/function.ts";
import { type I32, i32, select, splat, v128 } from "../wasm/values.ts";
import { type Emit, op } from "./table.ts";

const sse = { unit: "sse" } as const;

/** The magnitude of a length in a register, at most `limit`. */
function explicitLength(e: Emitter, number: number, limit: I32): Local<I32> {
  const { f } = e;
  const wide = f.i64(e.bits === 64 ? e.reg(number) : e.reg(number).s32());
  f.if(wide.ltS(0), () => f.set(wide, wide.neg()));
  return f.i32(select(wide.gtU(limit.i64u()), limit, wide.i32()));
}

const comparison = (explicit: boolean, index: boolean): Emit => (e) => {
  const { f } = e;
  const b = e.readVector(1, true);
  const a = f.v128(e.readXmm(0));
  const immediate = f.i32(e.immediate(2).i32());
  const words = immediate.and(1);
  const count = f.i32(select(words, i32(8), i32(16)));
  const aLength = explicit ? explicitLength(e, Reg.AX, count) : f.i32(f.call32(stringLength, a, words));
  const bLength = explicit ? explicitLength(e, Reg.DX, count) : f.i32(f.call32(stringLength, b, words));
  const result = f.i32(f.call32(compareStrings, a, b, immediate, aLength, bLength));
  if (index) {
    const last = i32(31).sub(result.clz());
    const first = result.ctz();
    const found = select(immediate.has(0x40), last, first);
    e.setReg(Reg.CX, select(result, found, count as I32).i64u());
  } else {
    const spreadBytes = splat(result.and(0xff), 8).withI64(1, splat(result.shrU(8), 8).i64(0));
    const byteBits = v128(0x8040_2010_0804_0201n, 0x8040_2010_0804_0201n);
    const wordBits = words16([1, 2, 4, 8, 16, 32, 64, 128]);
    const byteMask = spreadBytes.and(byteBits).op2(Simd.I8X16_EQ, byteBits);
    const wordMask = splat(result, 16).and(wordBits).op2(Simd.I16X8_EQ, wordBits);
    e.setXmm(0, select(immediate.has(0x40), select(words, wordMask, byteMask), low(result.i64u())));
  }
  const flags = result.ne(0).or(bLength.ltU(count).shl(6)).or(aLength.ltU(count).shl(7)).or(result.and(1).shl(11));
  e.flagsExplicit(f.i32(flags));
};
// The length, the index and XMM0 are registers of their own, which a tier that keeps registers elsewhere must know.
const fixed = { ...sse, system: true } as const;
op("pcmpestrm", "66 0F 3A 60 /r", "Vx Wx Ib", comparison(true, false), fixed);
op("pcmpestri", "66 0F 3A 61 /r", "Vx Wx Ib", comparison(true, true), fixed);
op("pcmpistrm", "66 0F 3A 62 /r", "Vx Wx Ib", comparison(false, false), fixed);
op("pcmpistri", "66 0F 3A 63 /r", "Vx Wx Ib", comparison(false, true), fixed);
