"""The definition of a task, and `measure`, which runs a task on trained networks.

Each task is a file beside this one that ends in `register(Task(...))`. The command line,
the grid, the plan and the checks of results read `TASKS`.

    measure("attack", ["weights/vgg_cifar10_w0.25.safetensors"])

A measurement is not repeated if the file already contains one of the same weights, images,
settings and version of the task.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from lpa_core.data import (
    SOURCES,
    Dataset,
    check_dataset,
    load,
    load_parts,
    own_label,
    source_of,
)
from lpa_core.provenance import (
    check_appendable,
    check_writable,
    choose_device,
    device_name,
    loaded_git,
    now,
    peak_memory,
    read_models,
    versions,
)
from lpa_core.tasks.measurement import (
    DataFacts,
    Measurement,
    WeightsFacts,
    append_measurement,
    identify,
)
from lpa_core.training import Trained, load_trained

__all__ = [
    "MASKED_SIZE",
    "TASKS",
    "MeasureOptions",
    "Metrics",
    "Seed",
    "Settings",
    "Task",
    "check_classes",
    "check_task",
    "headline",
    "mean_and_error",
    "measure",
    "nested",
    "plain",
    "register",
]

MASKED_SIZE = 256  # pixels per side of photographs whose masks are used
LIBRARIES = ("numpy", "scikit-image", "scikit-learn")

Seed = Annotated[int, Field(ge=0, lt=2**31)]
File = str | Path


class Settings(BaseModel):
    """The settings of a task: all that its result depends on besides weights and data."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def recorded(self) -> dict[str, Any]:
        """The settings as a measurement stores them."""
        return plain(self)

    def libraries(self) -> tuple[str, ...]:
        """The packages whose versions a measurement stores, besides torch."""
        return LIBRARIES

    def cases(
        self, dataset: str, networks: Sequence[Trained]
    ) -> Sequence[tuple[Trained | None, "Settings"]]:
        """The measurements to make: pairs of a network and its settings.

        The network is None for a method that needs none.
        """
        return [(trained, self) for trained in networks]


class Metrics(BaseModel):
    """The results of a task: finite numbers."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True
    )


def plain(model: BaseModel) -> dict[str, Any]:
    """The values of a model as JSON, without those that are None."""
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


def mean_and_error(rows: pd.DataFrame, column: str) -> tuple[float, float | None]:
    """A column's mean and its standard error; None for a single row."""
    values = pd.Series(rows[column])
    # Both are numbers for a Series, but pandas' type stubs do not say so.
    average = float(values.mean())
    error = float(values.sem()) if len(values) > 1 else None  # pyright: ignore[reportArgumentType]
    return average, error


def nested(table: pd.DataFrame, outer: str, inner: str) -> dict[str, dict[str, Any]]:
    """A table's rows, keyed by two of its columns as in metrics, without nan values."""
    found: dict[str, dict[str, Any]] = {}
    for _, row in table.iterrows():
        numbers = row.drop([outer, inner]).dropna().to_dict()
        found.setdefault(str(row[outer]), {})[str(row[inner])] = numbers
    return found


S = TypeVar("S", bound=Settings)
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Task(Generic[S, M]):
    """One experiment of the paper, for any trained network.

    Attributes:
        name: of the command. summary: its help. dataset: its default data set.
        options: the settings that users can choose.
        settings: those of one measurement; the same model unless `options.cases` makes
            other ones.
        metrics: the model of the results.
        run: (trained, data, settings, progress) -> metrics; trained is None for a method
            that needs no network.
        say: (metrics, settings) -> the result in half a line.
        version: raised by developers when numbers are meant to change. Measurements of
            another version do not count as done.
        masks: whether it uses the objects' masks: never, if the data set has masks, or
            always.
        parts: whether it uses the positions of the objects' parts, which only CUB has.
        needs_weights: False for a task that has methods without a network.
        on_cpu: True if a GPU would have nothing to do.
    """

    name: str
    summary: str
    dataset: str
    options: type[Settings]
    settings: type[S]
    metrics: type[M]
    run: Callable[[Any, Dataset, S, bool], M]
    say: Callable[[M, S], str]
    version: int = 1
    masks: Literal["unused", "optional", "required"] = "unused"
    parts: bool = False
    needs_weights: bool = True
    on_cpu: bool = False


TASKS: dict[str, Task[Any, Any]] = {}


def register(task: Task[S, M]) -> Task[S, M]:
    """Register a task under its name.

    Raises:
        ValueError: another task has this name.
    """
    if TASKS.setdefault(task.name, task) is not task:
        raise ValueError(f"there is a task {task.name!r} already: choose another name")
    return task


def check_task(name: str) -> str:
    """`name` itself, if there is such a task."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}: choose one of {', '.join(TASKS)}")
    return name


def check_classes(trained: Trained, data: Dataset) -> None:
    """Check that a network knows exactly the classes of the data.

    Raises:
        ValueError: the classes differ.
    """
    if trained.classes != data.classes:
        raise ValueError(
            f"this network knows {len(trained.classes)} classes "
            f"({', '.join(trained.classes[:3])}, …), but the data has {len(data.classes)} "
            f"({', '.join(data.classes[:3])}, …): they must be the same"
        )


def headline(measurement: Measurement) -> str:
    """The result of a measurement in one line."""
    m, task = measurement, TASKS[measurement.task]
    metrics = task.metrics.model_validate(m.metrics)
    said = task.say(metrics, task.settings.model_validate(m.settings))
    name = own_label(m.data.name)
    place = f"{m.task} on {m.data.images} of {name} {m.data.split}"
    return f"{m.network or 'no network'}, {place}: {said} ({m.seconds:.0f} s)"


# ---------------------------------------------------------------------------- measuring


class MeasureOptions(BaseModel):
    """What to measure on, and where to keep the result.

    Attributes:
        dataset: one of `list_datasets()`, or the path of your own; None takes the task's.
        split: None for "test", or "all" if a set has no such split.
        images: None for all; otherwise this many, evenly spaced over the set.
        root: folder of the prepared data sets, see `lpa_core.data.load`.
        device: "auto", "cpu", "cuda", …
        path: file that measurements are appended to, or None.
        again: repeat measurements that the file already contains.
        progress: show progress bars.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str | None = None
    split: str | None = None
    images: Annotated[int, Field(ge=1, strict=True)] | None = None
    root: Path | None = None
    device: str = "auto"
    path: Path | None = None
    again: bool = False
    progress: bool = True


def measure(
    task: str,
    weights: Sequence[File] = (),
    settings: Settings | None = None,
    where: MeasureOptions | None = None,
) -> list[Measurement]:
    """Run a task on networks; each measurement is saved as soon as it is made.

    Args:
        task: one of `TASKS`.
        weights: files of trained networks.
        settings: of the task's `options`; None takes the defaults.
        where: None takes the task's own data set and saves nothing.

    Raises:
        ValueError, DataError, WeightsError, RecordError: before anything is written.
        ImportError: an optional package is missing.
    """
    chosen = TASKS[check_task(task)]
    settings = settings or chosen.options()
    where = where or MeasureOptions()
    if chosen.needs_weights and not weights:
        raise ValueError(f"{task} needs the weights of at least one network; got none")
    device = choose_device("cpu" if chosen.on_cpu else where.device)
    networks = [load_trained(path) for path in weights]
    data, facts = load_images(chosen, where)
    cases = settings.cases(facts.name, networks)
    if where.path is not None:
        check_place(where.path)
    return [
        measure_case(chosen, trained, data, facts, case, device, where)
        for trained, case in cases
    ]


def load_images(task: Task[Any, Any], where: MeasureOptions) -> tuple[Dataset, DataFacts]:
    """The images, at `MASKED_SIZE` if masks are used and the set comes at any size.

    Raises:
        ValueError: unknown set or split, too few images, or no masks.
        DataError: the set is missing and cannot be downloaded.
    """
    name = check_dataset(where.dataset or task.dataset)
    source = source_of(name)
    split = where.split or ("test" if "test" in source.splits else "all")
    has_masks = source.masked is not None or name == "embedded"
    masks = task.masks == "required" or (task.masks == "optional" and has_masks)
    data = load(name, split, where.root, MASKED_SIZE if masks and source.masked else None)
    if masks and data.masks is None:
        known = [n for n in SOURCES if SOURCES[n].masked or n == "embedded"]
        raise ValueError(
            f"{name} has no masks of its objects: choose one of {', '.join(known)}, or a "
            "folder of your own with CLASS/images/… and CLASS/masks/…"
        )
    if task.parts:
        data = replace(data, parts=load_parts(name, split, where.root))
    data = some(data, where.images)
    facts = DataFacts(
        name=name,
        split=split,
        size=data.images.shape[1],
        images=len(data),
        fingerprint=data.fingerprint,
        masks=hash_of(data.masks) if masks and data.masks is not None else None,
    )
    return data, facts


def some(data: Dataset, count: int | None) -> Dataset:
    """`count` images, evenly spaced in the set's order; None takes all."""
    if count is None or count == len(data):
        return data
    if not 1 <= count <= len(data):
        raise ValueError(f"images {count}: give 1 to {len(data)}, the number of images")
    return data.take(torch.arange(count) * len(data) // count)


def hash_of(masks: Tensor) -> str:
    return hashlib.sha256(masks.numpy().tobytes()).hexdigest()


def check_place(path: Path) -> None:
    """Check before the work that its result can be saved, without making folders.

    Raises:
        RecordError: the file cannot be written.
    """
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if folder == path.absolute().parent:
        check_appendable(path)
    else:
        check_writable(folder)


def measure_case(
    task: Task[S, Any],
    trained: Trained | None,
    data: Dataset,
    facts: DataFacts,
    settings: S,
    device: torch.device,
    where: MeasureOptions,
) -> Measurement:
    """Measure one network, or a method that needs none; reuse an earlier measurement."""
    weights = weights_facts(trained) if trained else None
    recorded = settings.recorded()
    identity = identify(task.name, recorded, weights, facts, task.version)
    if where.path is not None and where.path.exists() and not where.again:
        for earlier in read_models(where.path, Measurement):
            if earlier.identity == identity:
                return earlier
    if trained:
        trained.network.to(device)
        trained.preprocess.to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    git, started, start = loaded_git(), now(), time.perf_counter()
    metrics = task.run(trained, data, settings, where.progress)
    measurement = Measurement(
        task=task.name,
        settings=recorded,
        network=trained.facts["network"] if trained else None,
        weights=weights,
        data=facts,
        metrics=plain(metrics),
        device=device_name(device),
        threads=torch.get_num_threads(),
        versions=versions() | {name: version(name) for name in settings.libraries()},
        git=git,
        task_version=task.version,
        started=started,
        seconds=time.perf_counter() - start,
        peak_memory_bytes=peak_memory(device),
    )
    if where.path is not None:
        append_measurement(measurement, where.path)
    return measurement


def weights_facts(trained: Trained) -> WeightsFacts:
    facts = trained.facts
    return WeightsFacts(
        sha256=facts["sha256"],
        dataset=facts["dataset"],
        width=facts["width"],
        run=facts.get("run"),
        trained=facts.get("trained"),
        beginning=facts.get("beginning"),
    )
