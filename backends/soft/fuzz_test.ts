/** Random bytes as code, in every mode: architectural faults, never an exception of ours and never a hang. */
import assert from "node:assert/strict";
import { Exit, type LocalInterruptController } from "../../core/hypervisor.ts";
import { X64, X64_STATE_BYTES } from "../../core/x64_state.ts";
import { byOpcode } from "./isa/table.ts";
import { soft } from "./hypervisor.ts";

const RAM = 1 << 20;
const CODE = 0x8000;
const PML4 = 0x1000;
/** Cases a mode; more in the long run: `HV_FUZZ=100000`. */
const CASES = Number(Deno.env.get("HV_FUZZ") ?? 250);

/** Numerical Recipes' 32-bit generator: the same cases every time. */
function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state >>> 8;
  };
}

/** A local APIC that never interrupts, and asks for the end of run() after some looks. */
class Watchdog implements LocalInterruptController {
  left = 0;
  readonly startupVector = 0;
  readonly doorbell = new Int32Array(new SharedArrayBuffer(4));
  constructor(private readonly stop: () => void) {}
  poll(): boolean {
    if (--this.left === 0) this.stop();
    return false;
  }
  takeEvents(): number {
    return 0;
  }
  acknowledge(): number {
    return -1;
  }
  taskPriority(): number {
    return 0;
  }
  setTaskPriority(): void {}
  readMsr(): boolean {
    return false;
  }
  writeMsr(): boolean {
    return false;
  }
  timeUntilTimer(): number {
    return 0;
  }
}

const modes = ["real", "protected 16", "protected 32", "compatibility", "long", "long, user"] as const;

/** Code with every opcode of the table in reach, and plain noise. */
function fill(code: Uint8Array, random: () => number): void {
  const noise = random() % 4 === 0;
  for (let i = 0; i < code.length;) {
    if (noise) {
      code[i++] = random();
      continue;
    }
    if (random() % 3 === 0) code[i++] = [0x66, 0xf2, 0xf3, 0x48, 0x67, 0xf0, 0x65, 0x41][random() % 8];
    const map = [0, 0, 1, 1, 2, 3][random() % 6];
    const rows = byOpcode[map];
    let opcode = random() & 255;
    for (let tries = 0; tries < 256 && rows[opcode].length === 0; tries++) opcode = (opcode + 1) & 255;
    if (map > 0) code[i++] = 0x0f;
    if (map > 1) code[i++] = map === 2 ? 0x38 : 0x3a;
    code[i++] = opcode;
    code[i++] = random();
    if (random() % 2) code[i++] = random() & 0x3f;
  }
}

for (const mode of modes) {
  Deno.test(`soft: random code in ${mode} mode`, () => {
    const partition = soft.createPartition({ architecture: "x86_64", cpus: 1, memory: RAM });
    const memory = partition.allocateMemory(RAM);
    partition.mapMemory({ guestAddress: 0, offset: 0, size: RAM });
    const ram = new Uint8Array(memory.buffer, memory.byteOffset, RAM);
    const view = new DataView(memory.buffer, memory.byteOffset, RAM);
    const vcpu = partition.createVcpu(0);
    const watchdog = new Watchdog(() => partition.interruptVcpu(0));
    vcpu.attachLocalApic(watchdog);
    const power = new ArrayBuffer(X64_STATE_BYTES);
    vcpu.getState(power);
    const counts = new Map<number, number>();
    for (let seed = 1; seed <= CASES; seed++) {
      const random = generator(seed * 7919 + modes.indexOf(mode));
      ram.fill(0);
      for (let i = 0x2000; i < 0x8000; i += 4) view.setUint32(i, random() ^ (random() << 12), true);
      fill(ram.subarray(CODE, CODE + 2048), random);
      // 2 MiB pages over everything, some of them beyond RAM; the entries lie where wild stores may reach them.
      view.setBigUint64(PML4, 0x2007n, true);
      view.setBigUint64(0x2000, 0x3007n, true);
      for (let i = 0; i < 512; i++) view.setBigUint64(0x3000 + i * 8, BigInt(i) * 0x20_0000n | 0x87n, true);
      const state = power.slice(0);
      const s = new DataView(state);
      for (let i = 0; i < 16; i++) {
        const kind = random() % 4;
        const value = kind === 0 ? random() % RAM : kind === 1 ? random() * 2 ** 24 + random() : random() % 256;
        s.setBigUint64(X64.GPR + i * 8, BigInt(value), true);
      }
      s.setBigUint64(X64.GPR + 32, 0x7f00n, true);
      s.setBigUint64(X64.RIP, BigInt(CODE), true);
      s.setBigUint64(X64.RFLAGS, BigInt(2 | (random() & 0x4d5)), true);
      const long = mode.startsWith("long") || mode === "compatibility";
      const user = mode === "long, user" ? 0x60 : 0;
      const segment = (index: number, attributes: number, limit = 0xffff_ffff) => {
        const at = X64.SEGMENTS + index * 16;
        s.setBigUint64(at, 0n, true);
        s.setUint32(at + 8, limit, true);
        s.setUint16(at + 12, mode === "real" ? 0 : (index + 1) * 8 | (user ? 3 : 0), true);
        s.setUint16(at + 14, attributes, true);
      };
      const wide = mode === "protected 32" || mode === "compatibility" ? 0xc000 : 0;
      if (mode === "real") { for (let i = 0; i < 6; i++) segment(i, i === 1 ? 0x9b : 0x93, 0xffff); }
      else {
        for (let i = 0; i < 6; i++) segment(i, 0x93 | user | wide);
        segment(1, 0x9b | user | wide | (mode.startsWith("long") ? 0xa000 : 0));
      }
      s.setBigUint64(X64.CR0, mode === "real" ? 0x10n : long ? 0x8000_0031n : 0x31n, true);
      s.setBigUint64(X64.CR4, long ? 0x620n | BigInt(random() & 0x30_0000) : 0x600n, true);
      s.setBigUint64(X64.CR3, BigInt(PML4), true);
      s.setBigUint64(X64.EFER, long ? 0xd01n : 0n, true);
      s.setBigUint64(X64.IDTR_BASE, 0x4000n, true);
      s.setUint32(X64.IDTR_LIMIT, random() % 4096, true);
      s.setBigUint64(X64.GDTR_BASE, 0x5000n, true);
      s.setUint32(X64.GDTR_LIMIT, random() % 4096, true);
      vcpu.setState(state);
      watchdog.left = 8;
      let reason: number = Exit.IO_WRITE;
      for (let exits = 0; exits < 64; exits++) {
        reason = vcpu.run();
        assert.ok(reason >= 0 && reason <= Exit.FAILED, `exit ${reason} in case ${seed}`);
        counts.set(reason, (counts.get(reason) ?? 0) + 1);
        if (reason === Exit.INTERRUPTED || reason === Exit.HALT || reason === Exit.SHUTDOWN || reason === Exit.FAILED) {
          break;
        }
        if (reason === Exit.MSR_READ || reason === Exit.MSR_WRITE) vcpu.msrFault = seed & 1;
      }
      // An interrupt that was asked for and not yet seen must not end the next case.
      if (watchdog.left <= 0 && reason !== Exit.INTERRUPTED) { while (vcpu.run() !== Exit.INTERRUPTED); }
    }
    vcpu.close();
    partition.close();
    assert.ok(counts.size > 1, "the code did something");
  });
}
