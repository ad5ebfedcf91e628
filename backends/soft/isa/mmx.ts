/** MMX: moves, and what has no XMM twin (see packed_integer.ts for the rest). */
import { State } from "../layout.ts";
import { checkPending, enterMmx, readMmx, writeMmx } from "../sse/state.ts";
import { low } from "../sse/lanes.ts";
import { Simd } from "../sse/simd.ts";
import { type Emit, op } from "./table.ts";

const mmx = { unit: "mmx" } as const;

op("movd_load_mmx", "NP 0F 6E /r", "Pq Ey", (e) => {
  checkPending(e);
  const value = e.readUnsigned(1);
  enterMmx(e);
  writeMmx(e, 0, value);
}, mmx);
op("movd_store_mmx", "NP 0F 7E /r", "Ey Pq", (e) => {
  checkPending(e);
  e.write(0, readMmx(e, 1));
  enterMmx(e);
}, mmx);
const load: Emit = (e) => {
  checkPending(e);
  const value = readMmx(e, 1);
  enterMmx(e);
  writeMmx(e, 0, value);
};
const store: Emit = (e) => {
  checkPending(e);
  const value = readMmx(e, 1);
  if (e.isMemory(0)) e.store(e.address(0), 64, value);
  else writeMmx(e, 0, value);
  enterMmx(e);
};
op("movq_mmx", "NP 0F 6F /r", "Pq Qq", load, mmx);
op("movq_mmx_store", "NP 0F 7F /r", "Qq Pq", store, mmx);
op("movq_mmx_store", "NP 0F E7 /r modm", "Qq Pq", store, mmx);
op("pmovmskb_mmx", "NP 0F D7 /r mod3", "Gd Nq", (e) => {
  checkPending(e);
  const value = e.f.i32(low(readMmx(e, 1)).test(Simd.I8X16_BITMASK));
  enterMmx(e);
  e.write(0, value.i64u());
}, mmx);
op("movdq2q", "F2 0F D6 /r mod3", "Pq Ux", (e) => {
  checkPending(e);
  enterMmx(e);
  writeMmx(e, 0, e.readXmm(1).i64(0));
}, mmx);
op("movq2dq", "F3 0F D6 /r mod3", "Vx Nq", (e) => {
  checkPending(e);
  const value = readMmx(e, 1);
  enterMmx(e);
  e.writeXmm(0, low(value));
}, mmx);
op("emms", "NP 0F 77", "", (e) => {
  checkPending(e);
  enterMmx(e);
  e.f.set16(State.FTW, 0xffff);
}, mmx);
