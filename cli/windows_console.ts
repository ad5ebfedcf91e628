/**
 * Windows' console made what a guest's terminal programs expect: escape sequences in and out, UTF-8, a line feed that
 * does not return the carriage. consoleapi.h and wincon.h; `windows_console_test.ts` compares the numbers with
 * mingw-w64's headers.
 */

export const ConsoleMode = {
  // Of input.
  ENABLE_PROCESSED_INPUT: 1,
  ENABLE_LINE_INPUT: 2,
  ENABLE_ECHO_INPUT: 4,
  ENABLE_VIRTUAL_TERMINAL_INPUT: 0x200,
  // Of output.
  ENABLE_PROCESSED_OUTPUT: 1,
  ENABLE_VIRTUAL_TERMINAL_PROCESSING: 4,
  DISABLE_NEWLINE_AUTO_RETURN: 8,
  CP_UTF8: 65001,
  /** As DWORDs. */
  STD_INPUT_HANDLE: 0xffff_fff6,
  STD_OUTPUT_HANDLE: 0xffff_fff5,
} as const;

const symbols = {
  GetStdHandle: { parameters: ["u32"], result: "pointer" },
  GetConsoleMode: { parameters: ["pointer", "buffer"], result: "i32" },
  SetConsoleMode: { parameters: ["pointer", "u32"], result: "i32" },
  GetConsoleCP: { parameters: [], result: "u32" },
  SetConsoleCP: { parameters: ["u32"], result: "i32" },
  GetConsoleOutputCP: { parameters: [], result: "u32" },
  SetConsoleOutputCP: { parameters: ["u32"], result: "i32" },
} as const satisfies Deno.ForeignLibraryInterface;

/** The names taken from kernel32.dll. */
export const NAMES = Object.keys(symbols);

/** Input as it is typed, Ctrl-C too, special keys as escape sequences. */
export function rawInputMode(before: number): number {
  const off = ConsoleMode.ENABLE_PROCESSED_INPUT | ConsoleMode.ENABLE_LINE_INPUT | ConsoleMode.ENABLE_ECHO_INPUT;
  return (before & ~off) | ConsoleMode.ENABLE_VIRTUAL_TERMINAL_INPUT;
}

/** Output whose escape sequences work, and nothing is added to. */
export function rawOutputMode(before: number): number {
  return before | ConsoleMode.ENABLE_PROCESSED_OUTPUT | ConsoleMode.ENABLE_VIRTUAL_TERMINAL_PROCESSING |
    ConsoleMode.DISABLE_NEWLINE_AUTO_RETURN;
}

/** Switches the console of this process over, as far as it is one; returns what puts everything back. */
export function enterVirtualTerminal(): () => void {
  let calls: Deno.DynamicLibrary<typeof symbols>["symbols"];
  try {
    calls = Deno.dlopen("kernel32.dll", symbols).symbols;
  } catch {
    // No right to call it: Deno's own raw mode has to do.
    return () => {};
  }
  const undo: (() => void)[] = [];
  const change = (handle: Deno.PointerValue, wanted: (before: number) => number, lesser: number) => {
    const before = new Uint32Array(1);
    if (calls.GetConsoleMode(handle, before) === 0) return;
    const mode = wanted(before[0]) >>> 0;
    // Before Windows 10 1607 the console knows nothing of the second flag.
    if (calls.SetConsoleMode(handle, mode) === 0) calls.SetConsoleMode(handle, (mode & ~lesser) >>> 0);
    undo.push(() => calls.SetConsoleMode(handle, before[0]));
  };
  const input = calls.GetStdHandle(ConsoleMode.STD_INPUT_HANDLE);
  const output = calls.GetStdHandle(ConsoleMode.STD_OUTPUT_HANDLE);
  change(input, rawInputMode, ConsoleMode.ENABLE_VIRTUAL_TERMINAL_INPUT);
  change(output, rawOutputMode, ConsoleMode.DISABLE_NEWLINE_AUTO_RETURN);
  const [inputPage, outputPage] = [calls.GetConsoleCP(), calls.GetConsoleOutputCP()];
  if (inputPage !== 0 && calls.SetConsoleCP(ConsoleMode.CP_UTF8) !== 0) undo.push(() => calls.SetConsoleCP(inputPage));
  if (outputPage !== 0 && calls.SetConsoleOutputCP(ConsoleMode.CP_UTF8) !== 0) {
    undo.push(() => calls.SetConsoleOutputCP(outputPage));
  }
  return () => {
    for (const action of undo.splice(0).reverse()) action();
  };
}
