/** Which instructions' flags no one can see. */
import type { Instruction } from "../decode.ts";
import type { Node } from "./flow.ts";

/** Rows that set all arithmetic flags (or leave them undefined) and look at none. */
const SETS_ALL = new Set("add sub and or xor cmp test neg mul imul imul1 popcnt xadd cmpxchg".split(" "));
/** Rows that look at no flags. What sets some without looking at others may stand here as well. */
const LOOKS_AT_NONE = new Set(
  ("mov movzx lea movbe xchg bswap not cbw cwd push pop leave nop pause prefetchw fence movnti call ret ret_drop jmp " +
    "jmp_indirect call_indirect").split(" "),
);
/** Rows without a memory operand that may fault all the same. */
const FAULTS = new Set("push pop leave call ret ret_drop call_indirect div idiv".split(" "));
const SHIFTS = new Set("shl shr sar".split(" "));
/** Rows that set some flags whatever the others are. */
const KEEPS_OTHERS = new Set("rol ror bt bts btr btc bsf bsr clc stc".split(" "));

function mayFault({ row, operands }: Instruction): boolean {
  // #XM, and #MF before MMX.
  if (row.unit) return true;
  return FAULTS.has(row.name) || (row.name !== "lea" && operands.some((o) => o.kind === "m"));
}

function setsAll({ row, operands, bits }: Instruction): boolean {
  if (SETS_ALL.has(row.name)) return true;
  const count = operands[1];
  return SHIFTS.has(row.name) && count.kind === "i" && (count.low & (bits === 64 ? 63 : 31)) !== 0;
}

/** Whether an instruction looks at flags, given that those it sets are seen or not. */
function looks({ row }: Instruction, seen: boolean): boolean {
  if (SETS_ALL.has(row.name) || LOOKS_AT_NONE.has(row.name)) return false;
  if (row.unit === "sse" || row.unit === "mmx") return false;
  if (SHIFTS.has(row.name) || KEEPS_OTHERS.has(row.name) || row.name === "inc" || row.name === "dec") return seen;
  return true;
}

/** For each instruction of a block, whether the flags it sets are never seen. At the block's end all are seen. */
function unseenFlags(instructions: readonly Instruction[]): boolean[] {
  const unseen = new Array<boolean>(instructions.length).fill(false);
  let seen = true;
  for (let n = instructions.length - 1; n >= 0; n--) {
    const i = instructions[n];
    unseen[n] = !seen;
    if (looks(i, seen)) seen = true;
    else if (setsAll(i)) seen = false;
    if (mayFault(i)) seen = true;
  }
  return unseen;
}

/** Finds what flags are used for: {@link Node.unseenFlags} and {@link Node.asksFlags}, other than by leaving the region. */
export function markFlagUse(nodes: readonly Node[]): void {
  const passes = new Map<Node, boolean>();
  for (const node of nodes) {
    let decided = false;
    const { instructions } = node.block;
    node.unseenFlags = unseenFlags(instructions);
    for (const [n, i] of instructions.entries()) {
      if (looks(i, !node.unseenFlags[n])) {
        node.asksFlags = true;
        decided = true;
        break;
      }
      if (setsAll(i)) {
        decided = true;
        break;
      }
    }
    passes.set(node, !decided);
  }
  for (let changed = true; changed;) {
    changed = false;
    for (const node of nodes) {
      if (node.asksFlags || !passes.get(node)) continue;
      if (node.successors.some((to) => to?.asksFlags)) node.asksFlags = changed = true;
    }
  }
}
