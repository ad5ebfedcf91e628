/** The interrupt controllers of `devices/`, for a partition that has none of its own, or no I/O APIC. */
import { Bus } from "../../core/bus.ts";
import { GuestClock, TSC_FREQUENCY } from "../../core/clock.ts";
import type { Interrupts, Partition } from "../../core/hypervisor.ts";
import { RegisterFile } from "../../core/registers.ts";
import { ApicBus } from "../../devices/apic_bus.ts";
import { InterruptRouter } from "../../devices/interrupt_router.ts";
import { IoApic } from "../../devices/io_apic.ts";
import { LocalApic } from "../../devices/local_apic.ts";
import { Pic } from "../../devices/pic.ts";
import { PlatformApics } from "../../devices/platform_apics.ts";

/** Addresses from here up are answered by {@link Controllers.bus}. */
export const CONTROLLERS_START = 0xfec0_0000;

/** One Worker's view of them. */
export interface Controllers {
  bus: Bus;
  interrupts: Interrupts;
  /** Empty where the platform has them. */
  apics: LocalApic[];
  ioApic: IoApic;
  pic: Pic;
}

/** Builds them over shared registers, the same in every Worker. */
export function buildControllers(
  partition: Partition,
  cpus: number,
  registers: WebAssembly.Memory,
  ownCpu: number,
): Controllers {
  const file = new RegisterFile(registers);
  const bus = new Bus("memory");
  if (partition.controllers.localApic) {
    const ioApic = new IoApic(file.allocate(IoApic.WORDS), new PlatformApics(partition.interrupts));
    const pic = new Pic(file.allocate(Pic.WORDS), { set: () => {} });
    bus.map(CONTROLLERS_START, IoApic.SIZE, ioApic);
    return { bus, interrupts: new InterruptRouter(pic, ioApic, partition.interrupts), apics: [], ioApic, pic };
  }
  const apicBus = new ApicBus((index) => partition.interruptVcpu(index));
  apicBus.ownCpu = ownCpu;
  const clock = new GuestClock(partition.handle().config.epoch!);
  const apics: LocalApic[] = [];
  for (let i = 0; i < cpus; i++) {
    apics.push(
      new LocalApic(file.allocate(LocalApic.WORDS), i, apicBus, clock, { tsc: TSC_FREQUENCY, timer: TSC_FREQUENCY }),
    );
  }
  const ioApic = new IoApic(file.allocate(IoApic.WORDS), apicBus);
  const pic = new Pic(file.allocate(Pic.WORDS), { set: (level) => apicBus.setIntr(level) });
  apicBus.pic = pic;
  bus.map(CONTROLLERS_START, IoApic.SIZE, ioApic);
  if (ownCpu >= 0) bus.map(0xfee0_0000, 4096, apics[ownCpu]);
  return { bus, interrupts: new InterruptRouter(pic, ioApic, apicBus), apics, ioApic, pic };
}
