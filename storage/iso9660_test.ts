/** ISO images made by xorriso and genisoimage, with each kind of names. */
import assert from "node:assert/strict";
import { needs } from "../tests/skip.ts";
import { Iso9660FileSystem } from "./iso9660.ts";
import { blkid, has, MemorySource, random, run, TemporaryFolder } from "./test_support.ts";

const LONG = `a-long-name-${"x".repeat(180)}.conf`;

function makeTree(folder: TemporaryFolder): void {
  const next = random(5);
  const deep = "1/2/3/4/5/6/7/8/9/10";
  Deno.mkdirSync(folder.file(`tree/isolinux`), { recursive: true });
  Deno.mkdirSync(folder.file(`tree/${deep}`), { recursive: true });
  Deno.mkdirSync(folder.file(`tree/many`), { recursive: true });
  Deno.writeFileSync(folder.file("tree/isolinux/vmlinuz"), new Uint8Array(200_001).map(() => next()));
  Deno.writeTextFileSync(folder.file("tree/isolinux/isolinux.cfg"), "default linux\n");
  Deno.writeTextFileSync(folder.file(`tree/${deep}/bottom`), "bottom");
  Deno.writeTextFileSync(folder.file("tree/empty"), "");
  for (let i = 0; i < 200; i++) Deno.writeTextFileSync(folder.file(`tree/many/file${i}.txt`), String(i));
}

/** @param steps genisoimage 1.1.11 hangs on links longer than about 250 bytes */
function addUnixNames(folder: TemporaryFolder, steps: number): void {
  Deno.writeTextFileSync(folder.file(`tree/${LONG}`), "long");
  Deno.symlinkSync("isolinux/vmlinuz", folder.file("tree/kernel"));
  Deno.symlinkSync("../kernel", folder.file("tree/isolinux/again"));
  Deno.symlinkSync("/isolinux/isolinux.cfg", folder.file("tree/absolute"));
  Deno.symlinkSync(`${"./".repeat(steps)}empty`, folder.file("tree/long-link"));
  Deno.symlinkSync("circle", folder.file("tree/circle"));
}

const cases: { name: string; names: string; command: string[]; unix: boolean }[] = [
  { name: "Rock Ridge by xorriso", names: "rock ridge", command: ["xorriso", "-as", "mkisofs", "-R"], unix: true },
  {
    name: "Rock Ridge and Joliet by genisoimage",
    names: "rock ridge",
    command: ["genisoimage", "-R", "-J", "-joliet-long"],
    unix: true,
  },
  { name: "Joliet", names: "joliet", command: ["genisoimage", "-J", "-D"], unix: false },
  { name: "plain names", names: "plain", command: ["genisoimage", "-D", "-l"], unix: false },
];

for (const { name, names, command, unix } of cases) {
  Deno.test({
    name: `iso9660: ${name}`,
    ignore: needs(has(command[0]), `iso9660: ${name}`, `needs ${command[0]} (Debian: xorriso, genisoimage)`),
    fn: () => {
      using folder = new TemporaryFolder();
      makeTree(folder);
      if (unix) addUnixNames(folder, command[0] === "xorriso" ? 300 : 100);
      const image = folder.file("image");
      const [program, ...options] = command;
      run(program, ...options, "-quiet", "-V", "Debian 12 amd64", "-o", image, folder.file("tree"));
      const system = new Iso9660FileSystem(new MemorySource(Deno.readFileSync(image)));
      const said = blkid(image);
      assert.equal(system.names, names);
      assert.deepEqual([system.type, system.uuid, system.label], [said.TYPE, said.UUID, said.LABEL]);
      const kernel = Deno.readFileSync(folder.file("tree/isolinux/vmlinuz"));
      assert.deepEqual(system.read("/isolinux/vmlinuz"), kernel);
      assert.equal(new TextDecoder().decode(system.read("/isolinux/isolinux.cfg")), "default linux\n");
      assert.equal(new TextDecoder().decode(system.read("/1/2/3/4/5/6/7/8/9/10/bottom")), "bottom");
      assert.equal(system.read("/empty").length, 0);
      assert.equal(system.list("/many").length, 200);
      assert.equal(new TextDecoder().decode(system.read("/many/file123.txt")), "123");
      assert.deepEqual(system.list("/1/2/3/4/5/6/7/8/9"), ["10"]);
      assert.equal(system.stat("/none"), null);
      assert.throws(() => system.read("/isolinux"), /not a file/);
      assert.throws(() => system.read("/isolinux/vmlinuz", 10), /200001 bytes, more than 10/);
      const listed = system.list("/").filter((entry) => entry !== "rr_moved");
      assert.deepEqual(listed, [...Deno.readDirSync(folder.file("tree"))].map((entry) => entry.name).sort());
      if (!unix) {
        assert.deepEqual(system.read("/ISOLINUX/VMLINUZ"), kernel);
        return;
      }
      assert.deepEqual(system.read("/kernel"), kernel);
      assert.deepEqual(system.read("/isolinux/again"), kernel);
      assert.equal(new TextDecoder().decode(system.read("/absolute")), "default linux\n");
      assert.equal(new TextDecoder().decode(system.read(`/${LONG}`)), "long");
      assert.deepEqual(system.stat("/long-link"), { type: "file", size: 0 });
      assert.equal(system.stat("/circle"), null);
      assert.equal(system.stat("/ISOLINUX"), null);
    },
  });
}

Deno.test({
  name: "iso9660: a cut image says so",
  ignore: needs(has("genisoimage"), "cut ISO image", "needs genisoimage"),
  fn: () => {
    using folder = new TemporaryFolder();
    makeTree(folder);
    run("genisoimage", "-quiet", "-R", "-o", folder.file("image"), folder.file("tree"));
    const bytes = Deno.readFileSync(folder.file("image"));
    const kernel = Deno.readFileSync(folder.file("tree/isolinux/vmlinuz"));
    const start = new DataView(kernel.buffer).getUint32(0);
    let at = 0;
    while (new DataView(bytes.buffer).getUint32(at) !== start) at += 2048;
    const system = new Iso9660FileSystem(new MemorySource(bytes.slice(0, at + 1000)));
    assert.throws(() => system.read("/isolinux/vmlinuz"), /the image was cut/);
    assert.throws(() => new Iso9660FileSystem(new MemorySource(new Uint8Array(34 * 1024))), /was cut|no ISO 9660/);
    assert.throws(() => new Iso9660FileSystem(new MemorySource(new Uint8Array(1 << 20))), /no ISO 9660 primary/);
  },
});
