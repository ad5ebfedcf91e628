/** Where interrupt numbers lead: KVM_SET_GSI_ROUTING, and eventfds behind them: KVM_IRQFD. */
import type { MessageDescriptor, MessageDescriptors } from "../../core/hypervisor.ts";
import { check, Kvm, KvmStruct, libc } from "./abi.ts";
import { EventFd } from "./eventfd.ts";
import type { SharedState } from "./shared_state.ts";
import { KvmX64 } from "./x64_abi.ts";

const ENTRY = KvmStruct.kvm_irq_routing_entry;

/** A message behind an interrupt number. */
export interface MessageRoute {
  interrupt: number;
  address: number;
  data: number;
}

/**
 * Sets the whole table, which KVM replaces at once: the lines of a PC, and messages.
 * Line 0 (the PIT's) arrives at the IOAPIC's pin 2, as the MADT's interrupt source override says on any PC; KVM's own
 * table has pin 0.
 */
export function setRouting(vmFd: number, messages: readonly MessageRoute[]): void {
  const entries: number[][] = [];
  for (let line = 0; line < KvmX64.IOAPIC_NUM_PINS; line++) {
    const primary = line < 8;
    // Line 2 is the cascade between the 8259s.
    if (line < 16 && line !== 2) {
      const chip = primary ? KvmX64.IRQCHIP_PIC_MASTER : KvmX64.IRQCHIP_PIC_SLAVE;
      entries.push([line, Kvm.IRQ_ROUTING_IRQCHIP, chip, primary ? line : line - 8]);
    }
    entries.push([line, Kvm.IRQ_ROUTING_IRQCHIP, KvmX64.IRQCHIP_IOAPIC, line === 0 ? 2 : line]);
  }
  for (const { interrupt, address, data } of messages) {
    entries.push([interrupt, Kvm.IRQ_ROUTING_MSI, address, 0, data]);
  }
  const words = new Int32Array((KvmStruct.kvm_irq_routing.entries + entries.length * ENTRY.sizeof) / 4);
  words[0] = entries.length;
  entries.forEach(([interrupt, type, ...union], i) => {
    const at = (KvmStruct.kvm_irq_routing.entries + i * ENTRY.sizeof) / 4;
    words.set([interrupt, type], at);
    words.set(union, at + ENTRY["u.msi.address_lo"] / 4);
  });
  check(libc().ioctlBuffer(vmFd, Kvm.SET_GSI_ROUTING, words), "setting where interrupts lead");
}

/** Eventfds that KVM turns into messages by itself. */
export class KvmMessageDescriptors implements MessageDescriptors {
  private readonly vmFd: number;
  private readonly shared: SharedState;

  constructor(vmFd: number, shared: SharedState) {
    this.vmFd = vmFd;
    this.shared = shared;
  }

  create(): MessageDescriptor {
    const { vmFd, shared } = this;
    const interrupt = shared.locked(() => shared.takeRoute());
    if (interrupt < 0) throw new RangeError("too many message descriptors");
    const event = new EventFd();
    const irqfd = (flags: number) => {
      const words = new Int32Array(KvmStruct.kvm_irqfd.sizeof / 4);
      words.set([event.handle.descriptor, interrupt, flags]);
      return libc().ioctlBuffer(vmFd, Kvm.IRQFD, words);
    };
    let closed = false;
    const messageDescriptor: MessageDescriptor = {
      descriptor: event.handle.descriptor,
      route: (address, data) => {
        shared.locked(() => {
          shared.setRoute(interrupt, address, data);
          setRouting(vmFd, shared.messageRoutes());
        });
      },
      ring: () => event.wake(),
      close: () => {
        if (closed) return;
        closed = true;
        if (!shared.closing) irqfd(Kvm.IRQFD_FLAG_DEASSIGN);
        event.close();
        shared.locked(() => shared.freeRoute(interrupt));
      },
    };
    try {
      check(irqfd(0), "tying a descriptor to an interrupt");
    } catch (error) {
      closed = true;
      event.close();
      shared.locked(() => shared.freeRoute(interrupt));
      throw error;
    }
    return messageDescriptor;
  }
}
