/** A user's script, for the Windows lab: makes a machine of a disk, lets it run for a moment, and stops it. */
import { Machine } from "../../../mod.ts";

const messages: string[] = [];
await using machine = await Machine.create({
  disks: [{ path: Deno.args[0], ephemeral: true }],
  backend: "soft",
  memory: "256M",
  onMessage: (text) => messages.push(text),
});
machine.start();
await new Promise((resolve) => setTimeout(resolve, 2000));
await machine.pause();
machine.start();
await machine.stop();
const { message } = await machine.wait();
console.log([...messages, message].join("\n"));
