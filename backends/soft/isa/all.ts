/** Fills the table: every family of instructions. */
import "./integer.ts";
import "./control.ts";
import "./string.ts";
import "./system.ts";

export { rows } from "./table.ts";
