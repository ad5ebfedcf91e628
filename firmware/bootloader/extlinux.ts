/** Configurations of the Syslinux family: extlinux, syslinux, isolinux (doc/syslinux.txt, doc/menu.txt). */
import { type BootEntry, type BootFile, type BootVolume, isFile, MAX_ENTRIES, readText } from "./boot_entry.ts";

/** Where such configurations lie, in the order the loaders look. */
const PATHS = [
  "/boot/extlinux/extlinux.conf",
  "/extlinux/extlinux.conf",
  "/boot/extlinux.conf",
  "/extlinux.conf",
  "/boot/syslinux/syslinux.cfg",
  "/syslinux/syslinux.cfg",
  "/boot/syslinux.cfg",
  "/syslinux.cfg",
  "/boot/isolinux/isolinux.cfg",
  "/isolinux/isolinux.cfg",
  "/isolinux.cfg",
];
/** Files one configuration may include, however nested. */
const MAX_FILES = 64;

interface Label {
  name: string;
  title: string;
  kernel: string;
  initrds: string[];
  append: string | null;
  menuDefault: boolean;
}

interface Configuration {
  directory: string;
  labels: Label[];
  byName: Map<string, Label>;
  append: string;
  default: string;
  onTimeout: string;
  files: number;
}

function resolve(directory: string, path: string): string {
  const parts: string[] = [];
  for (const part of (path.startsWith("/") ? path : `${directory}/${path}`).split("/")) {
    if (part === "..") parts.pop();
    else if (part !== "" && part !== ".") parts.push(part);
  }
  return `/${parts.join("/")}`;
}

function read(volume: BootVolume, path: string, into: Configuration): void {
  if (into.files++ >= MAX_FILES) return;
  const text = readText(volume, path);
  if (text === null) return;
  let label: Label | null = null;
  let help = false;
  for (const line of text.split(/\r?\n/)) {
    const match = /^\s*([^#\s]\S*)\s*(.*?)\s*$/.exec(line);
    if (!match) continue;
    let keyword = match[1].toLowerCase();
    let value = match[2];
    if (help) {
      help = keyword !== "endtext";
      continue;
    }
    if (keyword === "menu") {
      const menu = /^(\S+)\s*(.*)$/.exec(value);
      if (!menu) continue;
      keyword = `menu ${menu[1].toLowerCase()}`;
      value = menu[2];
    }
    switch (keyword) {
      case "label":
        if (into.labels.length >= MAX_ENTRIES) return;
        label = { name: value, title: "", kernel: "", initrds: [], append: null, menuDefault: false };
        into.labels.push(label);
        into.byName.set(value.toLowerCase(), label);
        break;
      case "kernel":
      case "linux":
        if (label) label.kernel = value;
        break;
      case "initrd":
        if (label) label.initrds.push(...value.split(",").filter((one) => one !== ""));
        break;
      case "append":
        if (label) label.append = value;
        else into.append = value;
        break;
      case "menu label":
        if (label) label.title = value.replaceAll("^", "");
        break;
      case "menu default":
        if (label) label.menuDefault = true;
        break;
      case "menu include":
      case "include":
        read(volume, resolve(into.directory, value.split(/\s+/)[0]), into);
        break;
      case "default":
        into.default = value;
        break;
      case "ontimeout":
        into.onTimeout = value;
        break;
      case "text":
        help = value.toLowerCase() === "help";
        break;
    }
  }
}

/** All labels of the first such configuration in a volume; the default one is marked. Empty when there is none. */
export function readExtlinuxEntries(volume: BootVolume): BootEntry[] {
  const path = PATHS.find((one) => isFile(volume, one));
  if (path === undefined) return [];
  const configuration: Configuration = {
    directory: path.slice(0, path.lastIndexOf("/")),
    labels: [],
    byName: new Map(),
    append: "",
    default: "",
    onTimeout: "",
    files: 0,
  };
  read(volume, path, configuration);
  const entries = configuration.labels.map((label) => toEntry(volume, configuration, label));
  const named = (name: string) => configuration.byName.get(name.toLowerCase().split(/\s+/)[0]);
  // ONTIMEOUT is what happens when nobody touches a key; a menu starts at MENU DEFAULT; DEFAULT may be the menu itself.
  const candidates = [
    named(configuration.onTimeout),
    configuration.labels.findLast((one) => one.menuDefault),
    named(configuration.default),
  ].map((label) => label === undefined ? undefined : entries[configuration.labels.indexOf(label)]);
  const chosen = candidates.find((one) => one?.kernel) ?? entries.find((one) => one.kernel !== null);
  if (chosen) chosen.isDefault = true;
  return entries;
}

function toEntry(volume: BootVolume, configuration: Configuration, label: Label): BootEntry {
  const file = (path: string): BootFile => ({
    partition: volume.partition,
    path: resolve(configuration.directory, path),
  });
  const problems: string[] = [];
  // Older configurations give the whole command after KERNEL.
  const [kernel, ...rest] = label.kernel.split(/\s+/);
  const own = label.append === "-" ? "" : label.append ?? configuration.append;
  const initrds = [...label.initrds];
  const words = [...rest, ...own.split(/\s+/)].filter((word) => {
    if (!word.startsWith("initrd=")) return word !== "";
    initrds.push(...word.slice("initrd=".length).split(",").filter((one) => one !== ""));
    return false;
  });
  const program = /\.(c32|com|cbt|0|bin|bs|bss|img)$/i.test(kernel);
  if (kernel === "") problems.push("names no kernel");
  else if (program) problems.push(`starts ${kernel}, not a kernel`);
  return {
    source: "extlinux",
    title: label.title || label.name,
    id: label.name,
    partition: volume.partition,
    kernel: kernel === "" || program ? null : file(kernel),
    initrds: kernel === "" || program ? [] : initrds.map(file),
    commandLine: words.join(" "),
    isDefault: false,
    problems,
  };
}
