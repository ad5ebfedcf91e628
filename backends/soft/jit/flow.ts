/**
 * The shape of a region's control flow: dominators, loops, and which edges stay inside. Structured code follows from
 * the dominator tree (N. Ramsey, "Beyond Relooper", ICFP 2022): a block's dominator children with more than one
 * forward predecessor come behind it, each behind a Wasm block that is left for it; the others stand where the branch
 * to them is.
 */
import type { Region, RegionBlock } from "./region.ts";

/** A block with its place in the flow. */
export interface Node {
  block: RegionBlock;
  /** Position in reverse postorder. */
  order: number;
  dominator: Node | null;
  /** Dominator children that are met from several places, the last in order first. */
  meetings: Node[];
  isMeeting: boolean;
  isLoop: boolean;
  /** It is run again by a loop of the region. */
  inLoop: boolean;
  /** How many times in a row its code stands in its loop, which is of this block only; otherwise 1. */
  copies: number;
  /** Successors; null: the edge leaves the region. */
  successors: (Node | null)[];
  /** Of each instruction, whether the flags that it sets are never seen. */
  unseenFlags: boolean[];
  /** Flags are asked for before all are set: on some path from here. */
  asksFlags: boolean;
}

/** Most instructions of a loop with copies, and most copies. */
const COPIED_INSTRUCTIONS = 24;
const MAXIMUM_COPIES = 4;

/** The nodes in reverse postorder, the entry first. */
export function flowOf(region: Region): Node[] {
  const nodes = new Map<number, Node>();
  const postorder: Node[] = [];
  const visit = (start: number): Node | null => {
    const known = nodes.get(start);
    if (known) return known;
    const block = region.blocks.get(start);
    if (!block) return null;
    const node: Node = {
      block,
      order: 0,
      dominator: null,
      meetings: [],
      isMeeting: false,
      isLoop: false,
      inLoop: false,
      copies: 1,
      successors: [],
      unseenFlags: [],
      asksFlags: false,
    };
    nodes.set(start, node);
    // The not taken side first: it comes last in postorder's reverse, so likely ends nearer.
    const reached = block.successors.map((offset) => visit(offset));
    node.successors = reached;
    postorder.push(node);
    return node;
  };
  visit(region.entry);
  const order = postorder.reverse();
  order.forEach((node, i) => node.order = i);

  // Dominators (Cooper, Harvey, Kennedy, "A Simple, Fast Dominance Algorithm").
  const predecessors = new Map<Node, Node[]>(order.map((node) => [node, []]));
  for (const node of order) for (const to of node.successors) if (to) predecessors.get(to)!.push(node);
  const common = (a: Node, b: Node): Node => {
    while (a !== b) {
      while (a.order > b.order) a = a.dominator!;
      while (b.order > a.order) b = b.dominator!;
    }
    return a;
  };
  for (let changed = true; changed;) {
    changed = false;
    for (const node of order.slice(1)) {
      let dominator: Node | null = null;
      for (const from of predecessors.get(node)!) {
        if (from !== order[0] && from.dominator === null) continue;
        dominator = dominator === null ? from : common(from, dominator);
      }
      if (dominator !== node.dominator) {
        node.dominator = dominator;
        changed = true;
      }
    }
  }
  const dominates = (a: Node, b: Node | null): boolean => {
    while (b !== null && b.order > a.order) b = b.dominator;
    return a === b;
  };
  const forward = new Map<Node, number>();
  for (const node of order) {
    node.successors = node.successors.map((to) => {
      if (!to) return null;
      if (to.order > node.order) {
        forward.set(to, (forward.get(to) ?? 0) + 1);
        return to;
      }
      // An edge into the middle of a loop from outside of it leaves the region.
      if (!dominates(to, node)) return null;
      to.isLoop = true;
      for (const inner of order.slice(to.order, node.order + 1)) inner.inLoop ||= dominates(to, inner);
      return to;
    });
  }
  for (const node of order) {
    if (node.block.how !== "branch" || !node.successors.includes(node)) continue;
    node.copies = Math.max(1, Math.min(MAXIMUM_COPIES, COPIED_INSTRUCTIONS / node.block.instructions.length | 0));
    // Left from several places then.
    const after = node.successors.find((to) => to !== node);
    if (node.copies > 1 && after && after.order > node.order) forward.set(after, forward.get(after)! + 1);
  }
  for (const node of order) {
    if ((forward.get(node) ?? 0) < 2) continue;
    node.isMeeting = true;
    node.dominator!.meetings.unshift(node);
  }
  return order;
}
