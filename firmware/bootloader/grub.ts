/**
 * GRUB's configuration, run as GRUB runs it: with variables, conditions, functions and the disk's file systems, but
 * with bounds on everything, since a disk's author decides what stands in it.
 */
import { grubBlsEntries } from "./boot_loader_specification.ts";
import { type BootEntry, type BootFile, type BootVolume, listDirectory, MAX_ENTRIES, readText } from "./boot_entry.ts";
import { readGrubEnvironment } from "./grub_env.ts";
import { GrubParser, GrubSyntaxError, type Statement, type Word } from "./grub_script.ts";
import { grubTest } from "./grub_test_command.ts";

/** Where grub.cfg lies, the menus first; on an ESP there is often only a pointer to the menu. */
const PATHS = ["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/grub/grub.cfg", "/grub2/grub.cfg"];

/** Statements run for one configuration; Debian's has about a hundred. */
const MAX_STEPS = 100_000;
/** Statements run for one menu entry's body, and for all of them. */
const MAX_ENTRY_STEPS = 10_000;
/** What a command that reads the disk counts for. */
const DISK_STEPS = 50;
const MAX_DEPTH = 48;
const MAX_VALUE = 1 << 16;
const MAX_WORDS = 4096;
const MAX_VARIABLES = 4096;

/** Commands that need a screen, a speaker or firmware, and that succeed without them. */
const WITHOUT_EFFECT = new Set(
  ("insmod rmmod echo terminal_input terminal_output terminal loadfont gettext sleep play clear save_env list_env cat " +
    "background_image background_color videoinfo videotest serial pager keymap authenticate password password_pbkdf2 " +
    "hwmatch outb rdmsr wrmsr cutmem badram drivemap lsmod ls help date devicetree acpi cpuid true boot cryptomount " +
    "verify_detached trust normal_exit efi-watchdog clear_menu_hidden read").split(" "),
);
/** Commands that start something else than Linux, or leave GRUB. */
const ELSEWHERE = new Map([
  ["chainloader", "chain-loads"],
  ["multiboot", "starts the multiboot kernel"],
  ["multiboot2", "starts the multiboot kernel"],
  ["xen_hypervisor", "starts Xen"],
  ["kfreebsd", "starts the FreeBSD kernel"],
  ["knetbsd", "starts the NetBSD kernel"],
  ["kopenbsd", "starts the OpenBSD kernel"],
  ["ntldr", "starts Windows by"],
  ["appleloader", "starts macOS"],
  ["fwsetup", "opens the firmware's settings"],
  ["exit", "leaves the boot loader"],
  ["halt", "switches the machine off"],
  ["reboot", "restarts the machine"],
]);

/** Stops a script that does too much. */
class TooMuch extends Error {}

interface MenuItem {
  title: string;
  id: string;
  arguments: string[];
  body: Statement[];
  submenu: boolean;
  /** A row that was ready when found: of `blscfg`. */
  entry: BootEntry | null;
}

type Flow = "break" | "continue" | "return" | null;

interface Budget {
  steps: number;
}

/** One context: a configuration, a submenu or a menu entry's body being run. */
class Grub {
  readonly volumes: readonly BootVolume[];
  readonly variables: Map<string, string>;
  readonly exported: Set<string>;
  readonly functions: Map<string, Statement[]>;
  readonly menu: MenuItem[] = [];
  readonly problems: string[];
  private readonly budget: Budget;
  private depth = 0;
  private flow: Flow = null;
  private loops = 0;
  private status = true;
  positional: string[] = [];

  /** What a menu entry's body has loaded so far. */
  kernel: BootFile | null = null;
  initrds: BootFile[] = [];
  commandLine = "";
  elsewhere = "";

  constructor(volumes: readonly BootVolume[], budget: Budget, problems: string[], parent?: Grub) {
    this.volumes = volumes;
    this.budget = budget;
    this.problems = problems;
    this.variables = new Map(parent?.variables);
    this.exported = new Set(parent?.exported);
    this.functions = new Map(parent?.functions);
  }

  private spend(steps: number): void {
    this.budget.steps -= steps;
    if (this.budget.steps < 0) throw new TooMuch("the script does not come to an end");
  }

  set(name: string, value: string): void {
    if (value.length > MAX_VALUE || (this.variables.size >= MAX_VARIABLES && !this.variables.has(name))) {
      throw new TooMuch("the script's variables grow without bound");
    }
    this.variables.set(name, value);
  }

  get(name: string): string {
    if (name === "?") return this.status ? "0" : "1";
    if (name === "#") return String(this.positional.length);
    if (name === "@" || name === "*") return this.positional.join(" ");
    if (/^[0-9]+$/.test(name)) return this.positional[Number(name) - 1] ?? "";
    return this.variables.get(name) ?? "";
  }

  /** Puts variables into a text outside a script: a BLS entry's options. */
  readonly expandText = (text: string): string =>
    text.replace(/\$(?:\{([^}]*)\}|([A-Za-z_][A-Za-z0-9_]*))/g, (_, braced, bare) => this.get(braced ?? bare));

  /** Runs a whole file. */
  runFile(volume: BootVolume, path: string): boolean {
    this.spend(DISK_STEPS);
    const text = readText(volume, path);
    if (text === null) return false;
    this.runText(text, path);
    return true;
  }

  private runText(text: string, name: string): void {
    if (++this.depth > MAX_DEPTH) throw new TooMuch("the script calls itself too deeply");
    const parser = new GrubParser(text);
    for (let mistakes = 0; this.flow === null;) {
      try {
        const statement = parser.next();
        if (statement === null) break;
        this.run(statement);
      } catch (error) {
        if (!(error instanceof GrubSyntaxError)) throw error;
        if (mistakes++ < 3) this.problems.push(`${name} line ${parser.line()}: ${error.message}`);
        this.spend(1);
        parser.skipLine();
      }
    }
    if (this.flow === "return") this.flow = null;
    this.depth--;
  }

  runAll(statements: readonly Statement[]): boolean {
    for (const statement of statements) {
      this.run(statement);
      if (this.flow !== null) break;
    }
    return this.status;
  }

  private run(statement: Statement): void {
    this.spend(1);
    if (++this.depth > MAX_DEPTH * 4) throw new TooMuch("the script calls itself too deeply");
    switch (statement.kind) {
      case "command":
        this.status = this.command(statement.words, statement.block) !== statement.negated;
        break;
      case "if":
        this.runIf(statement.branches, statement.otherwise);
        break;
      case "loop":
        this.loops++;
        while (this.flow === null && this.runAll(statement.condition) !== statement.until) {
          this.spend(1);
          if (this.flow !== null) break;
          this.runAll(statement.body);
          if (!this.goesOn()) break;
        }
        this.loops--;
        break;
      case "for":
        this.loops++;
        for (const value of this.expand(statement.words)) {
          this.spend(1);
          this.set(statement.variable, value);
          this.runAll(statement.body);
          if (!this.goesOn()) break;
        }
        this.loops--;
        break;
      case "function":
        if (this.functions.size < MAX_VARIABLES) this.functions.set(statement.name, statement.body);
        this.status = true;
        break;
      case "block":
        this.runAll(statement.body);
        break;
    }
    this.depth--;
  }

  /** After a loop's body: whether the loop goes on. */
  private goesOn(): boolean {
    if (this.flow === "continue") this.flow = null;
    if (this.flow === "break") {
      this.flow = null;
      return false;
    }
    return this.flow === null;
  }

  private runIf(branches: { condition: Statement[]; body: Statement[] }[], otherwise: Statement[]): void {
    for (const { condition, body } of branches) {
      const holds = this.runAll(condition);
      if (this.flow !== null) return;
      if (holds) {
        this.runAll(body);
        return;
      }
    }
    this.status = true;
    this.runAll(otherwise);
  }

  /** Words with variables put in; an unquoted variable may become several words or none. */
  private expand(words: readonly Word[]): string[] {
    const result: string[] = [];
    for (const word of words) {
      let current: string | null = null;
      for (const part of word) {
        if ("text" in part) {
          current = (current ?? "") + part.text;
          continue;
        }
        if (part.quoted) {
          current = (current ?? "") + this.get(part.variable);
        } else {
          const pieces: string[] = part.variable === "@"
            ? [...this.positional]
            : this.get(part.variable).split(/[ \t\n]+/);
          pieces.forEach((piece, i) => {
            if (i > 0) {
              if (current !== null) result.push(current);
              current = null;
            }
            if (piece !== "") current = (current ?? "") + piece;
          });
        }
        if (current !== null && current.length > MAX_VALUE) throw new TooMuch("the script's words grow without bound");
      }
      if (current !== null) result.push(current);
      if (result.length > MAX_WORDS) throw new TooMuch("the script's words grow without bound");
    }
    return result;
  }

  // Devices and files.

  /** The volume of `hd0,gpt2`, `(hd0,msdos1)`, `hd0`; the disk's number does not matter, there is one. */
  private device(name: string): BootVolume | null {
    const match = /^\(?[a-z]+\d*(?:,(?:gpt|msdos)?(\d+))?\)?$/.exec(name.trim());
    if (!match) return null;
    const partition = match[1] === undefined ? 0 : Number(match[1]);
    return this.volumes.find((one) => one.partition === partition) ?? null;
  }

  deviceName(volume: BootVolume): string {
    return volume.partition === 0 ? "hd0" : `hd0,${volume.table === "mbr" ? "msdos" : "gpt"}${volume.partition}`;
  }

  /** Volume and path of `(device)/path`, or of `/path` on `$root`. */
  private locate(name: string): { volume: BootVolume; path: string } | null {
    const match = /^(\([^)]*\))?(.*)$/s.exec(name)!;
    const volume = this.device(match[1] ?? this.get("root"));
    return volume && match[2].startsWith("/") ? { volume, path: match[2].replace(/\/{2,}/g, "/") } : null;
  }

  private file(name: string, what: string): BootFile | null {
    const place = this.locate(name);
    if (place !== null) return { partition: place.volume.partition, path: place.path };
    this.problems.push(`the ${what} ${name} is on a device that hv does not find`);
    return null;
  }

  fileStatus(path: string): { type: string; size: number } | null {
    this.spend(DISK_STEPS);
    const place = this.locate(path);
    if (place === null) return null;
    try {
      return place.volume.fileSystem.stat(place.path);
    } catch {
      return null;
    }
  }

  // Commands.

  private command(words: readonly Word[], block: Statement[] | null): boolean {
    // `name=value` is an assignment only when it is written so, not when a variable brings it.
    const first = words[0]?.[0];
    const all = this.expand(words);
    if (all.length === 0) return this.status;
    const name = all[0];
    const rest = all.slice(1);
    if (first !== undefined && "text" in first && /^[A-Za-z_][A-Za-z0-9_]*=/.test(first.text) && all.length === 1) {
      return this.assign(name);
    }
    const body = this.functions.get(name);
    if (body !== undefined) return this.call(body, rest);
    if (WITHOUT_EFFECT.has(name)) return true;
    const elsewhere = ELSEWHERE.get(name);
    if (elsewhere !== undefined) {
      this.elsewhere = `${elsewhere} ${rest.filter((one) => !one.startsWith("--")).join(" ")}`.trim();
      if (name === "exit" || name === "halt" || name === "reboot" || name === "fwsetup") this.flow = "return";
      return true;
    }
    switch (name) {
      case "set":
        return rest.length === 0 || this.assign(rest.join(" "));
      case "unset":
        for (const one of rest) this.variables.delete(one);
        return true;
      case "export":
        for (const one of rest) if (this.exported.size < MAX_VARIABLES) this.exported.add(one.split("=")[0]);
        return rest.every((one) => !one.includes("=") || this.assign(one));
      case "[":
        return rest.at(-1) === "]" && grubTest(rest.slice(0, -1), { status: (path) => this.fileStatus(path) });
      case "test":
        return grubTest(rest, { status: (path) => this.fileStatus(path) });
      case "false":
        return false;
      case "return":
        this.status = rest.length === 0 ? this.status : Number(rest[0]) === 0;
        this.flow = "return";
        return this.status;
      case "break":
      case "continue":
        if (this.loops > 0) this.flow = name;
        return true;
      case "setparams":
        this.positional = rest;
        return true;
      case "shift":
        this.positional = this.positional.slice(rest.length > 0 ? Number(rest[0]) || 0 : 1);
        return true;
      case "eval":
        this.runText(rest.join(" "), "eval");
        return this.status;
      case "increment":
      case "decrement":
        if (rest.length < 1) return false;
        this.set(rest[0], String((Number.parseInt(this.get(rest[0]), 10) || 0) + (name === "increment" ? 1 : -1)));
        return true;
      case "search":
      case "search.fs_uuid":
      case "search.fs_label":
      case "search.file":
        return this.search(name, rest);
      case "probe":
        return this.probe(rest);
      case "load_env":
        return this.loadEnvironment(rest);
      case "configfile":
      case "source":
      case ".":
      case "normal":
        return this.configuration(name, rest);
      case "menuentry":
      case "submenu":
        return this.menuItem(rest, block, name === "submenu");
      case "blscfg":
        return this.blscfg();
      case "linux":
      case "linux16":
      case "linuxefi":
        return this.linux(rest);
      case "initrd":
      case "initrd16":
      case "initrdefi":
        this.initrds = rest.filter((one) => !one.startsWith("-")).flatMap((one) => this.file(one, "initrd") ?? []);
        return true;
    }
    return false;
  }

  private assign(text: string): boolean {
    const equals = text.indexOf("=");
    if (equals <= 0) return false;
    this.set(text.slice(0, equals), text.slice(equals + 1));
    return true;
  }

  private call(body: Statement[], given: string[]): boolean {
    const outer = this.positional;
    const loops = this.loops;
    this.positional = given;
    this.loops = 0;
    this.status = true;
    this.runAll(body);
    if (this.flow === "return") this.flow = null;
    this.positional = outer;
    this.loops = loops;
    return this.status;
  }

  private search(command: string, rest: readonly string[]): boolean {
    let kind = command === "search" ? "" : command.slice("search.".length);
    let variable = command === "search" ? "" : "root";
    const plain: string[] = [];
    for (let i = 0; i < rest.length; i++) {
      const one = rest[i];
      if (one === "--fs-uuid") kind = "fs_uuid";
      else if (one === "--label" || one === "--fs-label") kind = "fs_label";
      else if (one === "--file") kind = "file";
      else if (one.startsWith("--set")) variable = one.slice("--set=".length) || "root";
      else if (/^--hint[a-z-]*$/.test(one)) i++;
      else if (/^-[a-z]+$/.test(one)) {
        if (one.includes("u")) kind = "fs_uuid";
        if (one.includes("l")) kind = "fs_label";
        if (one.includes("f")) kind = "file";
        if (one.includes("s")) variable = "root";
        if (one.includes("h")) i++;
      } else if (!one.startsWith("--")) plain.push(one);
    }
    // `search.fs_uuid UUID VARIABLE HINTS...`, and `search --set VARIABLE UUID` as some write it.
    if (command !== "search" && plain.length > 1) variable = plain[1];
    const wanted = command === "search" && plain.length > 1 ? plain[plain.length - 1] : plain[0];
    if (wanted === undefined) return false;
    const found = this.volumes.find((volume) => {
      this.spend(DISK_STEPS);
      const { fileSystem } = volume;
      if (kind === "fs_uuid") return fileSystem.uuid?.toLowerCase() === wanted.toLowerCase();
      if (kind === "fs_label") return fileSystem.label === wanted;
      try {
        return wanted.startsWith("/") && fileSystem.stat(wanted) !== null;
      } catch {
        return false;
      }
    });
    if (found === undefined) return false;
    if (variable !== "") this.set(variable, this.deviceName(found));
    return true;
  }

  /** `probe --set=x --fs-uuid device` and the like. */
  private probe(rest: readonly string[]): boolean {
    let variable = "";
    let kind = "";
    let device = "";
    for (let i = 0; i < rest.length; i++) {
      if (rest[i].startsWith("--set")) variable = rest[i].slice("--set=".length) || (rest[++i] ?? "");
      else if (rest[i] === "-s") variable = rest[++i] ?? "";
      else if (rest[i] === "-u" || rest[i] === "--fs-uuid") kind = "uuid";
      else if (rest[i] === "-l" || rest[i] === "--label") kind = "label";
      else if (rest[i] === "-f" || rest[i] === "--fs") kind = "fs";
      else device = rest[i];
    }
    const fileSystem = this.device(device)?.fileSystem;
    if (!fileSystem) return false;
    const value = kind === "uuid"
      ? fileSystem.uuid
      : kind === "label"
      ? fileSystem.label
      : kind === "fs"
      ? fileSystem.type.replace(/^ext[234]$/, "ext2").replace("vfat", "fat")
      : null;
    if (value === null) return false;
    if (variable !== "") this.set(variable, value);
    return true;
  }

  private loadEnvironment(rest: readonly string[]): boolean {
    let path = `${this.get("prefix")}/grubenv`;
    const names: string[] = [];
    for (let i = 0; i < rest.length; i++) {
      if (rest[i] === "-f" || rest[i] === "--file") path = rest[++i] ?? "";
      else if (rest[i].startsWith("--file=")) path = rest[i].slice("--file=".length);
      else if (!rest[i].startsWith("-")) names.push(rest[i]);
    }
    this.spend(DISK_STEPS);
    const place = this.locate(path);
    const text = place === null ? null : readText(place.volume, place.path);
    if (text === null) return false;
    for (const [name, value] of readGrubEnvironment(text)) {
      if (names.length === 0 || names.includes(name)) this.set(name, value);
    }
    return true;
  }

  private configuration(command: string, rest: readonly string[]): boolean {
    const name = rest[0] ?? (command === "normal" ? `${this.get("prefix")}/grub.cfg` : "");
    const place = this.locate(name);
    if (place === null) return false;
    if (command === "configfile" || command === "normal") {
      this.set("config_file", name);
      this.set("config_directory", name.slice(0, name.lastIndexOf("/")));
    }
    return this.runFile(place.volume, place.path);
  }

  private menuItem(rest: readonly string[], block: Statement[] | null, submenu: boolean): boolean {
    let id = "";
    const plain: string[] = [];
    for (let i = 0; i < rest.length; i++) {
      const match = /^--([a-z]+)(?:=(.*))?$/s.exec(rest[i]);
      if (!match) {
        plain.push(rest[i]);
        continue;
      }
      if (match[1] === "unrestricted") continue;
      const value = match[2] ?? rest[++i] ?? "";
      if (match[1] === "id") id = value;
    }
    if (plain.length === 0) return false;
    if (this.menu.length >= MAX_ENTRIES) throw new TooMuch("the menu has too many entries");
    this.menu.push({ title: plain[0], id, arguments: plain, body: block ?? [], submenu, entry: null });
    return true;
  }

  /** Fedora's: the Boot Loader Specification's entries become menu entries. */
  private blscfg(): boolean {
    // Its menus name the partition of /boot twice; `root` is that of / in some, which may be one that is not read here.
    const volume = this.device(this.get("root")) ?? this.device(this.get("boot"));
    if (volume === null) return false;
    const directories = [this.get("blsdir"), "/loader/entries", "/boot/loader/entries"];
    for (const directory of directories.filter((one) => one.startsWith("/"))) {
      this.spend(DISK_STEPS);
      if (listDirectory(volume, directory).length === 0) continue;
      for (const entry of grubBlsEntries(volume, directory, this.expandText, this.get("default_kernelopts"))) {
        if (this.menu.length >= MAX_ENTRIES) break;
        this.menu.push({ title: entry.title, id: entry.id, arguments: [], body: [], submenu: false, entry });
      }
      break;
    }
    return true;
  }

  private linux(rest: readonly string[]): boolean {
    if (rest.length === 0) return false;
    this.kernel = this.file(rest[0], "kernel");
    // As GRUB's grub_create_loader_cmdline: what has a space is quoted, quotes and backslashes are escaped.
    this.commandLine = rest.slice(1).map((word) => {
      const escaped = word.replace(/[\\'"]/g, "\\$&");
      return word.includes(" ") ? `"${escaped}"` : escaped;
    }).join(" ");
    return true;
  }
}

/** Variables a GRUB 2.06 of a distribution has before its configuration runs (GRUB manual, "Special environment variables"). */
function setUp(grub: Grub, volume: BootVolume, path: string, efi: boolean): void {
  const device = grub.deviceName(volume);
  const directory = path.slice(0, path.lastIndexOf("/"));
  const initial: Record<string, string> = {
    root: device,
    prefix: `(${device})${directory}`,
    config_file: `(${device})${path}`,
    config_directory: `(${device})${directory}`,
    cmdpath: `(${device})${directory}`,
    grub_cpu: "x86_64",
    grub_platform: efi ? "efi" : "pc",
    lang: "",
    pager: "",
  };
  for (const [name, value] of Object.entries(initial)) {
    grub.variables.set(name, value);
    grub.exported.add(name);
  }
  const features = "chainloader_bpb ntldr platform_search_hint default_font_path all_video_module menuentry_id " +
    "menuentry_options 200_final nativedisk_cmd timeout_style";
  for (const feature of features.split(" ")) {
    grub.variables.set(`feature_${feature}`, "y");
    grub.exported.add(`feature_${feature}`);
  }
}

interface FlatMenu {
  rows: BootEntry[];
  /** Row or submenu at each place of the menu, for choosing the default. */
  places: { item: MenuItem; row: BootEntry | null; submenu: FlatMenu | null }[];
  defaults: string[];
}

function flatten(grub: Grub, volume: BootVolume, titles: string[], budget: Budget): FlatMenu {
  const menu: FlatMenu = {
    rows: [],
    places: [],
    // `fallback` is a list of places to try when `default` cannot be started.
    defaults: [grub.get("default"), ...grub.get("fallback").split(/\s+/)].filter((one) => one !== ""),
  };
  for (const item of grub.menu) {
    if (item.submenu) {
      const submenu = openSubmenu(grub, item, volume, [...titles, item.title], budget);
      menu.places.push({ item, row: null, submenu });
      menu.rows.push(...submenu.rows);
    } else {
      const row = item.entry ?? openEntry(grub, item, volume, titles, budget);
      menu.places.push({ item, row, submenu: null });
      menu.rows.push(row);
    }
  }
  return menu;
}

function openSubmenu(grub: Grub, item: MenuItem, volume: BootVolume, titles: string[], budget: Budget): FlatMenu {
  // A submenu is a new context that only exported variables pass into.
  const inner = new Grub(grub.volumes, budget, [], grub);
  for (const name of [...inner.variables.keys()]) if (!inner.exported.has(name)) inner.variables.delete(name);
  inner.positional = item.arguments;
  if (titles.length > 8) return { rows: [], places: [], defaults: [] };
  try {
    inner.runAll(item.body);
  } catch (error) {
    if (!(error instanceof TooMuch)) throw error;
  }
  return flatten(inner, volume, titles, budget);
}

function openEntry(grub: Grub, item: MenuItem, volume: BootVolume, titles: string[], budget: Budget): BootEntry {
  const problems: string[] = [];
  const own: Budget = { steps: Math.min(budget.steps, MAX_ENTRY_STEPS) };
  const before = own.steps;
  const body = new Grub(grub.volumes, own, problems, grub);
  body.positional = item.arguments;
  try {
    body.runAll(item.body);
  } catch (error) {
    if (!(error instanceof TooMuch)) throw error;
    problems.push(error.message);
  }
  budget.steps -= before - Math.max(own.steps, 0);
  if (body.kernel === null) problems.push(body.elsewhere || "starts no kernel");
  return {
    source: "grub.cfg",
    title: [...titles, item.title].join(" > "),
    id: item.id || item.title,
    partition: volume.partition,
    kernel: body.kernel,
    initrds: body.kernel === null ? [] : body.initrds,
    commandLine: body.commandLine,
    isDefault: false,
    problems,
  };
}

/** The row that `number`, `title`, `id` or `a>b` of these names; null when there is none. */
function choose(menu: FlatMenu, wanted: string): BootEntry | null {
  // A '>' that belongs to a title is doubled.
  const [first, ...rest] = wanted.split(/(?<!>)>(?!>)/);
  const name = first.replaceAll(">>", ">");
  const place = /^[0-9]+$/.test(name)
    ? menu.places[Number(name)]
    : menu.places.find(({ item }) => item.id === name || item.title === name);
  if (place === undefined) return null;
  if (place.submenu === null) return place.row;
  return rest.length > 0 ? choose(place.submenu, rest.join(">")) : defaultOf(place.submenu);
}

function defaultOf(menu: FlatMenu): BootEntry | null {
  for (const wanted of menu.defaults) {
    const row = choose(menu, wanted);
    if (row !== null && row.kernel !== null) return row;
  }
  // GRUB takes the first when `default` names nothing.
  return menu.places.length > 0 ? choose(menu, "0") : null;
}

/** What {@link readGrubEntries} found. */
export interface GrubMenu {
  /** Path of the configuration that was run. */
  path: string;
  volume: BootVolume;
  entries: BootEntry[];
  /** What went wrong outside any entry. */
  problems: string[];
}

/** Runs one volume's grub.cfg; null when it has none. All menu entries, those of submenus in their place. */
export function readGrubEntries(volume: BootVolume, volumes: readonly BootVolume[]): GrubMenu | null {
  const efi = volumes.some((one) => listDirectory(one, "/EFI").length > 0);
  const vendors = listDirectory(volume, "/EFI").map((name) => `/EFI/${name}/grub.cfg`);
  for (const path of [...PATHS, ...vendors]) {
    const problems: string[] = [];
    const grub = new Grub(volumes, { steps: MAX_STEPS }, problems);
    setUp(grub, volume, path, efi);
    try {
      if (!grub.runFile(volume, path)) continue;
    } catch (error) {
      if (!(error instanceof TooMuch)) throw error;
      problems.push(`${path}: ${error.message}`);
    }
    const menu = flatten(grub, volume, [], { steps: MAX_STEPS });
    const chosen = defaultOf(menu) ?? null;
    const row = chosen?.kernel ? chosen : menu.rows.find((one) => one.kernel !== null);
    if (row) row.isDefault = true;
    if (menu.rows.length > 0 || problems.length > 0) return { path, volume, entries: menu.rows, problems };
  }
  return null;
}
