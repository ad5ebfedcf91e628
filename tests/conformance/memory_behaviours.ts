/** Memory: read-only, removed, released, dirty pages, doorbells. */
import assert from "node:assert/strict";
import { at } from "./assembler.ts";
import { type Behaviour, hexOf, Skip, withGuest } from "./behaviour.ts";
import { EXTRA_OFFSET, EXTRA_SIZE, type Guest, Layout } from "./guest.ts";

const WHERE = 0xc_0000;
const extra = (readonly: boolean) => ({ guestAddress: WHERE, offset: EXTRA_OFFSET, size: EXTRA_SIZE, readonly });
const MARK = 0x1122_3344;

function dirtyPages(guest: Guest): number[] {
  const bitmap = new Uint8Array(Layout.RAM_SIZE / 4096 / 8);
  guest.partition.dirtyPages!.take(guest.ram, bitmap);
  const pages: number[] = [];
  for (let page = 0; page < bitmap.length * 8; page++) if (bitmap[page >> 3] & (1 << (page & 7))) pages.push(page);
  // A walk of page tables counts as a write on AMD's nested paging (APM vol. 2, 15.25.5).
  const [first, end] = [Layout.PAGE_TABLES >> 12, (Layout.PAGE_TABLES >> 12) + 7];
  return pages.filter((page) => page < first || page >= end);
}

export const memoryBehaviours: Behaviour[] = [{
  name: "guest memory begins zeroed and is the host's",
  run: (subject) =>
    withGuest(subject, async (guest) => {
      guest.view.setUint32(Layout.DATA, MARK, true);
      const { log } = await guest.run(64, (code) => {
        code.mov("eax", at({ displacement: Layout.DATA })).out(0x80, "eax");
        code.mov("eax", at({ displacement: 0x5_0000 })).out(0x80, "eax");
        code.mov(at({ displacement: 0x5_1000, size: 4 }), 0x7777_1111);
      });
      assert.deepEqual(log, [`out 0x80 ${hexOf(MARK, 4)}`, "out 0x80 00000000"]);
      assert.equal(guest.view.getUint32(0x5_1000, true), 0x7777_1111);
    }),
}, {
  name: "read-only memory: loads are served, stores leave, the bytes stay",
  run: (subject) =>
    withGuest(subject, async (guest) => {
      guest.view.setUint32(EXTRA_OFFSET + 0x10, MARK, true);
      guest.partition.mapMemory(extra(true));
      const { log } = await guest.run(64, (code) => {
        code.mov("eax", at({ displacement: WHERE + 0x10 })).out(0x80, "eax");
        code.mov(at({ displacement: WHERE + 0x10, size: 4 }), 5);
        code.mov("eax", at({ displacement: WHERE + 0x10 })).out(0x80, "eax");
      });
      assert.deepEqual(log, [
        `out 0x80 ${hexOf(MARK, 4)}`,
        `write 0x${(WHERE + 0x10).toString(16)} 05000000`,
        `out 0x80 ${hexOf(MARK, 4)}`,
      ]);
    }),
}, {
  name: "removed memory is memory I/O, and memory again when mapped again",
  run: (subject) =>
    withGuest(subject, async (guest) => {
      guest.view.setUint32(EXTRA_OFFSET, MARK, true);
      const load = () =>
        guest.run(64, (code) => code.mov("eax", at({ displacement: WHERE })).out(0x80, "eax"), {
          answers: [1, 2, 3, 4],
        });
      guest.partition.mapMemory(extra(false));
      assert.deepEqual((await load()).log, [`out 0x80 ${hexOf(MARK, 4)}`]);
      guest.partition.unmapMemory(extra(false));
      assert.deepEqual((await load()).log, [`read 0x${WHERE.toString(16)} 4`, "out 0x80 01020304"]);
      guest.partition.mapMemory(extra(false));
      assert.deepEqual((await load()).log, [`out 0x80 ${hexOf(MARK, 4)}`]);
    }),
}, {
  name: "regions that are not whole pages, or not there, are refused",
  run: (subject) =>
    withGuest(subject, (guest) => {
      const { partition } = guest;
      assert.throws(() => partition.mapMemory({ guestAddress: WHERE + 1, offset: 0, size: 4096 }));
      assert.throws(() => partition.mapMemory({ guestAddress: WHERE, offset: 0, size: 100 }));
      assert.throws(() => partition.mapMemory({ guestAddress: WHERE, offset: EXTRA_OFFSET, size: EXTRA_SIZE + 4096 }));
      assert.throws(() => partition.mapMemory({ guestAddress: 0x1000, offset: EXTRA_OFFSET, size: 4096 }), "overlap");
      assert.throws(() => partition.unmapMemory(extra(false)));
      return Promise.resolve();
    }),
}, {
  name: "dirty pages are exactly those the guest wrote, once (page tables aside)",
  run: (subject) =>
    withGuest(subject, async (guest) => {
      if (!guest.partition.dirtyPages) throw new Skip("the platform cannot tell which pages were written");
      const write = (...addresses: number[]) =>
        guest.run(64, (code) => {
          for (const address of addresses) code.mov(at({ displacement: address, size: 4 }), 1);
          code.mov("eax", at({ displacement: 0x4_0000 }));
        });
      await write(0x3_0000);
      guest.partition.dirtyPages.track(true);
      dirtyPages(guest);
      await write(0x3_1000, 0x3_5ffc, 0x9_f000);
      assert.deepEqual(dirtyPages(guest), [0x31, 0x35, 0x9f]);
      assert.deepEqual(dirtyPages(guest), []);
      await write(0x3_1000, 0x3_2000 - 2);
      assert.deepEqual(dirtyPages(guest), [0x31, 0x32]);
      guest.partition.dirtyPages.track(false);
    }),
}, {
  name: "released memory reads as zeroes",
  run: (subject) =>
    withGuest(subject, async (guest) => {
      if (!guest.partition.releaseMemory) throw new Skip("the host takes nothing back");
      guest.view.setUint32(0x5_0000, MARK, true);
      guest.partition.releaseMemory(0x5_0000, 4096);
      const { log } = await guest.run(64, (code) => {
        code.mov("eax", at({ displacement: 0x5_0000 })).out(0x80, "eax");
        code.mov(at({ displacement: 0x5_0004, size: 4 }), 9);
      });
      assert.deepEqual(log, ["out 0x80 00000000"]);
      assert.equal(guest.view.getUint32(0x5_0004, true), 9);
    }),
}, {
  name: "a doorbell wakes its Worker and the write does not leave the guest",
  run: (subject) =>
    withGuest(subject, async (guest) => {
      const { doorbells } = guest.partition;
      if (!doorbells) throw new Skip("no doorbells here");
      const any = guest.partition.createWaker();
      const matched = guest.partition.createWaker();
      doorbells.add(Layout.MMIO, 0, -1, any);
      doorbells.add(Layout.MMIO + 0x100, 2, 7, matched);
      assert.equal(any.wait(0), false);
      const ring = () =>
        guest.run(64, (code) => {
          code.mov(at({ displacement: Layout.MMIO, size: 2 }), 1);
          code.mov(at({ displacement: Layout.MMIO + 0x100, size: 2 }), 6);
          code.mov(at({ displacement: Layout.MMIO + 0x100, size: 2 }), 7);
        });
      assert.deepEqual((await ring()).log, ["write 0xd0100 0600"]);
      assert.equal(any.wait(1000), true);
      assert.equal(any.wait(0), false);
      assert.equal(matched.wait(1000), true);
      doorbells.remove(Layout.MMIO, 0, -1, any);
      doorbells.remove(Layout.MMIO + 0x100, 2, 7, matched);
      assert.equal((await ring()).log.length, 3);
    }),
}, {
  name: "a waker remembers a ring and keeps its time",
  run: (subject) =>
    withGuest(subject, (guest) => {
      const waker = guest.partition.createWaker();
      const attached = guest.partition.attachWaker(waker.handle);
      attached.wake();
      attached.wake();
      assert.equal(waker.wait(-1), true);
      const start = performance.now();
      assert.equal(waker.wait(20), false);
      assert.ok(performance.now() - start >= 19);
      return Promise.resolve();
    }),
}];
