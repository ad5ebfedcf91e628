/** Runs one vCPU as the suite asks, on a thread of its own as in the product. */
import { attachPartition } from "../../backends/choose.ts";
import { Exit, EXIT_NAMES, type Partition, type Vcpu } from "../../core/hypervisor.ts";
import { X64_STATE_BYTES } from "../../core/x64_state.ts";
import { buildControllers, type Controllers, CONTROLLERS_START } from "./controllers.ts";
import {
  DONE_PORT,
  PROGRESS_PORT,
  type Request,
  type Response,
  type RunRequest,
  type RunResult,
  Shared,
} from "./protocol.ts";

declare const self: {
  onmessage: (event: MessageEvent<Request>) => Promise<void>;
  postMessage(response: Response): void;
};

let partition: Partition | null = null;
let vcpu: Vcpu | null = null;
let controllers: Controllers | null = null;
let words: Int32Array = new Int32Array(Shared.WORDS);
/** More exits than any behaviour has without being interrupted or telling its progress, which some do all the time. */
const MAX_EXITS = 200_000;

self.onmessage = async ({ data: request }) => {
  try {
    if (request.kind === "open") {
      words = new Int32Array(request.shared);
      partition = await attachPartition(request.handle);
      vcpu = partition.createVcpu(request.index);
      controllers = null;
      if (request.controllers) {
        controllers = buildControllers(partition, request.handle.config.cpus, request.controllers, request.index);
        if (controllers.apics.length > 0) vcpu.attachLocalApic(controllers.apics[request.index]);
        else vcpu.attachIoApic!(controllers.ioApic);
      }
      self.postMessage({ ok: true });
    } else if (request.kind === "run") {
      self.postMessage({ result: run(vcpu!, request) });
    } else {
      vcpu?.close();
      partition?.close();
      vcpu = partition = null;
      self.postMessage({ ok: true });
    }
  } catch (error) {
    self.postMessage({ error: (error as Error).stack ?? String(error) });
  }
};

function run(vcpu: Vcpu, request: RunRequest): RunResult {
  if ((request.singleStep !== undefined || request.breakpoints) && !vcpu.debug) {
    return { log: [], end: "NO DEBUGGING", address: 0, state: null, failure: null };
  }
  if (request.state) vcpu.setState(request.state);
  if (request.singleStep !== undefined) vcpu.debug!.singleStep(request.singleStep);
  if (request.breakpoints) vcpu.debug!.breakpoints(request.breakpoints);
  const log: string[] = [];
  const answers = [...request.answers];
  const end = request.enter ? loop(vcpu, request, log, answers) : "not run";
  let state: ArrayBuffer | null = null;
  if (request.wantState) vcpu.getState(state = new ArrayBuffer(X64_STATE_BYTES));
  return { log, end, address: vcpu.address[0], state, failure: end === "FAILED" ? vcpu.failure() : null };
}

function loop(vcpu: Vcpu, request: RunRequest, log: string[], answers: number[]): string {
  const hex = (value: number) => "0x" + value.toString(16);
  const data = (from: number, size: number) =>
    Array.from(vcpu.bytes.subarray(from, from + size), (byte) => byte.toString(16).padStart(2, "0")).join("");
  const answer = (from: number, size: number) => {
    for (let i = 0; i < size; i++) vcpu.bytes[from + i] = answers.shift() ?? 0xff;
  };
  for (let exits = 0, since = 0; since < MAX_EXITS; exits++, since++) {
    const reason = vcpu.run();
    const { size, dataOffset } = vcpu;
    switch (reason) {
      case Exit.IO_WRITE:
        if (vcpu.port === DONE_PORT) return "done";
        if (vcpu.port === PROGRESS_PORT) {
          since = 0;
          count(Shared.PROGRESS);
        } else {
          for (let i = 0; i < vcpu.count; i++) log.push(`out ${hex(vcpu.port)} ${data(dataOffset + i * size, size)}`);
        }
        break;
      case Exit.IO_READ:
        for (let i = 0; i < vcpu.count; i++) {
          log.push(`in ${hex(vcpu.port)} ${size}`);
          answer(dataOffset + i * size, size);
        }
        break;
      case Exit.MMIO_WRITE:
        if (controllers && vcpu.address[0] >= CONTROLLERS_START && vcpu.address[0] < 2 ** 32) {
          controllers.bus.write(vcpu.address, size, vcpu.view, dataOffset);
        } else log.push(`write ${hex(vcpu.address[0])} ${data(dataOffset, size)}`);
        break;
      case Exit.MMIO_READ:
        if (controllers && vcpu.address[0] >= CONTROLLERS_START && vcpu.address[0] < 2 ** 32) {
          controllers.bus.read(vcpu.address, size, vcpu.view, dataOffset);
        } else {
          log.push(`read ${hex(vcpu.address[0])} ${size}`);
          answer(dataOffset, size);
        }
        break;
      case Exit.MSR_READ:
        log.push(`rdmsr ${hex(vcpu.msr >>> 0)}`);
        answer(dataOffset, 8);
        vcpu.msrFault = request.msrFault ? 1 : 0;
        break;
      case Exit.MSR_WRITE:
        log.push(`wrmsr ${hex(vcpu.msr >>> 0)} ${data(dataOffset, 8)}`);
        vcpu.msrFault = request.msrFault ? 1 : 0;
        break;
      case Exit.INTERRUPTED:
        since = 0;
        count(Shared.INTERRUPTED);
        if (Atomics.load(words, Shared.STOP) !== 0) return EXIT_NAMES[reason];
        break;
      default:
        return EXIT_NAMES[reason];
    }
    if (exits + 1 === request.exits) return "enough";
  }
  return `more than ${MAX_EXITS} exits`;
}

function count(word: number): void {
  Atomics.add(words, word, 1);
  Atomics.notify(words, word);
}
