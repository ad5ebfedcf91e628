/** Function bodies: locals, control flow, stores and calls around {@link Value} expressions. */
import { Pointer, pointerType } from "./memory.ts";
import { declare, type FunctionName, type Module, type Signature } from "./module.ts";
import {
  F32,
  F64,
  FUNCTION_REFERENCE,
  I32,
  i32,
  I64,
  i64,
  pushUnsigned,
  Type,
  TYPE_REFERENCE,
  V128,
  type Value,
  valueOf,
  type ValueType,
} from "./values.ts";

/** A place in the nesting of blocks that can be branched to. */
export interface Label {
  readonly depth: number;
}

/** A local variable: use it as a value; {@link Func.set} changes it. */
export type Local<T extends Value> = T & { readonly index: number };

/** A function's body under construction. */
export class Func {
  readonly code: number[] = [];
  readonly parameterTypes: readonly ValueType[];
  readonly locals: ValueType[] = [];
  private depth = 0;
  private readonly free = new Map<ValueType, number[]>();
  private scope: [ValueType, number][] | null = null;

  constructor(parameterTypes: readonly ValueType[]) {
    this.parameterTypes = parameterTypes;
  }

  private makeLocal(type: ValueType): number {
    const pool = this.free.get(type);
    let index = pool?.pop();
    if (index === undefined) {
      index = this.parameterTypes.length + this.locals.length;
      this.locals.push(type);
    }
    this.scope?.push([type, index]);
    return index;
  }

  /** Locals made by `body` are free for reuse after it. */
  scoped(body: () => void): void {
    const outer = this.scope;
    this.scope = [];
    body();
    for (const [type, index] of this.scope) {
      const pool = this.free.get(type);
      if (pool) pool.push(index);
      else this.free.set(type, [index]);
    }
    this.scope = outer;
  }

  private asLocal<T extends Value>(value: T, index: number): Local<T> {
    return Object.assign(value, { index });
  }

  parameter32(index: number): Local<I32> {
    return this.asLocal(new I32(get(index)), index);
  }
  parameter64(index: number): Local<I64> {
    return this.asLocal(new I64(get(index)), index);
  }
  parameterPointer(index: number): Local<Pointer> {
    return this.asLocal(new Pointer(get(index)), index);
  }
  parameterV128(index: number): Local<V128> {
    return this.asLocal(new V128(get(index)), index);
  }
  parameterF64(index: number): Local<F64> {
    return this.asLocal(new F64(get(index)), index);
  }

  /** A new i32 variable; undefined content when no initial value is given. */
  i32(initial?: I32 | number): Local<I32> {
    const index = this.makeLocal(Type.i32);
    const local = this.asLocal(new I32(get(index)), index);
    if (initial !== undefined) this.set(local, typeof initial === "number" ? i32(initial) : initial);
    return local;
  }
  i64(initial?: I64 | number | bigint): Local<I64> {
    const index = this.makeLocal(Type.i64);
    const local = this.asLocal(new I64(get(index)), index);
    if (initial !== undefined) this.set(local, typeof initial === "object" ? initial : i64(initial));
    return local;
  }
  f32(initial?: F32): Local<F32> {
    const index = this.makeLocal(Type.f32);
    const local = this.asLocal(new F32(get(index)), index);
    if (initial !== undefined) this.set(local, initial);
    return local;
  }
  f64(initial?: F64): Local<F64> {
    const index = this.makeLocal(Type.f64);
    const local = this.asLocal(new F64(get(index)), index);
    if (initial !== undefined) this.set(local, initial);
    return local;
  }
  v128(initial?: V128): Local<V128> {
    const index = this.makeLocal(Type.v128);
    const local = this.asLocal(new V128(get(index)), index);
    if (initial !== undefined) this.set(local, initial);
    return local;
  }
  pointer(initial?: Pointer, ram = initial?.ram): Local<Pointer> {
    const index = this.makeLocal(pointerType());
    const local = this.asLocal(new Pointer(get(index), ram), index);
    if (initial !== undefined) this.set(local, initial);
    return local;
  }

  private push(value: Value): void {
    const { code } = value;
    for (let i = 0; i < code.length; i++) this.code.push(code[i]);
  }

  /** Assigns a variable. */
  set<T extends Value>(local: Local<T>, value: T | number): void {
    if (value instanceof Pointer && value.ram !== (local as unknown as Pointer).ram) {
      throw new Error("an address of guest RAM and one of another memory");
    }
    this.push(typeof value === "number" ? (local.type === Type.i32 ? i32(value) : i64(value)) : value);
    this.code.push(0x21);
    pushUnsigned(this.code, local.index);
  }

  /** `if (condition) then(); else otherwise();` */
  if(condition: I32, then: () => void, otherwise?: () => void): void {
    this.push(condition);
    this.code.push(0x04, 0x40);
    this.depth++;
    then();
    if (otherwise) {
      this.code.push(0x05);
      otherwise();
    }
    this.code.push(0x0b);
    this.depth--;
  }

  /** A block; branching to its label leaves it. */
  block(body: (end: Label) => void): void {
    this.code.push(0x02, 0x40);
    this.depth++;
    body({ depth: this.depth });
    this.code.push(0x0b);
    this.depth--;
  }

  /** A loop; branching to its label begins it again, running off its end leaves it. */
  loop(body: (again: Label) => void): void {
    this.code.push(0x03, 0x40);
    this.depth++;
    body({ depth: this.depth });
    this.code.push(0x0b);
    this.depth--;
  }

  br(label: Label): void {
    this.code.push(0x0c);
    pushUnsigned(this.code, this.depth - label.depth);
  }

  brIf(label: Label, condition: I32): void {
    this.push(condition);
    this.code.push(0x0d);
    pushUnsigned(this.code, this.depth - label.depth);
  }

  /**
   * `switch (index)`: runs `cases[index]`, or `otherwise` for larger indices; a case that runs off its end leaves the
   * switch.
   */
  switch(index: I32, cases: (() => void)[], otherwise: () => void): void {
    // end { default { case n-1 { ... case 0 { br_table } body 0; br end } ... } body n-1; br end } otherwise }
    for (let i = 0; i < cases.length + 2; i++) this.code.push(0x02, 0x40);
    this.depth += cases.length + 2;
    this.push(index);
    this.code.push(0x0e);
    pushUnsigned(this.code, cases.length);
    for (let i = 0; i <= cases.length; i++) pushUnsigned(this.code, i);
    for (let i = 0; i < cases.length; i++) {
      this.code.push(0x0b);
      this.depth--;
      cases[i]();
      this.code.push(0x0c);
      pushUnsigned(this.code, cases.length - i);
    }
    this.code.push(0x0b);
    this.depth--;
    otherwise();
    this.code.push(0x0b);
    this.depth--;
  }

  /** Returns, with a value where the function has one. */
  return(value?: Value | number): void {
    if (value !== undefined) this.push(typeof value === "number" ? i32(value) : value);
    this.code.push(0x0f);
  }

  /** Evaluates for the effect and drops the value. */
  drop(value: Value): void {
    this.push(value);
    this.code.push(0x1a);
  }

  /** A call for its value. */
  call(name: FunctionName, ...args: (Value | number)[]): Value {
    const type = name.result === "pointer" ? null : name.result;
    const code = this.callCode(name, args);
    return type === null ? new Pointer(code) : valueOf(type, code);
  }
  call32(name: FunctionName, ...args: (Value | number)[]): I32 {
    return new I32(this.callCode(name, args));
  }
  call64(name: FunctionName, ...args: (Value | number)[]): I64 {
    return new I64(this.callCode(name, args));
  }
  callPointer(name: FunctionName, ...args: (Value | number)[]): Pointer {
    return new Pointer(this.callCode(name, args));
  }
  callV128(name: FunctionName, ...args: (Value | number)[]): V128 {
    return new V128(this.callCode(name, args));
  }

  /** Calls a function without a result. */
  do(name: FunctionName, ...args: (Value | number)[]): void {
    for (const element of this.callCode(name, args)) this.code.push(element);
  }

  private callCode(name: FunctionName, args: (Value | number)[]): number[] {
    if (args.length !== name.parameters.length) {
      throw new Error(`${name.name} takes ${name.parameters.length} arguments`);
    }
    const code: number[] = [];
    args.forEach((arg, i) => {
      const type = name.parameters[i] === "pointer" ? pointerType() : name.parameters[i];
      const value = typeof arg === "number" ? (type === Type.i32 ? i32(arg) : i64(arg)) : arg;
      if (value.type !== type) throw new Error(`argument ${i} of ${name.name} has another type`);
      for (let k = 0; k < value.code.length; k++) code.push(value.code[k]);
    });
    code.push(0x10, FUNCTION_REFERENCE + name.number);
    return code;
  }

  /** Calls entry `index` of the table. */
  callIndirect(type: Signature, index: I32, ...args: Value[]): I32 {
    const code: number[] = [];
    for (const arg of args) code.push(...arg.code);
    code.push(...index.code, 0x11, TYPE_REFERENCE + type.number, 0);
    return new I32(code);
  }

  private store(op: number, address: Pointer, value: Value, offset: number): void {
    this.push(address);
    this.push(value);
    this.code.push(op);
    address.pushArgument(this.code, 0, offset);
  }
  store32(address: Pointer, value: I32 | number, offset = 0): void {
    this.store(0x36, address, typeof value === "number" ? i32(value) : value, offset);
  }
  store64(address: Pointer, value: I64 | number | bigint, offset = 0): void {
    this.store(0x37, address, typeof value === "object" ? value : i64(value), offset);
  }
  storeF32(address: Pointer, value: F32, offset = 0): void {
    this.store(0x38, address, value, offset);
  }
  storeF64(address: Pointer, value: F64, offset = 0): void {
    this.store(0x39, address, value, offset);
  }
  store8(address: Pointer, value: I32 | number, offset = 0): void {
    this.store(0x3a, address, typeof value === "number" ? i32(value) : value, offset);
  }
  store16(address: Pointer, value: I32 | number, offset = 0): void {
    this.store(0x3b, address, typeof value === "number" ? i32(value) : value, offset);
  }
  /** Stores the low `bits`. */
  storeBits(bits: number, address: Pointer, value: I64, offset = 0): void {
    this.store(bits === 64 ? 0x37 : bits === 32 ? 0x3e : bits === 16 ? 0x3d : 0x3c, address, value, offset);
  }
  storePointer(address: Pointer, value: Pointer, offset = 0): void {
    this.store(pointerType() === Type.i64 ? 0x37 : 0x36, address, value, offset);
  }
  storeV128(address: Pointer, value: V128, offset = 0): void {
    this.push(address);
    this.push(value);
    this.code.push(0xfd, 11);
    address.pushArgument(this.code, 0, offset);
  }
  /** Atomically stores an i32. */
  atomicStore32(address: Pointer, value: I32 | number, offset = 0): void {
    this.push(address);
    this.push(typeof value === "number" ? i32(value) : value);
    this.code.push(0xfe, 0x17);
    address.pushArgument(this.code, 2, offset);
  }
  /** A sequentially consistent fence. */
  fence(): void {
    this.code.push(0xfe, 0x03, 0);
  }

  memoryCopy(to: Pointer, from: Pointer, length: Pointer): void {
    this.push(to);
    this.push(from);
    this.push(length);
    this.code.push(0xfc, 10, to.memory, from.memory);
  }
  memoryFill(to: Pointer, value: I32, length: Pointer): void {
    this.push(to);
    this.push(value);
    this.push(length);
    this.code.push(0xfc, 11, to.memory);
  }

  /** Ends the body. */
  finish(): number[] {
    this.code.push(0x0b);
    return this.code;
  }
}

function get(index: number): number[] {
  const code = [0x20];
  pushUnsigned(code, index);
  return code;
}

/** Defines a declared function in a module. A function with a result must return it before its end. */
export function defineFunction(module: Module, name: FunctionName, body: (f: Func) => void): void {
  const resolve = (type: ValueType | "pointer") => (type === "pointer" ? pointerType() : type);
  const f = new Func(name.parameters.map(resolve));
  body(f);
  // Unreachable where every path has returned; a trap (never a silent zero) where one forgot to.
  if (name.result !== null) f.code.push(0x00);
  module.define(name, f.locals, f.finish());
}

export { declare };
