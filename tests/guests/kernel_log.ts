/** What a guest's kernel says of the machine it found. */

const DEFECT =
  /firmware bug|bios bug|your bios|call trace|WARNING:|BUG:|Oops|invalid opcode|unstable|soft lockup|rcu.*stall/i;

/**
 * Linux gives the 8254 0.2 s for its first five interrupts (check_timer, arch/x86/kernel/apic/io_apic.c), which is too
 * little for a thread of a busy host; it then takes the timer by another way.
 */
const BUSY = /MP-BIOS bug: 8254 timer/;

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
  return log.split("\n").filter((line) => DEFECT.test(line) && !BUSY.test(line) && !(lab && LAB.test(line)));
}
