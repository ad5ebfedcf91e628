/** A running machine and this terminal, joined until the machine ends. */
import { type Console, HvError, type Machine, type MachineEnd } from "../mod.ts";
import { EscapeFilter } from "./escape.ts";
import { ExitCode } from "./exit_codes.ts";
import { say } from "./messages.ts";
import { END_SIGNALS, enterRawMode, followWindowSize, onSignal } from "./terminal.ts";

/** What a session needs of a machine. */
export interface SessionMachine extends Pick<Machine, "start" | "powerButton" | "shutdown" | "stop" | "wait"> {
  readonly console: Pick<Console, "readable" | "writable" | "resize">;
}

/** How a session is joined with its machine. */
export interface SessionOptions {
  /** Where the guest's console goes: this terminal, nowhere, or a file opened for writing. */
  console: "stdio" | "none" | { path: string; file: Deno.FsFile };
  /** Aborts when the time is over. */
  timeout?: { signal: AbortSignal; text: string };
}

const KEYS = `Ctrl-] q   quit at once, as if the power was cut
Ctrl-] p   press the power button
Ctrl-] ?   this help
Ctrl-] Ctrl-]   type Ctrl-]`;

/** Keys kept for a guest that does not read, in bytes; what is typed beyond is lost. */
const TYPE_AHEAD = 1 << 16;

/**
 * What a guest may take to power off after its console's reader has gone: nobody is there to stop it then. Windows ends
 * a program 5 s after its window was closed (SPI_GETHUNGAPPTIMEOUT), and what the guest was told is on disk has to be.
 */
const GRACE_WITHOUT_READER = Deno.build.os === "windows" ? "3s" : "30s";

/** Starts the machine, joins it with the terminal until it has ended, and resolves with hv's exit code. */
export async function runSession(machine: SessionMachine, options: SessionOptions): Promise<number> {
  const session = new Session(machine, options);
  try {
    return await session.run();
  } finally {
    session.release();
  }
}

class Session {
  private readonly machine: SessionMachine;
  private readonly options: SessionOptions;
  private readonly cleanups: (() => void)[] = [];
  /** Rejects with what ends the session besides the machine. */
  private readonly trouble = Promise.withResolvers<never>();
  private askedToEnd = false;
  private readerGone = false;
  // Of a terminal that has hung up this cannot be asked any more.
  private readonly outputIsTerminal = Deno.stdout.isTerminal();
  private ended = false;
  private stopRequested = false;
  private lastByte = 0x0a;

  constructor(machine: SessionMachine, options: SessionOptions) {
    this.machine = machine;
    this.options = options;
  }

  async run(): Promise<number> {
    this.trouble.promise.catch(() => {});
    for (const signal of END_SIGNALS) this.cleanups.push(onSignal(signal, () => this.signalled(signal)));
    const output = this.pumpOutput();
    if (this.options.console === "stdio") this.joinInput();
    const { timeout } = this.options;
    timeout?.signal.addEventListener("abort", () => this.stopAtOnce(), { once: true });
    if (timeout?.signal.aborted) this.stopAtOnce();
    else this.machine.start();
    const end = await Promise.race([this.machine.wait(), this.trouble.promise]);
    this.ended = true;
    // What the guest said before it powered off is delivered to a slow reader; whoever stops it does not wait for one.
    if (end.reason !== "stopped") await Promise.race([output, this.trouble.promise]);
    this.release();
    if (this.lastByte !== 0x0a && this.outputIsTerminal && !this.readerGone) {
      Deno.stderr.writeSync(Uint8Array.of(0x0d, 0x0a));
    }
    return this.concludes(end);
  }

  /** Gives everything back that the session took. */
  release(): void {
    for (const cleanup of this.cleanups.splice(0).reverse()) cleanup();
  }

  private concludes(end: MachineEnd): number {
    const { timeout } = this.options;
    if (end.reason === "stopped" && timeout?.signal.aborted) {
      say(`the guest had not ended after ${timeout.text}: stopped it`);
      return ExitCode.TIMEOUT;
    }
    say(end.message);
    switch (end.reason) {
      case "poweroff":
        return ExitCode.OK;
      case "exit":
        return (end.exitCode ?? 0) & 0xff;
      case "stopped":
        return ExitCode.ERROR;
      default:
        return ExitCode.GUEST_DIED;
    }
  }

  private signalled(signal: Deno.Signal): void {
    // The machine is gone, and what is left is only output that nobody takes.
    if (this.ended) Deno.exit(ExitCode.ERROR);
    if (this.askedToEnd || signal === "SIGQUIT") {
      say("stopping at once");
      return this.stopAtOnce();
    }
    if (signal === "SIGHUP") return this.loseReader("the terminal has hung up: pressing the power button");
    this.askedToEnd = true;
    say(`${signal}: pressing the power button; once more stops at once`);
    this.machine.powerButton();
  }

  /** Both the signal and the failing output may tell. */
  private loseReader(words: string): void {
    if (this.readerGone) return;
    this.readerGone = true;
    say(words);
    this.askedToEnd = true;
    this.machine.shutdown({ timeout: GRACE_WITHOUT_READER }).catch(this.trouble.reject);
  }

  private stopAtOnce(): void {
    if (this.stopRequested) return;
    this.stopRequested = true;
    this.machine.stop().catch(this.trouble.reject);
  }

  private async pumpOutput(): Promise<void> {
    const target = this.options.console;
    const sink = target === "stdio" ? Deno.stdout : target === "none" ? null : target.file;
    try {
      for await (const chunk of this.machine.console.readable) {
        if (!sink) continue;
        await writeAll(sink, chunk);
        this.lastByte = chunk[chunk.length - 1];
      }
    } catch (error) {
      const hungUp = target === "stdio" && this.outputIsTerminal && (error as { code?: string }).code === "EIO";
      if (hungUp || error instanceof Deno.errors.BrokenPipe) {
        if (!this.ended) this.loseReader("nobody reads the console any more: pressing the power button");
      } else {
        const name = target === "stdio" ? "stdout" : typeof target === "string" ? target : target.path;
        const message = `the console cannot be written to ${name}: ${(error as Error).message}`;
        this.trouble.reject(new HvError(message, { cause: error }));
      }
    }
  }

  private joinInput(): void {
    const { console } = this.machine;
    const keyboard = console.writable.getWriter();
    // The guest has ended: what is typed now is nobody's.
    keyboard.closed.catch(() => {});
    if (Deno.stdout.isTerminal()) {
      this.cleanups.push(followWindowSize((columns, rows) => console.resize(columns, rows)));
    }
    if (Deno.stdin.isTerminal()) {
      this.cleanups.push(enterRawMode());
      say("this terminal is the guest's: Ctrl-] ? shows how to leave it");
      this.readKeys(keyboard).catch(this.trouble.reject);
    } else this.readPipe(keyboard).catch(this.trouble.reject);
  }

  /** Keys go on being read while the guest does not take them: the next one may be the escape. */
  private async readKeys(keyboard: WritableStreamDefaultWriter<Uint8Array>): Promise<void> {
    const filter = new EscapeFilter((key) => this.command(key));
    let waiting = 0;
    for await (const typed of chunksOfStdin()) {
      const keys = filter.feed(typed);
      if (keys.length === 0 || waiting + keys.length > TYPE_AHEAD) continue;
      waiting += keys.length;
      keyboard.write(keys).then(() => waiting -= keys.length, () => {});
    }
  }

  /** Its end is not the guest's: a guest goes on without input. */
  private async readPipe(keyboard: WritableStreamDefaultWriter<Uint8Array>): Promise<void> {
    for await (const chunk of chunksOfStdin()) await keyboard.write(chunk);
  }

  private command(key: string): void {
    if (key === "q") {
      say("stopping at once");
      this.stopAtOnce();
    } else if (key === "p") {
      say("pressing the power button");
      this.machine.powerButton();
    } else say(key === "?" ? KEYS : "no such command: Ctrl-] ? shows which there are");
  }
}

async function* chunksOfStdin(): AsyncGenerator<Uint8Array> {
  for (;;) {
    const buffer = new Uint8Array(4096);
    let count: number | null;
    try {
      count = await Deno.stdin.read(buffer);
    } catch {
      // Closed, or a terminal that has hung up.
      return;
    }
    if (count === null) return;
    yield buffer.subarray(0, count);
  }
}

async function writeAll(sink: { write(bytes: Uint8Array): Promise<number> }, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) {
    try {
      at += await sink.write(bytes.subarray(at));
    } catch (error) {
      // Someone else made this terminal or pipe non-blocking, and it is full.
      if (!(error instanceof Deno.errors.WouldBlock)) throw error;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}
