/**
 * Test support: starts what `prepareLinux` prepared on QEMU's own CPU. QEMU's `-kernel` would do the loading itself, so
 * memory goes in as it is, and a few instructions in place of a BIOS turn the reset state into the prepared one.
 */
import type { GuestMemory } from "../core/memory.ts";
import { SEGMENT_BYTES, X64 } from "../core/x64_state.ts";
import type { PreparedLinux } from "./linux_boot.ts";

/** Assembly (nasm) for a BIOS of 64 KiB that loads a prepared state's registers. */
function trampoline(state: ArrayBuffer): string {
  const view = new DataView(state);
  const hex = (at: number) => `0x${view.getBigUint64(at, true).toString(16)}`;
  const selector = (index: number) => view.getUint16(X64.SEGMENTS + index * SEGMENT_BYTES + 12, true);
  const register = (index: number) => hex(X64.GPR + index * 8);
  const cs = selector(1);
  const wide = view.getBigUint64(X64.EFER, true) !== 0n;
  const names = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"];
  const common = `
bits 16
org 0
start:
  cli
  o32 lgdt [cs:own_gdtr]
  mov eax, 1
  mov cr0, eax
  jmp dword 0x08:(0xf0000 + protected)
align 8
own_gdt: dq 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
own_gdtr: dw 23
  dd 0xf0000 + own_gdt
gdtr: dw ${view.getUint32(X64.GDTR_LIMIT, true)}
  dq ${hex(X64.GDTR_BASE)}
bits 32
protected:
  mov ax, 0x10
  mov ds, ax
  mov eax, ${hex(X64.CR4)}
  mov cr4, eax
  mov eax, ${hex(X64.CR3)}
  mov cr3, eax
  mov ecx, 0xc0000080
  xor edx, edx
  mov eax, ${hex(X64.EFER)} & ~0x400
  wrmsr
  mov eax, ${hex(X64.CR0)}
  mov cr0, eax
  lgdt [0xf0000 + gdtr]
  jmp ${cs}:(0xf0000 + flat)
bits ${wide ? 64 : 32}
flat:
  mov ax, ${selector(3)}
  mov ds, ax
  mov es, ax
  mov ss, ax
  mov fs, ax
  mov gs, ax
`;
  const load = names.map((name, i) => `  mov ${wide ? name : `e${name.slice(1)}`}, ${register(i)}`).join("\n");
  const jump = wide ? `  jmp [rel target]\nalign 8\ntarget: dq ${hex(X64.RIP)}` : `  jmp dword ${cs}:${hex(X64.RIP)}`;
  return `${common}${load}\n${jump}\ntimes 0xfff0 - ($ - $$) db 0\nbits 16\n  jmp 0xf000:start\ntimes 0x10000 - ($ - $$) db 0\n`;
}

/** Runs of memory that hold anything, in steps of 64 KiB. */
function usedRuns(memory: GuestMemory): { start: number; end: number }[] {
  const runs: { start: number; end: number }[] = [];
  const step = 65536;
  for (let at = 0; at < memory.lowSize; at += step) {
    const words = new BigUint64Array(memory.bytes.buffer, memory.bytes.byteOffset + at, step / 8);
    if (words.every((word) => word === 0n)) continue;
    const last = runs.at(-1);
    if (last?.end === at) last.end = at + step;
    else runs.push({ start: at, end: at + step });
  }
  return runs;
}

/** Runs the guest until it asks for a reset or `seconds` have passed; returns its console. */
export async function startInQemu(prepared: PreparedLinux, memory: GuestMemory, seconds: number): Promise<string> {
  const folder = await Deno.makeTempDir({ prefix: "hv-start-" });
  try {
    await Deno.writeTextFile(`${folder}/bios.asm`, trampoline(prepared.state));
    const nasm = await new Deno.Command("nasm", { args: ["-f", "bin", "-o", `${folder}/bios`, `${folder}/bios.asm`] })
      .output();
    if (!nasm.success) throw new Error(new TextDecoder().decode(nasm.stderr));
    const loaders: string[] = [];
    for (const { start, end } of usedRuns(memory)) {
      const file = `${folder}/ram${start.toString(16)}`;
      await Deno.writeFile(file, memory.bytes.subarray(start, end));
      loaders.push("-device", `loader,file=${file},addr=0x${start.toString(16)},force-raw=on`);
    }
    const child = new Deno.Command("timeout", {
      args: [
        `${seconds}`,
        "qemu-system-x86_64",
        ...["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio", "-monitor", "none"],
        ...[
          "-M",
          "pc",
          "-accel",
          "tcg",
          "-cpu",
          "max",
          "-m",
          `${memory.lowSize / 2 ** 20}M`,
          "-bios",
          `${folder}/bios`,
        ],
        ...loaders,
      ],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    });
    const { stdout, stderr } = await child.output();
    return new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
