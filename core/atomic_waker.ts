/** A {@link Waker} that is one word of shared memory: for backends without a kernel object to wait on. */
import type { Waker, WakerHandle } from "./hypervisor.ts";

/** One Worker waits, any thread wakes; a ring is remembered until the next wait. */
export class AtomicWaker implements Waker {
  private readonly word: Int32Array;

  /** @param word of {@link handle}, to attach; absent to make a new one */
  constructor(word: Int32Array = new Int32Array(new SharedArrayBuffer(4))) {
    this.word = word;
  }

  wait(timeout: number): boolean {
    if (Atomics.exchange(this.word, 0, 0) === 1) return true;
    Atomics.wait(this.word, 0, 0, timeout < 0 ? Infinity : timeout);
    return Atomics.exchange(this.word, 0, 0) === 1;
  }

  wake(): void {
    Atomics.store(this.word, 0, 1);
    Atomics.notify(this.word, 0, 1);
  }

  get handle(): WakerHandle {
    return { word: this.word };
  }
}
