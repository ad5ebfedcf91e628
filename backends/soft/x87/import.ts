/** The x87's transcendental functions as something that generated code calls. */
import { declare } from "../cpu_function.ts";
import { State } from "../layout.ts";
import { Type } from "../wasm/values.ts";
import { transcendental } from "./transcendental.ts";

/**
 * JavaScript's: the number of the function. The
 * operands stand in {@link State.FPU_OPERANDS}: x, then y, 16 bytes each; the result goes to {@link State.FPU_OUT}.
 */
export const callTranscendental = declare("x87_transcendental", [Type.i32], null);

/** The import for a core module; `state` gives the vCPU's state. */
export function transcendentalImport(state: () => DataView): { x87_transcendental(number: number): void } {
  return {
    x87_transcendental(number: number): void {
      const view = state();
      const operand = (at: number) => ({
        significand: view.getBigUint64(at, true),
        signExponent: view.getUint16(at + 8, true),
      });
      const result = transcendental(
        number,
        operand(State.FPU_OPERANDS),
        operand(State.FPU_OPERANDS + 16),
        view.getUint16(State.FCW, true),
      );
      view.setBigUint64(State.FPU_OUT, result.significand, true);
      view.setUint32(State.FPU_OUT + 8, result.signExponent, true);
      view.setUint32(State.FPU_OUT + 12, result.flags, true);
    },
  };
}
