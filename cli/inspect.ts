/** `hv inspect`: what is on a disk and what would be started. */
import { formatSize, inspectDisk } from "../mod.ts";
import type { Arguments } from "./arguments.ts";
import { ExitCode } from "./exit_codes.ts";
import { print, printable } from "./messages.ts";

type DiskReport = Awaited<ReturnType<typeof inspectDisk>>;

/** Writes the report. */
export async function execute(args: Arguments): Promise<number> {
  const [path] = args.positionals;
  const report = await inspectDisk(path);
  print(args.has("json") ? JSON.stringify(report, null, 2) + "\n" : printable(describe(path, report)));
  return ExitCode.OK;
}

function describe(path: string, report: DiskReport): string {
  const table = report.partitionTable ? `${report.partitionTable.type.toUpperCase()} partition table` : "no partitions";
  const sections = [
    [`${path}: ${formatSize(report.size)}, ${table}`],
    partitions(report),
    entries(report),
    boot(report),
    report.problems.length > 0 ? ["Problems:", ...report.problems.map((problem) => `  ${problem}`)] : [],
  ];
  return sections.filter((lines) => lines.length > 0).map((lines) => lines.join("\n") + "\n").join("\n");
}

function partitions({ partitions }: DiskReport): string[] {
  const rows = partitions.map(({ number, size, type, name, fileSystem }) => [
    number === 0 ? "whole disk" : String(number),
    formatSize(size),
    type ?? "",
    name ? `"${name}"` : "",
    fileSystem ? fileSystem.type + (fileSystem.readable ? "" : " (hv cannot read it)") : "nothing hv knows",
    fileSystem?.label ? `"${fileSystem.label}"` : "",
    fileSystem?.uuid ?? "",
  ]);
  const problems = partitions.flatMap(({ number, problems }) =>
    problems.map((problem) => `  ${number === 0 ? "the disk" : `partition ${number}`}: ${problem}`)
  );
  return rows.length > 0 ? ["Partitions:", ...align(rows), ...problems] : [];
}

function entries({ entries }: DiskReport): string[] {
  if (entries.length === 0) return [];
  const rows = entries.map(({ source, title, isDefault, problems }) => [
    isDefault ? "*" : " ",
    title,
    `(${source})`,
    problems.join("; "),
  ]);
  return ["Entries of its boot loader (* is the default):", ...align(rows)];
}

function boot({ boot }: DiskReport): string[] {
  if (!boot) return ["hv run would find nothing to start here."];
  const { kernel, initrds, initrd } = boot;
  const facts = [kernel.version, kernel.architecture, kernel.format, kernel.compression, formatSize(kernel.size)];
  return [
    `hv run would start '${boot.title}':`,
    ...align([
      ["kernel", kernel.path, `(${facts.filter((fact) => fact).join(", ")})`],
      ...initrds.map(({ path, size }) => ["initrd", path, `(${formatSize(size)})`]),
    ]),
    ...(initrd
      ? [`  initrd unpacked: ${formatSize(initrd.unpackedSize)} (from ${initrd.compression.join(", ")})`]
      : []),
    `  command line: ${boot.commandLine}`,
    ...(boot.added ? [`  added by hv:  ${boot.added}`] : []),
  ];
}

/** Columns as wide as their widest cell; empty ones are left out. */
function align(rows: string[][]): string[] {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  return rows.map((row) =>
    "  " + row.map((cell, column) => cell.padEnd(widths[column])).filter((_, column) => widths[column] > 0).join("  ")
      .trimEnd()
  );
}
