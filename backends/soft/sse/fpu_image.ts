/** The FXSAVE image (SDM vol. 1, 10.5.1), to and from memory. */
import { type Emitter, Vector } from "../emitter.ts";
import { State } from "../layout.ts";
import type { Local } from "../wasm/function.ts";
import { pointerOf32 } from "../wasm/memory.ts";
import { type I32, i32, type I64, i64, select } from "../wasm/values.ts";

/** Bits of MXCSR that may be set (SDM vol. 1, 11.6.6). */
export const MXCSR_MASK = 0xffff;

const FXSAVE = {
  FCW: 0,
  FSW: 2,
  FTW: 4,
  FOP: 6,
  FIP: 8,
  FDP: 16,
  MXCSR: 24,
  MXCSR_MASK: 28,
  ST0: 32,
  XMM0: 160,
} as const;

/** One bit a register from two: set where it is not empty (SDM vol. 1, 10.5.1.1). */
export function abridgedTags(e: Emitter): I32 {
  const { f } = e;
  const full = f.s16(State.FTW);
  const bits = f.i32(full.and(full.shrU(1)).xor(-1).and(0x5555));
  f.set(bits, bits.or(bits.shrU(1)).and(0x3333));
  f.set(bits, bits.or(bits.shrU(2)).and(0x0f0f));
  return bits.or(bits.shrU(4)).and(0xff);
}

/** The reverse: 11 where the bit is 0, 00 where it is 1. */
export function fullTags(e: Emitter, abridged: I32): I32 {
  const bits = e.f.i32(abridged.and(0xff).xor(0xff));
  e.f.set(bits, bits.or(bits.shl(4)).and(0x0f0f));
  e.f.set(bits, bits.or(bits.shl(2)).and(0x3333));
  e.f.set(bits, bits.or(bits.shl(1)).and(0x5555));
  return bits.or(bits.shl(1));
}

/** Offset in the state of register ST(`i`). */
export function stackRegister(e: Emitter, i: I32): I32 {
  return i.add(e.f.s16(State.FSW).shrU(11)).and(7).shl(4);
}

function at(e: Emitter, address: I64, offset: number): Local<I64> {
  return e.f.i64(address.add(offset));
}

/** Stores the x87 part: control, status, tags, pointers, registers. */
export function storeX87(e: Emitter, address: Local<I64>): void {
  const { f } = e;
  // The pointers tell of a pending exception, and are nothing without one (as on AMD's processors).
  const pending = f.i64(i64(0).sub(f.s16(State.FSW).shrU(7).and(1).i64u()));
  const head = f.s16(State.FCW).i64u().or(f.s16(State.FSW).i64u().shl(16))
    .or(abridgedTags(e).i64u().shl(32)).or(f.s16(State.FOP).i64u().and(pending).shl(48));
  e.store(address, 64, head);
  const width = e.bits === 64 ? pending : pending.u32();
  e.store(at(e, address, FXSAVE.FIP), 64, f.s64(State.FIP).and(width));
  e.store(at(e, address, FXSAVE.FDP), 64, f.s64(State.FDP).and(width));
  const i = f.i32(0);
  const place = f.i64(address.add(FXSAVE.ST0));
  f.loop((again) => {
    const register = f.pointer(pointerOf32(stackRegister(e, i)).add(f.place(State.X87)));
    e.store(place, 64, register.i64());
    e.store(f.i64(place.add(8)), 64, register.u16w(8));
    f.set(place, place.add(16));
    f.set(i, i.add(1));
    f.brIf(again, i.ltU(8));
  });
}

/** Loads what {@link storeX87} stores. */
export function loadX87(e: Emitter, address: Local<I64>): void {
  const { f } = e;
  // All of it is read before anything changes.
  f.drop(e.load(at(e, address, 159), 8));
  const head = e.load(address, 64);
  const instruction = e.load(at(e, address, FXSAVE.FIP), 64);
  const data = e.load(at(e, address, FXSAVE.FDP), 64);
  const i = f.i32(0);
  const place = f.i64(address.add(FXSAVE.ST0));
  const first = f.i32(head.shrU(16 + 11).i32());
  f.loop((again) => {
    const significand = e.load(place, 64);
    const rest = e.load(f.i64(place.add(8)), 16);
    const register = f.pointer(pointerOf32(i.add(first).and(7).shl(4)).add(f.place(State.X87)));
    f.store64(register, significand);
    f.store16(register, rest.i32(), 8);
    f.set(place, place.add(16));
    f.set(i, i.add(1));
    f.brIf(again, i.ltU(8));
  });
  setStatus(e, head);
  f.set16(State.FOP, head.shrU(48).i32().and(0x7ff));
  f.set64(State.FIP, e.bits === 64 ? instruction : instruction.u32());
  f.set64(State.FDP, e.bits === 64 ? data : data.u32());
}

/** Control, status and tags from the image's first eight bytes. */
function setStatus(e: Emitter, head: Local<I64>): void {
  const { f } = e;
  f.set16(State.FCW, controlWord(head.i32()));
  f.set16(State.FSW, statusWord(f.i32(head.shrU(16).i32()), head.i32()));
  f.set16(State.FTW, fullTags(e, head.shrU(32).i32()));
}

/** The control word as it reads back: bit 6 is always set, bits 7 and 13-15 never. */
export function controlWord(value: I32): I32 {
  return value.and(0x1f7f).or(0x40);
}

/** The status word as it reads back: B and ES follow from the flags and the masks. */
export function statusWord(status: I32, control: I32): I32 {
  const pending = status.and(0x3f).and(control.xor(-1)).and(0x3f);
  return status.and(0x7f7f).or(select(pending, i32(0x8080), i32(0)));
}

/** Stores MXCSR and its mask. */
export function storeMxcsr(e: Emitter, address: I64): void {
  e.store(at(e, address, FXSAVE.MXCSR), 64, e.f.s32(State.MXCSR).i64u().or(i64(MXCSR_MASK).shl(32)));
}

/** Raises #GP(0) when a value cannot go into MXCSR. */
export function checkMxcsr(e: Emitter, value: I32): void {
  e.raiseIf(value.has(~MXCSR_MASK), Vector.GP, 0);
}

/** XMM registers: 16 in 64-bit mode, else 8. */
export function storeXmm(e: Emitter, address: I64): void {
  for (let n = 0; n < (e.mode === 64 ? 16 : 8); n++) {
    e.store128(at(e, address, FXSAVE.XMM0 + n * 16), false, e.xmm(n));
  }
}
export function loadXmm(e: Emitter, address: I64): void {
  for (let n = 0; n < (e.mode === 64 ? 16 : 8); n++) {
    e.setXmm(n, e.load128(at(e, address, FXSAVE.XMM0 + n * 16), false));
  }
}
export { FXSAVE };
