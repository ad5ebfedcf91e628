/** What a machine boots: the files a person named, or what the disk's own boot loader would start. */
import { HvError } from "../core/errors.ts";
import type { DiskSpec } from "../storage/disk.ts";

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
    return {
      kernel: await readFile(options.kernel, "kernel"),
      initrd: options.initrd === undefined ? undefined : await readFile(options.initrd, "initrd"),
      commandLine: options.append ?? "console=ttyS0",
      messages: [],
    };
  }
  if (options.initrd !== undefined) throw new HvError("--initrd goes with --kernel: name both", { usage: true });
  if (options.disk === undefined) {
    throw new HvError("nothing to boot: name a disk image, or a kernel with --kernel", { usage: true });
  }
  throw new HvError("booting from a disk is not there yet");
}

async function readFile(path: string, what: string): Promise<Uint8Array> {
  try {
    return await Deno.readFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) throw new HvError(`there is no ${what} at ${path}`, { usage: true });
    if (error instanceof Deno.errors.PermissionDenied) {
      throw new HvError(`the ${what} ${path} may not be read: check its permissions`);
    }
    throw new HvError(`the ${what} ${path} cannot be read: ${(error as Error).message}`);
  }
}
