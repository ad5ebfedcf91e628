/** SSE and SSE2 conversions between singles, doubles and integers. */
import type { Emitter } from "../emitter.ts";
import { State } from "../layout.ts";
import {
  beginOperation,
  changeFormatLane,
  commit,
  DOUBLE,
  type Format,
  fromIntegerLane,
  PLAIN_BIT,
  SINGLE,
  toIntegerLane,
} from "../sse/float_functions.ts";
import { low, zero } from "../sse/lanes.ts";
import { Simd } from "../sse/simd.ts";
import { checkPending, enterMmx, readMmx, writeMmx } from "../sse/state.ts";
import type { Local } from "../wasm/function.ts";
import type { I64, V128 } from "../wasm/values.ts";
import { type Emit, op } from "./table.ts";

const sse = { unit: "sse" } as const;
const mmx = { unit: "mmx" } as const;

const readBits = (e: Emitter, index: number, format: Format): Local<I64> =>
  format === DOUBLE ? e.readLow64(index) : e.f.i64(e.readLow32(index).i64u());
const writeLow = (e: Emitter, format: Format, value: I64) =>
  e.writeXmm(0, format === DOUBLE ? e.readXmm(0).withI64(0, value) : e.readXmm(0).withI32(0, value.i32()));

/** Runs `slow` between the beginning and the end of an operation that gathers flags. */
function exactly(e: Emitter, slow: () => void): void {
  beginOperation(e.f);
  slow();
  e.f.do(commit);
  e.faultIf(e.f.s32(State.FAULT));
}

// One integer.
const fromInteger = (format: Format): Emit => (e) => {
  const { f } = e;
  const value = e.read(1);
  const r = f.i64();
  // Integers that the format holds exactly raise nothing.
  const limit = 2 ** (format.fraction + 1);
  f.if(value.add(limit).leU(2 * limit), () => {
    f.set(r, format === DOUBLE ? value.f64s().bits() : value.f32s().bits().i64u());
  }, () => exactly(e, () => f.set(r, f.call64(fromIntegerLane[format.bits], value))));
  writeLow(e, format, r);
};
op("cvtsi2ss", "F3 0F 2A /r", "Vx Ey", fromInteger(SINGLE), sse);
op("cvtsi2sd", "F2 0F 2A /r", "Vx Ey", fromInteger(DOUBLE), sse);

const toInteger = (format: Format, truncated: boolean): Emit => (e) => {
  const { f } = e;
  const value = readBits(e, 1, format);
  const r = f.i64();
  const bits = e.operands[0].bits;
  exactly(e, () => f.set(r, f.call64(toIntegerLane[format.bits], value, truncated ? 1 : 0, bits)));
  e.write(0, r);
};
op("cvttss2si", "F3 0F 2C /r", "Gy Wd", toInteger(SINGLE, true), sse);
op("cvttsd2si", "F2 0F 2C /r", "Gy Wq", toInteger(DOUBLE, true), sse);
op("cvtss2si", "F3 0F 2D /r", "Gy Wd", toInteger(SINGLE, false), sse);
op("cvtsd2si", "F2 0F 2D /r", "Gy Wq", toInteger(DOUBLE, false), sse);

// Between the formats.
op("cvtss2sd", "F3 0F 5A /r", "Vx Wd", (e) => {
  const { f } = e;
  const value = readBits(e, 1, SINGLE);
  const r = f.i64();
  const shifted = value.i32().shl(1);
  // Neither denormal nor NaN: exact.
  f.if(shifted.sub(1).geU(0x00ff_ffff).and(shifted.leU(0xff00_0000 | 0)), () => {
    f.set(r, value.i32().bitsF32().f64().bits());
  }, () => exactly(e, () => f.set(r, f.call64(changeFormatLane[64], value))));
  writeLow(e, DOUBLE, r);
}, sse);
op("cvtsd2ss", "F2 0F 5A /r", "Vx Wq", (e) => {
  const { f } = e;
  const value = readBits(e, 1, DOUBLE);
  const r = f.i64(value.bitsF64().f32().bits().i64u());
  const ordinary = r.i32().shl(1).sub(0x0200_0000).ltU(0xfe00_0000 - 0x0100_0000 | 0);
  f.if(f.s32(State.SSE_PLAIN).shrU(PLAIN_BIT).and(ordinary).eqz(), () => {
    exactly(e, () => f.set(r, f.call64(changeFormatLane[32], value)));
  });
  writeLow(e, SINGLE, r);
}, sse);

/** The source's low `bits`, or all 128. */
function source(e: Emitter, bits: 64 | 128): Local<V128> {
  if (bits === 128) return e.readVector(1);
  return e.isMemory(1) ? e.f.v128(low(e.load(e.address(1), 64))) : e.f.v128(e.readXmm(1));
}
const lane32 = (v: V128, n: number): I64 => v.i32(n).i64u();

op("cvtps2pd", "NP 0F 5A /r", "Vx Wq", (e) => {
  const { f } = e;
  const v = source(e, 64);
  const r = f.v128(zero());
  exactly(e, () => {
    for (let n = 0; n < 2; n++) f.set(r, r.withI64(n, f.call64(changeFormatLane[64], lane32(v, n))));
  });
  e.writeXmm(0, r);
}, sse);
op("cvtpd2ps", "66 0F 5A /r", "Vx Wx", (e) => {
  const { f } = e;
  const v = source(e, 128);
  const r = f.v128(zero());
  exactly(e, () => {
    for (let n = 0; n < 2; n++) f.set(r, r.withI32(n, f.call64(changeFormatLane[32], v.i64(n)).i32()));
  });
  e.writeXmm(0, r);
}, sse);

// Packed integers.
op("cvtdq2pd", "F3 0F E6 /r", "Vx Wq", (e) => {
  e.writeXmm(0, source(e, 64).op1(Simd.F64X2_CONVERT_LOW_I32X4_S));
}, sse);
op("cvtdq2ps", "NP 0F 5B /r", "Vx Wx", (e) => {
  const { f } = e;
  const v = e.readVector(1);
  const r = f.v128(v.op1(Simd.F32X4_CONVERT_I32X4_S));
  f.if(f.s32(State.SSE_PLAIN).eqz(), () => {
    exactly(e, () => {
      for (let n = 0; n < 4; n++) {
        f.set(r, r.withI32(n, f.call64(fromIntegerLane[32], v.i32(n).i64s()).i32()));
      }
    });
  });
  e.writeXmm(0, r);
}, sse);
const packedToInteger = (format: Format, truncated: boolean): Emit => (e) => {
  const { f } = e;
  const v = e.readVector(1);
  const r = f.v128(zero());
  exactly(e, () => {
    for (let n = 0; n < 128 / format.bits; n++) {
      const lane = format === DOUBLE ? v.i64(n) : lane32(v, n);
      f.set(r, r.withI32(n, f.call64(toIntegerLane[format.bits], lane, truncated ? 1 : 0, 32).i32()));
    }
  });
  e.writeXmm(0, r);
};
op("cvtps2dq", "66 0F 5B /r", "Vx Wx", packedToInteger(SINGLE, false), sse);
op("cvttps2dq", "F3 0F 5B /r", "Vx Wx", packedToInteger(SINGLE, true), sse);
op("cvtpd2dq", "F2 0F E6 /r", "Vx Wx", packedToInteger(DOUBLE, false), sse);
op("cvttpd2dq", "66 0F E6 /r", "Vx Wx", packedToInteger(DOUBLE, true), sse);

// MMX registers and memory as packed integers. A memory source leaves the x87 state alone.
const readIntegers = (e: Emitter): Local<I64> => {
  if (!e.isMemory(1)) checkPending(e);
  return readMmx(e, 1);
};
const lane = (v: I64, n: number): I64 => v.shrU(32 * n).s32();
op("cvtpi2ps", "NP 0F 2A /r", "Vx Qq", (e) => {
  const { f } = e;
  const v = readIntegers(e);
  const r = f.v128(e.readXmm(0));
  if (!e.isMemory(1)) enterMmx(e);
  exactly(e, () => {
    for (let n = 0; n < 2; n++) f.set(r, r.withI32(n, f.call64(fromIntegerLane[32], lane(v, n)).i32()));
  });
  e.writeXmm(0, r);
}, mmx);
op("cvtpi2pd", "66 0F 2A /r", "Vx Qq", (e) => {
  const v = readIntegers(e);
  if (!e.isMemory(1)) enterMmx(e);
  e.writeXmm(0, low(v).op1(Simd.F64X2_CONVERT_LOW_I32X4_S));
}, mmx);
const toMmx = (format: Format, truncated: boolean): Emit => (e) => {
  const { f } = e;
  checkPending(e);
  const v = source(e, format === DOUBLE ? 128 : 64);
  const r = f.i64();
  enterMmx(e);
  exactly(e, () => {
    const convert = (n: number) =>
      f.i64(
        f.call64(
          toIntegerLane[format.bits],
          format === DOUBLE ? v.i64(n) : lane32(v, n),
          truncated ? 1 : 0,
          32,
        ),
      );
    const first = convert(0);
    f.set(r, first.u32().or(convert(1).shl(32)));
  });
  writeMmx(e, 0, r);
};
op("cvttps2pi", "NP 0F 2C /r", "Pq Wq", toMmx(SINGLE, true), mmx);
op("cvtps2pi", "NP 0F 2D /r", "Pq Wq", toMmx(SINGLE, false), mmx);
op("cvttpd2pi", "66 0F 2C /r", "Pq Wx", toMmx(DOUBLE, true), mmx);
op("cvtpd2pi", "66 0F 2D /r", "Pq Wx", toMmx(DOUBLE, false), mmx);
