/** The host's own x87, for tests: a small C program that runs one operation a record. */
import assert from "node:assert/strict";

const CASE_BYTES = 24;
const RESULT_BYTES = 12;

/** One operation of native_x87.c. */
export interface NativeCase {
  operation: number;
  control: number;
  a: { significand: bigint; signExponent: number };
  b: { significand: bigint; signExponent: number };
}

/** What the CPU made of it: 80 bits, however they are meant, and the status word. */
export interface NativeResult {
  significand: bigint;
  signExponent: number;
  status: number;
}

const possible = Deno.build.arch === "x86_64" && Deno.build.os === "linux" &&
  new Deno.Command("sh", { args: ["-c", "command -v gcc"] }).outputSync().success;

let binary: string | null = null;

/** Compiles the program once, and gives its path; null where that cannot be done. */
export const compileNativeX87: (() => string) | null = possible
  ? () => {
    if (binary === null) {
      const directory = Deno.makeTempDirSync({ prefix: "hv-x87-" });
      addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));
      const source = new URL("./native_x87.c", import.meta.url).pathname;
      const made = new Deno.Command("gcc", { args: ["-O1", "-o", `${directory}/x87`, source] }).outputSync();
      assert.ok(made.success, new TextDecoder().decode(made.stderr));
      binary = `${directory}/x87`;
    }
    return binary;
  }
  : null;

/** Runs all cases. */
export async function runNativeX87(cases: NativeCase[]): Promise<NativeResult[]> {
  const input = new DataView(new ArrayBuffer(cases.length * CASE_BYTES));
  cases.forEach(({ operation, control, a, b }, i) => {
    input.setUint16(i * CASE_BYTES, operation, true);
    input.setUint16(i * CASE_BYTES + 2, control, true);
    input.setBigUint64(i * CASE_BYTES + 4, a.significand, true);
    input.setUint16(i * CASE_BYTES + 12, a.signExponent, true);
    input.setBigUint64(i * CASE_BYTES + 14, b.significand, true);
    input.setUint16(i * CASE_BYTES + 22, b.signExponent, true);
  });
  const child = new Deno.Command(compileNativeX87!(), { stdin: "piped", stdout: "piped" }).spawn();
  const writer = child.stdin.getWriter();
  const [{ stdout }] = await Promise.all([
    child.output(),
    writer.write(new Uint8Array(input.buffer)).then(() => writer.close()),
  ]);
  assert.equal(stdout.length, cases.length * RESULT_BYTES);
  const output = new DataView(stdout.buffer, stdout.byteOffset);
  return cases.map((_, i) => ({
    significand: output.getBigUint64(i * RESULT_BYTES, true),
    signExponent: output.getUint16(i * RESULT_BYTES + 8, true),
    status: output.getUint16(i * RESULT_BYTES + 10, true),
  }));
}

/** Pseudo-random 64-bit numbers, the same everywhere (xorshift64*). */
export function generator(seed: bigint): () => bigint {
  return () => {
    seed ^= seed >> 12n;
    seed = BigInt.asUintN(64, seed ^ (seed << 25n));
    seed ^= seed >> 27n;
    return BigInt.asUintN(64, seed * 0x2545f4914f6cdd1dn);
  };
}
