// The score lab: nine local features of two channels, and what each score makes of them.
"use strict";
(() => {
  const { h, slider, heat, css, ink, softmax } = window.lpaLab;
  // the numbers of the chapter: "furry" and "green" at nine positions
  const LOCAL = [[0, 1], [0.5, 1], [0, 1], [0.5, 1], [2, 0], [1, 0.5], [0, 1], [1, 0.5], [0, 1]];
  const PLACES = ["top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right"];
  const KINDS = {
    dp: { name: "dot product (dp)", formula: "c = ⟨ℓ, g⟩", score: (l, g) => l[0] * g[0] + l[1] * g[1] },
    pc: {
      name: "parametrised (pc)",
      formula: "c = ⟨u, ℓ + g⟩",
      score: (l, g, u) => u[0] * (l[0] + g[0]) + u[1] * (l[1] + g[1]),
    },
    tanh: {
      name: "additive (tanh)",
      formula: "c = ⟨u, tanh(ℓ + g)⟩",
      score: (l, g, u) => u[0] * Math.tanh(l[0] + g[0]) + u[1] * Math.tanh(l[1] + g[1]),
    },
    mean: { name: "no score (mean)", formula: "c = 0", score: () => 0 },
  };
  const fixed = (v, digits = 2) => v.toFixed(digits).replace(/^-(0\.?0*)$/, "$1").replace("-", "−");
  const signed = (v) => (v < 0 ? `(${fixed(v, 1)})` : fixed(v, 1));
  /** Two digits behind the point, or a power of ten where that would say nothing. */
  function amount(v) {
    if (v === 0 || (v >= 0.1 && v < 1e4)) return fixed(v);
    const [digits, power] = v.toExponential(2).split("e");
    return `${digits}·10${[...String(Number(power))].map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c])).join("")}`;
  }
  const vector = (v, digits = 1) => `(${v.map((n) => fixed(n, digits)).join(", ")})`;

  /** The sum of the score with its numbers. */
  function written(kind, l, g, u) {
    if (kind === "dp") return `${signed(l[0])} · ${signed(g[0])} + ${signed(l[1])} · ${signed(g[1])}`;
    const sum = (i) => `(${fixed(l[i], 1)} + ${signed(g[i])})`;
    if (kind === "pc") return `${signed(u[0])} · ${sum(0)} + ${signed(u[1])} · ${sum(1)}`;
    if (kind === "tanh") return `${signed(u[0])} · tanh${sum(0)} + ${signed(u[1])} · tanh${sum(1)}`;
    return "0";
  }

  function why(kind, moved, g, u) {
    const constant = u[0] * g[0] + u[1] * g[1];
    if (kind === "pc" && moved === "g")
      return `You moved g, and no weight changed. ⟨u, ℓ + g⟩ = ⟨u, ℓ⟩ + ⟨u, g⟩, and ⟨u, g⟩ = ${fixed(constant)} is ` +
        "added to all nine scores alike. The softmax does not see what is added to all.";
    if (kind === "mean") return "Every score is 0, so every weight is 1/9: neither g nor u counts.";
    if (kind === "dp" && moved === "u") return "The dot product has no u: only g counts.";
    if (kind === "dp") return "The dot product follows g: turn g, and the map turns with it.";
    if (kind === "tanh") return "The tanh stands between the sum and u: g does not cancel, and the map follows both.";
    return "The parametrised score follows u. Move g and see.";
  }

  function start(root) {
    const state = { kind: "dp", g: [1, -0.5], u: [1, 0], t: 1, at: 4, moved: "" };
    const cells = LOCAL.map((l, i) => {
      const parts = ["local", "c", "a"].map((name) => h("span", { class: `lpa-${name}` }));
      const pick = () => ((state.at = i), draw());
      const button = h("button", { type: "button", click: pick, focus: pick }, ...parts);
      return { button, parts };
    });
    const rows = [0, 3, 6].map((i) => h("div", { class: "lpa-row" }, ...cells.slice(i, i + 3).map((c) => c.button)));
    const grid = h("div", { class: "lpa-grid", role: "group", "aria-label": "Nine positions: local feature, score, weight" }, ...rows);
    const kinds = Object.entries(KINDS).map(([kind, { name }]) => {
      const input = h("input", { type: "radio", name: "lpa-kind", value: kind, checked: kind === state.kind, change: () => ((state.kind = kind), (state.moved = ""), draw()) });
      return h("label", {}, input, ` ${name}`);
    });
    const range = { min: -2, max: 2, step: 0.1 };
    const sliders = ["g", "u"].flatMap((name) =>
      [0, 1].map((i) =>
        slider(`${name}, channel ${i + 1}`, { ...range, value: state[name][i], show: (v) => fixed(v, 1) }, (v) => {
          state[name][i] = v;
          state.moved = name;
          draw();
        }),
      ),
    );
    const temperature = slider("temperature T", { min: 0.1, max: 5, step: 0.1, value: 1 }, (v) => {
      state.t = v;
      state.moved = "T";
      draw();
    });
    const equations = h("div", { class: "lpa-equations" });
    const note = h("p", { class: "lpa-note", role: "status" });
    const plane = h("div", { class: "lpa-plane" });
    root.replaceChildren(
      h("fieldset", { class: "lpa-kinds" }, h("legend", {}, "Score"), ...kinds),
      h("div", { class: "lpa-columns" },
        h("div", {}, grid, h("p", { class: "lpa-hint" }, "Each position: (furry, green), its score c, its weight a. Choose one to see its sum.")),
        h("div", { class: "lpa-controls" }, ...sliders.map((s) => s.box), temperature.box),
        plane),
      note,
      equations,
    );

    function draw() {
      const { kind, g, u, t } = state;
      const scores = LOCAL.map((l) => KINDS[kind].score(l, g, u));
      const a = softmax(scores, t);
      const sum = [0, 1].map((i) => LOCAL.reduce((s, l, n) => s + a[n] * l[i], 0));
      cells.forEach(({ button, parts }, i) => {
        const colour = heat(a[i]);
        button.style.background = css(colour);
        button.style.color = ink(colour);
        button.setAttribute("aria-pressed", i === state.at);
        button.setAttribute("aria-label", `${PLACES[i]}: feature ${vector(LOCAL[i])}, score ${fixed(scores[i])}, weight ${fixed(a[i])}`);
        parts[0].textContent = vector(LOCAL[i]);
        parts[1].textContent = `c ${fixed(scores[i])}`;
        parts[2].textContent = `a ${fixed(a[i])}`;
      });
      const l = LOCAL[state.at];
      const over = t === 1 ? "" : ` / ${fixed(t, 1)}`;
      const total = scores.reduce((s, c) => s + Math.exp(c / t), 0);
      const lines = [
        `${KINDS[kind].formula}; ${PLACES[state.at]}: c = ${written(kind, l, g, u)} = ${fixed(scores[state.at])}`,
        `a = exp(c${over}) / Σ exp(c${over}) = ${amount(Math.exp(scores[state.at] / t))} / ${amount(total)} = ${fixed(a[state.at], 3)}`,
        `gₐ = Σ a ℓ = ${vector(sum, 2)}`,
      ];
      equations.replaceChildren(...lines.map((line) => h("p", {}, line)));
      plane.replaceChildren(picture(a, g, u, sum, kind));
      const said = why(kind, state.moved, g, u);
      if (note.textContent !== said) note.textContent = said; // said once, not at each step
    }
    draw();
    root.dataset.ready = "true";
  }

  /** The features as points of the plane, as large as their weights. */
  function picture(a, g, u, sum, kind) {
    const make = (tag, attributes, text) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
      if (text) made.textContent = text;
      return made;
    };
    const [x, y] = [(v) => 100 + 40 * v, (v) => 100 - 40 * v];
    const said = `The plane of the two channels; the weighted sum lies at ${vector(sum, 2)}`;
    const svg = make("svg", { viewBox: "0 0 200 200", role: "img", "aria-label": said });
    svg.append(make("path", { d: "M100 10V190M10 100H190", class: "lpa-axis" }));
    svg.append(make("text", { x: 190, y: 130, "text-anchor": "end" }, "furry"));
    svg.append(make("text", { x: 104, y: 18 }, "green"));
    LOCAL.forEach((l, i) => {
      // equal features lie on each other: a ring each
      const same = LOCAL.slice(0, i).filter((m) => m[0] === l[0] && m[1] === l[1]).length;
      svg.append(make("circle", { cx: x(l[0]) + 3 * same, cy: y(l[1]) - 3 * same, r: 2 + 16 * Math.sqrt(a[i]), class: "lpa-dot" }));
    });
    const arrow = (v, name) => {
      svg.append(make("line", { x1: 100, y1: 100, x2: x(v[0]), y2: y(v[1]), class: `lpa-arrow-${name}` }));
      svg.append(make("text", { x: x(v[0]) + 4, y: y(v[1]) + (name === "g" ? 12 : -4), class: "lpa-letter" }, name));
    };
    if (kind !== "mean") arrow(g, "g");
    if (kind === "pc" || kind === "tanh") arrow(u, "u");
    svg.append(make("path", { d: `M${x(sum[0]) - 5} ${y(sum[1])}h10m-5 -5v10`, class: "lpa-sum" }));
    svg.append(make("text", { x: x(sum[0]) + 7, y: y(sum[1]) + 4, class: "lpa-letter" }, "gₐ"));
    return svg;
  }

  document.querySelectorAll('[data-lab="score"]').forEach(start);
})();
