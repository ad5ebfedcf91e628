/**
 * A mutex in one word of shared memory, twice: over any words, and for the exit path in WebAssembly. V8 compiles Wasm's
 * atomic instructions in place, while each `Atomics` function of JavaScript is a call of some 150 instructions
 * (`docs/performance.md`, exit path).
 *
 * The word is 0 when free, 1 when taken, 2 when taken and somebody may be waiting. Whoever has waited takes it as 2,
 * since others may still wait; to take it as 1 would leave them asleep for ever. Drepper, "Futexes Are Tricky", mutex 2.
 */

/** Waits for the mutex in `words[at]`. Not reentrant. */
export function lockWord(words: Int32Array, at: number): void {
  if (Atomics.compareExchange(words, at, 0, 1) === 0) return;
  while (Atomics.exchange(words, at, 2) !== 0) Atomics.wait(words, at, 2);
}

export function unlockWord(words: Int32Array, at: number): void {
  if (Atomics.exchange(words, at, 0) === 2) Atomics.notify(words, at, 1);
}

/** The functions of one memory; both take the byte address of a mutex' word. */
export interface Mutex {
  /** Waits for the mutex. Not reentrant. */
  readonly lock: (address: number) => void;
  readonly unlock: (address: number) => void;
}

// WebAssembly core specification 2.0, 5.4 and 5.5; atomic instructions by the threads proposal.
const I32 = 0x7f;
const END = 0x0b;
const BLOCK_OF_NOTHING = 0x40;
const [LOOP, IF, BR, BR_IF, DROP, LOCAL_GET, I32_CONST, I64_CONST, I32_EQZ, I32_EQ] = //
  [0x03, 0x04, 0x0c, 0x0d, 0x1a, 0x20, 0x41, 0x42, 0x45, 0x46];
// Prefix, opcode, alignment (4 bytes), offset.
const NOTIFY = [0xfe, 0x00, 2, 0];
const WAIT32 = [0xfe, 0x01, 2, 0];
const EXCHANGE = [0xfe, 0x41, 2, 0];
const COMPARE_EXCHANGE = [0xfe, 0x48, 2, 0];
const ADDRESS = [LOCAL_GET, 0];
const FOR_EVER = [I64_CONST, 0x7f];
const SHARED_WITH_MAXIMUM = 3;
/** Pages of 64 KiB that a mutex' memory may have at most. */
const MAX_PAGES = 64;

const LOCK = [
  ...[...ADDRESS, I32_CONST, 0, I32_CONST, 1, ...COMPARE_EXCHANGE, I32_EQZ, BR_IF, 0],
  ...[LOOP, BLOCK_OF_NOTHING],
  ...[...ADDRESS, I32_CONST, 2, ...EXCHANGE, I32_EQZ, BR_IF, 1],
  ...[...ADDRESS, I32_CONST, 2, ...FOR_EVER, ...WAIT32, DROP, BR, 0],
  END,
];
const UNLOCK = [
  ...[...ADDRESS, I32_CONST, 0, ...EXCHANGE, I32_CONST, 2, I32_EQ],
  ...[IF, BLOCK_OF_NOTHING, ...ADDRESS, I32_CONST, 1, ...NOTIFY, DROP, END],
];

/** A vector's elements after their count, or a section's bytes after their length; none is longer than 127. */
const counted = (bytes: number[], count = bytes.length) => [count, ...bytes];
const name = (text: string) => counted([...new TextEncoder().encode(text)]);
const body = (code: number[]) => counted([0, ...code, END]);

const MODULE = [
  ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
  ...[1, ...counted([1, 0x60, 1, I32, 0])], // types: (i32) -> ()
  ...[2, ...counted([1, ...name("core"), ...name("memory"), 2, SHARED_WITH_MAXIMUM, 0, MAX_PAGES])],
  ...[3, ...counted([2, 0, 0])], // functions
  ...[7, ...counted([2, ...name("lock"), 0, 0, ...name("unlock"), 0, 1])],
  ...[10, ...counted([2, ...body(LOCK), ...body(UNLOCK)])],
];

let module: WebAssembly.Module | null = null;

/** The mutex functions over a memory of {@link mutexMemory}. */
export function mutexOver(memory: WebAssembly.Memory): Mutex {
  module ??= new WebAssembly.Module(new Uint8Array(MODULE));
  return new WebAssembly.Instance(module, { core: { memory } }).exports as unknown as Mutex;
}

/** Zeroed shared memory; it can be posted to other Workers. */
export function mutexMemory(bytes: number): WebAssembly.Memory {
  const pages = Math.ceil(bytes / 65536);
  return new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
}
