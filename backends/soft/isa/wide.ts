/** 64 x 64 -> 128 bit multiplication and 128 / 64 bit division. */
import { type CpuFunc, declare, defineCpuFunction, type Target } from "../cpu_function.ts";
import { raise, Vector } from "../emitter.ts";
import { State } from "../layout.ts";
import type { Module } from "../wasm/module.ts";
import { type I64, i64, select, Type } from "../wasm/values.ts";

/** High 64 bits of the unsigned and the signed product. */
export const multiplyHigh = declare("multiply_high", [Type.i64, Type.i64], Type.i64);
export const multiplyHighSigned = declare("multiply_high_signed", [Type.i64, Type.i64], Type.i64);
/** (high, low, divisor not 0) -> quotient; sets FAULT to #DE when it does not fit. */
export const divideUnsigned = declare("divide_unsigned", [Type.i64, Type.i64, Type.i64], Type.i64);
export const divideSigned = declare("divide_signed", [Type.i64, Type.i64, Type.i64], Type.i64);
/** The remainder of the last division. */
export const remainderOfDivision = declare("remainder_of_division", [], Type.i64);

/** The high half of an unsigned product, in place. */
export function highProduct(f: CpuFunc, a: I64, b: I64): I64 {
  const a0 = f.i64(a.u32());
  const a1 = f.i64(a.shrU(32));
  const b0 = f.i64(b.u32());
  const b1 = f.i64(b.shrU(32));
  const middle = f.i64(a1.mul(b0).add(a0.mul(b0).shrU(32)));
  const other = f.i64(a0.mul(b1).add(middle.u32()));
  return a1.mul(b1).add(middle.shrU(32)).add(other.shrU(32));
}

export function defineWideArithmetic(module: Module, target: Target): void {
  defineCpuFunction(module, target, multiplyHigh, (f) => {
    f.return(highProduct(f, f.parameter64(0), f.parameter64(1)));
  });
  defineCpuFunction(module, target, multiplyHighSigned, (f) => {
    const a = f.parameter64(0);
    const b = f.parameter64(1);
    f.return(highProduct(f, a, b).sub(a.shrS(63).and(b)).sub(b.shrS(63).and(a)));
  });
  defineCpuFunction(module, target, remainderOfDivision, (f) => f.return(f.s64(State.SCRATCH)));
  defineCpuFunction(module, target, divideUnsigned, (f) => {
    const high = f.parameter64(0);
    const low = f.parameter64(1);
    const divisor = f.parameter64(2);
    f.if(high.eqz(), () => {
      f.set64(State.SCRATCH, low.remU(divisor));
      f.return(low.divU(divisor));
    });
    f.if(high.geU(divisor), () => {
      f.do(raise, Vector.DE, -1);
      f.return(i64(0));
    });
    // Knuth, TAOCP vol. 2, 4.3.1 algorithm D with two 32-bit digits; the divisor normalized to have its top bit set.
    const shift = f.i64(divisor.clz());
    const d = f.i64(divisor.shl(shift));
    const d1 = f.i64(d.shrU(32));
    const d0 = f.i64(d.u32());
    const top = f.i64(select(shift.eqz(), high, high.shl(shift).or(low.shrU(i64(64).sub(shift)))));
    const bottom = f.i64(low.shl(shift));
    const quotient = f.i64(0);
    const remainder = f.i64(top);
    for (const digit of [bottom.shrU(32), bottom.u32()]) {
      const q = f.i64(remainder.divU(d1));
      const r = f.i64(remainder.sub(q.mul(d1)));
      f.block((done) => {
        f.loop((again) => {
          const tooBig = q.shrU(32).ne(0).or(q.mul(d0).gtU(r.shl(32).or(digit)));
          f.brIf(done, tooBig.eqz());
          f.set(q, q.sub(1));
          f.set(r, r.add(d1));
          f.brIf(again, r.shrU(32).eqz());
        });
      });
      f.set(remainder, remainder.shl(32).or(digit).sub(q.mul(d)));
      f.set(quotient, quotient.shl(32).or(q));
    }
    f.set64(State.SCRATCH, remainder.shrU(shift));
    f.return(quotient);
  });
  defineCpuFunction(module, target, divideSigned, (f) => {
    const high = f.parameter64(0);
    const low = f.parameter64(1);
    const divisor = f.parameter64(2);
    const negative = f.i64(high.shrS(63));
    const sign = f.i64(divisor.shrS(63));
    // |dividend| = (dividend ^ s) - s over 128 bits.
    const l = f.i64(low.xor(negative));
    const h = f.i64(high.xor(negative));
    f.set(l, l.sub(negative));
    f.set(h, h.add(negative.and(l.eqz().i64u())));
    const d = f.i64(divisor.xor(sign).sub(sign));
    const q = f.i64(f.call64(divideUnsigned, h, l, d));
    f.if(f.s32(State.FAULT), () => f.return(i64(0)));
    const qs = f.i64(negative.xor(sign));
    f.set64(State.SCRATCH, f.s64(State.SCRATCH).xor(negative).sub(negative));
    // The quotient fits when it is below 2^63, or 2^63 itself and negative.
    f.if(q.gtU(i64((1n << 63n) - 1n).sub(qs)), () => {
      f.do(raise, Vector.DE, -1);
      f.return(i64(0));
    });
    f.return(q.xor(qs).sub(qs));
  });
}
