/** Where things are on the x86-64 PC: the one table that devices, ACPI and loaders are built from. */

/** Guest physical addresses. */
export const PcAddress = {
  /** RAM ends here below 4 GiB; what is left of it begins at 4 GiB. */
  RAM_HOLE_START: 0xc000_0000,
  /** 32-bit window for PCI BARs. */
  PCI_WINDOW: 0xc000_0000,
  PCI_WINDOW_SIZE: 0x2000_0000,
  /**
   * Memory-mapped configuration space of bus 0, the only one. For each further bus it offered, Linux would probe 32
   * slots by port (pcibios_fixup_peer_bridges): with 256 buses more than half of all exits of a boot.
   */
  ECAM: 0xe000_0000,
  ECAM_SIZE: 0x10_0000,
  IO_APIC: 0xfec0_0000,
  HPET: 0xfed0_0000,
  LOCAL_APIC: 0xfee0_0000,
  /** Pages a platform keeps for itself: KVM on Intel needs four (KVM_SET_TSS_ADDR, KVM_SET_IDENTITY_MAP_ADDR). */
  PLATFORM: 0xfeff_c000,
  PLATFORM_SIZE: 0x4000,
  /** Bytes of the 64-bit window for PCI BARs, which begins above all RAM. */
  PCI_WINDOW_64_SIZE: 0x4000_0000,
  /** ACPI tables: in the BIOS area, where old kernels look too. */
  FIRMWARE_TABLES: 0xe_0000,
  /** Where a guest without UEFI looks for the SMBIOS entry point (SMBIOS 3.4, 5.2.2). */
  SMBIOS: 0xf_0000,
} as const;

/** I/O ports. */
export const PcPort = {
  PIC_PRIMARY: 0x20,
  PIC_SECONDARY: 0xa0,
  PIC_ELCR: 0x4d0,
  PIT: 0x40,
  PIT_CONTROL: 0x61,
  I8042_DATA: 0x60,
  I8042_COMMAND: 0x64,
  RTC: 0x70,
  COM1: 0x3f8,
  DEBUG_EXIT: 0xf4,
  PVPANIC: 0x505,
  PM1_EVENT: 0x600,
  PCI_CONFIG: 0xcf8,
  RESET: 0xcf9,
} as const;

/** Interrupt lines (global system interrupts). */
export const PcIrq = { PIT: 0, COM1: 4, RTC: 8, SCI: 9 } as const;

/** Lines of the IOAPIC that INTA..INTD of the PCI bus end at. */
export const PCI_IRQS: readonly number[] = [16, 17, 18, 19];

/**
 * Where the 64-bit window for PCI BARs begins.
 * @param highSize bytes of RAM from 4 GiB on
 */
export function pciWindow64(highSize: number): number {
  const alignment = PcAddress.PCI_WINDOW_64_SIZE;
  return Math.ceil((0x1_0000_0000 + highSize) / alignment) * alignment;
}
