/**
 * The exit path against a C loop on the same /dev/kvm, and what it allocates.
 *
 *     deno run -A bench/exit.ts [exits of a round, default 50000] [rounds, default 9] [exits watched, default 1000000]
 *
 * Ours is the product's own `core/vcpu_loop.ts` on a Bus with devices of eight classes, all of which it has met before
 * anything is measured, in every way of access: what V8 knows of one device is not what is compared. C and ours take
 * turns, and the best rounds of each are compared: what a shared machine adds is never negative. `C+t` is the C loop
 * with a second thread that sleeps, since a process with threads pays for its files a little more at every call. Then
 * 1 000 000 exits are run while V8's counters are watched: the heap must not grow, and no garbage be collected.
 *
 * The C loop is compiled here, or HV_EXIT_LOOP names one that was (`gcc -O2 -static -pthread
 * bench/native/exit_loop.c`), for the lab, which has no compiler.
 */
import { kvm } from "../backends/kvm/hypervisor.ts";
import { Bus } from "../core/bus.ts";
import { ByteRing } from "../core/byte_ring.ts";
import { Command, Control } from "../core/control.ts";
import type { BusDevice } from "../core/device.ts";
import { RegisterFile } from "../core/registers.ts";
import { LoopEnd, runVcpu } from "../core/vcpu_loop.ts";
import { Assembler, at } from "../tests/conformance/assembler.ts";
import { Guest, Layout, startState } from "../tests/conformance/guest.ts";
import { PerformanceObserver } from "node:perf_hooks";
import { getHeapStatistics } from "node:v8";

const KINDS = ["port out", "port in", "MMIO read", "MMIO write", "rep insb, 1024", "rep outsb, 1024"] as const;
const exits = Number(Deno.args[0] ?? 50_000);
const rounds = Number(Deno.args[1] ?? 9);
const watchedExits = Number(Deno.args[2] ?? 1_000_000);

/** A string's exits are many bytes or go through KVM's emulator: fewer do. */
const share = (kind: number, exits: number) => kind < 4 ? exits : Math.ceil(exits / 32);

const PORT = 0x80;
/** A write there ends a round. */
const STOP_PORT = 0x70;
const MEETINGS = 3_000;

const file = new RegisterFile();
const control = new Control();
const counters = control.exitCounters(0);
const output = new ByteRing(ByteRing.allocate(4096));

/** One register; what is written is what is read. */
function scratch(): BusDevice {
  // A class of its own at every call.
  return new class implements BusDevice {
    readonly registers = file.allocate(1);
    read(_offset: number, _size: number): number {
      return this.registers.words[2];
    }
    write(_offset: number, _size: number, value: number): void {
      this.registers.words[2] = value;
    }
  }();
}

const stop: BusDevice = {
  registers: file.allocate(1),
  read: () => -1,
  write: () => void (control.command = Command.HOLD),
};

/** The instruction that leaves the guest; bytes as in the C program, which jumps back instead of counting. */
function instruction(assembler: Assembler, kind: number): Assembler {
  if (kind === 0) return assembler.out(PORT, "al");
  if (kind === 1) return assembler.in("al", PORT);
  if (kind === 2) return assembler.mov("eax", at({ base: "ebx" }));
  return assembler.mov(at({ base: "ebx" }), "eax");
}

const word = (value: number) => [value & 255, value >> 8 & 255, value >> 16 & 255, value >>> 24];

/** Repeats what leaves the guest, then says that it did. */
function code(kind: number, exits: number): Uint8Array {
  const assembler = new Assembler(32, Layout.CODE);
  if (kind < 4) {
    assembler.bytes(0xb9, ...word(exits)); // mov ecx, exits
    instruction(assembler.label("again"), kind);
    assembler.bytes(0x49, 0x75, 0xfb); // dec ecx; jnz
  } else {
    // mov ebp, times; mov edi / esi, 2000h; mov ecx, 1024; mov edx, port; rep insb / outsb; dec ebp; jnz
    assembler.bytes(0xbd, ...word(Math.ceil(exits / (kind === 4 ? 1 : 1024))));
    assembler.bytes(kind === 4 ? 0xbf : 0xbe, ...word(0x2000), 0xb9, ...word(1024), 0xba, ...word(PORT));
    assembler.bytes(0xf3, kind === 4 ? 0x6c : 0x6e, 0x4d, 0x75, 0xec);
  }
  return assembler.out(STOP_PORT, "al").assemble();
}

/** Every device, every way, many times. */
function meetingCode(): Uint8Array {
  const assembler = new Assembler(32, Layout.CODE).bytes(0xb9, ...word(MEETINGS));
  const begin = assembler.assemble().length;
  for (let i = 0; i < 8; i++) {
    assembler.bytes(0xbb, ...word(Layout.MMIO + i * 0x1000)); // mov ebx, page
    assembler.out(PORT + i * 8, "al").in("al", PORT + i * 8);
    assembler.bytes(0x66, 0xe7, PORT + i * 8, 0xe5, PORT + i * 8); // out 16 bits, in 32 bits
    assembler.mov("eax", at({ base: "ebx" })).mov(at({ base: "ebx" }), "eax");
  }
  const back = begin - assembler.assemble().length - 7;
  return assembler.bytes(0x49, 0x0f, 0x85, ...word(back)).out(STOP_PORT, "al").assemble();
}

const support = kvm.probe();
if (!support.usable && !support.restricted) {
  console.error(`bench/exit.ts needs KVM: ${support.reason}`);
  Deno.exit(1);
}
const binary = Deno.env.get("HV_EXIT_LOOP") ?? compile();

function compile(): string {
  const path = Deno.makeTempFileSync({ prefix: "hv-exit-loop-" });
  const source = new URL("native/exit_loop.c", import.meta.url).pathname;
  const gcc = new Deno.Command("gcc", { args: ["-O2", "-pthread", "-o", path, source] }).outputSync();
  if (!gcc.success) throw new Error(new TextDecoder().decode(gcc.stderr));
  return path;
}

function runC(kind: number, ...options: string[]): number {
  const { stdout, success } = new Deno.Command(binary, { args: [`${kind}`, `${share(kind, exits)}`, "1", ...options] })
    .outputSync();
  if (!success) throw new Error("the C loop failed");
  return Number(new TextDecoder().decode(stdout));
}

const guest = new Guest(kvm);
const vcpu = guest.partition.createVcpu(0);
const ports = new Bus("port");
const memory = new Bus("memory");
ports.map(STOP_PORT, 1, stop);
for (let i = 0; i < 8; i++) {
  ports.map(PORT + i * 8, 8, scratch());
  memory.map(Layout.MMIO + i * 0x1000, 0x1000, scratch());
}

/** Runs guest code to its end; returns the exits it took. */
function run(code: Uint8Array): number {
  guest.bytes.set(code, Layout.CODE);
  const state = startState(32);
  // ebx
  new DataView(state).setBigUint64(8 + 3 * 8, BigInt(Layout.MMIO), true);
  vcpu.setState(state);
  const before = counters.reduce((sum, count) => sum + count);
  control.command = Command.RUN;
  if (runVcpu(vcpu, ports, memory, control, counters, output) === LoopEnd.FAILED) {
    throw new Error(vcpu.failure().reason);
  }
  return counters.reduce((sum, count) => sum + count) - before;
}

/** Nanoseconds an exit. */
function measure(code: Uint8Array): number {
  const start = performance.now();
  const taken = run(code);
  return (performance.now() - start) * 1e6 / taken;
}

/** Bytes in use on V8's heap; looking costs some itself. */
const heapUsed = () => getHeapStatistics().used_heap_size;

const best = (values: number[]) => Math.min(...values);
const median = (values: number[]) => [...values].sort((a, b) => a - b)[values.length >> 1];

run(meetingCode());
console.log(`${support.reason}; ${exits} exits a round, ${rounds} rounds, C and hv in turn; ns an exit`);
console.log("                   C best   C+t best  hv best  hv-C  hv/C   C median  hv median  ratio");
for (const [kind, name] of KINDS.entries()) {
  const round = code(kind, share(kind, exits));
  // V8 compiles meanwhile.
  for (let i = 0; i < 4; i++) run(round);
  const c: number[] = [];
  const threaded: number[] = [];
  const ours: number[] = [];
  for (let i = 0; i < rounds; i++) {
    c.push(runC(kind));
    threaded.push(runC(kind, "threads"));
    ours.push(measure(round));
  }
  console.log(
    name.padEnd(16) + [best(c), best(threaded), best(ours), best(ours) - best(c)].map((value) =>
      value.toFixed(0).padStart(9)
    ).join("") +
      `  ${(best(ours) / best(c)).toFixed(3)}` +
      [median(c), median(ours)].map((value) =>
        value.toFixed(0).padStart(10)
      ).join("") +
      `  ${(median(ours) / median(c)).toFixed(3)}`,
  );

  let collections = 0;
  const observer = new PerformanceObserver((list) => collections += list.getEntries().length);
  try {
    observer.observe({ entryTypes: ["gc"] });
  } catch {
    // The heap counters say it too.
  }
  const watched = code(kind, share(kind, watchedExits));
  // What a look and the state of a run cost is taken off: twice with no exits in between.
  const nothing = new Assembler(32, Layout.CODE).nop().out(STOP_PORT, "al").assemble();
  let before = heapUsed();
  run(nothing);
  const look = heapUsed() - before;
  before = heapUsed();
  run(watched);
  const grown = heapUsed() - before - look;
  observer.disconnect();
  console.log(
    `${"".padEnd(16)}   ${grown} bytes allocated over ${share(kind, watchedExits)} exits, ${collections} collections`,
  );
}
vcpu.close();
guest.partition.close();
if (!Deno.env.has("HV_EXIT_LOOP")) Deno.removeSync(binary);
