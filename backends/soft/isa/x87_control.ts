/** x87: initialization, control and status words. */
import { State } from "../layout.ts";
import { op } from "./table.ts";

const control = { system: true, unit: "x87" } as const;

op("fninit", "DB /4 mod3 rm3", "", (e) => {
  const { f } = e;
  f.set16(State.FCW, 0x37f);
  f.set16(State.FSW, 0);
  f.set16(State.FTW, 0xffff);
  f.set16(State.FOP, 0);
  f.set64(State.FIP, 0);
  f.set64(State.FDP, 0);
}, control);
op("fnclex", "DB /4 mod3 rm2", "", (e) => e.f.set16(State.FSW, e.f.s16(State.FSW).and(0x7f00)), control);
op("fnstcw", "D9 /7 modm", "Mw", (e) => e.store(e.address(0), 16, e.f.s16(State.FCW).i64u()), control);
op("fldcw", "D9 /5 modm", "Mw", (e) => {
  e.f.set16(State.FCW, e.loadUnsigned(e.address(0), 16).i32().or(0x40));
}, control);
op("fnstsw", "DF /4 mod3 rm0", "AX", (e) => e.write(0, e.f.s16(State.FSW).i64u()), control);
op("fnstsw_store", "DD /7 modm", "Mw", (e) => e.store(e.address(0), 16, e.f.s16(State.FSW).i64u()), control);
