/**
 * CPUID that leaves the guest, what a guest finds of Hyper-V (nothing), and a platform without x2APICs. For shims only:
 * see `ShimOfferCpuidExits`.
 */
import { shimPath } from "../../../backends/whpx/abi.ts";
import { whpx } from "../../../backends/whpx/hypervisor.ts";
import { X64 } from "../../../core/x64_state.ts";
import { type Assembler, at } from "../../conformance/assembler.ts";
import { MODES, withGuest } from "../../conformance/behaviour.ts";
import { endWorkers, type Guest, Layout, startState } from "../../conformance/guest.ts";

const { DATA } = Layout;
const ECX_X2APIC = 1 << 21;
const ECX_TSC_DEADLINE = 1 << 24;
const ECX_HYPERVISOR = 1 << 31;
const EDX_APIC = 1 << 9;
/** "Microsoft Hypervisor Top Level Functional Specification", 2.3, 12.5, 12.6: what Linux asks for first. */
const HYPERV_MSRS = { guestOsId: 0x4000_0000, hypercall: 0x4000_0001, referenceTsc: 0x4000_0021, tscHz: 0x4000_0022 };

/** Told of each check: its name, what was found, what should have been. */
export type Expect = (name: string, found: number, wanted: number) => void;

function askCpuid(code: Assembler, leaf: number): void {
  code.mov("eax", leaf).mov("ecx", 0).cpuid();
  for (const [i, name] of ["eax", "ebx", "ecx", "edx"].entries()) code.mov(at({ displacement: DATA + i * 4 }), name);
}

async function cpuid(guest: Guest, bits: 16 | 32 | 64, leaf: number): Promise<number[]> {
  const { end } = await guest.run(bits, (code) => askCpuid(code, leaf));
  if (end !== "done") return [];
  return [0, 1, 2, 3].map((i) => guest.view.getInt32(DATA + i * 4, true));
}

/** Runs them all; call it after whatever wants a platform without such exits. */
export async function cpuidExits(expect: Expect): Promise<void> {
  const shim = Deno.dlopen(shimPath()!, {
    ShimOfferCpuidExits: { parameters: [], result: "i32" },
    ShimRefuseX2Apic: { parameters: [], result: "i32" },
  });
  expect("the shim's offer", shim.symbols.ShimOfferCpuidExits(), 0);
  const subject = { name: "whpx", hypervisor: whpx, ownControllers: false, pvm: false };
  await withGuest(subject, async (guest) => {
    const vcpu = await guest.vcpu();
    for (const bits of MODES) {
      const [, , ecx, edx] = await cpuid(guest, bits, 1);
      expect(`${bits}-bit code: the local APIC is an xAPIC`, ecx & (ECX_X2APIC | ECX_TSC_DEADLINE), 0);
      expect(`${bits}-bit code: it is there`, edx & EDX_APIC, EDX_APIC);
      expect(`${bits}-bit code: there is a hypervisor`, ecx & ECX_HYPERVISOR, ECX_HYPERVISOR);
      const vendor = await cpuid(guest, bits, 0);
      expect(`${bits}-bit code: other leaves do not leave`, Number(vendor[0] > 0 && vendor[1] !== 0), 1);
    }
    // The upper halves are cleared; CPUID is one instruction, and one step.
    const code = guest.load(64, (code) => code.mov("rax", 0x5_0000_0001n).mov("rbx", -1).cpuid().label("after").nop());
    let result = await vcpu.run({ state: startState(64), singleStep: true });
    const stops = [];
    for (; result.end === "DEBUG" && stops.length < 4; result = await vcpu.run({ wantState: true })) {
      stops.push(result.address);
    }
    expect("single steps over it", stops.indexOf(code.address("after")), 2);
    const view = new DataView(result.state!);
    for (let i = 0; i < 4; i++) expect(`upper half of register ${i}`, view.getUint32(X64.GPR + i * 8 + 4, true), 0);
  });
  await withGuest({ ...subject, ownControllers: true }, async (guest) => {
    const [, , ecx] = await cpuid(guest, 64, 1);
    expect("the platform's local APIC is an x2APIC", ecx & ECX_X2APIC, ECX_X2APIC);
    const [highest, ...letters] = await cpuid(guest, 64, 0x4000_0000);
    expect("the highest hypervisor leaf", highest, 0x4000_0001);
    const signature = new TextDecoder().decode(new Uint8Array(Int32Array.from(letters).buffer));
    expect(`its signature, ${signature}`, Number(signature === "KVMKVMKVM\0\0\0"), 1);
    const features = await cpuid(guest, 64, 0x4000_0001);
    expect("no feature, no hint", features.reduce((all, value) => all | value, 0), 0);
    for (const [name, index] of Object.entries(HYPERV_MSRS)) {
      const { log } = await guest.run(64, (code) => {
        code.lidt({ displacement: DATA }).mov("ecx", index).rdmsr().jmp("end");
        code.label("gp").mov("al", 13).out(0x81, "al").label("end");
        guest.view.setUint16(DATA, 0xfff, true);
        guest.view.setBigUint64(DATA + 2, BigInt(Layout.IDT), true);
        guest.setVector(13, code.address("gp"));
      }, { msrFault: true });
      expect(`Hyper-V's MSR ${name} is #GP`, Number(log.at(-1) === "out 0x81 0d"), 1);
    }
  });
  expect("the shim's refusal", shim.symbols.ShimRefuseX2Apic(), 0);
  await withGuest({ ...subject, ownControllers: true }, async (guest) => {
    expect("without x2APIC the local APIC is still the platform's", Number(guest.partition.controllers.localApic), 1);
    const [, , ecx, edx] = await cpuid(guest, 64, 1);
    expect("an xAPIC", ecx & ECX_X2APIC, 0);
    expect("which is there", edx & EDX_APIC, EDX_APIC);
  });
  endWorkers();
}
