/** Fills the table: every family of instructions. */
import "./integer.ts";
import "./control.ts";
import "./string.ts";
import "./system.ts";
import "./fpu_state.ts";
import "./x87.ts";
import "./sse_move.ts";
import "./sse_shuffle.ts";
import "./packed_integer.ts";
import "./mmx.ts";
import "./sse_float.ts";
import "./sse_convert.ts";
import "./sse_string.ts";
import "./aes.ts";
import "./sha.ts";

export { rows } from "./table.ts";
