/** Where lines and messages go on a machine whose backend brings no I/O APIC. */
import type { InterruptLine } from "../core/device.ts";
import type { Interrupts } from "../core/hypervisor.ts";
import { type IoApic, TIMER_PIN } from "./io_apic.ts";
import type { Pic } from "./pic.ts";

/** {@link Interrupts} over our own 8259s and I/O APIC, and local APICs of ours or of the platform. */
export class InterruptRouter implements Interrupts {
  constructor(
    private readonly pic: Pic,
    private readonly ioApic: IoApic,
    private readonly apics: Pick<Interrupts, "signalMessage">,
  ) {}

  setLine(irq: number, level: number): void {
    if (irq < 16) this.pic.setLine(irq, level);
    this.ioApic.setLine(irq === 0 ? TIMER_PIN : irq, level);
  }

  signalMessage(address: number, data: number): void {
    this.apics.signalMessage(address, data);
  }
}

/** One line of any {@link Interrupts}, as a device's wire. */
export function interruptLine(interrupts: Interrupts, irq: number): InterruptLine {
  return { set: (level) => interrupts.setLine(irq, level) };
}
