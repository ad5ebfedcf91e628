/** A shell in a guest, through mod.ts: commands go in, what they print and their exit code come back. */
import assert from "node:assert/strict";
import type { Machine } from "../../mod.ts";

/** What a shell tells or asks the terminal (ECMA-48 control sequences), and its XON and XOFF. */
const SEQUENCES = new RegExp(
  `${String.fromCharCode(27)}\\[\\??[0-9;]*[A-Za-z]|[${String.fromCharCode(17, 19)}]`,
  "g",
);

/** A root shell on the console of a machine. */
export class GuestShell {
  private readonly machine: Machine;
  private count = 0;

  private constructor(machine: Machine) {
    this.machine = machine;
  }

  /** Logs in as root where one of our disks asks for it. */
  static async login(machine: Machine, timeout: string): Promise<GuestShell> {
    await machine.console.expect("login: ", { timeout });
    await machine.console.sendLine("root");
    await machine.console.expect(/[~\w]# /, { timeout });
    const shell = new GuestShell(machine);
    // Neither an echo of what is typed nor breaks in long lines.
    await shell.run("stty -echo cols 4096", timeout);
    return shell;
  }

  /**
   * Runs a command line to its end.
   * @returns what it printed, with plain line ends
   * @throws when its exit code is not 0 or the time is over
   */
  async run(command: string, timeout = "60s"): Promise<string> {
    const mark = `command-${this.count++}`;
    // In two pieces, so that an echo of the command is neither its begin nor its end.
    await this.machine.console.sendLine(`echo "begin-of-""${mark}"; ${command}; echo "end-of-""${mark} $?"`);
    const { before, groups } = await this.machine.console.expect(new RegExp(`end-of-${mark} (\\d+)\r?\n`), { timeout });
    const begin = `begin-of-${mark}\n`;
    const all = before.replaceAll(SEQUENCES, "").replaceAll("\r", "");
    const output = all.slice(all.indexOf(begin) + begin.length);
    assert.equal(groups[0], "0", `in the guest, '${command}' ended with ${groups[0]}:\n${output}`);
    return output;
  }
}
