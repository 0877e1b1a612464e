"""What the paper claims, and what the records say of it: computed, never typed.

A claim becomes one difference or several, each of two networks on one data set, or of one
network and a number. Its verdict is `compare.verdict` on the interval over trainings.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from lpa_core.results import paper
from lpa_core.results.compare import Difference, difference, verdict
from lpa_core.results.paper import Figure
from lpa_core.results.side_by_side import (
    STL,
    jaccard_of,
    latest,
    repetitions,
    set_of_training,
    settings_of,
)
from lpa_core.tasks.measurement import Measurement
from lpa_core.training import Record

__all__ = [
    "CLAIMS",
    "CONTROLS",
    "STAND_INS",
    "Finding",
    "claim_findings",
    "claims_table",
    "judge_claims",
]

ATT2, ATT3 = "vgg-att2-concat-pc", "vgg-att3-concat-pc"
CONTROLS = ["vgg-hires", "vgg-mean2"]  # as fine a grid; the same layers, weighed alike
# Of att3 there is no network that classifies the same three layers, weighed alike.
CONTROLS_OF = {ATT2: CONTROLS, ATT3: ["vgg-hires"]}
STAND_INS = {"cub200": "cub50", "object_discovery": "coseg"}  # the paper's -> ours

# Claim, whether it is a control, and whose error is said to be larger than whose.
QUESTIONS = [
    (1, False, "vgg", ATT2),
    *((1, True, control, ATT2) for control in CONTROLS),
    (2, False, "vgg-gap", ATT2),
    (2, False, "vgg-pan", ATT2),
    (3, False, "rn164-att2", "rn164"),
]

CLAIMS = {
    1: "Attention makes fewer errors than the plain VGG",
    2: "Attention makes fewer errors than GAP and PAN",
    3: "In ResNets attention costs accuracy",
    4: "One small step fools attention less often; the gap closes as steps grow",
    5: "The features serve other domains better; those of 100 classes better than of 10",
    6: "Its maps segment better than those of GAP, PAN and MCG",
    7: "Lower levels look at surroundings, higher ones at the object",
    8: "Under dp the query steers the map, under pc it does not",
}

# Values by what has to be alike to be compared -> network -> one number for each training.
Groups = dict[tuple, dict[str, list[float]]]


@dataclass(frozen=True)
class Finding:
    """One part of a claim, on one data set.

    Attributes:
        claim: its number, a key of CLAIMS.
        control: whether it is this book's own question, not the paper's.
        part: what is subtracted from what, in words.
        dataset: where; a stand-in under its own name.
        paper: the paper's difference, in `unit`; None if it has none there.
        measured: ours; None if nothing was measured.
        unit: "points" (of a percentage), "times" (a ratio less 1) or "share".
        how: width, recipe and the like, as far as networks were alike in them.
    """

    claim: int
    control: bool
    part: str
    dataset: str
    paper: float | None
    measured: Difference | None
    unit: str = "points"
    how: str = ""

    @property
    def verdict(self) -> str:
        return verdict(self.measured, self.paper or 0)


def judge_claims(records: list[Record], measurements: list[Measurement]) -> list[Finding]:
    """Every part of the eight claims, decided or not, and this book's controls."""
    measured = latest(measurements)
    found = [
        *classification(records),
        *attacks(measured),
        *transfers(measured),
        *segments(measured),
        *levels(measured),
        *queries(measured),
    ]
    return sorted(found, key=lambda finding: (finding.claim, finding.control))


def claim_findings(
    claim: int,
    records: list[Record],
    measurements: list[Measurement],
    dataset: str | None = None,
) -> list[Finding]:
    """The parts of one claim, and this book's controls for it, as `judge_claims` has them.

    Args:
        claim: its number, a key of CLAIMS.
        records, measurements: what is judged; those of another claim do no harm.
        dataset: only the parts on this set; None for all sets.

    Raises:
        ValueError: there is no such claim.
    """
    if claim not in CLAIMS:
        raise ValueError(f"no claim {claim!r}: choose one of {', '.join(map(str, CLAIMS))}")
    return [
        finding
        for finding in judge_claims(records, measurements)
        if finding.claim == claim and dataset in (None, finding.dataset)
    ]


def claims_table(findings: list[Finding]) -> pd.DataFrame:
    """Columns: claim, control, part, dataset, paper, measured, low, high, unit, trainings,
    borrowed, verdict, how; nan where there is nothing."""
    return pd.DataFrame(
        {
            "claim": f.claim,
            "control": f.control,
            "part": f.part,
            "dataset": f.dataset,
            "paper": f.paper,
            "measured": f.measured and f.measured.mean,
            "low": f.measured and f.measured.low,
            "high": f.measured and f.measured.high,
            "unit": f.unit,
            "trainings": f.measured and shown(f.measured.trainings),
            "borrowed": bool(f.measured and f.measured.borrowed),
            "verdict": f.verdict,
            "how": f.how,
        }
        for f in findings
    )


def shown(trainings: tuple[int, int]) -> str:
    return " and ".join(str(n) for n in trainings if n)


def compared(groups: Groups, first: str, second: str | float | None) -> tuple:
    """`difference` in that group which has most trainings of both, and the group's key.

    `second` is a network, or a number; None for one that was not measured.
    """
    fixed = not isinstance(second, str)
    names = [first] if fixed else [first, second]
    able = [key for key, group in groups.items() if all(group.get(n) for n in names)]
    if not able or second is None:
        return None, ()
    key = max(able, key=lambda key: min(len(groups[key][n]) for n in names))
    group = groups[key]
    return difference(group[first], second if fixed else group[second]), key


def judged(
    claim: int,
    part: str,
    dataset: str,
    groups: Groups,
    first: str,
    second: str | float | None,
    reported: float | None = None,
    control: bool = False,
    unit: str = "points",
) -> Finding:
    """The finding that `compared` leads to."""
    measured, how = compared(groups, first, second)
    return Finding(claim, control, part, dataset, reported, measured, unit, ", ".join(how))


# ------------------------------------------------------------- 1, 2, 3: classification


def classification(records: list[Record]) -> Iterator[Finding]:
    """Errors of one network minus those of another, on each set of Tables 1 and 2."""
    reported = errors_of_the_paper()
    for number, control, worse, better in QUESTIONS:
        part = f"error of {worse} - {better}"
        for dataset in [*reported, *STAND_INS.values()]:
            figures = reported.get(dataset, {})
            told = {worse, better} <= figures.keys()
            claimed = figures[worse] - figures[better] if told else None
            groups = errors(records, dataset)
            found = judged(number, part, dataset, groups, worse, better, claimed, control)
            if told or found.measured:
                yield found


def errors(records: list[Record], dataset: str) -> Groups:
    """Test errors in per cent, of trainings on the whole of a set."""
    groups: Groups = {}
    here = [record for record in records if record.spec.dataset == dataset]
    for (network, _, width, recipe, epochs, _), runs in repetitions(here).items():
        how = f"width {width:g}", recipe, f"{epochs} epochs"
        group = groups.setdefault(how, {}).setdefault(network, [])
        group += [run.metrics["test_error"] for run in runs]
    return groups


def errors_of_the_paper() -> dict[str, dict[str, float]]:
    """{data set: {network: error in per cent}} of Tables 1 and 2, and section 5.1."""
    found: dict[str, dict[str, float]] = {}
    for table in (paper.table1(), paper.table2()):
        for network, row in table.items():
            for dataset, figure in row.items():
                if figure is not None:
                    found.setdefault(dataset, {})[network] = figure.mean
    for dataset, points in paper.resnet_losses().items():
        found[dataset]["rn164-att2"] = found[dataset]["rn164"] + points
    return found


# ----------------------------------------------------------- 4, 5: attack, other domains


def network_of(m: Measurement) -> str:
    assert m.network is not None  # weights are a network's
    return m.network


def training_of(m: Measurement) -> str:
    return f"trained on {set_of_training(m)}"


def grouped(
    measurements: Iterable[Measurement],
    value: Callable[[Measurement], float | None],
    apart: Callable[[Measurement], str] = network_of,
    alike: Callable[[Measurement], str] = training_of,
) -> Groups:
    """Measurements of networks by all that has to be alike between two of them.

    Args:
        value: what is compared; None where it was not measured.
        apart: what the two differ in. alike: what they share, besides width, images and
            settings.
    """
    groups: Groups = {}
    for m in measurements:
        if m.weights is None:
            continue
        number = value(m)
        if number is not None:
            how = (
                alike(m),
                f"width {m.weights.width:g}",
                f"{m.data.images:,} images",
                settings_of(m),
            )
            groups.setdefault(how, {}).setdefault(apart(m), []).append(number)
    return groups


def attacks(measurements: list[Measurement]) -> Iterator[Finding]:
    """Fooling rates of FGSM: at 1/255, and how much of that gap is left at 16/255."""
    figure6 = paper.figure6()
    reported = {n: {1: r[1].mean, 16: r[16].mean} for n, r in figure6.items()}
    ours = [m for m in measurements if m.task == "attack"]
    ours = [m for m in ours if m.settings["attack"] == "fgsm"]
    ours = [m for m in ours if set_of_training(m) == m.data.name]
    datasets = dict.fromkeys(["cub200", *sorted(m.data.name for m in ours)])
    rate = {eps: (lambda m, e=str(eps): rate_at(m, e)) for eps in (1, 16)}
    both = "fooling rate at 1 less that at 16"
    for dataset in datasets:
        here = [m for m in ours if m.data.name == dataset]
        at_1 = grouped(here, rate[1])
        closing = grouped(here, lambda m: minus(rate[1](m), rate[16](m)))
        for other in ("vgg", *CONTROLS):
            control = other in CONTROLS
            gap = closes = None
            if dataset == "cub200" and not control:
                told = {e: reported[other][e] - reported[ATT2][e] for e in (1, 16)}
                gap, closes = told[1], told[1] - told[16]
            part = f"fooling rate at 1 of {other} - {ATT2}"
            found = judged(4, part, dataset, at_1, other, ATT2, gap, control)
            if not control:
                yield found
                part = f"{both}, {other} - {ATT2}"
                yield judged(4, part, dataset, closing, other, ATT2, closes)
            elif found.measured:
                yield found


def rate_at(m: Measurement, eps: str) -> float | None:
    return m.metrics["eps"].get(eps, {}).get("fooling_rate")


def minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def transfers(measurements: list[Measurement], own: str = ATT2) -> Iterator[Finding]:
    """Accuracy of linear classifiers on features: that of `own`, a network with attention,
    minus another network's, and minus its own where it was trained on fewer classes."""
    table3 = paper.table3()
    columns = [name for name in next(iter(table3.values())) if name not in STL]
    ours = [m for m in measurements if m.task == "transfer"]
    ours = [m for m in ours if m.settings["classifier"] == "linear"]
    for other in ("vgg", *CONTROLS_OF[own]):
        control = other in CONTROLS
        for column in columns:
            here = [m for m in ours if m.data.name == column]
            here = [m for m in here if set_of_training(m) == "cifar10"]
            mine, others = (
                table3.get(n, {}).get(column, {}).get("cifar10") for n in (own, other)
            )
            told = mine.mean - others.mean if mine and others else None
            part = f"accuracy of {own} - {other}"
            groups = grouped(here, accuracy)
            found = judged(5, part, column, groups, own, other, told, control)
            if found.measured or not control:
                yield found
    for column in columns:
        here = [m for m in ours if (m.network, m.data.name) == (own, column)]
        groups = grouped(here, accuracy, apart=training_of, alike=network_of)
        row = table3[own][column]
        told = mean_of(row["cifar100"]) - mean_of(row["cifar10"])
        part = f"accuracy of {own}, trained on cifar100 - on cifar10"
        both = "trained on cifar100", "trained on cifar10"
        yield judged(5, part, column, groups, *both, told)


def accuracy(m: Measurement) -> float:
    return m.metrics["accuracy"]


def mean_of(figure: Figure | None) -> float:
    """Of a number that the paper does have."""
    assert figure is not None
    return figure.mean


# ------------------------------------------------------------------------ 6, 7, 8: maps


def segments(
    measurements: list[Measurement],
    own: str = ATT2,
    columns: Sequence[str] | None = None,
) -> Iterator[Finding]:
    """Jaccard index of the maps of `own`, a network with attention, minus a rival's.

    Args:
        columns: classes of the stand-in's photographs, or "all" of them; None for the
            three that the paper has.
    """
    figure9 = paper.figure9()
    reported = list(next(iter(figure9.values())))
    for column in reported:
        score = mean_of(figure9[own][column]["cifar10"])
        for rival in ("vgg-gap", "vgg-pan", "mcg"):
            row = figure9[rival][column]
            told = score - mean_of(row.get("cifar10", row.get(paper.UNTRAINED)))
            part = f"{column}: Jaccard of {own} - {rival}"
            yield Finding(6, False, part, "object_discovery", told, None)
    ours = [m for m in measurements if m.task == "segment"]
    stand_in = [m for m in ours if m.data.name == STAND_INS["object_discovery"]]
    maps = [m for m in stand_in if m.settings.get("method") in (None, "attention", "cam")]
    fixed = {m.settings["method"]: m for m in stand_in if m.network is None}
    for column in columns or reported:
        jaccard = jaccard_of(column)
        groups = grouped(maps, jaccard)
        for rival in ("vgg-gap", "vgg-pan"):
            part = f"{column}: Jaccard of {own} - {rival}"
            yield judged(6, part, "coseg", groups, own, rival)
        for rival in ("centre", "bms", "mc"):
            if rival in fixed:
                part = f"{column}: Jaccard of {own} - {rival}"
                score = jaccard(fixed[rival])
                yield judged(6, part, "coseg", groups, own, score, control=True)


def levels(measurements: list[Measurement]) -> Iterator[Finding]:
    """Attention on the object, over what a uniform map has there, less 1."""
    ours = [m for m in measurements if m.task == "look"]
    for network in (ATT2, ATT3):
        here = [m for m in ours if m.network == network]
        first = grouped(here, lambda m: 1 - densities(m)[0])
        last = grouped(here, lambda m: densities(m)[-1] - 1)
        dataset = here[0].data.name if here else "object_discovery"
        for part, groups in (
            (f"the lowest level of {network} avoids the object", first),
            (f"the highest level of {network} seeks it", last),
        ):
            yield judged(7, part, dataset, groups, network, 0.0, unit="times")
    part = "eyes and beaks at layer 10, plumage and feet at layer 13"
    yield Finding(7, False, part, "cub200", None, None, "times")


def densities(m: Measurement) -> list[float]:
    return [level["density"] for level in m.metrics["attention"].values()]


def queries(measurements: list[Measurement]) -> Iterator[Finding]:
    """How much attention another query moves, and whether onto that query's object."""
    ours = [m for m in measurements if m.task == "query"]
    dataset = ours[0].data.name if ours else "object_discovery"
    dp = "vgg-att2-concat-dp"
    still = grouped(ours, lambda m: ROUNDING - moved(m))
    part = f"another query moves less than {ROUNDING:g} of the attention in {ATT2}"
    found = judged(8, part, dataset, still, ATT2, 0.0, unit="share")
    if found.measured is not None:  # an identity: no two trainings can differ in it
        shift = found.measured.mean
        exact = Difference(shift, shift, shift, found.measured.trainings)
        found = replace(found, measured=exact)
    yield found
    for part, value in (
        (f"another query moves more than that in {dp}", lambda m: moved(m) - ROUNDING),
        (f"it moves towards the query's object in {dp}", gained),
    ):
        yield judged(8, part, dataset, grouped(ours, value), dp, 0.0, unit="share")


ROUNDING = 1e-4  # of the attention: what float32 may move


def moved(m: Measurement) -> float:
    return max(kind["moved"]["mean"] for kind in m.metrics.values())


def gained(m: Measurement) -> float:
    """How much more goes to the object for a query of its own class than of another."""
    same, other = (m.metrics[f"{kind} class"]["gained"] for kind in ("same", "other"))
    return same["mean"] - other["mean"]
