/**
 * String instructions. A repeated one does a bounded piece at a time and, when more is left, continues with itself as a
 * block of its own, where interrupts and stop requests are seen. MOVS and STOS upwards go page by page with bulk
 * memory operations.
 */
import { externalDone, portRead, portWrite } from "../cpu/external.ts";
import { segmentLinear } from "../interpreter/handler.ts";
import { type Emitter, loadForWriteSlow } from "../emitter.ts";
import { Flag } from "../flags.ts";
import { Reg, Seg, State, Tlb } from "../layout.ts";
import type { Local } from "../wasm/function.ts";
import { pointerOf } from "../wasm/memory.ts";
import { type I32, i32, type I64, i64, select } from "../wasm/values.ts";
import { implicitAddress } from "./implicit.ts";
import { ioPermission } from "./system.ts";
import { op } from "./table.ts";

/** Iterations between looks at the outside. */
const PIECE = 1024;

const traits = { repeats: true, addressSized: true, modal: true, system: true, ends: true } as const;

function masked(e: Emitter, register: number): I64 {
  return e.reg(register).zx(e.addressBits);
}

/** Adds to an index or count register within the address size. */
function advance(e: Emitter, register: number, by: I64): void {
  const next = e.reg(register).add(by).zx(e.addressBits);
  e.setReg(register, e.addressBits === 16 ? e.reg(register).and(~0xffff).or(next) : next);
}

/** DF as a step in bytes. */
function stepOf(e: Emitter): Local<I64> {
  const bytes = e.bits >> 3;
  return e.f.i64(select(e.f.s32(State.RFLAGS).has(Flag.DF), i64(-bytes), i64(bytes)));
}

/** Linear address of [rSI] in the instruction's segment. */
function source(e: Emitter): Local<I64> {
  return implicitAddress(e, e.reg(Reg.SI), e.bits >> 3, false);
}

/** Linear address of ES:[rDI]. */
function destination(e: Emitter, write: boolean): Local<I64> {
  const { f } = e;
  const offset = masked(e, Reg.DI);
  if (e.mode === 64) return f.i64(offset);
  return e.checked(f.i64(), f.call64(segmentLinear, i32(Seg.ES), offset, e.bits >> 3, write ? 1 : 0));
}

/**
 * Runs one iteration, or all of a repeated instruction.
 * @param iteration does one; gives a condition under which repetition goes on, or null
 */
function repeated(e: Emitter, iteration: () => I32 | null, fast?: () => void): void {
  const { f } = e;
  if (e.repeat === 0) {
    iteration();
    e.endBlock();
    return;
  }
  f.if(masked(e, Reg.CX).eqz(), () => e.endBlock());
  // A trap comes after every iteration.
  const alone = f.i32(f.s32(State.RFLAGS).has(Flag.TF).or(f.s32(State.WATCH)));
  if (fast) f.if(alone.eqz(), fast);
  const left = f.i32(select(alone, i32(1), i32(PIECE)));
  f.loop((again) => {
    const goOn = iteration();
    const more = goOn ? f.i32(goOn) : null;
    advance(e, Reg.CX, i64(-1));
    f.if(f.s32(State.LOG_FILLED), () => {
      f.do(externalDone);
      f.set(left, 1);
    });
    f.if(masked(e, Reg.CX).eqz(), () => e.endBlock());
    if (more) f.if(more.eqz(), () => e.endBlock());
    f.set(left, left.sub(1));
    f.brIf(again, left);
  });
  e.restart();
}

/** Elements that lie in the page of an address from it on, upwards. */
function elementsInPage(e: Emitter, address: I64): I64 {
  return i64(4096).sub(address.and(4095)).shrU(e.bits === 8 ? 0 : e.bits === 16 ? 1 : e.bits === 32 ? 2 : 3);
}

function least(a: I64, b: I64): I64 {
  return select(a.ltU(b), a, b);
}

for (const [opcode, size] of [["A4", "b"], ["A5", "v"]]) {
  op("movs" + size, opcode, "", (e) => {
    const { f } = e;
    if (size === "b") e.bits = 8;
    const shift = e.bits === 8 ? 0 : e.bits === 16 ? 1 : e.bits === 32 ? 2 : 3;
    const fast = () => {
      if (e.mode !== 64) return;
      f.if(f.s32(State.RFLAGS).has(Flag.DF).eqz(), () => {
        const from = source(e);
        const to = destination(e, true);
        const count = f.i64(least(least(masked(e, Reg.CX), elementsInPage(e, from)), elementsInPage(e, to)));
        f.if(count.gtU(3), () => {
          // Touches both pages, so that the TLB knows them where they are RAM.
          const r = f.pointer(e.tlbSlot(from));
          const w = f.pointer(e.tlbSlot(to));
          f.if(r.i64(Tlb.TAG).ne(from.and(-4096)), () => void e.load(from, 8));
          f.if(w.i64(Tlb.WRITE).ne(to.and(-4096)), () => {
            f.drop(f.call64(loadForWriteSlow, to, 1));
            e.faultIf(f.s32(State.FAULT));
          });
          f.if(r.i64(Tlb.TAG).eq(from.and(-4096)).and(w.i64(Tlb.WRITE).eq(to.and(-4096))), () => {
            const a = f.pointer(e.placeOf(from, r, Tlb.TAG));
            const b = f.pointer(e.placeOf(to, w, Tlb.WRITE));
            const bytes = f.i64(count.shl(shift));
            // A destination inside the source repeats a pattern, which memory.copy does not.
            const distance = f.i64(b.wide().sub(a.wide()));
            f.if(distance.geU(bytes), () => {
              f.memoryCopy(b, a, pointerOf(bytes));
              advance(e, Reg.SI, bytes);
              advance(e, Reg.DI, bytes);
              advance(e, Reg.CX, count.neg());
              f.if(masked(e, Reg.CX).eqz(), () => e.endBlock());
              e.restart();
            });
          });
        });
      });
    };
    const step = stepOf(e);
    repeated(e, () => {
      const value = e.load(source(e), e.bits);
      e.store(destination(e, true), e.bits, value);
      advance(e, Reg.SI, step);
      advance(e, Reg.DI, step);
      return null;
    }, fast);
  }, traits);

  op("stos" + size, size === "b" ? "AA" : "AB", "", (e) => {
    const { f } = e;
    if (size === "b") e.bits = 8;
    const shift = e.bits === 8 ? 0 : e.bits === 16 ? 1 : e.bits === 32 ? 2 : 3;
    const fast = () => {
      if (e.mode !== 64) return;
      const low = f.i32(e.reg(Reg.AX).i32().and(0xff));
      const fill = f.i64(low.i64u().mul(0x0101010101010101n));
      // Only values whose bytes are all the same.
      const uniform = fill.xor(e.reg(Reg.AX)).zx(e.bits).eqz();
      f.if(f.s32(State.RFLAGS).has(Flag.DF).eqz().and(uniform), () => {
        const to = destination(e, true);
        const count = f.i64(least(masked(e, Reg.CX), elementsInPage(e, to)));
        f.if(count.gtU(3), () => {
          const w = f.pointer(e.tlbSlot(to));
          f.if(w.i64(Tlb.WRITE).eq(to.and(-4096)), () => {
            const bytes = f.i64(count.shl(shift));
            f.memoryFill(e.placeOf(to, w, Tlb.WRITE), low, pointerOf(bytes));
            advance(e, Reg.DI, bytes);
            advance(e, Reg.CX, count.neg());
            f.if(masked(e, Reg.CX).eqz(), () => e.endBlock());
            e.restart();
          });
        });
      });
    };
    const step = stepOf(e);
    // A page that the TLB does not know gets there by an ordinary store.
    repeated(e, () => {
      e.store(destination(e, true), e.bits, e.reg(Reg.AX));
      advance(e, Reg.DI, step);
      return null;
    }, fast);
  }, traits);

  op("lods" + size, size === "b" ? "AC" : "AD", "", (e) => {
    if (size === "b") e.bits = 8;
    const step = stepOf(e);
    repeated(e, () => {
      const value = e.loadUnsigned(source(e), e.bits);
      const ax = e.reg(Reg.AX);
      e.setReg(Reg.AX, e.bits === 64 || e.bits === 32 ? value : ax.and(e.bits === 8 ? ~0xff : ~0xffff).or(value));
      advance(e, Reg.SI, step);
      return null;
    });
  }, traits);

  op("scas" + size, size === "b" ? "AE" : "AF", "", (e) => {
    const { f } = e;
    if (size === "b") e.bits = 8;
    const step = stepOf(e);
    repeated(e, () => {
      const value = e.load(destination(e, false), e.bits);
      const ax = f.i64(e.reg(Reg.AX).sx(e.bits));
      advance(e, Reg.DI, step);
      e.flagsSub(ax, value, f.i64(ax.sub(value).sx(e.bits)));
      return e.repeat === 0xf3 ? ax.eq(value) : ax.ne(value);
    });
  }, traits);

  op("cmps" + size, size === "b" ? "A6" : "A7", "", (e) => {
    const { f } = e;
    if (size === "b") e.bits = 8;
    const step = stepOf(e);
    repeated(e, () => {
      const a = e.load(source(e), e.bits);
      const b = e.load(destination(e, false), e.bits);
      advance(e, Reg.SI, step);
      advance(e, Reg.DI, step);
      e.flagsSub(a, b, f.i64(a.sub(b).sx(e.bits)));
      return e.repeat === 0xf3 ? a.eq(b) : a.ne(b);
    });
  }, traits);

  op("ins" + size, size === "b" ? "6C" : "6D", "", (e) => {
    const { f } = e;
    e.bits = size === "b" ? 8 : e.bits === 64 ? 32 : e.bits;
    const port = () => e.reg(Reg.DX).i32().and(0xffff);
    const step = stepOf(e);
    f.do(ioPermission, port(), e.bits >> 3);
    e.faultIf(f.s32(State.FAULT));
    repeated(e, () => {
      const to = destination(e, true);
      f.drop(f.call64(loadForWriteSlow, to, e.bits >> 3));
      e.faultIf(f.s32(State.FAULT));
      const value = e.checked(f.i64(), f.call64(portRead, port(), e.bits >> 3));
      e.store(to, e.bits, value);
      advance(e, Reg.DI, step);
      return null;
    });
  }, traits);

  op("outs" + size, size === "b" ? "6E" : "6F", "", (e) => {
    const { f } = e;
    e.bits = size === "b" ? 8 : e.bits === 64 ? 32 : e.bits;
    const port = () => e.reg(Reg.DX).i32().and(0xffff);
    const step = stepOf(e);
    f.do(ioPermission, port(), e.bits >> 3);
    e.faultIf(f.s32(State.FAULT));
    repeated(e, () => {
      const value = e.loadUnsigned(source(e), e.bits);
      f.do(portWrite, port(), e.bits >> 3, value);
      e.faultIf(f.s32(State.FAULT));
      advance(e, Reg.SI, step);
      return null;
    });
  }, traits);
}
