// Runs the ONNX files that `python -m lpa_core export --format onnx` writes, one image at a time.
// The 3x3 convolutions, where the time goes, are done four numbers at a time in WebAssembly; the
// module is assembled below, so that there is nothing to fetch: it works from a file as well.
// benchmarks/engine.mjs times it beside onnxruntime-web, whose runtime has hundreds of times its bytes.
"use strict";
window.lpaEngine = (() => {
  // ------------------------------------------------------------------ the file (protobuf)

  /** Fields of a protobuf message: {number: [value, …]}, values are numbers or bytes. */
  function fields(bytes) {
    const found = {};
    let at = 0;
    const varint = () => {
      let value = 0n;
      for (let shift = 0n; ; shift += 7n) {
        const byte = bytes[at++];
        if (byte === undefined) throw new Error("the file ends early");
        value |= BigInt(byte & 127) << shift;
        if (byte < 128) return Number(BigInt.asIntN(64, value));
      }
    };
    while (at < bytes.length) {
      const key = varint();
      const kind = key & 7;
      let value;
      if (kind === 0) value = varint();
      else if (kind === 2) {
        const length = varint();
        if (length < 0 || at + length > bytes.length) throw new Error("the file ends early");
        value = bytes.subarray(at, (at += length));
      } else if (kind === 5) value = bytes.subarray(at, (at += 4));
      else if (kind === 1) value = bytes.subarray(at, (at += 8));
      else throw new Error("this is no ONNX file");
      (found[key >> 3] ??= []).push(value);
    }
    return found;
  }

  const words = (bytes) => new TextDecoder().decode(bytes);
  const view = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

  /** Numbers of a repeated field, packed or not. */
  function integers(values = []) {
    return values.flatMap((value) => {
      if (typeof value === "number") return [value];
      const wrapped = new Uint8Array(value.length * 2); // each as a field of its own
      let to = 0;
      let start = true;
      for (const byte of value) {
        if (start) wrapped[to++] = 8;
        wrapped[to++] = byte;
        start = byte < 128;
      }
      return fields(wrapped.subarray(0, to))[1] ?? [];
    });
  }

  const tensor = (dims, data) => ({ dims, data });

  function readTensor(bytes) {
    const said = fields(bytes);
    const dims = integers(said[1]);
    const kind = said[2][0];
    const count = dims.reduce((a, b) => a * b, 1);
    const raw = said[9] && view(said[9][0]);
    let data;
    if (kind === 1) {
      const packed = said[9]?.[0] ?? said[4][0];
      data = new Float32Array(packed.slice().buffer, 0, count);
    } else if (kind === 10 && raw) {
      data = window.lpaLab.halves(said[9][0], 0, count);
    } else if (kind === 7) {
      data = raw
        ? Array.from({ length: count }, (_, i) => Number(raw.getBigInt64(8 * i, true)))
        : integers(said[7]);
    } else throw new Error(`tensors of ONNX's type ${kind} are not supported`);
    return [said[8] ? words(said[8][0]) : "", tensor(dims, data)];
  }

  function readAttribute(bytes) {
    const said = fields(bytes);
    let value;
    if (said[5]) value = readTensor(said[5][0])[1];
    else if (said[8]) value = integers(said[8]);
    else if (said[4]) value = words(said[4][0]);
    else if (said[2]) value = view(said[2][0]).getFloat32(0, true);
    else if (said[3]) value = said[3][0];
    else value = integers(said[8]);
    return [words(said[1][0]), value];
  }

  function readModel(bytes) {
    const model = fields(bytes);
    if (!model[7]) throw new Error("this is no ONNX file");
    const graph = fields(model[7][0]);
    const nodes = (graph[1] ?? []).map((node) => {
      const said = fields(node);
      return {
        inputs: (said[1] ?? []).map(words),
        outputs: (said[2] ?? []).map(words),
        kind: words(said[4][0]),
        attributes: Object.fromEntries((said[5] ?? []).map(readAttribute)),
      };
    });
    const facts = (model[14] ?? []).map((entry) => {
      const said = fields(entry);
      return [words(said[1][0]), said[2] ? words(said[2][0]) : ""];
    });
    return {
      nodes,
      values: Object.fromEntries((graph[5] ?? []).map(readTensor)),
      outputs: (graph[12] ?? []).map((info) => words(fields(info)[1][0])),
      facts: Object.fromEntries(facts),
    };
  }

  // ----------------------------------------------------- the 3x3 convolution (WebAssembly)

  /** Bytes of a module with one function: see `convolve` for its arguments. */
  function assemble() {
    const unsigned = (n) => (n < 128 ? [n] : [(n & 127) | 128, ...unsigned(n >>> 7)]);
    const signed = (n) =>
      n >= -64 && n < 64 ? [n & 127] : [(n & 127) | 128, ...signed(n >> 7)];
    const section = (id, content) => [id, ...unsigned(content.length), ...content];
    const text = (s) => [s.length, ...new TextEncoder().encode(s)];
    const names = ["input", "plane", "row", "channels", "weights", "bias", "output"];
    names.push("outPlane", "outRow", "height", "blocks", "groups"); // the arguments
    const inner = ["y", "x", "c", "p", "q", "r1", "r2", "o"];
    const vectors = ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "a", "b", "w"];
    const all = [...names, ...inner, ...vectors];
    const get = (name) => [0x20, ...unsigned(all.indexOf(name))];
    const set = (name, ...code) => [...code.flat(), 0x21, ...unsigned(all.indexOf(name))];
    const number = (n) => [0x41, ...signed(n)];
    const add = (a, b) => [...a, ...b, 0x6a];
    const times = (a, b) => [...a, ...b, 0x6c];
    const load = (from, offset) => [...get(from), 0xfd, 0x00, 0, ...unsigned(offset)];
    const splat = (from, offset) => [...get(from), 0xfd, 0x09, 2, ...unsigned(offset)];
    const store = (offset, name) => [...get("o"), ...get(name), 0xfd, 0x0b, 0, offset];
    const loop = (body, test) => [0x03, 0x40, ...body.flat(), ...test, 0x0d, 0, 0x0b];
    const below = (name, end) => [...get(name), ...get(end), 0x49];
    const step = (name, by) => set(name, add(get(name), by));
    const group = [0, 1, 2, 3];
    // sum += weight * input, for 4 output channels and 8 positions of a row
    const tap = (row, kx, i) => [
      ...set("a", load(row, 4 * kx)),
      ...set("b", load(row, 4 * kx + 16)),
      ...group.flatMap((k) => [
        ...set("w", splat("q", 16 * i + 4 * k)),
        ...["a", "b"].flatMap((side, j) => {
          const product = [...get("w"), ...get(side), 0xfd, 0xe6, 0x01];
          return set(`s${2 * k + j}`, get(`s${2 * k + j}`), product, [0xfd, 0xe4, 0x01]);
        }),
      ]),
    ];
    const channel = [
      set("r1", add(get("p"), get("row"))),
      set("r2", add(get("r1"), get("row"))),
      ...["p", "r1", "r2"].flatMap((row, ky) => [0, 1, 2].map((kx) => tap(row, kx, 3 * ky + kx))),
      step("p", get("plane")),
      step("q", number(144)),
      step("c", number(-1)),
    ];
    const place = (start, row) => add(get(start), add(times(get("y"), get(row)), times(get("x"), number(32))));
    const block = [
      ...group.flatMap((k) => [0, 1].map((j) => set(`s${2 * k + j}`, splat("bias", 4 * k)))),
      set("p", place("input", "row")),
      set("q", get("weights")),
      set("c", get("channels")),
      loop(channel, get("c")),
      set("o", place("output", "outRow")),
      ...group.flatMap((k) => [
        store(0, `s${2 * k}`),
        store(16, `s${2 * k + 1}`),
        step("o", get("outPlane")),
      ]),
      step("x", number(1)),
    ];
    const line = [set("x", number(0)), loop(block, below("x", "blocks")), step("y", number(1))];
    const body = loop(
      [
        set("y", number(0)),
        loop(line, below("y", "height")),
        set("weights", get("q")),
        step("bias", number(16)),
        step("output", times(get("outPlane"), number(4))),
        step("groups", number(-1)),
      ],
      get("groups"),
    );
    const locals = [2, ...[inner.length, 0x7f], ...[vectors.length, 0x7b]];
    const code = [...locals, ...body, 0x0b];
    return Uint8Array.from([
      ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
      ...section(1, [1, 0x60, names.length, ...names.map(() => 0x7f), 0]),
      ...section(2, [1, ...text("m"), ...text("m"), 2, 0, 1]),
      ...section(3, [1, 0]),
      ...section(7, [1, ...text("f"), 0, 0]),
      ...section(10, [1, ...unsigned(code.length), ...code]),
    ]);
  }

  /** Memory of one network's convolutions; null where the browser has no SIMD. */
  async function makeKernel() {
    const code = assemble();
    if (typeof WebAssembly !== "object" || !WebAssembly.validate(code)) return null;
    const memory = new WebAssembly.Memory({ initial: 1 });
    const { instance } = await WebAssembly.instantiate(code, { m: { m: memory } });
    let end = 64;
    const reserve = (bytes) => {
      const start = end;
      end += Math.ceil(bytes / 16) * 16;
      const missing = end - memory.buffer.byteLength;
      if (missing > 0) memory.grow(Math.ceil(missing / 65536));
      return start;
    };
    const floats = (start, count) => new Float32Array(memory.buffer, start, count);
    return { run: instance.exports.f, reserve, floats, input: null, output: null };
  }

  /** Weights (K, C, 3, 3) laid out as the kernel reads them: 4 output channels side by side. */
  function pack(kernel, weights, bias) {
    const [outputs, inputs] = weights.dims;
    const groups = Math.ceil(outputs / 4);
    const at = kernel.reserve(groups * inputs * 144);
    const biasAt = kernel.reserve(groups * 16);
    const packed = kernel.floats(at, groups * inputs * 36).fill(0);
    for (let k = 0; k < outputs; k++)
      for (let c = 0; c < inputs; c++)
        for (let i = 0; i < 9; i++)
          packed[((k >> 2) * inputs + c) * 36 + i * 4 + (k & 3)] = weights.data[(k * inputs + c) * 9 + i];
    kernel.floats(biasAt, groups * 4).fill(0).set(bias);
    return { at, biasAt, groups, outputs, inputs };
  }

  /** A 3x3 convolution with a border of zeros: (1, C, H, W) -> (1, K, H, W). */
  function convolve(kernel, packed, x) {
    const [, channels, height, width] = x.dims;
    const wide = Math.ceil(width / 8) * 8;
    const row = wide + 4;
    const plane = (height + 2) * row;
    const size = wide * height;
    kernel.scratch ??= new Map();
    const key = `${channels} ${height} ${width} ${packed.groups}`;
    if (!kernel.scratch.has(key)) {
      // room behind the last row: blocks of 8 positions read beyond narrow ones
      const input = kernel.reserve(4 * (channels * plane + 32));
      kernel.scratch.set(key, { input, output: kernel.reserve(16 * packed.groups * size) });
      kernel.floats(input, channels * plane + 32).fill(0);
    }
    const { input, output } = kernel.scratch.get(key);
    const padded = kernel.floats(input, channels * plane);
    for (let c = 0; c < channels; c++)
      for (let y = 0; y < height; y++) {
        const from = (c * height + y) * width;
        padded.set(x.data.subarray(from, from + width), c * plane + (y + 1) * row + 1);
      }
    const sizes = [4 * plane, 4 * row, channels, packed.at, packed.biasAt, output];
    kernel.run(input, ...sizes, 4 * size, 4 * wide, height, wide / 8, packed.groups);
    const got = kernel.floats(output, packed.groups * 4 * size);
    const data = new Float32Array(packed.outputs * height * width);
    for (let i = 0; i < packed.outputs * height; i++)
      data.set(got.subarray(i * wide, i * wide + width), i * width);
    return tensor([1, packed.outputs, height, width], data);
  }

  // -------------------------------------------------------------------------- operators

  const product = (dims) => dims.reduce((a, b) => a * b, 1);
  const wrap = (axis, rank) => (axis < 0 ? axis + rank : axis);

  /** An operation on two tensors whose axes of length 1 are repeated. */
  function broadcast(a, b, f) {
    const rank = Math.max(a.dims.length, b.dims.length);
    const grown = [a, b].map((t) => [...Array(rank - t.dims.length).fill(1), ...t.dims]);
    const dims = grown[0].map((n, i) => (n === 1 ? grown[1][i] : n));
    const strides = grown.map((own) => {
      let step = 1;
      const found = [];
      for (let i = rank - 1; i >= 0; i--) {
        found[i] = own[i] === 1 ? 0 : step;
        step *= own[i];
      }
      return found;
    });
    const data = new Float32Array(product(dims));
    const at = Array(rank).fill(0);
    let [p, q] = [0, 0];
    for (let i = 0; i < data.length; i++) {
      data[i] = f(a.data[p], b.data[q]);
      for (let axis = rank - 1; axis >= 0; axis--) {
        p += strides[0][axis];
        q += strides[1][axis];
        if (++at[axis] < dims[axis]) break;
        p -= strides[0][axis] * dims[axis];
        q -= strides[1][axis] * dims[axis];
        at[axis] = 0;
      }
    }
    return tensor(dims, data);
  }

  /** Any convolution, slowly: 1x1 ones, and all where there is no SIMD. */
  function plainConvolution(x, weights, bias, strides, pads) {
    const [, channels, height, width] = x.dims;
    const [outputs, , kh, kw] = weights.dims;
    const [sy, sx] = strides;
    const oh = Math.floor((height + pads[0] + pads[2] - kh) / sy) + 1;
    const ow = Math.floor((width + pads[1] + pads[3] - kw) / sx) + 1;
    const data = new Float32Array(outputs * oh * ow);
    for (let k = 0; k < outputs; k++) {
      const out = data.subarray(k * oh * ow, (k + 1) * oh * ow).fill(bias ? bias[k] : 0);
      for (let c = 0; c < channels; c++)
        for (let i = 0; i < kh; i++)
          for (let j = 0; j < kw; j++) {
            const w = weights.data[((k * channels + c) * kh + i) * kw + j];
            for (let y = 0; y < oh; y++) {
              const iy = y * sy + i - pads[0];
              if (iy < 0 || iy >= height) continue;
              for (let xo = 0; xo < ow; xo++) {
                const ix = xo * sx + j - pads[1];
                if (ix >= 0 && ix < width) out[y * ow + xo] += w * x.data[(c * height + iy) * width + ix];
              }
            }
          }
    }
    return tensor([1, outputs, oh, ow], data);
  }

  function pool(x, [kh, kw], [sy, sx], pads, ceil) {
    const [, channels, height, width] = x.dims;
    const count = (n, k, s, pad) => (ceil ? Math.ceil : Math.floor)((n + pad - k) / s) + 1;
    const oh = count(height, kh, sy, pads[0] + pads[2]);
    const ow = count(width, kw, sx, pads[1] + pads[3]);
    const data = new Float32Array(channels * oh * ow).fill(-Infinity);
    for (let c = 0; c < channels; c++)
      for (let y = 0; y < oh; y++)
        for (let xo = 0; xo < ow; xo++) {
          let best = -Infinity;
          for (let i = 0; i < kh; i++)
            for (let j = 0; j < kw; j++) {
              const [iy, ix] = [y * sy + i - pads[0], xo * sx + j - pads[1]];
              if (iy >= 0 && iy < height && ix >= 0 && ix < width)
                best = Math.max(best, x.data[(c * height + iy) * width + ix]);
            }
          data[(c * oh + y) * ow + xo] = best;
        }
    return tensor([1, channels, oh, ow], data);
  }

  function gemm(a, b, c, { transA = 0, transB = 0, alpha = 1, beta = 1 }) {
    const [rows, inner] = transA ? [a.dims[1], a.dims[0]] : a.dims;
    const columns = transB ? b.dims[0] : b.dims[1];
    const data = new Float32Array(rows * columns);
    for (let i = 0; i < rows; i++)
      for (let j = 0; j < columns; j++) {
        let sum = 0;
        for (let k = 0; k < inner; k++) {
          const left = a.data[transA ? k * rows + i : i * inner + k];
          sum += left * b.data[transB ? j * inner + k : k * columns + j];
        }
        data[i * columns + j] = alpha * sum;
      }
    const sum = tensor([rows, columns], data);
    return c ? broadcast(sum, c, (x, y) => x + beta * y) : sum;
  }

  /** Two operands, each letter once in each: "bn,bcn->bc". */
  function einsum(equation, a, b) {
    const [sides, result] = equation.replaceAll(" ", "").split("->");
    const [left, right] = sides.split(",");
    const letters = [...new Set(result + left + right)];
    const length = {};
    [...left].forEach((letter, i) => (length[letter] = a.dims[i]));
    [...right].forEach((letter, i) => (length[letter] = b.dims[i]));
    const strides = (names) => {
      const found = Object.fromEntries(letters.map((letter) => [letter, 0]));
      let step = 1;
      for (const letter of [...names].reverse()) {
        found[letter] = step;
        step *= length[letter];
      }
      return found;
    };
    const [p, q, r] = [left, right, result].map(strides);
    const dims = [...result].map((letter) => length[letter]);
    const sums = new Float64Array(product(dims));
    const walk = (depth, i, j, k) => {
      if (depth === letters.length) {
        sums[k] += a.data[i] * b.data[j];
        return;
      }
      const letter = letters[depth];
      for (let n = 0; n < length[letter]; n++)
        walk(depth + 1, i + n * p[letter], j + n * q[letter], k + n * r[letter]);
    };
    walk(0, 0, 0, 0);
    return tensor(dims, Float32Array.from(sums));
  }

  /** exp(x - max) / sum over the last axis, or its logarithm. */
  function softmax(x, axis, logarithm) {
    if (wrap(axis, x.dims.length) !== x.dims.length - 1) throw new Error("Softmax over an inner axis is not supported");
    const n = x.dims.at(-1);
    const data = new Float32Array(x.data.length);
    for (let start = 0; start < data.length; start += n) {
      const row = x.data.subarray(start, start + n);
      const top = row.reduce((a, b) => Math.max(a, b), -Infinity);
      let sum = 0;
      for (const value of row) sum += Math.exp(value - top);
      for (let i = 0; i < n; i++)
        data[start + i] = logarithm ? row[i] - top - Math.log(sum) : Math.exp(row[i] - top) / sum;
    }
    return tensor(x.dims, data);
  }

  function concatenate(parts, axis) {
    if (Array.isArray(parts[0].data)) {
      const data = parts.flatMap((part) => part.data);
      return tensor([data.length], data);
    }
    const at = wrap(axis, parts[0].dims.length);
    const outer = product(parts[0].dims.slice(0, at));
    const dims = [...parts[0].dims];
    dims[at] = parts.reduce((sum, part) => sum + part.dims[at], 0);
    const data = new Float32Array(product(dims));
    let to = 0;
    for (let i = 0; i < outer; i++)
      for (const part of parts) {
        const n = part.data.length / outer;
        data.set(part.data.subarray(i * n, (i + 1) * n), to);
        to += n;
      }
    return tensor(dims, data);
  }

  function reshape(x, shape, allowZero) {
    const dims = shape.map((n, i) => (n === 0 && !allowZero ? x.dims[i] : n));
    const open = dims.indexOf(-1);
    if (open >= 0) dims[open] = x.data.length / -product(dims);
    return tensor(dims, x.data);
  }

  function squeeze(x, axes) {
    const gone = axes ? axes.map((axis) => wrap(axis, x.dims.length)) : null;
    return tensor(x.dims.filter((n, i) => (gone ? !gone.includes(i) : n !== 1)), x.data);
  }

  function unsqueeze(x, axes) {
    const rank = x.dims.length + axes.length;
    const fresh = axes.map((axis) => wrap(axis, rank));
    const rest = [...x.dims];
    const dims = Array.from({ length: rank }, (_, i) => (fresh.includes(i) ? 1 : rest.shift()));
    return tensor(dims, x.data);
  }

  function slice(x, starts, ends, axes, steps) {
    const dims = [...x.dims];
    const from = dims.map(() => 0);
    axes.forEach((axis, i) => {
      if ((steps?.[i] ?? 1) !== 1) throw new Error("Slice with a step is not supported");
      const n = x.dims[axis];
      const clip = (at) => Math.min(n, Math.max(0, at < 0 ? at + n : at));
      from[axis] = clip(starts[i]);
      dims[axis] = clip(ends[i]) - from[axis];
    });
    if (dims.every((n, i) => n === x.dims[i])) return x;
    const data = new Float32Array(product(dims));
    const at = dims.map(() => 0);
    for (let i = 0; i < data.length; i++) {
      data[i] = x.data[at.reduce((sum, n, axis) => sum * x.dims[axis] + n + from[axis], 0)];
      for (let axis = dims.length - 1; axis >= 0 && ++at[axis] === dims[axis]; axis--) at[axis] = 0;
    }
    return tensor(dims, data);
  }

  const map = (x, f) => tensor(x.dims, x.data.map(f));
  const relu = (v) => (v > 0 ? v : 0);

  function normalise(x, gain, shift, mean, variance, epsilon) {
    const inner = product(x.dims.slice(2));
    const data = x.data.map((v, i) => {
      const c = Math.floor(i / inner) % x.dims[1];
      return ((v - mean.data[c]) * gain.data[c]) / Math.sqrt(variance.data[c] + epsilon) + shift.data[c];
    });
    return tensor(x.dims, data);
  }

  const OPERATORS = {
    Cast: (n, x) => x,
    Identity: (n, x) => x,
    Constant: (n) => n.value ?? tensor([n.value_ints?.length ?? 1], n.value_ints ?? [n.value_int]),
    Shape: (n, x) => {
      const dims = x.dims.slice(n.start ?? 0, n.end);
      return tensor([dims.length], dims);
    },
    Squeeze: (n, x, axes) => squeeze(x, axes?.data),
    Unsqueeze: (n, x, axes) => unsqueeze(x, axes.data),
    Slice: (n, x, from, to, axes, steps) =>
      slice(x, from.data, to.data, axes?.data ?? from.data.map((_, i) => i), steps?.data),
    Concat: (n, ...parts) => concatenate(parts, n.axis),
    Reshape: (n, x, shape) => reshape(x, shape.data, n.allowzero),
    Flatten: (n, x) => reshape(x, [1, -1], 1),
    Add: (n, a, b) => broadcast(a, b, (x, y) => x + y),
    Sub: (n, a, b) => broadcast(a, b, (x, y) => x - y),
    Mul: (n, a, b) => broadcast(a, b, (x, y) => x * y),
    Div: (n, a, b) => broadcast(a, b, (x, y) => x / y),
    Relu: (n, x) => map(x, relu),
    Tanh: (n, x) => map(x, Math.tanh),
    Sigmoid: (n, x) => map(x, (v) => 1 / (1 + Math.exp(-v))),
    MaxPool: (n, x) => pool(x, n.kernel_shape, n.strides ?? [1, 1], n.pads ?? [0, 0, 0, 0], n.ceil_mode),
    BatchNormalization: (n, x, g, b, mean, variance) => normalise(x, g, b, mean, variance, n.epsilon ?? 1e-5),
    Conv: (n, x, w, b) => {
      if (n.packed) return convolve(n.kernel, n.packed, x);
      return plainConvolution(x, w, b?.data, n.strides ?? [1, 1], n.pads ?? [0, 0, 0, 0]);
    },
    Gemm: (n, a, b, c) => gemm(a, b, c, n),
    Einsum: (n, a, b) => einsum(n.equation, a, b),
    Softmax: (n, x) => softmax(x, n.axis ?? -1, false),
    LogSoftmax: (n, x) => softmax(x, n.axis ?? -1, true),
  };

  // ---------------------------------------------------------------------------- networks

  /** Nodes whose inputs are all known are computed once. */
  function fold(model) {
    model.nodes = model.nodes.filter((node) => {
      if (!node.inputs.every((name) => !name || name in model.values)) return true;
      model.values[node.outputs[0]] = compute(node, model.values);
      return false;
    });
  }

  function compute(node, values) {
    const operator = OPERATORS[node.kind];
    if (!operator) throw new Error(`this page does not know ONNX's operator ${node.kind}`);
    return operator(node.attributes, ...node.inputs.map((name) => values[name]));
  }

  /** BatchNorm behind a convolution becomes part of its weights. */
  function mergeNorms(model) {
    const uses = {};
    for (const node of model.nodes) for (const name of node.inputs) uses[name] = (uses[name] ?? 0) + 1;
    const made = Object.fromEntries(model.nodes.map((node) => [node.outputs[0], node]));
    model.nodes = model.nodes.filter((norm) => {
      const conv = norm.kind === "BatchNormalization" && made[norm.inputs[0]];
      if (!conv || conv.kind !== "Conv" || uses[norm.inputs[0]] !== 1) return true;
      const [, gain, shift, mean, variance] = norm.inputs.map((name) => model.values[name]);
      const [, w, b] = conv.inputs.map((name) => model.values[name]);
      const epsilon = norm.attributes.epsilon ?? 1e-5;
      const factors = Float64Array.from(gain.data, (g, k) => g / Math.sqrt(variance.data[k] + epsilon));
      const each = w.data.length / factors.length;
      const bias = Float32Array.from(factors, (f, k) => ((b ? b.data[k] : 0) - mean.data[k]) * f + shift.data[k]);
      const names = [`${norm.outputs[0]}.w`, `${norm.outputs[0]}.b`];
      model.values[names[0]] = tensor(w.dims, w.data.map((v, i) => v * factors[Math.floor(i / each)]));
      model.values[names[1]] = tensor(b ? b.dims : [bias.length], bias);
      conv.inputs = [conv.inputs[0], ...names];
      conv.outputs = norm.outputs;
      return false;
    });
  }

  function packConvolutions(model, kernel) {
    for (const node of model.nodes) {
      if (node.kind !== "Conv") continue;
      const { strides = [1, 1], pads = [0, 0, 0, 0], dilations = [1, 1], group = 1 } = node.attributes;
      if (group !== 1 || Math.max(...dilations) > 1) throw new Error("grouped and dilated convolutions are not supported");
      const [, w, b] = node.inputs.map((name) => model.values[name]);
      const fits = w.dims[2] === 3 && w.dims[3] === 3 && pads.every((n) => n === 1) && strides.every((n) => n === 1);
      if (kernel && fits) Object.assign(node.attributes, { kernel, packed: pack(kernel, w, b?.data ?? []) });
    }
  }

  class Net {
    constructor(model) {
      this.model = model;
      const { facts } = model;
      this.classes = JSON.parse(facts.classes ?? "null");
      this.size = Number(facts.image_size ?? 32);
      this.facts = facts;
    }

    /** RGB in [0, 1], Float32Array of (3, S, S) -> logits and maps {name: {h, w, data}}. */
    run(pixels) {
      const values = { ...this.model.values, images: tensor([1, 3, this.size, this.size], pixels) };
      for (const node of this.model.nodes) values[node.outputs[0]] = compute(node, values);
      const maps = {};
      for (const name of this.model.outputs.slice(1)) {
        const [, h, w] = values[name].dims;
        maps[name] = { h, w, data: values[name].data };
      }
      return { logits: values[this.model.outputs[0]].data, maps };
    }
  }

  /** A network from the bytes of an ONNX file. */
  async function load(bytes) {
    const model = readModel(bytes);
    if (model.outputs[0] !== "logits" || !model.facts.classes)
      throw new Error("this ONNX file is none that `python -m lpa_core export --format onnx` wrote");
    for (const node of model.nodes)
      if (!(node.kind in OPERATORS)) throw new Error(`this page does not know ONNX's operator ${node.kind}`);
    fold(model);
    mergeNorms(model);
    packConvolutions(model, await makeKernel());
    return new Net(model);
  }

  return { load, softmax: (logits) => softmax(tensor([logits.length], logits), -1, false).data };
})();
