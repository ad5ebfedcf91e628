/** How a PC starts: ACPI and SMBIOS tables built from the map, the kernel put into memory, vCPU 0's first state. */
import type { BoardConfig } from "../core/board.ts";
import type { GuestMemory } from "../core/memory.ts";
import { VERSION } from "../core/version.ts";
import { AcpiPmOffset, SLEEP_TYPE_S5 } from "../devices/acpi_pm.ts";
import { buildAcpi } from "../firmware/acpi/build.ts";
import type { PcLayout } from "../firmware/acpi/layout.ts";
import type { Boot } from "../firmware/boot.ts";
import { E820_RESERVED } from "../firmware/e820.ts";
import { identifyKernel } from "../firmware/kernel.ts";
import { prepareLinux } from "../firmware/linux_boot.ts";
import { buildSmbios } from "../firmware/smbios.ts";
import type { BootTables } from "./boot.ts";
import { PcAddress, PCI_IRQS, PcIrq, pciWindow64, PcPort } from "./pc_map.ts";

const HPET_ID = 0x8086_a201;
const CMOS_CENTURY = 0x32;
const RESET_VALUE = 6;
const GPE0_BYTES = 4;

/** As `machines/boot.ts` says of `prepareBoot`. */
export function preparePcBoot(
  boot: Boot,
  memory: GuestMemory,
  board: BoardConfig,
  options: BootTables,
): ArrayBuffer {
  const acpi = buildAcpi(pcLayout(board, memory, options), PcAddress.FIRMWARE_TABLES);
  const smbios = buildSmbios(
    {
      version: VERSION,
      cpus: board.cpus,
      lowMemory: memory.lowSize,
      highMemory: memory.highSize,
      uuid: new Uint8Array(16),
    },
    PcAddress.SMBIOS,
  );
  if (PcAddress.FIRMWARE_TABLES + acpi.bytes.length > PcAddress.SMBIOS) {
    throw new RangeError(`${acpi.bytes.length} bytes of ACPI tables do not fit below SMBIOS`);
  }
  memory.write(PcAddress.FIRMWARE_TABLES, acpi.bytes);
  memory.write(PcAddress.SMBIOS, smbios.bytes);
  return prepareLinux({
    memory,
    kernel: boot.kernel,
    initrd: boot.initrd,
    commandLine: boot.commandLine,
    // As its own kernel unpacks it: as fast there, and without a second copy here. An emulated CPU is slower than we are.
    initrdStaysPacked: options.native,
    way: unpacksItself(boot.kernel, options) ? "bzImage" : undefined,
    rsdpAddress: acpi.rsdpAddress,
    // Linux wants configuration space reserved here too, or does without it until it has read the DSDT.
    e820Reserved: [
      { start: PcAddress.ECAM, size: PcAddress.ECAM_SIZE, type: E820_RESERVED },
      { start: PcAddress.PLATFORM, size: PcAddress.PLATFORM_SIZE, type: E820_RESERVED },
    ],
  }).state;
}

/**
 * Whether a kernel is left to unpack itself. On the CPU itself lz4 is quicker done in the guest: it costs 0.2 G
 * instructions there and no memory of ours. Other packers take a guest far longer than the host.
 */
function unpacksItself(bytes: Uint8Array, { native }: BootTables): boolean {
  if (!native) return false;
  const { setup, compression, bytes: image } = identifyKernel(bytes);
  return setup !== null && setup.entry64 && compression === "lz4" &&
    setup.payloadOffset + setup.payloadLength <= image.length;
}

function pcLayout(board: BoardConfig, memory: GuestMemory, { hpet }: BootTables): PcLayout {
  return {
    cpus: board.cpus,
    localApicAddress: PcAddress.LOCAL_APIC,
    ioApic: { id: 0, address: PcAddress.IO_APIC, gsiBase: 0 },
    overrides: [
      { irq: 0, gsi: 2, trigger: "edge", polarity: "high" },
      { irq: PcIrq.SCI, gsi: PcIrq.SCI, trigger: "level", polarity: "high" },
    ],
    sciInterrupt: PcIrq.SCI,
    pm1EventPort: PcPort.PM1_EVENT + AcpiPmOffset.EVENT,
    pm1ControlPort: PcPort.PM1_EVENT + AcpiPmOffset.CONTROL,
    sleepTypeS5: SLEEP_TYPE_S5,
    pmTimer: { port: PcPort.PM1_EVENT + AcpiPmOffset.TIMER, bits: 32 },
    gpe0: { base: PcPort.PM1_EVENT + AcpiPmOffset.GPE0, size: GPE0_BYTES },
    reset: { port: PcPort.RESET, value: RESET_VALUE },
    rtcCentury: CMOS_CENTURY,
    rtc: { port: PcPort.RTC, irq: PcIrq.RTC },
    serialPorts: [{ port: PcPort.COM1, irq: PcIrq.COM1 }],
    pci: {
      ecam: { base: PcAddress.ECAM, size: PcAddress.ECAM_SIZE },
      configPort: PcPort.PCI_CONFIG,
      ioWindows: [{ base: 0, size: PcPort.PCI_CONFIG }, { base: 0xd00, size: 0xf300 }],
      memoryWindows: [
        { base: PcAddress.PCI_WINDOW, size: PcAddress.PCI_WINDOW_SIZE },
        { base: pciWindow64(memory.highSize), size: PcAddress.PCI_WINDOW_64_SIZE },
      ],
      interrupts: [...PCI_IRQS],
    },
    reservedPorts: [{ base: PcPort.DEBUG_EXIT, size: 4 }],
    pvpanicPort: PcPort.PVPANIC,
    hpet: hpet ? { address: PcAddress.HPET, id: HPET_ID } : null,
    virtioMmio: [],
  };
}
