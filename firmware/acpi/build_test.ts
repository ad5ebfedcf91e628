import assert from "node:assert/strict";
import { needs } from "../../tests/skip.ts";
import { buildAcpi } from "./build.ts";
import type { PcLayout } from "./layout.ts";
import { SAMPLE } from "./sample_layout.ts";

const BASE = 0xe_0000;

const sum = (bytes: Uint8Array) => bytes.reduce((total, byte) => (total + byte) & 0xff, 0);

async function run(command: string, args: string[], cwd: string): Promise<string> {
  const { stdout, stderr } = await new Deno.Command(command, { args, cwd, stdin: "null" }).output();
  return new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
}

const installed = (command: string) => {
  try {
    return new Deno.Command(command, { args: ["-v"], stdout: "null", stderr: "null" }).outputSync().code !== 127;
  } catch {
    return false;
  }
};
const ACPICA = installed("iasl") && installed("acpiexec");

const LAYOUTS: Record<string, PcLayout> = {
  "everything": SAMPLE,
  "the least": {
    ...SAMPLE,
    cpus: 1,
    overrides: [],
    pmTimer: { port: 0x608, bits: 24 },
    gpe0: null,
    serialPorts: [],
    reservedPorts: [],
    pvpanicPort: null,
    hpet: null,
    virtioMmio: [],
  },
  "300 processors": { ...SAMPLE, cpus: 300 },
};

Deno.test("ACPI tables lead from the RSDP to each other, with right checksums", () => {
  const { bytes, rsdpAddress, tables } = buildAcpi(SAMPLE, BASE);
  const view = new DataView(bytes.buffer);
  const signatureAt = (address: number) => new TextDecoder().decode(bytes.subarray(address - BASE, address - BASE + 4));

  assert.equal(rsdpAddress, BASE);
  assert.equal(sum(bytes.subarray(0, 20)), 0);
  assert.equal(sum(bytes.subarray(0, 36)), 0);
  const xsdt = Number(view.getBigUint64(24, true)) - BASE;
  const addresses = Array.from(
    { length: (view.getUint32(xsdt + 4, true) - 36) / 8 },
    (_, index) => Number(view.getBigUint64(xsdt + 36 + 8 * index, true)),
  );
  assert.deepEqual(addresses.map(signatureAt), ["FACP", "APIC", "MCFG", "HPET", "SPCR"]);
  const fadt = addresses[0] - BASE;
  assert.equal(signatureAt(view.getUint32(fadt + 36, true)), "FACS");
  assert.equal(view.getUint32(fadt + 36, true) % 64, 0);
  assert.equal(signatureAt(view.getUint32(fadt + 40, true)), "DSDT");
  for (const [signature, { offset, length }] of Object.entries(tables)) {
    if (signature !== "FACS") assert.equal(sum(bytes.subarray(offset, offset + length)), 0, signature);
  }
});

for (const [title, layout] of Object.entries(LAYOUTS)) {
  Deno.test({
    name: `iasl takes every ACPI table without a warning and gives the same bytes back: ${title}`,
    ignore: needs(ACPICA, "iasl on ACPI tables", "install acpica-tools"),
    fn: async () => {
      const folder = await Deno.makeTempDir({ prefix: "hv-acpi-" });
      try {
        const { bytes, tables } = buildAcpi(layout, BASE);
        for (const [signature, { offset, length }] of Object.entries(tables)) {
          // iasl knows no RSDP outside a whole memory image.
          if (signature === "RSDP") continue;
          const table = bytes.subarray(offset, offset + length);
          await Deno.writeFile(`${folder}/${signature}.dat`, table);
          const taken = await run("iasl", ["-d", `${signature}.dat`], folder);
          assert.doesNotMatch(taken, /warning|error|invalid|unknown|incorrect/i);
          const source = await Deno.readTextFile(`${folder}/${signature}.dsl`);
          assert.doesNotMatch(source, /warning|invalid|unknown|incorrect/i);
          const compiled = await run("iasl", ["-p", "again", `${signature}.dsl`], folder);
          assert.match(compiled, /0 Errors, 0 Warnings, 0 Remarks/, `${signature}\n${compiled}`);
          const again = await Deno.readFile(`${folder}/again.aml`);
          // The compiler puts its own name and revision into the header; the checksum follows.
          for (const copy of [table, again]) if (signature !== "FACS") copy.fill(0, 28, 36)[9] = 0;
          assert.deepEqual(again, table, signature);
        }
      } finally {
        await Deno.remove(folder, { recursive: true });
      }
    },
  });
}

Deno.test({
  name: "ACPICA's interpreter runs the DSDT: routing, resources, _OSC",
  ignore: needs(ACPICA, "acpiexec on the DSDT", "install acpica-tools"),
  fn: async () => {
    const folder = await Deno.makeTempDir({ prefix: "hv-acpi-" });
    try {
      const { bytes, tables } = buildAcpi(SAMPLE, BASE);
      const { offset, length } = tables.DSDT;
      await Deno.writeFile(`${folder}/DSDT.dat`, bytes.subarray(offset, offset + length));
      const execute = (command: string) => run("acpiexec", ["-b", command, "DSDT.dat"], folder);

      const bridge = await execute("resources \\_SB.PCI0");
      // Device 5, INTC#: (5 + 2) % 4 gives the last of GSI 16 to 19.
      assert.match(
        bridge,
        /Address : 000000000005FFFF\s+Pin : 0{7}2\s+Source : \[NULL NAMESTRING\]\s+Source Index : 0*13/,
      );
      assert.match(bridge, /QWord|64-Bit/i);
      const all = await execute("resources *");
      // No device's resources can be set (_SRS), which acpiexec tries on every one.
      const failures = all.split("\n").filter((line) => /AE_|fail|error|warning/i.test(line));
      assert.deepEqual(failures.filter((line) => line !== "AcpiSetCurrentResources failed: AE_NOT_FOUND"), []);

      // Buffers as acpiexec reads them: UUID, revision 1, 3 dwords (query; what is supported; all control wanted).
      const uuid = "(5B 4D DB 33 F7 1F 1C 40 96 57 74 41 C0 3D D7 66)";
      const request = "(01 00 00 00 1F 00 00 00 1F 00 00 00)";
      const granted = await execute(`evaluate \\_SB.PCI0._OSC ${uuid} 1 3 ${request}`);
      assert.match(granted, /0000: 01 00 00 00 1F 00 00 00 1F 00 00 00/, granted);
      const stranger = await execute(`evaluate \\_SB.PCI0._OSC ${uuid.replace("5B", "5C")} 1 3 ${request}`);
      assert.match(stranger, /0000: 05 00 00 00 1F/, stranger);
      const future = await execute(`evaluate \\_SB.PCI0._OSC ${uuid} 2 3 ${request}`);
      assert.match(future, /0000: 09 00 00 00 1F/, future);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});

Deno.test("ACPI: FADT, MADT and MCFG say what the layout says", () => {
  const { bytes, tables } = buildAcpi({ ...SAMPLE, cpus: 256 }, BASE);
  const view = (signature: string) => new DataView(bytes.buffer, tables[signature].offset, tables[signature].length);

  const fadt = view("FACP");
  assert.equal(fadt.getUint16(46, true), 9);
  assert.equal(fadt.getUint32(112, true) >> 20 & 1, 0, "not hardware-reduced");
  assert.equal(fadt.getUint32(112, true) >> 10 & 1, 1, "the reset register works");
  assert.equal(fadt.getUint32(112, true) >> 8 & 1, 1, "the timer has 32 bits");
  assert.equal(Number(fadt.getBigUint64(120, true)), 0xcf9);
  assert.equal(fadt.getUint8(128), 6);
  for (const [legacy, extended, port] of [[56, 148, 0x600], [64, 172, 0x604], [76, 208, 0x608], [80, 220, 0x620]]) {
    assert.equal(fadt.getUint32(legacy, true), port);
    assert.equal(Number(fadt.getBigUint64(extended + 4, true)), port);
  }

  const madt = view("APIC");
  const entries: Record<number, number> = {};
  let at = 44;
  for (; at < madt.byteLength; at += madt.getUint8(at + 1)) {
    entries[madt.getUint8(at)] = (entries[madt.getUint8(at)] ?? 0) + 1;
  }
  assert.equal(at, madt.byteLength);
  // 255 local APICs (ids 0 to 254) and one x2APIC, IOAPIC, two overrides, both kinds of LINT1.
  assert.deepEqual(entries, { 0: 255, 9: 1, 1: 1, 2: 2, 4: 1, 10: 1 });

  const mcfg = view("MCFG");
  assert.equal(Number(mcfg.getBigUint64(44, true)), 0xe000_0000);
  assert.deepEqual([mcfg.getUint8(54), mcfg.getUint8(55)], [0, 255]);
});

Deno.test("ACPI tables refuse an address that would put FACS out of line", () => {
  assert.throws(() => buildAcpi(SAMPLE, BASE + 16), RangeError);
});
