/** Runs one vCPU of a bare guest: a serial port, an exit port, interrupt controllers, and nothing else. */
import { Exit, EXIT_NAMES } from "../../core/hypervisor.ts";
import { X64_STATE_BYTES } from "../../core/x64_state.ts";
import { soft } from "../../backends/soft/hypervisor.ts";
import { buildControllers, CONTROLLERS_START } from "../conformance/controllers.ts";
import {
  type BareRequest,
  type BareResult,
  COM1,
  DEVICE_MEMORY,
  EXIT_PORT,
  FW_CFG_DATA,
  FW_CFG_SELECTOR,
  LATCH_PORT,
  LINE_PORTS,
  PIC_PRIMARY,
  PIC_SECONDARY,
  POST_PORT,
  Word,
} from "./bare_protocol.ts";

/** Most bytes of output that are kept. */
const MAXIMUM_OUTPUT = 4 << 20;

self.onmessage = ({ data }: MessageEvent<BareRequest>) => {
  self.postMessage(run(data));
};

function run(request: BareRequest): BareResult {
  const words = new Int32Array(request.shared);
  const partition = soft.attachPartition(request.handle);
  const vcpu = partition.createVcpu(0);
  const controllers = buildControllers(partition, 1, request.controllers, 0);
  vcpu.attachLocalApic(controllers.apics[0]);
  if (request.state) vcpu.setState(request.state);
  const output: number[] = [];
  const post: number[] = [];
  let code = -1;

  /** QEMU's pc-testdev: a device that is memory, and ports that are interrupt lines. */
  const deviceMemory = new Uint8Array(DEVICE_MEMORY.size);
  const deviceOffset = (size: number) => {
    const offset = vcpu.address[0] - DEVICE_MEMORY.address;
    return offset >= 0 && offset + size <= DEVICE_MEMORY.size ? offset : -1;
  };
  const latch = new Uint8Array(8);
  let item: number[] = [];
  const read = (from: number, size: number) => {
    for (let i = 0; i < size; i++) {
      vcpu.bytes[from + i] = vcpu.port === COM1 + 5
        // Line status: the transmitter is empty.
        ? 0x60
        : vcpu.port === FW_CFG_DATA
        ? item.shift() ?? 0
        : vcpu.port >= LATCH_PORT && vcpu.port < LATCH_PORT + 4
        ? latch[vcpu.port - LATCH_PORT + i]
        : 0xff;
    }
  };
  const loop = (): string => {
    for (;;) {
      const reason = vcpu.run();
      Atomics.add(words, Word.EXITS, 1);
      const { dataOffset, size, count } = vcpu;
      switch (reason) {
        case Exit.IO_WRITE:
          for (let i = 0; i < count; i++) {
            const value = vcpu.bytes[dataOffset + i * size];
            if (vcpu.port === COM1 && output.length < MAXIMUM_OUTPUT) output.push(value);
            else if (vcpu.port === FW_CFG_SELECTOR) {
              const value = request.firmwareItems[vcpu.view.getUint16(dataOffset, true)] ?? 0;
              item = [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);
            } else if (vcpu.port === POST_PORT) {
              post.push(value);
              if (post.length > 64) post.shift();
            } else if (vcpu.port >= LATCH_PORT && vcpu.port < LATCH_PORT + 4) {
              latch.set(
                vcpu.bytes.subarray(dataOffset + i * size, dataOffset + (i + 1) * size),
                vcpu.port - LATCH_PORT,
              );
            } else if (vcpu.port >= LINE_PORTS && vcpu.port < LINE_PORTS + 24) {
              controllers.interrupts.setLine(vcpu.port - LINE_PORTS, value & 1);
            } else if (vcpu.port >>> 1 === PIC_PRIMARY >>> 1) {
              controllers.pic.primary.write(vcpu.port & 1, 1, value);
            } else if (vcpu.port >>> 1 === PIC_SECONDARY >>> 1) {
              controllers.pic.secondary.write(vcpu.port & 1, 1, value);
            } else if (vcpu.port === EXIT_PORT) {
              code = value;
              return "exit";
            }
          }
          break;
        case Exit.IO_READ:
          for (let i = 0; i < count; i++) read(dataOffset + i * size, size);
          break;
        case Exit.MMIO_READ:
          if (vcpu.address[0] >= CONTROLLERS_START && vcpu.address[0] < DEVICE_MEMORY.address) {
            controllers.bus.read(vcpu.address, size, vcpu.view, dataOffset);
          } else {
            const offset = deviceOffset(size);
            if (offset < 0) vcpu.bytes.fill(0xff, dataOffset, dataOffset + size);
            else vcpu.bytes.set(deviceMemory.subarray(offset, offset + size), dataOffset);
          }
          break;
        case Exit.MMIO_WRITE:
          if (vcpu.address[0] >= CONTROLLERS_START && vcpu.address[0] < DEVICE_MEMORY.address) {
            controllers.bus.write(vcpu.address, size, vcpu.view, dataOffset);
          } else if (deviceOffset(size) >= 0) {
            deviceMemory.set(vcpu.bytes.subarray(dataOffset, dataOffset + size), deviceOffset(size));
          }
          break;
        case Exit.MSR_READ:
        case Exit.MSR_WRITE:
          vcpu.msrFault = 1;
          break;
        case Exit.INTERRUPTED:
          if (Atomics.load(words, Word.STOP) !== 0) return "stopped";
          break;
        default:
          return EXIT_NAMES[reason];
      }
    }
  };
  const end = loop();
  const state = new ArrayBuffer(X64_STATE_BYTES);
  vcpu.getState(state);
  vcpu.close();
  return { end, code, output: new TextDecoder("latin1").decode(new Uint8Array(output)), post, state };
}
