/** The terminal hv was started in: given to the guest raw, and given back whatever happens. */
import { setLineEnd } from "./messages.ts";
import { enterVirtualTerminal } from "./windows_console.ts";

const isWindows = Deno.build.os === "windows";

/** Listens to a signal where the platform has it; returns what ends that. */
export function onSignal(signal: Deno.Signal, handler: () => void): () => void {
  try {
    Deno.addSignalListener(signal, handler);
  } catch {
    return () => {};
  }
  return () => Deno.removeSignalListener(signal, handler);
}

/** The signals that ask a program to end. */
export const END_SIGNALS: readonly Deno.Signal[] = isWindows
  ? ["SIGINT", "SIGBREAK", "SIGHUP"] // Ctrl-C, Ctrl-Break, the window's close button
  : ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"];

/**
 * Switches the terminal of stdin to raw mode: every key goes to the reader, Ctrl-C too, and what is written appears as
 * it is.
 * @returns what restores it; called by itself when the process exits
 */
export function enterRawMode(): () => void {
  makeRaw();
  const leaveVirtualTerminal = isWindows ? enterVirtualTerminal() : () => {};
  // Whoever stopped hv (SIGSTOP) and continued it has set the terminal to its own taste in between.
  const stopListening = isWindows ? () => {} : onSignal("SIGCONT", () => {
    try {
      makeRaw();
    } catch { /* the terminal is gone: its hang-up continues whoever was stopped */ }
  });
  let raw = true;
  const restore = () => {
    if (!raw) return;
    raw = false;
    stopListening();
    globalThis.removeEventListener("unload", restore);
    leaveVirtualTerminal();
    try {
      Deno.stdin.setRaw(false);
    } catch { /* the terminal is gone (hang-up): nothing to restore */ }
    setLineEnd("\n");
  };
  globalThis.addEventListener("unload", restore);
  return restore;
}

function makeRaw(): void {
  Deno.stdin.setRaw(true);
  setLineEnd("\r\n");
  if (isWindows) return;
  // Deno leaves output processing on, which makes CR LF of every LF: a full-screen program's way to go one line down.
  try {
    new Deno.Command("stty", { args: ["-opost"], stdin: "inherit", stdout: "null", stderr: "null" }).outputSync();
  } catch { /* no stty: only such programs look wrong */ }
}

/** Calls back with the terminal's size, now and whenever it changes; returns what ends that. */
export function followWindowSize(resize: (columns: number, rows: number) => void): () => void {
  const tell = () => {
    try {
      const { columns, rows } = Deno.consoleSize();
      resize(columns, rows);
    } catch { /* no terminal, so no size */ }
  };
  tell();
  if (!isWindows) return onSignal("SIGWINCH", tell);
  // Windows tells only who reads its input events, which are Deno's here: so it is looked at now and then.
  let seen = size();
  const timer = setInterval(() => {
    if (size() === seen) return;
    seen = size();
    tell();
  }, WINDOW_SIZE_POLL);
  Deno.unrefTimer(timer);
  return () => clearInterval(timer);
}

/** Milliseconds between two looks at the window's size, on Windows. */
const WINDOW_SIZE_POLL = 500;

function size(): string {
  try {
    const { columns, rows } = Deno.consoleSize();
    return `${columns}x${rows}`;
  } catch {
    return "";
  }
}
