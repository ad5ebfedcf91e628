/** AES-NI and PCLMULQDQ. */
import {
  carrylessLow,
  inverseMixColumns,
  inverseSubBytes,
  mixColumns,
  reverseBits,
  subBytes,
} from "../sse/aes_functions.ts";
import { words32 } from "../sse/lanes.ts";
import { select, splat, type V128 } from "../wasm/values.ts";
import { type Emit, op } from "./table.ts";

const sse = { unit: "sse" } as const;

// ShiftRows and its inverse as byte orders: row r of the state turns by r columns (FIPS 197, 5.1.2).
const order = (direction: 1 | -1) =>
  Array.from({ length: 16 }, (_, i) => ((((i >> 2) + direction * (i & 3)) & 3) << 2) | (i & 3));
const shiftRows = (v: V128) => v.shuffle(v, order(1));
const inverseShiftRows = (v: V128) => v.shuffle(v, order(-1));

const round = (last: boolean, inverse: boolean): Emit => (e) => {
  const { f } = e;
  const key = e.readVector(1);
  const state = f.v128(e.readXmm(0));
  const substituted = inverse
    ? f.callV128(inverseSubBytes, inverseShiftRows(state))
    : f.callV128(subBytes, shiftRows(state));
  const mixed = last ? substituted : (inverse ? inverseMixColumns : mixColumns)(f, substituted);
  e.writeXmm(0, mixed.xor(key));
};
op("aesenc", "66 0F 38 DC /r", "Vx Wx", round(false, false), sse);
op("aesenclast", "66 0F 38 DD /r", "Vx Wx", round(true, false), sse);
op("aesdec", "66 0F 38 DE /r", "Vx Wx", round(false, true), sse);
op("aesdeclast", "66 0F 38 DF /r", "Vx Wx", round(true, true), sse);
op("aesimc", "66 0F 38 DB /r", "Vx Wx", (e) => {
  e.writeXmm(0, inverseMixColumns(e.f, e.readVector(1)));
}, sse);
op("aeskeygenassist", "66 0F 3A DF /r", "Vx Wx Ib", (e) => {
  const { f } = e;
  const source = e.readVector(1);
  const words = f.v128(f.callV128(subBytes, source));
  // SubWord of words 1 and 3, each as it is and turned by a byte with the round constant.
  const turned = words.shuffle(words, [4, 5, 6, 7, 5, 6, 7, 4, 12, 13, 14, 15, 13, 14, 15, 12]);
  const constant = splat(e.immediate(2).i32().and(0xff), 32).and(words32([0, -1, 0, -1]));
  e.writeXmm(0, turned.xor(constant));
}, sse);

op("pclmulqdq", "66 0F 3A 44 /r", "Vx Wx Ib", (e) => {
  const { f } = e;
  const b = e.readVector(1);
  const a = f.v128(e.readXmm(0));
  const immediate = f.i32(e.immediate(2).i32());
  const x = f.i64(select(immediate.has(1), a.i64(1), a.i64(0)));
  const y = f.i64(select(immediate.has(0x10), b.i64(1), b.i64(0)));
  // The upper half is the lower half of the reversed operands, reversed.
  const reversed = f.call64(carrylessLow, f.call64(reverseBits, x), f.call64(reverseBits, y));
  const high = f.i64(f.call64(reverseBits, reversed).shrU(1));
  e.writeXmm(0, splat(f.call64(carrylessLow, x, y), 64).withI64(1, high));
}, sse);
