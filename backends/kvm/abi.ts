/**
 * The C side of the KVM backend: libc's symbols, ioctl numbers and struct layouts that all of Linux' architectures
 * share. x86's own stand in `x64_abi.ts`. `abi_test.ts` compares every number with the C compiler's.
 */

const SYMBOLS = {
  // fcntl.h
  open: { parameters: ["buffer", "i32"], result: "i32" },
  // unistd.h: what is read and written here is small, so the low half of ssize_t says it all.
  close: { parameters: ["i32"], result: "i32" },
  read: { parameters: ["i32", "buffer", "usize"], result: "i32" },
  write: { parameters: ["i32", "buffer", "usize"], result: "i32" },
  // sys/ioctl.h: variadic; on Linux x86-64 and arm64 its arguments travel as those of a plain function do.
  ioctl: { parameters: ["i32", "u32", "i32"], result: "i32" },
  ioctlLong: { name: "ioctl", parameters: ["i32", "u32", "usize"], result: "i32" },
  ioctlBuffer: { name: "ioctl", parameters: ["i32", "u32", "buffer"], result: "i32" },
  // sys/mman.h
  mmap: { parameters: ["usize", "usize", "i32", "i32", "i32", "i64"], result: "usize" },
  munmap: { parameters: ["usize", "usize"], result: "i32" },
  madvise: { parameters: ["usize", "usize", "i32"], result: "i32" },
  // sys/eventfd.h
  eventfd: { parameters: ["u32", "i32"], result: "i32" },
  // poll.h
  ppoll: { parameters: ["buffer", "usize", "buffer", "pointer"], result: "i32" },
  // signal.h
  sigaction: { parameters: ["i32", "buffer", "pointer"], result: "i32" },
  gettid: { parameters: [], result: "i32" },
  tgkill: { parameters: ["i32", "i32", "i32"], result: "i32" },
  // errno.h
  __errno_location: { parameters: [], result: "pointer" },
  // string.h
  strerror: { parameters: ["i32"], result: "pointer" },
} as const satisfies Deno.ForeignLibraryInterface;

/** libc as this backend calls it. */
export type LibC = Deno.DynamicLibrary<typeof SYMBOLS>["symbols"];

let symbols: LibC | null = null;
// Made before the first call that may fail: making it would overwrite what that call left there.
let errnoView: Int32Array;

/** libc, opened once in each Worker. Throws where there is no glibc. */
export function libc(): LibC {
  if (symbols === null) {
    symbols = Deno.dlopen("libc.so.6", SYMBOLS).symbols;
    // The address is the thread's own, and an isolate stays on its thread.
    errnoView = new Int32Array(Deno.UnsafePointerView.getArrayBuffer(symbols.__errno_location()!, 4));
  }
  return symbols;
}

/** This thread's errno, right after a call that failed. Deno does not capture it; nothing may come in between. */
export function errno(): number {
  return errnoView[0];
}

/** Throws with errno in words when a call's result is negative; returns the result otherwise. */
export function check(result: number, what: string): number {
  if (result >= 0) return result;
  throw systemError(errno(), what);
}

/** An Error for an errno. */
export function systemError(code: number, what: string): Error {
  const words = Deno.UnsafePointerView.getCString(libc().strerror(code)!);
  return Object.assign(new Error(`${what}: ${words}`), { errno: code });
}

/** A path as C wants it. */
export function cString(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(text + "\0");
}

/** The address of a buffer, for structs that hold pointers; the caller keeps the buffer alive during the call. */
export function addressOf(buffer: ArrayBufferView<ArrayBuffer>): bigint {
  return BigInt(Deno.UnsafePointer.value(Deno.UnsafePointer.of(buffer)));
}

/** errno.h, asm-generic/errno-base.h */
export const Errno = {
  EPERM: 1,
  ENOENT: 2,
  ESRCH: 3,
  EINTR: 4,
  E2BIG: 7,
  ENXIO: 6,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EFAULT: 14,
  EBUSY: 16,
  EEXIST: 17,
  ENODEV: 19,
  EINVAL: 22,
  ENOTTY: 25,
} as const;

/** fcntl.h, sys/mman.h, sys/eventfd.h, poll.h, signal.h */
export const C = {
  O_RDWR: 2,
  O_CLOEXEC: 0x80000,
  PROT_READ: 1,
  PROT_WRITE: 2,
  MAP_SHARED: 1,
  MAP_PRIVATE: 2,
  MAP_ANONYMOUS: 0x20,
  MAP_NORESERVE: 0x4000,
  MADV_DONTNEED: 4,
  MADV_HUGEPAGE: 14,
  MADV_DONTDUMP: 16,
  EFD_CLOEXEC: 0x80000,
  EFD_NONBLOCK: 0x800,
  POLLIN: 1,
  SA_RESTART: 0x10000000,
  SA_ONSTACK: 0x08000000,
} as const;

/** signal.h */
export const SigAction = { sa_handler: 0, sa_mask: 8, sa_flags: 136, sizeof: 152 } as const;

/** The address of a function of libc. */
export function libcAddress(name: string): bigint {
  const symbol = { dlsym: { parameters: ["pointer", "buffer"], result: "usize" } } as const;
  // dlfcn.h; RTLD_DEFAULT is null. Before glibc 2.34 it stands in a library of its own.
  for (const library of ["libc.so.6", "libdl.so.2"]) {
    try {
      const address = Deno.dlopen(library, symbol).symbols.dlsym(null, cString(name));
      if (address !== 0n) return address;
    } catch {
      // The other one has it.
    }
  }
  throw new Error(`libc has no ${name}`);
}

/** linux/kvm.h: ioctls and constants, without their prefix `KVM_`. */
export const Kvm = {
  API_VERSION: 12,
  GET_API_VERSION: 0xae00,
  CREATE_VM: 0xae01,
  CHECK_EXTENSION: 0xae03,
  GET_VCPU_MMAP_SIZE: 0xae04,
  CREATE_VCPU: 0xae41,
  GET_DIRTY_LOG: 0x4010ae42,
  SET_USER_MEMORY_REGION: 0x4020ae46,
  IRQ_LINE: 0x4008ae61,
  SET_GSI_ROUTING: 0x4008ae6a,
  IRQFD: 0x4020ae76,
  IOEVENTFD: 0x4040ae79,
  SIGNAL_MSI: 0x4020aea5,
  RUN: 0xae80,
  SET_GUEST_DEBUG: 0x4048ae9b,
  ENABLE_CAP: 0x4068aea3,
  GET_MP_STATE: 0x8004ae98,
  SET_MP_STATE: 0x4004ae99,

  CAP_NR_VCPUS: 9,
  CAP_IRQ_ROUTING: 25,
  CAP_IRQFD: 32,
  CAP_IOEVENTFD: 36,
  CAP_MAX_VCPUS: 66,
  CAP_SIGNAL_MSI: 77,
  CAP_READONLY_MEM: 81,
  CAP_IOEVENTFD_NO_LENGTH: 100,
  CAP_IOEVENTFD_ANY_LENGTH: 122,
  CAP_IMMEDIATE_EXIT: 136,

  MEM_LOG_DIRTY_PAGES: 1,
  MEM_READONLY: 2,
  IOEVENTFD_FLAG_DATAMATCH: 1,
  IOEVENTFD_FLAG_DEASSIGN: 4,
  IRQFD_FLAG_DEASSIGN: 1,
  IRQ_ROUTING_IRQCHIP: 1,
  IRQ_ROUTING_MSI: 2,

  EXIT_UNKNOWN: 0,
  EXIT_EXCEPTION: 1,
  EXIT_IO: 2,
  EXIT_HYPERCALL: 3,
  EXIT_DEBUG: 4,
  EXIT_HLT: 5,
  EXIT_MMIO: 6,
  EXIT_IRQ_WINDOW_OPEN: 7,
  EXIT_SHUTDOWN: 8,
  EXIT_FAIL_ENTRY: 9,
  EXIT_INTR: 10,
  EXIT_SET_TPR: 11,
  EXIT_INTERNAL_ERROR: 17,
  EXIT_SYSTEM_EVENT: 24,
  EXIT_X86_RDMSR: 29,
  EXIT_X86_WRMSR: 30,
  EXIT_IO_IN: 0,
  EXIT_IO_OUT: 1,

  INTERNAL_ERROR_EMULATION: 1,
  INTERNAL_ERROR_SIMUL_EX: 2,
  INTERNAL_ERROR_DELIVERY_EV: 3,
  INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: 4,
  INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES: 1,

  SYSTEM_EVENT_SHUTDOWN: 1,
  SYSTEM_EVENT_RESET: 2,
  SYSTEM_EVENT_CRASH: 3,

  MP_STATE_RUNNABLE: 0,
  MP_STATE_UNINITIALIZED: 1,
  MP_STATE_INIT_RECEIVED: 2,
  MP_STATE_HALTED: 3,
  MP_STATE_SIPI_RECEIVED: 4,

  GUESTDBG_ENABLE: 1,
  GUESTDBG_SINGLESTEP: 2,
  GUESTDBG_USE_HW_BP: 0x20000,
} as const;

/** linux/kvm.h: offsets of fields, and `sizeof`, by struct. */
export const KvmStruct = {
  kvm_run: {
    immediate_exit: 1,
    exit_reason: 8,
    "hw.hardware_exit_reason": 32,
    "fail_entry.hardware_entry_failure_reason": 32,
    "fail_entry.cpu": 40,
    "mmio.phys_addr": 32,
    "mmio.data": 40,
    "mmio.len": 48,
    "mmio.is_write": 52,
    "internal.suberror": 32,
    "internal.ndata": 36,
    "internal.data": 40,
    "emulation_failure.flags": 40,
    "emulation_failure.insn_size": 48,
    "emulation_failure.insn_bytes": 49,
    "system_event.type": 32,
  },
  kvm_userspace_memory_region: {
    slot: 0,
    flags: 4,
    guest_phys_addr: 8,
    memory_size: 16,
    userspace_addr: 24,
    sizeof: 32,
  },
  kvm_dirty_log: { slot: 0, dirty_bitmap: 8, sizeof: 16 },
  kvm_irq_level: { irq: 0, level: 4, sizeof: 8 },
  kvm_msi: { address_lo: 0, address_hi: 4, data: 8, flags: 12, sizeof: 32 },
  kvm_irq_routing: { nr: 0, flags: 4, entries: 8 },
  kvm_irq_routing_entry: {
    gsi: 0,
    type: 4,
    "u.irqchip.irqchip": 16,
    "u.irqchip.pin": 20,
    "u.msi.address_lo": 16,
    "u.msi.address_hi": 20,
    "u.msi.data": 24,
    sizeof: 48,
  },
  kvm_irqfd: { fd: 0, gsi: 4, flags: 8, sizeof: 32 },
  kvm_ioeventfd: { datamatch: 0, addr: 8, len: 16, fd: 20, flags: 24, sizeof: 64 },
  kvm_enable_cap: { cap: 0, flags: 4, args: 8, sizeof: 104 },
  kvm_mp_state: { mp_state: 0, sizeof: 4 },
  kvm_guest_debug: { control: 0, arch: 8, sizeof: 72 },
} as const;
