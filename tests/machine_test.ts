/** A machine's life through mod.ts, on every backend that runs here, with a small kernel of our own. */
import assert from "node:assert/strict";
import { collectAll } from "../backends/soft/collect.ts";
import { layoutFor } from "../backends/soft/layout.ts";
import { KEYS, testKernel } from "../cli/kernel_fixture.ts";
import { HvError, Machine, type MachineOptions, probeBackends } from "../mod.ts";
import { needs } from "./skip.ts";

// A restricted platform refuses stock kernels, but runs this one.
const backends = (await probeBackends()).filter(({ support }) => support.usable || support.restricted);
needs(backends.length > 0, "a machine's life", "no backend runs here: see hv doctor");

const folder = await Deno.makeTempDir({ prefix: "hv-machine-" });
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));
const kernel = `${folder}/kernel.elf`;
await Deno.writeFile(kernel, testKernel());

for (const { name: backend } of backends) {
  const options: MachineOptions = { backend, kernel, memory: "64M" };
  const test = (what: string, run: () => Promise<void>) =>
    Deno.test({ name: `machine on ${backend}: ${what}`, fn: run });

  test("goes from created through running to stopped, and ends as the guest says", async () => {
    await using machine = await Machine.create(options);
    assert.equal(machine.state, "created");
    machine.start();
    assert.equal(machine.state, "running");
    assert.throws(() => machine.start(), /the machine is running/);
    await machine.console.expect("ready");
    await machine.console.send(KEYS.exit7);
    assert.deepEqual(await machine.wait(), { reason: "exit", exitCode: 7, message: "the guest ended with code 7" });
    assert.equal(machine.state, "stopped");
    await machine.stop();
    await machine.stop();
  });

  test("is paused and goes on where it was", async () => {
    await using machine = await Machine.create(options);
    machine.start();
    await machine.console.expect("ready");
    await machine.pause();
    assert.equal(machine.state, "paused");
    const before = machine.stats().exits;
    await machine.console.send("y");
    await new Promise((resolve) => setTimeout(resolve, 100));
    assert.deepEqual(machine.stats().exits, before, "a paused guest does nothing");
    machine.start();
    await machine.console.expect("y");
    await machine.console.send(KEYS.powerOff);
    assert.equal((await machine.wait()).reason, "poweroff");
  });

  test("is stopped before it ever ran, while it spins, and while it halts", async () => {
    {
      await using machine = await Machine.create(options);
      await machine.stop();
      assert.equal((await machine.wait()).reason, "stopped");
    }
    for (const key of [KEYS.spin, KEYS.halt]) {
      const began = performance.now();
      await using machine = await Machine.create(options);
      machine.start();
      await machine.console.expect("ready");
      const came = performance.now() - began;
      await machine.console.send(key);
      await new Promise((resolve) => setTimeout(resolve, 50));
      const asked = performance.now();
      await machine.stop();
      const went = performance.now() - asked;
      // A machine that is busy with other things is as slow in starting one.
      assert.ok(went < 2000 + came, `it stopped after ${went.toFixed(0)} ms; it had started in ${came.toFixed(0)} ms`);
      assert.equal((await machine.wait()).reason, "stopped");
    }
  });

  test("ten at once in one process: each says and hears its own", async () => {
    await using all = new AsyncDisposableStack();
    const machines = await Promise.all(Array.from({ length: 10 }, async () => all.use(await Machine.create(options))));
    const timeout = "600s";
    await Promise.all(machines.map(async (machine, index) => {
      machine.start();
      await machine.console.expect("ready", { timeout });
      await machine.console.send(`<${index}>`);
      const { groups } = await machine.console.expect(/<(\d+)>/, { timeout });
      assert.deepEqual(groups, [`${index}`]);
      await machine.console.send(index % 2 ? KEYS.powerOff : KEYS.exit7);
      assert.equal((await machine.wait()).reason, index % 2 ? "poweroff" : "exit");
    }));
  });

  test("ten of them leave no descriptor, thread or mapping behind", async () => {
    // Of KVM's the guest's RAM, 64 MiB; of the software CPU's all that it keeps in one memory.
    const mapping = backend === "soft" ? layoutFor(1, 64 << 20).total / 1024 : 65536;
    // One beside another can be one mapping.
    const guests = () =>
      Deno.readTextFileSync("/proc/self/smaps").split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)
        .filter((words) => /^\S+ rw-/.test(words))
        .reduce((sum, words) => sum + Math.floor(Number(/^Size: +(\d+) kB/m.exec(words)![1]) / mapping), 0);
    const held = () => {
      // A memory of V8's goes when it is collected.
      collectAll();
      return {
        descriptors: [...Deno.readDirSync("/proc/self/fd")].length,
        threads: [...Deno.readDirSync("/proc/self/task")].length,
        guests: guests(),
      };
    };
    const once = async () => {
      await using machine = await Machine.create(options);
      machine.start();
      await machine.console.expect("ready");
      assert.ok(guests() > 0, "a guest's memory is seen");
    };
    await once();
    await new Promise((resolve) => setTimeout(resolve, 300));
    const before = held();
    for (let i = 0; i < 10; i++) await once();
    // V8 gives threads and buffers of finished Workers back a moment later; Deno's threads for files, of which a busy
    // machine needs more, end after ten idle seconds.
    let after = held();
    const more = () => Object.entries(after).some(([what, count]) => count > before[what as keyof typeof before]);
    for (let i = 0; i < 300 && more(); i++) {
      await new Promise((resolve) => setTimeout(resolve, 100));
      after = held();
    }
    assert.ok(after.descriptors <= before.descriptors, `descriptors: ${before.descriptors} -> ${after.descriptors}`);
    assert.ok(after.threads <= before.threads, `threads: ${before.threads} -> ${after.threads}`);
    assert.ok(after.guests <= before.guests, `guest memory: ${before.guests} -> ${after.guests}`);
  });
}

Deno.test("what cannot be made is refused in words", async () => {
  const table: [MachineOptions, RegExp][] = [
    [{ kernel, memory: "1M" }, /too little/],
    [{ kernel, memory: "lots" }, /'lots' is not a size/],
    [{ kernel, cpus: 0 }, /1 to 240 vCPUs, not 0/],
    [{ kernel, cpus: 1.5 }, /vCPUs/],
    [{ kernel: `${folder}/missing` }, /there is no kernel at/],
    [{ kernel: folder }, /kernel/],
    [{ disks: [`${folder}/missing.img`] }, /missing\.img: no such file/],
    [{ disks: [folder] }, /director/],
    [{}, /nothing to boot/],
  ];
  for (const { name: backend } of backends.slice(0, 1)) {
    for (const [options, words] of table) {
      await assert.rejects(Machine.create({ backend, ...options }), (error: Error) => {
        assert.match(error.message, words);
        assert.ok(error instanceof HvError, `${error.name}: ${error.message}`);
        return true;
      });
    }
  }
});
