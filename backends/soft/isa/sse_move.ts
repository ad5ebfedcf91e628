/** SSE: moves between XMM registers, general registers and memory. */
import type { Emitter } from "../emitter.ts";
import { join, low } from "../sse/lanes.ts";
import { Simd } from "../sse/simd.ts";
import type { I64 } from "../wasm/values.ts";
import { type Emit, op } from "./table.ts";

const sse = { unit: "sse" } as const;

// Whole registers. PREFIX means the data type only.
const move = (unaligned: boolean): Emit => (e) => e.writeVector(0, e.readVector(1, unaligned), unaligned);
for (
  const [prefix, load, store, unaligned] of [
    ["NP", "28", "29", false],
    ["66", "28", "29", false],
    ["NP", "10", "11", true],
    ["66", "10", "11", true],
    ["66", "6F", "7F", false],
    ["F3", "6F", "7F", true],
  ] as const
) {
  const name = unaligned ? "movups" : "movaps";
  op(name, `${prefix} 0F ${load} /r`, "Vx Wx", move(unaligned), sse);
  op(name, `${prefix} 0F ${store} /r`, "Wx Vx", move(unaligned), sse);
}
op("movups", "F2 0F F0 /r modm", "Vx Wx", move(true), sse);
op("movaps", "66 0F 38 2A /r modm", "Vx Wx", move(false), sse);
op("movaps", "NP 0F 2B /r modm", "Wx Vx", move(false), sse);
op("movaps", "66 0F 2B /r modm", "Wx Vx", move(false), sse);
op("movaps", "66 0F E7 /r modm", "Wx Vx", move(false), sse);

// Between general and XMM registers.
const fromGeneral: Emit = (e) => e.writeXmm(0, low(e.readUnsigned(1)));
const toGeneral: Emit = (e) => e.write(0, e.readXmm(1).i64(0));
op("movd_load", "66 0F 6E /r", "Vx Ey", fromGeneral, sse);
op("movd_store", "66 0F 7E /r", "Ey Vx", toGeneral, sse);
op("movnti", "NP 0F C3 /r modm", "Ey Gy", (e) => e.write(0, e.read(1)));

// The low 64 bits.
op("movq", "F3 0F 7E /r", "Vx Wq", (e) => e.writeXmm(0, low(e.readLow64(1))), sse);
op("movq", "66 0F D6 /r", "Wq Vx", (e) => {
  const value = e.readXmm(1).i64(0);
  if (e.isMemory(0)) e.store(e.address(0), 64, value);
  else e.writeXmm(0, low(value));
}, sse);

// Scalars: a load clears the rest, a register move keeps it.
const scalar = (prefix: string, bits: 32 | 64, letter: string) => {
  const lane = (e: Emitter, index: number): I64 =>
    bits === 64 ? e.readXmm(index).i64(0) : e.readXmm(index).i32(0).i64u();
  op(`movs${bits}`, `${prefix} 0F 10 /r modm`, `Vx W${letter}`, (e) => {
    e.writeXmm(0, low(e.loadUnsigned(e.address(1), bits)));
  }, sse);
  op(`movs${bits}`, `${prefix} 0F 11 /r modm`, `W${letter} Vx`, (e) => e.store(e.address(0), bits, lane(e, 1)), sse);
  const between: Emit = (e) => {
    const value = bits === 64
      ? e.readXmm(0).withI64(0, e.readXmm(1).i64(0))
      : e.readXmm(0).withI32(0, e.readXmm(1).i32(0));
    e.writeXmm(0, value);
  };
  op(`movs${bits}`, `${prefix} 0F 10 /r mod3`, `Vx W${letter}`, between, sse);
  op(`movs${bits}`, `${prefix} 0F 11 /r mod3`, `W${letter} Vx`, between, sse);
};
scalar("F3", 32, "d");
scalar("F2", 64, "q");

// Halves.
const loadHalf = (half: 0 | 1): Emit => (e) => {
  const value = e.load(e.address(1), 64);
  e.writeXmm(0, e.readXmm(0).withI64(half, value));
};
const storeHalf = (half: 0 | 1): Emit => (e) => e.store(e.address(0), 64, e.readXmm(1).i64(half));
for (const prefix of ["NP", "66"]) {
  op("movlp", `${prefix} 0F 12 /r modm`, "Vx Wq", loadHalf(0), sse);
  op("movlp", `${prefix} 0F 13 /r modm`, "Wq Vx", storeHalf(0), sse);
  op("movhp", `${prefix} 0F 16 /r modm`, "Vx Wq", loadHalf(1), sse);
  op("movhp", `${prefix} 0F 17 /r modm`, "Wq Vx", storeHalf(1), sse);
}
op("movhlps", "NP 0F 12 /r mod3", "Vx Ux", (e) => e.writeXmm(0, e.readXmm(0).withI64(0, e.readXmm(1).i64(1))), sse);
op("movlhps", "NP 0F 16 /r mod3", "Vx Ux", (e) => e.writeXmm(0, join(e.readXmm(0), e.readXmm(1))), sse);

// Duplication (SSE3).
op("movddup", "F2 0F 12 /r", "Vx Wq", (e) => {
  const value = e.f.v128(low(e.readLow64(1)));
  e.writeXmm(0, join(value, value));
}, sse);
const duplicate = (lanes: number[]): Emit => (e) => {
  const value = e.readVector(1);
  e.writeXmm(0, value.shuffle(value, lanes));
};
op("movsldup", "F3 0F 12 /r", "Vx Wx", duplicate([0, 1, 2, 3, 0, 1, 2, 3, 8, 9, 10, 11, 8, 9, 10, 11]), sse);
op("movshdup", "F3 0F 16 /r", "Vx Wx", duplicate([4, 5, 6, 7, 4, 5, 6, 7, 12, 13, 14, 15, 12, 13, 14, 15]), sse);

// Sign masks.
op("movmskps", "NP 0F 50 /r mod3", "Gd Ux", (e) => e.write(0, e.readXmm(1).test(Simd.I32X4_BITMASK).i64u()), sse);
op("movmskpd", "66 0F 50 /r mod3", "Gd Ux", (e) => e.write(0, e.readXmm(1).test(Simd.I64X2_BITMASK).i64u()), sse);
op("pmovmskb", "66 0F D7 /r mod3", "Gd Ux", (e) => e.write(0, e.readXmm(1).test(Simd.I8X16_BITMASK).i64u()), sse);
