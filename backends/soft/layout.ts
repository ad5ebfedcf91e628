/**
 * Where everything lies in the one shared memory: control words, physical page attributes, a block per vCPU (state,
 * TLBs, decoded blocks), then guest RAM, unless that is so large that it needs a memory of its own. Offsets in bytes.
 *
 * The base of a vCPU's block is a constant in its generated code: a load of a register is one host instruction.
 */

/** Fields of the shared control page at address {@link SHARED}. */
export const SHARED = 64;
export const Shared = {
  /** i32: index + 1 of the vCPU that runs alone (mailbox.ts), or 0. */
  ALONE: SHARED,
  /** u32: number of {@link Shared.REGIONS}. */
  REGION_COUNT: SHARED + 4,
  /** i32: raised whenever the regions change. */
  REGION_GENERATION: SHARED + 8,
  /** i32: runs of a block before the JIT compiles it; 0: its default, -1: never. */
  JIT_THRESHOLD: SHARED + 12,
  /** f64: milliseconds (performance.timeOrigin + now) at which the TSC read 0. */
  EPOCH: SHARED + 16,
  /** i32 each, for tests: see test_mode.ts. */
  BUDGET: SHARED + 24,
  FLUSH: SHARED + 28,
  LOCKSTEP: SHARED + 32,
  /** Regions of guest memory: u64 guest address, u64 bytes, u64 address in this memory, u32 read-only, u32 0. */
  REGIONS: SHARED + 64,
  REGION_BYTES: 32,
  MAXIMUM_REGIONS: 32,
  /** f64: {@link import("./test_mode.ts").LockstepCounts}. */
  LOCKSTEP_COUNTS: SHARED + 64 + 32 * 32,
  /** i64: the latest TSC that any vCPU has read, before TSC_OFFSET. All store to it: it has a line of the cache to itself. */
  LATEST_TSC: SHARED + 64 + 32 * 32 + 64,
} as const;

/** Bits of a physical page's attribute byte; the bytes are indexed by (address in this memory - RAM) / 4096. */
export const PageAttribute = {
  /** Some vCPU holds decoded instructions of this page: stores to it take the slow path. */
  HAS_CODE: 1,
  /** Stored to since {@link import("../../core/hypervisor.ts").DirtyPages.take}. */
  DIRTY: 2,
} as const;

/** Numbers of general registers, as in ModR/M. */
export const Reg = { AX: 0, CX: 1, DX: 2, BX: 3, SP: 4, BP: 5, SI: 6, DI: 7, ZERO: 16, RIP: 17, EA: 18 } as const;

/** Numbers of segment registers, as in ModR/M; LDTR and TR follow. */
export const Seg = { ES: 0, CS: 1, SS: 2, DS: 3, FS: 4, GS: 5, LDTR: 6, TR: 7 } as const;

/** Fields of a segment in the state. */
export const Segment = {
  BYTES: 32,
  SELECTOR: 0, // i32
  /** i32: VMCS access rights: 0-3 type, 4 S, 5-6 DPL, 7 P, 12 AVL, 13 L, 14 D/B, 15 G; 16 unusable. */
  ATTRIBUTES: 4,
  /** u32 in bytes. */
  LIMIT: 8,
  BASE: 16, // i64
} as const;

/** Byte offsets in a vCPU's state. */
export const State = {
  /** 16 general registers; then a zero, the RIP of the block being run, an effective address, for memory operands. */
  GPR: 0,
  RIP: 136,
  EA: 144,
  /** Lazy flags: see flags.ts. */
  FLAG_KIND: 160, // i32
  FLAG_A: 168,
  FLAG_B: 176,
  FLAG_RESULT: 184,
  /** i32: RFLAGS without CF PF AF ZF SF OF. */
  RFLAGS: 192,
  CPL: 196, // i32
  /** Address of the data TLB of the present privilege. */
  TLB: 200,
  /** Address of the instruction TLB of the present privilege. */
  INSTRUCTION_TLB: 208,
  /** i64: what a block's key holds above the physical address. */
  MODE_KEY: 216,
  /** i64: what is added to RIP, and the mask of the sum: CS base and 32 bits outside 64-bit mode. */
  CODE_BASE: 224,
  CODE_MASK: 232,
  /** i32: 0 none, 1 exception (VECTOR, ERROR), 2 leave to JavaScript with EXIT, 3 run one instruction in the interpreter. */
  FAULT: 240,
  VECTOR: 244, // i32
  /** i32: error code, or -1 when the exception has none. */
  ERROR: 248,
  EXIT: 252, // i32
  /** i32: not 0: leave the Wasm function at the next block; set by any thread. */
  ATTENTION: 256,
  /** i32: instruction boundaries until interrupts may come (after STI, MOV SS). */
  SHADOW: 260,
  /** i32: 1 while an interrupt waits for IF. */
  INTERRUPT_WINDOW: 264,
  ACTIVITY: 268, // i32, as X64.ACTIVITY
  SEGMENTS: 288,
  GDTR_BASE: 544,
  IDTR_BASE: 552,
  GDTR_LIMIT: 560, // u32
  IDTR_LIMIT: 564, // u32
  CR0: 568,
  CR2: 576,
  CR3: 584,
  CR4: 592,
  EFER: 600,
  XCR0: 608,
  DR: 616, // dr0-3, dr6, dr7
  STAR: 664,
  LSTAR: 672,
  CSTAR: 680,
  SFMASK: 688,
  KERNEL_GS_BASE: 696,
  SYSENTER_CS: 704,
  SYSENTER_ESP: 712,
  SYSENTER_EIP: 720,
  PAT: 728,
  TSC_AUX: 736,
  MISC_ENABLE: 744,
  TSC_OFFSET: 752,
  APIC_BASE: 760,
  /** i64: instructions run. */
  COUNT: 768,
  NMI_MASKED: 776, // i32
  NMI_PENDING: 780, // i32
  /** i32: instructions left of this call's budget, when it returned. */
  BUDGET: 784,
  /** i32: set by every delivery of an exception (to its vector + 1) or interrupt (to 1). */
  DELIVERED: 788,
  /** i32: 1 when the access that leaves is all that an IN or OUT has left to do; PORT_NEXT is what follows it. */
  PORT_ONLY: 792,
  /** i32: the block to compile, for EXIT_HOT. */
  HOT_BLOCK: 796,
  /** i64: linear address of a fetch that faulted or needs decoding; physical address of it. */
  FETCH_LINEAR: 808,
  FETCH_PHYSICAL: 816,
  /** i64: RIP behind an IN or OUT. */
  PORT_NEXT: 824,
  /** An access that leaves run(): see external.ts. */
  LOG_FILLED: 832, // i32: accesses of this instruction that are answered
  LOG_INDEX: 836, // i32: next access
  LOG: 848, // entries of 32 bytes: i64 address, i32 bytes, i32 kind, 16 bytes of data
  LOG_ENTRY: 32,
  LOG_ENTRIES: 40,
  /** Scratch of 64 bytes for wide slow accesses. */
  SCRATCH: 2144,
  /** 16 XMM registers. */
  XMM: 2304,
  /** 8 x87 registers by physical number, 16 bytes each: 64-bit significand, 16-bit sign and exponent. */
  X87: 2560,
  MXCSR: 2688, // u32
  FCW: 2692, // u16
  FSW: 2694, // u16, TOP included
  /** u16: two bits a register by physical number, as the full tag word. */
  FTW: 2696,
  FOP: 2698, // u16
  FIP: 2704, // i64
  FDP: 2712, // i64
  /** i64: address of the INT being delivered: where an exception in its delivery counts from. */
  INTERRUPT_RIP: 2720,
  /** Where the 80-bit functions leave their results, 16 bytes; flags of the SSE operation under way (u32). */
  FPU_OUT: 2736,
  SSE_FLAGS: 2752,
  /** u32: 4000_0000h while MXCSR leaves SSE's plain operations right, else 0; goes with every change of MXCSR. */
  SSE_PLAIN: 2756,
  /** Two 80-bit operands for JavaScript, 16 bytes each. */
  FPU_OPERANDS: 2768,
  /** i32: 1 while data breakpoints are armed: accesses take the slow path, which notes DR6's bits in WATCH_HITS. */
  WATCH: 2800,
  WATCH_HITS: 2804, // i32
  /** u32: entries the data TLB got since it was emptied, and where they are (addresses) for the first of them. */
  TLB_FILLS: 2808,
  TLB_FILLED: 2816, // address each
  TLB_FILLS_KNOWN: 128,
  /** i32: 1 while an exception or interrupt is delivered. */
  DELIVERING: 3840,
  /** u32: the link of what has none of its own. */
  NO_LINK: 3844,
  /** i32: 1 when the exception is #GP for an address that is not canonical: #SS if it was reached through SS. */
  NOT_CANONICAL: 3848,
  /**
   * For each privilege (0: not user, 1: user) the base (i64) and limit (u32) of the code segment that its instruction TLB
   * was filled under, and whether they are not those of any segment without a limit (i32).
   */
  CODE_LIMITS: 3856, // 16 bytes each
  SPEC_CTRL: 3888,
  /** i32: 1 while memory is that of the sandbox: see jit/lockstep.ts. */
  SANDBOX: 3896,
  /** i32: 1 while the other vCPUs are stopped. */
  ALONE: 3900,
  BYTES: 4096,
} as const;

/** Data TLB: reads, then writes; entries of 16 bytes: i64 tag (page address, -1 invalid), address addend. */
export const Tlb = {
  ENTRIES: 1024,
  ENTRY: 16,
  TAG: 0,
  ADDEND: 8,
  /** From a read entry to the write entry of the same index. */
  WRITE: 1024 * 16,
  /** One privilege's reads and writes. */
  BYTES: 2 * 1024 * 16,
  /** Privileges: 0 supervisor under SMAP, 1 user, 2 supervisor that may touch user pages. */
  PRIVILEGES: 3,
} as const;

/** Instruction TLB: entries of 16 bytes: i64 tag, i64 physical page address. */
export const InstructionTlb = { ENTRIES: 256, ENTRY: 16, BYTES: 256 * 16, PRIVILEGES: 2 } as const;

/**
 * Hash table of decoded blocks: entries of 16 bytes, i64 key (0: empty), u32 address of the block. A set is a line of the
 * host's cache and holds the blocks of {@link BlockTable.CODE} bytes of code: what runs together lies together. The
 * other set of a pair takes what finds no room.
 */
export const BlockTable = { SETS: 131072, WAYS: 4, ENTRY: 16, SET: 64, CODE: 32, BYTES: 131072 * 64 } as const;

/** A decoded block: a header, then its micro-ops. Addresses of blocks have 32 bits and are multiples of 8. */
export const Block = {
  /** i64: physical page that a block with CROSSING ends in; other blocks lack it. */
  SECOND_PAGE: -8,
  INSTRUCTIONS: 0, // u16
  MICRO_OPS: 2, // u16
  /** i32: runs left until it is worth compiling. */
  HEAT: 4,
  /** i64: its key; 0 when the block is forgotten. */
  KEY: 8,
  /** u32: {@link Op.LINK} of the region that stands for the block. */
  LINK: 16,
  /** i32: 1 when an instruction reaches into the next page: the translation is checked at each entry. */
  CROSSING: 20,
  OPS: 24,
} as const;

/** A micro-op, 24 bytes. */
export const Op = {
  HANDLER: 0, // u16
  /** u16: offset of the instruction in its block. */
  OFFSET: 2,
  /** u8 each: byte offsets in the register file (general registers, or XMM number * 16). */
  R0: 4,
  R1: 5,
  R2: 6,
  /** u8: small operand of the handler's own. */
  AUX: 7,
  BASE: 8,
  INDEX: 9,
  SCALE: 10,
  LENGTH: 11,
  DISPLACEMENT: 12, // i32
  IMMEDIATE: 16, // i64
  BYTES: 24,
  /**
   * u32: where control went the last time that the micro-op ended its block: an address of a block, whose bit 0 says that
   * it must be compared with what RIP translates to. Without that bit it lies in the same page, and is forgotten
   * together with the block. The fields of an instruction with a relative target, and of others.
   */
  LINK: 4,
  LINK_NEXT: 12,
  LINK_ANY: 16,
} as const;

const TLB = 4096;
const INSTRUCTION_TLB = TLB + Tlb.PRIVILEGES * Tlb.BYTES;
const BLOCK_TABLE = INSTRUCTION_TLB + InstructionTlb.PRIVILEGES * InstructionTlb.BYTES;
const BLOCKS = BLOCK_TABLE + BlockTable.BYTES;
const BLOCKS_BYTES = 48 << 20;

/** Areas of a vCPU's block, offsets from its base. */
export const CpuArea = {
  STATE: 0,
  TLB,
  INSTRUCTION_TLB,
  BLOCK_TABLE,
  BLOCKS,
  BLOCKS_BYTES,
  /** What a region's loop knows of the pages it touched last: {@link LastPages}. */
  LAST_PAGES: BLOCKS + BLOCKS_BYTES,
} as const;

/** For each general register reads, then writes, as entries of {@link Tlb}; valid while one region runs. */
export const LastPages = { ENTRY: 16, WRITE: 16 * 16, BYTES: 2 * 16 * 16 } as const;

/** Bytes of a vCPU's block. */
export const CPU_BYTES = (CpuArea.LAST_PAGES + LastPages.BYTES + 0xffff) & ~0xffff;

/** Where things are for a partition of so many vCPUs and so much RAM. */
export interface Layout {
  cpus: number;
  ram: number;
  pageAttributes: number;
  /** i64 a page: hash of its content when it became code. */
  pageHashes: number;
  cpuBase: (index: number) => number;
  ramBase: number;
  /** Bytes of the memory. */
  total: number;
  memory64: boolean;
  /** Bytes of the memory that guest RAM has to itself, or 0: it lies in the one memory. */
  separateRam: number;
  /** Where regions are run for comparison, or 0: see test_mode.ts. */
  sandbox: number;
}

/** The memories of a partition; one and the same where RAM is not separate. */
export interface Memories {
  readonly own: WebAssembly.Memory;
  readonly ram: WebAssembly.Memory;
}

/** Bytes in whole pages of a WebAssembly.Memory. */
export function inWasmPages(bytes: number): number {
  return Math.ceil(bytes / 65536) * 65536;
}

/** Most bytes of a 64-bit memory (V8: kV8MaxWasmMemory64Pages). */
export const MAXIMUM_MEMORY = 16 * 2 ** 30;

/**
 * Computes the layout.
 * @param limit a memory of more bytes than this is made two: all else, and guest RAM
 */
export function layoutFor(cpus: number, ram: number, limit = MAXIMUM_MEMORY): Layout {
  const pageAttributes = 0x10000;
  const pageHashes = (pageAttributes + ram / 4096 + 0xffff) & ~0xffff;
  const first = (pageHashes + (ram / 4096) * 8 + 0xffff) & ~0xffff;
  const end = first + cpus * CPU_BYTES;
  const ramBytes = inWasmPages(ram);
  const separate = end + ramBytes > limit;
  const total = separate ? end : end + ramBytes;
  return {
    cpus,
    ram,
    pageAttributes,
    pageHashes,
    cpuBase: (index) => first + index * CPU_BYTES,
    ramBase: separate ? 0 : end,
    total,
    memory64: separate || total > 0xffff_0000,
    separateRam: separate ? ramBytes : 0,
    sandbox: 0,
  };
}
