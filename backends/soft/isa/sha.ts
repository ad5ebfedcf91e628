/** SHA extensions (FIPS 180-4; SDM vol. 2). Operands in memory need no alignment, as on AMD's processors. */
import type { Emitter } from "../emitter.ts";
import type { Local } from "../wasm/function.ts";
import { type I32, i32, select, type V128 } from "../wasm/values.ts";
import { type Emit, op } from "./table.ts";

const sse = { unit: "sse" } as const;

const lanes = (e: Emitter, v: V128): Local<I32>[] => [0, 1, 2, 3].map((n) => e.f.i32(v.i32(n)));
const vector = (like: V128, values: I32[]): V128 => values.reduce((v, value, n) => v.withI32(n, value), like);
type Binary = (e: Emitter, a: Local<V128>, b: Local<V128>) => V128;
const two = (combine: Binary): Emit => (e) => {
  const b = e.readVector(1, true);
  e.writeXmm(0, combine(e, e.f.v128(e.readXmm(0)), b));
};

op("sha1nexte", "NP 0F 38 C8 /r", "Vx Wx", two((_, a, b) => b.withI32(3, b.i32(3).add(a.i32(3).rotl(30)))), sse);
op(
  "sha1msg1",
  "NP 0F 38 C9 /r",
  "Vx Wx",
  two((_, a, b) => {
    return a.xor(b.shuffle(a, [8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23]));
  }),
  sse,
);
op(
  "sha1msg2",
  "NP 0F 38 CA /r",
  "Vx Wx",
  two((e, a, b) => {
    const { f } = e;
    const w16 = f.i32(a.i32(3).xor(b.i32(2)).rotl(1));
    const w17 = a.i32(2).xor(b.i32(1)).rotl(1);
    const w18 = a.i32(1).xor(b.i32(0)).rotl(1);
    const w19 = a.i32(0).xor(w16).rotl(1);
    return vector(a, [w19, w18, w17, w16]);
  }),
  sse,
);
op("sha1rnds4", "NP 0F 3A CC /r", "Vx Wx Ib", (e) => {
  const { f } = e;
  const words = lanes(e, e.readVector(1, true));
  const state = lanes(e, e.readXmm(0));
  const kind = f.i32(e.immediate(2).i32().and(3));
  const [d, c, b, a] = state;
  const x = f.i32(0);
  const constant = f.i32(select(
    kind.and(2),
    select(kind.and(1), i32(0xca62c1d6 | 0), i32(0x8f1bbcdc | 0)),
    select(kind.and(1), i32(0x6ed9eba1), i32(0x5a827999)),
  ));
  const next = f.i32();
  for (let round = 0; round < 4; round++) {
    const choice = b.and(c).xor(b.xor(-1).and(d));
    const parity = b.xor(c).xor(d);
    const majority = b.and(c).xor(b.and(d)).xor(c.and(d));
    const value = select(kind.eqz(), choice, select(kind.eq(2), majority, parity));
    f.set(next, a.rotl(5).add(value).add(x).add(words[3 - round]).add(constant));
    f.set(x, d);
    f.set(d, c);
    f.set(c, b.rotl(30));
    f.set(b, a);
    f.set(a, next);
  }
  e.writeXmm(0, vector(e.readXmm(0), state));
}, sse);

const sigma = (v: I32, r1: number, r2: number, shift: number): I32 => v.rotr(r1).xor(v.rotr(r2)).xor(v.shrU(shift));
const sum = (v: I32, r1: number, r2: number, r3: number): I32 => v.rotr(r1).xor(v.rotr(r2)).xor(v.rotr(r3));
op("sha256rnds2", "NP 0F 38 CB /r", "Vx Wx", (e) => {
  const { f } = e;
  const [ff, ee, b, a] = lanes(e, e.readVector(1, true));
  const [h, g, d, c] = lanes(e, e.readXmm(0));
  const words = [f.i32(e.xmm(0).i32(0)), f.i32(e.xmm(0).i32(1))];
  const t = f.i32(), u = f.i32();
  for (const word of words) {
    const choice = ee.and(ff).xor(ee.xor(-1).and(g));
    const majority = a.and(b).xor(a.and(c)).xor(b.and(c));
    f.set(t, h.add(sum(ee, 6, 11, 25)).add(choice).add(word));
    f.set(u, sum(a, 2, 13, 22).add(majority));
    f.set(h, g);
    f.set(g, ff);
    f.set(ff, ee);
    f.set(ee, d.add(t));
    f.set(d, c);
    f.set(c, b);
    f.set(b, a);
    f.set(a, t.add(u));
  }
  e.writeXmm(0, vector(e.readXmm(0), [ff, ee, b, a]));
}, sse);
op(
  "sha256msg1",
  "NP 0F 38 CC /r",
  "Vx Wx",
  two((e, a, b) => {
    const w = [...lanes(e, a), e.f.i32(b.i32(0))];
    return vector(a, [0, 1, 2, 3].map((n) => w[n].add(sigma(w[n + 1], 7, 18, 3))));
  }),
  sse,
);
op(
  "sha256msg2",
  "NP 0F 38 CD /r",
  "Vx Wx",
  two((e, a, b) => {
    const { f } = e;
    const w14 = f.i32(b.i32(2));
    const w15 = f.i32(b.i32(3));
    const w16 = f.i32(a.i32(0).add(sigma(w14, 17, 19, 10)));
    const w17 = f.i32(a.i32(1).add(sigma(w15, 17, 19, 10)));
    const w18 = a.i32(2).add(sigma(w16, 17, 19, 10));
    const w19 = a.i32(3).add(sigma(w17, 17, 19, 10));
    return vector(a, [w16, w17, w18, w19]);
  }),
  sse,
);
