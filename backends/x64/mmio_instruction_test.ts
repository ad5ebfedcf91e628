/**
 * The shared completion against the host's own CPU: every form it knows, with random registers, flags, operands and
 * addressing. The CPU runs the instruction on memory; the completion runs it on a device that holds the same bytes.
 */
import assert from "node:assert/strict";
import { NativeCpu, nativeCpuIsPossible } from "../soft/native/native_cpu.ts";
import { ARENA, CODE, Fx, Record, RECORD_BYTES, WINDOW, WINDOW_BYTES } from "../soft/native/record.ts";
import { needs } from "../../tests/skip.ts";
import { type InstructionMemory, MmioInstruction, Step } from "./mmio_instruction.ts";

/** Where the device is: 16-byte aligned inside the window; the stack and the other side of MOVS lie beside it. */
const DEVICE = WINDOW + 0x100;
const DEVICE_BYTES = 0x40;
const RAM = WINDOW + 0x180;
const STACK = WINDOW + 0x200;
const ROUNDS = 12;

// RFLAGS, SDM vol. 1, 3.4.3.
const CF = 1, PF = 4, AF = 0x10, ZF = 0x40, SF = 0x80, DF = 0x400, OF = 0x800;
const ARITHMETIC = CF | PF | AF | ZF | SF | OF;

interface Form {
  name: string;
  /** Mandatory prefix; 66h is an operand-size override otherwise. */
  prefix?: number;
  opcode: number[];
  /** ModR/M.reg where it is a part of the opcode. */
  digit?: number;
  /** Bytes of the immediate; 0 none, -1 as wide as the operand, at most 4. */
  immediate?: number;
  /** No ModR/M: 1 an absolute address, 2 a string instruction. */
  plain?: 1 | 2;
  /** Operand sizes do not vary. */
  fixed?: boolean;
  stack?: boolean;
  lock?: boolean;
  /** Flags the SDM leaves undefined. */
  undefinedFlags?: number;
}

const ALU = ["add", "or", "adc", "sbb", "and", "sub", "xor", "cmp"];
const logic = (i: number) => i === 1 || i === 4 || i === 6 ? AF : 0;

const FORMS: Form[] = [
  ...ALU.flatMap((name, i): Form[] => [
    ...[0, 1, 2, 3].map((k) => ({
      name: `${name} ${k}`,
      opcode: [i * 8 + k],
      undefinedFlags: logic(i),
      lock: k < 2 && i < 7,
    })),
    { name: `${name} m8, imm8`, opcode: [0x80], digit: i, immediate: 1, undefinedFlags: logic(i), lock: i < 7 },
    { name: `${name} m, imm`, opcode: [0x81], digit: i, immediate: -1, undefinedFlags: logic(i) },
    { name: `${name} m, simm8`, opcode: [0x83], digit: i, immediate: 1, undefinedFlags: logic(i) },
  ]),
  ...[0x84, 0x85].map((op) => ({ name: "test", opcode: [op], undefinedFlags: AF })),
  ...[0x86, 0x87].map((op) => ({ name: "xchg", opcode: [op] })),
  ...[0x88, 0x89, 0x8a, 0x8b].map((op) => ({ name: "mov", opcode: [op] })),
  { name: "movsxd", opcode: [0x63] },
  { name: "pop m", opcode: [0x8f], digit: 0, stack: true },
  { name: "push m", opcode: [0xff], digit: 6, stack: true },
  { name: "mov m8, imm", opcode: [0xc6], digit: 0, immediate: 1 },
  { name: "mov m, imm", opcode: [0xc7], digit: 0, immediate: -1 },
  ...[0, 1].map((digit) => ({ name: "test m8", opcode: [0xf6], digit, immediate: 1, undefinedFlags: AF })),
  ...[0, 1].map((digit) => ({ name: "test m", opcode: [0xf7], digit, immediate: -1, undefinedFlags: AF })),
  ...[0xf6, 0xf7].flatMap((op) => [2, 3].map((digit) => ({ name: "not/neg", opcode: [op], digit, lock: true }))),
  ...[0xfe, 0xff].flatMap((op) => [0, 1].map((digit) => ({ name: "inc/dec", opcode: [op], digit, lock: true }))),
  ...[0xb6, 0xb7, 0xbe, 0xbf].map((op) => ({ name: "movzx/movsx", opcode: [0x0f, op] })),
  ...[0xb0, 0xb1].map((op) => ({ name: "cmpxchg", opcode: [0x0f, op], lock: true })),
  ...[0xc0, 0xc1].map((op) => ({ name: "xadd", opcode: [0x0f, op], lock: true })),
  ...[4, 5, 6, 7].map((digit) => ({
    name: "bt",
    opcode: [0x0f, 0xba],
    digit,
    immediate: 1,
    undefinedFlags: OF | SF | AF | PF,
  })),
  ...Array.from({ length: 16 }, (_, i) => ({ name: `set${i}`, opcode: [0x0f, 0x90 + i], digit: 0 })),
  ...Array.from({ length: 16 }, (_, i) => ({ name: `cmov${i}`, opcode: [0x0f, 0x40 + i] })),
  { name: "movnti", opcode: [0x0f, 0xc3], fixed: true },
  { name: "movbe load", opcode: [0x0f, 0x38, 0xf0] },
  { name: "movbe store", opcode: [0x0f, 0x38, 0xf1] },
  ...[0, 0x66, 0xf3, 0xf2].flatMap((prefix) =>
    [0x10, 0x11].map((op) => ({ name: `movups/ss ${prefix}`, prefix, opcode: [0x0f, op], fixed: true }))
  ),
  ...[0, 0x66].flatMap((prefix) =>
    [0x13, 0x28, 0x29, 0x2b].map((op) => ({ name: `vector ${prefix} ${op}`, prefix, opcode: [0x0f, op], fixed: true }))
  ),
  ...[0x66, 0xf3].flatMap((prefix) =>
    [0x6f, 0x7f, 0x7e].map((op) => ({ name: `vector ${prefix} ${op}`, prefix, opcode: [0x0f, op], fixed: true }))
  ),
  ...[0x6e, 0xd6, 0xe7].map((op) => ({ name: `vector ${op}`, prefix: 0x66, opcode: [0x0f, op], fixed: true })),
  ...[0xa0, 0xa1, 0xa2, 0xa3].map((op) => ({ name: "mov moffs", opcode: [op], plain: 1 as const })),
  ...[0xa4, 0xa5, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf].flatMap((op) =>
    [0, 0xf3, ...(op >= 0xae ? [0xf2] : [])].map((prefix) => ({
      name: `string ${op.toString(16)} ${prefix.toString(16)}`,
      prefix,
      opcode: [op],
      plain: 2 as const,
    }))
  ),
];

/** xorshift32 (Marsaglia 2003): the same cases in every run. */
class Random {
  private state: number;
  constructor(seed: number) {
    this.state = seed;
  }
  next(): number {
    let x = this.state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return (this.state = x) >>> 0;
  }
  below(n: number): number {
    return this.next() % n;
  }
  big(): bigint {
    return (BigInt(this.next()) << 32n) | BigInt(this.next());
  }
}

interface Case {
  form: Form;
  code: number[];
  flags: number;
  gpr: bigint[];
  record: Uint8Array;
}

function le(value: number | bigint, size: number): number[] {
  return Array.from({ length: size }, (_, i) => Number((BigInt.asUintN(64, BigInt(value)) >> BigInt(8 * i)) & 255n));
}

function makeCase(form: Form, random: Random): Case {
  const gpr = Array.from({ length: 16 }, () => random.big());
  gpr[4] = BigInt(STACK);
  let flags = 0x202 | (random.next() & ARITHMETIC);
  const record = new Uint8Array(RECORD_BYTES);
  for (let i = 0; i < WINDOW_BYTES; i++) record[Record.WINDOW + i] = random.next();
  for (let i = 0; i < 256; i++) record[Record.FX + Fx.XMM + i] = random.next();
  new DataView(record.buffer).setUint16(Record.FX + Fx.FCW, 0x37f, true);
  new DataView(record.buffer).setUint32(Record.FX + Fx.MXCSR, 0x1f80, true);
  const wide = random.below(3) === 0;
  const narrow = !form.fixed && !form.prefix && random.below(3) === 0;
  const code: number[] = [];
  if (form.lock && random.below(3) === 0) code.push(0xf0);
  if (narrow && form.plain !== 2) code.push(0x66);
  if (form.plain === 2 && random.below(3) === 0) code.push(0x66);
  if (form.prefix) code.push(form.prefix);
  let rex = wide ? 8 : 0;
  if (form.plain === 2) {
    const size = form.opcode[0] & 1 ? (wide ? 8 : code.includes(0x66) ? 2 : 4) : 1;
    const count = form.prefix ? 1 + random.below(4) : 1;
    if (random.below(3) === 0) flags |= DF;
    const back = flags & DF ? (count - 1) * size : 0;
    if (form.prefix) gpr[1] = BigInt(random.below(5) === 0 ? 0 : count);
    const device = BigInt(DEVICE + back);
    const ram = BigInt(RAM + back);
    const toDevice = random.below(2) === 0;
    gpr[7] = form.opcode[0] <= 0xa5 ? (toDevice ? device : ram) : device;
    gpr[6] = form.opcode[0] <= 0xa5 ? (toDevice ? ram : device) : device;
    // Comparisons that come out equal now and then.
    if (form.opcode[0] >= 0xae && random.below(2) === 0) {
      for (let i = 0; i < size * 2; i++) {
        record[Record.WINDOW + DEVICE - WINDOW + i] = Number(gpr[0] >> BigInt(8 * (i % size)) & 255n);
      }
    }
    if (rex) code.push(0x40 | rex);
    code.push(...form.opcode);
  } else if (form.plain === 1) {
    if (rex) code.push(0x40 | rex);
    code.push(...form.opcode, ...le(DEVICE, 8));
  } else {
    const register = form.digit ?? random.below(16);
    if (register >= 8) rex |= 4;
    const where = random.below(5);
    let base = random.below(16);
    if (form.stack && base === 4) base = 3;
    let index = random.below(16);
    if (index === 4 || index === base) index = base === 9 ? 10 : 9;
    const scale = random.below(4);
    const displacement = where === 0 ? 0 : where === 1 ? random.below(256) - 128 : random.next() | 0;
    const tail: number[] = [];
    const field = (register & 7) << 3;
    let relativeAt = -1;
    if (where === 4) {
      tail.push(field | 5, 0, 0, 0, 0);
      relativeAt = 1;
    } else if (where === 3) {
      const smaller = BigInt(random.below(1 << 20));
      gpr[index] = smaller;
      gpr[base] = BigInt.asUintN(64, BigInt(DEVICE) - (smaller << BigInt(scale)) - BigInt(displacement));
      rex |= (base >> 3) | (index >> 3) << 1;
      tail.push(0x80 | field | 4, scale << 6 | (index & 7) << 3 | (base & 7), ...le(displacement, 4));
    } else {
      gpr[base] = BigInt.asUintN(64, BigInt(DEVICE) - BigInt(displacement));
      rex |= base >> 3;
      const mode = where === 0 && (base & 7) !== 5 ? 0 : where <= 1 ? 0x40 : 0x80;
      tail.push(mode | field | (base & 7), ...((base & 7) === 4 ? [0x24] : []));
      if (mode !== 0) tail.push(...le(displacement, mode === 0x40 ? 1 : 4));
    }
    if (rex || random.below(4) === 0) code.push(0x40 | rex);
    code.push(...form.opcode);
    if (relativeAt >= 0) relativeAt += code.length;
    code.push(...tail);
    const size = rex & 8 ? 8 : narrow ? 2 : 4;
    const immediate = form.immediate === -1 ? Math.min(size, 4) : form.immediate ?? 0;
    code.push(...le(random.big(), immediate));
    if (relativeAt >= 0) code.splice(relativeAt, 4, ...le(DEVICE - (CODE + code.length), 4));
    // CMPXCHG that matches now and then.
    if (form.name === "cmpxchg" && random.below(2) === 0) {
      record.set(le(gpr[0], 8), Record.WINDOW + DEVICE - WINDOW);
    }
  }
  const view = new DataView(record.buffer);
  record.set(code, Record.CODE);
  view.setUint32(Record.LENGTH, code.length, true);
  view.setBigUint64(Record.FLAGS, BigInt(flags), true);
  gpr.forEach((value, i) => view.setBigUint64(Record.GPR + i * 8, value, true));
  return { form, code, flags, gpr, record };
}

/** What the completion makes of a case. */
function complete({ code, flags, gpr, record }: Case) {
  const words = new Int32Array(18 * 4);
  const bigs = new BigUint64Array(words.buffer);
  gpr.forEach((value, i) => bigs[i * 2] = value);
  bigs[32] = BigInt(CODE);
  bigs[34] = BigInt(flags);
  const xmm = new Int32Array(64);
  new Uint8Array(xmm.buffer).set(record.subarray(Record.FX + Fx.XMM, Record.FX + Fx.XMM + 256));
  const window = record.slice(Record.WINDOW, Record.WINDOW + WINDOW_BYTES);
  const segmentBases = new Int32Array(12);
  const isDevice = (address: number, size: number) => address + size > DEVICE && address < DEVICE + DEVICE_BYTES;
  const memory: InstructionMemory = {
    bytes: window,
    translate: (low, high, size) => {
      if (high !== 0 || low < ARENA) return -1;
      if (isDevice(low, size)) return -2;
      return low - WINDOW;
    },
  };
  const view = new DataView(new ArrayBuffer(16));
  const instruction = new MmioInstruction({ words, xmm, segmentBases }, memory, view);
  const data = new Uint8Array(view.buffer);
  for (let round = 0; round < 10; round++) {
    if (!instruction.decode(new Uint8Array([...code, 0xcc, 0xcc, 0xcc]), code.length, 64)) return null;
    assert.equal(instruction.length, code.length, "length");
    // MOVS from RAM to the device tells of its source.
    const linear = instruction.linearLow;
    const device = isDevice(linear, 1) ? linear : Number(BigInt.asUintN(32, bigs[14]));
    for (let step = 0; step < 8; step++) {
      const wanted = instruction.next();
      const at = device + instruction.offset - WINDOW;
      if (wanted === Step.READ) data.set(window.subarray(at, at + instruction.size));
      else if (wanted === Step.WRITE) window.set(data.subarray(0, instruction.size), at);
      else {
        assert.equal(wanted, Step.DONE);
        break;
      }
    }
    if (bigs[32] !== BigInt(CODE)) break;
  }
  assert.equal(bigs[32], BigInt(CODE + code.length), "the instruction pointer");
  return { gpr: Array.from({ length: 16 }, (_, i) => bigs[i * 2]), flags: Number(bigs[34]), xmm, window };
}

Deno.test({
  name: "memory I/O completion: every form does what the host's CPU does",
  ignore: needs(nativeCpuIsPossible, "memory I/O completion against the host's CPU", "needs Linux on x86-64 and gcc"),
  fn: async () => {
    const random = new Random(0x1234567);
    const cases = FORMS.flatMap((form) => Array.from({ length: ROUNDS }, () => makeCase(form, random)));
    const records = new Uint8Array((cases.length + 1) * RECORD_BYTES);
    cases.forEach(({ record }, i) => records.set(record, i * RECORD_BYTES));
    const cpu = new NativeCpu();
    let results: Uint8Array<ArrayBuffer>;
    try {
      results = await cpu.run(records, cases.length);
    } finally {
      await cpu.close();
    }
    const wrong: string[] = [];
    const missing = new Set<string>();
    let compared = 0;
    cases.forEach((made, i) => {
      const { form, code } = made;
      const view = new DataView(results.buffer, i * RECORD_BYTES, RECORD_BYTES);
      const trap = view.getInt32(Record.TRAP, true);
      const title = `${form.name}: ${code.map((byte) => byte.toString(16).padStart(2, "0")).join(" ")}`;
      if (trap === 6) {
        missing.add(form.name);
        return;
      }
      if (trap !== -1) return wrong.push(`${title}: the host's CPU raised ${trap}`);
      let ours;
      try {
        ours = complete(made);
      } catch (error) {
        return wrong.push(`${title}: ${(error as Error).message}`);
      }
      if (!ours) return wrong.push(`${title}: not decoded`);
      compared++;
      const differ: string[] = [];
      ours.gpr.forEach((value, n) => {
        const theirs = view.getBigUint64(Record.GPR + n * 8, true);
        if (value !== theirs) differ.push(`r${n} ${value.toString(16)} instead of ${theirs.toString(16)}`);
      });
      const mask = (ARITHMETIC | DF) & ~(form.undefinedFlags ?? 0);
      const flags = Number(view.getBigUint64(Record.FLAGS, true));
      if ((ours.flags ^ flags) & mask) differ.push(`flags ${ours.flags.toString(16)} instead of ${flags.toString(16)}`);
      const theirXmm = results.subarray(i * RECORD_BYTES + Record.FX + Fx.XMM).subarray(0, 256);
      if (new Uint8Array(ours.xmm.buffer).some((byte, n) => byte !== theirXmm[n])) differ.push("XMM registers");
      const theirWindow = results.subarray(i * RECORD_BYTES + Record.WINDOW).subarray(0, WINDOW_BYTES);
      const at = ours.window.findIndex((byte, n) => byte !== theirWindow[n]);
      if (at >= 0) differ.push(`memory at ${at.toString(16)}: ${ours.window[at]} instead of ${theirWindow[at]}`);
      if (differ.length > 0) wrong.push(`${title}: ${differ.join(", ")}`);
    });
    for (const name of missing) console.error(`SKIPPED ${name}: this host's CPU does not have it`);
    assert.equal(wrong.length, 0, `${wrong.length} of ${cases.length} differ:\n${wrong.slice(0, 20).join("\n")}`);
    assert.ok(compared > FORMS.length * ROUNDS * 0.9);
  },
});
