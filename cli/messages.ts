/** What hv says to the person at the terminal: on stderr, a line at a time, each prefixed. */

const encoder = new TextEncoder();

let lineEnd = "\n";

/** What ends a line on stderr: a terminal in raw mode needs a carriage return as well. */
export function setLineEnd(end: "\n" | "\r\n"): void {
  lineEnd = Deno.stderr.isTerminal() ? end : "\n";
}

/** Text with nothing in it that commands a terminal: a disk or a guest may have put it there. */
export function printable(text: string): string {
  // deno-lint-ignore no-control-regex
  return text.replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f]/g, "\ufffd");
}

/** Says one or more lines. A stderr that nobody reads, or that has hung up, is no reason to end. */
export function say(message: string): void {
  const text = printable(message).trimEnd().split("\n").map((line) => `hv: ${line}${lineEnd}`).join("");
  try {
    write(Deno.stderr, text);
  } catch { /* there is nobody to tell */ }
}

/** Writes a report that was asked for to stdout; false when nobody reads it any more. */
export function print(text: string): boolean {
  return write(Deno.stdout, text);
}

function write(to: { writeSync(bytes: Uint8Array): number }, text: string): boolean {
  const bytes = encoder.encode(text);
  try {
    for (let at = 0; at < bytes.length;) at += to.writeSync(bytes.subarray(at));
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.BrokenPipe) return false;
    // A non-blocking terminal or pipe that is full: what does not fit is lost, not the process.
    if (error instanceof Deno.errors.WouldBlock) return true;
    throw error;
  }
}
