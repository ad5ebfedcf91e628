/** A hardware task switch takes on the new task's page tables, and gives the old task's back (SDM vol. 3, 8.3). */
import assert from "node:assert/strict";
import { X64 } from "../../core/x64_state.ts";
import { at } from "../../tests/conformance/assembler.ts";
import { withGuest } from "../../tests/conformance/behaviour.ts";
import { endWorkers, type Guest, Layout, startState } from "../../tests/conformance/guest.ts";
import { soft } from "./hypervisor.ts";
import { testMode } from "./test_mode.ts";

const SUBJECT = { name: "soft", hypervisor: soft, ownControllers: true, pvm: false };
const PAGE = 0x1000;

/** Each task's page directory, and behind it its page table of the first 4 MiB. */
const DIRECTORIES = [0x3_0000, 0x3_2000];
const TABLES = DIRECTORIES.map((directory) => directory + PAGE);
/** Each task's TSS, and its selector in the GDT. */
const STATES = [0x4_0000, 0x4_1000];
const SELECTORS = [0x20, 0x28];
/** A page that each task has mapped elsewhere. */
const CELL = 0x5_0000;
const FRAMES = [CELL, CELL + PAGE];

const PRESENT_WRITABLE = 3;
/** Fields of a 32-bit TSS (SDM vol. 3, figure 8-2). */
const Field = { CR3: 0x1c, EIP: 0x20, EFLAGS: 0x24, ESP: 0x38, ES: 0x48, CS: 0x4c, SS: 0x50, DS: 0x54 } as const;
const BYTES = 0x67;

/** What both tasks need: page tables, descriptors, TSSs; the second one begins at `start`. */
function prepare({ view }: Guest, start: number): void {
  DIRECTORIES.forEach((directory, task) => {
    view.setUint32(directory, TABLES[task] | PRESENT_WRITABLE, true);
    for (let page = 0; page < 1024; page++) {
      const frame = page * PAGE === CELL ? FRAMES[task] : page * PAGE;
      view.setUint32(TABLES[task] + page * 4, frame | PRESENT_WRITABLE, true);
    }
    view.setUint32(STATES[task] + Field.CR3, directory, true);
    // SDM vol. 3, figure 8-3: the first task's TSS is busy already.
    view.setUint32(Layout.GDT + SELECTORS[task], (STATES[task] << 16) | BYTES, true);
    view.setUint32(Layout.GDT + SELECTORS[task] + 4, (STATES[task] >>> 16) | (task === 0 ? 0x8b00 : 0x8900), true);
    view.setUint8(FRAMES[task], 0xa1 + task);
  });
  const state = STATES[1];
  view.setUint32(state + Field.EIP, start, true);
  view.setUint32(state + Field.EFLAGS, 2, true);
  view.setUint32(state + Field.ESP, Layout.STACK - PAGE, true);
  view.setUint32(state + Field.CS, 0x18, true);
  for (const field of [Field.ES, Field.SS, Field.DS]) view.setUint32(state + field, 0x10, true);
}

for (const [tier, threshold] of [["interpreter", -1], ["regions", 1]] as const) {
  Deno.test({
    name: `${tier}: a task switch changes the page tables, there and back`,
    sanitizeResources: false,
    sanitizeOps: false,
    fn: async () => {
      testMode.threshold = threshold;
      try {
        await withGuest(SUBJECT, async (guest) => {
          const tell = () => code.mov("al", at({ displacement: CELL, size: 1 })).out(0x80, "al");
          const jump = (selector: number) => code.bytes(0xea, 0, 0, 0, 0, selector, 0);
          let code!: ReturnType<typeof guest.load>;
          guest.load(32, (assembler) => {
            code = assembler;
            code.mov("ecx", 3).label("next");
            tell();
            jump(SELECTORS[1]);
            code.unary("dec", "ecx").jcc("ne", "next");
            tell();
            code.jmp("end").label("second");
            tell();
            jump(SELECTORS[0]);
            code.jmp("second").label("end");
          });
          prepare(guest, code.address("second"));
          const state = startState(32);
          const view = new DataView(state);
          view.setUint32(X64.GDTR_LIMIT, 0x2f, true);
          view.setBigUint64(X64.CR0, 0x8000_0033n, true);
          view.setBigUint64(X64.CR3, BigInt(DIRECTORIES[0]), true);
          const register = X64.SEGMENTS + 7 * 16;
          view.setBigUint64(register, BigInt(STATES[0]), true);
          view.setUint32(register + 8, BYTES, true);
          view.setUint16(register + 12, SELECTORS[0], true);
          const { log, end } = await (await guest.vcpu()).run({ state });
          assert.equal(end, "done");
          assert.deepEqual(log, [...Array(3).fill(["out 0x80 a1", "out 0x80 a2"]).flat(), "out 0x80 a1"]);
        });
      } finally {
        testMode.threshold = 0;
      }
    },
  });
}

Deno.test({ name: "the Workers end", sanitizeResources: false, sanitizeOps: false, fn: endWorkers });
