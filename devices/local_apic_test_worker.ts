/** One of two CPUs that send each other IPIs: each answers every one it takes, and halts as a backend does. */
import { GuestClock } from "../core/clock.ts";
import { RegisterFile } from "../core/registers.ts";
import { ApicBus } from "./apic_bus.ts";
import { LocalApic } from "./local_apic.ts";

declare const self: {
  onmessage: (event: MessageEvent<{ registers: WebAssembly.Memory; index: number; count: number }>) => void;
  postMessage(received: number): void;
};

self.onmessage = ({ data: { registers, index, count } }) => {
  const file = new RegisterFile(registers);
  // The doorbell alone wakes a halted CPU.
  const bus = new ApicBus(() => {});
  const clock = new GuestClock(0);
  const apics = [0, 1].map((i) =>
    new LocalApic(file.allocate(LocalApic.WORDS), i, bus, clock, { tsc: 1e9, timer: 1e9 })
  );
  bus.ownCpu = index;
  const own = apics[index];
  const send = (vector: number): void => {
    own.write(0x310, 4, (1 - index) << 24);
    own.write(0x300, 4, vector);
  };
  // Four vectors travel back and forth, each of them once, so that none can merge with another.
  let received = 0;
  let sent = 0;
  for (const vector of [0x40 + index, 0x90 + index]) {
    send(vector);
    sent++;
  }
  while (received < count) {
    const doorbell = Atomics.load(own.doorbell, 0);
    if (!own.poll()) {
      // A lost interrupt ends the test by its count.
      if (Atomics.wait(own.doorbell, 0, doorbell, 5000) === "timed-out") break;
      continue;
    }
    const vector = own.acknowledge();
    own.write(0xb0, 4, 0);
    received++;
    if (sent < count) {
      send(vector);
      sent++;
    }
  }
  self.postMessage(received);
};
