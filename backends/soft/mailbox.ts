/**
 * What vCPUs and the machine ask of each other, in words at the front of the shared memory: leave `run()`, forget which
 * pages may be stored to, forget decoded code, stand still.
 */
import { type Layout, Shared, State } from "./layout.ts";

const WORDS_PER_CPU = 16;
/** Words of a vCPU. */
const INTERRUPT = 0;
const RUNNING = 1;
const FLUSH_ASKED = 2;
const FLUSH_DONE = 3;
const SEEN_WRITTEN = 4;
const SEEN_REGIONS = 5;

/** First word of the vCPUs' words, then the ring of pages whose code was stored to. */
const CPUS = 8192 / 4;
const RING_HEAD = 12288 / 4;
const CLOSED = RING_HEAD + 1;
const RING_RESERVED = RING_HEAD + 2;
const RING = RING_HEAD + 16;
const RING_SIZE = 4096;

const ALONE = Shared.ALONE >> 2;
/** Looks at a word before the thread sleeps on it: being alone takes less time than to sleep and to be woken. */
const SPINS = 2000;
/** Milliseconds that a thread sleeps at most before it looks whether the partition is still open. */
const LOOK_AROUND = 20;

export class Mailbox {
  private readonly words: Int32Array;

  constructor(memory: WebAssembly.Memory, private readonly layout: Layout) {
    this.words = new Int32Array(memory.buffer);
  }

  private at(index: number, word: number): number {
    return CPUS + index * WORDS_PER_CPU + word;
  }

  private attention(index: number): number {
    return (this.layout.cpuBase(index) + State.ATTENTION) >> 2;
  }

  /** The vCPU begins to run guest code: what was asked while it did not is served before. */
  enter(index: number): void {
    if (this.layout.cpus === 1) return;
    const { words } = this;
    const running = this.at(index, RUNNING);
    for (;;) {
      Atomics.store(words, running, 1);
      // One of the two sees the other's store.
      const alone = Atomics.load(words, ALONE);
      if (alone === 0 || Atomics.load(words, CLOSED) !== 0) return;
      this.leave(index);
      for (let i = 0; i < SPINS && Atomics.load(words, ALONE) === alone; i++);
      Atomics.wait(words, ALONE, alone, LOOK_AROUND);
    }
  }
  leave(index: number): void {
    if (this.layout.cpus === 1) return;
    const { words } = this;
    Atomics.store(words, this.at(index, RUNNING), 0);
    if (Atomics.load(words, ALONE) !== 0) Atomics.notify(words, this.at(index, RUNNING));
  }

  /**
   * Stops the other vCPUs between two instructions, until {@link endAlone}; those that are not running do not begin to.
   * Not while the vCPU itself is in the middle of an instruction: others may come first.
   */
  beginAlone(index: number): void {
    const { words } = this;
    while (Atomics.compareExchange(words, ALONE, 0, index + 1) !== 0) {
      if (Atomics.load(words, CLOSED) !== 0) return;
      this.letAlone(index);
    }
    for (let other = 0; other < this.layout.cpus; other++) {
      if (other !== index) Atomics.or(words, this.attention(other), 4);
    }
    for (let other = 0; other < this.layout.cpus; other++) {
      if (other === index) continue;
      const running = this.at(other, RUNNING);
      for (let i = 0; i < SPINS && Atomics.load(words, running) !== 0; i++);
      while (Atomics.load(words, running) !== 0 && Atomics.load(words, CLOSED) === 0) {
        Atomics.wait(words, running, 1, LOOK_AROUND);
      }
    }
  }
  endAlone(index: number): void {
    const { words } = this;
    // Not ours where the partition was closed meanwhile.
    if (Atomics.compareExchange(words, ALONE, index + 1, 0) === index + 1) Atomics.notify(words, ALONE);
  }
  /** Whether another vCPU wants to be alone. */
  aloneAsked(index: number): boolean {
    const alone = Atomics.load(this.words, ALONE);
    return alone !== 0 && alone !== index + 1;
  }
  /** Stands still while another vCPU is alone. */
  letAlone(index: number): void {
    this.leave(index);
    this.enter(index);
  }

  /** Makes the vCPU leave `run()`. */
  interrupt(index: number): void {
    Atomics.store(this.words, this.at(index, INTERRUPT), 1);
    Atomics.or(this.words, this.attention(index), 4);
    Atomics.notify(this.words, this.at(index, INTERRUPT));
  }
  takeInterrupt(index: number): boolean {
    // Plain reads: whoever asks raises ATTENTION afterwards, and {@link waits} looks again.
    if (this.words[CLOSED] !== 0) return true;
    if (this.words[this.at(index, INTERRUPT)] === 0) return false;
    return Atomics.exchange(this.words, this.at(index, INTERRUPT), 0) !== 0;
  }

  /** Sleeps until {@link interrupt} is called, or for so many milliseconds; at once when it already was. */
  sleep(index: number, time: number): void {
    Atomics.wait(this.words, this.at(index, INTERRUPT), 0, time);
  }

  /** Ends the partition: every vCPU leaves `run()`, now and whenever it is called again. */
  close(): void {
    Atomics.store(this.words, CLOSED, 1);
    for (let i = 0; i < this.layout.cpus; i++) this.interrupt(i);
  }

  /** Whether anything is asked of the vCPU; to be called once its ATTENTION is cleared. */
  waits(index: number): boolean {
    const { words } = this;
    // The first read is atomic, so that none comes before ATTENTION was cleared.
    return Atomics.load(words, this.at(index, INTERRUPT)) !== 0 ||
      this.flushAsked(index) ||
      this.aloneAsked(index) ||
      words[RING_HEAD] !== words[this.at(index, SEEN_WRITTEN)];
  }

  /**
   * A page became code: the other vCPUs forget that they may store to it without notice. Waits until those that run
   * have; `serve` does meanwhile what they ask of this one.
   */
  askOthersToFlush(index: number, serve: () => void): void {
    const { words } = this;
    if (this.layout.cpus === 1) return;
    const tickets: number[] = [];
    for (let other = 0; other < this.layout.cpus; other++) {
      tickets.push(other === index ? 0 : Atomics.add(words, this.at(other, FLUSH_ASKED), 1) + 1);
      if (other !== index) Atomics.or(words, this.attention(other), 4);
    }
    for (let other = 0; other < this.layout.cpus; other++) {
      if (other === index) continue;
      // One that is not running flushes before it runs again.
      while (
        Atomics.load(words, this.at(other, RUNNING)) !== 0 &&
        ((tickets[other] - Atomics.load(words, this.at(other, FLUSH_DONE))) | 0) > 0
      ) {
        serve();
        Atomics.wait(words, this.at(other, FLUSH_DONE), Atomics.load(words, this.at(other, FLUSH_DONE)), 0.05);
      }
    }
  }
  flushAsked(index: number): boolean {
    const { words } = this;
    // Only other vCPUs ask.
    if (this.layout.cpus === 1) return false;
    return Atomics.load(words, this.at(index, FLUSH_ASKED)) !== words[this.at(index, FLUSH_DONE)];
  }
  acknowledgeFlush(index: number): void {
    const { words } = this;
    Atomics.store(words, this.at(index, FLUSH_DONE), Atomics.load(words, this.at(index, FLUSH_ASKED)));
    Atomics.notify(words, this.at(index, FLUSH_DONE));
  }

  /** Code of a page was stored to: the other vCPUs forget what they decoded of it. */
  tellCodeWritten(index: number, page: number): void {
    if (this.layout.cpus === 1) return;
    const { words } = this;
    const ticket = Atomics.add(words, RING_RESERVED, 1);
    Atomics.store(words, RING + (ticket & (RING_SIZE - 1)), page);
    // Readers go by the head: it moves on once the page stands there, in the order of the tickets.
    while (Atomics.compareExchange(words, RING_HEAD, ticket, (ticket + 1) | 0) !== ticket);
    for (let other = 0; other < this.layout.cpus; other++) {
      if (other !== index) Atomics.or(words, this.attention(other), 4);
    }
  }
  takeCodeWritten(index: number, drop: (page: number) => void, dropAll: () => void): void {
    const { words } = this;
    const at = this.at(index, SEEN_WRITTEN);
    let seen = words[at];
    if (seen === words[RING_HEAD]) return;
    const head = Atomics.load(words, RING_HEAD);
    if (((head - seen) | 0) >= RING_SIZE / 2) dropAll();
    else for (; seen !== head; seen = (seen + 1) | 0) drop(Atomics.load(words, RING + (seen & (RING_SIZE - 1))));
    words[at] = head;
  }

  /** Whether memory was mapped or unmapped since this was last asked. */
  regionsChanged(index: number): boolean {
    const generation = this.words[Shared.REGION_GENERATION >> 2];
    const at = this.at(index, SEEN_REGIONS);
    if (this.words[at] === generation) return false;
    this.words[at] = generation;
    return true;
  }
  changeRegions(): void {
    Atomics.add(this.words, Shared.REGION_GENERATION >> 2, 1);
    for (let i = 0; i < this.layout.cpus; i++) Atomics.or(this.words, this.attention(i), 4);
  }
}
