/**
 * 16-bit code that runs over offset FFFF: #GP, as behind any limit (SDM vol. 3, 5.3), with the offset behind it as the
 * return address, cut to 16 bits in real mode.
 */
import assert from "node:assert/strict";
import { X64 } from "../../core/x64_state.ts";
import { Assembler, at } from "../../tests/conformance/assembler.ts";
import { startState } from "../../tests/conformance/guest.ts";
import { DONE_PORT, Rig } from "./jit/rig.ts";

const HANDLER = 0x3000;
const TIMES = 40;
/** The last instructions of a segment, and what has run when #GP comes: how often AX was counted up. */
const ENDINGS: Record<string, { bytes: number[]; counted: number; at: number }> = {
  "an instruction that ends there": { bytes: [0x40, 0x40, 0x40], counted: 3, at: 0 },
  "an instruction that reaches over it": { bytes: [0x40, 0x40, 0x05], counted: 2, at: 0xffff },
  // jc, with CF clear.
  "a branch that is not taken": { bytes: [0x40, 0x72, 0x80], counted: 1, at: 0 },
  // sti, which ends its block; the interrupt flag is of no account.
  "an instruction that ends its block": { bytes: [0x40, 0x90, 0xfb], counted: 1, at: 0 },
};

for (const [tier, threshold] of [["interpreter", -1], ["regions", 1]] as const) {
  for (const base of [0x2_0000, 0x2_0550]) {
    for (const [name, { bytes, counted, at: where }] of Object.entries(ENDINGS)) {
      Deno.test(`${tier}: 16-bit code runs over offset FFFF of a segment at ${base.toString(16)}: ${name}`, () => {
        const rig = new Rig(threshold, 2);
        try {
          // INC AX all around: what goes on, or begins at 0, counts on.
          rig.bytes.fill(0x40, base + 0xff00, base + 0x1_0100);
          rig.bytes.set(bytes, base + 0x1_0000 - bytes.length);
          rig.view.setUint16(13 * 4, HANDLER, true);
          const handler = new Assembler(16, HANDLER);
          // The stack has IP, CS and FLAGS; BP counts what comes of a right one.
          handler.mov("bp", "sp").mov("bx", at({ base: "bp" }));
          handler.arithmetic("cmp", "bx", where).jcc("ne", "wrong").arithmetic("cmp", "ax", counted).jcc("ne", "wrong");
          handler.arithmetic("add", "sp", 6).unary("dec", "cx").jcc("e", "end").arithmetic("xor", "ax", "ax");
          // jmp far base:end
          handler.bytes(0xea).bytes((0x1_0000 - bytes.length) & 0xff, 0xff, (base >> 4) & 0xff, base >> 12);
          handler.label("wrong").label("end").out(DONE_PORT, "al");
          rig.bytes.set(handler.assemble(), HANDLER);
          const state = startState(16);
          const fields = new DataView(state);
          fields.setBigUint64(X64.RIP, BigInt(0x1_0000 - bytes.length), true);
          fields.setBigUint64(X64.SEGMENTS + 16, BigInt(base), true);
          fields.setUint16(X64.SEGMENTS + 16 + 12, base >> 4, true);
          fields.setBigUint64(X64.GPR + 8, BigInt(TIMES), true);
          rig.vcpu.setState(state);
          assert.equal(rig.run(), 0);
          const after = new DataView(rig.state().buffer);
          const word = (number: number) => after.getUint16(X64.GPR + number * 8, true);
          assert.deepEqual({ ip: word(3), ax: word(0), left: word(1) }, { ip: where, ax: counted, left: 0 });
        } finally {
          rig.vcpu.close();
          rig.partition.close();
        }
      });
    }
  }
}
