/** A Waker over an eventfd: KVM can ring it by itself. */
import type { Waker, WakerHandle } from "../../core/hypervisor.ts";
import { C, check, libc } from "./abi.ts";

// struct pollfd { int fd; short events; short revents; }, struct timespec { long tv_sec; long tv_nsec; }
const EIGHT = 8n;

/** An eventfd(2) of this process. */
export class EventFd implements Waker {
  readonly handle: { readonly descriptor: number };
  private readonly ours: boolean;
  private readonly pollfd: Int32Array<ArrayBuffer>;
  private readonly timespec = new BigInt64Array(2);
  private readonly count = new BigUint64Array(1);
  private readonly one = new BigUint64Array([1n]);
  private closed = false;

  /** @param handle of an eventfd that another Worker made; a new one otherwise */
  constructor(handle?: WakerHandle) {
    this.ours = handle === undefined;
    const descriptor = handle === undefined
      ? check(libc().eventfd(0, C.EFD_CLOEXEC | C.EFD_NONBLOCK), "eventfd")
      : (handle as { descriptor: number }).descriptor;
    this.handle = { descriptor };
    this.pollfd = new Int32Array([descriptor, C.POLLIN]);
  }

  wait(timeout: number): boolean {
    if (timeout >= 0) {
      this.timespec[0] = BigInt(Math.floor(timeout / 1000));
      this.timespec[1] = BigInt(Math.floor((timeout % 1000) * 1e6));
    }
    // Rings before this call are still in the counter: read empties it, poll finds it.
    libc().ppoll(this.pollfd, 1n, timeout < 0 ? null : this.timespec, null);
    return libc().read(this.handle.descriptor, this.count, EIGHT) === 8;
  }

  wake(): void {
    libc().write(this.handle.descriptor, this.one, EIGHT);
  }

  /** Closes it where it was made. */
  close(): void {
    if (this.ours && !this.closed) libc().close(this.handle.descriptor);
    this.closed = true;
  }
}
