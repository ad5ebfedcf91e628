/** What a guest's kernel says of the machine it found. */

const DEFECT =
  /firmware bug|bios bug|your bios|call trace|WARNING:|BUG:|Oops|invalid opcode|unstable|soft lockup|rcu.*stall/i;

/**
 * What is not of our making where KVM itself runs on QEMU's software CPU: its XSAVE sizes are not what Linux expects (as
 * QEMU's own guests print there), its processors' TSCs are not in step, and a busy machine leaves it without time.
 */
const LAB =
  /XSAVE consistency problem|fpu__init_system_xstate|^\[ *[\d.]+\] Call Trace:$|TSC unstable|Unstable clock|soft lockup|stall/;

/**
 * The lines of a kernel's log that tell of a defect: of the machine, of its firmware, of its CPU, of its clocks.
 * @param lab whether KVM itself runs on QEMU's software CPU
 */
export function complaints(log: string, lab = Deno.env.has("LAB")): string[] {
  return log.split("\n").filter((line) => DEFECT.test(line) && !(lab && LAB.test(line)));
}
