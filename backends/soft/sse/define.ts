/** The Wasm functions that the rows of x87 and SSE call. */
import type { Target } from "../cpu_function.ts";
import type { Module } from "../wasm/module.ts";
import { defineFloat80 } from "../x87/float80.ts";
import { defineStack } from "../x87/stack.ts";
import { defineAesFunctions } from "./aes_functions.ts";
import { defineFloatFunctions } from "./float_functions.ts";
import { defineStringFunctions } from "./string_functions.ts";

/** Adds them to a vCPU's core module. */
export function defineFloatingPoint(module: Module, target: Target): void {
  defineFloat80(module);
  defineStack(module, target);
  defineFloatFunctions(module, target);
  defineStringFunctions(module, target);
  defineAesFunctions(module, target);
}
