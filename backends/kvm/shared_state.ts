/**
 * What all Workers of one partition know of it: words in a SharedArrayBuffer. Nothing here is touched between two exits.
 */
import { C, check, Kvm, KvmStruct, libc, libcAddress, SigAction } from "./abi.ts";
import type { MemoryRegion } from "../../core/hypervisor.ts";
import { lockWord, unlockWord } from "../../core/mutex.ts";
import { PARTITION_WORDS, PartitionState } from "../partition_state.ts";

/** Signal that takes a vCPU out of KVM_RUN: a real-time one that neither glibc (32-34) nor Deno uses. */
export const KICK_SIGNAL = 50;

let handled = false;

/**
 * Gives the kick's signal a handler that does nothing, for the process. It need not be ours: any function of libc with
 * one integer argument and no effect will do, and abs() is that. A signal that comes while its thread is not in KVM_RUN
 * is then harmless, and `immediate_exit` remembers the kick.
 */
export function handleKicks(): void {
  if (handled) return;
  const action = new DataView(new ArrayBuffer(SigAction.sizeof));
  action.setBigUint64(SigAction.sa_handler, libcAddress("abs"), true);
  action.setInt32(SigAction.sa_flags, C.SA_RESTART | C.SA_ONSTACK, true);
  check(libc().sigaction(KICK_SIGNAL, new Uint8Array(action.buffer), null), "handling the kick's signal");
  handled = true;
}

/** Memory slots of one partition. */
export const MAX_SLOTS = 256;

// Int32 words.
const FIRST_VCPU = PARTITION_WORDS;
// Per vCPU: lock, thread id (0: not there), run page's address as a double in two words.
const VCPU_WORDS = 4;
/** Interrupt lines of the platform come first; message routes have the numbers after them. */
export const FIRST_MESSAGE_ROUTE = 24;
const MAX_MESSAGE_ROUTES = 512;
// Per route: 1 when taken, address, data.
const ROUTE_WORDS = 3;
// Doubles, after the words: slots of guest address, size, offset, flags.
const SLOT_DOUBLES = 4;

/** The shared words, as one Worker sees them. */
export class SharedState extends PartitionState {
  private readonly runPages: Float64Array;
  private readonly slots: Float64Array;
  private readonly routes: Int32Array;
  private readonly vcpus: number;

  static allocate(vcpus: number): SharedArrayBuffer {
    const doubles = MAX_SLOTS * SLOT_DOUBLES;
    const routes = MAX_MESSAGE_ROUTES * ROUTE_WORDS;
    return new SharedArrayBuffer((FIRST_VCPU + vcpus * VCPU_WORDS) * 4 + doubles * 8 + routes * 4);
  }

  constructor(buffer: SharedArrayBuffer, vcpus: number) {
    const words = FIRST_VCPU + vcpus * VCPU_WORDS;
    super(buffer, words);
    this.vcpus = vcpus;
    const wordBytes = words * 4;
    this.runPages = new Float64Array(buffer, 0, wordBytes / 8);
    this.slots = new Float64Array(buffer, wordBytes, MAX_SLOTS * SLOT_DOUBLES);
    this.routes = new Int32Array(buffer, wordBytes + this.slots.byteLength, MAX_MESSAGE_ROUTES * ROUTE_WORDS);
  }

  /** Puts a region into a free slot; -1 when there is none. */
  takeSlot(region: MemoryRegion): number {
    for (let slot = 0; slot < MAX_SLOTS; slot++) {
      if (this.slots[slot * SLOT_DOUBLES + 1] !== 0) continue;
      this.slots.set(
        [region.guestAddress, region.size, region.offset, region.readonly ? Kvm.MEM_READONLY : 0],
        slot * SLOT_DOUBLES,
      );
      return slot;
    }
    return -1;
  }
  freeSlot(slot: number): void {
    this.slots.fill(0, slot * SLOT_DOUBLES, (slot + 1) * SLOT_DOUBLES);
  }
  /** The slot that holds exactly this region, or -1. */
  findSlot(region: MemoryRegion): number {
    for (let slot = 0; slot < MAX_SLOTS; slot++) {
      const at = slot * SLOT_DOUBLES;
      if (this.slots[at] === region.guestAddress && this.slots[at + 1] === region.size) return slot;
    }
    return -1;
  }
  /** What is in a slot, or null. */
  slot(slot: number): MemoryRegion | null {
    const [guestAddress, size, offset, flags] = this.slots.subarray(slot * SLOT_DOUBLES, (slot + 1) * SLOT_DOUBLES);
    return size === 0 ? null : { guestAddress, size, offset, readonly: flags === Kvm.MEM_READONLY };
  }

  /** Takes a free message route, which is its interrupt number; -1 when there is none. */
  takeRoute(): number {
    for (let at = 0; at < this.routes.length; at += ROUTE_WORDS) {
      if (this.routes[at] !== 0) continue;
      this.setRoute(FIRST_MESSAGE_ROUTE + at / ROUTE_WORDS, 0, 0);
      return FIRST_MESSAGE_ROUTE + at / ROUTE_WORDS;
    }
    return -1;
  }
  setRoute(interrupt: number, address: number, data: number): void {
    this.routes.set([1, address, data], (interrupt - FIRST_MESSAGE_ROUTE) * ROUTE_WORDS);
  }
  freeRoute(interrupt: number): void {
    this.routes[(interrupt - FIRST_MESSAGE_ROUTE) * ROUTE_WORDS] = 0;
  }
  /** Routes with an address: those without send nothing yet. */
  messageRoutes(): { interrupt: number; address: number; data: number }[] {
    const found = [];
    for (let at = 0; at < this.routes.length; at += ROUTE_WORDS) {
      const [taken, address, data] = this.routes.subarray(at, at + ROUTE_WORDS);
      if (taken && address) found.push({ interrupt: FIRST_MESSAGE_ROUTE + at / ROUTE_WORDS, address, data });
    }
    return found;
  }

  /** Tells all Workers where vCPU `index` can be kicked. */
  openVcpu(index: number, threadId: number, runPage: number): void {
    const at = FIRST_VCPU + index * VCPU_WORDS;
    lockWord(this.words, at);
    this.words[at + 1] = threadId;
    this.runPages[(at + 2) / 2] = runPage;
    unlockWord(this.words, at);
  }
  /** After this no Worker touches the vCPU's run page any more. */
  closeVcpu(index: number): void {
    this.openVcpu(index, 0, 0);
  }

  /** Runs `action` while nobody kicks the vCPU. */
  withoutKicks(index: number, action: () => void): void {
    const at = FIRST_VCPU + index * VCPU_WORDS;
    lockWord(this.words, at);
    try {
      action();
    } finally {
      unlockWord(this.words, at);
    }
  }

  /**
   * Makes a vCPU leave KVM_RUN, or its next KVM_RUN return at once. `immediate_exit` comes before the signal: it covers
   * a thread that has looked at its commands but is not yet in KVM_RUN; the signal covers one that is.
   */
  kick(index: number): void {
    if (!(index >= 0 && index < this.vcpus)) return;
    const at = FIRST_VCPU + index * VCPU_WORDS;
    // Held so that neither the page nor the thread goes away between the look and the kick.
    lockWord(this.words, at);
    const threadId = this.words[at + 1];
    if (threadId !== 0) {
      const page = Deno.UnsafePointerView.getArrayBuffer(
        Deno.UnsafePointer.create(BigInt(this.runPages[(at + 2) / 2]))!,
        8,
      );
      const bytes = new Uint8Array(page);
      // Already 1: a signal was sent with it, and the vCPU has not come back from KVM_RUN since.
      if (Atomics.exchange(bytes, KvmStruct.kvm_run.immediate_exit, 1) === 0) {
        libc().tgkill(Deno.pid, threadId, KICK_SIGNAL);
      }
    }
    unlockWord(this.words, at);
  }
}

/** Host memory mapped outside V8's heap: zeroed, unreserved, in huge pages where the host gives them. */
export function mapAnonymous(size: number): number {
  const { mmap, munmap, madvise } = libc();
  const huge = 1 << 21;
  const room = size + huge;
  const flags = C.MAP_PRIVATE | C.MAP_ANONYMOUS | C.MAP_NORESERVE;
  const start = Number(mmap(0n, BigInt(room), C.PROT_READ | C.PROT_WRITE, flags, -1, 0n));
  // MAP_FAILED is -1: no address lies above the canonical user half.
  if (start > 2 ** 56) check(-1, `mapping ${size} bytes of guest memory`);
  // Guest and host huge pages line up only when guest address 0 is aligned here.
  const aligned = Math.ceil(start / huge) * huge;
  if (aligned > start) munmap(BigInt(start), BigInt(aligned - start));
  const end = aligned + Math.ceil(size / 4096) * 4096;
  if (start + room > end) munmap(BigInt(end), BigInt(start + room - end));
  madvise(BigInt(aligned), BigInt(size), C.MADV_HUGEPAGE);
  madvise(BigInt(aligned), BigInt(size), C.MADV_DONTDUMP);
  return aligned;
}

/** A buffer over host memory at an address. */
export function viewOf(address: number, size: number): ArrayBuffer {
  return Deno.UnsafePointerView.getArrayBuffer(Deno.UnsafePointer.create(BigInt(address))!, size);
}

/** Makes every view of the buffer empty, so that a late access is an undefined and not a crash. */
export function forget(buffer: ArrayBuffer): void {
  if (!buffer.detached) buffer.transfer();
}
