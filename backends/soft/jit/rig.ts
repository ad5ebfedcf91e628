/** For tests and benches: one vCPU of the software CPU in this thread, memory mapped onto itself. */
import { Exit } from "../../../core/hypervisor.ts";
import { X64_STATE_BYTES } from "../../../core/x64_state.ts";
import { startState } from "../../../tests/conformance/guest.ts";
import { State } from "../layout.ts";
import { SoftPartition } from "../partition.ts";
import { testMode } from "../test_mode.ts";
import type { SoftVcpu } from "../vcpu.ts";

/** Guest addresses. */
export const Place = { CODE: 0x1000, STACK: 0x8000, TABLES: 0x2_0000, GDT: 0xf000, IDT: 0x1_0000, DATA: 0x10_0000 };
/** An OUT to this port ends a run. */
export const DONE_PORT = 0xf4;

export class Rig {
  readonly partition: SoftPartition;
  readonly vcpu: SoftVcpu;
  readonly bytes: Uint8Array;
  readonly view: DataView;

  /** @param threshold runs of a block before it is compiled; -1: interpreter only */
  constructor(threshold: number, megabytes = 32) {
    const size = megabytes * 2 ** 20;
    const usual = testMode.threshold;
    testMode.threshold = threshold;
    this.partition = new SoftPartition({ architecture: "x86_64", cpus: 1, memory: size, epoch: 0 } as never);
    testMode.threshold = usual;
    const { buffer, byteOffset } = this.partition.memory();
    this.bytes = new Uint8Array(buffer, byteOffset, size);
    this.view = new DataView(buffer, byteOffset, size);
    this.partition.mapMemory({ guestAddress: 0, offset: 0, size });
    this.vcpu = this.partition.createVcpu(0) as SoftVcpu;
    const { view } = this;
    [0n, 0x00af_9b00_0000_ffffn, 0x00cf_9300_0000_ffffn, 0x00cf_9b00_0000_ffffn].forEach((descriptor, i) =>
      view.setBigUint64(Place.GDT + i * 8, descriptor, true)
    );
    view.setBigUint64(Place.TABLES, BigInt(Place.TABLES + 0x1000) | 3n, true);
    view.setBigUint64(Place.TABLES + 0x1000, BigInt(Place.TABLES + 0x2000) | 3n, true);
    for (let i = 0; i < 512; i++) view.setBigUint64(Place.TABLES + 0x2000 + i * 8, BigInt(i * 2 ** 21) | 0xe3n, true);
  }

  /** Points an exception's vector at code. */
  setVector(vector: number, address: number): void {
    const at = Place.IDT + vector * 16;
    this.view.setUint16(at, address & 0xffff, true);
    this.view.setUint16(at + 2, 0x08, true);
    // A present interrupt gate (SDM vol. 3, 6.14.1).
    this.view.setUint16(at + 4, 0x8e00, true);
    this.view.setUint16(at + 6, address >>> 16, true);
  }

  /** Puts code at {@link Place.CODE} and the vCPU before it. */
  load(code: Uint8Array, state = startState(64)): void {
    this.bytes.set(code, Place.CODE);
    this.vcpu.setState(state);
  }

  /** Runs until the code writes to {@link DONE_PORT}; gives any other exit's reason, or 0. */
  run(): number {
    const reason = this.vcpu.run();
    if (reason === Exit.IO_WRITE && this.vcpu.port === DONE_PORT) return 0;
    return reason;
  }

  /** The state as it can be compared. */
  state(): Uint8Array {
    const buffer = new ArrayBuffer(X64_STATE_BYTES);
    this.vcpu.getState(buffer);
    return new Uint8Array(buffer);
  }

  field(offset: number): DataView {
    return new DataView(this.vcpu.core.stateView.buffer, this.vcpu.core.stateView.byteOffset + offset);
  }
}

export { State };
