// Run in the guest and on the host; prints what must be equal.
const long = Deno.args[0] !== "short";
const hex = (bytes) => [...new Uint8Array(bytes)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
const encode = (text) => new TextEncoder().encode(text);

const text = Array.from({ length: 5000 }, (_, i) => `${i}:${Math.sin(i)}`).join(",");
for (const name of ["SHA-1", "SHA-256", "SHA-512"]) {
  console.log(name, hex(await crypto.subtle.digest(name, encode(text))));
}
const key = await crypto.subtle.importKey("raw", encode("0123456789abcdef"), "AES-GCM", false, ["encrypt"]);
const sealed = await crypto.subtle.encrypt({ name: "AES-GCM", iv: new Uint8Array(12) }, key, encode(text));
console.log("AES-GCM", hex(await crypto.subtle.digest("SHA-256", sealed)));

// Hot enough to be compiled and optimized.
function mandelbrot(size) {
  let inside = 0;
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      const cr = 3 * x / size - 2, ci = 2 * y / size - 1;
      let r = 0, i = 0, n = 0;
      while (r * r + i * i < 4 && n++ < 80) [r, i] = [r * r - i * i + cr, 2 * r * i + ci];
      inside = (inside * 31 + n) | 0;
    }
  }
  return inside;
}
console.log("mandelbrot", mandelbrot(long ? 300 : 60));
let [a, b] = [0n, 1n];
for (let i = 0; i < (long ? 20000 : 3000); i++) [a, b] = [b, a + b];
console.log("fibonacci", hex(await crypto.subtle.digest("SHA-256", encode(a.toString()))));
const numbers = Array.from({ length: 20000 }, (_, i) => Math.imul(i, 2654435761) >>> (i % 20));
console.log("sort", hex(await crypto.subtle.digest("SHA-256", new Uint32Array(numbers.toSorted((x, y) => x - y)))));
console.log(
  "regexp",
  text.replace(/(\d)\.(\d{3})\d*(e-\d+)?/g, "$2$1").split(/[,:]/).filter((one) => /^-?1+\d*7$/.test(one)).length,
);
console.log("json", JSON.stringify(JSON.parse(JSON.stringify({ text, numbers }))).length);
console.log(
  "dates",
  new Date(Date.UTC(2026, 1, 29, 25, 61)).toISOString(),
  (0.1 + 0.2).toFixed(20),
  1e21 + 1,
  (255).toString(36),
);
// (module (func (export "f") (param i64) (result i64) local.get 0 i64.const 6364136223846793005 i64.mul i64.const 1 i64.add))
const wasm = [
  0,
  97,
  115,
  109,
  1,
  0,
  0,
  0,
  1,
  6,
  1,
  96,
  1,
  126,
  1,
  126,
  3,
  2,
  1,
  0,
  7,
  5,
  1,
  1,
  102,
  0,
  0,
  10,
  21,
  1,
  19,
  0,
  32,
  0,
  66,
];
wasm.push(0xad, 0xfe, 0xd5, 0xe4, 0xd4, 0x85, 0xfd, 0xa8, 0xd8, 0x0, 126, 66, 1, 124, 11);
const { f } = new WebAssembly.Instance(new WebAssembly.Module(new Uint8Array(wasm))).exports;
let x = 1n;
for (let i = 0; i < 1000; i++) x = f(x);
console.log("wasm", x);
const source = "onmessage = ({ data }) => { postMessage(data.map((one) => one * one)); self.close(); }";
const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })), { type: "module" });
worker.postMessage([1, 2, 3.5]);
console.log("worker", await new Promise((resolve) => worker.onmessage = ({ data }) => resolve(data)));
const child = await new Deno.Command("/bin/sh", { args: ["-c", "echo from the shell; exit 3"] }).output();
console.log("child", child.code, new TextDecoder().decode(child.stdout).trim());
