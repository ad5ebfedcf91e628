/** The I/O Worker: sleeps until a doorbell or a timer, then serves the data planes and ticks the timers. */
import { attachPartition } from "../backends/choose.ts";
import { buildBoard } from "../machines/choose.ts";
import type { Blueprint, Board } from "./board.ts";
import { Command, Control, WorkerState } from "./control.ts";
import type { Waker } from "./hypervisor.ts";
import { openDisk } from "../storage/open.ts";

/** What the control thread posts first. */
export interface IoWorkerStart {
  blueprint: Blueprint;
  /** This Worker's place among the control words. */
  index: number;
}

/** What this Worker posts: a sentence for the person; `fatal` when the machine cannot go on. */
export interface IoWorkerReport {
  message: string;
  fatal: boolean;
}

declare const self: {
  onmessage: (event: MessageEvent<IoWorkerStart>) => Promise<void>;
  postMessage(report: IoWorkerReport): void;
  close(): void;
};

self.onmessage = async ({ data: { blueprint, index } }) => {
  const control = new Control(blueprint.control);
  try {
    const partition = await attachPartition(blueprint.partition);
    const board = buildBoard(blueprint, partition, (message) => self.postMessage({ message, fatal: false }));
    const waker = partition.attachWaker(blueprint.ioWaker);
    try {
      for (const plane of board.dataPlanes) plane.open(openDisk);
      serve(board, waker, control, index);
    } finally {
      for (const plane of board.dataPlanes) plane.close();
    }
    partition.close();
  } catch (error) {
    const { name, message, stack } = error as Error;
    self.postMessage({ message: name === "DiskError" ? message : stack ?? message, fatal: true });
  }
  control.setWorkerState(index, WorkerState.CLOSED);
  self.close();
};

/** Serves until STOP. A held machine is served no longer than what was asked before the vCPUs stopped. */
function serve(board: Board, waker: Waker, control: Control, index: number): void {
  for (;;) {
    const command = control.command;
    if (command === Command.STOP) return;
    let more = false;
    for (const plane of board.dataPlanes) more = plane.service() || more;
    if (more) continue;
    if (command === Command.HOLD) {
      control.setWorkerState(index, WorkerState.HELD);
      waker.wait(-1);
      continue;
    }
    control.setWorkerState(index, WorkerState.RUNNING);
    let timeout = -1;
    for (const timer of board.timers) {
      timer.registers.lock();
      const next = timer.tick();
      timer.registers.unlock();
      if (next >= 0 && (timeout < 0 || next < timeout)) timeout = next;
    }
    waker.wait(timeout);
  }
}
