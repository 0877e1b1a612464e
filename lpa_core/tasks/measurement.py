"""Measurements: one JSON line for each task that was run on a network.

A record says how a network was trained. A measurement says how it then performed: under
attack, in another domain, in segmentation, with another image's query, level by level.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypeAliasType

from lpa_core import provenance
from lpa_core.provenance import Git, append_line

__all__ = [
    "DataFacts",
    "Measurement",
    "WeightsFacts",
    "append_measurement",
    "identify",
]

Number = int | Annotated[float, Field(allow_inf_nan=False)]
if TYPE_CHECKING:  # only the task knows how deeply metrics are nested
    Numbers = dict[str, Any]
else:
    Numbers = TypeAliasType("Numbers", dict[str, Number | "Numbers"])
Setting = str | bool | int | float | None | list[float]


class WeightsFacts(BaseModel):
    """The weights that were measured, and where they come from.

    Attributes:
        sha256: of the file.
        dataset, width: what the network was trained on, and its width.
        run: identity of the run that trained it, its record's `id`; None if unknown.
        trained: that run's recipe, its epochs and its other options; None in older lines,
            for which `read_measurements` takes it from the run's record.
        beginning: that run's initialisation, if it differs from the recipe's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    dataset: str
    width: float
    run: str | None = None
    trained: str | None = None
    beginning: str | None = None


class DataFacts(BaseModel):
    """The images that were measured on.

    Attributes:
        name, split: as `lpa_core.data.load` takes them.
        size: pixels per side.
        images: how many; fewer than the split has if only some were requested.
        fingerprint: sha256 over those images and their labels.
        masks: sha256 over their masks, if the task uses them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    split: str
    size: int
    images: int
    fingerprint: str
    masks: str | None = None


class Measurement(BaseModel):
    """The result of one network, or one method without a network, in one task.

    Attributes:
        task: the name of the task.
        settings: all that the result depends on besides weights, data and code.
        network: its name; None for a method that needs none.
        weights: None for such a method.
        data: the images.
        metrics: the results: numbers by name, nested as the task needs.
        device, threads: the hardware that computed it.
        versions, git: of the libraries and of this repository.
        task_version: of the task; developers raise it when numbers are meant to change.
        code: a hash of the task's code, in lines from before tasks had a version.
        formerly: the network's name at that time, if it now means another network.
        started: UTC, ISO 8601. seconds: wall time of the task, without loading the data.
        peak_memory_bytes: of the process up to then on a CPU, of the tensors on a GPU.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    settings: dict[str, Setting]
    network: str | None
    weights: WeightsFacts | None
    data: DataFacts
    metrics: Numbers
    device: str
    threads: int
    versions: dict[str, str]
    git: Git
    task_version: Annotated[int, Field(ge=1)] = 1
    code: str | None = None
    formerly: str | None = None
    started: datetime
    seconds: float
    peak_memory_bytes: int

    @property
    def identity(self) -> str:
        """What the result depends on, as 16 hexadecimal digits."""
        return identify(
            self.task, self.settings, self.weights, self.data, self.task_version
        )


def identify(
    task: str,
    settings: dict,
    weights: WeightsFacts | None,
    data: DataFacts,
    version: int,
) -> str:
    """The identity of a measurement, see `provenance.identify`.

    Args:
        version: of the task.
    """
    facts = {
        "task": task,
        "settings": settings,
        "weights": weights.sha256 if weights else None,
        "data": [data.fingerprint, data.masks],
        "version": version,
    }
    return provenance.identify(facts)


def append_measurement(measurement: Measurement, path: str | Path) -> None:
    """Add one line, whole or not at all, even if other processes do the same.

    Raises:
        RecordError: the file cannot be written; it is then unchanged.
    """
    append_line(json.dumps(measurement.model_dump(mode="json")), Path(path))
