/** The guest's memory by linear address: what an instruction needs besides the device it reached. */
import type { InstructionMemory } from "../x64/mmio_instruction.ts";
import { platform, TranslateFlag, TranslateResult } from "./abi.ts";
import type { WhpxPartition } from "./partition.ts";

const TWO_32 = 0x1_0000_0000;

/** WHvTranslateGva and the memory behind it. This is not the hot path: a translation costs a call of the platform. */
export class GuestMemory implements InstructionMemory {
  /** After a failure: the linear address, whether it was a store, and whether the page is there but protected. */
  faultLow = 0;
  faultHigh = 0;
  faultWrite = false;
  protection = false;
  /** After a failure: the page is there, and is no memory but a device's; its guest physical address. */
  device = false;
  guestAddress = 0;
  private readonly partition: WhpxPartition;
  private readonly index: number;
  private readonly gva = new Uint32Array(2);
  private readonly gvaBig = new BigUint64Array(this.gva.buffer);
  private readonly result = new Uint32Array(2);
  private readonly gpa = new Uint32Array(2);
  private readonly resultPointer = Deno.UnsafePointer.of(this.result);
  private readonly gpaPointer = Deno.UnsafePointer.of(this.gpa);
  private view: Uint8Array | null = null;

  constructor(partition: WhpxPartition, index: number) {
    this.partition = partition;
    this.index = index;
  }

  get bytes(): Uint8Array {
    if (this.view === null) {
      const { buffer, byteOffset, size } = this.partition.memory();
      this.view = new Uint8Array(buffer, byteOffset, size);
    }
    return this.view;
  }

  /** See {@link InstructionMemory}. */
  translate(low: number, high: number, size: number, write: boolean): number {
    const inPage = 0x1000 - (low & 0xfff);
    if (size > inPage) {
      const first = this.translate(low, high, inPage, write);
      if (first < 0) return first;
      const next = (low + inPage) | 0;
      const second = this.translate(next, next === 0 ? (high + 1) | 0 : high, size - inPage, write);
      if (second < 0 || second === first + inPage) return second < 0 ? second : first;
      // Two pages that do not follow each other cannot be one run of bytes.
      this.device = true;
      return -2;
    }
    this.faultLow = low;
    this.faultHigh = high;
    this.faultWrite = write;
    this.protection = false;
    this.device = false;
    this.gva[0] = low;
    this.gva[1] = high;
    const flags = TranslateFlag.SetPageTableBits | (write ? TranslateFlag.ValidateWrite : TranslateFlag.ValidateRead);
    const called = platform().WHvTranslateGva(
      this.partition.pointer,
      this.index,
      this.gvaBig[0],
      flags,
      this.resultPointer,
      this.gpaPointer,
    );
    if (called < 0) return -1;
    const code = this.result[0];
    this.guestAddress = this.gpa[0] + this.gpa[1] * TWO_32;
    if (code === TranslateResult.Success || code === TranslateResult.GpaUnmapped) {
      const offset = this.partition.shared.offsetOf(this.guestAddress, size, write);
      if (offset >= 0) return offset;
      this.device = true;
      return -2;
    }
    this.protection = code !== TranslateResult.PageNotPresent;
    return -1;
  }

  /** Whether all of a run can be stored to (or loaded from). */
  reach(low: number, high: number, length: number, write: boolean): boolean {
    return this.eachPage(low, high, length, write, null, false);
  }

  /** Copies guest memory into `to`; false when a page of it is not to be had. */
  read(low: number, high: number, length: number, to: Uint8Array): boolean {
    return this.eachPage(low, high, length, false, to, false);
  }

  /** Copies `from` into guest memory; false when a page of it is not to be had. */
  write(low: number, high: number, length: number, from: Uint8Array): boolean {
    return this.eachPage(low, high, length, true, from, true);
  }

  private eachPage(
    low: number,
    high: number,
    length: number,
    write: boolean,
    other: Uint8Array | null,
    store: boolean,
  ): boolean {
    for (let done = 0; done < length;) {
      const piece = Math.min(length - done, 0x1000 - (low & 0xfff));
      const at = this.translate(low, high, piece, write);
      if (at < 0) return false;
      if (other !== null) {
        const { bytes } = this;
        if (store) { for (let i = 0; i < piece; i++) bytes[at + i] = other[done + i]; }
        else for (let i = 0; i < piece; i++) other[done + i] = bytes[at + i];
      }
      done += piece;
      low = (low + piece) | 0;
      if (low === 0) high = (high + 1) | 0;
    }
    return true;
  }
}
