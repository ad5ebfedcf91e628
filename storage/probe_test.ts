/** What partitions hold, compared with blkid; and random damage to every readable file system. */
import assert from "node:assert/strict";
import { needs } from "../tests/skip.ts";
import { DiskSource } from "./disk_source.ts";
import type { FileSystem } from "./file_system.ts";
import { openDisk } from "./open.ts";
import { identify, probeFileSystem } from "./probe.ts";
import { blkid, feed, has, makeFile, MemorySource, random, run, TemporaryFolder } from "./test_support.ts";

const MIB = 1 << 20;

const makers: {
  type: string;
  program: string;
  size: number;
  make(path: string): void | Promise<void>;
  label: boolean;
}[] = [
  {
    type: "ext4",
    program: "mke2fs",
    size: 8,
    make: (p) => void run("mke2fs", "-q", "-t", "ext4", "-L", "x y", p),
    label: true,
  },
  { type: "vfat", program: "mkfs.vfat", size: 8, make: (p) => void run("mkfs.vfat", p), label: true },
  { type: "swap", program: "mkswap", size: 8, make: (p) => void run("mkswap", "-L", "swappy", p), label: true },
  {
    type: "btrfs",
    program: "mkfs.btrfs",
    size: 128,
    make: (p) => void run("mkfs.btrfs", "-q", "-L", "butter", p),
    label: true,
  },
  { type: "xfs", program: "mkfs.xfs", size: 320, make: (p) => void run("mkfs.xfs", "-q", "-L", "xxl", p), label: true },
  { type: "ntfs", program: "mkfs.ntfs", size: 16, make: (p) => void run("mkfs.ntfs", "-qQF", p), label: false },
  {
    type: "squashfs",
    program: "mksquashfs",
    size: 0,
    make: (p) => {
      Deno.removeSync(p);
      run("mksquashfs", "/etc/hostname", p, "-quiet", "-no-progress");
    },
    label: false,
  },
  {
    type: "crypto_LUKS",
    program: "cryptsetup",
    size: 32,
    make: async (p) => {
      const options = ["--batch-mode", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--label", "secret"];
      await feed("password", "cryptsetup", "luksFormat", ...options, p, "-");
    },
    label: true,
  },
];

for (const { type, program, size, make, label } of makers) {
  Deno.test({
    name: `probe: ${type} is named as blkid names it`,
    ignore: needs(has(program) && has("blkid"), `probe: ${type}`, `needs ${program} and blkid`),
    fn: async () => {
      using folder = new TemporaryFolder();
      const path = makeFile(folder.file("image"), size * MIB);
      await make(path);
      const disk = openDisk({ path, readonly: true });
      const source = new DiskSource(disk);
      const said = blkid(path);
      const found = identify(source)!;
      assert.equal(found.type, type);
      assert.deepEqual([found.type, found.uuid], [said.TYPE, said.UUID ?? null]);
      if (label) assert.equal(found.label, said.LABEL ?? null);
      const readable = ["ext4", "vfat"].includes(type);
      assert.equal(probeFileSystem(source) !== null, readable);
      disk.close();
    },
  });
}

Deno.test("probe: an LVM physical volume by its label sector", () => {
  const bytes = new Uint8Array(MIB);
  bytes.set(new TextEncoder().encode("LABELONE"), 512);
  bytes.set(new TextEncoder().encode("LVM2 001abcdefGHIJ0123KLMN4567opqr89STuv"), 512 + 24);
  assert.deepEqual(identify(new MemorySource(bytes)), {
    type: "LVM2_member",
    uuid: "abcdef-GHIJ-0123-KLMN-4567-opqr-89STuv",
    label: null,
    description: "an LVM physical volume",
  });
});

Deno.test("probe: nothing is found in nothing", () => {
  for (const size of [0, 1, 511, 1024, 4096, 40_000, 70_000]) {
    const source = new MemorySource(new Uint8Array(size));
    assert.equal(identify(source), null);
    assert.equal(probeFileSystem(source), null);
  }
});

/** Walks everything there is, with a bound. */
function walkAll(system: FileSystem): void {
  let left = 60;
  const visit = (path: string, depth: number) => {
    if (depth > 4 || left-- <= 0) return;
    const attempt = (action: () => void) => {
      try {
        action();
      } catch (error) {
        // Damage is told by plain errors; anything else is a mistake of ours.
        if (!(error instanceof Error) || error.constructor !== Error) throw error;
        assert.notEqual(error.message, "");
      }
    };
    let type: string | undefined;
    attempt(() => type = system.stat(path)?.type);
    if (type === "file") attempt(() => system.read(path, 16 * MIB));
    if (type === "directory") {
      let names: string[] = [];
      attempt(() => names = system.list(path));
      for (const name of names.slice(0, 12)) visit(`${path}/${name}`, depth + 1);
    }
  };
  visit("", 0);
}

const victims: { name: string; programs: string[]; make(path: string, tree: string): void; rounds: number }[] = [
  ...["-t ext2 -b 1024", "-t ext4 -O ^metadata_csum,inline_data", "-t ext4 -O ^metadata_csum -b 1024", "-t ext4"].map((
    options,
  ) => ({
    name: `ext ${options}`,
    programs: ["mke2fs"],
    make: (path: string, tree: string) => {
      run("mke2fs", "-q", "-F", "-d", tree, ...options.split(" "), makeFile(path, 4 * MIB));
    },
    rounds: 150,
  })),
  ...["12", "16", "32"].map((bits) => ({
    name: `fat${bits}`,
    programs: ["mkfs.vfat", "mcopy"],
    make: (path: string, tree: string) => {
      run(
        "mkfs.vfat",
        "-F",
        bits,
        "-s",
        "1",
        makeFile(path, bits === "12" ? 1 * MIB : bits === "16" ? 4 * MIB : 34 * MIB),
      );
      run("mcopy", "-s", "-i", path, `${tree}/boot`, `${tree}/sparse`, "::/");
    },
    rounds: bits === "32" ? 40 : 120,
  })),
  {
    name: "iso9660",
    programs: ["genisoimage"],
    make: (path, tree) => void run("genisoimage", "-quiet", "-R", "-J", "-o", path, tree),
    rounds: 150,
  },
];

for (const { name, programs, make, rounds } of victims) {
  Deno.test({
    name: `fuzz: ${name}: random damage ends in an error in words, in bounded time and memory`,
    ignore: needs(programs.every(has), `fuzz: ${name}`, `needs ${programs.join(" and ")}`),
    fn: () => {
      using folder = new TemporaryFolder();
      const tree = folder.file("tree");
      Deno.mkdirSync(`${tree}/boot/entries`, { recursive: true });
      Deno.writeFileSync(`${tree}/boot/kernel`, new Uint8Array(60_000).fill(1));
      for (let i = 0; i < 40; i++) {
        Deno.writeTextFileSync(`${tree}/boot/entries/an entry, number ${i}.conf`, "x".repeat(i));
      }
      const sparse = Deno.openSync(`${tree}/sparse`, { create: true, write: true });
      for (let i = 0; i < 60; i++) {
        sparse.seekSync(i * 5000, Deno.SeekMode.Start);
        sparse.writeSync(new Uint8Array(10).fill(i));
      }
      sparse.close();
      if (!name.startsWith("fat")) Deno.symlinkSync("boot/kernel", `${tree}/vmlinuz`);
      const path = folder.file("image");
      make(path, tree);
      const whole = Deno.readFileSync(path);
      // Damage where it matters: among the bytes that are not zero.
      const places: number[] = [];
      for (let at = 0; at < whole.length; at++) if (whole[at] !== 0 && whole[at] !== 1) places.push(at);
      const next = random(6);
      let opened = 0;
      for (let round = 0; round < rounds; round++) {
        const source = new MemorySource(round % 10 === 9 ? whole.slice(0, next() % whole.length) : whole.slice());
        for (let hits = 1 + next() % 20; hits > 0; hits--) {
          const at = places[next() % places.length] + next() % 4;
          if (at >= source.size) continue;
          const how = next() % 4;
          source.bytes[at] = how === 0
            ? 0xff
            : how === 1
            ? 0
            : how === 2
            ? next()
            : source.bytes[at] ^ (1 << next() % 8);
        }
        let system: FileSystem | null = null;
        try {
          system = probeFileSystem(source);
        } catch (error) {
          if (!(error instanceof Error) || error.constructor !== Error) throw error;
        }
        if (system === null) continue;
        opened++;
        const start = performance.now();
        walkAll(system);
        assert(performance.now() - start < 5000, `round ${round} took ${performance.now() - start} ms`);
      }
      assert(opened > rounds / 4, `only ${opened} of ${rounds} were still recognised`);
    },
  });
}
