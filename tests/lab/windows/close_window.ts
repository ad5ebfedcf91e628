/**
 * Runs a script in the console there is, and closes that console's window when a file appears: what Windows does then is
 * to start a thread in each process of the console, at kernelbase's CtrlRoutine with the event's number. Wine's consoles
 * on a terminal have no window, but the same routine.
 *
 *   deno run -A close_window.ts FILE SCRIPT ARGUMENTS...
 */
const kernel = Deno.dlopen("kernelbase.dll", {
  GetModuleHandleW: { parameters: ["buffer"], result: "pointer" },
  GetProcAddress: { parameters: ["pointer", "buffer"], result: "pointer" },
  OpenProcess: { parameters: ["u32", "i32", "u32"], result: "pointer" },
  CreateRemoteThread: {
    parameters: ["pointer", "pointer", "usize", "pointer", "usize", "u32", "pointer"],
    result: "pointer",
  },
  CloseHandle: { parameters: ["pointer"], result: "i32" },
}).symbols;

/** wincon.h. */
const CTRL_CLOSE_EVENT = 2n;
/** winnt.h. */
const PROCESS_ALL_ACCESS = 0x1fffff;

function exists(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
}

const [file, ...script] = Deno.args;
const child = new Deno.Command(Deno.execPath(), {
  args: ["run", "-A", "--quiet", ...script],
  stdin: "inherit",
  stdout: "inherit",
  stderr: "inherit",
}).spawn();
while (!exists(file)) await new Promise((resolve) => setTimeout(resolve, 100));
const wide = Uint16Array.from("kernelbase.dll\0", (letter) => letter.charCodeAt(0));
const routine = kernel.GetProcAddress(kernel.GetModuleHandleW(wide), new TextEncoder().encode("CtrlRoutine\0"));
const process = kernel.OpenProcess(PROCESS_ALL_ACCESS, 0, child.pid);
const began = performance.now();
const thread = kernel.CreateRemoteThread(process, null, 0n, routine, CTRL_CLOSE_EVENT, 0, null);
if (thread === null) throw new Error("the window could not be closed");
const { code } = await child.status;
const seconds = ((performance.now() - began) / 1000).toFixed(1);
console.log(`its window was closed: it ended with code ${code} after ${seconds} s`);
for (const handle of [thread, process]) kernel.CloseHandle(handle);
