/** The way of an I/O APIC's messages to local APICs that the platform emulates itself. */
import type { Interrupts } from "../core/hypervisor.ts";
import { DeliveryMode, type EndOfInterruptSink, type InterruptMessageBus } from "./apic_bus.ts";

/** Redirection entries as message-signalled interrupts (Intel SDM vol. 3, 11.11.1 and 11.11.2). */
export class PlatformApics implements InterruptMessageBus {
  ioApic: EndOfInterruptSink | null = null;
  private readonly interrupts: Interrupts;

  /** @param interrupts whose `signalMessage` reaches the platform's local APICs */
  constructor(interrupts: Interrupts) {
    this.interrupts = interrupts;
  }

  deliver(destination: number, logical: number, mode: number, vector: number, level: number): boolean {
    // An 8259 behind the I/O APIC is the virtual wire of old: nobody would answer its interrupt acknowledge.
    if (mode === DeliveryMode.EXT_INT || mode === DeliveryMode.SMI) return false;
    const address = 0xfee0_0000 | (destination & 0xff) << 12 | logical << 2;
    // Bit 15 level-triggered, bit 14 asserted.
    this.interrupts.signalMessage(address | 0, vector | mode << 8 | (level !== 0 ? 0xc000 : 0));
    return true;
  }
}
