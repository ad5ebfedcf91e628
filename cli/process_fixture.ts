/** Programs as tests drive them: through pipes, or in a pseudo-terminal. */

/** A program with its output kept, told what to read when it has said something. */
export class Program {
  readonly child: Deno.ChildProcess;
  private readonly writer: WritableStreamDefaultWriter<Uint8Array>;
  private readonly reading: Promise<void>[];
  private ended = false;
  out = "";
  error = "";

  constructor(command: string[]) {
    this.child = new Deno.Command(command[0], {
      args: command.slice(1),
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.writer = this.child.stdin.getWriter();
    this.reading = [
      this.collect(this.child.stdout, (text) => this.out += text),
      this.collect(this.child.stderr, (text) => this.error += text),
    ];
    void Promise.all(this.reading).then(() => this.ended = true);
  }

  private async collect(stream: ReadableStream<Uint8Array>, add: (text: string) => void): Promise<void> {
    for await (const text of stream.pipeThrough(new TextDecoderStream())) add(text);
  }

  async send(text: string): Promise<void> {
    await this.writer.write(new TextEncoder().encode(text));
  }

  async closeInput(): Promise<void> {
    await this.writer.close();
  }

  /** Waits until the program has said `words`, on either stream. */
  async said(words: string | RegExp, seconds = 20): Promise<void> {
    const deadline = Date.now() + seconds * 1000;
    const has = (text: string) => typeof words === "string" ? text.includes(words) : words.test(text);
    while (!has(this.out) && !has(this.error)) {
      if (this.ended || Date.now() > deadline) throw new Error(`'${words}' did not come: ${this.out}\n${this.error}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  /** Kills it, if it has not ended. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.child.kill("SIGKILL");
    } catch { /* it has ended */ }
    await this.ends();
  }

  async ends(): Promise<number> {
    const { code } = await this.child.status;
    await Promise.all(this.reading);
    await this.writer.close().catch(() => {});
    return code;
  }
}

/** Whether there is `script` of util-linux, which gives a program a terminal. */
export const HAS_TERMINAL = Deno.build.os === "linux" &&
  await Deno.stat("/usr/bin/script").then(() => true, () => false);

/**
 * Starts a program in a pseudo-terminal of 91 columns and 33 rows. Behind its output stand its exit code, and whether it
 * left the terminal's settings as they were: `code=0`, `restored`.
 * @param before a line for the shell that starts it
 */
export function startInTerminal(command: string[], before = ""): Program {
  const lines = [
    "stty cols 91 rows 33",
    "settings=$(stty -g)",
    before,
    command.map((word) => `'${word}'`).join(" "),
    'echo "code=$?"',
    '[ "$settings" = "$(stty -g)" ] && echo restored || { echo "not restored: $(stty -a)"; stty sane; }',
  ];
  return new Program(["script", "--quiet", "--return", "--command", lines.join("\n"), "/dev/null"]);
}
