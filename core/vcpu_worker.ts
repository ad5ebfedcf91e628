/** The Worker of one vCPU: joins the machine, makes the vCPU on this thread, and runs it as commanded. */
import { attachPartition, loadBackend } from "../backends/choose.ts";
import { buildBoard } from "../machines/choose.ts";
import type { Blueprint } from "./board.ts";
import { ByteRing } from "./byte_ring.ts";
import { Command, Control, EndReason, WorkerState } from "./control.ts";
import type { BackendName, Vcpu, VcpuFailure } from "./hypervisor.ts";
import { LoopEnd, runVcpu } from "./vcpu_loop.ts";
import { afterFirmware } from "./x64_state.ts";

/** What the control thread posts: what to load while the rest is not known yet, then the machine to join. */
export type VcpuWorkerMessage = { backend: BackendName } | { blueprint: Blueprint; index: number };

/** What this Worker posts: why the guest could not go on. */
export interface VcpuWorkerReport {
  failure: VcpuFailure;
}

declare const self: {
  onmessage: (event: MessageEvent<VcpuWorkerMessage>) => Promise<void>;
  postMessage(report: VcpuWorkerReport): void;
  close(): void;
};

self.onmessage = async ({ data }) => {
  if ("backend" in data) {
    // What fails here fails again, and is told, when the machine is joined.
    await loadBackend(data.backend).catch(() => {});
    return;
  }
  const { blueprint, index } = data;
  const control = new Control(blueprint.control);
  try {
    const partition = await attachPartition(blueprint.partition);
    const board = buildBoard(blueprint, partition, () => {});
    const vcpu = partition.createVcpu(index);
    board.attachVcpu(vcpu);
    drive(vcpu, blueprint, control, index, () =>
      runVcpu(
        vcpu,
        board.ports,
        board.memory,
        control,
        control.exitCounters(index),
        new ByteRing(blueprint.consoleOutput),
      ));
    vcpu.close();
    partition.close();
  } catch (error) {
    fail(control, { reason: (error as Error).stack ?? String(error), registers: {}, instruction: new Uint8Array(0) });
  }
  control.setWorkerState(index, WorkerState.CLOSED);
  self.close();
};

/** Follows the commands until STOP. */
function drive(vcpu: Vcpu, blueprint: Blueprint, control: Control, index: number, run: () => number): void {
  let generation = control.generation;
  // A copy that is not shared: backends hand it to system calls.
  const powerOn = new ArrayBuffer(blueprint.bootState.byteLength);
  if (index > 0) vcpu.getState(powerOn);
  let fresh = true;
  for (;;) {
    const command = control.command;
    if (command === Command.STOP) return;
    if (command === Command.HOLD) {
      control.setWorkerState(index, WorkerState.HELD);
      control.waitWhile(Command.HOLD);
      continue;
    }
    if (control.generation !== generation) {
      generation = control.generation;
      fresh = true;
    }
    if (fresh) {
      if (index === 0) new Uint8Array(powerOn).set(new Uint8Array(blueprint.bootState));
      else afterFirmware(blueprint.bootState, powerOn);
      vcpu.setState(powerOn);
      fresh = false;
    }
    control.setWorkerState(index, WorkerState.RUNNING);
    if (run() === LoopEnd.FAILED) fail(control, vcpu.failure());
  }
}

function fail(control: Control, failure: VcpuFailure): void {
  self.postMessage({ failure });
  control.end(EndReason.FAILED);
}
