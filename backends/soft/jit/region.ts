/** What a region consists of: basic blocks reachable from its entry by branches within its page and those beside it. */
import { decode, type Instruction } from "../decode.ts";
import { modeOf } from "../interpreter/assemble.ts";
import { KEY_EM, KEY_FLAT, KEY_OSFXSR, KEY_TS } from "../mode_key.ts";

/** Most blocks and instructions of a region. */
const MAXIMUM_BLOCKS = 64;
const MAXIMUM_INSTRUCTIONS = 600;

/** Most places an indirect jump is expected to go to, and how far away. */
const MAXIMUM_TARGETS = 24;
const TARGET_DISTANCE = 1024;

/** How a block ends. */
export type BlockEnd =
  /** Its last instruction branches; {@link RegionBlock.successors}: taken, not taken. */
  | "branch"
  /** Its last instruction jumps, or what follows is the next block: one successor. */
  | "jump"
  /** RET and indirect jumps: to one of the successors, or out of the region. */
  | "indirect"
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
  mode: 16 | 32 | 64;
  /** {@link KEY_FLAT}, which stands for 64-bit mode too. */
  flat: boolean;
  /** Distances in pages of the other pages with code of it: their mapping is looked at on entry. */
  otherPages: number[];
}

/** The code around an entry. Offsets count from the start of the entry's page. */
export interface RegionCode {
  /** From {@link origin} on. */
  bytes: Uint8Array;
  /** The first page with known content: 0 or -4096. */
  origin: number;
  entry: number;
  /** Mode bits of the block's key. */
  key: bigint;
  /** Whether a block at an offset has been decoded and run often enough: what has not is not compiled. */
  warm(offset: number): boolean;
}

/** Whether regions may hold an instruction. */
function compilable(i: Instruction, key: bigint): boolean {
  const { row } = i;
  if (row.system || row.repeats) return false;
  // A branch that cuts RIP to another width than the mode's goes elsewhere.
  if (i.mode !== 64 && i.bits !== i.mode && i.operands.some((o) => o.kind === "j")) return false;
  if (!row.unit) return true;
  // Where a unit is off its instructions raise; that is the interpreter's.
  const on = (key >> BigInt(KEY_OSFXSR)) & 1n;
  const off = (key >> BigInt(KEY_EM)) & 1n || (key >> BigInt(KEY_TS)) & 1n;
  return on === 1n && !off;
}

/** Finds the region of an entry; null when nothing of it can be compiled. */
export function findRegion({ bytes, origin, entry, key, warm }: RegionCode): Region | null {
  const end = origin + bytes.length;
  const mode = modeOf(key);
  const decoded = new Map<number, Instruction>();
  const leaders = new Set<number>([entry]);
  const work = [entry];
  const returns: number[] = [];
  const jumps = new Map<number, number[]>();
  const pages = new Set<number>();
  const lead = (offset: number) => {
    if (offset < origin || offset >= end || leaders.has(offset)) return;
    if (leaders.size >= MAXIMUM_BLOCKS || !warm(offset)) return;
    leaders.add(offset);
    work.push(offset);
  };
  while (work.length > 0) {
    let at = work.shift()!;
    while (at < end && !decoded.has(at) && decoded.size < MAXIMUM_INSTRUCTIONS) {
      const i = decode(bytes, at - origin, end - at, mode);
      if (typeof i === "number" || !compilable(i, key)) break;
      const next = at + i.length;
      // A page is watched for stores only while something of it has been decoded by the interpreter.
      const boundary = next >> 12 !== at >> 12 && !warm(next);
      if (boundary && (next - 1) >> 12 !== at >> 12) break;
      decoded.set(at, i);
      pages.add(at >> 12).add((next - 1) >> 12);
      if (i.row.ends) {
        const relative = i.operands.find((o) => o.kind === "j");
        if (relative) {
          lead(next + relative.low);
          // Where a call comes back to; that it does is only known when its RET is of the region as well.
          if (i.row.name === "call") returns.push(next);
          else if (!unconditional(i)) lead(next);
        } else if (i.row.name === "jmp_indirect") {
          const targets: number[] = [];
          const last = Math.min(end, next + TARGET_DISTANCE);
          for (let o = Math.max(origin, at - TARGET_DISTANCE); o < last && targets.length < MAXIMUM_TARGETS; o++) {
            if (warm(o)) targets.push(o);
          }
          jumps.set(at, targets);
          targets.forEach(lead);
        } else if (i.row.name === "ret") returns.forEach(lead);
        break;
      }
      if (boundary) break;
      at = next;
    }
    if (work.length === 0 && [...decoded.values()].some((i) => i.row.name === "ret")) returns.forEach(lead);
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
        if (!relative) {
          block.how = "indirect";
          const last = block.offsets[block.offsets.length - 1];
          block.successors = i.row.name === "ret" ? returns.filter((o) => leaders.has(o)) : jumps.get(last) ?? [];
        } else if (unconditional(i)) {
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
  const otherPages = [...pages].filter((page) => page !== 0);
  const flat = mode === 64 || ((key >> BigInt(KEY_FLAT)) & 1n) === 1n;
  return { entry, blocks, instructions: count, usesVectors, mode, flat, otherPages };
}

function unconditional(i: Instruction): boolean {
  return i.row.name === "jmp" || i.row.name === "call";
}
