import assert from "node:assert/strict";
import { EscapeFilter } from "./escape.ts";

function type(...chunks: string[]): { typed: string; commands: string[] } {
  const commands: string[] = [];
  const filter = new EscapeFilter((key) => commands.push(key));
  const typed = chunks.map((chunk) => new TextDecoder().decode(filter.feed(new TextEncoder().encode(chunk)))).join("");
  return { typed, commands };
}

const cases: [string[], string, string[]][] = [
  [["ls -l\r", "\x03"], "ls -l\r\x03", []],
  [["ab\x1dqcd"], "abcd", ["q"]],
  [["ab\x1d", "P", "cd"], "abcd", ["p"]],
  [["\x1d\x1d"], "\x1d", []],
  [["\x1d", "\x1dq"], "\x1dq", []],
  [["\x1d?\x1d\x1d\x1dx"], "\x1d", ["?", "x"]],
  [["\x1d"], "", []],
];
for (const [chunks, typed, commands] of cases) {
  Deno.test(`escape: ${JSON.stringify(chunks)}`, () => {
    assert.deepEqual(type(...chunks), { typed, commands });
  });
}
