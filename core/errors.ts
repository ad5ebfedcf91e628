/** Errors that are meant for the person at the terminal. */

/**
 * A sentence that says what is wrong and what to do about it. Any other Error that reaches a user is a bug of ours.
 */
export class HvError extends Error {
  override readonly name: string = "HvError";
  /** Whether the person's own words (an option, a value) are what is wrong. */
  readonly usage: boolean;
  constructor(message: string, options: { usage?: boolean; cause?: unknown } = {}) {
    super(message, { cause: options.cause });
    this.usage = options.usage ?? false;
  }
}
