/** Reads test files in the MOO format (Machine Opcode Operation, version 1) of the SingleStepTests suites. */

/** Registers in the order of the format's mask. */
export const REGISTERS = [
  "ax",
  "bx",
  "cx",
  "dx",
  "cs",
  "ss",
  "ds",
  "es",
  "sp",
  "bp",
  "si",
  "di",
  "ip",
  "flags",
] as const;
export type Register = (typeof REGISTERS)[number];

/** Registers, as many as are told, and bytes of memory: address and value. */
export interface MooState {
  registers: Partial<Record<Register, number>>;
  memory: [address: number, value: number][];
}

/** One instruction on the real processor. After, only what changed is told. */
export interface MooTest {
  name: string;
  bytes: Uint8Array;
  before: MooState;
  after: MooState;
  /** The vector of the exception that it ended in. */
  exception: number | null;
}

export interface MooFile {
  /** The processor: `C286`, `8086`. */
  cpu: string;
  tests: MooTest[];
}

/** Goes through chunks: a tag of four characters, a length of 32 bits, the content. */
function* chunks(view: DataView, from: number, to: number): Generator<[tag: string, at: number, length: number]> {
  for (let at = from; at < to;) {
    const tag = String.fromCharCode(...[0, 1, 2, 3].map((i) => view.getUint8(at + i)));
    const length = view.getUint32(at + 4, true);
    yield [tag, at + 8, length];
    at += 8 + length;
  }
}

function readState(view: DataView, from: number, length: number): MooState {
  const state: MooState = { registers: {}, memory: [] };
  for (const [tag, start] of chunks(view, from, from + length)) {
    let at = start;
    if (tag === "REGS") {
      const mask = view.getUint16(at, true);
      REGISTERS.forEach((register, i) => {
        if (mask >> i & 1) state.registers[register] = view.getUint16(at += 2, true);
      });
    } else if (tag === "RAM ") {
      const count = view.getUint32(at, true);
      at += 4;
      for (let i = 0; i < count; i++, at += 5) state.memory.push([view.getUint32(at, true), view.getUint8(at + 4)]);
    }
  }
  return state;
}

function readTest(view: DataView, from: number, length: number): MooTest {
  const empty: MooState = { registers: {}, memory: [] };
  const test: MooTest = { name: "", bytes: new Uint8Array(0), before: empty, after: empty, exception: null };
  const bytes = (at: number) => new Uint8Array(view.buffer, view.byteOffset + at + 4, view.getUint32(at, true)).slice();
  // The test's number comes first.
  for (const [tag, at, size] of chunks(view, from + 4, from + length)) {
    if (tag === "NAME") test.name = new TextDecoder().decode(bytes(at));
    else if (tag === "BYTS") test.bytes = bytes(at);
    else if (tag === "INIT") test.before = readState(view, at, size);
    else if (tag === "FINA") test.after = readState(view, at, size);
    else if (tag === "EXCP") test.exception = view.getUint8(at);
  }
  return test;
}

/** Reads a file, at most `most` of its tests. */
export function readMoo(file: Uint8Array, most: number): MooFile {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const result: MooFile = { cpu: "", tests: [] };
  for (const [tag, at, length] of chunks(view, 0, file.length)) {
    if (tag === "MOO ") result.cpu = new TextDecoder().decode(file.subarray(at + 8, at + 12)).trim();
    else if (tag === "TEST" && result.tests.length < most) result.tests.push(readTest(view, at, length));
  }
  return result;
}
