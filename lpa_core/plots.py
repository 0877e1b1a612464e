"""The book's figures: one style, legible on a phone, safe for colour-blind readers."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from torch import Tensor

from lpa_core.maps import resize_maps
from lpa_core.shapes import Float, UInt8
from lpa_core.training import Record

__all__ = [
    "overlay",
    "set_style",
    "show_attention",
    "show_graph",
    "show_history",
    "show_images",
    "show_opening",
]

COLOUR_MAP = "inferno"
NIGHT, GLOW = "#14101f", "#fca50a"  # ground and light of the opening picture


def set_style() -> None:
    """Fonts, colours and sizes of every figure in the book."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.bbox": "tight",
            "font.size": 12,
            "axes.titlesize": 12,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )


def overlay(
    image: UInt8[Tensor, "s s 3"], attention: Float[Tensor, "h w"], strength: float = 0.6
) -> np.ndarray:
    """An image under its attention map, as an RGB array (S, S, 3) in [0, 1].

    The map is enlarged to the image and stretched so that its highest value is 1.
    """
    heat = resize_maps(attention[None], image.shape[0])[0].numpy()
    heat = heat / heat.max()
    coloured = plt.get_cmap(COLOUR_MAP)(heat)[..., :3]
    return (1 - strength) * image.numpy() / 255 + strength * coloured


def show_attention(
    images: UInt8[Tensor, "b s s 3"],
    maps: dict[str, Float[Tensor, "b _ _"]],
    titles: list[str] | None = None,
    side: float = 1.7,
    upright: bool = True,
) -> Figure:
    """A row an image: the image, then the image under each layer's map.

    With `upright=False` the figure lies on its side: a column an image.

    Raises:
        ValueError: there are no maps, or not one for each image.
    """
    if not maps:
        raise ValueError("there are no maps to show: this network has no attention")
    for name, layer in maps.items():
        if len(layer) != len(images):
            raise ValueError(f"{len(images)} images, but {len(layer)} maps of {name}")
    shape = (len(images), 1 + len(maps)) if upright else (1 + len(maps), len(images))
    figure, axes = plt.subplots(
        *shape,
        figsize=(side * shape[1], side * shape[0]),
        squeeze=False,
        layout="constrained",
    )
    axes = axes if upright else axes.T
    for row, image in enumerate(images):
        axes[row, 0].imshow(image.numpy())
        for column, layer in enumerate(maps.values(), start=1):
            axes[row, column].imshow(overlay(image, layer[row]))
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
    """What the book is about: a photograph, where a network looks, what it says.

    The picture has a dark ground of its own, for light pages and dark ones, and letters
    that one can read when it is as wide as a telephone.

    Args:
        chances: the probability of each class; the three highest are shown.
        heading: two lines above the panels, as a card on its own needs them.
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
    """A graph from top to bottom: an arrow leads from a step to each that takes from it.

    Args:
        graph: of each step those that it takes from.
        level: the row of each, from the top, 0, 1, …
    """
    depth = 1 + max(level.values())
    rows = [[step for step in graph if level[step] == n] for n in range(depth)]
    widest = max(map(len, rows))
    figure, axis = plt.subplots(figsize=(2.4 * widest + 2, 1.1 * depth))
    place = {
        step: ((column + 0.5) * widest / len(row), -n)
        for n, row in enumerate(rows)
        for column, step in enumerate(row)
    }
    box = {"boxstyle": "round,pad=0.45", "facecolor": "white", "edgecolor": "C0"}
    for step, (x, y) in place.items():
        axis.text(x, y, step, ha="center", va="center", fontsize=12, bbox=box, zorder=3)
        for before in graph[step]:
            # Past a row, an arrow bends so that it does not run through what stands there.
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
            )
    axis.set(xlim=(-0.3, widest + 0.3), ylim=(0.5 - depth, 0.5))
    axis.set_axis_off()
    return figure


def show_history(records: list[Record]) -> Figure:
    """Loss and error, epoch by epoch, of finished runs; dots are the test set's."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    colours = sns.color_palette("colorblind", len(records))
    for record, colour in zip(records, colours, strict=True):
        label = f"{record.spec.network}, seed {record.spec.seed}"
        epochs = [epoch.epoch for epoch in record.history]
        tested = [epoch for epoch in record.history if epoch.test_error is not None]
        for axis, figure_of in ((left, "loss"), (right, "error")):
            train = [getattr(epoch, f"train_{figure_of}") for epoch in record.history]
            test = [getattr(epoch, f"test_{figure_of}") for epoch in tested]
            axis.plot(epochs, train, color=colour, label=label)
            axis.plot([e.epoch for e in tested], test, "o", color=colour)
    left.set(xlabel="epoch", ylabel="loss (line: training, dots: test)")
    right.set(xlabel="epoch", ylabel="top-1 error, %", ylim=(0, None))
    if records:
        right.legend(fontsize=9)
    return figure
