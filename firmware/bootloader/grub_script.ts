/** GRUB's scripting language (GRUB manual, "Writing full configuration files directly"): text to statements. */

/** A piece of a word: text, or a variable to be put in. */
export type WordPart = { text: string; quoted: boolean } | { variable: string; quoted: boolean };
export type Word = WordPart[];

export type Statement =
  | { kind: "command"; words: Word[]; block: Statement[] | null; negated: boolean }
  | { kind: "if"; branches: { condition: Statement[]; body: Statement[] }[]; otherwise: Statement[] }
  | { kind: "loop"; condition: Statement[]; until: boolean; body: Statement[] }
  | { kind: "for"; variable: string; words: Word[]; body: Statement[] }
  | { kind: "function"; name: string; body: Statement[] }
  | { kind: "block"; body: Statement[] };

type Token = { kind: "word"; word: Word } | { kind: "end" | "{" | "}" | "eof" };

const SPACE = /[ \t\r]/;
const BREAKS = /[{}|&;<> \t\r\n]/;
const NAME = /[A-Za-z0-9_]/;
/** Blocks inside blocks; real ones have five. */
const MAX_NESTING = 64;

/** A text that is no GRUB script at some line. */
export class GrubSyntaxError extends Error {
  override readonly name = "GrubSyntaxError";
}

/** Reads one statement after the other, as GRUB does: what stands before an error has run when the error is found. */
export class GrubParser {
  private readonly text: string;
  private at = 0;
  private peeked: Token | null = null;
  private nesting = 0;

  constructor(text: string) {
    this.text = text;
  }

  /** The next statement; null at the end of the text. */
  next(): Statement | null {
    this.nesting = 0;
    this.skipEnds();
    return this.peek().kind === "eof" ? null : this.statement();
  }

  /** After an error: goes on at the next line. */
  skipLine(): void {
    this.peeked = null;
    const end = this.text.indexOf("\n", this.at);
    this.at = end < 0 ? this.text.length : end + 1;
  }

  /** Line of what is read next, from 1. */
  line(): number {
    let line = 1;
    for (let i = 0; i < this.at && i < this.text.length; i++) if (this.text.charCodeAt(i) === 10) line++;
    return line;
  }

  private fail(message: string): never {
    throw new GrubSyntaxError(message);
  }

  private peek(): Token {
    return this.peeked ??= this.token();
  }

  private take(): Token {
    const token = this.peek();
    this.peeked = null;
    return token;
  }

  private skipEnds(): void {
    while (this.peek().kind === "end") this.take();
  }

  private token(): Token {
    const text = this.text;
    for (;;) {
      while (this.at < text.length && SPACE.test(text[this.at])) this.at++;
      if (text.startsWith("\\\n", this.at)) this.at += 2;
      else if (text.startsWith("\\\r\n", this.at)) this.at += 3;
      else break;
    }
    const c = text[this.at];
    if (c === undefined) return { kind: "eof" };
    if (c === "#") {
      while (this.at < text.length && text[this.at] !== "\n") this.at++;
      return this.token();
    }
    if (c === "\n" || c === ";") {
      this.at++;
      return { kind: "end" };
    }
    if (c === "{" || c === "}") {
      this.at++;
      return { kind: c };
    }
    if (c === "|" || c === "&" || c === "<" || c === ">") this.fail(`'${c}' has no meaning`);
    return { kind: "word", word: this.word() };
  }

  private word(): Word {
    const text = this.text;
    const word: Word = [];
    let plain = "";
    const flush = (quoted: boolean) => {
      if (plain !== "" || quoted) word.push({ text: plain, quoted });
      plain = "";
    };
    while (this.at < text.length) {
      const c = text[this.at];
      if (BREAKS.test(c)) break;
      if (c === "'") {
        flush(false);
        const end = text.indexOf("'", this.at + 1);
        if (end < 0) this.fail("a quote is not closed");
        word.push({ text: text.slice(this.at + 1, end), quoted: true });
        this.at = end + 1;
      } else if (c === '"') {
        flush(false);
        this.at++;
        for (;;) {
          const q = text[this.at];
          if (q === undefined) this.fail("a quote is not closed");
          if (q === '"') break;
          if (q === "\\" && /[$"\\\n]/.test(text[this.at + 1] ?? "")) {
            if (text[this.at + 1] !== "\n") plain += text[this.at + 1];
            this.at += 2;
          } else if (q === "$") {
            const name = this.variable();
            if (name === null) {
              plain += "$";
            } else {
              flush(true);
              word.push({ variable: name, quoted: true });
            }
          } else {
            plain += q;
            this.at++;
          }
        }
        flush(true);
        this.at++;
      } else if (c === "\\") {
        const escaped = text[this.at + 1] ?? "";
        if (escaped !== "\n") plain += escaped;
        this.at += 2;
      } else if (c === "$") {
        const name = this.variable();
        if (name === null) {
          plain += "$";
        } else {
          flush(false);
          word.push({ variable: name, quoted: false });
        }
      } else {
        plain += c;
        this.at++;
      }
    }
    flush(false);
    return word;
  }

  /** Reads `$name`, `${name}`, `$1`, `$@` ...; null (and behind the `$`) when it is just a dollar. */
  private variable(): string | null {
    const text = this.text;
    this.at++;
    if (text[this.at] === "{") {
      const end = text.indexOf("}", this.at);
      if (end < 0 || end - this.at > 256) this.fail("a variable's brace is not closed");
      const name = text.slice(this.at + 1, end);
      this.at = end + 1;
      return name;
    }
    if (/[@*#?]/.test(text[this.at] ?? "")) return text[this.at++];
    const start = this.at;
    if (/[0-9]/.test(text[start] ?? "")) {
      while (/[0-9]/.test(text[this.at] ?? "")) this.at++;
    } else {
      while (NAME.test(text[this.at] ?? "")) this.at++;
    }
    return this.at === start ? null : text.slice(start, this.at);
  }

  /** The keyword that comes next, when a bare word does. */
  private keyword(): string | null {
    const token = this.peek();
    if (token.kind !== "word" || token.word.length !== 1) return null;
    const part = token.word[0];
    return "text" in part && !part.quoted ? part.text : null;
  }

  private expect(keyword: string): void {
    this.skipEnds();
    if (this.keyword() !== keyword) this.fail(`'${keyword}' is missing`);
    this.take();
  }

  private untilKeyword(...keywords: string[]): Statement[] {
    const body: Statement[] = [];
    for (;;) {
      this.skipEnds();
      if (keywords.includes(this.keyword() ?? "")) return body;
      if (this.peek().kind === "eof") this.fail(`'${keywords[keywords.length - 1]}' is missing`);
      body.push(this.statement());
    }
  }

  /** What stands between braces; the opening one comes next. */
  private block(): Statement[] {
    if (this.take().kind !== "{") this.fail("'{' is missing");
    const body: Statement[] = [];
    for (;;) {
      this.skipEnds();
      const kind = this.peek().kind;
      if (kind === "}") {
        this.take();
        return body;
      }
      if (kind === "eof") this.fail("'}' is missing");
      body.push(this.statement());
    }
  }

  private statement(): Statement {
    if (++this.nesting > MAX_NESTING) this.fail("blocks are nested too deeply");
    const statement = this.statementInside();
    this.nesting--;
    return statement;
  }

  private statementInside(): Statement {
    if (this.peek().kind === "{") return { kind: "block", body: this.block() };
    if (this.peek().kind === "}") {
      this.take();
      this.fail("'}' without '{'");
    }
    switch (this.keyword()) {
      case "if": {
        const branches: { condition: Statement[]; body: Statement[] }[] = [];
        do {
          this.take();
          const condition = this.untilKeyword("then");
          this.take();
          branches.push({ condition, body: this.untilKeyword("elif", "else", "fi") });
        } while (this.keyword() === "elif");
        let otherwise: Statement[] = [];
        if (this.keyword() === "else") {
          this.take();
          otherwise = this.untilKeyword("fi");
        }
        this.take();
        return { kind: "if", branches, otherwise };
      }
      case "while":
      case "until": {
        const until = this.keyword() === "until";
        this.take();
        const condition = this.untilKeyword("do");
        this.take();
        const body = this.untilKeyword("done");
        this.take();
        return { kind: "loop", condition, until, body };
      }
      case "for": {
        this.take();
        const variable = this.keyword() ?? this.fail("'for' without a name");
        this.take();
        this.expect("in");
        const words: Word[] = [];
        for (let token = this.peek(); token.kind === "word"; token = this.peek()) {
          words.push(token.word);
          this.take();
        }
        this.expect("do");
        const body = this.untilKeyword("done");
        this.take();
        return { kind: "for", variable, words, body };
      }
      case "function": {
        this.take();
        const name = this.keyword() ?? this.fail("'function' without a name");
        this.take();
        this.skipEnds();
        return { kind: "function", name, body: this.block() };
      }
    }
    return this.command();
  }

  private command(): Statement {
    let negated = false;
    while (this.keyword() === "!") {
      this.take();
      negated = !negated;
    }
    const words: Word[] = [];
    let block: Statement[] | null = null;
    for (;;) {
      const token = this.peek();
      if (token.kind === "word") {
        words.push(token.word);
        this.take();
      } else if (token.kind === "{" && block === null && words.length > 0) {
        block = this.block();
      } else {
        return { kind: "command", words, block, negated };
      }
    }
  }
}
