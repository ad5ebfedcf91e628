/**
 * FPU and vector state. WHPX hands it out in the compacted form of XSAVE (Intel SDM vol. 1, 13.4.3); the portable state
 * has the standard form (13.4.2).
 */
import { Capability, check, platform } from "./abi.ts";

/** The legacy area and the header (SDM vol. 1, 13.4.1 and 13.4.2), the same in both forms. */
const EXTENDED = 576;
const XSTATE_BV = 512;
const XCOMP_BV = 520;
const COMPACTED = 1n << 63n;
const MOST = 16384;
/** AMX tile data: its place in the compacted form is a multiple of 64, and it does not fit the portable state. */
const TILE_DATA = 18;

/** Bytes of each component, by its bit (SDM vol. 1, 13.5), where CPUs agree. */
const SIZES: Record<number, number> = {
  2: 256, // AVX
  3: 64, // BNDREGS
  4: 64, // BNDCSR
  5: 64, // opmask
  6: 512, // ZMM_Hi256
  7: 1024, // Hi16_ZMM
  8: 128, // processor trace
  9: 8, // PKRU
  10: 8, // PASID
  11: 16, // CET user
  12: 24, // CET supervisor
  13: 8, // HDC
  14: 48, // user interrupts
  15: 808, // last branch records
  16: 8, // HWP
  17: 64, // AMX tile configuration
  18: 8192,
};

/** Where user components stand in the standard form: CPUID leaf 0Dh of Intel's CPUs, and of AMD's, which have no MPX. */
const INTEL: Record<number, number> = { 2: 576, 3: 960, 4: 1024, 5: 1088, 6: 1152, 7: 1664, 9: 2688 };
const AMD: Record<number, number> = { 2: 576, 5: 832, 6: 896, 7: 1408, 9: 2432 };

interface Component {
  bit: bigint;
  compacted: number;
  /** -1: the portable state has no place for it. */
  standard: number;
  size: number;
}

/** Moves one vCPU's. */
export class XsaveArea {
  private readonly partition: Deno.PointerValue;
  private readonly index: number;
  private readonly buffer = new Uint8Array(MOST);
  private readonly view = new DataView(this.buffer.buffer);
  private readonly form: bigint;
  private readonly size: number;
  private readonly components: Component[] = [];

  constructor(partition: Deno.PointerValue, index: number) {
    this.partition = partition;
    this.index = index;
    this.size = this.read();
    this.form = this.view.getBigUint64(XCOMP_BV, true);
    const vendor = new Uint32Array(2);
    const known = platform().WHvGetCapability(Capability.ProcessorVendor, vendor, 4, new Uint32Array(1)) >= 0;
    const standard = known && vendor[0] === 1 ? INTEL : AMD;
    let at = EXTENDED;
    for (let i = 2; i <= TILE_DATA; i++) {
      const bit = 1n << BigInt(i);
      if ((this.form & bit) === 0n) continue;
      if (i >= 17) at = (at + 63) & ~63;
      this.components.push({ bit, compacted: at, standard: standard[i] ?? -1, size: SIZES[i] });
      at += SIZES[i];
    }
  }

  /** @param area standard form, zeroed before */
  get(area: Uint8Array): void {
    this.read();
    const { buffer, view } = this;
    area.set(buffer.subarray(0, XCOMP_BV));
    if ((this.form & COMPACTED) === 0n) {
      area.set(buffer.subarray(0, Math.min(this.size, area.length)));
      return;
    }
    const present = view.getBigUint64(XSTATE_BV, true);
    let kept = present & 3n;
    for (const { bit, compacted, standard, size } of this.components) {
      if ((present & bit) === 0n || standard < 0) continue;
      area.set(buffer.subarray(compacted, compacted + size), standard);
      kept |= bit;
    }
    new DataView(area.buffer, area.byteOffset).setBigUint64(XSTATE_BV, kept, true);
  }

  /** @param area standard form; what it does not name goes back to its initial state */
  set(area: Uint8Array): void {
    const { buffer, view } = this;
    buffer.fill(0);
    const present = new DataView(area.buffer, area.byteOffset).getBigUint64(XSTATE_BV, true);
    if ((this.form & COMPACTED) === 0n) buffer.set(area.subarray(0, Math.min(this.size, area.length)));
    else {
      buffer.set(area.subarray(0, XSTATE_BV));
      let kept = present & 3n;
      for (const { bit, compacted, standard, size } of this.components) {
        if ((present & bit) === 0n || standard < 0) continue;
        buffer.set(area.subarray(standard, standard + size), compacted);
        kept |= bit;
      }
      view.setBigUint64(XSTATE_BV, kept, true);
      view.setBigUint64(XCOMP_BV, this.form, true);
    }
    check(
      platform().WHvSetVirtualProcessorXsaveState(this.partition, this.index, buffer, this.size),
      "setting FPU state",
    );
  }

  private read(): number {
    const written = new Uint32Array(1);
    check(
      platform().WHvGetVirtualProcessorXsaveState(this.partition, this.index, this.buffer, MOST, written),
      "reading FPU state",
    );
    return written[0];
  }
}
