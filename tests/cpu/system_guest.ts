/** Builds the system guests of `system_guest/` with the host's gcc, and runs them on QEMU's TCG and on the software CPU. */
import { cached, digest, ROOT } from "../guests/cache.ts";
import { tool, which } from "../guests/command.ts";
import { qemuProgram } from "../guests/qemu.ts";
import { runBareGuest } from "./bare_guest.ts";
import { EXIT_PORT } from "./bare_protocol.ts";
import { loadMultiboot } from "./multiboot.ts";

const SOURCES = `${ROOT}/tests/cpu/system_guest`;
const RAM = 64 << 20;
const FLAGS = [
  ...["-O1", "-fno-pic", "-fno-pie", "-mgeneral-regs-only", "-ffreestanding", "-w"],
  ...["-fno-stack-protector", "-fcf-protection=none", "-fno-asynchronous-unwind-tables"],
];
/** The guests: their C file, the compiler's and the linker's word for what they are. */
const GUESTS = {
  long: { flags: ["-m64", "-mno-red-zone", "-mcmodel=small"], emulation: "elf_x86_64" },
  legacy: { flags: ["-m32"], emulation: "elf_i386" },
} as const;
export type SystemGuest = keyof typeof GUESTS;

/** What is missing to build and compare the guests, or null. */
export function missing(): string | null {
  if (Deno.build.arch !== "x86_64") return "the host's compiler is not one for x86-64";
  for (const program of ["gcc", "ld", "objcopy"]) if (!which(program)) return `${program} is not installed`;
  if (!qemuProgram()) return "qemu-system-x86_64 is not installed";
  return null;
}

/** The image of a guest: the 64-bit one or the 32-bit one. */
export async function buildSystemGuest(guest: SystemGuest): Promise<string> {
  const { flags, emulation } = GUESTS[guest];
  const names = ["start.S", `${guest}.c`, "guest.h", "link.ld"];
  const texts = names.map((name) => Deno.readTextFileSync(`${SOURCES}/${name}`));
  const key = `cpu/system_guest_${await digest(...texts, FLAGS.join(" "), flags.join(" "))}`;
  return await cached(key, async (path) => {
    const folder = await Deno.makeTempDir({ prefix: "hv-cpu-" });
    try {
      await tool(["gcc", ...FLAGS, ...flags, "-c", `${SOURCES}/${guest}.c`, "-o", `${folder}/${guest}.o`]);
      await tool(["gcc", flags[0], "-c", `${SOURCES}/start.S`, "-o", `${folder}/start.o`]);
      const objects = [`${folder}/start.o`, `${folder}/${guest}.o`];
      const script = ["-T", `${SOURCES}/link.ld`, "-z", "max-page-size=4096"];
      await tool(["ld", "-m", emulation, "-nostdlib", ...script, ...objects, "-o", `${folder}/guest`]);
      // Multiboot loaders take 32-bit ELF only.
      await tool(["objcopy", "-O", "elf32-i386", `${folder}/guest`, path]);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
}

/** What the guest writes under QEMU's TCG. */
export async function traceOfQemu(image: string): Promise<string> {
  const folder = await Deno.makeTempDir({ prefix: "hv-cpu-" });
  try {
    const { code } = await new Deno.Command(qemuProgram()!, {
      args: [
        ...["-accel", "tcg", "-display", "none", "-monitor", "none", "-serial", `file:${folder}/trace`, "-m", "64"],
        ...["-no-reboot", "-device", `isa-debug-exit,iobase=0x${EXIT_PORT.toString(16)}`, "-kernel", image],
        ...["-cpu", "max,vendor=GenuineIntel,pku=off,pks=off,umip=off,la57=off,xsave=off"],
      ],
      stdin: "null",
      stdout: "null",
      stderr: "null",
      signal: AbortSignal.timeout(60_000),
    }).output();
    const trace = await Deno.readTextFile(`${folder}/trace`);
    // isa-debug-exit: (value << 1) | 1.
    if (code !== 1) throw new Error(`QEMU ended with ${code} after: ${trace.slice(-200)}`);
    return trace;
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** What it writes on the software CPU; with "s" only what TCG cannot be asked. */
export async function traceOfOurs(image: string, commandLine: string): Promise<string> {
  const guest = loadMultiboot(await Deno.readFile(image), commandLine, RAM);
  const result = await runBareGuest({ ram: RAM, ...guest, timeout: 60_000 });
  if (result.end !== "exit") throw new Error(`it ended with ${result.end} after: ${result.output.slice(-200)}`);
  return result.output;
}
