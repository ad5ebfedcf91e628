/**
 * The x86-64 PC: which devices it has, where they sit and how they are wired. Every Worker builds one over the same
 * register bytes; the order of building is the order of the register blocks.
 */
import type { Blueprint, Board, BoardDisk, DataPlane } from "../core/board.ts";
import { Bus } from "../core/bus.ts";
import { ByteRing } from "../core/byte_ring.ts";
import { type Clock, GuestClock, TSC_FREQUENCY } from "../core/clock.ts";
import { Control, EndReason } from "../core/control.ts";
import {
  GuestPanic,
  type InterruptLine,
  type MachineEvents,
  type Reschedule,
  type TimedDevice,
} from "../core/device.ts";
import type { Interrupts, Partition, Vcpu, Waker } from "../core/hypervisor.ts";
import { GuestMemory } from "../core/memory.ts";
import { RegisterFile } from "../core/registers.ts";
import { AcpiPm } from "../devices/acpi_pm.ts";
import { ApicBus } from "../devices/apic_bus.ts";
import { DebugExit } from "../devices/debug_exit.ts";
import { Hpet } from "../devices/hpet.ts";
import { I8042 } from "../devices/i8042.ts";
import { interruptLine, InterruptRouter } from "../devices/interrupt_router.ts";
import { IoApic } from "../devices/io_apic.ts";
import { LocalApic } from "../devices/local_apic.ts";
import type { AddressWindow } from "../devices/pci/bar.ts";
import { PciBus } from "../devices/pci/bus.ts";
import { ConfigPorts } from "../devices/pci/config_ports.ts";
import { Ecam } from "../devices/pci/ecam.ts";
import { HostBridge } from "../devices/pci/host_bridge.ts";
import { PciWindow } from "../devices/pci/window.ts";
import { Pic } from "../devices/pic.ts";
import { Pit } from "../devices/pit.ts";
import { PlatformApics } from "../devices/platform_apics.ts";
import { PvPanic } from "../devices/pvpanic.ts";
import { RtcCmos } from "../devices/rtc_cmos.ts";
import { Uart16550 } from "../devices/uart_16550.ts";
import { VirtioBalloon } from "../devices/virtio/balloon.ts";
import { VirtioBlock } from "../devices/virtio/block.ts";
import { VirtioConsole } from "../devices/virtio/console.ts";
import type { NotifyDoorbells, VirtioDevice } from "../devices/virtio/device.ts";
import { VirtioPci } from "../devices/virtio/pci_transport.ts";
import { VirtioRng } from "../devices/virtio/rng.ts";
import type { Disk } from "../storage/disk.ts";
import { PcAddress, PCI_IRQS, PcIrq, pciWindow64, PcPort } from "./pc_map.ts";

const FIRST_SLOT = 1;
/** Input of our local APICs' timers, in Hz: what CPUID 15h calls the crystal clock. */
const APIC_TIMER_FREQUENCY = 1_000_000_000;

/** A PC's devices, wired. */
export class Pc implements Board {
  readonly ports = new Bus("port");
  readonly memory = new Bus("memory");
  readonly dataPlanes: DataPlane[] = [];
  readonly timers: TimedDevice[] = [];
  private readonly blueprint: Blueprint;
  private readonly partition: Partition;
  private readonly guestMemory: GuestMemory;
  private readonly file: RegisterFile;
  private readonly clock: Clock;
  private readonly waker: Waker;
  private readonly events: MachineEvents;
  private readonly interrupts: Interrupts;
  private readonly report: (text: string) => void;
  private readonly resettable: { reset(): void }[] = [];
  private readonly windows: AddressWindow[];
  private readonly pci: PciBus;
  private readonly acpi: AcpiPm;
  private readonly uart: Uart16550;
  private readonly virtioConsole: VirtioConsole | null = null;
  private localApics: LocalApic[] = [];
  private apicBus: ApicBus | null = null;
  /** Ours; null where the platform has one. */
  private ioApic: IoApic | null = null;
  private nextSlot = FIRST_SLOT;
  private initialized = false;

  /** @param report told in words what a person should know */
  constructor(blueprint: Blueprint, partition: Partition, report: (text: string) => void) {
    this.blueprint = blueprint;
    this.partition = partition;
    this.report = report;
    const { board } = blueprint;
    this.guestMemory = new GuestMemory(partition.memory(), PcAddress.RAM_HOLE_START);
    this.file = new RegisterFile(blueprint.registers);
    this.clock = new GuestClock(board.epoch);
    this.waker = partition.attachWaker(blueprint.ioWaker);
    this.events = machineEvents(new Control(blueprint.control));
    this.windows = [
      { start: PcAddress.PCI_WINDOW, size: PcAddress.PCI_WINDOW_SIZE },
      { start: pciWindow64(this.guestMemory.highSize), size: PcAddress.PCI_WINDOW_64_SIZE },
    ];
    this.interrupts = partition.controllers.ioApic ? partition.interrupts : this.buildInterruptControllers();
    const reschedule: Reschedule = this.waker;
    const hpet = partition.controllers.pit ? null : this.buildTimers(reschedule);

    const acpi = new AcpiPm(
      this.file.allocate(AcpiPm.WORDS),
      this.line(PcIrq.SCI),
      this.clock,
      reschedule,
      this.events,
    );
    this.acpi = acpi;
    this.ports.map(PcPort.PM1_EVENT, AcpiPm.SIZE, acpi);
    this.timers.push(acpi);

    const rtcLine = hpet ? hpet.legacyLine(this.line(PcIrq.RTC)) : this.line(PcIrq.RTC);
    const rtc = new RtcCmos(this.file.allocate(RtcCmos.WORDS), rtcLine, this.clock, reschedule);
    this.ports.map(PcPort.RTC, 2, rtc);
    this.timers.push(rtc);

    const i8042 = new I8042(this.file.allocate(I8042.WORDS), this.events);
    this.ports.map(PcPort.I8042_DATA, 1, i8042.data);
    this.ports.map(PcPort.I8042_COMMAND, 1, i8042.command);

    const input = new ByteRing(blueprint.consoleInput);
    const output = new ByteRing(blueprint.consoleOutput);
    const serial = board.console === "serial";
    this.uart = new Uart16550(this.file.allocate(Uart16550.WORDS), this.line(PcIrq.COM1), input, output);
    this.ports.map(PcPort.COM1, 8, this.uart);

    this.ports.map(PcPort.PVPANIC, 1, new PvPanic(this.file.allocate(PvPanic.WORDS), this.events));
    this.ports.map(PcPort.DEBUG_EXIT, 4, new DebugExit(this.file.allocate(DebugExit.WORDS), this.events));
    this.resettable.push(acpi, rtc, i8042, this.uart);

    this.pci = new PciBus(this.file, {
      sink: this.interrupts,
      lines: PCI_IRQS.map((number) => ({ line: this.line(number), number })),
    });
    new HostBridge(this.file, this.pci);
    board.disks.forEach((disk, index) => this.addDisk(disk, index));
    if (!serial) this.virtioConsole = this.addConsole(input, output);
    this.addRng();
    this.addBalloon();
    const configPorts = new ConfigPorts(this.file, this.pci, { reset: () => this.events.reset() });
    this.ports.map(PcPort.PCI_CONFIG, ConfigPorts.PORTS, configPorts);
    this.memory.map(PcAddress.ECAM, PcAddress.ECAM_SIZE, new Ecam(this.file, this.pci));
    for (const window of this.windows) {
      this.memory.map(window.start, window.size, new PciWindow(this.pci, window.start));
    }
    this.resettable.push(configPorts);
  }

  attachVcpu(vcpu: Vcpu): void {
    if (this.ioApic && !this.apicBus) vcpu.attachIoApic!(this.ioApic);
    if (!this.apicBus) return;
    const apic = this.localApics[vcpu.index];
    this.apicBus.ownCpu = vcpu.index;
    this.memory.map(PcAddress.LOCAL_APIC, 0x1000, apic);
    vcpu.attachLocalApic(apic);
  }

  reset(): void {
    for (const device of this.resettable) device.reset();
    if (this.initialized) this.pci.reset();
    else this.pci.initialize();
    this.initialized = true;
    this.pci.assignBars(this.windows);
  }

  consoleInput(): void {
    if (this.virtioConsole) this.waker.wake();
    this.uart.registers.lock();
    this.uart.receive();
    this.uart.registers.unlock();
  }

  consoleDrained(): void {
    this.uart.registers.lock();
    this.uart.drained();
    this.uart.registers.unlock();
    this.virtioConsole?.drained();
  }

  consoleResize(columns: number, rows: number): void {
    this.virtioConsole?.resize(columns, rows);
  }

  powerButton(): void {
    this.acpi.registers.lock();
    this.acpi.pressPowerButton();
    this.acpi.registers.unlock();
  }

  private line(irq: number): InterruptLine {
    return interruptLine(this.interrupts, irq);
  }

  /** Ours: 8259s and I/O APIC, and for a CPU that brings none a local APIC for each vCPU. */
  private buildInterruptControllers(): Interrupts {
    const { partition, file } = this;
    const platformApics = partition.controllers.localApic;
    const bus = platformApics ? null : new ApicBus((index) => partition.interruptVcpu(index));
    this.apicBus = bus;
    // A platform's local APIC has no wire from an 8259 of ours: such a guest takes its interrupts by the I/O APIC.
    const pic = new Pic(file.allocate(Pic.WORDS), { set: (level) => bus?.setIntr(level) });
    if (bus) bus.pic = pic;
    const ioApic = new IoApic(file.allocate(IoApic.WORDS), bus ?? new PlatformApics(partition.interrupts));
    this.ioApic = ioApic;
    for (let cpu = 0; bus && cpu < this.blueprint.board.cpus; cpu++) {
      const frequencies = { tsc: TSC_FREQUENCY, timer: APIC_TIMER_FREQUENCY };
      this.localApics.push(new LocalApic(file.allocate(LocalApic.WORDS), cpu, bus, this.clock, frequencies));
    }
    this.ports.map(PcPort.PIC_PRIMARY, 2, pic.primary);
    this.ports.map(PcPort.PIC_SECONDARY, 2, pic.secondary);
    this.ports.map(PcPort.PIC_ELCR, 2, pic.elcr);
    this.memory.map(PcAddress.IO_APIC, IoApic.SIZE, ioApic);
    this.resettable.push(pic, ioApic, ...this.localApics);
    return new InterruptRouter(pic, ioApic, bus ?? partition.interrupts);
  }

  /** Ours, for a platform without: 8254 and HPET, whose legacy mode takes the lines of 8254 and clock. */
  private buildTimers(reschedule: Reschedule): Hpet {
    const hpet = new Hpet(this.file.allocate(Hpet.WORDS), this.interrupts, this.clock, reschedule);
    this.memory.map(PcAddress.HPET, Hpet.SIZE, hpet);
    const line = hpet.legacyLine(this.line(PcIrq.PIT));
    const pit = new Pit(this.file.allocate(Pit.WORDS), line, this.clock, reschedule);
    this.ports.map(PcPort.PIT, 4, pit);
    this.ports.map(PcPort.PIT_CONTROL, 1, pit.control);
    this.timers.push(hpet, pit);
    this.resettable.push(hpet, pit);
    return hpet;
  }

  private addVirtio(device: VirtioDevice): void {
    new VirtioPci(this.file, this.pci, device, { slot: this.nextSlot++, doorbells: this.doorbells() });
  }

  /** Guest notifications that ring the I/O Worker's waker by themselves, where the platform can. */
  private doorbells(): NotifyDoorbells | null {
    const { doorbells } = this.partition;
    if (!doorbells) return null;
    return {
      add: (address) => doorbells.add(address, 0, -1, this.waker),
      remove: (address) => doorbells.remove(address, 0, -1, this.waker),
    };
  }

  private get wake(): () => void {
    return () => this.waker.wake();
  }

  private addDisk(disk: BoardDisk, index: number): void {
    const block = new VirtioBlock(this.file, {
      wake: this.wake,
      capacity: disk.size,
      readonly: disk.readonly === true,
      discardable: disk.discardable,
      serial: `hv-disk${index}`,
      queues: Math.min(this.blueprint.board.cpus, 4),
    });
    this.addVirtio(block);
    let opened: Disk | null = null;
    this.dataPlanes.push({
      open: (openDisk) => {
        opened = openDisk(disk);
        block.attach({ memory: this.guestMemory, report: this.report, disk: opened });
      },
      service: () => block.service(),
      close: () => {
        if (opened && !opened.readonly) opened.flush();
        opened?.close();
      },
    });
  }

  private addConsole(input: ByteRing, output: ByteRing): VirtioConsole {
    const device = new VirtioConsole(this.file, {
      wake: this.wake,
      columns: 80,
      rows: 24,
      opened: (open) => this.plugUart(!open),
    });
    this.addVirtio(device);
    this.addPlane(device, () => device.attach({ ...this.planeWires(), input, output }));
    return device;
  }

  /** The terminal is COM1's while the guest's driver has not opened the virtio console: nothing is shown or typed twice. */
  private plugUart(plugged: boolean): void {
    this.uart.registers.lock();
    this.uart.plug(plugged);
    this.uart.registers.unlock();
  }

  private addRng(): void {
    const device = new VirtioRng(this.file, { wake: this.wake });
    this.addVirtio(device);
    this.addPlane(device, () => device.attach(this.planeWires()));
  }

  private addBalloon(): void {
    const device = new VirtioBalloon(this.file, { wake: this.wake });
    this.addVirtio(device);
    this.addPlane(
      device,
      () =>
        device.attach({
          ...this.planeWires(),
          release: (offset, length) => this.partition.releaseMemory?.(offset, length),
        }),
    );
  }

  private planeWires() {
    return { memory: this.guestMemory, report: this.report };
  }

  private addPlane(device: VirtioDevice, open: () => void): void {
    this.dataPlanes.push({ open, service: () => device.service(), close: () => {} });
  }
}

function machineEvents(control: Control): MachineEvents {
  return {
    powerOff: () => control.end(EndReason.POWER_OFF),
    reset: () => control.end(EndReason.RESET),
    // A crash kernel that takes over goes on: the machine is not at its end.
    panic: (kind) => {
      if (kind === GuestPanic.PANICKED) control.end(EndReason.PANIC);
    },
    exit: (code) => control.end(EndReason.EXIT, code),
  };
}
