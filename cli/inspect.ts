/** `hv inspect`: what is on a disk and what would be started. */
import { inspectDisk } from "../mod.ts";
import type { Arguments } from "./arguments.ts";
import { ExitCode } from "./exit_codes.ts";
import { print } from "./messages.ts";

/** Writes the report. */
export async function execute(args: Arguments): Promise<number> {
  const report = await inspectDisk(args.positionals[0]);
  print(args.has("json") ? JSON.stringify(report, null, 2) + "\n" : outline(report).join("\n") + "\n");
  return ExitCode.OK;
}

/** An outline of a report: one fact a line, what belongs to it indented. */
export function outline(value: unknown): string[] {
  if (Array.isArray(value)) {
    return value.flatMap((element) => outline(element).map((line, index) => (index === 0 ? "- " : "  ") + line));
  }
  if (value === null || typeof value !== "object") return [String(value)];
  return Object.entries(value).filter(([, inner]) => inner !== null && inner !== undefined).flatMap(([key, inner]) => {
    const label = key.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
    if (typeof inner !== "object") return [`${label}: ${inner}`];
    const lines = outline(inner);
    return lines.length === 0 ? [`${label}: none`] : [`${label}:`, ...lines.map((line) => `  ${line}`)];
  });
}
