"""What chapters share: networks that ship, numbers with their intervals, rows of text for
tables, and grids of images.

A chapter prints and draws. What is selected, pooled or formatted for it stands here, and
verdicts come from `lpa_core.results.claims` alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from math import hypot
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from lpa_core.results import (
    NOT_RUN,
    Measurement,
    difference,
    figure6_beside,
    paper,
    shipped_network,
)
from lpa_core.results.claims import Finding, shown
from lpa_core.tasks.attack import AttackReport
from lpa_core.training import Trained

__all__ = [
    "claim_rows",
    "effect_rows",
    "figure6_rows",
    "fooling_gaps",
    "fooling_rates",
    "half_interval",
    "image_rows",
    "in_precision",
    "interval_of_mean",
    "paper_rates",
    "recorded_effects",
    "report_rates",
    "shipped_networks",
    "verdicts",
]

# -------------------------------------------------------------------------------- networks


def shipped_networks(names: Iterable[str], dataset: str) -> dict[str, Trained]:
    """Those of the named networks whose weights ship; a line is printed for each other."""
    found = {}
    for name in names:
        try:
            found[name] = shipped_network(name, dataset)
        except ValueError:
            print(f"{name}: no weights for {dataset} ship with the book; left out")
    return found


def in_precision(trained: Trained, kind: torch.dtype) -> Trained:
    """A copy that computes in `kind`, from its normalised input on."""
    copy = deepcopy(trained)
    copy.network.to(kind)
    copy.preprocess.register_forward_hook(lambda module, given, x: x.to(kind))
    return copy


# ------------------------------------------------------------------------------- intervals


def half_interval(rate: float, count: float) -> float:
    """Half of the 95 % interval of a rate in per cent, over `count` images.

    The normal approximation: too narrow near 0 and 100 %.

    Raises:
        ValueError: no rate in per cent, or no images.
    """
    if not 0 <= rate <= 100 or count < 1:
        raise ValueError(
            f"a rate of {rate:g} % over {count:g} images: give 0 to 100 % of at least 1"
        )
    return 1.96 * (rate * (100 - rate) / count) ** 0.5


def interval_of_mean(values: Iterable[float]) -> str:
    """Mean and 95 % interval in words, of one number an image or pair (Student's)."""
    found = difference([float(value) for value in values], 0.0)
    if found.low is None:
        return f"{found.mean:+.4f}, no interval"
    return f"{found.mean:+.4f}, 95 % interval {found.low:+.4f} to {found.high:+.4f}"


# ------------------------------------------------------------------------------ the claims


def claim_rows(findings: Sequence[Finding]) -> pd.DataFrame:
    """Findings as text. Columns: set, difference, paper, measured, 95 % interval,
    trainings, verdict."""
    rows = []
    for finding in findings:
        found = finding.measured
        rows.append(
            {
                "set": finding.dataset,
                "difference": finding.part,
                "paper": signed(finding.paper),
                "measured": signed(found.mean if found else None),
                "95 % interval": (
                    f"{signed(found.low)} to {signed(found.high)}"
                    if found is not None and found.low is not None
                    else ""
                ),
                "trainings": shown(found.trainings) if found else "",
                "verdict": finding.verdict,
            }
        )
    names = "set,difference,paper,measured,95 % interval,trainings,verdict"
    return pd.DataFrame(rows, columns=names.split(","))


def signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.3g}"


def verdicts(findings: Sequence[Finding], part: str = "") -> str:
    """The verdicts of those findings whose part contains `part`, with the sets they are
    on; "not run" where nothing was measured."""
    sets: dict[str, list[str]] = {}
    for finding in findings:
        if part in finding.part and finding.measured is not None:
            sets.setdefault(finding.verdict, []).append(finding.dataset)
    said = [f"{verdict} on {' and '.join(names)}" for verdict, names in sets.items()]
    return "; ".join(said) or NOT_RUN


# ---------------------------------------------------------------------------- fooling rates


def report_rates(reports: Mapping[str, AttackReport]) -> pd.DataFrame:
    """Columns: network, eps, fooling_rate, error, each with its ±, images, training.

    A row for each network and strength, the clean images first, at an eps of 0. Rates are
    in per cent; the ± is half their 95 % interval over the images.
    """
    rows = []
    for name, report in reports.items():
        strengths = [(s.eps, s.fooling_rate, s.error) for s in report.strengths]
        for eps, fooled, error in [(0.0, 0.0, report.clean_error), *strengths]:
            halves = [half_interval(rate, report.images) for rate in (fooled, error)]
            row = name, eps, fooled, halves[0], error, halves[1], report.images, name
            rows.append(row)
    columns = ["network", "eps", "fooling_rate", "± fooling_rate", "error", "± error"]
    return pd.DataFrame(rows, columns=[*columns, "images", "training"])


def paper_rates() -> pd.DataFrame:
    """Figure 6 in the columns of `fooling_rates`, as far as the paper has them."""
    rows = [
        ("cub200 (paper)", "fgsm", network, "paper", float(eps), figure.mean)
        for network, figures in paper.figure6().items()
        for eps, figure in figures.items()
    ]
    columns = ["set", "attack", "network", "training", "eps", "fooling_rate"]
    return pd.DataFrame(rows, columns=columns)


def fooling_rates(measurements: Iterable[Measurement]) -> pd.DataFrame:
    """Columns: set, attack, width, network, training, images, eps, fooling_rate.

    Of networks that were attacked on the set they were trained on. Where one training was
    attacked several times, that on most images counts, and of those the last.
    """
    names = "set attack width network training images eps fooling_rate"
    ours = sorted(
        (m for m in measurements if m.task == "attack"),
        key=lambda m: (m.data.images, m.started),
    )
    found: dict[tuple, Measurement] = {}
    for m in ours:
        if m.weights is not None and m.weights.dataset == m.data.name:
            key = m.data.name, m.settings["attack"], m.weights.width, m.network
            found[*key, m.weights.sha256] = m
    rows = [
        (*key, m.data.images, float(eps), row["fooling_rate"])
        for key, m in found.items()
        for eps, row in m.metrics["eps"].items()
    ]
    frame = pd.DataFrame(rows, columns=names.split())
    return frame.sort_values(["attack", "set"], kind="stable", ignore_index=True)


def fooling_gaps(
    rates: pd.DataFrame,
    pairs: Mapping[tuple[str, str], str],
    strengths: tuple[float, float] = (1, 16),
) -> pd.DataFrame:
    """Mean fooling rates of one network minus another's, in points, as text.

    The ± is half the 95 % interval over the choice of images, taken as independent between
    the two. It says nothing of other trainings.

    Args:
        rates: as `fooling_rates` gives them.
        pairs: what the comparison of two networks is called.

    Columns: set, from → to, gap at ε = … for each strength, trainings.
    """
    gaps = [f"gap at ε = {eps:g}" for eps in strengths]
    rows = []
    keys_of = ["set", "attack", "width"]
    # Its keys are tuples where several columns group, which pandas' types do not say.
    for (name, attack, width), group in rates.groupby(keys_of, sort=False):  # pyright: ignore[reportGeneralTypeIssues]
        means = group.groupby(["network", "eps"]).agg(
            rate=("fooling_rate", "mean"),
            images=("images", "min"),
            trainings=("training", "nunique"),
        )
        for networks, label in pairs.items():
            row = {"set": f"{name}, {attack}, width {width:g}", "from → to": label}
            keys = [(network, eps) for network in networks for eps in strengths]
            if not all(key in means.index for key in keys):
                rows.append(row | {gaps[0]: NOT_RUN})
                continue
            for eps, gap in zip(strengths, gaps, strict=True):
                one, other = (means.loc[(network, eps)] for network in networks)
                half = hypot(*(half_interval(n.rate, n.images) for n in (one, other)))
                row[gap] = f"{one.rate - other.rate:+.1f} ± {half:.1f}"
            counts = [int(means.loc[key].trainings) for key in keys[:: len(strengths)]]
            rows.append(row | {"trainings": shown((counts[0], counts[1]))})
    columns = ["set", "from → to", *gaps, "trainings"]
    return pd.DataFrame(rows, columns=columns).astype(object).fillna("")


def figure6_rows(
    measurements: list[Measurement], datasets: Sequence[str], attack: str = "fgsm"
) -> pd.DataFrame:
    """`figure6_beside` with a row for each set and network, a column for each strength.

    Columns: set, network, 1, 2, 4, 8, 16. The paper's own rows stand first where the
    attack is its own; a set on which nothing was measured says "not run".
    """
    columns = ["set", "network"]
    rows = []
    if attack == "fgsm":
        for network, figures in paper.figure6().items():
            texts = {eps: str(figure) for eps, figure in figures.items()}
            rows.append({"set": "cub200, paper", "network": network, **texts})
    for dataset in datasets:
        frame = figure6_beside(measurements, dataset, attack)
        frame = frame[frame["measured"] != NOT_RUN]
        if frame.empty:
            rows.append({"set": dataset, "network": NOT_RUN})
        keys = ["network", "n", "images", "width", "settings"]
        # Its keys are tuples where several columns group, which pandas' types do not say.
        for (network, n, images, *_), cells in frame.groupby(keys, sort=False):  # pyright: ignore[reportGeneralTypeIssues]
            name = {"set": f"{dataset}, {images:,} images"}
            name["network"] = f"{network} (n = {n})"
            rows.append(name | dict(zip(cells["eps"], cells["measured"], strict=True)))
    strengths = sorted({key for row in rows for key in row if key not in columns})
    return pd.DataFrame(rows, columns=columns + strengths).astype(object).fillna("")


# ------------------------------------------------------------------------- queries and maps

KINDS = {"same class": True, "other class": False}


def effect_rows(effects: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Tables of `tasks.query.query_effect` as text: a row for each score and kind of query.

    Columns: moved, mean; median; change, median; mean; on object; gained. The ± is one
    standard error over the pairs.
    """
    rows = {}
    for score, table in effects.items():
        for kind, contains in KINDS.items():
            pairs = table[table["contains"] == contains]
            mean = pairs.mean(numeric_only=True)
            error = pd.Series(pairs.sem(numeric_only=True))
            median = pairs.median(numeric_only=True)
            rows[score, kind] = {
                "moved, mean": f"{mean['moved']:.2g} ± {error['moved']:.1g}",
                "median": f"{median['moved']:.1g}",
                "change, median": f"{median['change']:.1g}",
                "mean": f"{mean['change']:.0e}",
                "on object": f"{mean['before']:.3f}",
                "gained": f"{mean['gained']:+.4f} ± {error['gained']:.4f}",
            }
    return pd.DataFrame(rows).T.rename_axis(["score", "query of"])


def recorded_effects(
    measurements: Iterable[Measurement], networks: Iterable[str]
) -> pd.DataFrame:
    """Measurements of the query task as text, a row for each kind of query.

    Those of `networks` that were not measured say so. Columns: network, images, query of,
    pairs, moved, change, median, gained.
    """
    columns = ["network", "images", "query of", "pairs", "moved"]
    columns += ["change, median", "gained"]
    ours = [
        (m, m.weights) for m in measurements if m.task == "query" and m.weights is not None
    ]
    rows = [
        {
            "network": f"{m.network}, width {weights.width:g}",
            "images": m.data.name,
            "query of": kind,
            "pairs": str(found["pairs"]),
            "moved": with_error(found["moved"], ".2g"),
            "change, median": f"{found['change']['median']:.2g}",
            "gained": with_error(found["gained"], "+.2g"),
        }
        for m, weights in sorted(ours, key=lambda o: (o[0].data.name, o[0].network))
        for kind, found in m.metrics.items()
    ]
    measured = {m.network for m, _ in ours}
    rows += [
        {"network": name, "moved": NOT_RUN} for name in networks if name not in measured
    ]
    return pd.DataFrame(rows, columns=columns).astype(object).fillna("")


def with_error(found: Mapping[str, float], form: str) -> str:
    error = found.get("sem")  # None of one pair alone
    return f"{found['mean']:{form}}" + ("" if error is None else f" ± {error:.1g}")


# --------------------------------------------------------------------------------- figures

Picture = np.ndarray | Tensor | tuple[np.ndarray | Tensor, dict[str, Any]]


def image_rows(
    rows: Sequence[Sequence[Picture]],
    labels: Sequence[str],
    titles: Sequence[str] = (),
    side: float = 1.1,
) -> tuple[Figure, np.ndarray]:
    """A grid of images without ticks, and its axes (rows, columns).

    Args:
        rows: images for each row, or pairs of an image or map and its keywords for imshow.
        labels: of the rows. titles: of the columns, above the first row.
        side: of one image, in inches.

    Raises:
        ValueError: rows of unlike length, or not one label a row and one title a column.
    """
    columns = len(rows[0]) if rows else 0
    lengths = {len(row) for row in rows} | ({len(titles)} if titles else set())
    if not columns or lengths != {columns} or len(labels) != len(rows):
        raise ValueError(
            f"rows of {', '.join(str(len(row)) for row in rows) or 'no'} images with "
            f"{len(labels)} labels and {len(titles)} titles: give rows of one length, a "
            "label for each and a title for each column, or no titles"
        )
    figure, axes = plt.subplots(
        len(rows),
        columns,
        figsize=(side * columns, side * len(rows) + 0.9),
        squeeze=False,
        layout="constrained",
    )
    for line, row, label in zip(axes, rows, labels, strict=True):
        for axis, picture in zip(line, row, strict=True):
            image, how = picture if isinstance(picture, tuple) else (picture, {})
            axis.imshow(np.asarray(image), **how)
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
        line[0].set_ylabel(label, fontsize=11)
    for axis, title in zip(axes[0], titles, strict=False):
        axis.set_title(title, fontsize=11)
    return figure, axes
