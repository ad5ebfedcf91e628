/** What the DSDT says of a PC: its devices and how to switch it off. */
import * as aml from "./aml.ts";
import type { PcLayout } from "./layout.ts";

/** _OSC's UUID for a PCI host bridge (PCI Firmware specification 3.3, section 4.5.1). */
const PCI_HOST_BRIDGE_OSC = "33db4d5b-1ff7-401c-9657-7441c03dd766";

/** The AML of the DSDT. */
export function dsdtAml(layout: PcLayout): aml.Aml {
  return aml.concat(
    aml.name("_S5", aml.packageOf(...[layout.sleepTypeS5, 0, 0, 0].map(aml.integer))),
    aml.scope(
      "_SB",
      ...Array.from({ length: layout.cpus }, (_, index) => processor(index)),
      hostBridge(layout),
      motherboard(layout),
      ...layout.serialPorts.map(serialPort),
      rtc(layout),
      ...(layout.hpet ? [hpet(layout.hpet.address)] : []),
      ...(layout.pvpanicPort === null ? [] : [pvpanic(layout.pvpanicPort)]),
      ...layout.virtioMmio.map((slot, index) =>
        aml.device(
          `VM${hex(index, 2)}`,
          aml.name("_HID", aml.string("LNRO0005")),
          aml.name("_UID", aml.integer(index)),
          aml.name("_CRS", aml.resources(aml.memory32(slot.base, slot.size), aml.interrupt(slot.gsi))),
        )
      ),
    ),
  );
}

function hex(value: number, digits: number): string {
  return value.toString(16).toUpperCase().padStart(digits, "0");
}

function processor(uid: number): aml.Aml {
  return aml.device(
    `C${hex(uid, 3)}`,
    aml.name("_HID", aml.string("ACPI0007")),
    aml.name("_UID", aml.integer(uid)),
  );
}

function hostBridge({ pci }: PcLayout): aml.Aml {
  return aml.device(
    "PCI0",
    aml.name("_HID", aml.eisaId("PNP0A08")),
    aml.name("_CID", aml.eisaId("PNP0A03")),
    aml.name("_UID", aml.integer(0)),
    aml.name("_SEG", aml.integer(0)),
    aml.name("_BBN", aml.integer(0)),
    aml.name(
      "_CRS",
      aml.resources(
        aml.busNumbers(0, pci.ecam.size / 2 ** 20),
        aml.io(pci.configPort, 8),
        ...pci.ioWindows.map(({ base, size }) => aml.ioWindow(base, size)),
        ...pci.memoryWindows.map(({ base, size }) => aml.memoryWindow(base, size)),
      ),
    ),
    aml.name("_PRT", aml.packageOf(...interruptRouting(pci.interrupts))),
    osc(),
  );
}

/** Rows of _PRT (6.2.13): device and pin, wired to a global system interrupt for good (source 0). */
function interruptRouting(gsis: number[]): aml.Aml[] {
  // 128 rows: a package holds up to 255.
  return Array.from({ length: 32 * 4 }, (_, row) => {
    const [device, pin] = [row >> 2, row & 3];
    return aml.packageOf(
      aml.integer(((device << 16) | 0xffff) >>> 0),
      aml.integer(pin),
      aml.integer(0),
      aml.integer(gsis[(device + pin) % gsis.length]),
    );
  });
}

/** _OSC (6.2.11): the guest may control every PCIe feature it asks for; this firmware uses none itself. */
function osc(): aml.Aml {
  const status = aml.nameString("CDW1");
  const UNRECOGNIZED_UUID = 1 << 2;
  const UNRECOGNIZED_REVISION = 1 << 3;
  return aml.method(
    "_OSC",
    4,
    true,
    aml.dwordField(aml.arg(3), 0, "CDW1"),
    aml.when(
      aml.equal(aml.arg(0), aml.uuid(PCI_HOST_BRIDGE_OSC)),
      aml.when(aml.notEqual(aml.arg(1), aml.integer(1)), aml.or(status, aml.integer(UNRECOGNIZED_REVISION), status)),
    ),
    aml.otherwise(aml.or(status, aml.integer(UNRECOGNIZED_UUID), status)),
    aml.returns(aml.arg(3)),
  );
}

/** Motherboard resources: what the guest must leave alone. ECAM has to be reserved here to be used at all. */
function motherboard(layout: PcLayout): aml.Aml {
  const { ecam } = layout.pci;
  const ports = [
    { base: layout.pm1EventPort, size: 4 },
    { base: layout.pm1ControlPort, size: 2 },
    { base: layout.pmTimer.port, size: 4 },
    ...(layout.gpe0 ? [layout.gpe0] : []),
    ...layout.reservedPorts,
  ];
  return aml.device(
    "MBRD",
    aml.name("_HID", aml.eisaId("PNP0C02")),
    aml.name("_UID", aml.integer(0)),
    aml.name(
      "_CRS",
      aml.resources(aml.memory32(ecam.base, ecam.size), ...ports.map(({ base, size }) => aml.io(base, size))),
    ),
  );
}

function serialPort({ port, irq }: { port: number; irq: number }, index: number): aml.Aml {
  return aml.device(
    `COM${index + 1}`,
    aml.name("_HID", aml.eisaId("PNP0501")),
    aml.name("_UID", aml.integer(index + 1)),
    aml.name("_CRS", aml.resources(aml.io(port, 8), aml.irq(irq))),
  );
}

function rtc({ rtc }: PcLayout): aml.Aml {
  return aml.device(
    "RTC",
    aml.name("_HID", aml.eisaId("PNP0B00")),
    aml.name("_CRS", aml.resources(aml.io(rtc.port, 2), aml.irq(rtc.irq))),
  );
}

function hpet(address: number): aml.Aml {
  return aml.device(
    "HPET",
    aml.name("_HID", aml.eisaId("PNP0103")),
    aml.name("_CRS", aml.resources(aml.memory32(address, 0x400))),
  );
}

function pvpanic(port: number): aml.Aml {
  return aml.device(
    "PEVT",
    aml.name("_HID", aml.string("QEMU0001")),
    aml.name("_CRS", aml.resources(aml.io(port, 1))),
  );
}
