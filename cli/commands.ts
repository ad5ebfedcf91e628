/** hv's commands, as one table: the parser, help and completions are all made from it. */
import type { Arguments, Option, Syntax } from "./arguments.ts";

/** A command of hv. */
export interface Command extends Syntax {
  /** One line for the list of commands. */
  summary: string;
  /** What more there is to say, in help. */
  description: string;
  /** Command lines with what they do. */
  examples: readonly (readonly [line: string, what: string])[];
  /** Carries it out; resolves with the exit code. Loaded when it is wanted. */
  load(): Promise<{ execute(args: Arguments): Promise<number> }>;
}

const HELP: Option = { name: "help", description: "Show this help" };
const DEBUG: Option = { name: "debug", description: "Show where an error came from (stack trace)" };
const JSON_REPORT: Option = { name: "json", description: "Write the report as JSON" };

/** The shells there are completions for. */
export const SHELLS = ["bash", "zsh", "fish"] as const;

/** All commands, in the order help lists them. */
export const COMMANDS: readonly Command[] = [
  {
    name: "run",
    summary: "Run a virtual machine in this terminal",
    description:
      `Starts the machine and joins this terminal with its console. The kernel is found in DISK as the disk's own
boot loader would find it, or given with --kernel. The guest's console goes to stdout, and nothing else;
what hv itself says goes to stderr.

In a terminal, Ctrl-] begins a command to hv: then q quits at once, p presses the power button,
? shows help, Ctrl-] types one. Where the terminal is not the guest's, the first Ctrl-C (or SIGTERM)
presses the power button and the second stops at once. A serial console cannot tell the guest the window's
size: run 'resize' in the guest, or take --console-device virtio.

Exit codes: 0 the guest powered off, 1 an error of hv, 2 wrong use, 3 the guest died (panic, triple
fault, an instruction nobody can carry out), 124 --timeout was over; or the guest's own code, if it
ended through the exit device.`,
    positionals: [{ name: "DISK", required: false, file: true }],
    options: [
      {
        name: "backend",
        value: "NAME",
        choices: ["auto", "kvm", "whpx", "soft"],
        description: "What runs the guest's CPU: auto (default) takes the best there is and says which",
      },
      { name: "cpus", value: "N", description: "Number of virtual CPUs (default 1)" },
      { name: "memory", value: "SIZE", description: "Memory, as in 512M or 2G (default 1G)" },
      {
        name: "disk",
        value: "FILE[,readonly][,format=FORMAT]",
        file: true,
        repeatable: true,
        description: "A further disk; a comma in its name is written twice",
      },
      { name: "ephemeral", description: "Throw away at the end what the guest wrote to its disks" },
      { name: "kernel", value: "FILE", file: true, description: "Start this kernel, not the one in DISK" },
      { name: "initrd", value: "FILE", file: true, description: "Initial RAM disk that goes with --kernel" },
      { name: "append", value: "TEXT", description: "Command line of --kernel; without it, added to the disk's own" },
      { name: "timeout", value: "TIME", description: "Stop the guest after this time, as in 90s or 5m" },
      {
        name: "console",
        value: "stdio|none|FILE",
        file: true,
        description: "Where the guest's console goes: this terminal (default), nowhere, or into a file",
      },
      {
        name: "console-device",
        value: "DEVICE",
        choices: ["serial", "virtio"],
        description: "What the guest's console is: serial (default), or virtio (hvc0), which has a window size",
      },
      DEBUG,
      HELP,
    ],
    examples: [
      ["hv run disk.img", "Boot a disk; log in, work, say poweroff"],
      ["hv run disk.img --cpus 4 --memory 4G --ephemeral", "Try things: the disk stays as it is"],
      ["hv run disk.img --console-device virtio", "For full-screen programs: the guest knows the window's size"],
      ["hv run --disk root.img --disk data.img,readonly", "Two disks, the second one read-only"],
      [
        "hv run --kernel bzImage --initrd initrd.gz --append 'console=ttyS0 quiet'",
        "A kernel of your own, without a disk",
      ],
      ["hv run disk.img --timeout 90s --console boot.log </dev/null", "In a script: no terminal, and an end"],
    ],
    load: () => import("./run.ts"),
  },
  {
    name: "inspect",
    summary: "Show what is on a disk and what would be started",
    description: `Looks into a disk image without changing it: its partitions and file systems, the entries of its boot
loader, and the kernel, initrd and command line that 'hv run' would start.`,
    positionals: [{ name: "DISK", required: true, file: true }],
    options: [JSON_REPORT, DEBUG, HELP],
    examples: [
      ["hv inspect disk.img", "See what is in a disk, and what would boot"],
      ["hv inspect disk.img --json | jq .boot", "The same for a program"],
    ],
    load: () => import("./inspect.ts"),
  },
  {
    name: "doctor",
    summary: "Show what can run guests on this machine, and what is missing",
    description:
      `Looks at every way to run guests that hv knows, says whether it works here, and if not, what to do about it.
Changes nothing. Ends with code 0 if guests can run, with 1 if not.`,
    positionals: [],
    options: [
      {
        name: "self-test",
        description: "Then run hv's own tests of each of them, with small guests (a minute or so); 1 if one fails",
      },
      JSON_REPORT,
      DEBUG,
      HELP,
    ],
    examples: [
      ["hv doctor", "See whether this machine runs guests, and what to do if not"],
      ["hv doctor --self-test >report.txt", "Does it do what hv relies on? A report to send in"],
      ["hv doctor --json", "The same for a program, or for a bug report"],
    ],
    load: () => import("./doctor.ts"),
  },
  {
    name: "completions",
    summary: "Write completions for a shell",
    description: "Writes a script that teaches a shell hv's commands and options.",
    positionals: [{ name: "SHELL", required: true, choices: SHELLS }],
    options: [DEBUG, HELP],
    examples: [
      ['eval "$(hv completions bash)"', "Complete commands and options; in ~/.bashrc"],
      ['eval "$(hv completions zsh)"', "In ~/.zshrc, after compinit"],
      ["hv completions fish >~/.config/fish/completions/hv.fish", "Once, for fish"],
    ],
    load: () => import("./completions.ts"),
  },
];

/** What `hv` itself takes before a command. */
export const TOP_LEVEL: Syntax = {
  name: "hv",
  options: [{ name: "version", description: "Show hv's version" }, HELP],
  positionals: [],
};
