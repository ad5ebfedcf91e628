import assert from "node:assert/strict";
import { needs } from "../../../tests/skip.ts";
import { Place, Rig } from "./rig.ts";
import { settings, stateFor } from "./setting.ts";

/** Regions after which V8 has collected code, and how many come then. */
const WARM = 1500;
const MORE = 2000;

/** Regions each of 30 stores that differ from all others before: a guest that makes code for ever. */
function compileAndForget(rig: Rig, from: number, to: number): void {
  const registers = Array.from({ length: 16 }, () => 0n);
  registers[3] = BigInt(Place.DATA);
  registers[4] = BigInt(Place.STACK);
  for (let n = from; n < to; n++) {
    // mov ecx, 20; l: add dword [rbx + 4 * i], imm32; ...; dec ecx; jnz l; out DONE_PORT, al
    const code = [0xb9, 20, 0, 0, 0];
    for (let i = 0; i < 30; i++) code.push(0x81, 0x43, i * 4, n & 255, n >> 8, i, 1);
    const back = 5 - (code.length + 8);
    code.push(0xff, 0xc9, 0x0f, 0x85, back & 255, (back >> 8) & 255, 255, 255, 0xe6, 0xf4, 0xf4);
    rig.vcpu.core.dropAll();
    rig.load(new Uint8Array(code), stateFor(settings[0], rig, registers));
    assert.equal(rig.run(), 0);
  }
}

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
