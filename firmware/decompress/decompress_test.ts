import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { needs } from "../../tests/skip.ts";
import { busyboxEntries, cpio } from "../../tests/guests/initramfs.ts";
import { debianKernel } from "../../tests/guests/kernel.ts";
import { tool, which } from "../../tests/guests/command.ts";
import { CompressionError, decompress, sniff } from "./mod.ts";
import { unpackInitrd } from "./initrd.ts";

/** A repeatable stream of numbers below 2^32 (xorshift32). */
function numbers(seed: number): () => number {
  let state = seed;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}

function join(...pieces: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}

function same(a: Uint8Array, b: Uint8Array): void {
  assert.equal(a.length, b.length);
  assert.equal(Buffer.compare(a, b), 0);
}

/** x86 code, text and noise: 2 MiB that no packer finds boring. */
let made: Promise<Uint8Array<ArrayBuffer>> | undefined;
function sample(): Promise<Uint8Array<ArrayBuffer>> {
  return made ??= makeSample();
}

async function makeSample(): Promise<Uint8Array<ArrayBuffer>> {
  const archive = cpio(await busyboxEntries());
  const next = numbers(1);
  const noise = Uint8Array.from({ length: 70_000 }, () => next());
  return join(archive, noise, new Uint8Array(300_000), archive.subarray(0, 40_001));
}

/** Packers as people and kernels' Makefiles call them. */
const PACKERS: [format: string, ...argv: string[]][] = [
  ["gzip", "gzip", "-n", "-9", "-c"],
  ["zstd", "zstd", "-q", "-3", "-c"],
  ["zstd", "zstd", "-q", "-19", "-c", "--no-check"],
  ["zstd", "zstd", "-q", "--ultra", "-22", "--long=27", "-c"],
  ["xz", "xz", "-c", "--check=crc32", "--x86", "--lzma2=dict=32MiB"],
  ["xz", "xz", "-c", "--check=crc64", "-0"],
  ["xz", "xz", "-c", "--check=sha256", "--block-size=100000"],
  ["xz", "xz", "-c", "--check=none", "--lzma2=lc=0,lp=2,pb=0"],
  ["xz", "xz", "-c", "--check=crc32", "--lzma2=lc=1,lp=3,pb=4,mode=fast"],
  ["lzma", "xz", "-c", "--format=lzma"],
  ["lz4", "lz4", "-q", "-l", "-9", "-c"],
  ["lz4", "lz4", "-q", "-1", "-c"],
  ["lz4", "lz4", "-q", "-9", "-BD", "-B4", "-c"],
  ["lz4", "lz4", "-q", "-B5", "-BX", "--no-frame-crc", "--content-size", "-c"],
];

const missing = ["gzip", "zstd", "xz", "lz4"].filter((name) => which(name) === null);
const ignore = needs(missing.length === 0, "decompress", `not installed: ${missing.join(" ")}`);

for (const [format, ...argv] of PACKERS) {
  Deno.test({
    name: `decompress: what ${argv.join(" ")} packs`,
    ignore,
    async fn() {
      const data = await sample();
      const packed = await tool(argv, { stdin: data });
      const result = decompress(packed);
      assert.equal(result.format, format);
      assert.equal(result.consumed, packed.length);
      same(result.data, data);

      // Padding behind it is not its business, two in a row are one.
      const padded = decompress(join(packed, new Uint8Array(9)));
      assert.equal(padded.data.length, data.length);
      assert.equal(padded.consumed, packed.length);
      if (format !== "lzma") same(decompress(join(packed, packed)).data, join(data, data));

      assert.throws(
        () => decompress(packed, data.length - 1),
        (error) => error instanceof CompressionError && /more than/.test(error.message),
      );
      for (const cut of [7, 100, packed.length >> 1, packed.length - 5, packed.length - 1]) {
        assert.throws(() => decompress(packed.subarray(0, cut)), CompressionError, `cut at ${cut}`);
      }
    },
  });

  Deno.test({
    name: `decompress: damage to what ${argv.join(" ")} packs is an error in words or a wrong result, nothing else`,
    ignore,
    async fn() {
      const data = (await sample()).subarray(0, 60_000);
      const packed = await tool(argv, { stdin: data });
      const next = numbers(packed.length);
      for (let round = 0; round < 150; round++) {
        const damaged = packed.slice();
        for (let i = next() % 3; i >= 0; i--) damaged[6 + next() % (damaged.length - 6)] ^= 1 << next() % 8;
        try {
          decompress(damaged, 1 << 22);
        } catch (error) {
          assert(error instanceof CompressionError, `${error}`);
        }
      }
    },
  });
}

Deno.test("decompress: noise is 'none', and bzip2 and lzo are named", () => {
  const next = numbers(99);
  for (let round = 0; round < 2000; round++) {
    const noise = Uint8Array.from({ length: next() % 64 }, () => next());
    try {
      decompress(noise, 1 << 20);
    } catch (error) {
      assert(error instanceof CompressionError, `${error}`);
    }
  }
  assert.equal(decompress(new Uint8Array()).format, "none");
  assert.equal(sniff(new TextEncoder().encode("BZh91AY&SY")), "bzip2");
  assert.throws(() => decompress(new TextEncoder().encode("BZh91AY&SY")), /bzip2, which hv cannot unpack/);
});

for (const flavour of ["cloud", "generic"] as const) {
  Deno.test({
    name: `decompress: the kernel inside Debian's ${flavour} bzImage, against the packer's own tool`,
    ignore: ignore || needs(which("apt-get") !== null, "decompress a kernel", "needs Debian's packages"),
    async fn() {
      const kernel = await Deno.readFile((await debianKernel(flavour)).vmlinuz);
      const view = new DataView(kernel.buffer);
      const start = (kernel[0x1f1] + 1) * 512 + view.getUint32(0x248, true);
      const payload = kernel.slice(start, start + view.getUint32(0x24c, true) - 4);
      const { format, data, consumed } = decompress(payload);
      assert.equal(consumed, payload.length);
      const argv = format === "xz" ? ["xz", "-dc"] : format === "lz4" ? ["lz4", "-dc"] : ["zstd", "-dc"];
      assert(data.length > 30 << 20);
      assert.equal(Buffer.compare(await tool(argv, { stdin: payload }), data), 0);
    },
  });
}

const packed = async (argv: string[], data: Uint8Array<ArrayBuffer>) => await tool(argv, { stdin: data });

Deno.test({
  name: "initrd: microcode plain in front, the rest packed by each tool; the tool cpio reads the same files back",
  ignore: ignore || needs(which("cpio") !== null, "initrd", "not installed: cpio"),
  async fn() {
    const early = cpio([{ path: "kernel/x86/microcode/GenuineIntel.bin", data: new Uint8Array(5001).fill(7) }]);
    const late = cpio(await busyboxEntries());
    for (
      const argv of [["gzip", "-c"], ["xz", "--check=crc32", "-c"], ["zstd", "-q", "-c"], ["lz4", "-q", "-l", "-c"]]
    ) {
      const initrd = join(
        early,
        new Uint8Array(512 - early.length % 512),
        await packed(argv, late),
        new Uint8Array(300),
      );
      const result = unpackInitrd(initrd);
      assert.deepEqual(result.problems, []);
      assert.equal(result.formats[0], "none");
      assert.equal(result.formats.length, 2);
      const second = Math.ceil(early.length / 512) * 512;
      same(result.data.subarray(0, early.length), early);
      same(result.data.subarray(second, second + late.length), late);
      const names = new TextDecoder().decode(
        await tool(["cpio", "-it", "--quiet"], { stdin: new Uint8Array(result.data.subarray(second)) }),
      );
      assert.match(names, /^bin\/busybox$/m);
    }
  },
});

Deno.test({
  name: "initrd: three archives, packed differently, all arrive",
  ignore,
  async fn() {
    const one = cpio([{ path: "one", data: "1" }]);
    const two = cpio([{ path: "two", data: "22" }]);
    const three = cpio([{ path: "three", data: "333" }]);
    const result = unpackInitrd(
      join(await packed(["gzip", "-c"], one), new Uint8Array(3), await packed(["zstd", "-q", "-c"], two), three),
    );
    assert.deepEqual(result.formats, ["gzip", "zstd", "none"]);
    assert.deepEqual(result.problems, []);
    for (const archive of [one, two, three]) {
      const at = [0, 512, 1024].find((at) => archive.every((byte, i) => result.data[at + i] === byte));
      assert.notEqual(at, undefined);
    }
  },
});

Deno.test({
  name: "initrd: damaged, cut, unknown and oversized ones are passed on unchanged, and it is said",
  ignore,
  async fn() {
    const archive = cpio(await busyboxEntries());
    const gzip = await packed(["gzip", "-c"], archive);
    const cut = unpackInitrd(gzip.subarray(0, 5000));
    assert.match(cut.problems[0], /cut short/);
    same(cut.data, gzip.subarray(0, 5000));
    assert.match(unpackInitrd(archive.subarray(0, 700_000)).problems[0], /cut short/);
    assert.match(unpackInitrd(new TextEncoder().encode("not an initrd at all")).problems[0], /no cpio archive/);
    const bounded = unpackInitrd(gzip, 1 << 20);
    assert.match(bounded.problems[0], /more than/);
    same(bounded.data, gzip);
    assert.deepEqual(unpackInitrd(new Uint8Array(0)), { data: new Uint8Array(0), formats: [], problems: [] });

    const next = numbers(5);
    for (let round = 0; round < 300; round++) {
      const damaged = archive.slice(0, 20_000);
      for (let i = 0; i < 4; i++) damaged[next() % 400] = next();
      unpackInitrd(damaged, 1 << 22);
    }
  },
});
