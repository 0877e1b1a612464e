"""Code shared by chapters: networks that ship, findings on the claims, and table rows.

Chapters print and draw. Selecting, pooling and formatting are done here; verdicts come
only from `lpa_core.results.claims`.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from itertools import groupby
from math import hypot

import pandas as pd
import torch
from pandas.io.formats.style import Styler

from lpa_core.results import (
    NOT_RUN,
    Finding,
    Measurement,
    figure6_beside,
    paper,
    shipped_network,
)
from lpa_core.results.claims import shown
from lpa_core.results.compare import half_interval
from lpa_core.tasks.attack import AttackReport
from lpa_core.tasks.measurement import WeightsFacts
from lpa_core.training import Trained

__all__ = [
    "claim_rows",
    "claim_table",
    "effect_rows",
    "figure6_rows",
    "fooling_gaps",
    "fooling_rates",
    "in_precision",
    "paper_rates",
    "recorded_effects",
    "report_rates",
    "shipped_networks",
    "verdicts",
]

# -------------------------------------------------------------------------------- networks


def shipped_networks(names: Iterable[str], dataset: str) -> dict[str, Trained]:
    """The named networks whose weights ship; prints a line for each of the others."""
    found = {}
    for name in names:
        try:
            found[name] = shipped_network(name, dataset)
        except ValueError:
            print(f"{name}: no weights for {dataset} ship with the book; left out")
    return found


def in_precision(trained: Trained, kind: torch.dtype) -> Trained:
    """A copy that computes in `kind`, starting with the normalised input."""
    copy = deepcopy(trained)
    copy.network.to(kind)
    copy.preprocess.register_forward_hook(lambda module, given, x: x.to(kind))
    return copy


# ------------------------------------------------------------------------------ the claims


def claim_rows(findings: Sequence[Finding]) -> pd.DataFrame:
    """Findings as text. Columns: claim, verdict, measured, 95 % interval, set, difference,
    paper, trainings (a star: one spread is borrowed), p, p (Holm), size (compared with the
    paper), at equal cost; the last two only if some finding has them."""
    frame = pd.DataFrame(map(claim_row, findings), columns=CLAIM_COLUMNS)
    empty = [name for name in CLAIM_COLUMNS[-2:] if not any(frame[name])]
    return frame.drop(columns=empty)


# The result comes first, so that it is visible on a phone.
CLAIM_COLUMNS = [
    *("claim", "verdict", "measured", "95 % interval", "set", "difference", "paper"),
    *("trainings", "p", "p (Holm)", "size", "at equal cost"),
]


def claim_row(finding: Finding) -> list[str]:
    found, form = finding.measured, f"+{finding.form}"
    interval = ["", "", ""]
    if found is not None and found.low is not None:
        interval[0] = f"{found.low:{form}} to {found.high:{form}}"
        interval[1:] = [
            "" if p is None else f"{p:.2g}" for p in (found.p, finding.corrected)
        ]
    star = " *" if found is not None and found.borrowed else ""
    return [
        str(finding.claim),
        finding.verdict,
        "" if found is None else f"{found.mean:{form}}",
        interval[0],
        finding.dataset,
        finding.part.replace(" - ", " − "),
        "" if finding.paper is None else f"{finding.paper:{form}}",
        "" if found is None else shown(found.trainings) + star,
        *interval[1:],
        finding.size,
        finding.at_equal_cost,
    ]


# The colours of the bar beside a decided verdict, visible on light and dark pages.
MARKS = {"holds": "#009e73", "does not hold": "#d55e00"}


def claim_table(findings: Sequence[Finding]) -> Styler:
    """`claim_rows` with the decided verdicts marked.

    The claim is left out where all rows are about the same one, and the paper's difference
    where it has none: what is left can be read.
    """

    def mark(verdict: str) -> str:
        colour = MARKS.get(verdict)
        return f"border-left: 4px solid {colour}; font-weight: 600" if colour else ""

    rows = claim_rows(findings)
    says = {"claim": len(set(rows["claim"])) > 1, "paper": any(rows["paper"])}
    idle = [name for name, something in says.items() if not something]
    style = rows.drop(columns=idle).style.hide(axis="index").format(escape="html")
    return style.map(mark, subset=["verdict"])  # pyright: ignore[reportAttributeAccessIssue]


def verdicts(findings: Iterable[Finding], part: str = "") -> str:
    """The verdicts of the findings whose part contains `part`, with counts and data sets:
    "holds: 2 of 3 (cifar10, svhn); cannot be decided: 1 of 3 (cub50)". "not run" if nothing
    was measured."""
    found = [f for f in findings if part in f.part and f.measured is not None]
    sets: dict[str, list[str]] = {}
    for finding in found:
        sets.setdefault(finding.verdict, []).append(finding.dataset)
    told = [
        f"{verdict}: {len(names)} of {len(found)} ({', '.join(dict.fromkeys(names))})"
        for verdict, names in sets.items()
    ]
    return "; ".join(told) or NOT_RUN


# ---------------------------------------------------------------------------- fooling rates


def report_rates(reports: Mapping[str, AttackReport]) -> pd.DataFrame:
    """Columns: network, eps, fooling_rate, error, each with its ±, images, training.

    One row for each network and strength; clean images come first, with eps 0. Rates are
    in per cent; the ± is half the width of their 95 % interval over the images.
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
    """Figure 6 with those columns of `fooling_rates` that the paper has."""
    rows = [
        ("cub200 (paper)", "fgsm", network, "paper", float(eps), figure.mean)
        for network, figures in paper.figure6().items()
        for eps, figure in figures.items()
    ]
    columns = ["set", "attack", "network", "training", "eps", "fooling_rate"]
    return pd.DataFrame(rows, columns=columns)


def fooling_rates(measurements: Iterable[Measurement]) -> pd.DataFrame:
    """Columns: set, attack, width, network, training, images, eps, fooling_rate.

    For networks that were attacked on their own training set. If one training run was
    attacked several times, the attack on most images counts, or the last of these.
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


WEAK_AND_STRONG = (1, 16)  # the strengths in the paper's claim


def fooling_gaps(rates: pd.DataFrame, pairs: Mapping[tuple[str, str], str]) -> pd.DataFrame:
    """Mean fooling rates of one network minus another's, in points, as text.

    The ± is half the width of the 95 % interval over the choice of images, assumed to be
    independent between the two. It does not cover other training runs.

    Args:
        rates: as `fooling_rates` returns them.
        pairs: the name of the comparison for each pair of networks.

    Columns: set, from → to, gap at ε = … for each strength, trainings.
    """
    strengths = WEAK_AND_STRONG
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
                half = hypot(*(half_interval(n.rate, int(n.images)) for n in (one, other)))
                row[gap] = f"{one.rate - other.rate:+.1f} ± {half:.1f}"
            counts = [int(means.loc[key].trainings) for key in keys[:: len(strengths)]]
            rows.append(row | {"trainings": shown((counts[0], counts[1]))})
    columns = ["set", "from → to", *gaps, "trainings"]
    return pd.DataFrame(rows, columns=columns).astype(object).fillna("")


def figure6_rows(
    measurements: list[Measurement], datasets: Sequence[str], attack: str = "fgsm"
) -> pd.DataFrame:
    """`figure6_beside` with a row for each set and network, a column for each strength.

    Columns: set, network, 1, 2, 4, 8, 16. The paper's rows come first if the attack is the
    paper's; a set without measurements says "not run".
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
    """Tables of `tasks.query.query_effect` as text: one row per score and kind of query.

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
            gained = f"{mean['gained']:+.4f}"
            rows[score, kind] = {
                "moved, mean": f"{mean['moved']:.2g} ± {error['moved']:.1g}",
                "median": f"{median['moved']:.1g}",
                "change, median": f"{median['change']:.1g}",
                "mean": f"{mean['change']:.0e}",
                "on object": f"{mean['before']:.3f}",
                # No rounded number is "-0.0000".
                "gained": f"{gained.replace('-0.0000', '+0.0000')} ± {error['gained']:.4f}",
            }
    return pd.DataFrame(rows).T.rename_axis(["score", "query of"])


def recorded_effects(
    measurements: Iterable[Measurement], networks: Iterable[str]
) -> pd.DataFrame:
    """Measurements of the query task as text, one row for each kind of query.

    `networks` without measurements say so. Columns: network, training (the runs of one
    network are counted), images, query of, pairs, moved, change, median, gained.
    """
    columns = ["network", "training", "images", "query of", "pairs", "moved"]
    columns += ["change, median", "gained"]
    ours = [
        (m, m.weights) for m in measurements if m.task == "query" and m.weights is not None
    ]

    def alike(one: tuple[Measurement, WeightsFacts]) -> tuple[str, str, float]:
        return one[0].data.name, one[0].network or "", one[1].width

    rows = [
        {
            "network": f"{m.network}, width {weights.width:g}",
            "training": str(number),
            "images": m.data.name,
            "query of": kind,
            "pairs": str(found["pairs"]),
            "moved": with_error(found["moved"], ".2g"),
            "change, median": f"{found['change']['median']:.2g}",
            "gained": with_error(found["gained"], "+.2g"),
        }
        for _, runs in groupby(sorted(ours, key=alike), key=alike)
        for number, (m, weights) in enumerate(runs, start=1)
        for kind, found in m.metrics.items()
    ]
    measured = {m.network for m, _ in ours}
    rows += [
        {"network": name, "moved": NOT_RUN} for name in networks if name not in measured
    ]
    return pd.DataFrame(rows, columns=columns).astype(object).fillna("")


def with_error(found: Mapping[str, float], form: str) -> str:
    error = found.get("sem")  # None for a single pair
    return f"{found['mean']:{form}}" + ("" if error is None else f" ± {error:.1g}")
