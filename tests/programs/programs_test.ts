/** Real programs compute in a guest what they compute on this machine's CPU: the short form of each check. */
import assert from "node:assert/strict";
import { probeBackends } from "../../mod.ts";
import { which } from "../guests/command.ts";
import { needs } from "../skip.ts";
import { CHECK_NAMES, type CheckReport, difference, runChecks } from "./run.ts";

const usable = (await probeBackends()).some(({ support }) => support.usable);
const tools = Deno.uid() === 0 && which("mmdebstrap") !== null && which("unshare") !== null;
const native = Deno.build.os === "linux" && Deno.build.arch === "x86_64";
const ignore = needs(usable, "real programs in a guest", "no backend can run a stock kernel here: see hv doctor") ||
  needs(native, "real programs in a guest", "what they compute is compared with an x86-64 Linux host") ||
  needs(tools, "real programs in a guest", "needs root, Debian's mmdebstrap and util-linux's unshare");

Deno.test({
  name: "real programs in a guest",
  ignore,
  fn: async (t) => {
    let report: CheckReport | undefined;
    await t.step("a Debian userland boots, runs them all and ends", async () => {
      report = await runChecks({ length: "short", limit: 600 });
    });
    for (const name of CHECK_NAMES) {
      await t.step(`${name}: as on this machine's CPU`, () => {
        const result = report?.results.find((one) => one.name === name);
        assert.ok(result, "it ended");
        assert.equal(result.code, 0);
        const expected = report!.expected.get(name)!;
        assert.ok(expected.length > 100, "the host's own run printed something");
        assert.equal(difference(expected, report!.actual.get(name)!), "");
      });
    }
    await t.step("the guest's kernel saw no fault", () => {
      assert.ok(report!.dmesg.length > 1000);
      assert.doesNotMatch(report!.dmesg, /traps:|segfault|Oops|[Cc]all [Tt]race|WARNING:|BUG:/);
    });
  },
});
