/** The two tiers run the same code to the same state. */
import assert from "node:assert/strict";
import { X64 } from "../../../core/x64_state.ts";
import { candidatesFor, Random, randomInstruction } from "./random_code.ts";
import { COUNTER, type Setting, settings, stateFor } from "./setting.ts";
import { Assembler, at } from "../../../tests/conformance/assembler.ts";
import { DONE_PORT, Place, Rig, State } from "./rig.ts";

const interpreter = new Rig(-1);
const compiler = new Rig(1);

const DATA_BYTES = 0x6000;

const u32 = (value: number) => [value & 255, (value >> 8) & 255, (value >> 16) & 255, (value >> 24) & 255];
/** A relative target in as many bytes as near branches have in a mode. */
const near = (setting: Setting, value: number) => u32(value).slice(0, setting.mode === 16 ? 2 : 4);
/** dec dword [COUNTER] */
function countDown(setting: Setting): number[] {
  return [...(setting.mode === 16 ? [0x66, 0x67] : []), 0xff, 0x0c, 0x25, ...u32(COUNTER - setting.data)];
}
/** Runs code four times over, then leaves. */
function looped(code: number[], setting: Setting): Uint8Array {
  // jnz back; out DONE_PORT, al
  const tail = countDown(setting);
  const branch = 2 + near(setting, 0).length;
  const back = near(setting, -(code.length + tail.length + branch));
  return new Uint8Array([...code, ...tail, 0x0f, 0x85, ...back, 0xe6, 0xf4, 0xf4]);
}

function prepare(rig: Rig, code: Uint8Array, seed: number, count: number, setting: Setting): void {
  const random = new Random(seed);
  // Segments with a base of their own have the stack behind the data.
  const stack = setting.stack === 0 ? Place.STACK : Place.DATA + 0xa000;
  rig.bytes.fill(0, stack - 0x1000, stack + 0x1000);
  for (let i = 0; i < DATA_BYTES; i += 4) rig.view.setUint32(Place.DATA + i, random.bits(), true);
  rig.view.setUint32(COUNTER, count, true);
  const registers = Array.from({ length: 16 }, () => random.wide());
  registers[3] = BigInt(Place.DATA - setting.data);
  registers[4] = BigInt(stack - setting.stack);
  registers[5] = BigInt(Place.DATA + 0x1000 - setting.stack);
  registers[6] = BigInt(random.below(0x400));
  // Stale code of the last program must not be taken for this one's.
  rig.vcpu.core.dropAll();
  rig.load(code, stateFor(setting, rig, registers));
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
function compare(code: Uint8Array, seed: number, what: string, count = 4, setting = settings[0]): void {
  prepare(interpreter, code, seed, count, setting);
  prepare(compiler, code, seed, count, setting);
  const expected = interpreter.run();
  const reason = compiler.run();
  const a = snapshot(interpreter);
  const b = snapshot(compiler);
  const bytes = [...code].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
  const found = difference(a.state, b.state) || difference(a.memory, b.memory);
  assert.ok(
    reason === expected && found === "",
    `${setting.name}: ${what}: exits ${expected} and ${reason}; ${found}\n${bytes}`,
  );
}

for (const setting of settings) {
  const candidates = candidatesFor(setting.mode);
  // 64-bit mode is what most guests run in.
  const share = setting.mode === 64 ? 1 : 1 / 3;
  const seeds = Math.ceil(Number(Deno.env.get("HV_JIT_CASES") ?? 300) * share);
  const first = Number(Deno.env.get("HV_JIT_SEED") ?? 1);

  // The others' generated code is that of these.
  if (setting.rows) {
    Deno.test(`every row of the table, alone, in both tiers, in ${setting.name}`, () => {
      const random = new Random(1);
      const before = compiler.vcpu.core.jit!.statistics.compiled;
      let tried = 0;
      for (const row of candidates) {
        for (let n = 0; n < 4 * share; n++) {
          const one = randomInstruction(row, random, setting.mode);
          if (one === null) continue;
          tried++;
          compare(looped(one, setting), random.bits(), row.name, 4, setting);
        }
      }
      assert.ok(tried > 1000 * share);
      assert.ok(compiler.vcpu.core.jit!.statistics.compiled - before > tried / 2);
    });
  }

  Deno.test(`random straight-line code in both tiers, in ${setting.name}`, () => {
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
        const one = randomInstruction(row, random, setting.mode);
        if (one === null) continue;
        code.push(...one);
        names.push(row.name);
        n++;
      }
      compare(looped(code, setting), seed, `seed ${seed}: ${names.join(" ")}`, 4, setting);
    }
  });

  Deno.test(`random control flow in both tiers, in ${setting.name}`, () => {
    for (let seed = first; seed < first + seeds; seed++) {
      compare(randomFlow(new Random(seed), setting), seed, `flow of seed ${seed}`, 60, setting);
    }
  });
}

/** Random blocks that branch to each other at random; only so many branches go backwards. */
function randomFlow(random: Random, setting: Setting): Uint8Array {
  const candidates = candidatesFor(setting.mode);
  const code: number[] = [];
  const starts: number[] = [];
  const fixes: { at: number; to: number }[] = [];
  const blocks = 2 + random.below(10);
  const relative = (to: number) => {
    fixes.push({ at: code.length, to });
    code.push(...near(setting, 0));
  };
  const count = countDown(setting);
  const width = near(setting, 0).length;
  for (let block = 0; block < blocks; block++) {
    starts.push(code.length);
    for (let n = random.below(8); n > 0;) {
      const row = candidates[random.below(candidates.length)];
      if (row.map !== 0 && random.below(4)) continue;
      const one = randomInstruction(row, random, setting.mode);
      if (one === null) continue;
      code.push(...one);
      n--;
    }
    const to = random.below(blocks);
    // jcc over the next branch (E9: jump)
    code.push(0x70 | random.below(16), 1 + width + (to > block ? 0 : count.length + 2 + width));
    if (to <= block) {
      // js to the end
      code.push(...count, 0x0f, 0x88);
      relative(blocks);
    }
    code.push(0xe9);
    relative(to);
  }
  starts.push(code.length);
  code.push(0xe6, 0xf4, 0xf4);
  for (const { at, to } of fixes) {
    near(setting, starts[to] - (at + width)).forEach((byte, i) => code[at + i] = byte);
  }
  return new Uint8Array(code);
}

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

for (
  const [what, store] of [["mov", [0x88, 0x0e]], ["add", [0x00, 0x0e]], ["lock add", [0xf0, 0x00, 0x0e]]] as const
) {
  Deno.test(`a region that rewrites its own next instruction: ${what}`, () => {
    // mov ecx, 50; mov esi, DATA; mov edi, the imm32 below
    const before = [0xb9, ...u32(50), 0xbe, ...u32(Place.DATA), 0xbf];
    // l: cmp ecx, 10; cmove esi, edi; op [rsi], cl; mov eax, imm32; add rbx, rax; dec ecx; jnz l; out
    const body = [0x83, 0xf9, 10, 0x0f, 0x44, 0xf7, ...store, 0xb8, 0, 0, 0, 0, 0x48, 0x01, 0xc3, 0xff, 0xc9, 0x75];
    const immediate = Place.CODE + before.length + 4 + 6 + store.length + 1;
    const code = [...before, ...u32(immediate), ...body, 255 - body.length, 0xe6, DONE_PORT, 0xf4];
    compare(new Uint8Array(code), 1, what);
    let sum = 0;
    for (let ecx = 10, byte = 0; ecx > 0; ecx--) sum += byte = what === "mov" ? ecx : byte + ecx;
    assert.equal(compiler.field(3 * 8).getBigUint64(0, true), BigInt(Place.DATA + sum));
  });
}

/** Computing with immediates, and between it what changes them in one of the last rounds: before, it changes data. */
function rewritingCode(random: Random): number[] {
  // add rax, imm32; xor rdx, imm32; sub rcx, imm32
  const computing = [[0x48, 0x05], [0x48, 0x81, 0xf2], [0x48, 0x81, 0xe9]];
  // mov, add, xor, lock add, lock xor [rsi + n], al; inc, not byte [rsi + n]; mov, add dword [rsi + n], eax
  const writing = [
    ...[[0x88, 0x86], [0x00, 0x86], [0x30, 0x86], [0xf0, 0x00, 0x86], [0xf0, 0x30, 0x86], [0xfe, 0x86], [0xf6, 0x96]],
    ...[[0x89, 0x86], [0x01, 0x86]],
  ];
  // mov esi, DATA; mov edi, CODE; cmp dword [COUNTER], n; cmove esi, edi
  const code = [0xbe, ...u32(Place.DATA), 0xbf, ...u32(Place.CODE), 0x83, 0x3c, 0x25, ...u32(COUNTER)];
  code.push(1 + random.below(12), 0x0f, 0x44, 0xf7);
  const immediates: number[] = [];
  const displacements: number[] = [];
  for (let n = 3 + random.below(12); n > 0; n--) {
    const writes = immediates.length > 0 && random.below(3) === 0;
    code.push(...(writes ? writing[random.below(writing.length)] : computing[random.below(3)]));
    (writes ? displacements : immediates).push(code.length);
    code.push(...u32(random.bits()));
  }
  for (const place of displacements) {
    u32(immediates[random.below(immediates.length)]).forEach((byte, i) => code[place + i] = byte);
  }
  return code;
}

Deno.test("random loops that rewrite their own immediates, in both tiers", () => {
  const seeds = Math.ceil(Number(Deno.env.get("HV_JIT_CASES") ?? 300) / 3);
  const first = Number(Deno.env.get("HV_JIT_SEED") ?? 1);
  for (let seed = first; seed < first + seeds; seed++) {
    compare(looped(rewritingCode(new Random(seed)), settings[0]), seed, `rewriting loop of seed ${seed}`, 30);
  }
});

/** Two singles or a double: zeros, denormals, the ends of the range, infinities, NaNs, and what is between. */
const NUMBERS = [
  ...[0n, 1n << 63n, 1n, 0x000f_ffff_ffff_ffffn, 0x0010_0000_0000_0000n, 0x7fef_ffff_ffff_ffffn, 0x7ffn << 52n],
  ...[0x7ff8_0000_0000_0001n, 0x7ff0_0000_0000_0001n, 0x3ff0_0000_0000_0000n, 0xc008_0000_0000_0000n],
  ...[0x2010_0000_0000_0000n, 0x6000_0000_0000_0000n, 0x3f80_0000_0000_0001n, 0x0000_0001_0080_0000n],
  ...[0x8000_0000_7f80_0000n, 0x3fff_ffff_3f80_0001n, 0x0000_0000_007f_ffffn],
];

/** Two whose products are denormal, ones, a denormal one: what shows a denormal operand that was overlooked. */
const SMALL = [0x1ff0_0000_1f80_0000n, 0x9ff8_0000_1fa0_0000n, 0x3ff0_0000_3f80_0000n, 0x0008_0000_0040_0000n];

/** Scalar arithmetic on a few XMM registers, into which numbers from general ones come again and again. */
function scalarArithmetic(random: Random): number[] {
  const code: number[] = [];
  // mov r8 to r15, imm64
  for (let register = 0; register < 8; register++) {
    const numbers = random.below(2) ? SMALL : NUMBERS;
    const number = random.below(4) ? numbers[random.below(numbers.length)] : random.wide();
    code.push(0x49, 0xb8 + register, ...u32(Number(number & 0xffff_ffffn)), ...u32(Number(number >> 32n)));
  }
  // mov dword [rsp - 8], imm32; ldmxcsr [rsp - 8]; mostly with PE set, so that plain operations are right
  const mxcsr = [0x1f80, 0x1fa0 | 0x8040, 0x5fa0][random.below(12)] ?? 0x1fa0;
  code.push(0xc7, 0x44, 0x24, 0xf8, ...u32(mxcsr), 0x0f, 0xae, 0x54, 0x24, 0xf8);
  for (let n = 8 + random.below(24); n > 0; n--) {
    const operands = random.below(4) << 3 | random.below(4);
    const prefix = 0xf2 + random.below(2);
    const kind = random.below(12);
    // movq xmm, r8 to r15
    if (kind < 2) code.push(0x66, 0x49, 0x0f, 0x6e, 0xc0 | (operands & 0x18) | random.below(8));
    // movapd; unpcklpd; cvtsd2ss, cvtss2sd
    else if (kind === 2) code.push(0x66, 0x0f, [0x28, 0x14][random.below(2)], 0xc0 | operands);
    else if (kind === 3) code.push(prefix, 0x0f, 0x5a, 0xc0 | operands);
    // stmxcsr [rbx + n]; ldmxcsr [rsp - 8]: flags stay up otherwise
    else if (kind < 6) code.push(0x0f, 0xae, 0x5b, random.below(32) * 4, 0x0f, 0xae, 0x54, 0x24, 0xf8);
    else {
      // sqrt, add, mul, sub, div; of memory seldom
      const opcode = [0x51, 0x58, 0x59, 0x5c, 0x5e][random.below(5)];
      if (random.below(8)) code.push(prefix, 0x0f, opcode, 0xc0 | operands);
      else code.push(prefix, 0x0f, opcode, 0x43 | (operands & 0x18), random.below(16) * 8);
    }
  }
  return code;
}

Deno.test("a denormal number that arithmetic gives is noticed when it is used, in a region", () => {
  for (const prefix of [0xf2, 0xf3]) {
    // mov r8, SMALL[0]; mov r9, SMALL[2]
    const code = [0x49, 0xb8, ...u32(0x1f80_0000), ...u32(0x1ff0_0000), 0x49, 0xb9, ...u32(0x3f80_0000)];
    // mov dword [rsp - 8], 1fa0; ldmxcsr [rsp - 8]; movq xmm0, r8; movq xmm1, r9
    code.push(...u32(0x3ff0_0000), 0xc7, 0x44, 0x24, 0xf8, ...u32(0x1fa0), 0x0f, 0xae, 0x54, 0x24, 0xf8);
    code.push(0x66, 0x49, 0x0f, 0x6e, 0xc0, 0x66, 0x49, 0x0f, 0x6e, 0xc9);
    // mul xmm0, xmm0; stmxcsr [rbx]; add xmm1, xmm0; stmxcsr [rbx + 4]
    code.push(prefix, 0x0f, 0x59, 0xc0, 0x0f, 0xae, 0x1b, prefix, 0x0f, 0x58, 0xc8, 0x0f, 0xae, 0x5b, 4);
    compare(looped(code, settings[0]), 1, "denormal", 30);
    const [before, after] = [0, 4].map((offset) => compiler.view.getUint32(Place.DATA + offset, true) & 2);
    assert.deepEqual([before, after], [0, 2], "DE");
  }
});

Deno.test("random scalar arithmetic in both tiers, with denormal numbers among others", () => {
  const seeds = Number(Deno.env.get("HV_JIT_CASES") ?? 300);
  const first = Number(Deno.env.get("HV_JIT_SEED") ?? 1);
  for (let seed = first; seed < first + seeds; seed++) {
    compare(looped(scalarArithmetic(new Random(seed)), settings[0]), seed, `arithmetic of seed ${seed}`, 30);
  }
});

Deno.test("an exception of an SSE or MMX instruction finds the flags set before it in a region", () => {
  const handler = 0x3000;
  for (const rig of [interpreter, compiler]) {
    rig.setVector(16, handler);
    rig.setVector(19, handler);
    rig.bytes.set([0xe6, DONE_PORT, 0xf4], handler);
  }
  const loop = (before: number[], body: number[]) => {
    // mov ecx, 20; l: lea edx, [rcx - 5]; body; add edi, edi; dec ecx; jnz l
    const code = [0x8d, 0x51, 0xfb, ...body, 0x01, 0xff, 0xff, 0xc9, 0x75];
    return new Uint8Array([...before, 0xb9, ...u32(20), ...code, 255 - code.length, 0xe6, DONE_PORT, 0xf4]);
  };
  const local = [0x44, 0x24, 0xf8];
  // mov dword [rsp - 8], 1d80; ldmxcsr [rsp - 8]: division by zero is not masked
  const sse = [0xc7, ...local, ...u32(0x1d80), 0x0f, 0xae, 0x54, 0x24, 0xf8];
  // cvtsi2ss xmm1, edx; cvtsi2ss xmm0, ecx; add eax, edi; divss xmm0, xmm1
  const divide = [0xf3, 0x0f, 0x2a, 0xca, 0xf3, 0x0f, 0x2a, 0xc1, 0x01, 0xf8, 0xf3, 0x0f, 0x5e, 0xc1];
  // mov dword [rsp - 8], 37b; fldcw [rsp - 8]: the same
  const x87 = [0xc7, ...local, ...u32(0x37b), 0xd9, 0x6c, 0x24, 0xf8];
  // mov [rsp - 8], edx; fld1; fidiv dword [rsp - 8]; add eax, edi; paddb mm0, mm0; emms
  const pending = [0x89, 0x54, 0x24, 0xf8, 0xd9, 0xe8, 0xda, 0x74, 0x24, 0xf8];
  const mmx = [...pending, 0x01, 0xf8, 0x0f, 0xfc, 0xc0, 0x0f, 0x77];
  for (const [what, code] of [["divss", loop(sse, divide)], ["paddb", loop(x87, mmx)]] as const) {
    compare(code, 1, what);
    assert.equal(compiler.field(State.GPR + 8).getBigUint64(0, true), 5n, what);
  }
});

for (
  const [what, code, last] of [
    // l: op; add ebx, 4; jmp l
    ["load", [0x03, 0x03, 0x83, 0xc3, 4, 0xeb, 0xf9], 0xffff_fffe],
    ["store", [0x89, 0x03, 0x83, 0xc3, 4, 0xeb, 0xf9], 0xffff_fffe],
    ["modified", [0x01, 0x03, 0x83, 0xc3, 4, 0xeb, 0xf9], 0xffff_fffe],
    // l: movdqu xmm0, [ebx]; ...
    ["load of 16 bytes", [0xf3, 0x0f, 0x6f, 0x03, 0x83, 0xc3, 4, 0xeb, 0xf7], 0xffff_fff2],
    ["store of 16 bytes", [0xf3, 0x0f, 0x7f, 0x03, 0x83, 0xc3, 4, 0xeb, 0xf7], 0xffff_fff2],
  ] as [string, number[], number][]
) {
  Deno.test(`a ${what} beyond the last byte of a segment of 4 GiB faults in a region`, () => {
    const paging = settings.find(({ name }) => name.includes("paging"))!;
    const setting: Setting = {
      ...paging,
      prepare(state, rig) {
        paging.prepare(state, rig);
        // The last 4 MiB are the data's as well.
        rig.view.setUint32(Number(state.getBigUint64(X64.CR3, true)) + 1023 * 4, 0xe3, true);
        state.setBigUint64(X64.GPR + 3 * 8, 0xffff_f002n, true);
      },
    };
    compare(new Uint8Array(code), 1, what, 4, setting);
    assert.equal(compiler.field(3 * 8).getBigUint64(0, true), BigInt(last));
    assert.equal(compiler.field(State.CR2).getBigUint64(0, true), 0n, "#GP, not a page fault");
  });
}

/** A loop over `body`, which touches memory at rsi, up to the end of what is mapped; then its handler sends rsi back. */
function walkIntoUnmapped(what: string, start: number, body: (code: Assembler) => void): void {
  const handler = 0x3000;
  for (const rig of [interpreter, compiler]) {
    rig.setVector(14, handler);
    const code = assemble(handler, (c) => {
      c.mov("rsi", Place.DATA).unary("inc", "r15").arithmetic("add", "rsp", 8).iret();
    });
    rig.bytes.set(code, handler);
  }
  const code = assemble(Place.CODE, (c) => {
    c.mov("rsi", start).mov("rcx", 4000).mov("r15", 0).label("again");
    body(c);
    c.arithmetic("add", "rsi", 8).unary("dec", "rcx").jcc("ne", "again").out(DONE_PORT, "al").hlt();
  });
  for (const rig of [interpreter, compiler]) {
    // The last mapped page, without RAM behind it, becomes one of the data's.
    rig.view.setBigUint64(Place.TABLES + 0x2000 + 511 * 8, BigInt(Place.DATA & ~0x1f_ffff) | 0xe3n, true);
    rig.vcpu.core.exports.flush_tlb();
  }
  compare(code, 7, what);
  assert.equal(compiler.field(15 * 8).getBigUint64(0, true), 1n);
  for (const rig of [interpreter, compiler]) {
    assert.equal(rig.field(State.CR2).getBigUint64(0, true), 0x4000_0000n, "CR2 is the first byte that is not mapped");
  }
}

// A loop's code may stand there several times: the fault is in each of its copies once.
for (const copy of [0, 1, 2, 3]) {
  Deno.test(`page faults in the middle of a region are restarted: copy ${copy} of a loop`, () =>
    walkIntoUnmapped(
      "walk into unmapped memory",
      0x3fff_f000 + 8 * copy,
      (c) =>
        c.arithmetic("add", "rax", "rcx").arithmetic("add", at({ base: "rsp", displacement: -8 }), "rax")
          .arithmetic("add", "rax", at({ base: "rsi" })),
    ));
}

Deno.test("a loop of one block ends after as many rounds as it should", () => {
  for (let rounds = 1; rounds < 20; rounds++) {
    // l: op; shl edx, 3; add [rbx + rcx * 8], rdx; dec ecx; jnz l
    for (const op of [[0x01, 0xca], [0xc1, 0xc2, 7], [0x0f, 0xa3, 0xca], [0x0f, 0xaf, 0xd1]]) {
      const body = [...op, 0xc1, 0xe2, 3, 0x48, 0x01, 0x14, 0xcb, 0xff, 0xc9, 0x75];
      const code = [0xb9, ...u32(rounds), ...body, 256 - (body.length + 1), 0xe6, 0xf4, 0xf4];
      compare(new Uint8Array(code), rounds, `${rounds} rounds`);
    }
  }
});

for (
  const [what, store] of [
    // mov [rsi], rax; movdqu [rsi], xmm0
    ["8", [0x48, 0x89, 0x06]],
    ["16", [0xf3, 0x0f, 0x7f, 0x06]],
  ] as [string, number[]][]
) {
  Deno.test(`a store of ${what} bytes into an unmapped page from the one before faults at that page's start`, () =>
    walkIntoUnmapped(`stores of ${what} bytes`, 0x3fff_f004, (c) => c.bytes(...store)));
}
