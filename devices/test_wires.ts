/** Wires and clocks for the tests of devices. */
import type { Clock } from "../core/clock.ts";
import type { InterruptLine, MachineEvents } from "../core/device.ts";
import { RegisterFile, type Registers } from "../core/registers.ts";

/** Registers of a device on its own. */
export function registersOf(device: { readonly WORDS: number }): Registers {
  return new RegisterFile(RegisterFile.allocate(65536)).allocate(device.WORDS);
}

/** Time that passes when told to. */
export class ManualClock implements Clock {
  milliseconds = 1000;

  now(): number {
    return this.milliseconds;
  }
}

/** A line that remembers its level and counts rising edges. */
export class RecordedLine implements InterruptLine {
  level = 0;
  edges = 0;

  set(level: number): void {
    if (level !== 0 && this.level === 0) this.edges++;
    this.level = level;
  }
}

/** Counts how often it is rung. */
export class CountedReschedule {
  count = 0;

  wake(): void {
    this.count++;
  }
}

/** What a device told the machine, in order. */
export class RecordedEvents implements MachineEvents {
  readonly told: string[] = [];

  powerOff(): void {
    this.told.push("power off");
  }
  reset(): void {
    this.told.push("reset");
  }
  panic(kind: number): void {
    this.told.push(`panic ${kind}`);
  }
  exit(code: number): void {
    this.told.push(`exit ${code}`);
  }
}
