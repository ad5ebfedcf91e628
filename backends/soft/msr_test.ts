/** Model-specific registers, read and written by a guest. */
import assert from "node:assert/strict";
import { Exit } from "../../core/hypervisor.ts";
import { X64, X64_STATE_BYTES } from "../../core/x64_state.ts";
import { startState } from "../../tests/conformance/guest.ts";
import { soft } from "./hypervisor.ts";

const RAM = 1 << 20;
const CODE = 0x8000;
const TSC = 0x10, TSC_ADJUST = 0x3b, SPEC_CTRL = 0x48, PRED_CMD = 0x49;

type Vcpu = ReturnType<ReturnType<typeof soft.createPartition>["createVcpu"]>;

/** A partition with code in its memory. */
function partitionWith(code: number[], cpus: number) {
  const partition = soft.createPartition({ architecture: "x86_64", cpus, memory: RAM });
  const memory = partition.allocateMemory(RAM);
  partition.mapMemory({ guestAddress: 0, offset: 0, size: RAM });
  new Uint8Array(memory.buffer, memory.byteOffset, RAM).set(code, CODE);
  return partition;
}

/** The vCPU runs flat 32-bit code without an IDT, where an exception is a shutdown. */
function begin(vcpu: Vcpu): void {
  const state = startState(32);
  const view = new DataView(state);
  view.setUint32(X64.IDTR_LIMIT, 0, true);
  view.setBigUint64(X64.RIP, BigInt(CODE), true);
  vcpu.setState(state);
}

function guest(code: number[], run: (vcpu: Vcpu) => void) {
  const partition = partitionWith(code, 1);
  const vcpu = partition.createVcpu(0);
  begin(vcpu);
  try {
    run(vcpu);
  } finally {
    vcpu.close();
    partition.close();
  }
}

const word = (value: number) => [0, 8, 16, 24].map((by) => (value >>> by) & 0xff);
const write = (msr: number, value: number) => [0xb9, ...word(msr), 0xb8, ...word(value), 0x31, 0xd2, 0x0f, 0x30];
/** rdmsr; out 20h, eax */
const read = (msr: number) => [0xb9, ...word(msr), 0x0f, 0x32, 0xe7, 0x20];
const HLT = 0xf4;

Deno.test("soft: IA32_SPEC_CTRL keeps what CPUID offers, also in a state, and refuses the rest", () => {
  guest([...write(SPEC_CTRL, 0x401), ...read(SPEC_CTRL), ...read(SPEC_CTRL), HLT], (vcpu) => {
    assert.equal(vcpu.run(), Exit.IO_WRITE);
    assert.equal(vcpu.view.getUint32(vcpu.dataOffset, true), 0x401);
    const state = new ArrayBuffer(X64_STATE_BYTES);
    assert.equal(vcpu.run(), Exit.IO_WRITE);
    vcpu.getState(state);
    const view = new DataView(state);
    guest([], (other) => {
      // The instruction that left is over.
      view.setBigUint64(X64.RIP, BigInt(CODE), true);
      other.setState(state);
      const copy = new ArrayBuffer(X64_STATE_BYTES);
      other.getState(copy);
      assert.equal(new DataView(copy).getUint32(X64.OTHER_MSRS, true), SPEC_CTRL);
      assert.equal(new DataView(copy).getBigUint64(X64.OTHER_MSRS + 8, true), 0x401n);
    });
  });
  for (const bit of [1, 2, 3, 9, 31]) {
    guest([...write(SPEC_CTRL, 1 << bit), HLT], (vcpu) => assert.equal(vcpu.run(), Exit.SHUTDOWN, `bit ${bit}`));
  }
});

Deno.test("soft: IA32_PRED_CMD takes a barrier and nothing else", () => {
  guest([...write(PRED_CMD, 1), HLT], (vcpu) => assert.equal(vcpu.run(), Exit.HALT));
  guest([...write(PRED_CMD, 2), HLT], (vcpu) => assert.equal(vcpu.run(), Exit.SHUTDOWN));
});

Deno.test("soft: IA32_TSC_ADJUST moves the TSC, follows what is written to it, and goes with a state", () => {
  const moved = 0x10_0000;
  // rdtsc; out 20h, eax
  const tsc = [0x0f, 0x31, 0xe7, 0x20];
  const code = [...tsc, ...read(TSC_ADJUST), ...write(TSC_ADJUST, moved), ...tsc, ...read(TSC_ADJUST)];
  guest([...code, ...read(TSC_ADJUST), HLT], (vcpu) => {
    const next = () => {
      assert.equal(vcpu.run(), Exit.IO_WRITE);
      return vcpu.view.getUint32(vcpu.dataOffset, true);
    };
    const before = next();
    assert.equal(next(), 0, "ADJUST at reset");
    const after = next();
    assert.ok(((after - before) | 0) >= moved, `${before}, then ${after}`);
    assert.equal(next(), moved);
    const state = new ArrayBuffer(X64_STATE_BYTES);
    vcpu.getState(state);
    vcpu.setState(state);
    assert.equal(next(), moved, "with a state");
  });
  guest([...write(TSC, 0x8000_0000), ...read(TSC_ADJUST), HLT], (vcpu) => {
    const clock = performance.now();
    assert.equal(vcpu.run(), Exit.IO_WRITE);
    const adjust = vcpu.view.getUint32(vcpu.dataOffset, true);
    // What the clock shows is what is missing.
    assert.ok(adjust < 0x8000_0000 && adjust > 0x8000_0000 - (performance.now() + clock) * 1e6 - 1e9, `${adjust}`);
  });
});

Deno.test("soft: the TSC does not go back from one vCPU to the next", () => {
  // rdtsc; out 20h, eax; jmp to the start
  const partition = partitionWith([0x0f, 0x31, 0xe7, 0x20, 0xeb, 0xfa], 2);
  // A Worker takes its time origin from the wall clock: one that is late by 5 ms is ahead of the others.
  const origin = performance.timeOrigin;
  Object.defineProperty(performance, "timeOrigin", { value: origin + 5, configurable: true });
  const vcpus = [partition.createVcpu(0)];
  Reflect.deleteProperty(performance, "timeOrigin");
  assert.equal(performance.timeOrigin, origin);
  vcpus.push(partition.createVcpu(1));
  try {
    for (const vcpu of vcpus) {
      begin(vcpu);
      vcpu.run();
    }
    let last = 0;
    for (let i = 0; i < 1000; i++) {
      const vcpu = vcpus[i & 1];
      assert.equal(vcpu.run(), Exit.IO_WRITE);
      const now = vcpu.view.getUint32(vcpu.dataOffset, true);
      assert.ok(((now - last) | 0) >= 0 || i === 0, `read ${i}: ${last}, then ${now}`);
      last = now;
    }
  } finally {
    for (const vcpu of vcpus) vcpu.close();
    partition.close();
  }
});
