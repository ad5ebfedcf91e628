/**
 * The words by which the control thread and the Workers of one machine steer each other. Commands go down in one word
 * that every vCPU reads between two exits; states and the end of the machine come up in the others.
 */

/** Written by the control thread; read by all Workers. */
export const Command = { HOLD: 0, RUN: 1, STOP: 2 } as const;

/** State of one Worker. */
export const WorkerState = { STARTING: 0, HELD: 1, RUNNING: 2, CLOSED: 3 } as const;

/** Why a machine ended; 0 while it has not. */
export const EndReason = {
  NONE: 0,
  POWER_OFF: 1,
  RESET: 2,
  PANIC: 3,
  TRIPLE_FAULT: 4,
  FAILED: 5,
  EXIT: 6,
  STOPPED: 7,
} as const;

const COMMAND = 0;
const EVENT = 1;
const END = 2;
const EXIT_CODE = 3;
const GENERATION = 4;
const FIRST_WORKER = 16;
const MAX_WORKERS = 272;
const FIRST_COUNTER = FIRST_WORKER + MAX_WORKERS;
const COUNTERS = 16;
const WORDS = FIRST_COUNTER + MAX_WORKERS * COUNTERS;

/** The control words of one machine. */
export class Control {
  readonly words: Int32Array<SharedArrayBuffer>;

  /** @param buffer from another Control's `words.buffer`; a new machine's otherwise */
  constructor(buffer: SharedArrayBuffer = new SharedArrayBuffer(WORDS * 4)) {
    this.words = new Int32Array(buffer);
  }

  get command(): number {
    return Atomics.load(this.words, COMMAND);
  }

  /** Gives a command to all Workers; vCPUs inside `run()` must be interrupted besides. */
  set command(value: number) {
    Atomics.store(this.words, COMMAND, value);
    Atomics.notify(this.words, COMMAND);
  }

  /**
   * {@link command}, read as plain memory: for the loop, where an atomic load would be a call. Whoever gives a command
   * interrupts the vCPU after it, and the run() that comes back from that is an order of its own.
   */
  get commandSeen(): number {
    return this.words[COMMAND];
  }

  /** Sleeps while the command is `value`. */
  waitWhile(value: number): void {
    Atomics.wait(this.words, COMMAND, value);
  }

  /** Counts boots: Workers reload the boot state when it changes. */
  get generation(): number {
    return Atomics.load(this.words, GENERATION);
  }
  nextGeneration(): void {
    Atomics.add(this.words, GENERATION, 1);
    Atomics.store(this.words, END, EndReason.NONE);
  }

  /** Ends the machine for the first reason told; later ones are ignored. Only sets words: any thread, any time. */
  end(reason: number, exitCode = 0): void {
    if (Atomics.compareExchange(this.words, END, EndReason.NONE, reason) !== EndReason.NONE) return;
    Atomics.store(this.words, EXIT_CODE, exitCode);
    Atomics.compareExchange(this.words, COMMAND, Command.RUN, Command.HOLD);
    this.signal();
  }
  get endReason(): number {
    return Atomics.load(this.words, END);
  }
  get exitCode(): number {
    return Atomics.load(this.words, EXIT_CODE);
  }

  /** Worker `index`'s state; vCPU n is Worker n, I/O Workers come after. */
  workerState(index: number): number {
    return Atomics.load(this.words, FIRST_WORKER + index);
  }
  setWorkerState(index: number, state: number): void {
    if (Atomics.exchange(this.words, FIRST_WORKER + index, state) !== state) this.signal();
  }

  /** Wakes the control thread to look at these words. */
  signal(): void {
    Atomics.add(this.words, EVENT, 1);
    Atomics.notify(this.words, EVENT);
  }

  /** Resolves once `condition` holds; it is looked at whenever a Worker signals. */
  async until(condition: () => boolean): Promise<void> {
    for (;;) {
      const seen = Atomics.load(this.words, EVENT);
      if (condition()) return;
      const wait = Atomics.waitAsync(this.words, EVENT, seen);
      if (wait.async) await wait.value;
    }
  }

  /** Counts of exits by reason, of one vCPU; written by its thread alone. */
  exitCounters(vcpu: number): Int32Array {
    return this.words.subarray(FIRST_COUNTER + vcpu * COUNTERS, FIRST_COUNTER + (vcpu + 1) * COUNTERS);
  }
}
