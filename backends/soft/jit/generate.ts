/** A region as one Wasm function: budget -> what is left of it. */
import type { Target } from "../cpu_function.ts";
import { State } from "../layout.ts";
import type { Label } from "../wasm/function.ts";
import type { BranchHint } from "../wasm/module.ts";
import type { ValueType } from "../wasm/values.ts";
import { followed, type OtherPage, RegionEmitter, unknownPath } from "./emitter.ts";
import { markFlagUse } from "./flag_use.ts";
import { flowOf, type Node } from "./flow.ts";
import { RegionFunc } from "./function.ts";
import type { Region } from "./region.ts";

/** A function's parts, for {@link import("../wasm/module.ts").Module.defineExport}. */
export interface GeneratedFunction {
  locals: ValueType[];
  code: number[];
  hints: BranchHint[];
}

/** Generates a region's function. */
export function generate(target: Target, region: Region, otherPages: readonly OtherPage[]): GeneratedFunction {
  const f = new RegionFunc(target, region.mode !== 64);
  const e = new RegionEmitter(f, region);
  const nodes = flowOf(region);
  markFlagUse(nodes);
  for (const node of nodes) {
    if (!node.inLoop) continue;
    for (const register of node.block.instructions.map(followed)) if (register >= 0) e.prepare(register);
  }
  f.block((exit) => {
    e.setExit(exit);
    new Generator(f, e).tree(nodes[0]);
  });
  e.emitEpilogue();
  f.code.push(0x00);
  // What the region uses is known only now.
  const body = f.take();
  e.emitPrologue(nodes[0].asksFlags, otherPages);
  f.append(body);
  return { locals: f.locals, code: f.finish(), hints: f.sortedHints() };
}

class Generator {
  private readonly labels = new Map<Node, Label>();
  private readonly loops = new Map<Node, Label>();

  constructor(private readonly f: RegionFunc, private readonly e: RegionEmitter) {}

  /** A node and all it dominates. Every path through it ends in a branch elsewhere. */
  tree(node: Node): void {
    const { f, e } = this;
    if (!node.isLoop) {
      if (node.isMeeting || node.dominator === null) this.begin(node);
      return this.within(node, 0);
    }
    // Into a loop from above; a meeting was left to with all this done.
    if (!node.isMeeting && node.dominator !== null) {
      e.charge();
      e.meet(node.asksFlags);
    }
    f.loop((again) => {
      this.loops.set(node, again);
      this.begin(node);
      this.within(node, 0);
    });
  }

  /** What is known where paths meet. */
  private begin(node: Node): void {
    this.e.path = unknownPath(node.asksFlags);
  }

  private within(node: Node, meeting: number): void {
    if (meeting === node.meetings.length) return this.block(node);
    const next = node.meetings[meeting];
    this.f.block((label) => {
      this.labels.set(next, label);
      this.within(node, meeting + 1);
    });
    this.tree(next);
  }

  /** @param copy number of its code's copy: {@link Node.copies} */
  private block(node: Node, copy = 0): void {
    const { f, e } = this;
    const { block, successors } = node;
    e.inLoop = node.inLoop;
    block.instructions.forEach((instruction, n) => e.emit(instruction, block.offsets[n], node.unseenFlags[n]));
    switch (block.how) {
      case "indirect": {
        const { path } = e;
        successors.forEach((to, n) => {
          if (to === null) return;
          f.plainIf(e.exitRip.sub(e.page).eq(block.successors[n]), () => {
            e.path = path;
            this.edge(node, to, block.successors[n]);
          });
        });
        e.path = path;
        return e.leaveForExit();
      }
      case "stop":
        return e.leave(block.end);
      case "jump":
        return this.edge(node, successors[0], block.successors[0]);
      case "branch": {
        const { path } = e;
        const to = (n: number) => {
          // On to the next copy of a loop's only block: the budget and what waits are looked at after the last.
          if (successors[n] === node && copy + 1 < node.copies) return this.block(node, copy + 1);
          this.edge(node, successors[n], block.successors[n]);
        };
        f.plainIf(e.taken!, () => to(0), () => {
          e.path = path;
          to(1);
        });
      }
    }
  }

  private edge(from: Node, to: Node | null, offset: number): void {
    const { f, e } = this;
    if (to === null) return e.leave(offset);
    if (to.order <= from.order) {
      // Round the loop, unless something waits or the budget is used up.
      e.charge();
      for (const due of [f.s64(State.ATTENTION).ne(0), e.budget.leS(0)]) {
        f.if(due, () => {
          f.markCold();
          e.leave(offset);
        });
      }
      e.meet(to.asksFlags);
      return f.br(this.loops.get(to)!);
    }
    if (!to.isMeeting) return this.tree(to);
    e.charge();
    e.meet(to.asksFlags);
    f.br(this.labels.get(to)!);
  }
}
