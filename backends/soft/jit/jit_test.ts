/** The two tiers run the same code to the same state. */
import assert from "node:assert/strict";
import { X64 } from "../../../core/x64_state.ts";
import { candidates, Random, randomInstruction } from "./random_code.ts";
import { Assembler, at } from "../../../tests/conformance/assembler.ts";
import { DONE_PORT, Place, Rig } from "./rig.ts";

const interpreter = new Rig(-1);
const compiler = new Rig(1);

/** Where the loops count: out of the random accesses' reach. */
const COUNTER = Place.DATA + 0x8000;
const DATA_BYTES = 0x6000;

const u32 = (value: number) => [value & 255, (value >> 8) & 255, (value >> 16) & 255, (value >> 24) & 255];
/** Runs code four times over, then leaves. */
function looped(code: number[]): Uint8Array {
  // dec dword [COUNTER]; jnz back; out DONE_PORT, al
  const tail = [0xff, 0x0c, 0x25, ...u32(COUNTER)];
  const back = -(code.length + tail.length + 6);
  return new Uint8Array([...code, ...tail, 0x0f, 0x85, ...u32(back), 0xe6, 0xf4, 0xf4]);
}

function prepare(rig: Rig, code: Uint8Array, seed: number, count: number): void {
  const random = new Random(seed);
  rig.bytes.fill(0, Place.STACK - 0x1000, Place.STACK + 0x1000);
  for (let i = 0; i < DATA_BYTES; i += 4) rig.view.setUint32(Place.DATA + i, random.bits(), true);
  rig.view.setUint32(COUNTER, count, true);
  const registers = Array.from({ length: 16 }, () => random.wide());
  registers[3] = BigInt(Place.DATA);
  registers[4] = BigInt(Place.STACK);
  registers[5] = BigInt(Place.DATA + 0x1000);
  registers[6] = BigInt(random.below(0x400));
  // Stale code of the last program must not be taken for this one's.
  rig.vcpu.core.dropAll();
  rig.load(code, registers);
}

function snapshot(rig: Rig): { state: Uint8Array; memory: Uint8Array } {
  const state = rig.state();
  state.fill(0, X64.TSC, X64.TSC + 8);
  return { state, memory: rig.bytes.slice(Place.DATA, Place.DATA + DATA_BYTES) };
}

const names: Record<number, string> = Object.fromEntries(
  Object.entries(X64).map(([name, offset]) => [offset, name]),
);
function difference(a: Uint8Array, b: Uint8Array): string {
  for (let i = 0; i < a.length; i++) {
    if (a[i] === b[i]) continue;
    const at = i & ~7;
    const hex = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(at, true).toString(16);
    return `at ${at} (${names[at] ?? ""}): interpreted ${hex(a)}, compiled ${hex(b)}`;
  }
  return "";
}

/** Runs code in both tiers and compares everything. */
function compare(code: Uint8Array, seed: number, what: string, count = 4): void {
  prepare(interpreter, code, seed, count);
  prepare(compiler, code, seed, count);
  const expected = interpreter.run();
  const reason = compiler.run();
  const a = snapshot(interpreter);
  const b = snapshot(compiler);
  const bytes = [...code].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
  const found = difference(a.state, b.state) || difference(a.memory, b.memory);
  assert.ok(reason === expected && found === "", `${what}: exits ${expected} and ${reason}; ${found}\n${bytes}`);
}

Deno.test("every row of the table, alone, in both tiers", () => {
  const random = new Random(1);
  let tried = 0;
  for (const row of candidates) {
    for (let n = 0; n < 4; n++) {
      const one = randomInstruction(row, random);
      if (one === null) continue;
      tried++;
      compare(looped(one), random.bits(), row.name);
    }
  }
  assert.ok(tried > 1000);
  assert.ok(compiler.vcpu.core.jit!.statistics.compiled > tried / 2);
});

Deno.test("random straight-line code in both tiers", () => {
  const seeds = Number(Deno.env.get("HV_JIT_CASES") ?? 300);
  const first = Number(Deno.env.get("HV_JIT_SEED") ?? 1);
  for (let seed = first; seed < first + seeds; seed++) {
    const random = new Random(seed);
    const code: number[] = [];
    const names: string[] = [];
    const length = 2 + random.below(30);
    for (let n = 0; n < length;) {
      const row = candidates[random.below(candidates.length)];
      // Half of it is what programs are made of.
      const plain = random.below(2) === 0;
      if (plain && row.map !== 0) continue;
      const one = randomInstruction(row, random);
      if (one === null) continue;
      code.push(...one);
      names.push(row.name);
      n++;
    }
    compare(looped(code), seed, `seed ${seed}: ${names.join(" ")}`);
  }
});

/** Random blocks that branch to each other at random; only so many branches go backwards. */
function randomFlow(random: Random): Uint8Array {
  const code: number[] = [];
  const starts: number[] = [];
  const fixes: { at: number; to: number }[] = [];
  const blocks = 2 + random.below(10);
  const relative = (to: number) => {
    fixes.push({ at: code.length, to });
    code.push(0, 0, 0, 0);
  };
  for (let block = 0; block < blocks; block++) {
    starts.push(code.length);
    for (let n = random.below(8); n > 0;) {
      const row = candidates[random.below(candidates.length)];
      if (row.map !== 0 && random.below(4)) continue;
      const one = randomInstruction(row, random);
      if (one === null) continue;
      code.push(...one);
      n--;
    }
    const to = random.below(blocks);
    // jcc over the next branch (E9: jump, E8: call)
    code.push(0x70 | random.below(16), to > block ? 5 : 18);
    if (to <= block) {
      // dec dword [COUNTER]; js to the end
      code.push(0xff, 0x0c, 0x25, ...u32(COUNTER), 0x0f, 0x88);
      relative(blocks);
    }
    code.push(0xe9);
    relative(to);
  }
  starts.push(code.length);
  code.push(0xe6, 0xf4, 0xf4);
  for (const { at, to } of fixes) {
    const distance = starts[to] - (at + 4);
    u32(distance).forEach((byte, i) => code[at + i] = byte);
  }
  return new Uint8Array(code);
}

Deno.test("random control flow in both tiers", () => {
  const seeds = Number(Deno.env.get("HV_JIT_CASES") ?? 300);
  const first = Number(Deno.env.get("HV_JIT_SEED") ?? 1);
  for (let seed = first; seed < first + seeds; seed++) {
    compare(randomFlow(new Random(seed)), seed, `flow of seed ${seed}`, 60);
  }
});

/** Assembles with our own small assembler. */
function assemble(origin: number, write: (code: Assembler) => void): Uint8Array {
  const code = new Assembler(64, origin);
  write(code);
  return code.assemble();
}

Deno.test("a loop that rewrites its own next instruction", () => {
  // mov ecx, 50; l: mov [rip + 1], cl; mov eax, imm32; add rbx, rax; dec ecx; jnz l; out; the store hits the imm32
  const code = [0xb9, 50, 0, 0, 0, 0x88, 0x0d, 1, 0, 0, 0, 0xb8, 0, 0, 0, 0, 0x48, 0x01, 0xc3, 0xff, 0xc9, 0x75];
  code.push(256 - (code.length + 1 - 5), 0xe6, 0xf4, 0xf4);
  compare(new Uint8Array(code), 1, "self-modifying loop");
  assert.equal(compiler.field(3 * 8).getBigUint64(0, true), BigInt(Place.DATA + (50 * 51) / 2));
});

Deno.test("page faults in the middle of a region are restarted", () => {
  // rsi walks out of the mapped gigabyte; the handler sends it back, and counts in r15
  const handler = 0x3000;
  for (const rig of [interpreter, compiler]) {
    rig.setVector(14, handler);
    const code = assemble(handler, (c) => {
      c.mov("rsi", Place.DATA).unary("inc", "r15").arithmetic("add", "rsp", 8).iret();
    });
    rig.bytes.set(code, handler);
  }
  const code = assemble(Place.CODE, (c) => {
    c.mov("rsi", 0x3fff_f000).mov("rcx", 4000).mov("r15", 0).label("again")
      .arithmetic("add", "rax", "rcx").arithmetic("add", at({ base: "rsp", displacement: -8 }), "rax")
      .arithmetic("add", "rax", at({ base: "rsi" })).arithmetic("add", "rsi", 8)
      .unary("dec", "rcx").jcc("ne", "again").out(DONE_PORT, "al").hlt();
  });
  for (const rig of [interpreter, compiler]) {
    // The last mapped page, without RAM behind it, becomes one of the data's.
    rig.view.setBigUint64(Place.TABLES + 0x2000 + 511 * 8, BigInt(Place.DATA & ~0x1f_ffff) | 0xe3n, true);
    rig.vcpu.core.exports.flush_tlb();
  }
  compare(code, 7, "walk into unmapped memory");
  assert.equal(compiler.field(15 * 8).getBigUint64(0, true), 1n);
});
