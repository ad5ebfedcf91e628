/** One table of behaviour for all kinds of host files, then what only Linux' and Windows' have. */
import assert from "node:assert/strict";
import { needs } from "../tests/skip.ts";
import { posix } from "./abi/posix.ts";
import { DiskError, type IoVector } from "./disk.ts";
import { type HostFile, openTemporaryFile } from "./host_file.ts";
import { DenoHostFile } from "./host_file_deno.ts";
import { LinuxHostFile } from "./host_file_linux.ts";
import { windowsFiles } from "./abi/windows.ts";
import { WindowsHostFile } from "./host_file_windows.ts";
import { BufferVector } from "./io_vector.ts";
import { has, makeFile, run, TemporaryFolder } from "./test_support.ts";

/** A vector over shared memory with gaps between its pieces. */
function pieces(memory: Uint8Array, lengths: number[], hostAddress = 0): IoVector {
  const offsets = new Float64Array(lengths.length);
  let at = 3;
  lengths.forEach((length, i) => {
    offsets[i] = at;
    at += length + 5;
  });
  return { bytes: memory, hostAddress, offsets, lengths: Int32Array.from(lengths), count: lengths.length };
}

function vector(bytes: Uint8Array): IoVector {
  return new BufferVector(bytes);
}

const implementations: { name: string; open(path: string, readonly: boolean): HostFile; ignore: boolean }[] = [
  {
    name: "linux",
    open: (path, readonly) => LinuxHostFile.open(path, readonly),
    ignore: needs(posix() !== null, "linux host files", "no glibc to call"),
  },
  {
    name: "windows",
    open: (path, readonly) => WindowsHostFile.open(path, readonly),
    ignore: needs(windowsFiles() !== null, "windows host files", "this is not Windows"),
  },
  { name: "deno", open: (path, readonly) => DenoHostFile.open(path, readonly), ignore: false },
];

for (const { name, open, ignore } of implementations) {
  Deno.test({
    name: `${name} host file: vectors over shared memory, at offsets past 4 GiB, and the end of the file`,
    ignore,
    fn: () => {
      using folder = new TemporaryFolder();
      const file = open(makeFile(folder.file("disk"), 6 * 2 ** 30 + 100), false);
      const memory = new Uint8Array(new SharedArrayBuffer(1 << 20));
      for (const offset of [0, 511, 2 ** 31 - 7, 2 ** 32 - 3, 5 * 2 ** 30 + 1]) {
        memory.forEach((_, i) => memory[i] = (i * 7 + offset) & 0xff);
        const source = pieces(memory, [1, 4096, 0, 77, 30000]);
        file.write(offset, source);
        const written = new Uint8Array(34174);
        let at = 0;
        for (let i = 0; i < source.count; i++) {
          const piece = memory.slice(source.offsets[i], source.offsets[i] + source.lengths[i]);
          written.set(piece, at);
          at += piece.length;
        }
        const back = new Uint8Array(written.length);
        assert.equal(file.read(offset, vector(back)), back.length);
        assert.deepEqual(back, written);
        memory.fill(0xaa);
        assert.equal(file.read(offset, source), written.length);
        assert.equal(memory[source.offsets[1] - 1], 0xaa, "the gap before a piece is not touched");
        assert.deepEqual(memory.slice(source.offsets[4], source.offsets[4] + 30000), written.slice(4174));
      }
      const tail = new Uint8Array(300).fill(9);
      assert.equal(file.read(6 * 2 ** 30, vector(tail)), 100);
      assert.equal(tail[99], 0);
      assert.equal(tail[100], 9);
      assert.equal(file.read(7 * 2 ** 30, vector(tail)), 0);
      file.flush();
      file.close();
      file.close();
    },
  });

  Deno.test({
    name: `${name} host file: more pieces than one call takes`,
    ignore,
    fn: () => {
      using folder = new TemporaryFolder();
      const file = open(makeFile(folder.file("disk"), 1 << 20), false);
      const memory = new Uint8Array(1 << 20).map((_, i) => i % 251);
      const many = pieces(memory, new Array(2500).fill(17));
      file.write(100, many);
      const expected = Uint8Array.from({ length: 2500 * 17 }, (_, i) => (3 + Math.floor(i / 17) * 22 + i % 17) % 251);
      const back = new Uint8Array(2500 * 17);
      file.read(100, vector(back));
      assert.deepEqual(back, expected);
      memory.fill(0);
      file.read(100, many);
      assert.equal(memory[3 + 2499 * 22 + 16], expected[expected.length - 1]);
      file.close();
    },
  });

  Deno.test({
    name: `${name} host file: zeroes, size, read-only`,
    ignore,
    fn: () => {
      using folder = new TemporaryFolder();
      const path = folder.file("disk");
      Deno.writeFileSync(path, new Uint8Array(3 << 20).fill(7));
      const file = open(path, false);
      file.zero(1000, 2 << 20, false);
      file.zero(10, 20, true);
      const back = new Uint8Array(3 << 20);
      file.read(0, vector(back));
      const expected = new Uint8Array(3 << 20).fill(7);
      expected.fill(0, 1000, 1000 + (2 << 20)).fill(0, 10, 30);
      assert.deepEqual(back, expected);
      Deno.truncateSync(path, 4 << 20);
      assert.equal(file.refresh(), 4 << 20);
      file.close();

      const reader = open(path, true);
      assert.throws(() => reader.write(0, vector(new Uint8Array(1))), { name: "DiskError", code: "readonly" });
      assert.throws(() => reader.punch(0, 1), { name: "DiskError", code: "readonly" });
      reader.close();
    },
  });

  Deno.test({
    name: `${name} host file: one writer or many readers, across processes`,
    ignore,
    fn: async () => {
      using folder = new TemporaryFolder();
      const path = makeFile(folder.file("disk"), 4096);
      const className = { linux: "LinuxHostFile", windows: "WindowsHostFile", deno: "DenoHostFile" }[name];
      const module = new URL(`./host_file_${name}.ts`, import.meta.url).href;
      const attempt = (readonly: boolean) => {
        const code = `import { ${className} as F } from ${JSON.stringify(module)};
          try { F.open(${JSON.stringify(path)}, ${readonly}); console.log("open"); }
          catch (e) { console.log(e.code + " " + e.message); }`;
        return new TextDecoder().decode(
          new Deno.Command(Deno.execPath(), { args: ["eval", "--quiet", code] }).outputSync().stdout,
        ).trim();
      };
      const writer = open(path, false);
      assert.match(attempt(false), /^busy .*another process has it open; stop that machine first/);
      assert.match(attempt(true), /^busy .*another process has it open for writing/);
      assert.throws(() => open(path, false), { code: "busy" }, "the same process is no exception");
      writer.close();
      assert.equal(attempt(false), "open");
      const reader = open(path, true);
      assert.equal(attempt(true), "open");
      assert.match(attempt(false), /^busy /);
      reader.close();

      // A writer that is killed leaves no lock behind.
      const code = `import { ${className} as F } from ${JSON.stringify(module)};
        F.open(${JSON.stringify(path)}, false); console.log("open"); setInterval(() => {}, 1000);`;
      const child = new Deno.Command(Deno.execPath(), { args: ["eval", "--quiet", code], stdout: "piped" }).spawn();
      const output = child.stdout.getReader();
      await output.read();
      assert.throws(() => open(path, false), { code: "busy" });
      child.kill("SIGKILL");
      await child.status;
      await output.cancel();
      open(path, false).close();
    },
  });

  Deno.test({
    name: `${name} host file: what cannot be opened says what to do`,
    ignore,
    fn: () => {
      using folder = new TemporaryFolder();
      const cases: [string, string, RegExp][] = [
        [folder.file("none"), "missing", /no such file; check the path/],
        [folder.path, "format", /is a directory, not a disk image/],
        // A device of the same nature, but Deno itself finds nothing at Windows' spelling.
        ...(Deno.build.os !== "windows"
          ? [["/dev/null", "format", /neither a file nor a block device/] as [string, string, RegExp]]
          : []),
      ];
      for (const [path, code, message] of cases) {
        for (const readonly of [false, true]) {
          assert.throws(() => open(path, readonly), (error: DiskError) => {
            assert(error instanceof DiskError);
            assert.equal(error.code, code);
            assert.match(error.message, message);
            assert(!error.message.includes("\n"));
            return true;
          });
        }
      }
    },
  });
}

Deno.test({
  name: "linux host file: a punched hole gives blocks back and reads as zeroes",
  ignore: needs(posix() !== null, "punching holes", "no glibc to call"),
  fn: () => {
    using folder = new TemporaryFolder();
    const path = folder.file("disk");
    Deno.writeFileSync(path, new Uint8Array(8 << 20).fill(5));
    const file = LinuxHostFile.open(path, false);
    assert(file.sparse, "the folder for temporary files lies on a file system with holes");
    file.flush();
    const before = Deno.statSync(path).blocks!;
    assert(file.punch(1 << 20, 6 << 20));
    file.flush();
    const after = Deno.statSync(path).blocks!;
    assert(before - after >= (6 << 20) / 512, `${before} blocks before, ${after} after`);
    assert.equal(Deno.statSync(path).size, 8 << 20);
    const back = new Uint8Array(8 << 20);
    file.read(0, vector(back));
    assert.deepEqual(back, new Uint8Array(8 << 20).fill(5).fill(0, 1 << 20, 7 << 20));
    file.close();
  },
});

Deno.test({
  name: "linux host file: QEMU's tools and hv refuse each other's disks",
  ignore: needs(posix() !== null && has("qemu-io"), "locks against QEMU", "needs qemu-io (Debian: qemu-utils)"),
  fn: async () => {
    using folder = new TemporaryFolder();
    const path = makeFile(folder.file("disk"), 1 << 20);
    const qemu = (...args: string[]) => run("qemu-io", "-f", "raw", ...args, "-c", "read 0 512", path);
    const writer = LinuxHostFile.open(path, false);
    assert.throws(() => qemu(), /lock/);
    assert.throws(() => qemu("-r"), /lock/);
    writer.close();
    const reader = LinuxHostFile.open(path, true);
    assert.throws(() => qemu(), /lock/);
    qemu("-r");
    reader.close();

    for (
      const [args, readonly, allowed] of [[["-r"], true, true], [["-r"], false, false], [[], true, false]] as const
    ) {
      const child = new Deno.Command("qemu-io", {
        args: ["-f", "raw", ...args, path],
        stdin: "piped",
        stdout: "piped",
      }).spawn();
      const writer = child.stdin.getWriter();
      await writer.write(new TextEncoder().encode("read 0 512\n"));
      const output = child.stdout.getReader();
      for (let text = ""; !text.includes("read 512/512");) {
        text += new TextDecoder().decode((await output.read()).value);
      }
      if (allowed) LinuxHostFile.open(path, readonly).close();
      else assert.throws(() => LinuxHostFile.open(path, readonly), { code: "busy" });
      child.kill("SIGKILL");
      await child.status;
      await output.cancel();
      await writer.abort().catch(() => {});
    }
  },
});

const canMount = Deno.build.os === "linux" && Deno.uid() === 0 && has("mount");

Deno.test({
  name: "linux host file: a full file system is said, and what was there stays",
  ignore: needs(posix() !== null && canMount, "no space left", "needs root on Linux, to mount a small tmpfs"),
  fn: () => {
    using folder = new TemporaryFolder();
    Deno.mkdirSync(folder.file("small"));
    run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder.file("small"));
    try {
      const file = LinuxHostFile.open(makeFile(folder.file("small/disk"), 8 << 20), false);
      file.write(0, vector(new Uint8Array(4096).fill(1)));
      assert.throws(() => file.write(4096, vector(new Uint8Array(4 << 20))), (error: DiskError) => {
        assert.equal(error.code, "full");
        assert.match(error.message, /no space left on the host's file system; free some/);
        return true;
      });
      const back = new Uint8Array(4096);
      file.read(0, vector(back));
      assert.deepEqual(back, new Uint8Array(4096).fill(1));
      file.close();
    } finally {
      run("umount", folder.file("small"));
    }
  },
});

function tryLoop(): boolean {
  if (!canMount || !has("losetup")) return false;
  try {
    run("losetup", "-f");
    return true;
  } catch {
    return false;
  }
}

Deno.test({
  name: "linux host file: a block device, its size, holes, and that it is not mounted",
  ignore: needs(posix() !== null && tryLoop(), "block devices", "needs root and a loop device"),
  fn: () => {
    using folder = new TemporaryFolder();
    const image = makeFile(folder.file("image"), 8 << 20);
    run("mke2fs", "-q", "-t", "ext4", image);
    const device = run("losetup", "-f", "--show", image).trim();
    try {
      const file = LinuxHostFile.open(device, false);
      assert.equal(file.size, 8 << 20);
      const back = new Uint8Array(8192);
      file.write(4 << 20, vector(back.fill(3)));
      file.zero(4 << 20, 4096, false);
      file.flush();
      file.read(4 << 20, vector(back));
      assert.deepEqual(back, new Uint8Array(8192).fill(3).fill(0, 0, 4096));
      if (file.sparse) assert(file.punch((4 << 20) + 4096, 4096));
      assert.throws(() => LinuxHostFile.open(device, false), { code: "busy" });
      file.close();
      Deno.mkdirSync(folder.file("mounted"));
      run("mount", device, folder.file("mounted"));
      try {
        assert.throws(() => LinuxHostFile.open(device, false), /the host itself uses it \(mounted/);
      } finally {
        run("umount", folder.file("mounted"));
      }
    } finally {
      run("losetup", "-d", device);
    }
  },
});

Deno.test({
  name: "host file: no permission is said, with what to do",
  ignore: needs(canMount && has("setpriv"), "no permission", "needs root on Linux, to become somebody else"),
  fn: () => {
    using folder = new TemporaryFolder();
    const path = makeFile(folder.file("disk"), 4096);
    Deno.chmodSync(folder.path, 0o755);
    Deno.chmodSync(path, 0o600);
    for (const name of ["linux", "deno"]) {
      const className = name === "linux" ? "LinuxHostFile" : "DenoHostFile";
      const source = Deno.readTextFileSync(new URL("./host_file_errors.ts", import.meta.url));
      assert(source.includes("no permission to"));
      // The checkout may be unreadable for others: the module graph is bundled into the folder.
      const bundle = folder.file(`${name}.js`);
      run(
        Deno.execPath(),
        "bundle",
        "--quiet",
        "-o",
        bundle,
        new URL(`./host_file_${name}.ts`, import.meta.url).pathname,
      );
      Deno.chmodSync(bundle, 0o644);
      const code = `const { ${className}: F } = await import(${JSON.stringify("file://" + bundle)});
        for (const r of [true, false]) try { F.open(${JSON.stringify(path)}, r); console.log("open"); }
        catch (e) { console.log(e.code + " " + e.message); }`;
      Deno.writeTextFileSync(folder.file("try.js"), code);
      const said = new Deno.Command("setpriv", {
        args: ["--reuid=65534", "--regid=65534", "--clear-groups", Deno.execPath(), "run", "-A", folder.file("try.js")],
        env: { DENO_DIR: folder.file("cache-" + name), HOME: folder.path },
        stdin: "null",
      }).outputSync();
      const lines = new TextDecoder().decode(said.stdout).trim().split("\n");
      assert.match(lines[0], /^permission .*no permission to read it; chmod it/, new TextDecoder().decode(said.stderr));
      assert.match(lines[1], /^permission .*no permission to write it; chmod it/);
    }
  },
});

Deno.test({
  name: "windows host file: spaces, letters of all kinds, long paths, the drive and forward slashes in names",
  ignore: needs(windowsFiles() !== null, "names of Windows' files", "this is not Windows"),
  fn: () => {
    using folder = new TemporaryFolder();
    const long = folder.file(Array.from({ length: 12 }, () => "a folder with a long name").join("\\"));
    Deno.mkdirSync(long, { recursive: true });
    for (const name of [folder.file("a disk image.img"), folder.file("größe \u65e5\u672c.img"), `${long}\\deep.img`]) {
      makeFile(name, 8192);
      for (const path of [name, name.replaceAll("\\", "/"), `\\\\?\\${name}`]) {
        const file = WindowsHostFile.open(path, false);
        assert.equal(file.size, 8192, path);
        file.close();
      }
    }
    assert.throws(() => WindowsHostFile.open("\\\\.\\NUL", true), { code: "format" });
    assert.throws(() => WindowsHostFile.open("\\\\no-such-server\\share\\disk.img", true), { code: "missing" });
  },
});

Deno.test({
  name: "windows host file: this process reads an image it has locked, by another handle",
  ignore: needs(windowsFiles() !== null, "locks of Windows' files", "this is not Windows"),
  fn: () => {
    using folder = new TemporaryFolder();
    const path = makeFile(folder.file("disk"), 8192);
    const writer = WindowsHostFile.open(path, false);
    writer.write(0, vector(new Uint8Array(512).fill(9)));
    const reader = WindowsHostFile.open(path, true, false);
    const back = new Uint8Array(512);
    assert.equal(reader.read(0, vector(back)), 512);
    assert.equal(back[511], 9);
    reader.close();
    writer.close();
  },
});

Deno.test({
  name: "temporary file: sparse, nameless, gone after SIGKILL",
  fn: async () => {
    using folder = new TemporaryFolder();
    const module = new URL("./host_file.ts", import.meta.url).href;
    const code = `import { openTemporaryFile } from ${JSON.stringify(module)};
      const f = openTemporaryFile(2 ** 40);
      f.write(2 ** 39, { bytes: new Uint8Array(4096), hostAddress: 0, offsets: new Float64Array(1),
        lengths: Int32Array.of(4096), count: 1 });
      console.log("ready"); setInterval(() => {}, 1000);`;
    const child = new Deno.Command(Deno.execPath(), {
      args: ["eval", "--quiet", code],
      env: { TMPDIR: folder.path },
      stdout: "piped",
    }).spawn();
    const output = child.stdout.getReader();
    assert.match(new TextDecoder().decode((await output.read()).value), /ready/);
    // Windows shows its name while it is open.
    if (Deno.build.os !== "windows") assert.deepEqual([...Deno.readDirSync(folder.path)], []);
    child.kill("SIGKILL");
    await child.status;
    await output.cancel();
    assert.deepEqual([...Deno.readDirSync(folder.path)], []);
    const file = openTemporaryFile(1 << 30);
    assert.equal(file.size, 1 << 30);
    file.close();
  },
});
