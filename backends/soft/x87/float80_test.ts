/** Every function of float80.ts against the host's own x87, on operands that reach every corner. */
import assert from "node:assert/strict";
import { needs } from "../../../tests/skip.ts";
import { compileNativeX87, generator, type NativeCase, runNativeX87 } from "./native_x87.ts";
import { setMemory64 } from "../wasm/memory.ts";
import { type FunctionName, Module } from "../wasm/module.ts";
import * as float80 from "./float80.ts";

const CASES_PER_OPERATION = Number(Deno.env.get("HV_X87_CASES") ?? 20_000);

/** Flags that the functions of float80.ts are answerable for: IE DE ZE OE UE PE. */
const EXCEPTIONS = 0x3f;
const CONDITIONS = 0x4700;

interface Operation {
  name: string;
  number: number;
  call: FunctionName;
  /** Which of a and b are passed, and the last arguments after them. */
  arguments: (a: [bigint, number], b: [bigint, number], control: number) => (bigint | number)[];
  result: "number" | "compare" | { bits: number };
  /** Status bits beyond the exceptions that are compared. */
  conditions?: number;
}

const two = (a: [bigint, number], b: [bigint, number], c: number) => [...a, ...b, c];
const one = (a: [bigint, number], _: unknown, c: number) => [...a, c];
const OPERATIONS: Operation[] = [
  { name: "fadd", number: 0, call: float80.float80Add, arguments: two, result: "number", conditions: 0x200 },
  { name: "fmul", number: 1, call: float80.float80Multiply, arguments: two, result: "number", conditions: 0x200 },
  { name: "fdiv", number: 2, call: float80.float80Divide, arguments: two, result: "number", conditions: 0x200 },
  { name: "fsqrt", number: 3, call: float80.float80SquareRoot, arguments: one, result: "number", conditions: 0x200 },
  {
    name: "frndint",
    number: 4,
    call: float80.float80RoundToInteger,
    arguments: one,
    result: "number",
    conditions: 0x200,
  },
  { name: "fscale", number: 5, call: float80.float80Scale, arguments: two, result: "number" },
  {
    name: "fprem",
    number: 6,
    call: float80.float80Remainder,
    arguments: (a, b) => [...a, ...b, 0],
    result: "number",
    conditions: CONDITIONS,
  },
  {
    name: "fprem1",
    number: 7,
    call: float80.float80Remainder,
    arguments: (a, b) => [...a, ...b, 1],
    result: "number",
    conditions: CONDITIONS,
  },
  { name: "fcom", number: 8, call: float80.float80Compare, arguments: (a, b) => [...a, ...b, 1], result: "compare" },
  { name: "fucom", number: 9, call: float80.float80Compare, arguments: (a, b) => [...a, ...b, 0], result: "compare" },
  { name: "fild", number: 10, call: float80.float80FromInteger, arguments: (a) => [a[0]], result: "number" },
  { name: "fld double", number: 11, call: float80.float80FromDouble, arguments: (a) => [a[0]], result: "number" },
  {
    name: "fld single",
    number: 12,
    call: float80.float80FromSingle,
    arguments: (a) => [a[0] & 0xffffffffn],
    result: "number",
  },
  {
    name: "fst double",
    number: 13,
    call: float80.float80ToDouble,
    arguments: one,
    result: { bits: 64 },
    conditions: 0x200,
  },
  {
    name: "fst single",
    number: 14,
    call: float80.float80ToSingle,
    arguments: one,
    result: { bits: 32 },
    conditions: 0x200,
  },
  {
    name: "fist 16",
    number: 15,
    call: float80.float80ToInteger,
    arguments: (a, _, c) => [...a, c, 16],
    result: { bits: 16 },
    conditions: 0x200,
  },
  {
    name: "fist 32",
    number: 16,
    call: float80.float80ToInteger,
    arguments: (a, _, c) => [...a, c, 32],
    result: { bits: 32 },
    conditions: 0x200,
  },
  {
    name: "fist 64",
    number: 17,
    call: float80.float80ToInteger,
    arguments: (a, _, c) => [...a, c, 64],
    result: { bits: 64 },
    conditions: 0x200,
  },
];

function randomNumber(random: () => bigint, near: number): [bigint, number] {
  const kind = Number(random() % 16n);
  let significand = random();
  const shape = Number(random() % 6n);
  if (shape === 0) significand = 1n << (random() % 64n);
  else if (shape === 1) significand = BigInt.asUintN(64, -1n << (random() % 64n));
  else if (shape === 2) significand = (1n << (random() % 64n)) - 1n + (1n << 63n);
  else if (shape === 3) significand &= BigInt.asUintN(64, -1n << (random() % 64n));
  significand = BigInt.asUintN(64, significand);
  let exponent: number;
  if (kind < 6) exponent = (near + Number(random() % 140n) - 70) & 0x7fff;
  else if (kind < 9) exponent = 16383 + Number(random() % 140n) - 70;
  else if (kind === 9) exponent = 16383 + Number(random() % 2100n) - 1050;
  else if (kind === 10) exponent = Number(random() % 70n);
  else if (kind === 11) exponent = 0x7fff - Number(random() % 70n);
  else if (kind === 12) exponent = 0;
  else if (kind === 13) exponent = 0x7fff;
  else exponent = Number(random() % 0x8000n);
  // Nearly always a valid encoding; now and then a pseudo-denormal, an unnormal, a zero, an infinity.
  const odd = random() % 24n;
  if (odd === 0n) significand = 0n;
  else if (odd === 1n) significand = 1n << 63n;
  else if (odd !== 2n) significand = exponent === 0 ? significand & ~(1n << 63n) : significand | (1n << 63n);
  return [significand, exponent | (random() & 1n ? 0x8000 : 0)];
}

function instantiate() {
  setMemory64(false);
  const module = new Module();
  float80.defineFloat80(module);
  // The functions take significands as i64, which JavaScript passes as BigInt: fine in a test.
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
  const table = new WebAssembly.Table({ element: "anyfunc", initial: 0 });
  const instance = new WebAssembly.Instance(new WebAssembly.Module(module.build(1)), { m: { memory, table } });
  return { exports: instance.exports as Record<string, (...args: unknown[]) => bigint | number>, memory };
}

const ignore = needs(compileNativeX87 !== null, "float80 against the host's x87", "it needs gcc on x86-64 Linux");

Deno.test({
  name: "float80 computes what the host's x87 computes",
  ignore,
  fn: async (context) => {
    const { exports, memory } = instantiate();
    const view = new DataView(memory.buffer);
    for (const operation of OPERATIONS) {
      await context.step(operation.name, async () => {
        const random = generator(BigInt(operation.number + 1) * 0x9e3779b97f4a7c15n & 0xffffffffffffffffn);
        const cases: NativeCase[] = [];
        for (let i = 0; i < CASES_PER_OPERATION; i++) {
          const near = Number(random() % 0x7fffn);
          const precision = [0, 2, 3, 3][Number(random() % 4n)];
          const rounding = Number(random() % 4n);
          const a = randomNumber(random, near);
          const b = randomNumber(random, near);
          // Doubles made of any 64 bits are seldom NaNs and infinities: a third of them are made so.
          if (operation.number === 11 && i % 3 === 0) a[0] = (a[0] >> 11n) | (0x7ffn << 52n);
          cases.push({
            operation: operation.number,
            control: 0x3f | (precision << 8) | (rounding << 10),
            a: { significand: a[0], signExponent: a[1] },
            b: { significand: b[0], signExponent: b[1] },
          });
        }
        const expected = await runNativeX87(cases);
        for (let i = 0; i < CASES_PER_OPERATION; i++) {
          const { control } = cases[i];
          const a: [bigint, number] = [cases[i].a.significand, cases[i].a.signExponent];
          const b: [bigint, number] = [cases[i].b.significand, cases[i].b.signExponent];
          for (let offset = 0; offset < 16; offset += 4) view.setUint32(offset, 0);
          const returned = exports[operation.call.name](0, ...operation.arguments(a, b, control));
          let status = view.getUint32(float80.OUT_FLAGS, true);
          const nativeStatus = expected[i].status;
          let mask = EXCEPTIONS | (operation.conditions ?? 0);
          let result: string;
          let native: string;
          const hex = (significand: bigint, exponent: number) =>
            `${exponent.toString(16).padStart(4, "0")}:${significand.toString(16).padStart(16, "0")}`;
          if (operation.result === "number") {
            result = hex(view.getBigUint64(0, true), view.getUint32(8, true));
            native = hex(expected[i].significand, expected[i].signExponent);
            if (operation.conditions === CONDITIONS) status |= Number(returned);
          } else if (operation.result === "compare") {
            // SDM vol. 1, table 8-6: C3 C2 C0.
            result = native = "";
            status |= [0, 0x100, 0x4000, 0x4500][Number(returned)];
            mask |= 0x4500;
          } else {
            const { bits } = operation.result;
            result = BigInt.asUintN(bits, BigInt(returned)).toString(16);
            native = BigInt.asUintN(bits, expected[i].significand).toString(16);
          }
          assert.deepEqual(
            { result, status: (status & mask).toString(16) },
            { result: native, status: (nativeStatus & mask).toString(16) },
            `${operation.name} a=${hex(...a)} b=${hex(...b)} control=${control.toString(16)}`,
          );
        }
      });
    }
  },
});
