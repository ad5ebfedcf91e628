/**
 * A hostile guest at every device: random accesses of all sizes at all offsets, time jumping forward, lines and
 * messages in between. Each device must answer int32s, ask to be ticked at sane times, keep its words inside its block,
 * and afterwards still work.
 */
import assert from "node:assert/strict";
import { ByteRing } from "../core/byte_ring.ts";
import { type BusDevice, GuestPanic, type TimedDevice } from "../core/device.ts";
import { RegisterFile, type Registers } from "../core/registers.ts";
import { AcpiPm } from "./acpi_pm.ts";
import { ApicBus } from "./apic_bus.ts";
import { DebugExit } from "./debug_exit.ts";
import { Hpet } from "./hpet.ts";
import { I8042 } from "./i8042.ts";
import { interruptLine, InterruptRouter } from "./interrupt_router.ts";
import { IoApic } from "./io_apic.ts";
import { LocalApic } from "./local_apic.ts";
import { Pic } from "./pic.ts";
import { Pit } from "./pit.ts";
import { PvPanic } from "./pvpanic.ts";
import { RtcCmos } from "./rtc_cmos.ts";
import { CountedReschedule, ManualClock, RecordedEvents } from "./test_wires.ts";
import { Uart16550 } from "./uart_16550.ts";

/** xorshift32 (Marsaglia, 2003). */
class Random {
  private state: number;

  constructor(seed: number) {
    this.state = seed | 0 || 1;
  }

  /** An int32. */
  next(): number {
    let x = this.state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return this.state = x;
  }

  below(limit: number): number {
    return (this.next() >>> 0) % limit;
  }
}

/** All devices of the PC's board, wired as on the machine. */
class Board {
  readonly clock = new ManualClock();
  readonly events = new RecordedEvents();
  readonly input = new ByteRing(ByteRing.allocate(64));
  readonly output = new ByteRing(ByteRing.allocate(64));
  readonly apics: LocalApic[];
  readonly pic: Pic;
  readonly router: InterruptRouter;
  readonly bus: ApicBus;
  readonly uart: Uart16550;
  readonly acpi: AcpiPm;
  readonly hpet: Hpet;
  readonly ranges: { name: string; device: BusDevice; size: number; page?: boolean }[];
  readonly timers: TimedDevice[];
  readonly blocks: Registers[] = [];

  constructor() {
    const file = new RegisterFile(RegisterFile.allocate(65536));
    const block = (device: { WORDS: number }): Registers => {
      const registers = file.allocate(device.WORDS);
      this.blocks.push(registers);
      return registers;
    };
    const { clock, events } = this;
    const reschedule = new CountedReschedule();
    this.bus = new ApicBus(() => {});
    this.apics = [0, 1].map((i) => new LocalApic(block(LocalApic), i, this.bus, clock, { tsc: 1e9, timer: 1e9 }));
    const ioApic = new IoApic(block(IoApic), this.bus);
    this.pic = new Pic(block(Pic), { set: (level) => this.bus.setIntr(level) });
    this.bus.pic = this.pic;
    this.router = new InterruptRouter(this.pic, ioApic, this.bus);
    this.hpet = new Hpet(block(Hpet), this.router, clock, reschedule);
    const legacy = (irq: number) => this.hpet.legacyLine(interruptLine(this.router, irq));
    const pit = new Pit(block(Pit), legacy(0), clock, reschedule);
    const start = Date.UTC(2026, 0, 1);
    const rtc = new RtcCmos(block(RtcCmos), legacy(8), clock, reschedule, () => start + clock.milliseconds);
    this.uart = new Uart16550(block(Uart16550), interruptLine(this.router, 4), this.input, this.output);
    this.acpi = new AcpiPm(block(AcpiPm), interruptLine(this.router, 9), clock, reschedule, events);
    const i8042 = new I8042(block(I8042), events);
    const panic = new PvPanic(block(PvPanic), events);
    const exit = new DebugExit(block(DebugExit), events);
    for (const device of [...this.apics, ioApic, this.pic, this.hpet, pit, rtc, this.uart, this.acpi, i8042]) {
      device.reset();
    }
    this.timers = [this.hpet, pit, rtc, this.acpi];
    this.ranges = [
      { name: "local APIC", device: this.apics[0], size: 0x1000, page: true },
      { name: "other local APIC", device: this.apics[1], size: 0x1000, page: true },
      { name: "I/O APIC", device: ioApic, size: IoApic.SIZE },
      { name: "8259", device: this.pic.primary, size: 2 },
      { name: "second 8259", device: this.pic.secondary, size: 2 },
      { name: "ELCR", device: this.pic.elcr, size: 2 },
      { name: "HPET", device: this.hpet, size: Hpet.SIZE },
      { name: "8254", device: pit, size: 4 },
      { name: "port 61h", device: pit.control, size: 1 },
      { name: "RTC", device: rtc, size: 2 },
      { name: "UART", device: this.uart, size: 8 },
      { name: "ACPI", device: this.acpi, size: AcpiPm.SIZE },
      { name: "8042 data", device: i8042.data, size: 1 },
      { name: "8042 command", device: i8042.command, size: 1 },
      { name: "pvpanic", device: panic, size: 1 },
      { name: "debug exit", device: exit, size: 4 },
    ];
  }
}

function isInt32(value: number): boolean {
  return (value | 0) === value;
}

/** Values that mean something somewhere, as well as any. */
function someValue(random: Random, size: number): number {
  const interesting = [0, 1, -1, 0x80, 0xff, 0x34, 0xfee00000 | 0, 0x10000, 1 << 31, 0x7fffffff];
  const value = random.below(2) === 0 ? interesting[random.below(interesting.length)] : random.next();
  return size === 4 ? value : value & (size === 1 ? 0xff : 0xffff);
}

function attack(seed: number, steps: number): void {
  const board = new Board();
  const random = new Random(seed);
  const msr = new Int32Array(2);
  let where = "";
  try {
    for (let step = 0; step < steps; step++) {
      const kind = random.below(16);
      if (kind < 10) {
        const range = board.ranges[random.below(board.ranges.length)];
        const size = Math.min(1 << random.below(3), range.size);
        let offset = random.below(range.size - size + 1);
        if (range.page && random.below(4) !== 0) offset &= ~15;
        else if (random.below(2) === 0) offset &= ~(size - 1);
        range.device.registers.lock();
        if (random.below(2) === 0) {
          where = `${range.name}: read ${size} at ${offset}`;
          assert.ok(isInt32(range.device.read(offset, size)), where);
        } else {
          const value = someValue(random, size);
          where = `${range.name}: write ${size} at ${offset} of ${value}`;
          range.device.write(offset, size, value);
        }
        range.device.registers.unlock();
      } else if (kind === 10) {
        where = "line";
        board.router.setLine(random.below(32) - 4, random.below(2));
      } else if (kind === 11) {
        where = "message";
        board.router.signalMessage((0xfee00000 | 0) + random.below(1 << 20), random.next());
      } else if (kind === 12) {
        const apic = board.apics[random.below(2)];
        const index = [0x1b, 0x6e0, 0x800 + random.below(0x100)][random.below(3)];
        where = `MSR ${index.toString(16)}`;
        msr[0] = random.below(4) === 0 ? (0xfee00000 | 0) + (random.below(16) << 8) : someValue(random, 4);
        msr[1] = random.below(2) === 0 ? 0 : random.next();
        if (random.below(2) === 0) apic.readMsr(index, msr);
        else apic.writeMsr(index, msr);
      } else if (kind === 13) {
        where = "CPU";
        for (const apic of board.apics) {
          if (apic.poll()) {
            const events = apic.takeEvents();
            assert.ok(events >= 0 && events < 8);
            const vector = apic.acknowledge();
            assert.ok(isInt32(vector) && vector >= -1 && vector < 256);
          }
          const timer = apic.timeUntilTimer();
          assert.ok(timer === -1 || (timer >= 0 && timer < 2 ** 31), `timer ${timer}`);
          apic.setTaskPriority(random.next());
          assert.ok(apic.taskPriority() < 16);
        }
      } else if (kind === 14) {
        board.clock.milliseconds += random.below(8) === 0 ? random.below(2 ** 31) : random.below(1000) / 100;
        for (const timer of board.timers) {
          where = `tick of ${timer.constructor.name}`;
          timer.registers.lock();
          const wait = timer.tick();
          timer.registers.unlock();
          assert.ok(wait === -1 || (wait >= 0.1 && wait < 2 ** 31), `${where}: ${wait}`);
        }
      } else {
        where = "console";
        board.input.push(random.below(256));
        if (random.below(2) === 0) board.output.shift();
        board.uart.registers.lock();
        board.uart.receive();
        board.uart.drained();
        board.uart.registers.unlock();
        board.acpi.raiseEvent(random.below(64));
      }
      board.events.told.length = 0;
    }
  } catch (error) {
    throw new Error(`seed ${seed}, ${where}`, { cause: error });
  }
  for (const { words } of board.blocks) assert.equal(words[0], 0, "every lock was given back");
  stillWorks(board);
}

/** After all that, a reset gives a machine like new. */
function stillWorks(board: Board): void {
  const { apics: [apic], uart, output, events } = board;
  for (const apic of board.apics) apic.reset();
  apic.write(0xf0, 4, 0x1ff);
  board.router.signalMessage(0xfee00000 | 0, 0x77);
  assert.equal(apic.acknowledge(), 0x77);
  while (output.shift() >= 0);
  uart.reset();
  uart.write(0, 1, 0x21);
  assert.equal(output.shift(), 0x21);
  board.ranges.find(({ name }) => name === "pvpanic")!.device.write(0, 1, GuestPanic.PANICKED);
  assert.deepEqual(events.told, ["panic 1"]);
}

for (const seed of [1, 2, 3, 4, 5, 6, 7, 8]) {
  Deno.test(`a hostile guest at every device, seed ${seed}`, () => attack(seed * 0x9e3779b1, 60_000));
}

Deno.test("a hostile guest does not make the devices grow", () => {
  attack(99, 20_000);
  const before = Deno.memoryUsage().heapUsed;
  attack(100, 200_000);
  const grown = Deno.memoryUsage().heapUsed - before;
  assert.ok(grown < 64 << 20, `${grown} bytes more in use`);
});
