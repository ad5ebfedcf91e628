/**
 * Bits of MODE_KEY and of a block's key, above the 52 of a physical address: on what of the CPU's state decoded code
 * depends.
 */

/** Size of code: 0 for 16 bits, 1 for 32, 2 for 64-bit mode. */
export const KEY_32 = 1n << 52n;
export const KEY_LONG = 2n << 52n;
/** Blocks of one instruction. */
export const KEY_SINGLE = 1n << 54n;
/** Set in every block's key, so that no key is 0. */
export const KEY_VALID = 1n << 55n;
/** Numbers of the bits of CR0.EM, CR0.TS and CR4.OSFXSR: whether x87 and SSE instructions raise is decoded, not asked. */
export const KEY_EM = 56;
export const KEY_TS = 57;
export const KEY_OSFXSR = 58;
/** The code segment has a limit that code can run into. */
export const KEY_LIMITED = 1n << 59n;
/** Number of the bit: outside 64-bit mode CS, SS and DS are 32-bit segments of 4 GiB at 0, data to read and write. */
export const KEY_FLAT = 60;
