/** The registers of a vCPU that cannot go on, in words. */
import { GPR_NAMES, SEGMENT_NAMES, X64 } from "../../core/x64_state.ts";

const OTHERS = {
  rip: X64.RIP,
  rflags: X64.RFLAGS,
  cr0: X64.CR0,
  cr2: X64.CR2,
  cr3: X64.CR3,
  cr4: X64.CR4,
  efer: X64.EFER,
};

/** Values in hexadecimal by the registers' names, of a state as core/x64_state.ts has it; a segment as selector@base. */
export function failureRegisters(state: ArrayBuffer): Record<string, string> {
  const view = new DataView(state);
  const registers: Record<string, string> = {};
  const u64 = (offset: number) => view.getBigUint64(offset, true).toString(16);
  GPR_NAMES.forEach((name, i) => registers[name] = u64(X64.GPR + i * 8));
  for (const [name, offset] of Object.entries(OTHERS)) registers[name] = u64(offset);
  SEGMENT_NAMES.forEach((name, i) => {
    const at = X64.SEGMENTS + i * 16;
    registers[name] = `${view.getUint16(at + 12, true).toString(16)}@${u64(at)}`;
  });
  return registers;
}
