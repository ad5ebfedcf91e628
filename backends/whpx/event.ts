/** A Waker over an event object of Windows: WHPX can ring it by itself. */
import type { Waker, WakerHandle } from "../../core/hypervisor.ts";
import { system, Win } from "./abi.ts";

/** An auto-reset event of this process; its handle's value is valid in every Worker. */
export class WindowsEvent implements Waker {
  readonly handle: { readonly descriptor: number };
  readonly pointer: Deno.PointerValue;
  private readonly ours: boolean;
  private closed = false;

  /** @param handle of an event that another Worker made; a new one otherwise */
  constructor(handle?: WakerHandle) {
    this.ours = handle === undefined;
    this.pointer = handle === undefined
      ? system().CreateEventW(null, 0, 0, null)
      : Deno.UnsafePointer.create(BigInt((handle as { descriptor: number }).descriptor));
    if (this.pointer === null) throw new Error("Windows could not make an event object");
    this.handle = { descriptor: Number(Deno.UnsafePointer.value(this.pointer)) };
  }

  wait(timeout: number): boolean {
    const milliseconds = timeout < 0 ? Win.INFINITE : Math.ceil(timeout);
    return system().WaitForSingleObject(this.pointer, milliseconds) === Win.WAIT_OBJECT_0;
  }

  wake(): void {
    system().SetEvent(this.pointer);
  }

  /** Closes it where it was made. */
  close(): void {
    if (this.ours && !this.closed) system().CloseHandle(this.pointer);
    this.closed = true;
  }
}
