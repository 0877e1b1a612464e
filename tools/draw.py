"""The drawings of the networks: trunk, taps, estimators, classifier, as SVG.

    python tools/draw.py            # writes book/_static/network-*.svg

Black on a transparent background: the book's style sheet inverts them on a dark page.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

from lpa_core.provenance import write_whole

__all__ = ["DRAWINGS", "Drawing", "draw"]

STATIC = Path(__file__).resolve().parents[1] / "book/_static"
WIDTH, HEIGHT = 775, 295
GROUND = 285  # where the boxes of the trunk stand
TRUNK, ESTIMATOR, QUIET = "#cfe3f5", "#fbe0b8", "#8a8a8a"
# The stages of the trunk: layers, their positions, and the sides of their grids.
STAGES = [("layers 1-7", 75, 32, 8), ("8-10", 225, 16, 4), ("11-13", 365, 8, 2)]
SHADES = [
    *(0.1, 0.2, 0.1, 0.05),
    *(0.25, 0.9, 0.6, 0.1),
    *(0.15, 0.7, 0.45, 0.1),
    *(0.05, 0.1, 0.1, 0.05),
]


@dataclass(frozen=True)
class Drawing:
    """The parts of a network.

    Attributes:
        taps: how many of the three stages are attended to, counted from the last.
        weigh: "pc", "dp", or "mean" for uniform weights.
        fine: whether the poolings come after the taps.
    """

    taps: int
    weigh: str = "pc"
    fine: bool = True


DRAWINGS = {
    "vgg": Drawing(0, fine=False),
    "vgg-hires": Drawing(0),
    "vgg-mean2": Drawing(2, "mean"),
    "vgg-att2": Drawing(2),
    "vgg-att3": Drawing(3),
    "vgg-att3-dp": Drawing(3, "dp"),
}


def text(x: float, y: float, words: str, size: int = 15, **how: str) -> str:
    how = {"text-anchor": "middle", "fill": "#000"} | how
    listed = " ".join(f'{name}="{value}"' for name, value in how.items())
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" {listed}>{words}</text>'


def box(x: float, y: float, w: float, h: float, fill: str) -> str:
    """A rounded box around its centre line x, from y downwards."""
    return (
        f'<rect x="{x - w / 2:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="6" '
        f'fill="{fill}" stroke="#000" stroke-width="1.2"/>'
    )


def arrow(points: str, colour: str = "#000", dashed: bool = False) -> str:
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    head = "grey" if colour == QUIET else "black"
    return (
        f'<path d="{points}" fill="none" stroke="{colour}" stroke-width="1.5"{dash} '
        f'marker-end="url(#{head})"/>'
    )


def small_map(x: float, y: float, even: bool) -> str:
    """Four by four positions: an attention map, or a uniform one."""
    cells = (
        f'<rect x="{x + 9 * (n % 4):g}" y="{y + 9 * (n // 4):g}" width="8" height="8" '
        f'fill="#b3540a" fill-opacity="{0.35 if even else shade:g}"/>'
        for n, shade in enumerate(SHADES)
    )
    return "".join(cells)


def estimator(x: float, top: float, what: Drawing, number: int) -> list[str]:
    """Score, weights and weighted sum of one stage, with its inputs and outputs."""
    asked = {"pc": "⟨ℓ, u⟩", "dp": "⟨ℓ, g⟩", "mean": "1 / n"}[what.weigh]
    name = "mean" if what.weigh == "mean" else "softmax"
    return [
        arrow(f"M{x},{top} L{x},168"),
        text(x + 8, top - 8, "ℓ", 15, **{"text-anchor": "start", "font-style": "italic"}),
        box(x, 92, 112, 74, ESTIMATOR),
        text(x - 24, 124, asked),
        text(x - 20, 148, name, 12),
        small_map(x + 12, 112, what.weigh == "mean"),
        arrow(f"M{x},92 L{x},52"),
        text(x + 8, 80, f"g<tspan dy='4' font-size='10'>a{number}</tspan>", 15,
             **{"text-anchor": "start"}),
    ]  # fmt: skip


def draw(name: str) -> str:
    """The SVG of one of `DRAWINGS`."""
    what = DRAWINGS[name]
    parts = [text(-24, GROUND - 12, "image", 14)]
    tapped = STAGES[len(STAGES) - what.taps :]
    before = 0.0
    for layers, x, fine, coarse in STAGES:
        side = fine if what.fine else coarse
        height = 34 + 1.6 * side
        parts += [
            arrow(f"M{before},{GROUND - 17} L{x - 49},{GROUND - 17}"),
            box(x, GROUND - height, 94, height, TRUNK),
            text(x, GROUND - height / 2 + 1, layers, 14),
            text(x, GROUND + 20, f"{side}×{side}", 14),
        ]
        before = x + 47
        if (layers, x, fine, coarse) in tapped:
            number = tapped.index((layers, x, fine, coarse)) + 1
            parts += estimator(x, GROUND - height - 1, what, number)
    end = "14-15, pools" if what.fine else "pools"
    parts += [
        arrow(f"M{before},{GROUND - 17} L448,{GROUND - 17}"),
        box(498, GROUND - 36, 96, 36, TRUNK),
        text(498, GROUND - 13, end, 14),
        text(498, GROUND + 20, "1×1", 14),
        arrow(f"M546,{GROUND - 17} L578,{GROUND - 17}"),
        box(614, GROUND - 36, 68, 36, TRUNK),
        text(614, GROUND - 13, "FC", 14),
        text(614, GROUND + 20, "g", 16, **{"font-weight": "bold"}),
    ]
    parts += [box(614, 30, 104, 42, "#d5ecd4"), text(614, 56, "classifier", 14)]
    parts += [arrow("M666,51 L690,51"), text(702, 56, "cat", 14)]
    if what.taps:
        first = tapped[0][1]
        joined = f"M{first},51 L560,51"
        parts += [arrow(joined), text(470, 40, "joined" if what.taps > 1 else "", 13)]
        if what.weigh == "dp":
            parts += [
                arrow(f"M614,{GROUND - 37} L614,130 L{x + 58},130"),
                text(520, 122, "query g", 13),
            ]
            parts += [
                arrow(f"M{b - 57},130 L{a + 58},130")
                for (_, a, *_), (_, b, *_) in itertools.pairwise(tapped)
            ]
        elif what.weigh == "pc":
            parts += [
                arrow(f"M614,{GROUND - 37} L614,130 L{x + 74},130", QUIET, dashed=True),
                text(x + 64, 135, "×", 18, fill=QUIET),
                text(530, 120, "g cancels out", 13, fill="#555"),
            ]
    else:
        parts += [arrow(f"M614,{GROUND - 37} L614,74")]
    heads = "".join(
        f'<marker id="{head}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
        f'markerHeight="7" orient="auto-start-reverse"><path d="M0,0 L10,5 L0,10 z" '
        f'fill="{colour}"/></marker>'
        for head, colour in (("black", "#000"), ("grey", QUIET))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-50 20 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" '
        'font-family="DejaVu Sans, Verdana, sans-serif">\n'
        f"<title>{name}</title>\n<defs>{heads}</defs>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def main() -> None:
    for name in DRAWINGS:
        write_whole(STATIC / f"network-{name}.svg", draw(name).encode())


if __name__ == "__main__":
    main()
