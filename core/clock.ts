/** One monotonic clock for all Workers of the process. */

// Each Worker's performance.now() counts from its own start; timeOrigin brings them onto one scale.
const origin = performance.timeOrigin;

/** Milliseconds, with a fraction, on a scale all Workers share; never goes back within a Worker. */
export function monotonicNow(): number {
  return origin + performance.now();
}

/** Hz of the TSC where the CPU is ours: the guest reads `clock.now() / 1000 * TSC_FREQUENCY`. */
export const TSC_FREQUENCY = 1_000_000_000;

/** Time as the guest's devices count it. */
export interface Clock {
  /** Milliseconds, with a fraction, since the guest's clocks read zero. */
  now(): number;
}

/** The {@link Clock} of a machine: the same in all its Workers, and continued by a snapshot with a later epoch. */
export class GuestClock implements Clock {
  private readonly epoch: number;

  /** @param epoch {@link monotonicNow} at which the guest's clocks read zero */
  constructor(epoch: number) {
    this.epoch = epoch;
  }

  now(): number {
    return monotonicNow() - this.epoch;
  }
}
