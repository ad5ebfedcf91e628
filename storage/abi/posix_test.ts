/** Every constant and layout against the C compiler and its headers. */
import assert from "node:assert/strict";
import { needs } from "../../tests/skip.ts";
import { has, run, TemporaryFolder } from "../test_support.ts";
import * as abi from "./posix.ts";

const HEADERS = ["errno.h", "fcntl.h", "limits.h", "linux/falloc.h", "linux/fs.h", "sys/stat.h"];

Deno.test({
  name: "file calls: constants and struct layouts equal the C compiler's",
  ignore: needs(Deno.build.os === "linux" && has("gcc"), "file calls' constants", "needs Linux and gcc"),
  fn: () => {
    const expected: Record<string, number> = {};
    for (const [name, value] of Object.entries(abi)) if (typeof value === "number") expected[name] = value;
    assert(Object.keys(expected).length > 40);
    expected["sizeof(struct flock)"] = abi.FLOCK.size;
    expected["offsetof(struct flock, l_type)"] = abi.FLOCK.type;
    expected["offsetof(struct flock, l_whence)"] = abi.FLOCK.whence;
    expected["offsetof(struct flock, l_start)"] = abi.FLOCK.start;
    expected["offsetof(struct flock, l_len)"] = abi.FLOCK.length;
    expected["offsetof(struct flock, l_pid)"] = abi.FLOCK.pid;
    expected["sizeof(struct statx)"] = abi.STATX.size;
    expected["offsetof(struct statx, stx_mode)"] = abi.STATX.mode;
    expected["offsetof(struct statx, stx_size)"] = abi.STATX.fileSize;
    expected["offsetof(struct statx, stx_blocks)"] = abi.STATX.blocks;
    expected["offsetof(struct statx, stx_rdev_major)"] = abi.STATX.rdevMajor;
    expected["offsetof(struct statx, stx_rdev_minor)"] = abi.STATX.rdevMinor;
    expected["sizeof(off_t)"] = 8;

    using folder = new TemporaryFolder();
    const lines = Object.keys(expected).map((name) => `printf("%llu\\n", (unsigned long long)(${name}));`);
    Deno.writeTextFileSync(
      folder.file("constants.c"),
      "#define _GNU_SOURCE\n#include <stdio.h>\n#include <stddef.h>\n" +
        HEADERS.map((header) => `#include <${header}>\n`).join("") + `int main(void) {\n${lines.join("\n")}\n}\n`,
    );
    run("gcc", "-o", folder.file("constants"), folder.file("constants.c"));
    const values = run(folder.file("constants")).trim().split("\n").map(Number);
    assert.deepEqual(Object.fromEntries(Object.keys(expected).map((name, i) => [name, values[i]])), expected);
  },
});
