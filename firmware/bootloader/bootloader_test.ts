import assert from "node:assert/strict";
import { grubCfg } from "../../tests/guests/grub_cfg.ts";
import { tool, which } from "../../tests/guests/command.ts";
import { needs } from "../../tests/skip.ts";
import { findBootEntries } from "./find_entries.ts";
import { readGrubEntries } from "./grub.ts";
import { volume } from "./memory_file_system.ts";
import { compareVersions } from "./version_order.ts";

const UUID = "6d8f4a52-1c5e-4a0b-9f3d-27c1b8e4d911";

/** Runs a grub.cfg that lies on partition 2 beside some kernels. */
function grub(config: string, files: Record<string, string> = {}) {
  const root = volume(
    2,
    { "/boot/grub/grub.cfg": config, "/boot/vmlinuz": "k", "/boot/initrd.img": "i", ...files },
    UUID,
    "root",
  );
  const menu = readGrubEntries(root, [volume(1, { "/EFI/x/y.efi": "" }, "8A3C-5D7E", "ESP"), root]);
  assert(menu !== null);
  return { ...menu, chosen: menu.entries.find((one) => one.isDefault) };
}

/** What `echo`-like configurations put on the command line of one entry. */
function line(config: string, files: Record<string, string> = {}): string {
  const { entries, problems } = grub(`${config}\nmenuentry x { linux /boot/vmlinuz $out }`, files);
  assert.deepEqual(problems, []);
  return entries[0].commandLine;
}

Deno.test("grub.cfg: as update-grub writes it", () => {
  const { entries, chosen, problems } = grub(
    grubCfg({ uuid: UUID, partition: "gpt2", release: "6.1.0-1-amd64", append: "a=b" }),
  );
  assert.deepEqual(problems, []);
  assert.deepEqual(entries.map((one) => one.title), [
    "Debian GNU/Linux",
    "Advanced options for Debian GNU/Linux > Debian GNU/Linux, with Linux 6.1.0-1-amd64",
    "Advanced options for Debian GNU/Linux > Debian GNU/Linux, with Linux 6.1.0-1-amd64 (recovery mode)",
  ]);
  assert.equal(chosen?.commandLine, `root=UUID=${UUID} ro a=b quiet`);
  assert.deepEqual(chosen?.kernel, { partition: 2, path: "/boot/vmlinuz-6.1.0-1-amd64" });
  assert.deepEqual(chosen?.initrds, [{ partition: 2, path: "/boot/initrd.img-6.1.0-1-amd64" }]);
});

Deno.test("grub: quoting, variables and word splitting", () => {
  assert.equal(line(`set out="a b"`), "a b");
  assert.equal(line(`set x=1; set out='$x'`), "$x");
  assert.equal(line(`set x=1; set out="\${x}2\\$x"`), "12$x");
  assert.equal(line(`set x="a b"; set out=$x$x`), "a ba b");
  assert.equal(line(`out=plain`), "plain");
  assert.equal(line(`set x=y; unset x; set out="<$x>"`), "<>");
  assert.equal(line(`set out=a\\ b`), "a b");
  assert.equal(line("set out=a\\\nb # a comment"), "ab");
  assert.equal(
    grub(`menuentry x { linux /boot/vmlinuz "dyndbg=file a.c +p" 'q"q' }`).entries[0].commandLine,
    `"dyndbg=file a.c +p" q\\"q`,
  );
});

Deno.test("grub: conditions", () => {
  const truths: [string, boolean][] = [
    [`[ -f /boot/vmlinuz ]`, true],
    [`[ -f /boot/none ]`, false],
    [`[ -d /boot ]`, true],
    [`[ -s /boot/vmlinuz -a -e /boot ]`, true],
    [`[ -s /boot/empty ]`, false],
    [`[ x$nothing = x ]`, true],
    [`[ "$nothing" ]`, false],
    [`[ ! -z "" ]`, false],
    [`[ a != b -a 2 -lt 10 ]`, true],
    [`[ 10 -eq 10 -o x = y ]`, true],
    [`[ ( a = b -o c = c ) -a d = d ]`, true],
    [`test 3 -ge 4`, false],
    [`test linux-9 -plt linux-10`, true],
    [`! false`, true],
    [`true; false`, false],
    [`nonsense --option`, false],
    [`search --no-floppy --fs-uuid --set=root ${UUID.toUpperCase()}`, true],
    [`search --label nowhere --set`, false],
    [`[ "$grub_platform" = efi ]`, true],
    [`[ x$feature_menuentry_id = xy ]`, true],
    [`probe -u $root --set=u; [ "$u" = ${UUID} ]`, true],
  ];
  for (const [condition, truth] of truths) {
    assert.equal(
      line(`if ${condition}; then out=yes; else out=no; fi`, { "/boot/empty": "" }),
      truth ? "yes" : "no",
      condition,
    );
  }
  assert.equal(line(`if false; then out=1; elif true; then out=2; else out=3; fi`), "2");
});

Deno.test("grub: functions, loops, parameters, return and break", () => {
  assert.equal(line(`function f { set out="$2$1"; return; set out=no; }\nf a b`), "ba");
  assert.equal(line(`for i in a b c; do if [ $i = c ]; then break; fi; out=$out$i; done`), "ab");
  assert.equal(
    line(`n=0\nwhile [ $n -lt 4 ]; do increment n; if [ $n = 2 ]; then continue; fi; out=$out$n; done`),
    "134",
  );
  assert.equal(line(`n=0\nuntil [ $n -ge 3 ]; do increment n; done; out=$n`), "3");
  assert.equal(line(`function f { return 1; }\nif f; then out=yes; else out=no; fi`), "no");
  assert.equal(line(`eval "set out=evaluated"`), "evaluated");
});

Deno.test("grub: the default by number, title, id, submenu path, saved entry, next entry, fallback", () => {
  const entry = (name: string) => `menuentry 'Linux ${name}' --id id-${name} { linux /boot/vmlinuz ${name} }\n`;
  const menu = entry("a") + entry("b") + `submenu 'More > here' --id more {\n${entry("c")}${entry("d")}}\n` +
    `menuentry Windows { chainloader /EFI/Microsoft/Boot/bootmgfw.efi }\n`;
  const chosen = (head: string, files = {}) => grub(head + "\n" + menu, files).chosen?.commandLine;
  const environment = (text: string) => ({
    "/boot/grub/grubenv": `# GRUB Environment Block\n${text}\n`.padEnd(1024, "#"),
  });
  assert.equal(chosen(""), "a");
  assert.equal(chosen("set default=1"), "b");
  assert.equal(chosen("set default='Linux b'"), "b");
  assert.equal(chosen("set default=id-b"), "b");
  assert.equal(chosen("set default='2>1'"), "d");
  assert.equal(chosen("set default='more>id-d'"), "d");
  assert.equal(chosen("set default='More >> here>Linux c'"), "c");
  assert.equal(chosen("set default=more"), "c");
  assert.equal(chosen("set default=nothing"), "a");
  assert.equal(chosen("set default=nothing\nset fallback='7 1'"), "b");
  assert.equal(chosen("set default=3"), "a"); // Windows cannot be started here
  const saved =
    `load_env\nif [ "\${next_entry}" ] ; then set default="\${next_entry}"\nelse set default="\${saved_entry}"\nfi`;
  assert.equal(chosen(saved, environment("saved_entry=id-b")), "b");
  assert.equal(chosen(saved, environment("saved_entry=id-b\nnext_entry=2>0")), "c");
  assert.match(grub(menu).entries[4].problems[0], /chain-loads/);
});

Deno.test("grub: an ESP's pointer, configfile, source, devices in paths, several initrds", () => {
  const config = "menuentry x { set root='hd0,gpt2'; linux (hd0,gpt3)/k a; initrd /ucode /initrd }";
  const esp = volume(1, {
    "/EFI/debian/grub.cfg":
      `search.fs_uuid ${UUID} root hd0,gpt9\nset prefix=($root)'/custom'\nconfigfile $prefix/grub.cfg\n`,
  }, "8A3C-5D7E");
  const root = volume(2, { "/custom/grub.cfg": config, "/ucode": "u", "/initrd": "i" }, UUID);
  const { entries, problems } = findBootEntries([esp, root, volume(3, { "/k": "k" })]);
  assert.deepEqual(problems, []);
  assert.deepEqual(entries[0].kernel, { partition: 3, path: "/k" });
  assert.deepEqual(entries[0].initrds, [{ partition: 2, path: "/ucode" }, { partition: 2, path: "/initrd" }]);
  assert.deepEqual(entries[0].problems, []);
  assert.equal(entries[0].isDefault, true);
});

Deno.test("grub: Fedora's blscfg with variables from grubenv and a separate /boot", () => {
  const bls = (version: string) =>
    `title Fedora Linux (${version})\nversion ${version}\nlinux /vmlinuz-${version}
initrd /initramfs-${version}.img $tuned_initrd\noptions root=UUID=${UUID} $kernelopts\ngrub_class fedora\n`;
  const boot = volume(2, {
    "/grub2/grub.cfg":
      `set pager=1\nif [ -f \${config_directory}/grubenv ]; then\n load_env -f \${config_directory}/grubenv\nfi
if [ "\${next_entry}" ] ; then set default="\${next_entry}"; else set default="\${saved_entry}"; fi
insmod blscfg\nblscfg\n`,
    "/grub2/grubenv":
      "# GRUB Environment Block\nsaved_entry=m-6.8.5-301.fc40.x86_64\nkernelopts=ro rhgb\\\\x quiet\n####",
    "/loader/entries/m-6.8.5-301.fc40.x86_64.conf": bls("6.8.5-301.fc40.x86_64"),
    "/loader/entries/m-6.10.2-200.fc40.x86_64.conf": bls("6.10.2-200.fc40.x86_64"),
    "/vmlinuz-6.8.5-301.fc40.x86_64": "k",
    "/initramfs-6.8.5-301.fc40.x86_64.img": "i",
  });
  const { entries } = findBootEntries([volume(1, { "/EFI/fedora/grub.cfg": "" }), boot]);
  const chosen = entries.find((one) => one.isDefault);
  assert.equal(chosen?.title, "Fedora Linux (6.8.5-301.fc40.x86_64)");
  assert.equal(chosen?.commandLine, `root=UUID=${UUID} ro rhgb\\x quiet`);
  assert.equal(chosen?.initrds.length, 1);
  assert.equal(entries[0].title, "Fedora Linux (6.10.2-200.fc40.x86_64)");
});

Deno.test("grub: scripts without end, without bound and without sense come to an end with a word", () => {
  const cases = [
    "while true; do true; done",
    "function f { f; }\nf",
    "function f { while true; do f; done; }\nf",
    "x=aa\nwhile true; do x=$x$x; done",
    "for i in $a; do while true; do search --file --set=root /x; done; done",
    "source /boot/grub/grub.cfg",
    "eval 'eval \"eval true\"'\nwhile true; do eval 'while true; do true; done'; done",
    "while true; do menuentry x { linux /boot/vmlinuz }; done",
    'n=0; while true; do increment n; eval "set v$n=1"; done',
    "submenu a { submenu b { submenu c { while true; do true; done } } }",
    "menuentry a { while true; do true; done; linux /boot/vmlinuz }",
    "{".repeat(5000),
    "if ".repeat(5000),
    "menuentry 'not closed { linux /boot/vmlinuz",
    'set x="${\n',
    "}}}}\nfi\ndone",
  ];
  for (const config of cases) {
    const begin = performance.now();
    const { entries, problems } = grub(config + "\nmenuentry last { linux /boot/vmlinuz }");
    assert(performance.now() - begin < 5000, config);
    assert(problems.length > 0 || entries.length > 0, config);
  }
  assert.match(grub("while true; do true; done\n").problems[0], /does not come to an end/);
  // What stands around a mistake still counts, as in GRUB.
  const { entries, problems } = grub("if true then\nmenuentry ok { linux /boot/vmlinuz }\n");
  assert(problems.length > 0 && entries.length >= 0);
});

Deno.test("grub: fuzz, by seed", () => {
  const words =
    "set if then else fi elif while do done for in function { } ; \n menuentry submenu linux initrd search [ ] = $a ${b} $@ \" ' ! x /boot/vmlinuz -f --set=root source eval return break export # \\ blscfg default=1"
      .split(" ");
  let state = 12345;
  const next = () => (state = Math.imul(state, 1103515245) + 12345 >>> 0) >>> 8;
  for (let round = 0; round < 3000; round++) {
    let text = "";
    for (let i = next() % 60; i >= 0; i--) text += words[next() % words.length] + (next() % 5 ? " " : "");
    grubQuiet(text);
  }
});

function grubQuiet(config: string): void {
  readGrubEntries(volume(2, { "/boot/grub/grub.cfg": config, "/boot/vmlinuz": "k" }), []);
}

Deno.test("boot loader specification: order, default pattern, boot counting, other architectures", () => {
  const conf = (version: string, more = "") =>
    `title OS ${version}\nversion ${version}\nsort-key os\nlinux /os/${version}/linux\ninitrd /os/${version}/initrd
options root=LABEL=x\noptions quiet\n${more}`;
  const files: Record<string, string> = {
    "/loader/loader.conf": "timeout 3\n#default none\n",
    "/EFI/systemd/systemd-bootx64.efi": "",
    "/loader/entries/os-6.9.conf": conf("6.9"),
    "/loader/entries/os-6.10.conf": conf("6.10"),
    "/loader/entries/os-6.11+0-3.conf": conf("6.11"),
    "/loader/entries/os-6.12.conf": conf("6.12", "architecture aa64\n"),
    "/loader/entries/broken.conf": "title nothing\n",
  };
  for (const version of ["6.9", "6.10", "6.11", "6.12"]) {
    files[`/os/${version}/linux`] = files[`/os/${version}/initrd`] = "x";
  }
  const { entries } = findBootEntries([
    volume(1, files),
    volume(2, { "/boot/grub/grub.cfg": "menuentry g { linux /boot/vmlinuz }", "/boot/vmlinuz": "" }),
  ]);
  assert.deepEqual(entries.map((one) => one.id), ["os-6.12", "os-6.10", "os-6.9", "broken", "os-6.11", "g"]);
  const chosen = entries.find((one) => one.isDefault);
  assert.equal(chosen?.id, "os-6.10");
  assert.equal(chosen?.commandLine, "root=LABEL=x quiet");
  files["/loader/loader.conf"] = "default os-6.9*\n";
  assert.equal(findBootEntries([volume(1, files)]).entries.find((one) => one.isDefault)?.id, "os-6.9");
});

Deno.test("versions sort as UAPI.10 says", () => {
  const ordered = [
    "~1",
    "",
    "ab",
    "abb",
    "abc",
    "0001",
    "002",
    "12",
    "122",
    "122.9",
    "123~rc1",
    "123",
    "123-a",
    "123-a.1",
    "123-a1",
    "123-3",
    "123-3.1",
    "123^patch1",
    "123^1",
    "123.a-1",
    "123.1-1",
    "123a-1",
    "124",
  ];
  for (let i = 0; i + 1 < ordered.length; i++) {
    assert(compareVersions(ordered[i], ordered[i + 1]) < 0, `${ordered[i]} < ${ordered[i + 1]}`);
    assert(compareVersions(ordered[i + 1], ordered[i]) > 0, `${ordered[i + 1]} > ${ordered[i]}`);
    assert.equal(compareVersions(ordered[i], ordered[i]), 0);
  }
});

Deno.test("extlinux, syslinux, isolinux: labels, includes, defaults, initrd in APPEND", () => {
  const { entries } = findBootEntries([volume(0, {
    "/isolinux/isolinux.cfg": "# comment\nDEFAULT vesamenu.c32\nTIMEOUT 50\nINCLUDE txt.cfg\n",
    "/isolinux/txt.cfg": `label rescue\n  kernel /live/vmlinuz\n  append initrd=/live/initrd rescue
label live\n  menu label ^Live system\n  menu default\n  linux vmlinuz\n  initrd initrd.gz,extra.gz\n  append boot=live quiet
  text help\n    label not a label\n  endtext\nlabel memtest\n  kernel memtest.bin\ninclude txt.cfg\n`,
    "/isolinux/vmlinuz": "k",
    "/isolinux/initrd.gz": "i",
    "/isolinux/extra.gz": "i",
    "/live/vmlinuz": "k",
    "/live/initrd": "i",
  })]);
  const chosen = entries.find((one) => one.isDefault);
  assert.equal(chosen?.title, "Live system");
  assert.deepEqual(chosen?.kernel, { partition: 0, path: "/isolinux/vmlinuz" });
  assert.deepEqual(chosen?.initrds.map((one) => one.path), ["/isolinux/initrd.gz", "/isolinux/extra.gz"]);
  assert.equal(chosen?.commandLine, "boot=live quiet");
  assert.equal(entries[0].commandLine, "rescue");
  assert.equal(entries[0].initrds[0].path, "/live/initrd");
  assert.match(entries[2].problems[0], /memtest.bin, not a kernel/);
});

Deno.test("without a configuration: kernels by name, the newest with its initrd", () => {
  const { entries } = findBootEntries([volume(1, {
    "/boot/vmlinuz-6.1.0-9-amd64": "k",
    "/boot/vmlinuz-6.1.0-10-amd64": "k",
    "/boot/initrd.img-6.1.0-10-amd64": "i",
    "/vmlinuz": "k",
  })]);
  assert.equal(entries[0].kernel?.path, "/boot/vmlinuz-6.1.0-10-amd64");
  assert.equal(entries[0].initrds[0].path, "/boot/initrd.img-6.1.0-10-amd64");
  assert.equal(entries.filter((one) => one.isDefault).length, 1);
  assert.deepEqual(findBootEntries([]).entries, []);
});

Deno.test({
  name: "a unified kernel image: made by objcopy, found in EFI/Linux",
  ignore: needs(which("objcopy") !== null, "unified kernel image", "not installed: objcopy (binutils)"),
  async fn() {
    const folder = await Deno.makeTempDir();
    try {
      const write = (name: string, text: string) => Deno.writeTextFile(`${folder}/${name}`, text);
      await write("stub.s", ".globl _start\n_start: ret\n");
      await write("linux", "not really a kernel");
      await write("initrd", "not really an initrd");
      await write("cmdline", "root=LABEL=uki quiet\n");
      await write("osrel", 'NAME="Test"\nPRETTY_NAME="Test OS 7"\nID=test\nVERSION_ID="7"\n');
      const sections = ["linux", "initrd", "cmdline", "osrel"].flatMap((name, i) => [
        "--add-section",
        `.${name}=${folder}/${name}`,
        "--set-section-flags",
        `.${name}=data,readonly,alloc,load,contents`,
        "--change-section-vma",
        `.${name}=0x${((i + 2) * 0x100000).toString(16)}`,
      ]);
      await tool(["as", "-o", `${folder}/stub.o`, `${folder}/stub.s`]);
      await tool(["ld", "-o", `${folder}/stub`, `${folder}/stub.o`]);
      await tool(["objcopy", "-O", "pei-x86-64", ...sections, `${folder}/stub`, `${folder}/uki.efi`]);
      const { entries } = findBootEntries([
        volume(1, { "/EFI/Linux/test.efi": await Deno.readFile(`${folder}/uki.efi`) }),
      ]);
      assert.equal(entries[0].source, "uki");
      assert.equal(entries[0].title, "Test OS 7");
      assert.equal(entries[0].commandLine, "root=LABEL=uki quiet");
      assert.equal(entries[0].isDefault, true);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});
