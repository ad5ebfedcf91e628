/** Each thing the probe can find, on a system made for it. */
import assert from "node:assert/strict";
import { needs } from "../../tests/skip.ts";
import { Errno, Kvm } from "./abi.ts";
import { probeKvm, type SystemView, thisSystem } from "./probe.ts";

const linux = Deno.build.os === "linux" && Deno.build.arch === "x86_64";

/** A directory with the files of a system in it, and a view of it. */
async function withSystem(
  files: Record<string, string>,
  view: Partial<SystemView>,
  action: (system: SystemView) => void | Promise<void>,
): Promise<void> {
  const directory = await Deno.makeTempDir({ prefix: "hv-kvm-probe-" });
  try {
    for (const [path, text] of Object.entries(files)) {
      const full = `${directory}/${path}`;
      await Deno.mkdir(full.slice(0, full.lastIndexOf("/")), { recursive: true });
      await Deno.writeTextFile(full, text);
    }
    await action({
      ...thisSystem(),
      os: "linux",
      architecture: "x86_64",
      device: `${directory}/dev/kvm`,
      cpuinfo: `${directory}/proc/cpuinfo`,
      modules: `${directory}/sys/module`,
      groups: `${directory}/etc/group`,
      ...view,
    });
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

const CPU = (flags: string) => ({ "proc/cpuinfo": `processor : 0\nflags\t\t: fpu sse2 ${flags}\nbugs :\n` });

const cases: {
  name: string;
  files: Record<string, string>;
  view?: Partial<SystemView>;
  reason: RegExp;
}[] = [
  { name: "not Linux", files: {}, view: { os: "darwin" }, reason: /not Linux/ },
  { name: "another architecture", files: {}, view: { architecture: "aarch64" }, reason: /x86-64/ },
  { name: "no virtualization in the CPU", files: CPU(""), reason: /neither VT-x nor AMD-V.*firmware.*nested/ },
  { name: "AMD without the module", files: CPU("svm"), reason: /sudo modprobe kvm_amd/ },
  { name: "Intel without the module", files: CPU("vmx"), reason: /sudo modprobe kvm_intel/ },
  {
    name: "the module without the device",
    files: { ...CPU("vmx"), "sys/module/kvm_intel/refcnt": "0" },
    reason: /kvm_intel is loaded.*container/,
  },
  { name: "a file that is no device", files: { ...CPU("vmx"), "dev/kvm": "" }, reason: /is not KVM/ },
  { name: "no permission", files: CPU("vmx"), view: { open: () => -Errno.EACCES }, reason: /udev/ },
  {
    name: "no permission, with the group",
    files: { ...CPU("vmx"), "etc/group": "root:x:0:\nkvm:x:106:\n" },
    view: { open: () => -Errno.EACCES },
    reason: /usermod -aG kvm \$USER/,
  },
  { name: "forbidden", files: CPU("vmx"), view: { open: () => -Errno.EPERM }, reason: /container/ },
  { name: "busy", files: CPU("vmx"), view: { open: () => -Errno.EBUSY }, reason: /another hypervisor/ },
  { name: "no file system", files: {}, view: { cpuinfo: "/nonexistent" }, reason: /neither VT-x nor AMD-V/ },
];

for (const { name, files, view, reason } of cases) {
  Deno.test({
    name: `KVM probe: ${name}`,
    ignore: needs(linux, `KVM probe: ${name}`, "needs Linux on x86-64"),
    fn: () =>
      withSystem(files, view ?? {}, (system) => {
        const support = probeKvm(system);
        assert.equal(support.usable, false);
        assert.equal(support.restricted, false);
        assert.equal(support.maxVcpus, 0);
        assert.match([support.reason, support.advice ?? ""].join(": "), reason);
        // It stands in the one line that `hv run` says of its choice.
        assert.ok(support.reason.replaceAll(system.device, "/dev/kvm").length < 100, support.reason);
      }),
  });
}

/** /dev/null in place of the device: opening works, and the answers are made here. */
const answering = (answers: Record<number, number>, version = 12): Partial<SystemView> => ({
  device: "/dev/null",
  ioctl: (_fd, request, argument) => request === Kvm.GET_API_VERSION ? version : answers[argument] ?? 0,
});

Deno.test({
  name: "KVM probe: an API that is too old",
  ignore: needs(linux, "KVM probe: too old", "needs Linux on x86-64"),
  fn: async () => {
    await withSystem(
      CPU("svm"),
      answering({}, 11),
      (system) => assert.match(probeKvm(system).reason, /too old \(API 11\)/),
    );
    await withSystem(CPU("svm"), answering({}), (system) => {
      const { reason, advice } = probeKvm(system);
      assert.match(reason, /without immediate_exit/);
      assert.match(advice ?? "", /4\.13/);
    });
  },
});

Deno.test({
  name: "KVM probe: never throws, whatever the system does",
  fn: () => {
    const broken = {
      ...thisSystem(),
      os: "linux",
      architecture: "x86_64",
      open: () => {
        throw new Error("no libc");
      },
    };
    assert.match(probeKvm(broken).reason, /no libc/);
  },
});

const here = probeKvm();
const kvmOpens = here.usable || here.restricted;

Deno.test({
  name: "KVM probe: this machine's KVM, and its PVM module by name",
  ignore: needs(kvmOpens, "KVM probe: a KVM that opens", here.reason),
  fn: async () => {
    assert.ok(here.maxVcpus >= 1 && here.maxMemory > 0 && here.physicalAddressBits >= 36);
    assert.deepEqual(here.architectures, ["x86_64"]);
    const device = { device: "/dev/kvm" };
    await withSystem({ ...CPU(""), "sys/module/kvm_pvm/refcnt": "1" }, device, (system) => {
      const support = probeKvm(system);
      assert.deepEqual([support.usable, support.restricted], [false, true]);
      assert.match(support.reason, /PVM-aware kernels/);
    });
    await withSystem(CPU("svm"), device, (system) => {
      const support = probeKvm(system);
      assert.deepEqual([support.usable, support.restricted], [true, false]);
      assert.match(support.reason, /AMD-V/);
    });
  },
});

const root = linux && Deno.uid() === 0;

Deno.test({
  name: "KVM probe: a real device node that the user may not open",
  ignore: needs(kvmOpens && root, "KVM probe as another user", "needs root and a KVM that opens"),
  fn: async () => {
    const directory = await Deno.makeTempDir({ prefix: "hv-kvm-node-" });
    try {
      await Deno.chmod(directory, 0o755);
      const node = `${directory}/kvm`;
      const { rdev } = await Deno.stat("/dev/kvm");
      const [major, minor] = [`${rdev! >> 8}`, `${rdev! & 0xff}`];
      const mknod = await new Deno.Command("mknod", { args: ["-m", "600", node, "c", major, minor] }).output();
      assert.ok(mknod.success, new TextDecoder().decode(mknod.stderr));
      // A test cannot change its own user, so libc's open and errno are asked in a process that is nobody.
      const script = `${directory}/open.ts`;
      await Deno.writeTextFile(
        script,
        `const c = Deno.dlopen("libc.so.6", { open: { parameters: ["buffer", "i32"], result: "i32" },
           setgroups: { parameters: ["usize", "pointer"], result: "i32" },
           setgid: { parameters: ["u32"], result: "i32" }, setuid: { parameters: ["u32"], result: "i32" } }).symbols;
         const { probeKvm, thisSystem } = await import(${JSON.stringify(new URL("probe.ts", import.meta.url).href)});
         c.setgroups(0n, null); c.setgid(65534); c.setuid(65534);
         console.log(JSON.stringify(probeKvm({ ...thisSystem(), device: Deno.args[0] })));`,
      );
      const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
        args: ["run", "-A", "--no-check", script, node],
      }).output();
      const text = new TextDecoder().decode(stdout);
      assert.ok(text, new TextDecoder().decode(stderr));
      const support = JSON.parse(text);
      assert.equal(support.usable, false);
      assert.match(`${support.reason}: ${support.advice}`, /no permission.*(usermod|groupadd)/);
    } finally {
      await Deno.remove(directory, { recursive: true });
    }
  },
});
