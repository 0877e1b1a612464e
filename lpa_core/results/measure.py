"""Putting trained networks to the paper's tasks, and leaving a measurement of each.

    measure_attack(["weights/vgg_cifar10_w0.25.safetensors"], Wanted("cifar10"))

A measurement that is in the file already, of the same weights, images, settings and code,
is not made again.
"""

import ast
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from lpa_core.data import SOURCES, Dataset, check_dataset, load
from lpa_core.provenance import (
    check_appendable,
    device_name,
    git_state,
    now,
    peak_memory,
    versions,
)
from lpa_core.results.measurements import (
    DataFacts,
    Measurement,
    Task,
    WeightsFacts,
    append_measurement,
    identify,
    read_measurements,
)
from lpa_core.tasks.attack import ATTACKS, EPSILONS, evaluate_attack
from lpa_core.tasks.levels import describe_levels
from lpa_core.tasks.query import draw_pairs, query_effect
from lpa_core.tasks.segment import (
    UNTRAINED,
    attention_method,
    grad_cam_method,
    segment_all,
)
from lpa_core.tasks.transfer import (
    SOLVERS,
    cross_domain_accuracy,
    direct_accuracy,
    extract_features,
)
from lpa_core.training import Trained, choose_device, load_trained

__all__ = [
    "MASKED_SIZE",
    "Wanted",
    "headline",
    "measure_attack",
    "measure_look",
    "measure_query",
    "measure_segment",
    "measure_transfer",
    "task_code",
]

MASKED_SIZE = 256  # pixels a side of photographs whose masks are looked at
LIBRARIES = ("numpy", "scikit-image", "scikit-learn")
CODE: dict[Task, tuple[str, ...]] = {
    "attack": ("tasks/attack.py",),
    "transfer": ("tasks/transfer.py",),
    "segment": ("tasks/segment.py", "maps"),
    "query": ("tasks/query.py", "maps/attention.py"),
    "look": ("tasks/look.py", "maps"),
}

File = str | Path
Metrics = dict[str, object]
Work = Callable[[Trained | None, Dataset], Metrics]


@dataclass(frozen=True)
class Wanted:
    """On what to measure, and where to keep it.

    Attributes:
        dataset: one of `list_datasets()`.
        split: None for "all", or "test" where a set has no such split.
        images: None for all; else so many, taken at even distances.
        root: folder of the prepared data sets, see `lpa_core.data.load`.
        device: "auto", "cpu", "cuda", …
        path: file that measurements are appended to; None keeps them nowhere.
        again: make those anew that are there already.
        progress: show bars.
    """

    dataset: str
    split: str | None = None
    images: int | None = None
    root: File | None = None
    device: str = "auto"
    path: File | None = None
    again: bool = False
    progress: bool = True

    def load(self, masks: bool = False) -> tuple[Dataset, DataFacts]:
        """The images, those of a set with masks at `MASKED_SIZE` where they are wanted.

        Raises:
            ValueError: unknown set or split, no such number of images, or no masks.
            DataError: the set cannot be had.
        """
        source = SOURCES[check_dataset(self.dataset)]
        split = self.split or ("all" if "all" in source.splits else "test")
        size = MASKED_SIZE if masks and source.masked else None
        data = load(self.dataset, split, self.root, size)
        if masks and data.masks is None:
            having = [n for n in SOURCES if SOURCES[n].masked or n == "embedded"]
            raise ValueError(
                f"{self.dataset} has no masks of its objects: choose one of "
                f"{', '.join(having)}"
            )
        data = some(data, self.images)
        facts = DataFacts(
            name=self.dataset,
            split=split,
            size=data.images.shape[1],
            images=len(data),
            fingerprint=data.fingerprint,
            masks=hash_of(data.masks) if masks else None,
        )
        return data, facts


def some(data: Dataset, count: int | None) -> Dataset:
    """`count` images at even distances in the set's order, or all of them."""
    if count is None or count == len(data):
        return data
    if not 1 <= count <= len(data):
        raise ValueError(f"images {count}: give 1 to {len(data)}, the images there are")
    return data.take(torch.arange(count) * len(data) // count)


def hash_of(masks: Tensor) -> str:
    return hashlib.sha256(masks.numpy().tobytes()).hexdigest()


def is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


@cache
def task_code(task: Task) -> str:
    """A hash of the code of a task: comments, docstrings and layout do not count."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for name in CODE[task]:
        place = package / name
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            tree = ast.parse(file.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                body = getattr(node, "body", None)
                if isinstance(body, list) and body and is_docstring(body[0]):
                    del body[0]
            digest.update(f"{file.relative_to(package)}\n{ast.dump(tree)}\n".encode())
    return digest.hexdigest()[:16]


# ---------------------------------------------------------------------------- the tasks


def measure_attack(
    weights: Sequence[File],
    wanted: Wanted,
    attack: str = "fgsm",
    epsilons: Sequence[float] = EPSILONS,
    steps: int = 10,
) -> list[Measurement]:
    """Fooling rates, a measurement a network (`evaluate_attack`; figure 6).

    Metrics: `clean_error`, `zero_gradient`, and by eps ("1", "2", …) `fooling_rate`,
    `error`, all in per cent, and `map_shift` by layer.

    Raises:
        ValueError, DataError, WeightsError, RecordError: before anything is measured.
        ImportError: pgd's package is missing.
    """
    if attack not in ATTACKS:
        raise ValueError(f"unknown attack {attack!r}: choose one of {', '.join(ATTACKS)}")
    settings = {"attack": attack, "epsilons": [float(eps) for eps in epsilons]}
    settings |= {"steps": steps} if attack == "pgd" else {}

    def work(trained: Trained, data: Dataset) -> Metrics:
        report = evaluate_attack(
            trained, data, tuple(epsilons), attack, steps, progress=wanted.progress
        )
        by_eps = {}
        for strength in report.strengths:
            numbers = asdict(strength)
            by_eps[f"{numbers.pop('eps'):g}"] = numbers
        return {
            "clean_error": report.clean_error,
            "zero_gradient": report.zero_gradient,
            "eps": by_eps,
        }

    return each_network("attack", settings, weights, wanted, work)


def measure_transfer(
    weights: Sequence[File],
    wanted: Wanted,
    direct: bool | None = None,
    folds: int = 5,
    C: float = 1.0,
    solver: str = SOLVERS[0],
    seed: int = 0,
) -> list[Measurement]:
    """Accuracy on another domain, a measurement a network (Table 3).

    Args:
        direct: ask the network's own classifier, in place of fitting a linear one to
            its features; None does so for stl10 alone, as the paper does.
        folds, C, solver, seed: of the linear classifier (`cross_domain_accuracy`).

    Metrics, in per cent: of the linear classifier `accuracy` and `std` over the folds;
    `features` and `classes` count them, `seconds` tells what it took. Of the network's
    own `with_missing` and `without_missing`, and how many images were `left_out`
    (`Direct`).

    Raises:
        As `measure_attack`.
    """
    if solver not in SOLVERS:
        raise ValueError(f"unknown solver {solver!r}: choose one of {', '.join(SOLVERS)}")
    direct = wanted.dataset == "stl10" if direct is None else direct
    how = {"folds": folds, "C": float(C), "solver": solver, "seed": seed}

    def own(trained: Trained, data: Dataset) -> Metrics:
        found = direct_accuracy(trained, data, progress=wanted.progress)
        return {
            "with_missing": found.with_missing,
            "without_missing": found.without_missing,
            "left_out": found.left_out,
        }

    def linear(trained: Trained, data: Dataset) -> Metrics:
        start = time.perf_counter()
        features = extract_features(trained, data.images, progress=wanted.progress)
        middle = time.perf_counter()
        found = cross_domain_accuracy(
            features, data.labels, **how, progress=wanted.progress
        )
        return {
            "accuracy": found.accuracy,
            "std": found.std,
            "features": found.features,
            "classes": found.classes,
            "seconds": {
                "features": middle - start,
                "folds": time.perf_counter() - middle,
            },
        }

    if direct:
        return each_network("transfer", {"classifier": "own"}, weights, wanted, own)
    return each_network(
        "transfer", {"classifier": "linear", **how}, weights, wanted, linear
    )


def measure_segment(
    weights: Sequence[File],
    wanted: Wanted,
    methods: Sequence[str] = ("bms", "mc", "centre"),
) -> list[Measurement]:
    """How well maps cut out objects, a measurement a method (figure 9), on the CPU.

    Args:
        weights: of networks; their attention is measured, Grad-CAM of those without.
        methods: of those that need no training, `tasks.segment.UNTRAINED`.

    Metrics: by class, and for "all" photographs: `jaccard`, the mean from 0 to 1, its
    standard error over the photographs, `sem`, and how many `images` there were.

    Raises:
        As `measure_attack`.
    """
    unknown = [name for name in methods if name not in UNTRAINED]
    if unknown:
        raise ValueError(
            f"unknown method {unknown[0]!r}: choose among {', '.join(UNTRAINED)}"
        )
    wanted = replace(wanted, device="cpu")
    check_place(wanted)
    networks = [load_trained(path) for path in weights]
    data, facts = wanted.load(masks=True)
    classes = [data.classes[label] for label in data.labels]
    found = []
    for trained in [*networks, *methods]:
        if isinstance(trained, str):
            name, trained, method = trained, None, UNTRAINED[trained]
        elif has_maps(trained):
            name, method = "attention", attention_method(trained)
        else:
            name, method = "grad-cam", grad_cam_method(trained)

        def work(_: Trained | None, data: Dataset, name=name, method=method) -> Metrics:
            photographs, masks = list(data.images.numpy()), list(data.masks.numpy())
            table = segment_all(
                photographs, masks, {name: method}, classes, progress=wanted.progress
            )
            groups = {"all": table} | dict(list(table.groupby("class", sort=False)))
            return {
                group: {"jaccard": mean, **rest, "images": len(rows)}
                for group, rows in groups.items()
                for mean, rest in [mean_and_error(rows[name])]
            }

        found.append(
            measure("segment", {"method": name}, trained, data, facts, wanted, work)
        )
    return found


def measure_query(
    weights: Sequence[File],
    wanted: Wanted,
    pairs: int = 1000,
    layer: str = "layer10",
    seed: int = 0,
) -> list[Measurement]:
    """What another image's query does to attention, a measurement a network (figure 10).

    Args:
        pairs: how many with a query of the target's class, and as many of another's.
        layer: whose map.
        seed: of the draw.

    Metrics, for "same class" and "other class": how many `pairs`, and of `change`,
    `moved`, `before`, `after` and `gained` (`query_effect`) the `mean` over the pairs and
    its standard error `sem`; of `change` the `median` too.

    Raises:
        As `measure_attack`.
    """

    def work(trained: Trained, data: Dataset) -> Metrics:
        device = next(trained.preprocess.buffers()).device
        table = query_effect(
            trained,
            data.images.to(device),
            draw_pairs(data.labels, pairs, seed),
            layer,
            data.masks.to(device),
            [data.classes[label] for label in data.labels],
            progress=wanted.progress,
        )
        return {
            "same class": effect(table[table["contains"]]),
            "other class": effect(table[~table["contains"]]),
        }

    settings = {"pairs": pairs, "layer": layer, "seed": seed}
    return each_network("query", settings, weights, wanted, work, masks=True)


def measure_look(weights: Sequence[File], wanted: Wanted) -> list[Measurement]:
    """Where each level looks, a measurement a network (`describe_levels`; claim 7).

    Metrics: by kind of map, "attention" or "activation", and by layer, the columns of
    `describe_levels`; `density` where the set has masks.

    Raises:
        As `measure_attack`.
    """
    masks = SOURCES[check_dataset(wanted.dataset)].masked or wanted.dataset == "embedded"

    def work(trained: Trained, data: Dataset) -> Metrics:
        table = describe_levels(trained, data, progress=wanted.progress)
        found: Metrics = {}
        for _, row in table.iterrows():
            numbers = row.drop(["kind", "layer"]).dropna()
            of_kind = found.setdefault(row["kind"], {})
            of_kind[row["layer"]] = {k: float(v) for k, v in numbers.items()}
        return found

    return each_network("look", {}, weights, wanted, work, masks=bool(masks))


def effect(rows: pd.DataFrame) -> Metrics:
    found: Metrics = {"pairs": len(rows)}
    for name in ("change", "moved", "before", "after", "gained"):
        mean, rest = mean_and_error(rows[name])
        found[name] = {"mean": mean, **rest}
    found["change"]["median"] = float(rows["change"].median())
    return found


def mean_and_error(values: pd.Series) -> tuple[float, dict[str, float]]:
    """The mean, and its standard error, which a single value does not have."""
    rest = {"sem": float(values.sem())} if len(values) > 1 else {}
    return float(values.mean()), rest


def has_maps(trained: Trained) -> bool:
    size = trained.network.image_size
    return bool(trained.attend(torch.zeros(1, size, size, 3, dtype=torch.uint8)).maps)


# ---------------------------------------------------------------------------- measuring


def each_network(
    task: Task,
    settings: dict,
    weights: Sequence[File],
    wanted: Wanted,
    work: Work,
    masks: bool = False,
) -> list[Measurement]:
    """One measurement after the other, each kept as soon as it is there."""
    check_place(wanted)
    networks = [load_trained(path) for path in weights]
    data, facts = wanted.load(masks)
    return [
        measure(task, settings, trained, data, facts, wanted, work) for trained in networks
    ]


def check_place(wanted: Wanted) -> None:
    """Stop before the work if its result could not be kept."""
    choose_device(wanted.device)
    if wanted.path is not None:
        check_appendable(Path(wanted.path))


def measure(
    task: Task,
    settings: dict,
    trained: Trained | None,
    data: Dataset,
    facts: DataFacts,
    wanted: Wanted,
    work: Work,
) -> Measurement:
    """Put one network, or a method that needs none, to a task; what is there is kept."""
    weights = weights_facts(trained) if trained else None
    code = task_code(task)
    identity = identify(task, settings, weights, facts, code)
    if wanted.path is not None and Path(wanted.path).exists() and not wanted.again:
        for earlier in read_measurements(wanted.path):
            if earlier.identity == identity:
                return earlier
    device = choose_device(wanted.device)
    if trained:
        trained.network.to(device)
        trained.preprocess.to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    git, started, start = git_state(), now(), time.perf_counter()
    metrics = work(trained, data)
    measurement = Measurement(
        task=task,
        settings=settings,
        network=trained.facts["network"] if trained else None,
        weights=weights,
        data=facts,
        metrics=metrics,
        device=device_name(device),
        threads=torch.get_num_threads(),
        versions=versions() | {name: version(name) for name in LIBRARIES},
        git=git,
        code=code,
        started=started,
        seconds=time.perf_counter() - start,
        peak_memory_bytes=peak_memory(device),
    )
    if wanted.path is not None:
        append_measurement(measurement, wanted.path)
    return measurement


def headline(measurement: Measurement) -> str:
    """What came out, in one line."""
    m, numbers = measurement, measurement.metrics
    if m.task == "attack":
        rows = numbers["eps"].items()
        rates = ", ".join(f"{row['fooling_rate']:.1f} at {eps}" for eps, row in rows)
        found = f"fooling rate in % {rates}/255"
    elif m.task == "segment":
        found = f"{m.settings['method']}, Jaccard {numbers['all']['jaccard']:.3f}"
    elif m.task == "query":
        moved = ", ".join(f"{numbers[k]['moved']['mean']:.3f} ({k})" for k in numbers)
        found = f"share of the attention moved {moved}"
    elif m.task == "look":
        layers = numbers["attention"].items()
        flat = ", ".join(f"{row['entropy']:.3f} at {layer}" for layer, row in layers)
        found = f"entropy of the maps {flat}"
    elif "accuracy" in numbers:
        found = f"accuracy {numbers['accuracy']:.2f} ± {numbers['std']:.2f} %"
    else:
        found = f"accuracy {numbers['with_missing']:.2f} % of all images"
    place = f"{m.task} on {m.data.images} of {m.data.name} {m.data.split}"
    return f"{m.network or 'no network'}, {place}: {found} ({m.seconds:.0f} s)"


def weights_facts(trained: Trained) -> WeightsFacts:
    facts = trained.facts
    return WeightsFacts(
        sha256=facts["sha256"],
        dataset=facts["dataset"],
        width=facts["width"],
        run=facts.get("run"),
    )
