/** Function bodies that reach a vCPU's state at its constant address. */
import type { Layout } from "./layout.ts";
import { Func, type Local } from "./wasm/function.ts";
import { isMemory64, type Pointer, pointer, pointerType } from "./wasm/memory.ts";
import { declare, type FunctionName, type Module } from "./wasm/module.ts";
import type { I32, I64, V128, ValueType } from "./wasm/values.ts";

/** What generated code of one vCPU is generated for. */
export interface Target {
  readonly layout: Layout;
  /** Address of the vCPU's block. */
  readonly base: number;
}

/** A {@link Func} with names for the vCPU's state. */
export class CpuFunc extends Func {
  readonly target: Target;
  private readonly base: number;
  /** Address 0: state is reached with constant offsets. */
  private readonly zero = pointer(0);

  constructor(target: Target, parameterTypes: readonly ValueType[]) {
    super(parameterTypes);
    this.target = target;
    this.base = target.base;
  }

  /** A field of the state. */
  s32(field: number): I32 {
    return this.zero.i32(this.base + field);
  }
  s64(field: number): I64 {
    return this.zero.i64(this.base + field);
  }
  s16(field: number): I32 {
    return this.zero.u16(this.base + field);
  }
  sPointer(field: number): Pointer {
    return this.zero.pointer(this.base + field);
  }
  sV128(field: number): V128 {
    return this.zero.v128(this.base + field);
  }
  set32(field: number, value: I32 | number): void {
    this.store32(this.zero, value, this.base + field);
  }
  set64(field: number, value: I64 | number | bigint): void {
    this.store64(this.zero, value, this.base + field);
  }
  set16(field: number, value: I32 | number): void {
    this.store16(this.zero, value, this.base + field);
  }
  setPointer(field: number, value: Pointer): void {
    this.storePointer(this.zero, value, this.base + field);
  }
  setV128(field: number, value: V128): void {
    this.storeV128(this.zero, value, this.base + field);
  }
  /** The address of a field, or of an area of the vCPU's block. */
  place(field: number): Pointer {
    return pointer(this.base + field);
  }
}

/** Defines a declared function of the vCPU's own. */
export function defineCpuFunction(
  module: Module,
  target: Target,
  name: FunctionName,
  body: (f: CpuFunc) => void,
): void {
  const resolve = (type: ValueType | "pointer") => (type === "pointer" ? pointerType() : type);
  const f = new CpuFunc(target, name.parameters.map(resolve));
  body(f);
  if (name.result !== null) f.code.push(0x00);
  module.define(name, f.locals, f.finish());
}

export { declare, isMemory64, type Local };
