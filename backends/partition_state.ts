/** What every Worker of a partition knows of it, whatever the platform: words in a SharedArrayBuffer. */
import { lockWord, unlockWord } from "../core/mutex.ts";

// Int32 words.
const LOCK = 0;
const CLOSING = 1;
const ATTACHED = 2;
const LOGGING = 3;
/** Where guest memory's address and size lie, as two doubles, in bytes. */
const MEMORY = 32;

/** Words before those of a platform's own. */
export const PARTITION_WORDS = 16;

/** The shared words, as one Worker sees them. */
export class PartitionState {
  readonly buffer: SharedArrayBuffer;
  protected readonly words: Int32Array;
  private readonly memory: Float64Array;

  /** @param words how many there are, with the platform's own */
  constructor(buffer: SharedArrayBuffer, words: number) {
    this.buffer = buffer;
    this.words = new Int32Array(buffer, 0, words);
    this.memory = new Float64Array(buffer, MEMORY, 2);
  }

  get closing(): boolean {
    return Atomics.load(this.words, CLOSING) !== 0;
  }
  setClosing(): void {
    Atomics.store(this.words, CLOSING, 1);
  }

  /** Counts one more Worker that may look at guest memory. */
  attach(): void {
    Atomics.add(this.words, ATTACHED, 1);
  }
  /** True for the last one. */
  detach(): boolean {
    return Atomics.sub(this.words, ATTACHED, 1) === 1;
  }

  get memoryAddress(): number {
    return this.memory[0];
  }
  get memorySize(): number {
    return this.memory[1];
  }
  setMemory(address: number, size: number): void {
    this.memory[0] = address;
    this.memory[1] = size;
  }

  /** Whether writable memory logs what the guest writes; read and written with {@link locked}. */
  get logging(): boolean {
    return this.words[LOGGING] !== 0;
  }
  set logging(on: boolean) {
    this.words[LOGGING] = on ? 1 : 0;
  }

  /** Runs `action` while no other Worker changes what is mapped. */
  locked<T>(action: () => T): T {
    lockWord(this.words, LOCK);
    try {
      return action();
    } finally {
      unlockWord(this.words, LOCK);
    }
  }
}
