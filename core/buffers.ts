/** Memory of JavaScript's own. */

/** Smaller ones are not worth it, and may be a runtime's pool. */
const WORTH_IT = 1 << 20;

/** Gives a big buffer's memory back to the system at once; nobody may use it, or a view of it, any more. */
export function releaseBuffer(buffer: ArrayBufferLike): void {
  if (buffer instanceof ArrayBuffer && buffer.byteLength >= WORTH_IT) buffer.transfer(0);
}
