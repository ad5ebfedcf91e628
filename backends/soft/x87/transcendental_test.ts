/** The transcendental functions against the host's x87, which promises one unit in the last place. */
import assert from "node:assert/strict";
import { needs } from "../../../tests/skip.ts";
import { compileNativeX87, generator, runNativeX87 } from "./native_x87.ts";
import { type Number80, Transcendental, transcendental } from "./transcendental.ts";

const CASES = 2_000;
const CONTROL = 0x37f;
/** Operations of native_x87.c begin here. */
const FIRST_OPERATION = 18;

const ignore = needs(
  compileNativeX87 !== null,
  "transcendental functions against the host's x87",
  "it needs gcc on x86-64 Linux",
);

/** Exponents (powers of two) of ST(0); trigonometric ones below pi/4, where the width of pi does not matter. */
const TABLE: [string, number, number, number, "signed" | "positive"][] = [
  ["f2xm1", Transcendental.F2XM1, -60, -1, "signed"],
  ["fyl2x", Transcendental.FYL2X, -2000, 2000, "positive"],
  ["fyl2x near 1", Transcendental.FYL2X, -1, 0, "positive"],
  ["fyl2xp1", Transcendental.FYL2XP1, -70, -3, "signed"],
  ["fpatan", Transcendental.FPATAN, -60, 60, "signed"],
  ["fptan", Transcendental.FPTAN, -60, -1, "signed"],
  ["fsin", Transcendental.FSIN, -60, -1, "signed"],
  ["fcos", Transcendental.FCOS, -60, -1, "signed"],
];

Deno.test({
  name: "transcendental functions differ from the host's by one unit in the last place at most",
  ignore,
  fn: async (context) => {
    for (const [name, number, low, high, signs] of TABLE) {
      await context.step(name, async () => {
        const random = generator(0x1234_5678n + BigInt(number));
        const sign = () => (random() & 1n ? 0x8000 : 0);
        const cases = Array.from({ length: CASES }, () => {
          const exponent = 16383 + low + Number(random() % BigInt(high - low + 1));
          const a: Number80 = {
            significand: random() | (1n << 63n),
            signExponent: exponent | (signs === "signed" ? sign() : 0),
          };
          const b: Number80 = {
            significand: random() | (1n << 63n),
            signExponent: (16383 + Number(random() % 60n) - 30) | sign(),
          };
          return { operation: FIRST_OPERATION + number, control: CONTROL, a, b };
        });
        const native = await runNativeX87(cases);
        cases.forEach(({ a, b }, i) => {
          const ours = transcendental(number, a, b, CONTROL);
          const difference = (BigInt(ours.signExponent) << 63n) + (ours.significand & ~(1n << 63n)) -
            (BigInt(native[i].signExponent) << 63n) - (native[i].significand & ~(1n << 63n));
          const words = `a=${hex(a)} b=${hex(b)}: ours ${hex(ours)}, the host's ${hex(native[i])}`;
          assert.ok(difference >= -1n && difference <= 1n, words);
          assert.equal(ours.flags & 0x3f, native[i].status & 0x3f, `flags of ${words}`);
        });
      });
    }
  },
});

Deno.test("special operands", () => {
  const zero = { significand: 0n, signExponent: 0 };
  const one = { significand: 1n << 63n, signExponent: 16383 };
  const minusOne = { significand: 1n << 63n, signExponent: 0x8000 | 16383 };
  const huge = { significand: 1n << 63n, signExponent: 16383 + 63 };
  // SDM vol. 2: FYL2X divides by zero for x = 0, is invalid below; FSIN leaves huge operands and sets C2.
  assert.equal(transcendental(Transcendental.FYL2X, zero, one, CONTROL).flags, 4);
  assert.equal(transcendental(Transcendental.FYL2X, minusOne, one, CONTROL).flags, 1);
  assert.deepEqual(transcendental(Transcendental.FSIN, huge, zero, CONTROL), { ...huge, flags: 0x400 });
  assert.deepEqual(transcendental(Transcendental.F2XM1, one, zero, CONTROL), { ...one, flags: 0 });
  assert.equal(transcendental(Transcendental.F2XM1, minusOne, zero, CONTROL).signExponent, 0x8000 | 16382);
});

const hex = ({ significand, signExponent }: Number80) => `${signExponent.toString(16)}:${significand.toString(16)}`;
