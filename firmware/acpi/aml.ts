/**
 * ACPI Machine Language: each function returns the bytes of one term. Sections are those of the ACPI specification 6.5:
 * 20.2 for AML, 6.4 for resources.
 */

/** The bytes of an AML term, or of several in a row. */
export type Aml = Uint8Array<ArrayBuffer>;

const text = new TextEncoder();

/** Terms one after the other. */
export function concat(...terms: Uint8Array[]): Aml {
  const result = new Uint8Array(terms.reduce((length, term) => length + term.length, 0));
  let at = 0;
  for (const term of terms) {
    result.set(term, at);
    at += term.length;
  }
  return result;
}

function bytes(...values: number[]): Aml {
  return Uint8Array.from(values);
}

function littleEndian(value: number | bigint, size: number): Aml {
  const view = new DataView(new ArrayBuffer(8));
  view.setBigUint64(0, BigInt(value), true);
  return new Uint8Array(view.buffer.slice(0, size));
}

/**
 * PkgLength (20.2.4) of a package whose contents are `length` bytes: it counts itself as well.
 * One byte holds up to 63; two, three and four bytes hold 12, 20 and 28 bits.
 */
export function packageLength(length: number): Aml {
  if (length + 1 < 1 << 6) return bytes(length + 1);
  for (let extra = 1; extra <= 3; extra++) {
    const total = length + 1 + extra;
    if (total >= 1 << (4 + 8 * extra)) continue;
    return concat(bytes((extra << 6) | (total & 0xf)), littleEndian(total >>> 4, extra));
  }
  throw new RangeError(`an AML package of ${length} bytes is too long`);
}

function packaged(opcode: number[], ...contents: Uint8Array[]): Aml {
  const body = concat(...contents);
  return concat(bytes(...opcode), packageLength(body.length), body);
}

/** NameString (20.2.2) from its text: `\_SB.PCI0`, `^X`, `_CRS`; segments are padded to four characters. */
export function nameString(path: string): Aml {
  const match = /^(\\|\^*)((?:[A-Z_][A-Z_0-9]{0,3})(?:\.[A-Z_][A-Z_0-9]{0,3})*)$/.exec(path);
  if (!match) throw new RangeError(`'${path}' is no ACPI name`);
  const segments = match[2].split(".").map((segment) => text.encode(segment.padEnd(4, "_")));
  const count = segments.length === 1 ? bytes() : segments.length === 2 ? bytes(0x2e) : bytes(0x2f, segments.length);
  return concat(text.encode(match[1]), count, ...segments);
}

/** Integer constant (20.2.3) in its shortest form. */
export function integer(value: number | bigint): Aml {
  const number = BigInt(value);
  if (number < 0n || number > 0xffff_ffff_ffff_ffffn) throw new RangeError(`${value} is no AML integer`);
  if (number <= 1n) return bytes(Number(number));
  if (number <= 0xffn) return concat(bytes(0x0a), littleEndian(number, 1));
  if (number <= 0xffffn) return concat(bytes(0x0b), littleEndian(number, 2));
  if (number <= 0xffff_ffffn) return concat(bytes(0x0c), littleEndian(number, 4));
  return concat(bytes(0x0e), littleEndian(number, 8));
}

/** String constant, printable ASCII only. */
export function string(value: string): Aml {
  if (!/^[ -~]*$/.test(value)) throw new RangeError("an AML string is printable ASCII");
  return concat(bytes(0x0d), text.encode(value), bytes(0));
}

/** DefBuffer with these bytes. */
export function buffer(contents: Uint8Array): Aml {
  return packaged([0x11], integer(contents.length), contents);
}

/** DefPackage of up to 255 elements. */
export function packageOf(...elements: Uint8Array[]): Aml {
  if (elements.length > 255) throw new RangeError("an AML package has at most 255 elements");
  return packaged([0x12], bytes(elements.length), ...elements);
}

/** DefName. */
export function name(path: string, value: Uint8Array): Aml {
  return concat(bytes(0x08), nameString(path), value);
}

/** DefScope. */
export function scope(path: string, ...terms: Uint8Array[]): Aml {
  return packaged([0x10], nameString(path), ...terms);
}

/** DefDevice. */
export function device(path: string, ...terms: Uint8Array[]): Aml {
  return packaged([0x5b, 0x82], nameString(path), ...terms);
}

/** DefMethod with 0 to 7 arguments; one that makes named objects must be serialized. */
export function method(path: string, args: number, serialized: boolean, ...terms: Uint8Array[]): Aml {
  return packaged([0x14], nameString(path), bytes(args | (serialized ? 8 : 0)), ...terms);
}

/** DefReturn. */
export function returns(value: Uint8Array): Aml {
  return concat(bytes(0xa4), value);
}

/** DefIf; follow it with {@link otherwise} for its else. */
export function when(condition: Uint8Array, ...terms: Uint8Array[]): Aml {
  return packaged([0xa0], condition, ...terms);
}

/** DefElse. */
export function otherwise(...terms: Uint8Array[]): Aml {
  return packaged([0xa1], ...terms);
}

/** DefLEqual. */
export function equal(left: Uint8Array, right: Uint8Array): Aml {
  return concat(bytes(0x93), left, right);
}

/** DefLNot of DefLEqual. */
export function notEqual(left: Uint8Array, right: Uint8Array): Aml {
  return concat(bytes(0x92), equal(left, right));
}

/** DefOr: `target = left | right`. */
export function or(left: Uint8Array, right: Uint8Array, target: Uint8Array): Aml {
  return concat(bytes(0x7d), left, right, target);
}

/** ArgObj 0 to 6. */
export function arg(index: number): Aml {
  return bytes(0x68 + index);
}

/** DefCreateDWordField at a byte index of a buffer. */
export function dwordField(source: Uint8Array, index: number, path: string): Aml {
  return concat(bytes(0x8a), source, integer(index), nameString(path));
}

/** EISAID (19.6.36): three letters of five bits and four hexadecimal digits, big-endian in an integer. */
export function eisaId(id: string): Aml {
  const match = /^([A-Z]{3})([0-9A-F]{4})$/.exec(id);
  if (!match) throw new RangeError(`'${id}' is no EISA id`);
  const letters = [...match[1]].reduce((value, letter) => (value << 5) | (letter.charCodeAt(0) - 0x40), 0);
  const view = new DataView(new ArrayBuffer(4));
  view.setUint16(0, letters);
  view.setUint16(2, parseInt(match[2], 16));
  return concat(bytes(0x0c), new Uint8Array(view.buffer));
}

/** A UUID as ToUUID (19.6.142) stores it: the first three fields little-endian. */
export function uuid(value: string): Aml {
  const raw = bytes(...value.replaceAll("-", "").match(/../g)!.map((pair) => parseInt(pair, 16)));
  raw.subarray(0, 4).reverse();
  raw.subarray(4, 6).reverse();
  raw.subarray(6, 8).reverse();
  return buffer(raw);
}

/** A resource template: descriptors, then an end tag (6.4.2.9) without checksum. */
export function resources(...descriptors: Uint8Array[]): Aml {
  return buffer(concat(...descriptors, bytes(0x79, 0)));
}

/** I/O port descriptor (6.4.2.5), 16-bit decode. */
export function io(port: number, size: number): Aml {
  return concat(bytes(0x47, 1), littleEndian(port, 2), littleEndian(port, 2), bytes(1, size));
}

/** IRQ descriptor without flags (6.4.2.1): ISA interrupt, edge-triggered, active-high. */
export function irq(number: number): Aml {
  return concat(bytes(0x22), littleEndian(1 << number, 2));
}

/** 32-bit fixed memory range (6.4.3.4), writable. */
export function memory32(base: number, size: number): Aml {
  return concat(bytes(0x86, 9, 0, 1), littleEndian(base, 4), littleEndian(size, 4));
}

/** Extended interrupt descriptor (6.4.3.6): one global system interrupt, consumed alone, level-triggered, active-high. */
export function interrupt(gsi: number): Aml {
  return concat(bytes(0x89, 6, 0, 0b0001, 1), littleEndian(gsi, 4));
}

// Address space descriptors (6.4.3.5): type, general flags (producer, positive decode, fixed minimum and maximum), then
// flags of the type.
const RANGE_FIXED = 0b1100;

function addressSpace(width: 2 | 4 | 8, type: number, typeFlags: number, base: number, size: number): Aml {
  const tag = { 2: 0x88, 4: 0x87, 8: 0x8a }[width];
  return concat(
    bytes(tag, 3 + 5 * width, 0, type, RANGE_FIXED, typeFlags),
    ...[0, base, base + size - 1, 0, size].map((value) => littleEndian(value, width)),
  );
}

/** Bus numbers a host bridge produces. */
export function busNumbers(first: number, count: number): Aml {
  return addressSpace(2, 2, 0, first, count);
}

/** I/O ports a host bridge produces, below 64 Ki. */
export function ioWindow(base: number, size: number): Aml {
  return addressSpace(2, 1, 0b11, base, size);
}

/** Memory a host bridge produces: read and write, not cacheable; 64 bits wide where it ends above 4 GiB. */
export function memoryWindow(base: number, size: number): Aml {
  return addressSpace(base + size > 2 ** 32 ? 8 : 4, 0, 0b1, base, size);
}
