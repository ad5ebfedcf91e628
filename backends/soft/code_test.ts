/** Code that changes under the CPU. */
import assert from "node:assert/strict";
import { Exit } from "../../core/hypervisor.ts";
import { X64 } from "../../core/x64_state.ts";
import { startState } from "../../tests/conformance/guest.ts";
import { soft } from "./hypervisor.ts";

const RAM = 1 << 20;
const CODE = 0x8000;
const CALLED = 0x9000;

Deno.test("soft: a device's store to code is seen once the page is mapped anew", () => {
  const partition = soft.createPartition({ architecture: "x86_64", cpus: 1, memory: RAM });
  const memory = partition.allocateMemory(RAM);
  partition.mapMemory({ guestAddress: 0, offset: 0, size: RAM });
  const ram = new Uint8Array(memory.buffer, memory.byteOffset, RAM);
  const call = (at: number) => {
    const distance = CALLED - at - 5;
    return [0xe8, distance & 0xff, (distance >> 8) & 0xff, 0, 0];
  };
  ram.set([
    ...call(CODE),
    ...[0xe6, 0x20], // out 20h, al
    ...[0xe4, 0x10], // in al, 10h
    ...[0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8], // mov eax, cr3; mov cr3, eax
    ...call(CODE + 15),
    ...[0xe6, 0x20],
    0xf4, // hlt
  ], CODE);
  ram.set([0xb0, 1, 0xc3], CALLED); // mov al, 1; ret
  const vcpu = partition.createVcpu(0);
  const state = startState(32);
  new DataView(state).setBigUint64(X64.RIP, BigInt(CODE), true);
  vcpu.setState(state);
  assert.equal(vcpu.run(), Exit.IO_WRITE);
  assert.equal(vcpu.bytes[vcpu.dataOffset], 1);
  assert.equal(vcpu.run(), Exit.IO_READ);
  ram[CALLED + 1] = 2;
  assert.equal(vcpu.run(), Exit.IO_WRITE);
  assert.equal(vcpu.bytes[vcpu.dataOffset], 2);
  assert.equal(vcpu.run(), Exit.HALT);
  vcpu.close();
  partition.close();
});
