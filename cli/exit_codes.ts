/** What hv's exit code means. A guest that uses the exit device gives its own instead. */
export const ExitCode = {
  /** The guest powered off, or hv did what it was asked. */
  OK: 0,
  /** An error of hv or of the machine it runs on. */
  ERROR: 1,
  /** Wrong use: an unknown option, a value that makes no sense. */
  USAGE: 2,
  /** The guest died: kernel panic, triple fault, an instruction nobody can carry out. */
  GUEST_DIED: 3,
  /** The time given with `--timeout` was over (as timeout(1) says it). */
  TIMEOUT: 124,
} as const;
