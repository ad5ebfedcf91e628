/** Guests without an operating system, on one vCPU of the software CPU. */
import { monotonicNow } from "../../core/clock.ts";
import { RegisterFile } from "../../core/registers.ts";
import { soft } from "../../backends/soft/hypervisor.ts";
import { buildControllers } from "../conformance/controllers.ts";
import { type BareRequest, type BareResult, Word } from "./bare_protocol.ts";

/** A guest to run. */
export interface BareGuest {
  /** Bytes of RAM from address 0. */
  ram: number;
  /** Firmware: ends at 4 GiB and again at 1 MiB, where the CPU starts after RESET; a multiple of 4096 bytes. */
  rom?: Uint8Array;
  /** Bytes to be in RAM. */
  pieces?: { address: number; bytes: Uint8Array }[];
  /** The state to begin in; without it, as after RESET. */
  state?: ArrayBuffer;
  /** 32-bit items of QEMU's firmware configuration device, by selector. */
  firmwareItems?: Record<number, number>;
  /** Milliseconds until it is stopped. */
  timeout: number;
}

/** Runs a guest until it ends, or until its time is over. */
export async function runBareGuest(guest: BareGuest): Promise<BareResult> {
  const rom = guest.rom ?? new Uint8Array(0);
  const size = guest.ram + rom.length;
  const partition = soft.createPartition({ architecture: "x86_64", cpus: 1, memory: size, epoch: monotonicNow() });
  const memory = partition.allocateMemory(size);
  const bytes = new Uint8Array(memory.buffer, memory.byteOffset, size);
  for (const piece of guest.pieces ?? []) bytes.set(piece.bytes, piece.address);
  const megabyte = 2 ** 20;
  if (rom.length > 0) {
    bytes.set(rom, guest.ram);
    partition.mapMemory({ guestAddress: 2 ** 32 - rom.length, offset: guest.ram, size: rom.length, readonly: true });
    partition.mapMemory({ guestAddress: megabyte - rom.length, offset: guest.ram, size: rom.length, readonly: true });
    partition.mapMemory({ guestAddress: 0, offset: 0, size: megabyte - rom.length });
    if (guest.ram > megabyte) {
      partition.mapMemory({ guestAddress: megabyte, offset: megabyte, size: guest.ram - megabyte });
    }
  } else partition.mapMemory({ guestAddress: 0, offset: 0, size: guest.ram });
  const controllers = RegisterFile.allocate();
  for (const apic of buildControllers(partition, 1, controllers, -1).apics) apic.reset();
  const shared = new SharedArrayBuffer(Word.WORDS * 4);
  const worker = new Worker(new URL("./bare_worker.ts", import.meta.url), { type: "module" });
  const timer = setTimeout(() => {
    Atomics.store(new Int32Array(shared), Word.STOP, 1);
    partition.interruptVcpu(0);
  }, guest.timeout);
  try {
    return await new Promise<BareResult>((resolve, reject) => {
      worker.onmessage = ({ data }: MessageEvent<BareResult>) => resolve(data);
      worker.onerror = (event) => {
        event.preventDefault();
        reject(new Error(event.message));
      };
      const request: BareRequest = {
        handle: partition.handle(),
        controllers,
        shared,
        state: guest.state ?? null,
        firmwareItems: guest.firmwareItems ?? {},
      };
      worker.postMessage(request);
    });
  } finally {
    clearTimeout(timer);
    worker.terminate();
    partition.close();
  }
}
