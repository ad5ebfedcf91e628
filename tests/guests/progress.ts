/** Progress of long preparations, on stderr: silent below a second, a line every few seconds above it. */

const BEAT = 5_000;
const SILENT = 1_000;

/** Where a step may say how far it is; the text is shown with the next line. */
export interface Step {
  detail: string;
}

function seconds(since: number): string {
  return `${((Date.now() - since) / 1000).toFixed(1)} s`;
}

/**
 * Runs `work` under a name: nothing is printed if it ends within a second; otherwise its name, a sign of life
 * every five seconds, and how long it took.
 */
export async function step<T>(name: string, work: (step: Step) => Promise<T>): Promise<T> {
  const began = Date.now();
  const state: Step = { detail: "" };
  let announced = false;
  const say = () => {
    announced = true;
    console.error(`  ${name}${state.detail && `: ${state.detail}`} (${seconds(began)})`);
  };
  let beat: ReturnType<typeof setInterval> | undefined;
  const first = setTimeout(() => {
    say();
    beat = setInterval(say, BEAT);
  }, SILENT);
  try {
    const result = await work(state);
    if (announced) console.error(`  ${name}: done in ${seconds(began)}`);
    return result;
  } finally {
    clearTimeout(first);
    clearInterval(beat);
  }
}
