/** The host's own CPU, for tests: single instructions with a given state (see native_cpu.c). */
import assert from "node:assert/strict";
import { RECORD_BYTES } from "./record.ts";

const possible = Deno.build.arch === "x86_64" && Deno.build.os === "linux" &&
  new Deno.Command("sh", { args: ["-c", "command -v gcc"] }).outputSync().success;

/** Whether this host can run them. */
export const nativeCpuIsPossible: boolean = possible;

/** A running program. */
export class NativeCpu {
  private readonly process: Deno.ChildProcess;
  private readonly writer: WritableStreamDefaultWriter<Uint8Array>;
  private readonly reader: ReadableStreamBYOBReader;
  private readonly directory: string;
  private readonly stderr: Promise<string>;

  constructor() {
    this.directory = Deno.makeTempDirSync({ prefix: "hv-native-" });
    const source = new URL("./native_cpu.c", import.meta.url).pathname;
    const program = `${this.directory}/native_cpu`;
    const made = new Deno.Command("gcc", { args: ["-O1", "-static", "-o", program, source] }).outputSync();
    assert.ok(made.success, new TextDecoder().decode(made.stderr));
    this.process = new Deno.Command(program, { stdin: "piped", stdout: "piped", stderr: "piped" }).spawn();
    this.stderr = new Response(this.process.stderr).text();
    this.writer = this.process.stdin.getWriter();
    this.reader = this.process.stdout.getReader({ mode: "byob" });
  }

  /** Runs `count` records; results stand in the buffer that is returned, in their order. */
  async run(records: Uint8Array<ArrayBuffer>, count: number): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = count * RECORD_BYTES;
    // An empty record makes the program flush.
    records.fill(0, bytes, bytes + RECORD_BYTES);
    const written = this.writer.write(records.subarray(0, bytes + RECORD_BYTES));
    // Where the program has ended, so have both pipes: what it said says more.
    written.catch(() => {});
    let buffer = new ArrayBuffer(bytes);
    let filled = 0;
    while (filled < bytes) {
      const { value, done } = await this.reader.read(new Uint8Array(buffer, filled, bytes - filled));
      if (done) {
        const { code, signal } = await this.process.status;
        throw new Error(`the native program ended with ${signal ?? `code ${code}`}: ${(await this.stderr).trim()}`);
      }
      buffer = value.buffer;
      filled += value.length;
    }
    await written;
    return new Uint8Array(buffer);
  }

  async close(): Promise<void> {
    // It may have ended already.
    await this.writer.close().catch(() => {});
    this.reader.releaseLock();
    await this.process.stdout.cancel();
    await Promise.all([this.process.status, this.stderr]);
    Deno.removeSync(this.directory, { recursive: true });
  }
}
