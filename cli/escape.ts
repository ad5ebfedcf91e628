/** Commands to hv among the keys that go to the guest: Ctrl-] and a letter. */

const CTRL_RIGHT_BRACKET = 0x1d;

/** Takes the commands out of what is typed. */
export class EscapeFilter {
  private readonly command: (key: string) => void;
  private escaped = false;

  /** @param command called with the key that followed Ctrl-], in lower case */
  constructor(command: (key: string) => void) {
    this.command = command;
  }

  /** What of `typed` is the guest's. Ctrl-] twice is one Ctrl-] for the guest. */
  feed(typed: Uint8Array): Uint8Array {
    if (!this.escaped && !typed.includes(CTRL_RIGHT_BRACKET)) return typed;
    const kept = new Uint8Array(typed.length);
    let length = 0;
    for (const byte of typed) {
      if (this.escaped) {
        this.escaped = false;
        if (byte === CTRL_RIGHT_BRACKET) kept[length++] = byte;
        else this.command(String.fromCharCode(byte).toLowerCase());
      } else if (byte === CTRL_RIGHT_BRACKET) this.escaped = true;
      else kept[length++] = byte;
    }
    return kept.subarray(0, length);
  }
}
