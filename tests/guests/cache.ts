/** The project's cache of downloaded and built things: `.cache/` at the root of the repository, ignored by git. */
import { fileURLToPath } from "node:url";
import { type Step, step } from "./progress.ts";

/** The root of the repository, without a slash at its end. */
export const ROOT: string = fileURLToPath(new URL("../..", import.meta.url)).replace(/\/$/, "");
/** The directory of all cached things. */
export const CACHE: string = `${ROOT}/.cache`;

function exists(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/**
 * The path of a cached file or directory; `build` makes it at the path it is given when it is not there yet.
 *
 * Safe among processes: an flock, which the kernel drops with its process, lets one build and the others wait, and a
 * rename makes the finished thing visible, so nobody ever sees half of it.
 * @param key path below `.cache/`; it must name everything that the content depends on
 */
export async function cached(key: string, build: (path: string, step: Step) => Promise<void>): Promise<string> {
  const path = `${CACHE}/${key}`;
  if (exists(path)) return path;
  await Deno.mkdir(path.slice(0, path.lastIndexOf("/")), { recursive: true });
  await Deno.mkdir(`${CACHE}/locks`, { recursive: true });
  const lock = await Deno.open(`${CACHE}/locks/${key.replaceAll("/", "+")}`, { write: true, create: true });
  try {
    await step(`waiting for another process that makes ${key}`, () => lock.lock(true));
    if (exists(path)) return path;
    const part = `${path}.part`;
    if (exists(part)) await Deno.remove(part, { recursive: true });
    await step(`making ${key}`, (state) => build(part, state));
    await Deno.rename(part, path);
    return path;
  } finally {
    lock.close();
  }
}

/** A short name for a content: the first 16 hexadecimal digits of the SHA-256 of `parts`. */
export async function digest(...parts: (string | Uint8Array)[]): Promise<string> {
  const encoder = new TextEncoder();
  const bytes = parts.map((part) => typeof part === "string" ? encoder.encode(`${part}\0`) : part);
  const all = new Uint8Array(bytes.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of bytes) {
    all.set(part, at);
    at += part.length;
  }
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", all));
  return [...hash.subarray(0, 8)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
