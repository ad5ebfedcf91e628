/** Memory is given back: what a boot's decoding leaves, and the guest's. */
import assert from "node:assert/strict";
import { getHeapSpaceStatistics } from "node:v8";
import { needs } from "../../tests/skip.ts";
import { TAKES_PAGES } from "./host_memory.ts";
import { Rig, State } from "./jit/rig.ts";
import { settings, stateFor } from "./jit/setting.ts";
import { CpuArea } from "./layout.ts";

/** Bytes of V8's young generation in this thread. */
function youngGeneration(): number {
  return getHeapSpaceStatistics().find(({ space_name }) => space_name === "new_space")!.space_size;
}

/** Whether nothing stands where the first blocks did. */
function blocksAreZero(rig: Rig): boolean {
  const { core } = rig.vcpu;
  const at = core["base"] + CpuArea.BLOCKS;
  return core["bytes"].subarray(at, at + 65536).every((byte) => byte === 0);
}

/** Blocks of two instructions, each once: nop; jmp to the next, which ends the run after the last. */
function decodeBlocks(rig: Rig, count: number): void {
  const first = 0x20_0000;
  for (let n = 0; n < count; n++) rig.bytes.set([0x90, 0xeb, 0], first + 3 * n);
  // out DONE_PORT, al; hlt
  rig.bytes.set([0xe6, 0xf4, 0xf4], first + 3 * count);
  const registers = Array.from({ length: 16 }, () => 0n);
  rig.load(new Uint8Array(0), stateFor(settings[0], rig, registers));
  rig.field(State.RIP).setBigUint64(0, BigInt(first), true);
  assert.equal(rig.run(), 0);
}

Deno.test("soft: a vCPU that has time gives back the memory that decoding needed, once", () => {
  const rig = new Rig(-1);
  decodeBlocks(rig, 60_000);
  const before = youngGeneration();
  assert.ok(before > 4 << 20, `decoding left only ${before} bytes of young generation`);
  const { core } = rig.vcpu;
  // Who waits for a prompt acts when it comes: not then.
  assert.equal(core.tidy(1000), false);
  assert.equal(core.tidy(5900), false);
  assert.equal(youngGeneration(), before);
  assert.equal(core.tidy(6100), true);
  const after = youngGeneration();
  assert.ok(after < before / 4, `${after} of ${before} bytes are left`);
  // Nothing has been decoded since: what others need is left alone.
  const kept: number[][] = [];
  while (youngGeneration() < before / 2) kept.push([kept.length]);
  const grown = youngGeneration();
  assert.equal(core.tidy(20_000), false);
  assert.ok(youngGeneration() >= grown && kept.length > 0);
});

const LINUX = "only Linux is told of pages that are not needed (madvise)";
const closing = "soft: a partition that is closed gives the guest's memory back, although it is still held";
Deno.test({
  name: closing,
  ignore: needs(TAKES_PAGES, closing, LINUX),
  fn: () => {
    const rig = new Rig(-1);
    rig.bytes.fill(0xee);
    rig.partition.close();
    assert.ok(rig.bytes.every((byte) => byte === 0));
  },
});

const name = "soft: decoded blocks are given back to the host, and decoded anew when they run again";
Deno.test({
  name,
  ignore: needs(TAKES_PAGES, name, LINUX),
  fn: () => {
    const rig = new Rig(-1);
    decodeBlocks(rig, 60_000);
    assert.equal(blocksAreZero(rig), false);
    rig.vcpu.core.tidy(0);
    assert.equal(rig.vcpu.core.tidy(6000), true);
    assert.equal(blocksAreZero(rig), true);
    decodeBlocks(rig, 60_000);
    assert.equal(blocksAreZero(rig), false);
  },
});
