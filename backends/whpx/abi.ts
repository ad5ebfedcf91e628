/**
 * The C side of the WHPX backend: the functions of WinHvPlatform.dll and kernel32.dll it calls, the numbers it gives
 * them and the layouts it reads. Names are those of winhvplatform.h, winhvplatformdefs.h (without their prefixes) and
 * memoryapi.h; `abi_test.ts` compares every one with mingw-w64's headers and import library.
 */
import { HvError } from "../../core/errors.ts";

const PLATFORM_SYMBOLS = {
  WHvGetCapability: { parameters: ["u32", "buffer", "u32", "buffer"], result: "i32" },
  WHvCreatePartition: { parameters: ["buffer"], result: "i32" },
  WHvSetPartitionProperty: { parameters: ["pointer", "u32", "buffer", "u32"], result: "i32" },
  WHvSetupPartition: { parameters: ["pointer"], result: "i32" },
  WHvDeletePartition: { parameters: ["pointer"], result: "i32" },
  WHvMapGpaRange: { parameters: ["pointer", "pointer", "u64", "u64", "u32"], result: "i32" },
  WHvUnmapGpaRange: { parameters: ["pointer", "u64", "u64"], result: "i32" },
  WHvTranslateGva: { parameters: ["pointer", "u32", "u64", "u32", "pointer", "pointer"], result: "i32" },
  WHvCreateVirtualProcessor: { parameters: ["pointer", "u32", "u32"], result: "i32" },
  WHvDeleteVirtualProcessor: { parameters: ["pointer", "u32"], result: "i32" },
  WHvRunVirtualProcessor: { parameters: ["pointer", "u32", "pointer", "u32"], result: "i32" },
  WHvCancelRunVirtualProcessor: { parameters: ["pointer", "u32", "u32"], result: "i32" },
  WHvGetVirtualProcessorRegisters: { parameters: ["pointer", "u32", "pointer", "u32", "pointer"], result: "i32" },
  WHvSetVirtualProcessorRegisters: { parameters: ["pointer", "u32", "pointer", "u32", "pointer"], result: "i32" },
  WHvGetVirtualProcessorXsaveState: { parameters: ["pointer", "u32", "buffer", "u32", "buffer"], result: "i32" },
  WHvSetVirtualProcessorXsaveState: { parameters: ["pointer", "u32", "buffer", "u32"], result: "i32" },
  WHvRequestInterrupt: { parameters: ["pointer", "pointer", "u32"], result: "i32" },
  WHvQueryGpaRangeDirtyBitmap: { parameters: ["pointer", "u64", "u64", "buffer", "u32"], result: "i32" },
  // Windows 10 2004 and newer.
  WHvGetVirtualProcessorInterruptControllerState2: {
    parameters: ["pointer", "u32", "buffer", "u32", "buffer"],
    result: "i32",
    optional: true,
  },
  WHvSetVirtualProcessorInterruptControllerState2: {
    parameters: ["pointer", "u32", "buffer", "u32"],
    result: "i32",
    optional: true,
  },
  WHvRegisterPartitionDoorbellEvent: {
    parameters: ["pointer", "buffer", "pointer"],
    result: "i32",
    optional: true,
  },
  WHvUnregisterPartitionDoorbellEvent: { parameters: ["pointer", "buffer"], result: "i32", optional: true },
} as const satisfies Deno.ForeignLibraryInterface;

const SYSTEM_SYMBOLS = {
  // memoryapi.h
  VirtualAlloc: { parameters: ["pointer", "usize", "u32", "u32"], result: "pointer" },
  VirtualFree: { parameters: ["pointer", "usize", "u32"], result: "i32" },
  GetLargePageMinimum: { parameters: [], result: "usize" },
  DiscardVirtualMemory: { parameters: ["pointer", "usize"], result: "u32", optional: true },
  // synchapi.h, handleapi.h
  CreateEventW: { parameters: ["pointer", "i32", "i32", "pointer"], result: "pointer" },
  SetEvent: { parameters: ["pointer"], result: "i32" },
  WaitForSingleObject: { parameters: ["pointer", "u32"], result: "u32" },
  CloseHandle: { parameters: ["pointer"], result: "i32" },
} as const satisfies Deno.ForeignLibraryInterface;

/** The names this backend takes from the two libraries. */
export const PLATFORM_NAMES = Object.keys(PLATFORM_SYMBOLS);
export const SYSTEM_NAMES = Object.keys(SYSTEM_SYMBOLS);

/** WinHvPlatform.dll as this backend calls it; the newer functions are null where Windows is older. */
export type Platform = Deno.DynamicLibrary<typeof PLATFORM_SYMBOLS>["symbols"];
/** kernel32.dll as this backend calls it. */
export type System = Deno.DynamicLibrary<typeof SYSTEM_SYMBOLS>["symbols"];

/** The test shim's library, in place of the platform's and, on other systems, of kernel32 too. */
const SHIM_VARIABLE = "HV_WHPX_SHIM";

/** Path of the shim when tests ask for it; null in every other use. */
export function shimPath(): string | null {
  return Deno.env.get(SHIM_VARIABLE) || null;
}

let platformSymbols: Platform | null = null;
let systemSymbols: System | null = null;

/** Where Windows keeps its own libraries: never the current folder, where anybody's DLL may lie. */
function systemLibrary(name: string): string {
  return `${Deno.env.get("SystemRoot") ?? "C:\\Windows"}\\System32\\${name}`;
}

/** WinHvPlatform.dll, opened once in each Worker. Throws where it is not installed. */
export function platform(): Platform {
  return platformSymbols ??= Deno.dlopen(shimPath() ?? systemLibrary("WinHvPlatform.dll"), PLATFORM_SYMBOLS).symbols;
}

/** kernel32.dll, opened once in each Worker. */
export function system(): System {
  const path = Deno.build.os === "windows" ? systemLibrary("kernel32.dll") : shimPath();
  if (path === null) throw new HvError("WHPX is a part of Windows");
  return systemSymbols ??= Deno.dlopen(path, SYSTEM_SYMBOLS).symbols;
}

/** HRESULTs that are told apart: winerror.h, and the Windows Hypervisor Platform API reference. */
export const Result = {
  E_INVALIDARG: 0x80070057 | 0,
  E_ACCESSDENIED: 0x80070005 | 0,
  WHV_E_UNKNOWN_CAPABILITY: 0x80370300 | 0,
  WHV_E_INSUFFICIENT_BUFFER: 0x80370301 | 0,
  WHV_E_UNKNOWN_PROPERTY: 0x80370302 | 0,
  WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG: 0x80370303 | 0,
  WHV_E_INVALID_PARTITION_CONFIG: 0x80370304 | 0,
  WHV_E_GPA_RANGE_NOT_FOUND: 0x80370305 | 0,
  WHV_E_VP_ALREADY_EXISTS: 0x80370306 | 0,
  WHV_E_VP_DOES_NOT_EXIST: 0x80370307 | 0,
  WHV_E_INVALID_VP_STATE: 0x80370308 | 0,
  WHV_E_INVALID_VP_REGISTER_NAME: 0x80370309 | 0,
} as const;

const RESULT_NAMES = new Map<number, string>(Object.entries(Result).map(([name, value]) => [value, name]));

/** An HRESULT in words. */
export function resultName(result: number): string {
  const hex = "0x" + (result >>> 0).toString(16);
  const name = RESULT_NAMES.get(result);
  return name ? `${name} (${hex})` : hex;
}

/** Throws with the HRESULT in words when a call failed. */
export function check(result: number, what: string): void {
  if (result < 0) throw Object.assign(new Error(`${what}: ${resultName(result)}`), { hresult: result });
}

/** WHV_CAPABILITY_CODE, without `WHvCapabilityCode`. */
export const Capability = {
  HypervisorPresent: 0,
  Features: 1,
  ExtendedVmExits: 2,
  ExceptionExitBitmap: 3,
  X64MsrExitBitmap: 4,
  ProcessorVendor: 0x1000,
} as const;

/** WHV_PARTITION_PROPERTY_CODE, without `WHvPartitionPropertyCode`. */
export const Property = {
  ExtendedVmExits: 1,
  ExceptionExitBitmap: 2,
  X64MsrExitBitmap: 5,
  CpuidExitList: 0x1003,
  CpuidResultList: 0x1004,
  LocalApicEmulationMode: 0x1005,
  ProcessorCount: 0x1fff,
} as const;

/** WHV_X64_LOCAL_APIC_EMULATION_MODE, without `WHvX64LocalApicEmulationMode`. */
export const ApicMode = { None: 0, XApic: 1, X2Apic: 2 } as const;

/** WHV_MAP_GPA_RANGE_FLAGS, without `WHvMapGpaRangeFlag`. */
export const MapFlag = { Read: 1, Write: 2, Execute: 4, TrackDirtyPages: 8 } as const;

/** WHV_TRANSLATE_GVA_FLAGS, without `WHvTranslateGvaFlag`. */
export const TranslateFlag = {
  ValidateRead: 1,
  ValidateWrite: 2,
  ValidateExecute: 4,
  PrivilegeExempt: 8,
  SetPageTableBits: 16,
} as const;

/** WHV_TRANSLATE_GVA_RESULT_CODE, without `WHvTranslateGvaResult`. */
export const TranslateResult = {
  Success: 0,
  PageNotPresent: 1,
  PrivilegeViolation: 2,
  InvalidPageTableFlags: 3,
  GpaUnmapped: 4,
} as const;

/** WHV_RUN_VP_EXIT_REASON, without `WHvRunVpExitReason`. */
export const ExitReason = {
  None: 0,
  MemoryAccess: 1,
  X64IoPortAccess: 2,
  UnrecoverableException: 4,
  InvalidVpRegisterValue: 5,
  UnsupportedFeature: 6,
  X64InterruptWindow: 7,
  X64Halt: 8,
  X64ApicEoi: 9,
  X64MsrAccess: 0x1000,
  X64Cpuid: 0x1001,
  Exception: 0x1002,
  Canceled: 0x2001,
} as const;

/** WHV_MEMORY_ACCESS_TYPE, without `WHvMemoryAccess`. */
export const Access = { Read: 0, Write: 1, Execute: 2 } as const;

/** WHV_EXCEPTION_TYPE, without `WHvX64ExceptionType`. */
export const ExceptionType = { DebugTrapOrFault: 1 } as const;

/** WHV_INTERRUPT_TYPE, without `WHvX64InterruptType`. */
export const InterruptType = { Fixed: 0, LowestPriority: 1, Nmi: 4, Init: 5, Sipi: 6 } as const;

/** WHV_X64_PENDING_INTERRUPTION_TYPE, without `WHvX64Pending`. */
export const PendingType = { Interrupt: 0, Nmi: 2, Exception: 3 } as const;

/** WHV_REGISTER_NAME. */
export const Register = {
  WHvX64RegisterRax: 0,
  WHvX64RegisterRcx: 1,
  WHvX64RegisterRdx: 2,
  WHvX64RegisterRbx: 3,
  WHvX64RegisterRsp: 4,
  WHvX64RegisterRsi: 6,
  WHvX64RegisterRdi: 7,
  WHvX64RegisterR15: 0xf,
  WHvX64RegisterRip: 0x10,
  WHvX64RegisterRflags: 0x11,
  WHvX64RegisterEs: 0x12,
  WHvX64RegisterCs: 0x13,
  WHvX64RegisterGs: 0x17,
  WHvX64RegisterTr: 0x19,
  WHvX64RegisterIdtr: 0x1a,
  WHvX64RegisterGdtr: 0x1b,
  WHvX64RegisterCr0: 0x1c,
  WHvX64RegisterCr2: 0x1d,
  WHvX64RegisterCr3: 0x1e,
  WHvX64RegisterCr4: 0x1f,
  WHvX64RegisterCr8: 0x20,
  WHvX64RegisterDr0: 0x21,
  WHvX64RegisterDr1: 0x22,
  WHvX64RegisterDr2: 0x23,
  WHvX64RegisterDr3: 0x24,
  WHvX64RegisterDr6: 0x25,
  WHvX64RegisterDr7: 0x26,
  WHvX64RegisterXCr0: 0x27,
  WHvX64RegisterXmm0: 0x1000,
  WHvX64RegisterXmm15: 0x100f,
  WHvX64RegisterTsc: 0x2000,
  WHvX64RegisterEfer: 0x2001,
  WHvX64RegisterKernelGsBase: 0x2002,
  WHvX64RegisterApicBase: 0x2003,
  WHvX64RegisterPat: 0x2004,
  WHvX64RegisterSysenterCs: 0x2005,
  WHvX64RegisterSysenterEip: 0x2006,
  WHvX64RegisterSysenterEsp: 0x2007,
  WHvX64RegisterStar: 0x2008,
  WHvX64RegisterLstar: 0x2009,
  WHvX64RegisterCstar: 0x200a,
  WHvX64RegisterSfmask: 0x200b,
  WHvX64RegisterMsrMtrrDefType: 0x200e,
  WHvX64RegisterMsrMtrrPhysBase0: 0x2010,
  WHvX64RegisterMsrMtrrPhysMask0: 0x2040,
  WHvX64RegisterMsrMtrrFix64k00000: 0x2070,
  WHvX64RegisterMsrMtrrFix16k80000: 0x2071,
  WHvX64RegisterMsrMtrrFix16kA0000: 0x2072,
  WHvX64RegisterMsrMtrrFix4kC0000: 0x2073,
  WHvX64RegisterTscAux: 0x207b,
  WHvX64RegisterSpecCtrl: 0x2084,
  WHvX64RegisterXss: 0x208b,
  WHvX64RegisterTscDeadline: 0x2095,
  WHvX64RegisterTscAdjust: 0x2096,
  WHvRegisterPendingInterruption: 0x80000000,
  WHvRegisterInterruptState: 0x80000001,
  WHvRegisterPendingEvent: 0x80000002,
  WHvX64RegisterDeliverabilityNotifications: 0x80000004,
  WHvRegisterInternalActivityState: 0x80000005,
  WHvX64RegisterPendingDebugException: 0x80000006,
} as const;

/** Offsets of fields, and `sizeof`, by struct. */
export const Struct = {
  WHV_RUN_VP_EXIT_CONTEXT: {
    ExitReason: 0,
    "VpContext.ExecutionState": 8,
    "VpContext.Cs.Base": 16,
    "VpContext.Cs.Attributes": 30,
    "VpContext.Rip": 32,
    "VpContext.Rflags": 40,
    "MemoryAccess.InstructionByteCount": 48,
    "MemoryAccess.InstructionBytes": 52,
    "MemoryAccess.AccessInfo": 68,
    "MemoryAccess.Gpa": 72,
    "IoPortAccess.InstructionByteCount": 48,
    "IoPortAccess.InstructionBytes": 52,
    "IoPortAccess.AccessInfo": 68,
    "IoPortAccess.PortNumber": 72,
    "IoPortAccess.Rax": 80,
    "IoPortAccess.Rcx": 88,
    "IoPortAccess.Rsi": 96,
    "IoPortAccess.Rdi": 104,
    "IoPortAccess.Ds.Base": 112,
    "IoPortAccess.Es.Base": 128,
    "MsrAccess.AccessInfo": 48,
    "MsrAccess.MsrNumber": 52,
    "MsrAccess.Rax": 56,
    "MsrAccess.Rdx": 64,
    "CpuidAccess.Rax": 48,
    "CpuidAccess.DefaultResultRax": 80,
    "CpuidAccess.DefaultResultRcx": 88,
    "CpuidAccess.DefaultResultRdx": 96,
    "CpuidAccess.DefaultResultRbx": 104,
    "VpException.ExceptionType": 72,
    "ApicEoi.InterruptVector": 48,
    "UnsupportedFeature.FeatureCode": 48,
    "UnsupportedFeature.FeatureParameter": 56,
    sizeof: 224,
  },
  WHV_REGISTER_VALUE: { sizeof: 16 },
  WHV_X64_SEGMENT_REGISTER: { Base: 0, Limit: 8, Selector: 12, Attributes: 14, sizeof: 16 },
  WHV_X64_TABLE_REGISTER: { Limit: 6, Base: 8, sizeof: 16 },
  WHV_INTERRUPT_CONTROL: { Destination: 8, Vector: 12, sizeof: 16 },
  WHV_TRANSLATE_GVA_RESULT: { ResultCode: 0, sizeof: 8 },
  WHV_X64_CPUID_RESULT: { Function: 0, Eax: 16, Ebx: 20, Ecx: 24, Edx: 28, sizeof: 32 },
  WHV_DOORBELL_MATCH_DATA: { GuestAddress: 0, Value: 8, Length: 16, sizeof: 24 },
} as const;

/** Bit fields: `[lowest bit of the 64 that begin at the struct, bits]`. */
export const Bits = {
  WHV_CAPABILITY_FEATURES: { LocalApicEmulation: [1, 1], Xsave: [2, 1], DirtyPageTracking: [3, 1] },
  WHV_EXTENDED_VM_EXITS: { X64CpuidExit: [0, 1], X64MsrExit: [1, 1], ExceptionExit: [2, 1] },
  WHV_X64_MSR_EXIT_BITMAP: { UnhandledMsrs: [0, 1] },
  WHV_X64_VP_EXECUTION_STATE: { Cr0Pe: [2, 1], EferLma: [4, 1], InterruptionPending: [6, 1], InterruptShadow: [12, 1] },
  // Of the word at ExecutionState: InstructionLength and Cr8 are in the two bytes after it.
  WHV_VP_EXIT_CONTEXT: { InstructionLength: [16, 4], Cr8: [20, 4] },
  WHV_MEMORY_ACCESS_INFO: { AccessType: [0, 2] },
  WHV_X64_IO_PORT_ACCESS_INFO: { IsWrite: [0, 1], AccessSize: [1, 3], StringOp: [4, 1], RepPrefix: [5, 1] },
  WHV_X64_MSR_ACCESS_INFO: { IsWrite: [0, 1] },
  WHV_X64_INTERRUPT_STATE_REGISTER: { InterruptShadow: [0, 1], NmiMasked: [1, 1] },
  WHV_X64_PENDING_INTERRUPTION_REGISTER: {
    InterruptionPending: [0, 1],
    InterruptionType: [1, 3],
    DeliverErrorCode: [4, 1],
    InterruptionVector: [16, 16],
    ErrorCode: [32, 32],
  },
  WHV_X64_DELIVERABILITY_NOTIFICATIONS_REGISTER: { NmiNotification: [0, 1], InterruptNotification: [1, 1] },
  WHV_X64_PENDING_EXCEPTION_EVENT: {
    EventPending: [0, 1],
    EventType: [1, 3],
    DeliverErrorCode: [8, 1],
    Vector: [16, 16],
    ErrorCode: [32, 32],
  },
  WHV_X64_PENDING_DEBUG_EXCEPTION: { SingleStep: [4, 1] },
  WHV_INTERNAL_ACTIVITY_REGISTER: { StartupSuspend: [0, 1], HaltSuspend: [1, 1] },
  WHV_INTERRUPT_CONTROL: { Type: [0, 8], DestinationMode: [8, 4], TriggerMode: [12, 4] },
} as const satisfies Record<string, Record<string, readonly [number, number]>>;

/** memoryapi.h, winnt.h, synchapi.h, winbase.h */
export const Win = {
  MEM_COMMIT: 0x1000,
  MEM_RESERVE: 0x2000,
  MEM_RELEASE: 0x8000,
  MEM_RESET: 0x80000,
  MEM_LARGE_PAGES: 0x20000000,
  PAGE_READWRITE: 4,
  WAIT_OBJECT_0: 0,
  INFINITE: 0xffffffff,
} as const;
