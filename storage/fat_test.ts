/** FAT made by mkfs.vfat and mtools, then damaged. */
import assert from "node:assert/strict";
import { needs } from "../tests/skip.ts";
import { FatFileSystem } from "./fat.ts";
import { blkid, has, makeFile, MemorySource, random, run, TemporaryFolder } from "./test_support.ts";

const ignore = needs(
  has("mkfs.vfat") && has("mcopy"),
  "FAT",
  "needs mkfs.vfat and mtools (Debian: dosfstools, mtools)",
);
const MIB = 1 << 20;

function make(folder: TemporaryFolder, bits: number, size: number, options: string[] = []): string {
  const image = makeFile(folder.file(`fat${bits}`), size);
  run("mkfs.vfat", "-F", String(bits), "-n", "MYDISK", ...options, image);
  const next = random(bits);
  Deno.writeFileSync(folder.file("kernel"), new Uint8Array(300_001).map(() => next()));
  run("mmd", "-i", image, "::/EFI", "::/EFI/BOOT", "::/loader", "::/loader/entries", "::/many");
  run("mcopy", "-o", "-i", image, folder.file("kernel"), "::/EFI/BOOT/BOOTX64.EFI");
  Deno.writeTextFileSync(folder.file("entry"), "title Debian\n");
  run("mcopy", "-i", image, folder.file("entry"), "::/loader/entries/debian-6.1.0-cloud-amd64 ünï.conf");
  run("mcopy", "-i", image, folder.file("entry"), "::/lower.txt");
  Deno.mkdirSync(folder.file("names"), { recursive: true });
  const names = Array.from({ length: 120 }, (_, i) => `file number ${i} with a name.txt`);
  for (const name of names) Deno.writeTextFileSync(folder.file(`names/${name}`), name);
  run("mcopy", "-i", image, ...names.map((name) => folder.file(`names/${name}`)), "::/many");
  // Fragments, and entries marked as unused.
  run("mdel", "-i", image, ...names.filter((_, i) => i % 2 === 0).map((name) => `::/many/${name}`));
  run("mcopy", "-i", image, folder.file("kernel"), "::/fragmented");
  return image;
}

for (
  const [bits, size, options] of [[12, 4 * MIB, []], [16, 40 * MIB, []], [32, 80 * MIB, ["-s", "1"]], [
    16,
    64 * MIB,
    ["-S", "4096"],
  ]] as [number, number, string[]][]
) {
  Deno.test({
    name: `fat: FAT${bits} ${options.join(" ")} as mtools wrote it`,
    ignore,
    fn: () => {
      using folder = new TemporaryFolder();
      const image = make(folder, bits, size, options);
      const system = new FatFileSystem(new MemorySource(Deno.readFileSync(image)));
      const said = blkid(image);
      assert.equal(system.bits, bits);
      assert.deepEqual([system.type, system.uuid, system.label], [said.TYPE, said.UUID, said.LABEL]);
      assert.deepEqual(system.problems, []);
      const kernel = Deno.readFileSync(folder.file("kernel"));
      for (
        const way of [
          "/EFI/BOOT/BOOTX64.EFI",
          "/efi/boot/bootx64.efi",
          "/EFI/../efi//./Boot/BootX64.efi",
          "/fragmented",
        ]
      ) {
        assert.deepEqual(system.read(way), kernel, way);
      }
      assert.deepEqual(system.list("/"), ["EFI", "fragmented", "loader", "lower.txt", "many"]);
      assert.deepEqual(system.list("/loader/entries"), ["debian-6.1.0-cloud-amd64 ünï.conf"]);
      assert.equal(
        new TextDecoder().decode(system.read("/Loader/Entries/DEBIAN-6.1.0-cloud-amd64 ÜNÏ.conf")),
        "title Debian\n",
      );
      assert.equal(system.list("/many").length, 60);
      assert.equal(
        new TextDecoder().decode(system.read("/many/file number 77 with a name.txt")),
        "file number 77 with a name.txt",
      );
      // The 8.3 name leads there too.
      assert.match(system.stat("/LOADER/ENTRIES/DEBIAN~1.CON")!.type, /file/);
      assert.deepEqual(system.stat("/"), { type: "directory", size: 0 });
      assert.deepEqual(system.stat("/efi/boot/bootx64.efi"), { type: "file", size: 300_001 });
      for (const nothing of ["/none", "/lower.txt/x", "/many/file number 76 with a name.txt"]) {
        assert.equal(system.stat(nothing), null);
      }
      assert.throws(() => system.read("/fragmented", 1000), /300001 bytes, more than 1000/);
      assert.throws(() => system.read("/EFI"), /not a file/);
      assert.throws(() => system.list("/lower.txt"), /not a directory/);
      assert.throws(() => system.list("/none"), /no such directory/);
    },
  });
}

Deno.test({
  name: "fat: clusters that circle, end early or lead outside, and a cut image",
  ignore,
  fn: () => {
    using folder = new TemporaryFolder();
    const bytes = Deno.readFileSync(make(folder, 16, 40 * MIB));
    const view = new DataView(bytes.buffer);
    const fat = view.getUint16(14, true) * 512;
    const fatSize = view.getUint16(22, true) * 512;
    const root = fat + 2 * fatSize;
    const entry = Array.from({ length: 512 }, (_, i) => root + 32 * i).find((at) =>
      new TextDecoder().decode(bytes.subarray(at, at + 11)) === "FRAGME~1   "
    )!;
    const first = view.getUint16(entry + 26, true);
    const open = (edit: (view: DataView) => void) => {
      const copy = bytes.slice();
      edit(new DataView(copy.buffer));
      return new FatFileSystem(new MemorySource(copy));
    };
    const read = (edit: (view: DataView) => void) => () => open(edit).read("/fragmented");
    assert.throws(
      read((v) => v.setUint16(fat + 2 * first, 0xffff, true)),
      /its clusters end after \d+ of 300001 bytes/,
    );
    assert.throws(read((v) => v.setUint16(fat + 2 * first, 0xfff0, true)), /its clusters end after/);
    assert.throws(read((v) => v.setUint32(entry + 28, 0xffffffff, true)), /4294967295 bytes, more than/);
    assert.throws(read((v) => v.setUint32(entry + 28, 900 << 20, true)), /larger than its file system/);
    // A file that circles has as many bytes as its entry says; a directory has no such end.
    assert.equal(read((v) => v.setUint16(fat + 2 * first, first, true))().length, 300_001);
    const many = Array.from({ length: 512 }, (_, i) => root + 32 * i).find((at) =>
      new TextDecoder().decode(bytes.subarray(at, at + 11)) === "MANY       "
    )!;
    const directory = view.getUint16(many + 26, true);
    assert.throws(
      () => open((v) => v.setUint16(fat + 2 * directory, directory, true)).list("/many"),
      /its clusters do not end/,
    );
    const cut = new FatFileSystem(new MemorySource(bytes.slice(0, 200_000)));
    assert.match(cut.problems.join(), /only 200000 are there: it was cut/);
    assert.throws(() => cut.read("/fragmented"), /the image was cut/);
    assert.throws(() => new FatFileSystem(new MemorySource(new Uint8Array(512))), /no FAT boot sector/);
  },
});
