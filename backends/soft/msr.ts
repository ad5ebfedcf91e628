/** Model-specific registers (SDM vol. 4) that are neither the local APIC's nor unknown. */
import { EFER } from "./cpu/mmu.ts";
import { Seg, Segment, State } from "./layout.ts";

/** What an MSR may look at. */
export interface MsrContext {
  state: DataView;
  /** The TSC before its offset. */
  clock: number;
}

const base = (segment: number) => State.SEGMENTS + segment * Segment.BYTES + Segment.BASE;

/** What the guest has added to its TSC, by writing to this or to the TSC (SDM vol. 3, 18.17.3). */
export const TSC_ADJUST = 0x3b;
export const SPEC_CTRL = 0x48;
/** IA32_SPEC_CTRL's bits that CPUID offers: IBRS and BHI_DIS_S (SDM vol. 4, table 2-2). */
export const SPEC_CTRL_BITS = 0x401n;
/** IA32_PRED_CMD's: IBPB. */
const PRED_CMD_BITS = 1n;

/** Registers that are a field of the state; `address` ones must be canonical, others have no bits but `bits`. */
const FIELDS = new Map<number, { field: number; address?: boolean; bits?: bigint }>([
  [0x1b, { field: State.APIC_BASE }],
  [SPEC_CTRL, { field: State.SPEC_CTRL, bits: SPEC_CTRL_BITS }],
  [0x174, { field: State.SYSENTER_CS }],
  [0x175, { field: State.SYSENTER_ESP, address: true }],
  [0x176, { field: State.SYSENTER_EIP, address: true }],
  [0x1a0, { field: State.MISC_ENABLE }],
  [0x277, { field: State.PAT }],
  [0xc000_0081, { field: State.STAR }],
  [0xc000_0082, { field: State.LSTAR, address: true }],
  [0xc000_0083, { field: State.CSTAR, address: true }],
  [0xc000_0084, { field: State.SFMASK, bits: 0xffff_ffffn }],
  [0xc000_0100, { field: base(Seg.FS), address: true }],
  [0xc000_0101, { field: base(Seg.GS), address: true }],
  [0xc000_0102, { field: State.KERNEL_GS_BASE, address: true }],
  [0xc000_0103, { field: State.TSC_AUX, bits: 0xffff_ffffn }],
]);

/** IA32_ARCH_CAPABILITIES: no speculation here, so none of its bugs. */
const ARCH_CAPABILITIES = [0, 1, 3, 4, 5, 6, 8, 13, 14, 15, 17, 20, 24, 26, 27, 62].reduce(
  (all, bit) => all | (1n << BigInt(bit)),
  0n,
);

/** Registers that read as a constant and ignore writes: found in stock kernels' boots. */
const CONSTANTS = new Map<number, bigint>([
  [0x8b, 0x1n << 32n], // IA32_BIOS_SIGN_ID
  [0x10a, ARCH_CAPABILITIES],
  [0x17a, 0n], // IA32_MCG_STATUS
  [0x179, 0n], // IA32_MCG_CAP: no banks
  [0x1d9, 0n], // IA32_DEBUGCTL
  [0x34, 0n], // SMI_COUNT
  [0xce, 0n], // PLATFORM_INFO
  [0x140, 0n], // MISC_FEATURES_ENABLES
  [0x3a, 1n], // IA32_FEATURE_CONTROL, locked
  [0xfe, 0n], // IA32_MTRRCAP
  [0x2ff, 0n], // IA32_MTRR_DEF_TYPE
]);

/** The register's value, or null when it is unknown. */
export function readMsr(context: MsrContext, number: number): bigint | null {
  const { state } = context;
  const index = number >>> 0;
  const known = FIELDS.get(index);
  if (known) return state.getBigUint64(known.field, true);
  if (index === 0xc000_0080) return state.getBigUint64(State.EFER, true);
  if (index === 0x10) {
    return BigInt.asUintN(64, BigInt(Math.floor(context.clock)) + state.getBigInt64(State.TSC_OFFSET, true));
  }
  if (index === TSC_ADJUST) return BigInt.asUintN(64, state.getBigInt64(State.TSC_OFFSET, true));
  return CONSTANTS.get(index) ?? null;
}

/** Writes a register: `translation` when address translation or the mode changed. */
export function writeMsr(
  context: MsrContext,
  number: number,
  value: bigint,
): "done" | "fault" | "unknown" | "translation" {
  const { state } = context;
  const index = number >>> 0;
  const known = FIELDS.get(index);
  if (known) {
    if (known.address && BigInt.asIntN(48, value) !== BigInt.asIntN(64, value)) return "fault";
    if (known.bits !== undefined && value & ~known.bits) return "fault";
    if (index === 0x277) {
      for (let i = 0n; i < 8n; i++) {
        const type = (value >> (i * 8n)) & 0xffn;
        if (type > 7n || type === 2n || type === 3n) return "fault";
      }
    }
    state.setBigUint64(known.field, value, true);
    return "done";
  }
  if (index === 0xc000_0080) {
    const old = state.getBigUint64(State.EFER, true);
    const allowed = BigInt(EFER.SCE | EFER.LME | EFER.NXE);
    if (value & ~(allowed | BigInt(EFER.LMA))) return "fault";
    // LME does not change while paging is on (SDM vol. 3, 10.8.5).
    if ((old ^ value) & BigInt(EFER.LME) && state.getUint32(State.CR0, true) & 0x8000_0000) return "fault";
    state.setBigUint64(State.EFER, (value & allowed) | (old & BigInt(EFER.LMA)), true);
    return "translation";
  }
  if (index === 0x10) {
    state.setBigInt64(State.TSC_OFFSET, BigInt.asIntN(64, value - BigInt(Math.floor(context.clock))), true);
    return "done";
  }
  if (index === TSC_ADJUST) {
    state.setBigInt64(State.TSC_OFFSET, BigInt.asIntN(64, value), true);
    return "done";
  }
  if (index === 0x10a || index === 0xce || index === 0xfe || index === 0x34) return "fault";
  // IA32_PRED_CMD and IA32_BIOS_UPDT_TRIG are for writing only.
  if (index === 0x49) return value & ~PRED_CMD_BITS ? "fault" : "done";
  return CONSTANTS.has(index) || index === 0x79 ? "done" : "unknown";
}
