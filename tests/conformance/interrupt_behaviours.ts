/** Interrupts by line and by message, between CPUs, halts, kicks, starting a second vCPU, ends. */
import assert from "node:assert/strict";
import { X64 } from "../../core/x64_state.ts";
import { type Assembler, at } from "./assembler.ts";
import { type Behaviour, runsOnTcg, Skip, withGuest } from "./behaviour.ts";
import { type Guest, Layout, startState } from "./guest.ts";
import { enableApic, LOCAL_APIC, store } from "./local_apic.ts";
import { PROGRESS_PORT, Shared } from "./protocol.ts";

const IO_APIC = 0xfec0_0000;
const { DATA } = Layout;
const KICKS = 1000;
/** target/i386/tcg/sysemu/svm_helper.c, helper_vmrun: int_state, which an exit saves, is not loaded. */
const SHADOWLESS = "QEMU's emulated SVM forgets STI's shadow when it is left in it";

/** Redirection entry of a line (82093AA datasheet, 3.2.4): vector, trigger mode, to APIC 0. */
function route(code: Assembler, line: number, vector: number, level: boolean): void {
  store(code, IO_APIC, 0x10 + line * 2);
  store(code, IO_APIC + 0x10, vector | (level ? 0x8000 : 0));
  store(code, IO_APIC, 0x11 + line * 2);
  store(code, IO_APIC + 0x10, 0);
}

/**
 * An interrupt handler: `body`, end of interrupt, return. One that was called between STI and HLT, which no CPU may do,
 * steps over the HLT: nothing would wake it. QEMU's emulated SVM does it (see {@link SHADOWLESS}).
 */
function handler(guest: Guest, code: Assembler, vector: number, body: (code: Assembler) => void): void {
  guest.setVector(vector, code.here);
  const returnAddress = at({ base: "rsp", displacement: 16, size: 8 });
  code.push("rax").push("rbx").mov("rbx", returnAddress).arithmetic("cmp", at({ base: "rbx", size: 1 }), 0xf4);
  code.jcc("ne", `called-${vector}`).unary("inc", returnAddress).label(`called-${vector}`);
  body(code);
  store(code, LOCAL_APIC + 0xb0, 0);
  code.pop("rbx").pop("rax").iret();
}

/** Says that the guest is ready, then halts with interrupts on until `flag` in DATA is set. */
function haltUntilFlag(code: Assembler): void {
  code.out(PROGRESS_PORT, "al").label("wait").cli().arithmetic("cmp", at({ displacement: DATA, size: 1 }), 0);
  // Interrupts are held off for one instruction after STI: none can come between it and HLT.
  code.jcc("ne", "end").sti().hlt().jmp("wait");
}

function lineBehaviour(level: boolean): Behaviour {
  const times = 3;
  return {
    name: `interrupt by line, ${level ? "level: comes again until the line falls" : "edge: once for each edge"}`,
    run: (subject) =>
      withGuest(subject, async (guest) => {
        guest.load(64, (code) => {
          enableApic(code);
          route(code, 5, 0x45, level);
          haltUntilFlag(code);
          handler(guest, code, 0x45, (code) => {
            code.unary("inc", at({ displacement: DATA + 4, size: 4 }));
            code.arithmetic("cmp", at({ displacement: DATA + 4, size: 4 }), times).jcc("ne", "more");
            code.mov(at({ displacement: DATA, size: 1 }), 1);
            code.label("more").out(PROGRESS_PORT, "al");
            // Level: the third one asks for the line to fall, and is told so by a port read.
            if (level) code.in("al", 0x90);
          });
          code.label("end");
        });
        const vcpu = await guest.vcpu();
        const running = vcpu.run({ state: startState(64) });
        await vcpu.waitFor(Shared.PROGRESS, 1);
        if (level) {
          guest.interrupts.setLine(5, 1);
          await vcpu.waitFor(Shared.PROGRESS, 1 + times);
          guest.interrupts.setLine(5, 0);
        } else {
          for (let i = 0; i < times; i++) {
            guest.interrupts.setLine(5, 1);
            guest.interrupts.setLine(5, 0);
            await vcpu.waitFor(Shared.PROGRESS, 2 + i);
          }
        }
        const { end } = await running;
        assert.equal(end, "done");
        const count = guest.view.getUint32(DATA + 4, true);
        if (level) assert.ok(count >= times, `${count} interrupts`);
        else assert.equal(count, times);
      }),
  };
}

export const interruptBehaviours: Behaviour[] = [
  lineBehaviour(false),
  lineBehaviour(true),
  {
    name: "an interrupt that came while they were off is taken when they are on, with no exit in between",
    run: (subject) =>
      withGuest(subject, async (guest) => {
        guest.load(64, (code) => {
          enableApic(code);
          code.out(PROGRESS_PORT, "al").label("off").arithmetic("cmp", at({ displacement: DATA, size: 1 }), 0);
          code.jcc("e", "off").sti().label("on").arithmetic("cmp", at({ displacement: DATA, size: 1 }), 2);
          code.jcc("ne", "on").cli().jmp("end");
          handler(guest, code, 0x62, (code) => code.mov(at({ displacement: DATA, size: 1 }), 2));
          code.label("end");
        });
        const vcpu = await guest.vcpu();
        const running = vcpu.run({ state: startState(64) });
        await vcpu.waitFor(Shared.PROGRESS, 1);
        guest.interrupts.signalMessage(LOCAL_APIC | 0, 0x62);
        // Time for a vCPU that was kicked out for it to be in the guest again.
        await new Promise((resolve) => setTimeout(resolve, 100));
        guest.view.setUint8(DATA, 1);
        assert.equal((await running).end, "done");
      }),
  },
  {
    name: "an interrupt that waits is taken after the instruction that follows STI",
    skip: ({ hypervisor }) => hypervisor.name !== "soft" && runsOnTcg() ? SHADOWLESS : null,
    run: (subject) =>
      withGuest(subject, async (guest) => {
        const times = 100;
        // Where the handler was called from: once in every round after OUT, which leaves the guest, once after HLT.
        const after: number[] = [];
        guest.load(64, (code) => {
          enableApic(code);
          code.mov("ecx", times).label("next");
          for (const what of ["out", "hlt"]) {
            // ICR (SDM vol. 3, 11.6.1): fixed, to itself. The read behind it waits until it has arrived.
            code.cli();
            store(code, LOCAL_APIC + 0x300, 0x4_4071);
            code.mov("eax", at({ base: "rbx", size: 4 })).sti();
            if (what === "out") code.out(PROGRESS_PORT, "al");
            else code.hlt();
            after.push(code.here);
            code.nop();
          }
          code.unary("dec", "ecx").jcc("ne", "next").jmp("end");
          handler(guest, code, 0x71, (code) => {
            code.mov("rax", at({ base: "rsp", displacement: 16, size: 8 }));
            for (const [i, address] of after.entries()) {
              code.arithmetic("cmp", "rax", address).jcc("ne", `not-${i}`);
              code.unary("inc", at({ displacement: DATA + 4 * i, size: 4 })).label(`not-${i}`);
            }
          });
          code.label("end");
        });
        assert.equal((await (await guest.vcpu()).run({ state: startState(64) })).end, "done");
        assert.deepEqual(after.map((_, i) => guest.view.getUint32(DATA + 4 * i, true)), [times, times]);
      }),
  },
  {
    name: "interrupt by message",
    run: (subject) =>
      withGuest(subject, async (guest) => {
        guest.load(64, (code) => {
          enableApic(code);
          haltUntilFlag(code);
          for (const vector of [0x61, 0x72]) {
            handler(guest, code, vector, (code) => {
              code.mov("al", vector).out(0x80, "al").unary("inc", at({ displacement: DATA + 4, size: 4 }));
              code.arithmetic("cmp", at({ displacement: DATA + 4, size: 4 }), 2).setcc("e", at({ displacement: DATA }));
            });
          }
          code.label("end");
        });
        const vcpu = await guest.vcpu();
        const running = vcpu.run({ state: startState(64) });
        await vcpu.waitFor(Shared.PROGRESS, 1);
        // MSI: fixed delivery to APIC 0 (SDM vol. 3, 11.11).
        guest.interrupts.signalMessage(LOCAL_APIC | 0, 0x61);
        guest.interrupts.signalMessage(LOCAL_APIC | 0, 0x72);
        const { log, end } = await running;
        assert.equal(end, "done");
        // Either order: the first may be taken before the second is sent.
        assert.deepEqual(log.sort(), ["out 0x80 61", "out 0x80 72"]);
      }),
  },
  {
    name: "a message descriptor interrupts the guest by itself, where it was routed",
    run: (subject) =>
      withGuest(subject, async (guest) => {
        const { messageDescriptors } = guest.partition;
        if (!messageDescriptors) throw new Skip("an interrupt takes a call here");
        const [first, second] = [messageDescriptors.create(), messageDescriptors.create()];
        second.route(LOCAL_APIC, 0x72);
        first.route(LOCAL_APIC, 0x61);
        guest.load(64, (code) => {
          enableApic(code);
          haltUntilFlag(code);
          for (const vector of [0x61, 0x72, 0x83]) {
            handler(guest, code, vector, (code) => {
              code.mov("al", vector).out(0x80, "al").out(PROGRESS_PORT, "al");
              code.mov(at({ displacement: DATA, size: 1 }), vector === 0x83 ? 1 : 0);
            });
          }
          code.label("end");
        });
        const vcpu = await guest.vcpu();
        const running = vcpu.run({ state: startState(64) });
        await vcpu.waitFor(Shared.PROGRESS, 1);
        first.ring();
        await vcpu.waitFor(Shared.PROGRESS, 2);
        second.ring();
        await vcpu.waitFor(Shared.PROGRESS, 3);
        first.route(LOCAL_APIC, 0x83);
        first.ring();
        const { log, end } = await running;
        assert.equal(end, "done");
        assert.deepEqual(log, ["out 0x80 61", "out 0x80 72", "out 0x80 83"]);
        first.close();
        second.close();
      }),
  },
  {
    name: "line 0 arrives at the IOAPIC's pin 2, as on any PC",
    run: (subject) =>
      withGuest(subject, async (guest) => {
        guest.load(64, (code) => {
          enableApic(code);
          route(code, 2, 0x42, false);
          haltUntilFlag(code);
          handler(guest, code, 0x42, (code) => code.mov(at({ displacement: DATA, size: 1 }), 1));
          code.label("end");
        });
        const vcpu = await guest.vcpu();
        const running = vcpu.run({ state: startState(64) });
        await vcpu.waitFor(Shared.PROGRESS, 1);
        guest.interrupts.setLine(0, 1);
        guest.interrupts.setLine(0, 0);
        assert.equal((await running).end, "done");
      }),
  },
  {
    name: "the platform's controllers go back to power-on",
    run: (subject) =>
      withGuest(subject, async (guest) => {
        const { partition } = guest;
        if (!partition.resetControllers || !partition.controllers.ioApic) throw new Skip("the machine brings them all");
        const tell = (code: Assembler) => {
          store(code, IO_APIC, 0x10 + 5 * 2).mov("eax", at({ base: "rbx", displacement: 0x10 })).out(0x80, "eax");
        };
        const { log } = await guest.run(64, (code) => {
          route(code, 5, 0x45, true);
          tell(code);
        });
        assert.deepEqual(log, ["out 0x80 45800000"]);
        partition.resetControllers();
        // Masked (82093AA datasheet, 3.2.4).
        assert.deepEqual((await guest.run(64, tell)).log, ["out 0x80 00000100"]);
      }),
  },
  {
    name: "halt with interrupts off: a HALT exit, or a sleep that only a kick ends",
    run: (subject) =>
      withGuest(subject, async (guest) => {
        guest.load(64, (code) => code.out(PROGRESS_PORT, "al").cli().hlt());
        const vcpu = await guest.vcpu();
        const running = vcpu.run({ state: startState(64) });
        await vcpu.waitFor(Shared.PROGRESS, 1);
        if (!guest.partition.controllers.localApic) {
          assert.equal((await running).end, "HALT");
          return;
        }
        await new Promise((resolve) => setTimeout(resolve, 20));
        await vcpu.stop();
        assert.equal((await running).end, "INTERRUPTED");
      }),
  },
  {
    name: `interruptVcpu from another thread while halted: ${KICKS} times, none lost`,
    run: (subject) =>
      withGuest(subject, async (guest) => {
        guest.load(64, (code) => code.out(PROGRESS_PORT, "al").label("wait").sti().hlt().jmp("wait"));
        const vcpu = await guest.vcpu();
        const running = vcpu.run({ state: startState(64) });
        await vcpu.waitFor(Shared.PROGRESS, 1);
        for (let i = 1; i <= KICKS; i++) {
          guest.partition.interruptVcpu(0);
          await vcpu.waitFor(Shared.INTERRUPTED, i);
        }
        await vcpu.stop();
        assert.equal((await running).end, "INTERRUPTED");
      }),
  },
  {
    name: `interruptVcpu from another thread while it computes: ${KICKS} times, none lost`,
    run: (subject) =>
      withGuest(subject, async (guest) => {
        guest.load(64, (code) => code.out(PROGRESS_PORT, "al").label("spin").unary("inc", "eax").jmp("spin"));
        const vcpu = await guest.vcpu();
        const running = vcpu.run({ state: startState(64) });
        await vcpu.waitFor(Shared.PROGRESS, 1);
        for (let i = 1; i <= KICKS; i++) {
          guest.partition.interruptVcpu(0);
          await vcpu.waitFor(Shared.INTERRUPTED, i);
        }
        await vcpu.stop();
        assert.equal((await running).end, "INTERRUPTED");
      }),
  },
  {
    name: `interruptVcpu while it leaves by exits all the time: ${KICKS} times, none lost`,
    run: (subject) =>
      withGuest(subject, async (guest) => {
        guest.load(64, (code) => code.label("spin").out(PROGRESS_PORT, "al").jmp("spin"));
        const vcpu = await guest.vcpu();
        const running = vcpu.run({ state: startState(64) });
        for (let i = 1; i <= KICKS; i++) {
          guest.partition.interruptVcpu(0);
          await vcpu.waitFor(Shared.INTERRUPTED, i);
        }
        await vcpu.stop();
        assert.equal((await running).end, "INTERRUPTED");
      }),
  },
  {
    name: "interruptVcpu before run(): the next run() returns at once, once",
    run: (subject) =>
      withGuest(subject, async (guest) => {
        guest.partition.interruptVcpu(0);
        guest.load(64, (code) => code.mov("al", 7).out(0x80, "al"));
        const vcpu = await guest.vcpu();
        guest.partition.interruptVcpu(0);
        guest.partition.interruptVcpu(0);
        const { log, end } = await vcpu.run({ state: startState(64) });
        assert.equal(end, "done");
        assert.deepEqual(log, ["out 0x80 07"]);
        assert.equal(Atomics.load(vcpu.words, Shared.INTERRUPTED), 1);
      }),
  },
  {
    name: "a kick between a port read and its answer loses neither",
    run: (subject) =>
      withGuest(subject, async (guest) => {
        const reads = 200;
        guest.load(64, (code) => {
          code.mov("ecx", reads).mov("ebx", DATA + 0x100).label("next").in("al", 0x80);
          code.mov(at({ base: "rbx" }), "al").unary("inc", "ebx").out(PROGRESS_PORT, "al");
          code.unary("dec", "ecx").jcc("ne", "next");
        });
        const vcpu = await guest.vcpu();
        const answers = Array.from({ length: reads }, (_, i) => i & 0xff);
        let over = false;
        const running = vcpu.run({ state: startState(64), answers }).then((result) => {
          over = true;
          return result;
        });
        while (!over) {
          guest.partition.interruptVcpu(0);
          await new Promise((resolve) => setTimeout(resolve, 0));
        }
        assert.equal((await running).end, "done");
        assert.deepEqual([...guest.bytes.subarray(DATA + 0x100, DATA + 0x100 + reads)], answers);
      }),
  },
  {
    name: "INIT and SIPI start a second vCPU in real mode",
    run: (subject) =>
      withGuest(subject, async (guest) => {
        guest.load(64, (code) => {
          enableApic(code);
          // ICR (SDM vol. 3, 11.6.1): destination 1, INIT; then start-up with vector AP_CODE >> 12.
          store(code, LOCAL_APIC + 0x310, 1 << 24);
          store(code, LOCAL_APIC + 0x300, 0x4500);
          store(code, LOCAL_APIC + 0x300, 0x4600 | Layout.AP_CODE >> 12);
          code.label("wait").arithmetic("cmp", at({ displacement: DATA, size: 1 }), 0x5a).jcc("ne", "wait");
        });
        guest.load(16, (code) => {
          // mov ax, cs
          code.bytes(0x8c, 0xc8).out(0x80, "ax").mov("al", 0x5a).mov(at({ displacement: DATA }), "al");
        }, Layout.AP_CODE);
        const [first, second] = [await guest.vcpu(0), await guest.vcpu(1)];
        const ap = second.run();
        const bsp = first.run({ state: startState(64) });
        assert.equal((await bsp).end, "done");
        const { log, end } = await ap;
        assert.equal(end, "done");
        assert.deepEqual(log, ["out 0x80 0002"]);
      }, { cpus: 2 }),
  },
  {
    name: "a vCPU that waits for SIPI can be interrupted",
    run: (subject) =>
      withGuest(subject, async (guest) => {
        await guest.vcpu(0);
        const vcpu = await guest.vcpu(1);
        const running = vcpu.run();
        await new Promise((resolve) => setTimeout(resolve, 20));
        await vcpu.stop();
        assert.equal((await running).end, "INTERRUPTED");
      }, { cpus: 2 }),
  },
  {
    name: "one CPU interrupts another that halts",
    run: (subject) =>
      withGuest(subject, async (guest) => {
        const rounds = 100;
        guest.load(64, (code) => {
          enableApic(code);
          code.mov("ecx", rounds).label("next").mov("eax", at({ displacement: DATA + 8 }));
          store(code, LOCAL_APIC + 0x310, 1 << 24);
          store(code, LOCAL_APIC + 0x300, 0x4071);
          code.label("wait").arithmetic("cmp", "eax", at({ displacement: DATA + 8 })).jcc("e", "wait");
          code.unary("dec", "ecx").jcc("ne", "next");
        });
        guest.load(64, (code) => {
          enableApic(code);
          haltUntilFlag(code);
          handler(guest, code, 0x71, (code) => {
            code.unary("inc", at({ displacement: DATA + 8, size: 4 }));
            code.arithmetic("cmp", at({ displacement: DATA + 8, size: 4 }), rounds).jcc("ne", "more");
            code.mov(at({ displacement: DATA, size: 1 }), 1).label("more");
          });
          code.label("end");
        }, Layout.AP_CODE);
        const [first, second] = [await guest.vcpu(0), await guest.vcpu(1)];
        const state = startState(64, 1);
        new DataView(state).setBigUint64(X64.RIP, BigInt(Layout.AP_CODE), true);
        new DataView(state).setBigUint64(X64.GPR + 4 * 8, BigInt(Layout.STACK - 0x1000), true);
        const halting = second.run({ state });
        await second.waitFor(Shared.PROGRESS, 1);
        assert.equal((await first.run({ state: startState(64) })).end, "done");
        assert.equal((await halting).end, "done");
        assert.equal(guest.view.getUint32(DATA + 8, true), rounds);
      }, { cpus: 2 }),
  },
  {
    name: "the local APIC's timer wakes a halted CPU",
    run: (subject) =>
      withGuest(subject, async (guest) => {
        guest.load(64, (code) => {
          enableApic(code);
          // Divide by 1, one-shot, vector 81h (SDM vol. 3, 11.5.4).
          store(code, LOCAL_APIC + 0x3e0, 0xb);
          store(code, LOCAL_APIC + 0x320, 0x81);
          store(code, LOCAL_APIC + 0x380, 1_000_000);
          haltUntilFlag(code);
          handler(guest, code, 0x81, (code) => code.mov(at({ displacement: DATA, size: 1 }), 1));
          code.label("end");
        });
        assert.equal((await (await guest.vcpu()).run({ state: startState(64) })).end, "done");
      }),
  },
  {
    name: "a triple fault is SHUTDOWN",
    run: (subject) =>
      withGuest(subject, async (guest) => {
        const state = startState(64);
        new DataView(state).setUint32(X64.IDTR_LIMIT, 0, true);
        guest.load(64, (code) => code.bytes(0x0f, 0x0b)); // ud2
        assert.equal((await (await guest.vcpu()).run({ state })).end, "SHUTDOWN");
      }),
  },
  {
    name: "a vCPU is closed while it runs",
    run: (subject) =>
      withGuest(subject, async (guest) => {
        guest.load(64, (code) => code.out(PROGRESS_PORT, "al").label("spin").jmp("spin"));
        const vcpu = await guest.vcpu();
        const running = vcpu.run({ state: startState(64) });
        await vcpu.waitFor(Shared.PROGRESS, 1);
        await vcpu.close();
        assert.equal((await running).end, "INTERRUPTED");
        guest.partition.interruptVcpu(0);
      }),
  },
  {
    name: "the partition is closed while a vCPU runs: it leaves, and stays out",
    run: (subject) =>
      withGuest(subject, async (guest) => {
        guest.load(64, (code) => code.out(PROGRESS_PORT, "al").label("spin").jmp("spin"));
        const vcpu = await guest.vcpu();
        const running = vcpu.run({ state: startState(64) });
        await vcpu.waitFor(Shared.PROGRESS, 1);
        Atomics.store(vcpu.words, Shared.STOP, 1);
        guest.partition.close();
        assert.equal((await running).end, "INTERRUPTED");
        assert.equal((await vcpu.run()).end, "INTERRUPTED");
      }),
  },
  {
    name: "what fails is said in words, with registers and instruction bytes",
    skip: ({ hypervisor }) => hypervisor.name === "soft" ? "a CPU of ours runs every instruction" : null,
    run: (subject) =>
      withGuest(subject, async (guest) => {
        // Code in memory I/O: KVM cannot fetch it, and WHPX leaves for it.
        const { end, failure } = await guest.run(64, (code) => {
          code.mov("rbx", 0x1234).mov("rax", Layout.MMIO).bytes(0xff, 0xe0); // jmp rax
        });
        if (end !== "FAILED") throw new Skip(`this host answers with ${end}`);
        const { name } = subject.hypervisor;
        assert.match(failure!.reason, name === "kvm" ? /KVM could not emulate/ : /runs code where there is no memory/);
        assert.equal(failure!.registers.rbx, "1234");
        assert.equal(failure!.registers.rip, Layout.MMIO.toString(16));
      }),
  },
];
