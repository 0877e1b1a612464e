"""The interactive parts, worked as readers do: score lab, explorer, own photograph.

In Chromium, without a network, from a server and from the disk, wide and narrow, light and
dark. Numbers are compared with NumPy, with Pillow, and with what torch wrote when the
book was built (`_build/lab/expected.json`).
"""

import base64
import functools
import io
import json
import re
import statistics
from itertools import product
from pathlib import Path
from unittest import mock
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from browser import DISK, FOLDER, HTML, ICONS, ROOT, WIDE, Visit, serious_barriers, start
from matplotlib import colormaps
from PIL import Image, ImageOps
from playwright.sync_api import Error

from lpa_core.data import load, load_photographs, photograph_masks, photographs
from lpa_core.results import shipped
from lpa_core.training import load_trained

PAGES = {
    "score": "notebooks/02_estimator.html",
    "explorer": "notebooks/01_idea.html",
    "own": "book/photograph.html",
}
PLACES = {  # where the book lies, the screen's width, the theme
    "served, wide": ("http", 1280, "light"),
    "served, narrow": ("http", 390, "dark"),
    "disk, wide": ("file", 1280, "dark"),
    "disk, narrow": ("file", 360, "light"),
}
MOST = 1e-3  # the largest difference from torch

pytestmark = pytest.mark.browser
every_place = pytest.mark.parametrize("place", PLACES)
every_part = pytest.mark.parametrize("part", PAGES)


@pytest.fixture(scope="module")
def enter(chromium, site):
    """enter(part, place) -> a fresh Visit of the part's page, scrolled to the part."""
    contexts = {}

    def enter(part, place="served, wide", **options) -> Visit:
        home, width, scheme = PLACES[place]
        key = (place, *options.items())
        if key not in contexts:
            settings = {"reduced_motion": "reduce", "color_scheme": scheme} | options
            contexts[key] = chromium.new_context(
                viewport={"width": width, "height": 900},
                offline=home == "file",
                **settings,
            )
            contexts[key].set_default_timeout(120_000)  # machines are busy at times
        address = site if home == "http" else DISK
        visit = Visit(contexts[key], address, PAGES[part])
        visit.root = visit.page.locator(f"[data-lab={part}]")
        return visit

    yield enter
    for context in contexts.values():
        context.close()


@pytest.fixture(scope="module")
def reach(enter):
    """reach(part, place) -> the Visit that all tests of this module share there."""

    @functools.cache
    def reach(part, place="served, wide") -> Visit:
        visit = enter(part, place)
        visit.root.scroll_into_view_if_needed()
        if part == "explorer":
            visit.page.wait_for_selector("[data-lab=explorer][data-ready]")
        return visit

    return reach


@pytest.fixture
def fresh(enter):
    """As `enter`; the tab is closed behind the test."""
    visits = []

    def fresh(*where, **options) -> Visit:
        visits.append(enter(*where, **options))
        return visits[-1]

    yield fresh
    for visit in visits:
        visit.page.close()


@functools.cache
def expected() -> dict:
    return json.loads((ROOT / "_build/lab/expected.json").read_text(encoding="utf-8"))


def number(text: str) -> float:
    """A number as the pages write it: −0.50, 37 %, 1.2·10⁻⁸."""
    superscripts = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻−", "0123456789--")
    plain = text.translate(superscripts).replace("·10", "e").replace(" %", "e-2")
    return float(plain)


def step(text: str) -> float:
    """Half of the last digit that is written, and a little for the rounding of halves."""
    digits = len(text.replace(" %", "").partition(".")[2])
    return 0.501 * 10**-digits * (0.01 if text.endswith("%") else 1)


# ------------------------------------------------------------------------------ score lab


@functools.cache
def chapter() -> dict:
    """What the chapter's cell computes by hand: its features, queries and functions."""
    notebook = json.loads((ROOT / "notebooks/02_estimator.ipynb").read_text("utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    names: dict = {}
    exec(next(cell for cell in cells if "local = np.array(" in cell), names)
    return names


def by_numpy(kind, g, u, t):
    """Scores, weights and the weighted sum of the chapter's nine positions."""
    local = chapter()["local"].reshape(2, 9)
    g, u = np.array(g)[:, None], np.array(u)
    scores = {
        "dp": (local * g).sum(0),
        "pc": u @ (local + g),
        "tanh": u @ np.tanh(local + g),
        "mean": np.zeros(9),
    }[kind]
    weights = np.exp(scores / t) / np.exp(scores / t).sum()
    return scores, weights, local @ weights


# As a hand on the sliders and switches does it; what the page then says.
SET = """(root, {kind, g, u, t}) => {
    const [g1, g2, u1, u2, temperature] = root.querySelectorAll('input[type=range]');
    if (kind) root.querySelector(`input[value=${kind}]`).click();
    const wanted = [[g1, g?.[0]], [g2, g?.[1]], [u1, u?.[0]], [u2, u?.[1]]];
    for (const [input, value] of [...wanted, [temperature, t]]) {
        if (value === undefined || Number(input.value) === value) continue;
        input.value = value;
        input.dispatchEvent(new Event('input', {bubbles: true}));
    }
    const cells = [...root.querySelectorAll('.lpa-grid button')];
    const part = (button, name) => button.querySelector(`.lpa-${name}`).textContent;
    return {
        local: cells.map(b => part(b, 'local')),
        c: cells.map(b => part(b, 'c').slice(2)),
        a: cells.map(b => part(b, 'a').slice(2)),
        colours: cells.map(b => b.style.background.match(/[0-9]+/g).map(Number)),
        spoken: cells.map(b => b.getAttribute('aria-label')),
        equations: [...root.querySelectorAll('.lpa-equations p')].map(p => p.textContent),
        plane: root.querySelector('.lpa-plane svg').getAttribute('aria-label'),
        sizes: [...root.querySelectorAll('.lpa-dot')].map(c => c.r.baseVal.value),
        note: root.querySelector('[role=status]').textContent,
    };
}"""


def put(visit, kind=None, g=None, u=None, t=None) -> dict:
    given = {"kind": kind, "g": g, "u": u, "t": t}
    return visit.root.evaluate(SET, {k: v for k, v in given.items() if v is not None})


def near(texts, numbers) -> bool:
    return all(
        abs(number(text) - value) <= step(text)
        for text, value in zip(texts, numbers, strict=True)
    )


SETTINGS = [
    ([1, -0.5], [1, 0], 1),
    ([-1, 0.5], [0.3, -1.2], 1),
    ([2, 2], [2, -2], 0.1),  # the largest and smallest exponentials
    ([-2, -2], [-2, -2], 0.1),
    ([0, 0], [0, 0], 1),
    ([0.7, -1.9], [-0.4, 1.1], 5),
]


@every_place
def test_scores_weights_and_sums_are_numpys(reach, place):
    visit = reach("score", place)
    for (g, u, t), kind in product(SETTINGS, ("dp", "pc", "tanh", "mean")):
        said = put(visit, kind, g, u, t)
        scores, weights, total = by_numpy(kind, g, u, t)
        assert near(said["c"], scores), (kind, g, u, t)
        assert near(said["a"], weights), (kind, g, u, t)
        coordinates = re.findall(r"[−\d.]+", said["plane"])
        assert near(coordinates, total)
        assert f"score {said['c'][3]}, weight {said['a'][3]}" in said["spoken"][3]
        # The plane's circles and the grid's colours say the same: larger, brighter.
        order = np.argsort(np.round(weights, 6), kind="stable")
        assert np.all(np.diff(np.array(said["sizes"])[order]) > -1e-3)
        wanted = 255 * colormaps["inferno"](weights)[:, :3]
        assert np.abs(np.array(said["colours"]) - wanted).max() < 12


@every_place
def test_equations_hold_as_they_are_written(reach, place):
    """Their numbers are worked out: sum and product, quotient, weighted sum."""
    visit = reach("score", place)
    for (g, u, t), kind in product(SETTINGS, ("dp", "pc", "tanh", "mean")):
        scores, weights, total = by_numpy(kind, g, u, t)
        for position in (4, 5):
            visit.root.locator(".lpa-grid button").nth(position).click()
            score, weight, descriptor = put(visit, kind, g, u, t)["equations"]
            written, value = score.partition(": c = ")[2].rsplit(" = ", 1)
            python = written.replace("·", "*").replace("−", "-")
            assert abs(eval(python, {"tanh": np.tanh}) - number(value)) < 0.02
            assert near([value], [scores[position]])
            quotient, value = weight.rsplit(" = ", 2)[1:]
            above, below = map(number, quotient.split(" / "))
            assert above / below == pytest.approx(number(value), abs=0.011)
            assert near([value], [weights[position]])
            assert near(re.findall(r"[−\d.]+", descriptor), total)


@every_place
def test_moving_g_under_pc_moves_nothing_and_the_page_says_why_then(reach, place):
    visit = reach("score", place)
    before = put(visit, "pc", [1, -0.5], [1, 0.5], 1)
    visit.root.locator("input[value=dp]").click()
    before = put(visit, "pc")
    assert "You moved g" not in before["note"]
    after = put(visit, g=[-1.5, 2])
    for what in ("a", "colours", "sizes", "plane"):
        assert after[what] == before[what]
    shift = [number(b) - number(a) for a, b in zip(before["c"], after["c"], strict=True)]
    assert shift == pytest.approx([-1.25] * 9)  # alike: <u, g> went from 0.75 to -0.5
    assert after["note"].startswith("You moved g, and no weight changed. ")
    assert "⟨u, g⟩ = −0.50 is added to all nine scores alike" in after["note"]
    assert visit.root.get_by_role("status").inner_text() == after["note"]  # said aloud
    moved = put(visit, u=[-1, 0.5])
    assert moved["a"] != after["a"] and "You moved g" not in moved["note"]


@every_place
@pytest.mark.parametrize("kind", ["dp", "tanh"])
def test_moving_g_under_dp_or_tanh_moves_the_map(reach, place, kind):
    visit = reach("score", place)
    before = put(visit, kind, [1, -0.5], [1, 0.5], 1)
    after = put(visit, g=[-1.5, 2])
    assert after["a"] != before["a"] and after["plane"] != before["plane"]
    assert "no weight changed" not in after["note"]


def test_the_mean_heeds_nothing_and_the_temperature_flattens(reach):
    visit = reach("score")
    assert set(put(visit, "mean", [2, -2], [2, 1], 0.1)["a"]) == {"0.11"}
    assert "neither g nor u" in put(visit, "mean")["note"]
    cold = put(visit, "dp", [1, -0.5], [1, 0], 0.1)
    warm = put(visit, t=5)
    assert max(map(number, cold["a"])) > 0.99
    assert max(map(number, warm["a"])) < 0.2


def test_the_lab_begins_with_the_chapters_numbers(fresh):
    visit = fresh("score")
    said = put(visit)
    names = chapter()
    _, weights = names["attend"](
        names["local"], names["dot_product"](names["local"], names["g"])
    )
    assert near(said["a"], weights.flatten())
    local = [re.findall(r"[−\d.]+", text) for text in said["local"]]
    assert [[number(v) for v in pair] for pair in local] == names["local"].reshape(
        2, 9
    ).T.tolist()
    parametrised = names["parametrised"](names["local"], names["g"], names["u"])
    _, weights = names["attend"](names["local"], parametrised)
    assert near(put(visit, "pc")["a"], weights.flatten())


@every_place
def test_the_score_lab_is_worked_by_keyboard_alone(fresh, place):
    visit = fresh("score", place)
    page, root = visit.page, visit.root
    press = page.keyboard.press
    root.get_by_role("radio", name="dot product (dp)").focus()
    press("ArrowDown")
    assert root.get_by_role("radio", name="parametrised (pc)").is_checked()
    press("Tab")
    equation = root.locator(".lpa-equations p").first
    assert "top left: c =" in equation.inner_text()
    for _ in range(5):
        press("Tab")
    assert "right: c =" in equation.inner_text()
    assert root.get_by_role("button", pressed=True).count() == 1
    for _ in range(4):
        press("Tab")
    slider = root.get_by_role("slider", name="g, channel 1")
    assert slider.evaluate("e => e === document.activeElement")
    weights = root.locator(".lpa-a").all_inner_texts()
    for key, value in (("ArrowRight", 1.1), ("Home", -2), ("End", 2)):
        press(key)
        assert number(slider.get_attribute("aria-valuetext")) == value
        assert (
            root.get_by_role("status").inner_text().startswith("You moved g, and no weight")
        )
        assert root.locator(".lpa-a").all_inner_texts() == weights
    for name in ("g, channel 2", "u, channel 1", "u, channel 2", "temperature T"):
        press("Tab")
        there = root.get_by_role("slider", name=name)
        assert there.evaluate("e => e === document.activeElement")
        outline = there.evaluate("e => getComputedStyle(e).outlineStyle")
        assert outline == "solid"  # one sees where one is


# ------------------------------------------------------------------------------- explorer

# Selects and buttons set, and the page waited for; what it shows then.
CHOOSE = """async (root, {photograph, network, level, training, query}) => {
    const selects = [...root.querySelectorAll('select')];
    const turn = () => Number(root.dataset.ready);
    const settled = async (act) => {
        const before = turn();
        act();
        const begun = performance.now();
        while (turn() === before) {
            if (performance.now() - begun > 20000) throw new Error(root.innerText);
            await new Promise(resolve => setTimeout(resolve, 2));
        }
    };
    const select = (index, value) => {
        if (value === undefined || selects[index].value === String(value)) return;
        return settled(() => {
            selects[index].value = value;
            selects[index].dispatchEvent(new Event('change', {bubbles: true}));
        });
    };
    const buttons = root.querySelectorAll('.lpa-photographs button');
    if (photograph !== undefined) await settled(() => buttons[photograph].click());
    await select(0, network);
    await select(2, training);
    await select(1, level);
    await select(3, query);
    const rows = [...root.querySelectorAll('dt')].map(e =>
        [e.textContent, e.nextElementSibling.textContent]);
    return {
        map: root.lpaMap,
        levels: [...selects[1].options].map(o => o.value),
        rows: Object.fromEntries(rows),
        note: root.querySelector('[role=status]').textContent,
        spoken: root.querySelectorAll('canvas')[1].getAttribute('aria-label'),
        ends: root.querySelector('.lpa-ends').innerText.split(/\\s+/),
    };
}"""
NETWORKS = ["vgg-att3-concat-pc", "vgg-att2-concat-dp", "vgg-att2-concat-tanh"]
TRAINING = ["trained", "pytorch", "scripts"]
PHOTOGRAPHS = list(photographs.OUTLINES)


def choose(visit, **given) -> dict:
    return visit.root.evaluate(CHOOSE, given)


def effective_share(weights) -> float:
    weights = np.array(weights)
    weights = weights[weights > 0]
    return float(np.exp(-(weights * np.log(weights)).sum()))


@functools.cache
def outline(name: str) -> np.ndarray:
    """bool (256, 256): the object of a photograph, as outlined by hand."""
    return photograph_masks(256)[PHOTOGRAPHS.index(name)].numpy()


def on_object(weights, name) -> float:
    """The share of a map on the hand-drawn outline, pixel by pixel."""
    side = round(len(weights) ** 0.5)
    cell = 256 // side
    each = np.array(weights).reshape(side, side) / cell**2
    return float(np.kron(each, np.ones((cell, cell)))[outline(name)].sum())


@pytest.mark.parametrize("training", TRAINING)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_map_of_the_explorer_is_torchs(reach, network, training):
    """Each level under the own query and the next one's; once trained, each photograph."""
    visit = reach("explorer")
    levels = choose(visit, photograph=0, network=network, training=training)["levels"]
    wanted = expected()["explorer"][f"{network}-{training}"]
    assert levels == list(wanted["own"])
    some = list(enumerate(PHOTOGRAPHS))[:: 1 if training == "trained" else 3]
    for level, (p, name) in product(levels, some):
        said = choose(visit, photograph=p, level=level)
        own = wanted["own"][level][p]
        assert np.abs(np.array(said["map"]) - own).max() < MOST
        share = effective_share(own) / len(own)
        values = {
            "Effective share of the positions": share,
            "Attention on the object": on_object(own, name),
            "The object’s share of the picture": outline(name).mean(),
        }
        for row, value in values.items():
            assert abs(number(said["rows"][row]) - value) < 2 * step(said["rows"][row])
        for text in (name, *(said["rows"][row] for row in list(values)[:2])):
            assert text in said["spoken"]
        assert said["ends"][0] == "0"
        assert float(said["ends"][1]) == pytest.approx(max(own), rel=0.06)
        turned = choose(visit, query=(p + 1) % 6)
        other = wanted["next"][level][p]
        assert np.abs(np.array(turned["map"]) - other).max() < MOST
        moved = np.abs(np.array(other) - own).sum() / 2
        told = turned["rows"]["Moved by the query"]
        assert abs(number(told) - moved) < 2 * step(told)
        if network.endswith("pc"):
            assert moved < 1e-5 and "changes nothing" in turned["note"]
        else:
            assert moved > 0 and PHOTOGRAPHS[(p + 1) % 6] in turned["note"]


def test_training_and_the_scripts_beginning_are_seen_in_the_effective_share(reach):
    """Flat as PyTorch begins, almost one-hot as the scripts do, as the page says."""
    visit = reach("explorer")
    shares = {}
    for training in TRAINING:
        place = {"network": NETWORKS[0], "level": "layer10", "training": training}
        rows = choose(visit, photograph=0, **place)["rows"]
        shares[training] = number(rows["Effective share of the positions"])
    assert shares["scripts"] < 0.2 < 0.9 < shares["pytorch"]
    assert len(set(shares.values())) == 3


@every_place
def test_the_explorer_shows_a_map_over_its_photograph(reach, place):
    """Its colours are inferno's over the photograph, each cell where torch has it."""
    visit = reach("explorer", place)
    for network, level, side in ((NETWORKS[0], "layer13", 8), (NETWORKS[1], "layer10", 16)):
        choose(visit, photograph=1, network=network, training="trained", level=level)
        plain, shown = (
            np.array(pixels).reshape(side, side, 3)
            for pixels in visit.root.evaluate(CENTRES, side)
        )
        own = np.array(expected()["explorer"][f"{network}-trained"]["own"][level][1])
        own = own.reshape(side, side)
        heat = 255 * colormaps["inferno"](own / own.max())[..., :3]
        assert np.abs(shown - (0.3 * plain + 0.7 * heat)).max() < 12
        _, images = load_photographs(256)
        at = np.arange(side) * 256 // side + 128 // side
        assert np.abs(images[1].numpy()[at][:, at].astype(int) - plain).mean() < 12
    gradient = visit.root.locator(".lpa-bar").evaluate(
        "e => getComputedStyle(e).backgroundImage"
    )
    colours = [
        [int(v) for v in rgb.split(", ")] for rgb in re.findall(r"rgb\(([^)]+)\)", gradient)
    ]
    wanted = 255 * colormaps["inferno"](np.linspace(0, 1, len(colours)))[:, :3]
    assert len(colours) > 5 and np.abs(np.array(colours) - wanted).max() < 3


CENTRES = """(root, side) => [...root.querySelectorAll('figure > canvas')].map(canvas => {
    const context = canvas.getContext('2d');
    const cell = canvas.width / side;
    const found = [];
    for (let y = 0; y < side; y++)
        for (let x = 0; x < side; x++) {
            const at = [Math.floor((x + 0.5) * cell), Math.floor((y + 0.5) * cell)];
            found.push(...context.getImageData(...at, 1, 1).data.slice(0, 3));
        }
    return found;
})"""


@every_place
def test_the_explorer_is_worked_by_keyboard(reach, place):
    visit = reach("explorer", place)
    choose(visit, photograph=0, network=NETWORKS[1], training="trained")
    before = visit.root.evaluate("root => root.dataset.ready")
    visit.root.get_by_role("button", name="coffee").focus()
    visit.page.keyboard.press("Enter")
    changed(visit, before)
    assert (
        visit.root.get_by_role("button", name="coffee").get_attribute("aria-pressed")
        == "true"
    )
    assert (
        visit.root.get_by_role("img", name=re.compile("Map of layer .* coffee")).count()
        == 1
    )
    for name, value in (("Network", NETWORKS[2]), ("Query g of", "5")):
        before = visit.root.evaluate("root => root.dataset.ready")
        visit.root.get_by_label(name, exact=True).select_option(value)
        changed(visit, before)
    assert "Under the query of the flower" in visit.root.get_by_role("status").inner_text()


def changed(visit, before: str | None):
    """Wait until the part has drawn once more."""
    visit.page.wait_for_function(
        "([root, before]) => (root.dataset.ready ?? null) !== before",
        arg=[visit.root.element_handle(), before],
    )


# --------------------------------------------------------------------------- own photograph

NETWORK, OTHER, HUNDRED = (
    "vgg-att3-concat-pc_cifar10_w0.25",
    "vgg-att2-concat-dp_cifar10_w0.25",
    "vgg-att3-concat-pc_cifar100_w0.25",
)
PEEK = """root => ({
    ready: root.dataset.ready ?? null,
    note: root.querySelector('[role=status]').textContent,
    hidden: root.querySelector('.lpa-result').hidden,
    rows: [...root.querySelectorAll('.lpa-answers tr')].map(row =>
        [row.firstChild.textContent, row.lastChild.textContent]),
    captions: [...root.querySelectorAll('.lpa-maps figcaption')].map(e => e.textContent),
    spoken: [...root.querySelectorAll('.lpa-maps canvas')].map(e =>
        e.getAttribute('aria-label')),
    logits: root.lpaSeen && Array.from(root.lpaSeen.logits),
    maps: root.lpaSeen && Object.fromEntries(Object.entries(root.lpaSeen.maps).map(
        ([name, map]) => [name, Array.from(map.data)])),
    where: root.lpaSeen?.where,
    milliseconds: root.lpaMilliseconds,
})"""


def encoded(image: Image.Image, kind="PNG", **options) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


@functools.cache
def squares() -> dict[str, Image.Image]:
    """The squares of the six photographs, before they are made smaller."""
    found = []

    def crop(photograph, top, left, side, size):
        found.append(Image.fromarray(photograph[top : top + side, left : left + side]))
        return torch.zeros(size, size, 3, dtype=torch.uint8)

    with mock.patch.object(photographs, "crop", crop):
        names, _ = load_photographs()
    return dict(zip(names, found, strict=True))


def offer(visit, content: bytes, name="photograph.png", mime="image/png") -> dict:
    """Choose a file, and wait for what the page says to it."""
    visit.root.get_by_role("status").evaluate("note => { note.textContent = ''; }")
    file = {"name": name, "mimeType": mime, "buffer": content}
    visit.root.locator("input[type=file]").set_input_files(file)
    return answered(visit)


def answered(visit) -> dict:
    visit.page.wait_for_function(
        "note => note.textContent && !note.textContent.startsWith('Loading')",
        arg=visit.root.get_by_role("status").element_handle(),
    )
    return visit.root.evaluate(PEEK)


def drop(visit, content: bytes, name="photograph.png", mime="image/png") -> dict:
    visit.root.get_by_role("status").evaluate("note => { note.textContent = ''; }")
    data = visit.page.evaluate_handle(
        """([text, name, type]) => {
            const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], name, {type}));
            return data;
        }""",
        [base64.b64encode(content).decode(), name, mime],
    )
    for kind in ("dragenter", "dragover", "drop"):
        visit.root.locator(".lpa-drop").dispatch_event(kind, {"dataTransfer": data})
    return answered(visit)


def use(visit, network: str):
    """Choose a network of the page; it looks at the photograph, if there is one."""
    select = visit.root.get_by_label("Network", exact=True)
    name, dataset, _ = network.split("_")
    label = f"{name}, {dataset.upper().replace('CIFAR', 'CIFAR-')}"
    option = select.locator("option", has_text=re.compile(f"^{re.escape(label)}$"))
    if select.input_value() == option.get_attribute("value"):
        return visit.root.evaluate(PEEK)
    visit.root.get_by_role("status").evaluate("note => { note.textContent = ''; }")
    had = visit.root.evaluate("root => root.dataset.ready !== undefined")
    select.select_option(option.get_attribute("value"))
    return answered(visit) if had else None


def agree(said: dict, wanted: dict, i: int) -> None:
    """Logits and maps of the page are torch's of image i."""
    assert list(said["maps"]) == list(wanted["maps"])
    found = {
        name: np.abs(np.array(said["maps"][name]) - wanted["maps"][name][i]).max()
        for name in said["maps"]
    }
    found["logits"] = np.abs(np.array(said["logits"]) - wanted["logits"][i]).max()
    assert max(found.values()) <= MOST, found


def chances(logits) -> np.ndarray:
    return np.exp(logits - np.max(logits)) / np.exp(logits - np.max(logits)).sum()


@functools.cache
def classes(network: str) -> list[str]:
    facts = json.loads((shipped("weights") / f"{network}.json").read_text("utf-8"))
    return facts["classes"]


@every_place
@pytest.mark.parametrize("way", [offer, drop])
def test_a_photograph_of_ones_own_is_seen_as_torch_sees_it(reach, place, way):
    """By the file chooser and dropped, as PNG: probabilities and a map a level."""
    visit = reach("own", place)
    use(visit, NETWORK)
    wanted = expected()["networks"][NETWORK]["photographs"]
    chosen = list(squares().items())[:: 1 if place == "served, wide" else 5]
    for name, square in chosen:
        i = PHOTOGRAPHS.index(name)
        said = way(visit, encoded(square), f"{name}.png")
        agree(said, wanted, i)
        shares = chances(np.array(wanted["logits"][i]))
        order = np.argsort(-shares)
        assert [row[0] for row in said["rows"]] == [classes(NETWORK)[k] for k in order]
        for (_, text), k in zip(said["rows"], order, strict=True):
            assert abs(number(text) - shares[k]) < 2 * step(text)
        for level, map_, caption, spoken in zip(
            wanted["maps"],
            wanted["maps"].values(),
            said["captions"],
            said["spoken"],
            strict=True,
        ):
            text = caption.rpartition("effective share ")[2]
            share = effective_share(map_[i]) / len(map_[i])
            assert abs(number(text) - share) < 2 * step(text)
            assert level.replace("layer", "layer ") in caption and text in spoken
        assert "was not uploaded" in said["note"]


@every_place
def test_every_network_of_the_page_looks_at_the_photograph(reach, place):
    visit = reach("own", place)
    offer(visit, encoded(squares()["flower"]))
    for network in (OTHER, HUNDRED, NETWORK):
        said = use(visit, network)
        agree(said, expected()["networks"][network]["photographs"], 5)
        assert {row[0] for row in said["rows"]} <= set(classes(network))


RUN = """async ([file, text, count]) => {
    await window.lpaLab.load('engine.js');
    const net = await window.lpaEngine.load(await window.lpaLab.data(`networks/${file}`));
    const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
    const n = bytes.length / count;
    const size = net.size ** 2;
    const parts = [];
    for (let i = 0; i < count; i++) {
        const pixels = new Float32Array(n);
        for (let p = 0; p < size; p++)
            for (let c = 0; c < 3; c++)
                pixels[c * size + p] = bytes[i * n + 3 * p + c] / 255;
        const seen = net.run(pixels);
        parts.push(seen.logits, ...Object.values(seen.maps).map(map => map.data));
    }
    const blob = new Blob(parts);
    const reader = new FileReader();
    await new Promise(resolve => { reader.onload = resolve; reader.readAsDataURL(blob); });
    return reader.result.split(',')[1];
}"""


def run(visit, network: str, images) -> np.ndarray:
    """Logits and maps side by side, (N, …), as the page's engine computes them."""
    text = base64.b64encode(images.numpy().tobytes()).decode()
    answer = visit.page.evaluate(RUN, [network, text, len(images)])
    return np.frombuffer(base64.b64decode(answer), "<f4").reshape(len(images), -1)


@pytest.mark.parametrize("network", [NETWORK, OTHER, HUNDRED])
def test_two_hundred_test_images_differ_from_torch_by_a_thousandth_at_most(reach, network):
    """Of its own set; of the embedded one if the book was built where none was prepared."""
    wanted = expected()["networks"][network]
    own = network.split("_")[1]
    name = own if own in wanted else "embedded"
    wanted = wanted[name]
    images = load(name, split="test").images[: len(wanted["logits"])]
    assert len(images) == 200
    got = run(reach("own"), network, images)
    numbers = np.concatenate([wanted["logits"], *wanted["maps"].values()], axis=1)
    assert np.abs(got - numbers).max() <= MOST


def test_a_browser_without_simd_computes_the_same(fresh):
    visit = fresh("own")
    visit.page.evaluate("() => { WebAssembly.validate = () => false; }")
    wanted = expected()["networks"][OTHER]["photographs"]
    got = run(visit, OTHER, load_photographs()[1][:1])
    numbers = np.concatenate([wanted["logits"], *wanted["maps"].values()], axis=1)[:1]
    assert np.abs(got - numbers).max() <= MOST


SLIDE = """(root, values) => {
    const inputs = root.querySelectorAll('input[type=range]');
    values.forEach((value, i) => {
        inputs[i].value = value;
        inputs[i].dispatchEvent(new Event('input', {bubbles: true}));
    });
}"""


@every_place
def test_the_reader_crops(reach, place):
    """Sliders and the pointer move a square; it is resized as the package resizes."""
    visit = reach("own", place)
    use(visit, NETWORK)
    wide = Image.fromarray(np.asarray(squares()["astronaut"])[:300])
    ready = offer(visit, encoded(wide))["ready"]
    visit.root.evaluate(SLIDE, [2, 25, 80])
    changed(visit, ready)
    said = visit.root.evaluate(PEEK)
    side, left, top = 150, 63, 120  # 25 % of 400 - 150, 80 % of 300 - 150
    assert said["where"] == {"side": side, "left": left, "top": top}
    agree(said, by_torch(wide, top, left, side), 0)
    crop = visit.root.locator(".lpa-result canvas").first
    crop.scroll_into_view_if_needed()
    box = crop.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    mouse = visit.page.mouse
    mouse.move(x, y)
    mouse.down()
    mouse.move(x - box["width"] / 3, y)
    mouse.up()
    changed(visit, said["ready"])
    moved = visit.root.evaluate(PEEK)["where"]
    assert moved["left"] == pytest.approx(left + side / 3, abs=3)  # with the picture
    assert moved["top"] == top


def by_torch(image: Image.Image, top: int, left: int, side: int) -> dict:
    """What torch makes of a square of an image, as the package resizes it."""
    small = photographs.crop(np.asarray(image.convert("RGB")), top, left, side, 32)
    seen = trained(NETWORK).attend(small[None])
    maps = {name: one.flatten(1).tolist() for name, one in seen.maps.items()}
    return {"logits": seen.logits.tolist(), "maps": maps}


@functools.cache
def trained(network: str):
    return load_trained(shipped("weights") / f"{network}.safetensors")


def cropped(visit) -> np.ndarray:
    """The square that the page shows, (288, 288, 3)."""
    canvas = visit.root.locator(".lpa-result canvas").first
    text = canvas.evaluate("canvas => canvas.toDataURL()").partition(",")[2]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))


MIDDLES = [(72, 72), (72, 216), (216, 72), (216, 216)]


def quarters(pixels: np.ndarray) -> np.ndarray:
    """The colours in the middle of the four quarters of (288, 288, 3)."""
    return np.array([pixels[y - 4 : y + 4, x - 4 : x + 4].mean((0, 1)) for y, x in MIDDLES])


def shows(visit, image: Image.Image, tolerance: float) -> bool:
    """Whether the page shows the middle square of an image, in about its colours."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.convert("RGB").crop((left, top, left + side, top + side))
    wanted = quarters(np.asarray(square.resize((288, 288))))
    return np.abs(quarters(cropped(visit)) - wanted).max() < tolerance


def cat_is_seen(visit, way=offer) -> None:
    """The page goes on: it sees in the cat's photograph what torch sees."""
    wanted = expected()["networks"][NETWORK]["photographs"]
    agree(way(visit, encoded(squares()["cat"])), wanted, PHOTOGRAPHS.index("cat"))


def four_colours(mode="RGB") -> Image.Image:
    pixels = np.zeros((96, 64, 3), np.uint8)
    pixels[:48, :32] = (220, 30, 30)
    pixels[:48, 32:] = (30, 200, 40)
    pixels[48:, :32] = (40, 50, 220)
    pixels[48:, 32:] = (230, 220, 60)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("place", ["served, wide", "disk, narrow"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_rotated_by_exif_stands_upright(reach, place, orientation):
    visit = reach("own", place)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(four_colours(), "JPEG", quality=95, exif=exif)
    said = offer(visit, content, "photograph.jpg", "image/jpeg")
    assert "Computed in this page" in said["note"]
    assert shows(visit, ImageOps.exif_transpose(Image.open(io.BytesIO(content))), 6)


def animated(kind: str) -> bytes:
    more = {"append_images": [Image.new("RGB", (64, 96), "black")], "duration": 2000}
    return encoded(four_colours(), kind, save_all=True, loop=0, **more)


def transparent() -> bytes:
    pixels = np.array(four_colours("RGBA"))
    pixels[:48, :32, 3] = 0
    return encoded(Image.fromarray(pixels))


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
# What is no photograph for this page: name, type, content, the sentence.
REFUSED = {
    "text": ("note.txt", "text/plain", b"This is a note.", "is not an image"),
    "text that says it is a JPEG": ("a.jpg", "image/jpeg", b"a note", "is not an image"),
    "HEIC": ("a.heic", "image/heic", HEIC, "a HEIC photograph"),
    "0 bytes": ("a.png", "image/png", b"", "0 bytes"),
    "60 megapixels": (
        "a.png",
        "image/png",
        encoded(Image.new("1", (10_000, 6_000))),
        "10000×6000 pixels, 60 megapixels: choose one of at most",
    ),
    "1x1": ("a.png", "image/png", encoded(Image.new("RGB", (1, 1))), "1×1 pixels"),
}
FIRST = "animated: its first frame"
# Photographs of unusual kinds: name, type, content, and what the page adds.
UNUSUAL = {
    "CMYK": ("a.jpg", "image/jpeg", encoded(four_colours("CMYK"), "JPEG", quality=95), ""),
    "animated GIF": ("a.gif", "image/gif", animated("GIF"), FIRST),
    "animated WebP": (
        "a.webp",
        "image/webp",
        animated("WEBP"),
        FIRST,
    ),
    "animated PNG": ("a.png", "image/png", animated("PNG"), FIRST),
    "transparent": ("a.png", "image/png", transparent(), "shown on white"),
    "grey": ("a.png", "image/png", encoded(four_colours("L")), ""),
    "16 bits": ("a.png", "image/png", encoded(four_colours("L").convert("I;16")), ""),
}


def is_one_sentence(text: str) -> bool:
    return re.fullmatch(r"[A-Z0-9][^.!?]*\.", re.sub(r"\d\.\d", "", text)) is not None


@pytest.mark.parametrize(
    "way, place", [*((offer, place) for place in PLACES), (drop, "served, wide")]
)
def test_bad_files_get_one_sentence_and_the_page_goes_on(fresh, place, way):
    visit = fresh("own", place)
    for kind, (name, mime, content, words) in REFUSED.items():
        for after in ("nothing", "a photograph"):
            said = way(visit, content, name, mime)
            assert words in said["note"], (kind, after)
            assert is_one_sentence(said["note"]), (kind, after)
            if after == "nothing":
                cat_is_seen(visit, way)
    assert [fault for fault in visit.faults if not ICONS.search(fault)] == []
    assert visit.outside == []


@pytest.mark.parametrize("place", ["served, wide", "disk, narrow"])
@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_photographs_are_shown_as_pillow_shows_them(reach, place, kind):
    visit = reach("own", place)
    use(visit, NETWORK)
    name, mime, content, words = UNUSUAL[kind]
    said = offer(visit, content, name, mime)
    assert "Computed in this page" in said["note"] and words in said["note"]
    image = Image.open(io.BytesIO(content))
    if kind == "transparent":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if kind == "16 bits":
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    # without a colour profile programs turn CMYK into different reds and greens
    assert shows(visit, image, 40 if kind == "CMYK" else 8)
    if mime in ("image/png", "image/gif"):  # nothing is lost in these
        agree(said, by_torch(image, 16, 0, 64), 0)


@pytest.mark.parametrize("place", ["served, wide", "disk, narrow"])
def test_a_refused_camera_is_said_and_a_file_can_be_chosen(reach, place):
    visit = reach("own", place)
    visit.root.get_by_role("status").evaluate("note => { note.textContent = ''; }")
    visit.root.get_by_role("button", name="Use the camera").click()
    said = answered(visit)
    assert "The camera cannot be used here" in said["note"]
    assert is_one_sentence(said["note"])
    cat_is_seen(visit)


def test_a_photograph_is_taken_with_the_camera(chromium, site):
    fake = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with start(chromium.browser_type, *fake) as browser:
        visit = Visit(browser.new_context(), site, PAGES["own"])
        visit.root = visit.page.locator("[data-lab=own]")
        visit.root.get_by_role("button", name="Use the camera").click()
        visit.root.get_by_role("button", name="Take the photograph").click()
        said = answered(visit)
        assert "Computed in this page" in said["note"]
        assert np.ptp(cropped(visit)) > 100  # a picture, not a black square
        visit.root.get_by_role("button", name="Use the camera").click()
        visit.root.get_by_role("button", name="Stop the camera").click()
        assert visit.root.locator("video").count() == 0


SLOW_CAMERA = """() => {
    window.cameras = [];
    navigator.mediaDevices.getUserMedia = async () => {
        const canvas = document.createElement('canvas');
        Object.assign(canvas, {width: 96, height: 64});
        const stream = canvas.captureStream(0);
        cameras.push({canvas, stream});
        await new Promise(resolve => setTimeout(resolve, 300));
        return stream;
    };
}"""
FIRST_FRAME = """() => {
    const {canvas, stream} = cameras.at(-1);
    const context = canvas.getContext('2d');
    const draw = () => {
        context.fillStyle = 'black';
        context.fillRect(0, 0, 96, 64);
        context.fillStyle = 'white';
        context.fillRect(0, 0, 48, 64);
        stream.getVideoTracks()[0].requestFrame();
    };
    setInterval(draw, 50);
}"""


def test_a_camera_without_a_picture_yet_cannot_take_one(fresh):
    visit = fresh("own", "served, wide")
    visit.page.evaluate(SLOW_CAMERA)
    visit.root.get_by_role("button", name="Use the camera").click()
    shutter = visit.root.get_by_role("button", name="Take the photograph")
    shutter.wait_for()
    visit.page.wait_for_timeout(300)
    assert shutter.is_disabled()
    visit.page.evaluate(FIRST_FRAME)
    shutter.click()  # waits until it can be pressed
    assert "Computed in this page" in answered(visit)["note"]
    assert np.ptp(cropped(visit)) > 100


def test_no_camera_stays_on_that_was_stopped_or_asked_for_twice(fresh):
    visit = fresh("own", "served, wide")
    visit.page.evaluate(SLOW_CAMERA)
    states = "() => cameras.map(({stream}) => stream.getVideoTracks()[0].readyState)"
    use_camera = visit.root.get_by_role("button", name="Use the camera")
    use_camera.click()
    use_camera.click()  # before the first has answered
    visit.root.get_by_role("button", name="Stop the camera").wait_for()
    visit.page.wait_for_function(
        "() => cameras[0].stream.getTracks()[0].readyState === 'ended'"
    )
    assert visit.page.evaluate(states) == ["ended", "live"]
    use_camera.click()
    cat_is_seen(visit)  # a photograph is chosen while the camera is asked for
    visit.page.wait_for_function(
        "() => cameras[2].stream.getTracks()[0].readyState === 'ended'"
    )
    assert visit.page.evaluate(states) == ["ended"] * 3
    assert visit.root.locator("video").count() == 0
    assert visit.faults == []


@every_place
def test_the_picture_can_be_saved(reach, place):
    visit = reach("own", place)
    said = offer(visit, encoded(squares()["coffee"]))
    with visit.page.expect_download() as download:
        visit.root.get_by_role("button", name="Save the picture").click()
    assert download.value.suggested_filename == "attention.png"
    image = np.asarray(Image.open(download.value.path()).convert("RGB"))
    height, width = image.shape[:2]
    assert width > (1 + len(said["maps"])) * 288 and height > 288
    assert np.abs(image[8:296, 8:296].astype(int) - cropped(visit)).max() == 0
    assert (image[300:] < 128).sum() > 500  # words below it


@every_place
def test_a_photograph_is_chosen_by_keyboard(reach, place):
    visit = reach("own", place)
    button = visit.root.get_by_role("button", name="Choose a photograph")
    choosers = []
    visit.page.on("filechooser", lambda chooser: choosers.append(chooser))
    visit.page.wait_for_timeout(200)  # until the browser hands choosers over
    button.press("Enter")
    for _ in range(100):
        if not choosers:
            visit.page.wait_for_timeout(100)
    visit.root.get_by_role("status").evaluate("note => { note.textContent = ''; }")
    file = {"name": "cat.png", "mimeType": "image/png", "buffer": encoded(squares()["cat"])}
    choosers[0].set_files(file)
    ready = answered(visit)["ready"]
    zoom = visit.root.get_by_role("slider", name="Zoom")
    zoom.focus()
    visit.page.keyboard.press("ArrowRight")
    changed(visit, ready)
    assert zoom.get_attribute("aria-valuetext") == "1.05×"
    assert visit.root.get_by_role("button", name="Save the picture").is_visible()
    map_ = visit.root.get_by_role("img", name=re.compile("Map of layer 7 over the photo"))
    assert map_.is_visible()


def test_the_classes_are_said_before(fresh):
    said = fresh("own").root.inner_text()
    assert all(name in said for name in classes(NETWORK))
    assert "10 classes" in said


def test_a_lost_file_of_the_page_is_said_and_tried_again(fresh):
    visit = fresh("own")
    visit.page.route("**/lab/data/networks/*", lambda route: route.abort())
    said = offer(visit, encoded(squares()["cat"]))
    assert "could not be loaded" in said["note"]
    visit.page.unroute("**/lab/data/networks/*")
    cat_is_seen(visit)


# ------------------------------------------------------------------------ what is fetched


def size(address: str) -> int:
    """Bytes of a file of the book."""
    return (HTML / urlsplit(address).path.removeprefix(FOLDER)).stat().st_size


def test_nothing_is_fetched_before_a_click_and_twelve_megabytes_at_most(fresh):
    visit = fresh("own", service_workers="block")
    fetched = []
    visit.page.on("response", lambda response: fetched.append(response))
    visit.page.reload(wait_until="load")
    visit.page.wait_for_timeout(300)
    visit.root.scroll_into_view_if_needed()
    visit.root.hover()
    visit.page.wait_for_timeout(300)
    first = sum(size(r.url) for r in fetched if "/lab/" in r.url)
    assert 0 < first < 60_000  # the page's own scripts and style
    assert not [r.url for r in fetched if re.search("networks/|engine|explorer", r.url)]
    fetched.clear()
    offer(visit, encoded(squares()["cat"]))
    for network in (OTHER, HUNDRED, NETWORK):
        use(visit, network)
    later = [r.url for r in fetched if not r.url.startswith("blob:")]
    assert len(later) == 4  # engine and three networks, once each
    total = first + sum(map(size, later))
    assert 1_000_000 < total <= 12_000_000


def test_the_first_page_and_pages_without_a_part_load_none_of_it(chromium, site):
    context = chromium.new_context()
    for page in ("book/intro.html", "notebooks/05_training.html"):
        visit = Visit(context, site, page)
        names = "performance.getEntriesByType('resource').map(entry => entry.name)"
        assert not [name for name in visit.page.evaluate(names) if "/lab/" in name]
    context.close()


def test_the_explorer_loads_when_it_is_scrolled_to(fresh):
    visit = fresh("explorer")
    visit.page.wait_for_timeout(300)
    names = "performance.getEntriesByType('resource').map(entry => entry.name)"
    assert not [name for name in visit.page.evaluate(names) if "/lab/data/" in name]
    visit.root.scroll_into_view_if_needed()
    visit.page.wait_for_selector("[data-lab=explorer][data-ready]")
    assert len([n for n in visit.page.evaluate(names) if "/lab/data/" in n]) == 2


# --------------------------------------------------------------------------------- access


@pytest.mark.parametrize("place", ["served, wide", "disk, narrow"])
@every_part
def test_without_javascript_there_is_a_picture(fresh_without, part, place):
    visit = fresh_without(part, place)
    image = visit.root.locator("img")
    image.scroll_into_view_if_needed()
    assert image.is_visible() and len(image.get_attribute("alt")) > 40
    assert "needs JavaScript" in visit.root.inner_text()
    file = HTML / Path(PAGES[part]).parent / image.get_attribute("src")
    width, height = Image.open(file).size
    box = image.bounding_box()
    assert box["width"] > 200 and box["x"] + box["width"] <= PLACES[place][1]
    assert box["height"] / box["width"] == pytest.approx(height / width, rel=0.03)


@pytest.fixture
def fresh_without(chromium, site):
    """As `fresh`, in a browser without JavaScript."""
    contexts = []

    def fresh_without(part, place):
        home, width, scheme = PLACES[place]
        contexts.append(
            chromium.new_context(
                viewport={"width": width, "height": 900},
                color_scheme=scheme,
                java_script_enabled=False,
            )
        )
        page = contexts[-1].new_page()
        page.goto((site if home == "http" else DISK) + PAGES[part])
        visit = mock.Mock(page=page, root=page.locator(f"[data-lab={part}]"))
        return visit

    yield fresh_without
    for context in contexts:
        context.close()


def ready_for_looks(visit, part):
    """Each part with all that it can show."""
    if part == "score":
        put(visit, "tanh", [1.5, -0.5], [1, -1], 0.5)
    elif part == "explorer":
        choose(visit, photograph=1, network=NETWORKS[0], training="trained", query=2)
    else:
        offer(visit, encoded(squares()["cat"]))


@every_place
@every_part
def test_no_barrier_and_nothing_beyond_the_screen(reach, part, place):
    visit = reach(part, place)
    ready_for_looks(visit, part)
    assert serious_barriers(visit.page, f"[data-lab={part}]") == []
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= PLACES[place][1]
    assert visit.page.evaluate(WIDE) == []
    # Nothing in it is cut off either: words and controls stay within the part.
    inside = """root => [...root.querySelectorAll('*')].filter(e => e.offsetParent
        && e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0
        && getComputedStyle(e).display !== 'inline').map(e => e.outerHTML.slice(0, 120))"""
    assert visit.root.evaluate(inside) == []


@every_part
def test_the_parts_follow_light_and_dark(reach, part):
    colours = set()
    for place in ("served, wide", "disk, wide"):
        root = reach(part, place).root
        ready_for_looks(reach(part, place), part)
        style = "e => getComputedStyle(e).color + getComputedStyle(e).borderColor"
        colours.add(root.evaluate(style))
    assert len(colours) == 2


MOVING = """root => [...root.querySelectorAll('*')].filter(e => {
    const style = getComputedStyle(e);
    return /[1-9]/.test(style.transitionDuration) || style.animationName !== 'none';
}).map(e => e.className)"""


@every_part
def test_reduced_motion_is_respected(reach, part):
    visit = reach(part)
    ready_for_looks(visit, part)
    assert visit.root.evaluate(MOVING) == []


def test_there_is_motion_to_reduce(fresh):
    """The test above would see it."""
    visit = fresh("own", reduced_motion="no-preference")
    ready_for_looks(visit, "own")
    assert set(visit.root.evaluate(MOVING)) == {"lpa-share"}


# ----------------------------------------------------------------------------------- times

TIMES = """(root, [count, settle]) => {
    const inputs = [...root.querySelectorAll('input[type=range]')];
    const times = [];
    for (let i = 0; i < count; i++) {
        const input = inputs[i % inputs.length];
        const {min, max, step} = input;
        const steps = (max - min) / step;
        input.value = Number(min) + step * ((7 * i) % steps);
        const begun = performance.now();
        input.dispatchEvent(new Event('input', {bubbles: true}));
        document.body.getBoundingClientRect();
        root.getBoundingClientRect();
        times.push(performance.now() - begun);
    }
    return times;
}"""


@pytest.mark.quiet
@pytest.mark.parametrize("place", ["served, wide", "disk, narrow"])
@pytest.mark.parametrize("kind", ["dp", "pc", "tanh", "mean"])
def test_a_sliders_frame_takes_16_ms_at_most(reach, place, kind):
    """Script, style and layout of one step of a slider."""
    visit = reach("score", place)
    put(visit, kind)
    times = visit.root.evaluate(TIMES, [200, 0])
    assert statistics.median(times) < 16, sorted(times)


@pytest.mark.quiet
@pytest.mark.parametrize("place", ["served, wide", "disk, narrow"])
def test_the_explorer_is_painted_half_a_second_after_it_is_scrolled_to(enter, place):
    times = []
    for _ in range(3):
        visit = enter("explorer", place)
        assert visit.root.get_attribute("data-ready") is None
        times.append(
            visit.root.evaluate(
                """root => new Promise(resolve => {
                    const begun = performance.now();
                    const look = () => {
                        if (!root.dataset.ready) return requestAnimationFrame(look);
                        requestAnimationFrame(() => setTimeout(() =>
                            resolve(performance.now() - begun)));
                    };
                    root.scrollIntoView({behavior: 'instant'});
                    look();
                })"""
            )
        )
        visit.page.close()
    assert statistics.median(times) < 500, times


@pytest.mark.quiet
@pytest.mark.parametrize("place", ["served, wide", "disk, narrow"])
@pytest.mark.parametrize("network", [NETWORK, OTHER])
def test_a_network_loads_within_four_seconds_and_takes_300_ms_an_image(
    fresh, place, network
):
    visit = fresh("own", place)
    use(visit, network)
    content = encoded(squares()["cat"])
    watch = """root => {
        const input = root.querySelector('input[type=file]');
        input.addEventListener('change', () => { root.begun = performance.now(); }, true);
        new MutationObserver(() => { root.took = performance.now() - root.begun; })
            .observe(root, {attributes: true, attributeFilter: ['data-ready']});
    }"""
    visit.root.evaluate(watch)
    offer(visit, content)
    loading = visit.root.evaluate("root => root.took")
    assert loading < 4000
    images = []
    for square in squares().values():
        offer(visit, encoded(square))
        images.append(visit.root.evaluate("root => root.took"))
    assert statistics.median(images) < 300, images


# ------------------------------------------------------------------------------------- last


@every_place
@every_part
def test_no_part_asked_elsewhere_or_had_an_error(reach, part, place):
    """On the pages that all tests above have worked on."""
    visit = reach(part, place)
    ready_for_looks(visit, part)
    assert visit.outside == []
    assert [fault for fault in visit.faults if not ICONS.search(fault)] == []


def test_an_error_of_a_part_would_be_seen(fresh):
    visit = fresh("score")
    with pytest.raises(Error):
        visit.page.evaluate("() => window.lpaLab.load('gone.js')")
    assert visit.faults
