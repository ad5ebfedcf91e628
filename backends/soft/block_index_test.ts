import assert from "node:assert/strict";
import { BlockIndex, keyUpper } from "./block_index.ts";
import { Block } from "./layout.ts";

Deno.test("decoded blocks are found by physical address and mode, as long as they are known", () => {
  const memory = new DataView(new ArrayBuffer(1 << 20));
  const index = new BlockIndex(memory);
  const expected = new Map<string, number>();
  let seed = 1;
  const random = (below: number) => (seed = Math.imul(seed, 1103515245) + 12345 >>> 0) % below;
  const keys: { low: number; high: number; address: number }[] = [];
  for (let address = 64; address < memory.byteLength - 64; address += 48) {
    // Addresses above 4 GiB and few low words: neighbours in the index.
    const physical = random(4) * 2 ** 32 + random(5000) * 16;
    const low = physical | 0;
    const high = keyUpper(physical, random(4096));
    if (expected.has(`${low} ${high}`)) continue;
    memory.setInt32(address + Block.KEY, low, true);
    memory.setInt32(address + Block.KEY + 4, high, true);
    index.add(address);
    expected.set(`${low} ${high}`, address);
    keys.push({ low, high, address });
    if (random(3) > 0) continue;
    const gone = keys.splice(random(keys.length), 1)[0];
    index.remove(gone.address);
    // Once more changes nothing.
    index.remove(gone.address);
    expected.delete(`${gone.low} ${gone.high}`);
    assert.equal(index.find(gone.low, gone.high), 0);
  }
  assert.ok(keys.length > 10_000);
  for (const { low, high, address } of keys) assert.equal(index.find(low, high), address);
  index.clear();
  assert.equal(index.find(keys[0].low, keys[0].high), 0);
});
