/**
 * The x87's transcendental functions: F2XM1, FYL2X, FYL2XP1, FPATAN, FPTAN, FSIN, FCOS (Intel SDM vol. 1, 8.3.7).
 *
 * Guests use them rarely, so they are worked out in fixed point with enough BigInt digits that the one rounding at the
 * end is the right one; hardware promises one unit in the last place. Arguments of the trigonometric ones are reduced as
 * hardware does it, by a pi of 66 bits.
 */

const BIAS = 16383;
const INTEGER_BIT = 1n << 63n;
/** Digits beyond the leading one that everything is computed to. */
const DIGITS = 192;

/** Flags of the status word, as in float80.ts. */
const IE = 1, DE = 2, ZE = 4, UE = 0x10, PE = 0x20, C1 = 0x200, C2 = 0x400;

/** The functions, by the number that the instruction table passes. */
export const Transcendental = {
  F2XM1: 0,
  FYL2X: 1,
  FYL2XP1: 2,
  FPATAN: 3,
  FPTAN: 4,
  FSIN: 5,
  FCOS: 6,
} as const;

/** An operand or result: significand with its integer bit, sign and biased exponent. */
export interface Number80 {
  significand: bigint;
  /** Bit 15 sign, bits 0-14 exponent. */
  signExponent: number;
}

/** A result with the status word's exception and condition bits (C2: the operand was out of range, and is unchanged). */
export interface TranscendentalResult extends Number80 {
  flags: number;
}

const QUIET_NAN: Number80 = { significand: 3n << 62n, signExponent: 0xffff };

/**
 * Computes one function.
 * @param number of {@link Transcendental}
 * @param x ST(0)
 * @param y ST(1), where the function has two operands
 * @param control the FPU control word: its rounding bits
 */
export function transcendental(number: number, x: Number80, y: Number80, control: number): TranscendentalResult {
  const two = number === Transcendental.FYL2X || number === Transcendental.FYL2XP1 || number === Transcendental.FPATAN;
  const rounding = (control >> 10) & 3;
  if (unsupported(x) || (two && unsupported(y))) return { ...QUIET_NAN, flags: IE };
  if (isNan(x) || (two && isNan(y))) return nan(x, two ? y : x);
  const flags = isDenormal(x) || (two && isDenormal(y)) ? DE : 0;
  const result = compute(number, x, y, rounding);
  // An invalid operation is told alone.
  return result.flags & IE ? result : { ...result, flags: result.flags | flags };
}

function compute(number: number, x: Number80, y: Number80, rounding: number): TranscendentalResult {
  switch (number) {
    case Transcendental.F2XM1:
      return exp2Minus1(x, rounding);
    case Transcendental.FYL2X:
      return yLog2(x, y, rounding);
    case Transcendental.FYL2XP1:
      return yLog2Plus1(x, y, rounding);
    case Transcendental.FPATAN:
      return arctangent(x, y, rounding);
    default:
      return trigonometric(number, x, rounding);
  }
}

// --- operands

const exponent = (n: Number80) => n.signExponent & 0x7fff;
const negative = (n: Number80) => (n.signExponent & 0x8000) !== 0;
const isZero = (n: Number80) => exponent(n) === 0 && n.significand === 0n;
const isDenormal = (n: Number80) => exponent(n) === 0 && n.significand !== 0n;
const isInfinite = (n: Number80) => exponent(n) === 0x7fff && n.significand === INTEGER_BIT;
const isNan = (n: Number80) => exponent(n) === 0x7fff && (n.significand & ~INTEGER_BIT) !== 0n;
const unsupported = (n: Number80) => exponent(n) !== 0 && (n.significand & INTEGER_BIT) === 0n;

function nan(x: Number80, y: Number80): TranscendentalResult {
  const quiet = 1n << 62n;
  const signalling = (n: Number80) => isNan(n) && (n.significand & quiet) === 0n;
  const flags = signalling(x) || signalling(y) ? IE : 0;
  // SDM vol. 1, table 4-7: a quiet one wins over a signalling one, then the larger significand.
  let taken = !isNan(x) ? y : !isNan(y) ? x : x.significand >= y.significand ? x : y;
  if (isNan(x) && isNan(y) && signalling(x) !== signalling(y)) taken = signalling(x) ? y : x;
  return { significand: taken.significand | quiet, signExponent: taken.signExponent, flags };
}

/** The power of two of a non-zero number's leading bit. */
function scale(n: Number80): number {
  const e = exponent(n) || 1;
  return e - BIAS - 63 + bitLength(n.significand) - 1;
}

/** Below this power of two an operand's second order is beyond all digits that could matter. */
const TINY = -140;

/** A number is its significand * 2^-places. */
function places(n: Number80): number {
  return BIAS + 63 - (exponent(n) || 1);
}

/** |n| in fixed point with `digits` binary places; bits below are lost. */
function fixed(n: Number80, digits: number): bigint {
  return shift(n.significand, (exponent(n) || 1) - BIAS - 63 + digits);
}

function shift(value: bigint, by: number): bigint {
  return by >= 0 ? value << BigInt(by) : value >> BigInt(-by);
}

function bitLength(value: bigint): number {
  return value === 0n ? 0 : value.toString(2).length;
}

// --- results

const infinity = (sign: boolean, flags = 0): TranscendentalResult => ({
  significand: INTEGER_BIT,
  signExponent: 0x7fff | (sign ? 0x8000 : 0),
  flags,
});
const zero = (sign: boolean): TranscendentalResult => ({ significand: 0n, signExponent: sign ? 0x8000 : 0, flags: 0 });
const invalid = (): TranscendentalResult => ({ ...QUIET_NAN, flags: IE });

/** Whether magnitude / 2^cut is rounded up; `exact` false: digits beyond the magnitude's last were cut off. */
function roundsUp(sign: boolean, magnitude: bigint, cut: number, rounding: number, exact: boolean): boolean {
  if (rounding !== 0) return rounding === (sign ? 1 : 2);
  if (cut <= 0) return false;
  const rest = magnitude & ((1n << BigInt(cut)) - 1n);
  const half = 1n << BigInt(cut - 1);
  return rest > half || (rest === half && (!exact || ((magnitude >> BigInt(cut)) & 1n) !== 0n));
}

/** Rounds magnitude * 2^-digits to the format. `exact` false: digits beyond the magnitude's last were cut off. */
function round(
  sign: boolean,
  magnitude: bigint,
  digits: number,
  rounding: number,
  exact = false,
): TranscendentalResult {
  if (magnitude === 0n) return zero(sign);
  const length = bitLength(magnitude);
  let biased = length - 1 - digits + BIAS;
  let cut = length - 64;
  let tiny = false;
  if (biased <= 0) {
    // Tiny is what stays below the smallest normal number when rounded without regard to the exponent (SDM vol. 1, 8.5.5).
    const carries = biased === 0 && shift(magnitude, -cut) === (1n << 64n) - 1n &&
      roundsUp(sign, magnitude, cut, rounding, exact);
    tiny = !carries;
    cut += 1 - biased;
    biased = 0;
  }
  let significand = shift(magnitude, -cut);
  const rest = cut > 0 ? magnitude & ((1n << BigInt(cut)) - 1n) : 0n;
  let flags = 0;
  if (rest !== 0n || !exact) {
    flags = PE | (tiny ? UE : 0);
    if (roundsUp(sign, magnitude, cut, rounding, exact)) {
      flags |= C1;
      significand += 1n;
      if (significand >> 64n) {
        significand >>= 1n;
        biased++;
      } else if (biased === 0 && significand & INTEGER_BIT) biased = 1;
    }
  }
  if (biased >= 0x7fff) return infinity(sign, flags | 8);
  return { significand, signExponent: biased | (sign ? 0x8000 : 0), flags };
}

// --- constants, to any number of digits

const constants = new Map<string, bigint>();

function constant(name: string, digits: number, make: (digits: number) => bigint): bigint {
  const key = `${name} ${digits}`;
  let value = constants.get(key);
  if (value === undefined) {
    // With a few digits more, so that the last one asked for is right.
    value = make(digits + 32) >> 32n;
    if (constants.size > 64) constants.clear();
    constants.set(key, value);
  }
  return value;
}

/** ln 2 = 2 artanh(1/3). */
const ln2 = (digits: number) => constant("ln2", digits, (d) => 2n * hyperbolic((1n << BigInt(d)) / 3n, d));

/** pi by Machin: 16 arctan(1/5) - 4 arctan(1/239). */
const pi = (digits: number) =>
  constant("pi", digits, (d) => {
    const one = 1n << BigInt(d);
    return 16n * circular(one / 5n, d) - 4n * circular(one / 239n, d);
  });

/** artanh(z), z in fixed point below one half: z + z^3/3 + z^5/5 ... */
function hyperbolic(z: bigint, digits: number): bigint {
  return series(z, digits, 1n);
}

/** arctan(z), z below one half: z - z^3/3 + z^5/5 ... */
function circular(z: bigint, digits: number): bigint {
  return series(z, digits, -1n);
}

function series(z: bigint, digits: number, sign: bigint): bigint {
  const d = BigInt(digits);
  const square = (z * z) >> d;
  let power = z;
  let sum = z;
  for (let n = 3n; power !== 0n; n += 2n) {
    power = sign * ((power * square) >> d);
    sum += power / n;
    if (power === -1n) break;
  }
  return sum;
}

// --- the functions

/** 2^x - 1 for |x| <= 1. */
function exp2Minus1(x: Number80, rounding: number): TranscendentalResult {
  const sign = negative(x);
  if (isZero(x)) return zero(sign);
  if (isInfinite(x)) {
    // SDM vol. 2, F2XM1 leaves operands beyond 1 undefined; these are what CPUs give.
    return sign ? { significand: INTEGER_BIT, signExponent: 0x8000 | BIAS, flags: 0 } : infinity(false);
  }
  if (scale(x) > 0 || (scale(x) === 0 && x.significand !== INTEGER_BIT)) return { ...x, flags: 0 };
  if (scale(x) === 0) {
    return sign
      ? { significand: INTEGER_BIT, signExponent: 0x8000 | (BIAS - 1), flags: 0 }
      : { significand: INTEGER_BIT, signExponent: BIAS, flags: 0 };
  }
  // Of a tiny operand only the first term counts, and ln 2 is not needed to thousands of digits.
  if (scale(x) < TINY) return round(sign, x.significand * ln2(DIGITS), places(x) + DIGITS, rounding);
  const digits = DIGITS - scale(x);
  const d = BigInt(digits);
  let y = (fixed(x, digits) * ln2(digits)) >> d;
  if (sign) y = -y;
  // e^y - 1 = y + y^2/2! + ...
  let term = y;
  let sum = y;
  for (let n = 2n; term !== 0n && term !== -1n; n++) {
    term = ((term * y) >> d) / n;
    sum += term;
  }
  return round(sign, sum < 0n ? -sum : sum, digits, rounding);
}

/** log2 of a positive finite number, in fixed point with `digits` places. */
function log2(x: Number80, digits: number): bigint {
  const one = 1n << BigInt(digits);
  let power = scale(x);
  let m = shift(x.significand, digits - bitLength(x.significand) + 1);
  // m in [1, 2) -> around 1, so that the series is short and a result near 0 has all its digits.
  if (m * m > 2n * one * one) {
    power++;
    m >>= 1n;
  }
  const z = ((m - one) << BigInt(digits)) / (m + one);
  const natural = 2n * hyperbolic(z, digits);
  return (BigInt(power) << BigInt(digits)) + (natural << BigInt(digits)) / ln2(digits);
}

/** y * a logarithm in fixed point. */
function timesY(y: Number80, logarithm: bigint, digits: number, rounding: number): TranscendentalResult {
  const sign = negative(y) !== logarithm < 0n;
  const magnitude = y.significand * (logarithm < 0n ? -logarithm : logarithm);
  return round(sign, magnitude, digits - ((exponent(y) || 1) - BIAS - 63), rounding);
}

/** y * log2(x). */
function yLog2(x: Number80, y: Number80, rounding: number): TranscendentalResult {
  if (isZero(x)) {
    if (isZero(y)) return invalid();
    return infinity(!negative(y), isInfinite(y) ? 0 : ZE);
  }
  if (negative(x)) return invalid();
  if (isInfinite(x)) return isZero(y) ? invalid() : infinity(negative(y));
  const isOne = exponent(x) === BIAS && x.significand === INTEGER_BIT;
  const below = scale(x) < 0;
  if (isInfinite(y)) return isOne ? invalid() : infinity(negative(y) !== below);
  if (isZero(y) || isOne) return zero(negative(y) !== below);
  const digits = DIGITS + 128;
  const logarithm = log2(x, digits);
  if (x.significand === INTEGER_BIT && exponent(x) !== 0) {
    // A power of two: the logarithm is whole and the product may be exact.
    const whole = BigInt(scale(x));
    const sign = negative(y) !== whole < 0n;
    return round(sign, y.significand * (whole < 0n ? -whole : whole), 63 + BIAS - (exponent(y) || 1), rounding, true);
  }
  return timesY(y, logarithm, digits, rounding);
}

/** y * log2(x + 1) for small x. */
function yLog2Plus1(x: Number80, y: Number80, rounding: number): TranscendentalResult {
  if (isInfinite(x)) return negative(x) || isZero(y) ? invalid() : infinity(negative(y));
  if (isZero(x)) return isInfinite(y) ? invalid() : zero(negative(x) !== negative(y));
  if (isInfinite(y)) return infinity(negative(x) !== negative(y));
  if (isZero(y)) return zero(negative(x) !== negative(y));
  if (scale(x) >= 0 && negative(x)) return invalid();
  if (scale(x) < TINY) {
    const logarithm = (x.significand << BigInt(2 * DIGITS)) / ln2(DIGITS);
    return timesY(y, negative(x) ? -logarithm : logarithm, places(x) + DIGITS, rounding);
  }
  const digits = DIGITS + Math.max(0, -scale(x));
  const one = 1n << BigInt(digits);
  const t = negative(x) ? -fixed(x, digits) : fixed(x, digits);
  let logarithm: bigint;
  if (scale(x) < -1) {
    logarithm = (2n * hyperbolic((t << BigInt(digits)) / (2n * one + t), digits) << BigInt(digits)) / ln2(digits);
  } else {
    const sum = one + t;
    logarithm = log2({ significand: sum >> BigInt(Math.max(0, bitLength(sum) - 64)), signExponent: 0 }, digits) -
      (BigInt(1 - BIAS - 63 + digits - Math.max(0, bitLength(sum) - 64)) << BigInt(digits));
  }
  return timesY(y, logarithm, digits, rounding);
}

/** arctan(y / x), by quadrant. */
function arctangent(x: Number80, y: Number80, rounding: number): TranscendentalResult {
  const sign = negative(y);
  const digits = DIGITS;
  const ofPi = (numerator: bigint, denominator: bigint) =>
    round(sign, numerator * pi(digits) / denominator, digits, rounding);
  if (isInfinite(y)) {
    if (isInfinite(x)) return negative(x) ? ofPi(3n, 4n) : ofPi(1n, 4n);
    return ofPi(1n, 2n);
  }
  if (isZero(y) || isInfinite(x)) return negative(x) ? ofPi(1n, 1n) : zero(sign);
  if (isZero(x)) return ofPi(1n, 2n);
  const swap = scale(y) > scale(x) || (scale(y) === scale(x) && normalized(y) > normalized(x));
  const [small, large] = swap ? [x, y] : [y, x];
  const difference = scale(small) - scale(large);
  if (difference < -256 && (swap || negative(x))) {
    // The smaller operand only decides the direction of rounding; one digit far below stands for it.
    const whole = swap ? pi(digits) >> 1n : pi(digits);
    return round(sign, whole + (swap && negative(x) ? 1n : 0n), digits, rounding);
  }
  if (difference < TINY && !swap && !negative(x)) {
    // arctan z is a little less than z.
    const quotient = (normalized(small) << BigInt(DIGITS)) / normalized(large) - 1n;
    return round(sign, quotient, DIGITS - difference, rounding);
  }
  // Digits so that the ratio, however small, has enough of them.
  const d = digits - difference;
  const ratio = shift(normalized(small), d + difference) / normalized(large);
  let angle = arctangentOf(ratio, d);
  if (swap) {
    const right = pi(d) >> 1n;
    angle = negative(x) ? right + angle : right - angle;
  } else if (negative(x)) angle = pi(d) - angle;
  const exact = false;
  return round(sign, angle, d, rounding, exact);
}

function normalized(n: Number80): bigint {
  return n.significand << BigInt(64 - bitLength(n.significand));
}

/** arctan of a ratio from 0 to 1, halved twice before the series. */
function arctangentOf(ratio: bigint, digits: number): bigint {
  const d = BigInt(digits);
  const one = 1n << d;
  let z = ratio;
  for (let i = 0; i < 2; i++) z = (z << d) / (one + squareRoot((one << d) + z * z));
  return circular(z, digits) << 2n;
}

/** The integer square root, by Newton. */
function squareRoot(n: bigint): bigint {
  let guess = 1n << BigInt((bitLength(n) + 1) >> 1);
  for (;;) {
    const next = (guess + n / guess) >> 1n;
    if (next >= guess) return guess;
    guess = next;
  }
}

/** The pi that arguments are reduced by, times 2^66 (SDM vol. 1, 8.3.8). */
const PI_66 = 0xc90fdaa22168c234cn;

function trigonometric(number: number, x: Number80, rounding: number): TranscendentalResult {
  if (isInfinite(x)) return invalid();
  const sign = negative(x);
  if (isZero(x)) {
    return number === Transcendental.FCOS ? { significand: INTEGER_BIT, signExponent: BIAS, flags: 0 } : zero(sign);
  }
  if (scale(x) >= 63) return { ...x, flags: C2 };
  if (scale(x) < TINY) {
    // sin x is a little less than x, tan x a little more, cos x a little less than 1.
    if (number === Transcendental.FCOS) return round(false, (1n << BigInt(DIGITS)) - 1n, DIGITS, rounding);
    const beyond = number === Transcendental.FPTAN ? 1n : -1n;
    return round(sign, (x.significand << BigInt(DIGITS)) + beyond, places(x) + DIGITS, rounding);
  }
  const digits = DIGITS + Math.max(0, -scale(x));
  const quarter = shift(PI_66, digits - 67);
  const angle = fixed(x, digits);
  // To the nearest multiple: beside it the small rest, not its distance from the true pi/2, is what counts.
  const turns = (angle + (quarter >> 1n)) / quarter;
  const rest = angle - turns * quarter;
  const quadrant = Number(turns & 3n);
  const [sine, cosine] = sineAndCosine(rest, digits);
  // By quadrant: sin is s, c, -s, -c and cos is c, -s, -c, s.
  const s = [sine, cosine, -sine, -cosine][quadrant];
  const c = [cosine, -sine, -cosine, sine][quadrant];
  if (number === Transcendental.FPTAN) {
    const tangent = (s << BigInt(digits)) / c;
    return round(sign !== tangent < 0n, tangent < 0n ? -tangent : tangent, digits, rounding);
  }
  if (number === Transcendental.FSIN) return round(sign !== s < 0n, s < 0n ? -s : s, digits, rounding);
  return round(c < 0n, c < 0n ? -c : c, digits, rounding);
}

/** sin and cos of an angle from -pi/4 to pi/4. */
function sineAndCosine(angle: bigint, digits: number): [bigint, bigint] {
  const d = BigInt(digits);
  const square = (angle * angle) >> d;
  const sum = (first: bigint, n: bigint) => {
    let term = first;
    let total = first;
    for (; term !== 0n && term !== -1n; n += 2n) {
      term = -((term * square) >> d) / (n * (n + 1n));
      total += term;
    }
    return total;
  };
  return [sum(angle, 2n), sum(1n << d, 1n)];
}
