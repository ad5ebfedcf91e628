/**
 * The software CPU outside 64-bit mode, by the 32-bit system guest. Virtual-8086 mode and task switches are compared with
 * QEMU's TCG, limits of segments, which TCG does not look at, with what the manual's rules give.
 */
import assert from "node:assert/strict";
import { needs } from "../skip.ts";
import { buildSystemGuest, missing, traceOfOurs, traceOfQemu } from "./system_guest.ts";

const reason = missing();
const ignore = needs(reason === null, "software CPU, 32-bit guest", reason ?? "");

/** Where the instructions of `run_code` begin, and where the last one ends. */
const BOUNDARIES = [0, 1, 6, 7, 11, 13, 20, 21, 22];
/** The one that branches, to the next. */
const BRANCH = 11;

/** Running into the limit: the first instruction that does not fit faults, or the branch that leads to it. */
function fetchLine(label: string, limit: number): string {
  const name = `${label} +${(limit >>> 0).toString(16)}`;
  if (limit < 0) return `${name} #d/0 from 0`;
  const next = BOUNDARIES.findIndex((_, i) => BOUNDARIES[i + 1] > limit + 1);
  if (next < 0) return `${name} ok`;
  const branches = BOUNDARIES[next - 1] === BRANCH && BOUNDARIES[next] > limit;
  return `${name} #d/0 at ${(branches ? BRANCH : BOUNDARIES[next]).toString(16)}`;
}

const words = (count: number, first: number, step: number) =>
  Array.from({ length: count }, (_, i) => [first + i * step, 4]);
/** Accesses to the stack, from ESP on: offset and bytes. Those with a `then` end in another fault. */
const STACK: { name: string; accesses: number[][]; then?: string }[] = [
  { name: "push", accesses: [[-4, 4]] },
  { name: "push16", accesses: [[-2, 2]] },
  { name: "pop", accesses: [[0, 4]] },
  { name: "pusha", accesses: words(8, -4, -4) },
  { name: "popa", accesses: words(8, 0, 4) },
  { name: "call", accesses: [[-4, 4]] },
  { name: "pushf", accesses: [[-4, 4]] },
  // And the new ESP must be one that can be stored to.
  { name: "enter", accesses: [[-4, 4], [-12, 4]] },
  { name: "leave", accesses: [[0, 4]] },
  // To a null selector.
  { name: "lret", accesses: words(2, 0, 4), then: "#d/0" },
  { name: "iret", accesses: words(3, 0, 4), then: "#d/0" },
  // To code that uses a null DS.
  { name: "lcall", accesses: words(2, -4, -4), then: "#d/0" },
  { name: "mov", accesses: [[0, 4]] },
  { name: "mov ebp", accesses: [[0, 4]] },
  { name: "push es", accesses: [[-4, 4]] },
  { name: "pop es", accesses: [[0, 4]] },
];
/** ESP less the end of the segment. */
const DISTANCES = [-8, -4, -2, 0, 2, 4, 8];

function stackLines(): string[] {
  const lines: string[] = [];
  for (const down of [false, true]) {
    for (const { name, accesses, then } of STACK) {
      const results = DISTANCES.map((distance) => {
        const outside = accesses.some(([offset, bytes]) =>
          down ? distance + offset < 0 : distance + offset + bytes > 0
        );
        return outside ? "#c/0" : then ?? "ok";
      });
      lines.push(`${down ? "down" : "up"} ${name} ${results.join(" ")}`);
    }
  }
  return lines;
}

const countdown = (from: number, to: number) => Array.from({ length: from - to + 1 }, (_, i) => from - i);

/** Where TCG (7.2) is not right: the end of the line as it must be, and the section of the SDM that says so. */
const DIFFERENT: Record<string, { end: string; because: string }> = {
  "gate to db ": { end: "#d/30", because: "vol. 2, INT: from virtual-8086 mode to code of a DPL that is not 0" },
  "call gate to the ldt ": {
    end: "#d/44 tr 28 nt 0 if 0 ts 0 ldt 0 main 8b task 89 16 81",
    because: "vol. 2, CALL: a task gate's selector with TI",
  },
};

Deno.test({
  name: "soft: virtual-8086 mode and hardware task switches are as on QEMU's TCG",
  ignore,
  fn: async () => {
    const image = await buildSystemGuest("legacy");
    const [theirs, ours] = await Promise.all([traceOfQemu(image), traceOfOurs(image, "")]);
    const expected = theirs.split("\n").map((line) => {
      // Vol. 3, table 8-1: a new task's stack that is not present is #SS.
      if (line.startsWith("ss rpl ")) return line.replaceAll("#b/", "#c/");
      const known = Object.keys(DIFFERENT).find((label) => line.startsWith(label));
      return known ? line.replace(/#[0-9a-f]+\/.*$/, DIFFERENT[known].end) : line;
    });
    assert.ok(expected.length > 150 && theirs.length > 20_000, "a short trace");
    const seen = ours.split("\n");
    const different = expected.flatMap((line, i) => line === seen[i] ? [] : [`TCG:  ${line}\nours: ${seen[i]}`]);
    assert.deepEqual(different, []);
    assert.equal(seen.length, expected.length);
  },
});

Deno.test({
  name: "soft: limits of data, code and stack segments, expand-down ones as well",
  ignore,
  fn: async () => {
    const lines = (await traceOfOurs(await buildSystemGuest("legacy"), "s")).trimEnd().split("\n");
    const [, cases] = /^data limits cases ([0-9a-f]+) wrong 0$/.exec(lines[0]) ?? [];
    assert.ok(parseInt(cases, 16) > 10_000, lines.slice(0, 5).join("\n"));
    assert.deepEqual(lines.slice(1), [
      ...countdown(22, -1).map((limit) => fetchLine("fetch", limit)),
      ...countdown(22, -1).map((limit) => fetchLine("again", limit)),
      ...countdown(11, -1).reverse().map((limit) => fetchLine("base", limit)),
      fetchLine("base", 100),
      // SDM vol. 2, JMP, Jcc, CALL, RET, LOOP: the branch faults, with its registers as they were.
      "jmp #d/0 at 0",
      "jz taken #d/0 at 2",
      "jz not taken ok",
      "call #d/0 at 0",
      "jmp register #d/0 at 5",
      "call register #d/0 at 5",
      "ret #d/0 at 5",
      "loop #d/0 at 5 ecx 2",
      // So do far transfers.
      "far jmp #d/0 cs 8",
      "far call #d/0 cs 8",
      "lret #d/0 cs 8",
      "iret #d/0 cs 8",
      "int #d/0 cs 8",
      "16-bit ok",
      "over the end #d/0 at ffff",
      "32-bit jump #d/0 at ff00",
      "16-bit jump ok",
      ...stackLines(),
      // Vol. 3, 8.2.1 and 18.2.3.
      "trap #1 dr6 ffff8ff0 at 0",
      "end",
    ]);
  },
});
