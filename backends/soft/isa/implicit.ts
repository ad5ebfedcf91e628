/** Memory that an instruction names without a ModR/M byte, or not by it alone. */
import type { Emitter } from "../emitter.ts";
import { segmentLinear } from "../interpreter/handler.ts";
import { Seg, Segment, State } from "../layout.ts";
import type { Local } from "../wasm/function.ts";
import type { I64 } from "../wasm/values.ts";

/**
 * Linear address of an offset, cut to the address size, in the segment that prefixes choose (DS without).
 * @param bytes of the access
 */
export function implicitAddress(e: Emitter, whole: I64, bytes: number, write: boolean): Local<I64> {
  const { f } = e;
  const offset = whole.zx(e.addressBits);
  if (e.mode !== 64) return e.checked(f.i64(), f.call64(segmentLinear, e.auxiliary(), offset, bytes, write ? 1 : 0));
  const address = f.i64(offset);
  for (const segment of [Seg.FS, Seg.GS]) {
    f.if(e.auxiliary().eq(segment), () => {
      f.set(address, offset.add(f.s64(State.SEGMENTS + segment * Segment.BYTES + Segment.BASE)));
    });
  }
  return address;
}
