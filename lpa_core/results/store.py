"""Reading records and measurements, as models and as two tidy pandas frames.

Also finds the results and weights that ship with the book.
"""

import html
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from lpa_core.provenance import DamagedRecord, read_models, seal_file
from lpa_core.tasks.measurement import Measurement, identify
from lpa_core.training import Record, Trained, load_trained, training_version

__all__ = [
    "DamagedRecord",
    "escaped",
    "measurements_frame",
    "read_measurements",
    "read_records",
    "records_frame",
    "seal_file",
    "shipped",
    "shipped_network",
]


def shipped(folder: str) -> Path:
    """The folder `results` or `weights`, in the repository or installed with lpa_core."""
    package = Path(__file__).parents[1]
    places = [package.parent / folder, package / "_shipped" / folder]
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(f"no {folder} folder at {' or '.join(map(str, places))}")


def read_records(path: str | Path | None = None, superseded: bool = False) -> list[Record]:
    """The records of a file; None takes those that ship with the book.

    A damaged line is reported with its number, as a `DamagedRecord` warning, and skipped.
    A run that was recorded twice counts once.

    Args:
        superseded: include runs that now give another result (`TRAINING_CHANGES`): their
            names now mean another network or recipe.
    """
    path = Path(path) if path else shipped("results") / "records.jsonl"
    records = read_models(path, Record)
    found = list({(r.id, r.started, r.device): r for r in records}.values())
    return [r for r in found if superseded or not is_superseded(r)]


def is_superseded(record: Record) -> bool:
    """Whether the same run now gives another result, see `TRAINING_CHANGES`."""
    return record.training_version < training_version(record.spec)


def read_measurements(
    path: str | Path | None = None, superseded: bool = False
) -> list[Measurement]:
    """The measurements of a file; None takes those that ship with the book, if any.

    A damaged line is reported with its number, as a `DamagedRecord` warning, and skipped.
    If something was measured several times, only the last measurement counts, by any
    version of the task. Lines without facts on the training take them from the run's
    record, in the file records.jsonl beside them.

    Args:
        superseded: include those of superseded runs, see `read_records`.
    """
    if not path:
        path = shipped("results") / "measurements.jsonl"
        if not path.exists():
            return []
    beside = Path(path).with_name("records.jsonl")
    lines = read_models(beside, Record) if beside.exists() else []
    runs = {record.id: record for record in lines}
    found: dict[str, Measurement] = {}
    for m in read_models(Path(path), Measurement):
        record = runs.get(m.weights.run or "") if m.weights else None
        if record and not superseded and is_superseded(record):
            continue
        if record and m.weights and m.weights.trained is None:
            m = trained_as(m, record)
        key = identify(m.task, m.settings, m.weights, m.data, version=0)
        if key not in found or found[key].started <= m.started:
            found[key] = m
    return list(found.values())


def trained_as(measurement: Measurement, record: Record) -> Measurement:
    """A measurement, with the facts on the training from the record of its run."""
    assert measurement.weights is not None
    told = {
        "trained": record.spec.trained(record.epochs),
        "beginning": record.spec.beginning() or None,
    }
    weights = measurement.weights.model_copy(update=told)
    return measurement.model_copy(update={"weights": weights})


def shipped_network(network: str, dataset: str = "cifar10") -> Trained:
    """A trained network that ships with the book.

    Raises:
        ValueError: no such network ships; the message lists those that do.
    """
    found = {}
    for path in sorted(shipped("weights").glob("*.safetensors")):
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        found[facts["network"], facts["dataset"]] = path
    if (network, dataset) not in found:
        listed = ", ".join(f"{n} on {d}" for n, d in found) or "none"
        raise ValueError(
            f"no weights of {network} on {dataset} ship with the book; these do: {listed}"
        )
    return load_trained(found[network, dataset])


def escaped(value: object) -> str:
    """Text of a record, escaped for a cell or an item of a Markdown page.

    HTML is shown as text; a bar or a line break would end a cell.
    """
    text = html.escape(" ".join(str(value).splitlines()), quote=False)
    return text.replace("|", "\\|")


# ------------------------------------------------------------------------------- frames

SPEC = ["network", "dataset", "recipe", "width", "seed", "train_images"]
METRICS = ["test_error", "train_error", "test_loss", "train_loss"]
RUN = [
    *("id", "profile", "epochs", "parameters", "images_per_second", "seconds"),
    *("peak_memory_bytes", "device", "threads", "precision", "processes", "compiled"),
    *("sessions", "started"),
]
MEASURED = [
    *("task", "network", "weights", "trained_on", "width", "trained", "beginning"),
    *("dataset", "split", "images"),
    *("settings", "device", "started", "metric", "value"),
]


def records_frame(records: list[Record]) -> pd.DataFrame:
    """One row for each run.

    Columns: the spec (network, dataset, recipe, width, seed, train_images, None for all,
    and beginning, "" for the recipe's), the results (errors in per cent, losses), and the
    cost of the run.
    """
    rows = [
        [r.spec.network_label(), r.spec.dataset, r.spec.recipe_label()]
        + [getattr(r.spec, name) for name in SPEC[3:]]
        + [r.spec.beginning()]
        + [r.metrics.get(name) for name in METRICS]
        + [getattr(r, name) for name in RUN]
        for r in records
    ]
    return pd.DataFrame(rows, columns=[*SPEC, "beginning", *METRICS, *RUN])


def measurements_frame(measurements: list[Measurement]) -> pd.DataFrame:
    """One row for each measured number.

    Columns: task, network, weights (their sha256), trained_on, width, trained and
    beginning (how, see `WeightsFacts`), dataset, split, images (how many), settings (JSON),
    device, started, metric (its name, as in "eps.1.fooling_rate") and value. A method that
    needs no network has None for network and all of its weights.
    """
    rows = []
    facts = ("sha256", "dataset", "width", "trained", "beginning")
    for m in measurements:
        trained = [getattr(m.weights, fact, None) for fact in facts]
        images = m.data.name, m.data.split, m.data.images
        settings = json.dumps(m.settings, sort_keys=True)
        rows += [
            (m.task, m.network, *trained, *images, settings, m.device, m.started, *number)
            for number in numbers_of(m.metrics)
        ]
    return pd.DataFrame(rows, columns=MEASURED)


def numbers_of(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """All numbers in nested dictionaries and lists, with their paths.

    "eps.1.fooling_rate" is the fooling rate in the dictionary "1" in the dictionary "eps".
    """
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for name, below in inner:
            yield from numbers_of(below, f"{path}.{name}" if path else str(name))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value
