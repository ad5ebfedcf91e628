/** What a small guest does with its local APIC as memory (SDM vol. 3, 11.4.1). */
import { type Assembler, at } from "./assembler.ts";

export const LOCAL_APIC = 0xfee0_0000;

/** Stores a 32-bit value at an address above 2 GiB; uses rbx. */
export function store(code: Assembler, address: number, value: number): Assembler {
  return code.mov("ebx", address).mov(at({ base: "rbx", size: 4 }), value);
}

/** Switches the local APIC on (SDM vol. 3, 11.9: spurious vector register bit 8), and the 8259's way in, LINT0, off. */
export function enableApic(code: Assembler): Assembler {
  store(code, LOCAL_APIC + 0x350, 0x1_0000);
  return store(code, LOCAL_APIC + 0xf0, 0x1ff);
}
