/**
 * Typed Wasm expressions. An expression is its code, ready to be concatenated; the type checker keeps an i32 from being
 * added to an i64. Nothing here has an effect by itself: statements are {@link import("./function.ts").Func}'s.
 *
 * Code is an array of numbers: bytes, and above 255 references to functions and types, which the module resolves.
 */

/** Value types with their binary codes (WebAssembly core spec 5.3.1). */
export const Type = { i32: 0x7f, i64: 0x7e, f32: 0x7d, f64: 0x7c, v128: 0x7b } as const;
/** One of {@link Type}'s codes. */
export type ValueType = (typeof Type)[keyof typeof Type];

/** Code elements from here on mean function number `n - FUNCTION_REFERENCE`. */
export const FUNCTION_REFERENCE = 0x10_0000;
/** Code elements from here on mean signature number `n - TYPE_REFERENCE`. */
export const TYPE_REFERENCE = 0x4000_0000;

/** Appends an unsigned LEB128 number. */
export function pushUnsigned(code: number[], value: number): void {
  while (value >= 128) {
    code.push((value % 128) | 128);
    value = Math.floor(value / 128);
  }
  code.push(value);
}

/** Appends a signed LEB128 number within 32 bits. */
export function pushSigned(code: number[], value: number): void {
  for (;;) {
    const byte = value & 0x7f;
    value >>= 7;
    if ((value === 0 && (byte & 0x40) === 0) || (value === -1 && (byte & 0x40) !== 0)) {
      code.push(byte);
      return;
    }
    code.push(byte | 0x80);
  }
}

function pushSigned64(code: number[], value: bigint): void {
  value = BigInt.asIntN(64, value);
  for (;;) {
    const byte = Number(value & 0x7fn);
    value >>= 7n;
    if ((value === 0n && (byte & 0x40) === 0) || (value === -1n && (byte & 0x40) !== 0)) {
      code.push(byte);
      return;
    }
    code.push(byte | 0x80);
  }
}

/** Any expression. */
export abstract class Value {
  abstract readonly type: ValueType;
  readonly code: readonly number[];
  constructor(code: readonly number[]) {
    this.code = code;
  }
}

function binary(a: Value, b: Value, op: number): number[] {
  const code = a.code.slice();
  for (let i = 0; i < b.code.length; i++) code.push(b.code[i]);
  code.push(op);
  return code;
}

function unary(a: Value, op: number): number[] {
  const code = a.code.slice();
  code.push(op);
  return code;
}

function prefixed(values: Value[], prefix: number, op: number): number[] {
  const code: number[] = [];
  for (const value of values) for (let i = 0; i < value.code.length; i++) code.push(value.code[i]);
  code.push(prefix);
  pushUnsigned(code, op);
  return code;
}

/** Opcodes of i64.extend_i32_s and _u. */
const EXTEND_S = 0xac;
const EXTEND_U = 0xad;

type A32 = I32 | number;
type A64 = I64 | number | bigint;

/** A 32-bit integer; comparisons give 0 or 1. */
export class I32 extends Value {
  readonly type = Type.i32;
  private b(o: A32, op: number): I32 {
    return new I32(binary(this, typeof o === "number" ? i32(o) : o, op));
  }
  eqz(): I32 {
    return new I32(unary(this, 0x45));
  }
  eq(o: A32): I32 {
    return this.b(o, 0x46);
  }
  ne(o: A32): I32 {
    return this.b(o, 0x47);
  }
  ltS(o: A32): I32 {
    return this.b(o, 0x48);
  }
  ltU(o: A32): I32 {
    return this.b(o, 0x49);
  }
  gtS(o: A32): I32 {
    return this.b(o, 0x4a);
  }
  gtU(o: A32): I32 {
    return this.b(o, 0x4b);
  }
  leS(o: A32): I32 {
    return this.b(o, 0x4c);
  }
  leU(o: A32): I32 {
    return this.b(o, 0x4d);
  }
  geS(o: A32): I32 {
    return this.b(o, 0x4e);
  }
  geU(o: A32): I32 {
    return this.b(o, 0x4f);
  }
  clz(): I32 {
    return new I32(unary(this, 0x67));
  }
  ctz(): I32 {
    return new I32(unary(this, 0x68));
  }
  popcnt(): I32 {
    return new I32(unary(this, 0x69));
  }
  add(o: A32): I32 {
    return (o === 0 ? this : this.b(o, 0x6a));
  }
  sub(o: A32): I32 {
    return this.b(o, 0x6b);
  }
  mul(o: A32): I32 {
    return this.b(o, 0x6c);
  }
  divS(o: A32): I32 {
    return this.b(o, 0x6d);
  }
  divU(o: A32): I32 {
    return this.b(o, 0x6e);
  }
  remS(o: A32): I32 {
    return this.b(o, 0x6f);
  }
  remU(o: A32): I32 {
    return this.b(o, 0x70);
  }
  and(o: A32): I32 {
    return this.b(o, 0x71);
  }
  or(o: A32): I32 {
    return this.b(o, 0x72);
  }
  xor(o: A32): I32 {
    return this.b(o, 0x73);
  }
  shl(o: A32): I32 {
    return (o === 0 ? this : this.b(o, 0x74));
  }
  shrS(o: A32): I32 {
    return this.b(o, 0x75);
  }
  shrU(o: A32): I32 {
    return (o === 0 ? this : this.b(o, 0x76));
  }
  rotl(o: A32): I32 {
    return this.b(o, 0x77);
  }
  rotr(o: A32): I32 {
    return this.b(o, 0x78);
  }
  s8(): I32 {
    return new I32(unary(this, 0xc0));
  }
  s16(): I32 {
    return new I32(unary(this, 0xc1));
  }
  i64s(): I64 {
    return new I64(unary(this, EXTEND_S));
  }
  i64u(): I64 {
    return new I64(unary(this, EXTEND_U));
  }
  f32s(): F32 {
    return new F32(unary(this, 0xb2));
  }
  f64s(): F64 {
    return new F64(unary(this, 0xb7));
  }
  f64u(): F64 {
    return new F64(unary(this, 0xb8));
  }
  bitsF32(): F32 {
    return new F32(unary(this, 0xbe));
  }
  /** True when any bit of the mask is set. */
  has(mask: number): I32 {
    return this.and(mask).ne(0);
  }
}

/** A 64-bit integer; comparisons give an {@link I32} of 0 or 1. */
export class I64 extends Value {
  readonly type = Type.i64;
  private b(o: A64, op: number): I64 {
    return new I64(binary(this, typeof o === "object" ? o : i64(o), op));
  }
  private c(o: A64, op: number): I32 {
    return new I32(binary(this, typeof o === "object" ? o : i64(o), op));
  }
  eqz(): I32 {
    return new I32(unary(this, 0x50));
  }
  eq(o: A64): I32 {
    return this.c(o, 0x51);
  }
  ne(o: A64): I32 {
    return this.c(o, 0x52);
  }
  ltS(o: A64): I32 {
    return this.c(o, 0x53);
  }
  ltU(o: A64): I32 {
    return this.c(o, 0x54);
  }
  gtS(o: A64): I32 {
    return this.c(o, 0x55);
  }
  gtU(o: A64): I32 {
    return this.c(o, 0x56);
  }
  leS(o: A64): I32 {
    return this.c(o, 0x57);
  }
  leU(o: A64): I32 {
    return this.c(o, 0x58);
  }
  geS(o: A64): I32 {
    return this.c(o, 0x59);
  }
  geU(o: A64): I32 {
    return this.c(o, 0x5a);
  }
  clz(): I64 {
    return new I64(unary(this, 0x79));
  }
  ctz(): I64 {
    return new I64(unary(this, 0x7a));
  }
  popcnt(): I64 {
    return new I64(unary(this, 0x7b));
  }
  add(o: A64): I64 {
    return (o === 0 ? this : this.b(o, 0x7c));
  }
  sub(o: A64): I64 {
    return this.b(o, 0x7d);
  }
  mul(o: A64): I64 {
    return this.b(o, 0x7e);
  }
  divS(o: A64): I64 {
    return this.b(o, 0x7f);
  }
  divU(o: A64): I64 {
    return this.b(o, 0x80);
  }
  remS(o: A64): I64 {
    return this.b(o, 0x81);
  }
  remU(o: A64): I64 {
    return this.b(o, 0x82);
  }
  and(o: A64): I64 {
    return this.b(o, 0x83);
  }
  or(o: A64): I64 {
    return this.b(o, 0x84);
  }
  xor(o: A64): I64 {
    return this.b(o, 0x85);
  }
  shl(o: A64): I64 {
    return (o === 0 ? this : this.b(o, 0x86));
  }
  shrS(o: A64): I64 {
    return (o === 0 ? this : this.b(o, 0x87));
  }
  shrU(o: A64): I64 {
    return (o === 0 ? this : this.b(o, 0x88));
  }
  rotl(o: A64): I64 {
    return this.b(o, 0x89);
  }
  rotr(o: A64): I64 {
    return this.b(o, 0x8a);
  }
  not(): I64 {
    return this.b(-1, 0x85);
  }
  neg(): I64 {
    return i64(0).sub(this);
  }
  i32(): I32 {
    // Of an extended i32 (the opcode is no last byte of anything else) that i32.
    const last = this.code[this.code.length - 1];
    if (last === EXTEND_S || last === EXTEND_U) return new I32(this.code.slice(0, -1));
    return new I32(unary(this, 0xa7));
  }
  s8(): I64 {
    return new I64(unary(this, 0xc2));
  }
  s16(): I64 {
    return new I64(unary(this, 0xc3));
  }
  s32(): I64 {
    return this.i32().i64s();
  }
  u32(): I64 {
    return this.i32().i64u();
  }
  /** Sign-extends the low `bits`. */
  sx(bits: number): I64 {
    return bits === 64 ? this : bits === 32 ? this.s32() : bits === 16 ? this.s16() : this.s8();
  }
  /** Zero-extends the low `bits`. */
  zx(bits: number): I64 {
    return bits === 64 ? this : bits === 32 ? this.u32() : this.and(bits === 16 ? 0xffff : 0xff);
  }
  f32s(): F32 {
    return new F32(unary(this, 0xb4));
  }
  f64s(): F64 {
    return new F64(unary(this, 0xb9));
  }
  bitsF64(): F64 {
    return new F64(unary(this, 0xbf));
  }
  /** True when any bit of the mask is set. */
  has(mask: number | bigint): I32 {
    return this.and(mask).ne(0);
  }
}

/**
 * A 64-bit integer of which only the low 32 bits count: what is computed from it is computed in 32 bits, and compared
 * so. As an {@link I64} it is zero-extended.
 */
export class Low32 extends I64 {
  /** The low half of a value. */
  static of(value: I32 | I64): Low32 {
    return new Low32(unary(value instanceof I64 ? value.i32() : value, EXTEND_U));
  }
  private half(o: A64): A32 {
    return typeof o === "number" ? o | 0 : typeof o === "bigint" ? Number(BigInt.asIntN(32, o)) : o.i32();
  }
  override eqz(): I32 {
    return this.i32().eqz();
  }
  override eq(o: A64): I32 {
    return this.i32().eq(this.half(o));
  }
  override ne(o: A64): I32 {
    return this.i32().ne(this.half(o));
  }
  override ltS(o: A64): I32 {
    return this.i32().ltS(this.half(o));
  }
  override ltU(o: A64): I32 {
    return this.i32().ltU(this.half(o));
  }
  override gtS(o: A64): I32 {
    return this.i32().gtS(this.half(o));
  }
  override gtU(o: A64): I32 {
    return this.i32().gtU(this.half(o));
  }
  override leS(o: A64): I32 {
    return this.i32().leS(this.half(o));
  }
  override leU(o: A64): I32 {
    return this.i32().leU(this.half(o));
  }
  override geS(o: A64): I32 {
    return this.i32().geS(this.half(o));
  }
  override geU(o: A64): I32 {
    return this.i32().geU(this.half(o));
  }
  override add(o: A64): I64 {
    return Low32.of(this.i32().add(this.half(o)));
  }
  override sub(o: A64): I64 {
    return Low32.of(this.i32().sub(this.half(o)));
  }
  override mul(o: A64): I64 {
    return Low32.of(this.i32().mul(this.half(o)));
  }
  override and(o: A64): I64 {
    return Low32.of(this.i32().and(this.half(o)));
  }
  override or(o: A64): I64 {
    return Low32.of(this.i32().or(this.half(o)));
  }
  override xor(o: A64): I64 {
    return Low32.of(this.i32().xor(this.half(o)));
  }
  /** By less than 32. */
  override shl(o: A64): I64 {
    return Low32.of(this.i32().shl(this.half(o)));
  }
  /** By less than 32. */
  override shrU(o: A64): I64 {
    return Low32.of(this.i32().shrU(this.half(o)));
  }
  override not(): I64 {
    return Low32.of(this.i32().xor(-1));
  }
  override neg(): I64 {
    return Low32.of(i32(0).sub(this.i32()));
  }
  /** Bits above are nobody's. */
  override sx(bits: number): I64 {
    return bits >= 32 ? this : super.sx(bits);
  }
  override zx(bits: number): I64 {
    return bits >= 32 ? this : super.zx(bits);
  }
}

/** A single-precision number. */
export class F32 extends Value {
  readonly type = Type.f32;
  eq(o: F32): I32 {
    return new I32(binary(this, o, 0x5b));
  }
  ne(o: F32): I32 {
    return new I32(binary(this, o, 0x5c));
  }
  lt(o: F32): I32 {
    return new I32(binary(this, o, 0x5d));
  }
  gt(o: F32): I32 {
    return new I32(binary(this, o, 0x5e));
  }
  le(o: F32): I32 {
    return new I32(binary(this, o, 0x5f));
  }
  ge(o: F32): I32 {
    return new I32(binary(this, o, 0x60));
  }
  abs(): F32 {
    return new F32(unary(this, 0x8b));
  }
  neg(): F32 {
    return new F32(unary(this, 0x8c));
  }
  ceil(): F32 {
    return new F32(unary(this, 0x8d));
  }
  floor(): F32 {
    return new F32(unary(this, 0x8e));
  }
  trunc(): F32 {
    return new F32(unary(this, 0x8f));
  }
  nearest(): F32 {
    return new F32(unary(this, 0x90));
  }
  sqrt(): F32 {
    return new F32(unary(this, 0x91));
  }
  add(o: F32): F32 {
    return new F32(binary(this, o, 0x92));
  }
  sub(o: F32): F32 {
    return new F32(binary(this, o, 0x93));
  }
  mul(o: F32): F32 {
    return new F32(binary(this, o, 0x94));
  }
  div(o: F32): F32 {
    return new F32(binary(this, o, 0x95));
  }
  f64(): F64 {
    return new F64(unary(this, 0xbb));
  }
  bits(): I32 {
    return new I32(unary(this, 0xbc));
  }
  /** Truncates to a signed 64-bit integer, saturating. */
  satI64(): I64 {
    return new I64(prefixed([this], 0xfc, 4));
  }
  satI32(): I32 {
    return new I32(prefixed([this], 0xfc, 0));
  }
}

/** A double-precision number. */
export class F64 extends Value {
  readonly type = Type.f64;
  eq(o: F64): I32 {
    return new I32(binary(this, o, 0x61));
  }
  ne(o: F64): I32 {
    return new I32(binary(this, o, 0x62));
  }
  lt(o: F64): I32 {
    return new I32(binary(this, o, 0x63));
  }
  gt(o: F64): I32 {
    return new I32(binary(this, o, 0x64));
  }
  le(o: F64): I32 {
    return new I32(binary(this, o, 0x65));
  }
  ge(o: F64): I32 {
    return new I32(binary(this, o, 0x66));
  }
  abs(): F64 {
    return new F64(unary(this, 0x99));
  }
  neg(): F64 {
    return new F64(unary(this, 0x9a));
  }
  ceil(): F64 {
    return new F64(unary(this, 0x9b));
  }
  floor(): F64 {
    return new F64(unary(this, 0x9c));
  }
  trunc(): F64 {
    return new F64(unary(this, 0x9d));
  }
  nearest(): F64 {
    return new F64(unary(this, 0x9e));
  }
  sqrt(): F64 {
    return new F64(unary(this, 0x9f));
  }
  add(o: F64): F64 {
    return new F64(binary(this, o, 0xa0));
  }
  sub(o: F64): F64 {
    return new F64(binary(this, o, 0xa1));
  }
  mul(o: F64): F64 {
    return new F64(binary(this, o, 0xa2));
  }
  div(o: F64): F64 {
    return new F64(binary(this, o, 0xa3));
  }
  f32(): F32 {
    return new F32(unary(this, 0xb6));
  }
  bits(): I64 {
    return new I64(unary(this, 0xbd));
  }
  satI32(): I32 {
    return new I32(prefixed([this], 0xfc, 2));
  }
  satI64(): I64 {
    return new I64(prefixed([this], 0xfc, 6));
  }
  satU64(): I64 {
    return new I64(prefixed([this], 0xfc, 7));
  }
}

/** 128 bits. Operations are given by their opcode after the 0xfd prefix ({@link Simd}). */
export class V128 extends Value {
  readonly type = Type.v128;
  /** A one-operand operation. */
  op1(op: number): V128 {
    return new V128(prefixed([this], 0xfd, op));
  }
  /** A two-operand operation; `this` is the left operand. */
  op2(op: number, o: V128): V128 {
    return new V128(prefixed([this, o], 0xfd, op));
  }
  /** A shift of all lanes by a count in an i32. */
  shift(op: number, count: I32): V128 {
    return new V128(prefixed([this, count], 0xfd, op));
  }
  /** An operation with an i32 result: bitmask, all_true, any_true. */
  test(op: number): I32 {
    return new I32(prefixed([this], 0xfd, op));
  }
  /** `(this & mask) | (other & ~mask)` */
  bitselect(other: V128, mask: V128): V128 {
    return new V128(prefixed([this, other, mask], 0xfd, 82));
  }
  and(o: V128): V128 {
    return this.op2(78, o);
  }
  or(o: V128): V128 {
    return this.op2(80, o);
  }
  xor(o: V128): V128 {
    return this.op2(81, o);
  }
  /** `this & ~o` */
  andnot(o: V128): V128 {
    return this.op2(79, o);
  }
  not(): V128 {
    return this.op1(77);
  }
  /** Bytes of `this` (0-15) and `other` (16-31) by constant index. */
  shuffle(other: V128, lanes: readonly number[]): V128 {
    const code = prefixed([this, other], 0xfd, 13);
    for (const lane of lanes) code.push(lane);
    return new V128(code);
  }
  private lane(op: number, lane: number, value?: Value): number[] {
    const code = prefixed(value ? [this, value] : [this], 0xfd, op);
    code.push(lane);
    return code;
  }
  i8u(lane: number): I32 {
    return new I32(this.lane(22, lane));
  }
  i16u(lane: number): I32 {
    return new I32(this.lane(25, lane));
  }
  i32(lane: number): I32 {
    return new I32(this.lane(27, lane));
  }
  i64(lane: number): I64 {
    return new I64(this.lane(29, lane));
  }
  f32(lane: number): F32 {
    return new F32(this.lane(31, lane));
  }
  f64(lane: number): F64 {
    return new F64(this.lane(33, lane));
  }
  withI8(lane: number, v: I32): V128 {
    return new V128(this.lane(23, lane, v));
  }
  withI16(lane: number, v: I32): V128 {
    return new V128(this.lane(26, lane, v));
  }
  withI32(lane: number, v: I32): V128 {
    return new V128(this.lane(28, lane, v));
  }
  withI64(lane: number, v: I64): V128 {
    return new V128(this.lane(30, lane, v));
  }
  withF32(lane: number, v: F32): V128 {
    return new V128(this.lane(32, lane, v));
  }
  withF64(lane: number, v: F64): V128 {
    return new V128(this.lane(34, lane, v));
  }
}

/** The constant `value`, taken modulo 2^32. */
export function i32(value: number): I32 {
  const code = [0x41];
  pushSigned(code, value | 0);
  return new I32(code);
}

/** The constant `value`, taken modulo 2^64. A number must be a safe integer. */
export function i64(value: number | bigint): I64 {
  const code = [0x42];
  if (typeof value === "number" && value === (value | 0)) pushSigned(code, value);
  else pushSigned64(code, BigInt(value));
  return new I64(code);
}

/** A double constant. */
export function f64(value: number): F64 {
  return new F64([0x44, ...new Uint8Array(new Float64Array([value]).buffer)]);
}

/** A single constant. */
export function f32(value: number): F32 {
  return new F32([0x43, ...new Uint8Array(new Float32Array([value]).buffer)]);
}

/** A 128-bit constant of two 64-bit halves. */
export function v128(low: bigint, high: bigint): V128 {
  return new V128([0xfd, 12, ...new Uint8Array(new BigUint64Array([low, high]).buffer)]);
}

/** All lanes of width `bits` equal to the value. */
export function splat(value: I32 | I64 | F32 | F64, bits: 8 | 16 | 32 | 64): V128 {
  const op = value instanceof F32
    ? 19
    : value instanceof F64
    ? 20
    : bits === 8
    ? 15
    : bits === 16
    ? 16
    : bits === 32
    ? 17
    : 18;
  return new V128(prefixed([value], 0xfd, op));
}

/** `condition ? a : b`, both evaluated. */
export function select<T extends Value>(condition: I32, a: T, b: T): T {
  const code = [...a.code, ...b.code, ...condition.code, 0x1b];
  return new (a.constructor as new (code: number[]) => T)(code);
}

/** Reinterprets code as a value of a type: for locals, calls and loads. */
export function valueOf(type: ValueType, code: readonly number[]): Value {
  switch (type) {
    case Type.i32:
      return new I32(code);
    case Type.i64:
      return new I64(code);
    case Type.f32:
      return new F32(code);
    case Type.f64:
      return new F64(code);
    case Type.v128:
      return new V128(code);
  }
}
