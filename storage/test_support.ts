/** What the tests of storage share: other people's tools, a folder of their own, bytes as a source. */
import type { ByteSource } from "./byte_source.ts";

/** Whether a program can be started; sbin folders are searched too. */
export function has(program: string): boolean {
  return find(program) !== null;
}

/** Runs a program to its end. Throws with what it said when it fails. @returns its standard output */
export function run(program: string, ...args: string[]): string {
  const { success, stdout, stderr } = new Deno.Command(find(program) ?? program, { args, stdin: "null" }).outputSync();
  if (!success) throw new Error(`${program} ${args.join(" ")}: ${new TextDecoder().decode(stderr)}`);
  return new TextDecoder().decode(stdout);
}

/** As {@link run}, with text on standard input. */
export async function feed(input: string, program: string, ...args: string[]): Promise<string> {
  const command = new Deno.Command(find(program) ?? program, {
    args,
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  });
  const child = command.spawn();
  const output = child.output();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(input));
  await writer.close();
  const { success, stdout, stderr } = await output;
  if (!success) throw new Error(`${program} ${args.join(" ")}: ${new TextDecoder().decode(stderr)}`);
  return new TextDecoder().decode(stdout);
}

function find(program: string): string | null {
  for (const folder of [...(Deno.env.get("PATH") ?? "").split(":"), "/usr/sbin", "/sbin"]) {
    try {
      if (Deno.statSync(`${folder}/${program}`).isFile) return `${folder}/${program}`;
    } catch {
      continue;
    }
  }
  return null;
}

/** A folder that is removed with `using`. On disk rather than in memory: /tmp may be either. */
export class TemporaryFolder implements Disposable {
  readonly path: string = Deno.makeTempDirSync({ prefix: "hv-storage-" });
  /** A path in it. */
  file(name: string): string {
    return `${this.path}/${name}`;
  }
  [Symbol.dispose](): void {
    Deno.removeSync(this.path, { recursive: true });
  }
}

/** Makes a sparse file. */
export function makeFile(path: string, size: number): string {
  Deno.writeFileSync(path, new Uint8Array(0));
  Deno.truncateSync(path, size);
  return path;
}

/** Bytes in memory as a source that counts its reads, so that a test can bound them. */
export class MemorySource implements ByteSource {
  readonly size: number;
  readonly bytes: Uint8Array;
  reads = 0;
  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.size = bytes.length;
  }
  read(offset: number, target: Uint8Array): void {
    this.reads++;
    if (!(offset >= 0 && offset + target.length <= this.size)) {
      throw new RangeError(`bytes ${offset}..${offset + target.length} lie outside ${this.size}`);
    }
    target.set(this.bytes.subarray(offset, offset + target.length));
  }
}

/** Random 32-bit numbers, the same for the same seed (mulberry32). */
export function random(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (t ^ (t >>> 14)) >>> 0;
  };
}

/** Values of `blkid -p -o export`, which probes a file without being told. */
export function blkid(path: string): Record<string, string> {
  const values: Record<string, string> = {};
  for (const line of run("blkid", "-p", "-o", "export", path).split("\n")) {
    const at = line.indexOf("=");
    if (at > 0) values[line.slice(0, at)] = line.slice(at + 1).replace(/\\(.)/g, "$1");
  }
  return values;
}
