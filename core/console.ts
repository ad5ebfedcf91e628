/** The control thread's end of a guest's console: web streams, and waiting for what the guest says. */
import type { ByteRing } from "./byte_ring.ts";
import { HvError } from "./errors.ts";
import { parseDuration } from "./units.ts";

/** How much of what the guest said is kept for {@link Console.expect}, in characters. */
const TRANSCRIPT_LIMIT = 1 << 20;
/** Output kept, in bytes, until somebody takes {@link Console.readable}. */
const BACKLOG_LIMIT = 1 << 20;

/**
 * Milliseconds between two looks at output that keeps coming. A guest writes byte by byte: to be woken for each cost the
 * vCPU and this thread more than the guest's own work for it. What comes after silence is delivered at once.
 */
const GATHER = 4;

/** What a Linux kernel says last (kernel/panic.c). */
const PANIC = /Kernel panic - not syncing: ([^\r\n]*)\r*\n/;

/** What an `expect` found. */
export interface ExpectMatch {
  /** The text that matched. */
  text: string;
  /** What the guest said before it, since the last match. */
  before: string;
  /** Groups of a RegExp. */
  groups: string[];
}

/** What the console needs of its machine. */
export interface ConsoleWires {
  /** Tells the device that the input ring has new bytes. */
  inputArrived(): void;
  /** Tells the device that the output ring has room again. */
  outputDrained(): void;
  resize(columns: number, rows: number): void;
  /** The guest's kernel said that it panicked, and of what. */
  panicked(reason: string): void;
}

interface Waiting {
  pattern: string | RegExp;
  resolve(match: ExpectMatch): void;
  reject(error: Error): void;
  timer: ReturnType<typeof setTimeout> | undefined;
}

/** A guest's console. */
export class Console {
  private readonly output: ByteRing;
  private readonly input: ByteRing;
  private readonly wires: ConsoleWires;
  private readonly decoder = new TextDecoder();
  private readonly waiting: Waiting[] = [];
  private transcript = "";
  private backlog: Uint8Array[] = [];
  private backlogBytes = 0;
  private stream: ReadableStreamDefaultController<Uint8Array> | null = null;
  private taken: ReadableStream<Uint8Array> | null = null;
  private sink: WritableStream<Uint8Array> | null = null;
  private ended = false;
  /** The last, unfinished line, where a panic may be being said. */
  private line = "";
  private resume: (() => void) | null = null;

  /** A machine makes its own: {@link Machine.console}. */
  constructor(output: ByteRing, input: ByteRing, wires: ConsoleWires) {
    this.output = output;
    this.input = input;
    this.wires = wires;
  }

  /**
   * What the guest writes, from its first byte on. A reader that does not keep up makes the guest wait; where nobody
   * reads, the last 1 MiB is kept.
   */
  get readable(): ReadableStream<Uint8Array> {
    this.taken ??= new ReadableStream<Uint8Array>({
      start: (controller) => {
        this.stream = controller;
        for (const chunk of this.backlog) controller.enqueue(chunk);
        this.backlog = [];
        if (this.ended) controller.close();
      },
      pull: () => this.resume?.(),
      cancel: () => {
        this.stream = null;
        this.resume?.();
      },
    }, new ByteLengthQueuingStrategy({ highWaterMark: 1 << 16 }));
    return this.taken;
  }

  /** What the guest reads. A write is done when the guest's side has room for it. */
  get writable(): WritableStream<Uint8Array> {
    this.sink ??= new WritableStream<Uint8Array>({ write: (chunk) => this.write(chunk) });
    return this.sink;
  }

  /** Types text, as it is. */
  send(text: string): Promise<void> {
    return this.write(new TextEncoder().encode(text));
  }

  /** Types a line and Enter. */
  sendLine(text = ""): Promise<void> {
    return this.send(text + "\r");
  }

  /**
   * Waits until the guest has said something, since the last match.
   * @param pattern a part of the output, or a RegExp over it
   * @param options `timeout` as in `30s` (default 60s)
   * @throws HvError when the time is over or the guest has ended, with the last lines it said
   */
  expect(pattern: string | RegExp, options: { timeout?: string | number } = {}): Promise<ExpectMatch> {
    const timeout = parseDuration(options.timeout ?? "60s");
    return new Promise((resolve, reject) => {
      const waiting: Waiting = { pattern, resolve, reject, timer: undefined };
      if (this.waiting.length === 0 && this.tryMatch(waiting)) return;
      if (this.ended) return reject(this.notSaid(pattern, "the guest ended before it said"));
      waiting.timer = setTimeout(() => {
        this.waiting.splice(this.waiting.indexOf(waiting), 1);
        reject(this.notSaid(pattern, `the guest did not say within ${timeout / 1000} s`));
      }, timeout);
      this.waiting.push(waiting);
    });
  }

  /** Tells the guest the terminal's size, in characters, where its console has one. */
  resize(columns: number, rows: number): void {
    this.wires.resize(columns, rows);
  }

  private async write(chunk: Uint8Array): Promise<void> {
    for (let at = 0; at < chunk.length && !this.ended;) {
      const written = this.input.write(chunk, at);
      at += written;
      if (written > 0) this.wires.inputArrived();
      if (at < chunk.length) {
        const tail = Atomics.load(this.input.words, 1);
        if (this.input.room > 0) continue;
        const wait = Atomics.waitAsync(this.input.words, 1, tail, 1000);
        if (wait.async) await wait.value;
      }
    }
  }

  /** Moves output from the ring to whoever listens until {@link end}; the machine runs this for its whole life. */
  async pump(): Promise<void> {
    const chunk = new Uint8Array(1 << 14);
    // A pending waitAsync does not keep Deno's event loop alive; a timer does.
    const alive = setInterval(() => {}, 1 << 30);
    for (;;) {
      const head = Atomics.load(this.output.words, 0);
      const count = this.output.read(chunk);
      if (count > 0) {
        this.wires.outputDrained();
        this.deliver(chunk.slice(0, count));
        if (this.stream && this.stream.desiredSize !== null && this.stream.desiredSize <= 0 && !this.ended) {
          await new Promise<void>((resolve) => this.resume = resolve);
          this.resume = null;
        }
        if (!this.ended) await new Promise((resolve) => setTimeout(resolve, GATHER));
        continue;
      }
      if (this.ended) break;
      const wait = Atomics.waitAsync(this.output.words, 0, head);
      if (wait.async) await wait.value;
    }
    clearInterval(alive);
    for (const waiting of this.waiting.splice(0)) {
      clearTimeout(waiting.timer);
      waiting.reject(this.notSaid(waiting.pattern, "the guest ended before it said"));
    }
    try {
      this.stream?.close();
    } catch { /* the reader cancelled it */ }
  }

  /** No more output will come; what is in the ring is still delivered. */
  end(): void {
    this.ended = true;
    this.resume?.();
    Atomics.notify(this.output.words, 0);
  }

  private deliver(chunk: Uint8Array): void {
    if (this.stream) this.stream.enqueue(chunk);
    else if (!this.taken) {
      this.backlog.push(chunk);
      this.backlogBytes += chunk.length;
      while (this.backlogBytes > BACKLOG_LIMIT) this.backlogBytes -= this.backlog.shift()!.length;
    }
    const text = this.decoder.decode(chunk, { stream: true });
    this.transcript += text;
    this.line += text;
    const panic = PANIC.exec(this.line);
    if (panic) this.wires.panicked(panic[1]);
    this.line = this.line.slice(this.line.lastIndexOf("\n") + 1).slice(-1024);
    if (this.transcript.length > 2 * TRANSCRIPT_LIMIT) this.transcript = this.transcript.slice(-TRANSCRIPT_LIMIT);
    while (this.waiting.length > 0 && this.tryMatch(this.waiting[0])) this.waiting.shift();
  }

  /** Settles `waiting` from the transcript, which then begins after the match. */
  private tryMatch(waiting: Waiting): boolean {
    const { pattern } = waiting;
    let at: number;
    let text: string;
    let groups: string[] = [];
    if (typeof pattern === "string") {
      at = this.transcript.indexOf(pattern);
      text = pattern;
    } else {
      const match = new RegExp(pattern.source, pattern.flags.replace(/[gy]/g, "")).exec(this.transcript);
      at = match ? match.index : -1;
      text = match ? match[0] : "";
      groups = match ? match.slice(1) : [];
    }
    if (at < 0) return false;
    clearTimeout(waiting.timer);
    const before = this.transcript.slice(0, at);
    this.transcript = this.transcript.slice(at + text.length);
    waiting.resolve({ text, before, groups });
    return true;
  }

  private notSaid(pattern: string | RegExp, what: string): HvError {
    const lines = this.transcript.split("\n").slice(-10).join("\n").trimEnd();
    return new HvError(
      `${what} ${pattern instanceof RegExp ? pattern : JSON.stringify(pattern)}; its last lines:\n${lines}`,
    );
  }
}
