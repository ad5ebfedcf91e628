import assert from "node:assert/strict";
import { needs } from "../../../tests/skip.ts";
import { Place, Rig, State } from "./rig.ts";
import { settings, stateFor } from "./setting.ts";

/** Regions after which V8 has collected code, and how many come then. */
const WARM = 1500;
const MORE = 2000;

/** mov ecx, times; l: 30 of add dword [rbx + 4 * i], imm32, which differ with n; dec ecx; jnz l. */
function additions(n: number, times: number): number[] {
  const code = [0xb9, times, 0, 0, 0];
  for (let i = 0; i < 30; i++) code.push(0x81, 0x43, i * 4, n & 255, n >> 8, i, 1);
  const back = 5 - (code.length + 8);
  return [...code, 0xff, 0xc9, 0x0f, 0x85, back & 255, (back >> 8) & 255, 255, 255];
}

function start(rig: Rig, code: number[]): void {
  const registers = Array.from({ length: 16 }, () => 0n);
  registers[3] = BigInt(Place.DATA);
  registers[4] = BigInt(Place.STACK);
  rig.load(new Uint8Array(code), stateFor(settings[0], rig, registers));
}

/** out DONE_PORT, al; hlt */
const DONE = [0xe6, 0xf4, 0xf4];

/** A guest that makes code for ever: regions of which each differs from all others before. */
function compileAndForget(rig: Rig, from: number, to: number): void {
  for (let n = from; n < to; n++) {
    rig.vcpu.core.dropAll();
    start(rig, [...additions(n, 20), ...DONE]);
    assert.equal(rig.run(), 0);
  }
}

const little = (value: number) => [value & 255, (value >> 8) & 255, (value >> 16) & 255, value >>> 24];

/** mov eax, address; call rax */
const call = (address: number) => [0xb8, ...little(address), 0xff, 0xd0];

/** Calls many functions once each, and one between them. */
function callFunctions(rig: Rig, count: number): void {
  const first = 0x20_0000;
  for (let n = 0; n <= count; n++) rig.bytes.set([...additions(n, 3), 0xc3], first + n * 4096);
  // mov edi, count; mov r8d, first + 4096
  const before = [0xbf, ...little(count), 0x41, 0xb8, ...little(first + 4096)];
  // l: mov eax, first; call rax; call r8; add r8, 4096; dec edi; jnz l
  const loop = [...call(first), 0x41, 0xff, 0xd0, 0x49, 0x81, 0xc0, ...little(4096), 0xff, 0xcf, 0x75];
  start(rig, [...before, ...loop, 255 - loop.length, ...DONE]);
  assert.equal(rig.run(), 0);
}

Deno.test("soft: of too many regions those go that have not run for long", () => {
  const all = new Rig(1);
  const few = new Rig(1);
  const { jit } = few.vcpu.core;
  const bound = 128 << 10;
  (jit!["cache"] as unknown as { maximum: number }).maximum = bound;
  callFunctions(all, 300);
  callFunctions(few, 300);
  assert.deepEqual(few.bytes.subarray(Place.DATA, Place.DATA + 120), all.bytes.subarray(Place.DATA, Place.DATA + 120));
  const { bytes } = jit!["cache"];
  assert.ok(bytes <= bound, `${bytes} bytes of regions`);
  const left = jit!.statistics.regions;
  const made = all.vcpu.core.jit!.statistics;
  assert.ok(made.regions > 300 && left < 60, `${left} of ${made.regions} regions are left`);
  // None was compiled twice: not the loop's, not those of the function that is called again and again.
  assert.equal(jit!.statistics.compiled, made.compiled);
});

Deno.test("soft: regions outlive decoded blocks, and go when their code is stored to", () => {
  const rig = new Rig(1);
  const { core } = rig.vcpu;
  const at = 0x20_0000;
  const immediate = at + 8;
  const again = Place.CODE + 0x100;
  const store = Place.CODE + 0x200;
  rig.bytes.set([...additions(7, 3), 0xc3], at);
  rig.bytes.set([...call(at), ...DONE], again);
  // mov dword [immediate], 5
  rig.bytes.set([0xc7, 0x04, 0x25, ...little(immediate), ...little(5), ...call(at), ...DONE], store);
  start(rig, [...call(at), ...DONE]);
  assert.equal(rig.run(), 0);
  const first = rig.view.getUint32(Place.DATA, true);
  assert.equal(first, 3 * rig.view.getUint32(immediate, true));
  const { compiled } = core.jit!.statistics;
  assert.ok(compiled > 0);
  const goOn = (rip: number) => {
    core["dropBlocks"]();
    rig.field(State.RIP).setBigUint64(0, BigInt(rip), true);
    assert.equal(rig.run(), 0);
  };
  goOn(again);
  assert.equal(rig.view.getUint32(Place.DATA, true), 2 * first);
  assert.equal(core.jit!.statistics.compiled, compiled);
  goOn(store);
  assert.equal(rig.view.getUint32(Place.DATA, true), 2 * first + 3 * 5);
  assert.ok(core.jit!.statistics.compiled > compiled);
});

const name = "soft: V8 gives back the memory of regions that are forgotten";
Deno.test({
  name,
  ignore: needs(Deno.build.os === "linux", name, "what is resident is read from /proc"),
  fn: () => {
    const rig = new Rig(1);
    compileAndForget(rig, 0, WARM);
    const before = Deno.memoryUsage().rss;
    compileAndForget(rig, WARM, WARM + MORE);
    assert.equal(rig.vcpu.core.jit!.statistics.compiled, WARM + MORE);
    assert.equal(rig.vcpu.core.jit!.statistics.regions, 1);
    const growth = (Deno.memoryUsage().rss - before) / MORE;
    // Kept, each takes some 55 KiB: code, module, instance.
    assert.ok(growth < 25 << 10, `${growth.toFixed(0)} bytes more are resident with each region`);
  },
});
