/**
 * Runs a multiboot image in v86 until it writes to port F4H, for bench/soft.ts:
 * `deno run -A --no-lock --unstable-raw-imports bench/soft_v86.ts IMAGE`.
 */

// Not a literal: who only checks or tests the repository does not download it.
const V86_PACKAGE = "npm:v86@0.5.462";
/** The PC BIOS that v86 starts from, of Debian's package `seabios`. */
const BIOS = "/usr/share/seabios/bios.bin";
const DONE_PORT = 0xf4;

const { V86 } = await import(V86_PACKAGE);
const { default: code } = await import(`${V86_PACKAGE}/build/v86.wasm`, { with: { type: "bytes" } });
const read = (path: string) => ({ buffer: Deno.readFileSync(path).buffer });
const emulator = new V86({
  wasm_fn: async (imports: WebAssembly.Imports) => (await WebAssembly.instantiate(code, imports)).instance.exports,
  memory_size: 64 << 20,
  vga_memory_size: 2 << 20,
  bios: read(BIOS),
  multiboot: read(Deno.args[0]),
  disable_speaker: true,
  autostart: false,
});
emulator.add_listener("emulator-ready", () => {
  emulator.v86.cpu.io.register_write(DONE_PORT, {}, () => Deno.exit(0));
  emulator.run();
});
