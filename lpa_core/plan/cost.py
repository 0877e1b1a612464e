"""The cost of steps, estimated from the most similar steps that were measured."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import TypeVar

from lpa_core.data import count_images, source_of
from lpa_core.networks import build_network
from lpa_core.networks.cost import count_parameters, multiply_adds
from lpa_core.plan.grid import MeasureGroup
from lpa_core.tasks.measurement import Measurement
from lpa_core.training import Record, RunSpec

__all__ = ["gigabytes", "measure_hours", "train_hours"]

T = TypeVar("T")
Estimate = tuple[float | None, str]  # hours, and the device that they were measured on


@cache
def size(network: str, dataset: str, width: float) -> tuple[int, int]:
    """Parameters of a network, and its multiply-adds per image."""
    built = build_network(
        network,
        num_classes=source_of(dataset).class_count,
        width=width,
        image_size=80 if dataset.startswith("cub") else 32,
    )
    return count_parameters(built), multiply_adds(built)


def size_of(spec: RunSpec) -> tuple[int, int]:
    return size(spec.network, spec.dataset, spec.width)


def gigabytes(spec: RunSpec) -> float:
    """A run's files: a checkpoint's weights and momenta, and the final weights twice."""
    return 4 * 4 * size_of(spec)[0] / 1e9


def train_hours(
    spec: RunSpec, done: int, records: Sequence[Record], device: str, data: Path | None
) -> Estimate:
    """Training time, from the training images per second of the most similar runs.

    It scales with the networks' multiply-adds, which is rough.

    Args:
        done: epochs that are trained already.
        device: the name of the device; others count if it has no record.
        data: folder of the prepared data sets.
    """
    images = spec.train_images or train_images(spec.dataset, records, data)
    found = most_alike(
        records,
        lambda r: r.device == device,
        lambda r: r.spec.recipe == spec.recipe,
        lambda r: (r.spec.dataset, r.spec.width) == (spec.dataset, spec.width),
        lambda r: r.spec.network == spec.network,
    )
    if images is None or not found:
        return None, ""
    # The ratio of their work to this run's: the nearest ones count.
    times = [size_of(record.spec)[1] / size_of(spec)[1] for record in found]
    near = min(times, key=lambda ratio: abs(math.log(ratio)))
    speed = median(
        record.images_per_second * ratio
        for record, ratio in zip(found, times, strict=True)
        if ratio == near
    )
    return (spec.chosen_epochs() - done) * images / speed / 3600, found[0].device


def train_images(
    dataset: str, records: Sequence[Record], data: Path | None
) -> float | None:
    """Images per epoch: counted here, or published by the owners, or from a record."""
    here = count_images(dataset, data).get("train")
    said = (source_of(dataset).counts or {}).get("train", (None,))[0]
    seen = [
        record.images_per_second * sum(e.seconds for e in record.history) / record.epochs
        for record in records
        if record.spec.dataset == dataset and record.spec.train_images is None
    ]
    return here or said or (median(seen) if seen else None)


def measure_hours(
    group: MeasureGroup,
    network: str | None,
    measurements: Sequence[Measurement],
    device: str,
) -> Estimate:
    """Time of a measurement, from the same task, with the same network if possible.

    Args:
        network: its name; None for the group's methods, which need none.
    """
    settings = group.options().recorded()
    found = most_alike(
        [
            m
            for m in measurements
            if m.task == group.task and (m.network is None) == (network is None)
        ],
        lambda m: m.device == device,
        lambda m: all(m.settings.get(k, v) == v for k, v in settings.items()),
        lambda m: m.network == network,
        lambda m: m.data.name == group.dataset,
    )
    if not found:
        return None, ""
    images = group.images or max(m.data.images for m in found)
    hours = median(m.seconds / m.data.images for m in found) * images / 3600
    methods = len(group.methods) if network is None else 1
    return hours * methods, found[0].device


def most_alike(found: Sequence[T], *tests: Callable[[T], bool]) -> list[T]:
    """The items that pass all tests; a test that would leave none is skipped."""
    kept = list(found)
    for test in tests:
        kept = [each for each in kept if test(each)] or kept
    return kept
