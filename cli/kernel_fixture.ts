/**
 * A kernel for tests of a whole `hv run`: it says what it reads on COM1 back, and a letter ends it in each of the ways a
 * guest can end. An ELF file with a PVH note, in 32-bit code without paging.
 */
import { Assembler } from "../tests/conformance/assembler.ts";

const ORIGIN = 0x10_0000;
const COM1 = 0x3f8;
const LINE_STATUS = COM1 + 5;
const PM1_STATUS = 0x600;
const PM1_CONTROL = 0x604;
/** SLP_TYP 5 and SLP_EN. */
const SOFT_OFF = (5 << 10) | (1 << 13);
const POWER_BUTTON = 1 << 8;

/** What the kernel does on reading a letter. Any other byte it writes back. */
export const KEYS = {
  powerOff: "p",
  exit7: "x",
  tripleFault: "t",
  panic: "c",
  reset: "r",
  /** Runs in a circle with interrupts off and looks at nothing any more. */
  spin: "s",
  halt: "h",
  /** From here on the power button is ignored. */
  deaf: "d",
} as const;

/** The kernel's file. */
export function testKernel(): Uint8Array {
  const code = new Assembler(32, ORIGIN);
  const branches = {
    p: "powerOff",
    x: "exit7",
    t: "tripleFault",
    c: "panic",
    r: "reset",
    s: "spin",
    h: "halt",
    d: "deaf",
  };
  code.mov("ebp", POWER_BUTTON);
  for (const byte of new TextEncoder().encode("ready\r\n")) code.mov("bl", byte).call("write");
  code.label("poll");
  code.mov("edx", PM1_STATUS).in("ax", "dx").test("eax", "ebp").jcc("ne", "powerOff");
  code.mov("edx", LINE_STATUS).in("al", "dx").test("al", 1).jcc("e", "poll");
  code.mov("edx", COM1).in("al", "dx").mov("bl", "al");
  for (const [key, label] of Object.entries(branches)) {
    code.arithmetic("cmp", "bl", key.charCodeAt(0)).jcc("e", label);
  }
  code.call("write").jmp("poll");

  code.label("write").mov("edx", LINE_STATUS).label("full").in("al", "dx").test("al", 0x20).jcc("e", "full");
  code.mov("edx", COM1).mov("al", "bl").out("dx", "al").ret();

  code.label("powerOff").mov("eax", SOFT_OFF).mov("edx", PM1_CONTROL).out("dx", "ax").jmp("halt");
  code.label("exit7").mov("eax", 7).out(0xf4, "al").jmp("halt");
  code.label("panic").mov("eax", 1).mov("edx", 0x505).out("dx", "al").jmp("halt");
  code.label("reset").mov("eax", 6).mov("edx", 0xcf9).out("dx", "al").jmp("halt");
  code.label("deaf").mov("ebp", 0).jmp("poll");
  code.label("spin").cli().label("circle").jmp("circle");
  code.label("halt").cli().label("asleep").hlt().jmp("asleep");
  // An empty interrupt table: the general protection fault (mov ds, ax with a selector beyond the GDT), the double
  // fault after it and what follows find no handler.
  code.label("tripleFault").lidt({ displacement: ORIGIN - 16 }).mov("eax", 0xfff8).bytes(0x8e, 0xd8);

  // The six bytes LIDT reads lie before the code, all zero.
  const lead = 16;
  return elf(new Uint8Array([...new Uint8Array(lead), ...code.assemble()]), ORIGIN - lead, ORIGIN);
}

/** An ELF file (System V ABI, chapters 4 and 5) with one segment and XEN_ELFNOTE_PHYS32_ENTRY (18). */
function elf(segment: Uint8Array, address: number, entry: number): Uint8Array {
  const HEADERS = 64 + 2 * 56;
  const NOTE = 20;
  const file = new Uint8Array(HEADERS + NOTE + segment.length);
  const view = new DataView(file.buffer);
  const u64 = (at: number, value: number) => view.setBigUint64(at, BigInt(value), true);
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setUint16(16, 2, true);
  view.setUint16(18, 62, true);
  view.setUint32(20, 1, true);
  u64(24, entry);
  u64(32, 64);
  view.setUint16(52, 64, true);
  view.setUint16(54, 56, true);
  view.setUint16(56, 2, true);
  const program = (at: number, type: number, offset: number, where: number, size: number) => {
    view.setUint32(at, type, true);
    view.setUint32(at + 4, 7, true);
    [offset, where, where, size, size, 4].forEach((value, index) => u64(at + 8 + 8 * index, value));
  };
  program(64, 4, HEADERS, 0, NOTE);
  program(64 + 56, 1, HEADERS + NOTE, address, segment.length);
  [4, 4, 18].forEach((value, index) => view.setUint32(HEADERS + 4 * index, value, true));
  file.set(new TextEncoder().encode("Xen\0"), HEADERS + 12);
  view.setUint32(HEADERS + 16, entry, true);
  file.set(segment, HEADERS + NOTE);
  return file;
}
