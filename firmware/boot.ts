/** What a machine boots: the files a person named, or what the disk's own boot loader would start. */
import { HvError } from "../core/errors.ts";
import type { DiskSpec } from "../storage/disk.ts";
import { DiskSource } from "../storage/disk_source.ts";
import { openOwnDisk } from "../storage/open.ts";
import { adjustCommandLine, type ConsoleDevice, findKernel, loadEntry } from "./find_kernel.ts";
import { identifyKernel } from "./kernel.ts";

/** What a person asked for. */
export interface BootOptions {
  /** Path of a kernel, instead of the disk's. */
  kernel?: string;
  /** Path of the initial RAM disk that goes with `kernel`. */
  initrd?: string;
  /** Kernel command line: the whole of it with `kernel`, an addition to the disk's otherwise. */
  append?: string;
  /** The disk to boot from. */
  disk?: DiskSpec;
  /** Where the terminal is attached; serial unless told. */
  console?: ConsoleDevice;
}

/** What is started. */
export interface Boot {
  kernel: Uint8Array;
  initrd?: Uint8Array;
  commandLine: string;
  /** Sentences for a person: what was found, what was added. */
  messages: string[];
}

/**
 * Reads what is to be started.
 * @throws HvError in words
 */
export async function loadBoot(options: BootOptions): Promise<Boot> {
  if (options.kernel !== undefined) {
    const kernel = await readFile(options.kernel, "kernel");
    const { problem } = identifyKernel(kernel);
    if (problem !== null) throw new HvError(`${options.kernel}: ${problem}`);
    // A person who names any console gets that one; nobody wants none.
    const append = options.append ?? "";
    const commandLine = /(?:^|\s)console=/.test(append)
      ? append
      : adjustCommandLine(append, "", options.console).commandLine;
    return {
      kernel,
      initrd: options.initrd === undefined ? undefined : await readFile(options.initrd, "initrd"),
      commandLine,
      messages: [],
    };
  }
  if (options.initrd !== undefined) throw new HvError("--initrd goes with --kernel: name both", { usage: true });
  if (options.disk === undefined) {
    throw new HvError("nothing to boot: name a disk image, or a kernel with --kernel", { usage: true });
  }
  return bootFromDisk(options.disk, options);
}

function bootFromDisk(spec: DiskSpec, { append, console }: BootOptions): Boot {
  let opened;
  try {
    // The machine's own Workers may hold the image already, and when the guest restarts they do.
    opened = openOwnDisk(spec);
    const disk = findKernel(new DiskSource(opened));
    if (disk.chosen === null) throw new HvError(`${spec.path}: ${disk.problems.join("; ")}`);
    const { kernel, initrd, commandLine } = loadEntry(disk, disk.chosen);
    const image = identifyKernel(kernel);
    if (image.problem !== null) throw new HvError(`${spec.path}: ${disk.chosen.kernel?.path}: ${image.problem}`);
    const adjusted = adjustCommandLine(commandLine, append, console);
    const messages = [
      `starts '${disk.chosen.title}' (${disk.chosen.source}): Linux ${image.version ?? "of unknown version"}`,
    ];
    if (adjusted.added !== "") messages.push(`adds to the command line: ${adjusted.added}`);
    messages.push(...disk.chosen.problems);
    return { kernel, initrd, commandLine: adjusted.commandLine, messages };
  } catch (error) {
    if (error instanceof HvError) throw error;
    // What file systems and entries throw are sentences about the disk.
    if (error instanceof TypeError || error instanceof ReferenceError) throw error;
    throw new HvError(`${spec.path}: ${(error as Error).message}`, { cause: error });
  } finally {
    opened?.close();
  }
}

async function readFile(path: string, what: string): Promise<Uint8Array> {
  try {
    return await Deno.readFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) throw new HvError(`there is no ${what} at ${path}`);
    if (error instanceof Deno.errors.PermissionDenied) {
      throw new HvError(`the ${what} ${path} may not be read: check its permissions`);
    }
    if (error instanceof Deno.errors.IsADirectory) throw new HvError(`the ${what} ${path} is a directory, not a file`);
    throw new HvError(`the ${what} ${path} cannot be read: ${(error as Error).message}`);
  }
}
