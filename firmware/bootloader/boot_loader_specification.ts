/**
 * Boot Loader Specification (UAPI.1): type 1 entries (`loader/entries/*.conf`), type 2 entries (unified kernel images
 * in `EFI/Linux`) and `loader.conf`, as systemd-boot reads them.
 */
import { readPe } from "../pe.ts";
import { type BootEntry, type BootVolume, listDirectory, MAX_ENTRIES, readText } from "./boot_entry.ts";
import { compareVersions } from "./version_order.ts";

/** A row with what the specification sorts by. */
interface SortableEntry {
  entry: BootEntry;
  sortKey: string;
  machineId: string;
  version: string;
  /** Tries left by boot counting; null when not counted. */
  triesLeft: number | null;
}

/** `name+LEFT[-DONE]` (UAPI.1, "Boot counting"). */
const COUNTED = /^(.*)\+(\d+)(?:-\d+)?$/;
/** Values of `architecture` that are ours (UAPI.1, "Type #1 keys"). */
const OUR_ARCHITECTURE = "x64";
const MAX_UNIFIED_IMAGE = 1 << 29;

function counted(name: string): { id: string; triesLeft: number | null } {
  const match = COUNTED.exec(name);
  return match ? { id: match[1], triesLeft: Number(match[2]) } : { id: name, triesLeft: null };
}

function joinPath(root: string, path: string): string {
  return `${root === "/" ? "" : root}/${path.replaceAll("\\", "/").replace(/^\/+/, "")}`;
}

/**
 * Type 1 entries of one directory, in file order.
 * @param root the directory that paths in entries count from
 * @param expand substitutes `$variables` in options, as GRUB's blscfg does
 * @param defaultOptions the command line of an entry that has none
 */
function type1Entries(
  volume: BootVolume,
  directory: string,
  root: string,
  expand: (text: string) => string,
  defaultOptions = "",
): SortableEntry[] {
  const found: SortableEntry[] = [];
  for (const file of listDirectory(volume, directory)) {
    if (!file.endsWith(".conf") || found.length >= MAX_ENTRIES) continue;
    const text = readText(volume, `${directory}/${file}`);
    if (text === null) continue;
    const { id, triesLeft } = counted(file.slice(0, -".conf".length));
    const fields = new Map<string, string[]>();
    for (const line of text.split(/\r?\n/)) {
      const match = /^\s*([^#\s]\S*)\s+(.*?)\s*$/.exec(line);
      if (match) fields.set(match[1], [...fields.get(match[1]) ?? [], match[2]]);
    }
    const one = (key: string) => fields.get(key)?.at(-1) ?? "";
    const problems: string[] = [];
    const linux = one("linux") || one("uki");
    if (linux === "") {
      problems.push(one("efi") ? `starts the EFI program ${one("efi")}, not a kernel` : "names no kernel");
    }
    const architecture = one("architecture").toLowerCase();
    const foreign = architecture !== "" && architecture !== OUR_ARCHITECTURE;
    if (foreign) problems.push(`is for another architecture: ${architecture}`);
    if (triesLeft === 0) problems.push("boot counting marked it bad");
    // GRUB takes several initrds on one line too, and variables among them.
    const initrds = (fields.get("initrd") ?? []).flatMap((value) => expand(value).split(/\s+/)).filter((path) =>
      path !== ""
    );
    found.push({
      entry: {
        source: "bls",
        title: one("title") || id,
        id,
        partition: volume.partition,
        kernel: linux === "" || foreign ? null : { partition: volume.partition, path: joinPath(root, expand(linux)) },
        initrds: initrds.map((path) => ({ partition: volume.partition, path: joinPath(root, path) })),
        commandLine: (fields.get("options") ?? [defaultOptions]).map(expand).join(" ").trim(),
        isDefault: false,
        problems,
      },
      sortKey: one("sort-key"),
      machineId: one("machine-id"),
      version: one("version"),
      triesLeft,
    });
  }
  return found;
}

/** Reads `KEY=value` lines of an os-release file. */
function osRelease(text: string, key: string): string {
  const match = new RegExp(`^${key}=(.*)$`, "m").exec(text);
  return match ? match[1].trim().replace(/^(["'])(.*)\1$/, "$2") : "";
}

/** Type 2 entries of one directory. */
function type2Entries(volume: BootVolume, directory: string): SortableEntry[] {
  const found: SortableEntry[] = [];
  for (const file of listDirectory(volume, directory)) {
    if (!/\.efi$/i.test(file) || found.length >= MAX_ENTRIES) continue;
    const path = `${directory}/${file}`;
    const { id, triesLeft } = counted(file.replace(/\.efi$/i, ""));
    const problems: string[] = [];
    let sections = new Map<string, Uint8Array>();
    try {
      const pe = readPe(volume.fileSystem.read(path, MAX_UNIFIED_IMAGE));
      if (pe === null || !pe.sections.has(".linux")) {
        problems.push("is no unified kernel image: it has no .linux section");
      } else sections = pe.sections;
    } catch (error) {
      problems.push((error as Error).message);
    }
    const section = (name: string) =>
      new TextDecoder().decode(sections.get(name) ?? new Uint8Array()).replace(/\0.*$/s, "");
    const os = section(".osrel");
    if (triesLeft === 0) problems.push("boot counting marked it bad");
    found.push({
      entry: {
        source: "uki",
        title: osRelease(os, "PRETTY_NAME") || osRelease(os, "ID") || id,
        id: file,
        partition: volume.partition,
        kernel: sections.has(".linux") ? { partition: volume.partition, path } : null,
        initrds: [],
        commandLine: section(".cmdline").trim(),
        isDefault: false,
        problems,
      },
      sortKey: osRelease(os, "IMAGE_ID") || osRelease(os, "ID"),
      machineId: "",
      version: section(".uname").trim() || osRelease(os, "IMAGE_VERSION") || osRelease(os, "VERSION_ID"),
      triesLeft,
    });
  }
  return found;
}

/** UAPI.1, "Sorting": what boot counting marked bad last, then sort-key, machine-id, version; else by file name. */
function compareEntries(a: SortableEntry, b: SortableEntry): number {
  const bad = (one: SortableEntry) => one.triesLeft === 0 ? 1 : 0;
  if (bad(a) !== bad(b)) return bad(a) - bad(b);
  if ((a.sortKey === "") !== (b.sortKey === "")) return a.sortKey === "" ? 1 : -1;
  if (a.sortKey !== "") {
    if (a.sortKey !== b.sortKey) return a.sortKey < b.sortKey ? -1 : 1;
    if (a.machineId !== b.machineId) return a.machineId < b.machineId ? -1 : 1;
    const byVersion = compareVersions(b.version, a.version);
    if (byVersion !== 0) return byVersion;
  }
  return compareVersions(b.entry.id, a.entry.id);
}

/** A shell pattern of loader.conf's `default`. */
function matches(pattern: string, text: string): boolean {
  // Linear: each star takes the earliest match of what follows it.
  const parts = pattern.toLowerCase().split("*");
  const name = text.toLowerCase();
  const one = (part: string, at: number) =>
    at + part.length <= name.length && [...part].every((c, i) => c === "?" || c === name[at + i]);
  if (!one(parts[0], 0)) return false;
  if (parts.length === 1) return name.length === parts[0].length;
  let at = parts[0].length;
  for (const part of parts.slice(1, -1)) {
    while (at <= name.length && !one(part, at)) at++;
    if (at > name.length) return false;
    at += part.length;
  }
  const last = parts[parts.length - 1];
  return name.length - last.length >= at && one(last, name.length - last.length);
}

/** All entries of one volume, sorted; the default one is marked. Empty when there are none. */
export function readBootLoaderEntries(volume: BootVolume): BootEntry[] {
  const found: SortableEntry[] = [];
  let loaderConf = "";
  // On the ESP or an extended boot partition the paths count from its root; a /boot in the root file system is one too.
  for (const root of ["/", "/boot", "/efi", "/boot/efi"]) {
    const base = root === "/" ? "" : root;
    found.push(
      ...type1Entries(volume, `${base}/loader/entries`, root === "/boot" ? bootRoot(volume) : root, (text) => text),
    );
    found.push(...type2Entries(volume, `${base}/EFI/Linux`));
    loaderConf ||= readText(volume, `${base}/loader/loader.conf`) ?? "";
  }
  found.sort(compareEntries);
  const wanted = /^\s*default\s+(.*?)\s*$/m.exec(loaderConf)?.[1];
  const chosen = (wanted === undefined ? undefined : found.find(({ entry }) => {
    const names = [entry.id, entry.source === "bls" ? `${entry.id}.conf` : entry.id];
    return entry.kernel !== null && names.some((name) => matches(wanted, name));
  })) ?? found.find(({ entry }) => entry.kernel !== null);
  if (chosen) chosen.entry.isDefault = true;
  return found.map(({ entry }) => entry);
}

/** In a root file system's /boot, entries name kernels from / (GRUB) or from /boot (systemd-boot): the first that is there. */
function bootRoot(volume: BootVolume): string {
  for (const file of listDirectory(volume, "/boot/loader/entries")) {
    const text = file.endsWith(".conf") ? readText(volume, `/boot/loader/entries/${file}`) : null;
    const path = text === null ? undefined : /^\s*linux\s+(\S+)/m.exec(text)?.[1];
    if (path !== undefined) return listDirectoryHas(volume, joinPath("/boot", path)) ? "/boot" : "/";
  }
  return "/";
}

function listDirectoryHas(volume: BootVolume, path: string): boolean {
  const slash = path.lastIndexOf("/");
  return listDirectory(volume, path.slice(0, slash) || "/").includes(path.slice(slash + 1));
}

/**
 * What GRUB's `blscfg` makes of a directory: newest first, `$variables` in options expanded, `defaultOptions` where an
 * entry has none.
 */
export function grubBlsEntries(
  volume: BootVolume,
  directory: string,
  expand: (text: string) => string,
  defaultOptions: string,
): BootEntry[] {
  return type1Entries(volume, directory, "/", expand, defaultOptions).sort(compareEntries).map(({ entry }) => entry);
}
