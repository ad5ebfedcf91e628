/** The own tests of sqlite and OpenSSL, run in a guest, find no error. */
import assert from "node:assert/strict";
import { probeBackends } from "../../mod.ts";
import { which } from "../guests/command.ts";
import { sourcesAvailable } from "../guests/source_package.ts";
import { needs } from "../skip.ts";
import { runSuite } from "./suites.ts";

const usable = (await probeBackends()).some(({ support }) => support.usable);
const tools = Deno.uid() === 0 && which("mmdebstrap") !== null && which("unshare") !== null;

/** By suite, the fewest tests that must have run; short: without HV_LONG. */
const SUITES = [
  { name: "sqlite", short: 5_000, long: 60_000 },
  // Its build alone takes ten minutes.
  { name: "openssl", short: null, long: 150 },
];
const long = Deno.env.has("HV_LONG");

for (const suite of SUITES) {
  const { name } = suite;
  const title = `${name}'s own tests in a guest`;
  Deno.test({
    name: title,
    ignore: needs(long || suite.short !== null, title, "takes long: deno task test --long") ||
      needs(usable, title, "no backend can run a stock kernel here: see hv doctor") ||
      needs(tools, title, "needs root, Debian's mmdebstrap and util-linux's unshare") ||
      needs(sourcesAvailable(), title, "needs apt with Debian 12's debian.sources"),
    fn: async () => {
      const least = long ? suite.long : suite.short!;
      const { code, output, counts, dmesg } = await runSuite(name, { length: long ? "long" : "short", limit: 14_400 });
      assert.ok(counts, `it did not come to its end:\n${output.slice(-3000)}`);
      assert.deepEqual(counts.failures, []);
      assert.equal(counts.failed, 0);
      assert.equal(code, 0, output.slice(-3000));
      assert.ok(counts.passed >= least, `${counts.passed} tests ran`);
      assert.doesNotMatch(dmesg, /traps:|segfault|Oops|[Cc]all [Tt]race|WARNING:|BUG:/);
    },
  });
}
