/**
 * What a guest has seen synced is on the disk, whatever becomes of hv or of the host's space; and what it cannot read,
 * it is told. The trials:
 *
 *   deno run -A tests/robustness/writer.ts kills BACKEND KERNEL INITRD [COUNT, default 20] [SEED]
 *   deno run -A tests/robustness/writer.ts full BACKEND KERNEL INITRD
 *   deno run -A tests/robustness/writer.ts gone BACKEND KERNEL INITRD
 *   deno run -A tests/robustness/writer.ts medium BACKEND KERNEL INITRD DEVICE
 *
 * KERNEL and INITRD are those of `writer_guest.ts`. `kills` ends hv with SIGKILL at random moments, from the guest's
 * boot on, while it writes; after each, e2fsck replays the journal and must then find nothing to repair, and every
 * record announced until then must be there. `full` gives the image a file system of the host that is too small for
 * it: the guest must see its writes fail, hv say one sentence, and the records announced before be there. `gone` takes
 * the image's name away while the guest reads it, which it must not notice, and then cuts the image, which it must.
 * `medium` has a block device of the host that does not give back one of its sectors, and whose first flush fails.
 * The last line is `passed: ...`; anything else is exit code 1.
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { openDisk } from "../../storage/open.ts";
import { BufferVector } from "../../storage/io_vector.ts";
import { text, tool } from "../guests/command.ts";
import { FAILED, READ, READER_APPEND, SYNCED, writerAppend } from "./writer_guest.ts";

const MAIN = fileURLToPath(new URL("../../cli/main.ts", import.meta.url));
const MIB = 2 ** 20;
/** Longest time from the start of hv to the guest's first record, in milliseconds. */
const BOOT = 300_000;
/** A kill comes at most so long after what it waits for, in milliseconds. */
const LATEST = 1500;

/** {@link SYNCED} once: a line that has come in part is no record yet. */
const SYNCED_LINE = new RegExp(SYNCED.source);

const [trial, backend, kernel, initrd, countOrDevice = "20", seed = `${Date.now() % 1_000_000}`] = Deno.args;

/** Numbers from 0 to 1, the same for the same seed (mulberry32). */
function randomNumbers(state: number): () => number {
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** hv with the guest on a disk. */
class Writer {
  readonly child: Deno.ChildProcess;
  readonly ended: Promise<unknown>;
  private readonly wakes: (() => void)[] = [];
  console = "";
  errors = "";

  /** @param append the guest's command line */
  constructor(image: string, append: string, how = "") {
    const machine = ["--backend", backend, "--memory", "128M", "--kernel", kernel, "--initrd", initrd];
    const args = ["run", "-A", "--quiet", "--no-check", MAIN, "run", "--disk", image + how, ...machine];
    this.child = new Deno.Command(Deno.execPath(), {
      args: [...args, "--append", append],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const follow = async (stream: ReadableStream<Uint8Array<ArrayBuffer>>, take: (text: string) => void) => {
      for await (const text of stream.pipeThrough(new TextDecoderStream())) {
        take(text);
        for (const wake of this.wakes.splice(0)) wake();
      }
    };
    this.ended = Promise.all([
      follow(this.child.stdout, (text) => this.console += text),
      follow(this.child.stderr, (text) => this.errors += text),
      this.child.status,
    ]).finally(() => this.wakes.splice(0).forEach((wake) => wake()));
  }

  /** Waits until the console has shown `words`, or hv has ended. */
  said(words: string): Promise<void> {
    return this.until(() => this.console.includes(words), words);
  }

  /** Waits until `done`, or hv has ended, or the longest time is over. */
  async until(done: () => boolean, what: string): Promise<void> {
    let over = false;
    void this.ended.then(() => over = true);
    const timer = setTimeout(() => {
      over = true;
      this.wakes.splice(0).forEach((wake) => wake());
    }, BOOT);
    while (!done() && !over) await new Promise<void>((resolve) => this.wakes.push(resolve));
    clearTimeout(timer);
    assert.ok(done(), `the guest did not say ${what}: ${this.console}\n${this.errors}`);
  }

  /** Waits until the reading guest has read its disk `times` more. */
  async reads(times: number): Promise<void> {
    const count = () => [...this.console.matchAll(READ)].length;
    const before = count();
    await this.until(() => count() >= before + times, "READ");
  }

  /** The guest has seen a read fail and powered off; hv has said so in one sentence. */
  async proveReadFailed(sentence: RegExp): Promise<void> {
    await this.said("FAILED");
    await this.ended;
    assert.equal((await this.child.status).code, 0, `the guest powered off by itself: ${this.errors}`);
    assert.match(this.errors, sentence);
    assert.equal(this.errors.split("\n").length, 3, `one sentence, and how it ended: ${this.errors}`);
  }

  /** Adds what the guest has announced. */
  announced(records: Map<number, string>): void {
    for (const [, number, sum] of this.console.matchAll(SYNCED)) records.set(Number(number), sum);
  }
}

async function makeDisk(image: string, mib: number): Promise<void> {
  await Deno.writeFile(image, new Uint8Array(0));
  await Deno.truncate(image, mib * MIB);
  await tool(["mke2fs", "-q", "-F", "-t", "ext4", "-J", "size=4", image]);
}

/** Replays the journal; then nothing may be left to repair, and all records be there. */
async function prove(image: string, records: Map<number, string>, folder: string): Promise<void> {
  // Exit code 0 and 1 of -p: clean, or made clean by the journal; the second look tells them from damage.
  const repair = await new Deno.Command("e2fsck", { args: ["-p", image], stdout: "piped", stderr: "piped" }).output();
  const words = new TextDecoder().decode(repair.stdout) + new TextDecoder().decode(repair.stderr);
  assert.ok(repair.code <= 1, `e2fsck -p ended with ${repair.code}: ${words}`);
  assert.doesNotMatch(words, /UNEXPECTED|INCONSISTENCY|corrupt/i);
  await text(["e2fsck", "-fn", image]);
  if (records.size === 0) return;
  const out = `${folder}/records`;
  await Deno.remove(out, { recursive: true }).catch(() => {});
  await text(["debugfs", "-R", `rdump /records ${folder}`, image]);
  for (const [number, sum] of records) {
    const data = await Deno.readFile(`${out}/${number}`);
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data)).toHex();
    assert.equal(digest, sum, `record ${number} is not what the guest had synced`);
  }
}

async function kills(folder: string): Promise<string> {
  const image = `${folder}/disk.img`;
  const records = new Map<number, string>();
  const random = randomNumbers(Number(seed));
  console.log(`seed ${seed}`);
  await makeDisk(image, 48);
  for (let kill = 1; kill <= Number(countOrDevice); kill++) {
    const first = Math.max(0, ...records.keys()) + 1;
    const writer = new Writer(image, writerAppend({ first, kib: 3, noise: true }));
    // One in five, but not all, while the guest has only begun to use its disk, or not even that.
    const early = random() < 0.2 && kill > 1;
    if (early) await writer.said("WRITING");
    else await writer.until(() => SYNCED_LINE.test(writer.console), "SYNCED");
    await new Promise((resolve) => setTimeout(resolve, random() * LATEST));
    writer.child.kill("SIGKILL");
    await writer.ended;
    const before = records.size;
    writer.announced(records);
    await prove(image, records, folder);
    console.log(`kill ${kill}: ${records.size - before} records announced, all ${records.size} there, e2fsck clean`);
  }
  assert.ok(records.size > 0, "the guest had something synced");
  return `passed: ${countOrDevice} kills, ${records.size} records announced, all there`;
}

async function full(folder: string): Promise<string> {
  const small = `${folder}/small`;
  await Deno.mkdir(small);
  await text(["mount", "-t", "tmpfs", "-o", "size=12m", "none", small]);
  const records = new Map<number, string>();
  let words: string;
  try {
    const image = `${small}/disk.img`;
    await makeDisk(image, 48);
    const writer = new Writer(image, writerAppend({ first: 1, kib: 512, noise: false }));
    await writer.said("FAILED");
    await writer.ended;
    writer.announced(records);
    assert.match(writer.console, FAILED);
    assert.ok(records.size > 0, "some records went through");
    words = writer.errors;
    assert.equal((await writer.child.status).code, 0, `the guest powered off by itself: ${words}`);
    assert.match(words, /^hv: [^\n]*no space left on the host's file system[^\n]*\n/);
    assert.equal(words.split("\n").length, 3, `one sentence for all of it, and how it ended: ${words}`);
    await text(["cp", image, `${folder}/disk.img`]);
  } finally {
    await text(["umount", small]);
  }
  await prove(`${folder}/disk.img`, records, folder);
  return `passed: the guest saw its writes fail, ${records.size} records synced before are there; hv said: ${words}`;
}

async function gone(folder: string): Promise<string> {
  const image = `${folder}/disk.img`;
  const bytes = new Uint8Array(8 * MIB);
  for (let at = 0; at < bytes.length; at += 65536) crypto.getRandomValues(bytes.subarray(at, at + 65536));
  await Deno.writeFile(image, bytes);
  const { createHash } = await import("node:crypto");
  const sum = createHash("md5").update(bytes).digest("hex");
  const writer = new Writer(image, READER_APPEND);
  await writer.reads(1);
  using file = await Deno.open(image, { write: true });
  await Deno.remove(image);
  await writer.reads(2);
  await file.truncate(5 * MIB);
  await writer.proveReadFailed(/^hv: [^\n]*ended at byte 5242880; it was cut while in use\n/);
  const sums = [...writer.console.matchAll(READ)].map(([, read]) => read);
  assert.deepEqual(sums, sums.map(() => sum));
  return `passed: ${sums.length} times read as it was, then cut; hv said: ${writer.errors}`;
}

async function medium(): Promise<string> {
  {
    const disk = openDisk({ path: countOrDevice });
    disk.write(0, new BufferVector(new Uint8Array(4096)));
    assert.throws(() => disk.flush(), /flushing failed: input\/output error/);
    // The host's kernel and the medium take the next one; what was lost stays lost.
    assert.throws(() => disk.flush(), /an earlier flush failed, data was lost/);
    disk.close();
  }
  const writer = new Writer(countOrDevice, READER_APPEND, ",readonly");
  await writer.proveReadFailed(/^hv: [^\n]*reading failed: input\/output error; check the host's medium[^\n]*\n/);
  return `passed: the guest was told; hv said: ${writer.errors}`;
}

const folder = await Deno.makeTempDir({ prefix: "hv-writer-" });
const trials: Record<string, (folder: string) => Promise<string>> = { kills, full, gone, medium };
try {
  if (!trials[trial]) throw new Error(`which trial: ${Object.keys(trials).join(", ")}`);
  console.log((await trials[trial](folder)).trim());
} catch (error) {
  console.log((error as Error).message);
  Deno.exitCode = 1;
} finally {
  await Deno.remove(folder, { recursive: true });
}
