/** `hv run` on the guests' disks, on every backend that runs stock kernels on this machine: the product's main job. */
import assert from "node:assert/strict";
import { HAS_TERMINAL, startInTerminal } from "../../cli/process_fixture.ts";
import { needs } from "../skip.ts";
import { digest, ROOT } from "./cache.ts";
import { which } from "./command.ts";
import { debianDisk } from "./debian_disk.ts";
import { demoDisk } from "./demo_disk.ts";
import { copyDisk, fsck } from "./image.ts";
import { loginWritePoweroff, proveWritten } from "./session.ts";
import { Terminal } from "./terminal.ts";

const HV = [Deno.execPath(), "run", "-A", "--quiet", `${ROOT}/cli/main.ts`];

async function usableBackends(): Promise<string[]> {
  const { stdout } = await new Deno.Command(HV[0], { args: [...HV.slice(1), "doctor", "--json"] }).output();
  const { backends } = JSON.parse(new TextDecoder().decode(stdout));
  return backends.filter((one: { support: { usable: boolean } }) => one.support.usable)
    .map((one: { name: string }) => one.name);
}

/** Gives `body` a copy of a disk, and removes it afterwards. */
async function withDisk(pristine: string, body: (image: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "hv-boot-" });
  try {
    await copyDisk(pristine, `${folder}/disk.img`);
    await body(`${folder}/disk.img`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

const apt = which("apt-get") !== null;
const backends = apt ? await usableBackends() : [];
needs(backends.length > 0, "hv run on real disks", "needs apt and a backend that runs stock kernels: see hv doctor");

for (const backend of backends) {
  const run = (image: string, ...args: string[]) => new Terminal([...HV, "run", image, "--backend", backend, ...args]);

  Deno.test(`hv run on ${backend}: the demo disk, to a login, a written file, poweroff, and clean`, async () => {
    await withDisk(await demoDisk(), async (image) => {
      await using terminal = run(image);
      const { code, errors } = await loginWritePoweroff(terminal, 240);
      assert.equal(code, 0, errors);
      await proveWritten(image);
    });
  });

  Deno.test(`hv run on ${backend}: SIGTERM presses the power button, and the guest ends clean`, async () => {
    await withDisk(await demoDisk(), async (image) => {
      await using terminal = run(image);
      await terminal.expect("login: ", 240);
      terminal.kill("SIGTERM");
      const { code, errors } = await terminal.end(120);
      assert.equal(code, 0, errors);
      await fsck(image);
    });
  });

  Deno.test(`hv run on ${backend}: --ephemeral leaves the disk as it was`, async () => {
    await withDisk(await demoDisk(), async (image) => {
      const before = await digest(await Deno.readFile(image));
      await using terminal = run(image, "--ephemeral");
      assert.equal((await loginWritePoweroff(terminal, 240)).code, 0);
      assert.equal(await digest(await Deno.readFile(image)), before);
    });
  });

  const terminal = `hv run on ${backend}: --console-device virtio tells the guest the window's size, and each change`;
  Deno.test({
    name: terminal,
    ignore: needs(HAS_TERMINAL, terminal, "needs Linux with util-linux's script"),
    fn: async () => {
      await withDisk(await demoDisk(), async (image) => {
        const arguments_ = ["run", image, "--backend", backend, "--console-device", "virtio"];
        await using program = startInTerminal([...HV, ...arguments_], "tty");
        await program.said("login: ", 240);
        await program.send("root\r");
        await program.said("# ", 60);
        await program.send("stty size; tty\r");
        await program.said("33 91\r\n/dev/hvc0\r\n", 60);
        const pty = /(\/dev\/pts\/\d+)\r/.exec(program.out)![1];
        await new Deno.Command("stty", { args: ["-F", pty, "cols", "50", "rows", "20"] }).output();
        // The change goes another way than what is typed, and may come after it.
        await program.send('\rwhile [ "$(stty size)" = "33 91" ]; do sleep 0.1; done; stty size\r');
        await program.said("20 50\r\n", 60);
        await program.send("poweroff\r");
        await program.said("restored", 120);
        await program.ends();
        assert.match(program.out, /code=0\r\nrestored\r\n$/);
        assert.equal(program.out.match(/\] reboot: Power down/g)?.length, 1, "by COM1 and hvc0 at once");
        await fsck(image);
      });
    },
  });

  const name = `hv run on ${backend}: the Debian disk, to a login, a written file, poweroff, and clean`;
  Deno.test({
    name,
    ignore: needs(Deno.uid() === 0 && which("mmdebstrap") !== null, name, "needs root and Debian's mmdebstrap"),
    fn: async () => {
      await withDisk(await debianDisk(), async (image) => {
        await using terminal = run(image, "--memory", "512M");
        const { code, errors } = await loginWritePoweroff(terminal, 1500);
        assert.equal(code, 0, errors);
        await proveWritten(image);
      });
    },
  });
}
