/** GRUB's environment block (`grubenv`, written by grub-editenv): variables that outlive a boot. */

const SIGNATURE = "# GRUB Environment Block\n";

/** The variables of a block; empty when it is none. */
export function readGrubEnvironment(text: string): Map<string, string> {
  const variables = new Map<string, string>();
  if (!text.startsWith(SIGNATURE)) return variables;
  // A backslash makes the next character part of the value, also a line's end.
  const lines = text.slice(SIGNATURE.length).match(/(?:\\[\s\S]|[^\\\n])+/g) ?? [];
  for (const line of lines) {
    const equals = line.indexOf("=");
    if (equals <= 0 || line.startsWith("#")) continue;
    variables.set(line.slice(0, equals), line.slice(equals + 1).replace(/\\([\s\S])/g, "$1"));
  }
  return variables;
}
