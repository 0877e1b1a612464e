// What the interactive parts share: scripts that carry data, colours, elements.
"use strict";
window.lpaLab = (() => {
  const folder = new URL(".", document.currentScript.src).href;
  const waiting = {};
  const scripts = {};

  /** Load a script once: a file may load nothing else. */
  function load(path) {
    scripts[path] ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = folder + path;
      script.onload = resolve;
      script.onerror = () => {
        delete scripts[path];
        script.remove();
        reject(new Error("A file of this page could not be loaded: reload the page, or build the book again."));
      };
      document.head.append(script);
    });
    return scripts[path];
  }

  window.lpaData = (name, packed) => waiting[name](packed);

  async function unpack(packed) {
    const text = atob(packed);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  const kept = {};
  /** Bytes of data/NAME.js, fetched once. */
  function data(name) {
    kept[name] ??= (async () => {
      let packed;
      waiting[name] = (found) => (packed = found);
      await load(`data/${name}.js`);
      return unpack(packed);
    })();
    kept[name].catch(() => delete kept[name]);
    return kept[name];
  }

  let table = null;
  /** `count` numbers in half precision, the first at byte `at`, as a Float32Array. */
  function halves(bytes, at, count) {
    table ??= Float32Array.from({ length: 65536 }, (_, bits) => {
      const exponent = (bits >> 10) & 31;
      const rest = bits & 1023;
      const size = exponent ? (1 + rest / 1024) * 2 ** (exponent - 15) : rest * 2 ** -24;
      return bits & 0x8000 ? -size : size;
    });
    const found = new Float32Array(count);
    for (let i = 0; i < count; i++, at += 2) found[i] = table[bytes[at] | (bytes[at + 1] << 8)];
    return found;
  }

  /** An element: h("label", {for: "x"}, "text", child). Functions become listeners. */
  function h(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") made.addEventListener(name, value);
      else if (value !== false && value !== null) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null));
    return made;
  }

  let count = 0;
  /** A select with its label; `choices` are pairs (value, text). */
  function choice(label, choices, change) {
    const id = `lpa-${++count}`;
    const options = choices.map(([value, text]) => h("option", { value }, text));
    const select = h("select", { id, change: () => change(select.value) }, ...options);
    return { select, box: h("div", { class: "lpa-choice" }, h("label", { for: id }, label), select) };
  }

  /** A slider with its label and its value in sight. */
  function slider(label, { min, max, step, value, show = (v) => v.toFixed(1) }, change) {
    const id = `lpa-${++count}`;
    // what is spoken is the slider's own text: an <output> would be spoken as well
    const output = h("span", { class: "lpa-value", "aria-hidden": "true" }, show(value));
    const input = h("input", { id, type: "range", min, max, step, value });
    const update = () => {
      output.textContent = show(Number(input.value));
      input.setAttribute("aria-valuetext", output.textContent);
    };
    input.addEventListener("input", () => {
      update();
      change(Number(input.value));
    });
    update();
    const box = h("div", { class: "lpa-slider" }, h("label", { for: id }, label), input, output);
    return { input, box, set: (v) => ((input.value = v), update()) };
  }

  // matplotlib's "inferno" at ten places, as in the book's figures
  const STOPS = ["000004", "1b0c41", "4a0c6b", "781c6d", "a52c60", "cf4446", "ed6925", "fb9b06", "f7d13d", "fcffa4"];
  const RGB = STOPS.map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  /** The colour of a value in [0, 1]. */
  function heat(value) {
    const at = Math.min(1, Math.max(0, value)) * (RGB.length - 1);
    const low = Math.min(RGB.length - 2, Math.floor(at));
    return RGB[low].map((c, i) => Math.round(c + (RGB[low + 1][i] - c) * (at - low)));
  }
  const css = (rgb) => `rgb(${rgb.join(" ")})`;
  const ink = ([r, g, b]) => (0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#000" : "#fff");

  /** A map over a picture; the brightest cell is the map's largest weight. */
  function overlay(canvas, picture, map, opacity = 0.7) {
    const context = canvas.getContext("2d");
    const { width, height } = canvas;
    context.globalAlpha = 1;
    context.drawImage(picture, 0, 0, width, height);
    if (!map) return;
    const top = map.data.reduce((a, b) => Math.max(a, b), 0);
    const cells = new ImageData(map.w, map.h);
    map.data.forEach((value, i) => cells.data.set([...heat(value / top), 255], 4 * i));
    const small = h("canvas", { width: map.w, height: map.h });
    small.getContext("2d").putImageData(cells, 0, 0);
    context.imageSmoothingEnabled = false;
    context.globalAlpha = opacity;
    context.drawImage(small, 0, 0, width, height);
    context.globalAlpha = 1;
    context.imageSmoothingEnabled = true;
  }

  /** exp(entropy) of a map as a share of its positions: 1 is flat, 1/n a single position. */
  function effectiveShare(a) {
    let entropy = 0;
    for (const value of a) if (value > 0) entropy -= value * Math.log(value);
    return Math.exp(entropy) / a.length;
  }

  function softmax(scores, temperature = 1) {
    const top = scores.reduce((a, b) => Math.max(a, b), -Infinity);
    const e = Float64Array.from(scores, (c) => Math.exp((c - top) / temperature));
    const sum = e.reduce((a, b) => a + b, 0);
    return e.map((value) => value / sum);
  }

  const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
  const levelName = (name) => name.replace("layer", "layer ");

  return { load, data, halves, h, choice, slider, heat, css, ink, overlay, effectiveShare, softmax, percent, levelName };
})();
