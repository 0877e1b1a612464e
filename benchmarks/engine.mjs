// The page's own engine beside onnxruntime-web, in one thread, on the same images.
//
//     npm install onnxruntime-web@1.20.1    (in any folder; none of it goes into the book)
//     python -m lpa_core export weights/NAME.safetensors NAME.onnx --format onnx
//     node benchmarks/engine.mjs FOLDER/node_modules/onnxruntime-web NAME.onnx [images]
//
// Prints one line of JSON: bytes that a reader would fetch besides the network, milliseconds
// until the first answer, median milliseconds an image, and the largest difference of logits
// and maps between the two. They take turns, so that a busy machine is busy for both.
import { readFileSync, statSync } from "node:fs";
import { cpus } from "node:os";
import { join, resolve } from "node:path";
import { gzipSync } from "node:zlib";

const [folder, file, count = "40"] = process.argv.slice(2);
if (!file) {
  console.error("usage: node benchmarks/engine.mjs ONNXRUNTIME_WEB NAME.onnx [images]");
  process.exit(2);
}
// As in the page: lab.js first, for what the engine shares with the explorer.
globalThis.window = globalThis;
globalThis.document = { currentScript: { src: import.meta.url } };
const source = (name) => new URL(`../book/_static/lab/${name}.js`, import.meta.url);
for (const name of ["lab", "engine"]) (0, eval)(readFileSync(source(name), "utf-8"));
const dist = join(resolve(folder), "dist");
const { default: imported, ...named } = await import(join(dist, "ort.wasm.min.mjs"));
const ort = named.InferenceSession ? named : imported;
ort.env.wasm.numThreads = 1;

const bytes = readFileSync(file);
let start = performance.now();
const own = await window.lpaEngine.load(new Uint8Array(bytes));
const size = own.size;
let seed = 1; // Park and Miller's generator: the same images each time
const random = () => (seed = (48271 * seed) % 2147483647) / 2147483647;
const image = () => Float32Array.from({ length: 3 * size * size }, random);
own.run(image());
const ownStart = performance.now() - start;

start = performance.now();
const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
const theirs = async (pixels) =>
  session.run({ [session.inputNames[0]]: new ort.Tensor("float32", pixels, [1, 3, size, size]) });
await theirs(image());
const theirStart = performance.now() - start;

const times = { own: [], onnxruntime: [] };
let apart = 0;
for (let k = 0; k < Number(count); k++) {
  const pixels = image();
  start = performance.now();
  const seen = own.run(pixels);
  times.own.push(performance.now() - start);
  start = performance.now();
  const found = await theirs(pixels);
  times.onnxruntime.push(performance.now() - start);
  const pairs = [[seen.logits, found.logits.data]];
  for (const [name, map] of Object.entries(seen.maps)) pairs.push([map.data, found[name].data]);
  for (const [a, b] of pairs)
    for (let i = 0; i < a.length; i++) apart = Math.max(apart, Math.abs(a[i] - b[i]));
}
const median = (list) => list.sort((a, b) => a - b)[Math.floor(list.length / 2)];
const packed = (path) => gzipSync(readFileSync(path)).length;
const runtime = ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"];
console.log(JSON.stringify({
  network: file.split("/").pop(),
  network_bytes: statSync(file).size,
  images: Number(count),
  device: cpus()[0].model.trim(),
  node: process.version,
  bytes_gzipped: { own: packed(source("engine")), onnxruntime: runtime.reduce((n, f) => n + packed(join(dist, f)), 0) },
  first_answer_ms: { own: Math.round(ownStart), onnxruntime: Math.round(theirStart) },
  median_ms: { own: +median(times.own).toFixed(1), onnxruntime: +median(times.onnxruntime).toFixed(1) },
  largest_difference: apart,
}));
