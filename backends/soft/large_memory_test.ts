/** As much guest memory as there can be: its last bytes are stored to, loaded, run. */
import assert from "node:assert/strict";
import { X64 } from "../../core/x64_state.ts";
import { Assembler, at } from "../../tests/conformance/assembler.ts";
import { needs } from "../../tests/skip.ts";
import { startState } from "../../tests/conformance/guest.ts";
import { DONE_PORT, Place, Rig } from "./jit/rig.ts";
import { soft } from "./hypervisor.ts";
import { testMode } from "./test_mode.ts";

const GIB = 2 ** 30;
const END = 16 * GIB;
/** Passes over the same code: the second one is compiled where regions are. */
const PASSES = 20;

/** Why the host does not give a guest so much, or null. */
function refusal(): string | null {
  try {
    soft.createPartition({ architecture: "x86_64", cpus: 1, memory: END }).close();
    return null;
  } catch (error) {
    return (error as Error).message;
  }
}
const refused = refusal();

for (const [tier, threshold] of [["interpreter", -1], ["regions", 1]] as const) {
  const name = `${tier}: the last page of 16 GiB is memory like any other`;
  const ignore = needs(refused === null, name, refused ?? "");
  Deno.test({ name, ignore }, () => {
    assert.equal(soft.probe().maxMemory, END);
    const rig = new Rig(threshold, END / 2 ** 20);
    try {
      // Pages of 1 GiB behind the first (SDM vol. 3, 4.5.4).
      for (let gib = 1; gib < 16; gib++) {
        rig.view.setBigUint64(Place.TABLES + 0x1000 + gib * 8, BigInt(gib * GIB) | 0xe3n, true);
      }
      // mov eax, 77; ret
      rig.bytes.set([0xb8, 77, 0, 0, 0, 0xc3], END - 64);
      const code = new Assembler(64, Place.CODE);
      code.mov("ebp", PASSES).mov("r12", END - 64).label("pass");
      // Whole words at the very end, and across the last two pages.
      code.mov("rbx", END - 8).mov("rax", 0x1122_3344_5566_7788n).mov(at({ base: "rbx" }), "rax");
      code.mov("ecx", 1).lockXadd(at({ base: "rbx" }), "rcx").mov("r8", at({ base: "rbx" }));
      code.mov("rbx", END - 4096 - 4).mov(at({ base: "rbx" }), "rax").mov("r9", at({ base: "rbx" }));
      code.lock().arithmetic("add", at({ base: "rbx", size: 8 }), 1).mov("r10", at({ base: "rbx" }));
      // 16 bytes, and a string from there to the middle.
      code.mov("rbx", END - 32).vector("movdqa", "xmm0", at({ base: "rbx", displacement: 16 }));
      code.vector("movdqa", at({ base: "rbx" }), "xmm0");
      code.mov("rsi", END - 4096).mov("rdi", 12 * GIB).mov("ecx", 512).string("movs", 8, true);
      code.mov("rsi", 12 * GIB + 4096 - 32).mov("r11", at({ base: "rsi", displacement: 24 }));
      code.mov("rdi", END - 128).mov("ecx", 16).mov("al", 0x5a).string("stos", 1, true);
      // Compares with the 16 bytes and exchanges them.
      code.mov("rax", at({ base: "rbx" })).mov("rdx", at({ base: "rbx", displacement: 8 }));
      code.mov("rcx", "rbp").arithmetic("xor", "ebx", "ebx").mov("r13", END - 32);
      code.lockCmpxchgPair(at({ base: "r13" }), 16).setcc("e", "r14b");
      code.bytes(0x41, 0xff, 0xd4).mov("r15", "rax"); // call r12
      code.unary("dec", "ebp").jcc("ne", "pass").out(DONE_PORT, "al");
      rig.load(code.assemble());
      assert.equal(rig.run(), 0);
      if (threshold > 0) assert.ok(rig.vcpu.core.jit!.statistics.regions > 0, "nothing was compiled");
      const state = new DataView(rig.state().buffer);
      const register = (number: number) => state.getBigUint64(X64.GPR + number * 8, true);
      assert.equal(register(8), 0x1122_3344_5566_7789n, "the last word");
      assert.equal(register(9), 0x1122_3344_5566_7788n, "a word across the last two pages");
      assert.equal(register(10), 0x1122_3344_5566_7789n, "the same under LOCK");
      assert.equal(register(11), 0x1122_3344_5566_7789n, "the last word, as the string copied it");
      assert.equal(register(14) & 0xffn, 1n, "CMPXCHG16B");
      assert.equal(register(15), 77n, "code of the last page");
      assert.equal(rig.view.getBigUint64(END - 8, true), 0x1122_3344_5566_7789n);
      assert.equal(rig.view.getBigUint64(END - 24, true), 1n, "the upper half that CMPXCHG16B stored");
      assert.deepEqual(rig.bytes.slice(END - 129, END - 111), new Uint8Array(18).fill(0x5a, 1, 17));
      // What it began with is no other than it was.
      assert.equal(rig.view.getBigUint64(0, true), 0n);
    } finally {
      rig.vcpu.close();
      rig.partition.close();
    }
  });
}

// In a memory of its own guest RAM begins at 0, which elsewhere stands for no address.
for (const separateRam of [false, true]) {
  for (const [tier, threshold] of [["interpreter", -1], ["regions", 1]] as const) {
    Deno.test(`${tier}: guest address 0 is memory like any other${separateRam ? ", in a memory of its own" : ""}`, () => {
      testMode.separateRam = separateRam;
      let rig: Rig;
      try {
        rig = new Rig(threshold);
      } finally {
        testMode.separateRam = false;
      }
      assert.equal(rig.partition.memory().byteOffset === 0, separateRam);
      // The page tables' root is there, too: its first entry is what every translation reads.
      rig.view.setBigUint64(0, rig.view.getBigUint64(Place.TABLES, true), true);
      rig.view.setBigUint64(Place.TABLES, 0n, true);
      const state = startState(64);
      new DataView(state).setBigUint64(X64.CR3, 0n, true);
      const code = new Assembler(64, Place.CODE).mov("ebp", PASSES).arithmetic("xor", "ebx", "ebx");
      // Bit 9 and up of an entry are software's (SDM vol. 3, table 4-15): bit 9 is added to and taken away.
      const cell = at({ base: "rbx", size: 4 });
      code.label("pass").mov("eax", cell).mov("r8", "rax").lock().arithmetic("add", cell, 0x200).mov("eax", cell);
      code.mov("r9", "rax").arithmetic("sub", cell, 0x200).mov("eax", cell).mov("r10", "rax");
      // Anew: each translation reads the root again.
      code.mov("rax", 0).bytes(0x0f, 0x22, 0xd8); // mov cr3, rax
      code.unary("dec", "ebp").jcc("ne", "pass").out(DONE_PORT, "al");
      rig.load(code.assemble(), state);
      assert.equal(rig.run(), 0);
      const found = new DataView(rig.state().buffer);
      const root = BigInt(Place.TABLES + 0x1000) | 0x23n; // accessed, by the walks
      const register = (number: number) => found.getBigUint64(X64.GPR + number * 8, true);
      assert.deepEqual([register(8), register(9), register(10)], [root, root + 0x200n, root]);
      rig.vcpu.close();
      rig.partition.close();
    });
  }
}

Deno.test("more than 16 GiB is refused in words", () => {
  assert.throws(
    () => soft.createPartition({ architecture: "x86_64", cpus: 1, memory: END + 4096 }),
    /at most 16 GiB of memory/,
  );
});
