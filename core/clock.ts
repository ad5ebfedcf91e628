/** One monotonic clock for all Workers of the process. */

// Each Worker's performance.now() counts from its own start; timeOrigin brings them onto one scale.
const origin = performance.timeOrigin;

/** Milliseconds, with a fraction, on a scale all Workers share; never goes back within a Worker. */
export function monotonicNow(): number {
  return origin + performance.now();
}
