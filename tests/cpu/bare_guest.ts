/** Guests without an operating system, on one vCPU of the software CPU. */
import { monotonicNow } from "../../core/clock.ts";
import type { BusDevice } from "../../core/device.ts";
import { RegisterFile } from "../../core/registers.ts";
import { soft } from "../../backends/soft/hypervisor.ts";
import { buildControllers } from "../conformance/controllers.ts";
import { type BareRequest, type BareResult, Word } from "./bare_protocol.ts";

/** Offsets in the local APIC's page (SDM vol. 3, table 11-1). */
const SPURIOUS = 0xf0, LVT_LINT0 = 0x350;

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
  /** The 8259s as a PC's BIOS leaves them: vectors 08h and 70h; here with inputs 8 to 15 open, and no timer. */
  biosInterrupts?: boolean;
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
  const { apics: [apic], pic } = buildControllers(partition, 1, controllers, -1);
  apic.reset();
  if (guest.biosInterrupts) {
    // ICW1 to ICW4: edges, vectors, cascade, 8086; then the masks. The APIC is on, and LINT0 takes what they deliver (ExtINT).
    const words: [BusDevice, number, number, number, number][] = [
      [pic.primary, 0x08, 0x04, 0x01, 0xfb],
      [pic.secondary, 0x70, 0x02, 0x01, 0x00],
    ];
    for (const [chip, ...data] of words) {
      chip.write(0, 1, 0x11);
      for (const value of data) chip.write(1, 1, value);
    }
    apic.write(SPURIOUS, 4, 0x1ff);
    apic.write(LVT_LINT0, 4, 0x700);
  }
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
