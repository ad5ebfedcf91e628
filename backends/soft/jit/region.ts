/** What a region consists of: basic blocks reachable from its entry by direct branches within one page, in 64-bit mode. */
import { KEY_EM, KEY_OSFXSR, KEY_TS } from "../cpu/segments.ts";
import { decode, type Instruction } from "../decode.ts";

/** Most blocks and instructions of a region. */
const MAXIMUM_BLOCKS = 64;
const MAXIMUM_INSTRUCTIONS = 600;

/** How a block ends. */
export type BlockEnd =
  /** Its last instruction branches; {@link RegionBlock.successors}: taken, not taken. */
  | "branch"
  /** Its last instruction jumps, or what follows is the next block: one successor. */
  | "jump"
  /** Its last instruction leaves the region by itself: RET, indirect jumps. */
  | "leave"
  /** What follows is not the region's: it is left for there. */
  | "stop";

/** A basic block. Offsets count from the page's start. */
export interface RegionBlock {
  start: number;
  /** Behind the last instruction. */
  end: number;
  instructions: Instruction[];
  offsets: number[];
  how: BlockEnd;
  /** Offsets; they may lie outside the region. */
  successors: number[];
}

/** A region before compilation; the entry is first. */
export interface Region {
  entry: number;
  blocks: Map<number, RegionBlock>;
  instructions: number;
  usesVectors: boolean;
}

/** Whether regions may hold an instruction. */
function compilable(i: Instruction, key: bigint): boolean {
  const { row } = i;
  if (row.system || row.repeats) return false;
  if (!row.unit) return true;
  // Where a unit is off its instructions raise; that is the interpreter's.
  const on = (key >> BigInt(KEY_OSFXSR)) & 1n;
  const off = (key >> BigInt(KEY_EM)) & 1n || (key >> BigInt(KEY_TS)) & 1n;
  return on === 1n && !off;
}

/**
 * Finds the region of an entry.
 * @param code the page's bytes
 * @param key the block key's mode bits
 * @param known whether the code at an offset has ever been run: what has not is not compiled
 * @returns null when nothing of it can be compiled
 */
export function findRegion(
  code: Uint8Array,
  entry: number,
  key: bigint,
  known: (offset: number) => boolean,
): Region | null {
  const decoded = new Map<number, Instruction>();
  const leaders = new Set<number>([entry]);
  const work = [entry];
  const seen = new Set<number>();
  while (work.length > 0) {
    let at = work.shift()!;
    if (seen.has(at)) continue;
    seen.add(at);
    while (!decoded.has(at) && decoded.size < MAXIMUM_INSTRUCTIONS) {
      const i = decode(code, at, Math.max(0, code.length - at), 64);
      if (typeof i === "number" || !compilable(i, key)) break;
      decoded.set(at, i);
      const next = at + i.length;
      if (i.row.ends) {
        const relative = i.operands.find((o) => o.kind === "j");
        if (relative) {
          const target = next + relative.low;
          const targets = unconditional(i) ? [target] : [target, next];
          for (const offset of targets) {
            if (offset < 0 || offset >= code.length || leaders.has(offset)) continue;
            if (leaders.size >= MAXIMUM_BLOCKS || !known(offset)) continue;
            leaders.add(offset);
            work.push(offset);
          }
        }
        break;
      }
      at = next;
    }
  }
  const blocks = new Map<number, RegionBlock>();
  let usesVectors = false;
  let count = 0;
  for (const start of leaders) {
    const block: RegionBlock = { start, end: start, instructions: [], offsets: [], how: "stop", successors: [] };
    let at = start;
    for (;;) {
      const i = decoded.get(at);
      if (!i) break;
      block.instructions.push(i);
      block.offsets.push(at);
      usesVectors ||= i.row.unit === "sse" || i.operands.some((o) => o.kind === "x");
      at += i.length;
      if (i.row.ends) {
        const relative = i.operands.find((o) => o.kind === "j");
        if (!relative) block.how = "leave";
        else if (unconditional(i)) {
          block.how = "jump";
          block.successors = [at + relative.low];
        } else {
          block.how = "branch";
          block.successors = [at + relative.low, at];
        }
        break;
      }
      if (leaders.has(at)) {
        block.how = "jump";
        block.successors = [at];
        break;
      }
    }
    block.end = at;
    count += block.instructions.length;
    if (block.instructions.length > 0) blocks.set(start, block);
    else if (start === entry) return null;
  }
  return { entry, blocks, instructions: count, usesVectors };
}

function unconditional(i: Instruction): boolean {
  return i.row.name === "jmp" || i.row.name === "call";
}
