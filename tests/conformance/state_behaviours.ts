/** State out and in again, MSRs, debugging. */
import assert from "node:assert/strict";
import { X64 } from "../../core/x64_state.ts";
import { type Assembler, at } from "./assembler.ts";
import { type Behaviour, hexOf, MODES, runsOnTcg, Skip, withGuest } from "./behaviour.ts";
import { type Guest, Layout, startState } from "./guest.ts";
import { enableApic, LOCAL_APIC, store } from "./local_apic.ts";

const { DATA } = Layout;
/** No CPU and no paravirtual interface has this one. */
const UNKNOWN_MSR = 0x1234_5678;

/** IA32_MTRR_DEF_TYPE (SDM vol. 3, 12.11.2.1) */
const MTRR_DEF_TYPE = 0x2ff;

/** An MSR without a place of its own, out of a state. */
function otherMsr(state: ArrayBuffer, index: number): bigint | undefined {
  const view = new DataView(state);
  for (let i = 0; i < view.getUint32(X64.OTHER_MSR_COUNT, true); i++) {
    const at = X64.OTHER_MSRS + i * 16;
    if (view.getUint32(at, true) === index) return view.getBigUint64(at + 8, true);
  }
}

/** What may differ: time goes on. */
function withoutTime(state: ArrayBuffer): Uint8Array {
  const copy = new Uint8Array(state.slice(0));
  copy.fill(0, X64.TSC, X64.TSC + 8);
  // The timer's current count (SDM vol. 3, table 11-1: 390h).
  copy.fill(0, X64.LOCAL_APIC + 0x390, X64.LOCAL_APIC + 0x394);
  const view = new DataView(copy.buffer);
  for (let i = 0; i < view.getUint32(X64.OTHER_MSR_COUNT, true); i++) {
    const msr = view.getUint32(X64.OTHER_MSRS + i * 16, true);
    // IA32_TSC_ADJUST follows what is done to the TSC.
    if (msr === 0x3b) view.setBigUint64(X64.OTHER_MSRS + i * 16 + 8, 0n, true);
  }
  return copy;
}

function assertSameState(after: ArrayBuffer, before: ArrayBuffer): void {
  const [a, b] = [withoutTime(after), withoutTime(before)];
  const differing: string[] = [];
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) differing.push(`[${i}] ${b[i]} became ${a[i]}`);
  assert.deepEqual(differing, []);
}

/** Starts in 64-bit code that puts something into the registers of a program; XMM come from DATA. */
async function runProgram(guest: Guest): Promise<ArrayBuffer> {
  for (let i = 0; i < 256; i++) guest.bytes[DATA + i] = (i * 37 + 11) & 0xff;
  const { end, state, failure } = await guest.run(64, (code) => {
    for (let i = 0; i < 16; i++) code.vector("movups", `xmm${i}`, at({ displacement: DATA + i * 16 }));
    const others = ["rcx", "rdx", "rbx", "rbp", "rsi", "rdi", ...Array.from({ length: 8 }, (_, i) => `r${i + 8}`)];
    others.forEach((name, i) => code.mov(name, 0xfedc_ba98_0000_0000n + BigInt(i) * 0x1111_1111n));
    code.mov("rax", 0x0123_4567_89ab_cdefn).arithmetic("cmp", "rax", "rcx");
  }, { wantState: true });
  assert.equal(end, "done", JSON.stringify(failure));
  return state!;
}

/** Moves a state to another guest's vCPU over the same memory, and runs on with other code. */
async function moveTo(
  first: Guest,
  second: Guest,
  state: ArrayBuffer,
  write: (code: Assembler) => void,
): Promise<void> {
  second.bytes.set(first.bytes);
  const vcpu = await second.vcpu();
  // Set and read before it runs: nothing may change on the way.
  assertSameState(await vcpu.copyState(state), state);
  second.load(64, write, Number(new DataView(state).getBigUint64(X64.RIP, true)));
  const { end, failure } = await vcpu.run();
  assert.equal(end, "done", JSON.stringify(failure));
}

const le = (value: number) => [value & 255, value >> 8 & 255, value >> 16 & 255, value >>> 24];

/** What leaves the guest, each in its own way: one exit, or one of several. */
const LEAVING: Record<string, (code: Assembler) => void> = {
  "a port write": (code) => code.out(0x80, "al"),
  "a port read": (code) => code.in("eax", 0x80),
  "a memory write": (code) => code.mov(at({ displacement: Layout.MMIO }), "eax"),
  "a memory read": (code) => code.mov("eax", at({ displacement: Layout.MMIO })),
  "a string's port write": (code) => code.string("outs", 1, true),
  "a string's port read": (code) => code.string("ins", 1, true),
  "half of a 16-byte store": (code) => code.vector("movups", at({ displacement: Layout.MMIO }), "xmm0"),
  "half of a 16-byte load": (code) => code.vector("movups", "xmm0", at({ displacement: Layout.MMIO })),
};

/** Writes an MSR of 32 bits. */
function writeMsr(code: Assembler, index: number, value: number): Assembler {
  return code.mov("ecx", index).mov("eax", value).mov("edx", 0).wrmsr();
}

/** How a program reaches its local APIC: as memory, or by MSRs (SDM vol. 3, 11.12). */
const APIC_MODES = [
  {
    name: "xAPIC",
    enable: enableApic,
    // The command register: fixed, asserted, to APIC 0.
    interruptItself: (code: Assembler, vector: number) =>
      store(store(code, LOCAL_APIC + 0x310, 0), LOCAL_APIC + 0x300, 0x4000 | vector),
    endInterrupt: (code: Assembler) => store(code, LOCAL_APIC + 0xb0, 0),
  },
  {
    name: "x2APIC",
    enable: (code: Assembler) => {
      writeMsr(code, 0x1b, (LOCAL_APIC | 0xd00) >>> 0);
      writeMsr(code, 0x835, 0x1_0000);
      return writeMsr(code, 0x80f, 0x1ff);
    },
    interruptItself: (code: Assembler, vector: number) => writeMsr(code, 0x83f, vector),
    endInterrupt: (code: Assembler) => writeMsr(code, 0x80b, 0),
  },
];
const WAITING_VECTOR = 0x75;

export const stateBehaviours: Behaviour[] = [
  ...APIC_MODES.map(({ name, enable, interruptItself, endInterrupt }): Behaviour => ({
    name: `an interrupt that waits in the ${name} moves with the state, and is taken there`,
    run: (subject) =>
      withGuest(subject, async (first) => {
        if (!first.partition.controllers.localApic) throw new Skip("the local APIC is the machine's, not the vCPU's");
        if (name === "x2APIC") {
          const { log } = await first.run(64, (code) =>
            code.mov("eax", 1).bytes(0x0f, 0xa2).mov("eax", "ecx").out(0x80, "eax"));
          // CPUID 1, ECX bit 21 (SDM vol. 2).
          if ((Number.parseInt(log[0].slice(-4, -2), 16) & 0x20) === 0) {
            throw new Skip("the local APIC is no x2APIC");
          }
        }
        const { end, state, failure } = await first.run(64, (code) => {
          enable(code);
          interruptItself(code, WAITING_VECTOR);
        }, { wantState: true });
        assert.equal(end, "done", JSON.stringify(failure));
        // Interrupt request register, 32 vectors in every 16 bytes (table 11-1).
        const requests = new DataView(state!).getUint32(X64.LOCAL_APIC + 0x200 + (WAITING_VECTOR >> 5) * 16, true);
        assert.equal(requests, 1 << (WAITING_VECTOR & 31));
        await withGuest(subject, async (second) => {
          await moveTo(first, second, state!, (code) => {
            code.sti().nop().nop().cli().jmp("end");
            second.setVector(WAITING_VECTOR, code.here);
            code.mov(at({ displacement: DATA, size: 4 }), WAITING_VECTOR);
            endInterrupt(code).iret().label("end");
          });
          assert.equal(second.view.getUint32(DATA, true), WAITING_VECTOR);
        });
      }),
  })),
  ...Object.entries(LEAVING).map(([name, leave]): Behaviour => ({
    // As when a guest resets its machine by a register of a device.
    name: `a state set after ${name} is where the guest goes on, with nothing left of the exit`,
    run: (subject) =>
      withGuest(subject, async (guest) => {
        const state = startState(32);
        const view = new DataView(state);
        const registers = { rcx: 8n, rdx: 0x80n, rsi: BigInt(DATA), rdi: BigInt(DATA) };
        const numbers = { rcx: 1, rdx: 2, rsi: 6, rdi: 7 };
        for (const [name, value] of Object.entries(registers)) {
          view.setBigUint64(X64.GPR + numbers[name as keyof typeof numbers] * 8, value, true);
        }
        const first = await guest.run(32, leave, { state, exits: 1, answers: [1, 2, 3, 4, 5, 6, 7, 8] });
        assert.equal(first.end, "enough");
        // At the same address, so that nothing but the state tells the two apart.
        const second = await guest.run(32, (code) => code.mov("edx", 0x81).out("dx", "eax"));
        assert.deepEqual(second.log, ["out 0x81 00000000"]);
        assert.equal(second.end, "done");
      }),
  })),
  ...MODES.map((bits): Behaviour => ({
    name: `state that was set is what is read, ${bits}-bit`,
    run: (subject) =>
      withGuest(subject, async (guest) => {
        const state = startState(bits);
        const view = new DataView(state);
        const set = (offset: number, value: bigint) => view.setBigUint64(offset, value, true);
        for (let i = 0; i < 16; i++) if (i !== 4) set(X64.GPR + i * 8, 0x0102_0304_0506_0708n * BigInt(i + 1));
        for (let i = 0; i < 4; i++) set(X64.DR + i * 8, 0x7000n + BigInt(i) * 0x11n);
        set(X64.CR2, 0xffff_8000_1234_5678n);
        set(X64.STAR, 0x0023_0010_0000_0000n);
        set(X64.LSTAR, 0xffff_ffff_8100_0000n);
        set(X64.SFMASK, 0x4_7700n);
        set(X64.KERNEL_GS_BASE, 0xffff_8880_0000_1000n);
        // AMD's have 32 bits.
        set(X64.SYSENTER_ESP, 0xc900_1000n);
        set(X64.SYSENTER_EIP, 0x8180_0000n);
        for (let i = 0; i < 256; i++) view.setUint8(X64.XSAVE + 160 + i, i ^ 0x5a);
        const read = await (await guest.vcpu()).copyState(state);
        const out = new DataView(read);
        for (let i = 0; i < 16; i++) {
          assert.equal(
            out.getBigUint64(X64.GPR + i * 8, true),
            view.getBigUint64(X64.GPR + i * 8, true),
            `register ${i}`,
          );
        }
        for (
          const name of [
            "CR0",
            "CR2",
            "CR3",
            "EFER",
            "STAR",
            "LSTAR",
            "SFMASK",
            "KERNEL_GS_BASE",
            "SYSENTER_ESP",
          ] as const
        ) {
          assert.equal(out.getBigUint64(X64[name], true), view.getBigUint64(X64[name], true), name);
        }
        for (let i = 0; i < 4; i++) {
          assert.equal(out.getBigUint64(X64.DR + i * 8, true), view.getBigUint64(X64.DR + i * 8, true), `dr${i}`);
        }
        assert.deepEqual(
          [...new Uint8Array(read, X64.XSAVE + 160, 256)],
          [...new Uint8Array(state, X64.XSAVE + 160, 256)],
        );
        for (let i = 0; i < 6; i++) {
          const segment = X64.SEGMENTS + i * 16;
          assert.equal(out.getUint16(segment + 12, true), view.getUint16(segment + 12, true), `selector ${i}`);
          assert.equal(out.getUint32(segment + 8, true), view.getUint32(segment + 8, true), `limit ${i}`);
          assert.equal(out.getUint16(segment + 14, true), view.getUint16(segment + 14, true), `attributes ${i}`);
        }
      }),
  })),
  {
    name: "a running program's state moves to another vCPU bit for bit, and it goes on there",
    run: (subject) =>
      withGuest(subject, async (first) => {
        const state = await runProgram(first);
        await withGuest(subject, async (second) => {
          await moveTo(first, second, state, (code) => {
            code.mov(at({ displacement: DATA + 0x400 }), "rax").mov(at({ displacement: DATA + 0x408 }), "r15");
            code.setcc("b", at({ displacement: DATA + 0x410 }));
            for (let i = 0; i < 16; i++) code.vector("movups", at({ displacement: DATA + 0x500 + i * 16 }), `xmm${i}`);
          });
          assert.equal(second.view.getBigUint64(DATA + 0x400, true), 0x0123_4567_89ab_cdefn);
          assert.equal(second.view.getBigUint64(DATA + 0x408, true), 0xfedc_ba98_0000_0000n + 13n * 0x1111_1111n);
          assert.equal(second.bytes[DATA + 0x410], 1);
          assert.deepEqual(
            [...second.bytes.subarray(DATA + 0x500, DATA + 0x600)],
            [...first.bytes.subarray(DATA, DATA + 0x100)],
          );
        });
      }),
  },
  {
    name: "x87 and MXCSR as the CPU left them move bit for bit",
    pvm: "PVM runs ring 0 through KVM's instruction emulator, which has no LDMXCSR, FLDCW or x87 arithmetic",
    run: (subject) =>
      withGuest(subject, async (first) => {
        const { end, state, failure } = await first.run(64, (code) => {
          // ldmxcsr, fldcw with unusual rounding; fldpi, fld1, fldln2 leave three 80-bit values.
          code.mov(at({ displacement: DATA, size: 4 }), 0x3f80).bytes(0x0f, 0xae, 0x14, 0x25, ...le(DATA));
          code.mov(at({ displacement: DATA + 4, size: 2 }), 0x0f7f).bytes(0xd9, 0x2c, 0x25, ...le(DATA + 4));
          code.bytes(0xd9, 0xeb, 0xd9, 0xe8, 0xd9, 0xed);
        }, { wantState: true });
        assert.equal(end, "done", JSON.stringify(failure));
        await withGuest(subject, async (second) => {
          await moveTo(first, second, state!, (code) => {
            code.bytes(0xdb, 0x3c, 0x25, ...le(DATA + 0x100)); // fstp tbyte
            code.bytes(0x0f, 0xae, 0x1c, 0x25, ...le(DATA + 0x110)); // stmxcsr
            code.bytes(0xd9, 0x3c, 0x25, ...le(DATA + 0x114)); // fnstcw
          });
          // ln 2 rounded toward zero, as RC = 11 asks.
          assert.equal(second.view.getBigUint64(DATA + 0x100, true), 0xb172_17f7_d1cf_79abn);
          assert.equal(second.view.getUint16(DATA + 0x108, true), 0x3ffe);
          assert.equal(second.view.getUint32(DATA + 0x110, true), 0x3f80);
          assert.equal(second.view.getUint16(DATA + 0x114, true), 0x0f7f);
        });
      }),
  },
  {
    name: "an MTRR that a state names is the guest's, and one that the guest writes is in its state",
    skip: ({ hypervisor }) =>
      hypervisor.name === "soft" ? "its CPU has no ranges (IA32_MTRRCAP is zero) and MTRRs that stay off" : null,
    run: (subject) =>
      withGuest(subject, async (guest) => {
        const state = startState(64);
        const view = new DataView(state);
        view.setUint32(X64.OTHER_MSR_COUNT, 1, true);
        view.setUint32(X64.OTHER_MSRS, MTRR_DEF_TYPE, true);
        view.setBigUint64(X64.OTHER_MSRS + 8, 0x806n, true);
        const { log, state: after } = await guest.run(64, (code) => {
          code.mov("eax", 1).bytes(0x0f, 0xa2).mov("eax", "edx").out(0x80, "eax"); // cpuid
          code.mov("ecx", MTRR_DEF_TYPE).rdmsr().out(0x81, "eax").mov("eax", 0xc06).wrmsr();
        }, { state, wantState: true });
        // CPUID 1, EDX bit 12 (SDM vol. 2); the log has bytes as they lie in memory.
        if ((Number.parseInt(log[0].slice(-6, -4), 16) & (1 << 4)) === 0) throw new Skip("a CPU without MTRRs");
        assert.equal(log[1], "out 0x81 06080000");
        assert.equal(otherMsr(after!, MTRR_DEF_TYPE), 0xc06n);
      }),
  },
  {
    name: "reads and writes of an MSR the backend does not own leave the guest",
    run: (subject) =>
      withGuest(subject, async (guest) => {
        const { log } = await guest.run(64, (code) => {
          code.mov("ecx", UNKNOWN_MSR).rdmsr().out(0x80, "eax").mov("eax", "edx").out(0x81, "eax");
          code.mov("eax", 0x1111_2222).mov("edx", 0x3333_4444).wrmsr();
        }, { answers: [1, 2, 3, 4, 5, 6, 7, 8] });
        assert.deepEqual(log, [
          "rdmsr 0x12345678",
          "out 0x80 01020304",
          "out 0x81 05060708",
          "wrmsr 0x12345678 2222111144443333",
        ]);
      }),
  },
  {
    name: "an MSR access that is refused raises #GP",
    run: (subject) =>
      withGuest(subject, async (guest) => {
        const { log } = await guest.run(64, (code) => {
          code.lidt(at({ displacement: DATA })).mov("ecx", UNKNOWN_MSR).rdmsr().out(0x80, "al").jmp("end");
          code.label("gp").mov("al", 13).out(0x81, "al").label("end");
          guest.view.setUint16(DATA, 0xfff, true);
          guest.view.setUint32(DATA + 2, Layout.IDT, true);
          guest.setVector(13, code.address("gp"));
        }, { msrFault: true });
        assert.deepEqual(log, ["rdmsr 0x12345678", "out 0x81 0d"]);
      }),
  },
  {
    name: "single steps: one DEBUG exit an instruction",
    run: (subject) =>
      withGuest(subject, async (guest) => {
        const code = guest.load(64, (code) =>
          code.nop().mov("ecx", 3).label("loop").unary("dec", "ecx").jcc("ne", "loop"));
        const vcpu = await guest.vcpu();
        let result = await vcpu.run({ state: startState(64), singleStep: true });
        if (result.end === "NO DEBUGGING") {
          throw new Skip("no debugging here");
        }
        const seen: number[] = [];
        for (let i = 0; i < 8 && result.end === "DEBUG"; i++, result = await vcpu.run()) {
          seen.push(result.address);
        }
        const [mov, dec] = [Layout.CODE + 1, code.address("loop")];
        const jne = dec + 2;
        assert.deepEqual(seen, [mov, dec, jne, dec, jne, dec, jne, jne + 6]);
        assert.equal(result.end, "done");
      }),
  },
  {
    name: "breakpoints stop before their instruction, and it runs afterwards",
    skip: ({ hypervisor }) =>
      hypervisor.name === "kvm" && runsOnTcg() ? "QEMU's emulated SVM loads DR7 at VMRUN without arming it" : null,
    run: (subject) =>
      withGuest(subject, async (guest) => {
        const code = guest.load(64, (code) => {
          code.mov("al", 1).out(0x80, "al").label("a").mov("al", 2).out(0x80, "al").label("b").mov("al", 3).out(
            0x80,
            "al",
          );
        });
        const vcpu = await guest.vcpu();
        const addresses = [code.address("a"), code.address("b")];
        const first = await vcpu.run({ state: startState(64), breakpoints: addresses.map(BigInt) });
        if (first.end === "NO DEBUGGING") throw new Skip("no debugging here");
        assert.deepEqual([first.end, first.address, first.log], ["DEBUG", addresses[0], ["out 0x80 01"]]);
        const second = await vcpu.run();
        assert.deepEqual([second.end, second.address, second.log], ["DEBUG", addresses[1], ["out 0x80 02"]]);
        const third = await vcpu.run({ breakpoints: [] });
        assert.deepEqual([third.end, third.log], ["done", [`out 0x80 ${hexOf(3, 1)}`]]);
      }),
  },
];
