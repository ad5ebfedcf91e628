/**
 * A stock kernel and a small userland, from start to power off, on every backend that can run them here: what a user
 * of a machine relies on without thinking of it.
 */
import assert from "node:assert/strict";
import { Machine, type MachineOptions, probeBackends } from "../mod.ts";
import { which } from "./guests/command.ts";
import { demoDisk } from "./guests/demo_disk.ts";
import { complaints } from "./guests/kernel_log.ts";
import { GuestShell } from "./guests/shell.ts";
import { needs } from "./skip.ts";

/** The longest wait for a login, in seconds: on a machine that is busy with other things, the software CPU takes minutes. */
const BOOT = 240;

const backends = (await probeBackends()).filter(({ support }) => support.usable).map(({ name }) => name);
const ignore = needs(backends.length > 0, "booting a stock kernel", "no backend can run it here: see hv doctor") ||
  needs(which("apt-get") !== null, "booting a stock kernel", "the demo disk is made of Debian's packages");

/** Seconds of CPU that this process has used (proc(5): utime and stime in ticks of 1/100 s). */
function cpuSeconds(): number {
  const fields = Deno.readTextFileSync("/proc/self/stat").replace(/^.*\) /, "").split(" ");
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

const seconds = () => performance.now() / 1000;
const pause = (time: number) => new Promise((resolve) => setTimeout(resolve, time * 1000));

async function md5(text: string): Promise<string> {
  const bytes = new TextEncoder().encode(text);
  const { createHash } = await import("node:crypto");
  return createHash("md5").update(bytes).digest("hex");
}

for (const backend of backends) {
  const test = (what: string, fn: (t: Deno.TestContext) => Promise<void>) =>
    Deno.test({ name: `boot on ${backend}: ${what}`, ignore, fn });

  const boot = async (options: MachineOptions): Promise<Machine> => {
    const machine = await Machine.create({
      backend,
      disks: [await demoDisk()],
      ephemeral: true,
      memory: "512M",
      ...options,
    });
    machine.start();
    return machine;
  };

  test("a session", async (t) => {
    await using machine = await boot({});
    const began = seconds();
    const shell = await GuestShell.login(machine, `${BOOT}s`);
    console.error(`  demo disk on ${backend}: a shell after ${(seconds() - began).toFixed(1)} s`);

    await t.step("the kernel has nothing to complain of", async () => {
      const log = await shell.run("dmesg");
      assert.match(log, /Linux version 6/);
      assert.deepEqual(complaints(log), []);
      const own = await shell.run("cat /sys/devices/system/clocksource/clocksource0/current_clocksource");
      assert.match(own, /^(tsc|kvm-clock)\n/);
    });

    await t.step("an idle guest leaves the host alone", async () => {
      // The shell's own work is over.
      await pause(1);
      const use = async () => {
        const before = cpuSeconds();
        const from = seconds();
        await pause(10);
        return (cpuSeconds() - before) / (seconds() - from);
      };
      // V8 goes on compiling for a while in the background: on a busy machine that is later over.
      const shares: number[] = [];
      do shares.push(await use()); while (shares.at(-1)! >= 0.02 && shares.length < 3);
      const words = shares.map((share) => `${(share * 100).toFixed(1)} %`).join(", ");
      assert.ok(shares.at(-1)! < 0.02, `an idle guest uses ${words} of a core`);
    });

    await t.step("timers are on time", async () => {
      const slept = async (time: number) => {
        const from = seconds();
        await shell.run(`sleep ${time}`);
        return seconds() - from;
      };
      // What the shell and the console take, and a host that is busy, is not the timer's.
      const none = Math.min(await slept(0), await slept(0), await slept(0));
      const times: number[] = [];
      do times.push(await slept(1)); while (times.at(-1)! - none >= 1.05 && times.length < 15);
      const words = times.map((one) => one.toFixed(3)).join(", ");
      assert.ok(times.every((one) => one >= 1), `sleep 1 took ${words} s`);
      assert.ok(times.at(-1)! - none < 1.05, `sleep 1 took ${words} s, sleep 0 ${none.toFixed(3)}`);
    });

    await t.step("clocks do not drift under load", async () => {
      const ask = async () => {
        const from = seconds();
        const guest = Number((await shell.run("cat /proc/uptime")).split(" ")[0]);
        return { guest, from, to: seconds() };
      };
      // The guest looked at some time between the question and the answer: the quickest of ten says it best.
      const uptime = async () => {
        let best = await ask();
        for (let i = 1; i < 10; i++) {
          const next = await ask();
          if (next.to - next.from < best.to - best.from) best = next;
        }
        return best;
      };
      await shell.run("(while :; do md5sum /bin/busybox; done >/dev/null) & echo $! >/tmp/load");
      const first = await uptime();
      await pause(10);
      const last = await uptime();
      await shell.run("kill $(cat /tmp/load)");
      const guest = last.guest - first.guest;
      const [least, most] = [last.from - first.to, last.to - first.from];
      const words = `${guest.toFixed(2)} s in the guest are ${least.toFixed(2)} to ${most.toFixed(2)} s here`;
      assert.ok(guest > 0.98 * least && guest < 1.02 * most, words);
      const now = () => Date.now() / 1000;
      const before = now();
      const date = Number(await shell.run("date +%s"));
      assert.ok(date > before - 2 && date < now() + 2, `the guest's date is ${date}, here it is ${now()}`);
    });

    await t.step("what is typed fast is not lost", async () => {
      const lines = Array.from(
        { length: 300 },
        (_, i) => `line ${i} ${"abcdefghijklmnopqrstuvwxyz".repeat(1 + i % 2)}`,
      );
      const typed = lines.join("\n") + "\n";
      await machine.console.sendLine("echo ready; cat >/tmp/typed");
      await machine.console.expect("ready");
      await machine.console.send(typed + "\x04");
      assert.equal((await shell.run("md5sum </tmp/typed")).split(" ")[0], await md5(typed));
    });

    await t.step("a megabyte of output arrives, complete and in order", async () => {
      const from = seconds();
      const output = await shell.run("seq 1 150000", `${BOOT}s`);
      assert.equal(output, Array.from({ length: 150_000 }, (_, i) => `${i + 1}\n`).join(""));
      const rate = output.length / 1e6 / (seconds() - from);
      console.error(`  console output on ${backend}: ${rate.toFixed(2)} MB/s`);
    });

    await t.step("it reboots", async () => {
      await machine.console.sendLine("reboot");
      const again = await GuestShell.login(machine, `${BOOT}s`);
      assert.ok(Number((await again.run("cat /proc/uptime")).split(" ")[0]) < BOOT);
      assert.equal(machine.stats().reboots, 1);
    });

    await t.step("the power button ends it", async () => {
      assert.deepEqual(await machine.shutdown({ timeout: "60s" }), {
        reason: "poweroff",
        message: "the guest powered off",
      });
    });
  });

  test("two vCPUs and memory above 4 GiB", async () => {
    await using machine = await boot({ cpus: 2, memory: "5G" });
    const shell = await GuestShell.login(machine, `${BOOT}s`);
    assert.equal(await shell.run("nproc"), "2\n");
    const total = Number((await shell.run("cat /proc/meminfo")).match(/MemTotal: +(\d+) kB/)?.[1]) / 2 ** 20;
    assert.ok(total > 4.6 && total < 5, `the guest sees ${total.toFixed(2)} GiB`);
    // Linux gives programs its highest memory first, so this runs above 4 GiB.
    const sums = await shell.run("(md5sum </bin/busybox & md5sum </bin/busybox & wait) | sort -u | wc -l");
    assert.equal(sums.trim(), "1", "both vCPUs compute the same");
    const log = await shell.run("dmesg");
    assert.deepEqual(complaints(log), []);
    assert.equal((await machine.shutdown({ timeout: "60s" })).reason, "poweroff");
  });
}
