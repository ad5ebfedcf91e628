/** Skips that are heard: a test that cannot run here says so, with its reason. */

/**
 * Decides `ignore` for a test that needs something of this machine.
 * @returns true when the test must be ignored; the reason is printed then
 */
export function needs(condition: boolean, name: string, reason: string): boolean {
  if (!condition) console.error(`SKIPPED ${name}: ${reason}`);
  return !condition;
}
