/** Increments a word under its device's lock, without an atomic add: only the lock keeps the count right. */
import { FIRST_WORD, RegisterFile } from "./registers.ts";

declare const self: {
  onmessage: (event: MessageEvent<{ buffer: SharedArrayBuffer; rounds: number }>) => void;
  postMessage(value: string): void;
};

self.onmessage = ({ data: { buffer, rounds } }) => {
  const registers = new RegisterFile(buffer).allocate(1);
  for (let i = 0; i < rounds; i++) {
    registers.lock();
    registers.words[FIRST_WORD] = registers.words[FIRST_WORD] + 1;
    registers.unlock();
  }
  self.postMessage("done");
};
