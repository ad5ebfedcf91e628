import assert from "node:assert/strict";
import { openDisk } from "../../storage/open.ts";
import { VirtioBlock } from "./block.ts";
import { TestMachine, VirtioDriver } from "./testing.ts";

for (const layout of ["split", "packed"] as const) {
  Deno.test(`block over a file, ${layout}: what the guest wrote is in the file, holes where it discarded`, async () => {
    const path = await Deno.makeTempFile({ suffix: ".img" });
    const size = 8 << 20;
    const content = crypto.getRandomValues(new Uint8Array(65536));
    await Deno.truncate(path, size);
    const disk = openDisk({ path });
    try {
      const machine = new TestMachine();
      const block = new VirtioBlock(machine.file, {
        wake: machine.wake,
        capacity: disk.size,
        readonly: false,
        discardable: disk.discardable,
        serial: "FILE",
      });
      machine.add(block, 1);
      machine.start();
      block.attach({ memory: machine.memory, report: machine.report, disk });
      const driver = new VirtioDriver(machine, 1);
      driver.start(layout, 64, 1, [9, 13, 14]);
      const request = (type: number, sector: number, address: number, length: number, write: boolean) => {
        const header = machine.allocate(32);
        machine.memory.view.setUint32(header, type, true);
        machine.memory.view.setUint32(header + 8, sector, true);
        machine.memory.bytes[header + 16] = 0xee;
        // Pieces of all sizes, so that the file sees real vectors.
        const pieces = [{ address: header, length: 16 }];
        for (let at = 0; at < length;) {
          const part = Math.min(length - at, 512 * (1 + (at / 512) % 7));
          pieces.push({ address: address + at, length: part, write } as typeof pieces[0]);
          at += part;
        }
        pieces.push({ address: header + 16, length: 1, write: true } as typeof pieces[0]);
        driver.queues[0].offer(pieces, true);
        while (block.service());
        return machine.memory.bytes[header + 16];
      };
      const from = machine.allocate(content.length, 512);
      machine.memory.bytes.set(content, from);
      assert.equal(request(1, 100, from, content.length, false), 0);
      assert.equal(request(1, size / 512 - 128, from, content.length, false), 0);
      assert.equal(request(4, 0, 0, 0, false), 0);
      const file = await Deno.readFile(path);
      assert.deepEqual(file.subarray(51200, 51200 + content.length), content);
      assert.deepEqual(file.subarray(size - content.length), content);
      const to = machine.allocate(content.length, 512);
      assert.equal(request(0, 100, to, content.length, true), 0);
      assert.deepEqual(machine.memory.bytes.slice(to, to + content.length), content);
      assert.equal(request(0, size / 512 - 127, to, content.length, true), 1, "one sector too far");
      if (disk.discardable) {
        const before = (await Deno.stat(path)).blocks!;
        const segment = machine.allocate(16);
        machine.memory.view.setUint32(segment, 104, true);
        machine.memory.view.setUint32(segment + 8, 112, true);
        assert.equal(request(11, 0, segment, 16, false), 0);
        assert.ok((await Deno.stat(path)).blocks! < before, "space was given back");
        assert.equal(request(0, 104, to, 512 * 112, true), 0);
        assert.ok(machine.memory.bytes.subarray(to, to + 512 * 112).every((b) => b === 0));
      }
      assert.deepEqual(machine.reports, []);
      assert.equal(machine.guardsIntact(), true);
    } finally {
      disk.close();
      await Deno.remove(path);
    }
  });
}
