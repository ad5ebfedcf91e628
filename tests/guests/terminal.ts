/** A program with a console on its standard streams: what it says can be awaited, what it is told can be typed. */
import { TOOL_ENV, which } from "./command.ts";

/** How a terminal's program is started. */
export interface TerminalOptions {
  readonly cwd?: string;
  readonly env?: Record<string, string>;
  /** Called with each piece of output as it comes. */
  readonly onOutput?: (text: string) => void;
}

/** How a program ended. */
export interface Ending {
  readonly code: number;
  /** Everything it wrote to standard output. */
  readonly output: string;
  /** Everything it wrote to standard error. */
  readonly errors: string;
}

/**
 * A running program. It is killed with us whatever happens to us: the kernel sends SIGKILL when its parent dies
 * (util-linux's `setpriv --pdeathsig`), and `await using` ends it in every other case.
 */
export class Terminal {
  #child: Deno.ChildProcess;
  #writer: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;
  #output = "";
  #errors = "";
  /** How much of the output `expect` has consumed. */
  #seen = 0;
  #ended = false;
  #wake: (() => void)[] = [];
  #streams: Promise<unknown>;
  #onOutput: ((text: string) => void) | undefined;

  constructor(argv: readonly string[], options: TerminalOptions = {}) {
    // The lab's setpriv is busybox's, which cannot do this; there, the whole machine ends instead.
    const setpriv = Deno.env.has("LAB") ? null : which("setpriv");
    const whole = setpriv ? [setpriv, "--pdeathsig", "KILL", ...argv] : argv;
    this.#child = new Deno.Command(which(whole[0]) ?? whole[0], {
      args: whole.slice(1),
      cwd: options.cwd,
      env: { ...TOOL_ENV, ...options.env },
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#onOutput = options.onOutput;
    this.#writer = this.#child.stdin.getWriter();
    const follow = async (stream: ReadableStream<Uint8Array<ArrayBuffer>>, take: (text: string) => void) => {
      for await (const text of stream.pipeThrough(new TextDecoderStream())) take(text);
    };
    this.#streams = Promise.all([
      follow(this.#child.stdout, (text) => {
        this.#output += text;
        this.#onOutput?.(text);
        this.#notify();
      }),
      follow(this.#child.stderr, (text) => {
        this.#errors += text;
      }),
    ]).finally(() => {
      this.#ended = true;
      this.#notify();
    });
  }

  #notify(): void {
    for (const wake of this.#wake.splice(0)) wake();
  }

  /** Its process: setpriv becomes the program. */
  get pid(): number {
    return this.#child.pid;
  }

  /** Everything the program has written to standard output until now. */
  get output(): string {
    return this.#output;
  }

  /** Everything the program has written to standard error until now. */
  get errors(): string {
    return this.#errors;
  }

  /**
   * Waits until the output not yet consumed holds `pattern`, and consumes it up to the pattern's end.
   * @param seconds the longest wait
   * @throws with the last lines of output, when the time is over or the program ended
   */
  async expect(pattern: string | RegExp, seconds: number): Promise<RegExpMatchArray> {
    const regex = typeof pattern === "string" ? new RegExp(pattern.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")) : pattern;
    const deadline = Date.now() + seconds * 1000;
    for (;;) {
      const match = this.#output.slice(this.#seen).match(regex);
      if (match) {
        this.#seen += match.index! + match[0].length;
        return match;
      }
      const left = deadline - Date.now();
      if (this.#ended || left <= 0) {
        const why = this.#ended ? "the program ended" : `${seconds} s passed`;
        const tail = this.#output.slice(-3000) + this.#errors.slice(-2000);
        throw new Error(`${why} before it said ${regex}; its last words:\n${tail}`);
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#wake.push(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
  }

  /** Types text as it is. */
  async send(text: string): Promise<void> {
    await this.#writer.write(new TextEncoder().encode(text));
  }

  /** Types a line and the return key. */
  async sendLine(line: string): Promise<void> {
    await this.send(`${line}\n`);
  }

  /** Closes the program's standard input. */
  async closeInput(): Promise<void> {
    await this.#writer.close().catch(() => {});
  }

  /** Sends a signal. */
  kill(signal: Deno.Signal): void {
    try {
      this.#child.kill(signal);
    } catch {
      // it has ended already
    }
  }

  /**
   * Waits for the program's own end.
   * @throws after `seconds`; the program is killed then
   */
  async end(seconds: number): Promise<Ending> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        this.kill("SIGKILL");
        reject(new Error(`still running after ${seconds} s; its last words:\n${this.#output.slice(-3000)}`));
      }, seconds * 1000);
    });
    try {
      const { code } = await Promise.race([this.#child.status, late]);
      await this.#streams;
      return { code, output: this.#output, errors: this.#errors };
    } finally {
      clearTimeout(timer);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.kill("SIGKILL");
    await this.#child.status;
    await this.#writer.abort().catch(() => {});
    await this.#streams.catch(() => {});
  }
}
