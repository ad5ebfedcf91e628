/** A machine with a /dev/kvm that the shim of WHPX runs on: this one, or the x86-64 lab. */
import { ROOT } from "../../guests/cache.ts";
import { shimFolder, type WineLab, type WineResult } from "./wine.ts";

/** Runs Deno over the shim; `await using` ends it. */
export interface KvmHost {
  /** deno.exe, with the shim as its WinHvPlatform.dll. */
  denoExe(args: readonly string[], env: Record<string, string>, seconds: number): Promise<WineResult>;
  /** Deno for Linux, with the shim's shared object. */
  denoLinux(args: readonly string[], env: Record<string, string>, seconds: number): Promise<WineResult>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** Whether this machine has one. */
export function haveKvm(): boolean {
  try {
    Deno.openSync("/dev/kvm", { read: true, write: true }).close();
    return true;
  } catch {
    return false;
  }
}

/** This machine. */
export async function kvmHere(wine: WineLab): Promise<KvmHost> {
  const shim = `${await shimFolder()}/whpx_shim.so`;
  return {
    denoExe: (args, env, seconds) => wine.deno(args, { env: { HV_WHPX_SHIM: wine.shim, ...env }, seconds }),
    denoLinux: async (args, env, seconds) => {
      const { code, stdout, stderr } = await new Deno.Command("timeout", {
        args: ["-k", "5", `${seconds}`, Deno.execPath(), ...args],
        cwd: ROOT,
        env: { HV_WHPX_SHIM: shim, NO_COLOR: "1", ...env },
      }).output();
      const decoder = new TextDecoder();
      return { code, output: decoder.decode(stdout) + decoder.decode(stderr) };
    },
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}
