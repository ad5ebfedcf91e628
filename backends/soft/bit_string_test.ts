/**
 * BT and its kin with a bit offset in a register: the byte it lies in is found within the address size, and looked at as
 * any other of the segment (SDM vol. 2, BT; a host's CPU cuts the sum to 32 bits as well).
 */
import assert from "node:assert/strict";
import { Exit } from "../../core/hypervisor.ts";
import { X64 } from "../../core/x64_state.ts";
import { DONE_PORT, Place, Rig, State } from "./jit/rig.ts";
import { type Setting, settings, stateFor } from "./jit/setting.ts";

/** Rounds of bts [ebx], eax; add eax, edx; dec ecx; jnz, before it faults or ends. */
const ROUNDS = 10;

interface Case {
  setting: string;
  prefix: number[];
  ebx: number;
  /** Bits, added each round. */
  step: number;
  exit: number;
  /** Linear addresses of the bytes whose bit 0 is set. */
  set: (setting: Setting) => number[];
  cr2?: bigint;
}
const words = (from: number, step: number, count: number) => Array.from({ length: count }, (_, i) => from + i * step);
const CASES: Record<string, Case> = {
  "in 16-bit code offsets wrap around in their segment": {
    setting: "real mode",
    prefix: [],
    ebx: 8,
    step: -16,
    exit: 0,
    set: ({ data }) => [...words(data + 8, -2, 5), ...words(data + 0xfffe, -2, 5)],
  },
  "beyond the limit of the segment is #GP": {
    setting: "32-bit segments that begin and end somewhere",
    prefix: [],
    ebx: 0x1_fff0,
    step: 32,
    exit: Exit.SHUTDOWN,
    set: ({ data }) => words(data + 0x1_fff0, 4, 4),
    cr2: 0n,
  },
  "addresses of 32 bits stay below 4 GiB": {
    setting: "64-bit mode",
    prefix: [0x67],
    ebx: 0xc,
    step: -32,
    exit: Exit.SHUTDOWN,
    set: () => words(0xc, -4, 4),
    cr2: 0xffff_fffcn,
  },
  "the base of FS comes behind": {
    setting: "64-bit mode",
    prefix: [0x64],
    ebx: 0x100,
    step: -32,
    exit: 0,
    set: () => words(Place.DATA + 0x100, -4, ROUNDS),
  },
};

for (const [tier, threshold] of [["interpreter", -1], ["regions", 1]] as const) {
  for (const [name, { setting: where, prefix, ebx, step, exit, set, cr2 }] of Object.entries(CASES)) {
    Deno.test(`${tier}: bit strings: ${name}`, () => {
      const setting = settings.find((other) => other.name === where)!;
      const rig = new Rig(threshold, 2);
      try {
        const bts = [...prefix, 0x0f, 0xab, setting.mode === 16 ? 0x07 : 0x03];
        const loop = [...bts, 0x01, 0xd0, 0xff, 0xc9, 0x75];
        const state = stateFor(setting, rig, [0, ROUNDS, step >>> 0, ebx].map(BigInt));
        new DataView(state).setBigUint64(X64.SEGMENTS + 4 * 16, BigInt(Place.DATA), true);
        rig.load(new Uint8Array([...loop, 255 - loop.length, 0xe6, DONE_PORT, 0xf4]), state);
        const before = rig.bytes.slice();
        assert.equal(rig.run(), exit);
        const expected = set(setting);
        for (const at of expected) before[at] |= 1;
        // The page tables' accessed bits are set meanwhile.
        const changed = [...rig.bytes.keys()].filter((at) => rig.bytes[at] !== before[at]);
        assert.deepEqual(changed.filter((at) => at < Place.TABLES || at >= Place.TABLES + 0x8000), []);
        if (cr2 !== undefined) assert.equal(rig.field(State.CR2).getBigUint64(0, true), cr2);
        assert.ok(threshold < 0 || rig.vcpu.core.jit!.statistics.compiled > 0);
      } finally {
        rig.vcpu.close();
        rig.partition.close();
      }
    });
  }
}
