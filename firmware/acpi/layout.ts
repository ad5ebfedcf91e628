/** What ACPI tells a guest about a PC, as plain data: the machine builds its devices from the same rows. */

/** A run of addresses or ports. */
export interface AddressRange {
  base: number;
  size: number;
}

/** An ISA interrupt that does not reach the IOAPIC pin of its own number, active-high and edge-triggered. */
export interface InterruptOverride {
  /** ISA interrupt, 0 to 15. */
  irq: number;
  /** Global system interrupt it arrives at. */
  gsi: number;
  trigger: "edge" | "level";
  polarity: "high" | "low";
}

/** A virtio device on the memory-mapped transport (virtio 1.2, section 4.2). */
export interface VirtioMmioSlot extends AddressRange {
  /** Global system interrupt, level-triggered and active-high. */
  gsi: number;
}

/** A PC as its ACPI tables describe it. Ports are I/O ports, addresses guest physical ones. */
export interface PcLayout {
  /** Number of vCPUs: APIC ids 0 to cpus - 1, which are their ACPI processor UIDs too. */
  cpus: number;
  localApicAddress: number;
  ioApic: { id: number; address: number; gsiBase: number };
  overrides: InterruptOverride[];
  /** Global system interrupt of ACPI's own events: level-triggered; `overrides` has a row if it is active-high. */
  sciInterrupt: number;
  /** PM1a event block (4 bytes: status, enable) and control block (2 bytes). SCI_EN reads as set from reset on. */
  pm1EventPort: number;
  pm1ControlPort: number;
  /** SLP_TYP that switches the machine off, 0 to 7. */
  sleepTypeS5: number;
  /** 3.579545 MHz counter of 24 or 32 bits. */
  pmTimer: { port: number; bits: 24 | 32 };
  /** General-purpose event block 0 (status, then enable), or null where the machine has none. */
  gpe0: AddressRange | null;
  /** A byte write of `value` to the port resets the machine. */
  reset: { port: number; value: number };
  /** Index in CMOS of the century in BCD; 0 where there is none. */
  rtcCentury: number;
  rtc: { port: number; irq: number };
  /** 16550A ports; the first is the console of SPCR. */
  serialPorts: { port: number; irq: number }[];
  pci: {
    /** Memory-mapped configuration space: 1 MiB a bus, from bus 0. */
    ecam: AddressRange;
    /** Configuration mechanism 1 (CF8h, 8 ports). */
    configPort: number;
    /** What BARs may be placed in. Windows in memory lie below or above 4 GiB, none across. */
    ioWindows: AddressRange[];
    memoryWindows: AddressRange[];
    /** Pin p (0 is INTA#) of device d is wired to `interrupts[(d + p) % interrupts.length]`: level, active-low. */
    interrupts: number[];
  };
  /** Ports of the platform that no other row names, which the guest must not give to a device. */
  reservedPorts: AddressRange[];
  /** Port of the pvpanic device, or null. */
  pvpanicPort: number | null;
  /** High precision event timer, or null. `id` is its event timer block id (HPET specification 1.0a, 3.2.4). */
  hpet: { address: number; id: number } | null;
  virtioMmio: VirtioMmioSlot[];
}
