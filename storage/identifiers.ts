/** UUIDs and texts as blkid(8) spells them. */

/** Two hexadecimal digits a byte. */
export function hex(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += byte.toString(16).padStart(2, "0");
  return text;
}

/** 16 bytes, first byte first (RFC 4122). Null when all are zero. */
export function uuid(bytes: Uint8Array): string | null {
  if (bytes.every((byte) => byte === 0)) return null;
  const digits = hex(bytes);
  return [digits.slice(0, 8), digits.slice(8, 12), digits.slice(12, 16), digits.slice(16, 20), digits.slice(20)].join(
    "-",
  );
}

/** 16 bytes with the first three fields little-endian, as in GPT (UEFI 2.10, appendix A). */
export function guid(bytes: Uint8Array): string {
  const order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
  return uuid(Uint8Array.from(order, (i) => bytes[i])) ?? "00000000-0000-0000-0000-000000000000";
}

/** Text up to the first NUL, without blanks at the end. Null when nothing is left. */
export function label(bytes: Uint8Array): string | null {
  const end = bytes.indexOf(0);
  const text = new TextDecoder().decode(end < 0 ? bytes : bytes.subarray(0, end)).trimEnd();
  return text === "" ? null : text;
}

/** UTF-16 up to the first NUL. */
export function utf16(bytes: Uint8Array, bigEndian = false): string {
  let text = "";
  for (let i = 0; i + 1 < bytes.length; i += 2) {
    const unit = bigEndian ? bytes[i] << 8 | bytes[i + 1] : bytes[i + 1] << 8 | bytes[i];
    if (unit === 0) break;
    text += String.fromCharCode(unit);
  }
  return text;
}
