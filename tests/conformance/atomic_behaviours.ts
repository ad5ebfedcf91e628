/**
 * LOCK between CPUs that run in parallel: an access under LOCK is one to every other CPU, whatever its size, alignment
 * and what the others do (SDM vol. 3, 9.1.2.2: plain stores, too, come before it or after it, and none is lost).
 */
import assert from "node:assert/strict";
import { X64 } from "../../core/x64_state.ts";
import { type Assembler, at } from "./assembler.ts";
import { type Behaviour, withGuest } from "./behaviour.ts";
import { type Guest, type GuestVcpu, Layout, startState } from "./guest.ts";

/** Times that an instruction is run at least, and that each of the other CPUs interferes meanwhile. */
const TIMES = 8_000;
const ROUNDS = 400_000;
/** Times that each CPU holds the lock. */
const HOLDS = 20_000;
/** Tries to get a lock until it counts as lost. */
const TRIES = 30_000_000;

/** Where CPUs tell how far they are, away from what they contend for. */
const READY = Layout.DATA;
const OVER = Layout.DATA + 0x40;
const ADDITIONS = Layout.DATA + 0x80;
/** Rounds of the second and the third CPU, each followed by how often what it saw was wrong. */
const COUNTERS = [Layout.DATA + 0xc0, Layout.DATA + 0x100];

const DATA_END = Layout.DATA + 0x140;

const MOVZX_EAX_AL = [0x0f, 0xb6, 0xc0];

const CELL = 0x5_0000;
/** 8 bytes that begin at a multiple of 8, and that reach from one such unit, line or page into the next. */
const PLACES: Record<string, number> = {
  "aligned": CELL + 0x180,
  "across 8 bytes": CELL + 0x204,
  "across a line": CELL + 0x23c,
  "across pages": CELL + 0xffc,
};

/** Adds rsi to the lower and rdi to the upper half of what is at r8, with one LOCK. */
type Addition = (code: Assembler) => void;

const here = at({ base: "r8" });

/** Both halves in one register: of 8 bytes. */
const together = (code: Assembler): Assembler =>
  // shl rax, 32; or rax, rsi
  code.mov("rax", "rdi").bytes(0x48, 0xc1, 0xe0, 32).arithmetic("or", "rax", "rsi");

const pair = (size: 8 | 16): Addition => (code) => {
  const [ax, dx, bx, cx, si, di] = size === 16
    ? ["rax", "rdx", "rbx", "rcx", "rsi", "rdi"]
    : ["eax", "edx", "ebx", "ecx", "esi", "edi"];
  code.mov(ax, here).mov(dx, at({ base: "r8", displacement: size / 2 }));
  code.label("again").mov(bx, ax).arithmetic("add", bx, si).mov(cx, dx).arithmetic("add", cx, di);
  code.lockCmpxchgPair(here, size).jcc("ne", "again");
};

/** An instruction, half its operand's bytes, and where it is tried. */
interface Instruction {
  add: Addition;
  half: 4 | 8;
  places: string[];
}
const everywhere = (add: Addition): Instruction => ({ add, half: 4, places: Object.keys(PLACES) });
const INSTRUCTIONS: Record<string, Instruction> = {
  // It has to be aligned.
  "LOCK CMPXCHG16B": { add: pair(16), half: 8, places: ["aligned"] },
  "LOCK CMPXCHG8B": everywhere(pair(8)),
  "LOCK ADD": everywhere((code) => together(code).lock().arithmetic("add", here, "rax")),
  "LOCK XADD": everywhere((code) => together(code).lockXadd(here, "rax")),
  "LOCK CMPXCHG": everywhere((code) => {
    together(code).mov("rcx", "rax").mov("rax", here);
    code.label("again").mov("rdx", "rax").arithmetic("add", "rdx", "rcx").lockCmpxchg(here, "rdx").jcc("ne", "again");
  }),
  // It adds nothing.
  "XCHG": everywhere(() => {}),
};

/** Code of CPU `index`: it begins when `cpus` of them are ready. r8 is the address of what they contend for. */
function load(guest: Guest, index: number, cpus: number, write: (code: Assembler) => void): void {
  guest.load(64, (code) => {
    code.lock().unary("inc", at({ displacement: READY, size: 4 })).label("wait");
    code.arithmetic("cmp", at({ displacement: READY, size: 4 }), cpus).jcc("ne", "wait");
    write(code);
  }, Layout.CODE + index * 0x1000);
}

/** The CPU whose instruction is looked at: adds until it and the others have done so often enough, then ends them. */
function addMany(code: Assembler, add: Addition, low: number, high: number): void {
  code.mov("esi", low).mov("edi", high).label("more");
  add(code);
  code.unary("inc", "r9d").arithmetic("cmp", "r9d", TIMES).jcc("b", "more");
  for (const counter of COUNTERS) {
    code.arithmetic("cmp", at({ displacement: counter, size: 4 }), ROUNDS).jcc("b", "more");
  }
  code.mov(at({ displacement: OVER, size: 1 }), 1).mov(at({ displacement: ADDITIONS }), "r9");
}

/** Counts its rounds in r9 until {@link addMany} has ended; then tells r11 as well. */
function untilOver(code: Assembler, index: 1 | 2, body: () => void): void {
  const counter = COUNTERS[index - 1];
  code.label("round").unary("inc", "r9");
  body();
  code.mov(at({ displacement: counter }), "r9").arithmetic("cmp", at({ displacement: OVER, size: 1 }), 0);
  code.jcc("e", "round").mov(at({ displacement: counter + 8 }), "r11");
}

/** Loads CPUs' code; gives what looks at an operand at `address` when they have run. */
type Contest = (guest: Guest, instruction: Instruction) => (address: number, place: string) => void;

/** Nothing that another CPU stores to half of what LOCK changes, or adds to it, is lost. */
const keepsHalves: Contest = (guest, { add, half }) => {
  const [stored, seen] = half === 8 ? ["r9", "r10"] : ["r9d", "r10d"];
  load(guest, 0, 3, (code) => addMany(code, add, 0, 1));
  // Stores 1, 2, 3 ... to the lower half, and looks whether they stay.
  load(guest, 1, 3, (code) => {
    untilOver(code, 1, () => {
      code.mov(here, stored);
      for (let look = 0; look < 4; look++) {
        code.mov(seen, here).arithmetic("cmp", seen, stored).setcc("ne", "al");
        code.bytes(...MOVZX_EAX_AL).arithmetic("add", "r11d", "eax");
      }
    });
  });
  load(guest, 2, 3, (code) => {
    const upper = at({ base: "r8", displacement: half, size: half });
    untilOver(code, 2, () => code.lock().arithmetic("add", upper, 1));
  });
  const cut = (value: bigint) => BigInt.asUintN(half * 8, value);
  const at64 = (from: number) => guest.view.getBigUint64(from, true);
  return (address, place) => {
    assert.equal(at64(COUNTERS[0] + 8), 0n, `${place}: times that a store was undone`);
    assert.equal(cut(at64(address)), cut(at64(COUNTERS[0])), `${place}: the lower half is what was stored last`);
    const sum = at64(COUNTERS[1]) + at64(ADDITIONS);
    assert.equal(cut(at64(address + half)), cut(sum), `${place}: the upper half is the sum of both CPUs' additions`);
  };
};

/** Another CPU sees both halves change at once. */
const changesAtOnce: Contest = (guest, { add, half }) => {
  const [ax, dx] = half === 8 ? ["rax", "rdx"] : ["eax", "edx"];
  load(guest, 0, 3, (code) => addMany(code, add, 1, 1));
  // What is loaded later is not older; each of the two loads another half first.
  for (const [index, first] of [[1, 0], [2, half]] as const) {
    load(guest, index, 3, (code) => {
      untilOver(code, index, () => {
        code.mov(ax, at({ base: "r8", displacement: first })).mov(dx, at({ base: "r8", displacement: half - first }));
        code.arithmetic("cmp", dx, ax).setcc("b", "al").bytes(...MOVZX_EAX_AL).arithmetic("add", "r11d", "eax");
      });
    });
  }
  const { view } = guest;
  return (address, place) => {
    const [upper, lower] = COUNTERS.map((counter) => view.getBigUint64(counter + 8, true));
    assert.equal(upper, 0n, `${place}: times that the upper half was older than the lower one`);
    assert.equal(lower, 0n, `${place}: times that the lower half was older than the upper one`);
    const sums = [0, half].map((offset) => view.getUint32(address + offset, true));
    const additions = view.getUint32(ADDITIONS, true);
    assert.deepEqual(sums, [additions, additions], place);
  };
};

/** A spin lock of XCHG, which a plain store gives back, keeps two CPUs apart. */
const keepsApart: Contest = (guest) => {
  const SUM = ADDITIONS;
  for (const index of [0, 1]) {
    load(guest, index, 2, (code) => {
      // So that one that never comes free is a failure soon.
      code.mov("ebp", TRIES).mov("r9d", HOLDS).label("more");
      code.label("try").unary("dec", "ebp").jcc("e", "end").mov("eax", 1).xchg(here, "rax").test("eax", "eax");
      code.jcc("ne", "try").mov("rax", at({ displacement: SUM })).unary("inc", "rax");
      code.mov(at({ displacement: SUM }), "rax").arithmetic("xor", "eax", "eax").mov(here, "rax");
      code.unary("dec", "r9d").jcc("ne", "more").label("end");
      code.mov(at({ displacement: COUNTERS[index] }), "r9");
    });
  }
  const { view } = guest;
  return (_, place) => {
    for (const counter of COUNTERS) assert.equal(view.getUint32(counter, true), 0, `${place}: the lock came free`);
    assert.equal(view.getUint32(SUM, true), 2 * HOLDS, `${place}: one CPU at a time held the lock`);
  };
};

function behaviour(name: keyof typeof INSTRUCTIONS, what: string, cpus: number, contest: Contest): Behaviour {
  const instruction = INSTRUCTIONS[name];
  return {
    name: `${name} between CPUs: ${what}`,
    run: (subject) =>
      withGuest(subject, async (guest) => {
        const check = contest(guest, instruction);
        const vcpus: GuestVcpu[] = [];
        while (vcpus.length < cpus) vcpus.push(await guest.vcpu(vcpus.length));
        for (const place of instruction.places) {
          guest.bytes.fill(0, READY, DATA_END);
          const runs = vcpus.map((vcpu, index) => {
            const state = startState(64, index);
            const view = new DataView(state);
            view.setBigUint64(X64.RIP, BigInt(Layout.CODE + index * 0x1000), true);
            view.setBigUint64(X64.GPR + 8 * 8, BigInt(PLACES[place]), true);
            return vcpu.run({ state });
          });
          for (const run of runs) assert.equal((await run).end, "done", place);
          check(PLACES[place], place);
        }
      }, { cpus }),
  };
}

const KEEPS = "others' stores and locked additions to its halves are kept";
const AT_ONCE = "others see both its halves change at once";

export const atomicBehaviours: Behaviour[] = [
  behaviour("LOCK CMPXCHG16B", KEEPS, 3, keepsHalves),
  behaviour("LOCK CMPXCHG16B", AT_ONCE, 3, changesAtOnce),
  behaviour("LOCK CMPXCHG8B", KEEPS, 3, keepsHalves),
  behaviour("LOCK CMPXCHG", KEEPS, 3, keepsHalves),
  behaviour("LOCK XADD", KEEPS, 3, keepsHalves),
  behaviour("LOCK ADD", KEEPS, 3, keepsHalves),
  behaviour("LOCK ADD", AT_ONCE, 3, changesAtOnce),
  behaviour("XCHG", "it makes a lock that a plain store gives back", 2, keepsApart),
];
