/** What a partition holds of the process, and that it gives it back. */
import assert from "node:assert/strict";
import { needs } from "../../tests/skip.ts";
import { EventFd } from "./eventfd.ts";
import { kvm } from "./hypervisor.ts";
import { KvmPartition } from "./partition.ts";

const support = kvm.probe();
const ignore = needs(support.usable || support.restricted, "KVM partitions", support.reason);
const config = { architecture: "x86_64", cpus: 2, memory: 1 << 24 } as const;

/** Descriptors of this process by number: what they are, and their flags. */
function descriptors(): Map<string, string> {
  const found = new Map<string, string>();
  for (const { name } of Deno.readDirSync("/proc/self/fd")) {
    try {
      found.set(name, Deno.readLinkSync(`/proc/self/fd/${name}`));
    } catch {
      // The directory's own descriptor is gone by now.
    }
  }
  return found;
}

function isClosedOnExec(fd: string): boolean {
  const flags = /^flags:\s+([0-7]+)/m.exec(Deno.readTextFileSync(`/proc/self/fdinfo/${fd}`))![1];
  return (parseInt(flags, 8) & 0o2000000) !== 0;
}

Deno.test({
  name: "KVM partition: all descriptors are closed on exec, and closed in the end",
  ignore,
  fn: () => {
    const before = descriptors();
    const partition = kvm.createPartition(config);
    partition.mapMemory({ guestAddress: 0, offset: 0, size: partition.allocateMemory(1 << 24).size });
    const vcpus = [partition.createVcpu(0), partition.createVcpu(1)];
    partition.createWaker();
    const ours = [...descriptors()].filter(([fd]) => !before.has(fd));
    // /dev/kvm, the machine, two vCPUs, an eventfd.
    assert.equal(ours.length, 5, JSON.stringify(ours));
    for (const [fd, what] of ours) assert.ok(isClosedOnExec(fd), what);
    for (const vcpu of vcpus) {
      vcpu.close();
      vcpu.close();
    }
    partition.interruptVcpu(0);
    partition.close();
    partition.close();
    assert.deepEqual([...descriptors()].filter(([fd]) => !before.has(fd)), []);
  },
});

Deno.test({
  name: "KVM partition: nothing stays mapped, and late looks find nothing instead of crashing",
  ignore,
  fn: () => {
    const mapped = () => /^VmSize:\s+(\d+)/m.exec(Deno.readTextFileSync("/proc/self/status"))![1];
    const once = () => {
      const partition = kvm.createPartition(config);
      const memory = partition.allocateMemory(1 << 24);
      const bytes = new Uint8Array(memory.buffer, 0, memory.size);
      partition.mapMemory({ guestAddress: 0, offset: 0, size: memory.size });
      bytes.fill(1);
      const attached = kvm.attachPartition(partition.handle());
      const theirs = new Uint8Array(attached.memory().buffer);
      assert.equal(theirs[12345], 1);
      const vcpu = partition.createVcpu(0);
      partition.close();
      assert.equal(bytes.length, 0);
      // Another Worker may still look: zeroes by now, its own to forget.
      assert.equal(theirs[12345], 0);
      attached.interrupts.setLine(3, 1);
      attached.close();
      assert.equal(theirs.length, 0);
      vcpu.close();
      assert.equal(vcpu.bytes.length, 0);
    };
    once();
    const before = Number(mapped());
    for (let i = 0; i < 20; i++) once();
    // 20 partitions of 16 MiB would be 320 MiB.
    assert.ok(Number(mapped()) - before < 64 * 1024, `${mapped()} KiB after ${before} KiB`);
  },
});

Deno.test({
  name: "KVM partition: what is asked for wrongly is refused in words",
  ignore,
  fn: () => {
    assert.throws(() => KvmPartition.create(config, "/nonexistent"), /opening \/nonexistent.*No such file/);
    const before = descriptors();
    assert.throws(() => KvmPartition.create(config, "/dev/null"), /creating a virtual machine/);
    assert.deepEqual([...descriptors()].filter(([fd]) => !before.has(fd)), []);
    const partition = kvm.createPartition(config);
    try {
      assert.throws(() => partition.memory(), /has not been allocated/);
      assert.throws(() => partition.allocateMemory(100), /whole pages/);
      assert.throws(() => partition.allocateMemory(2 ** 46), /no room/);
      assert.throws(() => partition.createVcpu(2), /no vCPU 2/);
      for (const index of [-1, 2, 1000, NaN]) partition.interruptVcpu(index);
      const vcpu = partition.createVcpu(0);
      assert.throws(() => vcpu.getState(new ArrayBuffer(8)), /bytes/);
      assert.throws(() => vcpu.setState(new ArrayBuffer(1 << 14)), /version 0/);
      assert.throws(() => partition.createVcpu(0), /making vCPU 0: File exists/);
      vcpu.close();
    } finally {
      partition.close();
    }
  },
});

Deno.test({
  name: "KVM waker: fractions of a millisecond are kept",
  ignore,
  fn: () => {
    const waker = new EventFd();
    const start = performance.now();
    assert.equal(waker.wait(1.5), false);
    assert.ok(performance.now() - start >= 1.4);
    waker.wake();
    assert.equal(waker.wait(0), true);
    waker.close();
    waker.close();
  },
});
