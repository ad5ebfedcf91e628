/** Memory-mapped I/O by every addressing form and instruction that compilers emit for it. */
import assert from "node:assert/strict";
import { type Assembler, at, type Memory } from "./assembler.ts";
import { type Behaviour, bytesOf, hexOf, withGuest } from "./behaviour.ts";
import { Layout } from "./guest.ts";

export const mmioBehaviours: Behaviour[] = [];

const { MMIO, DATA } = Layout;
const hex = (value: number) => "0x" + value.toString(16);

/** Operands that reach MMIO + 0x40 with the registers of {@link setRegisters}. */
const FORMS: Record<string, Memory> = {
  "[rbx]": { base: "rbx" },
  "[rbp+disp8]": { base: "rbp", displacement: 0x10 },
  "[rdi-disp8]": { base: "rdi", displacement: -0x40 },
  "[rsi+disp32]": { base: "rsi", displacement: 0x1_0040 },
  "[rsi+rcx]": { base: "rsi", index: "rcx" },
  "[rsi+rdx*4+disp8]": { base: "rsi", index: "rdx", scale: 4, displacement: 0x20 },
  "[rdx*8+disp32]": { index: "rdx", scale: 8, displacement: MMIO + 0x40 - 0x4008 * 8 },
  "[r13]": { base: "r13" },
  "[r12+disp8]": { base: "r12", displacement: 0x20 },
  "[r12+r14*2]": { base: "r12", index: "r14", scale: 2 },
  "[rip+disp32]": { ripTarget: MMIO + 0x40 },
  "[disp32]": { displacement: MMIO + 0x40 },
  "gs:[disp32]": { displacement: 0x40, segment: "gs" },
  "fs:[rbx]": { base: "rbx", segment: "fs" },
};

function setRegisters(code: Assembler): void {
  code.mov("rbx", MMIO + 0x40).mov("rbp", MMIO + 0x30).mov("rdi", MMIO + 0x80).mov("rsi", MMIO - 0x1_0000);
  code.mov("rcx", 0x1_0040).mov("rdx", 0x4008).mov("r13", MMIO + 0x40).mov("r12", MMIO + 0x20).mov("r14", 0x10);
  // IA32_GS_BASE (SDM vol. 4, table 2-2).
  code.push("rcx").push("rdx").mov("ecx", 0xc000_0101).mov("eax", MMIO).mov("edx", 0).wrmsr().pop("rdx").pop("rcx");
}

for (const [name, form] of Object.entries(FORMS)) {
  mmioBehaviours.push({
    name: `memory I/O through ${name}`,
    run: (subject) =>
      withGuest(subject, async (guest) => {
        const { log } = await guest.run(64, (code) => {
          setRegisters(code);
          code.mov("r8", form).mov(form, "r8d").mov({ ...form, size: 2 }, 0x1234);
        }, { answers: bytesOf(0x1122_3344_5566_7788n, 8) });
        assert.deepEqual(log, [
          `read ${hex(MMIO + 0x40)} 8`,
          `write ${hex(MMIO + 0x40)} 88776655`,
          `write ${hex(MMIO + 0x40)} 3412`,
        ]);
      }),
  });
}

interface Case {
  name: string;
  /** rbx points at MMIO, rax holds {@link RAX}. */
  code(code: Assembler): void;
  answers?: number[];
  log: string[];
  /** Expected afterwards. */
  rax?: bigint;
  /** Expected at DATA. */
  data?: number[];
  before?: number[];
}

const RAX = 0x8182_8384_8586_8788n;
const m = (size: number): Memory => at({ base: "rbx", size });
const r = (size: number) => `read ${hex(MMIO)} ${size}`;
const w = (value: number | bigint, size: number) => `write ${hex(MMIO)} ${hexOf(value, size)}`;
const V = 0xf1f2_f3f4_f5f6_f7f8n;
const ANSWER = bytesOf(V, 8);

const CASES: Case[] = [
  { name: "mov al, [m]", code: (c) => c.mov("al", m(1)), answers: ANSWER, log: [r(1)], rax: 0x8182_8384_8586_87f8n },
  { name: "mov ah, [m]", code: (c) => c.mov("ah", m(1)), answers: ANSWER, log: [r(1)], rax: 0x8182_8384_8586_f888n },
  { name: "mov ax, [m]", code: (c) => c.mov("ax", m(2)), answers: ANSWER, log: [r(2)], rax: 0x8182_8384_8586_f7f8n },
  { name: "mov eax, [m]", code: (c) => c.mov("eax", m(4)), answers: ANSWER, log: [r(4)], rax: 0xf5f6_f7f8n },
  { name: "mov rax, [m]", code: (c) => c.mov("rax", m(8)), answers: ANSWER, log: [r(8)], rax: V },
  { name: "mov [m], al", code: (c) => c.mov(m(1), "al"), log: [w(RAX, 1)] },
  { name: "mov [m], ah", code: (c) => c.mov(m(1), "ah"), log: [w(0x87, 1)] },
  { name: "mov [m], ax", code: (c) => c.mov(m(2), "ax"), log: [w(RAX, 2)] },
  { name: "mov [m], eax", code: (c) => c.mov(m(4), "eax"), log: [w(RAX, 4)] },
  { name: "mov [m], rax", code: (c) => c.mov(m(8), "rax"), log: [w(RAX, 8)] },
  { name: "mov [m], sil", code: (c) => c.mov("esi", 0x7a).mov(m(1), "sil"), log: [w(0x7a, 1)] },
  { name: "mov byte [m], imm", code: (c) => c.mov(m(1), 0x12), log: [w(0x12, 1)] },
  { name: "mov word [m], imm", code: (c) => c.mov(m(2), 0x1234), log: [w(0x1234, 2)] },
  { name: "mov dword [m], imm", code: (c) => c.mov(m(4), 0x1234_5678), log: [w(0x1234_5678, 4)] },
  { name: "mov qword [m], imm (sign-extended)", code: (c) => c.mov(m(8), -2), log: [w(-2n, 8)] },
  { name: "movzx eax, byte [m]", code: (c) => c.movzx("eax", m(1)), answers: ANSWER, log: [r(1)], rax: 0xf8n },
  { name: "movzx eax, word [m]", code: (c) => c.movzx("eax", m(2)), answers: ANSWER, log: [r(2)], rax: 0xf7f8n },
  { name: "movzx rax, byte [m]", code: (c) => c.movzx("rax", m(1)), answers: ANSWER, log: [r(1)], rax: 0xf8n },
  { name: "movsx eax, byte [m]", code: (c) => c.movsx("eax", m(1)), answers: ANSWER, log: [r(1)], rax: 0xffff_fff8n },
  {
    name: "movsx rax, byte [m]",
    code: (c) => c.movsx("rax", m(1)),
    answers: ANSWER,
    log: [r(1)],
    rax: 0xffff_ffff_ffff_fff8n,
  },
  {
    name: "movsx rax, word [m]",
    code: (c) => c.movsx("rax", m(2)),
    answers: ANSWER,
    log: [r(2)],
    rax: 0xffff_ffff_ffff_f7f8n,
  },
  {
    name: "movsxd rax, dword [m]",
    code: (c) => c.movsx("rax", m(4)),
    answers: ANSWER,
    log: [r(4)],
    rax: 0xffff_ffff_f5f6_f7f8n,
  },
  { name: "push [m]", code: (c) => c.push(m(8)).pop("rax"), answers: ANSWER, log: [r(8)], rax: V },
  { name: "pop [m]", code: (c) => c.push("rax").pop(m(8)), log: [w(RAX, 8)] },
  {
    name: "cmp dword [m], imm",
    code: (c) => c.arithmetic("cmp", m(4), 0x1234).setcc("e", "al"),
    answers: bytesOf(0x1234, 4),
    log: [r(4)],
    rax: RAX & ~0xffn | 1n,
  },
  {
    name: "cmp rax, [m]",
    code: (c) => c.arithmetic("cmp", "rax", m(8)).setcc("e", "al"),
    answers: bytesOf(RAX, 8),
    log: [r(8)],
    rax: RAX & ~0xffn | 1n,
  },
  {
    name: "cmp [m], al",
    code: (c) => c.arithmetic("cmp", m(1), "al").setcc("b", "al"),
    answers: [0x10],
    log: [r(1)],
    rax: RAX & ~0xffn | 1n,
  },
  {
    name: "test byte [m], imm",
    code: (c) => c.test(m(1), 0x80).setcc("ne", "al"),
    answers: [0x80],
    log: [r(1)],
    rax: RAX & ~0xffn | 1n,
  },
  {
    name: "test dword [m], imm",
    code: (c) => c.test(m(4), 1).setcc("e", "al"),
    answers: bytesOf(2, 4),
    log: [r(4)],
    rax: RAX & ~0xffn | 1n,
  },
  {
    name: "test [m], eax",
    code: (c) => c.test(m(4), "eax").setcc("ne", "al"),
    answers: bytesOf(0x8000_0000, 4),
    log: [r(4)],
    rax: RAX & ~0xffn | 1n,
  },
  {
    name: "add eax, [m]",
    code: (c) => c.arithmetic("add", "eax", m(4)),
    answers: bytesOf(1, 4),
    log: [r(4)],
    rax: 0x8586_8789n,
  },
  {
    name: "add [m], eax",
    code: (c) => c.arithmetic("add", m(4), "eax"),
    answers: bytesOf(2, 4),
    log: [r(4), w(0x8586_878a, 4)],
  },
  {
    name: "or dword [m], imm",
    code: (c) => c.arithmetic("or", m(4), 0x100),
    answers: bytesOf(0x11, 4),
    log: [r(4), w(0x111, 4)],
  },
  {
    name: "and byte [m], imm",
    code: (c) => c.arithmetic("and", m(1), 0x0f),
    answers: [0xab],
    log: [r(1), w(0x0b, 1)],
  },
  {
    name: "and [m], rax",
    code: (c) => c.arithmetic("and", m(8), "rax"),
    answers: ANSWER,
    log: [r(8), w(RAX & V, 8)],
  },
  {
    name: "xor [m], ax",
    code: (c) => c.arithmetic("xor", m(2), "ax"),
    answers: ANSWER,
    log: [r(2), w((RAX ^ V) & 0xffffn, 2)],
  },
  { name: "sub [m], al", code: (c) => c.arithmetic("sub", m(1), "al"), answers: [0x90], log: [r(1), w(0x08, 1)] },
  {
    name: "lock or dword [m], imm",
    code: (c) => c.lock().arithmetic("or", m(4), 1),
    answers: bytesOf(6, 4),
    log: [r(4), w(7, 4)],
  },
  { name: "inc dword [m]", code: (c) => c.unary("inc", m(4)), answers: bytesOf(9, 4), log: [r(4), w(10, 4)] },
  { name: "dec byte [m]", code: (c) => c.unary("dec", m(1)), answers: [0], log: [r(1), w(0xff, 1)] },
  { name: "not word [m]", code: (c) => c.unary("not", m(2)), answers: [0x0f, 0xf0], log: [r(2), w(0x0ff0, 2)] },
  { name: "neg dword [m]", code: (c) => c.unary("neg", m(4)), answers: bytesOf(1, 4), log: [r(4), w(-1, 4)] },
  {
    name: "lock xadd [m], eax",
    code: (c) => c.lockXadd(m(4), "eax"),
    answers: bytesOf(5, 4),
    log: [r(4), w(0x8586_878d, 4)],
    rax: 5n,
  },
  { name: "xchg [m], eax", code: (c) => c.xchg(m(4), "eax"), answers: bytesOf(5, 4), log: [r(4), w(RAX, 4)], rax: 5n },
  {
    name: "xchg [m], al",
    code: (c) => c.xchg(m(1), "al"),
    answers: [5],
    log: [r(1), w(RAX, 1)],
    rax: RAX & ~0xffn | 5n,
  },
  {
    name: "lock cmpxchg [m], ecx that matches",
    code: (c) => c.mov("ecx", 0x77).lockCmpxchg(m(4), "ecx"),
    answers: bytesOf(RAX, 4),
    log: [r(4), w(0x77, 4)],
  },
  {
    name: "lock cmpxchg [m], ecx that does not (writes back what it read)",
    code: (c) => c.mov("ecx", 0x77).lockCmpxchg(m(4), "ecx"),
    answers: bytesOf(0x55, 4),
    log: [r(4), w(0x55, 4)],
    rax: 0x55n,
  },
  { name: "setcc [m]", code: (c) => c.arithmetic("cmp", "eax", "eax").setcc("e", m(1)), log: [w(1, 1)] },
  {
    name: "cmovcc rax, [m] reads whether or not it moves",
    code: (c) => c.arithmetic("cmp", "eax", "eax").cmov("ne", "rax", m(8)),
    answers: ANSWER,
    log: [r(8)],
  },
  { name: "bts dword [m], 4", code: (c) => c.bts(m(4), 4), answers: bytesOf(1, 4), log: [r(4), w(0x11, 4)] },
  {
    name: "movsd from memory I/O to RAM",
    code: (c) => c.mov("esi", MMIO).mov("edi", DATA).string("movs", 4),
    answers: ANSWER,
    log: [r(4)],
    data: ANSWER.slice(0, 4),
  },
  {
    name: "rep movsd from RAM to memory I/O",
    before: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
    code: (c) => c.mov("esi", DATA).mov("edi", MMIO).mov("ecx", 3).string("movs", 4, true),
    log: [`write ${hex(MMIO)} 01020304`, `write ${hex(MMIO + 4)} 05060708`, `write ${hex(MMIO + 8)} 090a0b0c`],
  },
  {
    name: "rep movsb from memory I/O to RAM",
    code: (c) => c.mov("esi", MMIO).mov("edi", DATA).mov("ecx", 3).string("movs", 1, true),
    answers: [7, 8, 9],
    log: [0, 1, 2].map((i) => `read ${hex(MMIO + i)} 1`),
    data: [7, 8, 9],
  },
  {
    name: "rep stosw to memory I/O",
    code: (c) => c.mov("edi", MMIO).mov("ecx", 2).string("stos", 2, true),
    log: [w(RAX, 2), `write ${hex(MMIO + 2)} ${hexOf(RAX, 2)}`],
  },
  {
    name: "lodsq from memory I/O",
    code: (c) => c.mov("esi", MMIO).string("lods", 8),
    answers: ANSWER,
    log: [r(8)],
    rax: V,
  },
  {
    name: "scasd in memory I/O",
    code: (c) => c.mov("edi", MMIO).string("scas", 4).setcc("e", "al"),
    answers: bytesOf(RAX, 4),
    log: [r(4)],
    rax: RAX & ~0xffn | 1n,
  },
  ...(["movups", "movdqu", "movaps", "movdqa"] as const).flatMap((name): Case[] => [
    {
      name: `${name} xmm, [m] comes as two halves`,
      code: (c) => c.vector(name, "xmm9", m(16)).vector("movups", at({ displacement: DATA }), "xmm9"),
      answers: Array.from({ length: 16 }, (_, i) => i + 0x30),
      log: [r(8), `read ${hex(MMIO + 8)} 8`],
      data: Array.from({ length: 16 }, (_, i) => i + 0x30),
    },
    {
      name: `${name} [m], xmm comes as two halves`,
      before: Array.from({ length: 16 }, (_, i) => i + 1),
      code: (c) => c.vector("movups", "xmm3", at({ displacement: DATA })).vector(name, m(16), "xmm3"),
      log: [`write ${hex(MMIO)} 0102030405060708`, `write ${hex(MMIO + 8)} 090a0b0c0d0e0f10`],
    },
  ]),
];

for (const test of CASES) {
  mmioBehaviours.push({
    name: `memory I/O: ${test.name}`,
    run: (subject) =>
      withGuest(subject, async (guest) => {
        guest.bytes.set(test.before ?? [], DATA);
        const { log, end, failure } = await guest.run(64, (code) => {
          code.mov("rbx", MMIO).mov("rax", RAX);
          test.code(code);
          code.mov(at({ displacement: DATA + 0x100 }), "rax");
        }, { answers: test.answers });
        assert.equal(end, "done", failure ? `${failure.reason} [${failure.instruction}]` : undefined);
        assert.deepEqual(log, test.log);
        assert.equal(guest.view.getBigUint64(DATA + 0x100, true).toString(16), (test.rax ?? RAX).toString(16));
        if (test.data) assert.deepEqual([...guest.bytes.subarray(DATA, DATA + test.data.length)], test.data);
      }),
  });
}

mmioBehaviours.push({
  name: "memory I/O above 4 GiB",
  run: (subject) =>
    withGuest(subject, async (guest) => {
      const { log } = await guest.run(64, (code) => {
        code.mov("rbx", BigInt(Layout.MMIO_HIGH)).mov("eax", m(4)).mov({ base: "rbx", displacement: 8 }, "eax");
      }, { answers: [1, 2, 3, 4] });
      assert.deepEqual(log, [`read ${hex(Layout.MMIO_HIGH)} 4`, `write ${hex(Layout.MMIO_HIGH + 8)} 01020304`]);
    }),
}, {
  name: "memory I/O from real mode",
  run: (subject) =>
    withGuest(subject, async (guest) => {
      const { log } = await guest.run(16, (code) => {
        // mov es, ax
        code.mov("ax", MMIO >> 4).bytes(0x8e, 0xc0).mov("bx", 0x20).mov("di", 0x40).mov("cx", 2);
        code.mov("al", at({ base: "bx", segment: "es" })).mov(at({ base: "bx", displacement: 1, segment: "es" }), "ax");
        code.string("stos", 1, true);
      }, { answers: [0x5a] });
      assert.deepEqual(log, [
        `read ${hex(MMIO + 0x20)} 1`,
        `write ${hex(MMIO + 0x21)} 5ad0`.replace("d0", hexOf(MMIO >> 12, 1)),
        `write ${hex(MMIO + 0x40)} 5a`,
        `write ${hex(MMIO + 0x41)} 5a`,
      ]);
    }),
}, {
  name: "memory I/O from protected mode",
  run: (subject) =>
    withGuest(subject, async (guest) => {
      const { log } = await guest.run(32, (code) => {
        code.mov("ebx", MMIO).mov("eax", at({ base: "ebx" })).mov(at({ base: "ebx", displacement: 4 }), "ax");
        code.push(at({ base: "ebx", displacement: 8, size: 4 })).pop(at({ base: "ebx", displacement: 12, size: 4 }));
      }, { answers: [1, 2, 3, 4, 5, 6, 7, 8] });
      assert.deepEqual(log, [
        `read ${hex(MMIO)} 4`,
        `write ${hex(MMIO + 4)} 0102`,
        `read ${hex(MMIO + 8)} 4`,
        `write ${hex(MMIO + 12)} 05060708`,
      ]);
    }),
}, {
  name: "a load that straddles RAM and memory I/O",
  run: (subject) =>
    withGuest(subject, async (guest) => {
      guest.view.setUint16(Layout.RAM_SIZE - 2, 0xbbaa, true);
      const { log } = await guest.run(64, (code) => {
        code.mov("eax", at({ displacement: Layout.RAM_SIZE - 2 })).mov(at({ displacement: DATA }), "eax");
      }, { answers: [0x11, 0x22] });
      assert.deepEqual(log, [`read ${hex(Layout.RAM_SIZE)} 2`]);
      assert.equal(guest.view.getUint32(DATA, true), 0x2211_bbaa);
    }),
});
