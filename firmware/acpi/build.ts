/** All ACPI tables of a machine, as one run of bytes for guest memory. */
import { dsdtAml } from "./dsdt.ts";
import type { PcLayout } from "./layout.ts";
import { dsdt, facs, fadt, HEADER_LENGTH, hpet, madt, mcfg, rsdp, spcr, xsdt } from "./tables.ts";

/** What {@link buildAcpi} made. */
export interface AcpiTables {
  /** Belongs at the base address the tables were built for, in memory the guest is told is reserved. */
  bytes: Uint8Array<ArrayBuffer>;
  /** Guest physical address of the RSDP: the base address. */
  rsdpAddress: number;
  /** Where each table lies in {@link bytes}, by signature. */
  tables: Record<string, { offset: number; length: number }>;
}

/**
 * Builds the tables of a PC.
 * @param baseAddress guest physical address they will lie at, below 4 GiB; 64-aligned
 */
export function buildAcpi(layout: PcLayout, baseAddress: number): AcpiTables {
  if (baseAddress % 64 !== 0) throw new RangeError("ACPI tables begin at a multiple of 64: FACS must be aligned");
  const pieces: Uint8Array[] = [];
  const tables: AcpiTables["tables"] = {};
  let end = 0;
  const place = (signature: string, bytes: Uint8Array): number => {
    const offset = Math.ceil(end / 64) * 64;
    tables[signature] = { offset, length: bytes.length };
    pieces.push(bytes);
    end = offset + bytes.length;
    return baseAddress + offset;
  };

  const optional = [
    ...(layout.hpet ? [["HPET", hpet(layout.hpet)] as const] : []),
    ...(layout.serialPorts.length > 0 ? [["SPCR", spcr(layout.serialPorts[0])] as const] : []),
  ];
  // FADT, MADT and MCFG, then the optional ones. RSDP and XSDT come first, so their sizes are needed before.
  const count = 3 + optional.length;
  const rsdpAddress = place("RSDP", new Uint8Array(36));
  const xsdtAddress = place("XSDT", new Uint8Array(HEADER_LENGTH + 8 * count));
  const facsAddress = place("FACS", facs());
  const dsdtAddress = place("DSDT", dsdt(dsdtAml(layout)));
  const addresses = [
    place("FACP", fadt(layout, facsAddress, dsdtAddress)),
    place("APIC", madt(layout)),
    place("MCFG", mcfg(layout)),
    ...optional.map(([signature, bytes]) => place(signature, bytes)),
  ];
  pieces[0] = rsdp(xsdtAddress);
  pieces[1] = xsdt(addresses);

  const bytes = new Uint8Array(end);
  Object.values(tables).forEach(({ offset }, index) => bytes.set(pieces[index], offset));
  return { bytes, rsdpAddress, tables };
}
