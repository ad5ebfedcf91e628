/** Lists of registers as WHvGet- and WHvSetVirtualProcessorRegisters take them, in memory that stays where it is. */
import { platform, Struct } from "./abi.ts";

const VALUE_BYTES = Struct.WHV_REGISTER_VALUE.sizeof;

/** Zeroed bytes at an address that is a multiple of 16, as WHV_REGISTER_VALUE wants (DECLSPEC_ALIGN(16)). */
export function alignedBytes(size: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(size + 16);
  const address = Deno.UnsafePointer.value(Deno.UnsafePointer.of(bytes));
  const skip = Number(-BigInt(address) & 15n);
  return bytes.subarray(skip, skip + size);
}

/** Some registers of one vCPU, always the same ones. */
export class RegisterList {
  readonly names: readonly number[];
  /** Four words a register (WHV_REGISTER_VALUE). */
  readonly words: Int32Array;
  readonly view: DataView;
  readonly bytes: Uint8Array;
  private readonly partition: Deno.PointerValue;
  private readonly index: number;
  private readonly nameArray: Uint32Array<ArrayBuffer>;
  private readonly namesPointer: Deno.PointerValue;
  private readonly valuesPointer: Deno.PointerValue;

  constructor(partition: Deno.PointerValue, index: number, names: readonly number[]) {
    this.partition = partition;
    this.index = index;
    this.names = names;
    this.nameArray = new Uint32Array(names);
    const bytes = alignedBytes(names.length * VALUE_BYTES);
    this.bytes = bytes;
    this.words = new Int32Array(bytes.buffer, bytes.byteOffset, names.length * 4);
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.namesPointer = Deno.UnsafePointer.of(this.nameArray);
    this.valuesPointer = Deno.UnsafePointer.of(bytes);
  }

  /** Byte offset of a register's value in {@link view}; the register must be in the list. */
  at(name: number): number {
    return this.names.indexOf(name) * VALUE_BYTES;
  }

  /** Reads all; an HRESULT. */
  get(): number {
    return platform().WHvGetVirtualProcessorRegisters(
      this.partition,
      this.index,
      this.namesPointer,
      this.nameArray.length,
      this.valuesPointer,
    );
  }

  /** Writes the first `count` of them; an HRESULT. */
  set(count: number): number {
    return platform().WHvSetVirtualProcessorRegisters(
      this.partition,
      this.index,
      this.namesPointer,
      count,
      this.valuesPointer,
    );
  }
}
