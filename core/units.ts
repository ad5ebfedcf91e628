/** Sizes and times as people write them. */
import { HvError } from "./errors.ts";

const SIZE_UNITS: Record<string, number> = { "": 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };
const TIME_UNITS: Record<string, number> = { ms: 1, "": 1000, s: 1000, m: 60_000, min: 60_000, h: 3_600_000 };

/**
 * Bytes from `512M`, `2G`, `1.5GiB`, or a number of bytes. Units are powers of 1024, in either case.
 * @throws HvError when it is no size
 */
export function parseSize(text: string | number): number {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*$/i.exec(String(text));
  const bytes = match ? Number(match[1]) * SIZE_UNITS[match[2].toLowerCase()] : NaN;
  if (!Number.isSafeInteger(bytes)) {
    throw new HvError(`'${text}' is not a size: write it like 512M or 2G`, { usage: true });
  }
  return bytes;
}

/**
 * Milliseconds from `90s`, `1.5m`, `2h`, `250ms`, or a number of seconds.
 * @throws HvError when it is no time
 */
export function parseDuration(text: string | number): number {
  const match = /^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|)\s*$/i.exec(String(text));
  if (!match) throw new HvError(`'${text}' is not a time: write it like 90s or 5m`, { usage: true });
  return Number(match[1]) * TIME_UNITS[match[2].toLowerCase()];
}

/** `1.5 GiB`, for messages. */
export function formatSize(bytes: number): string {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) {
    bytes /= 1024;
    unit++;
  }
  return `${Number.isInteger(bytes) ? bytes : bytes.toFixed(1)} ${units[unit]}`;
}
