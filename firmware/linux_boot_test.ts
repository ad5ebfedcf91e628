import assert from "node:assert/strict";
import { HvError } from "../core/errors.ts";
import { GuestMemory } from "../core/memory.ts";
import { SEGMENT_BYTES, X64 } from "../core/x64_state.ts";
import { tool, which } from "../tests/guests/command.ts";
import { busyboxEntries, cpio, zstd } from "../tests/guests/initramfs.ts";
import { debianKernel, type Flavour } from "../tests/guests/kernel.ts";
import { needs } from "../tests/skip.ts";
import { BootParams, E820_ENTRY_BYTES, SETUP_DATA_HEADER_BYTES } from "./boot_params.ts";
import { E820_ACPI, E820_RAM, E820_RESERVED, pcMemoryMap } from "./e820.ts";
import { identifyKernel } from "./kernel.ts";
import { type BootWay, prepareLinux } from "./linux_boot.ts";
import { startInQemu } from "./start_in_qemu.ts";

const MIB = 2 ** 20;

function guestMemory(mib: number): GuestMemory {
  const size = mib * MIB;
  return new GuestMemory({ buffer: new ArrayBuffer(size), byteOffset: 0, size, address: 0 }, 3 * 2 ** 30);
}

const noPackages = needs(which("apt-get") !== null, "Linux boot with real kernels", "needs Debian's packages");

Deno.test({
  name: "boot_params: offsets and sizes as the C compiler sees <asm/bootparam.h>",
  ignore: needs(which("gcc") !== null, "boot_params against gcc", "not installed: gcc"),
  async fn() {
    const fields: Record<string, string> = {
      ACPI_RSDP_ADDR: "acpi_rsdp_addr",
      EXT_RAMDISK_IMAGE: "ext_ramdisk_image",
      EXT_RAMDISK_SIZE: "ext_ramdisk_size",
      EXT_CMD_LINE_PTR: "ext_cmd_line_ptr",
      E820_ENTRIES: "e820_entries",
      HDR: "hdr",
      E820_TABLE: "e820_table",
      VID_MODE: "hdr.vid_mode",
      BOOT_FLAG: "hdr.boot_flag",
      HEADER: "hdr.header",
      VERSION: "hdr.version",
      TYPE_OF_LOADER: "hdr.type_of_loader",
      LOADFLAGS: "hdr.loadflags",
      CODE32_START: "hdr.code32_start",
      RAMDISK_IMAGE: "hdr.ramdisk_image",
      RAMDISK_SIZE: "hdr.ramdisk_size",
      CMD_LINE_PTR: "hdr.cmd_line_ptr",
      INITRD_ADDR_MAX: "hdr.initrd_addr_max",
      KERNEL_ALIGNMENT: "hdr.kernel_alignment",
      RELOCATABLE_KERNEL: "hdr.relocatable_kernel",
      XLOADFLAGS: "hdr.xloadflags",
      CMDLINE_SIZE: "hdr.cmdline_size",
      PAYLOAD_OFFSET: "hdr.payload_offset",
      PAYLOAD_LENGTH: "hdr.payload_length",
      SETUP_DATA: "hdr.setup_data",
      PREF_ADDRESS: "hdr.pref_address",
      INIT_SIZE: "hdr.init_size",
    };
    const { BYTES, ...offsets } = BootParams;
    assert.deepEqual(Object.keys(fields).sort(), Object.keys(offsets).sort());
    const checks = Object.entries(offsets).map(([name, offset]) =>
      `_Static_assert(offsetof(struct boot_params, ${fields[name]}) == ${offset}, "${name}");`
    );
    const source = `#include <stddef.h>\n#include <asm/bootparam.h>\n${checks.join("\n")}
_Static_assert(sizeof(struct boot_params) == ${BYTES}, "size");
_Static_assert(sizeof(struct boot_e820_entry) == ${E820_ENTRY_BYTES}, "e820");
_Static_assert(sizeof(struct setup_data) == ${SETUP_DATA_HEADER_BYTES}, "setup_data");
_Static_assert(SETUP_RNG_SEED == 9, "seed");\n`;
    await tool(["gcc", "-fsyntax-only", "-x", "c", "-"], { stdin: new TextEncoder().encode(source) });
    await assert.rejects(
      tool(["gcc", "-fsyntax-only", "-x", "c", "-"], {
        stdin: new TextEncoder().encode(source.replace("== 4096", "== 4095")),
      }),
    );
  },
});

Deno.test("e820: sorted, without overlaps, reserved wins, RAM beyond 4 GiB", () => {
  const size = 4096 * MIB;
  const memory = { lowSize: 3 * 2 ** 30, highSize: size - 3 * 2 ** 30 } as GuestMemory;
  const map = pcMemoryMap(memory, [
    { start: 0xe0000, size: 0x10000, type: E820_ACPI },
    { start: 0xb0000000, size: 0x10000000, type: E820_RESERVED },
    { start: 0x10000000, size: 0x1000, type: E820_RESERVED },
  ]);
  let end = 0;
  for (const range of map) {
    assert(range.start >= end && range.size > 0);
    end = range.start + range.size;
  }
  const ram = map.filter((one) => one.type === E820_RAM);
  assert.deepEqual(ram.map((one) => one.start), [0, 0x100000, 0x10001000, 2 ** 32]);
  assert.equal(ram.at(-1)!.size, 1024 * MIB);
  assert.equal(map.find((one) => one.start === 0xe0000)?.type, E820_ACPI);
});

const INIT = `#!/bin/sh
mount -t proc proc /proc
echo "init runs: $(uname -r) | $(cat /proc/cmdline) | $(cat /file)"
dmesg | grep -c 'random: crng init done'
reboot -f
`;

const cases: [Flavour, BootWay | undefined][] = [
  ["cloud", undefined],
  ["cloud", "bzImage"],
  ["cloud", "pvh"],
  ["generic", undefined],
  ["686", undefined],
  ["686-pae", undefined],
];
for (const [flavour, way] of cases) {
  const missing = ["qemu-system-x86_64", "nasm", "zstd"].filter((name) => which(name) === null);
  const name = `Linux boots: Debian's ${flavour} kernel, ${way ?? "the best way"}, on QEMU's CPU`;
  Deno.test({
    name,
    ignore: noPackages || needs(missing.length === 0, name, `not installed: ${missing.join(" ")}`),
    async fn() {
      const kernel = await debianKernel(flavour);
      const archive = cpio([
        ...await busyboxEntries(flavour.startsWith("686") ? "i386" : undefined),
        { path: "init", data: INIT, mode: 0o755 },
        { path: "file", data: "from the initrd" },
      ]);
      const memory = guestMemory(256);
      const prepared = prepareLinux({
        memory,
        kernel: await Deno.readFile(kernel.vmlinuz),
        initrd: await zstd(archive),
        commandLine: "console=ttyS0 quiet panic=-1 a.b=c",
        rsdpAddress: 0,
        way,
      });
      assert.equal(prepared.way, way ?? "vmlinux");
      assert.deepEqual(prepared.initrd?.formats, ["zstd"]);
      assert.equal(prepared.initrd?.size, archive.length);
      const console = await startInQemu(prepared, memory, 60);
      assert(
        console.includes(`init runs: ${kernel.release} | console=ttyS0 quiet panic=-1 a.b=c | from the initrd`),
        console.slice(-3000),
      );
    },
  });
}

Deno.test({
  name: "Linux boot: what is put where",
  ignore: noPackages,
  async fn() {
    const kernel = await Deno.readFile((await debianKernel("cloud")).vmlinuz);
    const memory = guestMemory(256);
    const initrd = new Uint8Array(5 * MIB + 3).fill(0x5a);
    const top = 256 * MIB - 64 * 1024;
    const prepared = prepareLinux({
      memory,
      kernel,
      initrd,
      commandLine: "hello",
      rsdpAddress: 0xe1230,
      e820Reserved: [{ start: top, size: 64 * 1024, type: E820_ACPI }],
      randomSeed: new Uint8Array(32).fill(7),
    });
    const state = new DataView(prepared.state);
    const page = Number(state.getBigUint64(X64.GPR + 6 * 8, true));
    const zero = new DataView(memory.bytes.buffer, page, 4096);
    assert.equal(zero.getBigUint64(BootParams.ACPI_RSDP_ADDR, true), 0xe1230n);
    assert.equal(zero.getUint32(BootParams.RAMDISK_SIZE, true), initrd.length);
    const at = zero.getUint32(BootParams.RAMDISK_IMAGE, true);
    assert(at % 4096 === 0 && at + initrd.length <= top && at + initrd.length > top - 8192);
    assert.equal(memory.bytes[at + initrd.length - 1], 0x5a);
    assert.match(prepared.initrd!.problems[0], /no cpio archive/);
    const line = zero.getUint32(BootParams.CMD_LINE_PTR, true);
    assert.equal(new TextDecoder().decode(memory.slice(line, 6)), "hello\0");
    const seed = Number(zero.getBigUint64(BootParams.SETUP_DATA, true));
    assert.deepEqual([...memory.slice(seed, 18)], [0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 32, 0, 0, 0, 7, 7]);
    assert.equal(zero.getUint8(BootParams.E820_ENTRIES), prepared.e820.length);
    assert.equal(state.getBigUint64(X64.RIP, true), 0x1000000n);
    assert.equal(state.getUint16(X64.SEGMENTS + SEGMENT_BYTES + 12, true), 0x10);
    // IA32_MTRR_DEF_TYPE: on, write-back.
    assert.equal(state.getUint32(X64.OTHER_MSRS, true), 0x2ff);
    assert.equal(state.getBigUint64(X64.OTHER_MSRS + 8, true), 0x806n);
    // Page tables: the last of 4 GiB maps to itself.
    const root = Number(state.getBigUint64(X64.CR3, true));
    assert.equal(memory.view.getUint32(root + 5 * 4096 + 511 * 8, true), 0xffe00083);
  },
});

Deno.test({
  name: "Linux boot: what cannot be is said in words, and the memory asked for is enough",
  ignore: noPackages,
  async fn() {
    const kernel = await Deno.readFile((await debianKernel("cloud")).vmlinuz);
    const prepare = (mib: number, more: Partial<Parameters<typeof prepareLinux>[0]> = {}) =>
      prepareLinux({ memory: guestMemory(mib), kernel, commandLine: "", rsdpAddress: 0, ...more });
    const message = (work: () => unknown): string => {
      try {
        work();
      } catch (error) {
        assert(error instanceof HvError, `${error}`);
        return error.message;
      }
      assert.fail("no error");
    };
    const tooSmall = message(() => prepare(32));
    assert.match(tooSmall, /needs --memory at least (\d+)M/);
    prepare(Number(/(\d+)M/.exec(tooSmall)![1]));
    const initrd = new Uint8Array(200 * MIB).fill(1);
    const noRoom = message(() => prepare(192, { initrd }));
    assert.match(noRoom, /does not fit: the guest needs --memory at least (\d+)M/);
    prepare(Number(/at least (\d+)M/.exec(noRoom)![1]), { initrd });
    assert.match(
      message(() => prepare(128, { commandLine: "x".repeat(5000) })),
      /5000 bytes, this kernel takes at most 2047/,
    );
    assert.match(message(() => prepare(128, { kernel: kernel.subarray(0, kernel.length >> 1) })), /cut short/);
    const damaged = kernel.slice();
    damaged.fill(0xff, 5 * MIB, 5 * MIB + 4096);
    assert.match(message(() => prepare(128, { kernel: damaged })), /damaged|cut short|before its beginning/);
    assert.match(message(() => prepare(128, { kernel: new Uint8Array(0) })), /empty/);
    assert.match(
      message(() => prepare(128, { kernel: new TextEncoder().encode("#!/bin/sh\n".repeat(50)) })),
      /not a kernel/,
    );
    assert.match(message(() => prepare(128, { e820Reserved: [{ start: 20 * MIB, size: 4096, type: 2 }] })), /overlaps/);
  },
});

Deno.test({
  name: "kernels: recognised by their bytes; cut and damaged ones never throw",
  ignore: noPackages,
  async fn() {
    const file = await debianKernel("cloud");
    const kernel = await Deno.readFile(file.vmlinuz);
    const found = identifyKernel(kernel);
    assert.equal(found.format, "bzImage");
    assert.equal(found.version, file.release);
    assert.equal(found.architecture, "x86_64");
    assert.equal(found.problem, null);
    const wrapped = await tool(["gzip", "-1", "-c"], { stdin: kernel });
    assert.equal(identifyKernel(wrapped).version, file.release);

    const arm = new Uint8Array(4096);
    arm.set([0x41, 0x52, 0x4d, 0x64], 56);
    assert.match(identifyKernel(arm).problem!, /another architecture \(aarch64\)/);
    assert.match(
      identifyKernel(await tool(["gzip", "-c"], { stdin: arm })).problem!,
      /another architecture \(aarch64\)/,
    );
    let state = 7;
    const next = () => (state = Math.imul(state, 1103515245) + 12345 >>> 0) >>> 4;
    for (let round = 0; round < 300; round++) {
      const broken = kernel.slice(0, 16 + next() % 40_000);
      for (let i = 0; i < 5; i++) broken[next() % Math.min(broken.length, 1024)] = next();
      assert.notEqual(identifyKernel(broken).problem, null);
    }
  },
});
