/** The binary form of cases and results that native_cpu.c reads and writes. */

/** Guest memory of a case: code in the first page, data in the window. */
export const ARENA = 0x2000_0000;
export const ARENA_BYTES = 0x1_0000;
/** Where the instruction stands. */
export const CODE = ARENA + 0x800;
/** Data, also what GS points to. */
export const WINDOW = ARENA + 0x4000;
export const WINDOW_BYTES = 640;

/** A case: code, its length, flags, registers, FXSAVE image, window. A result: trap, error, CR2, RIP, then the same. */
export const Record = {
  CODE: 0,
  LENGTH: 16,
  /** Of a result: vector, or -1. */
  TRAP: 0,
  ERROR: 4,
  ADDRESS: 8,
  RIP: 16,
  FLAGS: 24,
  GPR: 32,
  FX: 160,
  WINDOW: 672,
} as const;
export const RECORD_BYTES = 672 + WINDOW_BYTES;

/** Offsets in the FXSAVE image (SDM vol. 1, table 10-2). */
export const Fx = { FCW: 0, FSW: 2, FTW: 4, MXCSR: 24, ST: 32, XMM: 160 } as const;
