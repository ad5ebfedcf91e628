/** CPU time of finished child processes, exact to the microsecond: what a busy machine adds to wall time is not in it. */

const RUSAGE_CHILDREN = -1;
const libc = Deno.dlopen("libc.so.6", { getrusage: { parameters: ["i32", "buffer"], result: "i32" } });
// struct rusage begins with ru_utime and ru_stime, each a struct timeval of two 64-bit words (sys/resource.h).
const usage = new BigInt64Array(18);

/** User and system seconds of all children waited for until now. */
export function childrenCpuSeconds(): number {
  if (libc.symbols.getrusage(RUSAGE_CHILDREN, usage) !== 0) throw new Error("getrusage failed");
  return Number(usage[0] + usage[2]) + Number(usage[1] + usage[3]) / 1e6;
}

/** The middle one. */
export function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1];
}
