/** The modes and segments in which the two tiers are compared. */
import { X64, X64_STATE_BYTES } from "../../../core/x64_state.ts";
import { type Mode, startState } from "../../../tests/conformance/guest.ts";
import { Place, type Rig } from "./rig.ts";

/** Where the loops count: out of the random accesses' reach. */
export const COUNTER = Place.DATA + 0x8000;

/** A mode, and where its segments begin. */
export interface Setting {
  name: string;
  mode: Mode;
  /** Bases of CS, SS and DS; 0 where they are flat. */
  code: number;
  stack: number;
  data: number;
  /** Code generated for it is unlike the others'. */
  rows: boolean;
  /** Completes the state. */
  prepare(state: DataView, rig: Rig): void;
}

const CR0 = { PE: 0x31n, PG: 0x8000_0031n, REAL: 0x30n };

function segment(state: DataView, number: number, base: number, limit: number, attributes: number): void {
  const at = X64.SEGMENTS + number * 16;
  state.setBigUint64(at, BigInt(base), true);
  state.setUint32(at + 8, limit, true);
  state.setUint16(at + 14, attributes, true);
}

/** CS, SS, DS and ES with bases, FS and GS beside DS; GS ends soon. */
function segments(state: DataView, { code, stack, data }: Setting, wide: number, limit: number): void {
  segment(state, 0, data, limit, 0x93 | wide);
  segment(state, 1, code, 0xffff, 0x9b | wide);
  segment(state, 2, stack, limit, 0x93 | wide);
  segment(state, 3, data, limit, 0x93 | wide);
  segment(state, 4, data + 0x123, limit, 0x93 | wide);
  segment(state, 5, data, 0x7fff, 0x93 | wide);
}

const flat = { code: 0, stack: 0, data: 0, rows: false, prepare: () => {} };
const based = { code: 0x7f0, stack: Place.DATA - 0x4010, data: Place.DATA - 0x6010, rows: false };

/** The page directory of 32-bit paging: 4 MiB pages onto themselves. */
const DIRECTORY = Place.TABLES + 0x4000;

export const settings: readonly Setting[] = [
  { name: "64-bit mode", mode: 64, ...flat, rows: true },
  { name: "32-bit protected mode", mode: 32, ...flat, rows: true },
  {
    name: "32-bit protected mode with paging",
    mode: 32,
    ...flat,
    prepare(state, rig) {
      for (let i = 0; i < 1024; i++) rig.view.setUint32(DIRECTORY + i * 4, i * 2 ** 22 + 0xe3, true);
      state.setBigUint64(X64.CR3, BigInt(DIRECTORY), true);
      state.setBigUint64(X64.CR4, 0x610n, true);
      state.setBigUint64(X64.CR0, CR0.PG, true);
    },
  },
  {
    name: "compatibility mode",
    mode: 32,
    ...flat,
    prepare(state) {
      state.setBigUint64(X64.CR3, BigInt(Place.TABLES), true);
      state.setBigUint64(X64.CR4, 0x620n, true);
      state.setBigUint64(X64.EFER, 0x500n, true);
      state.setBigUint64(X64.CR0, CR0.PG, true);
    },
  },
  {
    name: "32-bit segments that begin and end somewhere",
    mode: 32,
    ...based,
    rows: true,
    prepare(state) {
      segments(state, this, 0x4000, 0x1_ffff);
    },
  },
  {
    name: "16-bit protected mode",
    mode: 16,
    ...based,
    rows: true,
    prepare(state) {
      state.setBigUint64(X64.CR0, CR0.PE, true);
      state.setBigUint64(X64.CR4, 0x600n, true);
      segments(state, this, 0, 0xffff);
    },
  },
  {
    name: "real mode",
    mode: 16,
    ...based,
    prepare(state) {
      state.setBigUint64(X64.CR0, CR0.REAL, true);
      // No vectors: an exception shuts down, as it does in the other modes.
      state.setUint32(X64.IDTR_LIMIT, 0, true);
      state.setBigUint64(X64.CR4, 0x600n, true);
      segments(state, this, 0, 0xffff);
    },
  },
];

/** The state in which code at {@link Place.CODE} starts. */
export function stateFor(setting: Setting, rig: Rig, registers: readonly bigint[]): ArrayBuffer {
  const state = startState(setting.mode);
  const view = new DataView(state, 0, X64_STATE_BYTES);
  view.setBigUint64(X64.RIP, BigInt(Place.CODE - setting.code), true);
  const mask = setting.mode === 64 ? ~0n : 0xffff_ffffn;
  registers.forEach((value, n) => view.setBigUint64(X64.GPR + n * 8, value & mask, true));
  setting.prepare(view, rig);
  return state;
}
