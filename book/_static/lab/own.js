// A reader's own photograph: opened, cropped, resized and classified in the page.
"use strict";
(() => {
  const { load, data, h, choice, slider, overlay, effectiveShare, percent, levelName } = window.lpaLab;
  const SMALLEST = 16; // pixels a side of a photograph
  const MOST = 50e6; // pixels
  const SHOWN = 288;

  class Refused extends Error {}

  // ------------------------------------------------------------------------ photographs

  const starts = (bytes, text, at = 0) => [...text].every((c, i) => bytes[at + i] === c.charCodeAt(0));
  const count = (bytes, text) => {
    let found = 0;
    for (let at = bytes.indexOf(text.charCodeAt(0)); at >= 0; at = bytes.indexOf(text.charCodeAt(0), at + 1))
      if (starts(bytes, text, at)) found++;
    return found;
  };

  function isAnimated(bytes) {
    if (starts(bytes, "GIF8")) return count(bytes, "\x21\xf9\x04") > 1;
    const head = bytes.subarray(0, 4096);
    return (starts(bytes, "RIFF") && count(head, "ANIM") > 0) || (starts(bytes, "\x89PNG") && count(head, "acTL") > 0);
  }

  /** A photograph as an image, upright; throws one sentence if it is none. */
  async function open(file) {
    if (file.size === 0) throw new Refused("The file is empty (0 bytes): choose another one.");
    const bytes = new Uint8Array(await file.arrayBuffer());
    const picture = new Image();
    const url = URL.createObjectURL(file);
    try {
      await new Promise((resolve, reject) => {
        picture.onload = resolve;
        picture.onerror = reject;
        picture.src = url;
      });
    } catch {
      URL.revokeObjectURL(url);
      const isHeic = starts(bytes, "ftyp", 4) && /^(hei|hev|mif|msf)/.test(String.fromCharCode(...bytes.subarray(8, 12)));
      throw new Refused(
        isHeic
          ? "This is a HEIC photograph, which this browser cannot open: save it as JPEG or PNG first."
          : "This file is not an image that the browser can open: choose a JPEG, PNG or WebP file.",
      );
    }
    const [width, height] = [picture.naturalWidth, picture.naturalHeight];
    const said = `${width}×${height} pixels`;
    if (Math.min(width, height) < SMALLEST)
      throw new Refused(`The image has ${said}: choose one of at least ${SMALLEST} pixels a side.`);
    if (width * height > MOST)
      throw new Refused(`The image has ${said}, ${Math.round((width * height) / 1e6)} megapixels: choose one of at most ${MOST / 1e6}.`);
    const notes = [];
    if (isAnimated(bytes)) notes.push("The image is animated: its first frame is used.");
    if (isTransparent(picture)) notes.push("Transparent parts are shown on white.");
    return { picture, url, width, height, notes };
  }

  function isTransparent(picture) {
    const context = h("canvas", { width: 64, height: 64 }).getContext("2d", { willReadFrequently: true });
    context.drawImage(picture, 0, 0, 64, 64);
    return context.getImageData(0, 0, 64, 64).data.some((value, i) => i % 4 === 3 && value < 250);
  }

  // ------------------------------------------------------------------------------ resizing

  /** Weights of `size` outputs over `length` inputs: bilinear, antialiased, as torch's. */
  function filters(length, size) {
    const scale = length / size;
    const support = Math.max(1, scale);
    return Array.from({ length: size }, (_, i) => {
      const centre = scale * (i + 0.5);
      const start = Math.max(0, Math.trunc(centre - support + 0.5));
      const end = Math.min(length, Math.trunc(centre + support + 0.5));
      const raw = Array.from({ length: end - start }, (_, j) => Math.max(0, 1 - Math.abs((j + start - centre + 0.5) / support)));
      const sum = raw.reduce((a, b) => a + b, 0);
      return { start, weights: raw.map((w) => w / sum) };
    });
  }

  /** The nearest whole number, of two the even one, as torch rounds. */
  function round(value) {
    const near = Math.round(value);
    return near - value === 0.5 && near % 2 ? near - 1 : near;
  }

  /**
   * A square of an image at size x size, as lpa_core.data.load_photographs makes it:
   * RGB in [0, 1], rounded to 1/255, (3, S, S). Read in strips: a large photograph needs
   * little memory.
   */
  function resize(picture, { left, top, side }, size) {
    const columns = filters(side, size);
    const rows = filters(side, size);
    const narrow = new Float32Array(3 * side * size);
    const strip = Math.min(side, Math.max(1, Math.floor(4e6 / side)));
    const context = h("canvas", { width: side, height: strip }).getContext("2d", { willReadFrequently: true });
    for (let y = 0; y < side; y += strip) {
      const tall = Math.min(strip, side - y);
      context.fillStyle = "#fff"; // behind what is transparent
      context.fillRect(0, 0, side, strip);
      context.drawImage(picture, left, top + y, side, tall, 0, 0, side, tall);
      const pixels = context.getImageData(0, 0, side, tall).data;
      for (let row = 0; row < tall; row++)
        columns.forEach(({ start, weights }, x) => {
          for (let c = 0; c < 3; c++) {
            let sum = 0;
            for (let j = 0; j < weights.length; j++) sum += weights[j] * pixels[4 * (row * side + start + j) + c];
            narrow[(c * side + y + row) * size + x] = sum;
          }
        });
    }
    const small = new Float32Array(3 * size * size);
    rows.forEach(({ start, weights }, y) => {
      for (let c = 0; c < 3; c++)
        for (let x = 0; x < size; x++) {
          let sum = 0;
          for (let j = 0; j < weights.length; j++) sum += weights[j] * narrow[(c * side + start + j) * size + x];
          small[(c * size + y) * size + x] = Math.min(255, Math.max(0, round(sum))) / 255;
        }
    });
    return small;
  }

  // ---------------------------------------------------------------------------- the page

  const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
  const SETS = { cifar10: "CIFAR-10", cifar100: "CIFAR-100" };

  function start(root) {
    const catalogue = window.lpaCatalogue ?? [];
    if (!catalogue.length) return;
    const state = { entry: catalogue[0], image: null, net: null, seen: null, turn: 0 };
    const note = h("p", { class: "lpa-note", role: "status" });
    const classes = h("p", { class: "lpa-classes" });
    const network = choice(
      "Network",
      catalogue.map((entry, i) => [i, `${entry.network}, ${SETS[entry.dataset] ?? entry.dataset}`]),
      (value) => {
        state.entry = catalogue[value];
        name();
        if (state.image) look();
      },
    );
    const name = () => {
      const { classes: list, dataset, bytes } = state.entry;
      classes.textContent = `It knows ${list.length} classes of ${SETS[dataset] ?? dataset} and always names one of them, whatever the photograph shows: ${list.join(", ")}. It is loaded with your photograph, once (${megabytes(bytes)}).`;
    };
    const input = h("input", { type: "file", accept: "image/*", class: "lpa-hidden", tabindex: -1, "aria-hidden": true, change: () => input.files[0] && take(input.files[0]) });
    const press = (text, click) => h("button", { type: "button", class: "lpa-button", click }, text);
    const camera = press("Use the camera", photograph);
    const drop = h("div", { class: "lpa-drop" }, h("p", {}, "Drop a photograph here, or"), press("Choose a photograph", () => ((input.value = ""), input.click())), camera, input);
    // The whole part takes it: beside it the browser would leave the page for the file.
    for (const kind of ["dragenter", "dragover", "dragleave", "drop"])
      root.addEventListener(kind, (event) => {
        event.preventDefault();
        drop.classList.toggle("lpa-over", kind === "dragenter" || kind === "dragover");
      });
    root.addEventListener("drop", (event) => {
      const file = event.dataTransfer.files[0];
      if (file) take(file);
      else note.textContent = "What you dropped is no file: drop a photograph.";
    });
    const view = h("div", { class: "lpa-view" });
    const crop = h("canvas", { width: SHOWN, height: SHOWN, role: "img", "aria-label": "The square that the network gets" });
    const show = (v) => percent(v / 100);
    const frame = { zoom: 1, x: 50, y: 50 };
    const change = (key) => (value) => {
      frame[key] = value;
      later();
    };
    const zoom = slider("Zoom", { min: 1, max: 4, step: 0.05, value: 1, show: (v) => `${v.toFixed(2)}×` }, change("zoom"));
    const across = slider("Left to right", { min: 0, max: 100, step: 1, value: 50, show }, change("x"));
    const down = slider("Top to bottom", { min: 0, max: 100, step: 1, value: 50, show }, change("y"));
    const answers = h("div", { class: "lpa-answers" });
    const maps = h("div", { class: "lpa-maps" });
    const result = h("div", { class: "lpa-result", hidden: true },
      h("div", { class: "lpa-columns" },
        h("div", {}, crop, h("div", { class: "lpa-controls" }, zoom.box, across.box, down.box)), answers),
      maps,
      press("Save the picture", save));
    root.replaceChildren(h("div", { class: "lpa-choices" }, network.box), classes, drop, view, note, result);
    name();
    let drag = null;
    crop.addEventListener("pointerdown", (event) => {
      drag = { x: event.clientX, y: event.clientY, from: { ...frame } };
      crop.setPointerCapture(event.pointerId);
    });
    crop.addEventListener("pointermove", (event) => {
      if (!drag || !state.image) return;
      const { width, height } = state.image;
      const side = square().side;
      const move = (from, pixels, length) => (length > side ? Math.min(100, Math.max(0, from - (100 * pixels * side) / crop.clientWidth / (length - side))) : from);
      across.set((frame.x = move(drag.from.x, event.clientX - drag.x, width)));
      down.set((frame.y = move(drag.from.y, event.clientY - drag.y, height)));
      later();
    });
    for (const kind of ["pointerup", "pointercancel"]) crop.addEventListener(kind, () => (drag = null));

    function square() {
      const { width, height } = state.image;
      const side = Math.max(1, Math.round(Math.min(width, height) / frame.zoom));
      const at = (length, share) => Math.round(((length - side) * share) / 100);
      return { side, left: at(width, frame.x), top: at(height, frame.y) };
    }

    let taken = 0;
    async function take(file) {
      stop();
      const mine = ++taken;
      try {
        const image = await open(file);
        if (mine !== taken) return URL.revokeObjectURL(image.url); // another was chosen since
        if (state.image) URL.revokeObjectURL(state.image.url);
        state.image = image;
      } catch (error) {
        if (mine !== taken) return;
        note.textContent = error instanceof Refused ? error.message : "The file could not be read: choose another one.";
        return;
      }
      Object.assign(frame, { zoom: 1, x: 50, y: 50 });
      zoom.set(1);
      across.set(50);
      down.set(50);
      await look();
    }

    let pending = 0;
    /** Once a frame at most, however fast the sliders move. */
    function later() {
      pending ||= requestAnimationFrame(() => {
        pending = 0;
        look();
      });
    }

    /** Load the network if it is not there, and look at the square. */
    async function look() {
      const turn = ++state.turn;
      const { file, bytes } = state.entry;
      try {
        if (state.net?.file !== file) {
          note.textContent = `Loading the network, ${megabytes(bytes)} …`;
          await load("engine.js");
          const net = await window.lpaEngine.load(await data(`networks/${file}`));
          if (turn !== state.turn && state.entry.file !== file) return;
          state.net = { file, net };
        }
        if (turn !== state.turn) return;
        const { net } = state.net;
        const where = square();
        const begun = performance.now();
        const seen = net.run(resize(state.image.picture, where, net.size));
        const milliseconds = performance.now() - begun;
        state.seen = { ...seen, where, classes: net.classes };
        draw();
        note.textContent = [...state.image.notes, `Computed in this page in ${milliseconds.toFixed(0)} ms; the photograph was not uploaded.`].join(" ");
        Object.assign(root, { lpaSeen: state.seen, lpaMilliseconds: milliseconds }); // for the tests
        root.dataset.ready = String(Number(root.dataset.ready ?? 0) + 1);
      } catch (error) {
        note.textContent = `The network could not look at the photograph: ${error.message}`;
      }
    }

    function cropped() {
      const { side, left, top } = state.seen.where;
      const canvas = h("canvas", { width: SHOWN, height: SHOWN });
      const context = canvas.getContext("2d");
      context.fillStyle = "#fff";
      context.fillRect(0, 0, SHOWN, SHOWN);
      context.imageSmoothingQuality = "high";
      context.drawImage(state.image.picture, left, top, side, side, 0, 0, SHOWN, SHOWN);
      return canvas;
    }

    function draw() {
      const picture = cropped();
      crop.getContext("2d").drawImage(picture, 0, 0);
      const chances = window.lpaEngine.softmax(state.seen.logits);
      const best = [...chances.keys()].sort((a, b) => chances[b] - chances[a]).slice(0, 10);
      answers.replaceChildren(
        h("table", {},
          h("caption", {}, best.length < chances.length ? "The ten likeliest classes" : "Probabilities of the classes"),
          h("tbody", {}, ...best.map((k) => {
            const bar = h("span", { class: "lpa-share", "aria-hidden": true });
            bar.style.width = `${100 * chances[k]}%`;
            return h("tr", {}, h("th", { scope: "row" }, state.seen.classes[k]), h("td", { class: "lpa-track" }, bar), h("td", {}, percent(chances[k])));
          }))));
      maps.replaceChildren(...Object.entries(state.seen.maps).map(([name, map]) => {
        const share = percent(effectiveShare(map.data));
        const canvas = h("canvas", { width: SHOWN, height: SHOWN, role: "img", "aria-label": `Map of ${levelName(name)} over the photograph, effective share ${share}` });
        overlay(canvas, picture, map);
        return h("figure", {}, canvas, h("figcaption", {}, `${levelName(name)}: effective share ${share}`));
      }));
      result.hidden = false;
    }

    function save() {
      const shown = [crop, ...maps.querySelectorAll("canvas")];
      const captions = ["photograph", ...Object.keys(state.seen.maps).map(levelName)];
      const canvas = h("canvas", { width: shown.length * (SHOWN + 8) + 8, height: SHOWN + 56 });
      const context = canvas.getContext("2d");
      context.fillStyle = "#fff";
      context.fillRect(0, 0, canvas.width, canvas.height);
      context.fillStyle = "#000";
      context.font = "16px sans-serif";
      shown.forEach((one, i) => {
        context.drawImage(one, 8 + i * (SHOWN + 8), 8);
        context.fillText(captions[i], 8 + i * (SHOWN + 8), SHOWN + 26);
      });
      const row = answers.querySelector("tr");
      const [first, last] = [row.firstChild.textContent, row.lastChild.textContent];
      context.fillText(`${state.entry.network}: ${first}, ${last}`, 8, SHOWN + 48);
      canvas.toBlob((blob) => {
        const link = h("a", { href: URL.createObjectURL(blob), download: "attention.png" });
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 1000);
      });
    }

    let stream = null;
    let asked = 0;
    function stop() {
      asked++;
      stream?.getTracks().forEach((track) => track.stop());
      stream = null;
      view.replaceChildren();
    }

    /** Show what the camera sees; a photograph can be taken once there is a picture. */
    async function photograph() {
      stop();
      const mine = asked;
      const video = h("video", { playsinline: true, muted: true, "aria-label": "What the camera sees" });
      const shutter = press("Take the photograph", shoot);
      shutter.disabled = true;
      try {
        if (!navigator.mediaDevices) throw new Error("none");
        const opened = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
        if (mine !== asked) return opened.getTracks().forEach((track) => track.stop()); // stopped or asked again since
        stream = opened;
        video.srcObject = stream;
        view.replaceChildren(video, shutter, press("Stop the camera", stop));
        await video.play();
        shutter.disabled = false;
      } catch {
        if (mine !== asked) return;
        stop();
        note.textContent = "The camera cannot be used here (refused, or there is none): choose a photograph instead.";
      }

      async function shoot() {
        const canvas = h("canvas", { width: video.videoWidth, height: video.videoHeight });
        canvas.getContext("2d").drawImage(video, 0, 0);
        take(await new Promise((resolve) => canvas.toBlob(resolve, "image/png")));
      }
    }
  }

  document.querySelectorAll('[data-lab="own"]').forEach(start);
})();
