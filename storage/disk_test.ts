/** Raw disks, overlays, opening by format, and a disk as a source of bytes. */
import assert from "node:assert/strict";
import { needs } from "../tests/skip.ts";
import { type Disk, DiskError } from "./disk.ts";
import { DiskSource } from "./disk_source.ts";
import { BufferVector } from "./io_vector.ts";
import { openDisk } from "./open.ts";
import { OverlayDisk } from "./overlay.ts";
import { has, makeFile, random, run, TemporaryFolder } from "./test_support.ts";

function read(disk: Disk, offset: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length).fill(0xee);
  disk.read(offset, new BufferVector(bytes));
  return bytes;
}

function write(disk: Disk, offset: number, bytes: Uint8Array): void {
  disk.write(offset, new BufferVector(bytes));
}

Deno.test("raw disk: the last partial sector reads as zeroes, and grows when written", () => {
  using folder = new TemporaryFolder();
  const path = folder.file("disk");
  Deno.writeFileSync(path, new Uint8Array(1000).fill(7));
  const disk = openDisk({ path });
  assert.equal(disk.size, 1024);
  assert.deepEqual(read(disk, 512, 512), new Uint8Array(512).fill(7).fill(0, 488));
  assert.equal(Deno.statSync(path).size, 1000);
  write(disk, 512, new Uint8Array(512).fill(8));
  assert.equal(Deno.statSync(path).size, 1024);
  disk.close();
});

Deno.test("raw disk: nothing outside it is read or written", () => {
  using folder = new TemporaryFolder();
  const disk = openDisk({ path: makeFile(folder.file("disk"), 4096) });
  for (const offset of [-512, 4096 - 511, 4096, 2 ** 53, NaN, Infinity]) {
    const range = { name: "DiskError", code: "range" };
    assert.throws(() => read(disk, offset, 512), range);
    assert.throws(() => write(disk, offset, new Uint8Array(512)), range);
    assert.throws(() => disk.discard(offset, 512), range);
    assert.throws(() => disk.writeZeroes(offset, 512, true), range);
  }
  assert.throws(() => disk.discard(0, -1), { code: "range" });
  assert.equal(Deno.statSync(folder.file("disk")).size, 4096);
  disk.close();
});

Deno.test("raw disk: an image cut while in use is an error, a grown one is found", () => {
  using folder = new TemporaryFolder();
  const path = makeFile(folder.file("disk"), 1 << 20);
  const disk = openDisk({ path });
  Deno.truncateSync(path, 4096);
  assert.throws(() => read(disk, 8192, 512), { code: "io", message: /it was cut while in use/ });
  Deno.truncateSync(path, 2 << 20);
  assert.equal(disk.refresh(), 2 << 20);
  assert.deepEqual(read(disk, (2 << 20) - 512, 512), new Uint8Array(512));
  disk.close();
});

Deno.test("opening: what is no disk gets one sentence that says what to do", () => {
  using folder = new TemporaryFolder();
  const head = (name: string, magic: string, offset = 0) => {
    const bytes = new Uint8Array(2048);
    for (let i = 0; i < magic.length; i++) bytes[offset + i] = magic.charCodeAt(i);
    Deno.writeFileSync(folder.file(name), bytes);
    return folder.file(name);
  };
  const cases: [string, DiskError["code"], RegExp][] = [
    [folder.path, "format", /is a directory, not a disk image; name the image file inside it/],
    [folder.file("none"), "missing", /no such file; check the path, or make a disk/],
    [folder.file("none/below"), "missing", /no such file/],
    [makeFile(folder.file("empty"), 0), "format", /is empty; give it a size with: truncate -s 10G/],
    [head("vmdk", "KDMV"), "format", /vmdk images are not supported yet; convert it with: qemu-img convert/],
    [head("vdi", "\x7f\x10\xda\xbe", 64), "format", /vdi images/],
    [head("vhdx", "vhdxfile"), "format", /vhdx images/],
    [head("qcow2", "QFI\xfb"), "format", /qcow2 images/],
    [head("xz", "\xfd7zXZ\0"), "format", /unpack it with xz -dk/],
  ];
  for (const [path, code, message] of cases) {
    for (const variant of [{}, { readonly: true }, { ephemeral: true }]) {
      assert.throws(() => openDisk({ path, ...variant }), (error: DiskError) => {
        assert(error instanceof DiskError, String(error));
        assert.equal(error.code, code);
        assert.match(error.message, message);
        assert(error.message.startsWith(path) && !error.message.includes("\n"));
        return true;
      });
    }
  }
  const forced = openDisk({ path: folder.file("qcow2"), format: "raw" });
  assert.equal(read(forced, 0, 512)[0], 0x51);
  forced.close();
  assert.throws(() => openDisk({ path: folder.file("qcow2"), format: "floppy" }), /no disk format 'floppy'; known are/);
});

Deno.test({
  name: "opening: images made by qemu-img are recognised",
  ignore: needs(has("qemu-img"), "images by qemu-img", "needs qemu-img (Debian: qemu-utils)"),
  fn: () => {
    using folder = new TemporaryFolder();
    for (const [format, name] of [["qcow2"], ["vmdk"], ["vdi"], ["vhdx"], ["vpc", "vhd"], ["qed"]]) {
      run("qemu-img", "create", "-q", "-f", format, folder.file(format), "8M");
      assert.throws(
        () => openDisk({ path: folder.file(format) }),
        new RegExp(`${name ?? format} images are not supported`),
      );
    }
    run("qemu-img", "create", "-q", "-f", "raw", folder.file("raw"), "8M");
    openDisk({ path: folder.file("raw") }).close();
  },
});

Deno.test("opening: a refused image is not left locked", () => {
  using folder = new TemporaryFolder();
  Deno.writeTextFileSync(folder.file("disk"), "QFI\xfb".padEnd(512));
  const path = makeFile(folder.file("empty"), 0);
  assert.throws(() => openDisk({ path }));
  Deno.truncateSync(path, 512);
  openDisk({ path }).close();
});

Deno.test("overlay: behaves as a disk of its own, byte for byte, and leaves the image alone", () => {
  using folder = new TemporaryFolder();
  const size = 600 * 1024 + 512;
  const path = folder.file("disk");
  const base = new Uint8Array(size).map((_, i) => (i * 31 + (i >> 8)) & 0xff);
  Deno.writeFileSync(path, base);
  const before = Deno.statSync(path).mtime!.getTime();
  const model = base.slice();
  const disk = openDisk({ path, ephemeral: true });
  assert(disk instanceof OverlayDisk);
  assert.equal(disk.readonly, false);
  const next = random(1);
  const memory = new Uint8Array(1 << 18);
  for (let round = 0; round < 1500; round++) {
    const offset = (next() % (size / 512)) * 512 + (round % 5 === 0 ? next() % 512 : 0);
    const longest = round % 7 === 0 ? 100_000 : 9000;
    const length = Math.min(next() % longest, size - offset);
    switch (next() % 4) {
      case 0: {
        // Two pieces, so that windows into vectors are exercised.
        const cut = Math.floor(length / 3);
        for (let i = 0; i < length; i++) memory[i < cut ? i : i + 1000] = model[offset + i] = next() & 0xff;
        const vector = {
          bytes: memory,
          hostAddress: 0,
          offsets: Float64Array.of(0, cut + 1000),
          lengths: Int32Array.of(cut, length - cut),
          count: 2,
        };
        disk.write(offset, vector);
        memory.fill(0);
        disk.read(offset, vector);
        for (let i = 0; i < length; i++) assert.equal(memory[i < cut ? i : i + 1000], model[offset + i]);
        break;
      }
      case 1:
        disk.writeZeroes(offset, length, round % 2 === 0);
        model.fill(0, offset, offset + length);
        break;
      case 2:
        disk.discard(offset, length);
        if (disk.discardable) model.fill(0, offset, offset + length);
        break;
      default:
        assert.deepEqual(read(disk, offset, length), model.subarray(offset, offset + length));
    }
  }
  disk.flush();
  assert.deepEqual(read(disk, 0, size), model);
  assert.throws(() => read(disk, size, 512), { code: "range" });
  disk.close();
  assert.deepEqual(Deno.readFileSync(path), base);
  assert.equal(Deno.statSync(path).mtime!.getTime(), before);
});

Deno.test("overlay: two at once over one image, which nobody may write meanwhile", () => {
  using folder = new TemporaryFolder();
  const path = makeFile(folder.file("disk"), 1 << 20);
  Deno.chmodSync(path, 0o444);
  const one = openDisk({ path, ephemeral: true });
  const two = openDisk({ path, ephemeral: true });
  write(one, 0, new Uint8Array(512).fill(1));
  write(two, 0, new Uint8Array(512).fill(2));
  assert.equal(read(one, 0, 512)[0], 1);
  assert.equal(read(two, 0, 512)[0], 2);
  assert.throws(() => openDisk({ path }), { name: "DiskError" });
  one.close();
  two.close();
  // Windows deletes no file that must not be written.
  Deno.chmodSync(path, 0o644);
});

Deno.test("overlay: of a disk of 1 TiB takes next to nothing, and works at its end", () => {
  using folder = new TemporaryFolder();
  const path = makeFile(folder.file("disk"), 2 ** 40);
  const disk = openDisk({ path, ephemeral: true });
  write(disk, 2 ** 40 - 700, new Uint8Array(700).fill(9));
  assert.deepEqual(read(disk, 2 ** 40 - 1024, 1024), new Uint8Array(1024).fill(9, 324));
  disk.discard(0, 2 ** 40);
  assert.deepEqual(read(disk, 2 ** 40 - 1024, 1024), new Uint8Array(1024).fill(disk.discardable ? 0 : 9, 324));
  disk.close();
});

Deno.test("disk source: small and large reads give the same bytes, and metadata is read once", () => {
  using folder = new TemporaryFolder();
  const size = 3 * 1024 * 1024 + 512;
  const bytes = new Uint8Array(size).map((_, i) => (i * 13 + (i >> 9)) & 0xff);
  Deno.writeFileSync(folder.file("disk"), bytes);
  const disk = openDisk({ path: folder.file("disk"), readonly: true });
  let reads = 0;
  const counted: Disk = Object.create(disk, {
    read: {
      value: (offset: number, vector: BufferVector) => {
        reads++;
        disk.read(offset, vector);
      },
    },
  });
  const source = new DiskSource(counted);
  const next = random(2);
  for (let i = 0; i < 300; i++) {
    const offset = next() % size;
    const target = new Uint8Array(Math.min(next() % (i % 3 === 0 ? 200_000 : 700), size - offset));
    source.read(offset, target);
    assert.deepEqual(target, bytes.subarray(offset, offset + target.length));
  }
  reads = 0;
  for (let i = 0; i < 100; i++) source.read(i * 4, new Uint8Array(4));
  assert(reads <= 1);
  assert.throws(() => source.read(size - 1, new Uint8Array(2)), RangeError);
  assert.throws(() => source.read(-1, new Uint8Array(1)), RangeError);
  disk.close();
});
