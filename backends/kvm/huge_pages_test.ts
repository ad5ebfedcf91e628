import assert from "node:assert/strict";
import { needs } from "../../tests/skip.ts";
import { libc } from "./abi.ts";
import { mapAnonymous, viewOf } from "./shared_state.ts";

const NAME = "guest memory is in huge pages where the host has them";
const HUGE = 2 ** 21;
const SIZE = 32 * HUGE;

/** Whether Linux gives huge pages to who asks (Documentation/admin-guide/mm/transhuge.rst). */
function given(): boolean {
  try {
    return !Deno.readTextFileSync("/sys/kernel/mm/transparent_hugepage/enabled").includes("[never]");
  } catch {
    return false;
  }
}

/** KiB in huge pages of the mapping that an address lies in (proc(5), smaps). */
function hugeAt(address: number): number {
  let within = false;
  for (const line of Deno.readTextFileSync("/proc/self/smaps").split("\n")) {
    const range = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line);
    if (range) within = address >= parseInt(range[1], 16) && address < parseInt(range[2], 16);
    const huge = /^AnonHugePages:\s+(\d+) kB/.exec(line);
    if (within && huge) return Number(huge[1]);
  }
  return 0;
}

Deno.test({
  name: NAME,
  ignore: needs(Deno.build.os === "linux" && given(), NAME, "this host gives no transparent huge pages"),
  fn: () => {
    const address = mapAnonymous(SIZE);
    try {
      assert.equal(address % HUGE, 0);
      assert.equal(hugeAt(address), 0, "nothing is there before it is touched");
      new Uint8Array(viewOf(address, SIZE)).fill(1);
      assert.ok(hugeAt(address) >= HUGE / 1024, "not one huge page");
    } finally {
      libc().munmap(BigInt(address), BigInt(SIZE));
    }
  },
});
