/** Every ioctl number, constant and offset against the C compiler and the kernel's headers. */
import assert from "node:assert/strict";
import { needs } from "../../tests/skip.ts";
import { C, check, cString, Errno, errno, Kvm, KvmStruct, libc, SigAction } from "./abi.ts";
import { KvmX64, KvmX64Struct } from "./x64_abi.ts";

function works(command: string): boolean {
  try {
    return new Deno.Command(command, { args: ["--version"], stdout: "null", stderr: "null" }).outputSync().success;
  } catch {
    return false;
  }
}

const x64 = Deno.build.arch === "x86_64";

Deno.test({
  name: "KVM ABI: numbers and layouts are the C compiler's",
  ignore: needs(Deno.build.os === "linux" && works("gcc"), "KVM ABI against <linux/kvm.h>", "needs Linux and gcc"),
  fn: async () => {
    const wanted = new Map<string, number>();
    const constants = (prefix: string, table: Record<string, number>) => {
      for (const [name, value] of Object.entries(table)) wanted.set(prefix + name, value);
    };
    const structs = (table: Record<string, Record<string, number>>) => {
      for (const [name, fields] of Object.entries(table)) {
        for (const [field, offset] of Object.entries(fields)) {
          wanted.set(field === "sizeof" ? `sizeof(struct ${name})` : `offsetof(struct ${name}, ${field})`, offset);
        }
      }
    };
    constants("", Errno);
    constants("", C);
    constants("KVM_", Kvm);
    structs(KvmStruct);
    structs({ sigaction: SigAction });
    if (x64) {
      constants("KVM_", KvmX64);
      structs(KvmX64Struct);
    }
    const directory = await Deno.makeTempDir({ prefix: "hv-kvm-abi-" });
    try {
      const lines = [...wanted.keys()].map((expression) => `  printf("%lld\\n", (long long)(${expression}));`);
      await Deno.writeTextFile(
        `${directory}/abi.c`,
        [
          "#define _GNU_SOURCE",
          ...["errno", "fcntl", "poll", "signal", "stddef", "stdio", "sys/eventfd", "sys/mman", "linux/kvm"]
            .map((header) => `#include <${header}.h>`),
          "int main(void) {",
          ...lines,
          "}",
        ].join("\n"),
      );
      const gcc = await new Deno.Command("gcc", { args: ["-o", `${directory}/abi`, `${directory}/abi.c`] }).output();
      assert.ok(gcc.success, new TextDecoder().decode(gcc.stderr));
      const run = await new Deno.Command(`${directory}/abi`).output();
      const values = new TextDecoder().decode(run.stdout).trim().split("\n").map(Number);
      assert.equal(values.length, wanted.size);
      const found = Object.fromEntries([...wanted.keys()].map((name, index) => [name, values[index]]));
      assert.deepEqual(Object.fromEntries(wanted), found);
    } finally {
      await Deno.remove(directory, { recursive: true });
    }
  },
});

Deno.test({
  name: "KVM ABI: errno is this thread's, in numbers and in words",
  ignore: needs(Deno.build.os === "linux", "errno through FFI", "needs Linux"),
  fn: () => {
    const missing = libc().open(cString("/nonexistent"), C.O_RDWR | C.O_CLOEXEC);
    assert.equal(missing, -1);
    assert.equal(errno(), Errno.ENOENT);
    assert.throws(() => check(libc().close(-1), "closing nothing"), /closing nothing: Bad file descriptor/);
  },
});
