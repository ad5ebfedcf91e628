/**
 * The way of interrupt messages between I/O APIC, message-signalled devices and local APICs (Intel SDM vol. 3, 11.6.2:
 * which local APICs a destination means). It remembers nothing; every Worker has its own over the same local APICs.
 */
import type { LocalApic } from "./local_apic.ts";

/** Delivery modes of ICR, redirection entries and message data (SDM vol. 3, 11.6.1 and 11.11.2). */
export const DeliveryMode = { FIXED: 0, LOWEST_PRIORITY: 1, SMI: 2, NMI: 4, INIT: 5, STARTUP: 6, EXT_INT: 7 } as const;

/** The 8259 as a CPU's INTA cycle sees it. */
export interface InterruptAcknowledger {
  /** Vector of the interrupt now in service, or -1 when the request went away. */
  acknowledge(): number;
}

/** Who is told that a level-triggered interrupt was finished: the I/O APIC. */
export interface EndOfInterruptSink {
  endOfInterrupt(vector: number): void;
}

/** Where an I/O APIC's messages go. */
export interface InterruptMessageBus {
  /** Set by the I/O APIC when it is made. */
  ioApic: EndOfInterruptSink | null;
  /** See {@link ApicBus.deliver}. */
  deliver(destination: number, logical: number, mode: number, vector: number, level: number): boolean;
}

/** All local APICs of a machine, by CPU index. */
export class ApicBus implements InterruptMessageBus {
  readonly apics: LocalApic[] = [];
  /** The CPU whose thread this is: what is sent to it needs no kick. -1 in other threads. */
  ownCpu = -1;
  /** Wired by the machine; null where it has none. */
  pic: InterruptAcknowledger | null = null;
  ioApic: EndOfInterruptSink | null = null;
  private readonly kick: (index: number) => void;

  /** @param kick makes that CPU leave the guest's code soon and look at its local APIC; callable from any thread */
  constructor(kick: (index: number) => void) {
    this.kick = kick;
  }

  /** Called by each {@link LocalApic} when it is made, in the order of CPU indices. */
  attach(apic: LocalApic): void {
    this.apics[apic.index] = apic;
  }

  /** Makes CPU `index` look at its local APIC, unless it is the caller. */
  ring(index: number): void {
    if (index !== this.ownCpu) this.kick(index);
  }

  /**
   * Delivers to the local APICs that `destination` means.
   * @param destination as in ICR bits 63:32 in x2APIC mode, or an 8-bit destination
   * @param logical 1 logical, 0 physical destination mode
   * @param level 1 for level-triggered interrupts, whose end the I/O APIC is told
   * @returns true when a local APIC took it
   */
  deliver(destination: number, logical: number, mode: number, vector: number, level: number): boolean {
    const apics = this.apics;
    if (mode === DeliveryMode.LOWEST_PRIORITY) {
      let chosen = -1;
      let lowest = 256;
      for (let i = 0; i < apics.length; i++) {
        const apic = apics[i];
        if (!apic.matches(destination, logical) || !apic.accepting()) continue;
        const priority = apic.processorPriority();
        if (priority < lowest) {
          lowest = priority;
          chosen = i;
        }
      }
      return chosen >= 0 && apics[chosen].accept(vector, level);
    }
    let taken = false;
    for (let i = 0; i < apics.length; i++) {
      if (apics[i].matches(destination, logical)) taken = apics[i].receive(mode, vector, level) || taken;
    }
    return taken;
  }

  /** Delivers to every local APIC but `except` (-1: to all). */
  broadcast(except: number, mode: number, vector: number): void {
    const apics = this.apics;
    for (let i = 0; i < apics.length; i++) if (i !== except) apics[i].receive(mode, vector, 0);
  }

  /**
   * A message-signalled interrupt (SDM vol. 3, 11.11).
   * @param address low 32 bits, FEExxxxxh; others are no interrupt
   */
  signalMessage(address: number, data: number): void {
    if ((address & 0xfff00000) !== (0xfee00000 | 0)) return;
    this.deliver((address >>> 12) & 0xff, (address >> 2) & 1, (data >> 8) & 7, data & 0xff, (data >> 15) & 1);
  }

  /** The 8259's INTR output, which is wired to LINT0 of every local APIC. */
  setIntr(level: number): void {
    const apics = this.apics;
    for (let i = 0; i < apics.length; i++) apics[i].setLint0(level);
  }
}
