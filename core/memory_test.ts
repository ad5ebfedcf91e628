import assert from "node:assert/strict";
import { GuestMemory } from "./memory.ts";

const MIB = 1 << 20;
const FOUR_GIB = 0x1_0000_0000;

function memory(size: number, holeStart: number): GuestMemory {
  return new GuestMemory({ buffer: new ArrayBuffer(size), byteOffset: 0, size, address: 0 }, holeStart);
}

Deno.test("RAM lies below the hole and goes on at 4 GiB", () => {
  const ram = memory(3 * MIB, 2 * MIB);
  assert.deepEqual(ram.regions(), [
    { guestAddress: 0, offset: 0, size: 2 * MIB },
    { guestAddress: FOUR_GIB, offset: 2 * MIB, size: MIB },
  ]);
});

Deno.test("an address is checked once, at the border", () => {
  const ram = memory(3 * MIB, 2 * MIB);
  const table: [number, number, number][] = [
    [0, 0, 0],
    [0, 2 * MIB, 0],
    [0, 2 * MIB + 1, -1],
    [2 * MIB - 1, 1, 2 * MIB - 1],
    [2 * MIB - 1, 2, -1],
    [2 * MIB, 1, -1],
    [FOUR_GIB, MIB, 2 * MIB],
    [FOUR_GIB, MIB + 1, -1],
    [FOUR_GIB - 1, 2, -1],
    [FOUR_GIB + MIB, 0, 3 * MIB],
    [FOUR_GIB + MIB, 1, -1],
    [-1, 1, -1],
    [1, -1, -1],
    [NaN, 1, -1],
    [0, NaN, -1],
    [Infinity, 1, -1],
    [0, Infinity, -1],
    [2 ** 64, 1, -1],
  ];
  for (const [address, length, offset] of table) {
    assert.equal(ram.offset(address, length), offset, `${address}+${length}`);
  }
});

Deno.test("loaders get a RangeError outside RAM", () => {
  const ram = memory(MIB, 2 * MIB);
  ram.write(16, new Uint8Array([1, 2, 3]));
  assert.deepEqual([...ram.slice(15, 5)], [0, 1, 2, 3, 0]);
  assert.throws(() => ram.write(MIB - 1, new Uint8Array(2)), RangeError);
  assert.throws(() => ram.slice(MIB, 1), RangeError);
});
