"""Figures and tables of the chapters on other domains and on segmentation.

Panels of images and maps with legends; class-balanced subsets; and two tables of
measurements with their spread over folds and over photographs.
"""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from lpa_core.data import Dataset
from lpa_core.plots import COLOUR_MAP
from lpa_core.results import (
    NOT_RUN,
    Measurement,
    claim_findings,
    difference,
    paper,
    table3_beside,
)
from lpa_core.results.claims import STAND_INS, finding_text
from lpa_core.results.side_by_side import (
    by_threshold,
    jaccard_of,
    latest,
    method_name,
    training_of,
)
from lpa_core.shapes import Bool, Float
from lpa_core.tasks.segment import jaccard

__all__ = [
    "balanced_subset",
    "colour_legend",
    "compare_methods",
    "jaccard_scores",
    "mask_overlap",
    "panel_grid",
    "segment_claims",
    "table3_measured",
]

OVERLAP = {
    "both": (0.01, 0.62, 0.45),
    "mask only": (0.87, 0.56, 0.02),
    "truth only": (0.0, 0.45, 0.70),
}
TRAINED_ON = "cifar10"  # the networks of the chapters' tables
GREY = 0.93  # background of a picture of an overlap

Panel = np.ndarray | Tensor | tuple[np.ndarray | Tensor, dict[str, Any]]


# ------------------------------------------------------------------------------- panels


def panel_grid(
    rows: Sequence[Sequence[Panel]],
    titles: Sequence[str] = (),
    labels: Sequence[str] = (),
    figsize: tuple[float, float] = (7.5, 5.6),
) -> Figure:
    """Images, maps and masks in rows of equal length.

    Args:
        rows: each panel is RGB (h, w, 3), a map (h, w) or a boolean mask (h, w); or a pair
            of one of these and keywords for matplotlib's `imshow`.
        titles: one per column, above the first row; or one per panel.
        labels: one per row, to its left.

    Raises:
        ValueError: there are no panels, rows differ in length, or the number of titles or
            labels does not fit.
    """
    counts = sorted({len(row) for row in rows})
    if len(counts) != 1 or not counts[0]:
        raise ValueError(f"rows of {counts} panels: give rows of one length, at least 1")
    panels = [panel for row in rows for panel in row]
    if len(titles) not in (0, counts[0], len(panels)):
        raise ValueError(
            f"{len(titles)} titles: give one for each of {counts[0]} columns or one for "
            f"each of {len(panels)} panels"
        )
    if len(labels) not in (0, len(rows)):
        raise ValueError(f"{len(labels)} labels for {len(rows)} rows: give one per row")
    figure, axes = plt.subplots(
        len(rows), counts[0], figsize=figsize, squeeze=False, layout="constrained"
    )
    for axis, panel in zip(axes.flat, panels, strict=True):
        picture, how = panel if isinstance(panel, tuple) else (panel, {})
        values = np.asarray(picture)
        shades = {"cmap": "gray" if values.dtype == bool else COLOUR_MAP}
        axis.imshow(values, **(shades | how))
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        axis.spines[:].set_visible(False)
    for axis, title in zip(axes.flat, titles, strict=False):
        axis.set_title(title)
    for axis, label in zip(axes[:, 0], labels, strict=False):
        axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=11)
    return figure


def colour_legend(where: Figure | Axes, colours: Mapping, **options) -> None:
    """A legend of filled squares from {name: colour}; `options` are matplotlib's."""
    squares = [Rectangle((0, 0), 1, 1, color=colour) for colour in colours.values()]
    where.legend(squares, list(colours), **options)


def mask_overlap(
    mask: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w 3"]:
    """A mask compared with the true one, in the colours of `OVERLAP`, RGB in [0, 1]."""
    picture = np.full((*truth.shape, 3), GREY)
    picture[mask & truth] = OVERLAP["both"]
    picture[mask & ~truth] = OVERLAP["mask only"]
    picture[~mask & truth] = OVERLAP["truth only"]
    return picture


# ------------------------------------------------------------------------------- images


LEAST = 30  # images of a class in a subset


def balanced_subset(data: Dataset, count: int, seed: int = 0) -> Dataset:
    """About `count` images, the same number of each class, drawn at random.

    If `count` is too small for `LEAST` of each class, only the largest classes are kept,
    at least 2.

    Args:
        seed: of the draw.
    """
    sizes = data.labels.bincount()
    kept = sizes.argsort(descending=True, stable=True)[: max(2, count // LEAST)]
    each = min(count // len(kept), int(sizes[kept].min()))
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    chosen = [order[data.labels[order] == label][:each] for label in kept]
    return data.take(torch.cat(chosen))


# ------------------------------------------------------------------------------- tables


def compare_methods(
    masks: Mapping[str, np.ndarray], truths: Bool[np.ndarray, "n h w"], control: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score several methods' masks of the same images, and compare them with a control.

    Args:
        masks: booleans (n, h, w) of each method.
        control: the method that all are compared with, image by image.

    Returns:
        The Jaccard index in per cent, one row per image, one column per method; and an
        overview, sorted by score. Its columns: Jaccard, %; ± s.e. (standard error over
        images); marks, % (of the image); over (the mean difference from the control) and
        low and high, the ends of its 95 % interval over images.
    """
    table = pd.DataFrame({name: 100 * jaccard(m, truths) for name, m in masks.items()})
    rows = {}
    for name, marked in masks.items():
        scores = table[name]
        over = difference(list(scores - table[control]), 0.0)
        rows[name] = {
            "Jaccard, %": scores.mean(),
            "± s.e.": scores.sem(),
            "marks, %": 100 * marked.mean(),
            f"over {control}": over.mean,
            "low": over.low,
            "high": over.high,
        }
    overview = pd.DataFrame(rows).T.astype(float)
    return table, overview.sort_values("Jaccard, %", ascending=False)


def segment_claims(measurements: list[Measurement]) -> pd.DataFrame:
    """The comparisons of claim 6 on the stand-in's photographs, as text, class by class.

    Columns: network, against, label (a class, or "all"), trained on, said (the difference,
    its interval and its verdict), finding.
    """
    findings = claim_findings(6, [], measurements, STAND_INS["object_discovery"][0])
    rows = [
        (
            f.network,
            f.against,
            f.part.split(":")[0],
            f.trained,
            finding_text(f),
            f,
        )
        for f in findings
        if f.against
    ]
    columns = ["network", "against", "label", "trained on", "said", "finding"]
    return pd.DataFrame(rows, columns=columns)


def table3_measured(
    measurements: list[Measurement], trained_on: str = TRAINED_ON
) -> pd.DataFrame:
    """Table 3 for networks trained on one set, beside our measurements.

    Only sets with measurements have rows.

    Columns: set, network, paper, measured (mean ± standard deviation over trainings),
    ± folds (mean standard deviation over the folds of one training), n, images.
    """
    ours = [m for m in measurements if m.task == "transfer" and "std" in m.metrics]
    ours = [m for m in ours if m.weights and m.weights.dataset == trained_on]
    rows = []
    for dataset in next(iter(paper.table3().values())):
        frame = table3_beside(measurements, dataset, trained_on)
        if all(frame["measured"] == NOT_RUN):
            continue
        for row in frame.to_dict("records"):
            over_folds = [
                m.metrics["std"]
                for m in ours
                if (m.network, m.data.name) == (row["network"], dataset)
                and m.data.images == row["images"]
            ]
            rows.append(
                {
                    "set": dataset,
                    "network": row["network"],
                    "paper": row["paper"],
                    "measured": row["measured"],
                    "± folds": f"{mean(over_folds):.2f}" if over_folds else "",
                    "n": row["n"] or "",
                    "images": f"{row['images']:,}" if row["images"] else "",
                }
            )
    columns = ["set", "network", "paper", "measured", "± folds", "n", "images"]
    return pd.DataFrame(rows, columns=columns)


def jaccard_scores(measurements: list[Measurement], dataset: str) -> pd.DataFrame:
    """Each method's Jaccard index on each class of photographs, in per cent.

    Only measurements on the largest number of photographs count, so that all methods were
    measured on the same ones. Networks with one name but several widths or kinds of
    training have separate rows.

    Columns: method, class, jaccard (mean over the weights), error (its standard error,
    combined over the photographs and the weights), weights (how many; 0 for a method that
    is not trained), images. A method that has no map for some classes has no row "all".
    Masks are by Otsu's threshold.
    """
    ours = [m for m in by_threshold(measurements) if m.data.name == dataset]
    ours = [m for m in ours if m.weights is None or m.weights.dataset == TRAINED_ON]
    images = max((m.data.images for m in ours), default=0)
    ours = [m for m in latest(ours) if m.data.images == images]
    widths: dict[str, set[float]] = {}
    for m in ours:
        if m.weights:
            widths.setdefault(method_name(m), set()).add(m.weights.width)
    groups: dict[str, list[Measurement]] = {}
    for m in ours:
        words = [method_name(m)]
        if m.weights and len(widths[words[0]]) > 1:
            words.append(f"width {m.weights.width:g}")
        name = ", ".join([*words, *training_of(m)])
        groups.setdefault(name, []).append(m)
    rows = []
    for name, group in groups.items():
        for label in group[0].metrics:
            if jaccard_of(label)(group[0]) is None:
                continue
            cells = pd.DataFrame([m.metrics[label] for m in group])
            over_images = cells["sem"].mean(skipna=False) if "sem" in cells else np.nan
            over_weights = cells["jaccard"].sem() if len(group) > 1 else 0.0
            error = np.hypot(over_images, over_weights)
            score = cells["jaccard"].mean()
            trained = sum(m.weights is not None for m in group)
            rows.append((name, label, 100 * score, 100 * error, trained, images))
    columns = ["method", "class", "jaccard", "error", "weights", "images"]
    return pd.DataFrame(rows, columns=columns)
