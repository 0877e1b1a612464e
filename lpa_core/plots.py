"""The book's figures: one style, legible on a phone, safe for colour-blind readers.

Charts are drawn as SVG and photographs as PNG, both with a transparent background, so that
they fit light and dark pages. The maps of a figure share one scale.
"""

import io
import itertools
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from IPython.core.getipython import get_ipython
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from lpa_core.maps import effective_share, resize_maps
from lpa_core.results import NOT_RUN, Step
from lpa_core.shapes import Float, UInt8
from lpa_core.training import Record

__all__ = [
    "map_scale",
    "overlay",
    "set_style",
    "show_attention",
    "show_graph",
    "show_history",
    "show_images",
    "show_opening",
    "show_steps",
]

COLOUR_MAP = "inferno"
NIGHT, GLOW = "#14101f", "#fca50a"  # background and light of the opening picture
MIDDLE = "#767676"  # a grey that is legible on light and dark pages
PIXELS = 2  # of a photograph's figure, per pixel of the page
EVEN = "attention, times an even share"


def set_style() -> None:
    """Fonts, colours, sizes and formats of every figure in the book."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    plt.rcParams.update(
        {
            "figure.dpi": 96,
            "savefig.bbox": "tight",
            "font.size": 13,
            "axes.titlesize": 13,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "svg.hashsalt": "lpa",
        }
    )
    choose_formats()


# ------------------------------------------------------------------------------- formats


def choose_formats() -> None:
    """In a notebook, show charts as SVG and figures with photographs or maps as PNG."""
    shell = get_ipython()
    if shell is None or "IPKernelApp" not in shell.config:
        return
    # Matplotlib's own formats are set first; otherwise they would replace these.
    shell.run_line_magic("matplotlib", "inline")
    formatters: Any = shell.display_formatter.formatters  # pyright: ignore
    formatters["image/svg+xml"].for_type(Figure, as_svg)
    formatters["image/png"].for_type(Figure, as_png)


def holds_pictures(figure: Figure) -> bool:
    """Whether a figure has images or maps, whose colours must not be inverted."""
    return any(
        axis.images or any(isinstance(c, QuadMesh) for c in axis.collections)
        for axis in figure.axes
    )


def as_svg(figure: Figure) -> str | None:
    """A chart in black on a transparent background; a dark page inverts it. Else None."""
    if holds_pictures(figure):
        return None
    content = io.StringIO()
    clear_ground(figure)
    figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()


def as_png(figure: Figure) -> tuple[bytes, dict[str, int]] | None:
    """A figure with pictures and its width on the page, in pixels; else None.

    Its text is in a grey that is legible on light and dark pages.
    """
    if not holds_pictures(figure):
        return None
    content = io.BytesIO()
    clear_ground(figure)
    for text in words_around(figure):
        if sum(to_rgb(text.get_color())) < 1.2:
            text.set_color(MIDDLE)
    figure.savefig(content, format="png", dpi=PIXELS * figure.dpi)
    png = content.getvalue()
    width = int.from_bytes(png[16:20], "big")  # from its header
    return png, {"width": width // PIXELS}


def clear_ground(figure: Figure) -> None:
    if to_rgb(figure.get_facecolor()) == (1.0, 1.0, 1.0):
        figure.patch.set_alpha(0)
        for axis in figure.axes:
            axis.patch.set_alpha(0)


def words_around(figure: Figure) -> Iterable[Text]:
    """A figure's texts, without those on its pictures."""
    yield from figure.texts  # its title too
    legends = [*figure.legends]
    for axis in figure.axes:
        yield from (axis.title, axis.xaxis.label, axis.yaxis.label)
        yield from (*axis.get_xticklabels(), *axis.get_yticklabels())
        if (own := axis.get_legend()) is not None and not axis.images:
            legends.append(own)
    for legend in legends:
        legend.get_frame().set_alpha(0)
        yield from legend.get_texts()


# ---------------------------------------------------------------------------------- maps


def times_even(attention: Float[Tensor, "*b h w"]) -> Float[Tensor, "*b h w"]:
    """Maps that sum to one, as multiples of the even share 1/n of each position."""
    return attention * (attention.shape[-1] * attention.shape[-2])


def highest_of(maps: Iterable[Float[Tensor, "b _ _"]]) -> float:
    """The upper end of one scale for several maps: their maximum, at least 2."""
    return max(2.0, *(times_even(layer).max().item() for layer in maps))


def overlay(
    image: UInt8[Tensor, "s s 3"],
    attention: Float[Tensor, "h w"],
    strength: float = 0.6,
    highest: float | None = None,
) -> np.ndarray:
    """An image under its attention map, as an RGB array (S, S, 3) in [0, 1].

    Args:
        strength: of the map's colours, between 0 and 1.
        highest: the brightest value, in multiples of the even share 1/n of a position, so
            that several maps can share a scale. None scales the map to its own maximum; a
            figure that does so has to say it.
    """
    heat = resize_maps(attention[None], image.shape[0])[0]
    heat = heat / heat.max() if highest is None else times_even(heat) / highest
    coloured = plt.get_cmap(COLOUR_MAP)(heat.numpy())[..., :3]
    return (1 - strength) * image.numpy() / 255 + strength * coloured


def map_scale(figure: Figure, axes: Sequence[Axes] | np.ndarray, highest: float) -> None:
    """The colour bar of maps that `overlay` drew with the same `highest`."""
    colours = ScalarMappable(Normalize(0, highest), COLOUR_MAP)
    bar = figure.colorbar(colours, ax=axes, shrink=0.6, aspect=30, pad=0.02)
    bar.set_label(EVEN)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]


def show_attention(
    images: UInt8[Tensor, "b s s 3"],
    maps: dict[str, Float[Tensor, "b _ _"]],
    titles: list[str] | None = None,
    side: float = 1.7,
    upright: bool = True,
) -> Figure:
    """One row per image: the image, then the image under each layer's map.

    Each map is divided by its sum. All share one scale, shown by the colour bar: multiples
    of the even share of a position. Below each is its effective share of the positions, as
    a number only if panels are small. With `upright=False` the figure is transposed: one
    column per image.

    Raises:
        ValueError: there are no maps, or their number differs from that of the images.
    """
    if not maps:
        raise ValueError("there are no maps to show: this network has no attention")
    for name, layer in maps.items():
        if len(layer) != len(images):
            raise ValueError(f"{len(images)} images, but {len(layer)} maps of {name}")
    maps = {name: m / m.sum(dim=(1, 2), keepdim=True) for name, m in maps.items()}
    highest = highest_of(maps.values())
    shape = (len(images), 1 + len(maps)) if upright else (1 + len(maps), len(images))
    figure, axes = plt.subplots(
        *shape,
        figsize=(side * shape[1] + 1.6, (side + 0.2) * shape[0]),
        squeeze=False,
        layout="constrained",
    )
    axes = axes if upright else axes.T
    for row, image in enumerate(images):
        axes[row, 0].imshow(image.numpy())
    for column, layer in enumerate(maps.values(), start=1):
        for row, share in enumerate(effective_share(layer)):
            axis = axes[row, column]
            axis.imshow(overlay(images[row], layer[row], highest=highest))
            said = f"{share:.0%} of positions" if side >= 1.4 else f"{share:.0%}"
            axis.set_xlabel(said, fontsize=9, labelpad=2)
    columns = [name.replace("layer", "layer ") for name in ["image", *maps]]
    below, beside = (columns, titles) if upright else (titles, columns)
    figure_axes = axes if upright else axes.T
    for axis, name in zip(figure_axes[0], below or [], strict=False):
        axis.set_title(name)
    for axis, name in zip(figure_axes[:, 0], beside or [], strict=False):
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.grid(False)
        axis.spines[:].set_visible(False)
    map_scale(figure, axes, highest)
    return figure


def show_steps(steps: Sequence[Step]) -> Figure:
    """The error of each network of a chain, and how its change affects the error.

    A bar is the change from the previous network; the line on it is its 95 % interval.
    Grey bars are the errors of the first and the last network. A telephone shows all of
    them at once.
    """
    figure, axis = plt.subplots(figsize=(5, 3.6), layout="constrained")
    if not steps:
        axis.text(0.5, 0.5, NOT_RUN, ha="center", transform=axis.transAxes)
        return figure
    names = [steps[0].network, *(f"and {step.change}" for step in steps[1:])]
    names.append(steps[-1].network.removesuffix("-concat-pc"))
    fewer, more = sns.color_palette("colorblind")[2], sns.color_palette("colorblind")[3]
    highest = max(step.error for step in steps)
    gap = highest / 50  # below a number
    for place, whole in ((0, steps[0]), (len(steps), steps[-1])):
        axis.bar(place, whole.error, 0.62, color="0.7")
        text = f"{whole.error:.2f} %"
        axis.text(place, whole.error + gap, text, ha="center", fontsize=11)
    for place, (before, step) in enumerate(itertools.pairwise(steps), start=1):
        found = step.fewer
        assert found is not None
        axis.bar(
            place, -found.mean, 0.62, before.error, color=fewer if found.mean > 0 else more
        )
        top = max(before.error, step.error)
        if found.low is not None and found.high is not None:
            ends = before.error - np.array([found.low, found.high])
            axis.plot([place, place], ends, color="black", lw=2)
            top = max(top, *ends)
        axis.text(place, top + gap, f"{-found.mean:+.2f}", ha="center", fontsize=11)
        axis.plot([place - 0.69, place - 0.31], 2 * [before.error], color="0.5", lw=1)
    last = len(steps)
    axis.plot([last - 0.69, last - 0.31], 2 * [steps[-1].error], color="0.5", lw=1)
    labels = [textwrap.fill(name, 10) for name in names]
    axis.set_xticks(range(len(names)), labels, fontsize=11)
    axis.set(ylabel="test error, %", ylim=(0, 1.15 * highest))
    axis.grid(False, axis="x")
    return figure


def show_images(
    images: UInt8[Tensor, "b s s 3"], titles: list[str], columns: int = 5, side: float = 1.4
) -> Figure:
    """Images in rows of `columns`, each with its title."""
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(side * columns, (side + 0.25) * rows),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image, title in zip(axes.flat, images, titles, strict=False):
        axis.imshow(image.numpy())
        axis.set_title(title, fontsize=10)
    return figure


def show_opening(
    photograph: UInt8[Tensor, "s s 3"],
    attention: Float[Tensor, "h w"],
    chances: dict[str, float],
    heading: tuple[str, str] | None = None,
) -> Figure:
    """The book in one picture: a photograph, where a network looks, what it predicts.

    The map is scaled to its own maximum; the caption has to say so. The picture has its own
    dark background, for light and dark pages, and its text is legible at the width of a
    phone.

    Args:
        chances: the probability of each class; the three highest are shown.
        heading: two lines above the panels, for use outside of the book.
    """
    height = 4.8 if heading is None else 6.3
    figure = plt.figure(figsize=(12, height), facecolor=NIGHT)
    bold: dict[str, Any] = {
        "color": "white",
        "fontweight": "bold",
        "ha": "center",
        "va": "center",
    }
    top, side = 3.5, 3.5
    for n, panel in enumerate((photograph.numpy() / 255, overlay(photograph, attention))):
        place = (0.35 + 4.1 * n) / 12, 0.95 / height, side / 12, top / height
        axis = figure.add_axes(place)
        axis.imshow(panel, interpolation="bilinear")
        axis.set_axis_off()
    axis = figure.add_axes((8.6 / 12, 0.95 / height, 3.1 / 12, top / height))
    axis.set(xlim=(0, 1), ylim=(2.6, -0.6))
    axis.set_axis_off()
    best = sorted(chances.items(), key=lambda item: -item[1])[:3]
    for row, (name, chance) in enumerate(best):
        colour = GLOW if row == 0 else "0.75"
        axis.barh(row + 0.18, chance, height=0.3, color=colour, lw=0, zorder=2)
        axis.barh(row + 0.18, 1, height=0.3, color="0.3", lw=0)
        words: dict[str, Any] = {"color": colour, "fontsize": 32 if row == 0 else 24}
        words["va"] = "bottom"
        axis.text(0, row - 0.06, name, fontweight="bold", **words)
        axis.text(1, row - 0.06, f"{100 * chance:.0f} %", ha="right", **words)
    said = {2.1: "a photograph", 6.2: "where it looks", 10.15: "what it says"}
    for centre, text in said.items():
        figure.text(centre / 12, 0.48 / height, text, fontsize=30, **bold)
    arrow: dict[str, Any] = {"fontsize": 26, "color": GLOW, "ha": "center", "va": "center"}
    for centre in (3.975, 8.225):
        figure.text(centre / 12, 2.7 / height, "\N{BLACK RIGHT-POINTING TRIANGLE}", **arrow)
    for line, y, size in zip(heading or (), (0.48, 1.13), (40, 26), strict=False):
        figure.text(0.5, 1 - y / height, line, fontsize=size, **bold)
    return figure


def show_graph(graph: dict[str, list[str]], level: dict[str, int]) -> Figure:
    """A graph from top to bottom, with an arrow from each step to those that depend on it.

    Args:
        graph: for each step, those that it depends on.
        level: the row of each, from the top, 0, 1, …
    """
    depth = 1 + max(level.values())
    rows = [[step for step in graph if level[step] == n] for n in range(depth)]
    widest = max(map(len, rows))
    figure, axis = plt.subplots(figsize=(2.2 * widest + 1.6, 1.1 * depth))
    place = {
        step: ((column + 0.5) * widest / len(row), -n)
        for n, row in enumerate(rows)
        for column, step in enumerate(row)
    }
    box = {"boxstyle": "round,pad=0.45", "facecolor": "white", "edgecolor": "C0"}
    for step, (x, y) in place.items():
        axis.text(x, y, step, ha="center", va="center", fontsize=12, bbox=box, zorder=3)
        for before in graph[step]:
            # An arrow that skips a row bends, so that it can be told from the others.
            bend = 0.0 if level[step] - level[before] == 1 else 0.45
            axis.annotate(
                "",
                xy=(x, y + 0.2),
                xytext=(place[before][0], place[before][1] - 0.2),
                arrowprops={
                    "arrowstyle": "-|>",
                    "color": "0.35",
                    "connectionstyle": f"arc3,rad={bend}",
                },
                zorder=2,  # behind the boxes
            )
    axis.set(xlim=(-0.3, widest + 0.3), ylim=(0.5 - depth, 0.5))
    axis.set_axis_off()
    return figure


def show_history(records: list[Record]) -> Figure:
    """Loss and error, epoch by epoch, of finished runs; dots are the test set's."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(5, 7), layout="constrained")
    colours = sns.color_palette("colorblind", len(records))
    for record, colour in zip(records, colours, strict=True):
        label = f"{record.spec.network}, seed {record.spec.seed}"
        epochs = [epoch.epoch for epoch in record.history]
        tested = [epoch for epoch in record.history if epoch.test_error is not None]
        for axis, figure_of in ((above, "loss"), (below, "error")):
            train = [getattr(epoch, f"train_{figure_of}") for epoch in record.history]
            test = [getattr(epoch, f"test_{figure_of}") for epoch in tested]
            axis.plot(epochs, train, color=colour, label=label)
            axis.plot([e.epoch for e in tested], test, "o", color=colour)
    above.set(ylabel="loss (line: training, dots: test)")
    below.set(xlabel="epoch", ylabel="top-1 error, %", ylim=(0, None))
    for axis in (above, below):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if records:  # above the panels, so that it hides no line
        names = above.get_legend_handles_labels()
        figure.legend(*names, loc="outside upper center", fontsize=10)
    return figure
