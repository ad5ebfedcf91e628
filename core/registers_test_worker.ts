/** Increments a word under its device's lock, without an atomic add: only the lock keeps the count right. */
import { lockWord, unlockWord } from "./mutex.ts";
import { FIRST_WORD, RegisterFile } from "./registers.ts";

declare const self: {
  onmessage: (
    event: MessageEvent<{ memory: WebAssembly.Memory; rounds: number; held: number; inWasm: boolean }>,
  ) => void;
  postMessage(value: string): void;
};

self.onmessage = ({ data: { memory, rounds, held, inWasm } }) => {
  const registers = new RegisterFile(memory).allocate(1);
  for (let i = 0; i < rounds; i++) {
    if (inWasm) registers.lock();
    else lockWord(registers.words, 0);
    const count = registers.words[FIRST_WORD];
    // Long enough, now and then, for the others to fall asleep.
    if ((count & 3) === 0) { for (let i = 0; i < held; i++) registers.words[FIRST_WORD + 1] = i; }
    registers.words[FIRST_WORD] = count + 1;
    if (inWasm) registers.unlock();
    else unlockWord(registers.words, 0);
  }
  self.postMessage("done");
};
