/** The shim is strict: every misuse that Windows documents as an error is refused. Then its CPUID exits. Prints the count. */
import { alignedBytes } from "../../../backends/whpx/registers.ts";
import { platform, Property, Register, Result, Struct } from "../../../backends/whpx/abi.ts";
import { probeWhpx } from "../../../backends/whpx/probe.ts";
import { cpuidExits } from "./cpuid_exits.ts";

let passed = 0;
let failed = 0;
function expect(name: string, found: number, wanted: number): void {
  if (found === wanted) passed++;
  else {
    failed++;
    console.log(`FAILED ${name}: 0x${(found >>> 0).toString(16)} instead of 0x${(wanted >>> 0).toString(16)}`);
  }
}

const api = platform();
const four = (value: number) => Uint32Array.of(value);
const eight = (value: number) => Uint32Array.of(value, 0);
const { E_INVALIDARG } = Result;

const handle = new BigUint64Array(1);
expect("a partition", api.WHvCreatePartition(handle), 0);
const partition = Deno.UnsafePointer.create(handle[0]);
const stranger = Deno.UnsafePointer.create(handle[0] + 8n);
const set = (code: number, value: Uint32Array<ArrayBuffer>) =>
  api.WHvSetPartitionProperty(partition, code, value, value.byteLength);

expect(
  "a capability that is none",
  api.WHvGetCapability(0x7777, eight(0), 8, four(0)),
  Result.WHV_E_UNKNOWN_CAPABILITY,
);
expect("a buffer too small", api.WHvGetCapability(1, four(0), 4, four(0)), Result.WHV_E_INSUFFICIENT_BUFFER);
expect("set up without processors", api.WHvSetupPartition(partition), Result.WHV_E_INVALID_PARTITION_CONFIG);
expect("a property that is none", set(0x7777, four(1)), Result.WHV_E_UNKNOWN_PROPERTY);
expect("a property of the wrong size", set(Property.ProcessorCount, eight(1)), E_INVALIDARG);
expect("no processors", set(Property.ProcessorCount, four(0)), E_INVALIDARG);
expect(
  "exits the platform has not",
  set(Property.ExtendedVmExits, eight(1)),
  Result.WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG,
);
expect(
  "exits of exceptions without the exit itself",
  set(Property.ExceptionExitBitmap, eight(2)),
  Result.WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG,
);
expect("exits of exceptions", set(Property.ExtendedVmExits, eight(6)), 0);
expect(
  "exits of page faults",
  set(Property.ExceptionExitBitmap, eight(1 << 14)),
  Result.WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG,
);
expect("a bitmap of the wrong size", set(Property.ExceptionExitBitmap, four(2)), E_INVALIDARG);
expect("a stranger's handle", api.WHvSetupPartition(stranger), E_INVALIDARG);
expect("a processor before set-up", api.WHvCreateVirtualProcessor(partition, 0, 0), E_INVALIDARG);
expect("the number of processors", set(Property.ProcessorCount, four(1)), 0);
expect("set-up", api.WHvSetupPartition(partition), 0);
expect("a property after set-up", set(Property.ProcessorCount, four(2)), Result.WHV_E_INVALID_PARTITION_CONFIG);
expect("exits of debug exceptions after set-up", set(Property.ExceptionExitBitmap, eight(2)), 0);
expect("set up twice", api.WHvSetupPartition(partition), Result.WHV_E_INVALID_PARTITION_CONFIG);

const memory = new Uint8Array(3 * 4096);
const address = BigInt(Deno.UnsafePointer.value(Deno.UnsafePointer.of(memory)));
const page = Deno.UnsafePointer.create((address + 4095n) & ~4095n);
const odd = Deno.UnsafePointer.create(((address + 4095n) & ~4095n) + 16n);
expect("memory that is not a page's", api.WHvMapGpaRange(partition, odd, 0n, 4096n, 7), E_INVALIDARG);
expect("half a page", api.WHvMapGpaRange(partition, page, 0n, 2048n, 7), E_INVALIDARG);
expect("a guest address inside a page", api.WHvMapGpaRange(partition, page, 8n, 4096n, 7), E_INVALIDARG);
expect("memory nobody may read", api.WHvMapGpaRange(partition, page, 0n, 4096n, 2), E_INVALIDARG);
expect("flags that are none", api.WHvMapGpaRange(partition, page, 0n, 4096n, 0x17), E_INVALIDARG);
expect("memory", api.WHvMapGpaRange(partition, page, 0n, 4096n, 7), 0);
const notFound = Result.WHV_E_GPA_RANGE_NOT_FOUND;
expect("nothing to unmap", api.WHvUnmapGpaRange(partition, 0x10000n, 4096n), notFound);
const bitmap = new BigUint64Array(1);
expect("written pages untracked", api.WHvQueryGpaRangeDirtyBitmap(partition, 0n, 4096n, bitmap, 8), notFound);

const context = alignedBytes(Struct.WHV_RUN_VP_EXIT_CONTEXT.sizeof);
const run = (index: number, size: number) =>
  api.WHvRunVirtualProcessor(partition, index, Deno.UnsafePointer.of(context), size);
const nobody = Result.WHV_E_VP_DOES_NOT_EXIST;
expect("running nobody", run(0, 224), nobody);
expect("cancelling nobody", api.WHvCancelRunVirtualProcessor(partition, 0, 0), nobody);
expect("a processor beyond the count", api.WHvCreateVirtualProcessor(partition, 1, 0), E_INVALIDARG);
expect("a processor", api.WHvCreateVirtualProcessor(partition, 0, 0), 0);
expect("it again", api.WHvCreateVirtualProcessor(partition, 0, 0), Result.WHV_E_VP_ALREADY_EXISTS);
expect("a context of the wrong size", run(0, 216), E_INVALIDARG);

const values = alignedBytes(64);
const registers = (names: number[], skip: number) =>
  api.WHvGetVirtualProcessorRegisters(
    partition,
    0,
    Deno.UnsafePointer.of(Uint32Array.from(names)),
    names.length,
    Deno.UnsafePointer.of(values.subarray(skip)),
  );
expect("registers", registers([Register.WHvX64RegisterRip, Register.WHvX64RegisterCr0], 0), 0);
expect("values off their alignment", registers([Register.WHvX64RegisterRip], 8), E_INVALIDARG);
expect("a register that is none", registers([0x7777], 0), Result.WHV_E_INVALID_VP_REGISTER_NAME);
expect("no registers", registers([], 0), E_INVALIDARG);
const control = new Uint32Array(4);
expect(
  "an interrupt without an APIC",
  api.WHvRequestInterrupt(partition, Deno.UnsafePointer.of(control), 16),
  E_INVALIDARG,
);
expect("a partition with a processor", api.WHvDeletePartition(partition), Result.WHV_E_INVALID_VP_STATE);
expect("the processor's end", api.WHvDeleteVirtualProcessor(partition, 0), 0);
expect("its end again", api.WHvDeleteVirtualProcessor(partition, 0), nobody);
expect("the partition's end", api.WHvDeletePartition(partition), 0);
expect("its end again", api.WHvDeletePartition(partition), E_INVALIDARG);
expect("the probe", Number(probeWhpx().usable), 1);
await cpuidExits(expect);

console.log(`${passed} passed, ${failed} failed`);
Deno.exit(failed ? 1 : 0);
