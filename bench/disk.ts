/**
 * A disk request through `openDisk` against the same preadv or pwritev in a C loop, and what it allocates.
 *
 *     deno run -A bench/disk.ts [requests of a round, default 50000] [rounds, default 7]
 *
 * The image lies in the host's cache, so that the path is measured and not the medium. Ours and C take turns; the best
 * round of each counts: what a shared machine adds is never negative. Then 1 000 000 reads run under V8's eye: 16 bytes each are
 * the offset, which V8 boxes where the call of `disk.read` is not inlined; inlined, nothing is allocated.
 */
import { getHeapStatistics } from "node:v8";
import type { IoVector } from "../storage/disk.ts";
import { openDisk } from "../storage/open.ts";

const requests = Number(Deno.args[0] ?? 50_000);
const rounds = Number(Deno.args[1] ?? 7);
const SPAN = 64 << 20;
const ALLOCATION_READS = 1_000_000;

const folder = Deno.makeTempDirSync({ prefix: "hv-bench-" });
try {
  main();
} finally {
  Deno.removeSync(folder, { recursive: true });
}

function main(): void {
  const image = `${folder}/image`;
  Deno.writeFileSync(image, new Uint8Array(SPAN).fill(1));
  const source = new URL("./native/pread_loop.c", import.meta.url).pathname;
  const program = `${folder}/pread_loop`;
  const built = new Deno.Command("gcc", { args: ["-O2", "-o", program, source] }).outputSync();
  if (!built.success) throw new Error(new TextDecoder().decode(built.stderr));

  console.log("request             C ns   ours ns   ratio");
  for (
    const [name, bytes, pieces] of [["read", 512, 1], ["read", 4096, 1], ["read", 65536, 16], [
      "write",
      4096,
      1,
    ]] as const
  ) {
    let native = Infinity, ours = Infinity;
    for (let round = 0; round < rounds; round++) {
      native = Math.min(native, runNative(program, image, name, bytes, pieces));
      ours = Math.min(ours, runOurs(image, name, bytes, pieces, requests));
    }
    const label = `${name} ${bytes} in ${pieces}`;
    console.log(
      `${label.padEnd(17)}${native.toFixed(0).padStart(7)}${ours.toFixed(0).padStart(10)}${
        (ours / native).toFixed(2).padStart(8)
      }`,
    );
  }

  // Deno's PerformanceObserver tells of no collections; V8's count of bytes ever allocated does not lie.
  const before = allocated();
  runOurs(image, "read", 512, 1, ALLOCATION_READS);
  console.log(`${ALLOCATION_READS} reads allocated ${allocated() - before} bytes`);
}

/** Bytes allocated since the start; a counter newer than Node's type declarations. */
function allocated(): number {
  return (getHeapStatistics() as unknown as { total_allocated_bytes: number }).total_allocated_bytes;
}

function runNative(program: string, image: string, kind: string, bytes: number, pieces: number): number {
  const args = [image, kind[0], String(bytes), String(pieces), String(requests), String(SPAN)];
  const output = new Deno.Command(program, { args }).outputSync();
  if (!output.success) throw new Error("the C loop failed");
  return Number(new TextDecoder().decode(output.stdout));
}

/** @returns nanoseconds a request */
function runOurs(image: string, kind: string, bytes: number, pieces: number, count: number): number {
  const memory = new Uint8Array(bytes * 2);
  const vector: IoVector = {
    bytes: memory,
    hostAddress: Number(Deno.UnsafePointer.value(Deno.UnsafePointer.of(memory))),
    offsets: new Float64Array(pieces),
    lengths: new Int32Array(pieces),
    count: pieces,
  };
  const disk = openDisk({ path: image });
  const slots = SPAN / bytes;
  let seed = 1;
  const start = performance.now();
  for (let i = 0; i < count; i++) {
    seed = (Math.imul(seed, 1664525) + 1013904223) | 0;
    // The low bits of this generator repeat soon: the high ones are taken.
    const offset = ((seed >>> 8) % slots) * bytes;
    for (let p = 0; p < pieces; p++) {
      vector.offsets[p] = p * 2 * (bytes / pieces);
      vector.lengths[p] = bytes / pieces;
    }
    if (kind === "read") disk.read(offset, vector);
    else disk.write(offset, vector);
  }
  const elapsed = performance.now() - start;
  disk.close();
  return elapsed * 1e6 / count;
}
