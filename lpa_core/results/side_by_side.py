"""The paper's tables and figures beside our records and measurements.

Each frame has the paper's rows, followed by the networks and methods that the paper does
not have. Repetitions of the same training or measurement form one row: mean ± standard
deviation over `n`. If the same weights were measured several times, the last measurement
counts. Differences are given for the paper's data sets; for a stand-in, the cell says
"other data".
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from statistics import mean, stdev

import pandas as pd

from lpa_core.results import paper
from lpa_core.results.paper import Figure, Table
from lpa_core.tasks.measurement import Measurement
from lpa_core.training import Record, RunSpec

__all__ = [
    "NOT_RUN",
    "OTHER_DATA",
    "Condition",
    "condition",
    "figure6_beside",
    "figure9_beside",
    "profiles",
    "repetitions",
    "summarise",
    "table1_beside",
    "table2_beside",
    "table3_beside",
]

NOT_RUN = "not run"
OTHER_DATA = "other data"
NOT_REPORTED = "not reported"
STL = {"stl-train": ("stl10", "train"), "stl-test": ("stl10", "test")}
BESIDE = ["paper", "measured", "difference", "n"]
TRAILING = [*BESIDE, "images", "width", "settings"]
IN_SIGHT = ("attack", "epsilons", "method", "classifier")  # in a column, or constant

Value = Callable[[Measurement], float | None]
Groups = dict[tuple, list[float]]  # shared properties -> one value per training run


def side_by_side(
    figure: Figure | None, groups: Groups, like: int, same: bool = True
) -> Iterator[tuple]:
    """The rows for one number of the paper, one for each group.

    Args:
        figure: the paper's number, or None.
        groups: the measured values, by the cells that follow those of `BESIDE`.
        like: how many cells follow.
        same: whether ours were measured on the paper's images.
    """
    reported = NOT_REPORTED if figure is None else str(figure)
    if not groups:
        yield reported, NOT_RUN, "", 0, *([""] * like)
    for key, values in groups.items():
        spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
        difference = ""
        if figure is not None:
            difference = f"{mean(values) - figure.mean:+.2f}" if same else OTHER_DATA
        yield reported, f"{mean(values):.2f}{spread}", difference, len(values), *key


# ---------------------------------------------------------------------- trainings: tables


def summarise(records: list[Record]) -> pd.DataFrame:
    """One row for each network, data set, width, recipe and number of epochs.

    Columns: network, dataset, width, recipe, epochs, profile, n (runs), test_error (mean,
    in per cent), std (nan below two runs), device (each that trained, with its number of
    runs if there are several), minutes and images_per_second (means over the runs on the
    first device, the one with most runs), parameters. The recipe's name includes all
    differences from it.
    """
    rows = []
    for shared, runs in repetitions(records).items():
        found = errors(runs)
        devices = Counter(run.device for run in runs).most_common()
        timed = [run for run in runs if run.device == devices[0][0]]
        rows.append(
            {
                **asdict(shared),
                "profile": profiles(runs),
                "n": len(runs),
                "test_error": mean(found),
                "std": stdev(found) if len(found) > 1 else float("nan"),
                "minutes": mean(run.seconds for run in timed) / 60,
                "images_per_second": mean(run.images_per_second for run in timed),
                "parameters": runs[0].parameters,
                "device": named(devices),
            }
        )
    columns = "profile n test_error std minutes images_per_second parameters device"
    shared_by_all = [field.name for field in fields(Condition)]
    return pd.DataFrame(rows, columns=[*shared_by_all, *columns.split()])


def named(devices: list[tuple[str, int]]) -> str:
    if len(devices) == 1:
        return devices[0][0]
    return ", ".join(f"{device} ({runs})" for device, runs in devices)


@dataclass(frozen=True)
class Condition:
    """What runs have in common that differ only in their seed.

    Attributes:
        network: its name, with what differs from the usual network of that name.
        dataset: its name.
        width: the factor of all channel numbers.
        recipe: its name, with all differences from it, and how the weights began.
        epochs: how many were trained.
    """

    network: str
    dataset: str
    width: float
    recipe: str
    epochs: int


def repetitions(records: list[Record]) -> dict[Condition, list[Record]]:
    """Runs that differ only in their seed, by what they share, in any profile. Runs on
    part of a set are not comparable and are left out. If a seed was trained again, on any
    device, the newest run counts."""
    groups: dict[Condition, dict[int, Record]] = {}
    for record in sorted(records, key=lambda record: record.started):
        spec = record.spec
        if spec.train_images is not None:
            continue
        groups.setdefault(condition(spec, record.epochs), {})[spec.seed] = record
    return {key: list(runs.values()) for key, runs in groups.items()}


def profiles(runs: list[Record]) -> str:
    """The profiles that runs were trained for."""
    return ", ".join(sorted({run.profile for run in runs}))


def condition(spec: RunSpec, epochs: int | None = None) -> Condition:
    """Its key in `repetitions`: what runs have in common that differ only in their seed.

    Args:
        epochs: how many were trained; None for the number in the spec.
    """
    count = epochs or spec.chosen_epochs()
    return Condition(
        network=spec.network_label(),
        dataset=spec.dataset,
        width=spec.width,
        recipe=manner(spec),
        epochs=count,
    )


def manner(spec: RunSpec) -> str:
    """How a run was trained: its recipe, other options, and initialisation."""
    begins = [f"begins {spec.beginning()}"] if spec.beginning() else []
    return ", ".join([spec.recipe_label(), *spec.besides(), *begins])


def table1_beside(records: list[Record], dataset: str = "cifar10") -> pd.DataFrame:
    """All rows of the paper's Table 1, with our results beside them.

    Columns: network, paper, measured, difference (measured mean minus the paper's, in
    points), n, profile, width, recipe, epochs. Rows without a run say "not run". If a
    network was trained at several widths or by several recipes, each has a row.

    Raises:
        ValueError: Table 1 has no such data set.
    """
    return table_beside("Table 1", paper.table1(), records, dataset)


def table2_beside(records: list[Record], dataset: str = "cub200") -> pd.DataFrame:
    """Table 2 in the same way. The paper quotes its rn34, which is not run here.

    Raises:
        ValueError: Table 2 has no such data set.
    """
    return table_beside("Table 2", paper.table2(), records, dataset)


def table_beside(
    name: str, table: Table, records: list[Record], dataset: str
) -> pd.DataFrame:
    # A network's rows: the narrowest and shortest trainings first.
    ours = sorted(
        repetitions(records).items(),
        key=lambda group: (group[0].width, group[0].recipe, group[0].epochs),
    )
    rows = []
    for network, columns in table.items():
        if dataset not in columns:
            raise ValueError(
                f"{name} has no data set {dataset!r}: choose one of {', '.join(columns)}"
            )
        groups = {
            (profiles(runs), f"{of.width:g}", of.recipe, of.epochs): errors(runs)
            for of, runs in ours
            if (of.network, of.dataset) == (network, dataset)
        }
        rows += [(network, *rest) for rest in side_by_side(columns[dataset], groups, 4)]
    columns = ["network", *BESIDE, "profile", "width", "recipe", "epochs"]
    return pd.DataFrame(rows, columns=columns)


def errors(runs: list[Record]) -> list[float]:
    return [run.metrics["test_error"] for run in runs]


# ------------------------------------------------- measurements: Figures 6 and 9, Table 3


def figure6_beside(
    measurements: list[Measurement], dataset: str = "cub200", attack: str = "fgsm"
) -> pd.DataFrame:
    """Figure 6, fooling rates in per cent, beside our measurements.

    Args:
        dataset: the attacked set; the paper's is cub200.
        attack: "fgsm", the paper's, or "pgd".

    Columns: network, eps, paper, measured, difference (in points), n, images, width,
    settings.
    """
    reported = paper.figure6()
    ours = [
        m
        for m in measurements
        if m.task == "attack"
        and (m.data.name, m.settings["attack"]) == (dataset, attack)
        and set_of_training(m) == dataset
    ]
    norms = sorted({eps for row in reported.values() for eps in row})
    same = dataset == "cub200" and attack == "fgsm"
    rows = []
    for network in names(reported, ours):
        for eps in norms:
            figure = reported.get(network, {}).get(eps)
            values = [m for m in ours if m.network == network]
            for rest in beside(figure, values, fooling_rate(eps), same):
                rows.append((network, eps, *rest))
    return pd.DataFrame(rows, columns=["network", "eps", *TRAILING])


def set_of_training(m: Measurement) -> str:
    """The set that a network was trained on; `UNTRAINED` for a method without a network."""
    assert m.weights is not None
    return m.weights.dataset


def fooling_rate(eps: int) -> Value:
    return lambda m: m.metrics["eps"].get(str(eps), {}).get("fooling_rate")


def table3_beside(
    measurements: list[Measurement],
    dataset: str = "caltech101",
    trained_on: str = "cifar10",
) -> pd.DataFrame:
    """A column of Table 3, accuracy in per cent, beside our measurements.

    Args:
        dataset: one of Table 3's columns. For "stl-train" and "stl-test" the accuracy is
            over all images, including those of the class that CIFAR-10 lacks.
        trained_on: the networks' training set.

    Columns: network, paper, measured, difference (in points), n, images, width,
    settings.

    Raises:
        ValueError: Table 3 has no such column.
    """
    reported = {name: row.get(dataset) for name, row in paper.table3().items()}
    if None in reported.values():
        columns = next(iter(paper.table3().values()))
        raise ValueError(
            f"Table 3 has no data set {dataset!r}: choose one of {', '.join(columns)}"
        )
    name, split = STL.get(dataset, (dataset, "all"))
    wanted = "own" if dataset in STL else "linear"
    ours = [
        m
        for m in measurements
        if m.task == "transfer"
        and (m.data.name, m.data.split) == (name, split)
        and m.settings["classifier"] == wanted
        and set_of_training(m) == trained_on
    ]
    key = "with_missing" if dataset in STL else "accuracy"
    rows = []
    for network in names(reported, ours):
        figure = (reported.get(network) or {}).get(trained_on)
        values = [m for m in ours if m.network == network]
        for rest in beside(figure, values, lambda m: m.metrics[key], same=True):
            rows.append((network, *rest))
    return pd.DataFrame(rows, columns=["network", *TRAILING])


def figure9_beside(
    measurements: list[Measurement],
    dataset: str = "object_discovery",
    trained_on: str = "cifar10",
) -> pd.DataFrame:
    """Figure 9, Jaccard scores in per cent, beside our measurements.

    Args:
        dataset: the photographs; the paper's are object_discovery.
        trained_on: the networks' training set. Methods without training are always in the
            frame.

    Columns: method, class, paper, measured, difference (in points), n, images, width,
    settings.
    The paper's classes come first, then other measured classes, and "all" photographs.
    Grad-CAM of a network is the method "grad-cam of NETWORK". The row "bms" is BMS for
    objects, with the settings of 2013. BMS for fixations is "bms-fixation-2013", or
    "bms-fixation-batch" with the kernels of the later batch file (records call it "bms").
    """
    reported = paper.figure9()
    ours = [
        m
        for m in measurements
        if m.task == "segment"
        and m.data.name == dataset
        and (m.weights is None or m.weights.dataset == trained_on)
    ]
    columns = list(next(iter(reported.values())))
    seen = [key for m in ours for key in m.metrics if key != "all"]
    besides = [key for key in dict.fromkeys(seen) if key.casefold() not in columns]
    besides += ["all"] if ours else []
    same = dataset == "object_discovery"
    rows = []
    for method in names(reported, ours):
        values = [m for m in ours if row_name(m) == method]
        for column in columns + (besides if values else []):
            row = reported.get(method, {}).get(column, {})
            figure = row.get(trained_on, row.get(paper.UNTRAINED))
            for rest in beside(figure, values, jaccard_of(column), same):
                rows.append((method, column, *rest))
    return pd.DataFrame(rows, columns=["method", "class", *TRAILING])


def jaccard_of(column: str) -> Value:
    """The score of a class in per cent, ignoring upper and lower case in its name.

    A map that exists for some classes only has no score over "all".
    """

    def value(measurement: Measurement) -> float | None:
        if column == "all" and measurement.settings.get("cam"):
            return None
        for name, numbers in measurement.metrics.items():
            if name.casefold() == column.casefold():
                return 100 * numbers["jaccard"]
        return None

    return value


def method_name(measurement: Measurement) -> str:
    """The name of a row: the network, the method, or both; and what takes the masks."""
    settings, name = measurement.settings, measurement.network
    if name is None:
        name = str(settings["method"])
        name = "bms-fixation-batch" if name == "bms" else name
    elif settings.get("method") == "grad-cam":
        name = f"grad-cam of {name}"
    elif settings.get("cam"):
        name = f"{name} ({CAMS[str(settings['cam'])]})"
    return f"{name}, {settings['refine']}" if settings.get("refine") else name


def by_threshold(measurements: list[Measurement]) -> list[Measurement]:
    """Segmentations whose masks are Otsu's, without a conditional random field after it."""
    return [m for m in measurements if m.task == "segment" and "refine" not in m.settings]


def refined_pairs(
    measurements: list[Measurement], dataset: str
) -> list[tuple[Measurement, Measurement]]:
    """Segmentations by the same map, without and with a conditional random field.

    Of the same training run and images; one pair for each of those that were refined. The
    weights may be the run's own or, in half precision, those that ship.
    """
    ours = [m for m in measurements if (m.task, m.data.name) == ("segment", dataset)]
    found: dict[str, dict[bool, Measurement]] = {}
    for m in latest(ours):
        bare = {k: v for k, v in m.settings.items() if k != "refine"}
        run = m.weights and (m.weights.run or m.weights.sha256)
        key = json.dumps([bare, run, m.data.fingerprint])
        found.setdefault(key, {})["refine" in m.settings] = m
    return [(pair[False], pair[True]) for pair in found.values() if len(pair) == 2]


def refined_beside(measurements: list[Measurement], dataset: str = "coseg") -> pd.DataFrame:
    """What a conditional random field changes, over all photographs, in per cent.

    Columns: method, trained_on (of networks), otsu (Jaccard index of the masks by Otsu's
    threshold), refined (of those by the field), difference, images.
    """
    rows = []
    jaccard = jaccard_of("all")
    for plain, refined in refined_pairs(measurements, dataset):
        before, after = jaccard(plain), jaccard(refined)
        if before is None or after is None:
            continue
        trained = plain.weights.dataset if plain.weights else ""
        images = plain.data.images
        rows.append((method_name(plain), trained, before, after, after - before, images))
    columns = ["method", "trained_on", "otsu", "refined", "difference", "images"]
    return pd.DataFrame(rows, columns=columns)


# Whose map of a network with global pooling is measured; None is the predicted class.
CAMS = {"right": "right class", "scripts": "the scripts' class"}


def names(reported: dict, ours: list[Measurement]) -> list[str]:
    """The paper's rows, then other measured ones, in the order of the file."""
    return list(dict.fromkeys([*reported, *map(row_name, ours)]))


def row_name(measurement: Measurement) -> str:
    """The row of figure 9 that a method belongs to; BMS for objects is the paper's BMS."""
    name = method_name(measurement)
    return "bms" if name == "bms-objects-2013" else name


def beside(
    figure: Figure | None, ours: list[Measurement], value: Value, same: bool
) -> Iterator[tuple]:
    """The rows of one cell, with the columns of `TRAILING`."""
    groups: Groups = {}
    for m in latest(ours):
        width = f"{m.weights.width:g}" if m.weights else ""
        found = value(m)
        if found is not None:
            key = (m.data.images, width, settings_of(m))
            groups.setdefault(key, []).append(found)
    return side_by_side(figure, groups, 3, same)


def latest(measurements: list[Measurement]) -> list[Measurement]:
    """The last measurement for each combination of weights, images and settings."""
    found: dict[tuple, Measurement] = {}
    for m in sorted(measurements, key=lambda m: m.started):
        sha = m.weights.sha256 if m.weights else None
        settings = json.dumps(m.settings, sort_keys=True)
        found[m.task, settings, sha, m.data.fingerprint, m.data.masks] = m
    return list(found.values())


def settings_of(measurement: Measurement) -> str:
    """The settings that a frame does not show elsewhere, and how the network was trained.

    The training is named if it is known and is not the book's `fast`, so that networks with
    other recipes, epochs or initialisations are never averaged.
    """
    shown = [
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in measurement.settings.items()
        if name not in IN_SIGHT
    ]
    shown += training_of(measurement)
    return ", ".join([f"{measurement.data.size} pixels", *shown])


def training_of(measurement: Measurement) -> list[str]:
    """How its network was trained, in words; empty for the book's `fast`."""
    weights = measurement.weights
    if weights is None:
        return []
    begins = [f"begins {weights.beginning}"] if weights.beginning else []
    return [t for t in [weights.trained] if t not in (None, RunSpec().trained())] + begins
