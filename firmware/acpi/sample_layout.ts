/** A PC for tests of the tables. */
import type { PcLayout } from "./layout.ts";

/** Everything a layout can have, with four processors. */
export const SAMPLE: PcLayout = {
  cpus: 4,
  localApicAddress: 0xfee0_0000,
  ioApic: { id: 0, address: 0xfec0_0000, gsiBase: 0 },
  overrides: [
    { irq: 0, gsi: 2, trigger: "edge", polarity: "high" },
    { irq: 9, gsi: 9, trigger: "level", polarity: "high" },
  ],
  sciInterrupt: 9,
  pm1EventPort: 0x600,
  pm1ControlPort: 0x604,
  sleepTypeS5: 5,
  pmTimer: { port: 0x608, bits: 32 },
  gpe0: { base: 0x620, size: 16 },
  reset: { port: 0xcf9, value: 6 },
  rtcCentury: 0x32,
  rtc: { port: 0x70, irq: 8 },
  serialPorts: [{ port: 0x3f8, irq: 4 }],
  pci: {
    ecam: { base: 0xe000_0000, size: 0x1000_0000 },
    configPort: 0xcf8,
    ioWindows: [{ base: 0, size: 0xcf8 }, { base: 0xd00, size: 0xf300 }],
    memoryWindows: [{ base: 0xc000_0000, size: 0x2000_0000 }, { base: 0x80_0000_0000, size: 0x8_0000_0000 }],
    interrupts: [16, 17, 18, 19],
  },
  reservedPorts: [{ base: 0xf4, size: 4 }],
  pvpanicPort: 0x505,
  hpet: { address: 0xfed0_0000, id: 0x8086_a201 },
  virtioMmio: [
    { base: 0xfeb0_0000, size: 0x200, gsi: 20 },
    { base: 0xfeb0_0200, size: 0x200, gsi: 21 },
  ],
};
