/**
 * Accesses that leave `run()`: ports, and physical addresses that are no RAM.
 *
 * The instruction that makes one is abandoned with nothing changed and the access written into a log; once the machine
 * has answered it, the instruction runs again from its start and finds its first accesses answered in the log, in
 * order. Every instruction works that way without knowing: `push [device]` as well as `movs` between two devices. The
 * log is emptied when the instruction (or one iteration of a repeated one) is complete.
 */
import { type CpuFunc, declare, defineCpuFunction, type Target } from "../cpu_function.ts";
import { Fault } from "../emitter.ts";
import { State } from "../layout.ts";
import { pointerOf32 } from "../wasm/memory.ts";
import type { Module } from "../wasm/module.ts";
import { type I32, type I64, i64, select, Type } from "../wasm/values.ts";
import { CR4 } from "./mmu.ts";

/** What `run` comes back with, beside {@link import("../../../core/hypervisor.ts").Exit}'s values from 100 on. */
export const Leave = {
  BUDGET: 0,
  ATTENTION: 1,
  DECODE: 2,
  HALT: 3,
  SHUTDOWN: 4,
  /** An access of the log, at LOG_INDEX. */
  EXTERNAL: 5,
  FAILED: 6,
  HOT: 7,
  /** The instruction is done; an MSR or CPUID wants JavaScript's answer. */
  PAUSE: 8,
  /** The instruction, which has done nothing yet, wants the other vCPUs to be stopped. */
  ALONE: 9,
  /** What comes next may reach beyond the limit of the code segment. */
  LIMIT: 10,
} as const;

/** Kinds of logged accesses. */
export const External = { READ: 0, WRITE: 1, PORT_READ: 2, PORT_WRITE: 3 } as const;

/** (physical address, bytes) -> value, zero-extended; sets FAULT until it is answered. */
export const externalRead = declare("external_read", [Type.i64, Type.i32], Type.i64);
export const externalWrite = declare("external_write", [Type.i64, Type.i32, Type.i64], null);
export const portRead = declare("port_read", [Type.i32, Type.i32], Type.i64);
export const portWrite = declare("port_write", [Type.i32, Type.i32, Type.i64], null);
/** Empties the log: an iteration is complete. */
export const externalDone = declare("external_done", [], null);

/**
 * Notes which breakpoints an access meets, while any is armed (SDM vol. 3, 18.2.5): DR0-DR3 with LEN of DR7, where R/W is
 * of a kind that counts.
 */
export function noteBreakpoints(f: CpuFunc, address: I64, bytes: I32, counts: (kind: I32) => I32): void {
  f.if(f.s32(State.WATCH), () => {
    const control = f.i32(f.s64(State.DR + 40).i32());
    for (let i = 0; i < 4; i++) {
      const kind = control.shrU(16 + 4 * i).and(3);
      const length = f.i64(control.shrU(18 + 4 * i).and(3).i64u());
      // 00 one byte, 01 two, 11 four, 10 eight.
      f.set(length, select(length.eq(2), i64(8), length.add(1)));
      const start = f.i64(f.s64(State.DR + 8 * i).and(length.sub(1).not()));
      const meets = address.ltU(start.add(length)).and(start.ltU(address.add(bytes.i64u())));
      const enabled = control.shrU(2 * i).and(3).ne(0).and(counts(kind));
      f.if(enabled.and(meets), () => f.set32(State.WATCH_HITS, f.s32(State.WATCH_HITS).or(1 << i)));
    }
  });
}

const access = declare("external_access", [Type.i64, Type.i32, Type.i32, Type.i64], Type.i64);

export function defineExternal(module: Module, target: Target): void {
  defineCpuFunction(module, target, access, (f) => {
    const address = f.parameter64(0);
    const bytes = f.parameter32(1);
    const kind = f.parameter32(2);
    const value = f.parameter64(3);
    const index = f.i32(f.s32(State.LOG_INDEX));
    const entry = f.pointer(pointerOf32(index.mul(State.LOG_ENTRY)).add(f.place(State.LOG)));
    f.if(index.ltU(f.s32(State.LOG_FILLED)), () => {
      f.set32(State.LOG_INDEX, index.add(1));
      f.return(entry.i64(16));
    });
    // What the processor itself reads to deliver an exception can wait for nobody: it is as if no device were there.
    f.if(f.s32(State.DELIVERING), () => f.return(i64(-1)));
    f.set32(State.FAULT, Fault.EXIT);
    f.if(index.geU(State.LOG_ENTRIES), () => {
      f.set32(State.EXIT, Leave.FAILED);
      f.return(i64(0));
    });
    f.set32(State.EXIT, Leave.EXTERNAL);
    f.store64(entry, address, 0);
    f.store32(entry, bytes, 8);
    f.store32(entry, kind, 12);
    f.store64(entry, value, 16);
    f.return(i64(0));
  });
  const forward = (name: typeof access, body: (f: CpuFunc) => void) => defineCpuFunction(module, target, name, body);
  const wide = (port: I32): I64 => port.i64u();
  forward(
    externalRead,
    (f) => f.return(f.call64(access, f.parameter64(0), f.parameter32(1), External.READ, i64(0))),
  );
  forward(
    externalWrite,
    (f) => f.drop(f.call64(access, f.parameter64(0), f.parameter32(1), External.WRITE, f.parameter64(2))),
  );
  const notePort = (f: CpuFunc) =>
    noteBreakpoints(
      f,
      wide(f.parameter32(0)),
      f.parameter32(1),
      (kind) => kind.eq(2).and(f.s64(State.CR4).has(CR4.DE)),
    );
  forward(portRead, (f) => {
    notePort(f);
    f.return(f.call64(access, wide(f.parameter32(0)), f.parameter32(1), External.PORT_READ, i64(0)));
  });
  forward(portWrite, (f) => {
    notePort(f);
    f.drop(f.call64(access, wide(f.parameter32(0)), f.parameter32(1), External.PORT_WRITE, f.parameter64(2)));
  });
  forward(externalDone, (f) => {
    f.set32(State.LOG_INDEX, 0);
    f.set32(State.LOG_FILLED, 0);
  });
}
