/** The vCPU state a kernel is entered with, over the architectural reset state. */
import { SEGMENT_BYTES, X64, X64_STATE_BYTES, X64_STATE_VERSION } from "../core/x64_state.ts";

/** Selectors that the 64-bit boot protocol fixes (boot.rst, "64-bit Boot Protocol"), and the task register's. */
const BOOT_CS = 0x10;
const BOOT_DS = 0x18;
const BOOT_TSS = 0x20;

/** Attributes as in `x64_state.ts`: present, S, type; flat segments with G; code with L or D. */
const CODE64 = 0xa09b;
const CODE32 = 0xc09b;
const DATA = 0xc093;
const TSS_BUSY = 0x008b;
const LDT = 0x0082;

/** Order of the state's general registers. */
const RBX = 3;
const RSP = 4;
const RSI = 6;
/** Indices of the state's segments. */
const ES = 0, CS = 1, SS = 2, DS = 3, FS = 4, GS = 5, LDTR = 6, TR = 7;

const CR0_PE = 1n << 0n;
const CR0_ET = 1n << 4n;
const CR0_PG = 1n << 31n;
const CR4_PAE = 1n << 5n;
const EFER_LME = 1n << 8n;
const EFER_LMA = 1n << 10n;

/** IA32_MTRR_DEF_TYPE (SDM vol. 3, 12.11.2.1): memory is write-back, and the MTRRs are enabled. */
const MTRR_DEF_TYPE = 0x2ff;
const MTRR_ENABLED_WRITE_BACK = 0x806n;

/** Limit of {@link gdtEntries}. */
export const GDT_BYTES = 48;

/** The descriptors that fit the segments of both entry states (SDM vol. 3, 3.4.5), 64-bit or 32-bit code. */
export function gdtEntries(wide: boolean): BigUint64Array<ArrayBuffer> {
  const flat = (attributes: number) => BigInt(attributes & 0xf0ff) << 40n | 0xfn << 48n | 0xffffn;
  return new BigUint64Array([0n, 0n, flat(wide ? CODE64 : CODE32), flat(DATA), BigInt(TSS_BUSY) << 40n | 0x67n, 0n]);
}

/** Where and how to enter. */
export interface Entry {
  /** 64-bit: long mode, paging on. Otherwise 32-bit protected mode, paging off. */
  wide: boolean;
  /** Linux's own boot protocol, with boot_params in rsi; otherwise PVH, start info in ebx. */
  linux: boolean;
  instruction: number;
  /** Address of boot_params or hvm_start_info. */
  information: number;
  stack: number;
  gdt: number;
  /** Top of the page tables; unused when not `wide`. */
  pageTables: number;
}

/** A state as after reset (SDM vol. 3, table 9-1), where no vCPU's own is at hand. */
export function resetState(): ArrayBuffer {
  const state = new ArrayBuffer(X64_STATE_BYTES);
  const view = new DataView(state);
  view.setUint32(X64.VERSION, X64_STATE_VERSION, true);
  view.setBigUint64(X64.XCR0, 1n, true);
  view.setBigUint64(X64.DR + 32, 0xffff0ff0n, true);
  view.setBigUint64(X64.DR + 40, 0x400n, true);
  view.setBigUint64(X64.APIC_BASE, 0xfee00900n, true);
  view.setBigUint64(X64.PAT, 0x0007040600070406n, true);
  view.setBigUint64(X64.MISC_ENABLE, 1n, true);
  view.setUint16(X64.XSAVE, 0x37f, true); // FCW as after FNINIT
  view.setUint32(X64.XSAVE + 24, 0x1f80, true); // MXCSR
  view.setUint8(X64.XSAVE + 512, 3); // XSTATE_BV: x87 and SSE stand in the image
  return state;
}

/**
 * Names in `state` the MSRs that firmware sets on every CPU. With its MTRRs off, Linux does without PAT, too, and maps
 * what it wants write-combining uncached.
 */
export function setFirmwareMsrs(state: ArrayBuffer): void {
  const view = new DataView(state);
  view.setUint32(X64.OTHER_MSR_COUNT, 1, true);
  view.setUint32(X64.OTHER_MSRS, MTRR_DEF_TYPE, true);
  view.setBigUint64(X64.OTHER_MSRS + 8, MTRR_ENABLED_WRITE_BACK, true);
}

/** Writes into `state` what the boot protocols say of registers; leaves the rest as it is. */
export function enter(state: ArrayBuffer, entry: Entry): void {
  const view = new DataView(state);
  const register = (offset: number, value: bigint) => view.setBigUint64(offset, value, true);
  const segment = (index: number, selector: number, attributes: number, limit: number) => {
    const at = X64.SEGMENTS + index * SEGMENT_BYTES;
    view.setBigUint64(at, 0n, true);
    view.setUint32(at + 8, limit, true);
    view.setUint16(at + 12, selector, true);
    view.setUint16(at + 14, attributes, true);
  };
  view.setUint32(X64.ACTIVITY, 0, true);
  for (let i = 0; i < 16; i++) register(X64.GPR + i * 8, 0n);
  register(X64.GPR + RSP * 8, BigInt(entry.stack));
  register(X64.GPR + (entry.linux ? RSI : RBX) * 8, BigInt(entry.information));
  register(X64.RIP, BigInt(entry.instruction));
  register(X64.RFLAGS, 2n); // interrupts off
  segment(CS, BOOT_CS, entry.wide ? CODE64 : CODE32, 0xffffffff);
  for (const index of [ES, SS, DS, FS, GS]) segment(index, BOOT_DS, DATA, 0xffffffff);
  segment(LDTR, 0, LDT, 0xffff);
  segment(TR, BOOT_TSS, TSS_BUSY, 0x67);
  register(X64.GDTR_BASE, BigInt(entry.gdt));
  view.setUint32(X64.GDTR_LIMIT, GDT_BYTES - 1, true);
  register(X64.IDTR_BASE, 0n);
  view.setUint32(X64.IDTR_LIMIT, 0, true);
  register(X64.CR0, entry.wide ? CR0_PE | CR0_ET | CR0_PG : CR0_PE | CR0_ET);
  register(X64.CR2, 0n);
  register(X64.CR3, entry.wide ? BigInt(entry.pageTables) : 0n);
  register(X64.CR4, entry.wide ? CR4_PAE : 0n);
  register(X64.EFER, entry.wide ? EFER_LME | EFER_LMA : 0n);
}
