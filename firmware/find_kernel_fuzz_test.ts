/** Real disks with bytes changed: whatever is on a disk, there is a report or a sentence, soon and in bounded memory. */
import assert from "node:assert/strict";
import { feed, has, makeFile, MemorySource, random, run, TemporaryFolder } from "../storage/test_support.ts";
import { needs } from "../tests/skip.ts";
import { reportDisk } from "./find_kernel.ts";

const MIB = 2 ** 20;
const GRUB = "set default=0\nmenuentry one {\n  linux /boot/vmlinuz root=/dev/vda1\n  initrd /boot/initrd\n}\n";
const SYSLINUX = "DEFAULT one\nLABEL one\n  KERNEL /boot/vmlinuz\n  APPEND initrd=/boot/initrd\n";
const BLS = "title One\nlinux /boot/vmlinuz\ninitrd /boot/initrd\noptions ro\n";

/** Milliseconds that no damaged disk of this size may take, on a busy machine: undamaged ones take a few. */
const PATIENCE = 20_000;

/** A tree with a little of everything that file systems store differently. */
function makeTree(folder: TemporaryFolder): string {
  const tree = folder.file("tree");
  for (const path of ["boot/grub", "boot/isolinux", "many", "loader/entries"]) {
    Deno.mkdirSync(`${tree}/${path}`, { recursive: true });
  }
  const kernel = Uint8Array.from({ length: 150_000 }, (_, i) => i >> 5);
  kernel.set([0x4d, 0x5a]);
  Deno.writeFileSync(`${tree}/boot/vmlinuz-6.1`, kernel);
  Deno.symlinkSync("vmlinuz-6.1", `${tree}/boot/vmlinuz`);
  Deno.writeTextFileSync(`${tree}/boot/initrd`, "070701".padEnd(3000, "0"));
  Deno.writeTextFileSync(`${tree}/boot/grub/grub.cfg`, GRUB);
  Deno.writeTextFileSync(`${tree}/boot/isolinux/isolinux.cfg`, SYSLINUX);
  Deno.writeTextFileSync(`${tree}/loader/entries/one.conf`, BLS);
  for (let i = 0; i < 150; i++) Deno.writeTextFileSync(`${tree}/many/a file with a long name, number ${i}`, `${i}`);
  return tree;
}

interface Kind {
  name: string;
  tools: string[];
  make(folder: TemporaryFolder, tree: string): Uint8Array | Promise<Uint8Array>;
}

function ext(type: string, ...options: string[]): Kind {
  return {
    name: [type, ...options].join(" "),
    tools: ["mke2fs"],
    make: (folder, tree) => {
      const image = makeFile(folder.file("image"), 6 * MIB);
      run("mke2fs", "-q", "-F", "-t", type, ...options, "-d", tree, image);
      return Deno.readFileSync(image);
    },
  };
}

function fat(bits: number, mib: number): Kind {
  return {
    name: `FAT${bits}`,
    tools: ["mkfs.fat", "mcopy"],
    make: (folder, tree) => {
      const image = makeFile(folder.file("image"), mib * MIB);
      run("mkfs.fat", "-F", String(bits), ...(bits === 32 ? ["-s", "1"] : []), image);
      run("mcopy", "-s", "-i", image, ...["boot", "loader", "many"].map((name) => `${tree}/${name}`), "::/");
      return Deno.readFileSync(image);
    },
  };
}

function iso(program: string, ...options: string[]): Kind {
  return {
    name: [program, ...options].join(" "),
    tools: [program],
    make: (folder, tree) => {
      run(
        program,
        ...(program === "xorriso" ? ["-as", "mkisofs"] : []),
        ...options,
        "-quiet",
        "-o",
        folder.file("i"),
        tree,
      );
      return Deno.readFileSync(folder.file("i"));
    },
  };
}

function partitioned(label: string, layout: string): Kind {
  return {
    name: `${label} around ext4`,
    tools: ["mke2fs", "sfdisk"],
    make: async (folder, tree) => {
      const root = makeFile(folder.file("root"), 5 * MIB);
      run("mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, root);
      const image = makeFile(folder.file("image"), 8 * MIB);
      await feed(`label: ${label}\n${layout}`, "sfdisk", "-q", image);
      const bytes = Deno.readFileSync(image);
      bytes.set(Deno.readFileSync(root), MIB);
      return bytes;
    },
  };
}

const KINDS: Kind[] = [
  ext("ext4"),
  ext("ext4", "-O", "^metadata_csum"),
  ext("ext4", "-O", "^metadata_csum,inline_data", "-I", "256"),
  ext("ext3", "-b", "1024"),
  ext("ext2", "-b", "1024"),
  fat(12, 3),
  fat(16, 17),
  fat(32, 36),
  iso("genisoimage", "-R", "-J"),
  iso("genisoimage", "-J"),
  iso("xorriso", "-R"),
  partitioned("gpt", "start=2048, size=10240, type=L\n"),
  partitioned("dos", "start=2048, size=10240, type=83\nstart=12288, type=5\nstart=12290, size=1000, type=83\n"),
];

/** Rounds of every kind; `HV_FUZZ_ROUNDS` makes it more, `HV_FUZZ_SEED` others. */
const ROUNDS = Number(Deno.env.get("HV_FUZZ_ROUNDS") ?? 150);
const SEED = Number(Deno.env.get("HV_FUZZ_SEED") ?? 1);

/** Bytes that turn a length, a count or an address into something surprising. */
const AWKWARD = [0, 1, 0x7f, 0x80, 0xfe, 0xff];

/** Changes a few bytes where there are some: most of an image is nothing or data. */
function damage(bytes: Uint8Array, places: readonly number[], next: () => number): [at: number, before: number][] {
  const undo: [number, number][] = [];
  for (let changes = 1 + next() % 8; changes > 0; changes--) {
    const at = places[next() % places.length] + next() % 16;
    const run = next() % 4 === 0 ? 4 : 1;
    for (let i = at; i < Math.min(at + run, bytes.length); i++) {
      undo.push([i, bytes[i]]);
      bytes[i] = next() % 2 === 0 ? AWKWARD[next() % AWKWARD.length] : next() & 0xff;
    }
  }
  return undo;
}

/** Offsets of 16-byte lines that hold structure: not empty, and not in the long run of a file's data. */
function structure(bytes: Uint8Array): number[] {
  const places: number[] = [];
  for (let at = 0; at + 16 <= bytes.length; at += 16) {
    const line = bytes.subarray(at, at + 16);
    const first = line[0];
    if (line.some((byte) => byte !== first) && line.some((byte) => Math.abs(byte - first) > 1)) places.push(at);
  }
  return places;
}

/** Looks into a disk. @returns what was found, as text */
function survives(bytes: Uint8Array, where: string): string {
  const source = new MemorySource(bytes);
  const began = performance.now();
  const report = reportDisk(source);
  const took = performance.now() - began;
  assert.ok(took < PATIENCE, `${where}: took ${took} ms and ${source.reads} reads`);
  const said = [...report.problems, ...report.partitions.flatMap(({ problems }) => problems)].join("\n");
  // What an engine says of a bug of ours, instead of what we say of the disk.
  const engine =
    /undefined|is not a function|DataView|typed array|array length|call stack|NaN|bytes \d+\.\.\d+ lie outside/i;
  assert.doesNotMatch(said, engine, where);
  return JSON.stringify(report);
}

for (const { name, tools, make } of KINDS) {
  const title = `damaged disks: ${name}`;
  Deno.test({
    name: title,
    ignore: needs(tools.every(has), title, `needs ${tools.join(", ")}`),
    fn: async () => {
      using folder = new TemporaryFolder();
      const bytes = await make(folder, makeTree(folder));
      const whole = reportDisk(new MemorySource(bytes));
      assert.notEqual(whole.entries.length, 0, whole.problems.join());
      const places = structure(bytes);
      const next = random(SEED);
      let different = 0;
      for (let round = 0; round < ROUNDS; round++) {
        const undo = damage(bytes, places, next);
        try {
          if (survives(bytes, `seed ${SEED}, round ${round}`) !== JSON.stringify(whole)) different++;
        } catch (error) {
          // The tools put times and random numbers into their disks: only the very one tells what was wrong.
          const evidence = Deno.makeTempFileSync({ prefix: "hv-damaged-" });
          Deno.writeFileSync(evidence, bytes);
          throw new Error(`${(error as Error).message}; this disk is kept: ${evidence}`, { cause: error });
        }
        for (const [at, before] of undo.reverse()) bytes[at] = before;
      }
      assert.ok(different > 0, "no damage was ever noticed: the places are the wrong ones");
    },
  });
}
