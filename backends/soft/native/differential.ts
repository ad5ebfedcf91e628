/** Runs random cases over rows on the host's CPU and on the software CPU and tells where they differ. */
import { Flag } from "../flags.ts";
import type { Row } from "../isa/table.ts";
import { type Case, makeCase, Random } from "./cases.ts";
import type { Oracle } from "./oracle.ts";
import { CODE, Fx, Record, RECORD_BYTES, WINDOW_BYTES } from "./record.ts";
import type { SoftCpu } from "./soft_cpu.ts";

/** Why rows are not compared, by name. */
export const notCompared: [RegExp, string][] = [
  [
    /^(clac|stac|swapgs|lmsw|invlpg|invpcid|invd|wbinvd|hlt|cli|sti|clts|mov_(from|to)_[cd]r|load_(table|system)\d)$/,
    "for CPL 0 only",
  ],
  [
    /^(smsw|store_(table|system)\d|verr|verw|lar|lsl|mov_(from|to)_sreg|l[defgs]s|push_segment|pop_segment)/,
    "depends on the host's segments and system registers",
  ],
  [
    /^(cpuid|rd(tsc|tscp|msr|pmc|rand|seed|pid)|wrmsr|monitor|mwait|xgetbv|xsetbv)$/,
    "differs from machine to machine, or from moment to moment",
  ],
  [/^(rd|wr)[fg]sbase$/, "the harness itself needs GS, the C library FS"],
  [/^(in|out)(s[bv]?|_immediate)?$/, "ports"],
  [/^(clflush|prefetchw|nop|pause|fence|wait)$/, "no effect to compare"],
];

/** Why a row is not compared, or null where it is. */
export function reasonAgainst(row: Row): string | null {
  if (row.only === "legacy") return "does not exist in 64-bit mode";
  if (row.operands[0]?.[0] === "J") return null;
  if (row.ends) return "control flow and system calls: run by guests instead";
  for (const [names, reason] of notCompared) if (names.test(row.name)) return reason;
  if (row.repeats) return "string instructions: run by guests instead";
  return null;
}

const OTHERS = Flag.SF | Flag.ZF | Flag.AF | Flag.PF;

/** Flags that the SDM leaves undefined. */
function undefinedFlags(row: Row, made: Case, count: number): number {
  const { name } = row;
  const size = row.operands[0]?.endsWith("b") || row.operands[0] === "AL" ? 8 : made.bits;
  const masked = count & (made.bits === 64 && size !== 8 ? 63 : 31);
  switch (name) {
    case "shl":
    case "shr":
    case "sar":
      return masked === 0 ? 0 : Flag.AF | (masked === 1 ? 0 : Flag.OF) | (masked > size ? Flag.CF : 0);
    case "rol":
    case "ror":
    case "rcl":
    case "rcr":
      return masked === 1 ? 0 : Flag.OF;
    case "shld":
    case "shrd":
      return masked === 0 ? 0 : masked > size ? Flag.ARITHMETIC : Flag.AF | (masked === 1 ? 0 : Flag.OF);
    case "mul":
    case "imul":
    case "imul1":
      return OTHERS;
    case "div":
    case "idiv":
      return Flag.ARITHMETIC;
    case "bsf":
    case "bsr":
      return Flag.ARITHMETIC & ~Flag.ZF;
    case "bt":
    case "bts":
    case "btr":
    case "btc":
      return Flag.OF | OTHERS & ~Flag.ZF;
    case "and":
    case "or":
    case "xor":
    case "test":
      return Flag.AF;
    default:
      return 0;
  }
}

/** Bits of the x87 status word a row leaves undefined (SDM vol. 1, 8.1.3). */
function undefinedStatus(row: Row): number {
  if (row.unit !== "x87") return 0;
  const rule = undefinedConditions.find(([names]) => names.test(row.name));
  return rule ? rule[1] : 0;
}
/** Rows whose values transcendental_test.ts compares, within a unit in the last place: here only the stack is. */
const approximate = /^(f2xm1|fyl2x|fyl2xp1|fpatan|fptan|fsin|fcos|fsincos)$/;
/** Rows that each processor approximates in its own way, with a relative error of 1.5 * 2^-12 (SDM vol. 2, RCPPS). */
const approximateSingles = /^(rcp|rsqrt)[ps]s$/;
function singlesAreNear(a: DataView, b: DataView, at: number): boolean {
  for (let lane = 0; lane < 16; lane += 4) {
    if (a.getUint32(at + lane, true) === b.getUint32(at + lane, true)) continue;
    const x = a.getFloat32(at + lane, true), y = b.getFloat32(at + lane, true);
    // What is no more than the smallest normal number may be flushed.
    if (y === 0 && Math.abs(x) <= 2 ** -126) continue;
    if (!(Math.abs(x - y) <= Math.abs(y) * 3 * 2 ** -12)) return false;
  }
  return true;
}
const undefinedConditions: [RegExp, number][] = [
  // Exceptions where operands are out of the function's range, and how the last bit was rounded.
  [approximate, 0x23f],
];

const hex = (bytes: Iterable<number>) => [...bytes].map((b) => b.toString(16).padStart(2, "0")).join(" ");

/** A difference, with all that is needed to see it again. */
export interface Difference {
  row: Row;
  seed: number;
  text: string;
}

/** Results to compare, and buffers, for one batch after another. */
export class Differential {
  private readonly capacity: number;
  private readonly input: Uint8Array<ArrayBuffer>;
  private readonly soft: Uint8Array<ArrayBuffer>;

  constructor(private readonly native: Oracle, private readonly cpu: SoftCpu, capacity = 1000) {
    this.capacity = capacity;
    this.input = new Uint8Array((capacity + 1) * RECORD_BYTES);
    this.soft = new Uint8Array(capacity * RECORD_BYTES);
  }

  /**
   * Runs `count` cases of a row.
   * @returns differences, at most `most`
   */
  async run(row: Row, seed: number, count: number, most = 3): Promise<Difference[]> {
    const found: Difference[] = [];
    for (let done = 0; done < count && found.length < most; done += this.capacity) {
      await this.batch(row, seed + done, Math.min(this.capacity, count - done), found, most);
    }
    return found;
  }

  private async batch(row: Row, seed: number, count: number, found: Difference[], most: number): Promise<void> {
    const view = new DataView(this.input.buffer);
    const cases: Case[] = [];
    for (let i = 0; i < count; i++) {
      cases.push(makeCase(row, new Random(seed + i), view, i * RECORD_BYTES));
    }
    this.soft.set(this.input.subarray(0, count * RECORD_BYTES));
    const running = this.native.run(this.input, count);
    const softView = new DataView(this.soft.buffer);
    try {
      for (let i = 0; i < count; i++) this.cpu.run(softView, i * RECORD_BYTES);
    } finally {
      await running;
    }
    const native = await running;
    const nativeView = new DataView(native.buffer);
    for (let i = 0; i < count && found.length < most; i++) {
      const text = this.compare(row, cases[i], view, softView, nativeView, i * RECORD_BYTES);
      if (text !== null) found.push({ row, seed: seed + i, text: `seed ${seed + i}: ${text}` });
    }
  }

  private compare(row: Row, made: Case, input: DataView, soft: DataView, native: DataView, at: number): string | null {
    const lines: string[] = [];
    const differ = (what: string, ours: unknown, theirs: unknown) =>
      lines.push(`  ${what}: ours ${ours} host ${theirs}`);
    // A jump ends at a breakpoint, behind which the host reports itself.
    const jumped = native.getInt32(at + Record.TRAP, true) === 3;
    const trap = jumped ? -1 : native.getInt32(at + Record.TRAP, true);
    const ourTrap = soft.getInt32(at + Record.TRAP, true);
    // An access to memory that the arena does not hold: a page fault there, an exit or a fault here.
    const nowhere = trap === 14 && ourTrap >= 1000;
    if (trap !== ourTrap && !nowhere) differ("exception", ourTrap, trap);
    if (nowhere) return null;
    // AMD's misaligned-exception mask, which we do not have.
    if (native.getUint32(at + Record.FX + Fx.MXCSR, true) & 0x2_0000) return null;
    const g = (view: DataView, o: number) => view.getBigUint64(at + o, true);
    for (let r = 0; r < 16; r++) {
      const o = Record.GPR + r * 8;
      if (g(soft, o) !== g(native, o)) differ(`r${r}`, g(soft, o).toString(16), g(native, o).toString(16));
    }
    const rip = g(soft, Record.RIP);
    const expected = trap >= 0 || jumped
      ? g(native, Record.RIP) - (jumped ? 1n : 0n)
      : BigInt(CODE + made.bytes.length);
    if (rip !== expected) differ("rip", rip.toString(16), expected.toString(16));
    const count = row.operands.includes("CL")
      ? Number(g(input, Record.GPR + 8) & 0xffn)
      : row.operands.includes("1")
      ? 1
      : made.immediate & 0xff;
    // A double shift of 16 bits by more leaves an undefined result.
    if (/^sh[lr]d$/.test(row.name) && made.bits === 16 && (count & 31) > 16) return null;
    const mask = trap >= 0 ? 0 : (Flag.ARITHMETIC | Flag.DF) & ~undefinedFlags(row, made, count);
    const flags = soft.getUint32(at + Record.FLAGS, true) ^ native.getUint32(at + Record.FLAGS, true);
    if (flags & mask) {
      differ(
        "flags",
        (soft.getUint32(at + Record.FLAGS, true) & 0xfff).toString(16),
        (native.getUint32(at + Record.FLAGS, true) & 0xfff).toString(16),
      );
    }
    const fx = at + Record.FX;
    const word = (name: string, o: number, ignore: number) => {
      const a = soft.getUint16(fx + o, true), b = native.getUint16(fx + o, true);
      if ((a ^ b) & 0xffff & ~ignore) differ(name, a.toString(16), b.toString(16));
    };
    word("FCW", Fx.FCW, 0);
    word("FSW", Fx.FSW, undefinedStatus(row));
    word("FTW", Fx.FTW, 0xff00);
    word("MXCSR", Fx.MXCSR, 0);
    for (let i = 0; i < 8; i++) {
      const o = Record.FX + Fx.ST + i * 16;
      const e = (view: DataView) => `${view.getUint16(at + o + 8, true).toString(16)}:${g(view, o).toString(16)}`;
      if (approximate.test(row.name)) continue;
      if (e(soft) !== e(native)) differ(`st${i}`, e(soft), e(native));
    }
    for (let i = 0; i < 16; i++) {
      const o = Record.FX + Fx.XMM + i * 16;
      if (approximateSingles.test(row.name) && singlesAreNear(soft, native, at + o)) continue;
      const x = (view: DataView) => hex(new Uint8Array(view.buffer, view.byteOffset + at + o, 16));
      if (g(soft, o) !== g(native, o) || g(soft, o + 8) !== g(native, o + 8)) differ(`xmm${i}`, x(soft), x(native));
    }
    for (let o = Record.WINDOW; o < Record.WINDOW + WINDOW_BYTES; o += 8) {
      if (g(soft, o) === g(native, o)) continue;
      if (this.isMaskOnly(row, g(soft, o), g(native, o))) continue;
      differ(`memory+${o - Record.WINDOW}`, g(soft, o).toString(16), g(native, o).toString(16));
    }
    if (lines.length === 0) return null;
    const x = (n: number) => hex(new Uint8Array(input.buffer, at + Record.FX + Fx.XMM + n * 16, 16));
    const state = `flags ${g(input, Record.FLAGS).toString(16)} mxcsr ${
      input.getUint32(fx + Fx.MXCSR, true).toString(16)
    } fcw ${input.getUint16(fx + Fx.FCW, true).toString(16)} fsw ${
      input.getUint16(fx + Fx.FSW, true).toString(16)
    } tags ${input.getUint8(fx + Fx.FTW).toString(16)} out ${native.getUint32(fx + Fx.MXCSR, true).toString(16)}`;
    const registers = row.unit === "sse"
      ? [...new Set([made.bytes.at(-1)! >> 3 & 7, made.bytes.at(-1)! & 7])].map((n) => `  xmm${n} in ${x(n)}`).join(
        "\n",
      )
      : row.unit === "x87"
      ? [0, 1, 2, 3].map((i) => {
        const o = Record.FX + Fx.ST + i * 16;
        return `  st${i} in ${input.getUint16(at + o + 8, true).toString(16)}:${g(input, o).toString(16)}`;
      }).join("\n")
      : [...Array(16).keys()].map((r) => `r${r}=${g(input, Record.GPR + r * 8).toString(16)}`).join(" ");
    return `${row.name} [${hex(made.bytes)}] at ${CODE.toString(16)} ${state}\n${registers}\n${lines.join("\n")}`;
  }

  /** AMD's mask bit of MXCSR in FXSAVE's image, which we do not offer. */
  private isMaskOnly(row: Row, ours: bigint, theirs: bigint): boolean {
    return /^f?xsavec?$/.test(row.name) && (ours ^ theirs) === 0x2_0000n << 32n;
  }
}
