/** 32-bit guests: Debian's i386 kernels, with and without PAE, boot to a busybox userland and power off. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { needs } from "../skip.ts";
import { which } from "./command.ts";
import { busyboxEntries, cpio } from "./initramfs.ts";
import { debianKernel } from "./kernel.ts";

const HV = fileURLToPath(new URL("../../cli/main.ts", import.meta.url));
const SECONDS = 280;

const INIT = `#!/bin/sh
mount -t proc proc /proc
echo "kernel: $(uname -rm)"
grep -m1 -o -w pae /proc/cpuinfo
echo "product: $((123456789 * 987))"
for i in 1 2 3; do (echo "child $i: $(echo $i $i + p | dc)"); done
poweroff -f
`;

/** The one without PAE in the long form only. */
const flavours = Deno.env.has("HV_LONG") ? ["686", "686-pae"] as const : ["686-pae"] as const;

for (const flavour of flavours) {
  Deno.test({
    name: `hv run: Debian's ${flavour} kernel boots to a 32-bit userland and powers off`,
    ignore: needs(which("apt-get") !== null, `Debian's ${flavour} kernel`, "needs Debian's packages"),
    async fn() {
      const folder = await Deno.makeTempDir({ prefix: "hv-i386-" });
      try {
        const kernel = await debianKernel(flavour);
        const initrd = cpio([...await busyboxEntries("i386"), { path: "init", data: INIT, mode: 0o755 }]);
        await Deno.writeFile(`${folder}/initrd`, initrd);
        const line = "console=ttyS0 panic=-1 quiet";
        const files = ["--kernel", kernel.vmlinuz, "--initrd", `${folder}/initrd`, "--append", line];
        const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
          args: ["run", "-A", "--quiet", HV, "run", ...files, "--timeout", `${SECONDS}s`],
          stdin: "null",
        }).output();
        const text = new TextDecoder().decode(stdout);
        const told = `${text.slice(-2000)}\n${new TextDecoder().decode(stderr)}`;
        assert.ok(text.includes(`kernel: ${kernel.release} i686`), told);
        assert.match(text, /^pae\r?$/m, told);
        assert.ok(text.includes("product: 121851850743"), told);
        for (const i of [1, 2, 3]) assert.ok(text.includes(`child ${i}: ${2 * i}`), told);
        assert.equal(code, 0, told);
      } finally {
        await Deno.remove(folder, { recursive: true });
      }
    },
  });
}
