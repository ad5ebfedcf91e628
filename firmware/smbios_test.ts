import assert from "node:assert/strict";
import { needs } from "../tests/skip.ts";
import { buildSmbios, type SmbiosInfo } from "./smbios.ts";

const GIB = 2 ** 30;
const UUID = Uint8Array.from({ length: 16 }, (_, index) => index * 0x11);
const INFO: SmbiosInfo = { version: "0.1.0", cpus: 4, lowMemory: 3 * GIB, highMemory: GIB, uuid: UUID };

function hasDmidecode(): boolean {
  try {
    return new Deno.Command("dmidecode", { args: ["--version"], stdout: "null", stderr: "null" }).outputSync().success;
  } catch {
    return false;
  }
}

/** What dmidecode says of the tables; a dump has the structures at 20h and an entry point that says so. */
async function decode(info: SmbiosInfo): Promise<string> {
  const { bytes } = buildSmbios(info, 0);
  const file = await Deno.makeTempFile({ prefix: "hv-smbios-" });
  try {
    await Deno.writeFile(file, bytes);
    const { stdout, stderr, success } = await new Deno.Command("dmidecode", { args: ["--from-dump", file] }).output();
    assert.ok(success);
    const decoder = new TextDecoder();
    // dmidecode repeats the file's name, and a random name can spell a word of complaint: "bad" is hexadecimal.
    return (decoder.decode(stdout) + decoder.decode(stderr)).replaceAll(file, "the dump");
  } finally {
    await Deno.remove(file);
  }
}

Deno.test("SMBIOS: the entry point has a right checksum and leads to the structures", () => {
  const { bytes, entryAddress } = buildSmbios(INFO, 0xf_0000);
  const view = new DataView(bytes.buffer);
  assert.equal(entryAddress, 0xf_0000);
  assert.equal(new TextDecoder().decode(bytes.subarray(0, 5)), "_SM3_");
  assert.equal(bytes.subarray(0, bytes[6]).reduce((sum, byte) => (sum + byte) & 0xff, 0), 0);
  const start = Number(view.getBigUint64(16, true)) - 0xf_0000;
  assert.equal(start + view.getUint32(12, true), bytes.length);
  assert.deepEqual([bytes[start], bytes[start + 1]], [0, 26]);
  assert.deepEqual([...bytes.subarray(-6)], [127, 4, 0, 0x7f, 0, 0]);
  assert.throws(() => buildSmbios(INFO, 0xf_0008), RangeError);
});

const tests: [string, Partial<SmbiosInfo>, RegExp[]][] = [
  ["memory on both sides of the hole", {}, [
    /SMBIOS 3\.4\.0 present/,
    /UUID: 00112233-4455-6677-8899-aabbccddeeff/,
    /System is a virtual machine/,
    /Core Count: 4\n/,
    /Size: 4 GB/,
    /Ending Address: 0x0*BFFFFFFFk\n\tRange Size: 3 GB/,
    /Starting Address: 0x0*100000000k\n\tEnding Address: 0x0*13FFFFFFFk\n\tRange Size: 1 GB/,
    /System Boot Information\n\tStatus: No errors detected/,
    /End Of Table/,
  ]],
  ["little memory, one processor", { cpus: 1, lowMemory: 64 * 2 ** 20, highMemory: 0 }, [
    /Core Count: 1\n/,
    /Size: 64 MB/,
    /Range Size: 64 MB/,
  ]],
  ["more memory and processors than the older fields hold", { cpus: 300, highMemory: 61 * GIB }, [
    /Core Count: 300\n/,
    /Size: 64 GB/,
    /Maximum Capacity: 64 GB/,
    /Range Size: 61 GB/,
  ]],
];
for (const [title, change, expected] of tests) {
  Deno.test({
    name: `dmidecode reads SMBIOS without complaint: ${title}`,
    ignore: needs(hasDmidecode(), "dmidecode on SMBIOS tables", "install dmidecode"),
    fn: async () => {
      const text = await decode({ ...INFO, ...change });
      assert.doesNotMatch(text, /BAD|OUT OF SPEC|broken|truncated|wrong|invalid|Unknown type/i);
      for (const pattern of expected) assert.match(text, pattern);
    },
  });
}
