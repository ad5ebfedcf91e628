/** Where the right results come from: the host's CPU, or a file of what one did before. */
import { RECORD_BYTES } from "./record.ts";

/** Runs records (see record.ts) in order. */
export interface Oracle {
  run(records: Uint8Array<ArrayBuffer>, count: number): Promise<Uint8Array<ArrayBuffer>>;
  close(): Promise<void>;
}

/** A 32-bit sum of a record, so that a file made for other cases is noticed (FNV-1a). */
function sumOf(records: Uint8Array, at: number): number {
  let sum = 0x811c9dc5;
  for (let i = 0; i < RECORD_BYTES; i++) sum = Math.imul(sum ^ records[at + i], 0x01000193);
  return sum >>> 0;
}

/** Writes what another oracle answers to a file: for each case the record's sum and the result, compressed. */
export class Recording implements Oracle {
  private readonly writer: WritableStreamDefaultWriter<BufferSource>;
  private readonly written: Promise<void>;

  constructor(private readonly source: Oracle, path: string) {
    const compressor = new CompressionStream("gzip");
    this.writer = compressor.writable.getWriter();
    const file = Deno.openSync(path, { write: true, create: true, truncate: true });
    this.written = compressor.readable.pipeTo(file.writable);
  }

  async run(records: Uint8Array<ArrayBuffer>, count: number): Promise<Uint8Array<ArrayBuffer>> {
    const out = new Uint8Array(count * (4 + RECORD_BYTES));
    const view = new DataView(out.buffer);
    for (let i = 0; i < count; i++) view.setUint32(i * (4 + RECORD_BYTES), sumOf(records, i * RECORD_BYTES), true);
    const results = await this.source.run(records, count);
    for (let i = 0; i < count; i++) {
      out.set(results.subarray(i * RECORD_BYTES, (i + 1) * RECORD_BYTES), i * (4 + RECORD_BYTES) + 4);
    }
    await this.writer.write(out);
    return results;
  }

  async close(): Promise<void> {
    await this.writer.close();
    await this.written;
    await this.source.close();
  }
}

/** Answers from such a file. The cases must come in the order they were recorded in. */
export class Replay implements Oracle {
  private readonly reader: ReadableStreamDefaultReader<Uint8Array<ArrayBuffer>>;
  private rest: Uint8Array<ArrayBuffer> = new Uint8Array(0);

  constructor(path: string) {
    const file = Deno.openSync(path);
    this.reader = file.readable.pipeThrough(new DecompressionStream("gzip")).getReader();
  }

  async run(records: Uint8Array<ArrayBuffer>, count: number): Promise<Uint8Array<ArrayBuffer>> {
    const wanted = count * (4 + RECORD_BYTES);
    const bytes = new Uint8Array(wanted);
    let filled = 0;
    for (;;) {
      const taken = Math.min(this.rest.length, wanted - filled);
      bytes.set(this.rest.subarray(0, taken), filled);
      this.rest = this.rest.subarray(taken);
      filled += taken;
      if (filled === wanted) break;
      const { value, done } = await this.reader.read();
      if (done) throw new Error("the recording has fewer cases");
      this.rest = value;
    }
    const view = new DataView(bytes.buffer);
    const results = new Uint8Array(count * RECORD_BYTES);
    for (let i = 0; i < count; i++) {
      const at = i * (4 + RECORD_BYTES);
      if (view.getUint32(at, true) !== sumOf(records, i * RECORD_BYTES)) {
        throw new Error("the recording is of other cases: record it again with this version");
      }
      results.set(bytes.subarray(at + 4, at + 4 + RECORD_BYTES), i * RECORD_BYTES);
    }
    return results;
  }

  async close(): Promise<void> {
    await this.reader.cancel();
  }
}
