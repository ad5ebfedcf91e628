/**
 * Addresses in the memory, 32 or 64 bits wide, and what can be loaded from them. Which width is chosen once per
 * partition ({@link setMemory64}) before its modules are built, and whether guest RAM is a memory of its own; all other
 * code is the same for both.
 */
import { F32, F64, I32, i32, I64, i64, pushUnsigned, Type, V128, Value } from "./values.ts";

let memory64 = false;
let separate = false;

/**
 * Makes every address built from now on 64 (or 32) bits wide.
 * @param separateRam guest RAM is memory 1, all else memory 0; otherwise both are one
 */
export function setMemory64(on: boolean, separateRam = false): void {
  memory64 = on;
  separate = separateRam;
}

/** Whether guest RAM is a memory of its own. */
export function isRamSeparate(): boolean {
  return separate;
}

/** Whether addresses are 64 bits wide. */
export function isMemory64(): boolean {
  return memory64;
}

/** The value type of an address. */
export function pointerType(): typeof Type.i32 | typeof Type.i64 {
  return memory64 ? Type.i64 : Type.i32;
}

/** An address in the memory. What is added to an address of guest RAM is one too. */
export class Pointer extends Value {
  /** @param ram it is one of guest RAM */
  constructor(code: readonly number[], readonly ram = false) {
    super(code);
  }
  /** The same as an address of guest RAM. */
  inRam(): Pointer {
    return new Pointer(this.code, true);
  }
  /** Index of the memory that it is an address of. */
  get memory(): 0 | 1 {
    return this.ram && separate ? 1 : 0;
  }
  get type(): typeof Type.i32 | typeof Type.i64 {
    return pointerType();
  }
  /** Adds bytes. */
  add(o: number | Pointer): Pointer {
    if (o === 0) return this;
    const other = typeof o === "number" ? pointer(o) : o;
    return new Pointer([...this.code, ...other.code, memory64 ? 0x7c : 0x6a], this.ram || other.ram);
  }
  sub(o: number | Pointer): Pointer {
    const other = typeof o === "number" ? pointer(o) : o;
    return new Pointer([...this.code, ...other.code, memory64 ? 0x7d : 0x6b], this.ram || other.ram);
  }
  /** The low bits as an i32. */
  low(): I32 {
    return memory64 ? new I32([...this.code, 0xa7]) : new I32(this.code);
  }
  /** The address as an i64. */
  wide(): I64 {
    return memory64 ? new I64(this.code) : new I64([...this.code, 0xad]);
  }
  eqz(): I32 {
    return new I32([...this.code, memory64 ? 0x50 : 0x45]);
  }
  eq(o: Pointer): I32 {
    return new I32([...this.code, ...o.code, memory64 ? 0x51 : 0x46]);
  }
  /** Whether it is {@link nowhere}. */
  isNowhere(): I32 {
    return separate ? this.eq(nowhere()) : this.eqz();
  }

  private at(op: number, offset: number): number[] {
    const code = this.code.slice();
    code.push(op);
    this.pushArgument(code, 0, offset);
    return code;
  }
  /** Appends the immediate of a load or store: alignment, memory where it is not 0, offset (WebAssembly spec 5.4.7). */
  pushArgument(code: number[], align: number, offset: number): void {
    if (this.memory === 0) code.push(align);
    else code.push(align | 0x40, this.memory);
    pushUnsigned(code, offset);
  }
  i32(offset = 0): I32 {
    return new I32(this.at(0x28, offset));
  }
  i64(offset = 0): I64 {
    return new I64(this.at(0x29, offset));
  }
  f32(offset = 0): F32 {
    return new F32(this.at(0x2a, offset));
  }
  f64(offset = 0): F64 {
    return new F64(this.at(0x2b, offset));
  }
  s8(offset = 0): I32 {
    return new I32(this.at(0x2c, offset));
  }
  u8(offset = 0): I32 {
    return new I32(this.at(0x2d, offset));
  }
  s16(offset = 0): I32 {
    return new I32(this.at(0x2e, offset));
  }
  u16(offset = 0): I32 {
    return new I32(this.at(0x2f, offset));
  }
  s8w(offset = 0): I64 {
    return new I64(this.at(0x30, offset));
  }
  u8w(offset = 0): I64 {
    return new I64(this.at(0x31, offset));
  }
  s16w(offset = 0): I64 {
    return new I64(this.at(0x32, offset));
  }
  u16w(offset = 0): I64 {
    return new I64(this.at(0x33, offset));
  }
  s32w(offset = 0): I64 {
    return new I64(this.at(0x34, offset));
  }
  u32w(offset = 0): I64 {
    return new I64(this.at(0x35, offset));
  }
  v128(offset = 0): V128 {
    const code = this.code.slice();
    code.push(0xfd, 0);
    this.pushArgument(code, 0, offset);
    return new V128(code);
  }
  /** `bits` wide, sign-extended. */
  signed(bits: number, offset = 0): I64 {
    return bits === 64
      ? this.i64(offset)
      : bits === 32
      ? this.s32w(offset)
      : bits === 16
      ? this.s16w(offset)
      : this.s8w(offset);
  }
  /** `bits` wide, zero-extended. */
  unsigned(bits: number, offset = 0): I64 {
    return bits === 64
      ? this.i64(offset)
      : bits === 32
      ? this.u32w(offset)
      : bits === 16
      ? this.u16w(offset)
      : this.u8w(offset);
  }
  /** A pointer stored in memory as a u32 (or u64 with memory64). */
  pointer(offset = 0): Pointer {
    return new Pointer(memory64 ? this.i64(offset).code : this.i32(offset).code);
  }
  /** A byte, as an offset to add to an address. */
  byteOffset(offset = 0): Pointer {
    return new Pointer(memory64 ? this.u8w(offset).code : this.u8(offset).code);
  }

  private atomic(op: number, align: number, offset: number, values: Value[]): number[] {
    const code = this.code.slice();
    for (const value of values) code.push(...value.code);
    code.push(0xfe, op);
    this.pushArgument(code, align, offset);
    return code;
  }
  atomicI32(offset = 0): I32 {
    return new I32(this.atomic(0x10, 2, offset, []));
  }
  /** Atomically loads `bits` (naturally aligned), zero-extended. */
  atomicLoad(bits: number, offset = 0): I64 {
    return bits === 64
      ? new I64(this.atomic(0x11, 3, offset, []))
      : bits === 32
      ? new I64(this.atomic(0x16, 2, offset, []))
      : bits === 16
      ? new I64(this.atomic(0x15, 1, offset, []))
      : new I64(this.atomic(0x14, 0, offset, []));
  }
  /** Compare and exchange of `bits`, zero-extended; gives the old value. */
  atomicCompareExchange(bits: number, expected: I64, replacement: I64, offset = 0): I64 {
    const [op, align] = bits === 64 ? [0x49, 3] : bits === 32 ? [0x4e, 2] : bits === 16 ? [0x4d, 1] : [0x4c, 0];
    return new I64(this.atomic(op, align, offset, [expected, replacement]));
  }
  compareExchange32(expected: I32 | number, replacement: I32 | number, offset = 0): I32 {
    return new I32(
      this.atomic(0x48, 2, offset, [
        typeof expected === "number" ? i32(expected) : expected,
        typeof replacement === "number" ? i32(replacement) : replacement,
      ]),
    );
  }
  exchange32(value: I32 | number, offset = 0): I32 {
    return new I32(this.atomic(0x41, 2, offset, [typeof value === "number" ? i32(value) : value]));
  }
  atomicOr32(value: I32 | number, offset = 0): I32 {
    return new I32(this.atomic(0x33, 2, offset, [typeof value === "number" ? i32(value) : value]));
  }
  atomicOr8(value: I32 | number, offset = 0): I32 {
    return new I32(this.atomic(0x35, 0, offset, [typeof value === "number" ? i32(value) : value]));
  }
}

/** A constant address. */
export function pointer(value: number): Pointer {
  return new Pointer(memory64 ? i64(value).code : i32(value).code);
}

/** What stands for no address in guest RAM: 0, unless RAM begins there; then the highest, which is in no memory. */
export function nowhere(): Pointer {
  return pointer(separate ? -1 : 0).inRam();
}

/** An i64 as an address, cut to its width. */
export function pointerOf(value: I64): Pointer {
  return new Pointer(memory64 ? value.code : [...value.code, 0xa7]);
}

/** An i32 as an address (zero-extended). */
export function pointerOf32(value: I32): Pointer {
  return new Pointer(memory64 ? [...value.code, 0xad] : value.code);
}
