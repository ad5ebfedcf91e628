/**
 * The exit path against a C loop on the same /dev/kvm, and what it allocates.
 *
 *     deno run -A bench/exit.ts [exits of a round, default 50000] [rounds, default 9] [exits watched, default 1000000]
 *
 * Ours is the product's own: `run()`, dispatch through the Bus with the device's lock, `run()` again. C and ours take
 * turns, and the best rounds of each are compared: what a shared machine adds is never negative. Then 1 000 000 exits
 * are run while V8's counters are watched: the heap must not grow, and no garbage be collected.
 *
 * The C loop is compiled here, or HV_EXIT_LOOP names one that was (`gcc -O2 -static bench/native/exit_loop.c`), for
 * the lab, which has no compiler.
 */
import { kvm } from "../backends/kvm/hypervisor.ts";
import { Bus } from "../core/bus.ts";
import type { BusDevice } from "../core/device.ts";
import { Exit, type Vcpu } from "../core/hypervisor.ts";
import { RegisterFile } from "../core/registers.ts";
import { Assembler, at } from "../tests/conformance/assembler.ts";
import { Guest, Layout, startState } from "../tests/conformance/guest.ts";
import { PerformanceObserver } from "node:perf_hooks";
import { getHeapStatistics } from "node:v8";

const KINDS = ["port out", "port in", "MMIO read", "MMIO write"] as const;
const exits = Number(Deno.args[0] ?? 50_000);
const rounds = Number(Deno.args[1] ?? 9);
const watchedExits = Number(Deno.args[2] ?? 1_000_000);

/** One register; what is written is what is read. */
class Scratch implements BusDevice {
  readonly registers = new RegisterFile().allocate(1);
  read(_offset: number, _size: number): number {
    return this.registers.words[2];
  }
  write(_offset: number, _size: number, value: number): void {
    this.registers.words[2] = value | 0;
  }
}

/** As `core/vcpu_loop.ts` does it. */
function loop(vcpu: Vcpu, ports: Bus, memory: Bus, portAddress: Float64Array, count: number): void {
  const { address, view } = vcpu;
  for (let i = 0; i < count; i++) {
    const reason = vcpu.run();
    switch (reason) {
      case Exit.IO_WRITE: {
        portAddress[0] = vcpu.port;
        const size = vcpu.size;
        for (let i = 0, at = vcpu.dataOffset; i < vcpu.count; i++, at += size) ports.write(portAddress, size, view, at);
        break;
      }
      case Exit.IO_READ: {
        portAddress[0] = vcpu.port;
        const size = vcpu.size;
        for (let i = 0, at = vcpu.dataOffset; i < vcpu.count; i++, at += size) ports.read(portAddress, size, view, at);
        break;
      }
      case Exit.MMIO_WRITE:
        memory.write(address, vcpu.size, view, vcpu.dataOffset);
        break;
      case Exit.MMIO_READ:
        memory.read(address, vcpu.size, view, vcpu.dataOffset);
        break;
      default:
        throw new Error(`exit ${reason}: ${vcpu.failure().reason}`);
    }
  }
}

function code(kind: number): Uint8Array {
  const assembler = new Assembler(32, Layout.CODE).label("again");
  if (kind === 0) assembler.out(0x80, "al");
  else if (kind === 1) assembler.in("al", 0x80);
  else if (kind === 2) assembler.mov("eax", at({ base: "ebx" }));
  else assembler.mov(at({ base: "ebx" }), "eax");
  // jmp short to the beginning, as in the C program.
  return assembler.bytes(0xeb, 0xfc).assemble();
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
  const gcc = new Deno.Command("gcc", { args: ["-O2", "-o", path, source] }).outputSync();
  if (!gcc.success) throw new Error(new TextDecoder().decode(gcc.stderr));
  return path;
}

function runC(kind: number): number[] {
  const { stdout, success } = new Deno.Command(binary, { args: [`${kind}`, `${exits}`, "1"] }).outputSync();
  if (!success) throw new Error("the C loop failed");
  return new TextDecoder().decode(stdout).trim().split("\n").map(Number);
}

/** Bytes in use on V8's heap; looking costs some itself. */
const heapUsed = () => getHeapStatistics().used_heap_size;

const best = (values: number[]) => Math.min(...values);
const median = (values: number[]) => [...values].sort((a, b) => a - b)[values.length >> 1];

console.log(`${support.reason}; ${exits} exits a round, ${rounds} rounds, C and hv in turn; ns an exit`);
console.log("                C best  hv best  ratio   C median  hv median  ratio");
for (const [kind, name] of KINDS.entries()) {
  const guest = new Guest(kvm);
  guest.bytes.set(code(kind), Layout.CODE);
  const vcpu = guest.partition.createVcpu(0);
  const state = startState(32);
  // ebx
  new DataView(state).setBigUint64(8 + 3 * 8, BigInt(Layout.MMIO), true);
  vcpu.setState(state);
  const ports = new Bus("port");
  const memory = new Bus("memory");
  // Neighbours, so that the lookup has something to look through.
  for (let i = 0; i < 8; i++) {
    ports.map(0x80 + i * 0x10, 8, new Scratch());
    memory.map(Layout.MMIO + i * 0x1000, 0x1000, new Scratch());
  }
  const portAddress = new Float64Array(1);
  loop(vcpu, ports, memory, portAddress, exits);
  const c: number[] = [];
  const ours: number[] = [];
  for (let round = 0; round < rounds; round++) {
    c.push(...runC(kind));
    const start = performance.now();
    loop(vcpu, ports, memory, portAddress, exits);
    ours.push((performance.now() - start) * 1e6 / exits);
  }
  const row = [best(c), best(ours), best(ours) / best(c), median(c), median(ours), median(ours) / median(c)];
  console.log(
    name.padEnd(14) + row.map((value, i) => (i % 3 === 2 ? value.toFixed(3) : value.toFixed(0)).padStart(9)).join(""),
  );

  let collections = 0;
  const observer = new PerformanceObserver((list) => collections += list.getEntries().length);
  try {
    observer.observe({ entryTypes: ["gc"] });
  } catch {
    // The heap counters say it too.
  }
  // What a look costs is taken off: twice with nothing in between.
  let before = heapUsed();
  const look = heapUsed() - before;
  before = heapUsed();
  loop(vcpu, ports, memory, portAddress, watchedExits);
  const grown = heapUsed() - before - look;
  observer.disconnect();
  console.log(`${"".padEnd(14)}   ${grown} bytes allocated over ${watchedExits} exits, ${collections} collections`);
  vcpu.close();
  guest.partition.close();
}
if (!Deno.env.has("HV_EXIT_LOOP")) Deno.removeSync(binary);
