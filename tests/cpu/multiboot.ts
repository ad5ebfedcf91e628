/** Loads ELF32 images as a Multiboot 1 boot loader does (Multiboot Specification 0.6.96). */
import { X64 } from "../../core/x64_state.ts";
import { startState } from "../conformance/guest.ts";

/** Where the boot information stands. */
const INFORMATION = 0x600;
const COMMAND_LINE = 0x680;
/** What EAX holds (section 3.2). */
const MAGIC = 0x2bad_b002;

export interface Multiboot {
  pieces: { address: number; bytes: Uint8Array }[];
  state: ArrayBuffer;
}

/** The pieces of an image and the state in which it is entered. */
export function loadMultiboot(image: Uint8Array, commandLine: string, memory: number): Multiboot {
  const view = new DataView(image.buffer, image.byteOffset, image.byteLength);
  if (view.getUint32(0) !== 0x7f45_4c46 || image[4] !== 1) throw new Error("not an ELF32 image");
  const pieces: Multiboot["pieces"] = [];
  const table = view.getUint32(28, true);
  const size = view.getUint16(42, true);
  for (let i = 0; i < view.getUint16(44, true); i++) {
    const at = table + i * size;
    if (view.getUint32(at, true) !== 1) continue; // PT_LOAD
    const from = view.getUint32(at + 4, true);
    const length = view.getUint32(at + 16, true);
    pieces.push({ address: view.getUint32(at + 12, true), bytes: image.subarray(from, from + length) });
  }
  const information = new DataView(new ArrayBuffer(64));
  information.setUint32(0, 0x5, true); // memory, command line
  information.setUint32(4, 640, true);
  information.setUint32(8, memory / 1024 - 1024, true);
  information.setUint32(16, COMMAND_LINE, true);
  pieces.push({ address: INFORMATION, bytes: new Uint8Array(information.buffer) });
  pieces.push({ address: COMMAND_LINE, bytes: new TextEncoder().encode(`${commandLine}\0`) });
  const state = startState(32);
  const registers = new DataView(state);
  registers.setBigUint64(X64.GPR, BigInt(MAGIC), true);
  registers.setBigUint64(X64.GPR + 3 * 8, BigInt(INFORMATION), true);
  registers.setBigUint64(X64.RIP, BigInt(view.getUint32(24, true)), true);
  registers.setBigUint64(X64.CR4, 0n, true);
  registers.setBigUint64(X64.CR0, 0x11n, true);
  return { pieces, state };
}
