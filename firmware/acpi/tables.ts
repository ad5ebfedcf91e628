/** ACPI tables of fixed form (ACPI specification 6.5, section 5.2), one function each. */
import { Fields } from "../fields.ts";
import type { PcLayout } from "./layout.ts";

const OEM_ID = "HV";
const OEM_TABLE_ID = "HVPC";
const CREATOR_ID = "HV";

/** A table being written. */
class TableFields extends Fields {
  ascii(offset: number, length: number, value: string): this {
    this.bytes.set(new TextEncoder().encode(value.padEnd(length)), offset);
    return this;
  }

  /** Generic Address Structure (5.2.3.2). Access sizes: 1 byte, 2 word, 3 dword. */
  address(offset: number, space: 0 | 1, bits: number, access: number, address: number): this {
    return this.u8(offset, space).u8(offset + 1, bits).u8(offset + 3, access).u64(offset + 4, address);
  }
}

const SYSTEM_MEMORY = 0;
const SYSTEM_IO = 1;

/** The value of the byte at `at` that makes the sum of `bytes` zero. */
function setChecksum(bytes: Uint8Array, at: number): void {
  bytes[at] = 0;
  bytes[at] = -bytes.reduce((sum, byte) => sum + byte, 0) & 0xff;
}

/** Length of the header every table but RSDP and FACS begins with (5.2.6). */
export const HEADER_LENGTH = 36;

/** A table: `body` says what follows the header, at offsets from the table's start. */
function table(signature: string, revision: number, length: number, body: (fields: TableFields) => void): Uint8Array {
  const fields = new TableFields(length);
  fields.ascii(0, 4, signature).u32(4, length).u8(8, revision).ascii(10, 6, OEM_ID).ascii(16, 8, OEM_TABLE_ID)
    .u32(24, 1).ascii(28, 4, CREATOR_ID).u32(32, 1);
  body(fields);
  setChecksum(fields.bytes, 9);
  return fields.bytes;
}

/** Root System Description Pointer, revision 2 (5.2.5.3). */
export function rsdp(xsdtAddress: number): Uint8Array {
  const fields = new TableFields(36);
  fields.ascii(0, 8, "RSD PTR ").ascii(9, 6, OEM_ID).u8(15, 2).u32(20, 36).u64(24, xsdtAddress);
  setChecksum(fields.bytes.subarray(0, 20), 8);
  setChecksum(fields.bytes, 32);
  return fields.bytes;
}

/** Extended System Description Table (5.2.8). */
export function xsdt(addresses: number[]): Uint8Array {
  return table("XSDT", 1, HEADER_LENGTH + 8 * addresses.length, (fields) => {
    addresses.forEach((address, index) => fields.u64(HEADER_LENGTH + 8 * index, address));
  });
}

/** Firmware ACPI Control Structure (5.2.10): version 2, must be 64-byte aligned; no waking vector, no lock. */
export function facs(): Uint8Array {
  return new TableFields(64).ascii(0, 4, "FACS").u32(4, 64).u8(32, 2).bytes;
}

/** IA-PC boot architecture (5.2.9.3): ISA devices are there; a keyboard controller and VGA are not. */
const BOOT_ARCHITECTURE = 1 << 0 | 1 << 2;

/**
 * Fixed feature flags (Table 5.10): WBINVD works, C1 works, no sleep button of fixed hardware, the RTC cannot wake by
 * fixed hardware, the reset register works, no screen and keyboard. Clear means: the power button is fixed hardware.
 */
const FEATURES = 1 << 0 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 10 | 1 << 12;
const TIMER_IS_32_BITS = 1 << 8;

/** Fixed ACPI Description Table, 6.3 (5.2.9). ACPI is on from reset: there is no SMI command. */
export function fadt(layout: PcLayout, facsAddress: number, dsdtAddress: number): Uint8Array {
  const { pmTimer, gpe0, reset } = layout;
  return table("FACP", 6, 276, (fields) => {
    fields.u32(36, facsAddress).u32(40, dsdtAddress);
    fields.u16(46, layout.sciInterrupt);
    fields.u32(56, layout.pm1EventPort).u32(64, layout.pm1ControlPort).u32(76, pmTimer.port);
    fields.u8(88, 4).u8(89, 2).u8(91, 4);
    // Worst-case latencies beyond 100 and 1000 us say that there is no C2 and no C3.
    fields.u16(96, 0xfff).u16(98, 0xfff);
    fields.u8(108, layout.rtcCentury).u16(109, BOOT_ARCHITECTURE);
    fields.u32(112, FEATURES | (pmTimer.bits === 32 ? TIMER_IS_32_BITS : 0));
    fields.address(116, SYSTEM_IO, 8, 1, reset.port).u8(128, reset.value);
    fields.u8(131, 3);
    // X_FIRMWARE_CTRL stays 0, since FIRMWARE_CTRL is used (Table 5.9).
    fields.u64(140, dsdtAddress);
    fields.address(148, SYSTEM_IO, 32, 2, layout.pm1EventPort);
    fields.address(172, SYSTEM_IO, 16, 2, layout.pm1ControlPort);
    fields.address(208, SYSTEM_IO, 32, 3, pmTimer.port);
    if (gpe0) {
      fields.u32(80, gpe0.base).u8(92, gpe0.size);
      fields.address(220, SYSTEM_IO, 8 * gpe0.size, 1, gpe0.base);
    }
  });
}

/** Differentiated System Description Table (5.2.11.1) around its AML. Revision 2: integers have 64 bits. */
export function dsdt(aml: Uint8Array): Uint8Array {
  return table("DSDT", 2, HEADER_LENGTH + aml.length, (fields) => fields.bytes.set(aml, HEADER_LENGTH));
}

/** APIC ids from here on need x2APIC entries (5.2.12.2). */
const FIRST_X2APIC_ID = 255;

/** Multiple APIC Description Table (5.2.12). */
export function madt(layout: PcLayout): Uint8Array {
  const { cpus, ioApic, overrides } = layout;
  const entries: Uint8Array[] = [];
  for (let id = 0; id < cpus; id++) {
    entries.push(
      id < FIRST_X2APIC_ID
        ? new TableFields(8).u8(0, 0).u8(1, 8).u8(2, id).u8(3, id).u32(4, 1).bytes
        : new TableFields(16).u8(0, 9).u8(1, 16).u32(4, id).u32(8, 1).u32(12, id).bytes,
    );
  }
  entries.push(
    new TableFields(12).u8(0, 1).u8(1, 12).u8(2, ioApic.id).u32(4, ioApic.address).u32(8, ioApic.gsiBase).bytes,
  );
  for (const { irq, gsi, trigger, polarity } of overrides) {
    // MPS INTI flags (Table 5.26): polarity in bits 0-1, trigger in bits 2-3.
    const flags = (polarity === "high" ? 1 : 3) | (trigger === "edge" ? 1 << 2 : 3 << 2);
    entries.push(new TableFields(10).u8(0, 2).u8(1, 10).u8(3, irq).u32(4, gsi).u16(8, flags).bytes);
  }
  // LINT1 is NMI on all processors; polarity and trigger as the bus has them.
  entries.push(new TableFields(6).u8(0, 4).u8(1, 6).u8(2, 0xff).u8(5, 1).bytes);
  if (cpus > FIRST_X2APIC_ID) entries.push(new TableFields(12).u8(0, 10).u8(1, 12).u32(4, 0xffff_ffff).u8(8, 1).bytes);

  const start = HEADER_LENGTH + 8;
  return table("APIC", 5, start + entries.reduce((length, entry) => length + entry.length, 0), (fields) => {
    // Flags: PCAT_COMPAT, there is a pair of 8259s as well.
    fields.u32(36, layout.localApicAddress).u32(40, 1);
    let at = start;
    for (const entry of entries) {
      fields.bytes.set(entry, at);
      at += entry.length;
    }
  });
}

/** PCI Express memory-mapped configuration (PCI Firmware specification 3.3, section 4.1.2). */
export function mcfg(layout: PcLayout): Uint8Array {
  const { base, size } = layout.pci.ecam;
  return table("MCFG", 1, HEADER_LENGTH + 8 + 16, (fields) => {
    fields.u64(44, base).u8(54, 0).u8(55, size / 2 ** 20 - 1);
  });
}

/** High precision event timer (IA-PC HPET specification 1.0a, section 3.2.4). */
export function hpet(timer: { address: number; id: number }): Uint8Array {
  return table("HPET", 1, 56, (fields) => fields.u32(36, timer.id).address(40, SYSTEM_MEMORY, 64, 0, timer.address));
}

/** Serial Port Console Redirection, revision 2: a 16550A at 115200 baud, 8 bits, no parity, one stop bit. */
export function spcr(port: { port: number; irq: number }): Uint8Array {
  const BAUD_115200 = 7;
  const ISA_AND_IO_APIC = 3;
  const VT_UTF8 = 2;
  return table("SPCR", 2, 80, (fields) => {
    fields.address(40, SYSTEM_IO, 8, 1, port.port);
    fields.u8(52, ISA_AND_IO_APIC).u8(53, port.irq).u32(54, port.irq);
    fields.u8(58, BAUD_115200).u8(60, 1).u8(62, VT_UTF8);
    // No PCI device.
    fields.u16(64, 0xffff).u16(66, 0xffff);
  });
}
