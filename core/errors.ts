/** Errors that are meant for the person at the terminal. */

/**
 * A sentence that says what is wrong and what to do about it. Any other Error that reaches a user is a bug of ours.
 */
export class HvError extends Error {
  /** Tells it from other errors where its class is another copy's: in a Worker, in a bundle. */
  override readonly name: string = "HvError";
  /** Whether the person's own words (an option, a value) are what is wrong. */
  readonly usage: boolean;
  /** @param message for a person; `options.usage` says that their own words are what is wrong */
  constructor(message: string, options: { usage?: boolean; cause?: unknown } = {}) {
    super(message, { cause: options.cause });
    this.usage = options.usage ?? false;
  }
}
