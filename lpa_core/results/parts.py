"""The parts of the paper's claims: which difference answers which question.

A claim becomes one difference or several, each of two networks on one data set, or of one
network and a number, with the sign turned so that the claim says it is positive.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

from lpa_core.results import paper
from lpa_core.results.compare import Difference, difference, size_of, verdict
from lpa_core.results.paper import Figure
from lpa_core.results.side_by_side import (
    STL,
    by_threshold,
    jaccard_of,
    method_name,
    refined_pairs,
    repetitions,
    set_of_training,
    settings_of,
)
from lpa_core.tasks.measurement import Measurement
from lpa_core.training import Record

__all__ = ["ATT2", "ATT3", "CLAIMS", "CONTROLS", "FULL", "JUDGES", "STAND_INS", "Finding"]

ATT2, ATT3 = "vgg-att2-concat-pc", "vgg-att3-concat-pc"
CONTROLS = ["vgg-hires", "vgg-mean2"]  # as fine a grid; the same layers, weighed alike
# Of att3 there is no network that classifies the same three layers, weighed alike.
CONTROLS_OF = {ATT2: CONTROLS, ATT3: ["vgg-hires"]}
# The paper's sets -> those that this book measures in their place.
STAND_INS = {"cub200": ("cub127", "cub50"), "object_discovery": ("coseg",)}
# The plain VGG at the width at which it costs as much as the finer grid: cost grows with
# the width's square, and the grid multiplies it by twelve.
WIDE, WIDER = "vgg-wide", 12**0.5
EQUAL_COST = [*CONTROLS, WIDE]
FULL_WIDTH = "width 1"  # the paper's, in what was alike
FULL = ", full width"  # how a part says that it was asked there

# Claim, whether it is a control, and whose error is said to be larger than whose.
QUESTIONS = [
    (1, False, "vgg", ATT2),
    *((1, True, control, ATT2) for control in CONTROLS),
    (1, True, "vgg", "vgg-hires"),
    (1, True, "vgg-hires", "vgg-mean2"),
    (1, True, "vgg", "vgg-mean2"),
    (1, True, "vgg", WIDE),
    (1, True, WIDE, "vgg-hires"),
    (1, True, WIDE, ATT2),
    (2, False, "vgg-gap", ATT2),
    (2, False, "vgg-pan", ATT2),
    (2, True, "vgg-gap-coarse", ATT2),
    (3, False, "rn164-att2", "rn164"),
    (9, False, "vgg-att-dp", "vgg-att-pc"),
    (9, False, "vgg-att2-indep-dp", "vgg-att2-indep-pc"),
    (9, False, "vgg-att2-concat-dp", ATT2),
    (9, False, "vgg-att2-indep-dp", "vgg-att2-concat-dp"),
    (9, False, "vgg-att2-indep-pc", ATT2),
    (9, False, "vgg-att-dp", "vgg-att2-concat-dp"),
    (9, False, "vgg-att-pc", ATT2),
    (9, False, ATT2, ATT3),
    (9, False, "rn34", ATT2),
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
    9: "pc makes fewer errors than dp, concat than indep, more levels than fewer",
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
        network, against: said to do better, and than what; "" where the part has no two.
        trained: set that both were trained on, where a part is asked of several; else "".
        corrected: p after Holm's correction; None where nothing was tested.
        at_equal_cost: of a part that holds against the plain VGG, whether it does against
            the controls; "" where it was not asked.
    """

    claim: int
    control: bool
    part: str
    dataset: str
    paper: float | None
    measured: Difference | None
    unit: str = "points"
    how: str = ""
    network: str = ""
    against: str = ""
    trained: str = ""
    corrected: float | None = None
    at_equal_cost: str = ""

    @property
    def verdict(self) -> str:
        return verdict(self.measured, self.corrected)

    @property
    def size(self) -> str:
        return size_of(self.measured, self.paper)

    @property
    def form(self) -> str:
        """How its numbers are printed."""
        return ".2g" if self.unit == "share" else ".2f"


def most_trained(groups: Groups, names: list[str]) -> tuple | None:
    """The key of the group with most trainings of each network; None if none has all."""
    able = [key for key, group in groups.items() if all(group.get(n) for n in names)]
    fewest = {key: min(len(groups[key][n]) for n in names) for key in able}
    return max(able, key=fewest.__getitem__, default=None)


def compared(groups: Groups, first: str, second: str | float | None) -> tuple:
    """`difference` in that group which has most trainings of both, and the group's key.

    `second` is a network, or a number; None for one that was not measured.
    """
    fixed = not isinstance(second, str)
    key = most_trained(groups, [first] if fixed else [first, second])
    if key is None or second is None:
        return None, ()
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
    **facts,
) -> Finding:
    """The finding that `compared` leads to; `facts` are other fields of it."""
    measured, how = compared(groups, first, second)
    facts = {"control": False, "how": ", ".join(how)} | facts
    return Finding(
        claim, part=part, dataset=dataset, paper=reported, measured=measured, **facts
    )


# ------------------------------------------------------------- 1, 2, 3: classification


def classification(
    claim: int, records: list[Record], _: list[Measurement]
) -> Iterator[Finding]:
    """Errors of one network minus those of another, on each set of Tables 1 and 2.

    Networks of the paper's width are asked by themselves, beside the narrower ones.
    """
    reported = errors_of_the_paper()
    datasets = [*reported, *STAND_INS["cub200"]]
    groups = {dataset: errors(records, dataset) for dataset in datasets}
    for number, control, worse, better in QUESTIONS:
        part = f"error of {worse} - {better}"
        facts = {"control": control, "network": better, "against": worse}
        for dataset in datasets if number == claim else ():
            figures = reported.get(dataset, {})
            told = {worse, better} <= figures.keys()
            claimed = figures[worse] - figures[better] if told else None
            full = {how: g for how, g in groups[dataset].items() if FULL_WIDTH in how}
            narrow = {how: g for how, g in groups[dataset].items() if how not in full}
            asked = [(part, narrow), (part + FULL, full)]
            found = [
                judged(claim, said, dataset, some, worse, better, claimed, **facts)
                for said, some in asked
            ]
            measured = [finding for finding in found if finding.measured]
            yield from measured or (found[:1] if told else [])


def errors(records: list[Record], dataset: str) -> Groups:
    """Test errors in per cent, of trainings on the whole of a set.

    A plain VGG stands twice: at its own width, and as `WIDE` beside the networks that cost
    as much as it does.
    """
    groups: Groups = {}
    here = [record for record in records if record.spec.dataset == dataset]
    for shared, runs in repetitions(here).items():
        stands = {shared.network: shared.width}
        if shared.network == "vgg":
            stands[WIDE] = round(shared.width / WIDER, 2)
        for name, at in stands.items():
            how = f"width {at:g}", shared.recipe, f"{shared.epochs} epochs"
            group = groups.setdefault(how, {}).setdefault(name, [])
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


def trained_on(m: Measurement) -> str:
    return f"trained on {set_of_training(m)}"


def asked_after(part: str, trained: str) -> str:
    """A part's words, with the set that its networks were trained on unless CIFAR-10."""
    return part if trained == "cifar10" else f"{part}, trained on {trained}"


def usual(measurements: Iterable[Measurement], dataset: str) -> list[Measurement]:
    """Those of networks that were trained on a set, and began as their recipe has it."""
    return [
        m
        for m in measurements
        if m.weights and m.weights.dataset == dataset and not m.weights.beginning
    ]


def grouped(
    measurements: Iterable[Measurement],
    value: Callable[[Measurement], float | None],
    apart: Callable[[Measurement], str] = network_of,
    alike: Callable[[Measurement], str] = trained_on,
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


def attacks(_: list[Record], measurements: list[Measurement]) -> Iterator[Finding]:
    """Fooling rates of FGSM: at 1/255, and how much of that gap is left at 16/255."""
    reported = {n: (row[1].mean, row[16].mean) for n, row in paper.figure6().items()}
    ours = [m for m in measurements if m.task == "attack"]
    ours = [m for m in ours if m.settings["attack"] == "fgsm"]
    ours = [m for m in ours if set_of_training(m) == m.data.name]
    for dataset in dict.fromkeys(["cub200", *sorted(m.data.name for m in ours)]):
        here = [m for m in ours if m.data.name == dataset]
        at_1 = grouped(here, lambda m: rate_at(m, 1))
        closing = grouped(here, lambda m: minus(rate_at(m, 1), rate_at(m, 16)))
        for other in ("vgg", *CONTROLS):
            control = other in CONTROLS
            gap = closes = None
            if dataset == "cub200" and not control:
                gap, last = (
                    a - b for a, b in zip(reported[other], reported[ATT2], strict=True)
                )
                closes = gap - last
            facts = {"control": control, "network": ATT2, "against": other}
            part = f"fooling rate at 1 of {other} - {ATT2}"
            found = judged(4, part, dataset, at_1, other, ATT2, gap, **facts)
            if found.measured or not control:
                yield found
            if not control:
                part = f"fooling rate at 1 less that at 16, {other} - {ATT2}"
                yield judged(4, part, dataset, closing, other, ATT2, closes, **facts)


def rate_at(m: Measurement, eps: int) -> float | None:
    return m.metrics["eps"].get(str(eps), {}).get("fooling_rate")


def minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def transfers(_: list[Record], measurements: list[Measurement]) -> Iterator[Finding]:
    """Accuracy of linear classifiers on features: that of a network with attention, minus
    another network's, and minus its own where it was trained on fewer classes."""
    table3 = paper.table3()
    columns = [name for name in next(iter(table3.values())) if name not in STL]
    ours = [m for m in measurements if m.task == "transfer"]
    ours = [m for m in ours if m.settings["classifier"] == "linear"]
    pairs = [(own, other) for own in (ATT2, ATT3) for other in ("vgg", *CONTROLS_OF[own])]
    sets = "cifar10", "cifar100"
    for trained, (own, other), column in product(sets, pairs, columns):
        here = [m for m in ours if m.data.name == column]
        groups = grouped((m for m in here if set_of_training(m) == trained), accuracy)
        mine, others = (
            table3.get(name, {}).get(column, {}).get(trained) for name in (own, other)
        )
        told = mine.mean - others.mean if mine and others else None
        part = f"accuracy of {own} - {other}"
        found = judged(
            5,
            asked_after(part, trained),
            column,
            groups,
            own,
            other,
            told,
            control=other in CONTROLS,
            network=own,
            against=other,
            trained=trained,
        )
        # The hundred classes repeat the question; without an answer they add nothing.
        if found.measured or (not found.control and trained == "cifar10"):
            yield found
    for own, column in product((ATT2, ATT3), columns):
        here = [m for m in ours if (m.network, m.data.name) == (own, column)]
        groups = grouped(here, accuracy, apart=trained_on, alike=network_of)
        row = table3[own][column]
        told = mean_of(row["cifar100"]) - mean_of(row["cifar10"])
        part = f"accuracy of {own}, trained on cifar100 - on cifar10"
        both = "trained on cifar100", "trained on cifar10"
        yield judged(5, part, column, groups, *both, told, network=own)


def accuracy(m: Measurement) -> float:
    return m.metrics["accuracy"]


def mean_of(figure: Figure | None) -> float:
    """Of a number that the paper does have."""
    assert figure is not None
    return figure.mean


# ------------------------------------------------------------------------ 6, 7, 8: maps


def segments(_: list[Record], measurements: list[Measurement]) -> Iterator[Finding]:
    """Jaccard index of the maps of a network with attention, minus a rival's.

    The paper claims it of VGG-att3; the same of VGG-att2 is this book's question, and so
    are the rivals that have learned nothing.
    """
    reported = paper.figure9()
    columns = list(next(iter(reported.values())))
    for own, column, rival in product((ATT3, ATT2), columns, ("vgg-gap", "vgg-pan", "mcg")):
        row = reported[rival][column]
        told = mean_of(reported[own][column]["cifar10"])
        told -= mean_of(row.get("cifar10", row.get(paper.UNTRAINED)))
        part = f"{column}: Jaccard of {own} - {rival}"
        stands = "object_discovery"
        yield Finding(6, own != ATT3, part, stands, told, None, network=own, against=rival)
    (stand_in,) = STAND_INS["object_discovery"]
    ours = [m for m in measurements if (m.task, m.data.name) == ("segment", stand_in)]
    maps = by_threshold(ours)
    maps = [m for m in maps if m.settings.get("method") in (None, "attention", "cam")]
    # The map of the predicted class, where a network has one for each class, and its mask
    # by Otsu's threshold.
    maps = [m for m in maps if m.settings.get("cam") in (None, "predicted")]
    fixed = {method_name(m): m for m in ours if m.network is None}
    seen = {name.casefold(): None for m in ours for name in m.metrics if name != "all"}
    networks = {"vgg-gap": None, "vgg-pan": None, "vgg-gap-coarse": None}
    for own, column in product((ATT3, ATT2), [*dict.fromkeys([*columns, *seen]), "all"]):
        jaccard = jaccard_of(column)
        numbers = {name: jaccard(fixed[name]) for name in CONTROL_MAPS if name in fixed}
        for trained, rivals in (
            ("cifar10", networks | numbers),
            ("cifar100", {"vgg-gap": None, "vgg-pan": None}),
        ):
            groups = grouped(usual(maps, trained), jaccard)
            for rival, second in rivals.items():
                if column not in columns and rival != "centre":
                    continue
                claimed = own == ATT3 and rival in ("vgg-gap", "vgg-pan")
                part = f"{column}: Jaccard of {own} - {rival}"
                found = judged(
                    6,
                    asked_after(part, trained),
                    stand_in,
                    groups,
                    own,
                    rival if second is None else second,
                    control=not claimed,
                    network=own,
                    against=rival,
                    trained=trained,
                )
                if found.measured or (claimed and trained == "cifar10"):
                    yield found
    for own in (ATT3, ATT2):
        yield refinement(own, measurements, stand_in)


def refinement(network: str, measurements: list[Measurement], dataset: str) -> Finding:
    """What a conditional random field adds to a network's masks, over all photographs.

    The paper's conclusion says that its maps are amenable to one, and has no number.
    """
    jaccard = jaccard_of("all")
    ours = [m for m in usual(measurements, "cifar10") if m.network == network]
    pairs = refined_pairs(ours, dataset)
    after = {plain.identity: jaccard(refined) for plain, refined in pairs}
    gained = grouped(
        (plain for plain, _ in pairs), lambda m: minus(after[m.identity], jaccard(m))
    )
    part = f"Jaccard of {network}, with a conditional random field - without"
    facts = {"control": network != ATT3, "network": network}
    return judged(6, part, dataset, gained, network, 0.0, **facts)


CONTROL_MAPS = (
    "centre",
    "mc",
    "bms-objects-2013",
    "bms-fixation-2013",
    "bms-fixation-batch",
)


def levels(records: list[Record], measurements: list[Measurement]) -> Iterator[Finding]:
    """Attention on the object, over what a uniform map has there, less 1.

    Figure 2 speaks of VGG-att3's layers 7, 10 and 13; the lowest and highest level of
    VGG-att2 are this book's question. Its layer 10, "on parts", is asked of birds, the only
    objects here whose parts are annotated, and so is what figure 4 says of VGG-att2.
    """
    looks = [m for m in measurements if m.task == "look"]
    ours = usual(looks, "cifar10")
    for network, low, high in ((ATT3, "layer7", "layer13"), (ATT2, "layer10", "layer13")):
        here = [m for m in ours if m.network == network]
        dataset = here[0].data.name if here else "object_discovery"
        facts = {"unit": "times", "control": network != ATT3, "network": network}
        for part, groups in (
            (f"{low} of {network} avoids the object", grouped(here, avoids(low))),
            (f"{high} of {network} seeks it", grouped(here, seeks(high))),
        ):
            yield judged(7, part, dataset, groups, network, 0.0, **facts)
    both = usual(looks, "cifar10") + usual(looks, "cifar100")
    more = [m for m in both if m.network == ATT3]
    dataset = more[0].data.name if more else "object_discovery"
    sets = "trained on cifar100", "trained on cifar10"
    for layer in ("layer7", "layer10", "layer13"):
        groups = grouped(more, diversity(layer), apart=trained_on, alike=network_of)
        part = f"diversity of {layer} of {ATT3}, trained on cifar100 - on cifar10"
        yield judged(7, part, dataset, groups, *sets, unit="share", network=ATT3)
    birds = [m for m in measurements if m.task == "parts"]
    by_birds = [m for m in birds if set_of_training(m) == m.data.name]
    for network, found, sought in (
        (ATT3, usual(birds, "cifar10"), OBJECT_PARTS),
        (ATT2, by_birds, BIRD_PARTS),
    ):
        here = [m for m in found if m.network == network]
        counts = Counter(m.data.name for m in here)
        dataset = max(counts, key=counts.__getitem__, default="cub200")
        here = [m for m in here if m.data.name == dataset]
        for layer, group in sought:
            part = f"{layer} of {network} seeks a bird's {group}"
            groups = grouped(here, seeks_part(layer, group))
            yield judged(
                7, part, dataset, groups, network, 0.0, unit="times", network=network
            )
    yield from beginnings(records, measurements)


def beginnings(records: list[Record], measurements: list[Measurement]) -> Iterator[Finding]:
    """Do sharp maps come from learning, or from where u began? This book's question.

    Networks that begin as the authors' scripts have it, with u alone or with the gains too,
    against PyTorch's way: errors, how flat each level's maps are, and how well the maps
    segment.
    """
    for network in (ATT2, ATT3):
        here = [r for r in records if (r.spec.network, r.spec.dataset) == (network, SET)]
        ours = [
            m
            for m in measurements
            if m.weights and (m.network, m.weights.dataset) == (network, SET)
        ]
        cuts = by_threshold(ours)
        looks = [m for m in ours if m.task == "look"]
        images = next((m.data.name for m in (*cuts, *looks)), "coseg")
        asked = [
            ("error", "points", SET, errors_by_beginning(here)),
            ("Jaccard", "points", images, by_beginning(cuts, jaccard_of("all"))),
            *(
                (
                    f"entropy of {layer}",
                    "share",
                    images,
                    by_beginning(looks, flatness(layer)),
                )
                for layer in LAYERS
            ),
        ]
        for start, words in STARTS.items():
            # Each beginning asks a question of its own: a family of Holm's correction.
            rival = f"PyTorch's beginning, not {start}"
            facts = {"control": True, "network": network, "against": rival}
            for what, unit, dataset, groups in asked:
                part = f"{what} of {network}, {words} - as PyTorch"
                found = judged(7, part, dataset, groups, start, PYTORCH, unit=unit, **facts)
                if found.measured:
                    yield found


SET, SCRIPTS, PYTORCH = "cifar10", "scripts", "pytorch"
LAYERS = ("layer7", "layer10", "layer13")
# What a run calls its beginning, and what a part does.
STARTS = {SCRIPTS: "begun as the scripts", "u1.41": "begun with u as the scripts"}


def errors_by_beginning(records: list[Record]) -> Groups:
    """Test errors, for each way of training: of which beginning."""
    groups: Groups = {}
    for shared, runs in repetitions(records).items():
        for run in runs:
            start = run.spec.beginning()
            how = f"width {shared.width:g}", shared.recipe.removesuffix(f", begins {start}")
            begun = groups.setdefault((*how, f"{shared.epochs} epochs"), {})
            begun.setdefault(start or PYTORCH, []).append(run.metrics["test_error"])
    return groups


def by_beginning(
    measurements: list[Measurement], value: Callable[[Measurement], float | None]
) -> Groups:
    """`grouped` by how networks began, all else being equal."""
    groups: Groups = {}
    for m in measurements:
        assert m.weights is not None
        start = m.weights.beginning or PYTORCH
        bare = m.weights.model_copy(update={"beginning": None})
        same = [m.model_copy(update={"weights": bare})]
        for how, found in grouped(same, value).items():
            groups.setdefault(how, {}).setdefault(start, []).extend(*found.values())
    return groups


def flatness(layer: str) -> Callable[[Measurement], float | None]:
    return lambda m: m.metrics["attention"].get(layer, {}).get("entropy")


# What figure 4 says of birds, and figure 2 of layer 10.
BIRD_PARTS = (("layer10", "eyes and beak"), ("layer13", "plumage"), ("layer13", "feet"))
OBJECT_PARTS = [("layer10", group) for group in ("eyes and beak", "plumage", "feet")]


def seeks_part(layer: str, group: str) -> Callable[[Measurement], float | None]:
    """Of the attention on a group of parts over what a uniform map has there, less 1."""

    def value(m: Measurement) -> float | None:
        return minus(m.metrics.get(layer, {}).get(group, {}).get("density"), 1)

    return value


def diversity(layer: str) -> Callable[[Measurement], float | None]:
    return lambda m: m.metrics["attention"].get(layer, {}).get("diversity")


def seeks(layer: str) -> Callable[[Measurement], float | None]:
    return lambda m: minus(m.metrics["attention"].get(layer, {}).get("density"), 1)


def avoids(layer: str) -> Callable[[Measurement], float | None]:
    return lambda m: minus(1, m.metrics["attention"].get(layer, {}).get("density"))


def queries(_: list[Record], measurements: list[Measurement]) -> Iterator[Finding]:
    """How much attention another query moves, and whether onto that query's object.

    The paper asks VGG-att3 for pc; VGG-att2 is the network that differs from dp's in the
    score alone.
    """
    ours = [m for m in measurements if m.task == "query"]
    dataset = ours[0].data.name if ours else "object_discovery"
    dp = "vgg-att2-concat-dp"
    still = grouped(ours, lambda m: ROUNDING - moved(m))
    for network in (ATT3, ATT2):
        part = f"another query moves less than {ROUNDING:g} of the attention in {network}"
        facts = {"unit": "share", "control": network != ATT3}
        found = judged(8, part, dataset, still, network, 0.0, **facts)
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


# Parts of each claim, from records and measurements.
JUDGES: dict[int, Callable[[list[Record], list[Measurement]], Iterator[Finding]]] = {
    **{claim: partial(classification, claim) for claim in (1, 2, 3, 9)},
    4: attacks,
    5: transfers,
    6: segments,
    7: levels,
    8: queries,
}
