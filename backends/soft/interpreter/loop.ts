/**
 * The interpreter's loop: finds the block for RIP, runs its micro-ops, delivers exceptions, until the budget is used up
 * or something wants JavaScript.
 */
import { type CpuFunc, declare, defineCpuFunction, type Target } from "../cpu_function.ts";
import { Leave } from "../cpu/external.ts";
import { deliver, Source } from "../cpu/interrupts.ts";
import { fetchTranslate } from "../cpu/mmu.ts";
import { Fault, stackFault } from "../emitter.ts";
import { Block, BlockTable, CpuArea, InstructionTlb, Op, Reg, Seg, State } from "../layout.ts";
import { KEY_LIMITED, KEY_SINGLE } from "../mode_key.ts";
import type { Label, Local } from "../wasm/function.ts";
import { type Pointer, pointerOf, pointerOf32 } from "../wasm/memory.ts";
import { REGION_TABLE, regionSignature } from "../jit/compile.ts";
import type { Module } from "../wasm/module.ts";
import { I32, i32, i64, select, Type } from "../wasm/values.ts";
import { HandlerEmitter, handlerSignature, type LoopLinks, Next } from "./handler.ts";

/** (budget in instructions) -> {@link Leave}; what is left of the budget is in BUDGET. */
export const run = declare("run", [Type.i32], Type.i32);

/** A handler that stands in the loop itself. */
export interface InlineHandler {
  /** Emits it; runs off its end for the next micro-op. */
  emit(e: HandlerEmitter): void;
}

/** The block table's set for a physical address, as a byte offset. Decoding in JavaScript computes the same. */
export function setOf(physicalLow: number): number {
  return (((physicalLow >>> 5) ^ (physicalLow >>> 19)) & (BlockTable.SETS - 1)) * BlockTable.SET;
}

/** Defines `run` with some handlers inline: handler number i is `inline[i]`, others are in the table. */
export function defineLoop(module: Module, target: Target, inline: InlineHandler[]): void {
  defineCpuFunction(module, target, run, (f) => {
    const budget = f.i32(f.parameter32(0));
    const op = f.pointer();
    const rip = f.i64();
    const linear = f.i64();
    const physical = f.i64();
    const block = f.pointer();
    /** The link to set once the next block is found. */
    const link = f.pointer(f.place(State.NO_LINK));
    /** Linear address of the page whose blocks may link to that block without its being compared; -1: none. */
    const page = f.i64(-1);
    // A region was left for an instruction that the interpreter must run.
    const interpret = f.i32(0);
    const leave = (reason: number | I32) => {
      f.set32(State.BUDGET, budget);
      f.return(reason);
    };
    const shadow = f.i32(0);
    const leaveForBlock = (reason: number) => {
      f.set64(State.FETCH_LINEAR, linear);
      f.set64(State.FETCH_PHYSICAL, physical);
      f.set32(State.SHADOW, shadow);
      leave(reason);
    };
    f.loop((lookup: Label) => {
      f.set(shadow, 0);
      f.if(budget.leS(0), () => leave(Leave.BUDGET));
      f.if(f.s64(State.ATTENTION).ne(0), () => {
        f.if(f.s32(State.ATTENTION), () => leave(Leave.ATTENTION));
        // The shadow of STI or MOV SS ends with the block that comes now, unless that is still to be decoded.
        f.set(shadow, f.s32(State.SHADOW));
        f.set32(State.SHADOW, 0);
      });
      f.set(rip, f.s64(State.RIP));
      f.set(linear, rip.add(f.s64(State.CODE_BASE)).and(f.s64(State.CODE_MASK)));
      const entry = f.pointer(
        pointerOf(linear.shrU(12 - 4).and((InstructionTlb.ENTRIES - 1) << 4)).add(f.sPointer(State.INSTRUCTION_TLB)),
      );
      f.if(
        entry.i64(0).eq(linear.and(-4096)),
        () => f.set(physical, entry.i64(8).or(linear.and(4095))),
        () => {
          f.set(physical, f.call64(fetchTranslate, linear));
          f.if(f.s32(State.FAULT), () => {
            f.set32(State.FAULT, Fault.NONE);
            f.set(link, f.place(State.NO_LINK));
            raiseNow(f, lookup, leave);
          });
          // Where the code segment ends instructions are run one by one, with their length looked at before.
          f.if(f.s64(State.MODE_KEY).and(KEY_LIMITED | KEY_SINGLE).eq(KEY_LIMITED), () => {
            f.if(entry.i64(0).ne(linear.and(-4096)), () => leave(Leave.ATTENTION));
          });
        },
      );
      const key = f.i64(physical.or(f.s64(State.MODE_KEY)));
      // The block that came behind the last one before has been looked at already, the table's line perhaps not.
      f.set(block, pointerOf32(link.i32(0).and(-2)));
      f.if(block.i64(Block.KEY).ne(key), () => {
        const low = f.i32(physical.i32());
        const set = f.i32(low.shrU(5).xor(low.shrU(19)).and(BlockTable.SETS - 1).shl(6));
        const slot = f.pointer(pointerOf32(set).add(f.place(CpuArea.BLOCK_TABLE)));
        f.block((found: Label) => {
          const search = () => {
            for (let way = 0; way < BlockTable.WAYS; way++) {
              if (way > 0) f.set(slot, slot.add(BlockTable.ENTRY));
              f.brIf(found, slot.i64(0).eq(key));
            }
          };
          search();
          f.set(slot, pointerOf32(set.xor(BlockTable.SET)).add(f.place(CpuArea.BLOCK_TABLE)));
          search();
          leaveForBlock(Leave.DECODE);
        });
        f.set(block, pointerOf32(slot.i32(8)));
      });
      const compared = f.i32(linear.and(-4096).ne(page));
      f.if(block.i32(Block.CROSSING), () => {
        const second = f.i64(f.call64(fetchTranslate, linear.or(4095).add(1).and(f.s64(State.CODE_MASK))));
        f.if(f.s32(State.FAULT), () => {
          f.set32(State.FAULT, Fault.NONE);
          f.set(link, f.place(State.NO_LINK));
          raiseNow(f, lookup, leave);
        });
        f.if(second.ne(block.add(Block.SECOND_PAGE).i64(0)), () => {
          f.store32(link, 1);
          f.set32(State.NO_LINK, 1);
          leaveForBlock(Leave.DECODE);
        });
        f.set(compared, 1);
      });
      f.store32(link, block.low().or(compared), 0);
      f.set(link, f.place(State.NO_LINK));
      f.set(page, linear.and(-4096));
      f.loop((enter: Label) => {
        f.set(op, block.add(Block.OPS));
        f.block((fault: Label) => {
          const heat = f.i32(block.i32(Block.HEAT));
          f.if(heat.gtS(0), () => f.store32(block, heat.sub(1), Block.HEAT), () => {
            f.if(heat.eqz(), () => {
              f.set32(State.HOT_BLOCK, block.low());
              // By a link it was come to without these.
              f.set(linear, f.s64(State.RIP).add(f.s64(State.CODE_BASE)).and(f.s64(State.CODE_MASK)));
              f.set(physical, physical.and(-4096).or(linear.and(4095)));
              leaveForBlock(Leave.HOT);
            });
            f.if(interpret.i64u().or(f.s64(State.ATTENTION)).eqz(), () => {
              f.set(budget, f.callIndirect(regionSignature(), i32(REGION_TABLE).sub(heat), budget));
              f.set(page, i64(-1));
              f.if(f.s32(State.FAULT).eqz(), () => {
                f.set(link, block.add(Block.LINK));
                f.br(lookup);
              });
              // The interpreter knows which segment an address that is not canonical was reached through.
              f.if(f.s32(State.NOT_CANONICAL), () => f.set32(State.FAULT, Fault.RETRY));
              // RIP is the instruction's: a micro-op of offset 0.
              f.set(op, f.place(State.GPR + Reg.ZERO * 8));
              f.set(interpret, f.s32(State.FAULT).eq(Fault.RETRY));
              f.br(fault);
            });
            f.set(interpret, 0);
          });
          f.set(budget, budget.sub(block.u16(Block.INSTRUCTIONS)));
          f.loop((next: Label) => {
            const links: LoopLinks = {
              lookup,
              follow: (op, field) => {
                if (field === Op.LINK_ANY) f.set(page, i64(-1));
                else {
                  const to = f.i32(op.i32(field));
                  f.if(to.and(1).eqz().and(f.s64(State.ATTENTION).eqz()).and(budget.gtS(0)), () => {
                    f.set(block, pointerOf32(to));
                    f.set(shadow, 0);
                    // The store of a CALL may just have made this page's blocks go.
                    f.brIf(enter, block.i64(Block.KEY).ne(0));
                  });
                }
                f.set(link, op.add(field));
                f.br(lookup);
              },
            };
            dispatch(f, op, inline, next, links, fault);
          });
        });
        // FAULT is set; the instruction that set it has changed nothing.
        const kind = f.i32(f.s32(State.FAULT));
        f.set32(State.FAULT, Fault.NONE);
        f.set64(State.RIP, f.s64(State.RIP).add(op.u16w(Op.OFFSET)));
        f.if(kind.eq(Fault.EXIT), () => leave(f.s32(State.EXIT)));
        f.brIf(lookup, kind.eq(Fault.RETRY));
        f.if(op.u8(Op.AUX).eq(Seg.SS), () => f.do(stackFault));
        raiseNow(f, lookup, leave);
      });
    });
  });
}

function raiseNow(f: CpuFunc, lookup: Label, leave: (reason: number | I32) => void): void {
  const failed = f.i32(f.call32(deliver, f.s32(State.VECTOR), f.s32(State.ERROR), Source.EXCEPTION));
  f.brIf(lookup, failed.eqz());
  leave(select(failed.eq(1), new I32([0x41, Leave.SHUTDOWN]), new I32([0x41, Leave.FAILED])));
}

function dispatch(
  f: CpuFunc,
  op: Local<Pointer>,
  inline: InlineHandler[],
  next: Label,
  links: LoopLinks,
  fault: Label,
): void {
  const number = f.i32(op.u16(Op.HANDLER));
  const cases = inline.map((handler) => () => {
    f.scoped(() => {
      const e = new HandlerEmitter(f, op, fault, links);
      handler.emit(e);
      f.set(op, op.add(Op.BYTES));
      f.br(next);
    });
  });
  f.switch(number, cases, () => {
    const answer = f.i32(f.callIndirect(handlerSignature(), number, op));
    f.if(answer.eqz(), () => {
      f.set(op, op.add(Op.BYTES));
      f.br(next);
    });
    f.brIf(links.lookup, answer.eq(Next.BLOCK));
    f.br(fault);
  });
}
