/**
 * The runtime's own unpackers and digests, loaded when the first packed byte is met: most machines start without them,
 * and loading them takes as long as all of this folder.
 */

/** `node:zlib`. */
export const zlib = (): typeof import("node:zlib") => process.getBuiltinModule("node:zlib");

/** `node:crypto`. */
export const crypto = (): typeof import("node:crypto") => process.getBuiltinModule("node:crypto");
