/** Ports: every width, both ways, alone and repeated. */
import assert from "node:assert/strict";
import { type Behaviour, bytesOf, hexOf, MODES, withGuest } from "./behaviour.ts";
import { Layout, type Mode } from "./guest.ts";

const REGISTERS = { 1: "al", 2: "ax", 4: "eax" } as const;
const WIDTHS = [1, 2, 4] as const;
const accumulator = (bits: Mode) => bits === 64 ? "rax" : "eax";

export const portBehaviours: Behaviour[] = [];

for (const bits of MODES) {
  portBehaviours.push({
    name: `port writes of every width, ${bits}-bit code`,
    run: (subject) =>
      withGuest(subject, async (guest) => {
        const { log } = await guest.run(bits, (code) => {
          code.mov("eax", 0x8877_6655);
          for (const width of WIDTHS) code.out(0x80 + width, REGISTERS[width]);
          code.mov("edx", 0xfff8);
          for (const width of WIDTHS) code.out("dx", REGISTERS[width]);
        });
        assert.deepEqual(log, [
          "out 0x81 55",
          "out 0x82 5566",
          "out 0x84 55667788",
          "out 0xfff8 55",
          "out 0xfff8 5566",
          "out 0xfff8 55667788",
        ]);
      }),
  }, {
    name: `port reads of every width leave the other bits alone, ${bits}-bit code`,
    run: (subject) =>
      withGuest(subject, async (guest) => {
        const register = accumulator(bits);
        const { log } = await guest.run(bits, (code) => {
          WIDTHS.forEach((width, i) => {
            code.mov(register, bits === 64 ? 0x1122_3344_5566_7788n : 0x5566_7788).in(REGISTERS[width], 0x80 + width);
            code.mov({ displacement: Layout.DATA + i * 8 }, register);
          });
        }, { answers: [0xa1, 0xb1, 0xb2, 0xc1, 0xc2, 0xc3, 0xc4] });
        assert.deepEqual(log, ["in 0x81 1", "in 0x82 2", "in 0x84 4"]);
        const high = bits === 64 ? 0x1122_3344n << 32n : 0n;
        // 32-bit results clear the upper half (SDM vol. 1, 3.4.1.1).
        const expected = [high | 0x5566_77a1n, high | 0x5566_b2b1n, 0xc4c3_c2c1n];
        expected.forEach((value, i) => assert.equal(guest.view.getBigUint64(Layout.DATA + i * 8, true), value));
      }),
  });
  for (const width of WIDTHS) {
    portBehaviours.push({
      name: `rep outs of ${width} bytes, ${bits}-bit code`,
      run: (subject) =>
        withGuest(subject, async (guest) => {
          const count = 5;
          for (let i = 0; i < count * width; i++) guest.bytes[Layout.DATA + i] = i + 1;
          const { log } = await guest.run(bits, (code) => {
            code.mov("edx", 0x1234).mov("ecx", count).mov("esi", Layout.DATA).string("outs", width, true);
            code.mov({ displacement: Layout.DATA + 0x100 }, "esi").mov({ displacement: Layout.DATA + 0x104 }, "ecx");
          });
          assert.deepEqual(
            log,
            Array.from({ length: count }, (_, n) =>
              "out 0x1234 " +
              Array.from({ length: width }, (_, i) => (n * width + i + 1).toString(16).padStart(2, "0")).join("")),
          );
          assert.equal(guest.view.getUint32(Layout.DATA + 0x100, true), Layout.DATA + count * width);
          assert.equal(guest.view.getUint32(Layout.DATA + 0x104, true), 0);
        }),
    }, {
      name: `rep ins of ${width} bytes, ${bits}-bit code`,
      run: (subject) =>
        withGuest(subject, async (guest) => {
          const count = 6;
          const answers = Array.from({ length: count * width }, (_, i) => 0x40 + i);
          const { log } = await guest.run(bits, (code) => {
            code.mov("edx", 0x1234).mov("ecx", count).mov("edi", Layout.DATA).string("ins", width, true);
            code.mov({ displacement: Layout.DATA + 0x100 }, "edi");
          }, { answers });
          assert.equal(log.length, count);
          assert.ok(log.every((line) => line === `in 0x1234 ${width}`));
          assert.deepEqual([...guest.bytes.subarray(Layout.DATA, Layout.DATA + answers.length)], answers);
          assert.equal(guest.view.getUint32(Layout.DATA + 0x100, true), Layout.DATA + answers.length);
        }),
    });
  }
}

portBehaviours.push({
  name: "rep ins of 3000 bytes across pages keeps their order",
  run: (subject) =>
    withGuest(subject, async (guest) => {
      const answers = Array.from({ length: 3000 }, (_, i) => (i * 7) & 0xff);
      const to = 0x3_0c00;
      await guest.run(64, (code) => {
        code.mov("edx", 0x99).mov("ecx", answers.length).mov("edi", to).string("ins", 1, true);
      }, { answers });
      assert.deepEqual([...guest.bytes.subarray(to, to + answers.length)], answers);
      assert.equal(guest.bytes[to + answers.length], 0);
    }),
}, {
  name: "single ins and outs move their pointers",
  run: (subject) =>
    withGuest(subject, async (guest) => {
      guest.view.setUint32(Layout.DATA, 0x0403_0201, true);
      const { log } = await guest.run(64, (code) => {
        code.mov("edx", 0x70).mov("esi", Layout.DATA).mov("edi", Layout.DATA + 8);
        code.string("outs", 4).string("ins", 2);
        code.mov({ displacement: Layout.DATA + 0x10 }, "rsi").mov({ displacement: Layout.DATA + 0x18 }, "rdi");
      }, { answers: bytesOf(0xbbaa, 2) });
      assert.deepEqual(log, [`out 0x70 ${hexOf(0x0403_0201, 4)}`, "in 0x70 2"]);
      assert.equal(guest.view.getUint16(Layout.DATA + 8, true), 0xbbaa);
      assert.equal(guest.view.getUint32(Layout.DATA + 0x10, true), Layout.DATA + 4);
      assert.equal(guest.view.getUint32(Layout.DATA + 0x18, true), Layout.DATA + 10);
    }),
});
