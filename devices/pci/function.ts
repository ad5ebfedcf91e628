/** What every PCI function has: configuration space, BARs, a PCI Express and a power management capability. */
import type { BusDevice } from "../../core/device.ts";
import type { RegisterFile } from "../../core/registers.ts";
import { Bar } from "./bar.ts";
import type { PciBus } from "./bus.ts";
import { Command, ConfigSpace, Header } from "./config_space.ts";
import type { IntxSource } from "./intx.ts";
import { Msix } from "./msix.ts";

/** What a function says it is. */
export interface FunctionIdentity {
  vendor: number;
  device: number;
  revision: number;
  /** Base class, sub-class and programming interface: 24 bits. */
  classCode: number;
  subsystemVendor: number;
  subsystem: number;
}

const POWER_MANAGEMENT = 0x01;
const PCI_EXPRESS = 0x10;

/** One function on bus 0. Register blocks: configuration space, then MSI-X where there is one. */
export class PciFunction implements IntxSource {
  readonly config: ConfigSpace;
  readonly slot: number;
  readonly bars: Bar[] = [];
  msix: Msix | null = null;
  protected readonly bus: PciBus;

  constructor(file: RegisterFile, bus: PciBus, slot: number, identity: FunctionIdentity) {
    this.bus = bus;
    this.slot = slot;
    const config = new ConfigSpace(file);
    this.config = config;
    config.define(Header.ID, identity.vendor | (identity.device << 16));
    config.define(Header.CLASS, identity.revision | (identity.classCode << 8));
    config.define(Header.SUBSYSTEM, identity.subsystemVendor | (identity.subsystem << 16));
    // 7.5.3: version 2, root complex integrated endpoint (9); role-based error reporting; 512-byte read requests.
    // Such a function has no link, slot or root registers.
    const deviceControl = 0x000f | (1 << 4) | (1 << 11) | (7 << 12);
    config.addCapability(
      PCI_EXPRESS,
      [(2 | (9 << 4)) << 16, 1 << 15, (1 << 4) | (1 << 11) | (2 << 12), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
      [0, 0, deviceControl],
    );
    // 7.5.2: version 3, D0 and D3hot, no reset on the way back.
    config.addCapability(POWER_MANAGEMENT, [3 << 16, 1 << 3], [0, 3]);
    bus.add(this);
  }

  /** Puts a device behind a memory BAR. */
  protected addBar(index: number, size: number, wide: boolean, device: BusDevice): Bar {
    const bar = new Bar(this.config, index, size, wide, device);
    this.bars.push(bar);
    this.bus.addBar(bar);
    return bar;
  }

  /** Gives the function MSI-X, behind a BAR of its own. */
  protected addMsix(file: RegisterFile, bar: number, vectors: number): Msix {
    this.msix = new Msix(file, this.config, bar, vectors, this.bus.sink);
    this.addBar(bar, Msix.BAR_BYTES, true, this.msix);
    return this.msix;
  }

  /** Gives the function INTA. */
  protected addIntx(): void {
    // 7.5.1.1.13: the line register is the firmware's to fill; it routes nothing.
    this.config.define(Header.INTERRUPT, (1 << 8) | (this.bus.lineNumber(this.slot) & 0xff), 0xff);
  }

  /** Once, before any Worker runs. */
  initialize(): void {
    this.reset();
  }

  /** As power-on leaves it. */
  reset(): void {
    this.config.reset();
    this.msix?.reset();
    this.decodeChanged();
    this.updateIntx();
  }

  /** Reads a word of the configuration space; the lock of `config.registers` is held. */
  readConfig(offset: number): number {
    const word = this.config.read(offset);
    return (offset & ~3) === Header.COMMAND && this.intxPending() ? word | Command.STATUS_INTERRUPT : word;
  }

  /** Writes to one word of it, where `lanes` has ones; the lock of `config.registers` is held. */
  writeConfig(offset: number, value: number, lanes: number): void {
    this.config.write(offset, value, lanes);
    const at = offset & ~3;
    if (at === Header.COMMAND || (at >= Header.BAR && at < Header.BAR + 24)) this.decodeChanged();
    if (at === Header.COMMAND) this.updateIntx();
    if (this.msix?.isControl(at)) {
      this.msix.controlWritten();
      this.updateIntx();
    }
  }

  /** Called after the guest may have moved, enabled or disabled a BAR. */
  decodeChanged(): void {}

  /** Whether the function wants its INTx line, were it allowed to have it. */
  protected intxPending(): boolean {
    return false;
  }

  intxAsserted(): boolean {
    return (this.config.word(Header.COMMAND) & Command.INTX_DISABLE) === 0 && !this.msix?.enabled && this.intxPending();
  }

  /** Drives the INTx line anew; any thread. */
  protected updateIntx(): void {
    this.bus.updateIntx(this.slot, this);
  }
}
