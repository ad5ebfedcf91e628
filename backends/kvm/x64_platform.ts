/** What an x86-64 partition has besides memory: interrupt controllers, timers, and vCPUs with their CPUID. */
import type { PartitionConfig, Vcpu } from "../../core/hypervisor.ts";
import { check, Kvm, KvmStruct, libc } from "./abi.ts";
import type { KvmPartition } from "./partition.ts";
import { KvmX64, KvmX64Struct } from "./x64_abi.ts";
import { type CpuidEntry, encodeCpuid, guestCpuid, supportedCpuid } from "./x64_cpuid.ts";
import { setRouting } from "./x64_routing.ts";
import { readMsrIndices } from "./x64_state.ts";
import { KvmX64Vcpu } from "./x64_vcpu.ts";

/**
 * Four pages that VMX needs for real mode (one page table, three of a TSS): below the firmware at the end of 4 GiB and
 * above every device of `machines/pc_map.ts`. Guests must be told that they are reserved.
 */
export const RESERVED_PAGES = 0xfeff_c000;

/** What must be set before the first vCPU. */
export function prepareX64(vmFd: number, config: PartitionConfig): void {
  const { ioctl, ioctlBuffer, ioctlLong } = libc();
  const identityMap = new BigUint64Array([BigInt(RESERVED_PAGES)]);
  check(ioctlBuffer(vmFd, KvmX64.SET_IDENTITY_MAP_ADDR, identityMap), "placing KVM's identity map");
  check(ioctlLong(vmFd, KvmX64.SET_TSS_ADDR, BigInt(RESERVED_PAGES + 0x1000)), "placing KVM's TSS");
  if (config.platformInterruptControllers !== false) {
    check(ioctl(vmFd, KvmX64.CREATE_IRQCHIP, 0), "making the interrupt controllers");
    setRouting(vmFd, []);
    const pit = new Uint32Array(KvmX64Struct.kvm_pit_config.sizeof / 4);
    pit[0] = KvmX64.PIT_SPEAKER_DUMMY; // port 61h with channel 2's gate and output
    check(ioctlBuffer(vmFd, KvmX64.CREATE_PIT2, pit), "making the PIT");
  }
  if (ioctl(vmFd, Kvm.CHECK_EXTENSION, KvmX64.CAP_X86_USER_SPACE_MSR) > 0) {
    const enable = new BigUint64Array(KvmStruct.kvm_enable_cap.sizeof / 8);
    new Uint32Array(enable.buffer)[0] = KvmX64.CAP_X86_USER_SPACE_MSR;
    enable[1] = BigInt(KvmX64.MSR_EXIT_REASON_UNKNOWN);
    check(ioctlBuffer(vmFd, Kvm.ENABLE_CAP, enable), "asking for unknown MSRs");
  }
}

/** IOAPIC, 8259s and PIT, as KVM's structs. */
export interface ControllerState {
  chips: Uint8Array<ArrayBuffer>[];
  pit: Uint8Array<ArrayBuffer>;
}

/** Reads the platform's controllers. */
export function readControllers(vmFd: number): ControllerState {
  const { ioctlBuffer } = libc();
  const chips = [KvmX64.IRQCHIP_PIC_MASTER, KvmX64.IRQCHIP_PIC_SLAVE, KvmX64.IRQCHIP_IOAPIC].map((id) => {
    const chip = new Uint8Array(KvmX64Struct.kvm_irqchip.sizeof);
    chip[KvmX64Struct.kvm_irqchip.chip_id] = id;
    check(ioctlBuffer(vmFd, KvmX64.GET_IRQCHIP, chip), "reading the interrupt controllers");
    return chip;
  });
  const pit = new Uint8Array(KvmX64Struct.kvm_pit_state2.sizeof);
  check(ioctlBuffer(vmFd, KvmX64.GET_PIT2, pit), "reading the PIT");
  return { chips, pit };
}

/** Sets the platform's controllers. */
export function writeControllers(vmFd: number, { chips, pit }: ControllerState): void {
  const { ioctlBuffer } = libc();
  for (const chip of chips) check(ioctlBuffer(vmFd, KvmX64.SET_IRQCHIP, chip), "setting the interrupt controllers");
  check(ioctlBuffer(vmFd, KvmX64.SET_PIT2, pit), "setting the PIT");
}

let cpuid: CpuidEntry[] | null = null;
let msrIndices: number[] | null = null;

/** Makes a vCPU with this host's features. */
export function createX64Vcpu(partition: KvmPartition, index: number): Vcpu {
  cpuid ??= supportedCpuid(partition.kvmFd);
  msrIndices ??= readMsrIndices(partition.kvmFd);
  const { localApic } = partition.controllers;
  const tscDeadline = localApic && partition.extension(KvmX64.CAP_TSC_DEADLINE_TIMER) > 0;
  const entries = guestCpuid(cpuid, index, partition.config.cpus, tscDeadline, localApic);
  return new KvmX64Vcpu(partition, index, encodeCpuid(entries), msrIndices);
}
