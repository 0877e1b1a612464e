// The explorer: six photographs under the maps of three networks, before and after training.
// Local features and queries come with the page; scores, softmax and sums are computed here.
"use strict";
(() => {
  const { h, choice, data, halves, overlay, heat, css, effectiveShare, softmax, percent, levelName } = window.lpaLab;
  const NETWORKS = { "vgg-att3-concat-pc": "att3, pc", "vgg-att2-concat-dp": "att2, dp", "vgg-att2-concat-tanh": "att2, tanh" };
  const STATES = {
    trained: "after training",
    pytorch: "before, begun as PyTorch does",
    scripts: "before, begun as the authors’ scripts do",
  };

  /** What tools/lab.py packed: JSON, then the local features of each level. */
  function read(bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    const length = view.getUint32(0, true);
    const head = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
    let at = 4 + length;
    for (const level of head.levels) {
      const count = 6 * level.channels * level.side ** 2;
      level.local = halves(bytes, at, count);
      at += 2 * count;
    }
    return head;
  }

  /** Weights of one photograph at a level under a query: eq. 1 to 3 of the paper. */
  function attend(kind, level, photograph, query) {
    const { channels, side, u, b } = level;
    const n = side * side;
    const g = level.g[query];
    const scores = new Float64Array(n).fill(b);
    for (let c = 0; c < channels; c++) {
      const from = (photograph * channels + c) * n;
      for (let i = 0; i < n; i++) {
        const l = level.local[from + i];
        if (kind === "dp") scores[i] += l * g[c];
        else if (kind === "pc") scores[i] += u[c] * (l + g[c]);
        else scores[i] += u[c] * Math.tanh(l + g[c]);
      }
    }
    return { h: side, w: side, data: softmax(scores) };
  }

  /** The share of a map on the object: `covered` says how much of 32x32 cells it takes. */
  function onObject(map, covered) {
    const cells = 32 / map.w;
    let sum = 0;
    for (let y = 0; y < 32; y++)
      for (let x = 0; x < 32; x++)
        sum += (map.data[Math.floor(y / cells) * map.w + Math.floor(x / cells)] * covered[y * 32 + x]) / cells ** 2;
    return sum;
  }

  async function start(root) {
    const photographs = JSON.parse(new TextDecoder().decode(await data("explorer/photographs")));
    await Promise.all(photographs.map(async (photograph) => {
      photograph.picture = new Image();
      photograph.picture.src = `data:image/jpeg;base64,${photograph.jpeg}`;
      await photograph.picture.decode();
    }));
    const state = { photograph: 0, query: 0, network: "vgg-att3-concat-pc", state: "trained", level: "layer10", loaded: null };
    const buttons = photographs.map(({ name, picture }, i) => {
      const shown = picture.cloneNode();
      shown.alt = "";
      return h("button", { type: "button", click: () => set({ photograph: i, query: i }) }, shown, name);
    });
    const network = choice("Network", Object.entries(NETWORKS), (value) => set({ network: value }));
    const level = choice("Level", [], (value) => set({ level: value }));
    const when = choice("Training", Object.entries(STATES), (value) => set({ state: value }));
    const query = choice("Query g of", photographs.map(({ name }, i) => [i, name]), (value) => set({ query: Number(value) }));
    const canvas = h("canvas", { width: 384, height: 384, role: "img" });
    const plain = h("canvas", { width: 384, height: 384, role: "img" });
    const bar = h("div", { class: "lpa-bar", "aria-hidden": "true" });
    bar.style.background = `linear-gradient(to right, ${Array.from({ length: 10 }, (_, i) => css(heat(i / 9))).join(", ")})`;
    const ends = [h("span"), h("span")];
    const numbers = h("dl", { class: "lpa-numbers" });
    const note = h("p", { class: "lpa-note", role: "status" });
    root.replaceChildren(
      h("div", { class: "lpa-photographs", role: "group", "aria-label": "Photograph" }, ...buttons),
      h("div", { class: "lpa-choices" }, network.box, level.box, when.box, query.box),
      h("div", { class: "lpa-columns" },
        h("figure", {}, plain, h("figcaption", {}, "the photograph")),
        h("figure", {}, canvas, h("figcaption", {}, "the map over it", bar, h("span", { class: "lpa-ends" }, ...ends))),
        numbers),
      note,
    );

    async function set(change) {
      Object.assign(state, change);
      const file = `explorer/${state.network}-${state.state}`;
      try {
        const bytes = await data(file);
        if (state.loaded?.file !== file) state.loaded = { file, ...read(bytes) };
      } catch (error) {
        note.textContent = error.message;
        return;
      }
      if (file === `explorer/${state.network}-${state.state}`) draw();
    }

    function draw() {
      const { levels, score } = state.loaded;
      const found = levels.find(({ name }) => name === state.level) ?? levels[0];
      state.level = found.name;
      level.select.replaceChildren(...levels.map(({ name }) => h("option", { value: name }, levelName(name))));
      level.select.value = state.level;
      query.select.value = state.query;
      buttons.forEach((button, i) => button.setAttribute("aria-pressed", i === state.photograph));
      const { name, picture, covered } = photographs[state.photograph];
      const map = attend(score, found, state.photograph, state.query);
      const own = attend(score, found, state.photograph, state.photograph);
      const moved = map.data.reduce((sum, v, i) => sum + Math.abs(v - own.data[i]), 0) / 2;
      overlay(plain, picture);
      plain.setAttribute("aria-label", `Photograph: ${name}`);
      overlay(canvas, picture, map);
      const top = map.data.reduce((a, b) => Math.max(a, b), 0);
      ends[0].textContent = "0";
      ends[1].textContent = top.toPrecision(2);
      const share = effectiveShare(map.data);
      const object = onObject(map, covered);
      const area = covered.reduce((a, b) => a + b, 0) / covered.length;
      canvas.setAttribute("aria-label", `Map of ${levelName(state.level)} over the ${name}: effective share ${percent(share)}, ${percent(object)} on the object`);
      const rows = [
        ["Effective share of the positions", percent(share)],
        ["Attention on the object", percent(object)],
        ["The object’s share of the picture", percent(area)],
        ["Moved by the query", state.query === state.photograph ? "its own query" : percent(moved)],
      ];
      numbers.replaceChildren(...rows.flatMap(([term, value]) => [h("dt", {}, term), h("dd", {}, value)]));
      note.textContent = say(score, moved);
      Object.assign(root, { lpaMap: Array.from(map.data) }); // for the tests
      root.dataset.ready = String(Number(root.dataset.ready ?? 0) + 1);
    }

    function say(score, moved) {
      if (state.query === state.photograph) return "Choose the query of another photograph: does the map follow?";
      if (score === "pc") return "The query of another photograph changes nothing: pc adds ⟨u, g⟩ to every score alike.";
      return `Under the query of the ${photographs[state.query].name}, ${percent(moved)} of the attention moved.`;
    }

    await set({});
  }

  // Data is fetched when a reader gets there.
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      start(target).catch((error) => (target.textContent = error.message));
    }
  }, { rootMargin: "200px" });
  document.querySelectorAll('[data-lab="explorer"]').forEach((root) => seen.observe(root));
})();
