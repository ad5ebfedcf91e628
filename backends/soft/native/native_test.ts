/**
 * Every row of the instruction table that can be compared, against the host's CPU: random operands, addressing forms,
 * prefixes, flags and floating-point control.
 *
 * `HV_NATIVE_CASES=10000000` is the long form; `HV_NATIVE_ROWS=regex` picks rows, `HV_NATIVE_SEED` varies the cases;
 * `HV_NATIVE_CASE=key,seed` runs one that failed. `HV_NATIVE_RECORD=file` keeps what the host did,
 * `HV_NATIVE_REPLAY=file` compares with that, on any host.
 */
import assert from "node:assert/strict";
import { needs } from "../../../tests/skip.ts";
import { rows } from "../isa/all.ts";
import type { Row } from "../isa/table.ts";
import { Differential, reasonAgainst } from "./differential.ts";
import { NativeCpu, nativeCpuIsPossible } from "./native_cpu.ts";
import { CODE, Fx, Record, RECORD_BYTES } from "./record.ts";
import { type Oracle, Recording, Replay } from "./oracle.ts";
import { SoftCpu } from "./soft_cpu.ts";

const environment = (name: string) => Deno.env.get(`HV_NATIVE_${name}`);
const total = Number(environment("CASES") ?? 200_000);
const replay = environment("REPLAY");

/** Whether the host has an instruction that not every x86-64 processor has. */
const hostFeatures = (() => {
  try {
    return new Set(/^flags\s*:(.*)$/m.exec(Deno.readTextFileSync("/proc/cpuinfo"))?.[1].trim().split(" ") ?? []);
  } catch {
    return new Set<string>();
  }
})();
const needed: [RegExp, string][] = [
  [/^sha(1|256)/, "sha_ni"],
  [/^aes/, "aes"],
  [/^pclmulqdq$/, "pclmulqdq"],
  [/^movbe$/, "movbe"],
];
const hostLacks = (row: Row) => needed.some(([names, feature]) => names.test(row.name) && !hostFeatures.has(feature));

/** A row's name that survives changes of the table's order. */
const keyOf = (row: Row) =>
  [row.name, row.map, row.opcode.toString(16), row.prefix, row.extension, row.mod, row.rm].join("/");
const seedOf = (key: string) => [...key].reduce((sum, c) => Math.imul(sum ^ c.charCodeAt(0), 0x01000193) >>> 0, 7);
Deno.test({
  name: "the instruction table computes what the host's CPU computes",
  ignore: needs(
    nativeCpuIsPossible || replay !== undefined,
    "the instruction table against the host's CPU",
    "it needs gcc on x86-64 Linux, or a recording in HV_NATIVE_REPLAY",
  ),
  fn: async () => {
    let oracle: Oracle = replay === undefined ? new NativeCpu() : new Replay(replay);
    const record = environment("RECORD");
    if (record !== undefined) oracle = new Recording(oracle, record);
    const differential = new Differential(oracle, new SoftCpu());
    const only = environment("CASE")?.split(",");
    const chosen = rows.filter((row) =>
      reasonAgainst(row) === null && !hostLacks(row) &&
      (only ? keyOf(row) === only[0] : new RegExp(environment("ROWS") ?? ".").test(row.name))
    );
    const each = Math.ceil(total / chosen.length);
    const failures: string[] = [];
    let cases = 0;
    try {
      for (const row of chosen) {
        const key = keyOf(row);
        const count = only ? 1 : each;
        const seed = only ? Number(only[1]) : seedOf(key) + Number(environment("SEED") ?? 0);
        cases += count;
        for (const found of await differential.run(row, seed, count)) {
          failures.push(`HV_NATIVE_CASE='${key},${found.seed}'\n${found.text}`);
        }
      }
    } finally {
      await oracle.close();
    }
    console.log(`${cases} cases over ${chosen.length} rows of ${rows.length}, ${failures.length} differences shown`);
    assert.equal(failures.length, 0, `\n${failures.slice(0, 40).join("\n\n")}`);
  },
});

Deno.test({
  name: "an instruction that the native program does not survive is named",
  ignore: needs(nativeCpuIsPossible, "a native program that dies", "it needs gcc on x86-64 Linux"),
  fn: async () => {
    const oracle = new NativeCpu();
    try {
      const records = new Uint8Array(2 * RECORD_BYTES);
      const view = new DataView(records.buffer);
      // JMP RAX, to where nothing is.
      records.set([0xff, 0xe0], Record.CODE);
      view.setUint32(Record.LENGTH, 2, true);
      view.setBigUint64(Record.FLAGS, 0x202n, true);
      view.setBigUint64(Record.GPR, BigInt(CODE) + 0x100_0000n, true);
      view.setUint32(Record.FX + Fx.MXCSR, 0x1f80, true);
      await assert.rejects(oracle.run(records, 1), /outside the instruction .*RIP 0x21000800.* ff e0; .*r0=0x21000800/);
    } finally {
      await oracle.close();
    }
  },
});
