/** Partition tables made by sfdisk and sgdisk, then damaged. */
import assert from "node:assert/strict";
import { crc32 } from "node:zlib";
import { needs } from "../tests/skip.ts";
import { partitionSource, readPartitions } from "./partitions.ts";
import { feed, has, makeFile, MemorySource, random, run, TemporaryFolder } from "./test_support.ts";

const MIB = 1 << 20;

async function sfdisk(folder: TemporaryFolder, script: string, size = 16 * MIB): Promise<Uint8Array> {
  const path = makeFile(folder.file("disk"), size);
  await feed(script, "sfdisk", "--quiet", path);
  return Deno.readFileSync(path);
}

/** What sfdisk itself reads, in bytes. */
function sfdiskRows(path: string): { start: number; size: number; type: string; uuid?: string; name?: string }[] {
  const { partitiontable } = JSON.parse(run("sfdisk", "--json", path));
  const sector = partitiontable.sectorsize ?? 512;
  return (partitiontable.partitions ?? []).map((p: any) => ({
    start: p.start * sector,
    size: p.size * sector,
    type: p.type.length > 2 ? p.type.toLowerCase() : "0x" + p.type.padStart(2, "0"),
    uuid: p.uuid?.toLowerCase(),
    name: p.name,
  }));
}

const GPT = `label: gpt
label-id: 11111111-2222-3333-4444-555555555555
size=1M, type=21686148-6449-6E6F-744E-656564454649
size=4M, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name="EFI System", uuid=AAAAAAAA-BBBB-CCCC-DDDD-EEEEEEEEEEEE
type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name="Wurzel ü", attrs="LegacyBIOSBootable"
`;
const MBR = `label: dos
label-id: 0xc0ffee42
size=2M, type=83, bootable
size=1M, type=ef
type=5
size=1M, type=83
size=2M, type=82
size=1M, type=8e
`;

const ignore = needs(has("sfdisk"), "partition tables", "needs sfdisk (Debian: fdisk)");

Deno.test({
  name: "partitions: a GPT as sfdisk made it",
  ignore,
  fn: async () => {
    using folder = new TemporaryFolder();
    const table = readPartitions(new MemorySource(await sfdisk(folder, GPT)))!;
    assert.equal(table.type, "gpt");
    assert.equal(table.uuid, "11111111-2222-3333-4444-555555555555");
    assert.deepEqual(table.problems, []);
    assert.deepEqual(
      table.partitions.map(({ start, size, type, uuid, name }) => ({
        start,
        size,
        type,
        uuid,
        name: name ?? undefined,
      })),
      sfdiskRows(folder.file("disk")),
    );
    assert.deepEqual(table.partitions[1], {
      index: 2,
      start: 2 * MIB,
      size: 4 * MIB,
      type: "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
      typeName: "EFI system",
      name: "EFI System",
      uuid: "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
      bootable: false,
      problems: [],
    });
    assert.equal(table.partitions[2].bootable, true);
    assert.equal(table.partitions[2].name, "Wurzel ü");
    assert.equal(table.partitions[2].typeName, "Linux root (x86-64)");
  },
});

Deno.test({
  name: "partitions: an MBR with logical partitions, PARTUUIDs as Linux spells them",
  ignore,
  fn: async () => {
    using folder = new TemporaryFolder();
    const bytes = await sfdisk(folder, MBR);
    const table = readPartitions(new MemorySource(bytes))!;
    assert.equal(table.type, "dos");
    assert.equal(table.uuid, "c0ffee42");
    assert.deepEqual(table.problems, []);
    assert.deepEqual(
      table.partitions.map(({ start, size, type }) => ({ start, size, type, uuid: undefined, name: undefined })),
      sfdiskRows(folder.file("disk")),
    );
    assert.deepEqual(table.partitions.map((p) => p.uuid), [1, 2, 3, 5, 6, 7].map((i) => `c0ffee42-0${i}`));
    assert.deepEqual(table.partitions.map((p) => p.bootable), [true, false, false, false, false, false]);
    assert.deepEqual(table.partitions.flatMap((p) => p.problems), []);
  },
});

Deno.test({
  name: "partitions: what sgdisk makes, hybrid MBR and sorted gaps among it",
  ignore: needs(has("sgdisk"), "sgdisk's tables", "needs sgdisk (Debian: gdisk)"),
  fn: () => {
    using folder = new TemporaryFolder();
    const path = makeFile(folder.file("disk"), 32 * MIB);
    run(
      "sgdisk",
      "-n",
      "7:10M:+4M",
      "-t",
      "7:8300",
      "-c",
      "7:seven",
      "-n",
      "1:1M:+2M",
      "-t",
      "1:ef00",
      "-A",
      "1:set:2",
      path,
    );
    run("sgdisk", "-h", "1", path);
    const table = readPartitions(new MemorySource(Deno.readFileSync(path)))!;
    assert.equal(table.type, "gpt");
    assert.deepEqual(table.problems, []);
    assert.deepEqual(table.partitions.map((p) => [p.index, p.start, p.size, p.name, p.bootable]), [
      [1, MIB, 2 * MIB, null, true],
      [7, 10 * MIB, 4 * MIB, "seven", false],
    ]);
  },
});

const canLoop = Deno.build.os === "linux" && Deno.uid() === 0 && has("losetup") && has("sfdisk");

Deno.test({
  name: "partitions: a GPT of 4096-byte sectors",
  ignore: needs(canLoop, "4096-byte sectors", "needs sfdisk, root and a loop device"),
  fn: async () => {
    using folder = new TemporaryFolder();
    const path = makeFile(folder.file("disk"), 64 * MIB);
    const device = run("losetup", "--sector-size", "4096", "-f", "--show", path).trim();
    try {
      await feed("label: gpt\nsize=8M, name=small\ntype=linux\n", "sfdisk", "--quiet", device);
    } finally {
      run("losetup", "-d", device);
    }
    const table = readPartitions(new MemorySource(Deno.readFileSync(path)))!;
    assert.equal(table.sectorSize, 4096);
    assert.equal(table.partitions[0].start, MIB);
    assert.equal(table.partitions[0].size, 8 * MIB);
    assert.deepEqual(table.problems, []);
  },
});

Deno.test({
  name: "partitions: a damaged GPT is read from its backup, and that is said",
  ignore,
  fn: async () => {
    using folder = new TemporaryFolder();
    const bytes = await sfdisk(folder, GPT);
    const whole = readPartitions(new MemorySource(bytes))!;
    const damage: [string, (disk: Uint8Array) => void, RegExp][] = [
      ["header", (disk) => disk[512 + 60] ^= 1, /header's checksum is wrong/],
      ["entries", (disk) => disk[1024 + 300] ^= 1, /entries' checksum is wrong/],
      ["wiped", (disk) => disk.fill(0, 512, 17408), /the primary GPT is missing/],
      ["everything", (disk) => disk.fill(0, 0, 17408), /the primary GPT is missing.*the protective MBR is missing/],
    ];
    for (const [name, hurt, message] of damage) {
      const disk = bytes.slice();
      hurt(disk);
      const table = readPartitions(new MemorySource(disk))!;
      assert(table !== null, name);
      assert.deepEqual(table.partitions, whole.partitions, name);
      assert.match(table.problems.join("; "), message);
      assert.match(table.problems.join("; "), /backup GPT at the end of the disk was used; repair it with: sgdisk -e/);
    }
    const disk = bytes.slice();
    disk.fill(0, 512, 17408);
    disk.fill(0, disk.length - 512);
    const table = readPartitions(new MemorySource(disk))!;
    assert.equal(table.type, "dos");
    assert.match(table.problems.join(), /neither the GPT nor its backup can be read/);
  },
});

Deno.test({
  name: "partitions: tables that lie give findings",
  ignore,
  fn: async () => {
    using folder = new TemporaryFolder();
    const bytes = await sfdisk(folder, GPT);
    /** Changes a GPT and makes its checksums right again. */
    const change = (edit: (header: DataView, entries: DataView) => void) => {
      const disk = bytes.slice();
      disk.fill(0, disk.length - 33 * 512);
      const header = new DataView(disk.buffer, 512, 92);
      const entries = new DataView(disk.buffer, 1024, 128 * 128);
      edit(header, entries);
      header.setUint32(88, crc32(new Uint8Array(disk.buffer, 1024, 128 * 128)), true);
      header.setUint32(16, 0, true);
      header.setUint32(16, crc32(new Uint8Array(disk.buffer, 512, 92)), true);
      return readPartitions(new MemorySource(disk))!;
    };
    const findings = (edit: (header: DataView, entries: DataView) => void) => {
      const table = change(edit);
      return [...table.problems, ...table.partitions.flatMap((p) => p.problems)].join("; ");
    };
    assert.equal(findings(() => {}), "");
    assert.match(findings((_, e) => e.setBigUint64(128 * 2 + 40, 99999999n, true)), /bytes past the end of the disk/);
    assert.match(findings((_, e) => e.setBigUint64(128 * 2 + 40, 2n ** 64n - 1n, true)), /outside the table's usable/);
    assert.match(findings((_, e) => e.setBigUint64(128 * 2 + 32, 99999998n, true)), /ends before it begins/);
    assert.match(findings((_, e) => e.setBigUint64(128 * 2 + 32, 4096n, true)), /overlaps partition 2/);
    assert.match(findings((h) => h.setUint32(80, 0xffffffff, true)), /4294967295 entries/);
    assert.match(findings((h) => h.setUint32(84, 0, true)), /entries of 0 bytes/);
    assert.match(findings((h) => h.setBigUint64(72, 2n ** 60n, true)), /entries lie outside the disk/);
    const far = change((_, e) => {
      e.setBigUint64(128 * 2 + 32, 2n ** 50n, true);
      e.setBigUint64(128 * 2 + 40, 2n ** 51n, true);
    });
    const source = new MemorySource(bytes);
    assert.equal(partitionSource(source, far.partitions[2]), null);
    assert.equal(partitionSource(source, far.partitions[1])!.size, 4 * MIB);
  },
});

Deno.test({
  name: "partitions: chains of logical partitions that circle, break or do not end",
  ignore,
  fn: async () => {
    using folder = new TemporaryFolder();
    const bytes = await sfdisk(folder, MBR);
    const start = new DataView(bytes.buffer).getUint32(446 + 32 + 8, true);
    const first = start * 512;

    const circle = bytes.slice();
    new DataView(circle.buffer).setUint32(first + 446 + 16 + 8, 0, true);
    const circling = readPartitions(new MemorySource(circle))!;
    assert.match(circling.problems.join(), /comes back to sector/);
    assert.equal(circling.partitions.length, 4);

    const cut = bytes.slice();
    new DataView(cut.buffer).setUint32(first + 446 + 16 + 8, 0x7fffffff, true);
    assert.match(
      readPartitions(new MemorySource(cut))!.problems.join(),
      /chain of logical partitions breaks at sector/,
    );

    // Every sector leads to the next one.
    const endless = bytes.slice();
    for (let at = first, i = 0; at + 512 <= endless.length; at += 512, i++) {
      const view = new DataView(endless.buffer, at, 512);
      endless.fill(0, at, at + 512);
      endless[at + 450] = 0x83;
      view.setUint32(446 + 12, 1, true);
      endless[at + 466] = 5;
      view.setUint32(462 + 8, i + 1, true);
      view.setUint32(462 + 12, 1, true);
      view.setUint16(510, 0xaa55, true);
    }
    const source = new MemorySource(endless);
    assert.match(readPartitions(source)!.problems.join(), /more than 256 logical partitions/);
    assert(source.reads < 300);
  },
});

Deno.test("partitions: none on empty disks, tiny ones, and file systems on the whole disk", () => {
  for (const size of [0, 1, 511, 512, 4096, 65536]) {
    assert.equal(readPartitions(new MemorySource(new Uint8Array(size))), null);
  }
});

Deno.test({
  name: "partitions: a FAT boot sector is not taken for an MBR",
  ignore: needs(has("mkfs.vfat"), "FAT is no MBR", "needs mkfs.vfat (Debian: dosfstools)"),
  fn: () => {
    using folder = new TemporaryFolder();
    for (const bits of ["12", "16", "32"]) {
      const path = makeFile(folder.file(bits), bits === "12" ? 4 * MIB : 40 * MIB);
      run("mkfs.vfat", "-F", bits, path);
      assert.equal(readPartitions(new MemorySource(Deno.readFileSync(path))), null, `FAT${bits}`);
    }
  },
});

Deno.test({
  name: "partitions: random damage never throws, and takes few reads",
  ignore,
  fn: async () => {
    using folder = new TemporaryFolder();
    const next = random(3);
    for (const script of [GPT, MBR]) {
      const bytes = await sfdisk(folder, script);
      for (let round = 0; round < 500; round++) {
        const source = new MemorySource(bytes.slice());
        const extended = new DataView(bytes.buffer).getUint32(446 + 32 + 8, true) * 512;
        for (let hits = 1 + next() % 8; hits > 0; hits--) {
          const places = [
            next() % 20000,
            440 + next() % 72,
            extended + next() % 512,
            bytes.length - 1 - next() % 17000,
          ];
          const at = places[next() % 4];
          if (at < bytes.length) source.bytes[at] = next() & 1 ? next() : source.bytes[at] ^ (1 << next() % 8);
        }
        // The checksums are made right, so that the fields behind them are reached.
        if (round % 2 === 0 && script === GPT) {
          const view = new DataView(source.bytes.buffer);
          const size = Math.min(512, view.getUint32(512 + 12, true));
          const length = view.getUint32(512 + 80, true) * view.getUint32(512 + 84, true);
          if (length < 1 << 20) view.setUint32(512 + 88, crc32(source.bytes.subarray(1024, 1024 + length)), true);
          view.setUint32(512 + 16, 0, true);
          view.setUint32(512 + 16, crc32(source.bytes.subarray(512, 512 + size)), true);
        }
        const table = readPartitions(source);
        assert(source.reads < 600);
        for (const partition of table?.partitions ?? []) {
          const part = partitionSource(source, partition);
          if (part !== null) assert(part.size <= source.size);
        }
      }
    }
  },
});
