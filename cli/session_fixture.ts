/**
 * A program for tests: a session with a machine whose guest is a few lines of script, through hv's real terminal code.
 * The guest echoes what it reads and obeys a line at a time.
 */
import type { MachineEnd } from "../mod.ts";
import { runProgram } from "./program.ts";
import { runSession, type SessionMachine, type SessionOptions } from "./session.ts";

const encoder = new TextEncoder();

class ScriptedMachine implements SessionMachine {
  private readonly end = Promise.withResolvers<MachineEnd>();
  private output!: ReadableStreamDefaultController<Uint8Array>;
  private line = "";
  private size = "unknown";
  private readonly obedient: boolean;

  constructor(obedient: boolean) {
    this.obedient = obedient;
  }

  readonly console = {
    readable: new ReadableStream<Uint8Array>({ start: (controller) => void (this.output = controller) }),
    writable: new WritableStream<Uint8Array>({ write: (chunk) => this.read(chunk) }),
    resize: (columns: number, rows: number) => {
      this.size = `${columns}x${rows}`;
    },
  };

  start(): void {
    this.say("ready\r\n");
    // A guest keeps its process alive: its Workers do.
    const alive = setInterval(() => {}, 1000);
    void this.end.promise.then(() => clearInterval(alive));
  }

  powerButton(): void {
    this.say("[power button]\r\n");
    if (this.obedient) this.finish({ reason: "poweroff", message: "the guest powered off" });
  }

  async shutdown({ timeout }: { timeout?: string | number } = {}): Promise<MachineEnd> {
    this.powerButton();
    if (!this.obedient) setTimeout(() => void this.stop(), timeout === "30s" ? 300 : 0);
    return await this.wait();
  }

  stop(): Promise<void> {
    this.finish({ reason: "stopped", message: "the machine was stopped" });
    return Promise.resolve();
  }

  wait(): Promise<MachineEnd> {
    return this.end.promise;
  }

  private say(text: string): void {
    try {
      this.output.enqueue(encoder.encode(text));
    } catch { /* nobody listens any more */ }
  }

  private finish(end: MachineEnd): void {
    this.end.resolve(end);
    try {
      this.output.close();
    } catch { /* closed before */ }
  }

  private read(chunk: Uint8Array): void {
    for (const byte of chunk) {
      if (byte === 0x0d || byte === 0x0a) {
        const line = this.line;
        this.line = "";
        this.obey(line);
      } else this.line += String.fromCharCode(byte);
    }
  }

  private obey(line: string): void {
    const [command, argument] = line.split(" ");
    switch (command) {
      case "poweroff":
        return this.finish({ reason: "poweroff", message: "the guest powered off" });
      case "panic":
      case "triple-fault":
      case "failed":
        return this.finish({ reason: command, message: `the guest died: ${command}` });
      case "exit":
        return this.finish({ reason: "exit", exitCode: Number(argument), message: `the guest ended with ${argument}` });
      case "pid":
        return this.say(`pid ${Deno.pid}\r\n`);
      case "size":
        return this.say(`size ${this.size}\r\n`);
      case "throw":
        setTimeout(() => {
          throw new Error("thrown in a timer");
        });
        return;
      case "reject":
        void Promise.reject(new Error("rejected and not caught"));
        return;
      case "flood":
        for (let i = 0; i < Number(argument); i++) this.say(`${"x".repeat(1022)}\r\n`);
        return;
      default:
        return this.say(`heard ${JSON.stringify(line)}\r\n`);
    }
  }
}

const has = (flag: string) => Deno.args.includes(flag);
const after = Deno.args.find((arg) => arg.startsWith("timeout="))?.slice("timeout=".length);
const file = Deno.args.find((arg) => arg.startsWith("console="))?.slice("console=".length);
const options: SessionOptions = {
  console: file === undefined ? "stdio" : { path: file, file: Deno.openSync(file, { write: true, create: true }) },
  timeout: after ? { signal: AbortSignal.timeout(Number(after)), text: `${Number(after) / 1000} s` } : undefined,
};
await runProgram(() => runSession(new ScriptedMachine(!has("deaf")), options), {
  debug: has("debug"),
  command: "fixture",
});
