/**
 * The codes of operands (SDM vol. 2D, A.2.1) as numbers: decoding compares them a million times while a guest boots.
 * Ours besides: `AL CL AX DX rAX rDX`, `EAXz` (ports are 32 bits wide at most), `AH`, `1`, and `T`, the x87 register of
 * ModR/M.rm.
 */

/** Where an operand is found. */
export const Form = {
  /** Always the same register. */
  FIXED: 0,
  AH: 1,
  ONE: 2,
  /** ModR/M.rm: a general register or memory. */
  E: 3,
  M: 4,
  R: 5,
  G: 6,
  /** The low three bits of the opcode. */
  Z: 7,
  W: 8,
  U: 9,
  V: 10,
  Q: 11,
  N: 12,
  P: 13,
  S: 14,
  C: 15,
  D: 16,
  T: 17,
  I: 18,
  J: 19,
  O: 20,
} as const;

/** How wide it is. */
export const Size = {
  /** The operand size. */
  OPERAND: 0,
  BYTE: 1,
  WORD: 2,
  DOUBLEWORD: 3,
  QUADWORD: 4,
  /** 32 bits, or 64. */
  Y: 5,
  /** 16 bits, or 32. */
  Z: 6,
  XMM: 7,
  /** A far pointer. */
  POINTER: 8,
  /** A pseudo-descriptor. */
  DESCRIPTOR: 9,
  /** BOUND's pair. */
  PAIR: 10,
  /** CMPXCHG8B's and CMPXCHG16B's operand. */
  DOUBLED: 11,
  /** Control and debug registers: the mode's width. */
  MODE: 12,
} as const;

/** One operand of a row. */
export interface OperandForm {
  /** One of {@link Form}. */
  readonly form: number;
  /** One of {@link Size}. */
  readonly size: number;
  /** With {@link Form.FIXED}. */
  readonly register: number;
}

const SIZES: Record<string, number> = {
  "": Size.OPERAND,
  v: Size.OPERAND,
  b: Size.BYTE,
  w: Size.WORD,
  d: Size.DOUBLEWORD,
  q: Size.QUADWORD,
  y: Size.Y,
  z: Size.Z,
  x: Size.XMM,
  p: Size.POINTER,
  s: Size.DESCRIPTOR,
  a: Size.PAIR,
  dq: Size.DOUBLED,
  n: Size.MODE,
};

/** Registers by number, as ModR/M has them. */
const FIXED: Record<string, [register: number, size: number]> = {
  AL: [0, Size.BYTE],
  CL: [1, Size.BYTE],
  AX: [0, Size.WORD],
  DX: [2, Size.WORD],
  rAX: [0, Size.OPERAND],
  rDX: [2, Size.OPERAND],
  EAXz: [0, Size.Z],
  AH: [4, Size.BYTE],
};

/** The form that a code stands for. */
export function operandForm(code: string): OperandForm {
  const fixed = FIXED[code];
  if (fixed) return { form: code === "AH" ? Form.AH : Form.FIXED, size: fixed[1], register: fixed[0] };
  if (code === "1") return { form: Form.ONE, size: Size.BYTE, register: 0 };
  const form = Form[code[0] as keyof typeof Form];
  const size = SIZES[code.slice(1)];
  if (form === undefined || size === undefined) throw new Error(`operand ${code}?`);
  return { form, size, register: 0 };
}
